"""Kafka: the only file that names broker options. FastStream brings the records, aiokafka takes the events."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from math import inf
from typing import Any, Generic, TypeVar

from aiokafka import (
    AIOKafkaConsumer,
    AIOKafkaProducer,
    ConsumerRebalanceListener,
    ConsumerRecord,
    TopicPartition,
    codec,
)
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    KafkaTimeoutError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
)
from aiokafka.record.default_records import DefaultRecordBatch
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage

from shared.bus.access import KafkaAccess
from shared.bus.consumer import SalvagedRecord, SteadyConsumer
from shared.bus.loop import BatchLoop, Decode, Handle, decode_mesh_event
from shared.bus.port import Incoming, Publication, Record, Stop, StopReason, Unavailable
from shared.clock import Clock
from shared.contract.events import Event
from shared.contract.topics import Topic
from shared.failpoints import NONE, Failpoints, Point
from shared.ids import partition_of
from shared.log import get_logger
from shared.metrics import BusMetrics
from shared.store.port import StoreUnavailable

T = TypeVar("T")

BATCH_RECORDS = 1000
POLL_MS = 20
LINGER_MS = 20
"""How long records wait at the broker for others: what a batch costs, whatever its size, is the more at a low rate."""

FETCH_BYTES = 64 * 1024
"""As much is brought at once, less when it has waited for LINGER_MS; the more, the longer records may wait."""

PARTITION_BYTES = 256 * 1024
"""One partition's chunk is drained before the next one's turn: small chunks keep busy agencies from starving others."""

START_SECONDS = 10.0
PUBLISH_TIMEOUT_SECONDS = 10.0
COMMIT_SECONDS = 0.1
"""How long a finished batch may wait to be committed with others: a commit costs the broker as much as a fetch."""

COMMIT_TIMEOUT_SECONDS = 10.0
COMMIT_RETRY_SECONDS = 0.5
HAND_OVER_SECONDS = 15.0
"""How long a batch in flight may hold up the partition that another member is to have."""

DRAIN_SECONDS = 6.0
"""How long a batch in flight may take when its service is told to stop."""

STOP_SECONDS = 8.0
"""How long all of stopping may take: where no broker answers, a goodbye to the group would wait for ever."""

FLUSH_SECONDS = 1.0
WATCH_SECONDS = 15.0
READ_UP_SECONDS = 5.0
BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
EARLIEST_SANE_MS = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp() * 1000)
CLOCK_TOLERANCE = timedelta(hours=1)

PRODUCER_OPTIONS: dict[str, Any] = {
    "acks": "all",
    "enable_idempotence": True,
    "max_batch_size": 256 * 1024,
    "max_request_size": 4 * 1024 * 1024,
    # A broker that died without a word is given up after this, and the next leader asked for.
    "request_timeout_ms": 3000,
    "retry_backoff_ms": 50,
    "linger_ms": 0,
    "metadata_max_age_ms": 30_000,
}

CONSUMER_OPTIONS: dict[str, Any] = {
    # A new group starts at the beginning, see SteadyConsumer; where an offset is gone, the consumer stops.
    "auto_offset_reset": "none",
    "session_timeout_ms": 6000,
    "heartbeat_interval_ms": 1000,
    "rebalance_timeout_ms": 60_000,
    "max_poll_interval_ms": 300_000,
    "max_partition_fetch_bytes": PARTITION_BYTES,
}

Place = tuple[str, int]
"""A topic and one of its partitions."""

Placed = dict[Place, list[tuple[bytes, bytes]]]
"""Keys and values, in order, by where they go."""

Acknowledgement = asyncio.Future[object]

log = get_logger(__name__)


class KafkaPublisher:
    """Publishes whole batches through one idempotent producer."""

    def __init__(
        self, service: str, access: KafkaAccess, metrics: BusMetrics, *, failpoints: Failpoints = NONE
    ) -> None:
        self._client_id = f"guichet-{service}"
        # Once: a certificate that can't be read is to be told at the start, and not amid a publication.
        self._access = access.options()
        self._metrics = metrics
        self._failpoints = failpoints
        self._producer: AIOKafkaProducer | None = None
        self._unresolved: dict[Place, set[Acknowledgement]] = {}
        self._fatal: str | None = None
        self._given_up = False
        self._replacing = asyncio.Lock()

    @property
    def broken(self) -> str | None:
        """Why the producer can't be used, until another in its place has published something."""
        if self._producer is not None and self._is_spent(self._producer):
            return self._fatal or "its sender has ended"
        return self._fatal

    async def start(self) -> None:
        """Connect; Unavailable if no broker answers. Once connected, a further call changes nothing."""
        if self._producer is not None:
            return
        producer = AIOKafkaProducer(client_id=self._client_id, **self._access, **PRODUCER_OPTIONS)
        try:
            # By itself it would ask for its number for as long as brokers answer and have no quorum.
            async with asyncio.timeout(START_SECONDS):
                await producer.start()
        except (KafkaError, TimeoutError) as error:
            await self._end(producer)
            raise Unavailable(f"Kafka: {error!r}") from error
        self._producer = producer

    async def stop(self) -> None:
        """Close, once what is under way is acknowledged, or will not be soon."""
        self._given_up = False
        await self._close()

    async def _close(self) -> None:
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await self._end(producer)

    @staticmethod
    async def _end(producer: AIOKafkaProducer) -> None:
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await producer.stop()
        except TimeoutError:
            # An idempotent producer never gives up. Whoever published this was told so, and publishes it again.
            log.warning("closed before Kafka acknowledged all")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await producer.client.close()

    async def ping(self) -> None:
        """Return if a broker answers; Unavailable if not."""
        producer = self._connected()
        try:
            async with asyncio.timeout(2):
                await producer.client.fetch_all_metadata()
        except (KafkaError, TimeoutError) as error:
            raise Unavailable(f"Kafka: {error!r}") from error

    async def publish(self, publications: Sequence[Publication]) -> None:
        """See Publisher.publish."""
        producer = await self._usable()
        sent: list[tuple[Place, Acknowledgement]] = []
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_SECONDS):
                placed = await self._place(producer, publications)
                await self._settle(placed)
            async with asyncio.timeout(PUBLISH_TIMEOUT_SECONDS):
                await self._send(producer, placed, sent)
                if sent:
                    await asyncio.wait([acknowledgement for _, acknowledgement in sent])
            self._raise_failures(acknowledgement for _, acknowledgement in sent)
        except (OutOfOrderSequenceNumber, ProducerFenced) as error:
            # https://github.com/aio-libs/aiokafka/issues/1017: such a producer never recovers.
            if producer is self._producer:
                self._fatal, self._given_up = repr(error), True
            raise Unavailable(f"Kafka producer is broken: {error!r}") from error
        except (KafkaError, TimeoutError) as error:
            raise Unavailable(f"Kafka did not acknowledge: {error!r}") from error
        finally:
            # What a producer that was replaced meanwhile has not written it never will, and nobody waits for it.
            if producer is self._producer:
                for place, acknowledgement in sent:
                    if not acknowledgement.done():
                        self._unresolved.setdefault(place, set()).add(acknowledgement)
        if producer is self._producer:
            self._fatal = None
        for topic, count in Counter(publication.topic.name for publication in publications).items():
            self._metrics.published.labels(topic).inc(count)

    async def _place(self, producer: AIOKafkaProducer, publications: Sequence[Publication]) -> Placed:
        placed: Placed = {}
        partitions: dict[str, int] = {}
        for publication in publications:
            topic = publication.topic.name
            if topic not in partitions:
                partitions[topic] = len(await producer.partitions_for(topic))
            key = publication.key.encode()
            place = (topic, partition_of(key, partitions[topic]))
            placed.setdefault(place, []).append((key, publication.value))
        return placed

    async def _settle(self, places: Iterable[Place]) -> None:
        """Wait until nothing that timed out earlier is still under way to these places.

        An idempotent producer never gives a batch up: without this, each try during an outage would queue one copy
        more. A place that can't be written to holds up no other.
        """
        for place in self._unresolved.keys() & set(places):
            while pending := [one for one in self._unresolved.get(place, ()) if not one.done()]:
                await asyncio.wait(pending)
            # What failed is published again by whoever wanted it; only a broken producer matters here.
            with contextlib.suppress(KafkaError):
                self._raise_failures(self._unresolved.pop(place, ()))

    def _raise_failures(self, done: Iterable[Acknowledgement]) -> None:
        """Raise the worst of what went wrong, if anything did; look at all, or asyncio complains."""
        failures = [error for acknowledgement in done if (error := acknowledgement.exception()) is not None]
        fatal = [error for error in failures if isinstance(error, OutOfOrderSequenceNumber | ProducerFenced)]
        if fatal:
            self._fatal = repr(fatal[0])
        for error in (*fatal, *failures):
            raise error

    async def _send(
        self, producer: AIOKafkaProducer, placed: Placed, sent: list[tuple[Place, Acknowledgement]]
    ) -> None:
        """Queue everything, and note in `sent` what is to be acknowledged, even if this is broken off."""
        for place, entries in placed.items():
            if sent and self._failpoints.armed(Point.PARTLY_PUBLISHED):
                await asyncio.wait([acknowledgement for _, acknowledgement in sent])
                await self._failpoints.reach(Point.PARTLY_PUBLISHED, Unavailable)
            topic, partition = place
            builder = producer.create_batch()
            for key, value in entries:
                if builder.append(key=key, value=value, timestamp=None) is None:
                    sent.append((place, await producer.send_batch(builder, topic, partition=partition)))
                    builder = producer.create_batch()
                    builder.append(key=key, value=value, timestamp=None)
            sent.append((place, await producer.send_batch(builder, topic, partition=partition)))

    async def _usable(self) -> AIOKafkaProducer:
        """The producer; in the place of one that will never recover, a new one.

        What was under way through that one may be written or not: whoever published it was told so, and publishes it
        again, to the byte.
        """
        async with self._replacing:
            if self._producer is not None and (self._given_up or self._is_spent(self._producer)):
                log.warning("the producer is replaced", detail=self.broken)
                await self._close()
                self._unresolved.clear()
                self._given_up = True
            if self._given_up:
                await self.start()
                self._given_up = False
            return self._connected()

    @staticmethod
    def _is_spent(producer: AIOKafkaProducer) -> bool:
        """Whether a fault of its own has ended aiokafka's sender: then it refuses everything, and starts no other."""
        return bool(producer._sender.sender_task.done())

    def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise Unavailable("Kafka: not connected yet")
        return self._producer


