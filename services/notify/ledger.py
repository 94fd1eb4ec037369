"""The notifications of one channel, as the store keeps them, and a bell for who sends them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from collections.abc import Collection as Keys
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.notify.domain import Notification, State
from shared.store.port import Change, Collection, Document

TAKE_LEASE: Final = timedelta(seconds=5)
"""How long a row is out of sight between being taken and being marked as `sending`."""

SENDING_LEASE: Final = timedelta(seconds=45)
"""After this a row still `sending` has lost its sender. Longer than any provider's answer may take."""

ANNOUNCE_LEASE: Final = timedelta(seconds=5)
"""After this a row of which something is still to be told or done comes up again."""


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
        return [Held(Notification.from_json(row.body), row.version) for row in rows]

    async def get(self, ids: Keys[str]) -> dict[str, Held]:
        """The rows there are among these ids."""
        rows = await self._collection.get_many(ids)
        return {key: Held(Notification.from_json(row.body), row.version) for key, row in rows.items()}

    async def save(self, changed: Sequence[Held], now: datetime) -> list[Held]:
        """Write each over the version it was held at; return those that were written, at their new version.

        The others were changed by somebody else meanwhile, and are theirs.
        """
        changes = {
            held.notification.id: Change(held.version, held.notification.to_json(), due=_due(held.notification, now))
            for held in changed
        }
        written = await self._collection.compare_and_set(changes)
        if any(held.notification.not_before <= now for held in changed if held.notification.status is State.PLANNED):
            self.bell.set()
        return [Held(held.notification, held.version + 1) for held in changed if held.notification.id in written]

    async def unfinished(self) -> AsyncIterator[Held]:
        """Every row that somebody has to look at some day."""
        async for row in self._collection.scan(due_only=True):
            yield Held(Notification.from_json(row.body), row.version, row.due)


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
