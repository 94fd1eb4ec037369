import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from shared.bus.loop import BatchLoop, dead_letter, decode_mesh_event
from shared.bus.port import Publication, Record, Unavailable, Undecodable
from shared.contract.events import DeadLetter, Origin, Unreadable
from shared.contract.reasons import Reason
from shared.contract.topics import ACCEPTED, ASSIGNED, DEAD_LETTERS, REJECTED
from shared.metrics import BusMetrics
from shared.store.port import StoreUnavailable
from tests.fakes import MemoryPublisher

RECORDED_AT = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)


def record(
    offset: int,
    value: bytes | None,
    *,
    key: bytes | None = b"key",
    headers: tuple[tuple[str, bytes | None], ...] = (),
    topic: str = "in",
) -> Record:
    recorded_at_ms = int(RECORDED_AT.timestamp() * 1000)
    return Record(topic, 3, offset, recorded_at_ms, RECORDED_AT, key, value, headers)


def read_number(item: Record) -> int:
    """Reads digits; tells somebody of what is no number."""
    if not item.value:
        raise Undecodable(Reason.EMPTY, "there is nothing in it")
    if item.value == b"bug":
        raise ZeroDivisionError
    if not item.value.isdigit():
        notice = Publication(REJECTED, "somebody", b"not a number")
        raise Undecodable(Reason.NOT_JSON, "these are no digits", notices=(notice,))
    return int(item.value)


class Doubling:
    """Doubles numbers; fails on any batch that holds one of `poison`."""

    def __init__(self, *, poison: Sequence[int] = (), failure: type[Exception] = ValueError) -> None:
        self.poison = poison
        self.failure = failure
        self.batches: list[list[int]] = []

    async def __call__(self, batch: Sequence[int]) -> list[Publication]:
        self.batches.append(list(batch))
        if set(batch) & set(self.poison):
            raise self.failure("on purpose")
        return [Publication(ASSIGNED, str(number), str(2 * number).encode()) for number in batch]


def loop(handle: Doubling, publisher: MemoryPublisher, registry: CollectorRegistry | None = None) -> BatchLoop[int]:
    metrics = BusMetrics(registry or CollectorRegistry())
    return BatchLoop("doubling", read_number, handle, publisher, metrics)


def dead_letters(publisher: MemoryPublisher) -> list[DeadLetter]:
    return [
        DeadLetter.from_json(publication.value)
        for publication in publisher.published
        if publication.topic is DEAD_LETTERS
    ]


def doubled(publisher: MemoryPublisher) -> list[int]:
    return [int(publication.value) for publication in publisher.published if publication.topic is ASSIGNED]


async def test_a_batch_is_handled_as_one_and_its_events_go_out_in_order() -> None:
    handle, publisher = Doubling(), MemoryPublisher()
    await loop(handle, publisher).process([record(offset, str(offset).encode()) for offset in range(100)])
    assert handle.batches == [list(range(100))]
    assert doubled(publisher) == [2 * number for number in range(100)]


async def test_what_cant_be_decoded_becomes_a_dead_letter_whole_and_its_neighbours_go_on() -> None:
    handle, publisher = Doubling(), MemoryPublisher()
    odd = record(
        1, b"\xff\x00 no number", key=b"\x80", headers=(("trace", b"\xfe"), ("trace", None), ("", b"")), topic="odd"
    )
    await loop(handle, publisher).process([record(0, b"0"), odd, record(2, None, key=None), record(3, b"3")])
    assert handle.batches == [[0, 3]]
    assert doubled(publisher) == [0, 6]
    first, second = dead_letters(publisher)
    assert (first.data.service, first.source, first.subject) == ("doubling", "/guichet/doubling", "odd/3/1")
    assert first.data.origin == Origin(topic="odd", partition=3, offset=1)
    assert (first.data.reason, first.data.detail) == (Reason.NOT_JSON, "these are no digits")
    assert base64.b64decode(first.data.key or "") == b"\x80"
    assert base64.b64decode(first.data.value or "") == b"\xff\x00 no number"
    assert first.data.headers == (("trace", "/g=="), ("trace", None), ("", ""))
    assert (first.time, first.data.recorded_at_ms) == (RECORDED_AT, int(RECORDED_AT.timestamp() * 1000))
    assert (second.data.reason, second.data.key, second.data.value) == (Reason.EMPTY, None, None)


