"""What a MongoDB that goes away looks like through the port."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from pymongo.errors import OperationFailure

from shared.store.mongo import MongoStore, answering
from shared.store.port import Document, StoreUnavailable

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Wire:
    """A TCP forwarder in front of the server, which can be cut and mended, or hold a command back."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._held_command: bytes | None = None
        self.holds = asyncio.Event()
        self._let_go = asyncio.Event()
        self.port = 0

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    def hold(self, command: str) -> None:
        """Keep this command from the server, once `holds` is set, until `let_go`."""
        self._held_command = b"\x02" + command.encode() + b"\x00"  # how a command's document begins in BSON

    def let_go(self) -> None:
        self._held_command = None
        self._let_go.set()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, server_writer}
        await asyncio.gather(self._copy(reader, server_writer), self._copy(server_reader, writer))

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                if self._held_command is not None and self._held_command in data:
                    self.holds.set()
                    await self._let_go.wait()
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass
        finally:
            target.close()


@pytest.fixture
async def wire(mongodb_url: str) -> AsyncIterator[Wire]:
    address = urlsplit(mongodb_url)
    wire = Wire(address.hostname or "127.0.0.1", address.port or 27017)
    await wire.mend()
    yield wire
    await wire.cut()


@pytest.fixture
async def store(wire: Wire, mongodb_url: str, mongodb_service: str) -> AsyncIterator[MongoStore]:
    address = urlsplit(mongodb_url)
    login = f"{address.netloc.rpartition('@')[0]}@" if "@" in address.netloc else ""
    options = f"{address.query}&" if address.query else ""
    url = f"mongodb://{login}127.0.0.1:{wire.port}{address.path or '/'}?{options}directConnection=true"
    store = MongoStore(url, f"guichet_{mongodb_service}")
    yield store
    await store.close()


async def test_a_server_that_is_gone_makes_the_store_unavailable_until_it_is_back(
    store: MongoStore, wire: Wire, name: str
) -> None:
    await store.open()
    rows = store.collection(name)
    await rows.insert_new({"a": Document(b"{}")})
    await wire.cut()
    with pytest.raises(StoreUnavailable):
        await store.ping()
    with pytest.raises(StoreUnavailable):
        await rows.insert_new({"b": Document(b"{}")})
    await wire.mend()
    await store.ping()
    assert await rows.insert_new({"b": Document(b"{}")}) == {}
    assert set(await rows.get_many(["a", "b"])) == {"a", "b"}


async def test_a_store_whose_server_is_not_there_can_not_be_opened_yet(
    store: MongoStore, wire: Wire, name: str
) -> None:
    await wire.cut()
    with pytest.raises(StoreUnavailable):
        await store.open()
    await wire.mend()
    await store.open()
    assert await store.collection(name).insert_new({"a": Document(b"{}")}) == {}


async def test_a_taker_that_stops_between_finding_and_taking_takes_nothing_from_the_faster_one(
    store: MongoStore, wire: Wire, mongodb_url: str, mongodb_service: str, name: str
) -> None:
    faster = MongoStore(mongodb_url, f"guichet_{mongodb_service}")
    await faster.open()
    await store.open()
    await store.collection(name).insert_new({key: Document(b"{}", NOON) for key in ("a", "b", "c")})
    slow_rows, rows = store.collection(name), faster.collection(name)
    assert await slow_rows.take_due(NOON - MINUTE, limit=3, lease=MINUTE) == []
    wire.hold("update")
    slow = asyncio.create_task(slow_rows.take_due(NOON, limit=3, lease=MINUTE))
    await wire.holds.wait()
    assert [row.version for row in await rows.take_due(NOON, limit=2, lease=MINUTE)] == [2, 2]
    wire.let_go()
    assert [row.version for row in await slow] == [2]
    await faster.close()


async def test_a_fault_of_our_own_is_not_taken_for_the_server_s(store: MongoStore) -> None:
    await store.open()
    with pytest.raises(OperationFailure, match="no such command"), answering("contract"):
        await store.database.command("noSuchCommand")
