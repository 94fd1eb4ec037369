import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from services.notify import domain
from services.notify.domain import (
    RETRY_FIRST,
    RETRY_LIMIT,
    UNKNOWNS_MAX,
    Notification,
    Policy,
    State,
    Step,
    WrongState,
    next_attempt,
)
from services.notify.ledger import SENDING_LEASE
from services.notify.sender import ANSWER_SECONDS
from shared.contract.events import Channel, Language, NotificationOutcome, Timeline

START = datetime(2026, 11, 1, 6, 0, tzinfo=UTC)
WINDOW = timedelta(minutes=15)
FINAL = (State.DELIVERED, State.FAILED, State.UNREACHABLE)


def planned() -> Notification:
    return Notification(
        id="n",
        cause="e",
        request_id="r",
        reference="7K3M-9XQ2-HTB4",
        agency="port",
        service_code="birth",
        step=Step.ACCEPTED,
        channel=Channel.SMS,
        language=Language.FRENCH,
        template="v1",
        recipient="+25377112233",
        personalisation={},
        status=State.PLANNED,
        not_before=START,
        timeline=Timeline(planned=START),
    )


def sending(segments: int = 1) -> Notification:
    return domain.begin(planned(), template="v1", segments=segments, provider="smpp")


MOVES: dict[str, tuple[Callable[[Notification], Notification], set[State]]] = {
    "begin": (lambda n: domain.begin(n, template="v1", segments=1, provider="smpp"), {State.PLANNED}),
    "sent": (lambda n: domain.sent(n, START), {State.SENDING}),
    "refused": (lambda n: domain.refused(n, START, reason="x"), {State.SENDING, State.PLANNED}),
    "declined": (lambda n: domain.declined(n, START, reason="x", providers=("smpp", "smpp2")), {State.SENDING}),
    "switched": (lambda n: domain.switched(n, START, reason="x"), {State.SENDING}),
    "held_back": (lambda n: domain.held_back(n, START), {State.PLANNED}),
    "postponed": (lambda n: domain.postponed(n, START, reason="x"), {State.SENDING, State.PLANNED}),
    "lost_sight": (lambda n: domain.lost_sight(n, START, reason="x", window=WINDOW), {State.SENDING}),
    "sent_again": (lambda n: domain.sent_again(n, START), {State.UNKNOWN}),
    "receipted": (
        lambda n: domain.receipted(n, START, reference="a", attempt=1),
        set(State) - {State.PLANNED, State.SENDING},
    ),
}


def test_a_receipt_that_was_read_before_the_reply_does_not_deliver_before_sending() -> None:
    sent = domain.sent(sending(), START + timedelta(seconds=2))
    timeline = domain.receipted(sent, START + timedelta(seconds=1), reference="a", attempt=1).timeline
    assert timeline.delivered == timeline.sent == START + timedelta(seconds=2)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("state", State)
def test_a_move_is_made_only_from_where_it_can_be_made(move: str, state: State) -> None:
    make, allowed = MOVES[move]
    notification = replace(planned(), status=state)
    if state in allowed:
        make(notification)
    else:
        with pytest.raises(WrongState):
            make(notification)


@pytest.mark.parametrize("state", FINAL)
def test_a_receipt_changes_nothing_that_is_final(state: State) -> None:
    notification = replace(planned(), status=state)
    assert domain.receipted(notification, START, reference="a", attempt=1) is notification
    assert domain.receipted(notification, START, reference="a", attempt=1, failure="expired") is notification


def test_a_message_in_parts_is_delivered_when_all_are_and_failed_when_one_is() -> None:
    both = domain.sent(sending(segments=2), START, references=("a", "b"))
    one = domain.receipted(both, START, reference="a", attempt=1)
    assert one.status is State.SENT
    assert domain.receipted(one, START, reference="a", attempt=1) is one
    assert domain.receipted(one, START, reference="b", attempt=1).status is State.DELIVERED
    failed = domain.receipted(one, START, reference="b", attempt=1, failure="expired")
    assert (failed.status, failed.reason) == (State.FAILED, "expired")


