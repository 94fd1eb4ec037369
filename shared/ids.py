"""Ids that are derived, never random: the same cause gives the same id on every delivery."""

from hashlib import sha1
from uuid import UUID
from zlib import crc32

_EVENT = UUID("6f1f7e0b-9d7a-5c55-8a0e-2f9d1f0c6d01").bytes
_REQUEST = UUID("6f1f7e0b-9d7a-5c55-8a0e-2f9d1f0c6d02").bytes
_NOTIFICATION = UUID("6f1f7e0b-9d7a-5c55-8a0e-2f9d1f0c6d03").bytes


def event_id(cause: str, event_type: str, index: int = 0) -> str:
    """The id of the index-th event of a type that a cause (an event id or a record's origin) brings about."""
    return _uuid5(_EVENT, f"{cause}\n{event_type}\n{index}")


def request_id(agency: str, agency_reference: str) -> str:
    """A request is named by the agency that took it and that agency's own number for it."""
    return _uuid5(_REQUEST, f"{agency}\n{agency_reference}")


def notification_id(cause: str, step: str, channel: str) -> str:
    """One notification for each event that gave rise to it, step and channel."""
    return _uuid5(_NOTIFICATION, f"{cause}\n{step}\n{channel}")


def _uuid5(namespace: bytes, name: str) -> str:
    """As `uuid.uuid5` names things (RFC 9562), in a fifth of its time."""
    digest = sha1(namespace + name.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key, the same number on every topic that has as many partitions.

    CRC-32 rather than Kafka's murmur2, which costs 8 µs a key in pure Python: nothing but the mesh writes to
    its topics, so no other client has to agree.
    """
    return crc32(key) % partitions
