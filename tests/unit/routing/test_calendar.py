"""Dates are computed by hand, from a printed calendar."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.jurisdictions import DJIBOUTI
from services.routing.calendar import load_calendar
from services.routing.domain import Calendar, overdue_from
from shared.config import ConfigError

DJIBOUTI_TIME = ZoneInfo("Africa/Djibouti")
CHICAGO_TIME = ZoneInfo("America/Chicago")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.fixture(scope="module")
def plain() -> Calendar:
    return Calendar(DJIBOUTI_TIME, weekend=[4, 5], holidays=[date(2026, 12, 31), date(2027, 1, 3)])


@pytest.fixture(scope="module")
def djibouti() -> Calendar:
    return load_calendar(DJIBOUTI / "calendar.yaml", DJIBOUTI_TIME)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calendar.yaml"


@pytest.mark.parametrize(
    ("moment", "days", "due"),
    [
        ("2026-11-01T08:00+03:00", 0, "2026-11-01"),  # Sunday is a working day
        ("2026-11-01T08:00+03:00", 1, "2026-11-02"),
        ("2026-11-05T08:00+03:00", 0, "2026-11-05"),  # Thursday
        ("2026-11-05T08:00+03:00", 1, "2026-11-08"),
        ("2026-11-06T08:00+03:00", 0, "2026-11-08"),  # Friday counts from Sunday
        ("2026-11-07T08:00+03:00", 1, "2026-11-09"),
        ("2026-11-01T08:00+03:00", 5, "2026-11-08"),
        ("2026-12-30T08:00+03:00", 1, "2027-01-04"),  # over a holiday, the weekend, a holiday
        ("2026-12-31T08:00+03:00", 0, "2027-01-04"),
        ("2027-01-03T08:00+03:00", 0, "2027-01-04"),
        ("2027-01-04T08:00+03:00", 263, "2028-01-06"),  # 52 weeks, to 3 January 2028, and 3 days
    ],
)
def test_working_days_skip_weekends_holidays_and_year_ends(plain: Calendar, moment: str, days: int, due: str) -> None:
    assert plain.add_working_days(at(moment), days) == date.fromisoformat(due)


def test_a_day_begins_at_local_midnight(plain: Calendar) -> None:
    thursday = at("2026-11-05T20:59:59+00:00")
    assert plain.add_working_days(thursday, 0) == date(2026, 11, 5)
    assert plain.add_working_days(thursday + timedelta(seconds=1), 0) == date(2026, 11, 8)


@pytest.mark.parametrize(
    ("day", "end"),
    [
        ("2011-03-12", "2011-03-13T06:00:00Z"),  # winter
        ("2011-03-13", "2011-03-14T05:00:00Z"),  # the day on which clocks go forward has 23 hours
        ("2011-11-06", "2011-11-07T06:00:00Z"),  # and the one on which they go back has 25
        ("2100-12-31", "2101-01-01T06:00:00Z"),  # the last one of a calendar
    ],
)
def test_a_day_ends_at_local_midnight(day: str, end: str) -> None:
    calendar = Calendar(CHICAGO_TIME, weekend=[5, 6], holidays=[])
    assert calendar.end_of(date.fromisoformat(day)) == at(end)


@pytest.mark.parametrize(
    ("assigned_at", "overdue"),
    [
        ("2026-11-01T08:00+03:00", "2026-11-06T00:00+03:00"),
        ("2026-11-05T23:59:59+03:00", "2026-11-06T00:00+03:00"),  # assigned on its due date
        ("2026-11-06T00:00+03:00", "2026-11-07T00:00+03:00"),  # and after it
        ("2027-02-01T08:00+03:00", "2027-02-02T00:00+03:00"),
    ],
)
def test_nothing_is_overdue_before_the_day_on_which_it_was_assigned_has_ended(
    plain: Calendar, assigned_at: str, overdue: str
) -> None:
    assert overdue_from(date(2026, 11, 5), at(assigned_at), plain) == at(overdue)


@pytest.mark.parametrize(
    ("moment", "due"),
    [
        ("2011-03-11T05:59:59Z", "2011-03-10"),  # winter, UTC-6: still Thursday
        ("2011-03-11T06:00:00Z", "2011-03-11"),
        ("2011-03-14T04:59:59Z", "2011-03-14"),  # summer, UTC-5: still Sunday, counts from Monday
        ("2011-03-15T04:59:59Z", "2011-03-14"),
        ("2011-03-15T05:00:00Z", "2011-03-15"),
        ("2011-11-05T04:59:59Z", "2011-11-04"),
        ("2011-11-08T05:59:59Z", "2011-11-07"),  # winter again
        ("2011-11-08T06:00:00Z", "2011-11-08"),
    ],
)
def test_local_days_follow_summer_time(moment: str, due: str) -> None:
    calendar = Calendar(CHICAGO_TIME, weekend=[5, 6], holidays=[])
    assert calendar.add_working_days(at(moment), 0) == date.fromisoformat(due)


def test_a_long_promise_skips_a_year_of_public_holidays(path: Path) -> None:
    # 2011-01-03 + 52 weeks + 3 days is 2012-01-05; ten holidays fell on weekdays meanwhile, the last of them New
    # Year's Day observed on 2 January; ten more working days, with King Day on 16 January, end on the 20th.
    path.write_text("weekend: [saturday, sunday]\nholidays: {country: US}\n")
    assert load_calendar(path, CHICAGO_TIME).add_working_days(at("2011-01-03T09:00-06:00"), 263) == date(2012, 1, 20)


@pytest.mark.parametrize(
    ("moment", "days", "due"),
    [
        ("2027-06-24T08:00+03:00", 1, "2027-06-29"),  # Independence Day, Sunday and Monday
        ("2028-04-30T08:00+03:00", 1, "2028-05-02"),  # Labour Day, a Monday
        ("2026-12-24T08:00+03:00", 1, "2026-12-27"),  # Thursday to Sunday
    ],
)
def test_djibouti_works_from_sunday_to_thursday_but_on_its_holidays(
    djibouti: Calendar, moment: str, days: int, due: str
) -> None:
    assert djibouti.add_working_days(at(moment), days) == date.fromisoformat(due)


def test_a_decree_moves_a_holiday(path: Path) -> None:
    path.write_text("""\
