"""The unit of work: one batch, from records to acknowledged events. Knows no broker and no framework.

Whoever calls it commits the batch's offsets when it returns, and puts the batch back when it raises. A crash anywhere
means that the batch comes again; handlers give the first decision again, so the same bytes are published again.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from shared.bus.breaker import Breaker
from shared.bus.port import Incoming, Publication, Publisher, Record, Stop, StopReason, Unavailable, Undecodable
from shared.contract.events import DeadLetter, DeadLetterData, Event, Origin, Unreadable
from shared.contract.reasons import Reason
from shared.contract.topics import DEAD_LETTERS, Topic
from shared.ids import event_id
from shared.log import get_logger
from shared.metrics import BusMetrics
from shared.store.port import StoreUnavailable

T = TypeVar("T")

Decode = Callable[[Record], T]
"""Reads a record or raises Undecodable, for anything else it raises the record is set aside too. Does no I/O."""

Handle = Callable[[Sequence[T]], Awaitable[Sequence[Publication]]]
"""Decides a batch. May raise Unavailable or StoreUnavailable: the batch comes again."""

HANDLER_TIMEOUT_SECONDS = 60.0

WHOLE_RECORD_BYTES = 2 * 1024 * 1024
"""The largest record that is kept whole. A record on the wire is smaller, unless it was compressed."""

KEPT_BYTES = 64 * 1024
"""How much of a larger record's value is kept; the record itself stays on its own topic."""

log = get_logger(__name__)


def decode_mesh_event(topics: Sequence[Topic]) -> Decode[Incoming[Event]]:
    """A decoder for topics of the mesh: the topic says which event stands on it."""
    models = {topic.name: topic.event for topic in topics}

    def decode(record: Record) -> Incoming[Event]:
        if not record.value:
            raise Undecodable(Reason.EMPTY, "the record has no value")
        try:
            return Incoming(models[record.topic].from_json(record.value), record)
        except Unreadable as error:
            raise Undecodable(error.reason, str(error)) from error

    return decode


def dead_letter(service: str, record: Record, refusal: Undecodable) -> Publication:
    """The record with why a service could not process it. The same record there gives the same bytes.

    A record that decompressed to more than any topic takes is cut, since it would hold up its partition for ever.
    """
    origin = Origin(topic=record.topic, partition=record.partition, offset=record.offset)
    key, value, headers, detail = record.key, record.value, record.headers, refusal.detail[:1000]
    cut = record.cut
    size = len(key or b"") + len(value or b"") + sum(len(name) + len(content or b"") for name, content in headers)
    if size > WHOLE_RECORD_BYTES:
        key, value, headers, cut = None, (value or b"")[:KEPT_BYTES], (), True
        detail = f"{detail} ({size} bytes; only the start is kept here)"
    event = DeadLetter(
        id=event_id(f"{service}/{origin.place}", DeadLetter.TYPE),
        source=f"/guichet/{service}",
        subject=origin.place,
        time=record.recorded_at,
        data=DeadLetterData(
            service=service,
            origin=origin,
            recorded_at_ms=record.timestamp_ms,
            reason=refusal.reason,
            detail=detail,
            key=_base64(key),
            value=_base64(value),
            headers=tuple((name, _base64(content)) for name, content in headers),
            cut=cut or None,
        ),
    )
    return Publication(DEAD_LETTERS, origin.place, event.to_json())


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode("ascii")


