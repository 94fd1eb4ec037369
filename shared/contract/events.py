"""The events of the mesh: CloudEvents 1.0 in JSON, frozen and versioned.

Readers inside the mesh tolerate fields they do not know, so that a newer writer may add some. A field is added,
never retyped, renamed or reused; what can't be said so becomes a new version with a type name of its own.
Times are UTC. Every event repeats the card of its request and the timeline of its steps, so no reader needs a
join. Personal data stands in `applicant`, `description` and `note` and nowhere else.
"""

from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from shared.contract.reasons import Reason


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("it lies outside the years 1 to 9999 in UTC") from error


Moment = Annotated[AwareDatetime, AfterValidator(_utc)]
"""An instant with its zone, held in UTC."""

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


class Part(BaseModel):
    """A frozen piece of an event that ignores fields added by newer writers."""

    # A trace in a log must not show what a citizen wrote.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants", hide_input_in_errors=True)


class Applicant(Part):
    """The citizen, as far as needed to tell them something. Phone in E.164."""

    name: str | None = None
    phone: str | None = None
    email: str | None = None
    language: Language | None = None
    channel: Channel | None = None


class Place(Part):
    """Where the request is about. `zone` is the jurisdiction's own division: a district, a ward, a borough."""

    address: str | None = None
    zone: str | None = None
    latitude: float | None = None
    longitude: float | None = None


class Card(Part):
    """What every event about a request repeats: who asked whom for what, and the number the citizen knows."""

    request_id: str
    reference: str
    agency: str
    agency_reference: str
    service_code: str
    submitted_at: Moment
    applicant: Applicant


class Timeline(Part):
    """When each step happened, by the clock of the service that took it. None: not yet, or not on this path."""

    published: Moment | None = None
    received: Moment | None = None
    accepted: Moment | None = None
    updated: Moment | None = None
    assigned: Moment | None = None
    planned: Moment | None = None
    sent: Moment | None = None
    delivered: Moment | None = None

    def at(self, **steps: datetime) -> Self:
        """This timeline with further steps written in."""
        return self.model_copy(update=steps)


class Office(Part):
    """The counter that has to answer."""

    id: str
    name: str


class Origin(Part):
    """The record in which something came."""

    topic: str
    partition: int
    offset: int


class Problem(Part):
    """One thing that is wrong: a code for machines, the path of the field, a sentence for people."""

    reason: Reason
    detail: str
    field: str | None = None


class RequestAcceptedData(Part):
    request: Card
    description: str | None = None
    place: Place | None = None
    attributes: dict[str, AttributeValue] = Field(default_factory=dict)
    timeline: Timeline


class RequestRejectedData(Part):
    agency: str
    event_id: str | None = None
    agency_reference: str | None = None
    door: Door
    origin: Origin | None = None
    problems: tuple[Problem, ...]
    timeline: Timeline


class RequestUpdatedData(Part):
    request: Card
    status: Status
    previous_status: Status
    sequence: int
    occurred_at: Moment
    note: str | None = None
    timeline: Timeline


class RequestAssignedData(Part):
    request: Card
    office: Office
    due: date
    rule: str
    rules_version: str
    timeline: Timeline


class RequestUnroutableData(Part):
    request: Card
    reason: Reason
    rules_version: str
    timeline: Timeline


class NotificationOutcomeData(Part):
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
    attempts: int = 0
    segments: int = 0
    fallback_of: str | None = None
    timeline: Timeline


class DeadLetterData(Part):
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
    headers: tuple[tuple[str, str | None], ...] = ()
    cut: Literal[True] | None = None


class Event(Part):
    """A CloudEvents 1.0 envelope. `subject` is the request id, `causationid` the event that brought this about."""

    TYPE: ClassVar[str]

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: str
    subject: str | None = None
    time: Moment | None = None
    datacontenttype: Literal["application/json"] = "application/json"
    causationid: str | None = None
    data: Any

    def to_json(self) -> bytes:
        """Structured-mode JSON. Absent fields are left out, and equal events give equal bytes."""
        return self.model_dump_json(exclude_none=True).encode()


class RequestAccepted(Event):
    """Intake took the request over: from here it can't be lost."""

    TYPE: ClassVar[str] = "guichet.request.accepted.v1"
    type: Literal["guichet.request.accepted.v1"] = "guichet.request.accepted.v1"
    data: RequestAcceptedData


class RequestRejected(Event):
    """Intake refused an agency's event, and says why."""

    TYPE: ClassVar[str] = "guichet.request.rejected.v1"
    type: Literal["guichet.request.rejected.v1"] = "guichet.request.rejected.v1"
    data: RequestRejectedData


class RequestUpdated(Event):
    """What happened to a request since. `sequence` counts its changes from 1."""

    TYPE: ClassVar[str] = "guichet.request.updated.v1"
    type: Literal["guichet.request.updated.v1"] = "guichet.request.updated.v1"
    data: RequestUpdatedData


class RequestAssigned(Event):
    """Routing named the office and the day by which it should have answered."""

    TYPE: ClassVar[str] = "guichet.request.assigned.v1"
    type: Literal["guichet.request.assigned.v1"] = "guichet.request.assigned.v1"
    data: RequestAssignedData


class RequestUnroutable(Event):
    """No rule names an office for the request: somebody has to look."""

    TYPE: ClassVar[str] = "guichet.request.unroutable.v1"
    type: Literal["guichet.request.unroutable.v1"] = "guichet.request.unroutable.v1"
    data: RequestUnroutableData


class NotificationOutcome(Event):
    """A notification was sent, delivered, failed, or nobody can know."""

    TYPE: ClassVar[str] = "guichet.notification.outcome.v1"
    type: Literal["guichet.notification.outcome.v1"] = "guichet.notification.outcome.v1"
    data: NotificationOutcomeData


class DeadLetter(Event):
    """A record that a service could not process, kept so that it can be replayed."""

    TYPE: ClassVar[str] = "guichet.record.dead.v1"
    type: Literal["guichet.record.dead.v1"] = "guichet.record.dead.v1"
    data: DeadLetterData
