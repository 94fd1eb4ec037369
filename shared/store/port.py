"""The one store port: single documents, first decision wins, compare-and-set, due rows by lease.

Bodies are opaque bytes (UTF-8 JSON in every service), so that a store never has to know what it keeps. There are no
transactions over several documents: whatever a service does must be safe to repeat from any point.
"""

from collections.abc import AsyncIterator, Mapping
from collections.abc import Collection as Keys
from datetime import datetime, timedelta
from typing import Protocol

from msgspec import Struct


class StoreUnavailable(Exception):
    """The store did not answer, or could not write. Nothing is known of what the call did: do it again."""


class Document(Struct, frozen=True, gc=False):
    """What is to be kept. `due`: when somebody should take it up; None: never."""

    body: bytes
    due: datetime | None = None


class Row(Struct, frozen=True, gc=False):
    """A document as it stands. `version` is 1 when new and grows by one with each change."""

    key: str
    version: int
    body: bytes
    due: datetime | None = None


class Change(Struct, frozen=True, gc=False):
    """What a row should become if it still has the version that was read."""

    version: int
    body: bytes
    due: datetime | None = None


class Collection(Protocol):
    """Documents of one kind, each under a key of at most 256 characters.

    Every call either holds durably when it returns, or raises StoreUnavailable. Each document is changed atomically;
    a call over several documents is not atomic as a whole.
    """

    async def insert_new(self, documents: Mapping[str, Document]) -> dict[str, Row]:
        """Insert each document whose key is not there yet; return the rows that stood before, by key.

        The first decision wins: of two callers with one key, exactly one does not get it back.
        """
        ...

    async def get_many(self, keys: Keys[str]) -> dict[str, Row]:
        """The rows there are among these keys."""
        ...

    async def compare_and_set(self, changes: Mapping[str, Change]) -> set[str]:
        """Apply each change whose row still has the given version; return the keys that were changed."""
        ...

    async def take_due(self, now: datetime, *, limit: int, lease: timedelta) -> list[Row]:
        """Take up to `limit` rows with `due` <= now, the longest due first, for the length of the lease.

        A row taken gets a new version and `due` = now + lease, so that it comes up again by itself if its taker
        dies. No two takers get the same row while the lease runs.
        """
        ...

    def scan(self, *, due_only: bool = False) -> AsyncIterator[Row]:
        """All rows, or those with a due time, by key. Rows changed meanwhile may be seen old or new, never twice."""
        ...


class Store(Protocol):
    """A service's own store. No other service reads it."""

    async def open(self) -> None:
        """Connect and make ready; StoreUnavailable if it can't be."""
        ...

    async def close(self) -> None:
        """Let go of every resource. May be called more than once."""
        ...

    async def ping(self) -> None:
        """Return if the store answers and can be written to; StoreUnavailable if not."""
        ...

    def collection(self, name: str) -> Collection:
        """The collection of this name, made at first use. Names are lower-case letters and underscores."""
        ...
