from collections import Counter

import pytest

from services.notify.pool import (
    FAILURES_IN_A_ROW_MAX,
    HALF_LIFE_SECONDS,
    PAUSE_FIRST_SECONDS,
    PAUSE_LONGEST_SECONDS,
    SHARE_MIN,
    Pool,
)

BOTH = ("a", "b")


def chosen(pool: Pool, times: int, now_seconds: float = 0.0) -> Counter[str]:
    return Counter(pool.choose(BOTH, now_seconds) for _ in range(times))


def broken(pool: Pool, name: str, now_seconds: float = 0.0) -> Pool:
    for _ in range(FAILURES_IN_A_ROW_MAX):
        pool.failed(name, now_seconds)
    return pool


def test_messages_are_shared_out_by_weight_and_evenly_mixed() -> None:
    pool = Pool({"a": 3, "b": 1})
    order = "".join(pool.choose(BOTH, 0.0) for _ in range(8))
    assert order == "aabaaaba"


def test_the_same_history_gives_the_same_choices() -> None:
    def history() -> str:
        pool = Pool({"a": 2, "b": 1})
        pool.failed("a", 0.0)
        pool.worked("b", 0.2, 1.0)
        return "".join(pool.choose(BOTH, number / 10) for number in range(40))

    assert history() == history()


def test_a_share_falls_with_each_failure_and_drifts_back() -> None:
    pool = Pool({"a": 1, "b": 1})
    shares = [pool.share("a", 0.0)]
    for _ in range(3):
        pool.failed("a", 0.0)
        shares.append(pool.share("a", 0.0))
    assert shares == sorted(shares, reverse=True)
    lost = 1 - shares[-1]
    assert pool.share("a", HALF_LIFE_SECONDS) == pytest.approx(1 - lost / 2)
    assert pool.share("a", 20 * HALF_LIFE_SECONDS) == pytest.approx(1, abs=1e-3)
    assert pool.share("b", 0.0) == 1


def test_whatever_happens_a_share_is_never_nothing() -> None:
    pool = Pool({"a": 2, "b": 1})
    for _ in range(1000):
        pool.failed("a", 0.0)
    assert pool.share("a", 0.0) == 2 * SHARE_MIN


@pytest.mark.parametrize(
    ("fast_seconds", "slow_seconds", "falls"),
    [
        (0.5, 1.0, True),
        (0.5, 0.6, True),
        (0.5, 0.57, False),  # less than 15 %
        (0.01, 0.04, False),  # four times as long, and nobody would notice
    ],
)
def test_a_provider_that_is_materially_slower_gets_less(fast_seconds: float, slow_seconds: float, falls: bool) -> None:
    pool = Pool({"a": 1, "b": 1})
    pool.worked("a", fast_seconds, 0.0)
    pool.worked("b", slow_seconds, 0.0)
    assert pool.share("a", 0.0) == 1
    assert pool.share("b", 0.0) == pytest.approx(fast_seconds / slow_seconds if falls else 1)
    assert pool.share("b", 20 * HALF_LIFE_SECONDS) == pytest.approx(1)


def test_one_slow_answer_among_many_changes_little() -> None:
    pool = Pool({"a": 1, "b": 1})
    for _ in range(50):
        pool.worked("a", 0.1, 0.0)
        pool.worked("b", 0.1, 0.0)
    pool.worked("b", 1.0, 0.0)
    assert pool.share("b", 0.0) == 1


def test_after_several_failures_in_a_row_a_provider_is_left_out() -> None:
    pool = Pool({"a": 1, "b": 1})
    for _ in range(FAILURES_IN_A_ROW_MAX - 1):
        pool.failed("a", 0.0)
    assert pool.sound(BOTH, 0.0) == ["a", "b"]
    pool.failed("a", 0.0)
    assert pool.sound(BOTH, 0.0) == ["b"]
    assert pool.room({"a": 50, "b": 50}, BOTH, 0.0) == {"b": 50}


