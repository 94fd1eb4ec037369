"""The Prometheus configuration and its rules, by Prometheus's own tools."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from deploy.local.places import PROJECT
from deploy.prometheus import HOME, configuration
from shared.metrics import PROMISE_SECONDS

if TYPE_CHECKING:
    from tests.unit.deploy.conftest import Promtool

RULE_TESTS = sorted((HOME / "tests").glob("*.yml"))


def rules() -> list[dict[str, Any]]:
    files = (HOME / "rules").glob("*.yml")
    return [rule for file in files for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def test_prometheus_accepts_the_configuration_and_its_rules(promtool: "Promtool") -> None:
    checked = promtool("check", "config", HOME / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(ALERTS)} rules found" in checked.stdout


def test_the_configuration_for_elsewhere_has_the_same_rules_and_the_targets_given(
    promtool: "Promtool", tmp_path: Path
) -> None:
    config = configuration({"intake": "127.0.0.1:8001", "notify": "127.0.0.1:8002"}, interval="1s")
    file = tmp_path / "prometheus.yml"
    file.write_text(json.dumps(config))
    checked = promtool("check", "config", file)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(ALERTS)} rules found" in checked.stdout
    (job,) = config["scrape_configs"]
    assert job == {
        "job_name": "guichet",
        "static_configs": [
            {"targets": ["127.0.0.1:8001"], "labels": {"service": "intake"}},
            {"targets": ["127.0.0.1:8002"], "labels": {"service": "notify"}},
        ],
    }


@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_only_then(promtool: "Promtool", file: Path) -> None:
    tested = promtool("test", "rules", file)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_shown_to_fire_and_every_one_but_the_watchdog_not_to() -> None:
    fires: set[str] = set()
    rests: set[str] = set()
    for file in RULE_TESTS:
        for case in yaml.safe_load(file.read_text())["tests"]:
            for check in case.get("alert_rule_test", ()):
                (fires if check["exp_alerts"] else rests).add(check["alertname"])
    assert fires == ALERTS.keys()
    assert rests == ALERTS.keys() - {"GuichetWatchdog"}


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_what_it_means_and_where_help_is(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("page", "ticket", "none")
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    file, _, anchor = alert["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^### (\w+)$", (PROJECT / file).read_text(), re.MULTILINE)
    assert anchor in [heading.lower() for heading in headings if heading == name]


def test_rules_ask_only_for_metrics_that_services_have(metric_names: frozenset[str]) -> None:
    asked = {name for rule in rules() for name in re.findall(r"\bguichet_\w+", rule["expr"])}
    assert asked, "the rules ask for something"
    assert asked <= metric_names


def test_the_promise_stands_on_a_bucket_of_the_histogram() -> None:
    edges = {float(edge) for rule in rules() for edge in re.findall(r'le="([\d.]+)"', rule["expr"])}
    assert edges == {10.0}
    assert edges <= set(PROMISE_SECONDS)
