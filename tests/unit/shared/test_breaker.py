"""The limit past which the deploy is wrong, and not the data."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from shared.bus.breaker import LIMIT_IN_A_ROW, LIMIT_IN_WINDOW, WINDOW_RECORDS, Breaker


def run(breaker: Breaker, outcomes: Sequence[bool], *, batch: int) -> int | None:
    """How many records were taken before the limit would have been passed; None if it never was."""
    for start in range(0, len(outcomes), batch):
        part = outcomes[start : start + batch]
        set_aside = [index for index, failed in enumerate(part) if failed]
        if breaker.judge(set_aside):
            return start
        breaker.count(len(part), set_aside)
    return None


def test_a_few_dead_letters_now_and_then_never_stop_anybody() -> None:
    assert run(Breaker(), [number % 20 == 0 for number in range(100_000)], batch=500) is None


def test_one_more_than_five_in_a_hundred_does() -> None:
    spread = [number % 2 == 0 and number < 2 * LIMIT_IN_WINDOW for number in range(WINDOW_RECORDS)]
    breaker = Breaker()
    assert run(breaker, spread, batch=100) is None
    assert breaker.judge([]) is None
    # The window has moved on by one: the oldest has left it.
    assert breaker.judge([0]) is None
    assert breaker.judge([0, 1]) is not None


def test_fifty_in_a_row_do_within_one_batch_and_over_many() -> None:
    assert Breaker().judge(range(LIMIT_IN_A_ROW - 1)) is None
    assert "in a row" in (Breaker().judge(range(LIMIT_IN_A_ROW)) or "")
    assert run(Breaker(), [True] * 100, batch=1) == LIMIT_IN_A_ROW - 1


def test_a_batch_that_comes_again_counts_once() -> None:
    breaker = Breaker()
    for _ in range(100):
        assert breaker.judge(range(30)) is None
    breaker.count(30, range(30))
    assert breaker.judge(range(20)) is not None


@given(
    outcomes=st.lists(st.sampled_from([False] * 15 + [True]), max_size=3000),
    batch=st.integers(min_value=1, max_value=500),
)
def test_it_agrees_with_counting_every_window_by_hand(outcomes: list[bool], batch: int) -> None:
    def passed(end: int) -> bool:
        window = outcomes[max(0, end - WINDOW_RECORDS) : end]
        row = outcomes[max(0, end - LIMIT_IN_A_ROW) : end]
        return sum(window) > LIMIT_IN_WINDOW or (len(row) == LIMIT_IN_A_ROW and all(row))

    # Windows end at a record that failed: good ones never pass a limit.
    first = next((end - 1 for end in range(1, len(outcomes) + 1) if outcomes[end - 1] and passed(end)), None)
    expected = None if first is None else first - first % batch
    assert run(Breaker(), outcomes, batch=batch) == expected
