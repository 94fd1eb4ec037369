"""Reads every topic of a mesh beside its services, in no consumer group, and asks how far those have come."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from deploy.check.checks import GROUPS
from deploy.replay.tally import Tally
from shared.bus.access import KafkaAccess
from shared.bus.loop import decode_mesh_event
from shared.bus.port import Record, Unavailable, Undecodable
from shared.contract.topics import DEAD_LETTERS, MESH_TOPICS

_POLL_MS = 200
_GATHERED_SECONDS = 0.25


class WatchFailed(Unavailable):
    """The mesh's topics can't be read, or are not those of the mesh that was expected."""


class Watcher:
    """`async with Watcher(...) as watcher:` folds what stands on the mesh's topics into a tally.

    From the beginning, since a replay may be one of events that the mesh had before: it says nothing twice, and what
    it said then counts. Of dead letters only those that come from now on are this replay's.
    """

    def __init__(self, kafka: KafkaAccess, tally: Tally) -> None:
        self._tally = tally
        self._decode = decode_mesh_event(MESH_TOPICS)
        self._consumer = AIOKafkaConsumer(
            *(topic.name for topic in MESH_TOPICS),
            client_id="guichet-watcher",
            **kafka.options(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
        )
        self._admin = AIOKafkaAdminClient(client_id="guichet-watcher", **kafka.options())
        self._old_dead_letters: Mapping[TopicPartition, int] = {}
        self._moved = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self.unreadable = 0
        """Records on the mesh's topics that are no events of theirs."""

    async def __aenter__(self) -> Self:
        """Connect and begin to read. Raises WatchFailed."""
        try:
            self._old_dead_letters = await self._connect()
        except BaseException as error:
            await self._close()
            if isinstance(error, KafkaError):
                raise WatchFailed(f"Kafka does not answer: {error!r}") from error
            raise
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._close()

    async def until(self, complete: Callable[[], bool], *, patience_seconds: float) -> bool:
        """Wait until it is complete; give up when nothing new was seen for so long. Whether it is.

        Raises what ended the reading, if anything did.
        """
        while not complete():
            if self._reading is not None and self._reading.done():
                self._reading.result()
            self._moved.clear()
            try:
                async with asyncio.timeout(patience_seconds):
                    await self._moved.wait()
            except TimeoutError:
                return complete()
            await asyncio.sleep(_GATHERED_SECONDS)  # to look once at what comes together
        return True

    async def caught_up(self, *, patience_seconds: float) -> bool:
        """Wait until no service has anything left to read; give up after so long. Whether none has."""
        try:
            async with asyncio.timeout(patience_seconds):
                while True:
                    if not any((await self.lags()).values()):
                        return True
                    await asyncio.sleep(_GATHERED_SECONDS)
        except TimeoutError:
            return False

    async def lags(self) -> dict[str, int]:
        """Records that each service has not committed yet. A service whose group is not known is left out."""
        lags: dict[str, int] = {}
        for group in GROUPS:
            try:
                committed = await self._admin.list_consumer_group_offsets(group)
                ends = await self._consumer.end_offsets(list(committed)) if committed else {}
            except (KafkaError, ValueError):
                continue
            if ends:
                lags[group.removeprefix("guichet-")] = sum(
                    max(0, end - max(0, committed[place].offset)) for place, end in ends.items()
                )
        return lags

    async def require(self, topics: Collection[str]) -> None:
        """Return if the mesh has these topics; else WatchFailed."""
        missing = set(topics) - set(await self._admin.list_topics())
        if missing:
            raise WatchFailed(f"the broker has no topic {', '.join(sorted(missing))}")

    async def brokers(self) -> int:
        """How many brokers the cluster has."""
        cluster: dict[str, Any] = await self._admin.describe_cluster()
        return len(cluster["brokers"])

    async def _connect(self) -> dict[TopicPartition, int]:
        """Start, and return where the dead letters ended before."""
        await self._consumer.start()
        await self._admin.start()
        await self.require([topic.name for topic in MESH_TOPICS])
        places = [place for place in self._consumer.assignment() if place.topic == DEAD_LETTERS.name]
        ends = await self._consumer.end_offsets(places)
        return dict(ends)

    async def _close(self) -> None:
        await self._consumer.stop()
        await self._admin.close()

    async def _read(self) -> None:
        while True:
            fetched = await self._consumer.getmany(timeout_ms=_POLL_MS)
            for place, records in fetched.items():
                if sum(self._take(place, record) for record in records):
                    self._moved.set()

    def _take(self, place: TopicPartition, record: "ConsumerRecord[bytes | None, bytes | None]") -> bool:
        if record.offset < self._old_dead_letters.get(place, 0):
            return False
        read = Record(record.topic, record.partition, record.offset, record.timestamp, None, record.key, record.value)
        try:
            return self._tally.take(self._decode(read))
        except Undecodable:
            self.unreadable += 1
            return False
