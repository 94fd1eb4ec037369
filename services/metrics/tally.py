"""Events into Prometheus."""

from collections.abc import Iterable, Mapping
from functools import cache, partial
from itertools import product

from services.metrics.domain import END_TO_END, OUTCOMES, Observation, RequestState
from shared.contract.events import Channel, NotificationStatus
from shared.jurisdiction import Jurisdiction
from shared.metrics import OTHER, Distribution, LatencyMetrics, known

NO_CHANNEL = "none"
"""The channel of a notification to somebody whom nothing reaches."""


class Tally:
    """Counts each event once in the life of this process, which is as long as its counters live.

    An event is counted before the store learns of it. The other way round, one whose write failed half way would
    stand there as counted and never be. So the ids counted are kept here until they are `written`, and a batch that
    was put back and comes again is not counted a second time.
    """

    def __init__(self, metrics: LatencyMetrics, jurisdiction: Jurisdiction) -> None:
        self._jurisdiction = jurisdiction
        self.unwritten: set[str] = set()
        """Ids of events that were counted, and that the store may not know of yet."""
        self.unwritten_promises: set[str] = set()
        """Ids of requests whose promise was counted, and of which the store may not know that yet."""
        # Finding a child by its labels costs more than observing. Labels come from closed lists, so caches stay small.
        self._histograms = cache(partial(_histograms, metrics))
        self._requests = cache(metrics.requests.labels)
        self._outcomes = cache(metrics.outcomes.labels)
        self._promises = cache(metrics.promises.labels)
        self._clock_skew = cache(metrics.clock_skew.labels)
        self._begin_at_zero(metrics)

    def count(self, event_id: str, seen: Observation) -> None:
        """Observe what this event says, unless that was done already."""
        if event_id in self.unwritten:
            return
        self.unwritten.add(event_id)
        agency = known(seen.agency, self._jurisdiction.agencies)
        service_code = known(seen.service_code, self._jurisdiction.services)
        channel = seen.channel or NO_CHANNEL
        if seen.outcome is not None:
            self._requests(agency, seen.outcome).inc()
        if seen.status is not None:
            self._outcomes(channel, seen.status).inc()
        for stage, seconds in seen.waits:
            if seconds < 0:
                self._clock_skew(stage).inc()
                seconds = 0.0
            for histogram in self._histograms(stage, agency, service_code, channel):
                histogram.observe(seconds)

    def count_promise(self, request_id: str, before: RequestState, after: RequestState) -> None:
        """Count it with whichever event completes it; after a failed write that may be another one than before."""
        if after.promise_kept is None or before.promise_kept is not None or request_id in self.unwritten_promises:
            return
        self.unwritten_promises.add(request_id)
        office = known(after.office or "", self._jurisdiction.offices)
        self._promises(office, "yes" if after.promise_kept else "no").inc()

    def written(self, event_ids: Iterable[str], states: Mapping[str, RequestState]) -> None:
        """The store has it that these were counted, and that their requests, by id, are in these states."""
        self.unwritten.difference_update(event_ids)
        self.unwritten_promises.difference_update(
            request_id for request_id, state in states.items() if state.promise_kept is not None
        )

    def _begin_at_zero(self, metrics: LatencyMetrics) -> None:
        """Show the series that alerts and promises rest on before their first event.

        Prometheus sees an increase between two samples only: of a series that begins at 1 it never counts that one.
        """
        for agency in (*self._jurisdiction.agencies, OTHER):
            for channel in Channel:
                metrics.end_to_end.labels(agency, channel)
            for outcome in OUTCOMES:
                self._requests(agency, outcome)
        for channel, status in product((*Channel, NO_CHANNEL), NotificationStatus):
            self._outcomes(channel, status)
        for office, kept in product((*self._jurisdiction.offices, OTHER), ("yes", "no")):
            self._promises(office, kept)


def _histograms(
    metrics: LatencyMetrics, stage: str, agency: str, service_code: str, channel: str
) -> tuple[Distribution, Distribution]:
    """Where a stage is observed: by agency and by service code."""
    if stage == END_TO_END:
        return metrics.end_to_end.labels(agency, channel), metrics.service_end_to_end.labels(service_code, channel)
    return metrics.stage.labels(stage, agency), metrics.service_stage.labels(stage, service_code)
