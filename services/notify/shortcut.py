"""From whoever inserts a row to whoever takes it, in the same process, without a look into the store."""

from collections import deque
from collections.abc import AsyncIterator, Mapping
from collections.abc import Collection as Keys
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from shared.clock import Clock
from shared.store.port import Change, Collection, Document, Row

LOOK_SECONDS: Final = 0.5
"""How often the store is looked into though nothing here says so: for what others insert, and what comes due again."""

OWN_MAX: Final = 1_000
"""The most rows that wait here; a taker who is away leaves all others to the store."""


class Shortcut:
    """A Collection that remembers the due rows it has inserted, for the next `take_due` here.

    Such a row is leased from its birth, for `lease`: if this process dies, or is too slow, it comes up in the store as
    any row does whose taker died. Then another may have it; by its version, only one of them can change it.

    What was due before goes first: so long as the store may hold such rows, new ones stand behind them there.
    """

    def __init__(self, collection: Collection, *, lease: timedelta, clock: Clock) -> None:
        self._collection = collection
        self._lease = lease
        self._clock = clock
        self._own: deque[Row] = deque()
        self._behind = True
        """Whether there may be rows in the store that are due and that nobody has taken."""
        self._looked_at_seconds = 0.0

    async def insert_new(self, documents: Mapping[str, Document]) -> dict[str, Row]:
        now = self._clock.now()
        until = now + self._lease
        room = 0 if self._behind else OWN_MAX - len(self._own)
        due = [key for key, document in documents.items() if document.due is not None and document.due <= now]
        leased = {key: Document(documents[key].body, until) for key in islice(due, max(0, room))}
        standing = await self._collection.insert_new({**documents, **leased})
        self._own += [Row(key, 1, each.body, until) for key, each in leased.items() if key not in standing]
        self._behind |= len(leased) < len(due)
        return standing

    async def get_many(self, keys: Keys[str]) -> dict[str, Row]:
        return await self._collection.get_many(keys)

    async def compare_and_set(self, changes: Mapping[str, Change]) -> set[str]:
        changed = await self._collection.compare_and_set(changes)
        now = self._clock.now()
        self._behind |= any(change.due is not None and change.due <= now for change in changes.values())
        return changed

    async def take_due(self, now: datetime, *, limit: int, lease: timedelta) -> list[Row]:
        taken: list[Row] = []
        if self._behind or self._clock.monotonic() - self._looked_at_seconds >= LOOK_SECONDS:
            taken = await self._look(now, limit, lease)
        while self._own and len(taken) < limit:
            row = self._own.popleft()
            if row.due is not None and row.due > now:
                taken.append(row)
            else:
                self._behind = True
        return taken

    def scan(self, *, due_only: bool = False) -> AsyncIterator[Row]:
        return self._collection.scan(due_only=due_only)

    async def _look(self, now: datetime, limit: int, lease: timedelta) -> list[Row]:
        self._looked_at_seconds = self._clock.monotonic()
        self._behind = False  # until it turns out that it is, be it meanwhile
        try:
            taken = await self._collection.take_due(now, limit=limit, lease=lease)
        except BaseException:
            self._behind = True
            raise
        self._behind |= len(taken) == limit
        return taken
