"""What was seen of a mesh: plain values, as the checkers need them, from topics, stores, providers and services."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from hashlib import blake2b
from sys import intern
from typing import Any, NamedTuple

from services.metrics.domain import observation
from services.notify.domain import Policy, State
from services.routing.domain import Calendar, Rules
from shared.bus.port import Incoming
from shared.contract.events import (
    Channel,
    DeadLetter,
    Event,
    NotificationOutcome,
    NotificationStatus,
    RequestAccepted,
    RequestAssigned,
    RequestOverdue,
    RequestRejected,
    RequestUnroutable,
    RequestUpdated,
    Status,
)
from shared.contract.reasons import Reason

EventKey = tuple[str, str]
"""An agency's event: the agency, and its own id for the event."""

TopicPlace = tuple[str, int]
"""A topic and one of its partitions."""


class Place(NamedTuple):
    """Where a record stands."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Decided:
    """What routing said of a request: office, due date and rule, or the reason why none answers."""

    rules_version: str
    office: str | None = None
    due: date | None = None
    rule: str | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Sighting:
    """An event as it stood on its topic, as far as the checks need it. `digest` stands for its bytes.

    `skewed`: one of its steps seems to end before it began.
    """

    type: type[Event]
    id: str
    cause: str | None
    agency: str | None
    request_id: str | None
    digest: bytes
    place: Place
    notification_id: str | None = None
    channel: Channel | None = None
    status: NotificationStatus | None = None
    fallback_of: str | None = None
    sequence: int | None = None
    changed_to: Status | None = None
    decided: Decided | None = None
    skewed: bool = False

    @property
    def answers(self) -> EventKey | None:
        """The agency's event that this is the verdict on, if it is one."""
        return (self.agency, self.cause) if self.agency and self.cause else None


def sighting(incoming: Incoming[Event]) -> Sighting:
    """What was seen in a record."""
    event, record = incoming.event, incoming.record
    # Ids are repeated by whatever an event brings about; a text that is held once is a third of the memory.
    said = observation(event)
    seen: dict[str, Any] = {
        "type": type(event),
        "id": intern(event.id),
        "cause": _interned(event.causationid),
        "agency": None,
        "request_id": _interned(event.subject),
        "digest": blake2b(record.value or b"", digest_size=16).digest(),
        "place": Place(intern(record.topic), record.partition, record.offset),
        "skewed": said is not None and any(seconds < 0 for _, seconds in said.waits),
    }
    match event:
        case RequestAccepted() | RequestAssigned() | RequestOverdue() | RequestUnroutable() | RequestUpdated():
            seen["agency"] = intern(event.data.request.agency)
        case RequestRejected():
            seen |= {"agency": event.data.agency, "request_id": None}
        case NotificationOutcome(data=told):
            seen |= {"agency": intern(told.agency), "request_id": intern(told.request_id), "channel": told.channel}
            seen |= {"notification_id": intern(told.notification_id), "status": told.status}
            seen["fallback_of"] = _interned(told.fallback_of)
        case DeadLetter():
            # Each service that can't read a record sets it aside under the same id, as a source of its own.
            seen |= {"id": f"{event.source}#{event.id}", "request_id": None}
    match event:
        case RequestUpdated(data=change):
            seen |= {"sequence": change.sequence, "changed_to": change.status}
        case RequestAssigned(data=ruling):
            decided = Decided(intern(ruling.rules_version), intern(ruling.office.id), ruling.due, intern(ruling.rule))
            seen["decided"] = decided
        case RequestUnroutable(data=refusal):
            seen["decided"] = Decided(intern(refusal.rules_version), reason=refusal.reason)
    return Sighting(**seen)


def _interned(text: str | None) -> str | None:
    return None if text is None else intern(text)


class Sightings:
    """Every event seen, once; raw copies counted, and those that were no true copies kept."""

    def __init__(self, seen: Iterable[Sighting] = ()) -> None:
        self._by_id: dict[str, Sighting] = {}
        self.raw_copies = 0
        self.altered: list[Sighting] = []
        self._copied_at: dict[str, list[Place]] = defaultdict(list)
        for each in seen:
            self.add(each)

    def add(self, seen: Sighting) -> bool:
        """Take note of a sighting; whether it is the first of its event."""
        standing = self._by_id.setdefault(seen.id, seen)
        if standing is seen:
            return True
        self.raw_copies += 1
        self._copied_at[seen.id].append(seen.place)
        if standing.digest != seen.digest:
            self.altered.append(seen)
        return False

    def of(self, *types: type[Event]) -> list[Sighting]:
        """The events of these types, in the order in which they were first seen."""
        return [seen for seen in self._by_id.values() if seen.type in types]

    def places(self, seen: Sighting) -> list[Place]:
        """Where an event stands: first, and in raw copies."""
        return [seen.place, *self._copied_at.get(seen.id, ())]

    def changed(self, *, without: Collection[str] = (), added: Iterable[Sighting] = ()) -> "Sightings":
        """The same without the events of these ids, and then with some more."""
        other = Sightings()
        other._by_id = {key: seen for key, seen in self._by_id.items() if key not in without}
        other.raw_copies, other.altered = self.raw_copies, list(self.altered)
        other._copied_at.update({key: list(places) for key, places in self._copied_at.items()})
        for each in added:
            other.add(each)
        return other


