import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import cast

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from services.routing.domain import Calendar, Rules
from services.routing.handlers import Closed, route
from shared.bus.port import Incoming, Publication
from shared.clock import ManualClock
from shared.contract import topics
from shared.contract.events import Office, RequestAccepted, RequestAssigned, RequestUnroutable, RequestUpdated, Status
from shared.contract.reasons import Reason
from shared.ids import event_id
from shared.metrics import RoutingMetrics
from shared.store.port import Collection, Document, Row, Store, StoreUnavailable

MakeRequest = Callable[..., RequestAccepted]
MakeUpdate = Callable[..., RequestUpdated]
MakeIncoming = Callable[[RequestAccepted | RequestUpdated], Incoming[RequestAccepted | RequestUpdated]]
WriteRules = Callable[[str], Rules]

RULES = """\
version: spring
rules:
  - {id: birth-balbala, when: {service: birth, zone: Balbala}, office: balbala, promise_days: 5}
  - {id: birth, when: {service: birth}, office: plateau, promise_days: 2}
"""
OTHER_RULES = """\
rules:
  - {id: all, office: obock, promise_days: 9}
"""


class Router:
    """The handler with all it needs, wired to a store on disk."""

    def __init__(self, rules: Rules, calendar: Calendar, store: Store, incoming: MakeIncoming) -> None:
        self.clock = ManualClock(datetime(2026, 11, 3, 9, tzinfo=UTC))
        self.registry = CollectorRegistry()
        self.decisions = store.collection("decisions")
        self.closed = store.collection("closed")
        self._incoming = incoming
        self._route = partial(route, calendar=calendar, clock=self.clock, metrics=RoutingMetrics(self.registry))
        self.rules = rules

    async def __call__(self, *events: RequestAccepted | RequestUpdated) -> list[Publication]:
        batch = [self._incoming(event) for event in events]
        return await self._route(batch, rules=self.rules, decisions=self.decisions, closed=self.closed)

    def counted(self, outcome: str) -> float:
        return self.registry.get_sample_value("guichet_routing_decisions_total", {"outcome": outcome}) or 0


@pytest.fixture
def router(write_rules: WriteRules, calendar: Calendar, store: Store, incoming: MakeIncoming) -> Router:
    return Router(write_rules(RULES), calendar, store, incoming)


@dataclass
class Watched:
    """What routing uses of a collection: counts insertions, and can fail after having done its work."""

    inner: Collection
    insertions: int = 0
    fail_after_writing: bool = False

    async def insert_new(self, documents: Mapping[str, Document]) -> dict[str, Row]:
        self.insertions += 1
        rows = await self.inner.insert_new(documents)
        if self.fail_after_writing:
            raise StoreUnavailable("the answer got lost")
        return rows


async def test_an_assigned_request_tells_office_due_date_rule_and_its_version(
    router: Router, make_request: MakeRequest
) -> None:
    accepted = make_request(zone="Balbala")
    (publication,) = await router(accepted)
    assert publication.topic is topics.ASSIGNED
    assert publication.key == accepted.data.request.request_id
    event = RequestAssigned.from_json(publication.value)
    assert event.id == event_id(accepted.id, RequestAssigned.TYPE)
    assert (event.source, event.subject, event.causationid, event.time) == (
        "/guichet/routing",
        accepted.data.request.request_id,
        accepted.id,
        router.clock.now(),
    )
    assert event.data.request == accepted.data.request
    assert event.data.office == Office(id="balbala", name="Balbala")
    # Five working days from Sunday 1 November, when it was submitted; not from the 3rd, when it was published.
    assert event.data.due == date(2026, 11, 8)
    assert (event.data.rule, event.data.rules_version) == ("birth-balbala", router.rules.version)
    assert event.data.timeline == accepted.data.timeline.at(assigned=router.clock.now())


@pytest.mark.parametrize(("service", "reason"), [("leak", Reason.NO_RULE), ("unheard-of", Reason.UNKNOWN_SERVICE)])
async def test_what_no_office_answers_is_published_as_unroutable_with_the_reason(
    router: Router, make_request: MakeRequest, service: str, reason: Reason
) -> None:
    accepted = make_request(service=service)
    (publication,) = await router(accepted)
    assert publication.topic is topics.UNROUTABLE
    event = RequestUnroutable.from_json(publication.value)
    assert event.id == event_id(accepted.id, RequestUnroutable.TYPE)
    assert (event.subject, event.causationid) == (accepted.data.request.request_id, accepted.id)
    assert (event.data.reason, event.data.rules_version) == (reason, router.rules.version)
    assert event.data.request == accepted.data.request
    assert event.data.timeline == accepted.data.timeline  # it was never assigned


