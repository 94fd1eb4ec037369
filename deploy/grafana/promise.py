"""*Service promise*: for whoever answers to citizens."""

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models import units

from deploy.grafana.panels import (
    PROMISE_SECONDS,
    PROMISE_SHARE,
    WIDTH,
    bar_panel,
    choice,
    page,
    quantile,
    row,
    stat_panel,
    time_panel,
)

NONE_LATE = ((None, "green"), (1, "orange"))
_DAY_SECONDS = 24 * 3600
_AGENCY = 'agency=~"$agency"'
_STAGES = 'service_code=~"$service", stage=~"accepted|assigned|planned|sent"'


def _told_within(share: float, window: str, *, by: str = "") -> str:
    """Within how many seconds this share of citizens was told."""
    return quantile(share, "guichet_end_to_end_seconds", window, by=by, selector=_AGENCY)


def _in_time(window: str, by: str = "") -> str:
    """The share of messages sent within 10 s."""
    grouping = f" by ({by})" if by else ""
    return (
        f'sum{grouping} (increase(guichet_end_to_end_seconds_bucket{{{_AGENCY}, le="10.0"}}[{window}])) '
        f"/ (sum{grouping} (increase(guichet_end_to_end_seconds_count{{{_AGENCY}}}[{window}])) > 0)"
    )


def _kept(by: str = "") -> str:
    """The share of resolved requests that were resolved on or before their due date."""
    grouping = f" by ({by})" if by else ""
    return (
        f'sum{grouping} (increase(guichet_promises_total{{kept="yes"}}[$__range])) '
        f"/ (sum{grouping} (increase(guichet_promises_total[$__range])) > 0)"
    )


def service_promise() -> Dashboard:
    """How long citizens wait to be told, and whether offices keep their dates."""
    dashboard = page(
        "Service promise",
        "guichet-service-promise",
        "How long citizens wait until they are told, and whether offices answer by the date they were given.",
    )
    dashboard.with_variable(choice("agency", "Agency", "label_values(guichet_requests_total, agency)"))
    dashboard.with_variable(
        choice("service", "Service", "label_values(guichet_service_stage_seconds_count, service_code)")
    )
    for section in (_figures, _waiting, _agencies_and_services, _offices, _messages):
        section(dashboard)
    return dashboard


def _figures(dashboard: Dashboard) -> None:
    within = "Within this time so many citizens were told, counted from their agency's publication of the event."
    dashboard.with_row(row("The promise: 99 of 100 messages leave within 10 seconds"))
    dashboard.with_panel(
        stat_panel(
            "Sent within 10 seconds",
            "Share of messages that the SMS or mail provider had accepted within 10 s. Promised: 99 %.",
            _in_time("$__range"),
            unit=units.PercentUnit,
            steps=PROMISE_SHARE,
        )
    )
    for share, title in ((0.5, "Half were told within"), (0.95, "95 of 100 within"), (0.99, "99 of 100 within")):
        dashboard.with_panel(
            stat_panel(
                title, within, _told_within(share, "$__range"), unit=units.Seconds, steps=PROMISE_SECONDS, width=3
            )
        )
    dashboard.with_panel(
        stat_panel(
            "Answered by the promised date",
            "Share of resolved requests that were resolved on or before their due date, at all offices.",
            _kept(),
            unit=units.PercentUnit,
            steps=((None, "red"), (0.8, "orange"), (0.95, "green")),
        )
    )
    dashboard.with_panel(
        stat_panel(
            "Requests open now",
            "Requests neither resolved nor cancelled, at all offices.",
            "sum(guichet_open_requests)",
            unit=units.Short,
        )
    )
    dashboard.with_panel(
        stat_panel(
            "Overdue now",
            "Open requests whose due date has ended, at all offices.",
            "sum(guichet_overdue_requests)",
            unit=units.Short,
            steps=NONE_LATE,
            width=3,
        )
    )


def _waiting(dashboard: Dashboard) -> None:
    dashboard.with_row(row("Where the time goes"))
    dashboard.with_panel(
        time_panel(
            "How long citizens wait to be told",
            "From the agency's publication to the provider's acceptance of the message.",
            (_told_within(0.5, "$__rate_interval"), "half"),
            (_told_within(0.95, "$__rate_interval"), "95 of 100"),
            (_told_within(0.99, "$__rate_interval"), "99 of 100"),
            unit=units.Seconds,
            steps=PROMISE_SECONDS,
        )
    )
    dashboard.with_panel(
        time_panel(
            "Slow cases of each stage (95 of 100 are quicker)",
            "accepted and updated: intake. assigned: routing. planned, sent: notify. delivered: the mobile network.",
            (
                quantile(0.95, "guichet_stage_seconds", "$__rate_interval", by="stage", selector=_AGENCY),
                "{{stage}}",
            ),
            unit=units.Seconds,
            steps=PROMISE_SECONDS,
        )
    )


