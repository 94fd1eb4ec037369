"""What consumers do with records, offsets and topics that are not as they should be, on real Kafka."""

import base64
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from prometheus_client import CollectorRegistry

from shared.bus.access import KafkaAccess
from shared.bus.breaker import LIMIT_IN_A_ROW
from shared.bus.kafka import KafkaBus, KafkaPublisher
from shared.bus.port import Incoming, Publication, Record, Unavailable, Undecodable
from shared.clock import ManualClock
from shared.contract.events import Event
from shared.contract.reasons import Reason
from shared.contract.topics import DEAD_LETTERS, Topic
from shared.metrics import BusMetrics
from tests.mesh.bus.conftest import Tap

if TYPE_CHECKING:
    from deploy.local.kafka import KafkaCluster
    from tests.mesh.bus.conftest import Cluster

NOW = datetime(2026, 11, 22, tzinfo=UTC)
CRC_AT, ATTRIBUTES_AT, RECORDS_AT = 17, 21, 61


def batch_of(*records: tuple[bytes, str]) -> bytearray:
    """A record batch, uncompressed: each record a value and the name of its one header."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for number, (value, header) in enumerate(records):
        builder.append(number, 1_795_336_200_280, b"key", value, [(header, b"x")])
    return bytearray(builder.build())


def sealed(data: bytearray) -> bytes:
    """With the checksum that it should have."""
    struct.pack_into(">I", data, CRC_AT, calc_crc32c(bytes(data[ATTRIBUTES_AT:])))
    return bytes(data)


def log_file(broker: "KafkaCluster", topic: Topic) -> Path:
    return broker.directory / "broker-0" / "data" / f"{topic.name}-0" / f"{0:020}.log"


async def refuse_bad(batch: Sequence[Record]) -> list[Publication]:
    raise ValueError("a bug")


def decode_unless_bad(record: Record) -> Record:
    if record.value == b"bad":
        raise Undecodable(Reason.NOT_JSON, "on purpose")
    return record


async def never(batch: Sequence[Incoming[Event]]) -> list[Publication]:
    raise AssertionError("none of these is an event")


async def test_a_header_whose_name_is_not_utf8_sets_its_record_aside_and_no_other(cluster: "Cluster") -> None:
    topic = await cluster.create("in", partitions=2)
    await cluster.send(topic, b"0", b"1", partition=0)
    data = batch_of((b"2", "good"), (b"odd", "ODDNAME"), (b"4", "good"))
    data[data.index(b"ODDNAME") : data.index(b"ODDNAME") + 7] = b"odd\xff\xfe!!"
    await cluster.send_batch(topic, sealed(data))
    await cluster.send(topic, b"5", partition=0)
    await cluster.send(topic, *(b"neighbour %d" % n for n in range(50)), partition=1)
    tap = Tap()
    bus = await cluster.consuming(tap)
    await cluster.until_committed(topic, {0: 6, 1: 50})
    handled = [record.value for record in tap.handled if record.partition == 0]
    assert handled == [b"0", b"1", b"2", b"4", b"5"]
    assert len(tap.handled) == 55
    (letter,) = await cluster.dead_letters(topic, 1)
    assert (letter.data.origin.offset, letter.data.reason) == (3, Reason.INVALID_HEADER)
    assert (letter.data.key, letter.data.value) == (
        base64.b64encode(b"key").decode(),
        base64.b64encode(b"odd").decode(),
    )
    assert letter.data.headers == (("odd\\xff\\xfe!!", "eA=="),)
    assert letter.data.cut is None
    assert bus.stuck(after_seconds=120) is None


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_agencies_may_compress_as_they_like(cluster: "Cluster", codec: str) -> None:
    topic = await cluster.create("in")
    async with AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, compression_type=codec) as producer:
        await producer.send_and_wait(topic.name, b"compressed" * 100)
    tap = Tap()
    await cluster.consuming(tap)
    await cluster.until_committed(topic, {0: 1})
    assert tap.values() == [b"compressed" * 100]


async def test_a_batch_that_cant_be_unpacked_leaves_one_dead_letter_and_its_neighbours_go_on(
    damaged: "Cluster", broker: "KafkaCluster"
) -> None:
    await lay_out_dead_letters(damaged)
    topic = await damaged.create("in")
    await damaged.send(topic, b"0")
    async with AIOKafkaProducer(bootstrap_servers=damaged.bootstrap, compression_type="gzip") as producer:
        builder = producer.create_batch()
        for _ in range(3):
            builder.append(key=None, value=b"x" * 500, timestamp=None)
        await (await producer.send_batch(builder, topic.name, partition=0))
    await damaged.send(topic, b"4")
    spoil(log_file(broker, topic), gzip_starts=True)
    tap = Tap()
    bus = await damaged.consuming(tap)
    await damaged.until_committed(topic, {0: 5})
    assert tap.values() == [b"0", b"4"]
    (letter,) = await damaged.dead_letters(topic, 1)
    assert (letter.data.reason, letter.data.value, letter.data.cut) == (Reason.UNREADABLE_BATCH, None, True)
    assert letter.data.detail.startswith("offsets 1 to 3 can't be unpacked")
    assert bus.stuck(after_seconds=120) is None


async def test_a_batch_whose_checksum_is_wrong_stops_the_consumer_since_another_replica_may_have_it_whole(
    damaged: "Cluster", broker: "KafkaCluster"
) -> None:
    topic = await damaged.create("in")
    await damaged.send(topic, b"0")
    await damaged.send(topic, b"here is the damage")
    await damaged.send(topic, b"2")
    spoil(log_file(broker, topic), gzip_starts=False)
    tap = Tap()
    bus = await damaged.consuming(tap)
    await damaged.until(lambda: bus.stopped() is not None)
    assert "wrong checksum" in (bus.stuck(after_seconds=120) or "")
    assert damaged.metric("guichet_consumer_stopped", reason="unreadable") == 1
    assert tap.values() == [b"0"]
    assert await damaged.committed(topic) in ({}, {0: 1})


def spoil(path: Path, *, gzip_starts: bool) -> None:
    """Damage a batch on the disk: what is compressed with a checksum that is right again, or a value without it."""
    data = bytearray(path.read_bytes())
    position = 0
    while position < len(data):
        end = position + 12 + struct.unpack_from(">i", data, position + 8)[0]
        compressed = data[position + RECORDS_AT : position + RECORDS_AT + 2] == b"\x1f\x8b"
        if gzip_starts and compressed:
            data[position + RECORDS_AT + 12 : end] = bytes(end - position - RECORDS_AT - 12)
            data[position:end] = sealed(data[position:end])
        position = end
    if not gzip_starts:
        data[data.index(b"damage")] ^= 1
    path.write_bytes(data)


async def lay_out_dead_letters(cluster: "Cluster", *, limit: int | None = None) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    await admin.start()
    try:
        if DEAD_LETTERS.name in await admin.list_topics():
            await cluster.delete(DEAD_LETTERS)
        settings = DEAD_LETTERS.settings if limit is None else {"max.message.bytes": str(limit)}
        await admin.create_topics([NewTopic(DEAD_LETTERS.name, 6, 1, topic_configs=settings)])
    finally:
        await admin.close()


async def test_while_dead_letters_cant_be_written_nothing_is_dropped_or_committed_or_repeated(
    damaged: "Cluster",
) -> None:
    await lay_out_dead_letters(damaged, limit=100)
    incoming, outgoing = await damaged.create("in"), await damaged.create("out2")
    await damaged.send(incoming, b"good", b"bad", b"good")
    attempts: list[int] = []

    async def forward(batch: Sequence[Record]) -> list[Publication]:
        attempts.append(len(batch))
        return [Publication(outgoing, "key", record.value or b"") for record in batch]

    bus = await damaged.member()
    bus.consume_pattern(damaged.pattern, decode_unless_bad, forward, label="test")
    await bus.start()
    await damaged.until(lambda: len(attempts) >= 4)
    assert await damaged.committed(incoming) == {}
    assert await damaged.ends(outgoing) == {}
    assert bus.stuck(after_seconds=120) is None
    await lay_out_dead_letters(damaged)
    await damaged.until_committed(incoming, {0: 3})
    assert [record.value for record in await damaged.records(outgoing, 2)] == [b"good", b"good"]
    (letter,) = await damaged.dead_letters(incoming, 1)
    assert letter.data.value == base64.b64encode(b"bad").decode()


async def test_when_a_topic_of_the_mesh_is_full_of_what_cant_be_read_the_consumer_stops_loudly(
    cluster: "Cluster",
) -> None:
    topic = await cluster.create("in")
    async with AIOKafkaProducer(bootstrap_servers=cluster.bootstrap) as producer:
        builder = producer.create_batch()
        for _ in range(2 * LIMIT_IN_A_ROW):
            builder.append(key=None, value=b"{", timestamp=None)
        await (await producer.send_batch(builder, topic.name, partition=0))
    for _ in range(2):  # a restart tries again, and finds the same
        bus = await cluster.member()
        bus.consume([topic], never)
        await bus.start()
        await cluster.until(lambda bus=bus: bus.stopped() is not None)  # type: ignore[misc]
        assert "50 records in a row" in (bus.stuck(after_seconds=120) or "")
        assert cluster.metric("guichet_consumer_stopped", reason="dead_letters") == 1
        assert bus.joined()
        await bus.stop()
        assert await cluster.committed(topic) == {}


async def test_one_agency_that_sends_what_cant_be_read_stops_no_other(cluster: "Cluster") -> None:
    bad, good = await cluster.create("bad"), await cluster.create("good")
    await cluster.send(bad, *[b"bad"] * 3 * LIMIT_IN_A_ROW)
    await cluster.send(good, *[b"good"] * 10)
    tap = Tap()
    bus = await cluster.member()
    bus.consume_pattern(cluster.pattern, decode_unless_bad, tap, label="agency.*.events")
    await bus.start()
    await cluster.until_committed(bad, {0: 3 * LIMIT_IN_A_ROW})
    await cluster.until_committed(good, {0: 10})
    assert tap.values() == [b"good"] * 10
    assert bus.stopped() is None
    labels = {"topic": "agency.*.events"}
    assert cluster.metric("guichet_dead_letters_total", reason="not_json", **labels) == 3 * LIMIT_IN_A_ROW
    assert cluster.metric("guichet_events_consumed_total", **labels) == 3 * LIMIT_IN_A_ROW + 10
    assert (cluster.metric("guichet_unreadable_writers_total", **labels) or 0) >= 1


async def test_where_our_own_handler_fails_on_every_agencys_records_the_consumer_stops_loudly(
    cluster: "Cluster",
) -> None:
    topic = await cluster.create("in")
    await cluster.send(topic, *[b"good"] * 2 * LIMIT_IN_A_ROW)
    bus = await cluster.consuming(refuse_bad)
    await cluster.until(lambda: bus.stopped() is not None)
    assert len(await cluster.committed(topic)) <= 1
    await bus.stop()
    assert (await cluster.committed(topic)).get(0, 0) < LIMIT_IN_A_ROW


async def test_topics_of_the_mesh_are_counted_by_name(cluster: "Cluster") -> None:
    topics = [await cluster.create("in"), await cluster.create("other")]
    for topic in topics:
        await cluster.send(topic, b"{", b"")
    bus = await cluster.member()
    bus.consume(topics, never)
    await bus.start()
    for topic in topics:
        await cluster.until_committed(topic, {0: 2})
        assert cluster.metric("guichet_events_consumed_total", topic=topic.name) == 2
        assert cluster.metric("guichet_dead_letters_total", topic=topic.name, reason="not_json") == 1
        assert cluster.metric("guichet_consumer_lag_seconds", topic=topic.name) == 0


async def test_a_consumer_whose_offset_is_no_longer_on_the_log_stops_and_skips_nothing(cluster: "Cluster") -> None:
    topic = await cluster.create("in")
    await cluster.send(topic, b"0", b"1", b"2")
    bus = await cluster.consuming(Tap())
    await cluster.until_committed(topic, {0: 3})
    await bus.stop()
    await cluster.send(topic, *(b"%d" % number for number in range(3, 10)))
    await cluster.delete_before(topic, 6)
    tap = Tap()
    bus = await cluster.consuming(tap)
    await cluster.until(lambda: bus.stopped() is not None)
    assert "offset 3 is not on the log any more, which reaches from 6 to 10" in (bus.stuck(after_seconds=120) or "")
    assert cluster.metric("guichet_consumer_stopped", reason="offsets_gone") == 1
    assert tap.attempts == []
    assert await cluster.committed(topic) == {0: 3}


async def test_a_new_group_starts_at_the_oldest_record_there_is(cluster: "Cluster") -> None:
    topic = await cluster.create("in", partitions=2)
    await cluster.send(topic, *(b"%d" % number for number in range(10)), partition=0)
    await cluster.send(topic, b"other", partition=1)
    await cluster.delete_before(topic, 6)
    tap = Tap()
    await cluster.consuming(tap)
    await cluster.until_committed(topic, {0: 10, 1: 1})
    assert {record.value for record in tap.handled} == {b"6", b"7", b"8", b"9", b"other"}


async def test_records_that_wait_without_progress_are_noticed(cluster: "Cluster") -> None:
    topic = await cluster.create("in")
    await cluster.send(topic, b"0")
    clock = ManualClock(NOW)
    bus = await cluster.consuming(Tap(), clock=clock)
    await cluster.until_committed(topic, {0: 1})
    clock.advance(timedelta(seconds=121))
    await bus.watch()
    assert bus.stuck(after_seconds=120) is None  # nothing waits
    stall(bus)
    await cluster.send(topic, b"1")
    clock.advance(timedelta(seconds=121))
    await bus.watch()
    assert "without progress" in (bus.stuck(after_seconds=120) or "")


async def test_a_part_that_is_down_is_no_reason_to_be_restarted(cluster: "Cluster") -> None:
    topic = await cluster.create("in")
    await cluster.send(topic, b"0")
    clock = ManualClock(NOW)
    tap = Tap()
    tap.failing = True
    bus = await cluster.consuming(tap, clock=clock)
    for _ in range(3):
        seen = len(tap.attempts)
        clock.advance(timedelta(seconds=121))
        await tap.until(lambda seen=seen: len(tap.attempts) > seen + 1)  # type: ignore[misc]
        await bus.watch()
        assert bus.stuck(after_seconds=120) is None


def stall(bus: KafkaBus) -> None:
    """Make its consumers take nothing more, as some of aiokafka's faults have done."""
    for subscriber in bus.broker.subscribers:
        consumer = subscriber.consumer  # type: ignore[attr-defined]
        consumer.pause(*consumer.assignment())


