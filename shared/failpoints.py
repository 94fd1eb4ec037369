"""Named places where a process can be made to fail, to prove that failing there loses nothing.

None is set in production, and then passing one costs less than a microsecond (`python -m benchmarks.failpoints`).
`FAILPOINTS=P2:kill:3,P7:stall:1:5` kills the process with SIGKILL at the third passing of P2, and lets whatever
passes P7 first wait there for five seconds.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Final

from shared.log import get_logger

STALL_SECONDS: Final = 3.0

log = get_logger(__name__)


class Point(StrEnum):
    """Where on its way a piece of work is."""

    RECEIVED = "P0"
    DECIDED = "P1"
    STORED = "P2"
    PARTLY_PUBLISHED = "P3"
    PUBLISHED = "P4"
    COMMITTED = "P5"
    SENDING = "P6"
    ON_THE_WIRE = "P7"
    ANSWERED = "P8"
    SENT = "P9"


class Action(StrEnum):
    """What happens there. `after`: what follows the point is done, and fails all the same."""

    KILL = "kill"
    RAISE = "raise"
    AFTER = "after"
    STALL = "stall"


Error = Callable[[str], Exception]
"""Makes the error by which the part behind a point says that it failed."""


@dataclass(frozen=True, slots=True)
class Armed:
    """An action to be taken once, at the `count`th passing of its point."""

    point: Point
    action: Action
    count: int = 1
    seconds: float = STALL_SECONDS


class Failpoints:
    """The failpoints of one process; without any armed, each passing does nothing."""

    def __init__(self, armed: Sequence[Armed] = ()) -> None:
        self._armed: Mapping[Point, list[Armed]] = {
            point: [each for each in armed if each.point is point] for point in {each.point for each in armed}
        }
        self._passed = dict.fromkeys(self._armed, 0)

    def __bool__(self) -> bool:
        return bool(self._armed)

    def armed(self, point: Point) -> bool:
        """Whether anything ever happens at this point."""
        return point in self._armed

    async def reach(self, point: Point, error: Error) -> None:
        """Pass a point behind which nothing follows that could be done first: there `after` is `raise`."""
        if point in self._armed:
            async with self._act(point, error):
                pass

    def at(self, point: Point, error: Error) -> AbstractAsyncContextManager[None]:
        """Pass a point with the step that follows it: `async with failpoints.at(Point.STORED, Unavailable): …`."""
        return self._act(point, error) if point in self._armed else _NOTHING

    @asynccontextmanager
    async def _act(self, point: Point, error: Error) -> AsyncIterator[None]:
        self._passed[point] += 1
        due = [each for each in self._armed[point] if each.count == self._passed[point]]
        for each in due:
            log.warning("failpoint", point=point, action=each.action, count=each.count)
            match each.action:
                case Action.KILL:
                    os.kill(os.getpid(), signal.SIGKILL)
                case Action.RAISE:
                    raise error(f"failpoint {point}")
                case Action.STALL:
                    await asyncio.sleep(each.seconds)
                case Action.AFTER:
                    pass
        yield
        if any(each.action is Action.AFTER for each in due):
            raise error(f"failpoint {point}, after the step was done")


class _Nothing(AbstractAsyncContextManager[None]):
    """What most points do."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


_NOTHING: Final = _Nothing()
NONE: Final = Failpoints()
"""What production has."""


def parse_failpoints(text: str) -> Failpoints:
    """The failpoints that a text like `P2:kill:3,P7:stall:1:5` names; ValueError says what is wrong with it."""
    return Failpoints([_parse(one.strip()) for one in text.split(",") if one.strip()])


def _parse(text: str) -> Armed:
    words = text.split(":")
    if not 2 <= len(words) <= 4:
        raise ValueError(f"{text!r} is not point:action[:count[:seconds]]")
    if words[0] not in set(Point):
        raise ValueError(f"{words[0]!r} is no failpoint; there are {', '.join(Point)}")
    if words[1] not in set(Action):
        raise ValueError(f"{words[1]!r} is no action of a failpoint; there are {', '.join(Action)}")
    count = int(words[2]) if len(words) > 2 else 1
    seconds = float(words[3]) if len(words) > 3 else STALL_SECONDS
    if count < 1 or not 0 <= seconds < float("inf"):
        raise ValueError(f"{text!r}: a count begins at 1, and seconds are not negative")
    return Armed(Point(words[0]), Action(words[1]), count, seconds)
