"""What a handler sees of Kafka: what came in, what goes out, how it is refused.

What is made for every record is a struct: that takes a tenth of the time of a frozen dataclass.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from shared.contract.events import Event
from shared.contract.reasons import Reason
from shared.contract.topics import Topic

E = TypeVar("E", bound=Event, covariant=True)


class Unavailable(Exception):
    """A part that is needed did not answer in time. Nothing is known of what was asked of it: do it again."""


class Publication(Struct, frozen=True, gc=False):
    """An event on its way out: bytes, so that what was stored is published again to the byte."""

    topic: Topic
    key: str
    value: bytes


class Undecodable(Exception):
    """A record that can't be read. It goes to the dead letters, with the notices that others get of it."""

    def __init__(self, reason: Reason, detail: str, *, notices: Sequence[Publication] = ()) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.notices = notices


class StopReason(StrEnum):
    """Why a consumer stopped for good; a closed list, since it is a label."""

    DEAD_LETTERS = "dead_letters"
    OFFSETS_GONE = "offsets_gone"
    UNREADABLE = "unreadable"


class Stop(Exception):
    """The consumer must not go on by itself: whatever it did next could lose something. A person has to look."""

    def __init__(self, reason: StopReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Record(Struct, frozen=True):
    """A Kafka record as it came. `recorded_at` is None where its timestamp is no sane time.

    `unreadable` says why its bytes could not all be read; then it is not decoded but set aside, `cut` unless they are
    here.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    recorded_at: datetime | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    unreadable: Undecodable | None = None
    cut: bool = False


class Incoming(Struct, Generic[E], frozen=True, gc=False):
    """A decoded event with the record it came in."""

    event: E
    record: Record


class Publisher(Protocol):
    """Publishes to the mesh's topics."""

    async def publish(self, publications: Sequence[Publication]) -> None:
        """Return once all are acknowledged by all in-sync replicas, in order per key; else raise Unavailable.

        After Unavailable some may stand on their topics and some not: publish all of them again.
        """
        ...
