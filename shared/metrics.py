"""Every metric of the mesh: name, meaning, labels, buckets. Nothing else may define one.

Labels come from closed lists only (services, topics, statuses, and the jurisdiction's agencies, service codes and
offices, else `other`); never from what a citizen or an agency wrote. Base units, as Prometheus asks: seconds, totals.
Each group takes its registry, so that two services can live in one process.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import accumulate
from math import inf

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

OTHER = "other"

FAST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""For what one batch or one HTTP call takes."""

PROMISE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 43200, 259200)
"""For what a citizen waits: the promise's edges are 0.1, 1, 10 and 60 seconds; a retry may take days."""

SERVICE_SECONDS = (0.1, 0.5, 1, 5, 10, 60, 3600, 86400)
"""The same, coarser, where there is a histogram for each service code: a catalogue may hold hundreds."""


def known(value: str, allowed: Collection[str]) -> str:
    """The value if it is on the closed list, else `other`: keeps the number of series bounded."""
    return value if value in allowed else OTHER


class Distribution:
    """How many values have each bound as the first that they do not exceed, how many exceed all, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Take in one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class PlainHistogram(Collector):
    """Shows what prometheus_client's Histogram shows, for values that come by the thousand.

    An observation takes a quarter of the time: it takes no lock, and finds its bucket by bisection. So only one thread
    may observe, the one on which Prometheus is answered.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._family = partial(HistogramMetricFamily, name, documentation, labels=labelnames)
        self._bounds = buckets
        self._children: dict[tuple[str, ...], Distribution] = {}
        registry.register(self)

    def labels(self, *values: str) -> Distribution:
        """What is observed under these labels; they are shown from now on."""
        return self._children.setdefault(tuple(map(str, values)), Distribution(self._bounds))

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The name under which the registry lets nobody else register."""
        yield self._family()

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What was observed so far."""
        family = self._family()
        names = [floatToGoString(bound) for bound in (*self._bounds, inf)]  # type: ignore[no-untyped-call]
        for values, child in self._children.items():
            family.add_metric(values, list(zip(names, accumulate(child.counts), strict=True)), child.sum)
        yield family


class BusMetrics:
    """What the batch loop does, in every service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.consumed = Counter(
            "guichet_events_consumed_total", "Records whose offset was committed.", ["topic"], registry=registry
        )
        self.published = Counter(
            "guichet_events_published_total",
            "Events acknowledged by all in-sync replicas.",
            ["topic"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "guichet_dead_letters_total", "Records set aside, by reason.", ["topic", "reason"], registry=registry
        )
        self.unreadable_writers = Counter(
            "guichet_unreadable_writers_total",
            "Times that one writer passed the limit of unreadable records; its name is in the log.",
            ["topic"],
            registry=registry,
        )
        self.stopped = Gauge(
            "guichet_consumer_stopped",
            "1 where a consumer stopped for good and waits for a person. Reason: dead_letters, offsets_gone, "
            "unreadable.",
            ["reason"],
            registry=registry,
        )
        self.batch_failures = Counter(
            "guichet_batch_failures_total",
            "Batches that were put back to be tried again.",
            ["cause"],
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "guichet_batch_seconds",
            "From taking a batch until all that follows from it is acknowledged.",
            buckets=FAST_SECONDS,
            registry=registry,
        )
        self.batch_records = Histogram(
            "guichet_batch_records",
            "Records in a batch.",
            buckets=(1, 2, 5, 10, 50, 100, 250, 500, 1000),
            registry=registry,
        )
        self.lag_seconds = Gauge(
            "guichet_consumer_lag_seconds", "Age of the oldest record not yet committed.", ["topic"], registry=registry
        )


class IntakeMetrics:
    """What agencies sent and what became of it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter(
            "guichet_intake_events_total",
            "Events from agencies. Outcome: accepted, updated, duplicate, rejected.",
            ["agency", "door", "outcome"],
            registry=registry,
        )
        self.rejections = Counter(
            "guichet_intake_rejections_total", "Problems found, by reason code.", ["reason"], registry=registry
        )
        self.http_seconds = PlainHistogram(
            "guichet_http_request_seconds",
            "HTTP calls from agencies, by route and status class.",
            ["route", "status"],
            buckets=FAST_SECONDS,
            registry=registry,
        )