async def test_tries_to_publish_while_the_broker_hangs_pile_up_no_copies(
    damaged: "Cluster", broker: "KafkaCluster"
) -> None:
    topic = await damaged.create("out2")
    registry = CollectorRegistry()
    publisher = KafkaPublisher(f"test-{uuid4().hex}", KafkaAccess(damaged.bootstrap), BusMetrics(registry))
    await publisher.start()
    damaged.stack.push_async_callback(publisher.stop)
    events = [Publication(topic, "key", b"%d" % number) for number in range(100)]
    await publisher.publish(events[:1])
    broker.processes[0].suspend()
    try:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await publisher.publish(events)
    finally:
        broker.processes[0].resume()
    await publisher.publish(events)
    raw = [int(record.value) for record in await damaged.records(topic, 201)]
    assert raw == [0, *chain(range(100), range(100))]
    assert publisher.broken is None


async def test_a_topic_that_cant_be_written_to_holds_up_no_other(damaged: "Cluster") -> None:
    good, gone = await damaged.create("out2"), await damaged.create("gone")
    publisher = KafkaPublisher(f"test-{uuid4().hex}", KafkaAccess(damaged.bootstrap), BusMetrics(CollectorRegistry()))
    await publisher.start()
    damaged.stack.push_async_callback(publisher.stop)
    await publisher.publish([Publication(gone, "key", b"before")])
    await damaged.delete(gone)
    with pytest.raises(Unavailable):
        await publisher.publish([Publication(gone, "key", b"after")])
    await publisher.publish([Publication(good, "key", b"1")])
    await damaged.create("gone")
    await publisher.publish([Publication(gone, "key", b"again")])
    assert [record.value for record in await damaged.records(gone, 1)][-1] == b"again"
    assert publisher.broken is None
