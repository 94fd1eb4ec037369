"""The SMTP sink, by the client that notify uses."""

from collections.abc import AsyncIterator
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import pytest

from deploy.local.smtp import RecordingSmtp


@pytest.fixture
async def smtp(tmp_path: Path) -> AsyncIterator[RecordingSmtp]:
    sink = RecordingSmtp(tmp_path)
    try:
        await sink.start()
        yield sink
    finally:
        await sink.stop()


def mail(to: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "guichet@example.dj"
    message["To"] = to
    message["Subject"] = "Votre demande a été reçue"
    message["Message-ID"] = "<n-1@guichet.example>"
    message.set_content("Référence DJ-0001")
    return message


async def test_an_accepted_mail_is_on_record_even_after_a_kill(smtp: RecordingSmtp) -> None:
    message = mail("citizen@example.dj")
    await aiosmtplib.send(message, hostname=smtp.host, port=smtp.port, start_tls=False)
    await smtp.kill()
    [accepted] = smtp.accepted()
    assert accepted["mail_from"] == "guichet@example.dj"
    assert accepted["rcpt"] == ["citizen@example.dj"]
    assert accepted["message_id"] == "<n-1@guichet.example>"
    assert accepted["subject"] == "Votre demande a été reçue"
    raw = accepted["raw"].encode("utf-8", "surrogateescape")
    assert raw == message.as_bytes().replace(b"\n", b"\r\n")
    assert accepted["size"] == len(raw)


async def test_an_unknown_mailbox_is_refused_for_good_and_not_on_record(smtp: RecordingSmtp) -> None:
    with pytest.raises(aiosmtplib.SMTPRecipientsRefused) as refused:
        await aiosmtplib.send(mail("refuse.me@example.dj"), hostname=smtp.host, port=smtp.port, start_tls=False)
    [reason] = refused.value.recipients
    assert reason.code == 550
    assert reason.message.startswith("5.1.1")
    assert smtp.accepted() == []
