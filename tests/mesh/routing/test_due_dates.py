"""The watch over due dates, in the service that runs it, on real Kafka."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from deploy.jurisdictions import DJIBOUTI
from services.routing.app import build_app
from services.routing.settings import RoutingSettings
from shared.bus.access import KafkaAccess
from shared.bus.admin import apply_topics
from shared.bus.kafka import KafkaPublisher
from shared.bus.port import Publication
from shared.clock import ManualClock
from shared.contract.events import RequestAccepted, RequestUpdated, Status
from shared.contract.topics import ACCEPTED, ASSIGNED, OVERDUE, UPDATED, Topic
from shared.metrics import BusMetrics

GOLDEN = Path(__file__).parents[2] / "golden"
ASSIGNED_AT = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
LATER = timedelta(days=30)
PATIENCE_SECONDS = 30.0


@pytest.fixture
async def publisher(kafka: str) -> AsyncIterator[KafkaPublisher]:
    access = KafkaAccess(kafka)
    await apply_topics(access, [], partitions=6, replication=1)
    publisher = KafkaPublisher("test", access, BusMetrics(CollectorRegistry()))
    await publisher.start()
    yield publisher
    await publisher.stop()


@asynccontextmanager
async def routing(kafka: str, data_dir: Path, now: datetime) -> AsyncIterator[None]:
    """The service from its start to its stop, at one moment."""
    settings = RoutingSettings(kafka_bootstrap_servers=kafka, data_dir=data_dir, jurisdiction_dir=DJIBOUTI)
    app = build_app(settings, clock=ManualClock(now))
    async with app.router.lifespan_context(app):
        yield


def a_request() -> RequestAccepted:
    golden = RequestAccepted.from_json((GOLDEN / f"{RequestAccepted.TYPE}.json").read_bytes())
    card = replace(golden.data.request, request_id=str(uuid4()))
    return replace(golden, id=str(uuid4()), subject=card.request_id, data=replace(golden.data, request=card))


def resolution(request: RequestAccepted) -> RequestUpdated:
    golden = RequestUpdated.from_json((GOLDEN / f"{RequestUpdated.TYPE}.json").read_bytes())
    data = replace(golden.data, request=request.data.request, status=Status.RESOLVED)
    return replace(golden, id=str(uuid4()), subject=request.subject, data=data)


async def keys_on(kafka: str, topic: Topic, *, until: Sequence[str]) -> set[str]:
    """The keys of a topic's records, once these are among them and all that stood there then was read."""
    consumer = AIOKafkaConsumer(topic.name, bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    found: set[str] = set()

    async def read() -> None:
        for records in (await consumer.getmany(timeout_ms=500)).values():
            found.update(record.key.decode() for record in records)

    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not found.issuperset(until):
                await read()
        places = [TopicPartition(topic.name, number) for number in consumer.partitions_for_topic(topic.name) or ()]
        ends = await consumer.end_offsets(places)
        while any([await consumer.position(place) < ends[place] for place in places]):
            await read()
    finally:
        await consumer.stop()
    return found


async def test_what_was_answered_while_routing_was_away_is_not_called_overdue_when_it_is_back(
    kafka: str, publisher: KafkaPublisher, tmp_path: Path
) -> None:
    requests = [a_request() for _ in range(12)]
    ids = [request.data.request.request_id for request in requests]
    answered, waiting = requests[:6], ids[6:]
    async with routing(kafka, tmp_path, ASSIGNED_AT):
        await publisher.publish([Publication(ACCEPTED, each.subject or "", each.to_json()) for each in requests])
        await keys_on(kafka, ASSIGNED, until=ids)
    changes = map(resolution, answered)
    await publisher.publish([Publication(UPDATED, change.subject or "", change.to_json()) for change in changes])
    async with routing(kafka, tmp_path, ASSIGNED_AT + LATER):
        overdue = await keys_on(kafka, OVERDUE, until=waiting)
    assert overdue.intersection(ids) == set(waiting)
