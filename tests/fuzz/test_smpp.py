"""What notify makes of whatever an SMSC says: one answer a submission, and it comes back by itself."""

import asyncio
import contextlib
import itertools
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.local import faults, pdu
from deploy.local.journal import Journal, read_journal
from deploy.local.pdu import Command, Pdu, Status
from deploy.local.ports import LOOPBACK
from deploy.local.smsc import Policy, Smsc, SmscFaults
from services.notify.domain import Notification
from services.notify.ports import Answer, Declined, Later, Refused, Sent, ShortMessage, Unknown
from services.notify.providers.smpp import SmppProvider
from services.notify.sms import PARTS_MAX, encode
from shared.clock import SystemClock
from shared.contract.events import Applicant, Card, Language, RequestAccepted, RequestAcceptedData, Timeline
from shared.store.sqlite import SqliteStore
from tests.fuzz.budget import fuzz, round_of
from tests.fuzz.conftest import Run
from tests.fuzz.peers import listening
from tests.mesh.notify.conftest import Counter

ANSWER_SECONDS = 0.5
CLOCK = SystemClock()


@dataclass(frozen=True, slots=True)
class Said:
    """A PDU as a fuzzed SMSC says it: `sequence` is added to that of what it answers, `length` is said, true or not."""

    command: int
    status: int = 0
    sequence: int = 0
    body: bytes = b""
    length: int | None = None

    def octets(self, sequence: int) -> bytes:
        length = pdu.HEADER.size + len(self.body) if self.length is None else self.length
        number = (sequence + self.sequence) & 0xFFFF_FFFF
        return pdu.HEADER.pack(length, self.command, self.status, number) + self.body

    def accepts(self) -> bool:
        """Whether it accepts a message: the one that it answers, or a neighbour, which may wait for its answer, too."""
        return (self.command, self.status) == (Command.SUBMIT_SM | pdu.RESPONSE, 0) and -1 <= self.sequence <= 1


@dataclass(slots=True)
class Script:
    """What is said in place of an answer, cut where `cuts` tells, and whether the SMSC hangs up then."""

    said: list[Said | bytes]
    cuts: list[int]
    hangs_up: bool

    def pieces(self, sequence: int) -> Iterator[bytes]:
        octets = b"".join(each if isinstance(each, bytes) else each.octets(sequence) for each in self.said)
        ends = sorted(cut % (len(octets) + 1) for cut in self.cuts)
        for start, end in itertools.pairwise([0, *ends, len(octets)]):
            yield octets[start:end]


@dataclass(slots=True)
class ScriptedSmsc:
    """Takes every bind and message with an id of its own, but for the command that a script is for."""

    script: Script | None = None
    scripted: int = Command.SUBMIT_SM
    acknowledged: list[int] = field(default_factory=list)
    port: int = 0
    _writer: asyncio.StreamWriter | None = None
    _ids: Iterator[str] = field(default_factory=lambda: map("id-{}".format, itertools.count(1)))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                length, command, _, sequence = pdu.HEADER.unpack(await reader.readexactly(pdu.HEADER.size))
                request = Pdu(command, 0, sequence, await reader.readexactly(length - pdu.HEADER.size))
                if command == Command.DELIVER_SM | pdu.RESPONSE:
                    self.acknowledged.append(sequence)
                elif (script := self.script) and command == self.scripted:
                    for piece in script.pieces(sequence):
                        writer.write(piece)
                        await writer.drain()
                        await asyncio.sleep(0)
                    if script.hangs_up:
                        break
                elif not command & pdu.RESPONSE:
                    name = next(self._ids) if command == Command.SUBMIT_SM else "smsc"
                    writer.write(request.response(Status.OK, pdu.cstring(name)).encode())

    async def deliver(self, sequence: int, body: bytes) -> None:
        """Say a deliver_sm."""
        assert self._writer is not None
        self._writer.write(Pdu(Command.DELIVER_SM, 0, sequence, body).encode())
        await self._writer.drain()


