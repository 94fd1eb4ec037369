"""The secret of a store's references: made once, and then the same for whoever uses the store."""

import asyncio
from pathlib import Path

import pytest

from services.intake.references import References
from shared.store.port import Store, StoreUnavailable
from shared.store.sqlite import SqliteStore

KEYS = [f"cnss/{number}" for number in range(100)]


def references(store: Store) -> References:
    return References(store.collection("secrets"))


async def test_replicas_that_start_at_once_have_the_same_references_and_so_has_whoever_comes_later(
    store: Store,
) -> None:
    replicas = [references(store) for _ in range(5)]
    given = await asyncio.gather(*(replica.candidates(KEYS, 0) for replica in replicas))
    given.append(await references(store).candidates(KEYS, 0))
    assert [one == given[0] for one in given] == [True] * 6
    assert len(set(given[0].values())) == len(KEYS)


async def test_each_attempt_gives_others(store: Store) -> None:
    some = references(store)
    given = [set((await some.candidates(KEYS, attempt)).values()) for attempt in range(3)]
    assert len(set.union(*given)) == 3 * len(KEYS)


async def test_another_store_has_a_secret_of_its_own(store: Store, tmp_path: Path) -> None:
    elsewhere = SqliteStore(tmp_path / "elsewhere.db")
    await elsewhere.open()
    here, there = [await references(each).candidates(KEYS, 0) for each in (store, elsewhere)]
    await elsewhere.close()
    assert not set(here.values()) & set(there.values())


async def test_a_store_that_does_not_answer_is_asked_again_next_time(store: Store) -> None:
    some = references(store)
    await store.close()
    with pytest.raises(StoreUnavailable):
        await some.candidates(KEYS, 0)
    await store.open()
    assert await some.candidates(KEYS, 0) == await references(store).candidates(KEYS, 0)
