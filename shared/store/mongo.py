"""The store on a MongoDB server, which replicas of a service on several machines share.

Motor is deprecated since May 2026 in favour of PyMongo's own async API. No other file names either, so the move is
this file.

Only single documents are changed atomically, and nothing here needs sessions or transactions. A document is
`{_id: key, version, body, due, token}`: `body` as text, for an operator to read; `due` in microseconds, missing where
there is none, since a date of MongoDB's own would lose the microseconds; `token` names the call that changed it last.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from collections.abc import Collection as Keys
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import IndexModel, UpdateOne
from pymongo.errors import BulkWriteError, ConnectionFailure, InvalidOperation, OperationFailure

from shared.store.encoding import check_keys, checked_name, from_micros, to_micros
from shared.store.port import Change, Document, Row, StoreUnavailable

SERVER_SELECTION_TIMEOUT_MS = 3_000
SOCKET_TIMEOUT_MS = 10_000
PAGE_ROWS = 1_000
TAKE_ROUNDS_MAX = 5

_DUPLICATE_KEY = 11000
# Bad value, failed to parse, type mismatch, no such command, bad option, too large a document: the same next time.
_PROGRAMMING_ERRORS = {2, 9, 14, 59, 72, 10334}

# Whatever the URL says: what we were told is written stays written, and what we read does too.
_CLIENT_OPTIONS: Mapping[str, Any] = {
    "w": "majority",
    "journal": True,
    "wTimeoutMS": SOCKET_TIMEOUT_MS,
    "readConcernLevel": "majority",
    "readPreference": "primary",
    "serverSelectionTimeoutMS": SERVER_SELECTION_TIMEOUT_MS,
    "connectTimeoutMS": SERVER_SELECTION_TIMEOUT_MS,
    "waitQueueTimeoutMS": SERVER_SELECTION_TIMEOUT_MS,
    "socketTimeoutMS": SOCKET_TIMEOUT_MS,
    "appname": "guichet",
}

_INDEXES = (
    IndexModel([("due", 1)], name="due", sparse=True),
    IndexModel([("_id", 1), ("due", 1)], name="with_due", partialFilterExpression={"due": {"$exists": True}}),
)
# The stand-in of deploy/local uses an index only where it is unique and has all the fields of the filter.
# Without this one, each change would read its whole collection there. A real server needs none beyond `_id`.
_STAND_IN_INDEX = IndexModel([("_id", 1), ("version", 1)], name="versions", unique=True)


class MongoStore:
    """A Store in one database of the server, or replica set, at `url`. A caller's options in the URL hold, save those
    that say how durable a write is and how long to wait."""

    def __init__(self, url: str, database: str) -> None:
        self._url = url
        self._name = database
        self._client: Any = None

    async def open(self) -> None:
        if self._client is None:
            self._client = AsyncIOMotorClient(self._url, **_CLIENT_OPTIONS)
            try:
                await self.ping()
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def ping(self) -> None:
        with answering(self._name):
            await self.database["_ping"].update_one({"_id": "ping"}, {"$inc": {"times": 1}}, upsert=True)

    def collection(self, name: str) -> "MongoCollection":
        return MongoCollection(self, checked_name(name))

    @property
    def database(self) -> Any:
        """Motor's own database object; StoreUnavailable if the store is not open."""
        # A closed store counts as unavailable: work that is caught by a shutdown has to come again, not be given up.
        if self._client is None:
            raise StoreUnavailable(f"{self._name} is not open")
        return self._client[self._name]


