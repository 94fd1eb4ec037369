"""What a running local mesh tells other commands of itself. Needs none of the parts that it runs on."""

import json
import os
from pathlib import Path
from typing import Any

STATE_FILE = "mesh.json"


def running(directory: Path) -> dict[str, Any] | None:
    """What `mesh.json` says of the mesh that runs in a directory; None if none does.

    Keys: pid (who started it), bootstrap, services (replica's name to URL), pids and logs (name to each), smsc_logs and
    smtp_logs (what our providers accepted: none where the environment names others), mongodb_url, mongodb_database.
    """
    try:
        state: dict[str, Any] = json.loads((directory / STATE_FILE).read_text())
        os.kill(state["pid"], 0)
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # PermissionError: the number is a stranger's now
        return None
    return state


def service_of(replica: str) -> str:
    """The service that a replica is one of: `routing` for `routing`, `routing-2`, …"""
    return replica.partition("-")[0]
