"""A mesh that kept its promise, as it is observed: three requests, two told by SMS and one by mail."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from deploy.check.checks import GROUPS
from deploy.check.observed import (
    LedgerRow,
    Letter,
    Observed,
    Personal,
    Published,
    Rulebook,
    Sample,
    Scrape,
    ShortMessage,
    Sightings,
    sighting,
)
from services.notify.domain import State, Step, user_message_reference
from services.notify.rendering import load_templates
from services.routing.domain import Assigned, Calendar, Condition, Rule, Rules, decide
from shared.bus.port import Incoming, Record
from shared.contract.events import (
    Applicant,
    Card,
    Channel,
    Event,
    Language,
    NotificationOutcome,
    NotificationOutcomeData,
    NotificationStatus,
    Office,
    RequestAccepted,
    RequestAcceptedData,
    RequestAssigned,
    RequestAssignedData,
    RequestUpdated,
    RequestUpdatedData,
    Status,
    Timeline,
)
from shared.contract.topics import MESH_TOPICS
from shared.ids import event_id, notification_id, partition_of, request_id

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
PARTITIONS = 6
TOPICS = {topic.event: topic.name for topic in MESH_TOPICS}
POLICIES = load_templates().policies
SENT, DELIVERED = NotificationStatus.SENT, NotificationStatus.DELIVERED
RULEBOOK = Rulebook(
    Rules("1", {"power-outage": (Rule("outages", Condition(), Office(id="edd", name="EDD"), 5),)}),
    Calendar(ZoneInfo("Africa/Djibouti"), weekend=(4, 5), holidays=()),
)


class Mesh:
    """Gathers what a mesh leaves behind."""

    def __init__(self) -> None:
        self.ends: Counter[tuple[str, int]] = Counter()
        self.sightings = Sightings()
        self.accepted_values: dict[str, bytes] = {}
        self.ledger: dict[str, LedgerRow] = {}
        self.short_messages: list[ShortMessage] = []
        self.letters: list[Letter] = []

    def publish(self, event: Event, key: str) -> None:
        topic = TOPICS[type(event)]
        partition = partition_of(key.encode(), PARTITIONS)
        offset = self.ends[topic, partition]
        self.ends[topic, partition] += 1
        record = Record(topic, partition, offset, 0, None, key.encode(), event.to_json())
        self.sightings.add(sighting(Incoming(event, record)))
        if isinstance(event, RequestAccepted):
            self.accepted_values[event.id] = event.to_json()

    def tell(self, cause: RequestAccepted | RequestAssigned | RequestUpdated, step: str) -> None:
        card = cause.data.request
        channel = Channel.SMS if card.applicant.phone else Channel.EMAIL
        key = notification_id(cause.id, step, channel, START)
        moment = START + timedelta(seconds=2)
        reference = f"m-{len(self.short_messages)}"
        statuses = (SENT, DELIVERED) if channel is Channel.SMS else (SENT,)
        if card.applicant.phone:
            address = card.applicant.phone.removeprefix("+")
            said = ShortMessage(reference, address, user_message_reference(key), 1, step.encode().hex(), moment)
            self.short_messages.append(said)
        else:
            self.letters.append(Letter(key, (str(card.applicant.email),), moment))
        self.ledger[key] = LedgerRow(
            id=key,
            cause=cause.id,
            request_id=card.request_id,
            channel=channel,
            recipient=card.applicant.phone or card.applicant.email,
            status=State(statuses[-1]),
            announced=frozenset(statuses),
            references=(reference,) if channel is Channel.SMS else (),
            segments=1,
            attempts=1,
            policy=POLICIES[Step(step)],
        )
        for status in statuses:
            outcome = NotificationOutcome(
                id=event_id(key, NotificationOutcome.TYPE, list(NotificationStatus).index(status)),
                source="/guichet/notify",
                subject=card.request_id,
                causationid=cause.id,
                data=NotificationOutcomeData(
                    notification_id=key,
                    request_id=card.request_id,
                    reference=card.reference,
                    agency=card.agency,
                    service_code=card.service_code,
                    step=step,
                    channel=channel,
                    language=Language.FRENCH,
                    template="t",
                    status=status,
                    timeline=cause.data.timeline.at(planned=moment, sent=moment, delivered=moment),
                ),
            )
            self.publish(outcome, card.request_id)

    def handle(self, reference: str, applicant: Applicant) -> None:
        """One request from its submission to its end, its citizen told at each step."""
        card = Card(
            request_id=request_id("edd", reference, START),
            reference=f"REF-{reference}",
            agency="edd",
            agency_reference=reference,
            service_code="power-outage",
            submitted_at=START,
            applicant=applicant,
        )
        steps = Timeline(published=START, received=START)
        accepted = RequestAccepted(
            id=event_id(reference, RequestAccepted.TYPE),
            source="/guichet/intake",
            subject=card.request_id,
            causationid=f"{reference}-submitted",
            data=RequestAcceptedData(request=card, timeline=steps.at(accepted=START)),
        )
        self.publish(accepted, card.request_id)
        decision = decide(accepted.data, RULEBOOK.rules, RULEBOOK.calendar)
        assert isinstance(decision, Assigned)
        assigned = RequestAssigned(
            id=event_id(accepted.id, RequestAssigned.TYPE),
            source="/guichet/routing",
            subject=card.request_id,
            causationid=accepted.id,
            data=RequestAssignedData(
                request=card,
                office=decision.office,
                due=decision.due,
                rule=decision.rule,
                rules_version="1",
                timeline=accepted.data.timeline.at(assigned=START + timedelta(seconds=1)),
            ),
        )
        self.publish(assigned, card.request_id)
        self.tell(accepted, "accepted")
        self.tell(assigned, "assigned")
        before = Status.RECEIVED
        for sequence, status in enumerate((Status.IN_PROGRESS, Status.RESOLVED), start=1):
            updated = RequestUpdated(
                id=event_id(f"{reference}-{status}", RequestUpdated.TYPE),
                source="/guichet/intake",
                subject=card.request_id,
                causationid=f"{reference}-{status}",
                data=RequestUpdatedData(
                    request=card,
                    status=status,
                    previous_status=before,
                    sequence=sequence,
                    occurred_at=START,
                    timeline=steps.at(updated=START),
                ),
            )
            self.publish(updated, card.request_id)
            self.tell(updated, status)
            before = status

    def observed(self, references: tuple[str, ...]) -> Observed:
        everywhere = {(topic.name, index): 0 for topic in MESH_TOPICS for index in range(PARTITIONS)}
        ends = everywhere | dict(self.ends) | {("agency.edd.events", 0): 9}
        committed = {
            group: {
                place: end
                for place, end in ends.items()
                if (place[0] in topics if topics is not None else place[0].startswith("agency."))
            }
            for group, topics in GROUPS.items()
        }
        said = ("submitted", Status.IN_PROGRESS, Status.RESOLVED)
        return Observed(
            sightings=self.sightings,
            partitions=dict.fromkeys(TOPICS.values(), PARTITIONS),
            published=Published([("edd", f"{reference}-{what}") for reference in references for what in said]),
            poison=(),
            ledger=self.ledger,
            short_messages=self.short_messages,
            letters=self.letters,
            samples=[Sample(committed, ends)],
            rulebook=RULEBOOK,
            accepted_values=self.accepted_values,
            scrapes=scrapes(self.ledger),
            began=3.0,
            personal=Personal({"4917139200001", "4917139200002", "a@example.org"}, {"Amina Warsama"}),
            mentions={"71392": "routing.log:1"},
        )


def scrapes(ledger: Mapping[str, LedgerRow]) -> dict[str, Scrape]:
    """What the services show that counted three requests and their notifications."""
    statuses: Counter[tuple[str, str]] = Counter(
        (str(row.channel), status) for row in ledger.values() for status in row.announced
    )
    shown: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], float]] = defaultdict(dict)

    def show(service: str, name: str, value: float, **labels: str) -> None:
        shown[service][name, frozenset(labels.items())] = value

    for service in ("intake", "routing", "notify", "metrics"):
        show(service, "process_start_time_seconds", 0.5)
    # Series by agency and door, which have to be added up.
    show("intake", "guichet_intake_events_total", 2, outcome="accepted", door="http")
    show("intake", "guichet_intake_events_total", 1, outcome="accepted", door="kafka")
    show("intake", "guichet_intake_events_total", 6, outcome="updated", door="kafka")
    show("routing", "guichet_routing_decisions_total", 3, outcome="assigned")
    for outcome in ("accepted", "assigned", "resolved"):
        show("metrics", "guichet_requests_total", 3, outcome=outcome, agency="edd")
    for (channel, status), times in statuses.items():
        show("notify", "guichet_notifications_total", times, channel=channel, status=status)
        show("metrics", "guichet_notification_outcomes_total", times, channel=channel, status=status)
    return dict(shown)


@pytest.fixture
def sound() -> Observed:
    mesh = Mesh()
    mesh.handle("A-1", Applicant(phone="+4917139200001", name="Amina Warsama"))
    mesh.handle("A-2", Applicant(phone="+4917139200002"))
    mesh.handle("A-3", Applicant(email="a@example.org"))
    return mesh.observed(("A-1", "A-2", "A-3"))


@pytest.fixture
def with_copies(sound: Observed) -> Observed:
    """The same after a crash: everything was published once more, equal to the byte, a record further."""
    again = [
        replace(seen, place=seen.place._replace(offset=seen.place.offset + 100))
        for kind in TOPICS
        for seen in sound.sightings.of(kind)
    ]
    return replace(sound, sightings=sound.sightings.changed(added=again))
