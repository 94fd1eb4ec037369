"""A small SMSC: takes short messages by SMPP 3.4, writes each acceptance down, and sends receipts.

As a program: `python -m deploy.local.smsc --port 2775 --log accepted.jsonl`. It delivers to nobody. It makes the
faults that the file of `--faults` asks for (see SmscFaults), and from the moment that it does.
"""

import argparse
import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from deploy.local import pdu
from deploy.local.faults import Faults, Script, Share
from deploy.local.journal import Journal, read_journal
from deploy.local.pdu import Command, Malformed, Pdu, Status, Submission
from deploy.local.ports import LOOPBACK, free_port, listens
from deploy.local.process import Process, module_argv, project_env

_NOT_TAKEN = {"throttle": Status.THROTTLED, "error": Status.SYSTEM_ERROR, "refuse": Status.INVALID_SOURCE}
_UNKNOWN_COMMAND = 0x8000_7777
_IMPOSSIBLE_LENGTH = 0x8000_0000
_SEQUENCES_AWAY = 1_000_000  # where no request has come to yet

_RECEIPT_WANTED = 0x01  # registered_delivery, bits 0 and 1: a receipt whatever the outcome
_TAKES_RECEIPTS = (Command.BIND_RECEIVER, Command.BIND_TRANSCEIVER)
_MAY_SUBMIT = (Command.BIND_TRANSMITTER, Command.BIND_TRANSCEIVER)
_RECEIPTS_WAITING_MAX = 100_000  # then the oldest is forgotten, as with a real centre's validity period


@dataclass(frozen=True, slots=True)
class _Fate:
    """What a receipt says of a message."""

    stat: str
    delivered: int
    error: int
    message_state: bytes


_DELIVERED = _Fate("DELIVRD", 1, 0, b"\x02")
_UNDELIVERABLE = _Fate("UNDELIV", 0, 1, b"\x05")


@dataclass(frozen=True, slots=True)
class Policy:
    system_id: str
    password: str
    receipt_delay_seconds: float
    refuse_suffix: str
    """Destinations that end so are refused as invalid. Empty: none."""


class SmscFaults(Faults):
    """What befalls a submission, and what becomes of its receipt."""

    throttle_share: Share = 0.0
    """Not taken: ESME_RTHROTTLED (0x58)."""
    error_share: Share = 0.0
    """Not taken: ESME_RSYSERR (0x08)."""
    refuse_share: Share = 0.0
    """Not taken, for a reason that is this provider's own: ESME_RINVSRCADR (0x0A). Another may take it."""
    cut_before_share: Share = 0.0
    """Not taken: the connection is closed."""
    cut_share: Share = 0.0
    """Taken, and then the connection is closed without an answer."""
    unknown_command_share: Share = 0.0
    """Taken, and answered by a command that does not exist."""
    bad_length_share: Share = 0.0
    """Taken, and answered by a length that cannot be, after which no next PDU can be found."""
    wrong_sequence_share: Share = 0.0
    """Taken, and answered as if it were another submission."""

    answer_delay_ms: int = Field(default=0, ge=0)
    """What the answer to each submission waits for; others are read and taken meanwhile."""

    receipt: Literal["normal", "twice", "late", "early", "none", "failed", "forged"] = "normal"
    """`late`: after `receipt_delay_ms`. `early`: before the answer. `failed`: UNDELIV. `forged`: after three others, of
    UNDELIV too, for messages that nobody sent: an id of our kind, an id of another kind, broken fields."""
    receipt_delay_ms: int = Field(default=5_000, ge=0)


