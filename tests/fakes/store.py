"""A store in memory."""

from collections.abc import AsyncIterator, Mapping
from collections.abc import Collection as Keys
from datetime import datetime, timedelta

from shared.store.encoding import check_keys, checked_name, from_micros, to_micros
from shared.store.port import Change, Document, Row, StoreUnavailable
from tests.fakes.fates import Fates

PAGE_ROWS = 500

Tables = dict[str, dict[str, Row]]
"""The rows of each collection, by key: what outlives the process."""


class MemoryStore:
    """A Store over `tables`, which other stores may have open as well. Every call but an empty one meets its fate."""

    def __init__(self, tables: Tables | None = None, fates: Fates | None = None) -> None:
        self.tables: Tables = {} if tables is None else tables
        self.fates = fates or Fates()
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    async def ping(self) -> None:
        self.check_open()
        async with self.fates.meet((), StoreUnavailable):
            pass

    def collection(self, name: str) -> "MemoryCollection":
        return MemoryCollection(self, checked_name(name))

    def check_open(self) -> None:
        """StoreUnavailable if the store is not open."""
        if not self.is_open:
            raise StoreUnavailable("the store in memory is not open")


class MemoryCollection:
    """A Collection in one dictionary."""

    def __init__(self, store: MemoryStore, name: str) -> None:
        self._store = store
        self._name = name

    async def insert_new(self, documents: Mapping[str, Document]) -> dict[str, Row]:
        check_keys(documents)
        new = [Row(key, 1, document.body, _in_utc(document.due)) for key, document in documents.items()]
        standing: dict[str, Row] = {}
        if not new:
            return standing
        rows = self._rows()
        async with self._store.fates.meet(new, StoreUnavailable) as done:
            for row in done:
                if row.key in rows:
                    standing[row.key] = rows[row.key]
                else:
                    rows[row.key] = row
        return standing

    async def get_many(self, keys: Keys[str]) -> dict[str, Row]:
        if not keys:
            return {}
        rows = self._rows()
        async with self._store.fates.meet(list(keys), StoreUnavailable) as done:
            return {key: rows[key] for key in done if key in rows}

    async def compare_and_set(self, changes: Mapping[str, Change]) -> set[str]:
        wanted = [(key, change, _in_utc(change.due)) for key, change in changes.items()]
        won: set[str] = set()
        if not wanted:
            return won
        rows = self._rows()
        async with self._store.fates.meet(wanted, StoreUnavailable) as done:
            for key, change, due in done:
                if key in rows and rows[key].version == change.version:
                    rows[key] = Row(key, change.version + 1, change.body, due)
                    won.add(key)
        return won

    async def take_due(self, now: datetime, *, limit: int, lease: timedelta) -> list[Row]:
        if limit <= 0:
            return []
        rows = self._rows()
        until = _in_utc(now + lease)
        taken: list[Row] = []
        async with self._store.fates.meet(range(limit), StoreUnavailable) as done:
            due = sorted((row.due, row.key) for row in rows.values() if row.due is not None and row.due <= now)
            for _, key in due[: len(done)]:
                rows[key] = Row(key, rows[key].version + 1, rows[key].body, until)
                taken.append(rows[key])
        return taken

    async def scan(self, *, due_only: bool = False) -> AsyncIterator[Row]:
        after: str | None = None
        while page := await self._page(after, due_only=due_only):
            for row in page:
                yield row
            after = page[-1].key

    async def _page(self, after: str | None, *, due_only: bool) -> list[Row]:
        rows = self._rows()
        async with self._store.fates.meet((), StoreUnavailable):
            keys = sorted(
                key
                for key, row in rows.items()
                if (after is None or key > after) and (row.due is not None or not due_only)
            )
            return [rows[key] for key in keys[:PAGE_ROWS]]

    def _rows(self) -> dict[str, Row]:
        self._store.check_open()
        return self._store.tables.setdefault(self._name, {})


def _in_utc(moment: datetime | None) -> datetime | None:
    return from_micros(to_micros(moment))
