"""Gathers concurrent calls into batches, so that HTTP calls share one store call and one publication."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from shared.bus.port import Unavailable

T = TypeVar("T")
R = TypeVar("R")


class Gatherer(Generic[T, R]):
    """Calls `process` with what arrived while the batches before were under way, and hands each caller its own results.

    `process` gives one result per item, in order. What it raises, each caller of that batch gets. It is called in the
    order of the batches, for up to `at_once` of them without waiting for the one before where half a batch or more
    waits, since a small one costs nearly as much as a large one. What must not overlap is its own to keep apart. A
    caller who has no results after `patience_seconds`, or when it stops running, gets Unavailable.
    """

    def __init__(
        self,
        process: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        linger_seconds: float = 0.002,
        batch_limit: int = 500,
        waiting_limit: int = 5000,
        at_once: int = 1,
        patience_seconds: float = 15.0,
    ) -> None:
        self._process = process
        self._linger_seconds = linger_seconds
        self._batch_limit = batch_limit
        self._waiting_limit = waiting_limit
        self._at_once = at_once
        self._patience_seconds = patience_seconds
        self._unanswered: deque[tuple[float, asyncio.Future[Sequence[R]]]] = deque()
        self._losing_patience: asyncio.TimerHandle | None = None
        self._gathering = asyncio.Lock()
        self._waiting: list[tuple[Sequence[T], asyncio.Future[Sequence[R]]]] = []
        self._waiting_items = 0
        self._under_way = 0
        self._due = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many items wait for a batch."""
        return self._waiting_items

    def submit(self, items: Sequence[T]) -> asyncio.Future[Sequence[R]]:
        """The results for these items, in order. Unavailable at once when too many wait already."""
        if self._waiting_items + len(items) > self._waiting_limit:
            raise Unavailable(f"{self._waiting_items} events wait already")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Sequence[R]] = loop.create_future()
        self._unanswered.append((loop.time() + self._patience_seconds, future))
        if self._losing_patience is None:
            self._losing_patience = loop.call_later(self._patience_seconds, self._lose_patience)
        self._waiting.append((items, future))
        self._waiting_items += len(items)
        self._look()
        return future

    async def run(self) -> None:
        """Process batches until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._at_once):
                    group.create_task(self._one_after_another())
        finally:
            for _, future in self._unanswered:
                if not future.done():
                    future.set_exception(Unavailable("it stops"))

    async def _one_after_another(self) -> None:
        while True:
            async with self._gathering:
                await self._due.wait()
                await asyncio.sleep(self._linger_seconds)
                calls = self._take()
            try:
                await self._process_once(calls)
            finally:
                self._under_way -= 1
                self._look()
            while self._unanswered and self._unanswered[0][1].done():
                self._unanswered.popleft()

    def _look(self) -> None:
        """See whether it is time for another batch."""
        if self._waiting and (not self._under_way or self._waiting_items >= self._batch_limit // 2):
            self._due.set()
        else:
            self._due.clear()

    def _lose_patience(self) -> None:
        """One timer for all callers, whose patience ends in the order in which they came: one for each costs 20 µs."""
        loop = asyncio.get_running_loop()
        while self._unanswered and self._unanswered[0][0] <= loop.time():
            _, future = self._unanswered.popleft()
            if not future.done():
                future.set_exception(Unavailable(f"no answer within {self._patience_seconds:g} s"))
        self._losing_patience = loop.call_at(self._unanswered[0][0], self._lose_patience) if self._unanswered else None

    def _take(self) -> list[tuple[Sequence[T], asyncio.Future[Sequence[R]]]]:
        taken: list[tuple[Sequence[T], asyncio.Future[Sequence[R]]]] = []
        count = 0
        while self._waiting and (not taken or count + len(self._waiting[0][0]) <= self._batch_limit):
            call = self._waiting.pop(0)
            taken.append(call)
            count += len(call[0])
        self._waiting_items -= count
        self._under_way += 1
        self._look()
        return taken

    async def _process_once(self, calls: list[tuple[Sequence[T], asyncio.Future[Sequence[R]]]]) -> None:
        try:
            results = await self._process([item for items, _ in calls for item in items])
        except Exception as error:
            for _, future in calls:
                if not future.done():
                    future.set_exception(error)
            return
        start = 0
        for items, future in calls:
            # A caller that hung up has cancelled its future; its events were taken all the same.
            if not future.done():
                future.set_result(results[start : start + len(items)])
            start += len(items)
