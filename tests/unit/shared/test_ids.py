"""Ids stand in stores and on topics for years: they may never come out differently."""

from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from shared.ids import event_id, notification_id, partition_of, request_id

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def micros_after_1970(micros: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)


def test_the_same_cause_gives_the_same_ids_for_ever() -> None:
    moment = datetime(2026, 11, 24, 8, 0, 0, 123456, tzinfo=UTC)
    assert request_id("edd", "EDD-2026-004711", moment) == "01a20c91-a07b-80f4-91be-25d5750a7e49"
    assert event_id("edd/evt-000001", "guichet.request.accepted.v1") == "95e3b907-b08a-5d2c-b777-ed4d830f6f39"
    assert (
        notification_id("99491f03-798c-5ef6-8c22-c3734766e870", "assigned", "sms", moment)
        == "01a20c91-a07b-8680-a9b2-ea4b61e28cf4"
    )


def test_cause_type_and_index_each_make_another_id() -> None:
    ids = {
        event_id(cause, event_type, index)
        for cause in ("a", "b", "ab")
        for event_type in ("x", "y", "bx")
        for index in (0, 1, 10)
    }
    assert len(ids) == 27


def test_the_same_words_name_different_things_in_different_kinds_of_id() -> None:
    requests = {request_id("a", "b", NOON), request_id("a", "b\n0", NOON)}
    assert len({event_id("a", "b"), *requests, notification_id("a", "b", "0", NOON)}) == 4


def test_the_partition_of_a_key_never_moves() -> None:
    keys = [b"", b"123456789", b"0dfbaf39-4b5b-50f4-91be-25d5750a7e49"]
    assert [partition_of(key, 6) for key in keys] == [0, 2, 4]
    # CRC-32 as published: its check value is 0xCBF43926.
    assert partition_of(b"123456789", 2**32) == 0xCBF43926


@given(key=st.binary(max_size=200), partitions=st.integers(1, 1000))
def test_every_key_has_a_partition(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions


@given(cause=st.text(), event_type=st.text(), index=st.integers())
def test_ids_are_uuids_of_version_5(cause: str, event_type: str, index: int) -> None:
    def named(kind: int, *words: str) -> str:
        return str(uuid5(UUID(f"6f1f7e0b-9d7a-5c55-8a0e-2f9d1f0c6d0{kind}"), "\n".join(words)))

    assert event_id(cause, event_type, index) == named(1, cause, event_type, str(index))


@given(agency=st.text(), reference=st.text(), accepted=st.integers(0, 10**15).map(micros_after_1970))
def test_what_stores_keep_in_the_order_of_time_has_ids_of_version_8_that_begin_with_it(
    agency: str, reference: str, accepted: datetime
) -> None:
    milliseconds = int(accepted.timestamp() * 1000)
    for one in (request_id(agency, reference, accepted), notification_id(agency, reference, "sms", accepted)):
        assert (UUID(one).version, UUID(one).variant) == (8, RFC_4122)
        assert UUID(one).int >> 80 == milliseconds


@given(moments=st.lists(st.integers(0, 10**13), min_size=2, max_size=2, unique=True).map(sorted), name=st.text())
def test_of_two_ids_that_begin_with_a_time_the_later_one_sorts_after(moments: list[int], name: str) -> None:
    earlier, later = (micros_after_1970(each * 1000) for each in moments)
    assert request_id("a", name, earlier) < request_id("a", name, later)
