from typing import TYPE_CHECKING

from services.notify.domain import State, user_message_reference
from services.notify.ledger import SENDING_LEASE
from services.notify.ports import Sent, Unknown
from services.notify.receipts import Match, Receipt
from shared.contract.events import Language

if TYPE_CHECKING:
    from tests.unit.notify.conftest import Desk, MakeEvent

MOBILE = "+25377112233"


def receipt(desk: "Desk", message_id: str, failure: str | None = None, ours: int | None = None) -> Receipt:
    return Receipt(
        provider="smpp",
        message_id=message_id,
        failure=failure,
        received_at=desk.clock.now(),
        recipient=MOBILE,
        user_message_reference=ours,
    )


async def match_of(desk: "Desk", message_id: str) -> Match:
    key = receipt(desk, message_id).key
    row = (await desk.receipt_rows.get_many([key]))[key]
    return Receipt.from_json(row.body).match


async def test_a_receipt_makes_a_sent_message_delivered_and_a_doubled_one_changes_nothing(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted())
    await desk.work()
    message_id = f"{desk.ids[0]}-1"
    for _ in range(2):
        await desk.receipts.accept([receipt(desk, message_id)])
        await desk.receipts.match()
        desk.later(seconds=10)
    assert desk.publisher.statuses == ["sent", "delivered"]
    assert (await desk.notification()).timeline.delivered is not None
    assert await match_of(desk, message_id) is Match.MATCHED


async def test_a_receipt_that_contradicts_the_first_is_not_heard(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    await desk.work()
    message_id = f"{desk.ids[0]}-1"
    for failure in ("expired", None):
        await desk.receipts.accept([receipt(desk, message_id, failure)])
        await desk.receipts.match()
    assert desk.publisher.statuses == ["sent", "failed"]
    assert desk.publisher.outcomes[1].data.reason == "expired"


async def test_a_receipt_that_comes_before_the_answer_is_saved_waits_for_it(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted())
    sender = desk.sender()
    answered = [await sender.hand_over(each) for each in (await sender.begin({"smpp": 10})).begun]
    await desk.receipts.accept([receipt(desk, f"{desk.ids[0]}-1")])
    await desk.receipts.match()
    assert await match_of(desk, f"{desk.ids[0]}-1") is Match.PENDING
    await sender.settle(answered)
    desk.later(seconds=7)
    await desk.receipts.match()
    assert desk.publisher.statuses == ["sent", "delivered"]


async def test_a_receipt_that_comes_hours_late_still_counts(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    await desk.work()
    desk.later(hours=70)
    await desk.receipts.accept([receipt(desk, f"{desk.ids[0]}-1")])
    await desk.receipts.match()
    assert desk.publisher.statuses == ["sent", "delivered"]


async def test_a_receipt_for_nobody_is_looked_up_for_a_day_and_then_kept_as_unmatched(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted())
    await desk.work()
    await desk.receipts.accept([receipt(desk, "forged")])
    for _ in range(40):
        await desk.receipts.match()
        desk.later(hours=1.5)
    assert desk.publisher.statuses == ["sent"]
    assert await match_of(desk, "forged") is Match.UNMATCHED
    assert desk.count(desk.metrics.receipts, "smpp", "unmatched") == 1
    assert await desk.receipts.match() == 0


async def test_a_message_in_two_parts_needs_both_receipts(desk: "Desk", updated: "MakeEvent") -> None:
    await desk.plan(updated(status="waiting_for_citizen", language=Language.ARABIC))
    await desk.work()
    first, second = (f"{desk.ids[0]}-{number}" for number in (1, 2))
    await desk.receipts.accept([receipt(desk, first)])
    await desk.receipts.match()
    assert desk.publisher.statuses == ["sent"]
    await desk.receipts.accept([receipt(desk, second)])
    await desk.receipts.match()
    assert desk.publisher.statuses == ["sent", "delivered"]


async def test_both_receipts_of_a_message_in_one_batch_deliver_it_once(desk: "Desk", updated: "MakeEvent") -> None:
    await desk.plan(updated(status="waiting_for_citizen", language=Language.ARABIC))
    await desk.work()
    await desk.receipts.accept([receipt(desk, f"{desk.ids[0]}-{number}") for number in (1, 2)])
    await desk.receipts.match()
    assert desk.publisher.statuses == ["sent", "delivered"]


async def test_an_unknown_send_is_resolved_by_the_reference_that_we_gave_it(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted(1), accepted(2))
    desk.provider.script = [Unknown("connection_lost")]
    await desk.work()
    (unknown,) = [each for each in desk.ids if (await desk.row(each)).notification.status is State.UNKNOWN]
    await desk.receipts.accept([receipt(desk, "never-seen", ours=user_message_reference(unknown))])
    await desk.receipts.match()
    assert (await desk.row(unknown)).notification.status is State.DELIVERED
    assert sorted(desk.publisher.statuses) == ["delivered", "sent", "unknown"]


async def test_a_receipt_finds_what_its_dead_sender_left_behind(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    sender = desk.sender()
    (begun,) = (await sender.begin({"smpp": 10})).begun
    await sender.hand_over(begun)
    await desk.receipts.accept([receipt(desk, "x", ours=user_message_reference(begun.message.id))])
    await desk.receipts.match()
    assert await match_of(desk, "x") is Match.PENDING
    desk.later(seconds=SENDING_LEASE.total_seconds())
    await desk.sender().begin({"smpp": 10})
    await desk.receipts.match()
    assert (await desk.row(begun.message.id)).notification.status is State.DELIVERED


async def test_an_id_given_in_hexadecimal_and_receipted_in_decimal_is_the_same(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted())
    desk.provider.script = [Sent(("0000ABCD",))]
    await desk.work()
    await desk.receipts.accept([receipt(desk, str(0xABCD))])
    await desk.receipts.match()
    assert desk.publisher.statuses == ["sent", "delivered"]


async def test_an_id_that_could_be_read_both_ways_means_the_message_of_the_same_recipient(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted(1))
    desk.provider.script = [Sent(("64",)), Sent(("100",))]  # 0x64 is 100
    await desk.work()
    await desk.plan(accepted(2, phone="+25377000000"))
    await desk.work()
    mine, _ = desk.ids
    await desk.receipts.accept([receipt(desk, "100")])
    await desk.receipts.match()
    assert (await desk.row(mine)).notification.status is State.DELIVERED
