"""What the dashboards' code gives: JSON for Grafana, and the queries for whoever wants to run them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.health import mesh_health
from deploy.grafana.promise import service_promise

DASHBOARDS = Path(__file__).parent / "dashboards"
"""Where the generated files stand."""


class PanelQuery(NamedTuple):
    """A query of a panel with every variable replaced, as Grafana would send it."""

    dashboard: str
    panel: str
    promql: str


def dashboard_files() -> dict[str, str]:
    """The dashboards' JSON by file name. The same code always gives the same text."""
    built = (service_promise().build(), mesh_health().build())
    for dashboard in built:
        # Grafana would number them when it loads them, and then hold the dashboard for changed.
        for number, panel in enumerate(dashboard.panels or (), start=1):
            panel.id_val = number
    return {f"{one.uid}.json": json.dumps(one, cls=JSONEncoder, indent=2, sort_keys=True) + "\n" for one in built}


def panel_queries(*, rate_interval: str = "1m", time_range: str = "5m") -> list[PanelQuery]:
    """Every query of every panel, for all agencies and services; the intervals are Prometheus durations."""
    values = {"$__rate_interval": rate_interval, "$__range": time_range, "$agency": ".*", "$service": ".*"}
    return [
        PanelQuery(dashboard["title"], panel["title"], _filled(target["expr"], values))
        for dashboard in map(json.loads, dashboard_files().values())
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def _filled(expr: str, values: Mapping[str, str]) -> str:
    def value(variable: re.Match[str]) -> str:
        return values[variable.group()]

    return re.sub(r"\$\w+", value, expr)
