"""The events of the mesh: CloudEvents 1.0 in JSON, frozen and versioned.

Readers inside the mesh tolerate fields they do not know, so that a newer writer may add some. A field is added,
never retyped, renamed or reused; what can't be said so becomes a new version with a type name of its own.
Times are UTC. Every event repeats the card of its request and the timeline of its steps, so no reader needs a
join. Personal data stands in `applicant`, `description` and `note` and nowhere else.
"""

import re
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from msgspec import DecodeError, Meta, Struct, ValidationError, field
from msgspec.json import Decoder, Encoder
from msgspec.structs import astuple, fields, force_setattr, replace

from shared.contract.reasons import Reason

T = TypeVar("T")

Moment = Annotated[datetime, Meta(tz=True)]
"""An instant with its zone; a Timed part holds it in UTC."""

AttributeValue = str | int | float | bool


class Language(StrEnum):
    """Languages a citizen can be told in (ISO 639-1)."""

    FRENCH = "fr"
    ARABIC = "ar"
    SOMALI = "so"
    AFAR = "aa"
    ENGLISH = "en"


class Channel(StrEnum):
    """Ways to reach a citizen."""

    SMS = "sms"
    EMAIL = "email"


class Status(StrEnum):
    """Where a request stands. The last two are terminal."""

    RECEIVED = "received"
    IN_PROGRESS = "in_progress"
    WAITING_FOR_CITIZEN = "waiting_for_citizen"
    RESOLVED = "resolved"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can follow."""
        return self in (Status.RESOLVED, Status.CANCELLED)


class Door(StrEnum):
    """Where an agency's event came in."""

    HTTP = "http"
    KAFKA = "kafka"


class NotificationStatus(StrEnum):
    """Where a notification stands, as its outcome tells it."""

    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"
    UNKNOWN = "unknown"
    UNREACHABLE = "unreachable"


