"""Ids stand in stores and on topics for years: they may never come out differently."""

from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from shared.ids import event_id, notification_id, partition_of, request_id


def test_the_same_cause_gives_the_same_ids_for_ever() -> None:
    assert request_id("edd", "EDD-2026-004711") == "0dfbaf39-4b5b-50f4-91be-25d5750a7e49"
    assert event_id("edd/evt-000001", "guichet.request.accepted.v1") == "95e3b907-b08a-5d2c-b777-ed4d830f6f39"
    assert (
        notification_id("99491f03-798c-5ef6-8c22-c3734766e870", "assigned", "sms")
        == "8eb8d1bd-fea7-5680-a9b2-ea4b61e28cf4"
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
    assert len({event_id("a", "b"), request_id("a", "b"), request_id("a", "b\n0"), notification_id("a", "b", "0")}) == 4


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
    assert request_id(cause, event_type) == named(2, cause, event_type)
    assert notification_id(cause, event_type, str(index)) == named(3, cause, event_type, str(index))
