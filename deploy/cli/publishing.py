"""Publishes an agency's own events, as an agency would: over HTTP with its key, or to its topic."""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from shared.bus.access import KafkaAccess
from shared.bus.port import Unavailable
from shared.config import ConfigError
from shared.contract.topics import agency_topic

HTTP_TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Published:
    """What became of one event; over Kafka only that it is durable, since the verdict comes on a topic."""

    line: int
    event_id: str | None
    outcome: str
    answer: dict[str, Any]

    @property
    def refused(self) -> bool:
        """Whether intake said no."""
        return self.outcome == "refused"


def read_events(path: Path) -> list[bytes]:
    """The events in a file (`-`: standard input): one JSON object, an array of them, or one a line.

    A text that is no JSON is passed on as it is, line by line: it is for intake to say what is wrong.
    """
    content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    try:
        value = json.loads(content)
    except ValueError:
        return [line for line in content.splitlines() if line.strip()]
    return [json.dumps(event).encode() for event in value] if isinstance(value, list) else [content]


async def publish_http(url: str, key: str, events: Sequence[bytes]) -> list[Published]:
    """Send each event by itself, in order. Unavailable if intake can't be reached or can't take it now."""
    results = []
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/cloudevents+json"}
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HTTP_TIMEOUT_SECONDS)) as session:
            for number, event in enumerate(events, 1):
                async with session.post(f"{url.rstrip('/')}/v1/events", data=event, headers=headers) as response:
                    answer = await response.json(content_type=None)
                    if response.status == 503:
                        raise Unavailable(f"event {number}: {answer['detail']}")
                    outcome = answer["outcome"] if response.status == 202 else "refused"
                    results.append(Published(number, answer.get("event_id"), outcome, answer))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unavailable(f"{url} can't be reached: {error!r}") from error
    return results


async def publish_kafka(kafka: KafkaAccess, agency: str, events: Sequence[bytes]) -> list[Published]:
    """Send each event to the agency's topic, in order, acknowledged by all in-sync replicas."""
    producer = AIOKafkaProducer(acks="all", enable_idempotence=True, **kafka.options())
    results = []
    topic = agency_topic(agency)
    try:
        await producer.start()
        # The producer itself would wait for a topic that nobody makes, and say nothing.
        if topic not in (await producer.client.fetch_all_metadata()).topics():
            raise ConfigError(
                [f"Kafka at {kafka} shows you no topic {topic}: is {agency!r} an agency of the register, and yours?"]
            )
        for number, event in enumerate(events, 1):
            key, event_id = _named(event)
            async with asyncio.timeout(HTTP_TIMEOUT_SECONDS):
                stood = await producer.send_and_wait(topic, event, key=key)
            place = {"topic": stood.topic, "partition": stood.partition, "offset": stood.offset}
            results.append(Published(number, event_id, "published", place))
    except (KafkaError, TimeoutError) as error:
        raise Unavailable(f"Kafka at {kafka}: {error!r}") from error
    finally:
        await producer.stop()
    return results


def _named(event: bytes) -> tuple[bytes | None, str | None]:
    """The record's key, which keeps the events of one request in order, and the event's id, where they can be read."""
    try:
        value = json.loads(event)
        return str(value["data"]["agency_reference"]).encode(), str(value.get("id"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, None
