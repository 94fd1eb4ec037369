"""Two consumer groups under one contract: one in memory, and one of Kafka's."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol
from uuid import uuid4

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from prometheus_client import CollectorRegistry

from shared.bus.access import KafkaAccess
from shared.bus.admin import apply_topics
from shared.bus.kafka import KafkaBus, KafkaPublisher
from shared.bus.loop import BatchLoop, Handle
from shared.bus.port import Record
from shared.clock import SystemClock
from shared.metrics import BusMetrics
from tests.fakes import MemoryConsumer, MemoryLog, MemoryPublisher

PARTITIONS = 3
PATIENCE_SECONDS = 30.0
TURNS_MAX = 100
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)

Leave = Callable[[], Awaitable[None]]


class Group(Protocol):
    """A consumer group of a test's own, on a topic of its own with three partitions."""

    async def write(self, partition: int, values: Sequence[bytes]) -> None:
        """Append to a partition."""
        ...

    async def join(self, handle: Handle[Record]) -> Leave:
        """One more member, which hands every record to the handler; calling what is returned makes it leave."""
        ...

    async def committed(self) -> dict[int, int]:
        """The committed offset of each partition that has one."""
        ...

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when the condition holds, while the members do their work."""
        ...

    async def until_committed(self, expected: dict[int, int]) -> None:
        """Return when exactly these offsets are committed."""
        ...


def as_it_came(record: Record) -> Record:
    """A decoder that takes every record."""
    return record


class MemoryGroup:
    """Its members take turns while somebody waits for them."""

    def __init__(self) -> None:
        self._log = MemoryLog([("in", partition) for partition in range(PARTITIONS)])
        self._publisher = MemoryPublisher(PARTITIONS)

    async def write(self, partition: int, values: Sequence[bytes]) -> None:
        for value in values:
            self._log.append(("in", partition), None, value, NOON)

    async def join(self, handle: Handle[Record]) -> Leave:
        loop = BatchLoop("test", as_it_came, handle, self._publisher, BusMetrics(CollectorRegistry()))
        member = MemoryConsumer(self._log, loop)
        self._log.join(member)

        async def leave() -> None:
            self._log.leave(member)

        return leave

    async def committed(self) -> dict[int, int]:
        return {partition: offset for (_, partition), offset in self._log.committed.items()}

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(TURNS_MAX):
            if condition():
                return
            for member in self._log.members:
                await member.turn()
        raise AssertionError("it never came to hold")

    async def until_committed(self, expected: dict[int, int]) -> None:
        await self.until(lambda: {place[1]: offset for place, offset in self._log.committed.items()} == expected)


@dataclass
class KafkaGroup:
    """Its members work by themselves, and Kafka tells nobody of what they did: it has to be asked."""

    bootstrap: str
    producer: AIOKafkaProducer
    stack: AsyncExitStack
    run: str = field(default_factory=lambda: uuid4().hex)

    async def write(self, partition: int, values: Sequence[bytes]) -> None:
        for value in values:
            await self.producer.send(self.run, value, partition=partition)
        await self.producer.flush()

    async def join(self, handle: Handle[Record]) -> Leave:
        metrics = BusMetrics(CollectorRegistry())
        publisher = KafkaPublisher(self.run, KafkaAccess(self.bootstrap), metrics)
        await publisher.start()
        self.stack.push_async_callback(publisher.stop)
        bus = KafkaBus(self.run, KafkaAccess(self.bootstrap), publisher=publisher, clock=SystemClock(), metrics=metrics)
        bus.consume_pattern(rf"^{self.run}$", as_it_came, handle, label="test")
        await bus.start()
        self.stack.push_async_callback(bus.stop)
        return bus.stop

    async def committed(self) -> dict[int, int]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            offsets = await admin.list_consumer_group_offsets(f"guichet-{self.run}")
        finally:
            await admin.close()
        return {place.partition: stood.offset for place, stood in offsets.items()}

    async def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "it never came to hold"
            await asyncio.sleep(0.05)

    async def until_committed(self, expected: dict[int, int]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := await self.committed()) != expected:
            assert time.monotonic() < deadline, f"committed is {found}, not {expected}"
            await asyncio.sleep(0.05)


@asynccontextmanager
async def kafka_group(bootstrap: str) -> AsyncIterator[KafkaGroup]:
    """A group on a new topic; its members end with it."""
    # As every test has them that shares this Kafka.
    await apply_topics(KafkaAccess(bootstrap), [], partitions=6, replication=1)
    async with AsyncExitStack() as stack:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
        await producer.start()
        stack.push_async_callback(producer.stop)
        group = KafkaGroup(bootstrap, producer, stack)
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(group.run, PARTITIONS, 1)])
        finally:
            await admin.close()
        yield group
