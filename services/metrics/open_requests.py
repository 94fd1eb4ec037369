"""The requests that wait for an answer, as three gauges by office."""

from collections import Counter
from collections.abc import Collection as Names
from collections.abc import Iterable
from functools import partial

from services.metrics.domain import RequestState
from shared.clock import Clock
from shared.metrics import OTHER, LatencyMetrics, known
from shared.store.port import Collection

UNASSIGNED = "unassigned"
"""The office of a request that routing has not decided on, or for which it found none."""

MINUTE_SECONDS = 60

Place = tuple[str, int, bool]
"""The office where a request waits, the minute in which its citizen made it, since 1970, and whether it is overdue."""


class OpenRequests:
    """How many requests are open at each office, how many of them overdue, and the age of the oldest, computed when
    Prometheus asks.

    Kept in memory as how many were made in which minute, so that a million of one day take no more room than a
    thousand; an age is shown as up to a minute more than it is. Read back from the store at the start.

    A request is moved before the store learns of it, as Tally counts it. If the write failed, the store may say or not
    say so when the request comes again. So where it is shown is kept here until that is `written`.
    """

    def __init__(self, requests: Collection, *, clock: Clock, metrics: LatencyMetrics, offices: Names[str]) -> None:
        self._requests = requests
        self._clock = clock
        self._offices = offices
        self._waiting: dict[str, Counter[int]] = {office: Counter() for office in (*offices, OTHER, UNASSIGNED)}
        self._overdue: dict[str, int] = dict.fromkeys(self._waiting, 0)
        self.unwritten: dict[str, Place | None] = {}
        """Where requests are shown of which the store may not know it yet, by id."""
        for office, minutes in self._waiting.items():
            metrics.open_requests.labels(office).set_function(minutes.total)
            metrics.oldest_open_seconds.labels(office).set_function(partial(self._oldest_seconds, minutes))
            metrics.overdue_requests.labels(office).set_function(partial(self._overdue.__getitem__, office))

    async def load(self) -> None:
        """Read the open requests from the store. What closed long ago costs nothing: only open rows are due."""
        for minutes in self._waiting.values():
            minutes.clear()
        self._overdue.update(dict.fromkeys(self._overdue, 0))
        self.unwritten.clear()
        async for row in self._requests.scan(due_only=True):
            self._add(self._place(RequestState.from_json(row.body)))

    def move(self, request_id: str, before: RequestState, after: RequestState) -> None:
        """Show a request, which the store has in the state before, where the state after says."""
        place = self._place(after)
        shown = self.unwritten[request_id] if request_id in self.unwritten else self._place(before)
        if place != shown:
            self._remove(shown)
            self._add(place)
            self.unwritten[request_id] = place

    def written(self, request_ids: Iterable[str]) -> None:
        """The store has these requests as they were moved last."""
        for request_id in request_ids:
            self.unwritten.pop(request_id, None)

    def _place(self, state: RequestState) -> Place | None:
        if (since := state.open_since) is None:
            return None
        office = UNASSIGNED if state.office is None else known(state.office, self._offices)
        return office, int(since.timestamp()) // MINUTE_SECONDS, state.overdue

    def _add(self, place: Place | None) -> None:
        if place is not None:
            office, minute, overdue = place
            self._waiting[office][minute] += 1
            self._overdue[office] += overdue

    def _remove(self, place: Place | None) -> None:
        if place is not None:
            office, minute, overdue = place
            # It may not be there: another replica may have written of the request after this one had read the store.
            if self._waiting[office][minute] > 1:
                self._waiting[office][minute] -= 1
            else:
                del self._waiting[office][minute]
            self._overdue[office] = max(0, self._overdue[office] - overdue)

    def _oldest_seconds(self, minutes: Counter[int]) -> float:
        if not minutes:
            return 0.0
        return max(0.0, self._clock.now().timestamp() - min(minutes) * MINUTE_SECONDS)
