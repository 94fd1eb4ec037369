"""What intake decides. Pure: no I/O, no clock, no framework.

An event that is valid in itself can still not be taken: because of what its agency sent before.
"""

import hashlib
from datetime import datetime
from typing import Literal

from msgspec import Struct
from msgspec.json import Encoder
from msgspec.structs import replace

from services.intake.agency_event import AgencyEvent, StatusChange, Submission
from services.intake.validation import Refused
from shared.contract.events import (
    Card,
    Door,
    Moment,
    Origin,
    Part,
    Problem,
    RequestAccepted,
    RequestAcceptedData,
    RequestRejected,
    RequestRejectedData,
    RequestUpdated,
    RequestUpdatedData,
    Status,
    Timed,
    Timeline,
)
from shared.contract.reasons import Reason
from shared.ids import event_id

SOURCE = "/guichet/intake"
MAX_CHANGES = 100

_ENCODER = Encoder()


class Received(Struct, frozen=True, gc=False):
    """One event as it came through a door: who sent it (by key or topic), when, and what could be made of it."""

    agency: str
    door: Door
    event: AgencyEvent | Refused
    received_at: datetime
    content: bytes
    """What came, as it came."""
    published_at: datetime | None = None
    """When its record says it was published; None where it says no sane time, and over HTTP."""
    origin: Origin | None = None

    @property
    def event_id(self) -> str | None:
        """The agency's own id for the event, where it can be read."""
        return self.event.event_id if isinstance(self.event, Refused) else self.event.id

    @property
    def fingerprint(self) -> str:
        """Names what came in by itself, whatever it says: its place on a topic, or a digest of its bytes."""
        if self.origin is not None:
            return self.origin.place
        return "http/" + hashlib.sha256(self.content).hexdigest()

    @property
    def timeline(self) -> Timeline:
        """The first two steps."""
        # An agency's clock may be ahead; a publication after its receipt would make a negative latency.
        published = min(self.published_at or self.received_at, self.received_at)
        return Timeline(published=published, received=self.received_at)


class Claim(Part, frozen=True, kw_only=True):
    """That an event id stands for one body, and how that came in first.

    A rejection for what stood before is kept, so that it is repeated.
    """

    digest: str
    timeline: Timeline
    door: Door
    origin: Origin | None = None
    rejected: Problem | None = None


class AppliedChange(Timed, frozen=True, kw_only=True):
    """One change of status, as applied."""

    event_id: str
    status: Status
    previous_status: Status
    occurred_at: Moment
    note: str | None = None
    timeline: Timeline


class RequestState(Part, frozen=True, kw_only=True):
    """What intake knows of a request: the event that told of it first, and its changes since."""

    opened_by: str
    accepted: RequestAccepted
    changes: tuple[AppliedChange, ...] = ()

    @property
    def own_key(self) -> str:
        """By which its agency knows the request."""
        card = self.accepted.data.request
        return own_key(card.agency, card.agency_reference)

    @property
    def status(self) -> Status:
        """Where the request stands."""
        return self.changes[-1].status if self.changes else Status.RECEIVED


class Verdict(Struct, frozen=True, gc=False):
    """What becomes of one received event."""

    received: Received
    outcome: Literal["accepted", "updated", "rejected"]
    event: RequestAccepted | RequestUpdated | RequestRejected
    repeated: bool = False

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why it was rejected; empty if it was not."""
        return self.event.data.problems if isinstance(self.event, RequestRejected) else ()


def digest(event: AgencyEvent) -> str:
    """Equal for events that say the same. Extension attributes don't count: tracing ids differ between tries."""
    return hashlib.sha256(_ENCODER.encode(event)).hexdigest()


def own_key(agency: str, number: str) -> str:
    """Event ids and request numbers are the agency's own: two agencies may use the same."""
    return f"{agency}/{number}"


