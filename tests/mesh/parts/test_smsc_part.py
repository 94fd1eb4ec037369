"""Our SMSC against a client that others wrote, against octets written by hand; and theirs against the same client."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from aiosmpplib import ESME, AbstractHook, BindMode, DeliverSm, PhoneNumber, SubmitSm, SubmitSmResp
from aiosmpplib.protocol import SmppMessage
from aiosmpplib.state import (
    RECEIPTED_MESSAGE_ID,
    SAR_MSG_REF_NUM,
    SAR_SEGMENT_SEQNUM,
    SAR_TOTAL_SEGMENTS,
    USER_MESSAGE_REFERENCE,
    OptionalParam,
    SmppCommandStatus,
)

from deploy.local.jsmpp import JsmppSimulator
from deploy.local.smsc import RecordingSmsc

if TYPE_CHECKING:
    from tests.mesh.parts.conftest import Eventually

# The client library drops its socket on stop without closing it, and leaves that to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

M = TypeVar("M", bound=SmppMessage)

CITIZEN = PhoneNumber("+25377123456")
ENQUIRE_LINK = 0x15
ENQUIRE_LINK_RESP = 0x8000_0015
GENERIC_NACK = 0x8000_0000
BIND_TRANSCEIVER = 0x09
BIND_TRANSCEIVER_RESP = 0x8000_0009
SUBMIT_SM = 0x04
SUBMIT_SM_RESP = 0x8000_0004
DELIVER_SM = 0x05


class Heard(AbstractHook):  # type: ignore[misc]
    """Everything that the client received, by kind."""

    def __init__(self) -> None:
        self.messages: list[SmppMessage] = []

    def of(self, kind: type[M]) -> list[M]:
        return [message for message in self.messages if type(message) is kind]

    async def sending(self, smpp_message: SmppMessage, pdu: bytes, client_id: str) -> None: ...

    async def received(self, smpp_message: SmppMessage | None, pdu: bytes, client_id: str) -> None:
        if smpp_message:
            self.messages.append(smpp_message)

    async def send_error(self, smpp_message: SmppMessage, error: Exception, client_id: str) -> None:
        raise error


@asynccontextmanager
async def bound(
    smsc: RecordingSmsc | JsmppSimulator, mode: BindMode = BindMode.TRANSCEIVER
) -> AsyncIterator[tuple[ESME, Heard]]:
    heard = Heard()
    client = ESME(smsc.host, smsc.port, smsc.system_id, smsc.password, bind_mode=mode, hook=heard, log_level="ERROR")
    session = asyncio.create_task(client.start())
    try:
        yield client, heard
    finally:
        await client.stop()
        await session


@asynccontextmanager
async def started(directory: Path, receipt_delay_ms: int = 0) -> AsyncIterator[RecordingSmsc]:
    smsc = RecordingSmsc(directory, receipt_delay_ms=receipt_delay_ms)
    try:
        await smsc.start()
        yield smsc
    finally:
        await smsc.stop()


@pytest.fixture
async def smsc(tmp_path: Path) -> AsyncIterator[RecordingSmsc]:
    async with started(tmp_path) as running:
        yield running


def sms(text: str, **more: Any) -> SubmitSm:
    more = {"destination": CITIZEN, "registered_delivery": 1, **more}
    return SubmitSm(short_message=text, source=PhoneNumber("GUICHET"), **more)


async def test_an_accepted_message_is_on_record_and_gets_its_receipt(
    smsc: RecordingSmsc, eventually: "Eventually"
) -> None:
    async with bound(smsc) as (client, heard):
        await client.broker.enqueue(sms("Déposé: 5 €", optional_params=[OptionalParam(USER_MESSAGE_REFERENCE, 4711)]))
        await eventually(lambda: bool(heard.of(DeliverSm)), within_seconds=10)
    [answer], [receipt], [accepted] = heard.of(SubmitSmResp), heard.of(DeliverSm), smsc.accepted()
    assert answer.message_id == accepted["message_id"]
    assert accepted["source"] == "GUICHET"
    assert accepted["destination"] == CITIZEN.number
    assert accepted["data_coding"] == 0
    assert accepted["text"] == "Déposé: 5 €"
    assert accepted["user_message_reference"] == 4711
    assert accepted["part"] is None
    said = receipt.parse_receipt()
    assert (said["id"], said["stat"], said["err"]) == (answer.message_id, "DELIVRD", 0)
    carried = {param.tag: param.value for param in receipt.optional_params or []}
    assert carried[RECEIPTED_MESSAGE_ID] == answer.message_id
    assert carried[USER_MESSAGE_REFERENCE] == 4711


async def test_text_beyond_the_gsm_alphabet_is_recorded_as_it_was_written(
    smsc: RecordingSmsc, eventually: "Eventually"
) -> None:
    async with bound(smsc) as (client, _):
        await client.broker.enqueue(sms("طلبك جاهز", encoding="ucs2"))
        await eventually(lambda: bool(smsc.accepted()), within_seconds=10)
    [accepted] = smsc.accepted()
    assert (accepted["data_coding"], accepted["text"]) == (8, "طلبك جاهز")


async def test_each_part_of_a_long_message_says_which_part_it_is(smsc: RecordingSmsc, eventually: "Eventually") -> None:
    text = "0123456789" * 20
    async with bound(smsc) as (client, _):
        for number, part in enumerate((text[:150], text[150:]), start=1):
            places = {SAR_MSG_REF_NUM: 7, SAR_TOTAL_SEGMENTS: 2, SAR_SEGMENT_SEQNUM: number}
            params = [OptionalParam(tag, value) for tag, value in places.items()]
            await client.broker.enqueue(sms(part, optional_params=params))
        await eventually(lambda: len(smsc.accepted()) == 2, within_seconds=10)
    accepted = smsc.accepted()
    assert [one["part"] for one in accepted] == [{"reference": 7, "total": 2, "number": n} for n in (1, 2)]
    assert "".join(one["text"] for one in accepted) == text


async def test_a_refused_destination_is_told_so_and_not_on_record(
    smsc: RecordingSmsc, eventually: "Eventually"
) -> None:
    async with bound(smsc) as (client, heard):
        await client.broker.enqueue(sms("nobody", destination=PhoneNumber("+25377120000")))
        await eventually(lambda: bool(heard.of(SubmitSmResp)), within_seconds=10)
    assert [answer.command_status for answer in heard.of(SubmitSmResp)] == [SmppCommandStatus.ESME_RINVDSTADR]
    assert smsc.accepted() == []


async def test_a_receipt_waits_for_a_receiver_and_is_not_sent_without_being_asked_for(
    smsc: RecordingSmsc, eventually: "Eventually"
) -> None:
    async with bound(smsc, BindMode.TRANSMITTER) as (client, _):
        await client.broker.enqueue(sms("unasked", registered_delivery=0))
        await client.broker.enqueue(sms("asked"))
        await eventually(lambda: len(smsc.accepted()) == 2, within_seconds=10)
    async with bound(smsc, BindMode.RECEIVER) as (_, heard):
        await eventually(lambda: bool(heard.of(DeliverSm)), within_seconds=10)
    [receipt] = heard.of(DeliverSm)
    assert receipt.parse_receipt()["id"] == smsc.accepted()[1]["message_id"]


async def test_the_record_is_complete_after_a_kill(tmp_path: Path, eventually: "Eventually") -> None:
    async with started(tmp_path, receipt_delay_ms=60_000) as smsc:
        async with bound(smsc) as (client, heard):
            for number in range(50):
                await client.broker.enqueue(sms(f"message {number}"))
            await eventually(lambda: len(heard.of(SubmitSmResp)) == 50, within_seconds=10)
            await smsc.kill()
        answered = {answer.message_id for answer in heard.of(SubmitSmResp)}
        assert {accepted["message_id"] for accepted in smsc.accepted()} == answered
        assert len(answered) == 50


class RawClient:
    """Octets on a connection, for what no library would send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, command: int, body: bytes = b"", *, sequence: int = 1, length: int | None = None) -> None:
        size = 16 + len(body) if length is None else length
        self._writer.write(struct.pack(">IIII", size, command, 0, sequence) + body)

    async def hear(self) -> tuple[int, int, int]:
        """Command, status and sequence of the next PDU."""
        length, command, status, sequence = struct.unpack(">IIII", await self._reader.readexactly(16))
        await self._reader.readexactly(length - 16)
        return command, status, sequence

    async def ended(self) -> bool:
        return await self._reader.read() == b""

    async def bind(self, smsc: RecordingSmsc) -> tuple[int, int, int]:
        body = f"{smsc.system_id}\0{smsc.password}\0\0".encode() + b"\x34\0\0\0"
        self.send(BIND_TRANSCEIVER, body)
        return await self.hear()

    def close(self) -> None:
        self._writer.close()


