"""Events into Prometheus."""

from collections.abc import Iterable, Mapping
from functools import cache
from itertools import product

from services.metrics.domain import END_TO_END, OUTCOMES, RequestState, latencies, request_outcome, row_key
from shared.contract.events import (
    Channel,
    Event,
    NotificationOutcome,
    NotificationStatus,
    RequestAccepted,
    RequestAssigned,
    RequestRejected,
    RequestUnroutable,
    RequestUpdated,
)
from shared.jurisdiction import Jurisdiction
from shared.metrics import OTHER, LatencyMetrics, known

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
        self._stage = cache(metrics.stage.labels)
        self._service_stage = cache(metrics.service_stage.labels)
        self._end_to_end = cache(metrics.end_to_end.labels)
        self._service_end_to_end = cache(metrics.service_end_to_end.labels)
        self._requests = cache(metrics.requests.labels)
        self._outcomes = cache(metrics.outcomes.labels)
        self._promises = cache(metrics.promises.labels)
        self._clock_skew = cache(metrics.clock_skew.labels)
        self._begin_at_zero()

    def count(self, event: Event, before: RequestState, after: RequestState) -> None:
        """Observe what this event says, which took its request from one state to the other."""
        self._count_promise(event, before, after)
        if event.id in self.unwritten:
            return
        self.unwritten.add(event.id)
        agency, service_code, channel = self._labels(event)
        if (outcome := request_outcome(event)) is not None:
            self._requests(agency, outcome).inc()
        if isinstance(event, NotificationOutcome):
            self._outcomes(channel, event.data.status).inc()
        for latency in latencies(event):
            if latency.skewed:
                self._clock_skew(latency.stage).inc()
            if latency.stage == END_TO_END:
                self._end_to_end(agency, channel).observe(latency.seconds)
                self._service_end_to_end(service_code, channel).observe(latency.seconds)
            else:
                self._stage(latency.stage, agency).observe(latency.seconds)
                self._service_stage(latency.stage, service_code).observe(latency.seconds)

    def written(self, events: Iterable[Event], states: Mapping[str, RequestState]) -> None:
        """The store has it that these were counted, and that their requests, by id, are in these states."""
        self.unwritten.difference_update(event.id for event in events)
        self.unwritten_promises.difference_update(
            request_id for request_id, state in states.items() if state.promise_kept is not None
        )

    def _count_promise(self, event: Event, before: RequestState, after: RequestState) -> None:
        """Count it with whichever event completes it; after a failed write that may be another one than before."""
        request_id = row_key(event)
        if request_id is None or before.promise_kept is not None or after.promise_kept is None:
            return
        if request_id not in self.unwritten_promises:
            self.unwritten_promises.add(request_id)
            office = known(after.office or "", self._jurisdiction.offices)
            self._promises(office, "yes" if after.promise_kept else "no").inc()

    def _begin_at_zero(self) -> None:
        """Show the series that alerts and promises rest on before their first event.

        Prometheus sees an increase between two samples only: of a series that begins at 1 it never counts that one.
        """
        for agency in (*self._jurisdiction.agencies, OTHER):
            for channel in Channel:
                self._end_to_end(agency, channel)
            for outcome in OUTCOMES:
                self._requests(agency, outcome)
        for channel, status in product((*Channel, NO_CHANNEL), NotificationStatus):
            self._outcomes(channel, status)
        for office, kept in product((*self._jurisdiction.offices, OTHER), ("yes", "no")):
            self._promises(office, kept)

    def _labels(self, event: Event) -> tuple[str, str, str]:
        """Agency, service code and channel of an event, each on its closed list or `other`."""
        agency = service_code = ""
        channel = NO_CHANNEL
        match event:
            case RequestAccepted() | RequestAssigned() | RequestUnroutable() | RequestUpdated():
                agency, service_code = event.data.request.agency, event.data.request.service_code
            case NotificationOutcome(data=data):
                agency, service_code, channel = data.agency, data.service_code, data.channel or NO_CHANNEL
            case RequestRejected(data=data):
                agency = data.agency
        return known(agency, self._jurisdiction.agencies), known(service_code, self._jurisdiction.services), channel
