"""Ids that are derived, never random: the same cause gives the same id on every delivery.

Those by which stores keep what comes later begin with a time, so that what is stored together lies together: an index
grows at its end, and a million rows cost no more than ten.
"""

from datetime import datetime
from hashlib import sha1
from uuid import UUID
from zlib import crc32

_EVENT = UUID("6f1f7e0b-9d7a-5c55-8a0e-2f9d1f0c6d01").bytes
_REQUEST = UUID("6f1f7e0b-9d7a-5c55-8a0e-2f9d1f0c6d02").bytes
_NOTIFICATION = UUID("6f1f7e0b-9d7a-5c55-8a0e-2f9d1f0c6d03").bytes


def event_id(cause: str, event_type: str, index: int = 0) -> str:
    """The id of the index-th event of a type that a cause (an event id or a record's origin) brings about."""
    return _uuid5(_EVENT, f"{cause}\n{event_type}\n{index}")


def request_id(agency: str, agency_reference: str, accepted: datetime) -> str:
    """A request is named by the agency that took it, that agency's own number for it, and when it was accepted."""
    return _uuid8(_REQUEST, f"{agency}\n{agency_reference}", accepted)


def notification_id(cause: str, step: str, channel: str, caused: datetime) -> str:
    """One notification for each event that gave rise to it, which has its time, step and channel."""
    return _uuid8(_NOTIFICATION, f"{cause}\n{step}\n{channel}", caused)


def _uuid5(namespace: bytes, name: str) -> str:
    """As `uuid.uuid5` names things (RFC 9562), in a fifth of its time."""
    digest = sha1(namespace + name.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def _uuid8(namespace: bytes, name: str, moment: datetime) -> str:
    """A UUID of version 8 (RFC 9562): the moment's milliseconds since 1970, as in version 7, then what SHA-1 makes of
    the name. Of two made in different milliseconds the later one is the greater."""
    digest = sha1(namespace + name.encode(), usedforsecurity=False).hexdigest()
    time = f"{int(moment.timestamp() * 1000):012x}"
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{time[:8]}-{time[8:]}-8{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key, the same number on every topic that has as many partitions.

    CRC-32 rather than Kafka's murmur2, which costs 8 µs a key in pure Python: nothing but the mesh writes to
    its topics, so no other client has to agree.
    """
    return crc32(key) % partitions
