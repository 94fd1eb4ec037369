"""When a consumer commits what it has finished."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaTimeoutError
from faststream.kafka import KafkaMessage
from prometheus_client import CollectorRegistry

from shared.bus.access import KafkaAccess
from shared.bus.kafka import COMMIT_SECONDS, KafkaBus, KafkaPublisher
from shared.bus.port import Publication, Record
from shared.clock import ManualClock
from shared.metrics import BusMetrics

TOPIC = "in"
NOW = datetime(2026, 11, 28, 8, tzinfo=UTC)


class Consumer:
    """One that owns two partitions and keeps what is committed; it fails, or waits, once told to."""

    def __init__(self) -> None:
        self.commits: list[dict[int, int]] = []
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.fails = False

    def assignment(self) -> set[TopicPartition]:
        return {TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)}

    def highwater(self, _partition: TopicPartition) -> int:
        return 0

    def seek(self, partition: TopicPartition, offset: int) -> None:
        raise AssertionError(f"{partition} was put back to {offset}: a batch failed")

    async def commit(self, offsets: Mapping[TopicPartition, int] | None = None) -> None:
        self.asked += 1
        await self.answers.wait()
        if self.fails:
            raise KafkaTimeoutError
        self.commits.append({partition.partition: offset for partition, offset in (offsets or {}).items()})


def as_it_came(record: Record) -> Record:
    return record


class Member:
    """A consumer's batches, given by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW)
        self.consumer = Consumer()
        metrics = BusMetrics(CollectorRegistry())
        publisher = KafkaPublisher("test", KafkaAccess("nowhere:9092"), metrics)
        bus = KafkaBus("test", KafkaAccess("nowhere:9092"), publisher=publisher, clock=self.clock, metrics=metrics)
        bus.consume_pattern(TOPIC, as_it_came, self._handle, label="test")
        [self.subscription] = bus.subscriptions

    async def takes(self, partition: int, offset: int) -> None:
        record = ConsumerRecord(TOPIC, partition, offset, int(NOW.timestamp() * 1000), 0, None, b"", None, -1, 0, ())
        await self.subscription.on_message(KafkaMessage(body=b"", raw_message=(record,), consumer=self.consumer))

    async def asks(self, times: int) -> None:
        """Return once a commit was asked for so often."""
        async with asyncio.timeout(10):
            while self.consumer.asked < times:
                await asyncio.sleep(0)

    async def commits(self, *offsets: Mapping[int, int]) -> None:
        """Return once exactly these are committed, one after the other."""
        async with asyncio.timeout(10):
            while self.consumer.commits != list(offsets):
                await asyncio.sleep(0)

    @staticmethod
    async def _handle(_batch: Sequence[Record]) -> list[Publication]:
        return []


@pytest.fixture
async def member() -> Member:
    return Member()


async def test_batches_that_end_soon_after_a_commit_are_committed_together_in_a_moment(member: Member) -> None:
    await member.takes(0, 0)
    await member.commits({0: 1})
    for partition, offset in ((0, 1), (1, 5), (0, 2)):
        await member.takes(partition, offset)
    await member.commits({0: 1}, {0: 3, 1: 6})


async def test_a_batch_that_ends_long_after_the_last_commit_is_committed_at_once(member: Member) -> None:
    await member.takes(0, 0)
    await member.commits({0: 1})
    member.clock.advance(timedelta(seconds=COMMIT_SECONDS))
    await member.takes(0, 1)
    for _ in range(10):
        await asyncio.sleep(0)
    assert member.consumer.commits == [{0: 1}, {0: 2}]


async def test_batches_go_on_while_one_before_them_is_committed_and_are_committed_next(member: Member) -> None:
    member.consumer.answers.clear()
    await member.takes(0, 0)
    await member.asks(1)
    await member.takes(0, 1)
    await member.takes(1, 3)
    assert member.consumer.commits == []
    member.consumer.answers.set()
    await member.commits({0: 1}, {0: 2, 1: 4})


async def test_what_could_not_be_committed_is_with_what_is_finished_next(member: Member) -> None:
    member.consumer.fails = True
    await member.takes(1, 7)
    await member.asks(1)
    await member.takes(0, 0)
    member.consumer.fails = False
    await member.commits({0: 1, 1: 8})


async def test_what_could_not_be_committed_is_committed_later_though_nothing_more_is_finished(member: Member) -> None:
    member.consumer.fails = True
    await member.takes(1, 7)
    await member.asks(2)
    member.consumer.fails = False
    await member.commits({1: 8})


async def test_before_its_partitions_are_taken_away_all_that_is_finished_is_committed_and_nothing_of_it_later(
    member: Member,
) -> None:
    await member.takes(0, 0)
    await member.commits({0: 1})
    await member.takes(1, 0)
    await member.subscription.on_partitions_revoked(member.consumer.assignment())
    assert member.consumer.commits == [{0: 1}, {1: 1}]
    member.consumer.fails = True
    await member.takes(0, 1)
    await member.subscription.on_partitions_revoked(member.consumer.assignment())
    member.consumer.fails = False
    await member.takes(1, 1)
    await member.commits({0: 1}, {1: 1}, {1: 2})


async def test_partitions_are_not_given_away_before_a_commit_that_is_under_way_has_its_answer(member: Member) -> None:
    member.consumer.answers.clear()
    await member.takes(0, 0)
    await member.asks(1)
    await member.takes(0, 1)
    giving = asyncio.create_task(member.subscription.on_partitions_revoked(member.consumer.assignment()))
    await asyncio.sleep(0)
    assert not giving.done()
    member.consumer.answers.set()
    await giving
    assert member.consumer.commits == [{0: 1}, {0: 2}]


async def test_a_member_that_stops_commits_what_is_finished_and_each_batch_after_that_at_once(member: Member) -> None:
    await member.takes(0, 0)
    await member.commits({0: 1})
    await member.takes(0, 1)
    await member.subscription.wind_up()
    await member.takes(0, 2)
    assert member.consumer.commits == [{0: 1}, {0: 2}, {0: 3}]