def test_failures_with_a_success_between_them_leave_nobody_out() -> None:
    pool = Pool({"a": 1, "b": 1})
    for _ in range(10 * FAILURES_IN_A_ROW_MAX):
        pool.failed("a", 0.0)
        pool.worked("a", 0.1, 0.0)
    assert pool.sound(BOTH, 0.0) == ["a", "b"]


def test_a_provider_left_out_is_tried_with_one_message_after_a_pause_that_doubles_to_a_bound() -> None:
    pool = broken(Pool({"a": 1, "b": 1}), "a")
    now_seconds, pauses = 0.0, []
    for _ in range(8):
        pause_seconds = 0.0
        while "a" not in pool.sound(BOTH, now_seconds + pause_seconds):
            pause_seconds += 1
        pauses.append(pause_seconds)
        now_seconds += pause_seconds
        assert pool.room({"a": 50, "b": 50}, BOTH, now_seconds) == {"a": 1, "b": 50}
        assert pool.choose(BOTH, now_seconds) == "a"
        assert pool.sound(BOTH, now_seconds) == ["b"]
        pool.failed("a", now_seconds)
    assert pauses[0] == PAUSE_FIRST_SECONDS
    assert pauses[1] == 2 * PAUSE_FIRST_SECONDS
    assert pauses[-1] == pauses[-2] == PAUSE_LONGEST_SECONDS


def test_what_was_handed_over_before_a_provider_was_left_out_does_not_lengthen_its_pause() -> None:
    pool = broken(Pool({"a": 1, "b": 1}), "a")
    for _ in range(50):
        pool.failed("a", 1.0)
    assert "a" in pool.sound(BOTH, PAUSE_FIRST_SECONDS)


def test_one_message_that_goes_well_brings_a_provider_back() -> None:
    pool = broken(Pool({"a": 1, "b": 1}), "a")
    assert pool.choose(BOTH, PAUSE_FIRST_SECONDS) == "a"
    pool.worked("a", 0.1, PAUSE_FIRST_SECONDS)
    assert pool.room({"a": 50, "b": 50}, BOTH, PAUSE_FIRST_SECONDS) == {"a": 50, "b": 50}
    assert chosen(pool, 1000, 20 * HALF_LIFE_SECONDS)["a"] == pytest.approx(500, abs=5)


def test_a_message_of_trial_whose_answer_never_comes_does_not_leave_a_provider_out_for_ever() -> None:
    pool = broken(Pool({"a": 1, "b": 1}), "a")
    assert pool.choose(BOTH, PAUSE_FIRST_SECONDS) == "a"
    assert "a" in pool.sound(BOTH, 2 * PAUSE_FIRST_SECONDS)


@pytest.mark.parametrize("connected", [("a",), BOTH])
def test_where_no_sound_one_is_left_those_that_can_be_reached_are_used_in_full(connected: tuple[str, ...]) -> None:
    pool = broken(broken(Pool({"a": 1, "b": 1}), "a"), "b")
    for now_seconds in (0.0, PAUSE_FIRST_SECONDS, 1000.0):
        offered = dict.fromkeys(connected, 50)
        assert pool.room(offered, connected, now_seconds) == offered
        assert pool.choose(connected, now_seconds) in connected


def test_a_sound_one_without_room_is_waited_for_rather_than_use_one_that_is_left_out() -> None:
    pool = broken(Pool({"a": 1, "b": 1}), "a")
    assert pool.room({"a": 50}, BOTH, 0.0) == {}


def test_a_channel_of_one_provider_always_uses_it() -> None:
    pool = broken(Pool({"a": 1}), "a")
    for now_seconds in range(200):
        assert pool.room({"a": 50}, ["a"], now_seconds) == {"a": 50}
        assert pool.choose(["a"], now_seconds) == "a"
        pool.failed("a", now_seconds)
