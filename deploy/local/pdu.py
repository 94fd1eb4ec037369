"""SMPP 3.4 on the wire, as far as an SMSC needs it. Written from the specification and apart from the client's
library, so that a mistake on one side is not repeated on the other."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

HEADER = struct.Struct(">IIII")
LENGTH_MAX = 65_536 + 1_024  # a message_payload of the largest size, and the fields around it

RECEIPTED_MESSAGE_ID = 0x001E
USER_MESSAGE_REFERENCE = 0x0204
SAR_MSG_REF_NUM = 0x020C
SAR_TOTAL_SEGMENTS = 0x020E
SAR_SEGMENT_SEQNUM = 0x020F
SC_INTERFACE_VERSION = 0x0210
MESSAGE_PAYLOAD = 0x0424
MESSAGE_STATE = 0x0427

HAS_HEADER = 0x40  # esm_class: the user data starts with a user data header
IS_RECEIPT = 0x04  # esm_class: a delivery receipt


class Command(IntEnum):
    BIND_RECEIVER = 0x01
    BIND_TRANSMITTER = 0x02
    SUBMIT_SM = 0x04
    DELIVER_SM = 0x05
    UNBIND = 0x06
    BIND_TRANSCEIVER = 0x09
    ENQUIRE_LINK = 0x15


RESPONSE = 0x8000_0000
GENERIC_NACK = 0x8000_0000


class Status(IntEnum):
    OK = 0x00
    INVALID_COMMAND_LENGTH = 0x02
    INVALID_COMMAND_ID = 0x03
    INVALID_BIND_STATUS = 0x04
    ALREADY_BOUND = 0x05
    SYSTEM_ERROR = 0x08
    INVALID_SOURCE = 0x0A
    INVALID_DESTINATION = 0x0B
    INVALID_PASSWORD = 0x0E
    INVALID_SYSTEM_ID = 0x0F
    THROTTLED = 0x58


class Malformed(ValueError):
    """The octets are not what the command says they are."""


@dataclass(frozen=True, slots=True)
class Pdu:
    command: int
    status: int
    sequence: int
    body: bytes = b""
    length: int | None = None
    """What the header says of the length; None for the truth."""

    def encode(self) -> bytes:
        length = HEADER.size + len(self.body) if self.length is None else self.length
        return HEADER.pack(length, self.command, self.status, self.sequence) + self.body

    def response(self, status: Status, body: bytes = b"") -> "Pdu":
        return Pdu(self.command | RESPONSE, status, self.sequence, body)

    def nack(self, status: Status) -> "Pdu":
        return Pdu(GENERIC_NACK, status, self.sequence)


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a long message this is; `number` counts from 1."""

    reference: int
    total: int
    number: int


@dataclass(frozen=True, slots=True)
class Address:
    ton: int
    npi: int
    digits: str

    def encode(self) -> bytes:
        return bytes((self.ton, self.npi)) + cstring(self.digits)


@dataclass(frozen=True, slots=True)
class Submission:
    """A submit_sm. `octets` is its text without the user data header, wherever it was carried."""

    source: Address
    destination: Address
    esm_class: int
    registered_delivery: int
    data_coding: int
    octets: bytes
    part: Part | None
    tlvs: Mapping[int, bytes]

    @classmethod
    def decode(cls, body: bytes) -> "Submission":
        """Raises Malformed."""
        fields = _Fields(body)
        fields.cstring(6)  # service_type
        source, destination = fields.address(), fields.address()
        esm_class = fields.octet()
        fields.take(2)  # protocol_id, priority_flag
        fields.cstring(17)  # schedule_delivery_time
        fields.cstring(17)  # validity_period
        registered_delivery, _replace, data_coding, _template = fields.take(4)
        octets = fields.take(fields.octet())
        tlvs = fields.tlvs()
        if not octets:
            octets = tlvs.get(MESSAGE_PAYLOAD, b"")
        header, octets = _split_header(octets) if esm_class & HAS_HEADER else (b"", octets)
        part = _part_in_header(header) or _part_in_tlvs(tlvs)
        return cls(source, destination, esm_class, registered_delivery, data_coding, octets, part, tlvs)

    @property
    def user_message_reference(self) -> int | None:
        value = self.tlvs.get(USER_MESSAGE_REFERENCE)
        return None if value is None else int.from_bytes(value)

    @property
    def text(self) -> str | None:
        """The text, undecodable octets replaced; None for a coding that is not text (or not of our time)."""
        match self.data_coding:
            case 0x00:
                return gsm_text(self.octets)
            case 0x01:
                return self.octets.decode("ascii", "replace")
            case 0x03:
                return self.octets.decode("latin-1")
            case 0x08:
                return self.octets.decode("utf-16-be", "replace")
            case _:
                return None


