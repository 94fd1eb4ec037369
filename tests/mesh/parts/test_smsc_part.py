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
from deploy.local.smsc import RecordingSmsc, SmscFaults

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

ANSWER_SECONDS = 10.0


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
        self.body = b""  # of the last PDU heard

    def send(self, command: int, body: bytes = b"", *, sequence: int = 1, length: int | None = None) -> None:
        size = 16 + len(body) if length is None else length
        self._writer.write(struct.pack(">IIII", size, command, 0, sequence) + body)

    async def hear(self) -> tuple[int, int, int]:
        """Command, status and sequence of the next PDU."""
        _, *header = await self.header()
        return header[0], header[1], header[2]

    async def header(self) -> tuple[int, int, int, int]:
        """The next PDU's length, command, status and sequence, whether the length can be or not."""
        async with asyncio.timeout(ANSWER_SECONDS):
            length, command, status, sequence = struct.unpack(">IIII", await self._reader.readexactly(16))
            if length < 65_536:
                self.body = await self._reader.readexactly(length - 16)
        return length, command, status, sequence

    async def ended(self) -> bool:
        async with asyncio.timeout(ANSWER_SECONDS):
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


async def submit(smsc: RecordingSmsc, raw: RawClient, faults: SmscFaults) -> None:
    """Bind, and hand over one message while these faults are made."""
    smsc.set_faults(faults)
    await raw.bind(smsc)
    raw.send(SUBMIT_SM, SUBMISSION, sequence=2)


@pytest.mark.parametrize(
    ("faults", "status"),
    [
        pytest.param(SmscFaults(throttle_share=1), 0x58, id="throttled"),
        pytest.param(SmscFaults(error_share=1), 0x08, id="system error"),
        pytest.param(SmscFaults(refuse_share=1), 0x0A, id="refused"),
    ],
)
async def test_a_submission_that_is_refused_as_scripted_is_not_on_record(
    smsc: RecordingSmsc, raw: RawClient, faults: SmscFaults, status: int
) -> None:
    await submit(smsc, raw, faults)
    assert await raw.hear() == (SUBMIT_SM_RESP, status, 2)
    assert smsc.accepted() == []
    smsc.clear_faults()
    raw.send(SUBMIT_SM, SUBMISSION, sequence=3)
    assert await raw.hear() == (SUBMIT_SM_RESP, 0, 3)
    assert len(smsc.accepted()) == 1


@pytest.mark.parametrize(
    ("faults", "taken"),
    [
        pytest.param(SmscFaults(cut_before_share=1), 0, id="before it is taken"),
        pytest.param(SmscFaults(cut_share=1), 1, id="after it is taken"),
    ],
)
async def test_a_connection_that_is_cut_leaves_the_sender_without_an_answer(
    smsc: RecordingSmsc, raw: RawClient, faults: SmscFaults, taken: int
) -> None:
    await submit(smsc, raw, faults)
    assert await raw.ended()
    assert len(smsc.accepted()) == taken
    assert "Traceback" not in smsc.process.log_path.read_text()


@pytest.mark.parametrize(
    ("faults", "length", "command", "sequence"),
    [
        pytest.param(SmscFaults(unknown_command_share=1), 33, 0x8000_7777, 2, id="unknown command"),
        pytest.param(SmscFaults(bad_length_share=1), 0x8000_0000, SUBMIT_SM_RESP, 2, id="length that cannot be"),
        pytest.param(SmscFaults(wrong_sequence_share=1), 33, SUBMIT_SM_RESP, 1_000_002, id="sequence of another"),
    ],
)
async def test_an_answer_that_cannot_be_understood_is_given_to_a_submission_that_was_taken(
    smsc: RecordingSmsc, raw: RawClient, faults: SmscFaults, length: int, command: int, sequence: int
) -> None:
    await submit(smsc, raw, faults)
    assert await raw.header() == (length, command, 0, sequence)
    assert len(smsc.accepted()) == 1


async def test_an_answer_that_is_delayed_keeps_nothing_else_waiting(
    smsc: RecordingSmsc, raw: RawClient, eventually: "Eventually"
) -> None:
    await submit(smsc, raw, SmscFaults(answer_delay_ms=60_000, receipt="none"))
    raw.send(ENQUIRE_LINK, sequence=3)
    assert await raw.hear() == (ENQUIRE_LINK_RESP, 0, 3)  # and nothing came before it
    raw.send(SUBMIT_SM, SUBMISSION, sequence=4)
    await eventually(lambda: len(smsc.accepted()) == 2, within_seconds=10)
    smsc.set_faults(SmscFaults(answer_delay_ms=1, receipt="none"))
    raw.send(SUBMIT_SM, SUBMISSION, sequence=5)
    assert await raw.hear() == (SUBMIT_SM_RESP, 0, 5)


