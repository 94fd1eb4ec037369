"""The promise of delivery as pure functions: what was seen on topics and in providers' logs in, findings out.

Nothing found means that the promise was kept. Raw copies of an event, equal to the byte, are allowed; they have no
second effect, and are counted apart.
"""

import base64
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any

from shared.bus.port import Incoming
from shared.contract.events import (
    Channel,
    DeadLetter,
    Event,
    NotificationOutcome,
    NotificationStatus,
    RequestAccepted,
    RequestAssigned,
    RequestRejected,
    RequestUnroutable,
    RequestUpdated,
)

EventKey = tuple[str, str]
"""An agency's event: the agency, and its own id for the event."""


class Fault(StrEnum):
    """How a promise was broken."""

    LOST = "lost"
    DOUBLED = "doubled"
    ALTERED = "altered"
    NOT_TOLD = "not_told"
    UNEXPECTED = "unexpected"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise, and of what: an event, a request, a notification."""

    fault: Fault
    subject: str
    what: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """An event as it stood on its topic, as far as the checks need it. `digest` stands for its bytes."""

    type: type[Event]
    id: str
    cause: str | None
    agency: str | None
    request_id: str | None
    digest: bytes
    notification_id: str | None = None
    channel: Channel | None = None
    status: NotificationStatus | None = None

    @property
    def answers(self) -> EventKey | None:
        """The agency's event that this is the verdict on, if it is one."""
        return (self.agency, self.cause) if self.agency and self.cause else None


def sighting(incoming: Incoming[Event]) -> Sighting:
    """What was seen in a record."""
    event, value = incoming.event, incoming.record.value or b""
    seen: dict[str, Any] = {
        "type": type(event),
        "id": event.id,
        "cause": event.causationid,
        "agency": None,
        "request_id": event.subject,
        "digest": blake2b(value, digest_size=16).digest(),
    }
    match event:
        case RequestAccepted() | RequestAssigned() | RequestUnroutable() | RequestUpdated():
            seen["agency"] = event.data.request.agency
        case RequestRejected(data=data):
            seen |= {"agency": data.agency, "request_id": None}
        case NotificationOutcome(data=data):
            seen |= {"agency": data.agency, "request_id": data.request_id, "notification_id": data.notification_id}
            seen |= {"channel": data.channel, "status": data.status}
        case DeadLetter():
            seen["request_id"] = None
    return Sighting(**seen)


class Sightings:
    """Every event seen, once; raw copies counted, and those that were no true copies kept."""

    def __init__(self) -> None:
        self._by_id: dict[str, Sighting] = {}
        self.raw_copies = 0
        self.altered: list[Sighting] = []

    def add(self, seen: Sighting) -> bool:
        """Take note of a sighting; whether it is the first of its event."""
        standing = self._by_id.setdefault(seen.id, seen)
        if standing is seen:
            return True
        self.raw_copies += 1
        if standing.digest != seen.digest:
            self.altered.append(seen)
        return False

    def of(self, *types: type[Event]) -> list[Sighting]:
        """The events of these types, in the order in which they were first seen."""
        return [seen for seen in self._by_id.values() if seen.type in types]


def altered_copies(sightings: Sightings) -> list[Finding]:
    """Events with one id say one thing: a repetition is equal to the byte."""
    return [
        Finding(Fault.ALTERED, seen.id, f"{seen.type.__name__} was published again with other bytes")
        for seen in sightings.altered
    ]


def unanswered(published: Iterable[EventKey], verdicts: Iterable[Sighting]) -> list[Finding]:
    """Every event that an agency published is accepted, applied or rejected."""
    answered = {seen.answers for seen in verdicts}
    return [
        Finding(Fault.LOST, f"{agency}/{event}", "was published and never answered")
        for agency, event in dict.fromkeys(published)
        if (agency, event) not in answered
    ]


def accepted_twice(accepted: Iterable[Sighting]) -> list[Finding]:
    """A request is accepted once."""
    return _more_than_once(accepted, lambda seen: seen.request_id or seen.id, "was accepted by two events")


def unrouted(accepted: Iterable[Sighting], routed: Collection[Sighting]) -> list[Finding]:
    """Every accepted request is assigned or unroutable, by exactly one event."""
    decided = {seen.cause for seen in routed}
    missing = [
        Finding(Fault.LOST, seen.request_id or seen.id, "was accepted and neither assigned nor unroutable")
        for seen in accepted
        if seen.id not in decided
    ]
    twice = _more_than_once(routed, lambda seen: seen.request_id or seen.id, "was routed by two events")
    return missing + twice


def untold(causes: Iterable[Sighting], outcomes: Iterable[Sighting]) -> list[Finding]:
    """Of everything that happens to a request its citizen is told once, or known to be out of reach.

    A notification's outcome may be told several times (sent, then delivered); that it is one notification, its id says.
    """
    notifications: dict[str | None, set[str | None]] = defaultdict(set)
    for outcome in outcomes:
        notifications[outcome.cause].add(outcome.notification_id)
    findings = []
    for cause in causes:
        told = len(notifications[cause.id])
        subject = f"{cause.request_id} {cause.type.__name__} {cause.id}"
        if told == 0:
            findings.append(Finding(Fault.NOT_TOLD, subject, "has no notification with an outcome"))
        if told > 1:
            findings.append(Finding(Fault.DOUBLED, subject, f"has {told} notifications"))
    return findings


def told_twice(short_messages: Iterable[Mapping[str, Any]], mails: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """A provider is handed the same message once: what its own log says (deploy/local/smsc.py, smtp.py)."""
    parts = Counter(
        json.dumps([entry["destination"], entry["user_message_reference"], entry["part"], entry["octets"]])
        for entry in short_messages
    )
    letters = Counter((entry["message_id"], *entry["rcpt"]) for entry in mails if entry["message_id"])
    return [
        *(
            Finding(Fault.DOUBLED, part, f"the SMSC accepted it {times} times")
            for part, times in parts.items()
            if times > 1
        ),
        *(
            Finding(Fault.DOUBLED, str(letter[0]), f"the mail server accepted it {times} times")
            for letter, times in letters.items()
            if times > 1
        ),
    ]


def unexpected_verdicts(
    rejected: Iterable[Sighting], taken: Iterable[Sighting], expectations: Mapping[EventKey, bool]
) -> list[Finding]:
    """What was known to be right is taken, and what was known to be wrong (True: to be rejected) is not."""
    return [
        *(
            Finding(Fault.UNEXPECTED, "/".join(seen.answers), "was rejected, and nothing is wrong with it")
            for seen in rejected
            if seen.answers and expectations.get(seen.answers) is False
        ),
        *(
            Finding(Fault.UNEXPECTED, "/".join(seen.answers), "was taken, and should have been rejected")
            for seen in taken
            if seen.answers and expectations.get(seen.answers) is True
        ),
    ]


def unexplained_dead_letters(dead: Iterable[DeadLetter], explained: Collection[bytes]) -> list[Finding]:
    """A record is set aside only if it was known to be no event; `explained` holds the values of those."""
    return [
        Finding(Fault.UNEXPLAINED, letter.subject or letter.id, f"{letter.data.service}: {letter.data.detail}")
        for letter in dead
        if base64.b64decode(letter.data.value or "") not in explained
    ]


def _more_than_once(sightings: Iterable[Sighting], subject: Callable[[Sighting], Hashable], what: str) -> list[Finding]:
    times = Counter(subject(seen) for seen in sightings)
    return [Finding(Fault.DOUBLED, str(named), what) for named, count in times.items() if count > 1]
