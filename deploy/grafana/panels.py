"""The three shapes of panel that the dashboards are made of, and the thresholds that colour them."""

from typing import TypeVar

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

WIDTH = 24
"""Columns of a dashboard."""

Panel = TypeVar("Panel", stat.Panel, timeseries.Panel, bargauge.Panel)
Steps = tuple[tuple[float | None, str], ...]
"""From which value on (None: from below all) a panel takes which colour."""

PLAIN: Steps = ((None, "blue"),)
NONE_IS_GOOD: Steps = ((None, "green"), (1, "red"))
PROMISE_SECONDS: Steps = ((None, "green"), (1, "yellow"), (10, "orange"), (60, "red"))
"""The promise's edges: at once, within the promise, late, far too late."""
PROMISE_SHARE: Steps = ((None, "red"), (0.95, "orange"), (0.99, "green"))
"""99 % within 10 s is promised."""


def quantile(share: float, histogram: str, window: str, *, by: str = "", selector: str = "") -> str:
    """PromQL: below how many seconds this share of a histogram's observations lies. Idle series are left out."""
    grouping = f"{by}, le" if by else "le"
    rates = f"sum by ({grouping}) (rate({histogram}_bucket{{{selector}}}[{window}]))"
    return f"histogram_quantile({share}, {rates}) >= 0"


def stat_panel(
    title: str, description: str, expr: str, *, unit: str, steps: Steps = PLAIN, width: int = 4, legend: str = ""
) -> stat.Panel:
    """One figure, or one a series, over the dashboard's time range."""
    panel = stat.Panel().color_mode(BigValueColorMode.BACKGROUND).graph_mode(BigValueGraphMode.NONE).height(4)
    panel.reduce_options(_last())
    return _dressed(panel, title, description, unit, steps, width).with_target(
        _query(expr, legend).instant().ref_id("A")
    )


def bar_panel(
    title: str, description: str, expr: str, *, unit: str, legend: str, steps: Steps = PLAIN, width: int = 8
) -> bargauge.Panel:
    """One bar a series, as things are at the end of the dashboard's time range."""
    panel = bargauge.Panel().orientation(VizOrientation.HORIZONTAL).min(0).height(10).reduce_options(_last())
    return _dressed(panel, title, description, unit, steps, width).with_target(
        _query(expr, legend).instant().ref_id("A")
    )


def time_panel(
    title: str,
    description: str,
    *queries: tuple[str, str],
    unit: str,
    steps: Steps | None = None,
    width: int = 12,
    stacked: bool = False,
) -> timeseries.Panel:
    """Lines over time; each query is an expression and its legend. `steps` are drawn as dashed lines."""
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel = (
        timeseries.Panel()
        .min(0)
        .height(8)
        .fill_opacity(20 if stacked else 5)
        .show_points(VisibilityMode.NEVER)
        .legend(legend.show_legend(True))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if steps:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED))
    _dressed(panel, title, description, unit, steps or PLAIN, width)
    for ref_id, (expr, series) in zip("ABCD", queries, strict=False):
        panel.with_target(_query(expr, series).range().ref_id(ref_id))
    return panel


def row(title: str) -> dashboard.Row:
    return dashboard.Row(title)


def page(title: str, uid: str, description: str) -> dashboard.Dashboard:
    """An empty dashboard that asks for its Prometheus, since uids differ from one Grafana to another."""
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["guichet"])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .link(dashboard.DashboardLink("Guichet").type(DashboardLinkType.DASHBOARDS).tags(["guichet"]))
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )


def choice(name: str, label: str, values: str) -> dashboard.QueryVariable:
    """A choice of one, several or all values of a label; `values` is Grafana's label_values(...)."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(values)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _dressed(panel: Panel, title: str, description: str, unit: str, steps: Steps, width: int) -> Panel:
    thresholds = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE)
    thresholds.steps([Threshold(value=value, color=colour) for value, colour in steps])
    panel.title(title).description(description).datasource(DATASOURCE).unit(unit).thresholds(thresholds)
    return panel.span(width).no_value("nothing yet")


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"])


def _query(expr: str, legend: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expr).legend_format(legend).datasource(DATASOURCE)