class MongoCollection:
    """A Collection in one collection of MongoDB's."""

    def __init__(self, store: MongoStore, name: str) -> None:
        self._store = store
        self._name = name
        self._made = False
        self._making = asyncio.Lock()

    async def insert_new(self, documents: Mapping[str, Document]) -> dict[str, Row]:
        check_keys(documents)
        inserts = [_fields(key, document) for key, document in documents.items()]
        if not inserts:
            return {}
        stood = []
        with answering(self._name):
            collection = await self._collection()
            try:
                await collection.insert_many(inserts, ordered=False)
            except BulkWriteError as error:
                stood = [inserts[at]["_id"] for at in _duplicates(error)]
        standing = await self.get_many(stood)
        if len(standing) < len(stood):
            # The server knows of them, but not yet that they will outlast a change of its primary.
            raise StoreUnavailable(f"{self._name}: {len(stood) - len(standing)} rows that stand can't be read yet")
        return standing

    async def get_many(self, keys: Keys[str]) -> dict[str, Row]:
        return {row["_id"]: _row(row) for row in await self._find({"_id": {"$in": list(keys)}})} if keys else {}

    async def compare_and_set(self, changes: Mapping[str, Change]) -> set[str]:
        if not changes:
            return set()
        # The answer to many updates is a count, so it takes two readings to tell who won: before, to leave out what
        # has no chance, and after, if some of the others lost in the meantime.
        before = {row["_id"]: row["version"] for row in await self._find(_among(changes), {"version": 1})}
        hopeful = {key: change for key, change in changes.items() if before.get(key) == change.version}
        if not hopeful:
            return set()
        token = ObjectId()
        with answering(self._name):
            collection = await self._collection()
            done = await collection.bulk_write(
                [_update(key, change, token) for key, change in hopeful.items()], ordered=False
            )
        if done.matched_count == len(hopeful):
            return set(hopeful)
        return await self._won(hopeful, token) if done.matched_count else set()

    async def _won(self, hopeful: Mapping[str, Change], token: ObjectId) -> set[str]:
        """Which of the changes this call, known by its token, has made."""
        after = await self._find(_among(hopeful), {"version": 1, "token": 1})
        for row in after:
            if row.get("token") != token and row["version"] > hopeful[row["_id"]].version + 1:
                # Changed twice within this call, and the second change hides who made the first.
                raise StoreUnavailable(f"{self._name}: who changed {row['_id']!r} can't be told")
        return {row["_id"] for row in after if row.get("token") == token}

    async def take_due(self, now: datetime, *, limit: int, lease: timedelta) -> list[Row]:
        if limit <= 0:
            return []
        is_due = {"due": {"$lte": to_micros(now)}}
        token = ObjectId()
        lease_it = {"$set": {"due": to_micros(now + lease), "token": token}, "$inc": {"version": 1}}
        # Where another taker was faster with all that was found, there may be more; each round lost is one it won.
        for _ in range(TAKE_ROUNDS_MAX):
            with answering(self._name):
                collection = await self._collection()
                found = [row["_id"] async for row in collection.find(is_due, {"_id": 1}).sort("due").limit(limit)]
                if not found:
                    return []
                taken = await collection.update_many({"_id": {"$in": found}, **is_due}, lease_it)
            if taken.matched_count:
                rows = {row["_id"]: row for row in await self._find(_among(found)) if row.get("token") == token}
                return [_row(rows[key]) for key in found if key in rows]
        return []

    async def scan(self, *, due_only: bool = False) -> AsyncIterator[Row]:
        wanted: dict[str, Any] = {"due": {"$exists": True}} if due_only else {}
        while page := await self._find(wanted, limit=PAGE_ROWS):
            for row in page:
                yield _row(row)
            wanted["_id"] = {"$gt": page[-1]["_id"]}

    async def _find(
        self, wanted: Mapping[str, Any], fields: Mapping[str, int] | None = None, *, limit: int = 0
    ) -> list[dict[str, Any]]:
        with answering(self._name):
            found = (await self._collection()).find(wanted, fields)
            rows: list[dict[str, Any]] = await (found.sort("_id").limit(limit) if limit else found).to_list(None)
            return rows

    async def _collection(self) -> Any:
        database = self._store.database
        async with self._making:
            if not self._made:
                build = await database.command("buildInfo")
                stand_in = "storageEngines" not in build
                await database[self._name].create_indexes([*_INDEXES, _STAND_IN_INDEX] if stand_in else [*_INDEXES])
                self._made = True
        return database[self._name]


@contextmanager
def answering(name: str) -> Iterator[None]:
    """StoreUnavailable for what is the server's or the way's fault; our own faults as they are."""
    try:
        yield
    except OperationFailure as error:
        if error.code in _PROGRAMMING_ERRORS:
            raise
        raise StoreUnavailable(f"{name}: {error}") from error
    except (ConnectionFailure, InvalidOperation) as error:  # InvalidOperation: closed in the middle of the call
        raise StoreUnavailable(f"{name}: {error}") from error


def _duplicates(error: BulkWriteError) -> list[int]:
    """Which of the inserts met a row that stood; the error itself if anything else went wrong."""
    details = error.details
    if details["writeConcernErrors"] or any(each["code"] != _DUPLICATE_KEY for each in details["writeErrors"]):
        raise error
    return [each["index"] for each in details["writeErrors"]]


def _among(keys: Keys[str]) -> dict[str, Any]:
    return {"_id": {"$in": list(keys)}}


def _fields(key: str, document: Document) -> dict[str, Any]:
    fields = {"_id": key, "version": 1, "body": _text(document.body)}
    return fields if document.due is None else {**fields, "due": to_micros(document.due)}


def _update(key: str, change: Change, token: ObjectId) -> UpdateOne:
    changed = {"body": _text(change.body), "token": token}
    update: dict[str, Any] = {"$inc": {"version": 1}}
    if change.due is None:
        update |= {"$set": changed, "$unset": {"due": ""}}
    else:
        update |= {"$set": {**changed, "due": to_micros(change.due)}}
    return UpdateOne({"_id": key, "version": change.version}, update)


def _row(fields: Mapping[str, Any]) -> Row:
    body = fields["body"]
    return Row(
        fields["_id"],
        fields["version"],
        body.encode() if isinstance(body, str) else body,
        from_micros(fields.get("due")),
    )


def _text(body: bytes) -> str | bytes:
    try:
        return body.decode()
    except UnicodeDecodeError:  # The port promises bytes of any kind; they are kept as they are, if less readable.
        return body
