"""The committed Prometheus configuration, for a server that runs somewhere else than beside these files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

HOME = Path(__file__).parent


def configuration(targets: Mapping[str, str], *, interval: str = "15s") -> dict[str, Any]:
    """prometheus.yml with these targets (`host:port` by service) in place of files, and rules by absolute path.

    `interval`, a Prometheus duration, is how often it scrapes and evaluates.
    """
    config: dict[str, Any] = yaml.safe_load((HOME / "prometheus.yml").read_text())
    groups = [{"targets": [target], "labels": {"service": service}} for service, target in targets.items()]
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [str(HOME / pattern) for pattern in config["rule_files"]],
        "scrape_configs": [
            {name: value for name, value in job.items() if name != "file_sd_configs"} | {"static_configs": groups}
            for job in config["scrape_configs"]
        ],
    }