@pytest.fixture
async def raw(smsc: RecordingSmsc) -> AsyncIterator[RawClient]:
    client = RawClient(*await asyncio.open_connection(smsc.host, smsc.port))
    yield client
    client.close()


SUBMISSION = b"\0\0\0A\0\0\0+25377123456\0\0\0\0\0\0\x01\0\0\0\x02hi"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(SUBMISSION[:-1], id="shorter than it says"),
        pytest.param(SUBMISSION + b"\x02\x04\x00\x09x", id="parameter beyond the end"),
        pytest.param(b"x" * 300, id="string without end"),
        pytest.param(SUBMISSION.replace(b"6\0\0", b"6\0\x40").replace(b"hi", b"\x7fi"), id="header beyond the end"),
    ],
)
async def test_a_malformed_submission_is_nacked_and_the_session_goes_on(
    smsc: RecordingSmsc, raw: RawClient, body: bytes
) -> None:
    assert await raw.bind(smsc) == (BIND_TRANSCEIVER_RESP, 0, 1)
    raw.send(SUBMIT_SM, body, sequence=2)
    assert (await raw.hear())[::2] == (GENERIC_NACK, 2)
    raw.send(SUBMIT_SM, SUBMISSION, sequence=3)
    assert await raw.hear() == (SUBMIT_SM_RESP, 0, 3)
    assert [accepted["text"] for accepted in smsc.accepted()] == ["hi"]