weekend: [friday, saturday]
holidays:
  country: DJ
  extra:
    - {date: 2027-06-29, name: By decree}
  removed:
    - {date: 2027-06-28, name: Moved to the 29th}
""")
    moved = load_calendar(path, DJIBOUTI_TIME)
    assert moved.add_working_days(at("2027-06-24T08:00+03:00"), 1) == date(2027, 6, 28)
    assert moved.add_working_days(at("2027-06-24T08:00+03:00"), 2) == date(2027, 6, 30)


@pytest.mark.parametrize(
    ("moment", "days"),
    [("1969-12-31T12:00+03:00", 0), ("2101-01-01T12:00+03:00", 0), ("2100-12-30T12:00+03:00", 5)],
)
def test_what_lies_outside_the_calendar_is_refused_rather_than_guessed(plain: Calendar, moment: str, days: int) -> None:
    with pytest.raises(ValueError, match="outside the calendar"):
        plain.add_working_days(at(moment), days)


@settings(deadline=None, max_examples=50)
@given(
    day=st.dates(date(1970, 1, 1), date(2090, 12, 31)),
    days=st.integers(0, 300),
    weekend=st.sets(st.integers(0, 6), max_size=3),
    distances=st.sets(st.integers(0, 300), max_size=40),
)
def test_working_days_are_those_that_a_walk_through_the_days_counts(
    day: date, days: int, weekend: set[int], distances: set[int]
) -> None:
    holidays = {day + timedelta(days=distance) for distance in distances}
    due, left = day, days
    while True:
        if due.weekday() not in weekend and due not in holidays:
            if left == 0:
                break
            left -= 1
        due += timedelta(days=1)
    calendar = Calendar(DJIBOUTI_TIME, weekend=weekend, holidays=holidays)
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=DJIBOUTI_TIME)
    assert calendar.add_working_days(noon, days) == due


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("weekend: [friday, caturday]\n", "1: weekend[1]: input should be 'monday'"),
        ("weekend: [monday, tuesday, wednesday, thursday, friday, saturday, sunday]\n", "1: weekend: "),
        ("weekend: []\nholidays:\n  country: XX\n", "3: holidays.country: no holidays are known"),
        ("weekend: []\nholidays:\n  country: US\n  subdivision: QQ\n", "4: holidays.subdivision: no holidays"),
        ("weekend: []\nholidays:\n  extra:\n    - {date: 2027-02-30, name: x}\n", "4: holidays.extra[0].date: "),
        ("weekend: []\nholidays:\n  extra:\n    - {date: 2101-01-01, name: x}\n", "4: holidays.extra[0].date: "),
        ("holidays: {country: DJ}\n", "1: weekend: field required"),
    ],
)
def test_a_wrong_calendar_is_refused_with_line_and_field(path: Path, text: str, problem: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_calendar(path, DJIBOUTI_TIME)
    (found,) = refused.value.problems
    assert found.startswith(f"{path}:{problem}")


def test_a_day_both_added_and_removed_is_refused(path: Path) -> None:
    path.write_text("""\
weekend: []
holidays:
  removed: [{date: 2027-06-28, name: a}]
  extra:
    - {date: 2027-06-27, name: b}
    - {date: 2027-06-28, name: c}
""")
    with pytest.raises(ConfigError, match=r":6: holidays\.extra\[1\]\.date: 2027-06-28 is removed"):
        load_calendar(path, DJIBOUTI_TIME)
