"""Two providers of one channel: what goes to the other one, and what never does."""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.notify.app import any_of
from services.notify.domain import State
from services.notify.pool import FAILURES_IN_A_ROW_MAX
from services.notify.ports import Declined, Later, Refused, Sent, Unknown
from services.notify.receipts import Receipt
from shared.contract.events import Language

if TYPE_CHECKING:
    from services.notify.ports import ShortMessage
    from services.notify.sender import Sender
    from tests.unit.notify.conftest import Desk, MakeEvent

MOBILE = "+25377112233"
BOTH = {"smpp": 100, "smpp2": 100}


def two(desk: "Desk") -> "Sender[ShortMessage]":
    return desk.sender(desk.provider, desk.second)


async def test_messages_are_shared_out_between_the_two(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(*(accepted(number) for number in range(40)))
    assert await desk.work(two(desk), **BOTH) == 40
    assert len(desk.provider.messages) == len(desk.second.messages) == 20


async def test_none_is_given_more_than_it_has_room_for(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(*(accepted(number) for number in range(40)))
    assert await desk.work(two(desk), smpp=30, smpp2=3) == 33
    assert (len(desk.provider.messages), len(desk.second.messages)) == (30, 3)


async def test_what_one_can_not_take_now_the_other_takes_at_once(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    desk.provider.script = [Later("system_error")]
    assert await desk.work(two(desk), smpp=1) == 1
    assert await desk.work(two(desk), **BOTH) == 1
    assert [message.id for message in desk.second.messages] == desk.ids
    assert desk.publisher.statuses == ["sent"]
    assert desk.publisher.outcomes[0].data.provider == "smpp2"


async def test_one_that_said_later_is_not_asked_again_in_this_round(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    desk.provider.script = [Later("system_error")]
    await desk.work(two(desk), smpp=1)
    for _ in range(3):
        assert await desk.work(two(desk), smpp=10) == 0
        desk.later(seconds=1)
    assert await desk.work(two(desk), smpp2=10) == 1


async def test_when_all_have_said_later_there_is_a_pause_and_a_new_round(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    desk.provider.script, desk.second.script = [Later("system_error")], [Later("system_error")]
    sender = two(desk)
    assert [await desk.work(sender, **BOTH) for _ in range(3)] == [1, 1, 0]
    desk.later(seconds=4)
    assert await desk.work(sender, **BOTH) == 0
    desk.later(seconds=2)
    assert await desk.work(sender, **BOTH) == 1
    assert (len(desk.provider.messages), len(desk.second.messages)) in ((2, 1), (1, 2))
    assert desk.publisher.statuses == ["sent"]


async def test_where_the_other_is_away_the_retry_schedule_is_kept(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    desk.second.connected = False
    desk.provider.script = [Later("system_error")]
    await desk.work(two(desk), smpp=1)
    assert await desk.work(two(desk), smpp=10) == 0
    desk.later(seconds=6)
    assert await desk.work(two(desk), smpp=10) == 1


async def test_a_refusal_of_the_recipient_is_final_and_nobody_else_is_asked(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted())
    desk.provider.script = [Refused("invalid_destination")]
    await desk.work(two(desk), smpp=1)
    desk.later(days=2)
    assert await desk.work(two(desk), **BOTH) == 0
    assert desk.publisher.statuses == ["failed"]


async def test_what_one_declines_the_other_takes_and_the_first_is_never_asked_again(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted())
    desk.provider.script = [Declined("invalid_source")]
    desk.second.script = [Later("system_error")]
    await desk.work(two(desk), smpp=1)
    assert await desk.work(two(desk), **BOTH) == 1
    desk.later(minutes=1)
    assert await desk.work(two(desk), smpp=10) == 0
    desk.later(minutes=5)
    assert await desk.work(two(desk), **BOTH) == 1
    assert (len(desk.provider.messages), len(desk.second.messages)) == (1, 2)
    assert desk.publisher.statuses == ["sent"]


async def test_what_all_decline_is_failed_for_the_reason_that_the_last_gave(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted())
    desk.provider.script, desk.second.script = [Declined("invalid_source")], [Declined("rejected")]
    await desk.work(two(desk), smpp=1)
    await desk.work(two(desk), **BOTH)
    assert desk.publisher.statuses == ["failed"]
    assert desk.publisher.outcomes[0].data.reason == "rejected"


async def test_a_provider_alone_that_declines_is_final(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    desk.provider.script = [Declined("rejected")]
    await desk.work()
    assert desk.publisher.statuses == ["failed"]


async def test_a_text_of_which_parts_were_taken_stays_where_they_are(desk: "Desk", updated: "MakeEvent") -> None:
    await desk.plan(updated(status="waiting_for_citizen", language=Language.ARABIC))
    desk.provider.script = [Later("system_error", references=("id-1",))]
    await desk.work(two(desk), smpp=1)
    for _ in range(4):
        desk.later(seconds=10)
        assert await desk.work(two(desk), smpp2=10) == 0
    desk.later(minutes=5)
    assert await desk.work(two(desk), **BOTH) == 1
    assert desk.second.messages == []
    assert desk.provider.messages[1].accepted == ("id-1",)


async def test_what_nobody_knows_of_goes_to_no_other_provider(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    desk.provider.script = [Unknown("no_answer")]
    await desk.work(two(desk), smpp=1)
    for _ in range(10):
        assert await desk.work(two(desk), **BOTH) == 0
        desk.later(hours=1)
    assert desk.second.messages == []


async def test_a_switch_survives_the_death_of_who_made_it(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    sender = two(desk)
    desk.provider.script = [Later("system_error")]
    (begun,) = (await sender.begin({"smpp": 1})).begun
    await sender.settle([await sender.hand_over(begun)])
    stored = (await desk.row(begun.message.id)).notification
    assert (stored.status, stored.tried) == (State.PLANNED, ("smpp",))
    assert await desk.work(two(desk), smpp=10) == 0
    desk.later(seconds=1)
    assert await desk.work(two(desk), **BOTH) == 1
    assert len(desk.second.messages) == 1


async def test_one_that_fails_again_and_again_is_left_out(desk: "Desk", accepted: "MakeEvent") -> None:
    desk.provider.script = [Later("system_error")] * 1000
    running = asyncio.create_task(two(desk).run())
    await desk.plan(*(accepted(number) for number in range(400)))
    await desk.second.until(400)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert FAILURES_IN_A_ROW_MAX <= len(desk.provider.messages) <= desk.provider.window
    assert desk.publisher.statuses == ["sent"] * 400


async def test_one_that_asks_for_a_pause_is_none_the_worse_for_it(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(*(accepted(number) for number in range(40)))
    desk.provider.script = [Later("throttled", timedelta(seconds=1)) for _ in range(2 * FAILURES_IN_A_ROW_MAX)]
    sender = two(desk)
    while await desk.work(sender, **BOTH):
        pass
    await desk.plan(*(accepted(number) for number in range(100, 140)))
    before = len(desk.provider.messages)
    await desk.work(sender, **BOTH)
    assert len(desk.provider.messages) - before == 20


async def test_a_running_sender_goes_on_while_one_of_its_providers_is_away(desk: "Desk", accepted: "MakeEvent") -> None:
    desk.provider.connected = False
    running = asyncio.create_task(two(desk).run())
    await desk.plan(*(accepted(number) for number in range(120)))
    await desk.second.until(120)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert desk.provider.messages == []
    assert sorted(desk.publisher.statuses) == ["sent"] * 120


async def test_a_channel_is_ready_as_long_as_one_of_its_providers_can_be_reached(desk: "Desk") -> None:
    desk.provider.connected = False
    await any_of([desk.provider, desk.second])
    desk.second.connected = False
    with pytest.raises(ConnectionError, match="smpp"):
        await any_of([desk.provider, desk.second])


async def test_ids_that_two_providers_gave_to_two_messages_are_not_mixed_up(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted(1), accepted(2))
    desk.provider.script, desk.second.script = [Sent(("42",))], [Sent(("42",))]
    await desk.work(two(desk), smpp=1, smpp2=1)
    (first,), (second,) = desk.provider.messages, desk.second.messages

    def receipt(provider: str, failure: str | None) -> Receipt:
        now = desk.clock.now()
        return Receipt(provider=provider, message_id="42", failure=failure, received_at=now, recipient=MOBILE)

    await desk.receipts.accept([receipt("smpp", None), receipt("smpp2", "expired")])
    await desk.receipts.match()
    assert (await desk.row(first.id)).notification.status is State.DELIVERED
    assert (await desk.row(second.id)).notification.status is State.FAILED


async def test_metrics_say_which_provider_can_be_reached_when_they_are_asked_for(desk: "Desk") -> None:
    desk.sender(desk.provider, desk.second)
    for reached in (False, True):
        desk.second.connected = reached
        (connected,) = desk.metrics.provider_connected.collect()
        said = {sample.labels["provider"]: sample.value for sample in connected.samples}
        assert said == {"smpp": 1, "smpp2": reached}
