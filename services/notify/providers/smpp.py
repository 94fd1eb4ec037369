"""SMS by SMPP 3.4: one bound connection as transceiver, which comes back by itself.

aiosmpplib builds the PDUs, but for the two that go with every message. The session around them is ours: its ESME walks
through all it ever sent at each answer, ends the connection at statuses, receipts and vendor fields it does not know,
and loses what was queued when the connection drops. Here every submission has exactly one answer: accepted, refused,
later, or nobody knows.
"""

import asyncio
import contextlib
import re
import struct
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from aiosmpplib.protocol import (
    BindTransceiver,
    DeliverSmResp,
    EnquireLinkResp,
    GenericNack,
    SmppMessage,
    Unbind,
    UnbindResp,
)
from aiosmpplib.state import NPI, TON, USER_MESSAGE_REFERENCE, SmppCommand
from aiosmpplib.state import SmppCommandStatus as Status

from services.notify.domain import user_message_reference
from services.notify.ports import Answer, Declined, Later, Refused, Sent, ShortMessage, Unknown
from services.notify.receipts import Receipt
from services.notify.sms import Encoding
from shared.clock import Clock
from shared.contract.events import Channel
from shared.failpoints import NONE, Failpoints, Point
from shared.log import get_logger
from shared.one_piece import OnePiece
from shared.store.port import StoreUnavailable

ANSWER_SECONDS: Final = 10.0
ENQUIRE_SECONDS: Final = 20.0
RECONNECT_SECONDS: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
THROTTLE_PAUSE: Final = timedelta(seconds=1)
RECEIPTS_WAITING_MAX: Final = 1000
RECEIPTS_AT_ONCE_MAX: Final = 200

GATHER_SECONDS: Final = 0.02
"""How long a receipt waits for others to be kept with: a commit costs as much as many rows."""

REFUSALS: Final = {
    Status.ESME_RINVMSGLEN: "invalid_length",
    Status.ESME_RINVDSTADR: "invalid_destination",
    Status.ESME_RINVNUMDESTS: "invalid_destination",
    Status.ESME_RINVDSTTON: "invalid_destination",
    Status.ESME_RINVDSTNPI: "invalid_destination",
}
"""Statuses (SMPP 3.4, 5.1.3) about the recipient or the message, which every SMSC would say at every attempt."""

DECLINES: Final = {
    Status.ESME_RINVSRCADR: "invalid_source",
    Status.ESME_RINVPRTFLG: "invalid_parameter",
    Status.ESME_RINVREGDLVFLG: "invalid_parameter",
    Status.ESME_RINVSERTYP: "invalid_parameter",
    Status.ESME_RINVESMCLASS: "invalid_parameter",
    Status.ESME_RINVSRCTON: "invalid_source",
    Status.ESME_RINVSRCNPI: "invalid_source",
    Status.ESME_RINVREPFLAG: "invalid_parameter",
    Status.ESME_RINVEXPIRY: "invalid_parameter",
    Status.ESME_RX_P_APPN: "rejected",
    Status.ESME_RX_R_APPN: "rejected",
    Status.ESME_RINVOPTPARSTREAM: "invalid_parameter",
    Status.ESME_ROPTPARNOTALLWD: "invalid_parameter",
    Status.ESME_RINVPARLEN: "invalid_parameter",
    Status.ESME_RMISSINGOPTPARAM: "invalid_parameter",
    Status.ESME_RINVOPTPARAMVAL: "invalid_parameter",
}
"""Statuses that this SMSC would say at every attempt, by its own rules. All others may pass."""

THROTTLED: Final = (Status.ESME_RTHROTTLED, Status.ESME_RMSGQFUL)

FAILURES: Final = {"UNDELIV": "undeliverable", "EXPIRED": "expired", "REJECTD": "rejected", "DELETED": "deleted"}
"""Final states of a receipt (SMPP 3.4, appendix B) that are no delivery."""

_STATES: Final = {2: "DELIVRD", 3: "EXPIRED", 4: "DELETED", 5: "UNDELIV", 8: "REJECTD"}
_HEADER: Final = struct.Struct(">IIII")
_SUBMISSION: Final = struct.Struct(">B4xBxBxB")
"""From esm_class to sm_length; protocol, priority, times, replacing and default message are all 0."""