@contextlib.asynccontextmanager
async def scripted_smsc() -> AsyncIterator[ScriptedSmsc]:
    smsc = ScriptedSmsc()
    async with listening(smsc.serve) as smsc.port:
        yield smsc


async def accept_nothing(_receipts: Any) -> None:
    """Stands in for the store that keeps receipts."""


@contextlib.asynccontextmanager
async def provider_at(port: int) -> AsyncIterator[SmppProvider]:
    provider = SmppProvider(
        name="smpp",
        host=LOOPBACK,
        port=port,
        system_id="x",
        password="x",
        sender="Guichet",
        window=8,
        accept=accept_nothing,
        clock=CLOCK,
        answer_seconds=ANSWER_SECONDS,
    )
    await provider.start()
    yield provider
    await provider.stop()


COMMANDS = st.sampled_from(
    [
        *(command | pdu.RESPONSE for command in Command),
        *(*Command, pdu.GENERIC_NACK, 0x0B, 0x103, 0x7FFF_FFFF, 0xFFFF_FFFF, 0, 0x0001_0200),
    ]
)
STATUSES = st.sampled_from([0, 0, 0, 0x01, 0x08, 0x0B, 0x14, 0x45, 0x58, 0x400, 0xFFFF_FFFF])
TLVS = st.builds(
    lambda tag, value, length: struct.pack(">HH", tag, len(value) if length is None else length) + value,
    st.sampled_from([0x001E, 0x0204, 0x0424, 0x0427, 0x1403, 0, 0xFFFF]),
    st.binary(max_size=12) | st.just(b"\xff" * 4000),
    st.none() | st.sampled_from([0, 1, 1000, 0xFFFF]),
)
RECEIPT_TEXTS = st.builds(
    "id:{} sub:001 dlvrd:001 submit date:{} done date:{} stat:{} err:{} text:{}".format,
    st.text(max_size=70) | st.sampled_from(["", "0", "000", "-1", "1e3", "٣", "17", "0x11", "%s", "9" * 5000]),
    *[st.sampled_from(["2611010610", "", "never", "99999999999999", "\0"])] * 2,
    st.sampled_from(["DELIVRD", "delivrd", "UNDELIV", "EXPIRED", "ENROUTE", "UNKNOWN", "", "DELIVRD\0", "stat:"]),
    *[st.text(max_size=5)] * 2,
).map(lambda text: text.encode("latin-1", "replace"))
ADDRESSES = st.sampled_from(["25377000001", "+25377000001", "", "0", "Guichet", "9" * 30, "\xff"])


@st.composite
def deliveries(draw: st.DrawFn) -> bytes:
    """The body of a deliver_sm that looks like a receipt, as long as nothing in it is broken (class 34)."""
    addresses = [bytes((1, 1)) + pdu.cstring(draw(ADDRESSES)) for _ in range(2)]
    esm_class = draw(st.sampled_from([0x04, 0x04, 0x04, 0x44, 0x00, 0x08, 0xFF]))
    text = draw(RECEIPT_TEXTS | st.binary(max_size=60))[:254]
    length = draw(st.just(len(text)) | st.sampled_from([0, 255]))
    fixed = b"\0" + addresses[0] + addresses[1] + bytes((esm_class, 0, 0)) + b"\0\0" + bytes((0, 0, 0, 0, length))
    body = fixed + text + b"".join(draw(st.lists(TLVS, max_size=3)))
    return body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body


PDUS = st.builds(
    Said,
    COMMANDS,
    STATUSES,
    st.sampled_from([0, 0, 0, -1, 1, 0x7FFF_FFFF]),
    st.binary(max_size=80) | deliveries() | st.sampled_from([b"id\0", b"", b"\0", b"x" * 3000]),
    st.none() | st.none() | st.sampled_from([0, 3, 15, 16, 17, 66_560, 66_561, 2**31, 2**32 - 1]),
)
SCRIPTS = st.builds(
    Script,
    st.lists(PDUS | st.binary(max_size=40), max_size=6),
    st.lists(st.integers(0, 10_000), max_size=5) | st.just(list(range(400))),  # the latter: at each octet
    st.booleans(),
)
ADDRESS = pdu.Address(1, 1, "25377000001")
MESSAGE = ShortMessage("id", "+25377000001", encode("Bonjour"))


