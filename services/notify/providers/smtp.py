"""Mail by SMTP, over a few connections that are kept open."""

import asyncio
import re
from datetime import datetime
from email.header import Header
from email.headerregistry import Address
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import compat32
from email.utils import format_datetime, formataddr
from typing import Final

import aiosmtplib
from aiosmtplib import SMTPException, SMTPResponseException

from services.notify.ports import Answer, Declined, Later, Mail, Refused, Sent, Unknown
from shared.clock import Clock
from shared.contract.events import Channel
from shared.failpoints import NONE, Failpoints, Point
from shared.log import get_logger

ANSWER_SECONDS: Final = 20.0
RECONNECT_SECONDS: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
IDLE_SECONDS_MAX: Final = 60.0
"""A connection unused for longer is not trusted: servers close idle ones after some minutes."""

MAILBOX_REFUSALS: Final = (550, 551, 552, 553)

_ENHANCED: Final = re.compile(r"5\.(\d{1,3})\.\d{1,3}\b")
_NOT_TAKEN: Final = Later("connection_lost")
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_WIRE: Final = compat32.clone(linesep="\r\n")

log = get_logger(__name__)


class NotConnected(Exception):
    """The mail server can't be reached."""


class SmtpProvider:
    """A mail server, as a Provider. `window`: how many connections, each of which takes one mail at a time."""

    channel = Channel.EMAIL

    def __init__(
        self,
        *,
        name: str,
        host: str,
        port: int,
        mail_from: str,
        sender_name: str,
        window: int,
        clock: Clock,
        username: str | None = None,
        password: str | None = None,
        starttls: bool = False,
        answer_seconds: float = ANSWER_SECONDS,
        failpoints: Failpoints = NONE,
    ) -> None:
        self.name = name
        self._host = host
        self._port = port
        self._mail_from = mail_from
        self._from = Address(display_name=sender_name, addr_spec=mail_from)
        self.window = window
        self._clock = clock
        self._username = username
        self._password = password
        self._starttls = starttls
        self._answer_seconds = answer_seconds
        self._failpoints = failpoints
        self._idle: list[tuple[aiosmtplib.SMTP, float]] = []
        self._why_down: str | None = "not connected yet"

    @property
    def connected(self) -> bool:
        return self._why_down is None

    async def start(self) -> None:
        """Nothing to do: the first mail, or the first who waits for us, connects."""

    async def stop(self) -> None:
        idle, self._idle = self._idle, []
        await asyncio.gather(*(_take_leave(connection) for connection, _ in idle))

    async def available(self) -> None:
        failures = 0
        while self._why_down is not None:
            try:
                self._idle.append((await self._connect(), self._clock.monotonic()))
            except NotConnected as error:
                log.warning("the mail server can't be reached", provider=self.name, detail=str(error))
                await asyncio.sleep(RECONNECT_SECONDS[min(failures, len(RECONNECT_SECONDS) - 1)])
                failures += 1

    async def check(self) -> None:
        if self._why_down is not None:
            raise NotConnected(self._why_down)

    async def send(self, message: Mail) -> Answer:
        try:
            content = as_octets(message, sender=self._from, written_at=self._clock.now())
        except ValueError:
            return Refused("unsendable")
        try:
            while (connection := self._unused()) is not None:
                answer = await self._transact(connection, message.recipient, content)
                if answer != _NOT_TAKEN:  # else the server had closed it while it was idle
                    return answer
            return await self._transact(await self._connect(), message.recipient, content)
        except NotConnected:
            return Later("not_connected")

    async def _transact(self, connection: aiosmtplib.SMTP, recipient: str, content: bytes) -> Answer:
        about_recipient = handing_over = False
        try:
            await connection.mail(self._mail_from)
            about_recipient = True
            await connection.rcpt(recipient)
            handing_over = True
            await connection.data(content)
            await self._failpoints.reach(Point.ON_THE_WIRE, aiosmtplib.SMTPServerDisconnected)
        except SMTPResponseException as error:
            if 400 <= error.code < 600:
                await _reset(connection)
                return _said_no(error.code, error.message, about_recipient=about_recipient, handing_over=handing_over)
            # Nobody can say what this answers, nor what the next answer is to.
            connection.close()
            return Unknown("invalid_answer") if handing_over else Later("invalid_answer")
        except (SMTPException, OSError, TimeoutError):
            connection.close()
            # aiosmtplib does not say whether the connection ended before or after the final dot.
            return Unknown("connection_lost") if handing_over else _NOT_TAKEN
        except ValueError:
            await _reset(connection)
            return Refused("invalid_recipient")
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            # aiosmtplib takes what a server said too much for the answer to the next command.
            if connection.is_connected and not (connection.protocol and connection.protocol._buffer):
                self._idle.append((connection, self._clock.monotonic()))
        return Sent()

    def _unused(self) -> aiosmtplib.SMTP | None:
        """An open connection that was in use not long ago."""
        while self._idle:
            connection, since = self._idle.pop()
            if connection.is_connected and self._clock.monotonic() - since < IDLE_SECONDS_MAX:
                return connection
            connection.close()
        return None

    async def _connect(self) -> aiosmtplib.SMTP:
        connection = aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            username=self._username,
            password=self._password,
            start_tls=self._starttls,
            local_hostname=self._mail_from.rpartition("@")[2],
            timeout=self._answer_seconds,
        )
        try:
            await connection.connect()
            await connection.ehlo()
        except (SMTPException, OSError, TimeoutError) as error:
            connection.close()
            self._why_down = str(error) or repr(error)
            raise NotConnected(self._why_down) from error
        self._why_down = None
        return connection


