"""Consumers on three brokers: orderly restarts, a group that never comes to rest, poison, events of two versions."""

import asyncio
import copy
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from shared.bus.access import KafkaAccess
from shared.bus.kafka import KafkaBus, KafkaPublisher
from shared.bus.port import Incoming, Publication, Record, Undecodable
from shared.clock import SystemClock
from shared.contract.events import Event
from shared.contract.reasons import Reason
from shared.contract.schemas import MESH_EVENTS
from shared.contract.topics import DEAD_LETTERS, Topic
from shared.metrics import BusMetrics
from tests.faults.conftest import PARTITIONS
from tests.mesh.bus.conftest import Cluster, Tap, as_it_came, cluster_at

if TYPE_CHECKING:
    from deploy.local.kafka import KafkaCluster
    from tests.faults.conftest import Log, Measure

GOLDEN = Path(__file__).parents[1] / "golden"
RESTARTS = 100
STEADY_SECONDS = 4.0
STORM_SECONDS = 18.0
BETWEEN_SECONDS = 3.0
POISON, BUG = b"poison", b"bug"


@pytest.fixture
async def cluster(brokers: "KafkaCluster") -> AsyncIterator[Cluster]:
    async with cluster_at(brokers.bootstrap, replication=3) as found:
        yield found


@asynccontextmanager
async def publishing(cluster: Cluster) -> AsyncIterator[KafkaPublisher]:
    publisher = KafkaPublisher(cluster.service, KafkaAccess(cluster.bootstrap), BusMetrics(CollectorRegistry()))
    await publisher.start()
    yield publisher
    await publisher.stop()


def member(cluster: Cluster, publisher: KafkaPublisher) -> KafkaBus:
    """A member of the test's group, without consumers yet."""
    metrics = BusMetrics(CollectorRegistry())
    return KafkaBus(
        cluster.service, KafkaAccess(cluster.bootstrap), publisher=publisher, clock=SystemClock(), metrics=metrics
    )


async def test_a_hundred_orderly_restarts_under_load_do_each_record_once(cluster: Cluster, measure: "Measure") -> None:
    topic = await cluster.create("in", partitions=PARTITIONS)
    tap = Tap()
    sent: list[bytes] = []
    ended = asyncio.Event()

    async def keep_sending() -> None:
        while not ended.is_set():
            values = [b"%d" % number for number in range(len(sent), len(sent) + 20)]
            await cluster.send(topic, *values)
            sent.extend(values)

    sending = asyncio.create_task(keep_sending())
    stops: list[float] = []
    async with publishing(cluster) as publisher:
        for _ in range(RESTARTS):
            seen = len(tap.handled)
            bus = member(cluster, publisher)
            bus.consume_pattern(cluster.pattern, as_it_came, tap, label="test")
            await bus.start()
            await tap.until(lambda seen=seen: len(tap.handled) > seen)  # type: ignore[misc]
            stopping = time.monotonic()
            await bus.stop()
            stops.append(time.monotonic() - stopping)
        ended.set()
        await sending
    await cluster.consuming(tap)
    await tap.until(lambda: len(tap.handled) >= len(sent))
    measure("longest_stop_seconds", max(stops))
    assert Counter(tap.values()) == Counter(sent)


class Shop:
    """A handler of fixed capacity, however many members share it: so many records a second."""

    PER_SECOND = 10_000

    def __init__(self) -> None:
        self.handled: list[tuple[int, int]] = []
        self._counter = asyncio.Lock()

    async def __call__(self, batch: Sequence[Record]) -> list[Publication]:
        async with self._counter:
            await asyncio.sleep(len(batch) / self.PER_SECOND)  # the work
        self.handled.extend((record.partition, record.offset) for record in batch)
        return []

    async def rate(self, seconds: float) -> float:
        """Records a second from now on, over so many seconds."""
        seen, started = len(self.handled), time.monotonic()
        await asyncio.sleep(seconds)  # what is measured
        return (len(self.handled) - seen) / (time.monotonic() - started)


