"""How both adapters write what the port leaves open: instants, names, keys."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import overload

KEY_LENGTH_MAX = 256

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_COLLECTION_NAME = re.compile(r"[a-z][a-z_]{0,62}")


@overload
def to_micros(instant: datetime) -> int: ...
@overload
def to_micros(instant: None) -> None: ...
@overload
def to_micros(instant: datetime | None) -> int | None: ...
def to_micros(instant: datetime | None) -> int | None:
    """Microseconds since 1970 in UTC, exact. ValueError for a time without zone, which would mean another elsewhere."""
    if instant is None:
        return None
    if instant.utcoffset() is None:
        raise ValueError(f"a due time needs a time zone: {instant!r}")
    return (instant - _EPOCH) // _MICROSECOND


def from_micros(micros: int | None) -> datetime | None:
    """The instant, in UTC, that `to_micros` wrote."""
    return None if micros is None else _EPOCH + timedelta(microseconds=micros)


def checked_name(name: str) -> str:
    """A collection's name, fit to stand in a statement as it is; ValueError if it is not."""
    if not _COLLECTION_NAME.fullmatch(name):
        raise ValueError(f"a collection is named by lower-case letters and underscores, not {name!r}")
    return name


def check_keys(keys: Iterable[str]) -> None:
    """ValueError if a key is longer than the port allows."""
    for key in keys:
        if len(key) > KEY_LENGTH_MAX:
            raise ValueError(f"a key has at most {KEY_LENGTH_MAX} characters, not {len(key)}: {key[:40]!r}…")
