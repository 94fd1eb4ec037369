"""What every Publisher promises, the one in memory as much as Kafka's."""

import asyncio
from itertools import chain
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from deploy.local.ports import LOOPBACK, free_port
from shared.bus.access import KafkaAccess
from shared.bus.kafka import KafkaPublisher
from shared.bus.loop import WHOLE_RECORD_BYTES, dead_letter
from shared.bus.port import Publication, Record, Unavailable, Undecodable
from shared.contract.reasons import Reason
from shared.ids import partition_of
from shared.metrics import BusMetrics

if TYPE_CHECKING:
    from tests.contract.bus.conftest import Bus, FragileBus

PARTITIONS = 6


async def test_all_of_a_large_call_is_there_when_it_returns_in_order_per_key(bus: "Bus") -> None:
    events = [Publication(bus.requests, f"request-{n % 50}", b"%d " % n + b"x" * 700) for n in range(2000)]
    await bus.publisher.publish(events)
    records = await bus.records(bus.requests)
    assert sum(map(len, records.values())) == 2000
    for number in range(50):
        key = f"request-{number}".encode()
        of_key = [value for found, value in chain(*records.values()) if found == key]
        assert of_key == [event.value for event in events if event.key.encode() == key]


async def test_a_key_decides_its_partition_by_the_rule_of_the_mesh(bus: "Bus") -> None:
    keys = [f"request-{number}" for number in range(60)] + ["", "clé", "مفتاح"]
    await bus.publisher.publish([Publication(bus.requests, key, b"{}") for key in keys])
    for partition, records in (await bus.records(bus.requests)).items():
        assert {partition_of(key, PARTITIONS) for key, _ in records} == {partition}


async def test_the_order_of_a_key_holds_over_calls(bus: "Bus") -> None:
    for number in range(20):
        await bus.publisher.publish([Publication(bus.requests, "request", b"%d" % number)])
    ((_, records),) = (await bus.records(bus.requests)).items()
    assert [value for _, value in records] == [b"%d" % number for number in range(20)]


async def test_calls_at_the_same_time_each_keep_their_own_order(bus: "Bus") -> None:
    calls = [[Publication(bus.requests, "request", b"%d %d" % (call, n)) for n in range(50)] for call in range(10)]
    await asyncio.gather(*(bus.publisher.publish(call) for call in calls))
    ((_, records),) = (await bus.records(bus.requests)).items()
    for call in calls:
        expected = [publication.value for publication in call]
        assert [value for _, value in records if value in set(expected)] == expected


async def test_one_call_may_go_to_several_topics(bus: "Bus") -> None:
    await bus.publisher.publish(
        [
            Publication(bus.requests, "a", b"1"),
            Publication(bus.dead_letters, "a", b"2"),
            Publication(bus.requests, "a", b"3"),
        ]
    )
    place = partition_of(b"a", PARTITIONS)
    assert await bus.records(bus.requests) == {place: [(b"a", b"1"), (b"a", b"3")]}
    assert await bus.records(bus.dead_letters) == {place: [(b"a", b"2")]}


async def test_nothing_to_publish_is_no_mistake(bus: "Bus") -> None:
    await bus.publisher.publish([])
    assert await bus.records(bus.requests) == {}


async def test_the_dead_letter_of_the_largest_record_kept_whole_fits_on_its_topic(bus: "Bus") -> None:
    record = Record("in", 0, 0, 0, None, None, b"\xff" * WHOLE_RECORD_BYTES)
    letter = dead_letter("test", record, Undecodable(Reason.TOO_LARGE, "x" * 1000))
    small = Publication(bus.dead_letters, "small", b"{}")
    await bus.publisher.publish([small, Publication(bus.dead_letters, letter.key, letter.value), small])
    values = [value for _, value in chain(*(await bus.records(bus.dead_letters)).values())]
    assert sorted(values) == sorted([b"{}", b"{}", letter.value])


async def test_without_a_broker_publishing_is_unavailable_and_may_be_repeated_when_it_is_back(
    fragile_bus: "FragileBus",
) -> None:
    bus = fragile_bus
    before, lost = ([Publication(bus.requests, f"{call} {n}", b"{}") for n in range(10)] for call in ("before", "lost"))
    await bus.publisher.publish(before)
    await bus.break_down()
    async with asyncio.timeout(30):
        with pytest.raises(Unavailable):
            await bus.publisher.publish(lost)
    await bus.mend()
    await bus.publisher.publish(lost)
    keys = [key.decode() for key, _ in chain(*(await bus.records(bus.requests)).values())]
    assert set(keys) == {publication.key for publication in (*before, *lost)}
    assert all(keys.count(publication.key) == 1 for publication in before)


async def test_where_no_broker_answers_a_publisher_does_not_start_and_cant_be_used() -> None:
    metrics = BusMetrics(CollectorRegistry())
    publisher = KafkaPublisher("test", KafkaAccess(f"{LOOPBACK}:{free_port()}"), metrics)
    async with asyncio.timeout(30):
        with pytest.raises(Unavailable):
            await publisher.start()
        with pytest.raises(Unavailable):
            await publisher.ping()
        with pytest.raises(Unavailable):
            await publisher.publish([])
        await publisher.stop()
