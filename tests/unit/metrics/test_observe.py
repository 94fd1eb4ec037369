"""What the metrics service shows after it saw events, on a real store file."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from shared.bus.port import Unavailable
from shared.clock import ManualClock
from shared.contract.events import Channel, DeadLetter, DeadLetterData, NotificationStatus, Origin, Status
from shared.contract.reasons import Reason
from shared.store.port import Change, Collection, Document, Row, StoreUnavailable

if TYPE_CHECKING:
    from tests.unit.metrics.conftest import Observatory, Story

Moment = Callable[[float], datetime]
Start = Callable[[Collection], "Observatory"]
CIVIL = "civil-registry"
OFFICES = ("unassigned", "counter-1", "counter-2", "other")


async def test_a_request_is_followed_from_publication_to_delivery(
    observatory: "Observatory", story: "type[Story]", moment: Moment
) -> None:
    planned, sent = moment(4), moment(9)
    published = await observatory.observe(
        story().accepted(accepted=1),
        story().assigned(accepted=1, assigned=3),
        story().outcome(NotificationStatus.SENT, planned=planned, sent=sent),
        story().outcome(NotificationStatus.DELIVERED, planned=planned, sent=sent, delivered=moment(12)),
    )
    assert published == []
    seconds = {"accepted": 1, "assigned": 2, "planned": 1, "sent": 5, "delivered": 3}
    for stage, expected in seconds.items():
        assert observatory.value("guichet_stage_seconds_sum", stage=stage, agency=CIVIL) == expected
        service = {"stage": stage, "service_code": "birth-certificate"}
        assert observatory.value("guichet_service_stage_seconds_sum", **service) == expected
    assert observatory.value("guichet_end_to_end_seconds_sum", agency=CIVIL, channel="sms") == 9
    assert observatory.value("guichet_end_to_end_seconds_bucket", agency=CIVIL, channel="sms", le="10.0") == 1
    assert observatory.value("guichet_end_to_end_seconds_bucket", agency=CIVIL, channel="sms", le="5.0") == 0
    by_service = {"service_code": "birth-certificate", "channel": "sms"}
    assert observatory.value("guichet_service_end_to_end_seconds_sum", **by_service) == 9
    assert observatory.value("guichet_notification_outcomes_total", channel="sms", status="delivered") == 1


async def test_every_outcome_of_a_request_is_counted_by_agency(
    observatory: "Observatory", story: "type[Story]"
) -> None:
    await observatory.observe(
        story("1").accepted(),
        story("1").assigned(),
        story("1").updated(Status.RESOLVED),
        story("2").accepted(),
        story("2").unroutable(),
        story("2").updated(Status.CANCELLED),
        story("3").rejected(),
    )
    counted = {
        outcome: observatory.value("guichet_requests_total", agency=CIVIL, outcome=outcome)
        for outcome in ("accepted", "assigned", "unroutable", "resolved", "cancelled", "rejected")
    }
    assert counted == {"accepted": 2, "assigned": 1, "unroutable": 1, "resolved": 1, "cancelled": 1, "rejected": 1}


async def test_a_redelivered_batch_counts_nothing_twice(
    observatory: "Observatory", story: "type[Story]", moment: Moment
) -> None:
    batch = (
        story().accepted(),
        story().assigned(),
        story().outcome(NotificationStatus.SENT, planned=moment(4), sent=moment(9)),
        story().updated(Status.RESOLVED),
        story("2").rejected(),
    )
    await observatory.observe(*batch)
    once = _samples(observatory)
    await observatory.observe(*batch)
    assert _samples(observatory) == once


async def test_copies_of_an_event_within_a_batch_count_once(observatory: "Observatory", story: "type[Story]") -> None:
    await observatory.observe(story().accepted(), story().accepted())
    assert observatory.value("guichet_requests_total", agency=CIVIL, outcome="accepted") == 1


async def test_a_copy_that_comes_after_a_restart_is_not_counted_again(
    observatory: "Observatory", start: Start, requests: Collection, story: "type[Story]"
) -> None:
    await observatory.observe(story().accepted())
    restarted = start(requests)
    await restarted.observe(story().accepted(), story().rejected())
    assert restarted.value("guichet_requests_total", agency=CIVIL, outcome="accepted") == 0
    assert restarted.value("guichet_requests_total", agency=CIVIL, outcome="rejected") == 1


@pytest.mark.parametrize("written_all_the_same", [False, True])
async def test_a_batch_whose_write_failed_counts_once_when_it_comes_again(
    start: Start, requests: Collection, story: "type[Story]", *, written_all_the_same: bool
) -> None:
    faltering = FalteringCollection(requests, written_all_the_same)
    observatory = start(faltering)
    batch = (story().accepted(), story().assigned(), story("2").rejected())
    with pytest.raises(StoreUnavailable):
        await observatory.observe(*batch)
    await observatory.observe(*batch)
    await observatory.observe(*batch)
    for outcome in ("accepted", "assigned", "rejected"):
        assert observatory.value("guichet_requests_total", agency=CIVIL, outcome=outcome) == 1
    assert observatory.value("guichet_open_requests", office="counter-1") == 1
    assert observatory.tally.unwritten == set()
    assert observatory.open_requests.unwritten == {}


@pytest.mark.parametrize("failed_together", [False, True])
async def test_a_promise_counts_once_when_its_events_come_again_in_other_batches_than_the_one_that_failed(
    start: Start, requests: Collection, story: "type[Story]", *, failed_together: bool
) -> None:
    observatory = start(FalteringCollection(requests, written_all_the_same=False))
    assigned, resolved = story().assigned(), story().updated(Status.RESOLVED)
    with pytest.raises(StoreUnavailable):
        await observatory.observe(*[assigned] * failed_together, resolved)
    await observatory.observe(assigned)
    await observatory.observe(resolved)
    await observatory.observe(assigned, resolved)
    assert observatory.value("guichet_promises_total", office="counter-1", kept="yes") == 1
    assert observatory.tally.unwritten == observatory.tally.unwritten_promises == set()


async def test_a_batch_that_another_replica_has_overtaken_is_put_back_and_then_counts(
    start: Start, requests: Collection, story: "type[Story]"
) -> None:
    other = start(requests)
    await other.observe(story().accepted())
    overtaken = start(OvertakenCollection(requests, lambda: other.observe(story().updated(Status.IN_PROGRESS))))
    with pytest.raises(Unavailable):
        await overtaken.observe(story().assigned())
    await overtaken.observe(story().assigned())
    assert overtaken.value("guichet_requests_total", agency=CIVIL, outcome="assigned") == 1
    assert overtaken.value("guichet_open_requests", office="counter-1") == 1


async def test_open_requests_are_shown_where_they_wait(
    observatory: "Observatory", clock: ManualClock, story: "type[Story]", moment: Moment
) -> None:
    await observatory.observe(story("1").accepted(), story("2").accepted(), story("3").accepted())
    assert _open(observatory) == {"unassigned": 3, "counter-1": 0, "counter-2": 0, "other": 0}
    await observatory.observe(
        story("1").assigned("counter-1"), story("2").assigned("counter-2"), story("3").assigned("elsewhere")
    )
    assert _open(observatory) == {"unassigned": 0, "counter-1": 1, "counter-2": 1, "other": 1}
    await observatory.observe(story("1").updated(Status.RESOLVED), story("2").updated(Status.WAITING_FOR_CITIZEN))
    assert _open(observatory) == {"unassigned": 0, "counter-1": 0, "counter-2": 1, "other": 1}


async def test_a_request_is_shown_as_overdue_where_it_waits_until_it_is_closed(
    observatory: "Observatory", story: "type[Story]"
) -> None:
    assert _overdue(observatory) == {"unassigned": 0, "counter-1": 0, "counter-2": 0, "other": 0}
    await observatory.observe(story("1").assigned("counter-1"), story("2").assigned("counter-2"))
    await observatory.observe(story("1").overdue("counter-1"), story("3").overdue("elsewhere"))
    assert _overdue(observatory) == {"unassigned": 0, "counter-1": 1, "counter-2": 0, "other": 1}
    assert observatory.value("guichet_requests_total", agency=CIVIL, outcome="overdue") == 2
    await observatory.observe(story("1").updated(Status.RESOLVED), story("1").overdue("counter-1"))
    assert _overdue(observatory) == {"unassigned": 0, "counter-1": 0, "counter-2": 0, "other": 1}


async def test_the_oldest_open_request_ages_by_itself_until_it_is_closed(
    observatory: "Observatory", clock: ManualClock, story: "type[Story]", moment: Moment
) -> None:
    old, young = story("1", submitted_at=moment(-7200)), story("2", submitted_at=moment(-60))
    assert observatory.value("guichet_oldest_open_request_seconds", office="counter-1") == 0
    await observatory.observe(old.assigned(), young.assigned())
    clock.advance(timedelta(hours=1))
    assert observatory.value("guichet_oldest_open_request_seconds", office="counter-1") == 10800
    await observatory.observe(old.updated(Status.CANCELLED))
    assert observatory.value("guichet_oldest_open_request_seconds", office="counter-1") == 3660


async def test_the_age_of_the_oldest_open_request_is_up_to_a_minute_more_than_it_is(
    observatory: "Observatory", clock: ManualClock, story: "type[Story]", moment: Moment
) -> None:
    await observatory.observe(story(submitted_at=moment(59.5)).assigned())
    clock.advance(timedelta(seconds=59.5))
    assert observatory.value("guichet_oldest_open_request_seconds", office="counter-1") == 59.5


async def test_requests_of_one_minute_are_told_apart_as_they_close(
    observatory: "Observatory", story: "type[Story]"
) -> None:
    await observatory.observe(*[story(str(number)).assigned() for number in range(3)])
    await observatory.observe(story("1").updated(Status.RESOLVED))
    assert _open(observatory)["counter-1"] == 2
    await observatory.observe(story("1").assigned(), story("1").updated(Status.RESOLVED))
    assert _open(observatory)["counter-1"] == 2


@pytest.mark.parametrize("written_all_the_same", [False, True])
@pytest.mark.parametrize("order", permutations(range(3)))
async def test_after_a_failed_write_a_request_waits_in_one_place_whichever_of_its_events_comes_first(
    start: Start,
    requests: Collection,
    story: "type[Story]",
    order: tuple[int, ...],
    *,
    written_all_the_same: bool,
) -> None:
    told = (story().accepted(), story().overdue(), story().updated(Status.RESOLVED))
    await start(requests).observe(story("2").assigned())
    observatory = start(FalteringCollection(requests, written_all_the_same))
    await observatory.open_requests.load()
    with pytest.raises(StoreUnavailable):
        await observatory.observe(told[order[0]], told[order[1]])
    for index in order:
        await observatory.observe(told[index])
        restarted = start(requests)
        await restarted.open_requests.load()
        assert _open(observatory) == _open(restarted)
        assert _overdue(observatory) == _overdue(restarted)


async def test_a_replica_that_missed_how_a_request_opened_does_not_count_below_zero_when_it_closes(
    observatory: "Observatory", start: Start, requests: Collection, story: "type[Story]"
) -> None:
    relieving = start(requests)
    await relieving.open_requests.load()
    await observatory.observe(story().assigned())
    await relieving.observe(story().updated(Status.RESOLVED))
    await relieving.observe(story("2").assigned())
    assert _open(relieving) == {"unassigned": 0, "counter-1": 1, "counter-2": 0, "other": 0}


async def test_open_requests_are_known_again_after_a_restart(
    observatory: "Observatory", start: Start, requests: Collection, story: "type[Story]", moment: Moment
) -> None:
    await observatory.observe(
        story("1").accepted(),
        story("2", submitted_at=moment(-120)).assigned(),
        story("3").assigned(),
        story("3").updated(Status.RESOLVED),
        story("4").outcome(NotificationStatus.SENT, sent=moment(9)),
        story("5").rejected(),
        story("6").overdue(),
    )
    restarted = start(requests)
    await restarted.open_requests.load()
    await restarted.open_requests.load()
    assert _open(restarted) == {"unassigned": 1, "counter-1": 2, "counter-2": 0, "other": 0}
    assert _overdue(restarted) == {"unassigned": 0, "counter-1": 1, "counter-2": 0, "other": 0}
    assert restarted.value("guichet_oldest_open_request_seconds", office="counter-1") == 120
    read = [row.key async for row in requests.scan(due_only=True)]
    assert sorted(read) == sorted([story(number).request_id for number in ("1", "2", "6")])


@pytest.mark.parametrize("order", permutations(range(5)))
async def test_topics_read_side_by_side_give_the_same_view_in_any_order(
    observatory: "Observatory", story: "type[Story]", order: tuple[int, ...]
) -> None:
    told = (
        story().accepted(),
        story().assigned(),
        story().overdue(),
        story().updated(Status.IN_PROGRESS, sequence=1),
        story().updated(Status.RESOLVED, datetime(2026, 3, 5, 6, 0, tzinfo=UTC), sequence=2),
    )
    for index in order:
        await observatory.observe(told[index])
    assert sum(_open(observatory).values()) == sum(_overdue(observatory).values()) == 0
    assert observatory.value("guichet_promises_total", office="counter-1", kept="yes") == 1


@pytest.mark.parametrize(
    ("resolved_at", "kept"),
    [
        (datetime(2026, 3, 5, 20, 59, tzinfo=UTC), "yes"),  # 23:59 on the due day in Djibouti
        (datetime(2026, 3, 5, 21, 1, tzinfo=UTC), "no"),  # 00:01 on the day after
    ],
)
async def test_a_promise_is_kept_until_the_due_day_ends_where_the_office_is(
    observatory: "Observatory", story: "type[Story]", resolved_at: datetime, kept: str
) -> None:
    await observatory.observe(story().assigned(due=date(2026, 3, 5)), story().updated(Status.RESOLVED, resolved_at))
    counted = {
        answer: observatory.value("guichet_promises_total", office="counter-1", kept=answer) for answer in ("yes", "no")
    }
    assert counted == {"yes": 0, "no": 0} | {kept: 1}


async def test_a_request_without_a_due_date_or_cancelled_breaks_no_promise(
    observatory: "Observatory", story: "type[Story]"
) -> None:
    late = datetime(2027, 1, 1, tzinfo=UTC)
    await observatory.observe(
        story("1").unroutable(),
        story("1").updated(Status.RESOLVED, late),
        story("2").assigned(),
        story("2").updated(Status.CANCELLED, late),
    )
    assert observatory.value("guichet_promises_total", office="counter-1", kept="no") == 0
    assert observatory.value("guichet_promises_total", office="other", kept="no") == 0


async def test_clock_skew_is_counted_and_takes_no_time(observatory: "Observatory", story: "type[Story]") -> None:
    await observatory.observe(story().accepted(published=5, accepted=1))
    assert observatory.value("guichet_negative_latencies_total", stage="accepted") == 1
    assert observatory.value("guichet_stage_seconds_sum", stage="accepted", agency=CIVIL) == 0


async def test_what_no_register_knows_adds_no_series(
    observatory: "Observatory", story: "type[Story]", moment: Moment
) -> None:
    def told_by(number: int) -> "Story":
        return story(str(number), agency=f"made-up-{number}", service_code=f"made-up-{number}")

    async def observe_all(number: int) -> None:
        stranger = told_by(number)
        await observatory.observe(
            stranger.accepted(),
            stranger.assigned(f"made-up-{number}"),
            stranger.outcome(NotificationStatus.SENT, Channel.EMAIL, planned=moment(4), sent=moment(9)),
            stranger.outcome(NotificationStatus.UNREACHABLE, None),
            stranger.updated(Status.RESOLVED),
            story(f"r{number}", agency=f"made-up-{number}").rejected(),
        )

    await observe_all(0)
    series = observatory.series()
    for number in range(1, 20):
        await observe_all(number)
    assert observatory.series() == series
    assert observatory.value("guichet_requests_total", agency="other", outcome="rejected") == 20
    assert observatory.value("guichet_notification_outcomes_total", channel="none", status="unreachable") == 20


async def test_series_stand_at_zero_before_their_first_event(observatory: "Observatory") -> None:
    assert observatory.value("guichet_end_to_end_seconds_count", agency=CIVIL, channel="sms") == 0
    assert observatory.value("guichet_requests_total", agency=CIVIL, outcome="unroutable") == 0
    assert observatory.value("guichet_promises_total", office="counter-2", kept="no") == 0


async def test_a_dead_letter_is_read_and_leaves_nothing(observatory: "Observatory", requests: Collection) -> None:
    origin = Origin(topic="requests.accepted", partition=0, offset=7)
    data = DeadLetterData(service="routing", origin=origin, recorded_at_ms=0, reason=Reason.NOT_JSON, detail="cut")
    before = _samples(observatory)
    await observatory.observe(DeadLetter(id="d1", source="/test", data=data))
    assert _samples(observatory) == before
    assert [row async for row in requests.scan()] == []


def _open(observatory: "Observatory") -> dict[str, float]:
    return {office: observatory.value("guichet_open_requests", office=office) for office in OFFICES}


def _overdue(observatory: "Observatory") -> dict[str, float]:
    return {office: observatory.value("guichet_overdue_requests", office=office) for office in OFFICES}


def _samples(observatory: "Observatory") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in observatory.registry.collect()
        for sample in metric.samples
    }


class FalteringCollection:
    """Rows whose first compare-and-set or insert fails, before its work or after it."""

    def __init__(self, rows: Collection, written_all_the_same: bool) -> None:
        self._rows = rows
        self._written = written_all_the_same
        self._failed = False
        self.get_many, self.scan, self.take_due = rows.get_many, rows.scan, rows.take_due
        self.compare_and_set = rows.compare_and_set

    async def insert_new(self, documents: Mapping[str, Document]) -> dict[str, Row]:
        if self._failed:
            return await self._rows.insert_new(documents)
        self._failed = True
        if self._written:
            await self._rows.insert_new(documents)
        raise StoreUnavailable("the connection dropped")


class OvertakenCollection:
    """Rows that somebody else changes between our first read and our first write."""

    def __init__(self, rows: Collection, overtake: Callable[[], object]) -> None:
        self._rows = rows
        self._overtake: Callable[[], object] | None = overtake
        self.insert_new, self.scan, self.take_due = rows.insert_new, rows.scan, rows.take_due
        self.get_many = rows.get_many

    async def compare_and_set(self, changes: Mapping[str, Change]) -> set[str]:
        if overtake := self._overtake:
            self._overtake = None
            await overtake()  # type: ignore[misc]
        return await self._rows.compare_and_set(changes)