def bind_credentials(body: bytes) -> tuple[str, str]:
    """The system id and password of a bind. Raises Malformed."""
    fields = _Fields(body)
    credentials = fields.cstring(16), fields.cstring(9)
    fields.cstring(13)  # system_type
    fields.take(3)  # interface_version, addr_ton, addr_npi
    fields.cstring(41)  # address_range
    return credentials


def delivery(source: Address, destination: Address, text: str, tlvs: Mapping[int, bytes]) -> bytes:
    """The body of a deliver_sm that carries a receipt. A receipt's text is ASCII; what is not becomes `?`."""
    octets = text.encode("ascii", "replace")
    header = cstring("") + source.encode() + destination.encode() + bytes((IS_RECEIPT, 0, 0)) + cstring("") * 2
    message = bytes((0, 0, 0, 0, len(octets))) + octets
    return header + message + b"".join(tlv(tag, value) for tag, value in tlvs.items())


def cstring(text: str) -> bytes:
    return text.encode("latin-1") + b"\0"


def tlv(tag: int, value: bytes) -> bytes:
    return struct.pack(">HH", tag, len(value)) + value


class _Fields:
    """Reads a body from its start; whatever goes beyond its end is Malformed."""

    def __init__(self, body: bytes) -> None:
        self._rest = body

    def take(self, count: int) -> bytes:
        if len(self._rest) < count:
            raise Malformed(f"{count} octets expected, {len(self._rest)} left")
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def octet(self) -> int:
        return self.take(1)[0]

    def cstring(self, size_max: int) -> str:
        end = self._rest.find(b"\0", 0, size_max)
        if end < 0:
            raise Malformed(f"no end of string within {size_max} octets")
        return self.take(end + 1)[:-1].decode("latin-1")

    def address(self) -> Address:
        return Address(self.octet(), self.octet(), self.cstring(21))

    def tlvs(self) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        while self._rest:
            tag, length = struct.unpack(">HH", self.take(4))
            found[tag] = self.take(length)
        return found


def _split_header(octets: bytes) -> tuple[bytes, bytes]:
    fields = _Fields(octets)
    header = fields.take(fields.octet())
    return header, octets[1 + len(header) :]


def _part_in_header(header: bytes) -> Part | None:
    fields, left = _Fields(header), len(header)
    while left:
        element, value = fields.octet(), fields.take(fields.octet())
        left -= 2 + len(value)
        match element, len(value):
            case 0x00, 3:
                return Part(value[0], value[1], value[2])
            case 0x08, 4:
                return Part(int.from_bytes(value[:2]), value[2], value[3])
    return None


def _part_in_tlvs(tlvs: Mapping[int, bytes]) -> Part | None:
    try:
        reference, total, number = tlvs[SAR_MSG_REF_NUM], tlvs[SAR_TOTAL_SEGMENTS], tlvs[SAR_SEGMENT_SEQNUM]
    except KeyError:
        return None
    return Part(int.from_bytes(reference), int.from_bytes(total), int.from_bytes(number))


# 3GPP TS 23.038 section 6.2.1: one character an octet, as SMPP carries it, unpacked.
_GSM = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM_ESCAPE = 0x1B
_GSM_EXTENSION = {
    0x0A: "\f", 0x14: "^", 0x28: "{", 0x29: "}", 0x2F: "\\",
    0x3C: "[", 0x3D: "~", 0x3E: "]", 0x40: "|", 0x65: "€",
}  # fmt: skip


def gsm_text(octets: bytes) -> str:
    """Text in the GSM alphabet; octets outside it become U+FFFD, an unknown extension what a phone shows for it."""
    text, escaped = [], False
    for octet in octets:
        if octet == _GSM_ESCAPE and not escaped:
            escaped = True
            continue
        plain = _GSM[octet] if octet < len(_GSM) else "\ufffd"
        text.append(_GSM_EXTENSION.get(octet, plain) if escaped else plain)
        escaped = False
    return "".join(text)
