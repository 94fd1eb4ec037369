"""What intake decides, on a real store file."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Collection as Keys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from msgspec import structs, to_builtins
from msgspec.json import encode as to_json

from services.intake.domain import MAX_CHANGES, Received, Verdict, own_key
from services.intake.handlers import publication
from services.intake.reference import normalise, reference_of
from services.intake.validation import Refused, read_event
from shared.contract import topics
from shared.contract.events import Door, Problem, RequestAccepted, RequestRejected, RequestUpdated, Status
from shared.contract.reasons import Reason
from shared.ids import request_id
from shared.store.port import Change, Collection, Document, Row

if TYPE_CHECKING:
    from tests.unit.intake.conftest import Agency, Desk

SECRET = b"a secret of the tests"
Agencies = Callable[..., "Agency"]


def outcomes(verdicts: Sequence[Verdict]) -> list[str]:
    """Each outcome, or the reason why not."""
    return [verdict.problems[0].reason if verdict.problems else verdict.outcome for verdict in verdicts]


def told(verdicts: Sequence[Verdict]) -> list[bytes]:
    return [publication(verdict).value for verdict in verdicts]


def accepted(verdict: Verdict) -> RequestAccepted:
    assert isinstance(verdict.event, RequestAccepted)
    return verdict.event


def updated(verdict: Verdict) -> RequestUpdated:
    assert isinstance(verdict.event, RequestUpdated)
    return verdict.event


def rejected(verdict: Verdict) -> RequestRejected:
    assert isinstance(verdict.event, RequestRejected)
    return verdict.event


async def stand_under(desk: "Desk", references: Sequence[str], submission: Received) -> None:
    """Let a request stand under references that it does not have, as another's would after a collision."""
    await desk.decide(submission)
    requests = desk.store.collection("requests")
    (row,) = [row async for row in requests.scan()]
    await requests.insert_new({reference: Document(row.body) for reference in references})


def at_offset(received: Received, offset: int) -> Received:
    """The same event, sent again: another record, a minute later."""
    assert received.origin is not None
    later = timedelta(minutes=1)
    return structs.replace(
        received,
        received_at=received.received_at + later,
        published_at=received.received_at,
        origin=structs.replace(received.origin, offset=offset),
    )


async def test_a_submission_is_accepted_with_a_reference_and_its_steps(desk: "Desk", agency: Agencies) -> None:
    (verdict,) = await desk.decide(agency().submits("2026-1"))
    event = accepted(verdict)
    card = event.data.request
    assert event.data.timeline.accepted is not None
    assert card.request_id == event.subject == request_id("cnss", "2026-1", event.data.timeline.accepted)
    assert normalise(card.reference) == card.reference
    assert event.causationid == "submit-2026-1"
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    timeline = event.data.timeline
    assert (timeline.published, timeline.received) == (noon - timedelta(seconds=1), noon)
    assert timeline.accepted == event.time == noon + timedelta(minutes=1)
    (sent,) = await desk.publications(agency().submits("2026-1"))
    assert (sent.topic, sent.key) == (topics.ACCEPTED, card.request_id)


async def test_the_same_event_again_gives_the_same_bytes_again(desk: "Desk", agency: Agencies) -> None:
    first = await desk.decide(agency().submits(), agency().changes(Status.IN_PROGRESS))
    again = await desk.decide(
        at_offset(agency().submits(), 7), at_offset(agency().changes(Status.IN_PROGRESS), 8), agency().submits()
    )
    assert told(again) == [*told(first), told(first)[0]]
    assert [verdict.repeated for verdict in (*first, *again)] == [False, False, True, True, True]


async def test_the_same_event_twice_in_a_batch_counts_once(desk: "Desk", agency: Agencies) -> None:
    verdicts = await desk.decide(*[agency().submits()] * 3, *[agency().changes(Status.RESOLVED)] * 3)
    assert outcomes(verdicts) == ["accepted"] * 3 + ["updated"] * 3
    assert len(set(told(verdicts))) == 2
    assert [verdict.repeated for verdict in verdicts] == [False, True, True] * 2


