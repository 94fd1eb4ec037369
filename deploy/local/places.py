"""Where the local mesh finds itself and keeps what it fetched."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
"""The folder that holds the packages `services`, `shared` and `deploy`."""


def cache_folder() -> Path:
    """What was fetched once and can be fetched again: $GUICHET_CACHE, or `.cache` beside the packages. Created."""
    folder = Path(os.environ.get("GUICHET_CACHE") or PROJECT / ".cache")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
