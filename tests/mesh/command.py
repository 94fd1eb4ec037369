"""The `guichet` command as a process of its own."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.local.places import PROJECT


def run_guichet(*arguments: str | Path, env: Mapping[str, str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """What it said and how it ended, in this environment."""
    return subprocess.run(
        [sys.executable, "-c", "from deploy.cli.main import app; app(prog_name='guichet')", *map(str, arguments)],
        cwd=PROJECT,
        env=env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
