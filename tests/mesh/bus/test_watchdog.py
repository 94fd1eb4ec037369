"""When a consumer or a producer should be left alone, and when only a new process helps, on real Kafka."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition
from prometheus_client import CollectorRegistry

from shared.bus.access import KafkaAccess
from shared.bus.kafka import KafkaBus, KafkaPublisher
from shared.bus.port import Publication, Unavailable
from shared.clock import ManualClock
from shared.metrics import BusMetrics
from tests.mesh.bus.conftest import Tap

if TYPE_CHECKING:
    from tests.mesh.bus.conftest import Cluster

NOW = datetime(2026, 11, 22, tzinfo=UTC)


async def test_a_wall_clock_that_is_set_ahead_or_back_makes_no_consumer_look_stuck_or_ahead_of_time(
    cluster: "Cluster",
) -> None:
    topic = await cluster.create("in")
    clock = ManualClock(NOW)
    tap = Tap()
    bus = await cluster.consuming(tap, clock=clock)
    for number, hours in enumerate((1, -2, 1)):
        clock.jump(timedelta(hours=hours))
        tap.hold()
        await cluster.send(topic, b"%d" % number, timestamp_ms=int(NOW.timestamp() * 1000))
        await tap.until(lambda number=number: len(tap.attempts) > number)  # type: ignore[misc]
        assert (cluster.metric("guichet_consumer_lag_seconds", topic=cluster.run) or 0.0) >= 0.0
        await bus.watch()
        assert bus.stuck(after_seconds=120) is None
        tap.release()
        await cluster.until_committed(topic, {0: number + 1})
    assert tap.values() == [b"0", b"1", b"2"]


async def test_a_producer_whose_numbers_the_broker_no_longer_accepts_is_broken_until_another_works_in_its_place(
    cluster: "Cluster",
) -> None:
    topic = await cluster.create("out2")
    bus, publisher = await publishing(cluster)
    await publisher.publish([Publication(topic, "key", b"0")])
    # As after a batch that the client believes to be written and the broker never saw.
    producer_of(publisher)._txn_manager.increment_sequence_number(TopicPartition(topic.name, 0), 7)
    with pytest.raises(Unavailable, match="broken"):
        await publisher.publish([Publication(topic, "key", b"1")])
    assert "OutOfOrderSequenceNumber" in (bus.stuck(after_seconds=120) or "")
    await publisher.publish([Publication(topic, "key", b"1")])
    assert bus.stuck(after_seconds=120) is None


async def test_a_producer_whose_sender_has_ended_is_broken_until_another_works_in_its_place(cluster: "Cluster") -> None:
    topic = await cluster.create("out3")
    bus, publisher = await publishing(cluster)
    assert bus.stuck(after_seconds=120) is None
    sending = producer_of(publisher)._sender.sender_task
    sending.cancel()
    await asyncio.wait([sending])
    assert "its sender has ended" in (bus.stuck(after_seconds=120) or "")
    await publisher.publish([Publication(topic, "key", b"0")])
    assert bus.stuck(after_seconds=120) is None


async def test_what_a_replaced_producer_never_wrote_holds_up_nothing_that_its_successor_is_given(
    cluster: "Cluster",
) -> None:
    topic = await cluster.create("out4")
    _, publisher = await publishing(cluster)
    await publisher.publish([Publication(topic, "key", b"0")])
    sender = producer_of(publisher)._sender
    # As where a broker does not answer: what is published now waits in the client.
    sender._muted_partitions.add(TopicPartition(topic.name, 0))
    waiting = asyncio.create_task(publisher.publish([Publication(topic, "key", b"1")]))
    await cluster.until(lambda: bool(producer_of(publisher)._message_accumulator._batches))
    sender.sender_task.cancel()
    await asyncio.wait([sender.sender_task])
    await publisher.publish([Publication(topic, "key", b"2")])
    with pytest.raises(Unavailable):
        await waiting
    await publisher.publish([Publication(topic, "key", b"1")])


async def publishing(cluster: "Cluster") -> tuple[KafkaBus, KafkaPublisher]:
    """A bus without consumers, and its publisher."""
    metrics = BusMetrics(CollectorRegistry())
    publisher = KafkaPublisher(cluster.service, KafkaAccess(cluster.bootstrap), metrics)
    await publisher.start()
    cluster.stack.push_async_callback(publisher.stop)
    bus = KafkaBus(
        cluster.service, KafkaAccess(cluster.bootstrap), publisher=publisher, clock=ManualClock(NOW), metrics=metrics
    )
    return bus, publisher


def producer_of(publisher: KafkaPublisher) -> Any:
    """aiokafka's own, whose inner faults can't be had from outside."""
    return publisher._producer
