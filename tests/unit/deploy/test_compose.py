"""The compose file, checked without Docker."""

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from deploy.local.places import PROJECT
from services.intake.settings import IntakeSettings
from services.metrics.settings import MetricsSettings
from services.notify.settings import NotifySettings
from services.routing.settings import RoutingSettings
from shared.settings import ServiceSettings

HOME = PROJECT / "deploy" / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((HOME / "compose.yaml").read_text())
SERVICES: dict[str, type[ServiceSettings]] = {
    "intake": IntakeSettings,
    "routing": RoutingSettings,
    "notify": NotifySettings,
    "metrics": MetricsSettings,
}


def image_environment() -> set[str]:
    """The variables that the Dockerfile sets."""
    text = (HOME / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.removeprefix("ENV ").split() for line in text.splitlines() if line.startswith("ENV ")]
    return {assignment.split("=")[0] for line in lines for assignment in line}


def variables(settings: type[BaseModel]) -> dict[str, bool]:
    """The variables that settings are made of, and whether each has to be there."""
    found: dict[str, bool] = {}
    for field, about in settings.model_fields.items():
        kinds = (about.annotation, *get_args(about.annotation))
        part = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if part is None:
            found[field.upper()] = about.is_required()
        else:
            optional = about.default is None
            inner = variables(part).items()
            found |= {f"{field.upper()}_{name}": must and not optional for name, must in inner}
    return found


def test_the_compose_file_is_one() -> None:
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", "--no-cache"),
            str(HOME / "compose.yaml"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_told_all_that_it_must_know(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["command"] == ["python", "-m", f"services.{name}"]
    understood = variables(SERVICES[name])
    required = {variable for variable, must in understood.items() if must}
    assert required <= service["environment"].keys() | image_environment()
    assert service["environment"].keys() <= understood.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_waits_for_its_topics_and_is_healthy_when_ready(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["depends_on"]["topics"] == {"condition": "service_completed_successfully"}
    assert "/ready" in service["healthcheck"]["test"][-1]


def test_the_mesh_comes_from_one_image() -> None:
    ours = {service["image"] for service in COMPOSE["services"].values() if "build" in service}
    assert ours == {"guichet"}
    assert {*SERVICES, "topics"} <= {name for name, service in COMPOSE["services"].items() if "build" in service}


def test_what_is_mounted_is_there() -> None:
    mounts = [
        volume.split(":")[0]
        for service in COMPOSE["services"].values()
        for volume in service.get("volumes", ())
        if volume.startswith(".")
    ]
    assert mounts
    assert [mount for mount in mounts if not (HOME / mount).exists()] == []
    named = {
        volume.split(":")[0]
        for service in COMPOSE["services"].values()
        for volume in service.get("volumes", ())
        if not volume.startswith(".")
    }
    assert named == COMPOSE["volumes"].keys()


def test_prometheus_is_told_of_every_service_where_it_listens() -> None:
    groups = yaml.safe_load((HOME / "targets.yml").read_text())
    told = {group["labels"]["service"]: group["targets"] for group in groups}
    assert told == {name: [f"{name}:8080"] for name in SERVICES}


def test_nothing_secret_has_a_default() -> None:
    example = (HOME / ".env.example").read_text()
    asked = {
        line.split("${")[1].split(":?")[0] for line in (HOME / "compose.yaml").read_text().splitlines() if ":?" in line
    }
    assert asked == {"SMPP_PASSWORD", "GRAFANA_ADMIN_PASSWORD"}
    assert {line for line in example.splitlines() if line.endswith("=")} == {f"{name}=" for name in asked}


def test_only_loopback_is_opened_to_the_machine() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_the_image_takes_only_dependencies_whose_hashes_are_known() -> None:
    installs = [line for line in (HOME / "Dockerfile").read_text().splitlines() if "pip install" in line]
    assert installs
    assert [line for line in installs if "--require-hashes" not in line] == []


def test_the_image_copies_only_what_is_there() -> None:
    copies = [line.split()[1] for line in (HOME / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")]
    assert copies
    assert [source for source in copies if not Path(PROJECT, source).exists()] == []
