"""On what was measured: a figure without its machine says nothing."""

import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

from deploy.local.kafka import KAFKA_VERSION

_LIBRARIES = ("aiokafka", "faststream", "msgspec", "pydantic", "fastapi", "uvicorn", "uvloop", "motor", "pymongo")


def machine() -> dict[str, object]:
    """Processor, kernel, interpreter and versions, and how fast and how busy the machine was before it all.

    `loop_ms`: what a million additions in a loop take, at best: virtual machines of one name differ by a factor of two.
    """
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": int(_field("/proc/meminfo", "MemTotal").split()[0]) // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kafka": KAFKA_VERSION,
        "libraries": {name: version(name) for name in _LIBRARIES} | {"sqlite": sqlite3.sqlite_version},
        "load_before": os.getloadavg()[0],
        "loop_ms": min(_loop_seconds() for _ in range(5)) * 1000,
    }


def _loop_seconds() -> float:
    total, started = 0, perf_counter()
    for number in range(1_000_000):
        total += number
    return perf_counter() - started


def _field(file: str, name: str) -> str:
    lines = (line.partition(":") for line in Path(file).read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "unknown")
