"""What is on the topics before a run: generated requests, taken in and routed by the project's own code."""

import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import islice
from pathlib import Path
from typing import TypeVar

from msgspec import to_builtins
from prometheus_client import CollectorRegistry

from deploy.replay.generator import generate
from deploy.replay.jurisdiction import write_jurisdiction
from deploy.replay.steps import Step
from services.intake.handlers import Intake, publication
from services.intake.kafka import decoder
from services.intake.references import References
from services.routing.calendar import load_calendar
from services.routing.domain import Calendar, Rules
from services.routing.handlers import route
from services.routing.rules import load_rules
from shared.bus.loop import decode_mesh_event
from shared.bus.port import Incoming, Publication, Record
from shared.clock import Clock
from shared.contract import topics
from shared.contract.events import RequestAccepted, RequestAssigned
from shared.contract.topics import agency_topic
from shared.jurisdiction import Jurisdiction, load_jurisdiction
from shared.metrics import RoutingMetrics
from shared.store.sqlite import SqliteStore

T = TypeVar("T")

SEED = 7
BATCH = 500
STORE_FILE = "inputs.sqlite"
"""What intake and routing wrote of the inputs, in the benchmark's folder."""

BOOK_YEARS = (2022, 2032)


@dataclass(frozen=True, slots=True)
class Inputs:
    """`published` is what agencies send, of every kind; `accepted` and `assigned` are as many events each, of the
    same requests. Every one of these has an office."""

    jurisdiction_dir: Path
    published: Sequence[Step]
    accepted: Sequence[Publication]
    assigned: Sequence[Publication]
    book: Path


async def make_inputs(count: int, directory: Path, clock: Clock) -> Inputs:
    """`count` events of each sort; the clock gives the times at which they were taken in and routed."""
    # One in fifty is refused, or no office takes it.
    replay = generate(count + count // 20 + 20, SEED)
    folder = directory / "jurisdiction"
    write_jurisdiction(replay.jurisdiction, folder)
    jurisdiction = load_jurisdiction(folder)
    rules = load_rules(folder / "rules.yaml", jurisdiction)
    calendar = load_calendar(folder / "calendar.yaml", jurisdiction.timezone)
    store = SqliteStore(directory / STORE_FILE)
    await store.open()
    try:
        accepted = [one async for one in _accept(replay.steps, jurisdiction, store, clock)]
        routed = [one async for one in _route(accepted, rules, calendar, store, clock)]
    finally:
        await store.close()
    kept = [pair for pair in zip(accepted, routed, strict=True) if pair[1].topic is topics.ASSIGNED][:count]
    if len(kept) < count:
        raise RuntimeError(f"{len(kept)} of {count} requests have an office: generate more")
    book = directory / "book.json"
    book.write_text(json.dumps(_book(rules, calendar, jurisdiction)))
    return Inputs(folder, replay.steps[:count], [a for a, _ in kept], [r for _, r in kept], book)


async def _accept(
    steps: Iterable[Step], jurisdiction: Jurisdiction, store: SqliteStore, clock: Clock
) -> AsyncIterator[Publication]:
    decode = decoder(jurisdiction, clock)
    intake = Intake(
        claims=store.collection("claims"),
        requests=store.collection("requests"),
        clock=clock,
        candidates=References(store.collection("secrets")).candidates,
    )
    submissions = (step for step in steps if step.kind == "submitted" and not step.duplicate)
    for batch in chunks(submissions, BATCH):
        received = [decode(_record(agency_topic(step.agency), step.body, clock)) for step in batch]
        for verdict in await intake.decide(received):
            if verdict.outcome == "accepted":
                yield publication(verdict)


async def _route(
    accepted: Iterable[Publication], rules: Rules, calendar: Calendar, store: SqliteStore, clock: Clock
) -> AsyncIterator[Publication]:
    decode = decode_mesh_event([topics.ACCEPTED])
    for batch in chunks(accepted, BATCH):
        incoming = [decode(_record(one.topic.name, one.value, clock)) for one in batch]
        routed = await route(
            [Incoming(one.event, one.record) for one in incoming if isinstance(one.event, RequestAccepted)],
            rules=rules,
            calendar=calendar,
            decisions=store.collection("decisions"),
            closed=store.collection("closed"),
            clock=clock,
            metrics=RoutingMetrics(CollectorRegistry()),
        )
        for one in routed:
            yield one


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items by so many; the last ones may be fewer."""
    left = iter(items)
    while chunk := list(islice(left, size)):
        yield chunk


def office_and_due(value: bytes) -> tuple[str, date, str]:
    """What an assigned event says: office, due date, and the rule that said so."""
    data = RequestAssigned.from_json(value).data
    return data.office.id, data.due, data.rule


def _record(topic: str, value: bytes, clock: Clock) -> Record:
    return Record(topic, 0, 0, 0, clock.now(), None, value)


def _book(rules: Rules, calendar: Calendar, jurisdiction: Jurisdiction) -> Mapping[str, object]:
    """The rules and the working days for programs that read neither YAML nor our code."""
    first, end = (date(year, 1, 1) for year in BOOK_YEARS)
    days = (first + timedelta(days) for days in range((end - first).days))
    noon = time(12, tzinfo=jurisdiction.timezone)
    working = [day for day in days if calendar.add_working_days(datetime.combine(day, noon), 0) == day]
    return {
        "version": rules.version,
        "timezone": str(jurisdiction.timezone),
        "working_days": [day.isoformat() for day in working],
        "rules": {
            rule.id: {
                "id": rule.id,
                "zones": rule.when.zones and sorted(rule.when.zones),
                "agencies": rule.when.agencies and sorted(rule.when.agencies),
                "languages": rule.when.languages and sorted(rule.when.languages),
                "attributes": {name: [value for _, value in values] for name, values in rule.when.attributes},
                "office": to_builtins(rule.office),
                "promise_days": rule.promise_days,
            }
            for candidates in rules.by_service.values()
            for rule in candidates
        },
        "services": {code: [rule.id for rule in candidates] for code, candidates in rules.by_service.items()},
    }
