"""The real parts that several tests share. A part that can't start fails the run: nothing here skips."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator

import pytest
import structlog
from testcontainers.community.kafka import KafkaContainer
from testcontainers.mongodb import MongoDbContainer

from deploy.local.kafka import KafkaCluster
from deploy.local.mongo import MongoServer

# A broker that a test or a busy machine held up for longer than its session is out of service until it is heard
# again. Where there is only one, nobody takes over, and all that comes of it is a test that finds no broker.
PATIENT_BROKER = {"broker.session.timeout.ms": 60_000}

# Unasked, structlog draws each exception with all variables of all frames, which takes longer than what is tested.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.fixture(scope="session")
async def mongodb_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A MongoDB: the one MONGODB_URL names, else a container where Docker runs, else the stand-in from pip."""
    if named := os.environ.get("MONGODB_URL"):
        yield named
    elif docker_runs():
        with MongoDbContainer("mongo:8.0") as container:
            yield container.get_connection_url()
    else:
        server = MongoServer(tmp_path_factory.mktemp("mongodb"))
        try:
            await server.start()
            yield server.url
        finally:
            await server.stop()


@pytest.fixture(scope="session")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A Kafka's bootstrap servers: those KAFKA_BOOTSTRAP_SERVERS names, else a container's, else of one from pip."""
    if named := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield named
    elif docker_runs():
        with KafkaContainer("confluentinc/cp-kafka:7.9.0").with_kraft() as container:
            yield container.get_bootstrap_server()
    else:
        cluster = KafkaCluster(tmp_path_factory.mktemp("kafka"), settings=PATIENT_BROKER)
        try:
            await cluster.start()
            yield cluster.bootstrap
        finally:
            await cluster.stop()


def docker_runs() -> bool:
    """Whether a Docker daemon answers us."""
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "version"], capture_output=True, timeout=10).returncode == 0
