"""A wall clock that somebody sets: it is used where several processes must agree, and never to measure a wait."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from services.notify.rate import TokenBucket
from shared.clock import ManualClock

if TYPE_CHECKING:
    from tests.unit.notify.conftest import Desk, MakeEvent

HOUR = timedelta(hours=1)


async def test_a_clock_set_ahead_while_a_provider_thinks_makes_nobody_send_again(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted())
    sender = desk.sender()
    (begun,) = (await sender.begin({"smpp": 10})).begun
    desk.clock.jump(HOUR)
    assert await desk.work() == 0
    await sender.settle([await sender.hand_over(begun)])
    assert await desk.work() == 0
    assert len(desk.provider.messages) == 1


async def test_a_clock_set_back_delays_what_is_planned_until_it_is_that_late_again_and_loses_none(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted(1))
    desk.clock.jump(-HOUR)
    assert await desk.work() == 0
    await desk.plan(accepted(2))
    assert await desk.work() == 1
    desk.clock.advance(HOUR)
    assert await desk.work() == 1
    assert len(desk.ids) == 2


async def test_a_clock_set_ahead_lets_no_more_messages_pass_than_the_rate_allows() -> None:
    clock = ManualClock(datetime(2026, 11, 1, tzinfo=UTC))
    bucket = TokenBucket(10, clock)
    assert await bucket.take(100) == 1
    clock.jump(HOUR)
    taking = asyncio.create_task(bucket.take(100))
    assert await asyncio.wait({taking}, timeout=0.05) == (set(), {taking})
    clock.advance(timedelta(seconds=0.1))
    assert await taking == 1
