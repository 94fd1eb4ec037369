"""Reads what a mesh left behind, from the first record to what stands there now, and checks its promise."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from deploy.check import checks
from deploy.check.checks import Finding, Sightings, sighting
from deploy.local.journal import read_journal
from shared.bus.loop import Decode, decode_mesh_event
from shared.bus.port import Incoming, Record, Unavailable, Undecodable
from shared.contract.events import (
    DeadLetter,
    Event,
    NotificationOutcome,
    RequestAccepted,
    RequestAssigned,
    RequestUnroutable,
    RequestUpdated,
)
from shared.contract.topics import MESH_TOPICS

POLL_MS = 500


@dataclass(slots=True)
class Seen:
    """Everything on the mesh's topics."""

    sightings: Sightings = field(default_factory=Sightings)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    unreadable: int = 0


async def read_mesh(bootstrap: str) -> Seen:
    """All events that stood on the mesh's topics when this began. Unavailable if Kafka does not answer."""
    seen = Seen()
    decode = decode_mesh_event(MESH_TOPICS)
    consumer = AIOKafkaConsumer(
        *(topic.name for topic in MESH_TOPICS),
        bootstrap_servers=bootstrap,
        client_id="guichet-check",
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    try:
        await consumer.start()
        ends = await consumer.end_offsets(consumer.assignment())
        begins = await consumer.beginning_offsets(consumer.assignment())
        open_places = {place for place, end in ends.items() if end > begins[place]}
        while open_places:
            for place, records in (await consumer.getmany(*open_places, timeout_ms=POLL_MS)).items():
                for raw in records:
                    _take(seen, decode, Record(place.topic, raw.partition, raw.offset, 0, None, raw.key, raw.value))
                if records[-1].offset + 1 >= ends[place]:
                    open_places.discard(place)
    except KafkaError as error:
        raise Unavailable(f"Kafka at {bootstrap} does not answer: {error!r}") from error
    finally:
        await consumer.stop()
    return seen


def check_mesh(seen: Seen, *, smsc_log: Path | None, smtp_log: Path | None) -> list[Finding]:
    """Where the promise of delivery was broken. A mesh still at work has findings that go away: let its lag be 0."""
    sightings = seen.sightings
    accepted = sightings.of(RequestAccepted)
    assigned = sightings.of(RequestAssigned)
    told = [*accepted, *assigned, *sightings.of(RequestUpdated)]
    return [
        *checks.accepted_twice(accepted),
        *checks.unrouted(accepted, [*assigned, *sightings.of(RequestUnroutable)]),
        *checks.untold(told, sightings.of(NotificationOutcome)),
        *checks.altered_copies(sightings),
        *checks.told_twice(_journal(smsc_log), _journal(smtp_log)),
    ]


def _journal(log: Path | None) -> Sequence[dict[str, object]]:
    return read_journal(log) if log else []


def _take(seen: Seen, decode: Decode[Incoming[Event]], record: Record) -> None:
    try:
        incoming = decode(record)
    except Undecodable:
        seen.unreadable += 1
        return
    first = seen.sightings.add(sighting(incoming))
    if first and isinstance(incoming.event, DeadLetter):
        seen.dead_letters.append(incoming.event)
