"""Agencies' own events, one CloudEvent a line (shared/contract/agency.py), read as a replay."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from deploy.replay.naming import code, slug
from deploy.replay.people import door_of
from deploy.replay.steps import Catalogue, Kind, Promise, Replay, RowProblem, SourceError, Step
from shared.contract.agency import RequestSubmitted, StatusChanged
from shared.contract.events import Language
from shared.contract.topics import AGENCY_ID

PROMISE_DAYS = 10
"""Events promise nothing: two weeks for all."""

_UNDATED = datetime(1970, 1, 1, tzinfo=UTC)


def read_events(text: str, name: str) -> Replay:
    """The replay of one event a line, in the file's order; SourceError if there is none.

    The agency is the last part of an event's `source`. Only lines that are no JSON object, or name no agency, are
    dropped: whatever else is wrong with them, the mesh has to say.
    """
    steps: list[Step] = []
    problems: list[RowProblem] = []
    told: set[tuple[str, bytes]] = set()
    for line, written in enumerate(text.split("\n"), start=1):
        if not written.strip():
            continue
        try:
            step = _step(json.loads(written))
        except RecursionError:
            problems.append(RowProblem(line, "is nested too deeply"))
        except ValueError as error:
            problems.append(RowProblem(line, f"is no event: {error}"))
        else:
            steps.append(replace(step, duplicate=(step.agency, step.body) in told))
            told.add((step.agency, step.body))
    if not steps:
        first = f": line {problems[0].line} {problems[0].what}" if problems else ""
        raise SourceError(f"{name} holds no event that could be replayed{first}.")
    return Replay(name, _catalogue(steps), steps, problems)


def _step(value: Any) -> Step:
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    source = value.get("source")
    agency = source.rstrip("/").rpartition("/")[2] if isinstance(source, str) else ""
    if not agency:
        raise ValueError("its source does not end with an agency's id")
    if not AGENCY_ID.fullmatch(agency):
        agency = slug(agency)
    kind = Kind.STATUS_CHANGED if value.get("type") == StatusChanged.TYPE else Kind.SUBMITTED
    undoored = Step(_time(value), agency, value, door_of(agency, ""), kind, expect_rejected=None)
    return replace(undoored, door=door_of(*undoored.request))


def _time(value: dict[str, Any]) -> datetime:
    try:
        time = datetime.fromisoformat(value["time"])
    except (KeyError, TypeError, ValueError):
        return _UNDATED
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _catalogue(steps: Sequence[Step]) -> Catalogue:
    """Djibouti's week and languages, and an agency and a service for each that is named."""
    submissions = [step for step in steps if step.event.get("type") == RequestSubmitted.TYPE]
    asked = sorted({(step.agency, named) for step in submissions if (named := _service(step))})
    return Catalogue(
        name="Événements importés",
        timezone="Africa/Djibouti",
        phone_region="DJ",
        default_language=Language.FRENCH,
        sms_sender="Guichet",
        weekend=("friday", "saturday"),
        country="DJ",
        agencies={agency: agency for agency in sorted({step.agency for step in steps})},
        services={service: service for _, service in asked} or {"general": "general"},
        promises=[Promise(agency, service, PROMISE_DAYS, agency) for agency, service in asked],
    )


def _service(step: Step) -> str | None:
    data = step.event.get("data")
    named = data.get("service_code") if isinstance(data, dict) else None
    return named if isinstance(named, str) and named and code(named) == named else None
