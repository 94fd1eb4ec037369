"""Kafka's part around the batch loop, in memory: logs, offsets, and members that take turns when they are told to."""

from collections.abc import Collection as Places
from dataclasses import dataclass, field
from datetime import datetime
from itertools import cycle
from typing import Any, Generic, TypeVar

from shared.bus.loop import BatchLoop
from shared.bus.port import Record, Stop, Unavailable
from shared.store.port import StoreUnavailable
from tests.fakes.fates import Fates

T = TypeVar("T")

Place = tuple[str, int]
"""A topic and one of its partitions."""


class CommitFailed(Exception):
    """The group coordinator did not answer."""


@dataclass
class MemoryLog:
    """The partitions of some topics, and of one consumer group what it has committed and who its members are."""

    places: Places[Place]
    records: dict[Place, list[Record]] = field(default_factory=dict)
    committed: dict[Place, int] = field(default_factory=dict)
    members: "list[MemoryConsumer[Any]]" = field(default_factory=list)

    def append(self, place: Place, key: bytes | None, value: bytes | None, at: datetime) -> Record:
        """Write one more record, and return it as a consumer sees it."""
        written = self.records.setdefault(place, [])
        timestamp_ms = int(at.timestamp() * 1000)
        written.append(Record(*place, len(written), timestamp_ms, at, key, value))
        return written[-1]

    def join(self, member: "MemoryConsumer[Any]") -> None:
        """Take a member into the group; the partitions are dealt out anew."""
        self.members.append(member)
        self._rebalance()

    def leave(self, member: "MemoryConsumer[Any]") -> None:
        """A member has gone, or its session has timed out: it may not know that yet."""
        self.members.remove(member)
        member.assignment = {}
        self._rebalance()

    def rewind(self, place: Place, offset: int) -> None:
        """Set the committed offset by hand; every member starts there."""
        self.committed[place] = offset
        self._rebalance()

    def _rebalance(self) -> None:
        for member in self.members:
            member.assignment = {}
        if self.members:
            for place, member in zip(self.places, cycle(self.members), strict=False):
                member.assignment[place] = self.committed.get(place, 0)


class MemoryConsumer(Generic[T]):
    """One member of the group: plays the part of shared/bus/kafka.py around a batch loop.

    `assignment` holds its partitions, each with the offset of the record to take next.
    """

    def __init__(self, log: MemoryLog, loop: BatchLoop[T], fates: Fates | None = None) -> None:
        self.assignment: dict[Place, int] = {}
        self.stopped: str | None = None
        self._log = log
        self._loop = loop
        self._fates = fates or Fates()

    @property
    def waiting(self) -> bool:
        """Whether a turn would bring it anything."""
        return self.stopped is None and bool(self._fetch(1))

    async def turn(self, limit: int = 500, *, begin: int = 0) -> bool:
        """Take one batch of at most `limit` records, from its partition number `begin` on, and then from the others.

        Whether there was one and nothing of it was put back.
        """
        records = self._fetch(limit, begin) if self.stopped is None else []
        for record in records:
            self.assignment[record.topic, record.partition] = record.offset + 1
        if not records:
            return False
        try:
            await self._loop.process(records)
        except (Unavailable, StoreUnavailable):
            self._put_back(records)
            return False
        except Stop as error:
            self._put_back(records)
            self.stopped = str(error)
            return False
        await self._commit(records)
        return True

    def _fetch(self, limit: int, begin: int = 0) -> list[Record]:
        fetched: list[Record] = []
        positions = list(self.assignment.items())
        for place, position in positions[begin:] + positions[:begin]:
            fetched += self._log.records.get(place, [])[position : position + limit - len(fetched)]
        return fetched

    def _put_back(self, records: list[Record]) -> None:
        for record in reversed(records):
            place = record.topic, record.partition
            if place in self.assignment:
                self.assignment[place] = record.offset

    async def _commit(self, records: list[Record]) -> None:
        ends = {(record.topic, record.partition): record.offset + 1 for record in records}
        try:
            async with self._fates.meet((), CommitFailed):
                # What was taken away meanwhile is refused: the new owner does it again.
                self._log.committed.update({place: end for place, end in ends.items() if place in self.assignment})
        except CommitFailed:
            return  # the next one covers it
