"""*Mesh health*: for whoever is on call at night."""

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models import units

from deploy.grafana.panels import NONE_IS_GOOD, PLAIN, Steps, page, quantile, row, stat_panel, time_panel

_LAG_SECONDS: Steps = ((None, "green"), (10, "orange"), (60, "red"))
_UNSENT_SECONDS: Steps = ((None, "green"), (60, "orange"), (900, "red"))

# The counter of a reason appears with its first dead letter; `increase` sees only what comes after.
_NEW_DEAD_LETTERS = (
    "(sum(increase(guichet_dead_letters_total[$__range]) and guichet_dead_letters_total offset $__range) "
    "or on() vector(0)) + "
    "(sum(guichet_dead_letters_total unless guichet_dead_letters_total offset $__range) or on() vector(0))"
)


def mesh_health() -> Dashboard:
    """What runs, what waits, what fails, and where."""
    dashboard = page(
        "Mesh health",
        "guichet-mesh-health",
        "What runs, what waits, what fails, and where. What to do about it: docs/operations.md.",
    )
    for section in (_now, _flow, _delay, _doors, _providers, _receipts, _set_aside, _machines):
        section(dashboard)
    return dashboard


def _now(dashboard: Dashboard) -> None:
    dashboard.with_row(row("Now"))
    dashboard.with_panel(
        stat_panel(
            "Service answers",
            "1: Prometheus reaches every replica. 0: it does not reach one of them.",
            'min by (service) (up{job="guichet"})',
            unit=units.Short,
            steps=((None, "red"), (1, "green")),
            legend="{{service}}",
        )
    )
    for title, description, expr, unit, steps in (
        (
            "Consumers that stopped",
            "They went no further rather than lose something, and wait for a person; /live says why.",
            "sum(guichet_consumer_stopped)",
            units.Short,
            NONE_IS_GOOD,
        ),
        (
            "Furthest behind",
            "Age of the oldest record that a service has not finished. Pages above 60 s.",
            "max(guichet_consumer_lag_seconds)",
            units.Seconds,
            _LAG_SECONDS,
        ),
        (
            "Oldest unsent message",
            "Age of the oldest message not yet handed to its provider. Pages above 15 min when 20 wait.",
            "max(guichet_oldest_unsent_notification_seconds)",
            units.Seconds,
            _UNSENT_SECONDS,
        ),
        ("Messages waiting", "Planned and not sent yet.", "sum(guichet_notifications_waiting)", units.Short, PLAIN),
        (
            "Dead letters in this time range",
            "Records that could not be processed and were set aside.",
            _NEW_DEAD_LETTERS,
            units.Short,
            NONE_IS_GOOD,
        ),
    ):
        dashboard.with_panel(stat_panel(title, description, expr, unit=unit, steps=steps))


def _flow(dashboard: Dashboard) -> None:
    dashboard.with_row(row("Flow"))
    dashboard.with_panel(
        time_panel(
            "Events in",
            "Records a second that services finished, by topic.",
            (
                "sum by (service, topic) (rate(guichet_events_consumed_total[$__rate_interval]))",
                "{{service}} ← {{topic}}",
            ),
            unit=units.EventsPerSecond,
        )
    )
    dashboard.with_panel(
        time_panel(
            "Events out",
            "Events a second that all in-sync replicas acknowledged, by topic.",
            (
                "sum by (service, topic) (rate(guichet_events_published_total[$__rate_interval]))",
                "{{service}} → {{topic}}",
            ),
            unit=units.EventsPerSecond,
        )
    )


def _delay(dashboard: Dashboard) -> None:
    dashboard.with_row(row("Delay"))
    dashboard.with_panel(
        time_panel(
            "Consumer lag",
            "Age of the oldest record not finished. A line that rises by a second each second stands still.",
            ("max by (service, topic) (guichet_consumer_lag_seconds)", "{{service}} {{topic}}"),
            unit=units.Seconds,
            steps=_LAG_SECONDS,
        )
    )
    dashboard.with_panel(
        time_panel(
            "Batches put back",
            "A second, by what did not answer: StoreUnavailable is the store, Unavailable and CommitFailed are Kafka.",
            (
                "sum by (service, cause) (rate(guichet_batch_failures_total[$__rate_interval])) or on() vector(0)",
                "{{service}} {{cause}}",
            ),
            unit=units.OpsPerSecond,
        )
    )
    dashboard.with_panel(
        time_panel(
            "Batch time (99 of 100 are quicker)",
            "From taking a batch out of Kafka to the commit of its offsets: decoding, store and publication.",
            (quantile(0.99, "guichet_batch_seconds", "$__rate_interval", by="service"), "{{service}}"),
            unit=units.Seconds,
            steps=((None, "green"), (1, "orange"), (5, "red")),
        )
    )
    dashboard.with_panel(
        time_panel(
            "Records in a batch",
            "On average. At 500, the most there can be, a service takes all it can get.",
            (
                "sum by (service) (rate(guichet_batch_records_sum[$__rate_interval])) "
                "/ (sum by (service) (rate(guichet_batch_records_count[$__rate_interval])) > 0)",
                "{{service}}",
            ),
            unit=units.Short,
        )
    )