async def test_a_redelivered_batch_repeats_the_first_decisions_to_the_byte_whatever_the_rules_say_now(
    router: Router, make_request: MakeRequest, write_rules: WriteRules
) -> None:
    batch = [make_request("1"), make_request("2", service="leak")]
    first = await router(*batch)
    router.clock.advance(timedelta(days=1))
    router.rules = write_rules(OTHER_RULES)
    assert await router(*batch) == first
    assert [publication.topic for publication in first] == [topics.ASSIGNED, topics.UNROUTABLE]


async def test_a_decision_whose_answer_got_lost_is_the_one_published_later(
    router: Router, make_request: MakeRequest, write_rules: WriteRules
) -> None:
    watched = Watched(router.decisions, fail_after_writing=True)
    router.decisions = cast(Collection, watched)
    with pytest.raises(StoreUnavailable):
        await router(make_request())
    watched.fail_after_writing = False
    router.rules = write_rules(OTHER_RULES)
    (publication,) = await router(make_request())
    assert json.loads(publication.value)["data"]["rule"] == "birth"


async def test_new_requests_beside_redelivered_ones_are_decided_by_the_present_rules(
    router: Router, make_request: MakeRequest, write_rules: WriteRules
) -> None:
    await router(make_request("1"))
    router.rules = write_rules(OTHER_RULES)
    assert rules_of(await router(make_request("2"), make_request("1"))) == ["all", "birth"]


async def test_publications_come_in_the_order_of_the_batch_and_the_store_is_asked_once(
    router: Router, make_request: MakeRequest
) -> None:
    watched = Watched(router.decisions)
    router.decisions = cast(Collection, watched)
    batch = [make_request(str(number)) for number in (5, 3, 9, 1)]
    publications = await router(*batch)
    assert [publication.key for publication in publications] == [event.data.request.request_id for event in batch]
    assert watched.insertions == 1


async def test_a_request_that_stands_twice_in_a_batch_is_decided_once(
    router: Router, make_request: MakeRequest
) -> None:
    first, second = make_request("1", zone="Balbala"), make_request("1", zone="Arta")
    publications = await router(first, make_request("2"), second)
    assert rules_of(publications) == ["birth-balbala", "birth"]
    assert router.counted("assigned") == 2


async def test_another_event_about_a_decided_request_changes_nothing(router: Router, make_request: MakeRequest) -> None:
    first = await router(make_request("1"))
    other = replace(make_request("1", zone="Balbala"), id="accepted-again")
    assert await router(other) == first


async def test_only_first_decisions_are_counted(router: Router, make_request: MakeRequest) -> None:
    batch = [make_request("1"), make_request("2"), make_request("3", service="leak")]
    await router(*batch)
    await router(*batch)
    assert (router.counted("assigned"), router.counted("unroutable")) == (2, 1)


async def test_a_decision_comes_up_at_the_midnight_that_ends_its_due_date_and_what_nobody_answers_never(
    router: Router, make_request: MakeRequest
) -> None:
    assigned, unroutable = make_request("1", zone="Balbala"), make_request("2", service="leak")
    await router(assigned, unroutable)
    rows = await router.decisions.get_many([event.data.request.request_id for event in (assigned, unroutable)])
    # Due on Sunday the 8th; Djibouti is three hours ahead of UTC.
    assert rows[assigned.data.request.request_id].due == datetime(2026, 11, 8, 21, tzinfo=UTC)
    assert rows[unroutable.data.request.request_id].due is None


async def test_a_decision_made_after_its_due_date_comes_up_at_the_midnight_that_ends_that_day(
    router: Router, make_request: MakeRequest
) -> None:
    published_late = make_request(submitted_at=datetime(2025, 3, 2, 8, tzinfo=UTC))
    await router(published_late)
    (row,) = (await router.decisions.get_many([published_late.data.request.request_id])).values()
    assert row.due == datetime(2026, 11, 3, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "is_closed"),
    [
        (Status.IN_PROGRESS, False),
        (Status.WAITING_FOR_CITIZEN, False),
        (Status.RESOLVED, True),
        (Status.CANCELLED, True),
    ],
)
async def test_a_change_publishes_nothing_and_is_kept_if_it_closes_its_request(
    router: Router, make_update: MakeUpdate, status: Status, is_closed: bool
) -> None:
    update = make_update(status=status)
    assert await router(update) == []
    rows = await router.closed.get_many([update.data.request.request_id])
    assert [Closed.from_json(row.body) for row in rows.values()] == [Closed(by=update.id)] * is_closed


async def test_a_request_whose_closing_change_came_first_is_decided_like_any_other(
    router: Router, make_request: MakeRequest, make_update: MakeUpdate
) -> None:
    (publication,) = await router(make_update(status=Status.RESOLVED), make_request())
    assert publication.topic is topics.ASSIGNED


def rules_of(publications: Sequence[Publication]) -> list[str]:
    return [json.loads(publication.value)["data"]["rule"] for publication in publications]
