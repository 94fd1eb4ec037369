"""Notices work that is due and that nobody takes up."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from shared.clock import Clock
from shared.log import get_logger
from shared.store.port import Collection, Row, StoreUnavailable

EVERY_SECONDS: Final = 15.0
SHARE_OF_TIME_MAX: Final = 0.02
"""A long backlog is looked through less often, so that looking never takes more of the time than this."""

log = get_logger(__name__)


@dataclass(slots=True)
class _Watched:
    name: str
    collection: Collection
    possible: Callable[[], Awaitable[None]] | None
    foremost: tuple[str, int] | None = None
    changed_seconds: float = 0.0
    looked_seconds: float = 0.0


class Watchdog:
    """Looks again and again at which row of a collection has been due longest.

    While anybody works, here or at another replica, that row is another each time, or has a new version. Nothing is
    held against whoever can't work: `possible` raises where the provider can't be reached, and a store that does not
    answer shows nothing.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watched: list[_Watched] = []

    def watch(
        self, name: str, collection: Collection, *, possible: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Look at this collection too; `name` is what `stuck` calls it."""
        self._watched.append(_Watched(name, collection, possible))

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            started = self._clock.monotonic()
            await self.look()
            took_seconds = self._clock.monotonic() - started
            await asyncio.sleep(max(EVERY_SECONDS, took_seconds / SHARE_OF_TIME_MAX))

    async def look(self) -> None:
        """Look once."""
        for watched in self._watched:
            foremost = await self._foremost(watched)
            watched.looked_seconds = self._clock.monotonic()
            if foremost is None or foremost != watched.foremost:
                watched.foremost = foremost
                watched.changed_seconds = watched.looked_seconds

    def stuck(self, after_seconds: float) -> str | None:
        """Why the tasks beside the consumers will not go on by themselves, if they won't."""
        for watched in self._watched:
            # Up to the last look: nobody knows what became of the row since, and the next look may be far.
            if watched.foremost is not None and watched.looked_seconds - watched.changed_seconds > after_seconds:
                return f"{watched.name} have been due for more than {after_seconds:g} s and nobody takes them up"
        return None

    async def _foremost(self, watched: _Watched) -> tuple[str, int] | None:
        try:
            row = await self._longest_due(watched.collection)
            if row is not None and watched.possible is not None:
                await watched.possible()
        except StoreUnavailable as error:
            log.warning("what is due can't be looked at", watched=watched.name, detail=str(error))
            return None
        except Exception:  # whatever a provider says of why it can't be reached now
            return None
        return None if row is None else (row.key, row.version)

    async def _longest_due(self, collection: Collection) -> Row | None:
        now = self._clock.now()
        found: Row | None = None
        async for row in collection.scan(due_only=True):
            if row.due is not None and row.due <= now and (found is None or row.due < (found.due or now)):
                found = row
        return found