class Smsc:
    """What the sessions share: the journal, the script of faults, and the receipts that no receiver has taken yet."""

    def __init__(self, policy: Policy, journal: Journal, script: Script[SmscFaults]) -> None:
        self.policy = policy
        self.script = script
        self._journal = journal
        self._receivers: list[Session] = []
        self._waiting: deque[bytes] = deque(maxlen=_RECEIPTS_WAITING_MAX)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it ends."""
        session = Session(self, writer)
        try:
            await session.run(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the peer is gone, mid-sentence or not: its business
        finally:
            self.leave(session)
            writer.close()

    def join(self, session: "Session") -> None:
        """The session takes receipts from now on, and first those that waited. Joining again changes nothing."""
        if session not in self._receivers:
            self._receivers.append(session)
        while self._waiting:
            session.deliver(self._waiting.popleft())

    def leave(self, session: "Session") -> None:
        """The session ended; receipts that it did not answer will be sent again."""
        if session in self._receivers:
            self._receivers.remove(session)
        for receipt in session.unanswered():
            self._send(receipt)

    def accept(self, submission: Submission) -> str:
        """Write the acceptance down, and return the message id that the answer may now carry."""
        message_id = secrets.token_hex(8)
        self._journal.append(
            {
                "message_id": message_id,
                "source": submission.source.digits,
                "destination": submission.destination.digits,
                "data_coding": submission.data_coding,
                "esm_class": submission.esm_class,
                "registered_delivery": submission.registered_delivery,
                "user_message_reference": submission.user_message_reference,
                "part": asdict(submission.part) if submission.part else None,
                "text": submission.text,
                "octets": submission.octets.hex(),
            }
        )
        if submission.registered_delivery & 0x03 == _RECEIPT_WANTED:
            self._plan_receipt(submission, message_id)
        return message_id

    def _plan_receipt(self, submission: Submission, message_id: str) -> None:
        faults, delay_seconds = self.script.faults, self.policy.receipt_delay_seconds
        deliver = partial(self._deliver, submission, message_id, faults.receipt, datetime.now(UTC))
        if faults.receipt == "early":
            deliver()
            return
        if faults.receipt == "late":
            delay_seconds = faults.receipt_delay_ms / 1000
        asyncio.get_running_loop().call_later(delay_seconds, deliver)

    def _deliver(self, submission: Submission, message_id: str, fault: str, accepted: datetime) -> None:
        receipt = partial(_receipt, submission, message_id, accepted=accepted, done=datetime.now(UTC))
        match fault:
            case "none":
                return
            case "twice":
                self._send(receipt())
            case "forged":
                for forged in _forged(submission, datetime.now(UTC)):
                    self._send(forged)
        self._send(receipt(_UNDELIVERABLE if fault == "failed" else _DELIVERED))

    def _send(self, receipt: bytes) -> None:
        if self._receivers:
            self._receivers[-1].deliver(receipt)
        else:
            self._waiting.append(receipt)


class Cut(ConnectionError):
    """The script ends the connection here."""


class Session:
    """One connection: its bind, and the receipts on their way through it."""

    def __init__(self, smsc: Smsc, writer: asyncio.StreamWriter) -> None:
        self._smsc = smsc
        self._writer = writer
        self._bound: Command | None = None
        self._sequence = 0
        self._unanswered: dict[int, bytes] = {}
        self._answers: dict[int, Callable[[Pdu], Pdu]] = {
            Command.BIND_RECEIVER: self._bind,
            Command.BIND_TRANSMITTER: self._bind,
            Command.BIND_TRANSCEIVER: self._bind,
            Command.SUBMIT_SM: self._submit,
            Command.ENQUIRE_LINK: lambda request: request.response(Status.OK),
            Command.UNBIND: lambda request: request.response(Status.OK),
        }

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Answer until the peer unbinds, or sends a length after which no next PDU can be found."""
        while True:
            length, command, status, sequence = pdu.HEADER.unpack(await reader.readexactly(pdu.HEADER.size))
            framed = pdu.HEADER.size <= length <= pdu.LENGTH_MAX
            body = await reader.readexactly(length - pdu.HEADER.size) if framed else b""
            request = Pdu(command, status, sequence, body)
            if not framed:
                self._write(request.nack(Status.INVALID_COMMAND_LENGTH))
                return
            if command & pdu.RESPONSE:
                self._unanswered.pop(sequence, None)
                continue
            answer = self._answer(request)
            if command == Command.SUBMIT_SM and (delay_ms := self._smsc.script.faults.answer_delay_ms):
                asyncio.get_running_loop().call_later(delay_ms / 1000, self._write, answer)
            else:
                self._write(answer)
            await self._writer.drain()
            if command == Command.UNBIND:
                return
            if self._bound in _TAKES_RECEIPTS:
                self._smsc.join(self)

    def deliver(self, receipt: bytes) -> None:
        """Send a receipt, and remember it until it is answered."""
        self._sequence += 1
        self._unanswered[self._sequence] = receipt
        self._write(Pdu(Command.DELIVER_SM, Status.OK, self._sequence, receipt))

    def unanswered(self) -> list[bytes]:
        return list(self._unanswered.values())

    def _answer(self, request: Pdu) -> Pdu:
        answer = self._answers.get(request.command)
        if answer is None:
            return request.nack(Status.INVALID_COMMAND_ID)
        try:
            return answer(request)
        except Malformed:
            return request.nack(Status.INVALID_COMMAND_LENGTH)

    def _bind(self, request: Pdu) -> Pdu:
        system_id, password = pdu.bind_credentials(request.body)
        if self._bound:
            return request.response(Status.ALREADY_BOUND)
        if system_id != self._smsc.policy.system_id:
            return request.response(Status.INVALID_SYSTEM_ID)
        if password != self._smsc.policy.password:
            return request.response(Status.INVALID_PASSWORD)
        self._bound = Command(request.command)
        version = pdu.tlv(pdu.SC_INTERFACE_VERSION, b"\x34")
        return request.response(Status.OK, pdu.cstring("guichet") + version)

    def _submit(self, request: Pdu) -> Pdu:
        submission = Submission.decode(request.body)
        if self._bound not in _MAY_SUBMIT:
            return request.response(Status.INVALID_BIND_STATUS)
        suffix = self._smsc.policy.refuse_suffix
        if suffix and submission.destination.digits.endswith(suffix):
            return request.response(Status.INVALID_DESTINATION)
        fault = self._smsc.script.draw()
        if fault in _NOT_TAKEN:
            return request.response(_NOT_TAKEN[fault])
        if fault == "cut_before":
            raise Cut
        answer = request.response(Status.OK, pdu.cstring(self._smsc.accept(submission)))
        match fault:
            case "cut":
                raise Cut
            case "unknown_command":
                return replace(answer, command=_UNKNOWN_COMMAND)
            case "bad_length":
                return replace(answer, length=_IMPOSSIBLE_LENGTH)
            case "wrong_sequence":
                return replace(answer, sequence=answer.sequence + _SEQUENCES_AWAY)
        return answer

    def _write(self, message: Pdu) -> None:
        if not self._writer.is_closing():  # an answer that was delayed may come too late
            self._writer.write(message.encode())


