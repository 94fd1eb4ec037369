"""The embedded store: one SQLite file per service, which several processes may have open at once.

The connection lives on a thread of its own, so that the event loop never waits for a disk, and checkpoints are made on
another, so that writing doesn't wait for them: with a full store nearly each row dirties a page of its own. All writing
is done in immediate transactions: who holds the write lock sees what stands and changes it before anybody else can.
What was asked while the disk was waited for is done together next, and waits for the disk once (group commit).
"""

import asyncio
import os
import sqlite3
import tempfile
import time
from asyncio import AbstractEventLoop, Future
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from collections.abc import Collection as Keys
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar

from shared.store.encoding import check_keys, checked_name, from_micros, to_micros
from shared.store.port import Change, Document, Row, StoreUnavailable

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 5.0
WAL_PAUSE_SECONDS = 0.01
PAGE_ROWS = 500
ROWS_AT_ONCE_MAX = 256
ROWS_STEP = 8
STATEMENTS_KEPT = 256
"""Some forty for each collection: one for each number of rows up to the step, and for each multiple of it."""

CHECKPOINT_SECONDS = 1.0
SHORT_LOG_BYTES = 4 * 1024 * 1024
LOG_PAGES = 16_384
"""64 MB."""

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
    # Checkpoints are made beside the writing; by itself SQLite would make them amid it. Should those fail, half a GB.
    "PRAGMA wal_autocheckpoint = 131072",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA cache_size = -16384",
)

_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"

_SCHEMA = (
    'CREATE TABLE IF NOT EXISTS "{name}" '
    "(key TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, due INTEGER, body BLOB NOT NULL)",
    'CREATE INDEX IF NOT EXISTS "{name}.due" ON "{name}" (due, key) WHERE due IS NOT NULL',
    'CREATE INDEX IF NOT EXISTS "{name}.with_due" ON "{name}" (key) WHERE due IS NOT NULL',
)


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


