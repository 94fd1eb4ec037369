"""Reading by hand what aiokafka refuses to read."""

import struct

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from shared.bus.recordbatch import Damaged, salvage
from shared.contract.reasons import Reason

AT_MS = 1_795_336_200_280
BASE_OFFSET = 1000

values = st.none() | st.binary(max_size=50)
headers = st.lists(st.tuples(st.text(max_size=5), values), max_size=3)


def built(records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]], codec: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 20)
    for number, (key, value, named) in enumerate(records):
        builder.append(number, AT_MS + number, key, value, named)
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, BASE_OFFSET)  # as the broker does
    return bytes(data)


def sealed(data: bytearray) -> bytes:
    struct.pack_into(">I", data, 17, calc_crc32c(bytes(data[21:])))
    return bytes(data)


@given(records=st.lists(st.tuples(values, values, headers), min_size=1, max_size=20), codec=st.integers(0, 4))
def test_what_aiokafka_writes_is_read_as_it_was(
    records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]], codec: int
) -> None:
    found, following = salvage(built(records, codec) + b"and the beginning of the next", BASE_OFFSET)
    assert [(one.key, one.value, list(one.headers)) for one in found] == records
    assert [(one.offset, one.timestamp_ms) for one in found] == [
        (BASE_OFFSET + number, AT_MS + number) for number in range(len(records))
    ]
    assert following == BASE_OFFSET + len(records)
    assert all(one.problem is None for one in found)


def test_what_was_taken_before_is_left_out() -> None:
    found, following = salvage(built([(None, b"%d" % n, []) for n in range(5)]), BASE_OFFSET + 3)
    assert ([one.value for one in found], following) == ([b"3", b"4"], BASE_OFFSET + 5)


def test_records_before_the_spoilt_part_of_a_batch_are_kept() -> None:
    data = bytearray(built([(None, b"good", []), (None, b"spoilt", []), (None, b"lost", [])]))
    length_of_value = data.index(b"spoilt") - 1
    data[length_of_value] = 0x7E  # claims 63 bytes
    first, rest = salvage(sealed(data), BASE_OFFSET)[0]
    assert first.value == b"good"
    assert (rest.offset, rest.cut) == (BASE_OFFSET + 2, True)
    assert rest.problem is not None
    assert rest.problem.reason is Reason.UNREADABLE_BATCH
    assert rest.problem.detail.startswith("offsets 1001 to 1002 can't be unpacked")


@pytest.mark.parametrize("cut", [0, 11, 60, 80])
def test_half_a_batch_is_no_batch(cut: int) -> None:
    with pytest.raises(Damaged):
        salvage(built([(None, b"x" * 50, [])])[:cut], BASE_OFFSET)


@given(at=st.integers(min_value=21), bit=st.integers(0, 7))
def test_one_wrong_bit_is_noticed(at: int, bit: int) -> None:
    data = bytearray(built([(b"key", b"value" * 10, [])]))
    data[21 + at % (len(data) - 21)] ^= 1 << bit
    with pytest.raises(Damaged):
        salvage(bytes(data), BASE_OFFSET)


@given(body=st.binary(max_size=200), codec=st.integers(0, 7))
def test_whatever_stands_under_a_right_checksum_is_stepped_over(body: bytes, codec: int) -> None:
    data = bytearray(built([(None, b"x", [])])[:61]) + body
    struct.pack_into(">i", data, 8, len(data) - 12)
    struct.pack_into(">h", data, 21, codec)
    found, following = salvage(sealed(data), BASE_OFFSET)
    assert following == BASE_OFFSET + 1
    assert all(one.problem is not None for one in found if one.cut)
