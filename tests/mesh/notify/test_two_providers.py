"""Two providers of a channel and two channels of a citizen, on real parts."""

import asyncio
from collections import Counter as Tally
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from deploy.local.ports import free_port
from deploy.local.smsc import RecordingSmsc
from deploy.local.smtp import RecordingSmtp
from services.notify.ledger import Ledger
from shared.contract.events import RequestAccepted, RequestUpdated, RequestUpdatedData, Status, Timeline
from tests.mesh.notify.test_smpp import RudeSmsc

if TYPE_CHECKING:
    from tests.mesh.notify.conftest import Counter, MakeAccepted

INVALID_SOURCE, SYSTEM_ERROR = 0x0A, 0x08
REFUSED = 20000
"""The number of a citizen whose phone our SMSC refuses."""


def resolved(request: RequestAccepted) -> RequestUpdated:
    data = RequestUpdatedData(
        request=request.data.request,
        status=Status.RESOLVED,
        previous_status=Status.RECEIVED,
        sequence=1,
        occurred_at=request.data.request.submitted_at,
        timeline=Timeline(),
    )
    return RequestUpdated(id=f"{request.id}-resolved", source="/test", data=data)


def destinations(*smscs: RecordingSmsc) -> Tally[str]:
    """How often each phone was told, by the logs of these SMSCs."""
    return Tally(entry["destination"] for smsc in smscs for entry in smsc.accepted())


def once_each(numbers: range) -> Tally[str]:
    return Tally(f"25377{number:06d}" for number in numbers)


async def statuses(ledger: Ledger) -> list[str]:
    return [held.notification.status async for held in ledger.unfinished()]


async def test_both_take_their_share_and_every_message_arrives_once(
    counter: "Counter", smsc: RecordingSmsc, second_smsc: RecordingSmsc, accepted: "MakeAccepted"
) -> None:
    counter.run_sms(
        counter.smpp(smsc.port, smsc.system_id, smsc.password),
        counter.smpp(second_smsc.port, smsc.system_id, smsc.password, name="smpp2"),
    )
    await counter.plan(*(accepted(number) for number in range(1, 301)))
    await counter.publisher.until("delivered", 300)
    assert destinations(smsc, second_smsc) == once_each(range(1, 301))
    assert min(len(smsc.accepted()), len(second_smsc.accepted())) > 50
    assert {each.data.provider for each in counter.publisher.outcomes} == {"smpp", "smpp2"}


async def test_while_one_is_dead_everything_arrives_once_through_the_other(
    counter: "Counter", smsc: RecordingSmsc, accepted: "MakeAccepted"
) -> None:
    counter.run_sms(
        counter.smpp(free_port(), "x", "x"),
        counter.smpp(smsc.port, smsc.system_id, smsc.password, name="smpp2"),
    )
    await counter.plan(*(accepted(number) for number in range(1, 201)))
    await counter.publisher.until("delivered", 200)
    assert destinations(smsc) == once_each(range(1, 201))


@pytest.mark.parametrize("status", [INVALID_SOURCE, SYSTEM_ERROR])
async def test_what_one_says_no_to_arrives_once_through_the_other(
    counter: "Counter", smsc: RecordingSmsc, accepted: "MakeAccepted", status: int
) -> None:
    async with RudeSmsc(*[status] * 10_000) as rude:
        counter.run_sms(
            counter.smpp(rude.port, "x", "x", window=10),
            counter.smpp(smsc.port, smsc.system_id, smsc.password, name="smpp2"),
        )
        await counter.plan(*(accepted(number) for number in range(1, 201)))
        await counter.publisher.until("delivered", 200)
        assert destinations(smsc) == once_each(range(1, 201))
        assert 0 < rude.submitted < 30  # and then it is left out


async def test_what_hangs_at_one_is_not_given_to_the_other(
    counter: "Counter", smsc: RecordingSmsc, accepted: "MakeAccepted"
) -> None:
    async with RudeSmsc(*["silence"] * 10_000) as rude:
        counter.run_sms(
            counter.smpp(rude.port, "x", "x", window=10, answer_seconds=0.3),
            counter.smpp(smsc.port, smsc.system_id, smsc.password, name="smpp2"),
        )
        await counter.plan(*(accepted(number) for number in range(1, 101)))
        await counter.publisher.until_told(100)
        await counter.publisher.until("delivered", 100 - rude.submitted)
        assert len(counter.publisher.ids("unknown")) == rude.submitted == 100 - len(smsc.accepted())
        assert max(destinations(smsc).values()) == 1
        assert not {*counter.publisher.ids("unknown")} & {*counter.publisher.ids("sent")}


