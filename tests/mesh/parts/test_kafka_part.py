"""Kafka itself, started from pip alone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy.local.kafka import KafkaCluster

TOPIC = "requests.test"


@asynccontextmanager
async def running(directory: Path, brokers: int) -> AsyncIterator[KafkaCluster]:
    cluster = KafkaCluster(directory, brokers)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.stop()


@asynccontextmanager
async def producing(bootstrap: str) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        request_timeout_ms=3000,
        retry_backoff_ms=50,
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def create_topic(bootstrap: str, replication: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(TOPIC, num_partitions=1, replication_factor=replication)])
    finally:
        await admin.close()


async def read(bootstrap: str, count: int) -> list[bytes]:
    """The first `count` values of the topic, read as a consumer group, so that the group's own topic is proved too."""
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=bootstrap, group_id="test", auto_offset_reset="earliest")
    await consumer.start()
    try:
        return [(await anext(consumer)).value for _ in range(count)]
    finally:
        await consumer.stop()


async def test_a_record_taken_by_a_broker_is_given_back_even_after_a_restart_on_other_ports(tmp_path: Path) -> None:
    async with running(tmp_path, brokers=1) as cluster:
        await create_topic(cluster.bootstrap, cluster.replication)
        async with producing(cluster.bootstrap) as producer:
            await producer.send_and_wait(TOPIC, b"one")
        assert await read(cluster.bootstrap, 1) == [b"one"]
        assert "Kafka version: 4.4.0" in (tmp_path / "kafka-0.log").read_text()
    async with running(tmp_path, brokers=1) as later:
        assert later.bootstrap != cluster.bootstrap
        async with producing(later.bootstrap) as producer:
            await producer.send_and_wait(TOPIC, b"two")
        assert await read(later.bootstrap, 1) == [b"two"]  # the group went on where it had stopped


async def test_three_brokers_take_and_keep_records_while_a_leader_is_killed_and_comes_back(tmp_path: Path) -> None:
    async with running(tmp_path, brokers=3) as cluster:
        await create_topic(cluster.bootstrap, cluster.replication)
        async with producing(cluster.bootstrap) as producer:
            await producer.send_and_wait(TOPIC, b"before")
            leader = await cluster.leader(TOPIC, 0)
            assert leader is not None
            await cluster.kill(leader)
            await producer.send_and_wait(TOPIC, b"without the leader")
            assert await cluster.leader(TOPIC, 0) not in (leader, None)
            await cluster.restart(leader)
            await producer.send_and_wait(TOPIC, b"after")
        assert await read(cluster.bootstrap, 3) == [b"before", b"without the leader", b"after"]


async def test_what_was_acknowledged_is_there_when_all_brokers_were_killed_and_come_back(tmp_path: Path) -> None:
    async with running(tmp_path, brokers=3) as cluster:
        await create_topic(cluster.bootstrap, cluster.replication)
        async with producing(cluster.bootstrap) as producer:
            await producer.send_and_wait(TOPIC, b"before")
        before = cluster.bootstrap
        await cluster.kill_all()
        assert not any(process.alive for process in cluster.processes)
        await cluster.start()
        assert cluster.bootstrap == before
        async with producing(cluster.bootstrap) as producer:
            await producer.send_and_wait(TOPIC, b"after")
        assert await read(cluster.bootstrap, 2) == [b"before", b"after"]
