"""Against mail servers: one that writes down what it takes, and one that behaves badly."""

import asyncio
from email import message_from_string
from email.message import EmailMessage
from email.policy import default
from typing import TYPE_CHECKING

import pytest

from deploy.local.ports import free_port
from deploy.local.smtp import RecordingSmtp
from services.notify.ports import Answer, Declined, Later, Mail, Refused, Sent, Unknown
from services.notify.providers.smtp import BUSY_PAUSE
from shared.contract.events import Language

if TYPE_CHECKING:
    from tests.mesh.notify.conftest import Counter, MakeAccepted


def mail(**changes: str) -> Mail:
    fields = {"id": "n-1", "recipient": "a@example.org", "subject": "Sujet", "text": "texte\n", "html": "<p>texte</p>"}
    return Mail(language=Language.FRENCH, **(fields | changes))


async def test_every_mail_arrives_once_over_a_few_connections(
    counter: "Counter", smtp: RecordingSmtp, accepted: "MakeAccepted"
) -> None:
    counter.run_mail(counter.smtp(smtp.port))
    await counter.plan(*(accepted(n, phone="", email=f"citizen-{n}@example.org") for n in range(1, 61)))
    await counter.publisher.until("sent", 60)
    taken = smtp.accepted()
    assert sorted(entry["rcpt"][0] for entry in taken) == sorted(f"citizen-{n}@example.org" for n in range(1, 61))
    assert {entry["message_id"] for entry in taken} == {f"<{key}@example.org>" for key in counter.publisher.ids("sent")}


@pytest.mark.parametrize("language", Language)
async def test_a_mail_says_the_same_in_text_and_html_in_the_citizens_language(
    counter: "Counter", smtp: RecordingSmtp, accepted: "MakeAccepted", language: Language
) -> None:
    counter.run_mail(counter.smtp(smtp.port))
    await counter.plan(accepted(7, phone="", email="a@example.org", language=language))
    await counter.publisher.until("sent", 1)
    (entry,) = smtp.accepted()
    message = message_from_string(entry["raw"], policy=default)
    assert isinstance(message, EmailMessage)
    assert message["Content-Language"] == language.value
    assert message["Auto-Submitted"] == "auto-generated"
    assert "7K3M-9XQ2-0007" in message["Subject"]
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert "7K3M-9XQ2-0007" in text.get_content()
    assert "7K3M-9XQ2-0007" in html.get_content()
    direction = "rtl" if language is Language.ARABIC else "ltr"
    assert f'<html lang="{language.value}" dir="{direction}">' in html.get_content()


async def test_a_mailbox_that_is_not_there_is_final(
    counter: "Counter", smtp: RecordingSmtp, accepted: "MakeAccepted"
) -> None:
    counter.run_mail(counter.smtp(smtp.port))
    await counter.plan(accepted(1, phone="", email="refused@example.org"))
    await counter.publisher.until("failed", 1)
    (outcome,) = counter.publisher.outcomes
    assert (outcome.data.reason, outcome.data.attempts) == ("smtp_550", 1)


async def test_a_server_that_goes_away_amid_the_work_is_found_again(
    counter: "Counter", smtp: RecordingSmtp, accepted: "MakeAccepted"
) -> None:
    counter.run_mail(counter.smtp(smtp.port))
    await counter.plan(*(accepted(n, phone="", email=f"c{n}@example.org") for n in range(1, 101)))
    await counter.publisher.until("sent", 10)
    await smtp.kill()
    await smtp.start()
    await counter.publisher.until_told(100, within_seconds=40)
    assert counter.publisher.ids("failed") == []


async def test_mails_planned_while_the_server_was_down_are_sent_once_it_is_back(
    counter: "Counter", smtp: RecordingSmtp, accepted: "MakeAccepted"
) -> None:
    await smtp.kill()
    counter.run_mail(counter.smtp(smtp.port))
    await counter.plan(*(accepted(n, phone="", email=f"c{n}@example.org") for n in range(1, 11)))
    await smtp.start()
    await counter.publisher.until("sent", 10)
    assert len(smtp.accepted()) == 10


async def test_a_connection_that_the_server_closed_while_it_was_idle_costs_no_mail(
    counter: "Counter", smtp: RecordingSmtp
) -> None:
    provider = counter.smtp(smtp.port)
    assert await provider.send(mail()) == Sent()
    await smtp.stop()
    await smtp.start()
    assert await provider.send(mail()) == Sent()
    await provider.stop()
    assert len(smtp.accepted()) == 2


@pytest.mark.parametrize("name", ["subject", "recipient"])
@pytest.mark.parametrize("break_", ["\r\n", "\n", "\r"])
async def test_no_header_can_be_broken_out_of(counter: "Counter", smtp: RecordingSmtp, name: str, break_: str) -> None:
    provider = counter.smtp(smtp.port)
    hostile = mail(**{name: f"a@example.org{break_}Bcc: b@example.org"})
    assert await provider.send(hostile) == Refused("unsendable")
    assert smtp.accepted() == []
    await provider.stop()


@pytest.mark.parametrize("text", ["a\r\n.\r\nMAIL FROM:<x@example.org>\r\n", "a\n.\nb", ".", "x" * 5000])
async def test_no_text_ends_its_mail_early(counter: "Counter", smtp: RecordingSmtp, text: str) -> None:
    provider = counter.smtp(smtp.port)
    assert await provider.send(mail(text=text)) == Sent()
    await provider.stop()
    (entry,) = smtp.accepted()
    message = message_from_string(entry["raw"], policy=default)
    assert isinstance(message, EmailMessage)
    body = message.get_body(("plain",))
    assert body is not None
    assert body.get_content().splitlines() == text.splitlines()
    assert max(map(len, entry["raw"].splitlines())) <= 998


