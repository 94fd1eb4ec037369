"""What a running local mesh tells other commands of itself. Needs none of the parts that it runs on."""

import json
import os
from pathlib import Path
from typing import Any

STATE_FILE = "mesh.json"


def running(directory: Path) -> dict[str, Any] | None:
    """What `mesh.json` says of the mesh that runs in a directory; None if none does.

    Keys: pid (who started it), bootstrap, services (name to URL), pids and logs (name to each), smsc_log, smtp_log,
    mongodb_url, mongodb_database.
    """
    try:
        state: dict[str, Any] = json.loads((directory / STATE_FILE).read_text())
        os.kill(state["pid"], 0)
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # PermissionError: the number is a stranger's now
        return None
    return state
