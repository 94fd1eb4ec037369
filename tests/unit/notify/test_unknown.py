"""What becomes of a message of which nobody knows whether it was sent."""

from typing import TYPE_CHECKING

import pytest

from services.notify.domain import UNKNOWNS_MAX, State, user_message_reference
from services.notify.ledger import ANNOUNCE_LEASE, SENDING_LEASE
from services.notify.ports import Later, Sent, Unknown
from services.notify.receipts import Receipt
from tests.unit.notify.conftest import MOBILE, WINDOW

if TYPE_CHECKING:
    from tests.unit.notify.conftest import Desk, MakeEvent

AT_LEAST_ONCE = ("waiting_for_citizen", "resolved", "cancelled")
WINDOW_SECONDS = WINDOW.total_seconds()


async def receipt(desk: "Desk", message_id: str, failure: str | None = None) -> None:
    """A receipt comes that names the message in our words, too."""
    ours = user_message_reference(desk.ids[0])
    one = Receipt(
        provider="smpp",
        message_id=message_id,
        failure=failure,
        received_at=desk.clock.now(),
        recipient=MOBILE,
        user_message_reference=ours,
    )
    await desk.receipts.accept([one])
    await desk.receipts.match()


@pytest.mark.parametrize("status", AT_LEAST_ONCE)
async def test_what_the_citizen_has_to_learn_is_sent_again_once_the_window_has_ended_and_not_before(
    desk: "Desk", updated: "MakeEvent", status: str
) -> None:
    await desk.plan(updated(status=status))
    desk.provider.script = [Unknown("no_answer")]
    await desk.work()
    desk.later(seconds=WINDOW_SECONDS - 1)
    assert await desk.work() == 0
    desk.later(seconds=1)
    assert await desk.work() == 0  # planned anew
    assert await desk.work() == 1
    assert desk.publisher.statuses == ["unknown", "sent"]
    assert desk.count(desk.metrics.resent, "sms") == 1


async def test_after_the_window_any_provider_may_send_it(desk: "Desk", updated: "MakeEvent") -> None:
    await desk.plan(updated(status="resolved"))
    desk.provider.script = [Unknown("no_answer")]
    sender = desk.sender(desk.provider, desk.second)
    await desk.work(sender, smpp=1)
    desk.later(seconds=WINDOW_SECONDS)
    await desk.work(sender, smpp2=10)
    assert await desk.work(sender, smpp2=10) == 1
    assert len(desk.second.messages) == 1


async def test_what_the_next_message_tells_anyway_is_never_sent_again(
    desk: "Desk", accepted: "MakeEvent", assigned: "MakeEvent", updated: "MakeEvent"
) -> None:
    await desk.plan(accepted(), assigned(), updated(status="in_progress"))
    desk.provider.script = [Unknown("no_answer")] * 3
    await desk.work()
    for _ in range(50):
        desk.later(hours=1)
        assert await desk.work() == 0
    assert desk.publisher.statuses == ["unknown"] * 3
    assert [held async for held in desk.sms.unfinished()] == []  # nobody has to look at them any more


@pytest.mark.parametrize(("failure", "status"), [(None, "delivered"), ("expired", "failed")])
async def test_a_receipt_that_comes_in_time_settles_it(
    desk: "Desk", updated: "MakeEvent", failure: str | None, status: str
) -> None:
    await desk.plan(updated(status="resolved"))
    desk.provider.script = [Unknown("no_answer")]
    await desk.work()
    desk.later(seconds=WINDOW_SECONDS - 1)
    await receipt(desk, "id-1", failure)
    desk.later(days=1)
    assert await desk.work() == 0
    assert len(desk.provider.messages) == 1
    assert desk.publisher.statuses == ["unknown", status]


