"""Time is passed in, never read in a domain."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Wall time for facts that are written down, monotonic time for waiting."""

    def now(self) -> datetime:
        """The present moment, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, from an unspecified origin."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is told to advance."""

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._elapsed_seconds = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed_seconds

    def advance(self, by: timedelta) -> None:
        """Move both clocks forward by the same span."""
        if by < timedelta(0):
            raise ValueError(f"a clock only advances, not by {by}")
        self._now += by
        self._elapsed_seconds += by.total_seconds()

    def jump(self, by: timedelta) -> None:
        """Set the wall clock alone, forward or back, as whoever corrects a machine's clock does."""
        self._now += by