async def test_an_address_beyond_ascii_which_intake_lets_nobody_have_is_refused_for_good(
    counter: "Counter", smtp: RecordingSmtp
) -> None:
    provider = counter.smtp(smtp.port)
    assert await provider.send(mail(recipient="élodie@example.org")) == Refused("unsendable")
    await provider.stop()
    assert smtp.accepted() == []


class RudeServer:
    """Speaks SMTP up to a command, then answers it as it is told, or hangs up."""

    def __init__(self, at: str, answer: str, *, greeting: str = "250 rude") -> None:
        self.port = free_port()
        self._at = at
        self._answer = answer
        self._greeting = greeting

    async def __aenter__(self) -> "RudeServer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 rude\r\n")
        in_data = False
        while line := await reader.readline():
            command = "." if in_data and line == b".\r\n" else "" if in_data else line[:4].decode().upper()
            if not command:
                continue
            in_data = command == "DATA"
            if command == self._at:
                if not self._answer:
                    break
                writer.write(f"{self._answer}\r\n".encode())
                in_data = False
            elif command == "EHLO":
                writer.write(f"{self._greeting}\r\n".encode())
            else:
                writer.write(b"354 go on\r\n" if in_data else b"250 ok\r\n")
        writer.close()


ONE_BY_ONE, TOGETHER = "250 rude", "250-rude\r\n250 PIPELINING"


@pytest.mark.parametrize("greeting", [ONE_BY_ONE, TOGETHER])
@pytest.mark.parametrize(
    ("at", "said", "answer"),
    [
        ("MAIL", "", Later("connection_lost")),
        ("RCPT", "", Later("connection_lost")),
        ("DATA", "", Later("connection_lost")),
        (".", "", Unknown("connection_lost")),
        ("MAIL", "451 later", Later("smtp_451")),
        ("RCPT", "452 full", Later("smtp_452")),
        ("RCPT", "550 no", Refused("smtp_550")),
        ("DATA", "451 later", Later("smtp_451")),
        ("RCPT", "550 5.7.1 relaying denied", Declined("smtp_550")),
        ("MAIL", "530 5.7.0 authentication required", Declined("smtp_530")),
        ("MAIL", "550 5.1.8 bad sender", Declined("smtp_550")),
        ("RCPT", "554 no service", Declined("smtp_554")),
        (".", "554 spam", Declined("smtp_554")),
        (".", "552 5.2.2 mailbox full", Refused("smtp_552")),
        (".", "421 bye", Later("smtp_421")),
    ],
)
async def test_what_the_server_did_to_a_mail_is_told_apart(
    counter: "Counter", at: str, said: str, answer: Answer, greeting: str
) -> None:
    async with RudeServer(at, said, greeting=greeting) as server:
        provider = counter.smtp(server.port)
        assert await provider.send(mail()) == answer
        await provider.stop()


class TakesCommandsTogether:
    """Answers the commands of a mail as it is told, once it has read all three. It writes down what it heard."""

    def __init__(self, *said: str) -> None:
        self.port = free_port()
        self.connections = 0
        self.heard: list[str] = []
        self._said = said

    async def __aenter__(self) -> "TakesCommandsTogether":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            self.heard.append(line.decode().strip())
            if self.heard[-1].startswith("EHLO"):
                writer.write(b"250-here\r\n250 PIPELINING\r\n")
            elif self.heard[-1] == "DATA":
                writer.write("".join(f"{each}\r\n" for each in self._said).encode())
            elif self.heard[-1] in (".", "RSET", "QUIT"):
                writer.write(b"250 ok\r\n")
        writer.close()


async def test_the_commands_of_a_mail_are_sent_together_where_the_server_takes_them_so(counter: "Counter") -> None:
    async with TakesCommandsTogether("250 ok", "250 ok", "354 go on") as server:
        provider = counter.smtp(server.port)
        assert [await provider.send(mail()) for _ in range(2)] == [Sent(), Sent()]
        await provider.stop()
        assert server.connections == 1


async def test_a_connection_goes_on_after_a_recipient_was_refused_among_commands_sent_together(
    counter: "Counter",
) -> None:
    async with TakesCommandsTogether("250 ok", "550 5.1.1 nobody", "503 no recipient") as server:
        provider = counter.smtp(server.port)
        assert [await provider.send(mail()) for _ in range(2)] == [Refused("smtp_550")] * 2
        await provider.stop()
        assert server.connections == 1


async def test_a_server_that_waits_for_a_mail_whose_recipient_it_refused_gets_none(counter: "Counter") -> None:
    async with TakesCommandsTogether("250 ok", "550 5.1.1 nobody", "354 go on") as server:
        provider = counter.smtp(server.port)
        assert [await provider.send(mail()) for _ in range(2)] == [Refused("smtp_550")] * 2
        await provider.stop()
        assert server.connections == 2
        assert "MIME-Version: 1.0" not in server.heard


async def test_a_mail_for_which_no_connection_gets_free_in_time_waits_without_blame(counter: "Counter") -> None:
    async with RudeServer(".", "250-and so on") as server:
        provider = counter.smtp(server.port, connections=1, free_seconds=0.1)
        sends = [asyncio.create_task(provider.send(mail(id=f"n-{number}"))) for number in (1, 2)]
        done, busy = await asyncio.wait(sends, return_when=asyncio.FIRST_COMPLETED)
        assert [each.result() for each in done] == [Later("busy", BUSY_PAUSE)]
        for each in busy:
            each.cancel()
        await asyncio.wait(busy)
        await provider.stop()
