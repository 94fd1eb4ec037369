"""The SMTP sink, by the client that notify uses."""

from collections.abc import AsyncIterator
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import pytest

from deploy.local.smtp import RecordingSmtp, SmtpFaults


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


async def send(smtp: RecordingSmtp, *, timeout_seconds: float = 10.0) -> str:
    """What the sink answers to a mail."""
    client = aiosmtplib.SMTP(hostname=smtp.host, port=smtp.port, start_tls=False, timeout=timeout_seconds)
    async with client:
        _, answer = await client.send_message(mail("citizen@example.dj"))
    return answer


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        pytest.param(SmtpFaults(defer_share=1), 451, id="not now"),
        pytest.param(SmtpFaults(refuse_share=1), 554, id="policy"),
    ],
)
async def test_a_mail_that_is_refused_as_scripted_is_not_on_record(
    smtp: RecordingSmtp, faults: SmtpFaults, code: int
) -> None:
    smtp.set_faults(faults)
    with pytest.raises(aiosmtplib.SMTPDataError) as refused:
        await send(smtp)
    assert refused.value.code == code
    assert smtp.accepted() == []
    smtp.clear_faults()
    assert "Taken" in await send(smtp)
    assert len(smtp.accepted()) == 1


async def test_a_mailbox_that_is_refused_as_scripted_is_refused_before_the_mail(smtp: RecordingSmtp) -> None:
    smtp.set_faults(SmtpFaults(mailbox_share=1))
    with pytest.raises(aiosmtplib.SMTPRecipientsRefused) as refused:
        await send(smtp)
    assert [reason.code for reason in refused.value.recipients] == [550]
    assert smtp.accepted() == []


@pytest.mark.parametrize(
    ("faults", "taken"),
    [
        pytest.param(SmtpFaults(cut_before_share=1), 0, id="before the mail is taken"),
        pytest.param(SmtpFaults(cut_share=1), 1, id="after the mail is taken"),
        pytest.param(SmtpFaults(no_line_end_share=1), 1, id="within the answer"),
    ],
)
async def test_a_connection_that_is_cut_leaves_the_sender_without_an_answer(
    smtp: RecordingSmtp, faults: SmtpFaults, taken: int
) -> None:
    smtp.set_faults(faults)
    with pytest.raises(aiosmtplib.SMTPServerDisconnected):
        await send(smtp)
    assert len(smtp.accepted()) == taken
    assert "Traceback" not in smtp.process.log_path.read_text()
    smtp.clear_faults()
    await send(smtp)
    assert len(smtp.accepted()) == taken + 1


async def test_an_answer_of_too_many_lines_is_given_to_a_mail_that_was_taken(smtp: RecordingSmtp) -> None:
    smtp.set_faults(SmtpFaults(many_lines_share=1))
    with pytest.raises(aiosmtplib.SMTPResponseException, match="too long"):
        await send(smtp)
    assert len(smtp.accepted()) == 1


async def test_a_code_that_does_not_exist_is_answered_to_a_mail_that_was_taken(smtp: RecordingSmtp) -> None:
    smtp.set_faults(SmtpFaults(bad_code_share=1))
    with pytest.raises(aiosmtplib.SMTPException) as odd:
        await send(smtp)
    assert "999" in repr(odd.value)
    assert len(smtp.accepted()) == 1


async def test_an_answer_waits_as_long_as_scripted_and_the_mail_is_on_record_before(smtp: RecordingSmtp) -> None:
    smtp.set_faults(SmtpFaults(answer_delay_ms=60_000))
    with pytest.raises(aiosmtplib.SMTPTimeoutError):
        await send(smtp, timeout_seconds=0.5)
    assert len(smtp.accepted()) == 1
