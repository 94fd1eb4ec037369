"""That the mesh was told of a notification is written with its row's next change, or before the row would come up."""

import asyncio
from typing import TYPE_CHECKING

from msgspec.structs import replace

from services.notify import domain
from services.notify.domain import Notification, State
from services.notify.ledger import ANNOUNCE_LEASE, TOLD_AHEAD, TOLD_MAX, Held, Ledger
from services.notify.receipts import Receipt
from shared.contract.events import Channel, NotificationOutcome
from tests.fakes import MemoryStore

if TYPE_CHECKING:
    from tests.unit.notify.conftest import Desk, MakeEvent


async def stored(desk: "Desk") -> Notification:
    """The only row there is, as the store has it."""
    (row,) = [row async for row in desk.sms_rows.scan()]
    return Notification.from_json(row.body)


async def come_due(ledger: Ledger) -> int:
    return len([held async for held in ledger.unfinished()])


def receipt(desk: "Desk") -> Receipt:
    return Receipt(provider="smpp", message_id=f"{desk.ids[0]}-1", received_at=desk.clock.now())


async def test_it_is_written_before_the_row_comes_up_again(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    await desk.work()
    assert (await stored(desk)).untold
    desk.later(seconds=(ANNOUNCE_LEASE - TOLD_AHEAD).total_seconds())
    await desk.sms.write_told(desk.clock.now())
    assert not (await stored(desk)).untold
    desk.later(days=1)
    await desk.work()
    assert desk.publisher.statuses == ["sent"]


async def test_a_receipt_that_comes_soon_writes_it_along(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    await desk.work()
    await desk.receipts.accept([receipt(desk)])
    desk.publisher.down = True
    await desk.receipts.match()
    row = await stored(desk)
    assert row.status is State.DELIVERED
    assert [NotificationOutcome.from_json(each).data.status for each in row.outbox] == ["delivered"]
    desk.publisher.down = False
    desk.later(seconds=ANNOUNCE_LEASE.total_seconds())
    await desk.work()
    await desk.rest()
    assert not (await stored(desk)).untold
    assert desk.publisher.statuses == ["sent", "delivered"]


async def test_a_process_that_dies_before_it_is_written_makes_the_next_one_tell_it_once_more_to_the_byte(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted())
    await desk.work()
    next_one = desk.restarted()
    desk.later(seconds=ANNOUNCE_LEASE.total_seconds())
    assert await next_one.work() == 0
    (first,) = desk.publisher.published
    assert next_one.publisher.published == [first]
    await next_one.rest()
    assert not (await stored(desk)).untold


async def test_where_another_has_changed_the_row_meanwhile_that_counts_and_a_receipt_is_heard_all_the_same(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted())
    await desk.work()
    desk.later(seconds=ANNOUNCE_LEASE.total_seconds())
    await desk.restarted().sms.take(desk.clock.now(), 10)
    await desk.receipts.accept([receipt(desk)])
    await desk.receipts.match()
    assert (await stored(desk)).status is State.SENT
    for _ in range(2):
        desk.later(seconds=ANNOUNCE_LEASE.total_seconds())
        await desk.receipts.match()
    assert (await stored(desk)).status is State.DELIVERED


async def test_what_was_told_of_a_row_as_it_was_before_does_not_hide_what_was_told_since(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted())
    desk.publisher.down = True
    await desk.work()
    sent = await desk.row(desk.ids[0])
    desk.publisher.down = False
    await desk.receipts.accept([receipt(desk)])
    await desk.receipts.match()
    await desk.outcomes(Channel.SMS).announce([sent])
    await desk.rest()
    assert not (await stored(desk)).untold
    assert (await stored(desk)).status is State.DELIVERED


async def test_a_sender_that_ends_in_order_leaves_nothing_to_be_told_again(desk: "Desk", accepted: "MakeEvent") -> None:
    running = asyncio.create_task(desk.sender().run())
    await desk.plan(*(accepted(number) for number in range(10)))
    await desk.provider.until(10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await come_due(desk.sms) == 0


async def test_of_more_rows_than_are_remembered_it_is_written_at_once(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    (planned,) = await desk.sms.take(desk.clock.now(), 1)
    store = MemoryStore()
    await store.open()
    many, now = Ledger(store.collection("rows")), desk.clock.now()
    named = [replace(planned.notification, id=f"{number}") for number in range(TOLD_MAX + 1)]
    await many.add(named)
    failed = [Held(domain.refused(each, now, reason="x"), 1) for each in named]
    told = [Held(domain.published(each.notification), each.version, each.due) for each in await many.save(failed, now)]
    await many.told(told[:-1], now)
    assert await come_due(many) == len(told)
    await many.told(told[-1:], now)
    assert await come_due(many) == 0
