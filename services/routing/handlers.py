"""Accepted requests in, decisions out; and which requests are closed, for whoever watches their due dates."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from services.routing.domain import Assigned, Calendar, Rules, decide, overdue_from
from shared.bus.port import Incoming, Publication
from shared.clock import Clock
from shared.contract import topics
from shared.contract.events import (
    Event,
    Part,
    RequestAccepted,
    RequestAssigned,
    RequestAssignedData,
    RequestUnroutable,
    RequestUnroutableData,
    RequestUpdated,
)
from shared.ids import event_id
from shared.metrics import RoutingMetrics
from shared.store.port import Collection, Document

SOURCE = "/guichet/routing"

_TOPICS = {topic.event.TYPE: topic for topic in (topics.ASSIGNED, topics.UNROUTABLE)}

Decision = RequestAssigned | RequestUnroutable


class Closed(Part, frozen=True, kw_only=True):
    """That nobody waits for an answer any more. `by`: the event that told so."""

    by: str


async def route(
    batch: Sequence[Incoming[RequestAccepted | RequestUpdated]],
    *,
    rules: Rules,
    calendar: Calendar,
    decisions: Collection,
    closed: Collection,
    clock: Clock,
    metrics: RoutingMetrics,
) -> list[Publication]:
    """Decide each request once. A decision that stands is published again, to the byte, whatever the rules say now.

    A decision with a due date comes up when that has ended. Which requests are closed is kept beside the decisions: a
    request and the change that closes it may come in either order.
    """
    now = clock.now()
    proposed: dict[str, Decision] = {}
    closings: dict[str, Document] = {}
    for incoming in batch:
        event = incoming.event
        request_id = event.data.request.request_id
        if isinstance(event, RequestUpdated):
            if event.data.status.is_terminal:
                closings[request_id] = Document(Closed(by=event.id).to_json())
        elif request_id not in proposed:
            proposed[request_id] = decision_event(event, rules, calendar, decided_at=now)
    if closings:
        await closed.insert_new(closings)
    return await _decided(proposed, calendar, decisions, metrics) if proposed else []


async def _decided(
    proposed: Mapping[str, Decision], calendar: Calendar, decisions: Collection, metrics: RoutingMetrics
) -> list[Publication]:
    bodies = {request_id: decision.to_json() for request_id, decision in proposed.items()}
    standing = await decisions.insert_new(
        {
            request_id: Document(bodies[request_id], comes_up(decision, calendar))
            for request_id, decision in proposed.items()
        }
    )
    publications = []
    first_decisions: Counter[str] = Counter()
    for request_id, event in proposed.items():
        if request_id in standing:
            body = standing[request_id].body
            publications.append(Publication(_TOPICS[Event.from_json(body).type], request_id, body))
        else:
            first_decisions["assigned" if isinstance(event, RequestAssigned) else "unroutable"] += 1
            publications.append(Publication(_TOPICS[event.TYPE], request_id, bodies[request_id]))
    for outcome, count in first_decisions.items():
        metrics.decisions.labels(outcome).inc(count)
    return publications


def comes_up(decision: Decision, calendar: Calendar) -> datetime | None:
    """When somebody should look whether the request is still open; None: never."""
    if isinstance(decision, RequestAssigned) and decision.time is not None:
        return overdue_from(decision.data.due, decision.time, calendar)
    return None


def decision_event(cause: RequestAccepted, rules: Rules, calendar: Calendar, *, decided_at: datetime) -> Decision:
    """The event that tells what was decided about an accepted request."""
    accepted = cause.data
    card = accepted.request
    decision = decide(accepted, rules, calendar)
    if isinstance(decision, Assigned):
        return RequestAssigned(
            id=event_id(cause.id, RequestAssigned.TYPE),
            source=SOURCE,
            subject=card.request_id,
            time=decided_at,
            causationid=cause.id,
            data=RequestAssignedData(
                request=card,
                office=decision.office,
                due=decision.due,
                rule=decision.rule,
                rules_version=rules.version,
                timeline=accepted.timeline.at(assigned=decided_at),
            ),
        )
    return RequestUnroutable(
        id=event_id(cause.id, RequestUnroutable.TYPE),
        source=SOURCE,
        subject=card.request_id,
        time=decided_at,
        causationid=cause.id,
        data=RequestUnroutableData(
            request=card, reason=decision.reason, rules_version=rules.version, timeline=accepted.timeline
        ),
    )