@dataclass(frozen=True, slots=True)
class Published:
    """What agencies said, as far as who played them knows.

    `awaiting` are the events that must have a verdict; `to_be_rejected` says of some what the verdict has to be;
    `doubtful` are the bytes of those that a service may set aside as no event at all.
    """

    awaiting: Collection[EventKey] = ()
    to_be_rejected: Mapping[EventKey, bool] = field(default_factory=dict)
    doubtful: Collection[bytes] = ()


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A notification as notify's ledger has it."""

    id: str
    cause: str
    request_id: str
    channel: Channel | None
    recipient: str | None
    status: State
    announced: frozenset[NotificationStatus]
    references: tuple[str, ...] = ()
    segments: int = 0
    attempts: int = 0
    policy: Policy = Policy.AT_MOST_ONCE
    unknowns: int = 0
    has_alternative: bool = False
    """Whether its citizen can be told by the other channel, too."""
    fallback_of: str | None = None
    untold: bool = False
    """Whether more of it is about to come: an outcome that was decided, a fallback, or what becomes of that."""


@dataclass(frozen=True, slots=True)
class ShortMessage:
    """One part of a message that an SMSC accepted, by its own log. `recipient` in digits, without a plus."""

    message_id: str
    recipient: str
    user_message_reference: int | None
    part: int
    octets: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail that a mail server accepted, by its own log. `notification_id` is what its Message-ID names."""

    notification_id: str
    recipients: tuple[str, ...]
    at: datetime


@dataclass(frozen=True, slots=True)
class Sample:
    """How far each consumer group has committed, and where each partition ended right after that was asked.

    `afresh`: brokers ended or stood still since the sample before. What a broker says in its first moments can be
    seconds older than what was acknowledged, so that one who asks then begins there again, and is right to.
    """

    committed: Mapping[str, Mapping[TopicPlace, int]]
    ends: Mapping[TopicPlace, int]
    afresh: bool = False


@dataclass(frozen=True, slots=True)
class Rulebook:
    """What routing decides by."""

    rules: Rules
    calendar: Calendar


Series = tuple[str, frozenset[tuple[str, str]]]
"""A metric and its labels."""

Scrape = Mapping[Series, float]
"""What a service's /metrics said."""

PROCESS_STARTED = "process_start_time_seconds"


def together(replicas: Iterable[Scrape | None]) -> Scrape | None:
    """What a service's replicas counted, as of one that started when the last of them did; None if one says nothing."""
    counted: dict[Series, float] = {}
    for scrape in replicas:
        if scrape is None:
            return None
        for series, value in scrape.items():
            before = counted.get(series, 0.0)
            counted[series] = max(before, value) if series[0] == PROCESS_STARTED else before + value
    return counted


@dataclass(frozen=True, slots=True)
class Personal:
    """What must not be told to others: contacts (phones in digits only, mail addresses in lower case) and names."""

    contacts: Collection[str] = ()
    names: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """A mesh after its work. What is None was not given, and what rests on it is not checked.

    `mentions` are texts that look like contacts or are names, and stood where nothing personal belongs: each with the
    first place where it was seen. `accepted_values` are the bytes of accepted events by their id. `poison` says where
    records stand that were put there to be unreadable; `faults` when faults were injected. Of `samples` the last one
    was taken when all else was read.
    """

    sightings: Sightings
    dead_letters: Sequence[DeadLetter] = ()
    unreadable: Sequence[Place] = ()
    partitions: Mapping[str, int] | None = None
    published: Published | None = None
    poison: Collection[Place] | None = None
    ledger: Mapping[str, LedgerRow] | None = None
    short_messages: Sequence[ShortMessage] | None = None
    letters: Sequence[Letter] | None = None
    faults: Sequence[datetime] | None = None
    samples: Sequence[Sample] | None = None
    rulebook: Rulebook | None = None
    accepted_values: Mapping[str, bytes] | None = None
    scrapes: Mapping[str, Scrape] | None = None
    began: float | None = None
    """When the oldest record was published, in seconds since 1970."""
    personal: Personal | None = None
    mentions: Mapping[str, str] | None = None
