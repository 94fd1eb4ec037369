"""Routing, whatever fails: one decision for each request, and it stands whatever the rules say later; and whoever is
open when the due date ends is told of, in one event."""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from services.routing.domain import Calendar, Condition, Rule, Rules
from services.routing.handlers import Decision, decision_event, route
from services.routing.watch import OverdueWatch, overdue_event
from shared.bus.loop import Decode, Handle, decode_mesh_event
from shared.bus.port import Publication, Record, Unavailable
from shared.contract.events import (
    RequestAccepted,
    RequestAssigned,
    RequestOverdue,
    RequestUnroutable,
    RequestUpdated,
    Status,
)
from shared.contract.topics import ACCEPTED, ASSIGNED, OVERDUE, UPDATED, Topic
from shared.metrics import RoutingMetrics
from shared.store.port import Store, StoreUnavailable
from tests.fakes import Crash, Fate, MemoryStore
from tests.states.consuming import PARTITIONS, SETTINGS, Replicated, troubles
from tests.states.requests import JURISDICTION, accepted, updated

OFFICES = JURISDICTION.offices
CALENDAR = Calendar(ZoneInfo("Africa/Djibouti"), weekend=[4, 5], holidays=[])
RULES = {
    version: Rules(version, {service: [Rule(service, Condition(), OFFICES[office], promise_days)]})
    for version, service, office, promise_days in (
        ("winter", "birth", "plateau", 2),
        ("spring", "birth", "balbala", 5),
        ("summer", "passport", "plateau", 9),
    )
}


numbers = st.integers(1, 6)
services = st.sampled_from(["birth", "passport", "unheard-of"])
some_requests = st.lists(st.tuples(numbers, services), min_size=1, max_size=4)