async def test_a_dead_letter_is_keyed_by_its_origin() -> None:
    publisher = MemoryPublisher()
    await loop(Doubling(), publisher).process([record(7, b"x", topic="agency.edd.events")])
    assert [key for _, key, _ in publisher.records(DEAD_LETTERS.name)] == [b"agency.edd.events/3/7"]


async def test_notices_of_what_cant_be_decoded_go_out_with_it() -> None:
    publisher = MemoryPublisher()
    await loop(Doubling(), publisher).process([record(0, b"x")])
    assert publisher.records(REJECTED.name)[0][1:] == (b"somebody", b"not a number")


async def test_the_same_record_gives_the_same_dead_letter_to_the_byte() -> None:
    once, again = MemoryPublisher(), MemoryPublisher()
    await loop(Doubling(), once).process([record(0, b"x"), record(1, b"y")])
    await loop(Doubling(), again).process([record(1, b"y")])
    assert once.records(DEAD_LETTERS.name)[1] == again.records(DEAD_LETTERS.name)[0]


def test_two_services_that_set_aside_one_record_tell_of_it_in_two_events() -> None:
    refusal = Undecodable(Reason.NOT_JSON, "x")
    letters = [dead_letter(service, record(0, b"x"), refusal) for service in ("routing", "notify")]
    ids = {DeadLetter.from_json(letter.value).id for letter in letters}
    assert len(ids) == 2


async def test_a_record_on_which_the_handler_fails_is_set_aside_alone() -> None:
    handle, publisher = Doubling(poison=[2]), MemoryPublisher()
    await loop(handle, publisher).process([record(number, str(number).encode()) for number in range(5)])
    assert doubled(publisher) == [0, 2, 6, 8]
    (letter,) = dead_letters(publisher)
    assert (letter.data.origin.offset, letter.data.reason) == (2, Reason.HANDLER_ERROR)
    assert letter.data.detail == "ValueError"  # an error's text may hold personal data


async def test_a_record_on_which_the_decoder_itself_fails_is_set_aside_alone() -> None:
    publisher = MemoryPublisher()
    await loop(Doubling(), publisher).process([record(0, b"0"), record(1, b"bug"), record(2, b"2")])
    assert doubled(publisher) == [0, 4]
    (letter,) = dead_letters(publisher)
    assert (letter.data.origin.offset, letter.data.reason) == (1, Reason.HANDLER_ERROR)


@pytest.mark.parametrize("failure", [Unavailable, StoreUnavailable])
async def test_when_a_part_does_not_answer_nothing_goes_out_and_the_caller_hears_of_it(
    failure: type[Exception],
) -> None:
    handle, publisher = Doubling(poison=[1], failure=failure), MemoryPublisher()
    with pytest.raises(failure):
        await loop(handle, publisher).process([record(0, b"x"), record(1, b"1")])
    assert publisher.published == []


async def test_when_a_part_stops_answering_while_records_are_tried_one_by_one_nothing_goes_out() -> None:
    class FailingThenGone(Doubling):
        async def __call__(self, batch: Sequence[int]) -> list[Publication]:
            self.failure = ValueError if len(batch) > 1 else Unavailable
            return await super().__call__(batch)

    handle, publisher = FailingThenGone(poison=[2]), MemoryPublisher()
    with pytest.raises(Unavailable):
        await loop(handle, publisher).process([record(number, str(number).encode()) for number in range(5)])
    assert handle.batches == [[0, 1, 2, 3, 4], [0], [1], [2]]
    assert publisher.published == []


async def test_a_handler_that_waits_for_ever_is_put_off_as_unavailable_by_its_own_timeout() -> None:
    handle, publisher = Doubling(poison=[1], failure=TimeoutError), MemoryPublisher()
    with pytest.raises(Unavailable):
        await loop(handle, publisher).process([record(1, b"1")])


async def test_a_batch_is_not_done_before_its_dead_letters_are_acknowledged() -> None:
    registry, publisher = CollectorRegistry(), MemoryPublisher()
    processing = loop(Doubling(), publisher, registry)
    publisher.break_down()
    with pytest.raises(Unavailable):
        await processing.process([record(0, b"0"), record(1, b"x")])
    labels = {"topic": "in", "reason": "not_json"}
    assert registry.get_sample_value("guichet_dead_letters_total", labels) is None
    publisher.mend()
    await processing.process([record(0, b"0"), record(1, b"x")])
    assert doubled(publisher) == [0]
    assert len(dead_letters(publisher)) == 1
    assert registry.get_sample_value("guichet_dead_letters_total", labels) == 1