_TAG_OF_TWO: Final = struct.Struct(">HHH")
_WITH_RECEIPT: Final = 1
_LENGTH_MAX: Final = 65_536 + 1_024
_READ_OCTETS: Final = 65_536
_RECEIPTED_MESSAGE_ID: Final = 0x001E
_MESSAGE_PAYLOAD: Final = 0x0424
_MESSAGE_STATE: Final = 0x0427
_MESSAGE_ID_LENGTH_MAX: Final = 64
_RESPONSE: Final = 0x8000_0000
_HAS_HEADER: Final = 0x40
_UCS2: Final = 0x08
_DIGITS: Final = re.compile(r"\+?(\d{1,20})", re.ASCII)
_FIELD: Final = re.compile(r"\b(id|stat):\s*(\S+)", re.IGNORECASE)

Accept = Callable[[Sequence[Receipt]], Awaitable[None]]
"""Keeps receipts durably; StoreUnavailable if it can't."""

log = get_logger(__name__)


class NotBound(Exception):
    """The SMSC did not take the bind."""


class Lost(Exception):
    """The connection ended before the answer came."""


class Asked(NamedTuple):
    """A request that waits for its answer: the answer's command, who waits for its status and body, and how long."""

    command: int
    answer: asyncio.Future[tuple[int, bytes]]
    until_seconds: float


class SmppProvider:
    """An SMSC, as a Provider. `window` is the most messages that wait for their answer at the same time."""

    channel = Channel.SMS

    def __init__(
        self,
        *,
        name: str,
        host: str,
        port: int,
        system_id: str,
        password: str,
        sender: str,
        window: int,
        accept: Accept,
        clock: Clock,
        answer_seconds: float = ANSWER_SECONDS,
        failpoints: Failpoints = NONE,
    ) -> None:
        self.name = name
        self._host = host
        self._port = port
        self._bind = BindTransceiver(system_id=system_id, password=password)
        self._source = _address(*_kind_of_sender(sender), sender)
        self.window = window
        self._accept = accept
        self._clock = clock
        self._answer_seconds = answer_seconds
        self._failpoints = failpoints
        self._session: Session | None = None
        self._bound = asyncio.Event()
        self._why_not_bound = "not connected yet"
        self._paused_until = 0.0
        self._connecting: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self._session is not None and self._session.is_open

    async def start(self) -> None:
        self._connecting = asyncio.create_task(self._stay_connected(), name=self.name)

    async def stop(self) -> None:
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)

    async def available(self) -> None:
        while True:
            await self._bound.wait()
            if not self.connected:  # it is just ending, and says so before it has let go of everything
                await asyncio.sleep(RECONNECT_SECONDS[0])
                continue
            pause_seconds = self._paused_until - self._clock.monotonic()
            if pause_seconds <= 0:
                return
            await asyncio.sleep(pause_seconds)

    async def check(self) -> None:
        if not self.connected:
            raise NotBound(self._why_not_bound)

    async def send(self, message: ShortMessage) -> Answer:
        references = message.accepted
        try:
            parts = self._submissions(message)
        except ValueError:
            return Refused("unsendable", references)
        # One part after the other: so what was accepted is always a beginning, and only the rest is sent again.
        for part in parts[len(references) :]:
            session = self._session
            if session is None or not session.is_open:
                return Later("not_connected", references=references)
            try:
                status, message_id = await session.submit(part)
            except TimeoutError:
                return Unknown("no_answer", references)
            except Lost:
                return Unknown("connection_lost", references)
            if status != Status.ESME_ROK:
                return self._not_accepted(status, references)
            references = (*references, message_id)
        return Sent(references)

    def _not_accepted(self, status: int, references: tuple[str, ...]) -> Answer:
        if status in THROTTLED:
            self._paused_until = self._clock.monotonic() + THROTTLE_PAUSE.total_seconds()
            return Later("throttled", THROTTLE_PAUSE, references)
        if (reason := REFUSALS.get(status)) is not None:
            return Refused(reason, references)
        if (reason := DECLINES.get(status)) is not None:
            return Declined(reason, references)
        return Later(f"smpp_0x{status:02x}", references=references)

    def _submissions(self, message: ShortMessage) -> list[bytes]:
        """The body of a submit_sm (SMPP 3.4, 4.4.1) for each part. ValueError for no text, or what is no number."""
        digits = _DIGITS.fullmatch(message.recipient)
        if digits is None or not message.text.parts[0]:
            raise ValueError("there is no text, or nobody to send it to")
        reference = user_message_reference(message.id)
        parts = message.text.octets(reference & 0xFF)
        addressed = b"\0" + self._source + _address(TON.INTERNATIONAL, NPI.ISDN, digits[1])
        esm_class = _HAS_HEADER if len(parts) > 1 else 0
        data_coding = _UCS2 if message.text.encoding is Encoding.UCS2 else 0
        named = _TAG_OF_TWO.pack(USER_MESSAGE_REFERENCE, 2, reference)
        return [
            addressed + _SUBMISSION.pack(esm_class, _WITH_RECEIPT, data_coding, len(part)) + part + named
            for part in parts
        ]

    async def _stay_connected(self) -> None:
        failures = 0
        while True:
            try:
                session = await Session.open(
                    self.name,
                    self._host,
                    self._port,
                    self._bind,
                    self._answer_seconds,
                    self._accept,
                    self._clock,
                    self._failpoints,
                )
            except (OSError, TimeoutError, NotBound, Lost, asyncio.IncompleteReadError) as error:
                self._why_not_bound = str(error) or repr(error)
                log.warning("the SMSC can't be bound to", provider=self.name, detail=self._why_not_bound)
                await asyncio.sleep(RECONNECT_SECONDS[min(failures, len(RECONNECT_SECONDS) - 1)])
                failures += 1
                continue
            failures = 0
            self._session = session
            self._bound.set()
            log.info("bound to the SMSC", provider=self.name)
            try:
                self._why_not_bound = await session.run()
            except Exception as error:
                # Without this task nobody would ever connect again.
                log.exception("a session ended in a way of its own", provider=self.name)
                self._why_not_bound = repr(error)
            finally:
                self._bound.clear()
                self._session = None
            log.warning("the connection to the SMSC ended", provider=self.name, detail=self._why_not_bound)
            await asyncio.sleep(RECONNECT_SECONDS[0])