@dataclass(frozen=True, slots=True)
class BatchLoop(Generic[T]):
    """Decode, decide, publish.

    `outside` is the label under which topics are counted that others than the mesh write to. There, what can't be read
    is its writer's fault and never stops the consumer; on topics of the mesh, which count by name, it means that one
    of us is wrong.
    """

    service: str
    decode: Decode[T]
    handle: Handle[T]
    publisher: Publisher
    metrics: BusMetrics
    outside: str | None = None
    breaker: Breaker = field(default_factory=Breaker)
    writers: dict[str, Breaker] = field(default_factory=dict)

    async def process(self, records: Sequence[Record]) -> None:
        """Return when everything that follows from these records is acknowledged by all in-sync replicas.

        Raises Unavailable or StoreUnavailable when a part did not answer, and Stop when so much would have to be set
        aside that the fault must be ours: nothing may be committed then.
        """
        items: list[tuple[Record, T]] = []
        refused: list[tuple[Record, Undecodable]] = []
        for record in records:
            if record.unreadable is not None:
                refused.append((record, record.unreadable))
                continue
            try:
                items.append((record, self.decode(record)))
            except Undecodable as refusal:
                refused.append((record, refusal))
            except Exception as error:
                log.exception("decoder failed on one record", topic=record.topic, offset=record.offset)
                refused.append((record, Undecodable(Reason.HANDLER_ERROR, type(error).__name__)))
        publications = await self._decide(items, refused)
        ours = self._at_our_expense(records, refused)
        if too_many := self.breaker.judge(ours):
            raise Stop(StopReason.DEAD_LETTERS, too_many)
        if refused:
            # Before the rest, and all before the commit: while their topic can't be written to, nothing else is
            # published again and again.
            await self.publisher.publish([dead_letter(self.service, record, why) for record, why in refused])
        publications.extend(notice for _, why in refused for notice in why.notices)
        if publications:
            await self.publisher.publish(publications)
        self.breaker.count(len(records), ours)
        self._count(records, refused)

    def label(self, topic: str) -> str:
        """What a topic is called in metrics."""
        return self.outside or topic

    def _at_our_expense(self, records: Sequence[Record], refused: list[tuple[Record, Undecodable]]) -> list[int]:
        """The places in the batch of what was set aside by our own fault, as far as one can tell."""
        if not refused:
            return []
        ours = {id(record) for record, why in refused if self.outside is None or why.reason is Reason.HANDLER_ERROR}
        return [index for index, record in enumerate(records) if id(record) in ours]

    def _count(self, records: Sequence[Record], refused: list[tuple[Record, Undecodable]]) -> None:
        if self.outside is not None and (refused or self.writers):
            self._count_writers(records, {id(record) for record, _ in refused})
        for record, why in refused:
            self.metrics.dead_letters.labels(self.label(record.topic), why.reason).inc()
            log.warning(
                "record set aside",
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                reason=why.reason,
            )

    def _count_writers(self, records: Sequence[Record], refused: set[int]) -> None:
        """Say so when most of what one writer sends is unreadable: it needs a call, the others need nothing."""
        by_topic: dict[str, list[bool]] = {}
        for record in records:
            by_topic.setdefault(record.topic, []).append(id(record) in refused)
        for topic, outcomes in by_topic.items():
            set_aside = [index for index, was_refused in enumerate(outcomes) if was_refused]
            if not set_aside and topic not in self.writers:
                continue
            writer = self.writers.setdefault(topic, Breaker())
            if too_many := writer.judge(set_aside):
                log.error("a writer sends what can't be read", topic=topic, detail=too_many)
                self.metrics.unreadable_writers.labels(self.label(topic)).inc()
                self.writers[topic] = Breaker()  # says it again after as many more
            else:
                writer.count(len(outcomes), set_aside)

    async def _decide(
        self, items: list[tuple[Record, T]], refused: list[tuple[Record, Undecodable]]
    ) -> list[Publication]:
        if not items:
            return []
        try:
            return list(await self._handle([item for _, item in items]))
        except (Unavailable, StoreUnavailable):
            raise
        except Exception:
            log.exception("handler failed, trying the records one by one", records=len(items))
        publications: list[Publication] = []
        for record, item in items:
            try:
                publications.extend(await self._handle([item]))
            except (Unavailable, StoreUnavailable):
                raise
            except Exception as error:
                log.exception("handler failed on one record", topic=record.topic, offset=record.offset)
                refused.append((record, Undecodable(Reason.HANDLER_ERROR, type(error).__name__)))
        return publications

    async def _handle(self, batch: Sequence[T]) -> Sequence[Publication]:
        try:
            async with asyncio.timeout(HANDLER_TIMEOUT_SECONDS):
                return await self.handle(batch)
        except TimeoutError as error:
            raise Unavailable(f"the handler did not finish within {HANDLER_TIMEOUT_SECONDS:g} s") from error
