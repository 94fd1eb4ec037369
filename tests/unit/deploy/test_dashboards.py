"""The dashboards as code, and the JSON that Grafana reads."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from deploy.grafana.generate import DASHBOARDS, dashboard_files, panel_queries
from deploy.local.places import PROJECT

if TYPE_CHECKING:
    from tests.unit.deploy.conftest import Promtool

PANELS = [
    pytest.param(panel, id=f"{dashboard['title']}/{panel['title']}")
    for dashboard in map(json.loads, dashboard_files().values())
    for panel in dashboard["panels"]
    if panel["type"] != "row"
]


def test_the_committed_dashboards_are_those_of_the_code() -> None:
    """If this fails: python -m deploy.grafana"""
    committed = {file.name: file.read_text() for file in DASHBOARDS.glob("*.json")}
    assert committed == dashboard_files()


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_explains_itself(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None
    assert panel["targets"]


def test_no_two_panels_of_a_dashboard_have_one_title() -> None:
    for dashboard in map(json.loads, dashboard_files().values()):
        titles = [panel["title"] for panel in dashboard["panels"]]
        assert len(titles) == len(set(titles))


def test_every_query_is_promql_with_no_variable_left(promtool: "Promtool", tmp_path: Path) -> None:
    queries = panel_queries(rate_interval="30s", time_range="10m")
    assert {query.dashboard for query in queries} == {"Service promise", "Mesh health"}
    assert not [query for query in queries if "$" in query.promql]
    rules = [{"record": f"panel:{number}", "expr": query.promql} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    checked = promtool("check", "rules", "--lint=none", file)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(queries)} rules found" in checked.stdout


def test_panels_ask_only_for_metrics_that_services_have(metric_names: frozenset[str]) -> None:
    asked = {name for query in panel_queries() for name in re.findall(r"\bguichet_\w+", query.promql)}
    assert asked <= metric_names


def test_every_metric_is_seen_by_somebody(metric_names: frozenset[str]) -> None:
    """A metric that no panel shows costs and is of no use: show it, or do without it."""
    asked = {name for query in panel_queries() for name in re.findall(r"\bguichet_\w+", query.promql)}
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}
    existing = {re.sub(r"_(bucket|count|sum)$", "", name) for name in metric_names}
    assert existing - shown == set()


def test_the_very_first_dead_letter_shows_though_its_counter_appears_with_it(
    promtool: "Promtool", tmp_path: Path
) -> None:
    (expr,) = (
        query.promql for query in panel_queries(time_range="15m") if query.panel == "Dead letters in this time range"
    )
    series = 'guichet_dead_letters_total{service="intake", topic="t", reason="%s"}'
    case = {
        "interval": "1m",
        "input_series": [
            {"series": series % "not_json", "values": "_x20 1x40"},
            {"series": series % "empty", "values": "5x60"},
        ],
        "promql_expr_test": [
            {"expr": expr, "eval_time": "19m", "exp_samples": [{"labels": "{}", "value": 0}]},
            {"expr": expr, "eval_time": "25m", "exp_samples": [{"labels": "{}", "value": 1}]},
            {"expr": expr, "eval_time": "59m", "exp_samples": [{"labels": "{}", "value": 0}]},
        ],
    }
    file = tmp_path / "panel.yml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": [case]}))
    tested = promtool("test", "rules", file)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_operators_handbook_names_panels_that_there_are() -> None:
    named = set(re.findall(r'"([^"]+)"', (PROJECT / "docs" / "operations.md").read_text()))
    assert named
    assert named <= {panel["title"] for one in map(json.loads, dashboard_files().values()) for panel in one["panels"]}
