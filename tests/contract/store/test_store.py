"""What the store port promises, sentence by sentence, of both adapters."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest

from shared.store.port import Change, Collection, Document, Row, Store, StoreUnavailable

NOON = datetime(2026, 3, 2, 12, 0, 0, 123456, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)


def keyed(count: int) -> list[str]:
    return [f"request-{number:05}" for number in range(count)]


# Inserting


async def test_a_new_document_is_inserted_and_not_given_back(rows: Collection) -> None:
    assert await rows.insert_new({"a": Document(b'{"office":"balbala"}')}) == {}
    assert await rows.get_many(["a"]) == {"a": Row("a", 1, b'{"office":"balbala"}', None)}


async def test_the_first_decision_wins_and_is_given_back_as_it_stands(rows: Collection) -> None:
    await rows.insert_new({"a": Document(b"first", NOON)})
    assert await rows.insert_new({"a": Document(b"second", NOON + MINUTE)}) == {"a": Row("a", 1, b"first", NOON)}
    assert await rows.get_many(["a"]) == {"a": Row("a", 1, b"first", NOON)}


async def test_what_is_new_is_inserted_beside_what_stood(rows: Collection) -> None:
    await rows.insert_new({"b": Document(b"old")})
    assert await rows.insert_new({key: Document(b"new") for key in "abc"}) == {"b": Row("b", 1, b"old")}
    assert {key: row.body for key, row in (await rows.get_many("abc")).items()} == {
        "a": b"new",
        "b": b"old",
        "c": b"new",
    }


async def test_a_row_that_was_changed_is_given_back_with_its_change(rows: Collection) -> None:
    await rows.insert_new({"a": Document(b"first")})
    await rows.compare_and_set({"a": Change(1, b"changed")})
    assert await rows.insert_new({"a": Document(b"again")}) == {"a": Row("a", 2, b"changed")}


async def test_of_two_callers_with_one_key_exactly_one_does_not_get_it_back(
    rows: Collection, rows_elsewhere: Collection
) -> None:
    keys = keyed(200)
    here, there = await asyncio.gather(
        rows.insert_new({key: Document(b"here") for key in keys}),
        rows_elsewhere.insert_new({key: Document(b"there") for key in reversed(keys)}),
    )
    assert set(here) | set(there) == set(keys)
    assert set(here) & set(there) == set()
    assert {row.body for row in here.values()} <= {b"there"}
    assert {row.body for row in there.values()} <= {b"here"}
    assert await rows.get_many(keys) == {**here, **there}


async def test_callers_that_race_in_small_batches_leave_one_winner_a_key(
    rows: Collection, rows_elsewhere: Collection
) -> None:
    keys = keyed(200)
    callers = [
        (collection, f"{at}-{number}".encode())
        for at, collection in (("here", rows), ("there", rows_elsewhere))
        for number in range(3)
    ]
    wins: dict[str, list[bytes]] = {key: [] for key in keys}

    async def insert(collection: Collection, body: bytes) -> None:
        for start in range(0, len(keys), 10):
            batch = keys[start : start + 10]
            stood = await collection.insert_new({key: Document(body) for key in batch})
            for key in set(batch) - set(stood):
                wins[key].append(body)

    await asyncio.gather(*(insert(*caller) for caller in callers))
    standing = await rows.get_many(keys)
    assert wins == {key: [standing[key].body] for key in keys}


async def test_a_batch_of_two_thousand_is_inserted_and_found_again(rows: Collection) -> None:
    documents = {key: Document(key.encode()) for key in keyed(2_000)}
    assert await rows.insert_new(documents) == {}
    again = await rows.insert_new({key: Document(b"again") for key in documents})
    assert again == {key: Row(key, 1, key.encode()) for key in documents}


@pytest.mark.parametrize("count", [7, 9, 300])
async def test_of_many_exactly_those_are_given_back_that_stood(rows: Collection, count: int) -> None:
    keys = keyed(count)
    old = set(keys[1::3])
    await rows.insert_new({key: Document(b"old") for key in old})
    standing = await rows.insert_new({key: Document(b"new") for key in keys})
    assert standing == {key: Row(key, 1, b"old") for key in old}
    assert {key for key, row in (await rows.get_many(keys)).items() if row.body == b"new"} == set(keys) - old


async def test_nothing_asked_is_nothing_done(rows: Collection) -> None:
    assert await rows.insert_new({}) == {}
    assert await rows.get_many([]) == {}
    assert await rows.compare_and_set({}) == set()
    assert [row async for row in rows.scan()] == []


# Keys, bodies, due times


@pytest.mark.parametrize(
    "key",
    ["", " ", "é", "e\u0301", "طلب", "🏛", "A", "a", "a'b\"c;--", "$set", "a.b", "a\x00b", "x" * 256],
    ids=ascii,
)
async def test_any_text_of_256_characters_is_a_key_of_its_own(rows: Collection, key: str) -> None:
    neighbours = {"É", "a\x00", "a\x00c", "aB", "x" * 255, "\u00e9\u0301"}
    await rows.insert_new({each: Document(b"neighbour") for each in neighbours})
    assert await rows.insert_new({key: Document(b"mine")}) == {}
    assert await rows.get_many([key]) == {key: Row(key, 1, b"mine")}
    assert await rows.compare_and_set({key: Change(1, b"changed")}) == {key}
    assert {row.key async for row in rows.scan()} == {key} | neighbours


async def test_a_longer_key_is_refused_and_its_batch_with_it(rows: Collection) -> None:
    with pytest.raises(ValueError, match="256"):
        await rows.insert_new({"a": Document(b"{}"), "x" * 257: Document(b"{}")})
    assert await rows.get_many(["a"]) == {}


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", "é🏛طلب".encode(), b"\x00\xff not text", b"\xef\xbb\xbf{}", "é".encode() * 50_000],
    ids=["empty", "object", "utf-8", "bytes", "byte-order-mark", "100kB"],
)
async def test_a_body_comes_back_to_the_byte(rows: Collection, body: bytes) -> None:
    await rows.insert_new({"a": Document(body), "b": Document(b"-")})
    await rows.compare_and_set({"b": Change(1, body)})
    assert {row.body for row in (await rows.get_many(["a", "b"])).values()} == {body}
    assert (await rows.insert_new({"a": Document(b"other")}))["a"].body == body


async def test_a_due_time_keeps_its_microseconds_whatever_zone_it_came_in(rows: Collection) -> None:
    in_djibouti = NOON.astimezone(timezone(timedelta(hours=3)))
    await rows.insert_new({"a": Document(b"{}", in_djibouti)})
    (row,) = (await rows.get_many(["a"])).values()
    assert row.due == NOON
    assert row.due.utcoffset() == timedelta(0)


async def test_a_due_time_without_zone_is_refused(rows: Collection) -> None:
    with pytest.raises(ValueError, match="time zone"):
        await rows.insert_new({"a": Document(b"{}", NOON.replace(tzinfo=None))})
    assert await rows.get_many(["a"]) == {}


async def test_only_the_rows_there_are_among_the_keys_are_got(rows: Collection) -> None:
    await rows.insert_new({key: Document(b"{}") for key in ("a", "b", "c")})
    assert set(await rows.get_many(["a", "c", "a", "unknown"])) == {"a", "c"}
    assert set(await rows.get_many({"b": None}.keys())) == {"b"}


# Compare and set


async def test_a_change_of_the_version_that_was_read_is_made_whole(rows: Collection) -> None:
    await rows.insert_new({"a": Document(b"1", NOON)})
    assert await rows.compare_and_set({"a": Change(1, b"2")}) == {"a"}
    assert await rows.get_many(["a"]) == {"a": Row("a", 2, b"2", None)}
    assert await rows.compare_and_set({"a": Change(2, b"3", NOON + MINUTE)}) == {"a"}
    assert await rows.get_many(["a"]) == {"a": Row("a", 3, b"3", NOON + MINUTE)}


@pytest.mark.parametrize("version", [0, 1, 3])
async def test_a_change_of_any_other_version_is_not_made(rows: Collection, version: int) -> None:
    await rows.insert_new({"a": Document(b"1")})
    await rows.compare_and_set({"a": Change(1, b"2", NOON)})
    assert await rows.compare_and_set({"a": Change(version, b"stale")}) == set()
    assert await rows.get_many(["a"]) == {"a": Row("a", 2, b"2", NOON)}


async def test_a_change_of_a_row_that_is_not_there_makes_none(rows: Collection) -> None:
    assert await rows.compare_and_set({"a": Change(1, b"1"), "b": Change(0, b"1")}) == set()
    assert await rows.get_many(["a", "b"]) == {}


async def test_a_lost_change_leaves_its_neighbours_theirs(rows: Collection) -> None:
    await rows.insert_new({key: Document(b"1") for key in "abc"})
    await rows.compare_and_set({"b": Change(1, b"2")})
    changes = {key: Change(1, b"mine") for key in ("a", "b", "c", "unknown")}
    assert await rows.compare_and_set(changes) == {"a", "c"}
    assert {row.body for row in (await rows.get_many(["a", "c"])).values()} == {b"mine"}
    assert (await rows.get_many(["b"]))["b"] == Row("b", 2, b"2")


async def test_of_two_changes_of_one_version_exactly_one_is_made(rows: Collection, rows_elsewhere: Collection) -> None:
    keys = keyed(200)
    await rows.insert_new({key: Document(b"1") for key in keys})
    here, there = await asyncio.gather(
        rows.compare_and_set({key: Change(1, b"here") for key in keys}),
        rows_elsewhere.compare_and_set({key: Change(1, b"there") for key in reversed(keys)}),
    )
    assert here | there == set(keys)
    assert here & there == set()
    standing = await rows.get_many(keys)
    assert {key for key, row in standing.items() if row.body == b"here"} == here
    assert {row.version for row in standing.values()} == {2}


async def test_changes_that_race_one_by_one_count_every_win(rows: Collection, rows_elsewhere: Collection) -> None:
    """A counter that four callers raise by reading and comparing ends at the number of times they won."""
    await rows.insert_new({"counter": Document(b"0"), "bystander": Document(b"0")})

    async def raise_it(collection: Collection, times: int) -> int:
        attempts = 0
        while times:
            row = (await collection.get_many(["counter"]))["counter"]
            body = str(int(row.body) + 1).encode()
            times -= len(await collection.compare_and_set({"counter": Change(row.version, body)}))
            attempts += 1
        return attempts

    await asyncio.gather(*(raise_it(each, 15) for each in (rows, rows, rows_elsewhere, rows_elsewhere)))
    assert await rows.get_many(["counter", "bystander"]) == {
        "counter": Row("counter", 61, b"60"),
        "bystander": Row("bystander", 1, b"0"),
    }


async def test_two_thousand_changes_are_made_at_once(rows: Collection) -> None:
    keys = keyed(2_000)
    await rows.insert_new({key: Document(b"1") for key in keys})
    assert await rows.compare_and_set({key: Change(1, key.encode(), NOON) for key in keys}) == set(keys)
    assert await rows.get_many(keys) == {key: Row(key, 2, key.encode(), NOON) for key in keys}


# Taking what is due


async def test_a_row_is_due_from_its_due_time_on_and_not_before(rows: Collection) -> None:
    await rows.insert_new({"a": Document(b"{}", NOON), "never": Document(b"{}")})
    assert await rows.take_due(NOON - MICROSECOND, limit=10, lease=MINUTE) == []
    taken = await rows.take_due(NOON, limit=10, lease=MINUTE)
    assert taken == [Row("a", 2, b"{}", NOON + MINUTE)]


async def test_the_longest_due_are_taken_first_and_no_more_than_asked(rows: Collection) -> None:
    hours = {"d": 1, "b": 2, "c": 3, "a": 4, "e": 5}
    await rows.insert_new({key: Document(key.encode(), NOON - timedelta(hours=ago)) for key, ago in hours.items()})
    assert [row.key for row in await rows.take_due(NOON, limit=2, lease=MINUTE)] == ["e", "a"]
    assert [row.key for row in await rows.take_due(NOON, limit=10, lease=MINUTE)] == ["c", "b", "d"]
    assert await rows.take_due(NOON, limit=10, lease=MINUTE) == []


async def test_taking_none_takes_none(rows: Collection) -> None:
    await rows.insert_new({"a": Document(b"{}", NOON)})
    assert await rows.take_due(NOON, limit=0, lease=MINUTE) == []
    assert await rows.get_many(["a"]) == {"a": Row("a", 1, b"{}", NOON)}


async def test_a_row_taken_stands_with_its_new_version_and_lease(rows: Collection) -> None:
    await rows.insert_new({"a": Document(b"{}", NOON)})
    (taken,) = await rows.take_due(NOON, limit=1, lease=MINUTE)
    assert await rows.get_many(["a"]) == {"a": taken}


async def test_a_lease_holds_until_its_end_and_then_the_row_comes_up_again(rows: Collection) -> None:
    await rows.insert_new({"a": Document(b"{}", NOON)})
    await rows.take_due(NOON, limit=1, lease=MINUTE)
    assert await rows.take_due(NOON + MINUTE - MICROSECOND, limit=1, lease=MINUTE) == []
    assert await rows.take_due(NOON + MINUTE, limit=1, lease=MINUTE) == [Row("a", 3, b"{}", NOON + 2 * MINUTE)]


async def test_a_taker_that_is_done_in_time_ends_the_lease(rows: Collection) -> None:
    await rows.insert_new({"a": Document(b"planned", NOON)})
    (taken,) = await rows.take_due(NOON, limit=1, lease=MINUTE)
    assert await rows.compare_and_set({"a": Change(taken.version, b"sent")}) == {"a"}
    assert await rows.take_due(NOON + 2 * MINUTE, limit=1, lease=MINUTE) == []


async def test_a_taker_whose_lease_was_taken_over_can_no_longer_write(
    rows: Collection, rows_elsewhere: Collection
) -> None:
    await rows.insert_new({"a": Document(b"planned", NOON)})
    (asleep,) = await rows.take_due(NOON, limit=1, lease=MINUTE)
    (awake,) = await rows_elsewhere.take_due(NOON + MINUTE, limit=1, lease=MINUTE)
    assert await rows.compare_and_set({"a": Change(asleep.version, b"sent twice")}) == set()
    assert await rows_elsewhere.compare_and_set({"a": Change(awake.version, b"sent")}) == {"a"}


async def test_no_two_takers_get_the_same_row(rows: Collection, rows_elsewhere: Collection) -> None:
    keys = keyed(600)
    await rows.insert_new({key: Document(b"{}", NOON + at * MICROSECOND) for at, key in enumerate(keys)})
    taken: list[str] = []

    async def take_all(collection: Collection, limit: int) -> None:
        while batch := await collection.take_due(NOON + MINUTE, limit=limit, lease=MINUTE):
            taken.extend(row.key for row in batch)

    limits = (7, 20, 33)
    await asyncio.gather(*(take_all(collection, limit) for collection in (rows, rows_elsewhere) for limit in limits))
    await take_all(rows, 600)
    assert sorted(taken) == keys


# Scanning


async def test_a_scan_sees_every_row_once_by_key(rows: Collection) -> None:
    keys = keyed(3_000)
    await rows.insert_new({key: Document(key.encode()) for key in reversed(keys[:1_500])})
    await rows.insert_new({key: Document(key.encode()) for key in keys[1_500:]})
    assert [row async for row in rows.scan()] == [Row(key, 1, key.encode()) for key in keys]


async def test_a_scan_of_the_due_sees_only_rows_with_a_due_time(rows: Collection) -> None:
    keys = keyed(3_000)
    await rows.insert_new({key: Document(b"{}", NOON if at % 2 else None) for at, key in enumerate(keys)})
    await rows.compare_and_set({keys[1]: Change(1, b"{}"), keys[2]: Change(1, b"{}", NOON)})
    assert [row.key async for row in rows.scan(due_only=True)] == [keys[2], *keys[3::2]]


async def test_rows_changed_during_a_scan_are_seen_old_or_new_and_never_twice(
    rows: Collection, rows_elsewhere: Collection
) -> None:
    keys = keyed(3_000)
    await rows.insert_new({key: Document(b"old") for key in keys})
    seen: list[Row] = []
    async for row in rows.scan():
        if not seen:
            await rows_elsewhere.compare_and_set({key: Change(1, b"new" * 1_000) for key in keys})
            await rows_elsewhere.insert_new({f"{key}-late": Document(b"late") for key in keys[::10]})
        seen.append(row)
    assert [row.key for row in seen if row.body != b"late"] == keys
    assert len({row.key for row in seen}) == len(seen)
    assert {(row.version, row.body) for row in seen} <= {(1, b"old"), (2, b"new" * 1_000), (1, b"late")}


async def test_a_scan_left_halfway_keeps_nobody_from_writing(rows: Collection, rows_elsewhere: Collection) -> None:
    await rows.insert_new({key: Document(b"{}") for key in keyed(3_000)})
    scan = rows.scan()
    first = await anext(aiter(scan))
    assert await rows_elsewhere.compare_and_set({first.key: Change(1, b"changed")}) == {first.key}
    assert await rows.insert_new({"later": Document(b"{}")}) == {}


# The store as a whole


async def test_collections_of_one_store_share_nothing(store: Store, name: str) -> None:
    ours, theirs = store.collection(name), store.collection(f"{name}_due")
    await ours.insert_new({"a": Document(b"ours", NOON)})
    assert await theirs.insert_new({"a": Document(b"theirs")}) == {}
    assert await theirs.take_due(NOON, limit=10, lease=MINUTE) == []
    assert [row.body async for row in ours.scan()] == [b"ours"]


@pytest.mark.parametrize("wrong", ["", "Requests", "a-b", "a.b", "a b", 'a" (x); --', "réponses", "_ping", "rows1"])
async def test_a_collection_is_named_by_lower_case_letters_and_underscores(store: Store, wrong: str) -> None:
    with pytest.raises(ValueError, match="lower-case"):
        store.collection(wrong)


@pytest.mark.parametrize("word", ["order", "table", "index", "group"])
async def test_a_word_of_the_query_language_is_a_name_like_any_other(store: Store, word: str) -> None:
    collection = store.collection(word)
    await collection.insert_new({"a": Document(b"{}", NOON)})
    assert len(await collection.take_due(NOON, limit=1, lease=MINUTE)) == 1


async def test_what_was_written_is_there_after_closing_and_opening_again(
    make_store: Callable[[], Store], name: str
) -> None:
    for opened, standing in enumerate([{}, {"a": Row("a", 1, b"kept", NOON)}]):
        store = make_store()
        await store.open()
        assert await store.collection(name).insert_new({"a": Document(b"kept", NOON)}) == standing, opened
        await store.close()


async def test_a_store_that_answers_pings(store: Store) -> None:
    await store.ping()
    await store.ping()


async def test_a_store_is_unavailable_before_it_is_opened_and_after_it_is_closed(
    make_store: Callable[[], Store], name: str
) -> None:
    store = make_store()
    rows = store.collection(name)
    with pytest.raises(StoreUnavailable, match="not open"):
        await rows.insert_new({"a": Document(b"{}")})
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.ping()
    await store.close()
    await store.open()
    await rows.insert_new({"a": Document(b"{}", NOON)})
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.ping()
    with pytest.raises(StoreUnavailable, match="not open"):
        await rows.get_many(["a"])
    with pytest.raises(StoreUnavailable, match="not open"):
        await rows.take_due(NOON, limit=1, lease=MINUTE)
    with pytest.raises(StoreUnavailable, match="not open"):
        await anext(aiter(rows.scan()))


async def test_a_closed_store_can_be_opened_again(make_store: Callable[[], Store], name: str) -> None:
    store = make_store()
    rows = store.collection(name)
    await store.open()
    await rows.insert_new({"a": Document(b"{}")})
    await store.close()
    await store.open()
    assert set(await rows.get_many(["a"])) == {"a"}
    await store.close()


async def test_what_was_asked_before_closing_is_done_or_said_to_be_unknown(
    make_store: Callable[[], Store], name: str
) -> None:
    """Whoever is not told that it is unknown may rely on it."""
    store, later = make_store(), make_store()
    await store.open()
    rows = store.collection(name)
    await rows.get_many(["made"])
    asked = [asyncio.create_task(rows.insert_new({key: Document(b"{}")})) for key in keyed(20)]
    await asyncio.sleep(0)
    await store.close()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    await later.open()
    standing = await later.collection(name).get_many(keyed(20))
    await later.close()
    assert {type(answer) for answer in answers} <= {dict, StoreUnavailable}
    assert {key for key, answer in zip(keyed(20), answers, strict=True) if answer == {}} <= set(standing)


async def test_many_replicas_may_open_a_new_store_at_once(make_store: Callable[[], Store], name: str) -> None:
    stores = [make_store() for _ in range(8)]

    async def first_call(store: Store) -> bool:
        await store.open()
        return not await store.collection(name).insert_new({"a": Document(b"{}")})

    assert sorted(await asyncio.gather(*(first_call(store) for store in stores))) == [False] * 7 + [True]
    for store in stores:
        await store.close()
