"""Against SMSCs: ours, which writes down what it accepts, one by others, and one that behaves badly."""

import asyncio
import socket
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest
import uvloop

from deploy.local import pdu
from deploy.local.jsmpp import JsmppSimulator
from deploy.local.pdu import Command, Pdu, Status
from deploy.local.ports import free_port
from deploy.local.smsc import RecordingSmsc
from services.notify.ports import Later, Sent, ShortMessage, Unknown
from services.notify.providers.smpp import SmppProvider, read_receipt
from services.notify.receipts import Receipt
from services.notify.sms import encode
from shared.clock import SystemClock
from shared.contract.events import Language
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from tests.mesh.notify.conftest import Counter, MakeAccepted


async def test_every_sms_arrives_once_and_is_delivered_by_receipt(
    counter: "Counter", smsc: RecordingSmsc, accepted: "MakeAccepted"
) -> None:
    counter.run_sms(counter.smpp(smsc.port, smsc.system_id, smsc.password))
    await counter.plan(*(accepted(number) for number in range(1, 201)))
    await counter.publisher.until("delivered", 200)
    taken = smsc.accepted()
    assert len(taken) == 200
    assert {entry["destination"] for entry in taken} == {f"25377{number:06d}" for number in range(1, 201)}
    assert all(entry["source"] == "Guichet" and entry["registered_delivery"] == 1 for entry in taken)
    assert len(counter.publisher.ids("sent")) == len(counter.publisher.ids("delivered")) == 200


@pytest.mark.parametrize("language", Language)
async def test_what_the_phone_shows_is_what_the_template_says(
    counter: "Counter", smsc: RecordingSmsc, accepted: "MakeAccepted", language: Language
) -> None:
    counter.run_sms(counter.smpp(smsc.port, smsc.system_id, smsc.password))
    await counter.plan(accepted(7, language=language))
    await counter.publisher.until("delivered", 1)
    parts = sorted(smsc.accepted(), key=lambda entry: (entry["part"] or {"number": 1})["number"])
    shown = "".join(entry["text"] for entry in parts)
    (held,) = (await counter.sms.get(counter.publisher.ids("delivered"))).values()
    written = counter.templates.short_message(held.notification).message.text
    assert shown == "".join(written.parts)
    assert "7K3M-9XQ2-0007" in shown
    assert {entry["data_coding"] for entry in parts} == {8 if language is Language.ARABIC else 0}
    assert len(parts) == held.notification.segments


async def test_a_long_text_arrives_in_parts_that_name_each_other(counter: "Counter", smsc: RecordingSmsc) -> None:
    provider = counter.smpp(smsc.port, smsc.system_id, smsc.password)
    await provider.start()
    await provider.available()
    text = "é€" * 200
    answer = await provider.send(ShortMessage("id", "+25377000001", encode(text)))
    await provider.stop()
    assert isinstance(answer, Sent)
    parts = [entry["part"] for entry in smsc.accepted()]
    assert [part["number"] for part in parts] == [1, 2, 3, 4]
    assert {part["total"] for part in parts} == {4}
    assert len({part["reference"] for part in parts}) == 1
    assert "".join(entry["text"] for entry in smsc.accepted()) == text
    assert answer.references == tuple(entry["message_id"] for entry in smsc.accepted())


async def test_a_number_that_the_smsc_refuses_is_final(
    counter: "Counter", smsc: RecordingSmsc, accepted: "MakeAccepted"
) -> None:
    counter.run_sms(counter.smpp(smsc.port, smsc.system_id, smsc.password))
    await counter.plan(accepted(20000))
    await counter.publisher.until("failed", 1)
    (outcome,) = counter.publisher.outcomes
    assert (outcome.data.reason, outcome.data.attempts) == ("invalid_destination", 1)
    assert smsc.accepted() == []


async def test_what_was_planned_while_the_smsc_was_down_is_sent_once_it_is_back(
    counter: "Counter", smsc: RecordingSmsc, accepted: "MakeAccepted"
) -> None:
    await smsc.kill()
    counter.run_sms(counter.smpp(smsc.port, smsc.system_id, smsc.password))
    await counter.plan(*(accepted(number) for number in range(1, 21)))
    assert await counter.planned() == 20
    await smsc.start()
    await counter.publisher.until("delivered", 20)
    assert len(smsc.accepted()) == 20


async def test_a_simulator_that_throttles_gets_every_message_once(
    counter: "Counter", jsmpp: JsmppSimulator, accepted: "MakeAccepted"
) -> None:
    counter.run_sms(counter.smpp(jsmpp.port, jsmpp.system_id, jsmpp.password, window=300))
    await counter.plan(*(accepted(number) for number in range(1, 301)))
    await counter.publisher.until("sent", 300, within_seconds=60)
    await counter.publisher.until("delivered", 300, within_seconds=60)
    assert counter.publisher.ids("unknown") == counter.publisher.ids("failed") == []
    assert len(counter.publisher.ids("sent")) == len(set(counter.publisher.ids("sent"))) == 300


class RudeSmsc:
    """Binds, then answers each submit_sm as it is told: with a status, with silence, by hanging up or by a reset."""

    def __init__(self, *manners: int | str) -> None:
        self.port = free_port()
        self._manners = list(manners)
        self.submitted = 0

    async def __aenter__(self) -> "RudeSmsc":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                length, command, _, sequence = pdu.HEADER.unpack(await reader.readexactly(16))
                request = Pdu(command, 0, sequence, await reader.readexactly(length - 16))
                answer = request.response(Status.OK, pdu.cstring("id"))
                if command == Command.SUBMIT_SM:
                    self.submitted += 1
                    manner = self._manners.pop(0) if self._manners else 0
                    if manner == "hang up":
                        return
                    if manner == "reset":
                        linger = struct.pack("ii", 1, 0)
                        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        return
                    if manner == "silence":
                        continue
                    assert isinstance(manner, int)
                    answer = Pdu(answer.command, manner, sequence, b"" if manner else answer.body)
                writer.write(answer.encode())
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


