"""What SQLite's own faults look like through the port."""

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from shared.store import open_store
from shared.store.port import Change, Document, Row, StoreUnavailable
from shared.store.sqlite import SHORT_LOG_BYTES, SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "contract.sqlite"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open()
    yield store
    await store.close()


async def test_the_file_and_its_directory_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    store = open_store("routing", mongodb_url=None, data_dir=tmp_path / "data" / "deeper")
    await store.open()
    await store.collection("decisions").insert_new({"a": Document(b"{}")})
    files = sorted((tmp_path / "data" / "deeper").iterdir())
    assert [file.name for file in files] == ["routing.sqlite", "routing.sqlite-shm", "routing.sqlite-wal"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    await store.close()


async def test_every_commit_is_on_the_disk_before_it_is_answered(store: SqliteStore) -> None:
    """FULL (2) in WAL mode syncs the log at each commit."""
    settings = await store.run(
        lambda connection: [
            connection.execute(f"PRAGMA {each}").fetchone()[0] for each in ("journal_mode", "synchronous")
        ]
    )
    assert settings == ["wal", 2]


async def test_a_write_waits_for_another_writer_without_stopping_the_loop(store: SqliteStore, path: Path) -> None:
    rows = store.collection("rows")
    await rows.insert_new({"a": Document(b"1")})
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(rows.compare_and_set({"a": Change(1, b"2")}))
    assert await asyncio.wait({waiting}, timeout=0.1) == (set(), {waiting})
    other.execute("COMMIT")
    assert await waiting == {"a"}
    other.close()


async def test_a_lock_that_is_not_let_go_makes_the_store_unavailable_until_it_is(
    store: SqliteStore, path: Path
) -> None:
    rows = store.collection("rows")
    await rows.insert_new({"a": Document(b"1")})
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="database is locked"):
        await rows.insert_new({"b": Document(b"1")})
    assert set(await rows.get_many(["a", "b"])) == {"a"}
    other.execute("COMMIT")
    assert await rows.insert_new({"b": Document(b"1")}) == {}
    other.close()