async def next_is_sent(provider: SmppProvider) -> None:
    """The next messages get through, once the provider has noticed what happened to its connection."""
    while True:
        await provider.available()
        if isinstance(await provider.send(MESSAGE), Sent):
            return


def test_every_submission_has_one_answer_whatever_the_smsc_says(run: Run) -> None:
    async def try_out(script: Script, messages: int) -> None:
        async with scripted_smsc() as smsc, provider_at(smsc.port) as provider:
            await provider.available()
            smsc.script = script
            answers = await asyncio.gather(*(provider.send(MESSAGE) for _ in range(messages)))
            smsc.script = None
            assert_honest(answers, script)
            await next_is_sent(provider)

    def assert_honest(answers: list[Answer], script: Script) -> None:
        for answer in answers:
            assert isinstance(answer, Sent | Refused | Declined | Later | Unknown)
            if all(isinstance(said, Said) and said.length is None and not said.accepts() for said in script.said):
                assert not isinstance(answer, Sent)

    async def try_out_all(scripts: list[Script], messages: int) -> None:
        await asyncio.gather(*(try_out(script, messages) for script in scripts))

    @round_of
    @given(st.lists(SCRIPTS, min_size=1, max_size=8), st.integers(1, 4))
    def claim(scripts: list[Script], messages: int) -> None:
        run(try_out_all(scripts, messages))

    fuzz(claim, share=0.4)


def test_it_binds_in_the_end_whatever_is_said_to_the_bind(run: Run) -> None:
    async def try_out(script: Script) -> None:
        async with scripted_smsc() as smsc:
            smsc.script, smsc.scripted = script, Command.BIND_TRANSCEIVER
            async with provider_at(smsc.port) as provider:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ANSWER_SECONDS / 2):
                        await provider.available()
                smsc.script = None
                await next_is_sent(provider)

    async def try_out_all(scripts: list[Script]) -> None:
        await asyncio.gather(*map(try_out, scripts))

    @round_of
    @given(st.lists(SCRIPTS, min_size=1, max_size=8))
    def claim(scripts: list[Script]) -> None:
        run(try_out_all(scripts))

    fuzz(claim, share=0.15)


def accepted(number: int) -> RequestAccepted:
    request = Card(
        request_id=f"request-{number}",
        reference=f"7K3M-9XQ2-{number:04d}",
        agency="port",
        agency_reference=str(number),
        service_code="birth-certificate",
        submitted_at=CLOCK.now(),
        applicant=Applicant(language=Language.FRENCH, phone=f"+25377{number:06d}"),
    )
    return RequestAccepted(
        id=f"accepted-{number}", source="/test", data=RequestAcceptedData(request=request, timeline=Timeline())
    )


