"""What a mesh made of a replay so far: a fold over the events on its topics. Pure."""

from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil

from deploy.check.observed import EventKey, Sightings, sighting
from deploy.replay.steps import Step
from services.intake.domain import own_key
from shared.bus.port import Incoming
from shared.contract.events import (
    Channel,
    DeadLetter,
    Event,
    NotificationOutcome,
    NotificationOutcomeData,
    NotificationStatus,
    Office,
    RequestAccepted,
    RequestAssigned,
    RequestRejected,
    RequestUnroutable,
    RequestUpdated,
)
from shared.contract.reasons import Reason
from shared.ids import event_id

RECENT = 1_000
"""How many of the last latencies are shown while the replay runs; the report counts them all."""


class Latencies:
    """How long something took each time, in seconds."""

    def __init__(self) -> None:
        self._all = array("d")
        self._recent: deque[float] = deque(maxlen=RECENT)

    def add(self, began: datetime | None, ended: datetime | None) -> None:
        """Take note of one, if both ends are known. Clocks that disagree make none shorter than nothing."""
        if began is not None and ended is not None:
            seconds = max(0.0, (ended - began).total_seconds())
            self._all.append(seconds)
            self._recent.append(seconds)

    def recent(self, share: float) -> float | None:
        """The latency that this share of the last ones did not exceed."""
        return percentile(self._recent, share)

    def exact(self, share: float) -> float | None:
        """The latency that this share of all did not exceed."""
        return percentile(self._all, share)


def percentile(values: Iterable[float], share: float) -> float | None:
    """The smallest value that at least this share of the values does not exceed (nearest rank); None of none."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else None


@dataclass(slots=True)
class OfficeTally:
    """One office: what was assigned to it, and what its citizens were told."""

    name: str
    assigned: int = 0
    notified: Counter[NotificationStatus] = field(default_factory=Counter)
    published_to_sent: Latencies = field(default_factory=Latencies)


class Tally:
    """Counts and latencies of one replay's requests; others on the same topics are not looked at."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._requests: set[tuple[str, str]] = set()
        self._events: set[EventKey] = set()
        self._causes: set[str] = set()
        """The events of the mesh that may follow from these, and of which citizens are told."""
        for step in steps:
            self._requests.add((step.agency, step.agency_reference))
            self._events.add((step.agency, step.event_id))
            cause = own_key(step.agency, step.event_id)
            accepted = event_id(cause, RequestAccepted.TYPE)
            self._causes |= {accepted, event_id(accepted, RequestAssigned.TYPE), event_id(cause, RequestUpdated.TYPE)}
        self.sightings = Sightings()
        self.counts: Counter[type[Event]] = Counter()
        self.notified: Counter[NotificationStatus] = Counter()
        self.receipts_missing: set[str] = set()
        """Notifications by SMS that were sent and have not been receipted."""
        self.rejections: Counter[Reason] = Counter()
        """Rejected events by the first reason that was given."""
        self.dead_letters: list[DeadLetter] = []
        self.offices: dict[str, OfficeTally] = {}
        self._receipted: set[str] = set()
        self._office_of: dict[str, str] = {}
        self._early: dict[str, list[NotificationOutcome]] = defaultdict(list)
        self.published_to_accepted = Latencies()
        self.published_to_assigned = Latencies()
        self.accepted_to_assigned = Latencies()
        self.published_to_sent = Latencies()
        self.published_to_sent_by = {channel: Latencies() for channel in Channel}
        self.caused_to_sent = Latencies()

    def take(self, incoming: Incoming[Event]) -> bool:
        """Take in one record; whether it told anything new. Order between topics does not matter."""
        event = incoming.event
        if not self._is_ours(event) or not self.sightings.add(sighting(incoming)):
            return False
        self.counts[type(event)] += 1
        match event:
            case RequestAccepted(data=accepted):
                self.published_to_accepted.add(accepted.timeline.published, accepted.timeline.accepted)
            case RequestUpdated(data=updated):
                self.published_to_accepted.add(updated.timeline.published, updated.timeline.updated)
            case RequestRejected(data=rejected):
                self.rejections.update(problem.reason for problem in rejected.problems[:1])
            case RequestAssigned():
                self._assigned(event)
            case NotificationOutcome():
                self._told(event)
            case DeadLetter():
                self.dead_letters.append(event)
        return True

    def _is_ours(self, event: Event) -> bool:
        match event:
            case RequestAccepted() | RequestAssigned() | RequestUnroutable() | RequestUpdated():
                card = event.data.request
                return (card.agency, card.agency_reference) in self._requests
            case NotificationOutcome():
                return event.causationid in self._causes
            case RequestRejected(data=rejected):
                return (rejected.agency, rejected.event_id or "") in self._events
        return True

    def _assigned(self, event: RequestAssigned) -> None:
        data, steps = event.data, event.data.timeline
        self.published_to_assigned.add(steps.published, steps.assigned)
        self.accepted_to_assigned.add(steps.accepted, steps.assigned)
        self._office(data.office).assigned += 1
        self._office_of[data.request.request_id] = data.office.id
        for early in self._early.pop(data.request.request_id, ()):
            self._told_by_office(early)

    def _told(self, event: NotificationOutcome) -> None:
        data, steps = event.data, event.data.timeline
        self.notified[data.status] += 1
        self._follow_receipt(data)
        if data.status is NotificationStatus.SENT:
            self.published_to_sent.add(steps.published, steps.sent)
            if data.channel is not None:
                self.published_to_sent_by[data.channel].add(steps.published, steps.sent)
            causes = (moment for moment in (steps.accepted, steps.updated, steps.assigned) if moment)
            self.caused_to_sent.add(max(causes, default=None), steps.sent)
        if data.request_id in self._office_of:
            self._told_by_office(event)
        else:
            self._early[data.request_id].append(event)

    def _follow_receipt(self, data: NotificationOutcomeData) -> None:
        if data.channel is not Channel.SMS:
            return
        if data.status is NotificationStatus.SENT and data.notification_id not in self._receipted:
            self.receipts_missing.add(data.notification_id)
        if data.status in (NotificationStatus.DELIVERED, NotificationStatus.FAILED):
            self._receipted.add(data.notification_id)
            self.receipts_missing.discard(data.notification_id)

    def _told_by_office(self, event: NotificationOutcome) -> None:
        office = self.offices[self._office_of[event.data.request_id]]
        office.notified[event.data.status] += 1
        if event.data.status is NotificationStatus.SENT:
            office.published_to_sent.add(event.data.timeline.published, event.data.timeline.sent)

    def _office(self, office: Office) -> OfficeTally:
        return self.offices.setdefault(office.id, OfficeTally(office.name))