async def test_a_length_that_cannot_be_is_nacked_and_ends_only_that_connection(
    smsc: RecordingSmsc, raw: RawClient
) -> None:
    raw.send(ENQUIRE_LINK, sequence=5, length=0xFFFF_FFFF)
    assert (await raw.hear())[::2] == (GENERIC_NACK, 5)
    assert await raw.ended()
    assert smsc.process.alive


async def test_an_unknown_command_is_nacked(raw: RawClient) -> None:
    raw.send(0x0000_7777, sequence=6)
    assert await raw.hear() == (GENERIC_NACK, 0x03, 6)


async def test_nothing_is_taken_before_a_bind_and_a_bind_needs_the_password(
    smsc: RecordingSmsc, raw: RawClient
) -> None:
    raw.send(ENQUIRE_LINK)
    assert await raw.hear() == (ENQUIRE_LINK_RESP, 0, 1)
    raw.send(SUBMIT_SM, SUBMISSION, sequence=2)
    assert await raw.hear() == (SUBMIT_SM_RESP, 0x04, 2)
    raw.send(BIND_TRANSCEIVER, f"{smsc.system_id}\0wrong\0\0".encode() + b"\x34\0\0\0", sequence=3)
    assert await raw.hear() == (BIND_TRANSCEIVER_RESP, 0x0E, 3)
    assert smsc.accepted() == []


async def test_a_receipt_that_was_not_answered_is_sent_again_to_the_next_receiver(smsc: RecordingSmsc) -> None:
    for fate in ("not answered", "sent again"):
        client = RawClient(*await asyncio.open_connection(smsc.host, smsc.port))
        assert await client.bind(smsc) == (BIND_TRANSCEIVER_RESP, 0, 1)
        if fate == "not answered":
            client.send(SUBMIT_SM, SUBMISSION, sequence=2)
            assert await client.hear() == (SUBMIT_SM_RESP, 0, 2)
        assert (await client.hear())[0] == DELIVER_SM
        client.close()


async def test_the_simulator_of_jsmpp_takes_a_message_and_sends_its_receipt(
    tmp_path: Path, eventually: "Eventually"
) -> None:
    simulator = JsmppSimulator(tmp_path)
    try:
        await simulator.start()
        async with bound(simulator) as (client, heard):
            await client.broker.enqueue(sms("bonjour"))
            await eventually(lambda: any(one.is_receipt() for one in heard.of(DeliverSm)), within_seconds=15)
        [answer] = heard.of(SubmitSmResp)
        [receipt] = [one for one in heard.of(DeliverSm) if one.is_receipt()]
        assert answer.command_status is SmppCommandStatus.ESME_ROK
        # Two habits of real centres: parameters after the id, which the client takes for a part of it, and an id
        # that is hexadecimal in the answer and decimal in the receipt.
        assert int(answer.message_id.split("\0")[0], 16) == int(receipt.parse_receipt()["id"])
    finally:
        await simulator.stop()
