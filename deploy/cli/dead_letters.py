"""Reads the dead letters of a mesh and sends records back to where they came from."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from shared.bus.access import KafkaAccess
from shared.bus.port import Unavailable
from shared.contract.events import DeadLetter, Unreadable
from shared.contract.reasons import Reason
from shared.contract.topics import DEAD_LETTERS

POLL_MS = 500
SEND_TIMEOUT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, and when it was written."""

    event: DeadLetter
    set_aside_at: datetime

    @property
    def place(self) -> str:
        """`topic/partition/offset` of the record."""
        return self.event.data.origin.place

    @property
    def why_not_replayed(self) -> str | None:
        """Why its record can't be sent again from here, if it can't."""
        data = self.event.data
        if data.cut:
            return "its bytes are not all here"
        if data.key is None and data.value is None:
            return "it has neither key nor value"
        return None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant; what is None does not matter. `since` is when a letter was written."""

    reason: Reason | None = None
    topic: str | None = None
    since: datetime | None = None
    ids: frozenset[str] = frozenset()

    def holds(self, letter: Letter) -> bool:
        """Whether this one is meant. An id is the letter's own, or the place of its record."""
        data = letter.event.data
        return (
            (self.reason is None or data.reason is self.reason)
            and (self.topic is None or data.origin.topic == self.topic)
            and (self.since is None or letter.set_aside_at >= self.since)
            and (not self.ids or bool({letter.event.id, letter.place} & self.ids))
        )


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one letter: where its record stands now, or why it was not sent."""

    letter: Letter
    place: str | None = None
    refused: str | None = None


async def read_letters(kafka: KafkaAccess, selection: Selection) -> list[Letter]:
    """The dead letters that stand there now, each once, by their records' places. Unavailable if Kafka is away."""
    letters: dict[str, Letter] = {}
    consumer = AIOKafkaConsumer(
        DEAD_LETTERS.name,
        client_id="guichet-dlq",
        **kafka.options(),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    try:
        await consumer.start()
        ends = await consumer.end_offsets(consumer.assignment())
        begins = await consumer.beginning_offsets(consumer.assignment())
        unread = {place for place, end in ends.items() if end > begins[place]}
        while unread:
            for place, records in (await consumer.getmany(*unread, timeout_ms=POLL_MS)).items():
                for record in records:
                    letter = _letter(record.value, record.timestamp)
                    if letter is not None and selection.holds(letter):
                        letters.setdefault(letter.event.id, letter)
                if records[-1].offset + 1 >= ends[place]:
                    unread.discard(place)
    except KafkaError as error:
        raise Unavailable(f"Kafka at {kafka} does not answer: {error!r}") from error
    finally:
        await consumer.stop()
    return sorted(letters.values(), key=_by_place)


async def replay(kafka: KafkaAccess, letters: Sequence[Letter], *, per_second: float) -> AsyncIterator[Replayed]:
    """Send each record, byte for byte, to the topic and partition it came from, at most so many a second.

    Whoever reads that topic drops what it has seen, so a record may be replayed twice. Unavailable if Kafka does not
    acknowledge: what was yielded before is there.
    """
    producer = AIOKafkaProducer(client_id="guichet-dlq", acks="all", enable_idempotence=True, **kafka.options())
    try:
        await producer.start()
        for letter in letters:
            if why := letter.why_not_replayed:
                yield Replayed(letter, refused=why)
                continue
            yield Replayed(letter, place=await _send(producer, letter))
            await asyncio.sleep(1 / per_second)
    except (KafkaError, TimeoutError) as error:
        raise Unavailable(f"Kafka at {kafka}: {error!r}") from error
    finally:
        await producer.stop()


async def _send(producer: AIOKafkaProducer, letter: Letter) -> str:
    data = letter.event.data
    async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
        partitions = await producer.partitions_for(data.origin.topic)
        stood = await producer.send_and_wait(
            data.origin.topic,
            unpacked(data.value),
            key=unpacked(data.key),
            partition=data.origin.partition if data.origin.partition in partitions else None,
            headers=[(name, unpacked(content)) for name, content in data.headers],
        )
    return f"{stood.topic}/{stood.partition}/{stood.offset}"


def unpacked(encoded: str | None) -> bytes | None:
    """The bytes of a field of a dead letter."""
    return None if encoded is None else base64.b64decode(encoded)


def _letter(value: bytes | None, written_ms: int) -> Letter | None:
    try:
        event = DeadLetter.from_json(value or b"")
    except Unreadable:
        return None  # nothing but dead letters stands there, unless somebody wrote to it by hand
    return Letter(event, datetime.fromtimestamp(written_ms / 1000, UTC))


def _by_place(letter: Letter) -> tuple[str, int, int]:
    origin = letter.event.data.origin
    return origin.topic, origin.partition, origin.offset
