"""The wiring of intake."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from services.intake.agency_event import StatusChange
from services.intake.domain import Received, Verdict
from services.intake.handlers import Intake, publication
from services.intake.http import EVENTS, HttpDoor, build_http
from services.intake.kafka import decoder
from services.intake.keys import Authenticator
from services.intake.references import References
from services.intake.settings import IntakeSettings
from shared.bus.gather import Gatherer
from shared.bus.loop import Handle
from shared.bus.port import Publication, Publisher, Unavailable
from shared.clock import Clock
from shared.contract.topics import AGENCY_TOPIC_PATTERN
from shared.failpoints import NONE, Failpoints, Point
from shared.http import Take
from shared.jurisdiction import Jurisdiction, load_jurisdiction
from shared.metrics import IntakeMetrics
from shared.service import Service
from shared.store.port import Store


@dataclass(frozen=True, slots=True)
class Doors:
    """The two doors of intake, with one verdict behind them. HTTP calls are answered while the gatherer runs.

    `whole` are the calls that need not go through `http`, see BoundedHttp.
    """

    from_kafka: Handle[Received]
    http: FastAPI
    whole: Mapping[tuple[str, str], Take]
    gatherer: Gatherer[Received, Verdict]


def build_doors(
    jurisdiction: Jurisdiction,
    *,
    store: Store,
    publisher: Publisher,
    clock: Clock,
    metrics: IntakeMetrics,
    failpoints: Failpoints = NONE,
) -> Doors:
    """Both doors of intake over these parts."""
    requests = store.collection("requests")
    intake = Intake(
        claims=store.collection("claims"),
        requests=requests,
        clock=clock,
        candidates=References(store.collection("secrets")).candidates,
    )

    def count(verdicts: Sequence[Verdict]) -> None:
        events = Counter(
            (one.received.agency, one.received.door, "duplicate" if one.repeated else one.outcome) for one in verdicts
        )
        for labels, number in events.items():
            metrics.events.labels(*labels).inc(number)
        for verdict in verdicts:
            for problem in verdict.problems:
                metrics.rejections.labels(problem.reason).inc()

    async def from_kafka(batch: Sequence[Received]) -> list[Publication]:
        verdicts = await intake.decide(batch)
        count(verdicts)
        return [publication(verdict) for verdict in verdicts]

    changing = asyncio.Lock()
    under_way: set[asyncio.Future[None]] = set()

    async def from_http(batch: Sequence[Received]) -> list[Verdict]:
        published: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            async with failpoints.at(Point.RECEIVED, Unavailable):
                if any(isinstance(received.event, StatusChange) for received in batch):
                    async with changing:
                        # Not before: who waits here to be decided is not waited for by who is decided.
                        under_way.add(published)
                        verdicts = await intake.decide(batch)
                        # It may change what these have opened or changed, and is not told of before that.
                        before = under_way - {published}
                    if before:
                        await asyncio.wait(before)
                else:
                    under_way.add(published)
                    verdicts = await intake.decide(batch)
                await publisher.publish([publication(verdict) for verdict in verdicts])
        finally:
            under_way.discard(published)
            published.set_result(None)
        await failpoints.reach(Point.PUBLISHED, Unavailable)
        count(verdicts)
        return verdicts

    # Store and Kafka fail sooner than that: only a service that does not run yet lets its callers lose patience.
    gatherer = Gatherer(from_http, at_once=2, patience_seconds=15.0)
    door = HttpDoor(
        authenticator=Authenticator(jurisdiction),
        gatherer=gatherer,
        requests=requests,
        find=intake.find,
        clock=clock,
        phone_region=jurisdiction.phone_region,
        metrics=metrics,
    )
    return Doors(
        from_kafka=from_kafka,
        http=build_http(door, metrics),
        whole={("POST", EVENTS): door.take},
        gatherer=gatherer,
    )


def build_app(
    settings: IntakeSettings | None = None, *, clock: Clock | None = None, store: Store | None = None
) -> Starlette:
    """Intake as an ASGI application; settings come from the environment unless given."""
    settings = settings or IntakeSettings()
    service = Service("intake", settings, clock=clock, store=store)
    jurisdiction = load_jurisdiction(settings.jurisdiction_dir)
    doors = build_doors(
        jurisdiction,
        store=service.store,
        publisher=service.publisher,
        clock=service.clock,
        metrics=IntakeMetrics(service.registry),
        failpoints=service.failpoints,
    )
    service.consume_pattern(
        AGENCY_TOPIC_PATTERN, decoder(jurisdiction, service.clock), doors.from_kafka, label="agency.*.events"
    )
    service.run_beside("http gatherer", doors.gatherer.run)
    return service.app(routes=[Mount("/", doors.http)], whole=doors.whole)
