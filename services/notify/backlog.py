"""Looks through all that is not done yet, beside the work: how much waits, and what nobody else would take up."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.notify import domain
from services.notify.domain import State
from services.notify.ledger import Held, Ledger
from services.notify.outcomes import Outcomes
from shared.clock import Clock
from shared.log import get_logger
from shared.metrics import NotifyMetrics
from shared.store.port import StoreUnavailable

EVERY_SECONDS: Final = 5.0
SHARE_OF_TIME_MAX: Final = 0.05
"""A long backlog is looked through less often, so that this never takes more of the time than this."""

TAKEN_UP_AT_ONCE_MAX: Final = 500

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Desk:
    """One channel, as far as it is looked after here."""

    ledger: Ledger
    outcomes: Outcomes


class Backlog:
    """Counts what waits, in two gauges, and not when somebody asks for metrics.

    While every provider of a channel is away its sender takes nothing from the ledger. So it is here that a channel is
    given up which had its time, and that what is owed for it is done even if its first doer died.
    """

    def __init__(
        self, desks: Sequence[Desk], *, fallback_after: timedelta, clock: Clock, metrics: NotifyMetrics
    ) -> None:
        self._desks = desks
        self._fallback_after = fallback_after
        self._clock = clock
        self._metrics = metrics

    async def run(self) -> None:
        """Look through it until cancelled."""
        while True:
            started = self._clock.monotonic()
            try:
                await self.look_through()
            except StoreUnavailable as error:
                log.warning("the backlog can't be looked through", detail=str(error))
            took_seconds = self._clock.monotonic() - started
            await asyncio.sleep(max(EVERY_SECONDS, took_seconds / SHARE_OF_TIME_MAX))

    async def look_through(self) -> None:
        """Look through it once."""
        now = self._clock.now()
        waiting, oldest = 0, now
        for desk in self._desks:
            overdue: list[Held] = []
            untold: list[Held] = []
            async for held in desk.ledger.unfinished():
                notification = held.notification
                if notification.status in (State.PLANNED, State.SENDING):
                    waiting += 1
                    oldest = min(oldest, notification.timeline.planned or now)
                if domain.had_its_time(notification, now, after=self._fallback_after):
                    given_up = domain.refused(notification, now, reason="not_sent_in_time")
                    overdue.append(Held(given_up, held.version))
                elif notification.untold and held.due is not None and held.due <= now:
                    untold.append(held)
            saved = await desk.outcomes.save(overdue[:TAKEN_UP_AT_ONCE_MAX], now)
            await desk.outcomes.announce([*saved, *untold[:TAKEN_UP_AT_ONCE_MAX]])
        self._metrics.waiting.set(waiting)
        self._metrics.oldest_unsent_seconds.set((now - oldest).total_seconds())