class Session:
    """One bound connection."""

    def __init__(
        self,
        provider: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answer_seconds: float,
        accept: Accept,
        clock: Clock,
        failpoints: Failpoints,
    ) -> None:
        self._provider = provider
        self._reader = reader
        self._wire = OnePiece(writer)
        self._answer_seconds = answer_seconds
        self._accept = accept
        self._clock = clock
        self._failpoints = failpoints
        self._ended = False
        self._unread = bytearray()
        self._sequence = 0
        self._awaited: dict[int, Asked] = {}
        """By sequence number, in the order in which they were asked."""
        self._doubted = asyncio.Event()
        self._receipts: asyncio.Queue[tuple[int, Receipt]] = asyncio.Queue(RECEIPTS_WAITING_MAX)

    @classmethod
    async def open(
        cls,
        provider: str,
        host: str,
        port: int,
        bind: BindTransceiver,
        answer_seconds: float,
        accept: Accept,
        clock: Clock,
        failpoints: Failpoints,
    ) -> "Session":
        """Connect and bind. OSError, TimeoutError, IncompleteReadError or NotBound if that fails."""
        async with asyncio.timeout(answer_seconds):
            reader, writer = await asyncio.open_connection(host, port)
            session = cls(provider, reader, writer, answer_seconds, accept, clock, failpoints)
            try:
                await session._take_bind(bind)
            except BaseException:
                session._wire.close()
                raise
        return session

    @property
    def is_open(self) -> bool:
        """Whether what is submitted now is written at all."""
        return not self._ended and not self._wire.is_closing()

    async def submit(self, body: bytes) -> tuple[int, str]:
        """Status and message id of the answer. TimeoutError or Lost if none is read: it may have been accepted."""
        answer = self._ask(SmppCommand.SUBMIT_SM, body)
        try:
            if self._failpoints.armed(Point.ON_THE_WIRE):
                await asyncio.sleep(0)  # it is written at the end of this turn
                await self._failpoints.reach(Point.ON_THE_WIRE, Lost)
            status, said = await answer
        except TimeoutError:
            self._doubted.set()
            raise
        finally:
            answer.cancel()
        return status, _text(said.partition(b"\0")[0][:_MESSAGE_ID_LENGTH_MAX])

    async def run(self) -> str:
        """Serve the connection until it ends; why it did. Whoever still waits for an answer gets Lost."""
        work = [
            asyncio.create_task(each)
            for each in (self._read(), self._enquire(), self._give_up(), self._keep_receipts())
        ]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            ended = next(iter(done)).exception()
            return str(ended) or repr(ended)
        finally:
            self._ended = True
            self._write(Unbind(), self._next_sequence())
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            self._wire.close()
            for asked in self._awaited.values():
                if not asked.answer.done():
                    asked.answer.set_exception(Lost())

    async def _take_bind(self, bind: BindTransceiver) -> None:
        self._write(bind, self._next_sequence())
        command, status, _, _ = await self._read_pdu()
        if command != SmppCommand.BIND_TRANSCEIVER_RESP:
            raise NotBound(f"the SMSC answered the bind with command 0x{command:08x}, status 0x{status:02x}")
        if status != Status.ESME_ROK:
            raise NotBound(f"the SMSC refused the bind with status 0x{status:02x}")

    async def _read(self) -> None:
        while True:
            command, status, sequence, body = await self._read_pdu()
            if command & _RESPONSE:
                self._take_answer(command, status, sequence, body)
            elif command == SmppCommand.DELIVER_SM:
                self._take_delivery(sequence, body)
            elif command == SmppCommand.ENQUIRE_LINK:
                self._write(EnquireLinkResp(), sequence)
            elif command == SmppCommand.UNBIND:
                self._write(UnbindResp(), sequence)
                raise Lost("the SMSC unbound")
            else:
                self._write(GenericNack(command_status=Status.ESME_RINVCMDID), sequence)

    def _take_answer(self, command: int, status: int, sequence: int, body: bytes) -> None:
        asked = self._awaited.get(sequence)
        if asked is None or command not in (asked.command, SmppCommand.GENERIC_NACK):
            return
        del self._awaited[sequence]
        if command == SmppCommand.GENERIC_NACK:
            status = status or Status.ESME_RUNKNOWNERR
        if not asked.answer.done():
            asked.answer.set_result((status, body))

    async def _read_pdu(self) -> tuple[int, int, int, bytes]:
        until = None
        while (length := self._length()) is None or len(self._unread) < length:
            if self._unread and until is None:
                # A length that is too large would take in the PDUs that follow, and every answer with them.
                until = asyncio.get_running_loop().time() + self._answer_seconds
            async with asyncio.timeout_at(until):
                more = await self._reader.read(_READ_OCTETS)
            if not more:
                raise Lost("the SMSC closed the connection")
            self._unread += more
        _, command, status, sequence = _HEADER.unpack_from(self._unread)
        body = bytes(self._unread[_HEADER.size : length])
        del self._unread[:length]
        return command, status, sequence, body

    def _length(self) -> int | None:
        """How long the PDU is that comes next, once that is known."""
        if len(self._unread) < _HEADER.size:
            return None
        length: int = _HEADER.unpack_from(self._unread)[0]
        if not _HEADER.size <= length <= _LENGTH_MAX:
            raise Lost(f"the SMSC sent a PDU of {length} octets, after which nothing can be told apart")
        return length

    async def _enquire(self) -> None:
        while True:
            # At once when a message got no answer: into a dead connection, each further one would be an unknown.
            # Not wait_for: on Python 3.11 it forgets that it was cancelled where a doubt arises just then.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ENQUIRE_SECONDS):
                    await self._doubted.wait()
            self._doubted.clear()
            await self._ask(SmppCommand.ENQUIRE_LINK)

    async def _give_up(self) -> None:
        """Tell whoever has waited too long for an answer. All wait equally long: who asked first is first given up."""
        loop = asyncio.get_running_loop()
        while True:
            waits_seconds = self._answer_seconds
            for sequence, asked in list(self._awaited.items()):
                waits_seconds = asked.until_seconds - loop.time()
                if waits_seconds > 0:
                    break
                del self._awaited[sequence]
                if not asked.answer.done():
                    asked.answer.set_exception(TimeoutError())
            await asyncio.sleep(max(waits_seconds, 0.0))

    def _take_delivery(self, sequence: int, body: bytes) -> None:
        receipt = read_receipt(body, self._provider, self._clock)
        if receipt is None:
            # Nothing that we could tell anybody, and it would not become so by being sent again.
            self._write(DeliverSmResp(), sequence)
            return
        try:
            self._receipts.put_nowait((sequence, receipt))
        except asyncio.QueueFull:
            self._write(DeliverSmResp(command_status=Status.ESME_RMSGQFUL), sequence)

    async def _keep_receipts(self) -> None:
        """Acknowledge receipts once they are kept, many at a time; what can't be kept the SMSC sends again."""
        while True:
            taken = [await self._receipts.get()]
            await asyncio.sleep(GATHER_SECONDS)
            while not self._receipts.empty() and len(taken) < RECEIPTS_AT_ONCE_MAX:
                taken.append(self._receipts.get_nowait())
            status = Status.ESME_ROK
            try:
                await self._accept([receipt for _, receipt in taken])
            except StoreUnavailable as error:
                log.warning("receipts can't be kept now", provider=self._provider, detail=str(error))
                status = Status.ESME_RX_T_APPN
            answers = [_pdu(SmppCommand.DELIVER_SM_RESP, b"\0", sequence, status) for sequence, _ in taken]
            self._wire.write(b"".join(answers))

    def _ask(self, command: int, body: bytes = b"") -> asyncio.Future[tuple[int, bytes]]:
        """Write a request; the future gets status and body of its answer, TimeoutError, or Lost."""
        loop = asyncio.get_running_loop()
        sequence = self._next_sequence()
        answer: asyncio.Future[tuple[int, bytes]] = loop.create_future()
        self._awaited[sequence] = Asked(command | _RESPONSE, answer, loop.time() + self._answer_seconds)
        self._wire.write(_pdu(command, body, sequence))
        return answer

    def _write(self, message: SmppMessage, sequence: int) -> None:
        message.sequence_num = sequence
        self._wire.write(message.pdu())

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % 0x7FFF_FFFF + 1
        return self._sequence


