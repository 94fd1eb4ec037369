import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from shared.bus.gather import Gatherer
from shared.bus.port import Unavailable


class Stage:
    """Doubles numbers, batch by batch; holds each batch until it is let go."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.entered = asyncio.Event()
        self.go = asyncio.Event()
        if not held:
            self.go.set()

    async def process(self, batch: Sequence[int]) -> list[int]:
        self.batches.append(list(batch))
        self.entered.set()
        await self.go.wait()
        if -1 in batch:
            raise Unavailable("minus one")
        return [2 * number for number in batch]


@asynccontextmanager
async def running(gatherer: Gatherer[int, int]) -> AsyncIterator[None]:
    task = asyncio.create_task(gatherer.run())
    try:
        async with asyncio.timeout(10):
            yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_each_of_many_callers_gets_its_own_results_in_order() -> None:
    stage = Stage()
    gatherer = Gatherer(stage.process, linger_seconds=0, batch_limit=7)
    calls = [list(range(start, start + start % 4)) for start in range(50)]
    async with running(gatherer):
        answers = await asyncio.gather(*(gatherer.submit(call) for call in calls))
    assert answers == [[2 * number for number in call] for call in calls]
    assert all(len(batch) <= 7 for batch in stage.batches)


async def test_what_arrives_while_a_batch_is_under_way_becomes_the_next_batch() -> None:
    stage = Stage(held=True)
    gatherer = Gatherer(stage.process, linger_seconds=0)
    async with running(gatherer):
        first = gatherer.submit([1])
        await stage.entered.wait()
        later = [gatherer.submit(call) for call in ([2, 3], [4], [5, 6])]
        stage.go.set()
        assert await first == [2]
        assert await asyncio.gather(*later) == [[4, 6], [8], [10, 12]]
    assert stage.batches == [[1], [2, 3, 4, 5, 6]]


async def test_of_two_at_once_the_second_does_not_wait_for_the_first_and_a_third_does() -> None:
    stage = Stage(held=True)
    gatherer = Gatherer(stage.process, linger_seconds=0, batch_limit=2, at_once=2)
    calls = []
    async with running(gatherer):
        for number in (1, 2):
            stage.entered.clear()
            calls.append(gatherer.submit([number]))
            await stage.entered.wait()
        calls += [gatherer.submit([number]) for number in (3, 4)]
        stage.go.set()
        assert await asyncio.gather(*calls) == [[2], [4], [6], [8]]
    assert stage.batches == [[1], [2], [3, 4]]


async def test_less_than_half_a_batch_waits_for_more_while_another_is_under_way() -> None:
    stage = Stage(held=True)
    gatherer = Gatherer(stage.process, linger_seconds=0, batch_limit=4, at_once=2)
    async with running(gatherer):
        calls = [gatherer.submit([1])]
        await stage.entered.wait()
        stage.entered.clear()
        calls.append(gatherer.submit([2]))
        for _ in range(20):
            await asyncio.sleep(0)  # a turn of the loop, in which it could begin
        calls.append(gatherer.submit([3]))
        await stage.entered.wait()
        assert stage.batches == [[1], [2, 3]]
        stage.go.set()
        assert await asyncio.gather(*calls) == [[2], [4], [6]]


async def test_who_waits_too_long_is_told_so_and_who_comes_later_is_answered() -> None:
    stage = Stage(held=True)
    gatherer = Gatherer(stage.process, linger_seconds=0, patience_seconds=0.2)
    async with running(gatherer):
        first = gatherer.submit([1])
        await stage.entered.wait()
        with pytest.raises(Unavailable, match="no answer within"):
            await first
        stage.go.set()
        assert await gatherer.submit([2]) == [4]
    assert stage.batches == [[1], [2]]


async def test_who_still_waits_when_it_stops_is_told_so() -> None:
    stage = Stage(held=True)
    gatherer = Gatherer(stage.process, linger_seconds=0)
    async with running(gatherer):
        under_way = gatherer.submit([1])
        await stage.entered.wait()
        waiting = gatherer.submit([2])
    for call in (under_way, waiting):
        with pytest.raises(Unavailable, match="stops"):
            await call


async def test_a_call_larger_than_a_batch_is_processed_whole() -> None:
    stage = Stage()
    gatherer = Gatherer(stage.process, linger_seconds=0, batch_limit=2)
    async with running(gatherer):
        assert await gatherer.submit([1, 2, 3, 4, 5]) == [2, 4, 6, 8, 10]
    assert stage.batches == [[1, 2, 3, 4, 5]]


async def test_what_processing_raises_each_caller_of_that_batch_gets_and_the_next_batch_goes_on() -> None:
    stage = Stage()
    gatherer = Gatherer(stage.process, linger_seconds=0)
    async with running(gatherer):
        answers = await asyncio.gather(gatherer.submit([1]), gatherer.submit([-1]), return_exceptions=True)
        assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
        assert await gatherer.submit([1]) == [2]


async def test_a_call_beyond_the_waiting_limit_is_refused_at_once_and_the_waiting_ones_are_not() -> None:
    stage = Stage(held=True)
    gatherer = Gatherer(stage.process, linger_seconds=0, waiting_limit=3)
    waiting = gatherer.submit([1, 2])
    with pytest.raises(Unavailable, match="2 events wait already"):
        gatherer.submit([3, 4])
    fitting = gatherer.submit([5])
    async with running(gatherer):
        assert not waiting.done()
        stage.go.set()
        assert await waiting == [2, 4]
        assert await fitting == [10]
        assert await gatherer.submit([6, 7, 8]) == [12, 14, 16]


async def test_a_caller_that_hangs_up_does_not_disturb_the_others() -> None:
    stage = Stage(held=True)
    gatherer = Gatherer(stage.process, linger_seconds=0)
    async with running(gatherer):
        leaving, staying = (gatherer.submit(call) for call in ([1, 2], [3]))
        await stage.entered.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        stage.go.set()
        assert await staying == [6]
    assert stage.batches == [[1, 2, 3]]