async def test_the_same_event_at_the_other_door_gives_the_same_bytes(desk: "Desk", agency: Agencies) -> None:
    over_kafka = agency().submits()
    over_http = structs.replace(over_kafka, door=Door.HTTP, origin=None, published_at=None)
    assert told(await desk.decide(over_http)) == told(await desk.decide(over_kafka))


async def test_an_event_id_with_another_body_is_refused_and_the_first_stands(desk: "Desk", agency: Agencies) -> None:
    first = await desk.decide(agency().submits())
    other = at_offset(agency().submits(description="something else"), 1)
    reused = await desk.decide(other)
    assert outcomes(reused) == [Reason.EVENT_ID_REUSED]
    assert rejected(reused[0]).data.problems[0].field == "id"
    assert told(await desk.decide(agency().submits())) == told(first)


async def test_an_event_id_cannot_be_used_for_another_kind_of_event(desk: "Desk", agency: Agencies) -> None:
    verdicts = await desk.decide(
        agency().submits(event_id="x"),
        agency().changes(Status.RESOLVED, event_id="x"),
        agency().submits("2", event_id="x"),
    )
    assert outcomes(verdicts) == ["accepted", Reason.EVENT_ID_REUSED, Reason.EVENT_ID_REUSED]


async def test_two_agencies_may_use_the_same_ids(desk: "Desk", agency: Agencies) -> None:
    verdicts = await desk.decide(agency("cnss").submits(), agency("edd").submits())
    assert outcomes(verdicts) == ["accepted", "accepted"]
    assert len({accepted(verdict).data.request.reference for verdict in verdicts}) == 2
    assert len({verdict.event.id for verdict in verdicts}) == 2


async def test_extension_attributes_do_not_make_an_event_another_one(desk: "Desk", agency: Agencies) -> None:
    plain = agency().submits()
    written = to_builtins(plain.event) | {"traceparent": "00-1"}
    traced = structs.replace(plain, event=read_event(to_json(written), now=plain.received_at, phone_region="DJ"))
    assert told(await desk.decide(plain)) == told(await desk.decide(traced))


async def test_a_request_submitted_by_a_second_event_is_a_duplicate(desk: "Desk", agency: Agencies) -> None:
    verdicts = await desk.decide(agency().submits(event_id="a"), agency().submits(event_id="b"))
    assert outcomes(verdicts) == ["accepted", Reason.DUPLICATE_REQUEST]
    (later,) = await desk.decide(agency().submits(event_id="c"))
    assert outcomes([later]) == [Reason.DUPLICATE_REQUEST]
    problem = later.problems[0]
    assert problem.field == "data.agency_reference"
    assert "event a" in problem.detail


async def test_changes_are_told_in_order_with_what_was_before(desk: "Desk", agency: Agencies) -> None:
    await desk.decide(agency().submits())
    steps = (Status.IN_PROGRESS, Status.WAITING_FOR_CITIZEN, Status.IN_PROGRESS, Status.RESOLVED)
    verdicts = await desk.decide(
        *(agency().changes(status, event_id=f"c{n}", minute=n, note=f"n{n}") for n, status in enumerate(steps))
    )
    data = [updated(verdict).data for verdict in verdicts]
    assert [entry.status for entry in data] == list(steps)
    assert [entry.previous_status for entry in data] == [Status.RECEIVED, *steps[:-1]]
    assert [entry.sequence for entry in data] == [1, 2, 3, 4]
    assert [entry.note for entry in data] == ["n0", "n1", "n2", "n3"]
    assert all(entry.timeline.updated == verdict.event.time for entry, verdict in zip(data, verdicts, strict=True))
    (sent,) = await desk.publications(agency().changes(Status.IN_PROGRESS, event_id="c0", note="n0"))
    assert (sent.topic, sent.key) == (topics.UPDATED, data[0].request.request_id)
    assert sent.value == told(verdicts)[0]


