"""The requests that wait for an answer, as two gauges by office."""

from collections.abc import Collection as Names
from functools import partial

from services.metrics.domain import RequestState
from shared.clock import Clock
from shared.metrics import OTHER, LatencyMetrics, known
from shared.store.port import Collection

UNASSIGNED = "unassigned"
"""The office of a request that routing has not decided on, or for which it found none."""


class OpenRequests:
    """How many requests are open at each office, and the age of the oldest, computed when Prometheus asks.

    Kept in memory, about 250 bytes for each open request, and read back from the store at the start.
    """

    def __init__(self, requests: Collection, *, clock: Clock, metrics: LatencyMetrics, offices: Names[str]) -> None:
        self._requests = requests
        self._clock = clock
        self._offices = offices
        self._submitted: dict[str, dict[str, float]] = {office: {} for office in (*offices, OTHER, UNASSIGNED)}
        for office, submitted in self._submitted.items():
            metrics.open_requests.labels(office).set_function(submitted.__len__)
            metrics.oldest_open_seconds.labels(office).set_function(partial(self._oldest_seconds, submitted))

    async def load(self) -> None:
        """Read the open requests from the store. What closed long ago costs nothing: only open rows are due."""
        async for row in self._requests.scan(due_only=True):
            self.put(row.key, RequestState.from_json(row.body))

    def put(self, request_id: str, state: RequestState) -> None:
        """Show the request where its state says, and nowhere else. Doing it again changes nothing."""
        for submitted in self._submitted.values():
            submitted.pop(request_id, None)
        if state.is_open and state.submitted_at is not None:
            office = UNASSIGNED if state.office is None else known(state.office, self._offices)
            self._submitted[office][request_id] = state.submitted_at.timestamp()

    def _oldest_seconds(self, submitted: dict[str, float]) -> float:
        if not submitted:
            return 0.0
        return max(0.0, self._clock.now().timestamp() - min(submitted.values()))