class RoutingOfRequests(Replicated):
    """Requests come once and more often, and end before or after they are due; the rules of each process are those in
    force when it started."""

    topics = (ACCEPTED.name, UPDATED.name)

    def __init__(self) -> None:
        super().__init__()
        self.in_force = RULES["winter"]
        self.counted = RoutingMetrics(CollectorRegistry())

    async def service(self, store: Store) -> tuple[Decode[Any], Handle[Any]]:
        handle: Handle[Any] = partial(
            route,
            rules=self.in_force,
            calendar=CALENDAR,
            decisions=store.collection("decisions"),
            closed=store.collection("closed"),
            clock=self.clock,
            metrics=self.counted,
        )
        return decode_mesh_event([ACCEPTED, UPDATED]), handle

    @precondition(lambda self: self.waiting)
    @rule(version=st.sampled_from(sorted(RULES)))
    def the_rules_change(self, version: str) -> None:
        """And every process is started anew with them, one by one."""
        self.in_force = RULES[version]
        for member in list(self.log.members):
            self.run(self.start())
            self.log.leave(member)

    @initialize(requests=some_requests)
    def the_first_process_starts(self, requests: list[tuple[int, str]]) -> None:
        super().the_first_process_starts()
        self.requests_are_accepted(requests)

    @rule(requests=some_requests)
    def requests_are_accepted(self, requests: list[tuple[int, str]]) -> None:
        """Or come again, perhaps with another body: then the first is what was decided on."""
        for number, service in requests:
            event = accepted(number, service, at=self.clock.now())
            place = ACCEPTED.name, number % PARTITIONS
            self.log.append(place, event.data.request.request_id.encode(), event.to_json(), self.clock.now())

    @rule(number=numbers, status=st.sampled_from([Status.IN_PROGRESS, Status.RESOLVED, Status.CANCELLED]))
    def a_request_moves_on(self, number: int, status: Status) -> None:
        event = updated(number, 1, status)
        place = UPDATED.name, number % PARTITIONS
        self.log.append(place, event.data.request.request_id.encode(), event.to_json(), self.clock.now())

    @rule(days=st.integers(1, 8), fates=troubles())
    def days_go_by(self, days: int, fates: list[Fate]) -> None:
        """And a process looks for what is due, perhaps its last."""
        self.clock.advance(timedelta(days=days))
        self.run(self.look(), fates=fates)

    async def look(self) -> None:
        store = MemoryStore(self.tables, self.fates)
        await store.open()
        watch = OverdueWatch(
            decisions=store.collection("decisions"),
            closed=store.collection("closed"),
            read_up=self.read_up,
            calendar=CALENDAR,
            publisher=self.publisher,
            clock=self.clock,
        )
        before = len(self.publisher.published)
        closed = self.closed
        with contextlib.suppress(Unavailable, StoreUnavailable, Crash):
            while await watch.look():
                pass
        for publication in self.publisher.published[before:]:
            assert publication.key not in closed, "what had ended was called overdue"
            event = RequestOverdue.from_json(publication.value)
            assert event.time is not None
            assert event.time <= self.clock.now()

    async def read_up(self) -> None:
        for place, records in self.log.records.items():
            if place[0] == UPDATED.name and self.log.committed.get(place, 0) < len(records):
                raise Unavailable("changes wait to be read")

    @invariant()
    def what_is_committed_was_told(self) -> None:
        self.every_copy_of_an_event_is_the_same_to_the_byte()
        told = {publication.key for publication in self.decisions}
        for place, end in self.log.committed.items():
            if place[0] == UPDATED.name:
                continue
            assert {(record.key or b"").decode() for record in self.log.records[place][:end]} <= told

    def written_on(self, topic: Topic) -> list[Record]:
        return [record for place, records in self.log.records.items() if place[0] == topic.name for record in records]

    @property
    def closed(self) -> set[str]:
        """The requests of which anybody has told that they ended."""
        changes = [RequestUpdated.from_json(record.value or b"").data for record in self.written_on(UPDATED)]
        return {change.request.request_id for change in changes if change.status.is_terminal}

    @property
    def decisions(self) -> Sequence[Publication]:
        return [publication for publication in self.events.values() if publication.topic is not OVERDUE]

    def check(self) -> None:
        first: dict[str, RequestAccepted] = {}
        for record in self.written_on(ACCEPTED):
            accepted_first = RequestAccepted.from_json(record.value or b"")
            first.setdefault(accepted_first.data.request.request_id, accepted_first)
        self.each_request_has_one_decision(first)
        self.who_was_open_when_due_is_told_of()

    def each_request_has_one_decision(self, first: Mapping[str, RequestAccepted]) -> None:
        decided: dict[str, bytes] = {}
        for publication in self.decisions:
            assert publication.key not in decided, "a request was decided on twice"
            decided[publication.key] = publication.value
            model: type[Decision] = RequestAssigned if publication.topic is ASSIGNED else RequestUnroutable
            event = model.from_json(publication.value)
            assert event.time is not None
            rules = RULES[event.data.rules_version]
            again = decision_event(first[publication.key], rules, CALENDAR, decided_at=event.time)
            assert again.to_json() == publication.value, "the decision is not what these rules say of that request"
        assert decided.keys() == first.keys()
        assert {key: row.body for key, row in self.tables.get("decisions", {}).items()} == decided

    def who_was_open_when_due_is_told_of(self) -> None:
        """Whoever has an end may have been told of before it came; whoever has none has to be, once it is due."""
        self.clock.advance(timedelta(days=30))
        self.run(self.look())
        self.every_copy_of_an_event_is_the_same_to_the_byte()
        told = {
            publication.key: publication.value for publication in self.events.values() if publication.topic is OVERDUE
        }
        assigned = {
            publication.key: RequestAssigned.from_json(publication.value)
            for publication in self.decisions
            if publication.topic is ASSIGNED
        }
        assert assigned.keys() - self.closed <= told.keys() <= assigned.keys()
        for key, value in told.items():
            assert value == overdue_event(assigned[key], CALENDAR).to_json()


test_whatever_fails_a_request_has_one_decision_which_stands_when_the_rules_change = RoutingOfRequests.TestCase
test_whatever_fails_a_request_has_one_decision_which_stands_when_the_rules_change.settings = SETTINGS