async def test_a_change_finds_the_request_that_comes_in_its_own_batch(desk: "Desk", agency: Agencies) -> None:
    verdicts = await desk.decide(agency().changes(Status.IN_PROGRESS), agency().submits())
    assert outcomes(verdicts) == ["updated", "accepted"]


@pytest.mark.parametrize("end", [Status.RESOLVED, Status.CANCELLED])
@pytest.mark.parametrize("after", [Status.IN_PROGRESS, Status.WAITING_FOR_CITIZEN, Status.RESOLVED, Status.CANCELLED])
async def test_a_terminal_status_is_never_left(desk: "Desk", agency: Agencies, end: Status, after: Status) -> None:
    verdicts = await desk.decide(
        agency().submits(), agency().changes(end, event_id="end"), agency().changes(after, event_id="after", minute=5)
    )
    assert outcomes(verdicts) == ["accepted", "updated", Reason.REQUEST_CLOSED]
    (later,) = await desk.decide(agency().changes(after, event_id="later", minute=9))
    assert outcomes([later]) == [Reason.REQUEST_CLOSED]
    assert later.problems[0].field == "data.status"


async def test_a_change_from_before_the_last_one_is_superseded(desk: "Desk", agency: Agencies) -> None:
    await desk.decide(agency().submits(), agency().changes(Status.WAITING_FOR_CITIZEN, minute=10))
    (late,) = await desk.decide(agency().changes(Status.IN_PROGRESS, minute=5))
    assert outcomes([late]) == [Reason.STATUS_SUPERSEDED]
    assert late.problems[0].field == "time"


async def test_a_request_is_closed_even_by_a_change_that_comes_late(desk: "Desk", agency: Agencies) -> None:
    await desk.decide(agency().submits(), agency().changes(Status.IN_PROGRESS, minute=10))
    assert outcomes(await desk.decide(agency().changes(Status.RESOLVED, minute=5))) == ["updated"]


async def test_a_change_to_a_request_that_nobody_submitted_is_refused(desk: "Desk", agency: Agencies) -> None:
    await desk.decide(agency("edd").submits("1"))
    (verdict,) = await desk.decide(agency("cnss").changes(Status.RESOLVED, "1"))
    assert outcomes([verdict]) == [Reason.UNKNOWN_REQUEST]
    assert verdict.problems[0].field == "data.agency_reference"


async def test_a_refusal_is_repeated_even_when_its_cause_is_gone(desk: "Desk", agency: Agencies) -> None:
    change = agency().changes(Status.IN_PROGRESS)
    before = await desk.decide(change)
    assert outcomes(before) == [Reason.UNKNOWN_REQUEST]
    await desk.decide(agency().submits())
    assert told(await desk.decide(at_offset(change, 9))) == told(before)
    assert outcomes(await desk.decide(agency().changes(Status.IN_PROGRESS, event_id="anew"))) == ["updated"]


async def test_every_refusal_for_what_stood_before_is_repeated_to_the_byte(desk: "Desk", agency: Agencies) -> None:
    await desk.decide(agency().submits(), agency().changes(Status.IN_PROGRESS, minute=9))
    batch = [
        agency(offset=1).submits(event_id="b"),
        agency(offset=2).changes(Status.IN_PROGRESS, event_id="late"),
        agency(offset=3).changes(Status.RESOLVED, "unknown"),
    ]
    first = await desk.decide(*batch)
    assert outcomes(first) == [Reason.DUPLICATE_REQUEST, Reason.STATUS_SUPERSEDED, Reason.UNKNOWN_REQUEST]
    await desk.decide(agency().changes(Status.RESOLVED, event_id="end", minute=10))
    again = await desk.decide(*(at_offset(received, 50 + n) for n, received in enumerate(batch)))
    assert told(again) == told(first)