def _pdu(command: int, body: bytes, sequence: int, status: int = 0) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), command, status, sequence) + body


def _address(ton: TON, npi: NPI, number: str) -> bytes:
    return bytes((ton, npi)) + number.encode("ascii") + b"\0"


def read_receipt(body: bytes, provider: str, clock: Clock) -> Receipt | None:
    """The receipt in the body of a deliver_sm; None if it holds none that tells an end, or can't be read."""
    with contextlib.suppress(ValueError, IndexError, struct.error):
        return _receipt(body, provider, clock)
    return None


def _receipt(body: bytes, provider: str, clock: Clock) -> Receipt | None:
    _, rest = _cut(body)  # service_type
    source, rest = _cut(rest[2:])
    _, rest = _cut(rest[2:])  # destination
    esm_class = rest[0]
    if esm_class & 0x3C != 0x04:
        return None  # somebody's answer, and nobody reads those
    _, rest = _cut(rest[3:])  # schedule_delivery_time
    _, rest = _cut(rest)  # validity_period
    length, rest = rest[4], rest[5:]
    fields = _fields_behind(rest[length:])
    said = _FIELD.findall(_text(rest[:length] or fields.get(_MESSAGE_PAYLOAD, b"")))
    text = {name.lower(): value for name, value in reversed(said)}
    named = fields.get(_RECEIPTED_MESSAGE_ID, b"").rstrip(b"\0")
    message_id = _text(named) or text.get("id", "")
    state = text.get("stat", "").upper() or _STATES.get(int.from_bytes(fields.get(_MESSAGE_STATE, b"")), "")
    if not 0 < len(message_id) <= _MESSAGE_ID_LENGTH_MAX or (state != "DELIVRD" and state not in FAILURES):
        return None
    ours = fields.get(USER_MESSAGE_REFERENCE, b"")
    digits = _text(source)
    return Receipt(
        provider=provider,
        message_id=message_id,
        failure=FAILURES.get(state),
        received_at=clock.now(),
        recipient=f"+{digits.removeprefix('+')}" if digits else None,
        user_message_reference=int.from_bytes(ours) if len(ours) == 2 else None,
    )


def _cut(octets: bytes) -> tuple[bytes, bytes]:
    end = octets.index(b"\0")
    return octets[:end], octets[end + 1 :]


def _fields_behind(octets: bytes) -> dict[int, bytes]:
    """The optional parameters, as far as they are whole."""
    fields: dict[int, bytes] = {}
    while len(octets) >= 4:
        tag, length = struct.unpack_from(">HH", octets)
        fields[tag] = octets[4 : 4 + length]
        octets = octets[4 + length :]
    return fields


def _text(octets: bytes) -> str:
    return octets.decode("ascii", "replace")


def _kind_of_sender(sender: str) -> tuple[TON, NPI]:
    if not sender.isdigit():
        return TON.ALPHANUMERIC, NPI.UNKNOWN
    return (TON.NETWORK_SPECIFIC, NPI.UNKNOWN) if len(sender) <= 6 else (TON.INTERNATIONAL, NPI.ISDN)
