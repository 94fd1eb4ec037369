"""The embedded store: one SQLite file per service, which several processes may have open at once.

The connection lives on a thread of its own, so that the event loop never waits for a disk. Every write is one
immediate transaction: who holds the write lock sees what stands and changes it before anybody else can.
"""

import asyncio
import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from collections.abc import Collection as Keys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from shared.store.encoding import check_keys, checked_name, from_micros, to_micros
from shared.store.port import Change, Document, Row, StoreUnavailable

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 5.0
WAL_PAUSE_SECONDS = 0.01
PAGE_ROWS = 500

# Result codes that blame the statement or what was bound to it. All others blame the file, the disk or its other users.
_PROGRAMMING_ERRORS = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_RANGE,
}

_PRAGMAS = (
    # A Kafka offset is committed on the strength of what we wrote: a commit has to survive a power cut.
    "PRAGMA synchronous = FULL",
    # 64 MB of log between checkpoints: keys are random, so a batch dirties a page a row once the index is large.
    "PRAGMA wal_autocheckpoint = 16384",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA cache_size = -16384",
)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS "{name}" (key TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, due INTEGER,
                                     body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS "{name}.due" ON "{name}" (due, key) WHERE due IS NOT NULL;
CREATE INDEX IF NOT EXISTS "{name}.with_due" ON "{name}" (key) WHERE due IS NOT NULL;
"""


@contextmanager
def _immediate(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that has the write lock from its start, committed at the end or undone."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # A full disk ends it on SQLite's own account.
            connection.execute("ROLLBACK")
        raise


def _turn_to_wal(connection: sqlite3.Connection) -> None:
    """Waits for others who open the same new file just now, as SQLite's own busy time-out does not for this change."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(WAL_PAUSE_SECONDS)  # on the store's own thread


def _row(key: str, version: int, due: int | None, body: bytes) -> Row:
    return Row(key, version, body, from_micros(due))


def _make_empty(path: Path) -> None:
    """An empty file that its owner alone can read, unless somebody is faster.

    Opened and closed under another name: closing a file that a connection of this process has open, too, would drop
    the locks that SQLite holds on it.
    """
    descriptor, unnamed = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(descriptor)
    with suppress(FileExistsError):
        os.link(unnamed, path)
    os.unlink(unnamed)


class SqliteStore:
    """A Store in the file at `path`, made (readable by its owner alone) if it is not there, with its directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._worker: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    async def open(self) -> None:
        if self._worker is not None:
            return
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sqlite-{self._path.stem}")
        try:
            await self._on_worker(self._connect)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(worker, self._disconnect)
        finally:
            worker.shutdown(wait=False)

    async def ping(self) -> None:
        await self.run(self._write_nothing)

    def collection(self, name: str) -> "SqliteCollection":
        return SqliteCollection(self, checked_name(name))

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, done on the store's own thread after all that was asked before.

        StoreUnavailable if the file can't be used, or the store is not open.
        """
        return await self._on_worker(lambda: work(self._connected()))

    async def _on_worker(self, work: Callable[[], T]) -> T:
        # A closed store counts as unavailable: work that is caught by a shutdown has to come again, not be given up.
        if self._worker is None:
            raise StoreUnavailable(f"{self._path} is not open")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, work)
        except sqlite3.Error as error:
            # A fault that SQLite's own module found carries no code: it is always a misuse.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)
            if code & 0xFF in _PROGRAMMING_ERRORS:
                raise
            raise StoreUnavailable(f"{self._path}: {error} ({error.sqlite_errorname})") from error
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error}") from error

    def _connect(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():
            _make_empty(self._path)
        connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
        self._connection = connection
        self._inode = self._path.stat().st_ino
        _turn_to_wal(connection)
        for pragma in _PRAGMAS:
            connection.execute(pragma)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnavailable(f"{self._path} is not open")
        return self._connection

    def _write_nothing(self, connection: sqlite3.Connection) -> None:
        # Where the file was removed or replaced, writing goes on happily into what nobody will ever open again.
        if self._path.stat().st_ino != self._inode:
            raise StoreUnavailable(f"{self._path} was replaced by another file")
        with _immediate(connection):
            connection.execute("PRAGMA user_version = 1")


class SqliteCollection:
    """A Collection in one table."""

    def __init__(self, store: SqliteStore, name: str) -> None:
        self._store = store
        self._name = name
        self._made = False

    async def insert_new(self, documents: Mapping[str, Document]) -> dict[str, Row]:
        check_keys(documents)
        rows = [(key, to_micros(document.due), document.body) for key, document in documents.items()]
        return await self._run(lambda connection: self._insert_new(connection, rows)) if rows else {}

    async def get_many(self, keys: Keys[str]) -> dict[str, Row]:
        wanted = list(keys)
        return await self._run(lambda connection: self._standing(connection, wanted)) if wanted else {}

    async def compare_and_set(self, changes: Mapping[str, Change]) -> set[str]:
        rows = [(key, change.version, to_micros(change.due), change.body) for key, change in changes.items()]
        return await self._run(lambda connection: self._compare_and_set(connection, rows)) if rows else set()

    async def take_due(self, now: datetime, *, limit: int, lease: timedelta) -> list[Row]:
        if limit <= 0:
            return []
        before, until = to_micros(now), to_micros(now + lease)
        return await self._run(lambda connection: self._take_due(connection, before, until, limit))

    async def scan(self, *, due_only: bool = False) -> AsyncIterator[Row]:
        after: str | None = None
        while page := await self._run(partial(self._page, after=after, due_only=due_only)):
            for row in page:
                yield row
            after = page[-1].key

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def with_table(connection: sqlite3.Connection) -> T:
            if not self._made:
                connection.executescript(_SCHEMA.format(name=self._name))
                self._made = True
            return work(connection)

        return await self._store.run(with_table)

    def _standing(self, connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Row]:
        standing: dict[str, Row] = {}
        for start in range(0, len(keys), PAGE_ROWS):
            page = keys[start : start + PAGE_ROWS]
            marks = ",".join("?" * len(page))
            found = connection.execute(
                f'SELECT key, version, due, body FROM "{self._name}" WHERE key IN ({marks})',  # noqa: S608
                page,
            )
            standing.update((fields[0], _row(*fields)) for fields in found)
        return standing

    def _insert_new(
        self, connection: sqlite3.Connection, rows: Sequence[tuple[str, int | None, bytes]]
    ) -> dict[str, Row]:
        insert = f'INSERT INTO "{self._name}" (key, version, due, body) VALUES (?, 1, ?, ?)'  # noqa: S608
        with _immediate(connection):
            # Nearly always all are new: only where one is not, the others have to be told from those that stood.
            connection.execute("SAVEPOINT all_new")
            try:
                connection.executemany(insert, rows)
                return {}
            except sqlite3.IntegrityError:
                connection.execute("ROLLBACK TO all_new")
            standing = self._standing(connection, [row[0] for row in rows])
            connection.executemany(insert, [row for row in rows if row[0] not in standing])
        return standing

    def _compare_and_set(
        self, connection: sqlite3.Connection, rows: Sequence[tuple[str, int, int | None, bytes]]
    ) -> set[str]:
        changed: set[str] = set()
        with _immediate(connection):
            for key, version, due, body in rows:
                updated = connection.execute(
                    f'UPDATE "{self._name}" SET version = version + 1, due = ?, body = ? '  # noqa: S608
                    "WHERE key = ? AND version = ?",
                    (due, body, key, version),
                )
                if updated.rowcount:
                    changed.add(key)
        return changed

    def _take_due(self, connection: sqlite3.Connection, now: int, leased_until: int, limit: int) -> list[Row]:
        with _immediate(connection):
            due = connection.execute(
                f'SELECT key, version, due, body FROM "{self._name}" '  # noqa: S608
                "WHERE due <= ? ORDER BY due, key LIMIT ?",
                (now, limit),
            ).fetchall()
            connection.executemany(
                f'UPDATE "{self._name}" SET version = version + 1, due = ? WHERE key = ?',  # noqa: S608
                [(leased_until, fields[0]) for fields in due],
            )
        return [_row(key, version + 1, leased_until, body) for key, version, _, body in due]

    def _page(self, connection: sqlite3.Connection, *, after: str | None, due_only: bool) -> list[Row]:
        wanted = ["key > ?"] if after is not None else []
        wanted += ["due IS NOT NULL"] if due_only else []
        where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
        page = connection.execute(
            f'SELECT key, version, due, body FROM "{self._name}" {where} ORDER BY key LIMIT ?',  # noqa: S608
            (*([after] if after is not None else []), PAGE_ROWS),
        )
        return [_row(*fields) for fields in page]