def refused(received: Received, **known: str) -> Received:
    problem = Problem(reason=Reason.INVALID_PHONE, detail="it is none", field="data.applicant.phone")
    return structs.replace(received, event=Refused(problem, **known))


async def test_an_invalid_event_is_told_to_its_agency(desk: "Desk", agency: Agencies) -> None:
    (sent,) = await desk.publications(refused(agency().submits(), event_id="e", agency_reference="1"))
    event = RequestRejected.from_json(sent.value)
    assert (sent.topic, sent.key, event.subject) == (topics.REJECTED, "cnss/e", "cnss")
    assert (event.data.event_id, event.data.agency_reference, event.data.door) == ("e", "1", Door.KAFKA)
    assert event.data.problems[0].reason is Reason.INVALID_PHONE
    assert event.data.origin is not None


async def test_a_redelivered_invalid_event_is_told_in_the_same_bytes(desk: "Desk", agency: Agencies) -> None:
    invalid = refused(agency().submits(), event_id="e")
    redelivered = structs.replace(invalid, received_at=invalid.received_at + timedelta(hours=1))
    assert told(await desk.decide(invalid)) == told(await desk.decide(redelivered))


@pytest.mark.parametrize("ahead", [timedelta(seconds=1), timedelta(days=3650)])
async def test_a_redelivery_says_the_same_though_the_record_came_from_a_clock_ahead(
    desk: "Desk", agency: Agencies, ahead: timedelta
) -> None:
    early = agency().submits()
    early = structs.replace(early, published_at=early.received_at + ahead)
    late = structs.replace(early, received_at=early.received_at + timedelta(days=1))
    for first, again in ((early, late), (refused(early, event_id="e"), refused(late, event_id="e"))):
        assert told(await desk.decide(first)) == told(await desk.decide(again))
    (verdict,) = await desk.decide(early)
    assert accepted(verdict).data.timeline.published == early.received_at


async def test_two_rejections_that_say_different_things_never_share_an_id(desk: "Desk", agency: Agencies) -> None:
    await desk.decide(agency().submits())
    verdicts = await desk.decide(
        refused(agency(offset=1).submits(), event_id="e"),
        refused(agency(offset=2).submits(), event_id="e"),
        refused(agency(offset=3).submits()),
        agency(offset=4).submits(description="x"),
        agency(offset=5).submits(description="y"),
        agency(offset=6).submits(event_id="b"),
        agency(offset=7).submits(event_id="b"),
    )
    by_id: dict[str, set[bytes]] = {}
    for verdict in verdicts:
        by_id.setdefault(verdict.event.id, set()).add(publication(verdict).value)
    assert [len(bodies) for bodies in by_id.values()] == [1] * 6


async def test_a_request_ends_after_its_hundredth_change_and_no_sooner(desk: "Desk", agency: Agencies) -> None:
    await desk.decide(agency().submits())
    flips = [agency().changes(Status.IN_PROGRESS, event_id=f"c{n}", minute=n) for n in range(MAX_CHANGES + 1)]
    assert outcomes(await desk.decide(*flips)) == ["updated"] * MAX_CHANGES + [Reason.TOO_MANY_CHANGES]
    end = agency().changes(Status.RESOLVED, event_id="end", minute=200)
    assert outcomes(await desk.decide(end)) == ["updated"]
    assert outcomes(await desk.decide(flips[0], end)) == ["updated", "updated"]


async def test_a_reference_that_another_request_has_is_not_given_again(desk: "Desk", agency: Agencies) -> None:
    wanted = [reference_of(own_key("cnss", "1"), SECRET, attempt) for attempt in range(3)]
    await stand_under(desk, wanted[:2], agency("edd").submits())
    first = await desk.decide(agency().submits())
    assert accepted(first[0]).data.request.reference == wanted[2]
    assert told(await desk.decide(agency().submits())) == told(first)
    later = await desk.decide(agency().submits(event_id="later"), agency().changes(Status.RESOLVED))
    assert outcomes(later) == [Reason.DUPLICATE_REQUEST, "updated"]
    assert updated(later[1]).data.request.reference == wanted[2]


