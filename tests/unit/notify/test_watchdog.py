from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.notify.watchdog import Watchdog
from shared.store.port import StoreUnavailable

if TYPE_CHECKING:
    from tests.unit.notify.conftest import Desk, MakeEvent

STUCK_SECONDS = 120.0


class Reach:
    """Whether a provider can be reached."""

    def __init__(self) -> None:
        self.lost = False

    async def check(self) -> None:
        if self.lost:
            raise RuntimeError("not connected")


@pytest.fixture
def reach() -> Reach:
    return Reach()


@pytest.fixture
def watchdog(desk: "Desk", reach: Reach) -> Watchdog:
    found = Watchdog(desk.clock)
    found.watch("short messages", desk.sms_rows, possible=reach.check)
    return found


async def watch(watchdog: Watchdog, desk: "Desk", *, seconds: float) -> None:
    """Let so much time pass, looking now and then."""
    await watchdog.look()
    for _ in range(10):
        desk.clock.advance(timedelta(seconds=seconds / 10))
        await watchdog.look()


async def test_what_is_due_and_taken_up_by_nobody_is_noticed(
    watchdog: Watchdog, desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted())
    await watch(watchdog, desk, seconds=STUCK_SECONDS)
    assert watchdog.stuck(STUCK_SECONDS) is None
    await watch(watchdog, desk, seconds=1)
    assert "short messages have been due for more than 120 s" in (watchdog.stuck(STUCK_SECONDS) or "")
    await desk.work()
    await watchdog.look()
    assert watchdog.stuck(STUCK_SECONDS) is None


async def test_a_backlog_that_moves_is_nobodys_fault(watchdog: Watchdog, desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(*(accepted(number) for number in range(10)))
    for _ in range(10):
        await watch(watchdog, desk, seconds=STUCK_SECONDS - 1)
        await desk.sender().begin({"smpp": 1})
    await watchdog.look()
    assert watchdog.stuck(STUCK_SECONDS) is None


async def test_while_a_provider_cant_be_reached_nobody_is_blamed_and_afterwards_the_time_begins_anew(
    watchdog: Watchdog, desk: "Desk", accepted: "MakeEvent", reach: Reach
) -> None:
    await desk.plan(accepted())
    reach.lost = True
    await watch(watchdog, desk, seconds=10 * STUCK_SECONDS)
    reach.lost = False
    await watch(watchdog, desk, seconds=STUCK_SECONDS)
    assert watchdog.stuck(STUCK_SECONDS) is None
    await watch(watchdog, desk, seconds=1)
    assert watchdog.stuck(STUCK_SECONDS) is not None


async def test_what_is_due_later_is_not_looked_for(watchdog: Watchdog, desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    desk.clock.jump(timedelta(hours=-1))
    await watch(watchdog, desk, seconds=10 * STUCK_SECONDS)
    assert watchdog.stuck(STUCK_SECONDS) is None


async def test_a_store_that_does_not_answer_shows_nothing(
    watchdog: Watchdog, desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted())
    await watch(watchdog, desk, seconds=STUCK_SECONDS + 1)
    await desk.store.close()
    with pytest.raises(StoreUnavailable):
        await desk.sms.get(["any"])
    await watchdog.look()
    assert watchdog.stuck(STUCK_SECONDS) is None


async def test_what_is_seldom_looked_at_is_not_called_stuck_between_two_looks(
    watchdog: Watchdog, desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted(1), accepted(2))
    await watchdog.look()
    desk.later(seconds=2 * STUCK_SECONDS)
    assert watchdog.stuck(STUCK_SECONDS) is None
    await desk.work(smpp=1)
    await watchdog.look()
    assert watchdog.stuck(STUCK_SECONDS) is None