def open_request(
    received: Received, event: Submission, reference: str, *, request_id: str, timeline: Timeline
) -> RequestState:
    """The state of a request that is told of for the first time."""
    data = event.data
    card = Card(
        request_id=request_id,
        reference=reference,
        agency=received.agency,
        agency_reference=data.agency_reference,
        service_code=data.service_code,
        submitted_at=event.time,
        applicant=data.applicant,
    )
    cause = own_key(received.agency, event.id)
    accepted = RequestAccepted(
        id=event_id(cause, RequestAccepted.TYPE),
        source=SOURCE,
        subject=request_id,
        time=timeline.accepted,
        causationid=event.id,
        data=RequestAcceptedData(
            request=card,
            description=data.description,
            place=data.place,
            attributes=data.attributes,
            timeline=timeline,
        ),
    )
    return RequestState(opened_by=event.id, accepted=accepted)


def change(state: RequestState, event: StatusChange, timeline: Timeline) -> RequestState | Problem:
    """The state after a change of status, or why it can't follow. A terminal status is never left."""
    if state.status.is_terminal:
        return Problem(reason=Reason.REQUEST_CLOSED, detail=f"the request is {state.status}", field="data.status")
    if len(state.changes) >= MAX_CHANGES and not event.data.status.is_terminal:
        detail = f"a request has at most {MAX_CHANGES} changes, and then only its end"
        return Problem(reason=Reason.TOO_MANY_CHANGES, detail=detail)
    last = state.changes[-1].occurred_at if state.changes else state.accepted.data.request.submitted_at
    if event.time < last and not event.data.status.is_terminal:
        detail = f"the request is {state.status} since a later time"
        return Problem(reason=Reason.STATUS_SUPERSEDED, detail=detail, field="time")
    applied = AppliedChange(
        event_id=event.id,
        status=event.data.status,
        previous_status=state.status,
        occurred_at=event.time,
        note=event.data.note,
        timeline=timeline,
    )
    return replace(state, changes=(*state.changes, applied))


def updated_event(state: RequestState, index: int) -> RequestUpdated:
    """The event that tells of a request's change, the same each time. Sequences count from 1."""
    applied = state.changes[index]
    card = state.accepted.data.request
    return RequestUpdated(
        id=event_id(own_key(card.agency, applied.event_id), RequestUpdated.TYPE),
        source=SOURCE,
        subject=card.request_id,
        time=applied.timeline.updated,
        causationid=applied.event_id,
        data=RequestUpdatedData(
            request=card,
            status=applied.status,
            previous_status=applied.previous_status,
            sequence=index + 1,
            occurred_at=applied.occurred_at,
            note=applied.note,
            timeline=applied.timeline,
        ),
    )


def index_of(state: RequestState, agency_event_id: str) -> int | None:
    """Where among the changes the one of this event stands, if it was applied."""
    for index, applied in enumerate(state.changes):
        if applied.event_id == agency_event_id:
            return index
    return None


def reject(received: Received, problems: tuple[Problem, ...], *, claim: Claim | None = None) -> Verdict:
    """A rejection, to the byte the same each time the same event comes.

    With a claim it is the answer to that event id, so it tells of the first time that it came. Without, it is about
    this body only: others can be refused under the same event id.
    """
    event = received.event
    agency_reference = event.agency_reference if isinstance(event, Refused) else event.data.agency_reference
    first = claim or Claim(
        digest="", timeline=Timeline(published=received.published_at), door=received.door, origin=received.origin
    )
    cause = own_key(received.agency, received.event_id if claim and received.event_id else received.fingerprint)
    # The same body is refused for something else once the rules, or the year, have changed.
    index = int.from_bytes(hashlib.sha256(repr(problems).encode()).digest()[:4])
    rejected = RequestRejected(
        id=event_id(cause, RequestRejected.TYPE, index),
        source=SOURCE,
        subject=received.agency,
        time=first.timeline.received or first.timeline.published,
        causationid=received.event_id,
        data=RequestRejectedData(
            agency=received.agency,
            event_id=received.event_id,
            agency_reference=agency_reference,
            door=first.door,
            origin=first.origin,
            problems=problems,
            timeline=first.timeline,
        ),
    )
    return Verdict(received, "rejected", rejected)