async def test_a_change_is_not_applied_to_another_request_that_stands_where_its_own_would(
    desk: "Desk", agency: Agencies
) -> None:
    await stand_under(desk, [reference_of(own_key("cnss", "1"), SECRET)], agency("edd").submits())
    assert outcomes(await desk.decide(agency().changes(Status.RESOLVED))) == [Reason.UNKNOWN_REQUEST]


async def test_two_requests_of_a_batch_that_want_one_reference_get_two(desk: "Desk", agency: Agencies) -> None:
    async def the_same_ones(keys: Iterable[str], attempt: int) -> dict[str, str]:
        return dict.fromkeys(keys, f"reference-{attempt}")

    intake = replace(desk.intake, candidates=the_same_ones)
    batch = [
        *(agency().submits("1"), agency().submits("2")),
        *(agency().changes(Status.IN_PROGRESS, "1"), agency().changes(Status.RESOLVED, "2")),
    ]
    first = await intake.decide(batch)
    opened = [accepted(verdict).data.request for verdict in first[:2]]
    changed = [updated(verdict).data.request for verdict in first[2:]]
    assert {card.reference for card in opened} == {"reference-0", "reference-1"}
    assert [card.to_json() for card in changed] == [card.to_json() for card in opened]
    assert told(await intake.decide(batch)) == told(first)


async def test_an_intake_without_a_free_reference_takes_nothing(desk: "Desk", agency: Agencies) -> None:
    async def only_one(keys: Iterable[str], _attempt: int) -> dict[str, str]:
        return dict.fromkeys(keys, "reference")

    intake = replace(desk.intake, candidates=only_one)
    await intake.decide([agency().submits("1")])
    with pytest.raises(RuntimeError, match="no free reference for 1 requests"):
        await intake.decide([agency().submits("2")])


class Crash(Exception):
    """The process dies here."""


@dataclass
class Crashing:
    """A collection that dies at its n-th write: before doing it, or after having done it."""

    inner: Collection
    writes_left: int
    after: bool

    async def _write(self) -> None:
        self.writes_left -= 1
        if self.writes_left < 0:
            raise Crash

    async def insert_new(self, documents: Mapping[str, Document]) -> dict[str, Row]:
        if not self.after:
            await self._write()
        rows = await self.inner.insert_new(documents)
        if self.after:
            await self._write()
        return rows

    async def compare_and_set(self, changes: Mapping[str, Change]) -> set[str]:
        if not self.after:
            await self._write()
        won = await self.inner.compare_and_set(changes)
        if self.after:
            await self._write()
        return won

    async def get_many(self, keys: Keys[str]) -> dict[str, Row]:
        return await self.inner.get_many(keys)

    take_due = None
    scan = None


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
@pytest.mark.parametrize("writes", [0, 1])
@pytest.mark.parametrize("name", ["claims", "requests"])
async def test_a_crash_at_any_write_leaves_a_batch_that_can_be_decided_again(
    desk: "Desk", agency: Agencies, name: str, writes: int, after: bool
) -> None:
    batch = [
        agency(offset=0).submits("1"),
        agency(offset=1).submits("2"),
        agency(offset=2).submits("1", event_id="again"),
        agency(offset=3).changes(Status.IN_PROGRESS, "1"),
        agency(offset=4).changes(Status.RESOLVED, "unknown"),
    ]
    crashing = Crashing(desk.store.collection(name), writes, after)
    try:
        verdicts = await replace(desk.intake, **{name: crashing}).decide(batch)  # type: ignore[arg-type]
    except Crash:
        verdicts = await desk.decide(*batch)
    expected = ["accepted", "accepted", Reason.DUPLICATE_REQUEST, "updated", Reason.UNKNOWN_REQUEST]
    assert outcomes(verdicts) == expected
    assert told(await desk.decide(*batch)) == told(verdicts)


