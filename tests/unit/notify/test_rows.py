"""Rows stand in stores across releases: what an earlier one wrote is read."""

from datetime import UTC, datetime

from services.notify.domain import Alternative, Notification, Policy, State, Step
from services.notify.receipts import Match, Receipt, Reference
from shared.contract.events import Channel, Language, NotificationStatus, Timeline

AT = datetime(2026, 11, 22, 8, 30, 0, 5, tzinfo=UTC)
NOTIFICATION = (
    '{"id":"n","cause":"c","request_id":"r","reference":"W","agency":"edd","service_code":"s","step":"accepted",'
    '"channel":"sms","language":"ar","template":"t","recipient":"+253","personalisation":{"service":"خدمة"},'
    '"status":"failed","not_before":"2026-11-22T08:30:00.000005Z","reason":"invalid",'
    '"alternative":{"recipient":"a@b.c"},"owes_fallback":true,"announced":["failed"],"outbox":["{}"],'
    '"timeline":{"planned":"2026-11-22T08:30:00.000005Z"}}'
)


def test_a_notification_is_kept_to_the_byte_as_it_always_was() -> None:
    notification = Notification(
        id="n",
        cause="c",
        request_id="r",
        reference="W",
        agency="edd",
        service_code="s",
        step=Step.ACCEPTED,
        channel=Channel.SMS,
        language=Language.ARABIC,
        template="t",
        recipient="+253",
        personalisation={"service": "خدمة"},
        status=State.FAILED,
        not_before=AT,
        policy=Policy.AT_MOST_ONCE,
        reason="invalid",
        alternative=Alternative(recipient="a@b.c"),
        owes_fallback=True,
        announced=(NotificationStatus.FAILED,),
        outbox=("{}",),
        timeline=Timeline(planned=AT),
    )
    assert Notification.from_json(NOTIFICATION) == notification
    assert notification.to_json().decode() == NOTIFICATION


def test_a_receipt_and_what_it_speaks_of_are_read_with_their_defaults_written_out() -> None:
    receipt = '{"provider":"p","message_id":"1","received_at":"2026-11-22T08:30:00.000005Z","match":"pending"}'
    assert Receipt.from_json(receipt) == Receipt(provider="p", message_id="1", received_at=AT, match=Match.PENDING)
    reference = '{"notification":"n","recipient":null,"attempt":1}'
    assert Reference.from_json(reference) == Reference(notification="n", recipient=None, attempt=1)
