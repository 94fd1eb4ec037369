"""One store port, two adapters, one contract suite."""

from pathlib import Path

from shared.store.port import Store
from shared.store.sqlite import SqliteStore

MONGODB_DATABASE = "guichet"


def open_store(
    service: str, *, mongodb_url: str | None, data_dir: Path, mongodb_database: str = MONGODB_DATABASE
) -> Store:
    """The store of this service, not yet connected.

    Where a URL is given, a database of its own in MongoDB, `<mongodb_database>_<service>`; else a SQLite file of its
    own in `data_dir`.
    """
    if mongodb_url:
        from shared.store.mongo import MongoStore

        return MongoStore(mongodb_url, f"{mongodb_database}_{service}")
    return SqliteStore(data_dir / f"{service}.sqlite")