def test_parts_accepted_before_the_template_changed_are_not_mixed_with_new_ones() -> None:
    half = domain.postponed(sending(segments=2), START, reason="throttled", references=("a",))
    same = domain.begin(half, template="v1", segments=2, provider="smpp")
    other = domain.begin(half, template="v2", segments=2, provider="smpp")
    assert same.provider_references == ("a",)
    assert other.provider_references == ()


@given(st.text(max_size=40))
def test_retries_grow_and_end(key: str) -> None:
    now, delays = START, []
    while (moment := next_attempt(key, since=START, now=now)) is not None:
        delays.append(moment - now)
        now = moment
        assert len(delays) < 60
    assert delays[0] >= RETRY_FIRST
    assert all(earlier <= later for earlier, later in itertools.pairwise(delays))
    assert RETRY_LIMIT <= now - START < RETRY_LIMIT + timedelta(hours=1.5)


def test_a_retry_has_the_same_moment_whenever_it_is_worked_out_and_another_for_another_key() -> None:
    now = START + timedelta(minutes=3)
    moments = {next_attempt(f"key {number}", since=START, now=now) for number in range(50)}
    assert next_attempt("key 1", since=START, now=now) == next_attempt("key 1", since=START, now=now)
    assert len(moments) > 25


def test_a_provider_that_asks_for_a_pause_gets_it_as_long_as_there_is_time() -> None:
    wish = timedelta(seconds=1)
    assert next_attempt("k", since=START, now=START, wish=wish) == START + wish
    assert next_attempt("k", since=START, now=START + RETRY_LIMIT, wish=wish) is None


def test_retries_that_end_fail_the_notification() -> None:
    late = START + RETRY_LIMIT
    failed = domain.postponed(sending(), late, reason="not_connected")
    assert (failed.status, failed.reason) == (State.FAILED, "retries_exhausted")


def test_what_is_unknown_is_sent_again_only_when_that_is_told_and_its_window_has_ended() -> None:
    once = replace(sending(), policy=Policy.AT_LEAST_ONCE)
    unknown = domain.lost_sight(once, START, reason="no_answer", window=WINDOW)
    assert not domain.to_be_sent_again(unknown, START + WINDOW)
    told = domain.published(unknown)
    assert not domain.to_be_sent_again(told, START + WINDOW - timedelta(seconds=1))
    assert domain.to_be_sent_again(told, START + WINDOW)


def test_a_provider_always_answers_before_its_row_is_given_up() -> None:
    assert timedelta(seconds=ANSWER_SECONDS) < SENDING_LEASE


class Life(RuleBasedStateMachine):
    """Whatever happens in whatever order, no status goes back and none is told twice."""

    def __init__(self) -> None:
        super().__init__()
        self.notification = replace(planned(), policy=Policy.AT_LEAST_ONCE)
        self.now = START
        self.was_final: State | None = None
        self.told: list[NotificationOutcome] = []

    @rule(move=st.sampled_from(sorted(MOVES)), minutes=st.integers(0, 600))
    def move(self, move: str, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)
        make, allowed = MOVES[move]
        if move == "sent_again" and not domain.to_be_sent_again(self.notification, self.now):
            return
        if self.notification.status in allowed:
            self.notification = make(self.notification)

    @rule()
    def published(self) -> None:
        self.told += map(NotificationOutcome.from_json, self.notification.outbox)
        self.notification = domain.published(self.notification)

    @rule(reference=st.sampled_from("ab"), failure=st.sampled_from([None, "expired"]))
    def receipt(self, reference: str, failure: str | None) -> None:
        if domain.takes_receipts(self.notification):
            self.notification = domain.receipted(
                self.notification, self.now, reference=reference, attempt=1, failure=failure
            )

    @invariant()
    def final_stays_final(self) -> None:
        if self.was_final is not None:
            assert self.notification.status is self.was_final
        if self.notification.status in FINAL:
            self.was_final = self.notification.status

    @invariant()
    def each_status_is_told_once(self) -> None:
        told = self.told + [NotificationOutcome.from_json(event) for event in self.notification.outbox]
        assert [outcome.data.status for outcome in told] == list(self.notification.announced)
        assert len({outcome.id for outcome in told}) == len(told)
        assert len(set(self.notification.announced)) == len(told)

    @invariant()
    def nobody_knows_of_it_more_than_so_often(self) -> None:
        assert self.notification.unknowns <= UNKNOWNS_MAX


test_life = Life.TestCase
