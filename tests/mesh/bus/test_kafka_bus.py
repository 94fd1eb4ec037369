"""The batch loop on real Kafka: what is committed, what comes again, what is left behind."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer

from deploy.local.ports import LOOPBACK, free_port
from shared.bus.consumer import IDLE_MS
from shared.bus.kafka import FETCH_BYTES, LINGER_MS
from shared.bus.port import Incoming, Publication, Record, Unavailable
from shared.clock import ManualClock
from shared.contract.events import Event
from tests.mesh.bus.conftest import Tap, as_it_came

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.mesh.bus.conftest import Cluster

GOLDEN_TIMESTAMP_MS = 1_795_336_200_280


def numbers(start: int, stop: int) -> list[bytes]:
    return [b"%d" % number for number in range(start, stop)]


async def test_what_was_processed_is_committed_and_nothing_beyond_it(cluster: "Cluster") -> None:
    topic = await cluster.create("in")
    await cluster.send(topic, *numbers(0, 3))
    tap = Tap()
    await cluster.consuming(tap)
    await cluster.until_committed(topic, {0: 3})
    tap.hold()
    await cluster.send(topic, *numbers(3, 5))
    await tap.until(lambda: len(tap.attempts) > 1)
    assert await cluster.committed(topic) == {0: 3}
    tap.release()
    await cluster.until_committed(topic, {0: 5})
    assert tap.values() == numbers(0, 5)


async def test_a_topic_is_read_up_once_all_that_stood_on_it_is_committed_by_whichever_member(
    cluster: "Cluster",
) -> None:
    topic = await cluster.create("in", partitions=3)
    tap = Tap()
    buses = [await cluster.consuming(tap) for _ in range(2)]
    await cluster.send(topic, b"0", partition=0)
    await cluster.until_committed(topic, {0: 1})
    await asyncio.gather(*(bus.read_up(topic) for bus in buses))
    tap.hold()
    for partition in (0, 1):
        await cluster.send(topic, b"1", partition=partition)
    waits = [asyncio.create_task(bus.read_up(topic)) for bus in buses]
    await tap.until(lambda: len(tap.attempts) >= 2)
    assert await cluster.committed(topic) == {0: 1}
    assert not any(wait.done() for wait in waits)
    tap.release()
    await asyncio.gather(*waits)
    assert await cluster.committed(topic) == {0: 2, 1: 1}


async def test_where_records_have_expired_unread_nothing_is_left_to_read_up(cluster: "Cluster") -> None:
    topic = await cluster.create("in")
    await cluster.send(topic, *numbers(0, 3))
    await cluster.delete_before(topic, 3)
    bus = await cluster.consuming(Tap())
    await cluster.until(bus.joined)
    await bus.read_up(topic)
    assert await cluster.committed(topic) == {}


async def test_a_topic_that_nobody_gets_on_with_is_not_read_up(cluster: "Cluster") -> None:
    topic = await cluster.create("in")
    tap = Tap()
    tap.hold()
    bus = await cluster.consuming(tap)
    await cluster.send(topic, b"0")
    await tap.until(lambda: len(tap.attempts) == 1)
    with pytest.raises(Unavailable, match="not read up"):
        await bus.read_up(topic)
    tap.release()


async def test_every_partition_is_committed_at_its_own_end(cluster: "Cluster") -> None:
    topic = await cluster.create("in", partitions=3)
    for partition, count in enumerate((700, 1, 30)):
        await asyncio.gather(*(cluster.send(topic, b"%d" % number, partition=partition) for number in range(count)))
    tap = Tap()
    await cluster.consuming(tap)
    await cluster.until_committed(topic, {0: 700, 1: 1, 2: 30})
    assert len(tap.handled) == 731


async def test_a_batch_that_found_a_part_unavailable_comes_again_and_later_ones_wait_their_turn(
    cluster: "Cluster",
) -> None:
    topic = await cluster.create("in")
    await cluster.send(topic, *numbers(0, 3))
    tap = Tap()
    tap.failing = True
    await cluster.consuming(tap)
    await tap.until(lambda: len(tap.attempts) >= 2)
    await cluster.send(topic, *numbers(3, 6))
    seen = len(tap.attempts)
    await tap.until(lambda: len(tap.attempts) > seen)
    assert await cluster.committed(topic) == {}
    tap.failing = False
    await cluster.until_committed(topic, {0: 6})
    assert [record.value for record in tap.attempts[1]][: len(tap.attempts[0])] == numbers(0, len(tap.attempts[0]))
    assert all(attempt[0].offset == 0 for attempt in tap.attempts[:seen])
    assert tap.values() == numbers(0, 6)


async def test_stopping_lets_the_batch_in_flight_finish_and_the_next_member_starts_exactly_after_it(
    cluster: "Cluster",
) -> None:
    topic = await cluster.create("in")
    await cluster.send(topic, *numbers(0, 3))
    tap = Tap()
    tap.hold()
    bus = await cluster.consuming(tap)
    await tap.until(lambda: bool(tap.attempts))
    taken = len(tap.attempts[0])
    await cluster.send(topic, *numbers(3, 6))
    stopping = asyncio.create_task(bus.stop())
    assert await cluster.committed(topic) == {}
    assert not stopping.done()
    tap.release()
    await stopping
    assert tap.values() == numbers(0, taken)
    assert await cluster.committed(topic) == {0: taken}
    following = Tap()
    await cluster.consuming(following)
    await following.until(lambda: len(following.handled) == 6 - taken)
    assert following.values() == numbers(taken, 6)


async def test_stopping_does_not_wait_out_the_pause_before_the_next_try(cluster: "Cluster") -> None:
    topic = await cluster.create("in")
    await cluster.send(topic, b"0")
    tap = Tap()
    tap.failing = True
    bus = await cluster.consuming(tap)
    await tap.until(lambda: len(tap.attempts) >= 4)
    async with asyncio.timeout(10):
        await bus.stop()
    assert await cluster.committed(topic) == {}


async def test_nothing_is_lost_and_the_order_of_each_key_holds_while_members_join_and_leave(
    cluster: "Cluster",
) -> None:
    incoming, outgoing = await cluster.create("in", partitions=6), await cluster.create("out2", partitions=6)

    def forward(record: Record) -> Publication:
        return Publication(outgoing, (record.key or b"").decode(), record.value or b"")

    async def send(start: int, stop: int) -> None:
        for number in range(start, stop):
            await asyncio.gather(
                *(cluster.send(incoming, b"%d %d" % (key, number), key=b"%d" % key) for key in range(12))
            )

    first, second = Tap(forward), Tap(forward)
    leaving = await cluster.consuming(first)
    await send(0, 10)
    await first.until(lambda: bool(first.handled))
    first.hold()
    await send(10, 20)
    await first.until(lambda: len(first.handled) < sum(map(len, first.attempts)))
    joining = asyncio.create_task(cluster.consuming(second))
    await send(20, 30)
    first.release()
    await joining
    await send(30, 40)
    await second.until(lambda: bool(second.attempts))
    await leaving.stop()
    await send(40, 50)

    wanted = {b"%d %d" % (key, number) for key in range(12) for number in range(50)}
    await second.until(lambda: wanted <= set(first.values()) | set(second.values()))
    await cluster.until_committed(incoming, await cluster.ends(incoming))
    raw = [(record.key, record.value) for record in await cluster.records(outgoing, len(wanted))]
    assert {value for _, value in raw} == wanted
    for key in range(12):
        order = [int(value.split()[1]) for found, value in raw if found == b"%d" % key]
        effective = list(dict.fromkeys(order))
        assert effective == list(range(50))
        # What came twice came as a whole stretch again: nothing new stands before it was repeated in order.
        assert all(later <= earlier + 1 for earlier, later in pairwise(order))


async def test_odd_headers_values_and_timestamps_stop_nobody(cluster: "Cluster") -> None:
    topic = await cluster.create("in", settings={"message.timestamp.after.max.ms": str(2**63 - 1)})
    await cluster.send(topic, b"before")
    await cluster.send(topic, b"none", headers=[("a", None)])
    await cluster.send(topic, b"not utf-8", headers=[("a", b"\xff\xfe")])
    await cluster.send(topic, b"doubled", headers=[("content-type", b"a"), ("content-type", b"b"), ("", b"")])
    await cluster.send(topic, b"large", headers=[("a", b"x" * 500_000)])
    await cluster.send(topic, None, key=b"no value")
    await cluster.send(topic, b"key not utf-8", key=b"\xff")
    await cluster.send(topic, b"1970", timestamp_ms=0)
    await cluster.send(topic, b"far future", timestamp_ms=2**62)
    await cluster.send(topic, b"sane", timestamp_ms=GOLDEN_TIMESTAMP_MS)
    await cluster.send(topic, b"after")
    tap = Tap()
    await cluster.consuming(tap, clock=ManualClock(datetime(2026, 11, 22, 9, 0, tzinfo=UTC)))
    await cluster.until_committed(topic, {0: 11})
    assert [record.value for record in tap.handled] == [
        b"before",
        b"none",
        b"not utf-8",
        b"doubled",
        b"large",
        None,
        b"key not utf-8",
        b"1970",
        b"far future",
        b"sane",
        b"after",
    ]
    by_value = {record.value: record for record in tap.handled}
    assert by_value[b"none"].headers == (("a", None),)
    assert by_value[b"not utf-8"].headers == (("a", b"\xff\xfe"),)
    assert by_value[b"doubled"].headers == (("content-type", b"a"), ("content-type", b"b"), ("", b""))
    assert by_value[b"1970"].recorded_at is None
    assert by_value[b"far future"].recorded_at is None
    assert by_value[b"far future"].timestamp_ms == 2**62
    assert by_value[b"sane"].recorded_at == datetime(2026, 11, 22, 8, 30, 0, 280_000, tzinfo=UTC)


async def test_what_is_no_event_on_a_topic_of_the_mesh_stands_among_the_dead_letters_before_it_is_committed(
    cluster: "Cluster",
) -> None:
    topic = await cluster.create("in")
    await cluster.send(topic, b"{", headers=[("a", b"\xff"), ("a", None)], key=b"\xff")
    await cluster.send(topic, None, key=b"k")
    seen: list[Event] = []

    async def handle(batch: "Sequence[Incoming[Event]]") -> list[Publication]:
        seen.extend(incoming.event for incoming in batch)
        return []

    bus = await cluster.member()
    bus.consume([topic], handle)
    await bus.start()
    await cluster.until_committed(topic, {0: 2})
    first, second = await cluster.dead_letters(topic, 2)
    assert (first.data.reason, first.data.value, first.data.key) == ("not_json", "ew==", "/w==")
    assert first.data.headers == (("a", "/w=="), ("a", None))
    assert (second.data.reason, second.data.value) == ("empty", None)
    assert seen == []


async def test_a_record_that_decompresses_to_many_megabytes_does_not_hold_up_its_partition(
    cluster: "Cluster",
) -> None:
    topic = await cluster.create("in")
    huge = 30_000_000
    async with AIOKafkaProducer(
        bootstrap_servers=cluster.bootstrap, compression_type="gzip", max_request_size=2 * huge, max_batch_size=2 * huge
    ) as producer:
        await producer.send_and_wait(topic.name, b"0" * huge)
    await cluster.send(topic, b"{")

    async def handle(_batch: "Sequence[Incoming[Event]]") -> list[Publication]:
        raise AssertionError("neither is an event")

    bus = await cluster.member()
    bus.consume([topic], handle)
    await bus.start()
    await cluster.until_committed(topic, {0: 2})
    first, second = await cluster.dead_letters(topic, 2)
    assert "30000000 bytes" in first.data.detail
    assert second.data.value == "ew=="


async def test_a_new_topic_that_matches_is_found_without_a_restart(cluster: "Cluster") -> None:
    first = await cluster.create("first")
    tap = Tap()
    await cluster.consuming(tap)
    await cluster.send(first, b"first")
    await tap.until(lambda: tap.values() == [b"first"])
    later, other = await cluster.create("later"), await cluster.create("other2")
    await cluster.send(other, b"other")
    await cluster.send(later, b"later")
    await tap.until(lambda: len(tap.handled) > 1)
    assert tap.values() == [b"first", b"later"]
    await cluster.until_committed(later, {0: 1})


async def test_a_batch_that_never_ends_is_noticed(cluster: "Cluster") -> None:
    topic = await cluster.create("in")
    await cluster.send(topic, b"0")
    clock = ManualClock(datetime(2026, 11, 22, tzinfo=UTC))
    tap = Tap()
    tap.hold()
    bus = await cluster.consuming(tap, clock=clock)
    await tap.until(lambda: bool(tap.attempts))
    assert bus.stuck(after_seconds=120) is None
    clock.advance(timedelta(seconds=121))
    assert "more than 120 s" in (bus.stuck(after_seconds=120) or "")
    tap.release()
    await cluster.until_committed(topic, {0: 1})
    assert bus.stuck(after_seconds=120) is None


async def test_where_no_broker_answers_a_bus_does_not_start(cluster: "Cluster") -> None:
    bus = await cluster.member(bootstrap=f"{LOOPBACK}:{free_port()}")
    bus.consume_pattern(cluster.pattern, as_it_came, Tap(), label="test")
    async with asyncio.timeout(30):
        for _ in range(2):
            with pytest.raises(Unavailable):
                await bus.start()


async def test_the_broker_is_asked_to_wait_for_more_while_records_come_and_to_answer_at_the_first_once_none_do(
    cluster: "Cluster",
) -> None:
    topic = await cluster.create("in")
    tap = Tap()
    bus = await cluster.consuming(tap)
    (subscriber,) = bus.broker.subscribers

    def asked() -> tuple[int, int]:
        fetcher = subscriber.consumer._fetcher  # type: ignore[attr-defined]
        return fetcher._fetch_max_wait_ms, fetcher._fetch_min_bytes

    await cluster.until(lambda: asked() == (IDLE_MS, 1))
    tap.hold()
    await cluster.send(topic, b"0")
    await tap.until(lambda: len(tap.attempts) == 1)
    assert asked() == (LINGER_MS, FETCH_BYTES)
    tap.release()
    await cluster.until(lambda: asked() == (IDLE_MS, 1))
