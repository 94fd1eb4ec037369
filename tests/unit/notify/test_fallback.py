"""A citizen who can be told by two channels is told by the other one where the first fails."""

from typing import TYPE_CHECKING

import pytest

from services.notify import domain
from services.notify.domain import Notification, State
from services.notify.ledger import ANNOUNCE_LEASE, Held, Ledger
from services.notify.ports import Later, Refused, Unknown
from services.notify.receipts import Receipt
from shared.contract.events import Channel
from shared.ids import notification_id
from tests.unit.notify.conftest import FALLBACK_AFTER, MOBILE, WINDOW

if TYPE_CHECKING:
    from tests.unit.notify.conftest import Desk, MakeEvent

MAIL = "a@example.org"


async def rows(ledger: Ledger) -> list[Notification]:
    return [held.notification async for held in ledger.unfinished()]


async def test_a_number_that_is_refused_is_told_by_mail_instead(desk: "Desk", updated: "MakeEvent") -> None:
    await desk.plan(updated(note="Mme Ali, revenez", email=MAIL))
    desk.provider.script = [Refused("invalid_destination")]
    await desk.work()
    (instead,) = await rows(desk.mail)
    assert instead.timeline.published is not None
    assert instead.id == notification_id("updated-1-resolved", "resolved", "email", instead.timeline.published)
    assert (instead.recipient, instead.fallback_of) == (MAIL, desk.ids[0])
    said = desk.templates.mail(instead).message
    assert "Mme Ali, revenez" in said.text
    assert desk.publisher.statuses == ["failed"]
    assert desk.count(desk.metrics.notifications, "email", "planned") == 1


async def test_a_mail_that_is_refused_is_told_by_sms_without_the_office_s_note(
    desk: "Desk", updated: "MakeEvent"
) -> None:
    await desk.plan(updated(note="Mme Ali, revenez", email=MAIL, channel=Channel.EMAIL))
    (held,) = await desk.mail.take(desk.clock.now(), 10)
    refused = domain.refused(held.notification, desk.clock.now(), reason="smtp_550")
    mail = desk.outcomes(Channel.EMAIL)
    await mail.announce(await mail.save([Held(refused, held.version)], desk.clock.now()))
    (instead,) = await rows(desk.sms)
    assert instead.recipient == MOBILE
    assert "note" not in instead.personalisation
    assert await desk.work() == 1
    assert desk.publisher.outcomes[1].data.fallback_of == held.notification.id


async def test_a_message_that_was_not_delivered_by_its_receipt_is_told_by_mail(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted(email=MAIL))
    await desk.work()
    now = desk.clock.now()
    expired = Receipt(provider="smpp", message_id=f"{desk.ids[0]}-1", failure="expired", received_at=now)
    await desk.receipts.accept([expired])
    await desk.receipts.match()
    (instead,) = await rows(desk.mail)
    assert (instead.timeline.sent, instead.timeline.planned) == (None, now)
    assert desk.publisher.statuses == ["sent", "failed"]


async def test_where_there_is_no_other_channel_a_failure_is_the_end(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted())
    desk.provider.script = [Refused("invalid_destination")]
    await desk.work()
    await desk.rest()
    assert await rows(desk.mail) == await rows(desk.sms) == []


async def test_what_is_unknown_never_falls_back(desk: "Desk", accepted: "MakeEvent", updated: "MakeEvent") -> None:
    await desk.plan(accepted(email=MAIL), updated(email=MAIL))
    desk.provider.script = [Unknown("no_answer")] * 100
    for _ in range(20):
        await desk.work()
        await desk.backlog().look_through()
        desk.later(seconds=WINDOW.total_seconds() / 2)
    assert await rows(desk.mail) == []
    assert desk.publisher.statuses == ["unknown", "unknown"]


async def test_a_fallback_that_fails_in_its_turn_does_not_come_back(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted(email=MAIL))
    desk.provider.script = [Refused("invalid_destination")]
    await desk.work()
    (held,) = await desk.mail.take(desk.clock.now(), 10)
    refused = domain.refused(held.notification, desk.clock.now(), reason="smtp_550")
    mail = desk.outcomes(Channel.EMAIL)
    await mail.announce(await mail.save([Held(refused, held.version)], desk.clock.now()))
    await desk.rest()
    desk.later(days=1)
    await desk.backlog().look_through()
    assert await desk.work() == 0
    assert await rows(desk.mail) == await rows(desk.sms) == []
    assert desk.publisher.statuses == ["failed", "failed"]


