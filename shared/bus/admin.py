"""Lays out the mesh's topics on a cluster."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from shared.bus.access import KafkaAccess
from shared.bus.port import Unavailable
from shared.contract.topics import MESH_TOPICS, agency_topic

AGENCY_RETENTION_MS = 14 * 24 * 60 * 60 * 1000


class TopicConflict(Exception):
    """A topic exists with another number of partitions, which would break the order of events."""


@dataclass(frozen=True, slots=True)
class AppliedTopic:
    """What `apply_topics` found or did."""

    name: str
    partitions: int
    action: Literal["created", "exists"]


@asynccontextmanager
async def administering(access: KafkaAccess) -> AsyncIterator[AIOKafkaAdminClient]:
    """A client for what is to be changed on a cluster. Unavailable if no broker answers, or one refuses."""
    client = AIOKafkaAdminClient(client_id="guichet-admin", **access.options())
    try:
        await client.start()
        yield client
    except KafkaError as error:
        raise Unavailable(f"Kafka: {error!r}") from error
    finally:
        await client.close()


async def apply_topics(
    access: KafkaAccess, agencies: Sequence[str], *, partitions: int, replication: int
) -> list[AppliedTopic]:
    """Create what is missing of the mesh's topics and one topic for each agency; safe to repeat.

    All topics of the mesh get the same number of partitions, since one request keeps one partition number on all of
    them. Raises TopicConflict if one stands with another number, Unavailable if no broker answers.
    """
    minimum = {"min.insync.replicas": str(max(1, replication - 1))}
    wanted = {
        topic.name: NewTopic(
            name=topic.name,
            num_partitions=partitions,
            replication_factor=replication,
            topic_configs={"retention.ms": str(topic.retention_ms), **topic.settings, **minimum},
        )
        for topic in MESH_TOPICS
    }
    for agency in agencies:
        name = agency_topic(agency)
        settings = {"retention.ms": str(AGENCY_RETENTION_MS), **minimum}
        wanted[name] = NewTopic(
            name=name, num_partitions=partitions, replication_factor=replication, topic_configs=settings
        )
    async with administering(access) as client:
        described = await client.describe_topics()
        standing = {entry["topic"]: len(entry["partitions"]) for entry in described}
        _refuse_conflicts({topic.name: standing.get(topic.name, partitions) for topic in MESH_TOPICS}, partitions)
        missing = [topic for name, topic in wanted.items() if name not in standing]
        if missing:
            answer = await client.create_topics(missing, timeout_ms=20_000)
            for entry in answer.topic_errors:
                code, message = entry[1], entry[2] if len(entry) > 2 else ""
                # Another operator may have been quicker.
                if code not in (0, TopicAlreadyExistsError.errno):
                    raise for_code(code)(f"{entry[0]}: {message}")
    return [
        AppliedTopic(name, standing.get(name, partitions), "exists" if name in standing else "created")
        for name in wanted
    ]


def _refuse_conflicts(counts: dict[str, int], partitions: int) -> None:
    wrong = {name: count for name, count in counts.items() if count != partitions}
    if wrong:
        found = ", ".join(f"{name} has {count}" for name, count in wrong.items())
        raise TopicConflict(
            f"all topics of the mesh need {partitions} partitions, but {found}. Let the mesh drain (lag 0), "
            "then add partitions to all of them in one go."
        )
