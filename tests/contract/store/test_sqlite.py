"""What SQLite's own faults look like through the port."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.store import open_store
from shared.store.port import Change, Document, StoreUnavailable
from shared.store.sqlite import SqliteStore


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