MESSAGE = ShortMessage("id", "+25377000001", encode("Bonjour"))


@pytest.mark.parametrize(
    ("manner", "answer"),
    [
        ("hang up", Unknown("connection_lost")),
        ("silence", Unknown("no_answer")),
        (0x08, Later("smpp_0x08")),
        (0x04FF, Later("smpp_0x4ff")),  # a vendor's own
    ],
)
async def test_what_the_smsc_did_to_a_message_is_told_apart(
    counter: "Counter", manner: int | str, answer: Unknown | Later
) -> None:
    async with RudeSmsc(manner) as smsc:
        provider = counter.smpp(smsc.port, "x", "x", answer_seconds=0.3)
        await provider.start()
        await provider.available()
        assert await provider.send(MESSAGE) == answer
        await provider.available()  # it comes back by itself
        assert isinstance(await provider.send(MESSAGE), Sent)
        await provider.stop()
        assert await provider.send(MESSAGE) == Later("not_connected")
        assert smsc.submitted == 2


async def test_a_connection_on_which_nothing_comes_any_more_is_given_up_at_the_first_message_without_an_answer(
    counter: "Counter",
) -> None:
    async with RudeSmsc() as smsc:
        proxy = Proxy(smsc.port)
        await proxy.start()
        provider = counter.smpp(proxy.port, "x", "x", answer_seconds=0.3)
        await provider.start()
        await provider.available()
        assert isinstance(await provider.send(MESSAGE), Sent)
        proxy.half_open()
        assert await provider.send(MESSAGE) == Unknown("no_answer")
        await proxy.mend()
        async with asyncio.timeout(5):  # a quarter of the time between two enquiries
            while not isinstance(await provider.send(MESSAGE), Sent):
                await provider.available()
        await provider.stop()
        await proxy.cut()


def test_a_connection_that_is_reset_comes_back_on_the_event_loop_of_the_services() -> None:
    """uvloop raises at a write to a connection that is gone, where asyncio's own loop says nothing."""

    async def accept(_receipts: Sequence[Receipt]) -> None:
        raise AssertionError("nobody sent a receipt")

    async def send_twice() -> None:
        async with RudeSmsc("reset") as smsc:
            provider = SmppProvider(
                name="smpp",
                host="127.0.0.1",
                port=smsc.port,
                system_id="x",
                password="x",
                sender="GUICHET",
                window=1,
                accept=accept,
                clock=SystemClock(),
            )
            await provider.start()
            await provider.available()
            async with asyncio.timeout(5):
                assert await provider.send(MESSAGE) == Unknown("connection_lost")
                await provider.available()
                assert isinstance(await provider.send(MESSAGE), Sent)
            await provider.stop()

    uvloop.run(send_twice())


async def test_a_connection_that_drops_leaves_unknowns_that_are_not_sent_again(
    counter: "Counter", accepted: "MakeAccepted"
) -> None:
    async with RudeSmsc("hang up") as smsc:
        counter.run_sms(counter.smpp(smsc.port, "x", "x"))
        await counter.plan(accepted(1))
        await counter.publisher.until("unknown", 1)
        await counter.plan(accepted(2))
        await counter.publisher.until("sent", 1)
        assert smsc.submitted == 2


RECEIPT = "id:{id} sub:001 dlvrd:001 submit date:26110106000000 done date:261101 stat:{state} err:00A Text:id:x stat:y"


@pytest.mark.parametrize(
    ("state", "failure"),
    [
        ("DELIVRD", None),
        ("UNDELIV", "undeliverable"),
        ("EXPIRED", "expired"),
        ("REJECTD", "rejected"),
        ("DELETED", "deleted"),
    ],
)
def test_a_receipt_is_read_whatever_its_dates_and_errors_look_like(state: str, failure: str | None) -> None:
    body = pdu.delivery(
        pdu.Address(1, 1, "25377000001"), pdu.Address(5, 0, "Guichet"), RECEIPT.format(id="0A1b", state=state), {}
    )
    vendors_own = pdu.tlv(0x1403, b"\xff\xfe")
    receipt = read_receipt(body + vendors_own, "smpp", SystemClock())
    assert receipt is not None
    assert (receipt.message_id, receipt.failure, receipt.recipient) == ("0A1b", failure, "+25377000001")


@pytest.mark.parametrize("state", ["ENROUTE", "ACCEPTD", "UNKNOWN", "", "?"])
def test_a_receipt_that_tells_no_end_is_none(state: str) -> None:
    address = pdu.Address(1, 1, "25377000001")
    assert read_receipt(pdu.delivery(address, address, f"id:1 stat:{state}", {}), "smpp", SystemClock()) is None


def test_a_receipt_cut_anywhere_is_read_or_none_and_never_an_error() -> None:
    address = pdu.Address(1, 1, "25377000001")
    body = pdu.delivery(address, address, RECEIPT.format(id="1", state="DELIVRD"), {0x001E: b"1\0"})
    for end in range(len(body)):
        read_receipt(body[:end], "smpp", SystemClock())
