"""Intake, whatever fails: one verdict for each event id, one request opened once, its changes in order."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from services.intake.domain import Claim, Received, own_key
from services.intake.handlers import Intake, publication
from services.intake.kafka import decoder
from shared.bus.loop import Decode, Handle
from shared.bus.port import Publication, Record
from shared.contract.agency import RequestSubmitted, StatusChanged
from shared.contract.events import RequestAccepted, RequestRejected, RequestUpdated, Status
from shared.contract.reasons import Reason
from shared.contract.topics import ACCEPTED, REJECTED, UPDATED, agency_topic
from shared.store.port import Store
from tests.states.consuming import PARTITIONS, SETTINGS, Replicated
from tests.states.requests import JURISDICTION

TOPIC = agency_topic("cnss")
AgencyEvent = dict[str, Any]
VerdictEvent = RequestAccepted | RequestUpdated | RequestRejected

numbers = st.sampled_from(["1", "2", "3"])


@st.composite
def submissions(draw: st.DrawFn) -> AgencyEvent:
    data = {"agency_reference": draw(numbers), "service_code": "birth", "description": draw(st.sampled_from("ab"))}
    event_id = draw(st.sampled_from(["s1", "s2", "s3", "s4"]))
    return written(event_id, RequestSubmitted.TYPE, "2026-11-01T07:00:00Z", data)


@st.composite
def changes(draw: st.DrawFn) -> AgencyEvent:
    data = {"agency_reference": draw(numbers), "status": draw(st.sampled_from([*Status][1:]))}
    event_id = draw(st.sampled_from(["c1", "c2", "c3", "c4", "c5", "c6"]))
    return written(event_id, StatusChanged.TYPE, f"2026-11-01T07:0{draw(st.integers(0, 3))}:00Z", data)


def written(event_id: str, kind: str, time: str, data: dict[str, str]) -> AgencyEvent:
    return {"specversion": "1.0", "id": event_id, "source": "/a", "type": kind, "time": time, "data": data}


agency_events = st.lists(submissions() | changes(), min_size=1, max_size=4)


async def few_references(keys: Iterable[str], attempt: int) -> dict[str, str]:
    """Of three requests two want the same reference first, and the third what they want next."""
    return {key: f"reference-{int(key.rpartition('/')[2]) // 2 + attempt}" for key in keys}


class IntakeOfAnAgency(Replicated):
    """An agency writes what it likes, under event ids that it uses again by mistake."""

    topics = (TOPIC,)

    async def service(self, store: Store) -> tuple[Decode[Received], Handle[Received]]:
        intake = Intake(
            claims=store.collection("claims"),
            requests=store.collection("requests"),
            clock=self.clock,
            candidates=few_references,
        )

        async def handle(batch: Any) -> list[Publication]:
            return [publication(verdict) for verdict in await intake.decide(batch)]

        return decoder(JURISDICTION, self.clock), handle

    @initialize(events=agency_events)
    def the_first_process_starts(self, events: list[AgencyEvent]) -> None:
        super().the_first_process_starts()
        self.the_agency_writes(events)

    @rule(events=agency_events)
    def the_agency_writes(self, events: list[AgencyEvent]) -> None:
        for event in events:
            self.append(event["data"]["agency_reference"].encode(), json.dumps(event).encode())

    @precondition(lambda self: self.written)
    @rule(which=st.integers(0, 1000))
    def the_agency_repeats_itself(self, which: int) -> None:
        again = self.written[which % len(self.written)]
        self.append(again.key or b"", again.value or b"")

    def append(self, key: bytes, value: bytes) -> None:
        self.log.append((TOPIC, int(key) % PARTITIONS), key, value, self.clock.now())

    @property
    def written(self) -> list[Record]:
        return [record for records in self.log.records.values() for record in records]

    def check(self) -> None:
        accepted = [RequestAccepted.from_json(each.value) for each in self.on(ACCEPTED)]
        updated = [RequestUpdated.from_json(each.value) for each in self.on(UPDATED)]
        rejected = [RequestRejected.from_json(each.value) for each in self.on(REJECTED)]
        taken = self.each_event_id_stands_for_one_body_and_has_one_verdict(accepted, updated, rejected)
        requests = [event.data.request.request_id for event in accepted]
        assert len(set(requests)) == len(requests), "a request was opened twice"
        references = [event.data.request.reference for event in accepted]
        assert len(set(references)) == len(references), "two requests have one reference"
        for request_id in requests:
            self.its_changes_follow_each_other([each for each in updated if each.subject == request_id], taken)
        assert {event.subject for event in updated} <= set(requests)
        self.each_event_is_timed_from_when_it_first_came([*accepted, *updated])

    def each_event_id_stands_for_one_body_and_has_one_verdict(
        self, accepted: list[RequestAccepted], updated: list[RequestUpdated], rejected: list[RequestRejected]
    ) -> dict[str, bytes]:
        """That body, by event id."""
        reused = [event for event in rejected if event.data.problems[0].reason is Reason.EVENT_ID_REUSED]
        origins = {(each.data.origin.partition, each.data.origin.offset) for each in reused if each.data.origin}
        verdicts: dict[str | None, list[VerdictEvent]] = defaultdict(list)
        told: list[VerdictEvent] = [*accepted, *updated, *(each for each in rejected if each not in reused)]
        for event in told:
            verdicts[event.causationid].append(event)
        bodies: dict[str, dict[bool, set[bytes]]] = defaultdict(lambda: {False: set(), True: set()})
        for record in self.written:
            value = record.value or b""
            bodies[json.loads(value)["id"]][(record.partition, record.offset) in origins].add(value)
        assert verdicts.keys() == bodies.keys(), "an event has no verdict"
        taken: dict[str, bytes] = {}
        for event_id, by_refusal in bodies.items():
            (taken[event_id],) = by_refusal[False]
            assert taken[event_id] not in by_refusal[True], "one body was taken and refused"
            (verdict,) = verdicts[event_id]
            said = json.loads(taken[event_id])["data"]
            if isinstance(verdict, RequestAccepted):
                assert verdict.data.description == said["description"]
            elif isinstance(verdict, RequestUpdated):
                assert verdict.data.status == said["status"]
            assert self.number_of(verdict) == said["agency_reference"]
        return taken

    def each_event_is_timed_from_when_it_first_came(self, told: Sequence[RequestAccepted | RequestUpdated]) -> None:
        """However often it had to come again before it could be told."""
        claims = self.tables.get("claims", {})
        for event in told:
            claim = Claim.from_json(claims[own_key("cnss", event.causationid or "")].body)
            steps = event.data.timeline
            assert (steps.published, steps.received) == (claim.timeline.published, claim.timeline.received)

    def its_changes_follow_each_other(self, changes: list[RequestUpdated], taken: dict[str, bytes]) -> None:
        """Also in the order in which they first came, which is that of their topic."""
        assert [each.data.sequence for each in changes] == list(range(1, len(changes) + 1))
        statuses = [Status.RECEIVED, *(each.data.status for each in changes)]
        assert [each.data.previous_status for each in changes] == statuses[:-1]
        assert not any(status.is_terminal for status in statuses[:-1])
        written = [record.value for record in self.written]
        places = [written.index(taken[each.causationid or ""]) for each in changes]
        assert places == sorted(places), "changes were not applied in the order of their partition"

    def on(self, topic: Any) -> list[Publication]:
        return [each for each in self.events.values() if each.topic is topic]

    @staticmethod
    def number_of(verdict: VerdictEvent) -> str | None:
        if isinstance(verdict, RequestRejected):
            return verdict.data.agency_reference
        return verdict.data.request.agency_reference


test_whatever_fails_an_event_has_one_verdict_and_a_request_one_history = IntakeOfAnAgency.TestCase
test_whatever_fails_an_event_has_one_verdict_and_a_request_one_history.settings = SETTINGS
