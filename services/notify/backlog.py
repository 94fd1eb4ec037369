"""How much waits to be sent, and for how long, as two gauges."""

import asyncio
from collections.abc import Sequence
from typing import Final

from services.notify.ledger import Ledger
from shared.clock import Clock
from shared.log import get_logger
from shared.metrics import NotifyMetrics
from shared.store.port import StoreUnavailable

EVERY_SECONDS: Final = 5.0
SHARE_OF_TIME_MAX: Final = 0.05
"""A long backlog is counted less often, so that counting never takes more of the time than this."""

log = get_logger(__name__)


class Backlog:
    """Counts beside the work, and not when somebody asks for metrics."""

    def __init__(self, ledgers: Sequence[Ledger], clock: Clock, metrics: NotifyMetrics) -> None:
        self._ledgers = ledgers
        self._clock = clock
        self._metrics = metrics

    async def run(self) -> None:
        """Count until cancelled."""
        while True:
            started = self._clock.monotonic()
            try:
                await self.count()
            except StoreUnavailable as error:
                log.warning("the backlog can't be counted", detail=str(error))
            took_seconds = self._clock.monotonic() - started
            await asyncio.sleep(max(EVERY_SECONDS, took_seconds / SHARE_OF_TIME_MAX))

    async def count(self) -> None:
        """Count once."""
        counted = [await ledger.waiting() for ledger in self._ledgers]
        planned = [oldest for _, oldest in counted if oldest is not None]
        self._metrics.waiting.set(sum(count for count, _ in counted))
        self._metrics.oldest_unsent_seconds.set(
            max(0.0, (self._clock.now() - min(planned)).total_seconds()) if planned else 0.0
        )
