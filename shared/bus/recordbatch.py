"""Kafka's record batch, format 2, read by hand: for what aiokafka refuses to read.

aiokafka gives up a whole batch for one header whose name is not UTF-8. This reader is slow and only used then.
Layout: https://kafka.apache.org/documentation/#recordbatch
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from aiokafka import codec
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.util import decode_varint

from shared.bus.port import Undecodable
from shared.contract.reasons import Reason

_LENGTH_AND_MAGIC = struct.Struct(">8xi4xb")
_UNCOUNTED_BYTES = 12  # base offset and length stand before what the length counts
_HEADER_BYTES = 61
_DECOMPRESS = {
    DefaultRecordBatch.CODEC_GZIP: codec.gzip_decode,
    DefaultRecordBatch.CODEC_SNAPPY: codec.snappy_decode,
    DefaultRecordBatch.CODEC_LZ4: codec.lz4_decode,
    DefaultRecordBatch.CODEC_ZSTD: codec.zstd_decode,
}


class Damaged(Exception):
    """The batch's checksum is wrong, or it is not all there: not even where it ends can be believed."""


@dataclass(frozen=True, slots=True)
class Salvaged:
    """A record, as far as it can be read; `problem` says why it can't be taken as it is."""

    offset: int
    timestamp_ms: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    problem: Undecodable | None = None
    cut: bool = False


def salvage(data: bytes, start: int) -> tuple[list[Salvaged], int]:
    """The records of the first batch in `data`, from offset `start` on, and the offset after the batch.

    Where records can't be told apart, one `Salvaged` at the batch's last offset stands for all that are left of it.
    Raises Damaged.
    """
    if len(data) < _HEADER_BYTES:
        raise Damaged("there is no whole batch")
    length, magic = _LENGTH_AND_MAGIC.unpack_from(data)
    end = _UNCOUNTED_BYTES + length
    if magic != 2 or not _HEADER_BYTES <= end <= len(data):
        raise Damaged("there is no whole batch of format 2")
    batch = DefaultRecordBatch(data[:end])
    if not batch.validate_crc():
        raise Damaged("wrong checksum")
    last = batch.next_offset - 1
    if batch.is_control_batch:
        return [], batch.next_offset
    found: list[Salvaged] = []
    try:
        payload = _payload(batch.attributes & DefaultRecordBatch.CODEC_MASK, data[_HEADER_BYTES:end])
        # What was read before a failure is kept.
        found.extend(one for one in _records(payload, batch.base_offset, batch.first_timestamp) if one.offset >= start)
    except Exception as error:
        # Decompressors raise what they like.
        first = max([start, *(record.offset + 1 for record in found)])
        detail = f"offsets {first} to {last} can't be unpacked: {type(error).__name__}; there are no bytes here"
        problem = Undecodable(Reason.UNREADABLE_BATCH, detail)
        found.append(Salvaged(last, batch.max_timestamp, problem=problem, cut=True))
    return found, batch.next_offset


def _payload(codec_id: int, compressed: bytes) -> bytes:
    return compressed if codec_id == DefaultRecordBatch.CODEC_NONE else bytes(_DECOMPRESS[codec_id](compressed))


def _records(payload: bytes, base_offset: int, first_timestamp_ms: int) -> Iterator[Salvaged]:
    position = 0
    while position < len(payload):
        length, position = decode_varint(payload, position)
        if not 0 < length <= len(payload) - position:
            raise ValueError("a record is longer than its batch")
        yield _record(payload[position : position + length], base_offset, first_timestamp_ms)
        position += length


def _record(body: bytes, base_offset: int, first_timestamp_ms: int) -> Salvaged:
    timestamp_delta, position = decode_varint(body, 1)  # the first byte, attributes, is unused
    offset_delta, position = decode_varint(body, position)
    key, position = _bytes(body, position)
    value, position = _bytes(body, position)
    count, position = decode_varint(body, position)
    headers: list[tuple[str, bytes | None]] = []
    problem: Undecodable | None = None
    for _ in range(count):
        name, position = _bytes(body, position)
        content, position = _bytes(body, position)
        try:
            headers.append(((name or b"").decode(), content))
        except UnicodeDecodeError:
            problem = Undecodable(Reason.INVALID_HEADER, "the name of a header is not UTF-8; its odd bytes are escaped")
            headers.append(((name or b"").decode(errors="backslashreplace"), content))
    return Salvaged(
        base_offset + offset_delta, first_timestamp_ms + timestamp_delta, key, value, tuple(headers), problem
    )


def _bytes(body: bytes, position: int) -> tuple[bytes | None, int]:
    length, position = decode_varint(body, position)
    if length < 0:
        return None, position
    if length > len(body) - position:
        raise ValueError("a field is longer than its record")
    return body[position : position + length], position + length
