"""Mail by SMTP (RFC 5321), over a few connections that are kept open.

aiosmtplib opens each connection: greeting, TLS, login. From then on the conversation is ours: it sends the commands of
a mail together where the server takes them so (RFC 2920), and knows whether the mail itself was written.
"""

import asyncio
import contextlib
import re
from collections import deque
from datetime import timedelta
from enum import StrEnum
from typing import Final, NamedTuple, cast

import aiosmtplib
from aiosmtplib import SMTPException

from services.notify.mime import as_octets
from services.notify.ports import Answer, Declined, Later, Mail, Refused, Sent, Unknown
from shared.clock import Clock
from shared.contract.events import Channel
from shared.failpoints import NONE, Failpoints, Point
from shared.log import get_logger

ANSWER_SECONDS: Final = 20.0
"""The longest that a connection may take over one mail."""

FREE_SECONDS: Final = 8.0
"""How long a mail waits for a connection that is free."""

BUSY_PAUSE: Final = timedelta(seconds=1)
RECONNECT_SECONDS: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
IDLE_SECONDS_MAX: Final = 60.0
"""A connection unused for longer is not trusted: servers close idle ones after some minutes."""

WINDOW_MIN: Final = 50
"""Mails taken over at once, however few connections send them: by the dozen they cost the ledger least."""

MAILBOX_REFUSALS: Final = (550, 551, 552, 553)

_REPLY_OCTETS_MAX: Final = 32_768
_REPLY: Final = re.compile(rb"\d{3}")
_ENHANCED: Final = re.compile(r"5\.(\d{1,3})\.\d{1,3}\b")
_ADDRESS: Final = re.compile(r"[!-;=?-~]{1,320}")
"""What may stand between < and >: no space, so that nothing follows that a server could take for a parameter."""

_NOT_TAKEN: Final = Later("connection_lost")

log = get_logger(__name__)


class NotConnected(Exception):
    """The mail server can't be reached."""


class Lost(Exception):
    """The connection ended before the reply came."""


class Stage(StrEnum):
    """How far a mail has come."""

    SENDER = "MAIL"
    RECIPIENT = "RCPT"
    DATA = "DATA"
    CONTENT = "."


_GOOD: Final = {Stage.SENDER: (250,), Stage.RECIPIENT: (250, 251), Stage.DATA: (354,), Stage.CONTENT: (250,)}
"""The replies after which it goes on (RFC 5321, 4.3.2)."""


class Reply(NamedTuple):
    """What the server said: the code (0 if it was no reply), and its first line."""

    code: int
    text: str


class SmtpProvider:
    """A mail server, as a Provider. Each of its `connections` takes one mail at a time, and others wait for them."""

    channel = Channel.EMAIL

    def __init__(
        self,
        *,
        name: str,
        host: str,
        port: int,
        mail_from: str,
        sender_name: str,
        connections: int,
        clock: Clock,
        username: str | None = None,
        password: str | None = None,
        starttls: bool = False,
        answer_seconds: float = ANSWER_SECONDS,
        free_seconds: float = FREE_SECONDS,
        failpoints: Failpoints = NONE,
    ) -> None:
        self.name = name
        self._host = host
        self._port = port
        self._mail_from = mail_from
        self._sender_name = sender_name
        self.window = max(WINDOW_MIN, 2 * connections)
        self._clock = clock
        self._username = username
        self._password = password
        self._starttls = starttls
        self._answer_seconds = answer_seconds
        self._free_seconds = free_seconds
        self._failpoints = failpoints
        self._free = asyncio.Semaphore(connections)
        self._idle: list[tuple[Conversation, float]] = []
        self._why_down: str | None = "not connected yet"

    @property
    def connected(self) -> bool:
        return self._why_down is None

    async def start(self) -> None:
        """Nothing to do: the first mail, or the first who waits for us, connects."""

    async def stop(self) -> None:
        idle, self._idle = self._idle, []
        await asyncio.gather(*(conversation.take_leave() for conversation, _ in idle))

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
        if not _ADDRESS.fullmatch(message.recipient):
            return Refused("unsendable")
        try:
            content = as_octets(
                message, sender_name=self._sender_name, mail_from=self._mail_from, written_at=self._clock.now()
            )
        except ValueError:
            return Refused("unsendable")
        try:
            async with asyncio.timeout(self._free_seconds):
                await self._free.acquire()
        except TimeoutError:
            return Later("busy", BUSY_PAUSE)
        try:
            while (conversation := self._unused()) is not None:
                answer = await self._transact(conversation, message.recipient, content)
                if answer != _NOT_TAKEN:  # else the server had closed it while it was idle
                    return answer
            return await self._transact(await self._connect(), message.recipient, content)
        except NotConnected:
            return Later("not_connected")
        finally:
            self._free.release()

    async def _transact(self, conversation: "Conversation", recipient: str, content: bytes) -> Answer:
        handing_over = False
        try:
            async with asyncio.timeout(self._answer_seconds):
                stage, reply = await conversation.offer(self._mail_from, recipient)
                if stage is Stage.DATA and reply.code in _GOOD[stage]:
                    handing_over = True
                    stage, reply = Stage.CONTENT, await conversation.hand_over(content)
                    await self._failpoints.reach(Point.ON_THE_WIRE, Lost)
            if reply.code in _GOOD[stage]:
                return Sent()
            if 400 <= reply.code < 600:
                await conversation.reset(self._answer_seconds)
                return _said_no(reply, stage)
            # Nobody can say what this answers, nor what the next answer is to.
            conversation.close()
            return Unknown("invalid_answer") if handing_over else Later("invalid_answer")
        except (Lost, TimeoutError):
            conversation.close()
            return Unknown("connection_lost") if handing_over else _NOT_TAKEN
        finally:
            if conversation.is_sound:
                self._idle.append((conversation, self._clock.monotonic()))
            else:
                conversation.close()

    def _unused(self) -> "Conversation | None":
        """An open connection that was in use not long ago."""
        while self._idle:
            conversation, since = self._idle.pop()
            if conversation.is_sound and self._clock.monotonic() - since < IDLE_SECONDS_MAX:
                return conversation
            conversation.close()
        return None

    async def _connect(self) -> "Conversation":
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
            if connection.transport is None:
                raise NotConnected("the mail server hung up")
        except (SMTPException, OSError, TimeoutError, NotConnected) as error:
            connection.close()
            self._why_down = str(error) or repr(error)
            raise NotConnected(self._why_down) from error
        self._why_down = None
        return Conversation(
            cast(asyncio.Transport, connection.transport), pipelining=connection.supports_extension("pipelining")
        )


