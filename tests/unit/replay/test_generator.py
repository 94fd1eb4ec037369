from collections import Counter
from datetime import UTC, datetime
from statistics import quantiles
from zoneinfo import ZoneInfo

import pytest
from pydantic import TypeAdapter

from deploy.jurisdictions import DJIBOUTI
from deploy.replay.generator import AS_OF, PROFILES, Profile, generate
from deploy.replay.steps import Kind, Step
from services.intake.validation import Refused, check_event
from shared.contract.agency import RequestSubmitted, StatusChanged
from shared.contract.events import Door
from shared.jurisdiction import load_jurisdiction

NOW = datetime(2026, 11, 1, tzinfo=UTC)
MADE = generate(2000, seed=7)


def submissions() -> list[Step]:
    return [step for step in MADE.steps if step.kind is Kind.SUBMITTED and not step.duplicate]


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    assert [step.body for step in generate(300, seed=1).steps] == [step.body for step in generate(300, seed=1).steps]
    ids = [{step.event_id for step in generate(300, seed=seed).steps} for seed in (1, 2)]
    assert ids[0].isdisjoint(ids[1])


def test_there_are_as_many_requests_as_asked_for() -> None:
    assert len(submissions()) == 2000
    assert len({step.request for step in submissions()}) == 2000


def test_every_event_is_valid_but_those_that_have_to_be_rejected() -> None:
    contract: TypeAdapter[RequestSubmitted | StatusChanged] = TypeAdapter(RequestSubmitted | StatusChanged)
    for step in MADE.steps:
        if step.expect_rejected:
            with pytest.raises(Refused):
                check_event(dict(step.event), step.body, now=NOW, phone_region="DJ")
        else:
            contract.validate_json(step.body)
            check_event(dict(step.event), step.body, now=NOW, phone_region="DJ")


def test_about_one_in_a_hundred_has_to_be_rejected_for_different_reasons() -> None:
    refused = [step for step in MADE.steps if step.expect_rejected]
    reasons = set()
    for step in refused:
        with pytest.raises(Refused) as refusal:
            check_event(dict(step.event), step.body, now=NOW, phone_region="DJ")
        reasons.add(refusal.value.problems[0].reason)

    assert 8 <= len(refused) <= 40
    assert reasons == {"invalid_phone", "unknown_field", "time_out_of_range"}


def test_all_of_it_is_known_to_the_jurisdiction() -> None:
    jurisdiction = load_jurisdiction(DJIBOUTI)

    assert {step.agency for step in MADE.steps} == set(jurisdiction.agencies)
    assert {step.event["data"]["service_code"] for step in submissions()} <= set(jurisdiction.services)


def test_two_thirds_come_from_one_office_and_there_is_a_long_tail() -> None:
    shares = Counter(step.agency for step in submissions())
    (_, most), *_, (_, least) = shares.most_common()

    assert 0.64 < most / 2000 < 0.75
    assert least / 2000 < 0.02
    assert len({step.event["data"]["service_code"] for step in submissions()}) > 25


def test_people_come_from_sunday_to_thursday_most_of_all_before_eleven() -> None:
    local = [step.at.astimezone(ZoneInfo("Africa/Djibouti")) for step in submissions()]
    days = Counter(moment.isoweekday() for moment in local)
    hours = Counter(moment.hour for moment in local)

    assert all(0.16 < days[day] / 2000 < 0.24 for day in (7, 1, 2, 3, 4))
    assert 0 < (days[5] + days[6]) / 2000 < 0.03
    assert {hour for hour, _ in hours.most_common(3)} == {9, 10, 11}
    assert hours[13] < hours[12]
    assert hours[13] < hours[14]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.agency)
def test_delays_follow_the_figures_of_real_offices(profile: Profile) -> None:
    days = [profile.days_to_close(number / 10_000) for number in range(10_000)]
    deciles = quantiles(days, n=10)
    late = sum(each > profile.promised_days + 1 for each in days) / len(days)

    assert deciles[0] == pytest.approx(profile.days_p10, rel=0.02)
    assert deciles[4] == pytest.approx(profile.days_p50, rel=0.02)
    assert deciles[8] == pytest.approx(profile.days_p90, rel=0.02)
    assert late == pytest.approx(profile.late, abs=0.05)


def test_half_of_all_requests_close_within_two_or_three_weeks() -> None:
    opened = {step.request: step.at for step in submissions()}
    closed = {step.request: step.at for step in MADE.steps if step.event["data"].get("status") == "resolved"}
    days = sorted((closed[key] - opened[key]).total_seconds() / 86_400 for key in closed)

    assert 7 < days[len(opened) // 2] < 25


def test_progress_ends_with_the_first_terminal_status_and_before_the_data_was_drawn() -> None:
    ended: dict[tuple[str, str], datetime] = {}
    began: dict[tuple[str, str], datetime] = {}
    for step in MADE.steps:
        status = step.event["data"].get("status")
        if step.expect_rejected:
            continue
        assert step.at <= AS_OF or status is None
        if status is None:
            began.setdefault(step.request, step.at)
        else:
            assert step.request in began
            assert step.request not in ended
        if status in ("resolved", "cancelled"):
            ended[step.request] = step.at


def test_some_are_cancelled_and_some_told_twice() -> None:
    statuses = Counter(step.event["data"].get("status") for step in MADE.steps)
    repeated = [step for step in MADE.steps if step.duplicate]
    first = {step.request: step.body for step in submissions()}

    assert 0.03 < statuses["cancelled"] / 2000 < 0.08
    assert 0.03 < len(repeated) / 2000 < 0.06
    assert all(first[step.request] == step.body for step in repeated)


def test_half_come_by_each_door() -> None:
    doors = Counter(step.door for step in submissions())

    assert 0.45 < doors[Door.KAFKA] / 2000 < 0.55