def _in_rounds(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """All of them, in few parts, and those of few different sizes, so that there are few different statements."""
    start = 0
    while start < len(rows):
        left = len(rows) - start
        size = min(ROWS_AT_ONCE_MAX, left // ROWS_STEP * ROWS_STEP or left)
        yield rows[start : start + size]
        start += size


@cache
def _insertion(name: str, rows: int) -> str:
    """Many rows in one statement: the connection's thread gives the interpreter away with each, and has to wait for a
    busy event loop until it has it again."""
    values = ", ".join(["(?, 1, ?, ?)"] * rows)
    return f'INSERT INTO "{name}" (key, version, due, body) VALUES {values} ON CONFLICT DO NOTHING'  # noqa: S608


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


def _is_ours(error: Exception) -> bool:
    """Whether the work is to blame, and not the file, the disk or its other users."""
    if isinstance(error, sqlite3.Error):
        # A fault that SQLite's own module found carries no code: it is always a misuse.
        return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF in _PROGRAMMING_ERRORS
    return not isinstance(error, OSError)


class _Job:
    """A piece of work, which may be done more than once, and the future that gets what it returned last."""

    __slots__ = ("answer", "error", "result", "work", "writes")

    def __init__(self, work: Callable[[sqlite3.Connection], Any], answer: Future[Any], *, writes: bool) -> None:
        self.work = work
        self.answer = answer
        self.writes = writes
        self.result: Any = None
        self.error: Exception | None = None

    def tell(self) -> None:
        """Called on the loop. Who asked may not wait any more."""
        if self.answer.done():
            return
        if self.error is not None:
            self.answer.set_exception(self.error)
        else:
            self.answer.set_result(self.result)


_Jobs = SimpleQueue[_Job | None]
"""What is asked of the connection; None is the last."""


def _waiting(jobs: _Jobs) -> list[_Job]:
    """All that is asked by now, at least one; none once the last was taken. Waits."""
    taken = [jobs.get()]
    while not jobs.empty():
        taken.append(jobs.get())
    if taken[-1] is None and len(taken) > 1:
        jobs.put(taken.pop())
    return [job for job in taken if job is not None]


def _do_nothing(_connection: sqlite3.Connection) -> None:
    """Tells that all before it is done."""


def _tell(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        job.tell()


def _read(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> None:
    """Each by itself: what is read together need not be of one moment."""
    for job in jobs:
        try:
            job.result = job.work(connection)
        except Exception as error:
            job.error = error


def _write(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> None:
    """All of it in one transaction. What fails by its own fault fails alone: then the others are done one by one."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        for job in jobs:
            job.result = job.work(connection)
        connection.execute("COMMIT")
        return
    except Exception as error:
        if connection.in_transaction:  # A full disk ends it on SQLite's own account.
            connection.execute("ROLLBACK")
        if len(jobs) == 1 or not _is_ours(error):
            for job in jobs:
                job.error = error
            return
    for job in jobs:
        _write(connection, [job])


class _Log:
    """What the thread that writes and the one that makes checkpoints tell each other of the log.

    `long`: what was written during the last checkpoint is all that keeps it from being begun anew.
    """

    def __init__(self) -> None:
        self.grown = Event()
        self.long = Event()
        self.closed = Event()


def _checkpoint(connection: sqlite3.Connection) -> int:
    """Bring what the log holds into the file; of how many pages it is. Where that fails, the next one does it."""
    try:
        _, pages, _ = connection.execute(_CHECKPOINT).fetchone()
    except sqlite3.Error:
        return 0
    return int(pages)


class SqliteStore:
    """A Store in the file at `path`, made (readable by its owner alone) if it is not there, with its directory.

    What is written stands in a log first. Once that was more than short, what is new in it is brought into the file
    every `checkpoint_seconds`, and a log of `log_pages` is begun anew.
    """

    def __init__(
        self, path: Path, *, checkpoint_seconds: float = CHECKPOINT_SECONDS, log_pages: int = LOG_PAGES
    ) -> None:
        self._path = path
        self._checkpoint_seconds = checkpoint_seconds
        self._log_pages = log_pages
        self._jobs: _Jobs | None = None
        self._ended: Future[None] | None = None
        self._inode = 0

    async def open(self) -> None:
        if self._jobs is not None:
            return
        loop = asyncio.get_running_loop()
        self._jobs, self._ended = _Jobs(), loop.create_future()
        life = (loop, self._jobs, self._ended)
        Thread(target=self._serve, args=life, name=f"sqlite-{self._path.stem}", daemon=True).start()
        try:
            await self.run(_do_nothing)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        jobs, self._jobs = self._jobs, None
        if jobs is not None and self._ended is not None:
            jobs.put(None)
            await self._ended

    async def ping(self) -> None:
        await self.run(self._write_nothing, writes=True)

    def collection(self, name: str) -> "SqliteCollection":
        return SqliteCollection(self, checked_name(name))

    async def run(self, work: Callable[[sqlite3.Connection], T], *, writes: bool = False) -> T:
        """What `work` returns, done on the store's own thread: of what waits for that, first all that only reads.

        What `writes` is durable then, or undone if it raised. It may be done a second time, where other work fails that
        waited with it. StoreUnavailable if the file can't be used, or the store is not open.
        """
        # A closed store counts as unavailable: work that is caught by a shutdown has to come again, not be given up.
        if self._jobs is None:
            raise StoreUnavailable(f"{self._path} is not open")
        answer: Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(work, answer, writes=writes))
        return await self._known(answer)

    async def _known(self, answer: Future[T]) -> T:
        try:
            return await answer
        except (sqlite3.Error, OSError) as error:
            if _is_ours(error):
                raise
            name = f" ({error.sqlite_errorname})" if isinstance(error, sqlite3.Error) else ""
            raise StoreUnavailable(f"{self._path}: {error}{name}") from error

    def _serve(self, loop: AbstractEventLoop, jobs: _Jobs, ended: Future[None]) -> None:
        """The life of the thread."""
        try:
            connection = self._connect()
        except Exception as error:
            while batch := _waiting(jobs):
                for job in batch:
                    job.error = error
                loop.call_soon_threadsafe(_tell, batch)
        else:
            log = _Log()
            keeper = Thread(target=self._keep_log_short, args=(log,), name=f"{self._path.stem}-log", daemon=True)
            keeper.start()
            while batch := _waiting(jobs):
                for do, asked in (
                    (_read, [job for job in batch if not job.writes]),
                    (_write, [job for job in batch if job.writes]),
                ):
                    if asked:
                        do(connection, asked)
                        loop.call_soon_threadsafe(_tell, asked)
                if any(job.writes for job in batch):
                    log.grown.set()
                if log.long.is_set():
                    log.long.clear()
                    _checkpoint(connection)
            log.closed.set()
            keeper.join()
            connection.close()
        loop.call_soon_threadsafe(ended.set_result, None)

    def _keep_log_short(self, log: _Log) -> None:
        """The life of the thread beside it."""
        connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
        file = self._path.with_name(f"{self._path.name}-wal")
        while not log.closed.wait(self._checkpoint_seconds):
            if log.grown.is_set() and file.exists() and file.stat().st_size > SHORT_LOG_BYTES:
                log.grown.clear()
                if _checkpoint(connection) >= self._log_pages:
                    log.long.set()
        connection.close()

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():
            _make_empty(self._path)
        connection = sqlite3.connect(
            self._path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, cached_statements=STATEMENTS_KEPT
        )
        try:
            self._inode = self._path.stat().st_ino
            _turn_to_wal(connection)
            for pragma in _PRAGMAS:
                connection.execute(pragma)
        except BaseException:
            connection.close()
            raise
        return connection

    def _write_nothing(self, connection: sqlite3.Connection) -> None:
        # Where the file was removed or replaced, writing goes on happily into what nobody will ever open again.
        if self._path.stat().st_ino != self._inode:
            raise StoreUnavailable(f"{self._path} was replaced by another file")
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
        return await self._run(lambda connection: self._insert_new(connection, rows), writes=True) if rows else {}

    async def get_many(self, keys: Keys[str]) -> dict[str, Row]:
        wanted = list(keys)
        return await self._run(lambda connection: self._standing(connection, wanted)) if wanted else {}

    async def compare_and_set(self, changes: Mapping[str, Change]) -> set[str]:
        rows = [(key, change.version, to_micros(change.due), change.body) for key, change in changes.items()]
        return (
            await self._run(lambda connection: self._compare_and_set(connection, rows), writes=True) if rows else set()
        )

    async def take_due(self, now: datetime, *, limit: int, lease: timedelta) -> list[Row]:
        if limit <= 0:
            return []
        before, until = to_micros(now), to_micros(now + lease)
        return await self._run(lambda connection: self._take_due(connection, before, until, limit), writes=True)

    async def scan(self, *, due_only: bool = False) -> AsyncIterator[Row]:
        after: str | None = None
        while page := await self._run(partial(self._page, after=after, due_only=due_only)):
            for row in page:
                yield row
            after = page[-1].key

    async def _run(self, work: Callable[[sqlite3.Connection], T], *, writes: bool = False) -> T:
        if not self._made:
            await self._store.run(self._make, writes=True)
            self._made = True
        return await self._store.run(work, writes=writes)

    def _make(self, connection: sqlite3.Connection) -> None:
        for statement in _SCHEMA:
            connection.execute(statement.format(name=self._name))

    def _standing(
        self, connection: sqlite3.Connection, keys: Sequence[str], *, up_to: int | None = None
    ) -> dict[str, Row]:
        """The rows under these keys; with `up_to` only those whose number is no higher."""
        standing: dict[str, Row] = {}
        for start in range(0, len(keys), PAGE_ROWS):
            page = keys[start : start + PAGE_ROWS]
            marks = ",".join("?" * len(page))
            found = connection.execute(
                f'SELECT key, version, due, body FROM "{self._name}" '  # noqa: S608
                f"WHERE key IN ({marks}) AND rowid <= coalesce(?, rowid)",
                (*page, up_to),
            )
            standing.update((fields[0], _row(*fields)) for fields in found)
        return standing

    def _insert_new(
        self, connection: sqlite3.Connection, rows: Sequence[tuple[str, int | None, bytes]]
    ) -> dict[str, Row]:
        inserted = 0
        for some in _in_rounds(rows):
            statement = _insertion(self._name, len(some))
            inserted += connection.execute(statement, [field for row in some for field in row]).rowcount
        if inserted == len(rows):
            return {}
        # A row's number is one more than the last one's, and none is ever removed: so many of the last are these.
        (last,) = connection.execute(f'SELECT coalesce(max(rowid), 0) FROM "{self._name}"').fetchone()  # noqa: S608
        return self._standing(connection, [row[0] for row in rows], up_to=last - inserted)

    def _compare_and_set(
        self, connection: sqlite3.Connection, rows: Sequence[tuple[str, int, int | None, bytes]]
    ) -> set[str]:
        changed: set[str] = set()
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
