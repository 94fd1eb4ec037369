"""The one retry schedule, however late somebody looks: it grows, has bounds, ends, and is each key's own."""

from datetime import timedelta
from itertools import chain, pairwise, repeat

from hypothesis import given, settings
from hypothesis import strategies as st

from services.notify.domain import RETRY_FIRST, RETRY_LIMIT, RETRY_LONGEST, next_attempt
from tests.states.consuming import START

JITTER_MAX = 1.2
ROUNDING = timedelta(microseconds=2)

keys = st.text(max_size=40)
waited = st.timedeltas(timedelta(0), timedelta(days=2))


@settings(deadline=None, print_blob=True)
@given(key=keys, late=st.lists(st.timedeltas(timedelta(0), timedelta(hours=3)), max_size=30))
def test_delays_never_shrink_and_end_after_a_day_however_late_each_try_is(key: str, late: list[timedelta]) -> None:
    now, delays = START, []
    for lateness in chain(late, repeat(timedelta(0))):
        moment = next_attempt(key, since=START, now=now)
        if moment is None:
            break
        delays.append(moment - now)
        now = moment + lateness
        assert len(delays) < 60
    assert all(before <= after + ROUNDING for before, after in pairwise(delays))
    assert delays[0] >= RETRY_FIRST
    assert delays[-1] <= RETRY_LONGEST * JITTER_MAX
    assert now - START >= RETRY_LIMIT


@settings(deadline=None, print_blob=True)
@given(key=keys, other=keys, waited=waited)
def test_a_key_has_its_own_moment_at_most_a_fifth_after_any_others(key: str, other: str, waited: timedelta) -> None:
    now = START + waited
    mine, again, others = (next_attempt(each, since=START, now=now) for each in (key, key, other))
    assert mine == again
    assert (mine is None) == (others is None) == (waited >= RETRY_LIMIT)
    if mine is not None and others is not None:
        assert mine - now <= (others - now) * JITTER_MAX + ROUNDING


@settings(deadline=None, print_blob=True)
@given(key=keys, waited=waited, wish=st.timedeltas(timedelta(0), timedelta(days=2)))
def test_a_pause_that_is_asked_for_is_granted_up_to_an_hour(key: str, waited: timedelta, wish: timedelta) -> None:
    now = START + waited
    expected = now + min(wish, RETRY_LONGEST) if waited < RETRY_LIMIT else None
    assert next_attempt(key, since=START, now=now, wish=wish) == expected
