"""Two buses under one contract: topics in memory, and Kafka itself."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from prometheus_client import CollectorRegistry

from deploy.local.kafka import KafkaCluster
from shared.bus.access import KafkaAccess
from shared.bus.kafka import KafkaPublisher
from shared.bus.port import Publisher
from shared.contract.topics import ACCEPTED, DEAD_LETTERS, Topic
from shared.metrics import BusMetrics
from tests.contract.bus.groups import Group, MemoryGroup, kafka_group
from tests.fakes import MemoryPublisher

PARTITIONS = 6
KeyValue = tuple[bytes, bytes]


class Bus(Protocol):
    """A publisher, and a way to see what it published."""

    @property
    def publisher(self) -> Publisher: ...

    @property
    def requests(self) -> Topic: ...

    @property
    def dead_letters(self) -> Topic: ...

    async def records(self, topic: Topic) -> dict[int, list[KeyValue]]:
        """What stands on a topic now, by partition, in order."""
        ...


class FragileBus(Bus, Protocol):
    """A bus whose broker can be taken away."""

    async def break_down(self) -> None: ...

    async def mend(self) -> None: ...


@dataclass
class MemoryBus:
    publisher: MemoryPublisher
    requests: Topic = ACCEPTED
    dead_letters: Topic = DEAD_LETTERS

    async def records(self, topic: Topic) -> dict[int, list[KeyValue]]:
        return by_partition(self.publisher.records(topic.name))

    async def break_down(self) -> None:
        self.publisher.break_down(after=1)

    async def mend(self) -> None:
        self.publisher.mend()


@dataclass
class KafkaBus:
    bootstrap: str
    publisher: KafkaPublisher
    requests: Topic
    dead_letters: Topic
    cluster: KafkaCluster | None = None

    async def records(self, topic: Topic) -> dict[int, list[KeyValue]]:
        partitions = [TopicPartition(topic.name, number) for number in range(PARTITIONS)]
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, auto_offset_reset="earliest", max_partition_fetch_bytes=8 * 1024 * 1024
        )
        await consumer.start()
        try:
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            found: list[tuple[int, bytes, bytes]] = []
            while len(found) < sum(ends.values()):
                for records in (await consumer.getmany(timeout_ms=1000)).values():
                    found.extend((record.partition, record.key, record.value) for record in records)
            return by_partition(found)
        finally:
            await consumer.stop()

    async def break_down(self) -> None:
        assert self.cluster is not None
        await self.cluster.kill(0)

    async def mend(self) -> None:
        assert self.cluster is not None
        await self.cluster.restart(0)


def by_partition(records: Iterable[tuple[int, bytes, bytes]]) -> dict[int, list[KeyValue]]:
    found: dict[int, list[KeyValue]] = {}
    for partition, key, value in records:
        found.setdefault(partition, []).append((key, value))
    return found


@asynccontextmanager
async def kafka_bus(bootstrap: str, cluster: KafkaCluster | None = None) -> AsyncIterator[KafkaBus]:
    """Topics of its own, laid out as the mesh's are, and a connected publisher."""
    run = uuid4().hex
    requests = Topic(f"requests.{run}", ACCEPTED.event, "")
    dead_letters = Topic(f"dead-letters.{run}", DEAD_LETTERS.event, "", settings=DEAD_LETTERS.settings)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics(
            [NewTopic(topic.name, PARTITIONS, 1, topic_configs=topic.settings) for topic in (requests, dead_letters)]
        )
    finally:
        await admin.close()
    publisher = KafkaPublisher(f"test-{run}", KafkaAccess(bootstrap), BusMetrics(CollectorRegistry()))
    await publisher.start()
    try:
        yield KafkaBus(bootstrap, publisher, requests, dead_letters, cluster)
    finally:
        await publisher.stop()


@pytest.fixture(params=["memory", "kafka"])
async def bus(request: pytest.FixtureRequest, kafka: str) -> AsyncIterator[Bus]:
    if request.param == "memory":
        yield MemoryBus(MemoryPublisher(PARTITIONS))
    else:
        async with kafka_bus(kafka) as real:
            yield real


@pytest.fixture(params=["memory", "kafka"])
async def fragile_bus(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[FragileBus]:
    """A bus of the test's own, since its broker is taken away."""
    if request.param == "memory":
        yield MemoryBus(MemoryPublisher(PARTITIONS))
        return
    cluster = KafkaCluster(tmp_path_factory.mktemp("fragile-kafka"))
    try:
        await cluster.start()
        async with kafka_bus(cluster.bootstrap, cluster) as real:
            yield real
    finally:
        await cluster.stop()


@pytest.fixture(params=["memory", "kafka"])
async def group(request: pytest.FixtureRequest, kafka: str) -> AsyncIterator[Group]:
    if request.param == "memory":
        yield MemoryGroup()
    else:
        async with kafka_group(kafka) as real:
            yield real
