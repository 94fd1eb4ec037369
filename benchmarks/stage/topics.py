"""The topics of a benchmark's Kafka, filled, and the place of a group on them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy.local.kafka import KafkaCluster
from shared.bus.admin import apply_topics
from shared.ids import partition_of
from shared.jurisdiction import load_jurisdiction

PARTITIONS = 6
"""Of every topic of the mesh."""

SENT_AT_ONCE = 2000

Content = Sequence[tuple[bytes, bytes]]
"""Keys and values."""


@asynccontextmanager
async def topics_on(kafka: KafkaCluster, jurisdiction_dir: Path) -> AsyncIterator["Topics"]:
    """The topics of the mesh and of a jurisdiction's agencies, made on a broker that runs until the end."""
    try:
        await kafka.start()
        agencies = list(load_jurisdiction(jurisdiction_dir).agencies)
        await apply_topics(kafka.access, agencies, partitions=PARTITIONS, replication=1)
        topics = Topics(kafka.bootstrap)
        try:
            await topics.start()
            yield topics
        finally:
            await topics.stop()
    finally:
        await kafka.stop()


class Topics:
    """What stands on the topics, and how far groups have come."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        self._reader = AIOKafkaConsumer(bootstrap_servers=bootstrap)

    async def start(self) -> None:
        await self._admin.start()
        await self._reader.start()

    async def stop(self) -> None:
        await self._reader.stop()
        await self._admin.close()

    async def hold(self, topic: str, content: Content) -> None:
        """Make the topic hold just this. One that has as many records is taken to hold it already."""
        standing = topic in await self._admin.list_topics()
        records = sum((await self.ends([topic])).values()) if standing else 0
        if standing and records == len(content):
            return
        if records:
            await self._admin.delete_topics([topic])
            await self._until_listed(topic, listed=False)
            standing = False
        if not standing:
            await self._admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
            await self._until_listed(topic, listed=True)
        await self._fill(topic, content)

    async def ends(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """Where each partition ends."""
        return dict(await self._reader.end_offsets(_partitions(topics))) if topics else {}

    async def place(self, group: str, to_read: Sequence[str], to_skip: Sequence[str]) -> None:
        """Let a group without members stand at the beginning of some topics and at the end of others."""
        places = dict.fromkeys(_partitions(to_read), 0) | await self.ends(to_skip)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, group_id=group, enable_auto_commit=False, auto_offset_reset="none"
        )
        async with consumer:
            consumer.assign(list(places))
            await consumer.commit(places)

    async def committed(self, group: str, topics: Sequence[str]) -> int:
        """How many records of these topics the group has done with, from their beginning."""
        stood: Mapping[TopicPartition, object] = await self._admin.list_consumer_group_offsets(
            group, partitions=_partitions(topics)
        )
        return sum(max(0, entry.offset) for entry in stood.values())  # type: ignore[attr-defined]  # aiokafka is untyped

    async def read(self, since: Mapping[TopicPartition, int], count: int) -> list[tuple[bytes, bytes]]:
        """Keys and values that came to partitions after these offsets: about `count`, of each the first ones."""
        ends = await self._reader.end_offsets(list(since))
        found: list[tuple[bytes, bytes]] = []
        async with AIOKafkaConsumer(bootstrap_servers=self._bootstrap) as consumer:
            for partition, begin in since.items():
                consumer.assign([partition])
                consumer.seek(partition, begin)
                for _ in range(min(count // len(since), ends[partition] - begin)):
                    record = await consumer.getone()
                    found.append((record.key, record.value))
        return found

    async def _fill(self, topic: str, content: Content) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap, acks="all", enable_idempotence=True, max_batch_size=256 * 1024
        )
        async with producer:
            for begin in range(0, len(content), SENT_AT_ONCE):
                sent = [
                    await producer.send(topic, value, key=key, partition=partition_of(key, PARTITIONS))
                    for key, value in content[begin : begin + SENT_AT_ONCE]
                ]
                await asyncio.gather(*sent)

    async def _until_listed(self, topic: str, *, listed: bool) -> None:
        async with asyncio.timeout(30):
            while (topic in await self._admin.list_topics()) != listed:  # noqa: ASYNC110 - Kafka sets no event of ours
                await asyncio.sleep(0.05)


def _partitions(topics: Sequence[str]) -> list[TopicPartition]:
    return [TopicPartition(topic, partition) for topic in topics for partition in range(PARTITIONS)]
