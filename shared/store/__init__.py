"""One store port, two adapters, one contract suite."""

from pathlib import Path

from shared.store.port import Store
from shared.store.sqlite import SqliteStore


def open_store(service: str, *, mongodb_url: str | None, data_dir: Path) -> Store:
    """The store of this service, not yet connected: its own database in MongoDB where a URL is given, else its own
    SQLite file in `data_dir`."""
    if mongodb_url:
        from shared.store.mongo import MongoStore

        return MongoStore(mongodb_url, f"guichet_{service}")
    return SqliteStore(data_dir / f"{service}.sqlite")
