"""On what was measured: a figure without its machine says nothing."""

import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path

from deploy.local.kafka import KAFKA_VERSION

_LIBRARIES = ("aiokafka", "faststream", "msgspec", "pydantic", "fastapi", "uvicorn", "uvloop", "motor", "pymongo")


def machine() -> dict[str, object]:
    """Processor, kernel, interpreter and versions, and how busy the machine was before anything was measured."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": int(_field("/proc/meminfo", "MemTotal").split()[0]) // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kafka": KAFKA_VERSION,
        "libraries": {name: version(name) for name in _LIBRARIES} | {"sqlite": sqlite3.sqlite_version},
        "load_before": os.getloadavg()[0],
    }


def _field(file: str, name: str) -> str:
    lines = (line.partition(":") for line in Path(file).read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "unknown")
