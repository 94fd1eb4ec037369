"""Metrics, whatever fails: each event counts once in a process, and what is kept of a request is what they all say."""

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from msgspec import structs
from prometheus_client import CollectorRegistry

from services.metrics.domain import RequestState, observation
from services.metrics.handlers import observe
from services.metrics.open_requests import OpenRequests
from services.metrics.tally import Tally
from shared.bus.loop import Decode, Handle, decode_mesh_event
from shared.contract.events import (
    Event,
    Office,
    RequestAssigned,
    RequestAssignedData,
    RequestOverdue,
    RequestOverdueData,
    Status,
    Timeline,
)
from shared.contract.topics import ACCEPTED, ASSIGNED, OVERDUE, UPDATED
from shared.metrics import LatencyMetrics
from shared.store.port import Store
from tests.states import requests
from tests.states.consuming import MORE_RUNS, PARTITIONS, START, Consuming
from tests.states.requests import accepted, card, updated

TOPICS = (ACCEPTED, ASSIGNED, OVERDUE, UPDATED)
OFFICES = {str(number): Office(id=str(number), name=f"Office {number}") for number in range(4)}
"""One for each request, so that what is counted by office is counted by request."""

JURISDICTION = replace(requests.JURISDICTION, offices=OFFICES)
TIMEZONE = JURISDICTION.timezone


def assigned(number: int) -> RequestAssigned:
    """Requests with an even number are due today, the others were due yesterday."""
    return RequestAssigned(
        id=f"assigned-{number}",
        source="/test",
        data=RequestAssignedData(
            request=card(number),
            office=OFFICES[str(number)],
            due=START.date() - timedelta(days=number % 2),
            rule="r",
            rules_version="v",
            timeline=Timeline(published=START, accepted=START, assigned=START),
        ),
    )


def overdue(number: int) -> RequestOverdue:
    data = assigned(number).data
    return RequestOverdue(
        id=f"overdue-{number}",
        source="/test",
        data=RequestOverdueData(request=data.request, office=data.office, due=data.due, timeline=data.timeline),
    )


EVENTS: dict[str, Event] = {
    event.id: event
    for number in range(len(OFFICES))
    for event in (
        accepted(number),
        assigned(number),
        overdue(number),
        updated(number, 1, Status.IN_PROGRESS),
        updated(number, 2, Status.RESOLVED),
    )
}


some_events = st.lists(st.sampled_from(sorted(EVENTS)), min_size=4, max_size=10)


@dataclass
class Counted:
    """What one process has counted."""

    registry: CollectorRegistry
    open_requests: OpenRequests

    def requests(self, outcome: str) -> float:
        return self.value("guichet_requests_total", agency="cnss", outcome=outcome)

    def promises(self, office: str, kept: str) -> float:
        return self.value("guichet_promises_total", office=office, kept=kept)

    def value(self, sample: str, **labels: str) -> float:
        found = self.registry.get_sample_value(sample, labels)
        assert found is not None
        return found


class MetricsOfRequests(Consuming):
    """Every topic is read beside the others, so the events of a request come in any order, and more than once."""

    topics = tuple(topic.name for topic in TOPICS)

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Counted] = []
        self.told: set[str] = set()

    async def service(self, store: Store) -> tuple[Decode[Any], Handle[Any]]:
        registry = CollectorRegistry()
        metrics = LatencyMetrics(registry)
        rows = store.collection("requests")
        open_requests = OpenRequests(rows, clock=self.clock, metrics=metrics, offices=JURISDICTION.offices)
        await open_requests.load()
        self.processes.append(Counted(registry, open_requests))
        handle: Handle[Any] = partial(
            observe,
            requests=rows,
            open_requests=open_requests,
            tally=Tally(metrics, JURISDICTION),
            timezone=TIMEZONE,
        )
        return decode_mesh_event(TOPICS), handle

    @initialize(event_ids=some_events)
    def the_first_process_starts(self, event_ids: list[str]) -> None:
        super().the_first_process_starts()
        self.something_is_told(event_ids)

    @rule(event_ids=some_events)
    def something_is_told(self, event_ids: list[str]) -> None:
        self.told.update(event_ids)
        for event_id in event_ids:
            event = EVENTS[event_id]
            (topic,) = (each for each in TOPICS if isinstance(event, each.event))
            place = topic.name, int(event_id.split("-")[1]) % PARTITIONS
            self.log.append(place, None, event.to_json(), START)

    def check(self) -> None:
        assert self.events == {}
        expected: dict[str, RequestState] = {}
        for event_id in sorted(self.told):
            request_id = f"request-{event_id.split('-')[1]}"
            expected[request_id] = expected.get(request_id, RequestState()).after(EVENTS[event_id], TIMEZONE)
        rows = self.tables.get("requests", {})
        kept = {key: RequestState.from_json(row.body) for key, row in rows.items()}
        assert {key: in_any_order(state) for key, state in kept.items()} == {
            key: in_any_order(state) for key, state in expected.items()
        }
        self.each_event_counts_in_a_process_and_in_none_twice()
        for office in OFFICES:
            state = expected.get(f"request-{office}", RequestState())
            self.its_promise_counts_in_a_process_and_in_none_twice(office, state)
            is_waiting = state.is_open and state.office is not None
            assert self.processes[-1].value("guichet_open_requests", office=office) == is_waiting
            is_late = is_waiting and state.overdue
            assert self.processes[-1].value("guichet_overdue_requests", office=office) == is_late

    def each_event_counts_in_a_process_and_in_none_twice(self) -> None:
        for outcome in ("accepted", "assigned", "overdue", "resolved"):
            told = sum(outcome_of(EVENTS[event_id]) == outcome for event_id in self.told)
            counts = [process.requests(outcome) for process in self.processes]
            assert max(counts) <= told <= sum(counts), "an event was not counted, or twice"

    def its_promise_counts_in_a_process_and_in_none_twice(self, office: str, state: RequestState) -> None:
        for kept, answer in (("yes", True), ("no", False)):
            counts = [process.promises(office, kept) for process in self.processes]
            assert max(counts) == (state.promise_kept is answer), "a promise was not counted, or twice"


def outcome_of(event: Event) -> str | None:
    seen = observation(event)
    return None if seen is None else seen.outcome


def in_any_order(state: RequestState) -> RequestState:
    return structs.replace(state, counted=tuple(sorted(state.counted)))


test_whatever_fails_each_event_counts_once_and_open_requests_are_what_all_events_say = MetricsOfRequests.TestCase
test_whatever_fails_each_event_counts_once_and_open_requests_are_what_all_events_say.settings = MORE_RUNS
