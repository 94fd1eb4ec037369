"""Watches how far every consumer group is while brokers come and go."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final

from deploy.check.checks import behind
from deploy.check.observed import Sample
from deploy.check.reading import sampling
from shared.bus.access import KafkaAccess
from shared.bus.port import Unavailable

EVERY_SECONDS: Final = 0.5
ANSWER_SECONDS: Final = 5.0
PROMPT_SECONDS: Final = 2.0
"""A mesh at which nothing is wrong finishes each record within less, even on a busy machine."""

RECENT_MAX: Final = 1000
KEPT_EVERY_SECONDS: Final = 5.0
"""One sample in so many seconds is kept for the checkers; all would cost them minutes."""


@dataclass(frozen=True, slots=True)
class _Look:
    """A sample, and when it was asked for.

    `late`: a record had waited for too long by then, or nothing new had come to any topic for as long, or nobody
    could say: requests never stop in a campaign.
    """

    at: float
    sample: Sample
    late: bool


class Monitor:
    """Takes samples of committed offsets until cancelled."""

    def __init__(self, kafka: KafkaAccess, *, settled: Callable[[], bool] = lambda: True) -> None:
        """`settled` says whether what brokers say now is what was acknowledged; other samples are not kept."""
        self._kafka = kafka
        self._settled = settled
        self._recent: deque[_Look] = deque(maxlen=RECENT_MAX)
        self.kept: list[Sample] = []
        self._kept_at = 0.0
        self._afresh = False
        self._taken = asyncio.Event()

    async def run(self) -> None:
        """Sample twice a second, through outages, too."""
        while True:
            try:
                async with sampling(self._kafka) as take:
                    while True:
                        asked_at = monotonic()
                        async with asyncio.timeout(ANSWER_SECONDS):
                            sample = await take()
                        self._note(asked_at, sample)
                        await asyncio.sleep(EVERY_SECONDS)
            except (Unavailable, TimeoutError):
                await asyncio.sleep(EVERY_SECONDS)

    async def in_view(self) -> None:
        """Return once it has looked for long enough to see what is late."""
        while not self._recent or self._recent[-1].at - self._recent[0].at <= PROMPT_SECONDS:
            await self._next()

    async def finished(self, *, within_seconds: float) -> bool:
        """Wait until every group has committed up to where the topics end now; whether that came in time."""
        deadline = monotonic() + within_seconds
        asked_at = monotonic()
        await self._next()
        ends = self._recent[-1].sample.ends if self._recent else {}
        while monotonic() < deadline:
            if self._recent and self._recent[-1].at >= asked_at and not any(behind(self._recent[-1].sample, ends)):
                return True
            await self._next()
        return False

    async def recovered(self, *, since: float, within_seconds: float) -> float | None:
        """Seconds from `since` (monotonic) until nothing was late, and stayed so for PROMPT_SECONDS; None if that took
        too long. Zero: nothing ever was late.

        As samples tell: to half a second.
        """
        deadline = monotonic() + within_seconds
        while monotonic() < deadline:
            looks = [look for look in self._recent if look.at >= since]
            late = [look.at for look in looks if look.late]
            quiet_since = late[-1] if late else since
            if looks and looks[-1].at - quiet_since > PROMPT_SECONDS + EVERY_SECONDS:
                return next(look.at for look in looks if look.at > quiet_since) - since if late else 0.0
            await self._next()
        return None

    def _note(self, at: float, sample: Sample) -> None:
        late = bool(self._recent) and at - self._recent[-1].at > PROMPT_SECONDS
        earlier = [look.sample.ends for look in self._recent if look.at <= at - PROMPT_SECONDS]
        if earlier:
            late = late or any(behind(sample, earlier[-1])) or sum(sample.ends.values()) == sum(earlier[-1].values())
        self._recent.append(_Look(at, sample, late))
        if not self._settled():
            self._afresh = True
        elif at - self._kept_at >= KEPT_EVERY_SECONDS:
            self.kept.append(replace(sample, afresh=self._afresh))
            self._kept_at = at
            self._afresh = False
        self._taken.set()

    async def _next(self) -> None:
        self._taken.clear()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._taken.wait()
        except TimeoutError:
            return
