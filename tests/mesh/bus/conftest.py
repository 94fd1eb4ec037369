"""Buses on real Kafka, and handlers that a test can hold in the middle of a batch."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.errors import for_code
from aiokafka.protocol.produce import ProduceRequest
from prometheus_client import CollectorRegistry

from deploy.local.kafka import KafkaCluster
from shared.bus.access import KafkaAccess
from shared.bus.admin import apply_topics
from shared.bus.kafka import KafkaBus, KafkaPublisher
from shared.bus.loop import Handle
from shared.bus.port import Publication, Record, Unavailable
from shared.clock import Clock, SystemClock
from shared.contract.events import DeadLetter
from shared.contract.topics import ACCEPTED, DEAD_LETTERS, Topic
from shared.metrics import BusMetrics
from tests.conftest import PATIENT_BROKER

PATIENCE_SECONDS = 30.0

Headers = list[tuple[str, bytes | None]]


class Tap:
    """A handler that keeps what it was given and can be held, or made to fail, in the middle of a batch."""

    def __init__(self, follows: Callable[[Record], Publication] | None = None) -> None:
        self.attempts: list[list[Record]] = []
        self.handled: list[Record] = []
        self.failing = False
        self._follows = follows
        self._open = asyncio.Event()
        self._open.set()
        self._changed = asyncio.Condition()

    async def __call__(self, batch: Sequence[Record]) -> list[Publication]:
        self.attempts.append(list(batch))
        await self._tell()
        await self._open.wait()
        if self.failing:
            raise Unavailable("on purpose")
        self.handled.extend(batch)
        await self._tell()
        return [self._follows(record) for record in batch] if self._follows else []

    def hold(self) -> None:
        """From now on every batch waits in the handler."""
        self._open.clear()

    def release(self) -> None:
        """Let it go on."""
        self._open.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return as soon as the condition holds after some step of the handler."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
            await self._changed.wait_for(condition)

    def values(self) -> list[bytes | None]:
        """What was handled to the end, in order."""
        return [record.value for record in self.handled]

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def as_it_came(record: Record) -> Record:
    """A decoder that takes every record."""
    return record


@dataclass
class Cluster:
    """One test's view of the cluster: topics, producers and groups with names of its own."""

    bootstrap: str
    producer: AIOKafkaProducer
    stack: AsyncExitStack
    replication: int = 1
    run: str = field(default_factory=lambda: uuid4().hex)
    registries: list[CollectorRegistry] = field(default_factory=list)

    @property
    def service(self) -> str:
        """A service name, and so a consumer group, that no other test has."""
        return f"test-{self.run}"

    @property
    def pattern(self) -> str:
        """Matches the topics of this test, and no other."""
        return rf"^{self.run}\.[a-z]+$"

    async def create(self, name: str, *, partitions: int = 1, settings: dict[str, str] | None = None) -> Topic:
        topic = Topic(f"{self.run}.{name}", ACCEPTED.event, "")
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.create_topics(
                [NewTopic(topic.name, partitions, self.replication, topic_configs=settings or {})]
            )
        finally:
            await admin.close()
        return topic

    async def send(
        self,
        topic: Topic,
        *values: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
    ) -> None:
        for value in values:
            await self.producer.send_and_wait(
                topic.name, value, key=key, partition=partition, timestamp_ms=timestamp_ms, headers=headers
            )

    async def send_batch(self, topic: Topic, data: bytes, *, partition: int = 0) -> None:
        """Write a record batch as it is, byte for byte; its checksum must be right, or the broker refuses it."""
        request = ProduceRequest(None, -1, 10_000, [(topic.name, [(partition, data)])])
        leader = self.producer.client.cluster.leader_for_partition(TopicPartition(topic.name, partition))
        response = await self.producer.client.send(leader, request)
        ((_, ((_, error_code, *_),)),) = response.topics
        assert error_code == 0, for_code(error_code)

    async def delete(self, topic: Topic) -> None:
        """Delete a topic, and return when it is gone."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.delete_topics([topic.name])
            deadline = time.monotonic() + PATIENCE_SECONDS
            while topic.name in await admin.list_topics():
                assert time.monotonic() < deadline
        finally:
            await admin.close()

    async def delete_before(self, topic: Topic, offset: int) -> None:
        """Make the log of partition 0 begin at this offset, as retention does."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.delete_records({TopicPartition(topic.name, 0): RecordsToDelete(offset)})
        finally:
            await admin.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when the condition holds, of something that tells nobody when it changes."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "it never came to hold"
            await asyncio.sleep(0.05)

    def metric(self, name: str, **labels: str) -> float | None:
        """What the newest member counts."""
        return self.registries[-1].get_sample_value(name, labels)

    async def member(self, *, clock: Clock | None = None, bootstrap: str | None = None) -> KafkaBus:
        """A consumer group's member, without consumers yet; stopped with the test."""
        registry = CollectorRegistry()
        self.registries.append(registry)
        metrics = BusMetrics(registry)
        publisher = KafkaPublisher(self.service, KafkaAccess(self.bootstrap), metrics)
        await publisher.start()
        self.stack.push_async_callback(publisher.stop)
        bus = KafkaBus(
            self.service,
            KafkaAccess(bootstrap or self.bootstrap),
            publisher=publisher,
            clock=clock or SystemClock(),
            metrics=metrics,
        )
        self.stack.push_async_callback(bus.stop)
        return bus

    async def consuming(self, handle: Handle[Record], *, clock: Clock | None = None) -> KafkaBus:
        """A started member that hands every record of this test's topics to the handler."""
        bus = await self.member(clock=clock)
        bus.consume_pattern(self.pattern, as_it_came, handle, label=self.run)
        await bus.start()
        return bus

    async def committed(self, topic: Topic) -> dict[int, int]:
        """The group's committed offset on each partition that has one."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            offsets = await admin.list_consumer_group_offsets(f"guichet-{self.service}")
        finally:
            await admin.close()
        return {place.partition: stood.offset for place, stood in offsets.items() if place.topic == topic.name}

    async def until_committed(self, topic: Topic, expected: dict[int, int]) -> None:
        """Return when exactly these offsets are committed. Kafka tells nobody of a commit, so it has to be asked."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := await self.committed(topic)) != expected:
            assert time.monotonic() < deadline, f"committed is {found}, not {expected}"
            await asyncio.sleep(0.05)

    async def ends(self, topic: Topic) -> dict[int, int]:
        """How many records each partition of a topic has, without the empty ones."""
        places = [TopicPartition(topic.name, number) for number in await self.producer.partitions_for(topic.name)]
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap)
        await consumer.start()
        try:
            found = await consumer.end_offsets(places)
        finally:
            await consumer.stop()
        return {place.partition: end for place, end in found.items() if end}

    async def records(
        self, topic: Topic, count: int, *, which: Callable[[ConsumerRecord], bool] = lambda _: True
    ) -> list[ConsumerRecord]:
        """At least `count` records of a topic, in order per partition, and whatever came with them."""
        consumer = AIOKafkaConsumer(topic.name, bootstrap_servers=self.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        found: list[ConsumerRecord] = []
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(found) < count:
                    for records in (await consumer.getmany(timeout_ms=500)).values():
                        found.extend(filter(which, records))
        finally:
            await consumer.stop()
        return found

    async def dead_letters(self, of: Topic, count: int) -> list[DeadLetter]:
        """The dead letters of a topic's records, in the order of their origin, once there are `count` of them."""
        origin = f"{of.name}/".encode()
        records = await self.records(DEAD_LETTERS, count, which=lambda record: record.key.startswith(origin))
        letters = [DeadLetter.from_json(record.value) for record in records]
        return sorted(letters, key=lambda letter: letter.data.origin.offset)


@asynccontextmanager
async def cluster_at(bootstrap: str, *, replication: int = 1) -> AsyncIterator[Cluster]:
    """A test's view of the cluster at this address."""
    async with AsyncExitStack() as stack:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
        await producer.start()
        stack.push_async_callback(producer.stop)
        yield Cluster(bootstrap, producer, stack, replication)


@pytest.fixture
async def cluster(kafka: str) -> AsyncIterator[Cluster]:
    await apply_topics(KafkaAccess(kafka), [], partitions=6, replication=1)
    async with cluster_at(kafka) as found:
        yield found


@pytest.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KafkaCluster]:
    """A broker that tests may damage; it has no topics of the mesh."""
    started = KafkaCluster(tmp_path_factory.mktemp("damaged-kafka"), settings=PATIENT_BROKER)
    try:
        await started.start()
        yield started
    finally:
        await started.stop()


@pytest.fixture
async def damaged(broker: KafkaCluster) -> AsyncIterator[Cluster]:
    async with cluster_at(broker.bootstrap) as found:
        yield found
