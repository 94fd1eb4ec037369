"""What an event says about waiting: how long each stage took, and where its request stands now. Pure.

Topics are read side by side, so events of one request arrive in any order: every fold here gives the same state
whatever that order was.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, tzinfo
from zlib import crc32

from msgspec.structs import replace

from shared.contract.events import (
    Event,
    Moment,
    NotificationOutcome,
    NotificationStatus,
    RequestAccepted,
    RequestAssigned,
    RequestRejected,
    RequestUnroutable,
    RequestUpdated,
    Status,
    Timed,
    Timeline,
)

END_TO_END = "end_to_end"

OUTCOMES = ("accepted", "rejected", "assigned", "unroutable", "resolved", "cancelled")
"""What can become of a request, in the words of the counter of requests."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a stage took. `skewed`: it seemed to end before it began, and counts as 0 seconds."""

    stage: str
    seconds: float
    skewed: bool


def latencies(event: Event) -> Iterator[Latency]:
    """The stages that this event is the end of; a stage whose begin or end nobody wrote down is left out.

    A notification's stages are read off its `sent` and its `delivered` outcome, each once: a failed one has waited
    for nothing that a promise was made about, and an unknown one may still become either.
    """
    for stage, began, ended in _spans(event):
        if began is not None and ended is not None:
            seconds = (ended - began).total_seconds()
            yield Latency(stage, max(0.0, seconds), seconds < 0)


def _spans(event: Event) -> tuple[tuple[str, datetime | None, datetime | None], ...]:
    match event:
        case RequestAccepted(data=data):
            return (("accepted", data.timeline.published, data.timeline.accepted),)
        case RequestUpdated(data=data):
            return (("updated", data.timeline.published, data.timeline.updated),)
        case RequestAssigned(data=data):
            return (("assigned", data.timeline.accepted, data.timeline.assigned),)
        case NotificationOutcome(data=data) if data.status is NotificationStatus.SENT:
            steps = data.timeline
            return (
                ("planned", _cause(steps), steps.planned),
                ("sent", steps.planned, steps.sent),
                (END_TO_END, steps.published, steps.sent),
            )
        case NotificationOutcome(data=data) if data.status is NotificationStatus.DELIVERED:
            return (("delivered", data.timeline.sent, data.timeline.delivered),)
    return ()


def _cause(steps: Timeline) -> datetime | None:
    """When the step was taken that the notification tells of: the last one before it was planned."""
    return max((moment for moment in (steps.accepted, steps.updated, steps.assigned) if moment), default=None)


def row_key(event: Event) -> str | None:
    """Under which key it is remembered that this event was observed; None: nothing is observed of it.

    That is the request's id, save for a refusal, which has no request and is remembered under its own.
    """
    match event:
        case RequestAccepted() | RequestAssigned() | RequestUnroutable() | RequestUpdated():
            return event.data.request.request_id
        case NotificationOutcome(data=data):
            return data.request_id
        case RequestRejected():
            return event.id
    return None


def request_outcome(event: Event) -> str | None:
    """What became of a request by this event, as the counter of requests names it; None: nothing to count."""
    match event:
        case RequestAccepted():
            return "accepted"
        case RequestRejected():
            return "rejected"
        case RequestAssigned():
            return "assigned"
        case RequestUnroutable():
            return "unroutable"
        case RequestUpdated(data=data) if data.status.is_terminal:
            return data.status.value
    return None


class RequestState(Timed, frozen=True, kw_only=True):
    """A request as far as the events seen so far tell.

    `submitted_at` None: only notifications of it were seen. `resolved_on` is a day of the jurisdiction's calendar.
    `counted`: which events have been observed, as CRC-32 of their ids; a request has some twenty, so two that collide
    are a matter of one in ten million requests, and cost one event.
    """

    submitted_at: Moment | None = None
    office: str | None = None
    due: date | None = None
    status: Status = Status.RECEIVED
    sequence: int = 0
    resolved_on: date | None = None
    counted: tuple[int, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether somebody waits for an answer."""
        return self.submitted_at is not None and not self.status.is_terminal

    @property
    def promise_kept(self) -> bool | None:
        """Whether it was resolved on or before its due date; None while either is not known."""
        if self.resolved_on is None or self.due is None:
            return None
        return self.resolved_on <= self.due

    def has_counted(self, event: Event) -> bool:
        """Whether this event has been observed before."""
        return _mark(event) in self.counted

    def after(self, event: Event, timezone: tzinfo) -> "RequestState":
        """The state with this event taken in and marked as counted."""
        state = replace(self, counted=(*self.counted, _mark(event)))
        match event:
            case RequestAccepted() | RequestUnroutable():
                return replace(state, submitted_at=event.data.request.submitted_at)
            case RequestAssigned(data=data):
                return replace(state, submitted_at=data.request.submitted_at, office=data.office.id, due=data.due)
            case RequestUpdated(data=data) if data.sequence > self.sequence:
                resolved = data.status is Status.RESOLVED
                return replace(
                    state,
                    submitted_at=data.request.submitted_at,
                    status=data.status,
                    sequence=data.sequence,
                    resolved_on=data.occurred_at.astimezone(timezone).date() if resolved else None,
                )
        return state

    def wake_at(self, timezone: tzinfo) -> datetime | None:
        """What marks the row as open in the store: the due day's begin, until there is one the submission."""
        if not self.is_open:
            return None
        return self.submitted_at if self.due is None else datetime.combine(self.due, time.min, timezone)


def _mark(event: Event) -> int:
    return crc32(event.id.encode())