def as_octets(mail: Mail, *, sender: Address, written_at: datetime) -> bytes:
    """The mail as it goes over the wire: text and HTML, headers that can't be broken out of.

    The Message-ID comes from the notification's id alone, so that a mail sent twice can be told. ValueError for an
    address or a subject that can't stand in a header.
    """
    # Not EmailMessage: its header registry takes 4 ms a mail, six times as long as all of this.
    message = MIMEMultipart("alternative", policy=_WIRE)
    for name, value in (
        ("From", formataddr((sender.display_name, sender.addr_spec))),
        ("To", mail.recipient),
        ("Subject", mail.subject if mail.subject.isascii() else Header(mail.subject, "utf-8").encode()),
        ("Date", format_datetime(written_at)),
        ("Message-ID", f"<{mail.id}@{sender.domain}>"),
        ("Auto-Submitted", "auto-generated"),
        ("Content-Language", mail.language.value),
    ):
        message[name] = _one_line(value, of=mail.subject if name == "Subject" else value)
    for content, subtype in ((mail.text, "plain"), (mail.html, "html")):
        message.attach(MIMEText(_LINE_END.sub("\r\n", content), subtype, "utf-8", policy=_WIRE))
    return message.as_bytes()


def _one_line(value: str, *, of: str) -> str:
    """The header's value, if what it was made of neither ends its line nor leaves ASCII unencoded."""
    if not value.isascii() or _CONTROL.search(of):
        raise ValueError("this can't stand in a header")
    return value


def _said_no(code: int, text: str, *, about_recipient: bool, handing_over: bool) -> Answer:
    """What a reply means for the mail. Where it has an enhanced status (RFC 3463), that says whom it is about: 1 and 2
    the address and the mailbox; else the codes do by which a mailbox is refused (RFC 5321, 4.2.3) at RCPT."""
    reason = f"smtp_{code}"
    if not 500 <= code < 600:
        return Later(reason)
    enhanced = _ENHANCED.match(text)
    refused = enhanced[1] in ("1", "2") if enhanced else code in MAILBOX_REFUSALS and not handing_over
    return Refused(reason) if about_recipient and refused else Declined(reason)


async def _reset(connection: aiosmtplib.SMTP) -> None:
    """Make the connection fit for the next mail, or close it."""
    try:
        await connection.rset()
    except (SMTPException, OSError, TimeoutError):
        connection.close()


async def _take_leave(connection: aiosmtplib.SMTP) -> None:
    try:
        await connection.quit(timeout=1.0)
    except (SMTPException, OSError, TimeoutError):
        connection.close()