async def test_a_batch_from_which_nothing_follows_asks_nothing_of_the_publisher() -> None:
    publisher = MemoryPublisher()
    publisher.break_down()
    await loop(Doubling(), publisher).process([])


async def test_a_record_that_decompressed_to_more_than_a_topic_takes_is_set_aside_cut_and_says_so() -> None:
    publisher = MemoryPublisher()
    bomb = record(0, b"x" * 20_000_000, headers=(("h", b"y" * 5_000_000),))
    await loop(Doubling(), publisher).process([bomb])
    (letter,) = dead_letters(publisher)
    assert len(publisher.records(DEAD_LETTERS.name)[0][2]) < 1_000_000
    assert letter.data.detail == "these are no digits (25000004 bytes; only the start is kept here)"
    assert base64.b64decode(letter.data.value or "") == b"x" * 65536
    assert letter.data.origin.offset == 0


def accepted(**changes: object) -> bytes:
    moment = "2026-11-22T08:30:00Z"
    card = {
        "request_id": "r",
        "reference": "W83T-C056-G998",
        "agency": "edd",
        "agency_reference": "1",
        "service_code": "power-outage",
        "submitted_at": moment,
        "applicant": {},
    }
    event = {"id": "e", "source": "/", "type": ACCEPTED.event.TYPE, "data": {"request": card, "timeline": {}}}
    return json.dumps({**event, **changes}).encode()


def test_an_event_of_the_mesh_comes_with_the_record_it_stood_in() -> None:
    incoming = record(4, accepted(), topic=ACCEPTED.name)
    decoded = decode_mesh_event([ACCEPTED, ASSIGNED])(incoming)
    assert type(decoded.event) is ACCEPTED.event
    assert decoded.record is incoming


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.EMPTY),
        (b"", Reason.EMPTY),
        (b" ", Reason.NOT_JSON),
        (accepted()[:-1], Reason.NOT_JSON),
        (accepted() + b"{}", Reason.NOT_JSON),
        (b"\xef\xbb\xbf" + accepted(), Reason.NOT_JSON),
        (accepted().decode().encode("utf-16"), Reason.NOT_JSON),
        (b'{"id": "\xff"}', Reason.NOT_JSON),
        (b'{"id": "\\ud800"}', Reason.NOT_JSON),
        (b'{"added_later": ' + b"[" * 100_000, Reason.NOT_JSON),
        (b"[]", Reason.INVALID_VALUE),
        (b"null", Reason.INVALID_VALUE),
        (b"<event/>", Reason.NOT_JSON),
        (accepted(type="guichet.request.accepted.v2"), Reason.INVALID_VALUE),
        (accepted(specversion="0.3"), Reason.INVALID_VALUE),
        (accepted(data={}), Reason.INVALID_VALUE),
        (accepted(time="2026-02-30T00:00:00Z"), Reason.INVALID_VALUE),
        (accepted(time="2026-11-22T08:30:00"), Reason.INVALID_VALUE),
    ],
)
def test_what_is_no_event_of_its_topic_is_undecodable(value: bytes | None, reason: Reason) -> None:
    with pytest.raises(Undecodable) as refusal:
        decode_mesh_event([ACCEPTED])(record(0, value, topic=ACCEPTED.name))
    assert refusal.value.reason is reason


def test_why_an_event_is_undecodable_names_the_field_and_repeats_nothing_of_it() -> None:
    broken = accepted(data={"request": {"applicant": {"phone": ["+4917139200 01"]}}, "timeline": {}})
    with pytest.raises(Undecodable) as refusal:
        decode_mesh_event([ACCEPTED])(record(0, broken, topic=ACCEPTED.name))
    assert refusal.value.detail.startswith("data.request.")
    assert "+4917139200" not in refusal.value.detail


def test_a_trace_in_a_log_repeats_nothing_of_an_event_that_can_t_be_read() -> None:
    broken = accepted(data={"request": {"applicant": {"phone": ["+4917139200 01"]}}, "timeline": {}})
    with pytest.raises(Unreadable) as error:
        ACCEPTED.event.from_json(broken)
    assert "+4917139200" not in str(error.value)


@given(
    value=st.binary() | st.text().map(str.encode) | st.integers(0, len(accepted())).map(lambda cut: accepted()[:cut])
)
def test_the_decoder_reads_any_bytes_or_says_that_they_are_undecodable(value: bytes) -> None:
    try:
        decoded = decode_mesh_event([ACCEPTED])(record(0, value, topic=ACCEPTED.name))
    except Undecodable:
        return
    assert decoded.event.id == "e"
