"""What an event says about waiting: how long each stage took, and where its request stands now. Pure.

Topics are read side by side, so events of one request arrive in any order: every fold here gives the same state
whatever that order was.
"""

from datetime import date, datetime, tzinfo
from zlib import crc32

from msgspec import Struct
from msgspec.structs import replace

from shared.contract.events import (
    Card,
    Event,
    Moment,
    NotificationOutcome,
    NotificationOutcomeData,
    NotificationStatus,
    RequestAccepted,
    RequestAssigned,
    RequestOverdue,
    RequestRejected,
    RequestUnroutable,
    RequestUpdated,
    Status,
    Timed,
    Timeline,
)

END_TO_END = "end_to_end"

OUTCOMES = ("accepted", "rejected", "assigned", "unroutable", "overdue", "resolved", "cancelled")
"""What can become of a request, in the words of the counter of requests."""

Span = tuple[str, datetime | None, datetime | None]
"""A stage, when it began and when it ended; None: nobody wrote it down."""

Wait = tuple[str, float]
"""A stage and how many seconds it took, fewer than 0 if it seemed to end before it began."""


class Observation(Struct, frozen=True, gc=False):
    """What is observed of one event.

    `row_key`: under which key it is remembered that it was: its request's id, save for a refusal, which has no request
    and is remembered under its own. `outcome`: what became of a request by it, `status` what became of a notification;
    as plain strings, since to look up a member of an enum in a dict takes several times as long. `waits`: the stages
    that it is the end of; one whose begin or end nobody wrote down is left out.
    """

    row_key: str
    agency: str
    service_code: str = ""
    outcome: str | None = None
    channel: str | None = None
    status: str | None = None
    waits: tuple[Wait, ...] = ()


def observation(event: Event) -> Observation | None:
    """What is observed of this event; None: nothing."""
    match event:
        case NotificationOutcome(data=data):
            return Observation(
                data.request_id,
                data.agency,
                data.service_code,
                channel=None if data.channel is None else str(data.channel),
                status=str(data.status),
                waits=_waits(*_spans_of_notification(data)),
            )
        case RequestAccepted(data=data):
            steps = data.timeline
            return _of_request(data.request, "accepted", ("accepted", steps.published, steps.accepted))
        case RequestAssigned(data=data):
            steps = data.timeline
            return _of_request(data.request, "assigned", ("assigned", steps.accepted, steps.assigned))
        case RequestUnroutable(data=data):
            return _of_request(data.request, "unroutable")
        case RequestOverdue(data=data):
            return _of_request(data.request, "overdue")
        case RequestUpdated(data=data):
            outcome = str(data.status) if data.status.is_terminal else None
            return _of_request(data.request, outcome, ("updated", data.timeline.published, data.timeline.updated))
        case RequestRejected(data=data):
            return Observation(event.id, data.agency, outcome="rejected")
    return None


def _of_request(card: Card, outcome: str | None, *spans: Span) -> Observation:
    return Observation(card.request_id, card.agency, card.service_code, outcome, waits=_waits(*spans))


def _spans_of_notification(data: NotificationOutcomeData) -> tuple[Span, ...]:
    """The stages of a notification are read off its `sent` and its `delivered` outcome, each once: a failed one has
    waited for nothing that a promise was made about, and an unknown one may still become either."""
    steps = data.timeline
    if data.status is NotificationStatus.SENT:
        return (
            ("planned", _cause(steps), steps.planned),
            ("sent", steps.planned, steps.sent),
            (END_TO_END, steps.published, steps.sent),
        )
    if data.status is NotificationStatus.DELIVERED:
        return (("delivered", steps.sent, steps.delivered),)
    return ()


def _cause(steps: Timeline) -> datetime | None:
    """When the step was taken that the notification tells of: the last one before it was planned."""
    return max(filter(None, (steps.accepted, steps.updated, steps.assigned)), default=None)


def _waits(*spans: Span) -> tuple[Wait, ...]:
    return tuple(
        [
            (stage, (ended - began).total_seconds())
            for stage, began, ended in spans
            if began is not None and ended is not None
        ]
    )


class RequestState(Timed, frozen=True, kw_only=True):
    """A request as far as the events seen so far tell.

    `submitted_at` None: only notifications of it were seen. `overdue`: its due date ended before it did. `resolved_on`
    is a day of the jurisdiction's calendar. `counted`: which events have been observed, as CRC-32 of their ids; a
    request has some twenty, so two that collide are a matter of one in ten million requests, and cost one event.
    """

    submitted_at: Moment | None = None
    office: str | None = None
    due: date | None = None
    overdue: bool = False
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

    def after(self, event: Event, timezone: tzinfo) -> "RequestState":
        """The state with this event taken in and marked as counted; this very one if it had been before."""
        mark = crc32(event.id.encode())
        if mark in self.counted:
            return self
        counted = (*self.counted, mark)
        match event:
            case RequestAccepted() | RequestUnroutable():
                return replace(self, counted=counted, submitted_at=event.data.request.submitted_at)
            case RequestAssigned(data=data) | RequestOverdue(data=data):
                return replace(
                    self,
                    counted=counted,
                    submitted_at=data.request.submitted_at,
                    office=data.office.id,
                    due=data.due,
                    overdue=self.overdue or isinstance(event, RequestOverdue),
                )
            case RequestUpdated(data=data) if data.sequence > self.sequence:
                resolved = data.status is Status.RESOLVED
                return replace(
                    self,
                    counted=counted,
                    submitted_at=data.request.submitted_at,
                    status=data.status,
                    sequence=data.sequence,
                    resolved_on=data.occurred_at.astimezone(timezone).date() if resolved else None,
                )
        return replace(self, counted=counted)

    @property
    def open_since(self) -> datetime | None:
        """Since when somebody waits for an answer; None: nobody does. It marks the row as open in the store."""
        return self.submitted_at if self.is_open else None
