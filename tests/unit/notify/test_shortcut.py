"""What a process inserts it may take itself without a look into the store, and nobody else gets it meanwhile."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import pytest

from services.notify.shortcut import LOOK_SECONDS, OWN_MAX, Shortcut
from shared.clock import ManualClock
from shared.store.port import Change, Collection, Document, Row, StoreUnavailable
from tests.fakes import MemoryStore
from tests.fakes.store import MemoryCollection
from tests.unit.notify.conftest import START

LEASE = timedelta(seconds=5)

Replica = Callable[[], Shortcut]


class Looked(MemoryCollection):
    """Counts the looks for what is due. A look waits while `open` is not set, and fails while it is `away`."""

    def __init__(self) -> None:
        store = MemoryStore()
        store.is_open = True
        super().__init__(store, "rows")
        self.looks = 0
        self.away = False
        self.open = asyncio.Event()
        self.open.set()

    async def take_due(self, now: datetime, *, limit: int, lease: timedelta) -> list[Row]:
        self.looks += 1
        if self.away:
            raise StoreUnavailable("away")
        taken = await super().take_due(now, limit=limit, lease=lease)
        await self.open.wait()
        return taken


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def store() -> Looked:
    return Looked()


@pytest.fixture
def replica(store: Looked, clock: ManualClock) -> Replica:
    """Makes a process that has just started."""
    return lambda: Shortcut(store, lease=LEASE, clock=clock)


@pytest.fixture
async def rows(replica: Replica, clock: ManualClock) -> Shortcut:
    """A process that has found nothing due."""
    started = replica()
    assert await take(started, clock) == []
    return started


async def take(rows: Collection, clock: ManualClock, limit: int = 10) -> list[str]:
    return [row.key for row in await rows.take_due(clock.now(), limit=limit, lease=LEASE)]


def due(clock: ManualClock, *keys: str) -> Mapping[str, Document]:
    return {key: Document(b"{}", due=clock.now()) for key in keys}


async def test_what_was_inserted_here_is_taken_here_at_its_first_version_without_a_look(
    rows: Shortcut, store: Looked, clock: ManualClock
) -> None:
    looks = store.looks
    assert await rows.insert_new(due(clock, "a", "b")) == {}
    taken = await rows.take_due(clock.now(), limit=10, lease=LEASE)
    assert [(row.key, row.version, row.body) for row in taken] == [("a", 1, b"{}"), ("b", 1, b"{}")]
    assert await take(rows, clock) == []
    assert store.looks == looks
    assert await rows.compare_and_set({row.key: Change(row.version, b"done") for row in taken}) == {"a", "b"}


async def test_what_stood_before_is_not_taken_again(rows: Shortcut, clock: ManualClock) -> None:
    await rows.insert_new(due(clock, "a"))
    await take(rows, clock)
    assert set(await rows.insert_new(due(clock, "a", "b"))) == {"a"}
    assert await take(rows, clock) == ["b"]


async def test_what_is_due_later_is_not_taken_before(rows: Shortcut, clock: ManualClock) -> None:
    await rows.insert_new({"later": Document(b"{}", due=clock.now() + LEASE), "never": Document(b"{}")})
    assert await take(rows, clock) == []
    clock.advance(LEASE)
    assert await take(rows, clock) == ["later"]


async def test_what_a_process_that_died_had_inserted_comes_up_once_at_another_when_the_lease_has_ended(
    rows: Shortcut, replica: Replica, clock: ManualClock
) -> None:
    await rows.insert_new(due(clock, "a"))
    other, third = replica(), replica()
    assert await take(other, clock) == []
    clock.advance(LEASE)
    assert await take(other, clock) == ["a"]
    assert await take(third, clock) == []


async def test_what_waited_here_beyond_its_lease_is_left_to_whoever_finds_it_in_the_store(
    rows: Shortcut, replica: Replica, clock: ManualClock
) -> None:
    await rows.insert_new(due(clock, "a"))
    clock.advance(LEASE)
    assert await take(replica(), clock) == ["a"]
    assert await take(rows, clock) == []


async def test_of_two_that_have_a_row_one_can_change_it(rows: Shortcut, replica: Replica, clock: ManualClock) -> None:
    await rows.insert_new(due(clock, "a"))
    (slow,) = await rows.take_due(clock.now(), limit=1, lease=LEASE)
    clock.advance(LEASE)
    other = replica()
    (found,) = await other.take_due(clock.now(), limit=1, lease=LEASE)
    assert await rows.compare_and_set({"a": Change(slow.version, b"slow")}) == set()
    assert await other.compare_and_set({"a": Change(found.version, b"other")}) == {"a"}


async def test_what_was_due_before_a_process_started_goes_first(replica: Replica, clock: ManualClock) -> None:
    await replica().insert_new(due(clock, "1", "2", "3"))
    clock.advance(LEASE)
    rows = replica()
    await rows.insert_new(due(clock, "4"))
    assert [await take(rows, clock, 2) for _ in range(3)] == [["1", "2"], ["3", "4"], []]


async def test_what_others_inserted_does_not_wait_for_a_pause_in_ones_own(
    rows: Shortcut, replica: Replica, clock: ManualClock
) -> None:
    await replica().insert_new(due(clock, "other"))
    taken: list[str] = []
    for number in range(20):
        await rows.insert_new(due(clock, f"own {number}"))
        taken += await take(rows, clock, 1)
        clock.advance(timedelta(seconds=LOOK_SECONDS / 2))
    assert "other" in taken[:3]


async def test_what_is_changed_so_that_it_is_due_at_once_is_taken_at_once(rows: Shortcut, clock: ManualClock) -> None:
    await rows.insert_new(due(clock, "a"))
    await take(rows, clock)
    await rows.compare_and_set({"a": Change(1, b"again", due=clock.now())})
    assert await take(rows, clock) == ["a"]


async def test_what_is_too_much_to_be_remembered_is_found_in_the_store(
    rows: Shortcut, replica: Replica, clock: ManualClock
) -> None:
    keys = [f"{number:05}" for number in range(OWN_MAX + 3)]
    await rows.insert_new(due(clock, *keys))
    assert await take(replica(), clock) == keys[-3:]
    assert await take(rows, clock, OWN_MAX) == keys[:OWN_MAX]


async def test_what_comes_while_somebody_looks_is_not_forgotten(
    replica: Replica, store: Looked, clock: ManualClock
) -> None:
    rows = replica()
    await rows.insert_new(due(clock, "first"))
    store.open.clear()
    looking = asyncio.create_task(take(rows, clock))
    while store.looks == 0:
        await asyncio.sleep(0)
    await replica().insert_new(due(clock, "second"))
    await rows.compare_and_set({"second": Change(1, b"{}", due=clock.now())})
    store.open.set()
    assert await looking == ["first"]
    assert await take(rows, clock) == ["second"]


async def test_a_look_that_failed_is_done_again(rows: Shortcut, store: Looked, clock: ManualClock) -> None:
    clock.advance(timedelta(seconds=LOOK_SECONDS))
    store.away = True
    with pytest.raises(StoreUnavailable):
        await take(rows, clock)
    await rows.insert_new(due(clock, "a"))
    store.away = False
    assert await take(rows, clock) == ["a"]
