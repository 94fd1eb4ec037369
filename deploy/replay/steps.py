"""A replay: what agencies say, in order, and what a mesh has to know to take it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from shared.contract.agency import RequestSubmitted, StatusChanged
from shared.contract.events import Door, Language


class Kind(StrEnum):
    """What an agency's event tells."""

    SUBMITTED = "submitted"
    STATUS_CHANGED = "status_changed"


@dataclass(frozen=True, slots=True)
class Step:
    """An event that an agency sends. `at` is when it happened; `event` is its CloudEvent as a JSON object.

    `duplicate`: the same event was sent before, to the byte. `expect_rejected`: whether the mesh has to refuse it;
    None leaves that to the mesh.
    """

    at: datetime
    agency: str
    event: Mapping[str, Any]
    door: Door
    kind: Kind
    duplicate: bool = False
    expect_rejected: bool | None = False

    @property
    def event_id(self) -> str:
        """The event's id; an empty text where it has none by which the mesh could name it."""
        return _token(self.event.get("id"))

    @property
    def agency_reference(self) -> str:
        """The agency's number for the request; an empty text where there is none."""
        data = self.event.get("data")
        return _token(data.get("agency_reference")) if isinstance(data, dict) else ""

    @property
    def request(self) -> tuple[str, str]:
        """The request that it is about. Its steps go one after the other."""
        return (self.agency, self.agency_reference or self.event_id)

    @property
    def body(self) -> bytes:
        """The event as JSON; equal events give equal bytes."""
        try:
            return json.dumps(self.event, ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can only write as an escape
            return json.dumps(self.event, separators=(",", ":")).encode()


def _token(value: object) -> str:
    usable = isinstance(value, str) and len(value) <= 128 and value.isascii() and value.isprintable()
    return value if isinstance(value, str) and usable and " " not in value else ""


@dataclass(frozen=True, slots=True)
class RowProblem:
    """What is wrong with a row of a file. `dropped`: nothing of it is replayed."""

    line: int
    what: str
    dropped: bool = True


@dataclass(frozen=True, slots=True)
class Promise:
    """An office answers a service within so many working days. `agency` None: whichever agency sends the request."""

    office: str
    service: str
    days: int
    agency: str | None = None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A jurisdiction as far as its requests tell: agencies by id, services by code, and what offices promise.

    `weekend` in English day names; `country` is the ISO 3166 code of whoever's public holidays it keeps. Each agency is
    an office, too: what it promises are its own services.
    """

    name: str
    timezone: str
    phone_region: str
    default_language: Language
    sms_sender: str
    weekend: Sequence[str]
    country: str
    agencies: Mapping[str, str]
    services: Mapping[str, str]
    promises: Sequence[Promise]


@dataclass(frozen=True, slots=True)
class Replay:
    """Steps in the order in which they happened. `jurisdiction`: made of the file, or the folder of one that exists."""

    source: str
    jurisdiction: Catalogue | Path
    steps: Sequence[Step]
    problems: Sequence[RowProblem] = ()
    seed: int | None = None

    @property
    def agencies(self) -> list[str]:
        """Who sends, by id, sorted."""
        return sorted({step.agency for step in self.steps})


def cloud_event(agency: str, event_id: str, kind: Kind, at: datetime, data: Mapping[str, Any]) -> dict[str, Any]:
    """The CloudEvent in which an agency says something; `at` in UTC."""
    named = RequestSubmitted.TYPE if kind is Kind.SUBMITTED else StatusChanged.TYPE
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": f"/agencies/{agency}",
        "type": named,
        "time": at.isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": dict(data),
    }


class SourceError(Exception):
    """A file that can't be replayed, with what is wrong about it as a whole."""
