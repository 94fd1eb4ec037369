"""The watch over due dates. Requests are submitted on Sunday 1 November 2026 and due on Tuesday the 3rd."""

from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from services.routing.domain import Calendar, Rules
from services.routing.handlers import route
from services.routing.watch import AT_ONCE_MAX, LEASE, OverdueWatch
from shared.bus.port import Incoming, Unavailable
from shared.clock import ManualClock
from shared.contract import topics
from shared.contract.events import RequestAccepted, RequestAssigned, RequestOverdue, RequestUpdated, Status
from shared.ids import event_id
from shared.metrics import RoutingMetrics
from shared.store.port import Store
from tests.fakes import MemoryPublisher

MakeRequest = Callable[..., RequestAccepted]
MakeUpdate = Callable[..., RequestUpdated]
MakeIncoming = Callable[[RequestAccepted | RequestUpdated], Incoming[RequestAccepted | RequestUpdated]]

RULES = """\
rules:
  - {id: birth, when: {service: birth}, office: plateau, promise_days: 2}
"""
ASSIGNED_AT = datetime(2026, 11, 2, 9, tzinfo=UTC)
LAST_MOMENT = datetime(2026, 11, 3, 20, 59, 59, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 3, 21, tzinfo=UTC)


class Routing:
    """The handler and the watch on one store, with a publisher of their own and a reader that is told how far it is."""

    def __init__(self, rules: Rules, calendar: Calendar, store: Store, incoming: MakeIncoming) -> None:
        self.clock = ManualClock(ASSIGNED_AT)
        self.publisher = MemoryPublisher()
        self.unread: Callable[[], Awaitable[None]] | None = None
        self._rules, self._calendar, self._incoming = rules, calendar, incoming
        self.decisions, self._closed = store.collection("decisions"), store.collection("closed")
        self._metrics = RoutingMetrics(CollectorRegistry())
        self.watch = OverdueWatch(
            decisions=self.decisions,
            closed=self._closed,
            read_up=self._read_up,
            calendar=calendar,
            publisher=self.publisher,
            clock=self.clock,
        )

    async def takes(self, *events: RequestAccepted | RequestUpdated) -> None:
        routed = await route(
            [self._incoming(event) for event in events],
            rules=self._rules,
            calendar=self._calendar,
            decisions=self.decisions,
            closed=self._closed,
            clock=self.clock,
            metrics=self._metrics,
        )
        self.assigned = [RequestAssigned.from_json(each.value) for each in routed]

    def clock_at(self, moment: datetime) -> None:
        self.clock.advance(moment - self.clock.now())

    @property
    def told(self) -> list[str]:
        """The agency's numbers of the requests that were told of."""
        return [RequestOverdue.from_json(each.value).data.request.agency_reference for each in self.publisher.published]

    async def _read_up(self) -> None:
        if self.unread is not None:
            await self.unread()


@pytest.fixture
def routing(write_rules: Callable[[str], Rules], calendar: Calendar, store: Store, incoming: MakeIncoming) -> Routing:
    return Routing(write_rules(RULES), calendar, store, incoming)


async def test_a_request_that_is_open_when_its_due_date_ends_is_told_of_at_that_midnight_and_not_before(
    routing: Routing, make_request: MakeRequest
) -> None:
    await routing.takes(make_request())
    routing.clock_at(LAST_MOMENT)
    assert await routing.watch.look() == 0
    assert routing.told == []
    routing.clock_at(MIDNIGHT)
    assert await routing.watch.look() == 1
    (publication,) = routing.publisher.published
    (assigned,) = routing.assigned
    event = RequestOverdue.from_json(publication.value)
    assert (publication.topic, publication.key) == (topics.OVERDUE, assigned.subject)
    assert event.id == event_id(assigned.id, RequestOverdue.TYPE)
    assert (event.source, event.subject, event.causationid) == ("/guichet/routing", assigned.subject, assigned.id)
    assert event.time == MIDNIGHT
    assert event.data.request == assigned.data.request
    assert (event.data.office, event.data.due) == (assigned.data.office, date(2026, 11, 3))
    assert event.data.timeline == assigned.data.timeline


async def test_a_request_is_told_of_once(routing: Routing, make_request: MakeRequest) -> None:
    await routing.takes(make_request())
    routing.clock_at(MIDNIGHT)
    await routing.watch.look()
    routing.clock.advance(timedelta(days=30))
    assert await routing.watch.look() == 0
    assert routing.told == ["1"]


@pytest.mark.parametrize("status", [Status.RESOLVED, Status.CANCELLED])
@pytest.mark.parametrize("closed_first", [True, False], ids=["closed first", "decided first"])
async def test_a_request_that_was_closed_in_time_is_not_told_of_whichever_event_came_first(
    routing: Routing, make_request: MakeRequest, make_update: MakeUpdate, status: Status, closed_first: bool
) -> None:
    request, update = make_request("1"), make_update("1", status=status)
    await routing.takes(make_request("2"))
    await routing.takes(update if closed_first else request)
    await routing.takes(request if closed_first else update)
    routing.clock_at(MIDNIGHT)
    assert await routing.watch.look() == 2
    assert routing.told == ["2"]


async def test_a_request_that_somebody_works_at_is_told_of_all_the_same(
    routing: Routing, make_request: MakeRequest, make_update: MakeUpdate
) -> None:
    await routing.takes(make_request(), make_update(status=Status.IN_PROGRESS))
    routing.clock_at(MIDNIGHT)
    await routing.watch.look()
    assert routing.told == ["1"]


async def test_a_change_that_is_read_only_while_the_watch_waits_for_it_still_counts(
    routing: Routing, make_request: MakeRequest, make_update: MakeUpdate
) -> None:
    await routing.takes(make_request())
    routing.unread = lambda: routing.takes(make_update(status=Status.RESOLVED))
    routing.clock_at(MIDNIGHT)
    await routing.watch.look()
    assert routing.told == []


async def test_while_changes_wait_to_be_read_nobody_is_told_of_and_the_request_comes_up_again(
    routing: Routing, make_request: MakeRequest
) -> None:
    async def behind() -> None:
        raise Unavailable("requests.updated is not read up")

    await routing.takes(make_request())
    routing.unread = behind
    routing.clock_at(MIDNIGHT)
    with pytest.raises(Unavailable):
        await routing.watch.look()
    assert routing.told == []
    routing.unread = None
    routing.clock.advance(LEASE)
    await routing.watch.look()
    assert routing.told == ["1"]


async def test_what_could_not_be_published_is_told_again_in_the_same_bytes(
    routing: Routing, make_request: MakeRequest
) -> None:
    await routing.takes(make_request("1"), make_request("2"))
    routing.clock_at(MIDNIGHT)
    routing.publisher.break_down(after=1)
    with pytest.raises(Unavailable):
        await routing.watch.look()
    routing.publisher.mend()
    routing.clock.advance(timedelta(days=3))
    await routing.watch.look()
    first, *again = routing.publisher.published
    assert first in again
    assert len(again) == 2


async def test_a_night_on_which_many_are_due_is_worked_off_in_pieces(
    routing: Routing, make_request: MakeRequest
) -> None:
    numbers = [f"{number:04d}" for number in range(AT_ONCE_MAX + 1)]
    await routing.takes(*map(make_request, numbers))
    routing.clock_at(MIDNIGHT)
    assert [await routing.watch.look() for _ in range(3)] == [AT_ONCE_MAX, 1, 0]
    assert sorted(routing.told) == numbers