class RoutingMetrics:
    """What was decided."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.decisions = Counter(
            "guichet_routing_decisions_total",
            "First decisions. Outcome: assigned, unroutable.",
            ["outcome"],
            registry=registry,
        )


class NotifyMetrics:
    """What citizens were told, and what waits."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.notifications = Counter(
            "guichet_notifications_total",
            "Changes of a notification's status.",
            ["channel", "status"],
            registry=registry,
        )
        self.attempts = Counter(
            "guichet_delivery_attempts_total",
            "Answers of providers. Outcome: accepted, refused, declined, retry, unknown.",
            ["provider", "outcome"],
            registry=registry,
        )
        self.resent = Counter(
            "guichet_notifications_resent_total",
            "Notifications planned again because nobody knew of them and no receipt came in time.",
            ["channel"],
            registry=registry,
        )
        self.receipts = Counter(
            "guichet_delivery_receipts_total",
            "Delivery receipts that tell an end. Outcome: matched, unmatched.",
            ["provider", "outcome"],
            registry=registry,
        )
        self.segments = Counter("guichet_sms_segments_total", "SMS segments handed over.", registry=registry)
        self.provider_seconds = Histogram(
            "guichet_provider_seconds",
            "Time a provider took to answer.",
            ["provider"],
            buckets=FAST_SECONDS,
            registry=registry,
        )
        self.provider_connected = Gauge(
            "guichet_provider_connected", "1 where a provider can be reached, else 0.", ["provider"], registry=registry
        )
        self.waiting = Gauge(
            "guichet_notifications_waiting", "Notifications not yet in a final status.", registry=registry
        )
        self.oldest_unsent_seconds = Gauge(
            "guichet_oldest_unsent_notification_seconds",
            "Age of the oldest notification not yet sent.",
            registry=registry,
        )


class LatencyMetrics:
    """What the metrics service reads off the timelines of events.

    Agency and service stand in two histograms, not in one, since their product would be too many series.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.stage = PlainHistogram(
            "guichet_stage_seconds",
            "One stage of a request. Stage: accepted or updated, assigned, planned, sent, delivered; each from the one "
            "before.",
            ["stage", "agency"],
            buckets=PROMISE_SECONDS,
            registry=registry,
        )
        self.service_stage = PlainHistogram(
            "guichet_service_stage_seconds",
            "One stage of a request, by service code.",
            ["stage", "service_code"],
            buckets=SERVICE_SECONDS,
            registry=registry,
        )
        self.end_to_end = PlainHistogram(
            "guichet_end_to_end_seconds",
            "From the agency's publication to the provider's acceptance of the message.",
            ["agency", "channel"],
            buckets=PROMISE_SECONDS,
            registry=registry,
        )
        self.service_end_to_end = PlainHistogram(
            "guichet_service_end_to_end_seconds",
            "From the agency's publication to the provider's acceptance of the message, by service code.",
            ["service_code", "channel"],
            buckets=SERVICE_SECONDS,
            registry=registry,
        )
        self.requests = Counter(
            "guichet_requests_total",
            "Requests by what became of them. Outcome: accepted, rejected, assigned, "
            "unroutable, overdue, resolved, cancelled.",
            ["agency", "outcome"],
            registry=registry,
        )
        self.outcomes = Counter(
            "guichet_notification_outcomes_total",
            "Notifications by channel and outcome.",
            ["channel", "status"],
            registry=registry,
        )
        self.open_requests = Gauge(
            "guichet_open_requests", "Requests neither resolved nor cancelled.", ["office"], registry=registry
        )
        self.oldest_open_seconds = Gauge(
            "guichet_oldest_open_request_seconds",
            "Age of the oldest open request since the citizen made it, to the minute.",
            ["office"],
            registry=registry,
        )
        self.overdue_requests = Gauge(
            "guichet_overdue_requests", "Open requests whose due date has ended.", ["office"], registry=registry
        )
        self.promises = Counter(
            "guichet_promises_total",
            "Resolved requests by whether their due date was kept. Kept: yes, no.",
            ["office", "kept"],
            registry=registry,
        )
        self.clock_skew = Counter(
            "guichet_negative_latencies_total",
            "Stages that seemed to end before they began (clock skew); counted as 0 seconds.",
            ["stage"],
            registry=registry,
        )
