"""JSON lines that a part writes before it answers, so that its word can be held against it later."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self


class Journal:
    """Appends entries to a file; each is with the kernel when `append` returns, and so survives a kill -9.

    A context manager: at its end the file is closed.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write the entry as one line, with the UTC time of now (ISO 8601) as its `time`."""
        self._file.write(json.dumps({"time": datetime.now(UTC).isoformat(), **entry}).encode() + b"\n")


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Every whole entry so far, oldest first; none if the file is not there yet."""
    if not path.exists():
        return []
    whole, _, _unfinished = path.read_bytes().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()]
