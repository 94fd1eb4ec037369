"""Failpoints: named places where a process fails if it was told to, and only then."""

import asyncio
import signal
import sys

import pytest

from shared.bus.port import Unavailable
from shared.failpoints import NONE, Action, Armed, Failpoints, Point, parse_failpoints


async def passes(failpoints: Failpoints, point: Point, steps: list[str]) -> None:
    async with failpoints.at(point, Unavailable):
        steps.append("done")


@pytest.mark.parametrize("point", Point)
async def test_where_none_is_armed_nothing_happens(point: Point) -> None:
    steps: list[str] = []
    await passes(NONE, point, steps)
    await NONE.reach(point, Unavailable)
    assert steps == ["done"]
    assert not NONE
    assert not NONE.armed(point)


async def test_it_acts_once_at_the_passing_it_was_told_and_at_its_own_point_only() -> None:
    failpoints = parse_failpoints("P2:raise:2")
    steps: list[str] = []
    await passes(failpoints, Point.DECIDED, steps)
    await passes(failpoints, Point.STORED, steps)
    with pytest.raises(Unavailable, match="failpoint P2"):
        await passes(failpoints, Point.STORED, steps)
    await passes(failpoints, Point.STORED, steps)
    assert steps == ["done"] * 3


async def test_to_fail_after_the_step_means_that_the_step_was_done() -> None:
    steps: list[str] = []
    with pytest.raises(Unavailable, match="after the step"):
        await passes(parse_failpoints("P4:after"), Point.PUBLISHED, steps)
    assert steps == ["done"]


async def test_a_step_that_fails_by_itself_fails_as_it_would_have() -> None:
    with pytest.raises(ZeroDivisionError):
        async with parse_failpoints("P4:after").at(Point.PUBLISHED, Unavailable):
            raise ZeroDivisionError


async def test_a_stall_holds_up_what_passes_and_nothing_else() -> None:
    failpoints = parse_failpoints("P7:stall:1:3600")
    steps: list[str] = []
    stalled = asyncio.create_task(passes(failpoints, Point.ON_THE_WIRE, steps))
    await asyncio.sleep(0)
    await passes(failpoints, Point.ON_THE_WIRE, steps)
    assert steps == ["done"]
    stalled.cancel()
    await asyncio.gather(stalled, return_exceptions=True)
    assert steps == ["done"]


async def test_a_kill_ends_the_process_as_kill_9_would() -> None:
    program = (
        "import asyncio; from shared.failpoints import Point, parse_failpoints;"
        "asyncio.run(parse_failpoints('P0:kill').reach(Point.RECEIVED, RuntimeError))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == -signal.SIGKILL


def test_several_may_be_armed_at_one_point_and_at_others() -> None:
    failpoints = parse_failpoints("P1:raise:3, P1:after:5,P7:stall:1:0.5")
    assert failpoints
    assert [point for point in Point if failpoints.armed(point)] == [Point.DECIDED, Point.ON_THE_WIRE]
    assert Armed(Point.DECIDED, Action.RAISE, 3) != Armed(Point.DECIDED, Action.AFTER, 3)


@pytest.mark.parametrize(
    "text", ["P2", "P2:kill:1:2:3", "P17:kill", "P2:explode", "P2:kill:0", "P2:stall:1:-1", "P2:kill:x"]
)
def test_what_names_no_failpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_failpoints(text)
