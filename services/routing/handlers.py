"""Accepted requests in, decisions out."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from services.routing.domain import Assigned, Calendar, Rules, decide
from shared.bus.port import Incoming, Publication
from shared.clock import Clock
from shared.contract import topics
from shared.contract.events import (
    Event,
    RequestAccepted,
    RequestAssigned,
    RequestAssignedData,
    RequestUnroutable,
    RequestUnroutableData,
)
from shared.ids import event_id
from shared.metrics import RoutingMetrics
from shared.store.port import Collection, Document

SOURCE = "/guichet/routing"

_TOPICS = {topic.event.TYPE: topic for topic in (topics.ASSIGNED, topics.UNROUTABLE)}

Decision = RequestAssigned | RequestUnroutable


async def route(
    batch: Sequence[Incoming[RequestAccepted]],
    *,
    rules: Rules,
    calendar: Calendar,
    decisions: Collection,
    clock: Clock,
    metrics: RoutingMetrics,
) -> list[Publication]:
    """Decide each request once. A decision that stands is published again, to the byte, whatever the rules say now."""
    now = clock.now()
    proposed: dict[str, Decision] = {}
    for incoming in batch:
        request_id = incoming.event.data.request.request_id
        if request_id not in proposed:
            proposed[request_id] = decision_event(incoming.event, rules, calendar, decided_at=now)
    bodies = {request_id: event.to_json() for request_id, event in proposed.items()}
    standing = await decisions.insert_new({request_id: Document(body) for request_id, body in bodies.items()})
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