class Unreadable(ValueError):
    """Bytes that are not what they should be: `not_json`, or `invalid_value` with the field's path.

    Repeats no value: a trace in a log must not show what a citizen wrote.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Part(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A frozen piece of JSON that ignores fields added by newer writers.

    Types are checked as it is read, not as it is made: that is mypy's work. The garbage collector passes it over, since
    nothing in it can lead back to it.
    """

    @classmethod
    def from_json(cls, body: bytes | str) -> Self:
        """What `to_json` wrote, here or in a newer version. Raises Unreadable."""
        try:
            part: Self = _decoder(cls).decode(body)
        # Without its cause, which repeats some values.
        except ValidationError as error:
            raise _invalid(str(error)) from None
        except (DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unreadable(Reason.NOT_JSON, f"record: {error}") from None
        return part

    def to_json(self) -> bytes:
        """JSON. What is None is left out, and equal parts give equal bytes."""
        return _ENCODER.encode(self)


_ENCODER = Encoder()
_INVALID = re.compile(r"(?P<said>.*) - at `\$\.?(?P<path>[^`]*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")


@cache
def _decoder(part: type[Part]) -> Decoder[Any]:
    return Decoder(part)


def _invalid(message: str) -> Unreadable:
    found = _INVALID.fullmatch(message)
    said, path = found.group("said", "path") if found else (message, "")
    if missing := _MISSING.fullmatch(said):
        said, path = "Field required", f"{path}.{missing['name']}".removeprefix(".")
    # The value follows where it is none of its enum's.
    what, _, _ = said.partition(" '")
    return Unreadable(Reason.INVALID_VALUE, f"{path or 'record'}: {what}")


def utc(moment: datetime) -> datetime:
    """The same instant in UTC. ValueError if it has no zone, or no year from 1 to 9999 there."""
    if moment.tzinfo is None:
        raise ValueError("it has no zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("it lies outside the years 1 to 9999 in UTC") from error


def _written(value: T) -> T:
    """A default that is written, too: other defaults are left out, and a reader may rely on this field."""
    return field(default_factory=lambda: value)


class Timed(Part, frozen=True, kw_only=True):
    """A part with moments of its own: each in UTC, whatever its zone was. ValueError if it has none."""

    def __post_init__(self) -> None:
        for name in _moments(type(self)):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is not UTC:
                try:
                    force_setattr(self, name, utc(moment))
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error


@cache
def _moments(part: type[Timed]) -> tuple[str, ...]:
    return tuple(each.name for each in fields(part) if each.type in (Moment, Moment | None))


class Applicant(Part, frozen=True, kw_only=True):
    """The citizen, as far as needed to tell them something. Phone in E.164."""

    name: str | None = None
    phone: str | None = None
    email: str | None = None
    language: Language | None = None
    channel: Channel | None = None


class Place(Part, frozen=True, kw_only=True):
    """Where the request is about. `zone` is the jurisdiction's own division: a district, a ward, a borough."""

    address: str | None = None
    zone: str | None = None
    latitude: float | None = None
    longitude: float | None = None


class Card(Timed, frozen=True, kw_only=True):
    """What every event about a request repeats: who asked whom for what, and the number the citizen knows."""

    request_id: str
    reference: str
    agency: str
    agency_reference: str
    service_code: str
    submitted_at: Moment
    applicant: Applicant


class Timeline(Timed, frozen=True, kw_only=True):
    """When each step happened, by the clock of the service that took it. None: not yet, or not on this path."""

    published: Moment | None = None
    received: Moment | None = None
    accepted: Moment | None = None
    updated: Moment | None = None
    assigned: Moment | None = None
    planned: Moment | None = None
    sent: Moment | None = None
    delivered: Moment | None = None

    def __post_init__(self) -> None:
        # Several are made for each event, and nearly all are in UTC: by its fields instead of their names.
        for moment in astuple(self):
            if moment is not None and moment.tzinfo is not UTC:
                super().__post_init__()
                return

    def at(self, **steps: datetime) -> Self:
        """This timeline with further steps written in."""
        return replace(self, **steps)


class Office(Part, frozen=True, kw_only=True):
    """The counter that has to answer."""

    id: str
    name: str


class Origin(Part, frozen=True, kw_only=True):
    """The record in which something came."""

    topic: str
    partition: int
    offset: int

    @property
    def place(self) -> str:
        """`topic/partition/offset`, by which the record is named in keys and to people."""
        return f"{self.topic}/{self.partition}/{self.offset}"


class Problem(Part, frozen=True, kw_only=True):
    """One thing that is wrong: a code for machines, the path of the field, a sentence for people."""

    reason: Reason
    detail: str
    field: str | None = None


class RequestAcceptedData(Part, frozen=True, kw_only=True):
    request: Card
    description: str | None = None
    place: Place | None = None
    attributes: dict[str, AttributeValue] = _written({})
    timeline: Timeline


class RequestRejectedData(Part, frozen=True, kw_only=True):
    agency: str
    event_id: str | None = None
    agency_reference: str | None = None
    door: Door
    origin: Origin | None = None
    problems: tuple[Problem, ...]
    timeline: Timeline


class RequestUpdatedData(Timed, frozen=True, kw_only=True):
    request: Card
    status: Status
    previous_status: Status
    sequence: int
    occurred_at: Moment
    note: str | None = None
    timeline: Timeline


class RequestAssignedData(Part, frozen=True, kw_only=True):
    request: Card
    office: Office
    due: date
    rule: str
    rules_version: str
    timeline: Timeline


class RequestOverdueData(Part, frozen=True, kw_only=True):
    request: Card
    office: Office
    due: date
    timeline: Timeline


class RequestUnroutableData(Part, frozen=True, kw_only=True):
    request: Card
    reason: Reason
    rules_version: str
    timeline: Timeline


class NotificationOutcomeData(Part, frozen=True, kw_only=True):
    """What became of a notification. Holds no contact: the ledger of notify does.

    `fallback_of`: the notification on the citizen's other channel that failed before.
    """

    notification_id: str
    request_id: str
    reference: str
    agency: str
    service_code: str
    step: str
    channel: Channel | None = None
    language: Language
    template: str
    provider: str | None = None
    status: NotificationStatus
    reason: str | None = None
    attempts: int = _written(0)
    segments: int = _written(0)
    fallback_of: str | None = None
    timeline: Timeline


class DeadLetterData(Part, frozen=True, kw_only=True):
    """A record that could not be processed: where it stood, why, and its bytes as base64, to be replayed once mended.

    Two kinds are `cut`, and can't be replayed from here: a record larger than any topic takes, which had been
    compressed, leaves only the start of its value; one that can't be unpacked leaves nothing. `detail` says which. Both
    stay where they stood until their topic's retention ends.
    """

    service: str
    origin: Origin
    recorded_at_ms: int
    reason: Reason
    detail: str
    key: str | None = None
    value: str | None = None
    headers: tuple[tuple[str, str | None], ...] = _written(())
    cut: Annotated[bool, Meta(extra_json_schema={"const": True})] | None = None


class Event(Timed, frozen=True, kw_only=True):
    """A CloudEvents 1.0 envelope. `subject` is the request id, `causationid` the event that brought this about."""

    TYPE: ClassVar[str]

    specversion: Literal["1.0"] = _written("1.0")
    id: str
    source: str
    type: str
    subject: str | None = None
    time: Moment | None = None
    datacontenttype: Literal["application/json"] = _written("application/json")
    causationid: str | None = None
    data: Any


class RequestAccepted(Event, frozen=True, kw_only=True):
    """Intake took the request over: from here it can't be lost."""

    TYPE: ClassVar[str] = "guichet.request.accepted.v1"
    type: Literal["guichet.request.accepted.v1"] = _written("guichet.request.accepted.v1")
    data: RequestAcceptedData


class RequestRejected(Event, frozen=True, kw_only=True):
    """Intake refused an agency's event, and says why."""

    TYPE: ClassVar[str] = "guichet.request.rejected.v1"
    type: Literal["guichet.request.rejected.v1"] = _written("guichet.request.rejected.v1")
    data: RequestRejectedData


class RequestUpdated(Event, frozen=True, kw_only=True):
    """What happened to a request since. `sequence` counts its changes from 1."""

    TYPE: ClassVar[str] = "guichet.request.updated.v1"
    type: Literal["guichet.request.updated.v1"] = _written("guichet.request.updated.v1")
    data: RequestUpdatedData


class RequestAssigned(Event, frozen=True, kw_only=True):
    """Routing named the office and the day by which it should have answered."""

    TYPE: ClassVar[str] = "guichet.request.assigned.v1"
    type: Literal["guichet.request.assigned.v1"] = _written("guichet.request.assigned.v1")
    data: RequestAssignedData


class RequestOverdue(Event, frozen=True, kw_only=True):
    """A request was open when the day ended by which its office should have answered. `time` is that midnight."""

    TYPE: ClassVar[str] = "guichet.request.overdue.v1"
    type: Literal["guichet.request.overdue.v1"] = _written("guichet.request.overdue.v1")
    data: RequestOverdueData


class RequestUnroutable(Event, frozen=True, kw_only=True):
    """No rule names an office for the request: somebody has to look."""

    TYPE: ClassVar[str] = "guichet.request.unroutable.v1"
    type: Literal["guichet.request.unroutable.v1"] = _written("guichet.request.unroutable.v1")
    data: RequestUnroutableData


class NotificationOutcome(Event, frozen=True, kw_only=True):
    """A notification was sent, delivered, failed, or nobody can know."""

    TYPE: ClassVar[str] = "guichet.notification.outcome.v1"
    type: Literal["guichet.notification.outcome.v1"] = _written("guichet.notification.outcome.v1")
    data: NotificationOutcomeData


class DeadLetter(Event, frozen=True, kw_only=True):
    """A record that a service could not process, kept so that it can be replayed."""

    TYPE: ClassVar[str] = "guichet.record.dead.v1"
    type: Literal["guichet.record.dead.v1"] = _written("guichet.record.dead.v1")
    data: DeadLetterData