@dataclass(slots=True)
class _Subscription(ConsumerRebalanceListener, Generic[T]):  # type: ignore[misc]  # aiokafka is untyped
    """One consumer: runs the loop, commits exactly what it finished, puts back what it could not.

    What was finished and not committed when the process dies comes again, to the same effect.
    """

    name: str
    loop: BatchLoop[T]
    clock: Clock
    metrics: BusMetrics
    failpoints: Failpoints = NONE
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    in_flight: asyncio.Lock = field(default_factory=asyncio.Lock)
    consumer: AIOKafkaConsumer | None = None
    finished: dict[TopicPartition, Record] = field(default_factory=dict)
    """The last record of each partition that is finished and not committed."""
    finished_records: "Counter[str]" = field(default_factory=Counter)
    """How many these are with those before them, by topic."""
    committed_seconds: float = -inf
    committing: asyncio.Task[None] | None = None
    one_commit: asyncio.Lock = field(default_factory=asyncio.Lock)
    failures_in_row: int = 0
    joined: bool = False
    stopped: str | None = None
    progressed: float = 0.0
    """When it was last known that all is done, or was done as far as parts that are down allow."""
    batch_started: float | None = None
    oldest_uncommitted: dict[TopicPartition, datetime] = field(default_factory=dict)

    async def on_message(self, message: KafkaMessage) -> None:
        """Take one batch as FastStream brings it. Never raises: FastStream would go on past what failed."""
        consumer: AIOKafkaConsumer = message.consumer
        self.consumer = consumer
        raw: Sequence[ConsumerRecord] = message.raw_message
        latest_sane_ms = int((self.clock.now() + CLOCK_TOLERANCE).timestamp() * 1000)
        records = [_record(record, latest_sane_ms) for record in raw]
        async with self.in_flight:
            self.batch_started = self.clock.monotonic()
            try:
                self._note_oldest(records)
                finished = await self._process(consumer, records)
            finally:
                seconds = self.clock.monotonic() - self.batch_started
                self.batch_started = None
        if finished:
            self.failures_in_row = 0
            self.metrics.batch_seconds.observe(seconds)
            self.metrics.batch_records.observe(len(records))
        else:
            # Outside the lock, so that a rebalance need not wait for the pause.
            delay = BACKOFF_SECONDS[min(self.failures_in_row, len(BACKOFF_SECONDS) - 1)]
            self.failures_in_row += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), delay)

    async def _process(self, consumer: AIOKafkaConsumer, records: Sequence[Record]) -> bool:
        try:
            async with self.failpoints.at(Point.RECEIVED, Unavailable):
                await self.loop.process(records)
        except (Unavailable, StoreUnavailable) as error:
            self._put_back(consumer, records, type(error).__name__, str(error))
            # To be restarted would not bring that part back.
            self.progressed = self.clock.monotonic()
            return False
        except Stop as error:
            self._put_back(consumer, records, type(error).__name__, str(error))
            self.stop(error.reason, str(error))
            return False
        except Exception as error:
            log.exception("batch failed")
            self._put_back(consumer, records, type(error).__name__, str(error))
            return False
        await self._finish(records)
        return True

    def _put_back(self, consumer: AIOKafkaConsumer, records: Sequence[Record], cause: str, detail: str) -> None:
        self.metrics.batch_failures.labels(cause).inc()
        log.warning("batch put back", subscription=self.name, records=len(records), cause=cause, detail=detail)
        first: dict[TopicPartition, int] = {}
        for record in records:
            first.setdefault(TopicPartition(record.topic, record.partition), record.offset)
        for partition in first.keys() & consumer.assignment():
            # The partition may be taken away at any moment; then whoever gets it starts at the committed offset.
            with contextlib.suppress(IllegalStateError):
                consumer.seek(partition, first[partition])

    async def _finish(self, records: Sequence[Record]) -> None:
        """See to it that these are committed, with what was finished before: beside the next batch, save at the end."""
        last = {(record.topic, record.partition): record for record in records}
        self.finished.update((TopicPartition(*place), record) for place, record in last.items())
        self.finished_records.update(record.topic for record in records)
        if self.stopping.is_set():
            await self._commit()
        elif self.committing is None or self.committing.done():
            self.committing = asyncio.create_task(self._commit_in_time())

    async def _commit_in_time(self) -> None:
        """Commit until all is committed that is finished: now if the last time is long ago, else in a moment."""
        while self.finished:
            await asyncio.sleep(max(0.0, self.committed_seconds + COMMIT_SECONDS - self.clock.monotonic()))
            if not await self._commit():
                await asyncio.sleep(COMMIT_RETRY_SECONDS)

    async def _commit(self) -> bool:
        """Commit what is finished; false where that fails: the next time covers it."""
        async with self.one_commit:
            consumer = self.consumer
            assigned = consumer.assignment() if consumer is not None else ()
            committed = {partition: record for partition, record in self.finished.items() if partition in assigned}
            records = self.finished_records.copy()
            if consumer is None or not committed:
                self._forget_finished()
                return True
            self.committed_seconds = self.clock.monotonic()
            try:
                async with (
                    asyncio.timeout(COMMIT_TIMEOUT_SECONDS),
                    self.failpoints.at(Point.PUBLISHED, KafkaTimeoutError),
                ):
                    await consumer.commit({partition: record.offset + 1 for partition, record in committed.items()})
                await self.failpoints.reach(Point.COMMITTED, KafkaTimeoutError)
            except (CommitFailedError, IllegalStateError) as error:
                # Taken away meanwhile: the new owner does the batch again, to the same effect.
                self._forget_finished()
                self.metrics.batch_failures.labels("Rebalanced").inc()
                log.info("commit refused after a rebalance", subscription=self.name, detail=str(error))
                return True
            except (KafkaError, TimeoutError) as error:
                self.metrics.batch_failures.labels("CommitFailed").inc()
                log.warning("commit failed, the next one covers it", subscription=self.name, detail=repr(error))
                return False
            self.progressed = self.clock.monotonic()
            for topic, count in records.items():
                self.metrics.consumed.labels(self.loop.label(topic)).inc(count)
            self.finished_records -= records
            for partition, record in committed.items():
                # More of it may be finished meanwhile.
                if self.finished.get(partition) is record:
                    del self.finished[partition]
            self._note_committed(consumer, committed)
            return True

    def _forget_finished(self) -> None:
        self.finished.clear()
        self.finished_records.clear()

    async def wind_up(self) -> None:
        """Commit what is finished. A batch in flight does that itself, at its end."""
        self.stopping.set()
        if self.committing is not None:
            self.committing.cancel()
        if self.batch_started is None:
            async with self.in_flight:
                await self._commit()

    def _note_oldest(self, records: Sequence[Record]) -> None:
        for record in records:
            place = (record.topic, record.partition)
            if place not in self.oldest_uncommitted and record.recorded_at is not None:
                self.oldest_uncommitted[TopicPartition(*place)] = record.recorded_at

    def _note_committed(self, consumer: AIOKafkaConsumer, committed: dict[TopicPartition, Record]) -> None:
        for partition, record in committed.items():
            self.oldest_uncommitted.pop(partition, None)
            highwater = consumer.highwater(partition) if partition in consumer.assignment() else None
            if highwater is not None and highwater > record.offset + 1 and record.recorded_at is not None:
                # More waits, of an age not known yet: not older than the last one done.
                self.oldest_uncommitted[partition] = record.recorded_at

    def lag_seconds(self, topic: str | None) -> float:
        """Age of the oldest record not yet committed, of one topic or of all; 0 when nothing waits."""
        oldest = [at for place, at in self.oldest_uncommitted.items() if topic in (None, place.topic)]
        return max(0.0, (self.clock.now() - min(oldest)).total_seconds()) if oldest else 0.0

    def stop(self, reason: StopReason, detail: str) -> None:
        """Take nothing more, and say so. What was not committed comes again after a restart."""
        self.stopped = f"{self.name} has stopped: {detail}"
        self.metrics.stopped.labels(reason).set(1)
        log.critical("consumer stopped", subscription=self.name, reason=reason, detail=detail)

    async def watch(self, consumer: AIOKafkaConsumer) -> None:
        """Note that there is progress, if nothing waits; or that nobody can say, if Kafka does not answer."""
        try:
            waiting = bool(self.oldest_uncommitted) or await consumer.behind()
        except (KafkaError, TimeoutError):
            waiting = False
        if not waiting:
            self.progressed = self.clock.monotonic()

    def stuck(self, after_seconds: float) -> str | None:
        """Why this consumer will not go on by itself, if it won't."""
        if self.stopped is not None:
            return self.stopped
        now = self.clock.monotonic()
        if self.batch_started is not None and now - self.batch_started > after_seconds:
            return f"a batch of {self.name} has been under way for more than {after_seconds:g} s"
        if now - self.progressed > after_seconds:
            return f"records of {self.name} have waited for more than {after_seconds:g} s without progress"
        return None

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Let the batch in flight finish, and commit all that is finished, before it goes to another member."""
        self.joined = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HAND_OVER_SECONDS), self.in_flight:
                await self._commit()
                for partition in revoked:
                    self.oldest_uncommitted.pop(partition, None)
        # What could not be committed is somebody else's now: to commit it later would take their offsets back.
        self._forget_finished()

    async def on_partitions_assigned(self, _assigned: set[TopicPartition]) -> None:
        """Nothing to prepare: offsets are Kafka's, decisions are the store's. An idle member has joined as well."""
        self.joined = True
        self.progressed = self.clock.monotonic()


def _record(raw: ConsumerRecord, latest_sane_ms: int) -> Record:
    # A producer may write any number as timestamp; one that can't be true says nothing.
    sane = EARLIEST_SANE_MS <= raw.timestamp <= latest_sane_ms
    return Record(
        raw.topic,
        raw.partition,
        raw.offset,
        raw.timestamp,
        datetime.fromtimestamp(raw.timestamp / 1000, UTC) if sane else None,
        raw.key,
        raw.value,
        tuple(raw.headers),
        *((raw.problem, raw.cut) if isinstance(raw, SalvagedRecord) else ()),
    )


class KafkaBus:
    """A service's consumers. Each runs the batch loop."""

    def __init__(
        self,
        service: str,
        access: KafkaAccess,
        *,
        publisher: KafkaPublisher,
        clock: Clock,
        metrics: BusMetrics,
        failpoints: Failpoints = NONE,
    ) -> None:
        # Without the compiled parts a batch costs ten times as much; that must not go unnoticed.
        if "_crecords" not in DefaultRecordBatch.__module__:
            raise RuntimeError("aiokafka runs without its compiled extensions: unset AIOKAFKA_NO_EXTENSIONS")
        # Each agency compresses as it likes, and a batch that can't be unpacked would be set aside.
        if not (codec.has_lz4() and codec.has_snappy() and codec.has_zstd()):
            raise RuntimeError("Kafka's codecs are missing: install cramjam")
        self._service = service
        self._publisher = publisher
        self._clock = clock
        self._metrics = metrics
        self._failpoints = failpoints
        self._subscriptions: list[_Subscription[Any]] = []
        self._watching: asyncio.Task[None] | None = None
        for reason in StopReason:
            metrics.stopped.labels(reason).set(0)
        self.broker = KafkaBroker(
            access.servers.split(","),
            security=access.security(),
            client_id=f"guichet-{service}",
            consumer_only=True,
            allow_auto_create_topics=False,
            apply_types=False,
            graceful_timeout=DRAIN_SECONDS,
            request_timeout_ms=10_000,
            retry_backoff_ms=100,
            # A new agency's topic is found within this time.
            metadata_max_age_ms=10_000,
            logger=None,
        )

    def consume(self, topics: Sequence[Topic], handle: Handle[Incoming[Event]], *, linger_ms: int = LINGER_MS) -> None:
        """Hand every event on these topics to the handler, in batches, in order per partition.

        What comes may wait for as long as `linger_ms` for more.
        """
        names = [topic.name for topic in topics]
        loop = BatchLoop(self._service, decode_mesh_event(topics), handle, self._publisher, self._metrics)
        subscription = self._subscribe(",".join(names), loop, topics=names, linger_ms=linger_ms)
        for name in names:
            self._metrics.lag_seconds.labels(name).set_function(partial(subscription.lag_seconds, name))

    def consume_pattern(self, pattern: str, decode: Decode[T], handle: Handle[T], *, label: str) -> None:
        """Hand every record on topics whose name matches, now or later, to the handler.

        Others than the mesh write to them: metrics call them all by the label, and what can't be read stops nobody.
        """
        loop = BatchLoop(self._service, decode, handle, self._publisher, self._metrics, outside=label)
        subscription = self._subscribe(label, loop, pattern=pattern)
        self._metrics.lag_seconds.labels(label).set_function(partial(subscription.lag_seconds, None))

    def _subscribe(
        self,
        name: str,
        loop: BatchLoop[T],
        *,
        topics: Sequence[str] = (),
        pattern: str | None = None,
        linger_ms: int = LINGER_MS,
    ) -> _Subscription[T]:
        subscription: _Subscription[T] = _Subscription(name, loop, self._clock, self._metrics, self._failpoints)
        self._subscriptions.append(subscription)

        async def parse(raw: tuple[ConsumerRecord, ...]) -> KafkaMessage:
            # FastStream's own parser decodes headers, fails on some of them, and then skips the whole batch.
            return KafkaMessage(body=b"", raw_message=raw, consumer=subscriber.consumer)

        async def identity(message: KafkaMessage) -> KafkaMessage:
            return message

        subscriber = self.broker.subscriber(
            *topics,
            pattern=pattern,
            group_id=f"guichet-{self._service}",
            batch=True,
            max_records=BATCH_RECORDS,
            batch_timeout_ms=POLL_MS,
            fetch_max_wait_ms=linger_ms,
            # Never more than one partition can give: where all that waits is in one, it would be held up.
            fetch_min_bytes=min(FETCH_BYTES * linger_ms // LINGER_MS, PARTITION_BYTES),
            ack_policy=AckPolicy.MANUAL,
            listener=subscription,
            parser=parse,
            decoder=identity,
            no_reply=True,
            **CONSUMER_OPTIONS,
        )
        subscriber(subscription.on_message)
        return subscription

    @property
    def subscriptions(self) -> Sequence[_Subscription[Any]]:
        """Each consumer as FastStream calls it, to be given batches without a broker."""
        return tuple(self._subscriptions)

    async def start(self) -> None:
        """Join the group; Unavailable if no broker answers."""
        try:
            await self.broker.connect()
            config = self.broker.config.broker_config
            config.builder = partial(SteadyConsumer, **getattr(config.builder, "keywords", {}))
            await self.broker.start()
        except KafkaError as error:
            await self.broker.stop()
            raise Unavailable(f"Kafka: {error}") from error
        for subscription in self._subscriptions:
            subscription.progressed = self._clock.monotonic()
        self._watching = asyncio.create_task(self._watch(), name="watchdog")

    async def stop(self) -> None:
        """Let the batches in flight finish and commit, then leave the group; in bounded time.

        What was not committed by then comes again at another member, once the group misses this one.
        """
        if self._watching is not None:
            watching, self._watching = self._watching, None
            watching.cancel()
            await asyncio.wait([watching])
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*(subscription.wind_up() for subscription in self._subscriptions))
                await self.broker.stop()
        except TimeoutError:
            log.warning("left its group without a goodbye")

    async def _watch(self) -> None:
        while True:
            await self.watch()
            await asyncio.sleep(WATCH_SECONDS)

    async def watch(self) -> None:
        """Look once whether every consumer gets on, for `stuck` to tell."""
        for consumer, subscription in zip(self._consumers(), self._subscriptions, strict=True):
            if consumer is not None:
                await subscription.watch(consumer)

    def stuck(self, after_seconds: float) -> str | None:
        """Why this process should be restarted, if it should."""
        if self._publisher.broken is not None:
            return f"producer: {self._publisher.broken}"
        if self._watching is None:
            return None
        if self._watching.done():
            return "the watchdog has ended"
        for subscription in self._subscriptions:
            if why := subscription.stuck(after_seconds):
                return why
        for subscriber in self.broker.subscribers:
            if getattr(subscriber, "running", False) and any(task.done() for task in getattr(subscriber, "tasks", ())):
                return "a consume task has ended"
        return None

    async def read_up(self, topic: Topic) -> None:
        """Return once the group has committed whatever stood on the topic when this was called; else raise Unavailable.

        That holds for all partitions, whichever member reads them.
        """
        consumer = next(filter(None, self._consumers()), None)
        if consumer is None:
            raise Unavailable(f"{topic.name} is not read up: no consumer has started")
        try:
            async with asyncio.timeout(READ_UP_SECONDS):
                await consumer.read_up(topic.name)
        except (KafkaError, TimeoutError) as error:
            raise Unavailable(f"{topic.name} is not read up: {error!r}") from error

    def joined(self) -> bool:
        """Whether every consumer is a member of its group, with partitions or idle.

        One that waits for the first topic of its pattern has no group to join yet, and nothing to do.
        """
        return all(
            consumer is not None and (subscription.joined or not consumer.subscription())
            for consumer, subscription in zip(self._consumers(), self._subscriptions, strict=True)
        )

    def stopped(self) -> str | None:
        """Why a consumer has stopped for good, if one has."""
        return next((why for subscription in self._subscriptions if (why := subscription.stopped)), None)

    def _consumers(self) -> list[SteadyConsumer | None]:
        return [getattr(subscriber, "consumer", None) for subscriber in self.broker.subscribers]
