"""How fast a provider may be spoken to."""

import asyncio

from shared.clock import Clock


class TokenBucket:
    """Lets `per_second` messages pass, and a tenth of a second's worth at once after a pause."""

    def __init__(self, per_second: float, clock: Clock) -> None:
        if per_second <= 0:
            raise ValueError(f"a rate is more than 0 a second, not {per_second}")
        self._per_second = per_second
        self._most = max(1.0, per_second / 10)
        self._clock = clock
        self._tokens = self._most
        self._counted_at = clock.monotonic()

    async def take(self, at_most: int) -> int:
        """Wait until at least one may pass; how many then may, up to `at_most`, counted as passed."""
        while (wait_seconds := self._until_next()) > 0:  # noqa: ASYNC110 - there is no event for time
            await asyncio.sleep(wait_seconds)
        taken = min(at_most, int(self._tokens))
        self._tokens -= taken
        return taken

    def settle(self, difference: int) -> None:
        """Count so many more (or, negative, fewer) as passed than were taken."""
        self._tokens = min(self._tokens - difference, self._most)

    def _until_next(self) -> float:
        now = self._clock.monotonic()
        self._tokens = min(self._most, self._tokens + (now - self._counted_at) * self._per_second)
        self._counted_at = now
        return (1 - self._tokens) / self._per_second