class RecordingSmsc:
    """An SMSC in a process of its own on a free port; what it accepted is read back from its journal."""

    host = LOOPBACK
    system_id = "guichet"
    password = "guichet"  # noqa: S105 - of a part that only loopback reaches; SMPP takes eight characters at most

    def __init__(
        self, directory: Path, name: str = "smsc", *, receipt_delay_ms: int = 200, refuse_suffix: str = "0000"
    ) -> None:
        self.port = free_port()
        self.log = directory / f"{name}.jsonl"
        self._faults = directory / f"{name}-faults.json"
        self.process = Process(
            name,
            module_argv(
                "deploy.local.smsc",
                *("--port", self.port, "--log", self.log, "--faults", self._faults),
                *("--receipt-delay-ms", receipt_delay_ms, "--refuse-suffix", refuse_suffix),
                *("--system-id", self.system_id, "--password", self.password),
            ),
            env=project_env(),
            log_path=directory / f"{name}.log",
        )

    async def start(self) -> None:
        """Return when it takes connections. Raises PartFailed."""
        self.process.start()
        await self.process.answers(partial(listens, self.port), within_seconds=15.0)

    async def stop(self) -> None:
        await self.process.stop()

    async def kill(self) -> None:
        await self.process.kill()

    def set_faults(self, faults: SmscFaults) -> None:
        """Have these faults made from the next submission on, in place of those before; after a restart, too."""
        faults.write(self._faults)

    def clear_faults(self) -> None:
        """Have no more faults made."""
        self._faults.unlink(missing_ok=True)

    def accepted(self) -> list[dict[str, Any]]:
        """Every acceptance so far, oldest first; see `Smsc.accept` for the fields."""
        return read_journal(self.log)


def _receipt(
    submission: Submission, message_id: str, fate: _Fate = _DELIVERED, *, accepted: datetime, done: datetime
) -> bytes:
    text = (
        f"id:{message_id} sub:001 dlvrd:{fate.delivered:03} "
        f"submit date:{accepted:%y%m%d%H%M} done date:{done:%y%m%d%H%M} "
        f"stat:{fate.stat} err:{fate.error:03} text:{(submission.text or '')[:20]}"
    )
    tlvs = {pdu.RECEIPTED_MESSAGE_ID: pdu.cstring(message_id), pdu.MESSAGE_STATE: fate.message_state}
    if pdu.USER_MESSAGE_REFERENCE in submission.tlvs:  # all that a sender has to go by who never saw our answer
        tlvs[pdu.USER_MESSAGE_REFERENCE] = submission.tlvs[pdu.USER_MESSAGE_REFERENCE]
    return pdu.delivery(submission.destination, submission.source, text, tlvs)


def _forged(submission: Submission, now: datetime) -> list[bytes]:
    """Receipts that claim to be for the sender of a submission, and are for nothing that was ever sent."""
    unreferenced = replace(submission, tlvs={})
    nobodys = (secrets.token_hex(8), f"SMSC/{secrets.randbelow(10**9)}")
    broken = f"id:{secrets.token_hex(8)} sub:x dlvrd: submit date:9999999999 done date: stat:HUH err"
    return [
        *(_receipt(unreferenced, identity, _UNDELIVERABLE, accepted=now, done=now) for identity in nobodys),
        pdu.delivery(submission.destination, submission.source, broken, {}),
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.smsc", description=__doc__)
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True, help="file that acceptances are appended to, as JSON lines")
    parser.add_argument("--faults", type=Path, help="file that says, as JSON, which faults to make; it may change")
    parser.add_argument("--receipt-delay-ms", type=int, default=200)
    parser.add_argument("--refuse-suffix", default="", help="destinations that end so are refused as invalid")
    parser.add_argument("--system-id", default=RecordingSmsc.system_id)
    parser.add_argument("--password", default=RecordingSmsc.password)
    return parser.parse_args()


async def _main() -> None:
    asked = _arguments()
    policy = Policy(asked.system_id, asked.password, asked.receipt_delay_ms / 1000, asked.refuse_suffix)
    with Journal(asked.log) as journal:
        smsc = Smsc(policy, journal, Script(SmscFaults, asked.faults))
        server = await asyncio.start_server(smsc.serve, asked.host, asked.port)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