class Conversation(asyncio.Protocol):
    """Mails and the replies to them, on a connection that was opened by another, which hears of it no more."""

    def __init__(self, transport: asyncio.Transport, *, pipelining: bool) -> None:
        self._transport = transport
        self._pipelining = pipelining
        self._unread = b""
        self._first_line = b""
        """Of a reply of which more is to come."""
        self._begun_octets = 0
        self._replies: deque[Reply] = deque()
        self._expected = 0
        self._waiting: asyncio.Future[None] | None = None
        self._spoiled = False
        transport.set_protocol(self)

    @property
    def is_sound(self) -> bool:
        """Whether another mail may be sent here: it is open, and the server said nothing that it was not asked."""
        return not (self._spoiled or self._expected or self._transport.is_closing())

    async def offer(self, sender: str, recipient: str) -> tuple[Stage, Reply]:
        """Announce a mail; the stage at which that ended, and the reply there. Lost if none came."""
        commands = {
            Stage.SENDER: b"MAIL FROM:<%s>\r\n" % sender.encode("ascii"),
            Stage.RECIPIENT: b"RCPT TO:<%s>\r\n" % recipient.encode("ascii"),
            Stage.DATA: b"DATA\r\n",
        }
        if self._pipelining:
            self._say(b"".join(commands.values()), replies=len(commands))
        for stage, command in commands.items():
            if not self._pipelining:
                self._say(command)
            reply = await self._reply()
            if reply.code not in _GOOD[stage]:
                await self._pass_over()
                break
        return stage, reply

    async def hand_over(self, content: bytes) -> Reply:
        """The reply to the mail itself, whose lines all end with CR LF. Lost if none came."""
        self._say(content + b".\r\n")
        return await self._reply()

    async def reset(self, within_seconds: float) -> None:
        """Make it fit for the next mail, or close it."""
        try:
            async with asyncio.timeout(within_seconds):
                self._say(b"RSET\r\n")
                if (await self._reply()).code != 250:
                    self.close()
        except (Lost, TimeoutError):
            self.close()

    async def take_leave(self) -> None:
        """Say goodbye and close it."""
        with contextlib.suppress(Lost, TimeoutError):
            async with asyncio.timeout(1.0):
                self._say(b"QUIT\r\n")
                await self._reply()
        self.close()

    def close(self) -> None:
        """Let go of the connection at once."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._unread) > _REPLY_OCTETS_MAX:
            self._unread = b""
            self._spoil()
        self._wake()

    def connection_lost(self, _error: Exception | None) -> None:
        self._spoiled = True
        self._wake()

    def _take(self, line: bytes) -> None:
        """One line of a reply."""
        self._begun_octets += len(line)
        if self._spoiled or not _REPLY.match(line) or self._begun_octets > _REPLY_OCTETS_MAX or not self._expected:
            self._spoil()
            return
        self._first_line = self._first_line or line
        if line[3:4] != b"-":
            self._replies.append(Reply(int(line[:3]), self._first_line[4:].strip().decode("utf-8", "replace")))
            self._first_line, self._begun_octets = b"", 0
            self._expected -= 1

    def _spoil(self) -> None:
        """It said what is no reply, or answers nothing: from here on nobody can tell what answers what."""
        if self._expected and not self._spoiled:
            self._replies.append(Reply(0, ""))
        self._spoiled = True

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _say(self, octets: bytes, *, replies: int = 1) -> None:
        if self._spoiled or self._transport.is_closing():  # at a connection that is gone uvloop raises
            raise Lost
        self._expected += replies
        self._transport.write(octets)

    async def _reply(self) -> Reply:
        while not self._replies:
            if self._spoiled:
                raise Lost
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._replies.popleft()

    async def _pass_over(self) -> None:
        """Read what is still to come to an announcement that was refused."""
        with contextlib.suppress(Lost):
            while self._expected or self._replies:
                if (await self._reply()).code in _GOOD[Stage.DATA]:
                    # It waits for a mail to nobody.
                    self.close()


def _said_no(reply: Reply, stage: Stage) -> Answer:
    """What a reply means for the mail. Where it has an enhanced status (RFC 3463), that says whom it is about: 1 and 2
    the address and the mailbox; else the codes do by which a mailbox is refused (RFC 5321, 4.2.3) at RCPT."""
    reason = f"smtp_{reply.code}"
    if not 500 <= reply.code < 600:
        return Later(reason)
    enhanced = _ENHANCED.match(reply.text)
    refused = enhanced[1] in ("1", "2") if enhanced else reply.code in MAILBOX_REFUSALS and stage is Stage.RECIPIENT
    return Refused(reason) if refused and stage is not Stage.SENDER else Declined(reason)
