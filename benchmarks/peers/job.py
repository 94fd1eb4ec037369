"""What a peer in Python is told, and the job it does: parse, validate, decide, and say so as JSON."""

import argparse
import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, BaseModel, Field

_NAMESPACE = UUID("6f1f7e0b-9d7a-5c55-8a0e-2f9d1f0c6d01")


@dataclass(frozen=True, slots=True)
class Task:
    """From which topic to which, as which consumer group. `forward`: hand the bytes on as they are, without the job."""

    bootstrap: str
    source: str
    target: str
    group: str
    book: Path
    forward: bool


def read_task() -> Task:
    """The task in the command line."""
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "source", "target", "group"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--book", type=Path, required=True, help="rules and working days, as JSON")
    parser.add_argument("--forward", action="store_true")
    return Task(**vars(parser.parse_args()))


class Applicant(BaseModel):
    name: str | None = None
    phone: str | None = None
    email: str | None = None
    language: Literal["fr", "ar", "so", "aa", "en"] | None = None
    channel: Literal["sms", "email"] | None = None


class Place(BaseModel):
    address: str | None = None
    zone: str | None = None
    latitude: float | None = None
    longitude: float | None = None


class Card(BaseModel):
    request_id: str
    reference: str
    agency: str
    agency_reference: str
    service_code: str
    submitted_at: AwareDatetime
    applicant: Applicant


class Timeline(BaseModel):
    published: AwareDatetime | None = None
    received: AwareDatetime | None = None
    accepted: AwareDatetime | None = None
    assigned: AwareDatetime | None = None


class AcceptedData(BaseModel):
    request: Card
    description: str | None = None
    place: Place | None = None
    attributes: dict[str, str | int | float | bool] = Field(default_factory=dict)
    timeline: Timeline


class Envelope(BaseModel):
    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    subject: str
    time: AwareDatetime
    datacontenttype: Literal["application/json"] = "application/json"
    causationid: str


class Accepted(Envelope):
    type: Literal["guichet.request.accepted.v1"]
    data: AcceptedData


class Office(BaseModel):
    id: str
    name: str


class AssignedData(BaseModel):
    request: Card
    office: Office
    due: date
    rule: str
    rules_version: str
    timeline: Timeline


class Assigned(Envelope):
    type: Literal["guichet.request.assigned.v1"] = "guichet.request.assigned.v1"
    data: AssignedData


class Job:
    """Names office and due date by the rules of a book. Raises LookupError where no rule takes the request."""

    def __init__(self, book: Path) -> None:
        content = json.loads(book.read_text())
        self._version: str = content["version"]
        self._timezone = ZoneInfo(content["timezone"])
        self._working_days: list[int] = [date.fromisoformat(day).toordinal() for day in content["working_days"]]
        self._rules: dict[str, list[Mapping[str, Any]]] = {
            service: [content["rules"][named] for named in candidates]
            for service, candidates in content["services"].items()
        }

    def __call__(self, value: bytes) -> bytes:
        """The event that answers this one, from JSON to JSON."""
        assigned = self.assign(Accepted.model_validate_json(value))
        return assigned.model_dump_json(exclude_none=True).encode()

    def assign(self, event: Accepted) -> Assigned:
        """The first rule that holds names the office; its promise, in working days, the due date."""
        now = datetime.now(UTC)
        request = event.data.request
        rule = self._first_match(event.data)
        return Assigned(
            id=str(uuid5(_NAMESPACE, event.id)),
            source="/peer",
            subject=request.request_id,
            time=now,
            causationid=event.id,
            data=AssignedData(
                request=request,
                office=Office(**rule["office"]),
                due=self._due(request.submitted_at, rule["promise_days"]),
                rule=rule["id"],
                rules_version=self._version,
                timeline=event.data.timeline.model_copy(update={"assigned": now}),
            ),
        )

    def _first_match(self, data: AcceptedData) -> Mapping[str, Any]:
        for rule in self._rules.get(data.request.service_code, ()):
            if _holds(rule, data):
                return rule
        raise LookupError(f"no rule takes {data.request.service_code}")

    def _due(self, moment: datetime, days: int) -> date:
        day = moment.astimezone(self._timezone).date().toordinal()
        return date.fromordinal(self._working_days[bisect_left(self._working_days, day) + days])


def _holds(rule: Mapping[str, Any], data: AcceptedData) -> bool:
    zone = data.place.zone if data.place else None
    return (
        (rule["agencies"] is None or data.request.agency in rule["agencies"])
        and (rule["languages"] is None or data.request.applicant.language in rule["languages"])
        and (rule["zones"] is None or (zone is not None and zone.strip().casefold() in rule["zones"]))
        and all(data.attributes.get(name) in values for name, values in rule["attributes"].items())
    )
