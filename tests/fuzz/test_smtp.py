"""What notify makes of whatever a mail server says, and what a mail server gets of whatever is written."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

from aiosmtpd.smtp import SMTP
from hypothesis import given
from hypothesis import strategies as st

from deploy.local import faults
from deploy.local.journal import Journal, read_journal
from deploy.local.ports import LOOPBACK
from deploy.local.smtp import Sink, SmtpFaults
from services.notify.ports import Answer, Declined, Later, Mail, Refused, Sent, Unknown
from services.notify.providers.smtp import SmtpProvider
from shared.clock import ManualClock
from shared.contract.events import Language
from tests.fuzz.budget import fuzz, round_of
from tests.fuzz.conftest import Run
from tests.fuzz.peers import listening

ANSWER_SECONDS = 0.5
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Script:
    """What is said at one command ("" is the greeting, "." the end of a mail), cut in two, and whether that is all.

    `together`: the server takes the commands of a mail at once.
    """

    at: str
    said: bytes
    cut: int
    then: str
    together: bool


@dataclass(slots=True)
class ScriptedServer:
    """Takes every mail, but for the one place that a script is for."""

    script: Script | None = None
    together: bool = False
    port: int = 0
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, ValueError, asyncio.IncompleteReadError):
            if await self._say(writer, "", b"220 here\r\n"):
                in_mail = False
                while line := await reader.readline():
                    command = "." if in_mail and line == b".\r\n" else "" if in_mail else line[:4].decode().upper()
                    if not command:
                        continue
                    in_mail = command == "DATA"
                    usual = b"354 go on\r\n" if in_mail else b"250 ok\r\n"
                    if command == "EHLO" and self.together:
                        usual = b"250-here\r\n250 PIPELINING\r\n"
                    if not await self._say(writer, command, usual):
                        break

    async def _say(self, writer: asyncio.StreamWriter, command: str, usual: bytes) -> bool:
        script = self.script
        if script is None or script.at != command:
            writer.write(usual)
            return True
        cut = script.cut % (len(script.said) + 1)
        for piece in (script.said[:cut], script.said[cut:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if script.then == "reset":
            writer.transport.abort()
        return script.then == "go on"


@contextlib.asynccontextmanager
async def scripted_server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    async with listening(scripted.serve) as scripted.port:
        yield scripted


def provider_at(port: int) -> SmtpProvider:
    return SmtpProvider(
        name="smtp",
        host=LOOPBACK,
        port=port,
        mail_from="guichet@example.org",
        sender_name="République",
        connections=3,
        clock=ManualClock(NOW),
        answer_seconds=ANSWER_SECONDS,
    )


def mail(**changes: str) -> Mail:
    fields = {"id": "n-1", "recipient": "a@example.org", "subject": "Sujet", "text": "texte\n", "html": "<p>texte</p>"}
    return Mail(language=Language.FRENCH, **(fields | changes))


CODES = st.sampled_from([b"250", b"251", b"354", b"220", b"421", b"451", b"550", b"554", b"999", b"000", b"-25", b"25"])
REPLIES = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda code, rest, end: code + rest + end, CODES, st.binary(max_size=20), st.sampled_from([b"\r\n", b"\n", b""])
    ),
    st.builds(lambda code, count: (code + b"-more\r\n") * count, CODES, st.sampled_from([1, 9999])),
    st.builds(
        lambda code, count: (code + b"-more\r\n") * count + code + b" end\r\n", CODES, st.sampled_from([1, 9999])
    ),
    st.builds(lambda first, second: first + b" a\r\n" + second + b" b\r\n", CODES, CODES),
    st.sampled_from(
        [b"250 " + b"x" * 100_000, b"250 " + b"x" * 100_000 + b"\r\n", b"\0" * 5000, b"250 \xff\xfe\r\n", b"\r\n" * 50]
    ),
)
SCRIPTS = st.builds(
    Script,
    st.sampled_from(["", "EHLO", "MAIL", "RCPT", "DATA", ".", ".", ".", "RSET"]),
    REPLIES,
    st.integers(0, 10_000),
    st.sampled_from(["go on", "hang up", "reset"]),
    st.booleans(),
)


def test_every_mail_has_one_answer_whatever_the_server_says(run: Run) -> None:
    async def try_out(script: Script) -> None:
        async with scripted_server() as server:
            server.together = script.together
            provider = provider_at(server.port)
            if script.at not in ("", "EHLO"):
                await next_is_sent(provider)  # so that a connection that was in use is tried, too
            server.script = script
            answer = await provider.send(mail())
            assert_honest(answer, script)
            server.script = None
            before = server.connections
            await next_is_sent(provider)
            if answer in (Unknown("invalid_answer"), Later("invalid_answer")):
                assert server.connections > before
            await provider.stop()

    async def next_is_sent(provider: SmtpProvider) -> None:
        while not isinstance(await provider.send(mail()), Sent):
            pass

    def assert_honest(answer: Answer, script: Script) -> None:
        assert isinstance(answer, Sent | Refused | Declined | Later | Unknown)
        if script.at != ".":
            # What is said beyond a reply may be read as the reply to a later command: then nobody knows.
            assert not isinstance(answer, Unknown) or answer.reason in ("invalid_answer", "connection_lost")
        elif isinstance(answer, Sent):
            assert re.search(rb"^250", script.said, re.MULTILINE)
        elif isinstance(answer, Refused | Declined):
            assert re.search(rb"^5\d\d", script.said, re.MULTILINE)
        elif isinstance(answer, Later) and answer not in (Later("not_connected"), Later("connection_lost")):
            # Once a mail was handed over, only a refusal is a reason to send it again.
            assert re.search(rb"^4\d\d", script.said, re.MULTILINE)

    async def try_out_all(scripts: list[Script]) -> None:
        await asyncio.gather(*map(try_out, scripts))

    @round_of
    @given(st.lists(SCRIPTS, min_size=1, max_size=8))
    def claim(scripts: list[Script]) -> None:
        run(try_out_all(scripts))

    fuzz(claim, share=0.5)


BREAKS = ["\r\n", "\n", "\r", "\u2028", "\u2029", "\u0085", "\0", "\x0b", "\x0c", "\x1c", "\x7f", "\t", "\ud800"]
WORDS = [
    *BREAKS,
    *BREAKS,
    "Bcc: b@example.org",
    "a",
    "é",
    "طلب",
    " ",
    ":",
    "<x@example.org>",
    ",",
    '"',
    "=?utf-8?q?=0ABcc:?=",
    "😀",
]
header_texts = st.lists(st.sampled_from(WORDS) | st.sampled_from(BREAKS), min_size=1, max_size=6).map("".join)
ENDINGS = ["\r\n.\r\n", "\n.\n", "\n.", ".", "..", "\r.\r", "\r\n", "MAIL FROM:<x@example.org>", "\0", "From ", "=\n"]
body_texts = st.lists(st.sampled_from([*ENDINGS, "x" * 1001, "é" * 1001]) | st.text(max_size=10), max_size=8).map(
    "".join
)
HEADERS = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "Content-Language",
    "Content-Type",
    "MIME-Version",
]


def test_a_mail_arrives_as_it_was_written_or_not_at_all(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "smtp.jsonl"

    async def try_out(mails: list[Mail]) -> None:
        known = len(read_journal(log))
        server = await asyncio.get_running_loop().create_server(
            lambda: SMTP(sink, hostname="localhost", enable_SMTPUTF8=True), LOOPBACK, 0
        )
        provider = provider_at(server.sockets[0].getsockname()[1])
        sent = [each for each in mails if await was_sent(provider, each)]
        await provider.stop()
        server.close()
        taken = read_journal(log)[known:]
        assert len(taken) == len(sent)
        for written, entry in zip(sent, taken, strict=True):
            assert_arrived(written, entry["raw"].encode("utf-8", "surrogateescape"), entry["rcpt"])

    async def was_sent(provider: SmtpProvider, each: Mail) -> bool:
        answer = await provider.send(each)
        hostile = any(break_ in field for break_ in BREAKS for field in (each.subject, each.recipient, each.id))
        if hostile:
            assert answer == Refused("unsendable")
        assert isinstance(answer, Sent | Refused | Declined)
        return isinstance(answer, Sent)

    def assert_arrived(written: Mail, raw: bytes, recipients: list[str]) -> None:
        message = message_from_bytes(raw, policy=default)
        assert isinstance(message, EmailMessage)
        assert sorted(message.keys()) == sorted(HEADERS)
        assert len(recipients) == 1
        assert max(map(len, raw.split(b"\r\n"))) <= 998
        assert b"\n" not in raw.replace(b"\r\n", b"")
        for kind, content in (("plain", written.text), ("html", written.html)):
            part = message.get_body((kind,))
            assert part is not None
            assert part.get_payload(decode=True) == re.sub(r"\r\n|\r|\n", "\r\n", content).encode()

    @round_of
    @given(
        st.lists(
            st.builds(
                lambda field, header, text, html: mail(text=text, html=html, **({field: header} if field else {})),
                st.sampled_from(["subject", "recipient", "id", ""]),
                header_texts,
                body_texts,
                body_texts,
            ),
            min_size=1,
            max_size=4,
        )
    )
    def claim(mails: list[Mail]) -> None:
        run(try_out(mails))

    with Journal(log) as journal:
        sink = Sink(journal, faults.Script(SmtpFaults, None))
        fuzz(claim, share=0.5)
