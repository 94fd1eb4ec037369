"""What becomes of the next calls of the fakes: written down beforehand, so that a test can draw it and repeat it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

T = TypeVar("T")


class Crash(BaseException):
    """The process dies here, and with it all that it had in memory. Nothing in the code under test may catch it."""


class Ending(Enum):
    """How a call ends for its caller."""

    ANSWERED = "answered"
    FAILED = "failed"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Fate:
    """One call: others have `pause` turns of the event loop first, then it does `done` of its parts (None: all).

    What ends ANSWERED has done all of them, whatever `done` says.
    """

    ending: Ending = Ending.ANSWERED
    done: int | None = None
    pause: int = 0


class Fates:
    """The fates of the next calls, in order; after them, or once healed, every call is answered."""

    def __init__(self, coming: Iterable[Fate] = ()) -> None:
        self._coming = deque(coming)

    def foretell(self, *coming: Fate) -> None:
        """These are the fates of the calls after those that are foretold already."""
        self._coming.extend(coming)

    def heal(self) -> None:
        """From now on every call is answered."""
        self._coming.clear()

    @asynccontextmanager
    async def meet(self, parts: Sequence[T], failure: type[Exception]) -> AsyncIterator[Sequence[T]]:
        """The parts of a call that get done, in order; at the end raises `failure` or Crash if that is its fate."""
        fate = self._coming.popleft() if self._coming else Fate()
        for _ in range(fate.pause):
            await asyncio.sleep(0)
        if fate.ending is Ending.ANSWERED:
            yield parts
            return
        done = parts[: fate.done]
        yield done
        if fate.ending is Ending.CRASHED:
            raise Crash
        raise failure(f"failed on purpose, with {len(done)} of {len(parts)} done")