def receipt_in(body: bytes) -> dict[str, str]:
    """The fields `id` and `stat` of a receipt's text."""
    return {key: body.partition(f"{key}:".encode())[2].split(b" ")[0].decode() for key in ("id", "stat")}


async def receipts(raw: RawClient, count: int) -> list[dict[str, str]]:
    """What the next `count` PDUs say, each a receipt; each is answered."""
    said = []
    for _ in range(count):
        command, _, sequence = await raw.hear()
        assert command == DELIVER_SM
        said.append(receipt_in(raw.body))
        raw.send(DELIVER_SM | 0x8000_0000, b"\0", sequence=sequence)
    return said


async def nothing_more(raw: RawClient) -> None:
    """The next that comes is the answer to what we ask now."""
    raw.send(ENQUIRE_LINK, sequence=99)
    assert await raw.hear() == (ENQUIRE_LINK_RESP, 0, 99)


async def test_a_receipt_that_comes_twice_says_the_same_twice(smsc: RecordingSmsc, raw: RawClient) -> None:
    await submit(smsc, raw, SmscFaults(receipt="twice"))
    assert await raw.hear() == (SUBMIT_SM_RESP, 0, 2)
    [accepted] = smsc.accepted()
    assert await receipts(raw, 2) == [{"id": accepted["message_id"], "stat": "DELIVRD"}] * 2
    await nothing_more(raw)


async def test_an_early_receipt_comes_before_the_answer(smsc: RecordingSmsc, raw: RawClient) -> None:
    smsc.set_faults(SmscFaults(receipt="early"))
    await raw.bind(smsc)
    raw.send(SUBMIT_SM, SUBMISSION, sequence=2)
    [receipt] = await receipts(raw, 1)
    assert await raw.hear() == (SUBMIT_SM_RESP, 0, 2)
    assert receipt == {"id": smsc.accepted()[0]["message_id"], "stat": "DELIVRD"}


async def test_a_late_receipt_comes_after_those_of_later_messages(smsc: RecordingSmsc, raw: RawClient) -> None:
    await submit(smsc, raw, SmscFaults(receipt="late", receipt_delay_ms=1_000))
    assert await raw.hear() == (SUBMIT_SM_RESP, 0, 2)
    smsc.clear_faults()
    raw.send(SUBMIT_SM, SUBMISSION, sequence=3)
    assert await raw.hear() == (SUBMIT_SM_RESP, 0, 3)
    first, second = (accepted["message_id"] for accepted in smsc.accepted())
    assert [receipt["id"] for receipt in await receipts(raw, 2)] == [second, first]


async def test_a_message_without_a_receipt_is_followed_by_one_with(smsc: RecordingSmsc, raw: RawClient) -> None:
    await submit(smsc, raw, SmscFaults(receipt="none"))
    assert await raw.hear() == (SUBMIT_SM_RESP, 0, 2)
    smsc.clear_faults()
    raw.send(SUBMIT_SM, SUBMISSION, sequence=3)
    assert await raw.hear() == (SUBMIT_SM_RESP, 0, 3)
    assert [receipt["id"] for receipt in await receipts(raw, 1)] == [smsc.accepted()[1]["message_id"]]


async def test_a_message_that_failed_is_said_to_be_undeliverable(smsc: RecordingSmsc, raw: RawClient) -> None:
    await submit(smsc, raw, SmscFaults(receipt="failed"))
    assert await raw.hear() == (SUBMIT_SM_RESP, 0, 2)
    [accepted] = smsc.accepted()
    assert await receipts(raw, 1) == [{"id": accepted["message_id"], "stat": "UNDELIV"}]
    assert b"\x04\x27\x00\x01\x05" in raw.body  # message_state: undeliverable


async def test_forged_receipts_name_nothing_that_was_sent_and_come_before_the_true_one(
    smsc: RecordingSmsc, raw: RawClient
) -> None:
    await submit(smsc, raw, SmscFaults(receipt="forged"))
    assert await raw.hear() == (SUBMIT_SM_RESP, 0, 2)
    [accepted] = smsc.accepted()
    *forged, true = await receipts(raw, 4)
    assert true == {"id": accepted["message_id"], "stat": "DELIVRD"}
    assert [receipt["stat"] for receipt in forged] == ["UNDELIV", "UNDELIV", "HUH"]
    assert accepted["message_id"] not in [receipt["id"] for receipt in forged]
    assert forged[1]["id"].startswith("SMSC/")


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
