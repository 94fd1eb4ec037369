import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import pytest

from services.notify.domain import State
from services.notify.ledger import ANNOUNCE_LEASE, SENDING_LEASE
from services.notify.ports import Later, Refused, Unknown
from shared.contract.events import Language
from tests.unit.notify.conftest import ScriptedProvider

if TYPE_CHECKING:
    from tests.unit.notify.conftest import Desk, MakeEvent


async def test_what_is_planned_is_sent_and_told_once(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    await desk.work()
    await desk.work()
    assert desk.publisher.statuses == ["sent"]
    (outcome,) = desk.publisher.outcomes
    assert outcome.data.timeline.sent == desk.clock.now()
    assert outcome.causationid == "accepted-1"
    notification = await desk.notification()
    assert (notification.status, notification.attempts, notification.outbox) == (State.SENT, 1, ())


async def test_a_row_says_sending_durably_before_the_provider_hears_of_it(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    (begun,) = (await desk.sender().begin({"smpp": 10})).begun
    assert desk.provider.messages == []
    stored = await desk.row(begun.message.id)
    assert (stored.notification.status, stored.notification.segments) == (State.SENDING, 1)


async def test_a_sender_that_died_after_marking_leaves_an_unknown_and_no_second_send(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted())
    sender = desk.sender()
    (begun,) = (await sender.begin({"smpp": 10})).begun
    await sender.hand_over(begun)  # and dies before it has saved the answer
    desk.later(seconds=SENDING_LEASE.total_seconds() - 1)
    assert await desk.work() == 0
    assert desk.publisher.statuses == []
    desk.later(seconds=1)
    assert await desk.work() == 0
    assert len(desk.provider.messages) == 1
    assert desk.publisher.statuses == ["unknown"]
    assert desk.count(desk.metrics.notifications, "sms", "unknown") == 1
    desk.later(days=2)
    assert await desk.work() == 0


async def test_a_late_answer_does_not_overwrite_what_was_decided_meanwhile(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    slow = desk.sender()
    (begun,) = (await slow.begin({"smpp": 10})).begun
    desk.later(seconds=SENDING_LEASE.total_seconds())
    await desk.work()
    await slow.settle([await slow.hand_over(begun)])
    assert (await desk.notification()).status is State.UNKNOWN
    assert desk.publisher.statuses == ["unknown"]


async def test_a_crash_between_saving_and_telling_tells_once_more_to_the_byte(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted())
    desk.publisher.down = True
    await desk.work()
    assert (await desk.notification()).status is State.SENT
    desk.publisher.down = False
    for _ in range(3):
        desk.later(seconds=ANNOUNCE_LEASE.total_seconds())
        assert await desk.work() == 0
    assert desk.publisher.statuses == ["sent"]


async def test_an_outcome_published_twice_is_the_same_to_the_byte(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    sender = desk.sender()
    answered = [await sender.hand_over(each) for each in (await sender.begin({"smpp": 10})).begun]
    desk.publisher.down = True
    await sender.settle(answered)
    desk.publisher.down = False
    desk.later(seconds=ANNOUNCE_LEASE.total_seconds())
    dying = await desk.sms.take(desk.clock.now(), 10)  # published by one that dies before it is saved
    first = [event.encode() for held in dying for event in held.notification.outbox]
    desk.later(minutes=5)
    await desk.work()
    assert [each.value for each in desk.publisher.published] == first
    assert len(desk.provider.messages) == 1


async def test_a_refusal_for_good_is_final_at_once(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    desk.provider.script = [Refused("invalid_destination")]
    await desk.work()
    desk.later(days=2)
    assert await desk.work() == 0
    assert desk.publisher.statuses == ["failed"]
    assert desk.publisher.outcomes[0].data.reason == "invalid_destination"


async def test_what_can_be_sent_later_is_sent_later_and_told_once(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    desk.provider.script = [Later("throttled", timedelta(seconds=1)), Later("system_error")]
    await desk.work()
    assert await desk.work() == 0
    desk.later(seconds=1)
    assert await desk.work() == 1
    desk.later(seconds=4)
    assert await desk.work() == 0
    desk.later(seconds=2)
    assert await desk.work() == 1
    assert desk.publisher.statuses == ["sent"]
    assert (await desk.notification()).attempts == 3


async def test_retries_end_as_failed(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    desk.provider.script = [Later("not_connected")] * 100
    for _ in range(40):
        await desk.work()
        desk.later(hours=1.5)
    assert desk.publisher.statuses == ["failed"]
    assert desk.publisher.outcomes[0].data.reason == "retries_exhausted"


async def test_only_the_parts_not_yet_accepted_are_sent_again(desk: "Desk", updated: "MakeEvent") -> None:
    await desk.plan(updated(status="waiting_for_citizen", language=Language.ARABIC))
    desk.provider.script = [Later("throttled", timedelta(seconds=1), ("id-1",))]
    await desk.work()
    desk.later(seconds=1)
    await desk.work()
    first, second = desk.provider.messages
    assert len(first.text.parts) == 2
    assert (first.accepted, second.accepted) == ((), ("id-1",))
    assert second.text == first.text


@pytest.mark.parametrize("answer", [Unknown("connection_lost"), RuntimeError("a bug in an adapter")])
async def test_an_answer_that_never_came_is_unknown_and_not_sent_again(
    desk: "Desk", accepted: "MakeEvent", answer: Unknown | RuntimeError
) -> None:
    await desk.plan(accepted())
    desk.provider.script = [answer]
    await desk.work()
    desk.later(days=1)
    assert await desk.work() == 0
    assert desk.publisher.statuses == ["unknown"]


async def test_a_message_of_which_a_part_was_accepted_before_can_end_unknown(
    desk: "Desk", updated: "MakeEvent"
) -> None:
    await desk.plan(updated(status="waiting_for_citizen", language=Language.ARABIC))
    desk.provider.script = [Later("throttled", timedelta(seconds=1), ("id-1",)), Unknown("no_answer")]
    await desk.work()
    desk.later(seconds=1)
    await desk.work()
    assert desk.publisher.statuses == ["unknown"]
    assert (await desk.notification()).provider_references == ("id-1",)


async def test_two_senders_never_hand_over_the_same_message(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(*(accepted(number) for number in range(60)))
    senders = [desk.sender() for _ in range(3)]
    await asyncio.gather(*(desk.work(sender) for sender in senders for _ in range(2)))
    assert len(desk.provider.messages) == len(desk.ids) == 60
    assert desk.publisher.statuses == ["sent"] * 60


async def test_a_running_sender_is_woken_by_what_is_planned_and_saves_all_before_it_ends(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    sender = desk.sender()
    running = asyncio.create_task(sender.run())
    await desk.plan(*(accepted(number) for number in range(120)))
    await desk.provider.until(120)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    assert len(desk.ids) == 120
    assert sorted(desk.publisher.statuses) == ["sent"] * 120


async def test_messages_go_on_being_sent_while_the_mesh_can_t_be_told_of_them_and_it_is_told_in_the_end(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    desk.publisher.answers.clear()
    running = asyncio.create_task(desk.sender().run())
    await desk.plan(*(accepted(number) for number in range(300)))
    await desk.provider.until(300)
    desk.publisher.answers.set()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert desk.publisher.statuses == ["sent"] * 300


async def test_the_backlog_is_what_is_not_yet_sent(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted(1), accepted(2))
    desk.later(seconds=30)
    await desk.backlog().look_through()
    assert desk.gauge(desk.metrics.waiting) == 2
    assert desk.gauge(desk.metrics.oldest_unsent_seconds) == 30
    await desk.work()
    await desk.backlog().look_through()
    assert desk.gauge(desk.metrics.waiting) == desk.gauge(desk.metrics.oldest_unsent_seconds) == 0


class ComesBackWhenWaitedFor(ScriptedProvider):
    """Is gone right after each of the first times it was there, and back once somebody waits for it."""

    window = 4

    waited_for = 0

    async def available(self) -> None:
        if self.waited_for < 5:
            asyncio.get_running_loop().call_soon(setattr, self, "connected", False)
        self.waited_for += 1
        self.connected = True


async def test_a_provider_that_goes_away_while_it_has_room_is_waited_for(desk: "Desk", accepted: "MakeEvent") -> None:
    provider = ComesBackWhenWaitedFor()
    running = asyncio.create_task(desk.sender(provider).run())
    await desk.plan(*(accepted(number) for number in range(10)))
    await provider.until(10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class ListenedTo(asyncio.Event):
    """A bell that says when somebody listens."""

    def __init__(self) -> None:
        super().__init__()
        self.listening = asyncio.Event()

    async def wait(self) -> Literal[True]:
        self.listening.set()
        return await super().wait()


@pytest.mark.parametrize("ticks", range(6))
async def test_a_sender_ends_when_it_is_told_to_though_its_bell_rings_just_then(desk: "Desk", ticks: int) -> None:
    bell = desk.sms.bell = ListenedTo()
    running = asyncio.create_task(desk.sender().run())
    await bell.listening.wait()
    bell.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=5)
    assert done
