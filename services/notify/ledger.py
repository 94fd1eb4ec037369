"""The notifications of one channel, as the store keeps them, and a bell for who sends them."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from collections.abc import Collection as Keys
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.notify.domain import Notification, State
from shared.store.port import Change, Collection, Document, Row

TAKE_LEASE: Final = timedelta(seconds=5)
"""How long a row is out of sight between being taken and being marked as `sending`."""

SENDING_LEASE: Final = timedelta(seconds=45)
"""After this a row still `sending` has lost its sender. Longer than any provider's answer may take."""

ANNOUNCE_LEASE: Final = timedelta(seconds=5)
"""After this a row of which something is still to be told or done comes up again."""

TOLD_AHEAD: Final = timedelta(seconds=2.5)
"""So long before it would come up again it is written of a row that all is told."""

TOLD_MAX: Final = 5_000
"""Of more rows than these it is written at once."""


@dataclass(frozen=True, slots=True)
class Held:
    """A notification and the version of its row, which has to stand still until it is saved. `due`, as it was read."""

    notification: Notification
    version: int
    due: datetime | None = None


class Ledger:
    """A row for each notification of a channel. `bell` is set when something new is due."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._told: dict[str, Held] = {}
        """Rows of which all is told, as they have to be written some time, by id."""
        self.bell = asyncio.Event()

    async def add(self, notifications: Sequence[Notification]) -> dict[str, Notification]:
        """Insert those that are new; return, by id, those that stood before, as they were decided first."""
        rows = {each.id: Document(each.to_json(), due=_due(each, each.not_before)) for each in notifications}
        standing = await self._collection.insert_new(rows)
        if len(standing) < len(rows):
            self.bell.set()
        return {key: Notification.from_json(row.body) for key, row in standing.items()}

    async def take(self, now: datetime, limit: int) -> list[Held]:
        """Up to `limit` rows that somebody has to do something about, for a few seconds, the longest due first."""
        rows = await self._collection.take_due(now, limit=limit, lease=TAKE_LEASE)
        return [_held(row) for row in rows]

    async def get(self, ids: Keys[str]) -> dict[str, Held]:
        """The rows there are among these ids, and of which all is told as `told` has it."""
        known = {key: self._told[key] for key in ids if key in self._told}
        rows = await self._collection.get_many([key for key in ids if key not in known])
        return known | {key: _held(row) for key, row in rows.items()}

    async def save(self, changed: Sequence[Held], now: datetime) -> list[Held]:
        """Write each over the version it was held at; return those that were written, at their new version.

        The others were changed by somebody else meanwhile, and are theirs.
        """
        changes = {
            held.notification.id: Change(held.version, held.notification.to_json(), due=_due(held.notification, now))
            for held in changed
        }
        for key in changes:
            self._told.pop(key, None)
        written = await self._collection.compare_and_set(changes)
        if any(held.notification.not_before <= now for held in changed if held.notification.status is State.PLANNED):
            self.bell.set()
        return [
            Held(held.notification, held.version + 1, changes[held.notification.id].due)
            for held in changed
            if held.notification.id in written
        ]

    async def told(self, done: Sequence[Held], now: datetime) -> None:
        """Note of rows, as they were saved, that nothing is to be told or done of them any more.

        A receipt mostly changes such a row soon, and then this is written along; else by `write_told`, in time. If
        neither happens, because the process dies, the row comes up again and the same is told once more.
        """
        for held in done:
            known = self._told.get(held.notification.id)
            # What was told of the row as it is now may be noted before what was told of it as it was.
            if known is None or known.version < held.version:
                self._told[held.notification.id] = held
        if len(self._told) > TOLD_MAX:
            await self.write_told(now, ahead=ANNOUNCE_LEASE)
        elif _due_by(done, now + TOLD_AHEAD):
            await self.write_told(now)

    async def write_told(self, now: datetime, *, ahead: timedelta = TOLD_AHEAD) -> None:
        """Write of the rows that would come up so soon that all is told."""
        await self.save(_due_by(self._told.values(), now + ahead), now)

    async def unfinished(self) -> AsyncIterator[Held]:
        """Every row that somebody has to look at some day."""
        async for row in self._collection.scan(due_only=True):
            yield _held(row)


def _held(row: Row) -> Held:
    return Held(Notification.from_json(row.body), row.version, row.due)


def _due_by(rows: Iterable[Held], moment: datetime) -> list[Held]:
    return [held for held in rows if held.due is None or held.due <= moment]


def _due(notification: Notification, now: datetime) -> datetime | None:
    """When somebody should look at the row again; None: when a receipt comes, or never."""
    match notification.status:
        case State.PLANNED:
            return notification.not_before
        case State.SENDING:
            return now + SENDING_LEASE
        case State.UNREACHABLE:
            # Nobody sends it: its outcome is published by whoever planned it.
            return None
    if notification.untold:
        return now + ANNOUNCE_LEASE
    return notification.resend_at if notification.status is State.UNKNOWN else None
