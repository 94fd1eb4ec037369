"""What our own parsers promise for any bytes: a harness each, which raises when the promise is broken."""

import asyncio
import struct
from collections.abc import Callable, Mapping

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiosmpplib.protocol import BindTransceiver

from deploy.local import pdu
from services.notify.providers.smpp import Lost, NotBound, Session, read_receipt
from services.notify.receipts import Receipt
from shared.bus.recordbatch import Damaged, salvage
from shared.clock import SystemClock
from shared.failpoints import NONE

_CLOCK = SystemClock()
_LOOP = asyncio.new_event_loop()
_ADDRESS = pdu.Address(1, 1, "25377000001")
_RECEIPT = pdu.delivery(
    _ADDRESS,
    pdu.Address(5, 0, "Guichet"),
    "id:0A1b sub:001 dlvrd:001 submit date:2611010610 done date:2611010611 stat:DELIVRD err:000 text:",
    {pdu.RECEIPTED_MESSAGE_ID: b"0A1b\0", pdu.USER_MESSAGE_REFERENCE: b"\x12\x34", pdu.MESSAGE_STATE: b"\x02"},
)
_SUBMISSION = (
    b"\0" + _ADDRESS.encode() * 2 + bytes((pdu.HAS_HEADER, 0, 0)) + b"\0\0" + bytes((1, 0, 8, 0, 10))
    + bytes((5, 0, 3, 7, 2, 1)) + "é你".encode("utf-16-be") + pdu.tlv(pdu.USER_MESSAGE_REFERENCE, b"\x12\x34")
)  # fmt: skip


def submission(data: bytes) -> None:
    """Whatever is no submit_sm is Malformed, and a text can be read or is none."""
    try:
        read = pdu.Submission.decode(data)
    except pdu.Malformed:
        return
    assert read.text is None or isinstance(read.text, str)
    assert read.user_message_reference is None or read.user_message_reference >= 0


def bind(data: bytes) -> None:
    """Whatever is no bind is Malformed."""
    try:
        pdu.bind_credentials(data)
    except pdu.Malformed:
        return


def receipt(data: bytes) -> None:
    """A receipt can be kept and is then read back as it was; whatever is none is None."""
    read = read_receipt(data, "smpp", _CLOCK)
    assert read is None or Receipt.from_json(read.to_json()) == read


def session(data: bytes) -> None:
    """Whatever comes in a stream of PDUs ends it in one of the ways that the provider knows."""

    async def feed() -> None:
        reader = asyncio.StreamReader(loop=_LOOP)
        reader.feed_data(data)
        reader.feed_eof()
        read = Session("smpp", reader, _Nowhere(), 1.0, _keep, _CLOCK, NONE)  # type: ignore[arg-type] # of a writer, what is used
        try:
            await read._take_bind(BindTransceiver(system_id="x", password="x"))
            await read._read()
        except (asyncio.IncompleteReadError, Lost, NotBound):
            return

    _LOOP.run_until_complete(feed())


def batch(data: bytes) -> None:
    """A batch is Damaged, or every offset of it is told once, also where its checksum is right."""
    for tried in (data, _sealed(data)):
        try:
            found, following = salvage(tried, 0)
        except Damaged:
            continue
        assert all(one.offset < following or one.problem or not one.cut for one in found)


class _Nowhere:
    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        """What is answered is nobody's."""


async def _keep(_receipts: object) -> None:
    """Receipts are nobody's."""


def _sealed(data: bytes) -> bytes:
    """The same with the length and checksum that a broker would accept."""
    if len(data) < 61:
        return data
    batch = bytearray(data)
    struct.pack_into(">i", batch, 8, len(batch) - 12)
    batch[16] = 2
    struct.pack_into(">I", batch, 17, calc_crc32c(bytes(batch[21:])))
    return bytes(batch)


def _built(codec: int) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 16)
    for number in range(3):
        builder.append(number, 1_795_336_200_280, b"key", b'{"specversion":"1.0"}' * 3, [("ce_id", b"1"), ("x", None)])
    return bytes(builder.build())


_STREAM = (
    pdu.Pdu(pdu.Command.BIND_TRANSCEIVER | pdu.RESPONSE, 0, 1, pdu.cstring("smsc")).encode()
    + pdu.Pdu(pdu.Command.DELIVER_SM, 0, 7, _RECEIPT).encode()
    + pdu.Pdu(pdu.Command.ENQUIRE_LINK, 0, 8).encode()
    + pdu.Pdu(pdu.Command.UNBIND, 0, 9).encode()
)

PARSERS: Mapping[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "submission": (submission, (_SUBMISSION,)),
    "bind": (bind, (pdu.cstring("guichet") + pdu.cstring("secret") + b"\0\x34\0\0\0",)),
    "receipt": (receipt, (_RECEIPT,)),
    "session": (session, (_STREAM,)),
    "batch": (batch, tuple(_built(codec) for codec in range(5))),
}
"""Each parser's harness, and real bytes to begin with."""
