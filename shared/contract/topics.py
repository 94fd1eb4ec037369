"""The topics of the mesh: names, what stands on them, and how they are laid out."""

import re
from dataclasses import dataclass, field

from shared.contract.events import (
    DeadLetter,
    Event,
    NotificationOutcome,
    RequestAccepted,
    RequestAssigned,
    RequestOverdue,
    RequestRejected,
    RequestUnroutable,
    RequestUpdated,
)

_DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic and the one event type that stands on it. `key` says in words what a record's key is."""

    name: str
    event: type[Event]
    about: str
    key: str = "The request id."
    retention_ms: int = 14 * _DAY_MS
    settings: dict[str, str] = field(default_factory=dict)


ACCEPTED = Topic("requests.accepted", RequestAccepted, "Requests that intake took over.")
REJECTED = Topic(
    "requests.rejected",
    RequestRejected,
    "Events that intake refused, and why.",
    key="`agency/id`: the agency and its event's id, or the origin of the record where no id could be read.",
)
UPDATED = Topic("requests.updated", RequestUpdated, "What happened to a request since.")
ASSIGNED = Topic("requests.assigned", RequestAssigned, "The office and the due date of a request.")
OVERDUE = Topic("requests.overdue", RequestOverdue, "Requests that were still open when their due date had ended.")
UNROUTABLE = Topic("requests.unroutable", RequestUnroutable, "Requests for which no rule names an office.")
OUTCOME = Topic("notifications.outcome", NotificationOutcome, "What became of each notification.")
DEAD_LETTERS = Topic(
    "mesh.dead-letters",
    DeadLetter,
    "Records that could not be processed, with where they stood and why.",
    key="`topic/partition/offset`: the origin of the record.",
    retention_ms=90 * _DAY_MS,
    # A record of a mebibyte grows by a third in base64.
    settings={"max.message.bytes": str(4 * 1024 * 1024)},
)

MESH_TOPICS = (ACCEPTED, REJECTED, UPDATED, ASSIGNED, OVERDUE, UNROUTABLE, OUTCOME, DEAD_LETTERS)

AGENCY_ID = re.compile(r"^[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?$")
AGENCY_TOPIC_PATTERN = r"^agency\.[a-z0-9-]+\.events$"
_AGENCY_TOPIC = re.compile(r"^agency\.([a-z0-9-]+)\.events$")


def agency_topic(agency: str) -> str:
    """The topic to which an agency publishes. Only that agency may write to it: its name is who it is."""
    return f"agency.{agency}.events"


def agency_of(topic: str) -> str:
    """The agency whose topic this is; ValueError for any other topic."""
    match = _AGENCY_TOPIC.match(topic)
    if match is None:
        raise ValueError(f"{topic!r} is no agency's topic; those are named agency.<id>.events")
    return match.group(1)
