"""Routing, whatever fails: one decision for each request, and it stands whatever the rules say later."""

from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from services.routing.domain import Calendar, Condition, Rule, Rules
from services.routing.handlers import Decision, decision_event, route
from shared.bus.loop import Decode, Handle, decode_mesh_event
from shared.contract.events import RequestAccepted, RequestAssigned, RequestUnroutable
from shared.contract.topics import ACCEPTED, ASSIGNED
from shared.metrics import RoutingMetrics
from shared.store.port import Store
from tests.states.consuming import PARTITIONS, SETTINGS, Replicated
from tests.states.requests import JURISDICTION, accepted

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
    """Requests come once and more often; the rules of each process are those in force when it started."""

    topics = (ACCEPTED.name,)

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
            clock=self.clock,
            metrics=self.counted,
        )
        return decode_mesh_event([ACCEPTED]), handle

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

    @invariant()
    def what_is_committed_was_told(self) -> None:
        self.every_copy_of_an_event_is_the_same_to_the_byte()
        told = {publication.key for publication in self.events.values()}
        for place, end in self.log.committed.items():
            assert {(record.key or b"").decode() for record in self.log.records[place][:end]} <= told

    def check(self) -> None:
        first: dict[str, RequestAccepted] = {}
        for record in (record for records in self.log.records.values() for record in records):
            accepted_first = RequestAccepted.from_json(record.value or b"")
            first.setdefault(accepted_first.data.request.request_id, accepted_first)
        decided: dict[str, bytes] = {}
        for publication in self.events.values():
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


test_whatever_fails_a_request_has_one_decision_which_stands_when_the_rules_change = RoutingOfRequests.TestCase
test_whatever_fails_a_request_has_one_decision_which_stands_when_the_rules_change.settings = SETTINGS
