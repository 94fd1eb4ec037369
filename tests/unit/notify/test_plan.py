from datetime import date
from functools import partial
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from services.notify import domain
from services.notify.domain import State, Step, format_date, takes_sms
from shared.contract.events import Channel, Language, NotificationOutcome

if TYPE_CHECKING:
    from tests.unit.notify.conftest import Desk, MakeEvent

MOBILE, FIXED, MAIL = "+25377112233", "+25321350000", "a@example.org"


@pytest.mark.parametrize(
    ("applicant", "channel"),
    [
        ({"phone": MOBILE}, Channel.SMS),
        ({"phone": MOBILE, "email": MAIL}, Channel.SMS),
        ({"phone": MOBILE, "email": MAIL, "channel": Channel.EMAIL}, Channel.EMAIL),
        ({"phone": MOBILE, "channel": Channel.EMAIL}, Channel.SMS),
        ({"phone": FIXED, "email": MAIL, "channel": Channel.SMS}, Channel.EMAIL),
        ({"phone": None, "email": MAIL}, Channel.EMAIL),
        ({"phone": FIXED}, None),
        ({"phone": None}, None),
    ],
)
def test_the_channel_is_the_wish_if_it_can_be_met_else_sms_else_mail(
    desk: "Desk", accepted: "MakeEvent", applicant: dict[str, object], channel: Channel | None
) -> None:
    notification = domain.plan(
        accepted(**applicant),
        jurisdiction=desk.jurisdiction,
        versions=desk.templates.versions,
        policies=desk.templates.policies,
        now=desk.clock.now(),
    )
    assert notification is not None
    assert notification.channel is channel
    assert notification.status is (State.PLANNED if channel else State.UNREACHABLE)


@pytest.mark.parametrize(
    ("phone", "mobile"),
    [
        ("+25377112233", True),
        ("+25321350000", False),
        ("+25327350000", False),
        ("+33612345678", True),
        ("+33142345678", False),
        ("+13145550123", True),  # North America does not tell them apart
        ("not a number", False),
    ],
)
def test_a_fixed_line_never_gets_an_sms(phone: str, mobile: bool) -> None:
    assert takes_sms(phone, "DJ", ("77",)) is mobile


def test_without_prefixes_the_numbering_plan_decides() -> None:
    assert takes_sms("+25377112233", "DJ", ())
    assert not takes_sms("+25321350000", "DJ", ())


@pytest.mark.parametrize(
    ("applicant", "agency", "language"),
    [
        ({"language": Language.ARABIC}, "port", Language.ARABIC),
        ({}, "port", Language.ENGLISH),
        ({}, "mairie", Language.FRENCH),
        ({}, "unheard-of", Language.FRENCH),
    ],
)
def test_the_language_is_the_citizens_else_the_agencys_else_the_jurisdictions(
    desk: "Desk", accepted: "MakeEvent", applicant: dict[str, object], agency: str, language: Language
) -> None:
    event = accepted(**applicant)
    of_agency = replace(event.data.request, agency=agency)
    event = replace(event, data=replace(event.data, request=of_agency))
    notification = domain.plan(
        event,
        jurisdiction=desk.jurisdiction,
        versions=desk.templates.versions,
        policies=desk.templates.policies,
        now=desk.clock.now(),
    )
    assert notification is not None
    assert notification.language is language


@pytest.mark.parametrize("status", ["in_progress", "waiting_for_citizen", "resolved", "cancelled"])
def test_every_real_change_is_told(desk: "Desk", updated: "MakeEvent", status: str) -> None:
    notification = domain.plan(
        updated(status=status),
        jurisdiction=desk.jurisdiction,
        versions=desk.templates.versions,
        policies=desk.templates.policies,
        now=desk.clock.now(),
    )
    assert notification is not None
    assert notification.step is Step(status)


def test_nothing_is_told_of_a_request_that_is_merely_received(desk: "Desk", updated: "MakeEvent") -> None:
    event = updated(status="received")
    assert (
        domain.plan(
            event,
            jurisdiction=desk.jurisdiction,
            versions=desk.templates.versions,
            policies=desk.templates.policies,
            now=desk.clock.now(),
        )
        is None
    )


@pytest.mark.parametrize("language", Language)
def test_a_citizen_is_never_told_the_code_of_a_service_that_the_catalogue_does_not_have(
    desk: "Desk", accepted: "MakeEvent", language: Language
) -> None:
    event = accepted(language=language)
    request = replace(event.data.request, service_code="XK-71_b")
    event = replace(event, data=replace(event.data, request=request))
    notification = domain.plan(
        event,
        jurisdiction=desk.jurisdiction,
        versions=desk.templates.versions,
        policies=desk.templates.policies,
        now=desk.clock.now(),
    )
    assert notification is not None
    text = "".join(desk.templates.short_message(notification).message.text.parts)
    assert "XK-71_b" not in text
    assert "()" not in text


def test_the_note_of_an_office_goes_by_mail_and_never_by_sms(desk: "Desk", updated: "MakeEvent") -> None:
    plan = partial(
        domain.plan,
        jurisdiction=desk.jurisdiction,
        versions=desk.templates.versions,
        policies=desk.templates.policies,
        now=desk.clock.now(),
    )
    by_sms = plan(updated(note="Mme Ali, revenez"))
    by_mail = plan(updated(note="Mme Ali, revenez", phone=None, email=MAIL))
    assert by_sms is not None
    assert by_mail is not None
    assert "note" not in by_sms.personalisation
    assert by_mail.personalisation["note"] == "Mme Ali, revenez"


@pytest.mark.parametrize("language", Language)
def test_dates_are_in_latin_digits(language: Language) -> None:
    written = format_date(date(2026, 12, 14), language)
    assert "14" in written
    assert "2026" in written
    assert written.isascii()


async def test_a_redelivered_event_plans_nothing_twice(
    desk: "Desk", accepted: "MakeEvent", assigned: "MakeEvent"
) -> None:
    assert await desk.plan(accepted(), assigned(), accepted()) == []
    assert await desk.plan(assigned(), accepted()) == []
    assert await desk.work() == 2
    assert await desk.plan(assigned(), accepted()) == []
    assert await desk.work() == 0
    assert len(desk.provider.messages) == 2
    assert desk.count(desk.metrics.notifications, "sms", "planned") == 2


async def test_that_nobody_can_be_told_is_published_and_redelivered_to_the_byte(
    desk: "Desk", accepted: "MakeEvent"
) -> None:
    first = await desk.plan(accepted(phone=FIXED))
    desk.later(hours=1)
    again = await desk.plan(accepted(phone=FIXED))
    assert again == first
    outcome = NotificationOutcome.from_json(first[0].value)
    assert (outcome.data.status, outcome.data.reason) == ("unreachable", "not_a_mobile_phone")
    assert first[0].key == "request-1"


async def test_outcomes_hold_no_contact(desk: "Desk", accepted: "MakeEvent") -> None:
    await desk.plan(accepted(name="Mme Ali"))
    await desk.work()
    (publication,) = desk.publisher.published
    assert MOBILE.encode() not in publication.value
    assert b"Ali" not in publication.value
