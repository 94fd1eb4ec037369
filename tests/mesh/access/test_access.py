"""Brokers that ask who somebody is, and let each do what it may and nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError
from prometheus_client import CollectorRegistry

from deploy.cli.running import Exit
from deploy.jurisdictions import DJIBOUTI
from deploy.local.kafka import KafkaCluster
from deploy.local.mesh import service_argv
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.process import Process, project_env
from shared.bus.access import KafkaAccess
from shared.bus.admin import apply_topics
from shared.bus.grants import SERVICES, NoAuthorizer, apply_grants, grants
from shared.bus.kafka import KafkaBus, KafkaPublisher
from shared.bus.port import Publication, Unavailable
from shared.clock import SystemClock
from shared.contract.topics import ACCEPTED, agency_topic
from shared.metrics import BusMetrics
from tests.mesh.command import run_guichet

AGENCIES = ("cnss", "police")
PATIENCE_SECONDS = 30.0
USERS = {SERVICES: "of-the-mesh", **{agency: f"of-{agency}" for agency in AGENCIES}}


@pytest.fixture(scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KafkaCluster]:
    cluster = KafkaCluster(tmp_path_factory.mktemp("secured"), users=USERS)
    try:
        await cluster.start()
        await apply_topics(cluster.access, AGENCIES, partitions=1, replication=1)
        for _ in range(2):  # it is safe to repeat
            await apply_grants(cluster.access, grants(AGENCIES))
        yield cluster
    finally:
        await cluster.stop()


@asynccontextmanager
async def writing(access: KafkaAccess) -> AsyncIterator[AIOKafkaProducer]:
    async with AIOKafkaProducer(acks="all", enable_idempotence=True, **access.options()) as producer:
        yield producer


async def test_an_agency_writes_to_its_own_topic_and_to_no_other(secured: KafkaCluster) -> None:
    async with writing(secured.access_as("cnss")) as producer:
        await producer.send_and_wait(agency_topic("cnss"), b"{}")
        for topic in (agency_topic("police"), ACCEPTED.name):
            with pytest.raises(TopicAuthorizationFailedError):
                await producer.send_and_wait(topic, b"{}")


async def test_an_agency_reads_nothing_of_what_others_asked(secured: KafkaCluster) -> None:
    for topic in (ACCEPTED.name, agency_topic("police")):
        consumer = AIOKafkaConsumer(topic, auto_offset_reset="earliest", **secured.access_as("cnss").options())
        try:
            with pytest.raises(TopicAuthorizationFailedError):
                await consumer.start()
        finally:
            await consumer.stop()


async def test_a_service_reads_what_agencies_write_and_writes_to_the_topics_of_the_mesh(secured: KafkaCluster) -> None:
    access, metrics = secured.access_as(SERVICES), BusMetrics(CollectorRegistry())
    publisher = KafkaPublisher("intake", access, metrics)
    await publisher.start()
    bus = KafkaBus("intake", access, publisher=publisher, clock=SystemClock(), metrics=metrics)
    came: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def publish(batch: Sequence[bytes | None]) -> list[Publication]:
        for value in batch:
            came.put_nowait(value)
        return [Publication(ACCEPTED, "key", b"{}") for _ in batch]

    bus.consume_pattern(r"^agency\..*\.events$", lambda record: record.value, publish, label="agency.*.events")
    try:
        await bus.start()
        async with writing(secured.access_as("police")) as producer:
            await producer.send_and_wait(agency_topic("police"), b"what the police asks")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await came.get() != b"what the police asks":
                pass
    finally:
        await bus.stop()
        await publisher.stop()


async def test_who_has_a_wrong_password_or_trusts_somebody_else_is_told_that_kafka_can_not_be_used(
    secured: KafkaCluster,
) -> None:
    access = secured.access_as(SERVICES)
    for wrong in (replace(access, password="guessed"), replace(access, ca_file=None)):
        publisher = KafkaPublisher("intake", wrong, BusMetrics(CollectorRegistry()))
        with pytest.raises(Unavailable, match="Kafka"):
            await publisher.start()
        with pytest.raises(Unavailable):
            await apply_grants(wrong, grants(AGENCIES))


def environment(access: KafkaAccess) -> dict[str, str]:
    """By which a program is told of this access."""
    told = {
        "KAFKA_BOOTSTRAP_SERVERS": access.servers,
        "KAFKA_SECURITY_PROTOCOL": access.protocol,
        "KAFKA_SASL_USERNAME": access.username,
        "KAFKA_SASL_PASSWORD": access.password,
        "KAFKA_SSL_CA_FILE": str(access.ca_file or ""),
    }
    return project_env(**{name: value for name, value in told.items() if value})


async def test_an_agency_publishes_by_the_command_to_its_own_topic_and_is_told_why_to_no_other(
    secured: KafkaCluster,
) -> None:
    event = json.dumps({"id": "1", "data": {"agency_reference": "1"}})
    published, refused = (
        run_guichet(
            "publish", "-", "--kafka", "--agency", agency, env=environment(secured.access_as("cnss")), stdin=event
        )
        for agency in ("cnss", "police")
    )
    assert published.returncode == Exit.DONE, published.stderr
    assert refused.returncode == Exit.CONFIGURATION
    assert agency_topic("police") in refused.stderr


async def test_an_operator_lays_topics_out_and_grants_them_in_one_go(secured: KafkaCluster) -> None:
    arguments = ("topics", "apply", "--grant", "--partitions=1", "--replication=1")
    applied = run_guichet(*arguments, env=environment(secured.access))
    assert applied.returncode == Exit.DONE, applied.stderr
    assert "granted" in applied.stdout


@pytest.mark.parametrize("name", ["intake", "routing", "metrics"])
async def test_a_service_that_is_told_who_it_is_by_its_environment_gets_ready(
    secured: KafkaCluster, tmp_path: Path, name: str
) -> None:
    async with running(name, secured.access_as(SERVICES), tmp_path) as service:
        await service.says(lambda said: said["ready"] is True)


async def test_a_service_with_a_wrong_password_is_not_ready_for_kafka_and_its_log_says_why(
    secured: KafkaCluster, tmp_path: Path
) -> None:
    wrong = replace(secured.access_as(SERVICES), password="guessed")
    async with running("routing", wrong, tmp_path) as service:
        await service.says(lambda said: "Kafka" in said["reasons"].get("start", ""))
        assert "Authentication failed" in service.process.log_path.read_text()


@dataclass(frozen=True, slots=True)
class Running:
    """A service's process, and where it can be asked."""

    process: Process
    port: int

    async def says(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Return once it says this of its readiness."""

        async def said() -> bool:
            try:
                async with aiohttp.request("GET", f"http://{LOOPBACK}:{self.port}/ready") as answer:
                    return wanted(await answer.json())
            except aiohttp.ClientError:
                return False

        await self.process.answers(said, within_seconds=PATIENCE_SECONDS)


@asynccontextmanager
async def running(name: str, access: KafkaAccess, directory: Path) -> AsyncIterator[Running]:
    port = free_port()
    env = environment(access) | {
        "HTTP_PORT": str(port),
        "DATA_DIR": str(directory),
        "JURISDICTION_DIR": str(DJIBOUTI),
    }
    process = Process(name, service_argv(name), env=env, log_path=directory / f"{name}.log")
    process.start()
    try:
        yield Running(process, port)
    finally:
        await process.stop()


async def test_brokers_that_keep_no_grants_say_so(tmp_path: Path) -> None:
    plain = KafkaCluster(tmp_path)
    try:
        await plain.start()
        with pytest.raises(NoAuthorizer):
            await apply_grants(plain.access, grants(AGENCIES))
    finally:
        await plain.stop()