def _doors(dashboard: Dashboard) -> None:
    dashboard.with_row(row("Agencies at the door"))
    dashboard.with_panel(
        time_panel(
            "HTTP calls",
            "A second, by route and kind of answer. 5xx is ours, 4xx is the caller's.",
            (
                "sum by (route, status) (rate(guichet_http_request_seconds_count[$__rate_interval]))",
                "{{route}} {{status}}",
            ),
            unit=units.RequestsPerSecond,
            width=8,
        )
    )
    dashboard.with_panel(
        time_panel(
            "HTTP answers (99 of 100 are quicker)",
            "Time until intake answered, which is once the events are durable.",
            (
                quantile(0.99, "guichet_http_request_seconds", "$__rate_interval", by="route"),
                "{{route}}",
            ),
            unit=units.Seconds,
            steps=((None, "green"), (0.05, "orange"), (1, "red")),
            width=8,
        )
    )
    dashboard.with_panel(
        time_panel(
            "What became of agencies' events",
            "A second, by door. duplicate: sent before, and answered as then.",
            (
                "sum by (door, outcome) (rate(guichet_intake_events_total[$__rate_interval]))",
                "{{door}} {{outcome}}",
            ),
            ("sum(rate(guichet_intake_rejections_total[$__rate_interval])) or on() vector(0)", "problems found"),
            unit=units.EventsPerSecond,
            width=8,
        )
    )


def _providers(dashboard: Dashboard) -> None:
    dashboard.with_row(row("Providers"))
    dashboard.with_panel(
        time_panel(
            "Providers connected",
            "1: every replica of notify reaches it. 0: one does not. Messages go to the others meanwhile, or wait.",
            ("min by (provider) (guichet_provider_connected)", "{{provider}}"),
            unit=units.Short,
            width=6,
        )
    )
    dashboard.with_panel(
        time_panel(
            "Answers of providers",
            "A second. retry: put off. refused: final. declined: final for this provider. unknown: no answer came.",
            (
                "sum by (provider, outcome) (rate(guichet_delivery_attempts_total[$__rate_interval]))",
                "{{provider}} {{outcome}}",
            ),
            unit=units.OpsPerSecond,
            width=6,
        )
    )
    dashboard.with_panel(
        time_panel(
            "Time providers take (99 of 100 are quicker)",
            "From handing a message over to the provider's answer.",
            (
                quantile(0.99, "guichet_provider_seconds", "$__rate_interval", by="provider"),
                "{{provider}}",
            ),
            unit=units.Seconds,
            steps=((None, "green"), (1, "orange"), (10, "red")),
            width=6,
        )
    )
    dashboard.with_panel(
        time_panel(
            "Messages waiting and unknown",
            "Planned and not sent yet; and, in this time range, those of which nobody can know whether they were sent, "
            "and those of them that were sent again.",
            ("sum(guichet_notifications_waiting)", "waiting"),
            (
                'sum(increase(guichet_notifications_total{status="unknown"}[$__range])) or on() vector(0)',
                "became unknown",
            ),
            (
                "sum(increase(guichet_notifications_resent_total[$__range])) or on() vector(0)",
                "were sent again",
            ),
            unit=units.Short,
            width=6,
        )
    )


def _receipts(dashboard: Dashboard) -> None:
    dashboard.with_panel(
        time_panel(
            "Delivery receipts",
            "A second, by what became of them.",
            ("sum by (outcome) (rate(guichet_delivery_receipts_total[$__rate_interval]))", "{{outcome}}"),
            unit=units.OpsPerSecond,
        )
    )
    dashboard.with_panel(
        time_panel(
            "SMS segments",
            "A second. Each is paid for: a text that needs two instead of one doubles the bill.",
            ("sum(rate(guichet_sms_segments_total[$__rate_interval]))", "segments"),
            unit=units.MessagesPerSecond,
        )
    )


def _set_aside(dashboard: Dashboard) -> None:
    dashboard.with_row(row("Set aside"))
    dashboard.with_panel(
        time_panel(
            "Dead letters by reason",
            "Records set aside since each service started. A step up is a new one.",
            ("sum by (service, reason) (guichet_dead_letters_total) or on() vector(0)", "{{service}} {{reason}}"),
            (
                "sum(guichet_unreadable_writers_total) or on() vector(0)",
                "times an agency passed the limit of unreadable records",
            ),
            unit=units.Short,
        )
    )
    dashboard.with_panel(
        time_panel(
            "Requests that no rule routes",
            "A second. They stand on requests.unroutable until somebody adds a rule.",
            (
                'sum(rate(guichet_routing_decisions_total{outcome="unroutable"}[$__rate_interval])) or on() vector(0)',
                "unroutable",
            ),
            unit=units.RequestsPerSecond,
        )
    )


def _machines(dashboard: Dashboard) -> None:
    dashboard.with_row(row("Processes"))
    dashboard.with_panel(
        time_panel(
            "Memory",
            "Resident, the largest replica of each service. A line that only rises is a leak.",
            ("max by (service) (process_resident_memory_bytes)", "{{service}}"),
            unit=units.BytesIEC,
            width=8,
        )
    )
    dashboard.with_panel(
        time_panel(
            "Processor",
            "Cores in use, the busiest replica of each service. One is all that a replica can use.",
            ("max by (service) (rate(process_cpu_seconds_total[$__rate_interval]))", "{{service}}"),
            unit=units.Short,
            steps=((None, "green"), (0.8, "orange")),
            width=8,
        )
    )
    dashboard.with_panel(
        time_panel(
            "Stages that ended before they began",
            "A second: the clocks of two machines are out of step, and latencies are wrong by as much.",
            (
                "sum by (stage) (rate(guichet_negative_latencies_total[$__rate_interval])) or on() vector(0)",
                "{{stage}}",
            ),
            unit=units.OpsPerSecond,
            width=8,
        )
    )
