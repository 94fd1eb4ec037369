from datetime import UTC, datetime, timedelta

import pytest

from shared.clock import Clock, ManualClock, SystemClock

START = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)


def test_a_manual_clock_stands_still_until_it_is_told_to_advance() -> None:
    clock = ManualClock(START)
    assert (clock.now(), clock.monotonic()) == (START, 0.0)
    assert (clock.now(), clock.monotonic()) == (START, 0.0)


def test_both_of_a_manual_clocks_times_advance_by_the_same_span() -> None:
    clock = ManualClock(START)
    clock.advance(timedelta(milliseconds=1500))
    clock.advance(timedelta(hours=1))
    assert clock.now() == START + timedelta(hours=1, milliseconds=1500)
    assert clock.monotonic() == 3601.5


def test_a_jump_of_the_wall_clock_leaves_waiting_alone() -> None:
    clock = ManualClock(START)
    clock.jump(timedelta(hours=-1))
    assert (clock.now(), clock.monotonic()) == (START - timedelta(hours=1), 0.0)


def test_a_clock_never_goes_back() -> None:
    clock = ManualClock(START)
    with pytest.raises(ValueError, match="only advances"):
        clock.advance(timedelta(microseconds=-1))
    assert clock.now() == START


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock(START)], ids=["system", "manual"])
def test_every_clock_tells_utc_and_monotonic_seconds(clock: Clock) -> None:
    assert clock.now().utcoffset() == timedelta(0)
    assert clock.monotonic() <= clock.monotonic()
