"""What a running local mesh tells other commands of itself. Needs none of the parts that it runs on."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared.bus.access import KafkaAccess
from shared.settings import KafkaSettings, wrong_settings

STATE_FILE = "mesh.json"


def running(directory: Path) -> dict[str, Any] | None:
    """What `mesh.json` says of the mesh that runs in a directory; None if none does.

    Keys: pid (who started it), bootstrap, own_kafka (whether these brokers are its own), services (replica's name to
    URL), pids and logs (name to each), smsc_logs and smtp_logs (what our providers accepted: none where the environment
    names others), mongodb_url, mongodb_database.
    """
    try:
        state: dict[str, Any] = json.loads((directory / STATE_FILE).read_text())
        os.kill(state["pid"], 0)
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # PermissionError: the number is a stranger's now
        return None
    return state


def access_of(state: Mapping[str, Any]) -> KafkaAccess:
    """The way to the brokers of a mesh that says this of itself: its own ask for nothing, others for what the
    environment says."""
    return KafkaAccess(state["bootstrap"]) if state["own_kafka"] else environment_access(state["bootstrap"])


def environment_access(bootstrap: str | None = None) -> KafkaAccess:
    """The way to these brokers, or to those that the environment names, as it says; ConfigError if it says it wrong."""
    try:
        settings = KafkaSettings() if bootstrap is None else KafkaSettings(kafka_bootstrap_servers=bootstrap)
        return settings.kafka_access()
    except ValidationError as error:
        raise wrong_settings(error) from None


def service_of(replica: str) -> str:
    """The service that a replica is one of: `routing` for `routing`, `routing-2`, …"""
    return replica.partition("-")[0]