async def test_a_full_disk_makes_the_store_unavailable_and_leaves_nothing_half_done(store: SqliteStore) -> None:
    rows = store.collection("rows")
    await rows.insert_new({"a": Document(b"1")})
    pages = await store.run(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await store.run(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}"))
    batch = {f"b{number}": Document(bytes(1_000)) for number in range(100)}
    with pytest.raises(StoreUnavailable, match="full"):
        await rows.insert_new(batch)
    assert [row.key async for row in rows.scan()] == ["a"]
    await store.run(lambda connection: connection.execute("PRAGMA max_page_count = 1000000"))
    assert await rows.insert_new(batch) == {}
    assert len([row async for row in rows.scan()]) == 101


async def test_a_file_that_was_removed_is_noticed_by_the_ping(store: SqliteStore, path: Path) -> None:
    await store.ping()
    os.remove(path)
    with pytest.raises(StoreUnavailable, match=r"contract\.sqlite"):
        await store.ping()


async def test_a_file_that_was_replaced_is_noticed_by_the_ping(store: SqliteStore, path: Path) -> None:
    os.rename(path, f"{path}-moved")
    sqlite3.connect(path).close()
    with pytest.raises(StoreUnavailable, match="replaced"):
        await store.ping()


@pytest.fixture
def no_database(path: Path) -> Path:
    path.write_bytes(b"not a database, but long enough to look like one " * 100)
    return path


async def test_a_file_that_is_no_database_makes_the_store_unavailable(no_database: Path) -> None:
    store = SqliteStore(no_database)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await store.open()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.ping()


async def test_a_directory_that_can_not_be_made_makes_the_store_unavailable(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreUnavailable, match="taken"):
        await SqliteStore(tmp_path / "taken" / "routing.sqlite").open()


async def test_a_fault_of_our_own_is_not_taken_for_the_disk_s(store: SqliteStore) -> None:
    with pytest.raises(sqlite3.OperationalError, match="syntax error"):
        await store.run(lambda connection: connection.execute("SELEKT 1"))


async def test_work_that_fails_halfway_is_undone(store: SqliteStore) -> None:
    rows = store.collection("rows")
    unstorable = Document([])  # type: ignore[arg-type]
    with pytest.raises(sqlite3.Error):
        await rows.insert_new({"a": Document(b"{}"), "b": unstorable})
    assert await rows.insert_new({"a": Document(b"{}")}) == {}


async def while_busy(store: SqliteStore, *asked: Coroutine[Any, Any, Any]) -> list[Any]:
    """What comes of calls that are all made while the store's thread is busy; what they raised stands in its place."""
    gate = threading.Event()
    busy = asyncio.create_task(store.run(lambda _connection: gate.wait()))
    await asyncio.sleep(0)
    results = asyncio.gather(*asked, return_exceptions=True)
    await asyncio.sleep(0)
    gate.set()
    await busy
    return list(await results)


async def test_what_is_asked_while_the_thread_is_busy_is_one_commit_and_all_of_it_holds(store: SqliteStore) -> None:
    rows, others = store.collection("rows"), store.collection("others")
    await rows.insert_new({"a": Document(b"1")})
    await others.insert_new({"a": Document(b"1")})
    statements: list[str] = []
    await store.run(lambda connection: connection.set_trace_callback(statements.append))
    assert await while_busy(
        store,
        rows.insert_new({f"b{number}": Document(b"1") for number in range(3)}),
        others.insert_new({"a": Document(b"2"), "b": Document(b"2")}),
        rows.compare_and_set({"a": Change(1, b"2")}),
    ) == [{}, {"a": Row("a", 1, b"1")}, {"a"}]
    assert statements.count("COMMIT") == 1
    assert {row.key async for row in rows.scan()} == {"a", "b0", "b1", "b2"}


async def test_reading_alone_needs_no_lock(store: SqliteStore, path: Path) -> None:
    rows = store.collection("rows")
    await rows.insert_new({"a": Document(b"1")})
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert await while_busy(store, rows.get_many(["a"]), rows.get_many(["b"])) == [{"a": Row("a", 1, b"1")}, {}]
    other.close()


async def test_work_that_fails_among_others_fails_alone(store: SqliteStore) -> None:
    rows = store.collection("rows")
    await rows.insert_new({"a": Document(b"1")})
    unstorable = Document([])  # type: ignore[arg-type]
    kept, failed, changed = await while_busy(
        store,
        rows.insert_new({"b": Document(b"1")}),
        rows.insert_new({"c": Document(b"1"), "d": unstorable}),
        rows.compare_and_set({"a": Change(1, b"2")}),
    )
    assert (kept, changed) == ({}, {"a"})
    assert isinstance(failed, sqlite3.Error)
    assert [(row.key, row.version) async for row in rows.scan()] == [("a", 2), ("b", 1)]


async def test_a_full_disk_fails_all_that_was_asked_together_and_keeps_none_of_it(store: SqliteStore) -> None:
    rows = store.collection("rows")
    await rows.insert_new({"a": Document(b"1")})
    pages = await store.run(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await store.run(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}"))
    failed = await while_busy(
        store,
        rows.compare_and_set({"a": Change(1, b"2")}),
        rows.insert_new({f"b{number}": Document(bytes(1_000)) for number in range(100)}),
    )
    assert [type(each) for each in failed] == [StoreUnavailable, StoreUnavailable]
    assert [(row.key, row.version) async for row in rows.scan()] == [("a", 1)]


async def test_what_was_asked_before_the_store_is_closed_is_done(store: SqliteStore) -> None:
    rows = store.collection("rows")
    await rows.insert_new({"a": Document(b"1")})
    asked = [asyncio.create_task(rows.insert_new({key: Document(b"1")})) for key in "bcd"]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*asked) == [{}, {}, {}]
    await store.open()
    assert [row.key async for row in rows.scan()] == ["a", "b", "c", "d"]


async def test_a_log_that_is_long_is_begun_anew_while_writing_goes_on(path: Path) -> None:
    store = SqliteStore(path, checkpoint_seconds=0.01, log_pages=100)
    await store.open()
    rows = store.collection("rows")
    try:
        for batch in range(200):
            await rows.insert_new({f"{batch}/{number}": Document(b"x" * 4000) for number in range(50)})
        assert path.stat().st_size > 20_000_000
        assert path.with_name(f"{path.name}-wal").stat().st_size < 10_000_000
        assert len([row async for row in rows.scan()]) == 10_000
    finally:
        await store.close()


async def test_once_the_log_was_more_than_short_what_is_written_is_soon_in_the_file_itself(path: Path) -> None:
    store = SqliteStore(path, checkpoint_seconds=0.01)
    await store.open()
    rows = store.collection("rows")
    try:
        for number in range(1, 6):
            await rows.insert_new({f"{number}": Document(b"x" * (SHORT_LOG_BYTES + 1))})
            async with asyncio.timeout(10):
                while path.stat().st_size < number * SHORT_LOG_BYTES:
                    await asyncio.sleep(0.01)
    finally:
        await store.close()
