"""A store that fails where it is told to: the failpoints before and after every write."""

from collections.abc import AsyncIterator, Mapping
from collections.abc import Collection as Keys
from datetime import datetime, timedelta

from shared.failpoints import Failpoints, Point
from shared.store.port import Change, Collection, Document, Row, Store, StoreUnavailable


class FailingStore:
    """Another store, with failpoints. Used only where one is armed."""

    def __init__(self, store: Store, failpoints: Failpoints) -> None:
        self._store = store
        self._failpoints = failpoints

    async def open(self) -> None:
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()

    async def ping(self) -> None:
        await self._store.ping()

    def collection(self, name: str) -> "FailingCollection":
        return FailingCollection(self._store.collection(name), self._failpoints)


class FailingCollection:
    """A Collection with failpoints: DECIDED before what was decided is written, STORED once it is."""

    def __init__(self, collection: Collection, failpoints: Failpoints) -> None:
        self._collection = collection
        self._failpoints = failpoints

    async def insert_new(self, documents: Mapping[str, Document]) -> dict[str, Row]:
        async with self._failpoints.at(Point.DECIDED, StoreUnavailable):
            standing = await self._collection.insert_new(documents)
        await self._failpoints.reach(Point.STORED, StoreUnavailable)
        return standing

    async def get_many(self, keys: Keys[str]) -> dict[str, Row]:
        return await self._collection.get_many(keys)

    async def compare_and_set(self, changes: Mapping[str, Change]) -> set[str]:
        async with self._failpoints.at(Point.DECIDED, StoreUnavailable):
            changed = await self._collection.compare_and_set(changes)
        await self._failpoints.reach(Point.STORED, StoreUnavailable)
        return changed

    async def take_due(self, now: datetime, *, limit: int, lease: timedelta) -> list[Row]:
        return await self._collection.take_due(now, limit=limit, lease=lease)

    def scan(self, *, due_only: bool = False) -> AsyncIterator[Row]:
        return self._collection.scan(due_only=due_only)