def _agencies_and_services(dashboard: Dashboard) -> None:
    dashboard.with_row(row("Agencies and services"))
    dashboard.with_panel(
        bar_panel(
            "Sent within 10 seconds, by agency",
            "Share of each agency's messages that left within the promise.",
            f"sort({_in_time('$__range', 'agency')})",
            unit=units.PercentUnit,
            legend="{{agency}}",
            steps=PROMISE_SHARE,
        )
    )
    dashboard.with_panel(
        bar_panel(
            "95 of 100 told within, by agency",
            "From publication to the provider's acceptance.",
            f"sort_desc({_told_within(0.95, '$__range', by='agency')})",
            unit=units.Seconds,
            legend="{{agency}}",
            steps=PROMISE_SECONDS,
        )
    )
    dashboard.with_panel(
        bar_panel(
            "95 of 100 told within, the 15 slowest services",
            "From publication to the provider's acceptance, for all agencies. Coarse: read it as an order of size.",
            f"topk(15, {quantile(0.95, 'guichet_service_end_to_end_seconds', '$__range', by='service_code')})",
            unit=units.Seconds,
            legend="{{service_code}}",
            steps=PROMISE_SECONDS,
        )
    )

    dashboard.with_panel(
        time_panel(
            "Stages of the chosen services, on average",
            "Which stage a new request waits in. On top of each other they are about what the citizen waits.",
            (
                f"sum by (stage) (rate(guichet_service_stage_seconds_sum{{{_STAGES}}}[$__rate_interval])) "
                f"/ (sum by (stage) (rate(guichet_service_stage_seconds_count{{{_STAGES}}}[$__rate_interval])) > 0)",
                "{{stage}}",
            ),
            unit=units.Seconds,
            width=WIDTH,
            stacked=True,
        )
    )


def _offices(dashboard: Dashboard) -> None:
    dashboard.with_row(row("Offices"))
    dashboard.with_panel(
        bar_panel(
            "Open requests by office",
            "Neither resolved nor cancelled, where they wait now. unassigned: no rule has named an office.",
            "sort_desc(sum by (office) (guichet_open_requests))",
            unit=units.Short,
            legend="{{office}}",
            width=6,
        )
    )
    dashboard.with_panel(
        bar_panel(
            "Overdue requests by office",
            "Open requests whose due date has ended, where they wait now. They stand on requests.overdue.",
            "sort_desc(sum by (office) (guichet_overdue_requests))",
            unit=units.Short,
            legend="{{office}}",
            width=6,
            steps=NONE_LATE,
        )
    )
    dashboard.with_panel(
        bar_panel(
            "Oldest open request by office",
            "How long ago the citizen made the oldest request that still waits there.",
            "sort_desc(max by (office) (guichet_oldest_open_request_seconds))",
            unit=units.Seconds,
            legend="{{office}}",
            width=6,
            steps=((None, "green"), (30 * _DAY_SECONDS, "orange"), (90 * _DAY_SECONDS, "red")),
        )
    )
    dashboard.with_panel(
        bar_panel(
            "Answered by the promised date, by office",
            "Share of the requests resolved in this time range that were resolved on or before their due date.",
            f"sort({_kept('office')})",
            unit=units.PercentUnit,
            legend="{{office}}",
            width=6,
            steps=((None, "red"), (0.8, "orange"), (0.95, "green")),
        )
    )


def _messages(dashboard: Dashboard) -> None:
    dashboard.with_row(row("Requests and messages"))
    dashboard.with_panel(
        time_panel(
            "Requests by what became of them",
            "A second. rejected: refused with a reason. unroutable: no rule names an office, so somebody has to look.",
            (f"sum by (outcome) (rate(guichet_requests_total{{{_AGENCY}}}[$__rate_interval]))", "{{outcome}}"),
            unit=units.RequestsPerSecond,
        )
    )
    dashboard.with_panel(
        time_panel(
            "Messages by channel and outcome",
            "A second. unknown: the connection broke before the provider answered. unreachable: no usable contact.",
            (
                "sum by (channel, status) (rate(guichet_notification_outcomes_total[$__rate_interval]))",
                "{{channel}} {{status}}",
            ),
            unit=units.MessagesPerSecond,
        )
    )