def test_a_garbled_receipt_is_acknowledged_and_changes_no_notification(run: Run, tmp_path: Path) -> None:
    async def try_out(bodies: list[bytes]) -> None:
        first = len(smsc.acknowledged)
        for number, body in enumerate(bodies, start=1):
            await smsc.deliver(number, body)
        while len(smsc.acknowledged) < first + len(bodies):
            await asyncio.sleep(0.001)
        assert sorted(smsc.acknowledged[first:]) == list(range(1, len(bodies) + 1))
        while await counter.receipts.match():
            pass
        assert await notifications() == standing

    async def notifications() -> dict[str, Notification]:
        return {key: held.notification for key, held in (await counter.sms.get(sent)).items()}

    async def all_told() -> dict[str, Notification]:
        while True:
            found = await notifications()
            if not any(each.untold for each in found.values()):
                return found
            await asyncio.sleep(0.001)

    async def begin() -> tuple[ScriptedSmsc, Counter]:
        smsc = await parts.enter_async_context(scripted_smsc())
        await store.open()
        counter = Counter(store)
        counter.run_sms(counter.smpp(smsc.port, "x", "x"))
        await counter.plan(*(accepted(number) for number in range(1, 4)))
        await counter.publisher.until("sent", 3)
        return smsc, counter

    async def end() -> None:
        for number in range(1, 4):
            await smsc.deliver(number, pdu.delivery(ADDRESS, ADDRESS, f"id:id-{number} stat:DELIVRD", {}))
        await counter.publisher.until("delivered", 3)
        await counter.stop()
        await store.close()
        await parts.aclose()

    store = SqliteStore(tmp_path / "notify.sqlite")
    parts = contextlib.AsyncExitStack()
    smsc, counter = run(begin())
    sent = counter.publisher.ids("sent")
    standing = run(all_told())

    @round_of
    @given(st.lists(deliveries(), min_size=1, max_size=8))
    def claim(bodies: list[bytes]) -> None:
        run(try_out(bodies))

    fuzz(claim, share=0.25)
    run(end())


GSM = "a@é\nΩ 9"
EXTENSION = "€[]{}\\^~|\f"
BEYOND = "çé ا你‎"
ASTRAL = "😀👩‍👩‍👧🇩🇯𝒳"


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Texts around the limits of a part (class 24): 160 and 153, 70 and 67, with two-unit characters across them."""
    alphabet = draw(st.sampled_from([GSM, GSM + EXTENSION, GSM + BEYOND, BEYOND + ASTRAL, ASTRAL, EXTENSION]))
    limit = draw(st.sampled_from([1, 70, 67, 134, 160, 153, 306, 459]))
    before = draw(st.sampled_from(alphabet)) * max(0, limit - draw(st.integers(0, 3)))
    return (
        before + draw(st.text(alphabet, min_size=1, max_size=6)) + draw(st.sampled_from(["", GSM, EXTENSION, ASTRAL]))
    )


def test_what_the_phone_shows_is_what_was_written(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "smsc.jsonl"

    async def try_out(text: str) -> None:
        known = len(read_journal(log))
        async with listening(smsc.serve) as port, provider_at(port) as provider:
            await provider.available()
            message = ShortMessage("id", "+25377000001", encode(text))
            answer = await provider.send(message)
        taken = read_journal(log)[known:]
        assert answer == Sent(tuple(entry["message_id"] for entry in taken))
        assert "".join(entry["text"] for entry in taken) == text
        assert all("\ufffd" not in entry["text"] for entry in taken)
        assert all(len(entry["octets"]) // 2 <= (140 if entry["data_coding"] == 8 else 160) for entry in taken)
        if len(taken) > 1:
            assert [entry["part"]["number"] for entry in taken] == list(range(1, len(taken) + 1))
            assert {entry["part"]["total"] for entry in taken} == {len(taken)}
            assert all(len(entry["octets"]) // 2 <= (134 if entry["data_coding"] == 8 else 153) for entry in taken)

    @round_of
    @given(texts())
    def claim(text: str) -> None:
        run(try_out(text))

    with Journal(log) as journal:
        smsc = Smsc(Policy("x", "x", 3600.0, ""), journal, faults.Script(SmscFaults, None))
        fuzz(claim, share=0.2)
        for longest in ("a" * 153 * PARTS_MAX, "你" * 67 * PARTS_MAX):
            run(try_out(longest))
    with pytest.raises(ValueError, match="at most 255"):
        encode("a" * (153 * PARTS_MAX + 1))


def test_a_text_of_nothing_is_refused_for_good(run: Run) -> None:
    async def answer() -> Answer:
        async with scripted_smsc() as smsc, provider_at(smsc.port) as provider:
            return await provider.send(ShortMessage("id", "+25377000001", encode("")))

    assert run(answer()) == Refused("unsendable")