async def test_one_that_dies_amid_the_work_leaves_nothing_behind_and_nothing_doubled(
    counter: "Counter", smsc: RecordingSmsc, second_smsc: RecordingSmsc, accepted: "MakeAccepted"
) -> None:
    counter.run_sms(
        counter.smpp(smsc.port, smsc.system_id, smsc.password),
        counter.smpp(second_smsc.port, smsc.system_id, smsc.password, name="smpp2"),
        per_second=400.0,
    )
    await counter.plan(*(accepted(number) for number in range(1, 401)))
    await counter.publisher.until("sent", 50)
    await smsc.kill()
    await counter.publisher.until_told(400)
    assert max(destinations(smsc, second_smsc).values()) == 1
    assert counter.publisher.ids("failed") == []
    assert not {*counter.publisher.ids("unknown")} & {*counter.publisher.ids("sent")}


async def test_a_message_that_must_be_told_is_sent_again_once_its_window_has_ended(
    counter: "Counter", accepted: "MakeAccepted"
) -> None:
    async with RudeSmsc("silence") as rude:
        counter.run_sms(counter.smpp(rude.port, "x", "x", answer_seconds=0.3))
        await counter.plan(resolved(accepted(1)))
        await counter.publisher.until("unknown", 1)
        assert rude.submitted == 1
        await counter.publisher.until("sent", 1)
        assert rude.submitted == 2
        (again,) = [each for each in counter.publisher.outcomes if each.data.status.value == "sent"]
        assert again.data.attempts == 2


async def test_a_citizen_whose_number_is_refused_gets_a_mail(
    counter: "Counter", smsc: RecordingSmsc, smtp: RecordingSmtp, accepted: "MakeAccepted"
) -> None:
    counter.run_sms(counter.smpp(smsc.port, smsc.system_id, smsc.password))
    counter.run_mail(counter.smtp(smtp.port))
    await counter.plan(accepted(REFUSED, email="a@example.org"), accepted(1, email="b@example.org"))
    await counter.publisher.until("sent", 2)
    (entry,) = smtp.accepted()
    assert entry["rcpt"] == ["a@example.org"]
    (instead,) = {each.data.notification_id for each in counter.publisher.outcomes if each.data.fallback_of}
    assert entry["message_id"] == f"<{instead}@example.org>"
    await counter.stop()
    assert await statuses(counter.mail) == await statuses(counter.sms) == []


async def test_while_every_smsc_is_away_citizens_get_a_mail(
    counter: "Counter", smtp: RecordingSmtp, accepted: "MakeAccepted"
) -> None:
    counter.run_sms(counter.smpp(free_port(), "x", "x"), counter.smpp(free_port(), "x", "x", name="smpp2"))
    counter.run_mail(counter.smtp(smtp.port))
    await counter.plan(*(accepted(number, email=f"c{number}@example.org") for number in range(1, 21)), accepted(21))
    await asyncio.gather(*(counter.backlog(fallback_after=timedelta(0)).look_through() for _ in range(3)))
    await counter.publisher.until("sent", 20)
    assert Tally(entry["rcpt"][0] for entry in smtp.accepted()) == Tally(f"c{n}@example.org" for n in range(1, 21))
    await counter.stop()
    assert await statuses(counter.sms) == ["planned"]  # who has no mail address waits on


async def test_a_mail_server_that_says_no_to_us_is_passed_over_for_the_other(
    counter: "Counter", smtp: RecordingSmtp, accepted: "MakeAccepted"
) -> None:
    counter.run_mail(counter.smtp(free_port()), counter.smtp(smtp.port, name="smtp2"))
    await counter.plan(*(accepted(n, phone="", email=f"c{n}@example.org") for n in range(1, 31)))
    await counter.publisher.until("sent", 30)
    assert Tally(entry["rcpt"][0] for entry in smtp.accepted()) == Tally(f"c{n}@example.org" for n in range(1, 31))
