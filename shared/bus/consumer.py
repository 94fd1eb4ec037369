"""aiokafka's consumer, made to lose nothing and to stand still at nothing that can be stepped over safely.

What aiokafka 0.14 does by itself: one record that it can't read makes `getmany` raise for ever, and with each raise the
records of other partitions that it had taken already are dropped and passed over; an offset that the log no longer has
is replaced by another without a word.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest

from shared.bus.port import StopReason, Undecodable
from shared.bus.recordbatch import Damaged, Salvaged, salvage
from shared.log import get_logger

IDLE_MS = 500
"""How long the broker waits for anything at all, once nothing has come for a while."""

WAIT_SECONDS = 1.0
READ_UP_POLL_SECONDS = 0.2
FETCH_BYTES = 1024 * 1024
FETCH_TIMEOUT_SECONDS = 10.0
DAMAGED_READS = 3
"""How often a batch is read before its damage is believed: it may have happened on the wire."""

log = get_logger(__name__)


class Owner(Protocol):
    """Who the consumer works for: its rebalance listener."""

    stopped: str | None

    def stop(self, reason: StopReason, detail: str) -> None:
        """Take nothing more from this consumer."""
        ...


@dataclass
class SalvagedRecord(ConsumerRecord):  # type: ignore[misc]  # aiokafka is untyped
    """A record that was read by hand."""

    problem: Undecodable | None = None
    cut: bool = False


class SteadyConsumer(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka is untyped
    """Takes each partition by itself, so that trouble with one names it and takes nothing of the others with it.

    With `auto_offset_reset="none"`: a partition for which the group has no offset is read from its beginning; where the
    group's offset is gone, the owner is stopped.

    While records come, the broker is asked to wait for more of them, as the settings say. Once none come, it is asked
    to wait for long and to answer at the first: that is sooner, and to ask in vain costs as much as to bring a batch.
    """

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> Mapping[TopicPartition, Sequence[ConsumerRecord]]:
        """What has been fetched of these partitions, or of all; nothing once the owner is stopped.

        `max_records` may be passed by what was read by hand. It is waited for WAIT_SECONDS, since FastStream sleeps
        where it got nothing; for `timeout_ms` only once the owner is stopped.
        """
        owner: Owner = self._subscription.listener
        fetched: dict[TopicPartition, Sequence[ConsumerRecord]] = {}
        room = max_records
        if owner.stopped is None:
            await self._wait()
        else:
            # It stays a member, so that its partitions don't stop the next one too.
            with self._subscription.fetch_context():
                await asyncio.sleep(timeout_ms / 1000)
        for partition in list(self._fetcher._records):
            if owner.stopped is not None or room == 0:
                break
            if partitions and partition not in partitions:
                continue
            records = await self._take(partition, owner, room)
            if records:
                fetched[partition] = records
                room = None if room is None else max(0, room - len(records))
        return fetched if owner.stopped is None else {}

    async def behind(self) -> bool:
        """Whether records wait on an assigned partition that were not taken yet. Raises KafkaError or TimeoutError."""
        assigned = self.assignment()
        async with asyncio.timeout(FETCH_TIMEOUT_SECONDS):
            ends = await self.end_offsets(assigned) if assigned else {}
            return any([ends[partition] > await self.position(partition) for partition in assigned])

    async def read_up(self, topic: str) -> None:
        """Return once the group has committed what stands on the topic now, on all partitions. Raises KafkaError."""
        numbers = self.partitions_for_topic(topic)
        if numbers is None:
            raise UnknownTopicOrPartitionError(topic)
        places = [TopicPartition(topic, number) for number in numbers]
        beginnings, ends = await self.beginning_offsets(places), await self.end_offsets(places)
        waiting = [place for place in places if beginnings[place] < ends[place]]
        # Nobody is told of a commit, so it is asked for.
        while waiting := [place for place in waiting if (await self.committed(place) or 0) < ends[place]]:  # noqa: ASYNC110
            await asyncio.sleep(READ_UP_POLL_SECONDS)

    async def _wait(self) -> None:
        self._coordinator.check_errors()
        if self._closed or self._fetcher._records:
            return
        # As aiokafka waits itself; it has no way to wait without taking.
        waiter = self._fetcher._create_fetch_waiter()
        with self._subscription.fetch_context():
            await asyncio.wait([waiter], timeout=2 * self._fetch_max_wait_ms / 1000)
            if not waiter.done():
                self._ask(wait_ms=IDLE_MS, min_bytes=1)
                await asyncio.wait([waiter], timeout=WAIT_SECONDS)
        if waiter.done():
            self._ask(wait_ms=self._fetch_max_wait_ms, min_bytes=self._fetch_min_bytes)
            waiter.result()
        else:
            waiter.cancel()

    def _ask(self, *, wait_ms: int, min_bytes: int) -> None:
        """For what the broker is to wait from the next request on."""
        self._fetcher._fetch_max_wait_ms, self._fetcher._fetch_min_bytes = wait_ms, min_bytes

    async def _take(self, partition: TopicPartition, owner: Owner, room: int | None) -> Sequence[ConsumerRecord]:
        try:
            taken = await super().getmany(partition, max_records=room)
            found: Sequence[ConsumerRecord] = taken.get(partition, ())
            return found
        except (ConsumerStoppedError, IllegalStateError, TopicAuthorizationFailedError):
            raise
        except NoOffsetForPartitionError:
            # A new group, or a new topic.
            with contextlib.suppress(IllegalStateError):
                await self.seek_to_beginning(partition)
        except OffsetOutOfRangeError as error:
            owner.stop(StopReason.OFFSETS_GONE, await self._gap(partition, error))
        except Exception as error:
            return await self._by_hand(partition, owner, error)
        return ()

    async def _gap(self, partition: TopicPartition, error: OffsetOutOfRangeError) -> str:
        wanted = next(iter(error.args[0].values()), None) if error.args else None
        said = f"{partition.topic}/{partition.partition}: offset {wanted} is not on the log any more"
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(FETCH_TIMEOUT_SECONDS):
                begin = (await self.beginning_offsets([partition]))[partition]
                end = (await self.end_offsets([partition]))[partition]
                said += f", which reaches from {begin} to {end}"
        return said

    async def _by_hand(self, partition: TopicPartition, owner: Owner, cause: Exception) -> Sequence[ConsumerRecord]:
        """Read the batch at which aiokafka fails, and go on after it."""
        assignment = self._subscription.subscription.assignment
        state = assignment.state_value(partition)
        if state is None or not state.has_valid_position:
            return ()
        # What aiokafka still holds of it is spoilt: it would pass over what it had already taken.
        start: int = state.position
        self.seek(partition, start)
        log.warning(
            "read by hand", topic=partition.topic, partition=partition.partition, offset=start, cause=repr(cause)
        )
        try:
            found, following = await self._salvage(partition, start)
        except (KafkaError, TimeoutError) as error:
            log.warning("could not be fetched, comes again", topic=partition.topic, offset=start, cause=repr(error))
            return ()
        except Damaged as error:
            owner.stop(StopReason.UNREADABLE, f"{partition.topic}/{partition.partition} from offset {start}: {error}")
            return ()
        if not assignment.active or state.position != start:
            return ()
        if following <= start:
            owner.stop(StopReason.UNREADABLE, f"{partition.topic}/{partition.partition}: no way past offset {start}")
            return ()
        self.seek(partition, following)
        return [_as_consumed(partition, record) for record in found]

    async def _salvage(self, partition: TopicPartition, start: int) -> tuple[list[Salvaged], int]:
        for read in range(1, DAMAGED_READS + 1):
            try:
                return salvage(await self._fetch(partition, start), start)
            except Damaged:
                if read == DAMAGED_READS:
                    raise
        raise AssertionError("unreachable")

    async def _fetch(self, partition: TopicPartition, start: int) -> bytes:
        """The raw batches from this offset on: at least one, whole, however large it is."""
        leader = self._client.cluster.leader_for_partition(partition)
        wanted = [(partition.topic, [(partition.partition, start, FETCH_BYTES)])]
        async with asyncio.timeout(FETCH_TIMEOUT_SECONDS):
            response = await self._client.send(leader, FetchRequest(100, 1, FETCH_BYTES, 0, wanted, rack_id=""))
        ((_, ((_, error_code, _, *_, data),)),) = response.topics
        if error_code:
            raise for_code(error_code)(partition)
        return bytes(data)


def _as_consumed(partition: TopicPartition, record: Salvaged) -> Any:
    return SalvagedRecord(
        topic=partition.topic,
        partition=partition.partition,
        offset=record.offset,
        timestamp=record.timestamp_ms,
        timestamp_type=0,
        key=record.key,
        value=record.value,
        checksum=None,
        serialized_key_size=-1,
        serialized_value_size=-1,
        headers=record.headers,
        problem=record.problem,
        cut=record.cut,
    )