async def test_a_receipt_that_comes_too_late_still_settles_what_stayed_unknown(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted())
    desk.provider.script = [Unknown("no_answer")]
    await desk.work()
    desk.later(hours=60)
    await receipt(desk, "id-1")
    assert desk.publisher.statuses == ["unknown", "delivered"]


async def test_one_that_nobody_ever_knows_of_is_sent_a_bounded_number_of_times(
    desk: "Desk", updated: "MakeEvent"
) -> None:
    await desk.plan(updated(status="resolved"))
    desk.provider.script = [Unknown("no_answer")] * 100
    for _ in range(50):
        await desk.work()
        desk.later(seconds=WINDOW_SECONDS / 2)
    assert len(desk.provider.messages) == UNKNOWNS_MAX
    notification = await desk.notification()
    assert (notification.status, notification.unknowns) == (State.UNKNOWN, UNKNOWNS_MAX)
    assert desk.publisher.statuses == ["unknown"]
    assert desk.count(desk.metrics.notifications, "sms", "unknown") == UNKNOWNS_MAX


async def test_one_whose_sender_died_is_sent_again_a_window_after_that_was_found(
    desk: "Desk", updated: "MakeEvent"
) -> None:
    await desk.plan(updated(status="resolved"))
    dying = desk.sender()
    (begun,) = (await dying.begin({"smpp": 10})).begun
    await dying.hand_over(begun)
    desk.later(seconds=SENDING_LEASE.total_seconds())
    await desk.work()
    desk.later(seconds=WINDOW_SECONDS - 1)
    assert await desk.work() == 0
    desk.later(seconds=1)
    await desk.work()
    assert await desk.work() == 1
    assert desk.publisher.statuses == ["unknown", "sent"]


async def test_that_it_is_unknown_is_told_before_it_is_sent_again(desk: "Desk", updated: "MakeEvent") -> None:
    await desk.plan(updated(status="resolved"))
    desk.provider.script = [Unknown("no_answer")]
    desk.publisher.down = True
    await desk.work()
    for _ in range(3):
        desk.later(seconds=WINDOW_SECONDS)
        assert await desk.work() == 0
    desk.publisher.down = False
    desk.later(seconds=ANNOUNCE_LEASE.total_seconds())
    await desk.work()
    assert desk.publisher.statuses == ["unknown"]
    await desk.rest()
    await desk.work()
    assert await desk.work() == 1


async def test_a_copy_that_was_delivered_after_all_is_not_sent_again(desk: "Desk", updated: "MakeEvent") -> None:
    await desk.plan(updated(status="resolved"))
    desk.provider.script = [Unknown("no_answer"), Later("system_error")]
    await desk.work()
    desk.later(seconds=WINDOW_SECONDS)
    await desk.work()
    await desk.work()  # and that was put off
    await receipt(desk, "id-1")
    desk.later(hours=2)
    assert await desk.work() == 0
    assert desk.publisher.statuses == ["unknown", "delivered"]


async def test_that_an_earlier_copy_was_lost_says_nothing_of_the_later_one(desk: "Desk", updated: "MakeEvent") -> None:
    await desk.plan(updated(status="resolved"))
    desk.provider.script = [Unknown("no_answer"), Sent(("later",))]
    await desk.work()
    desk.later(seconds=WINDOW_SECONDS)
    await desk.work()
    await desk.work()
    await receipt(desk, "earlier", "expired")
    assert (await desk.notification()).status is State.SENT
    await receipt(desk, "later", "undeliverable")
    assert desk.publisher.statuses == ["unknown", "sent", "failed"]


async def test_trying_begins_anew_with_the_second_copy(desk: "Desk", updated: "MakeEvent") -> None:
    await desk.plan(updated(status="resolved"))
    desk.provider.script = [Unknown("no_answer"), Later("system_error")]
    await desk.work()
    desk.later(seconds=WINDOW_SECONDS)
    await desk.work()
    await desk.work()
    desk.later(seconds=6)  # and not as long as it has waited in all
    assert await desk.work() == 1