async def test_what_can_not_be_sent_for_long_falls_back_though_no_provider_is_there(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    await desk.plan(accepted(1, email=MAIL), accepted(2))
    desk.later(seconds=FALLBACK_AFTER.total_seconds() - 1)
    await desk.backlog().look_through()
    assert await rows(desk.mail) == []
    desk.later(seconds=1)
    await desk.backlog().look_through()
    await desk.rest()
    assert [each.cause for each in await rows(desk.mail)] == ["accepted-1"]
    assert [each.cause for each in await rows(desk.sms)] == ["accepted-2"]  # it can only wait on
    assert desk.publisher.outcomes[0].data.reason == "not_sent_in_time"
    assert desk.count(desk.metrics.notifications, "sms", "failed") == 1


async def test_retries_do_not_keep_a_citizen_from_the_other_channel(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted(email=MAIL))
    desk.provider.script = [Later("system_error")] * 100
    while desk.clock.now() < desk.started + FALLBACK_AFTER:
        await desk.work()
        await desk.backlog().look_through()
        desk.later(seconds=5)
    await desk.backlog().look_through()
    assert len(await rows(desk.mail)) == 1
    desk.later(days=1)
    assert await desk.work() == 0


async def test_one_that_is_being_sent_is_not_given_up_meanwhile(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted(email=MAIL))
    desk.later(seconds=FALLBACK_AFTER.total_seconds())
    sender = desk.sender()
    begun = (await sender.begin({"smpp": 10})).begun
    await desk.backlog().look_through()
    await sender.settle([await sender.hand_over(each) for each in begun])
    assert await rows(desk.mail) == []
    assert desk.publisher.statuses == ["sent"]


@pytest.mark.parametrize("first", ["sender", "backlog"])
async def test_a_crash_before_the_fallback_is_planned_delays_it_and_a_crash_after_plans_it_once(
    desk: "Desk", accepted: "MakeEvent", first: str
) -> None:
    await desk.plan(accepted(email=MAIL))
    (held,) = await desk.sms.take(desk.clock.now(), 10)
    refused = domain.refused(held.notification, desk.clock.now(), reason="x")
    await desk.outcomes(Channel.SMS).save([Held(refused, held.version)], desk.clock.now())  # and dies
    desk.publisher.down = True
    for _ in range(3):  # each plans it and can't tell so
        desk.later(seconds=ANNOUNCE_LEASE.total_seconds())
        await (desk.work() if first == "sender" else desk.backlog().look_through())
        assert len(await rows(desk.mail)) == 1
    desk.publisher.down = False
    desk.later(seconds=ANNOUNCE_LEASE.total_seconds())
    await (desk.work() if first == "sender" else desk.backlog().look_through())
    await desk.rest()
    assert await rows(desk.sms) == []
    assert len(await rows(desk.mail)) == 1
    assert desk.count(desk.metrics.notifications, "email", "planned") == 1
    assert desk.publisher.statuses == ["failed"]


async def test_a_failure_told_by_two_plans_one_fallback(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted(email=MAIL))
    (held,) = await desk.sms.take(desk.clock.now(), 10)
    refused = domain.refused(held.notification, desk.clock.now(), reason="x")
    outcomes = desk.outcomes(Channel.SMS)
    saved = await outcomes.save([Held(refused, held.version)], desk.clock.now())
    await outcomes.announce(saved)
    desk.later(seconds=30)
    await outcomes.announce(saved)
    assert len(await rows(desk.mail)) == 1
    assert desk.publisher.published[0] == desk.publisher.published[1]


def test_an_alternative_is_the_citizen_s_other_contact(desk: "Desk", accepted: "MakeEvent") -> None:
    def alternative(**applicant: object) -> str | None:
        planned = domain.plan(
            accepted(**applicant),
            jurisdiction=desk.jurisdiction,
            versions=desk.templates.versions,
            policies=desk.templates.policies,
            now=desk.clock.now(),
        )
        assert planned is not None
        assert planned.status in (State.PLANNED, State.UNREACHABLE)
        return planned.alternative.recipient if planned.alternative else None

    assert alternative(email=MAIL) == MAIL
    assert alternative(email=MAIL, channel=Channel.EMAIL) == MOBILE
    assert alternative() is None
    assert alternative(phone="+25321350000", email=MAIL) is None  # a fixed line gets no SMS
    assert alternative(phone=None) is None