async def test_a_crash_between_store_and_publication_loses_and_changes_nothing(desk: "Desk", agency: Agencies) -> None:
    batch = [
        agency(offset=0).submits(),
        agency(offset=1).changes(Status.IN_PROGRESS),
        agency(offset=2).submits("1", "b"),
    ]
    never_published = await desk.publications(*batch)
    assert await desk.publications(*batch) == never_published
    assert len(never_published) == 3


async def test_two_replicas_with_the_same_events_give_one_verdict(
    two_desks: tuple["Desk", "Desk"], agency: Agencies
) -> None:
    one, other = two_desks
    for round_ in range(20):
        number = str(round_)
        batch = [
            agency(offset=0).submits(number),
            agency(offset=1).submits(number, event_id=f"second-{number}"),
            agency(offset=2).changes(Status.IN_PROGRESS, number, minute=5),
            agency(offset=3).changes(Status.WAITING_FOR_CITIZEN, number, minute=1),
            agency(offset=4).changes(Status.RESOLVED, number, minute=9),
        ]
        both = await asyncio.gather(one.decide(*batch), other.decide(*batch))
        assert told(both[0]) == told(both[1])


async def test_two_replicas_with_halves_of_a_request_apply_every_change_once(
    two_desks: tuple["Desk", "Desk"], agency: Agencies
) -> None:
    one, other = two_desks
    await one.decide(agency().submits())
    changes = [agency().changes(Status.IN_PROGRESS, event_id=f"c{n}") for n in range(20)]
    verdicts: list[Verdict] = []
    for first in range(0, 20, 4):
        halves = changes[first : first + 2], changes[first + 2 : first + 4]
        for half in await asyncio.gather(one.decide(*halves[0]), other.decide(*halves[1])):
            verdicts.extend(half)
    assert outcomes(verdicts) == ["updated"] * 20
    assert sorted(updated(verdict).data.sequence for verdict in verdicts) == list(range(1, 21))


@dataclass
class Meanwhile:
    """A collection in which something happens just after the first reading."""

    inner: Collection
    happens: Callable[[], object]

    async def get_many(self, keys: Keys[str]) -> dict[str, Row]:
        rows = await self.inner.get_many(keys)
        happens, self.happens = self.happens, lambda: None
        happening = happens()
        if asyncio.iscoroutine(happening):
            await happening
        return rows

    async def insert_new(self, documents: Mapping[str, Document]) -> dict[str, Row]:
        return await self.inner.insert_new(documents)

    async def compare_and_set(self, changes: Mapping[str, Change]) -> set[str]:
        return await self.inner.compare_and_set(changes)

    take_due = None
    scan = None


async def test_a_change_has_one_verdict_though_its_request_comes_while_it_is_decided(
    two_desks: tuple["Desk", "Desk"], agency: Agencies
) -> None:
    one, other = two_desks
    change = agency(offset=1).changes(Status.IN_PROGRESS)
    elsewhere: list[Verdict] = []

    async def the_other_replica_gets_both() -> None:
        elsewhere.extend(await other.decide(agency(offset=0).submits()))
        elsewhere.extend(await other.decide(change))

    requests = Meanwhile(one.store.collection("requests"), the_other_replica_gets_both)
    here = await replace(one.intake, requests=requests).decide([change])  # type: ignore[arg-type]
    assert outcomes(here) == ["updated"]
    assert told(here) == told(elsewhere[1:])


async def test_a_change_that_loses_a_race_is_decided_on_what_stands_then(
    two_desks: tuple["Desk", "Desk"], agency: Agencies
) -> None:
    one, other = two_desks
    await one.decide(agency().submits())
    requests = Meanwhile(one.store.collection("requests"), lambda: other.decide(agency().changes(Status.CANCELLED)))
    intake = replace(one.intake, requests=requests)  # type: ignore[arg-type]
    assert outcomes(await intake.decide([agency().changes(Status.IN_PROGRESS)])) == [Reason.REQUEST_CLOSED]
