"""One suite, both adapters and the stand-in: every test that asks for `store` runs on SQLite, MongoDB and in memory."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from shared.store import open_store
from shared.store.mongo import MongoStore
from shared.store.port import Collection, Store
from tests.fakes import MemoryStore
from tests.fakes.store import Tables

MakeStore = Callable[[], Store]


def fresh_name(prefix: str) -> str:
    """A name of lower-case letters that nobody had before."""
    return prefix + "_" + uuid4().hex.translate(str.maketrans("0123456789", "ghijklmnop"))


@pytest.fixture(scope="session")
async def mongodb_service(mongodb_url: str) -> AsyncIterator[str]:
    """A service that has no database yet; what the run made of it is dropped afterwards."""
    service = fresh_name("contract")
    yield service
    store = MongoStore(mongodb_url, f"guichet_{service}")
    await store.open()
    await store.database.client.drop_database(f"guichet_{service}")
    await store.close()


@pytest.fixture(params=["memory", "sqlite", "mongodb"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Makes one more connection, not yet open, to the same store."""
    if request.param == "memory":
        tables: Tables = {}
        return lambda: MemoryStore(tables)
    if request.param == "sqlite":
        return lambda: open_store("contract", mongodb_url=None, data_dir=tmp_path)
    url, service = request.getfixturevalue("mongodb_url"), request.getfixturevalue("mongodb_service")
    return lambda: open_store(service, mongodb_url=url, data_dir=tmp_path)


@pytest.fixture
async def store(make_store: MakeStore) -> AsyncIterator[Store]:
    store = make_store()
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def other_store(make_store: MakeStore) -> AsyncIterator[Store]:
    store = make_store()
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def name() -> str:
    return fresh_name("rows")


@pytest.fixture
def rows(store: Store, name: str) -> Collection:
    return store.collection(name)


@pytest.fixture
def rows_elsewhere(other_store: Store, name: str) -> Collection:
    """The same rows over another connection, as another replica of the service has them."""
    return other_store.collection(name)