async def test_while_members_join_and_leave_every_three_seconds_work_goes_on_at_half_speed_at_least(
    cluster: Cluster, measure: "Measure"
) -> None:
    topic = await cluster.create("in", partitions=6)
    total = await fill(cluster, topic, partitions=6, records_each=50_000)
    shop = Shop()
    offsets: list[dict[int, int]] = []
    async with publishing(cluster) as publisher:
        steady = member(cluster, publisher)
        steady.consume_pattern(cluster.pattern, as_it_came, shop, label="test")
        await steady.start()
        await cluster.until(lambda: bool(shop.handled))
        undisturbed = await shop.rate(STEADY_SECONDS)

        async def come_and_go() -> None:
            while True:
                guest = member(cluster, publisher)
                guest.consume_pattern(cluster.pattern, as_it_came, shop, label="test")
                try:
                    await guest.start()
                    await asyncio.sleep(BETWEEN_SECONDS)  # the storm itself
                finally:
                    await guest.stop()
                await asyncio.sleep(BETWEEN_SECONDS)

        async def look() -> None:
            while True:
                offsets.append(await cluster.committed(topic))
                await asyncio.sleep(0.5)  # between two looks

        beside = [asyncio.create_task(come_and_go()), asyncio.create_task(look())]
        in_storm = await shop.rate(STORM_SECONDS)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await steady.stop()
    offsets.append(await cluster.committed(topic))
    measure("share_of_undisturbed_rate", in_storm / undisturbed)
    measure("handled_twice", len(shop.handled) - len(set(shop.handled)))
    assert len(shop.handled) < total, "there was not enough to do"
    assert in_storm >= 0.5 * undisturbed
    # A look may lack some: who has just become the group's coordinator knows of none for a moment.
    furthest: dict[int, int] = {}
    for committed in offsets:
        assert all(offset >= furthest.get(partition, 0) for partition, offset in committed.items())
        furthest |= committed
    handled = set(shop.handled)
    assert all((partition, offset) in handled for partition, end in offsets[-1].items() for offset in range(end))


async def fill(cluster: Cluster, topic: Topic, *, partitions: int, records_each: int) -> int:
    """Have so many records stand on each partition."""
    for partition in range(partitions):
        left = records_each
        while left:
            builder = cluster.producer.create_batch()
            while left and builder.append(key=None, value=b"x", timestamp=None) is not None:
                left -= 1
            await cluster.producer.send_batch(builder, topic.name, partition=partition)
    await cluster.producer.flush()
    return partitions * records_each


async def test_one_poisoned_record_in_a_hundred_is_set_aside_once_and_its_neighbours_go_on_in_order(
    cluster: Cluster, log: "Log"
) -> None:
    incoming, outgoing = await cluster.create("in", partitions=2), await cluster.create("out2", partitions=2)
    bad = {number: POISON if index % 10 else BUG for index, number in enumerate(range(50, 4000, 99))}
    values = [bad.get(number, b"%d" % number) for number in range(4000)]
    for number, value in enumerate(values):
        await cluster.producer.send(incoming.name, value, partition=number % 2)
    await cluster.producer.flush()

    def decode(record: Record) -> Record:
        if record.value == POISON:
            raise Undecodable(Reason.NOT_JSON, "on purpose")
        return record

    async def forward(batch: Sequence[Record]) -> list[Publication]:
        if any(record.value == BUG for record in batch):
            raise ValueError("a bug")
        return [Publication(outgoing, str(record.partition), record.value or b"") for record in batch]

    bus = await cluster.member()
    bus.consume_pattern(cluster.pattern, decode, forward, label="test")
    await bus.start()
    await cluster.until_committed(incoming, {0: 2000, 1: 2000})
    wanted = {f"{incoming.name}/{number % 2}/{number // 2}" for number in bad}
    letters = {key: found for key, found in (await log.read(DEAD_LETTERS)).items() if key.startswith(incoming.name)}
    assert letters.keys() == wanted
    assert {len(found) for found in letters.values()} == {1}
    raw = await cluster.records(outgoing, 4000 - len(wanted))
    for partition in range(2):
        passed = [record.value for record in raw if record.key == b"%d" % partition]
        assert passed == [value for value in values[partition::2] if value not in (POISON, BUG)]
    assert bus.stopped() is None


@pytest.mark.parametrize("event", MESH_EVENTS, ids=lambda event: event.TYPE)
async def test_an_old_writers_events_and_a_newer_ones_on_one_topic_are_both_read(
    cluster: Cluster, log: "Log", event: type[Event]
) -> None:
    topic = replace(await cluster.create("in"), event=event)
    old = json.loads((GOLDEN / f"{event.TYPE}.json").read_bytes())
    newer = [with_field_at(old, number) for number in range(len(list(objects(old))))]
    written = [old, *(one for pair in zip(newer, [old] * len(newer), strict=True) for one in pair)]
    await cluster.send(topic, *(json.dumps(document).encode() for document in written))
    seen: list[Event] = []

    async def handle(batch: Sequence[Incoming[Event]]) -> list[Publication]:
        seen.extend(incoming.event for incoming in batch)
        return []

    bus = await cluster.member()
    bus.consume([topic], handle)
    await bus.start()
    await cluster.until_committed(topic, {0: len(written)})
    assert seen == [event.from_json(json.dumps(old))] * len(written)
    assert not [key for key in await log.read(DEAD_LETTERS) if key.startswith(topic.name)]


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a document, save the attributes, whose keys are the agencies' own."""
    if isinstance(value, dict):
        yield value
        for key, inner in value.items():
            if key != "attributes":
                yield from objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner)


def with_field_at(document: dict[str, Any], number: int) -> dict[str, Any]:
    """What a newer writer may write: one more field in one of the objects."""
    newer = copy.deepcopy(document)
    list(objects(newer))[number]["added_later"] = {"of": ["any", "shape"]}
    return newer
