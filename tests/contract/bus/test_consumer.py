"""What every member of a consumer group promises around the batch loop, the one in memory as much as Kafka's."""

from collections.abc import Sequence
from functools import partial

import pytest

from shared.bus.port import Publication, Record, Unavailable
from shared.store.port import StoreUnavailable
from tests.contract.bus.groups import Group


class Desk:
    """A handler that keeps what it was given, and fails while it is told to."""

    def __init__(self) -> None:
        self.attempts: list[list[Record]] = []
        self.handled: list[Record] = []
        self.failure: Exception | None = None

    async def __call__(self, batch: Sequence[Record]) -> list[Publication]:
        self.attempts.append(list(batch))
        if self.failure is not None:
            raise self.failure
        self.handled += batch
        return []

    def has_handled(self, count: int) -> bool:
        """Whether so many records were handled."""
        return len(self.handled) == count

    def values(self, partition: int) -> list[bytes | None]:
        """What was handled of a partition, in order."""
        return [record.value for record in self.handled if record.partition == partition]


def numbers(start: int, stop: int) -> list[bytes]:
    return [b"%d" % number for number in range(start, stop)]


async def test_a_new_group_gets_every_record_in_the_order_of_its_partition(group: Group) -> None:
    for partition, count in enumerate((700, 1, 30)):
        await group.write(partition, numbers(0, count))
    desk = Desk()
    await group.join(desk)
    await group.until_committed({0: 700, 1: 1, 2: 30})
    assert [desk.values(partition) for partition in range(3)] == [numbers(0, 700), numbers(0, 1), numbers(0, 30)]
    assert [record.offset for record in desk.handled if record.partition == 0] == list(range(700))


@pytest.mark.parametrize("failure", [Unavailable("on purpose"), StoreUnavailable("on purpose")])
async def test_a_batch_that_was_put_back_comes_again_and_nothing_of_it_is_committed(
    group: Group, failure: Exception
) -> None:
    desk = Desk()
    await group.join(desk)
    await group.write(0, numbers(0, 3))
    await group.until_committed({0: 3})
    desk.failure, before = failure, len(desk.attempts)
    await group.write(0, numbers(3, 5))
    await group.until(lambda: len(desk.attempts) >= before + 3)
    assert await group.committed() == {0: 3}
    assert {attempt[0].offset for attempt in desk.attempts[before:]} == {3}
    desk.failure = None
    await group.until_committed({0: 5})
    assert desk.values(0) == numbers(0, 5)


async def test_a_record_that_was_set_aside_is_committed_with_its_neighbours(group: Group) -> None:
    class Choosy(Desk):
        async def __call__(self, batch: Sequence[Record]) -> list[Publication]:
            if any(record.value == b"1" for record in batch):
                raise ValueError("poison")
            return await super().__call__(batch)

    desk = Choosy()
    await group.write(0, numbers(0, 3))
    await group.join(desk)
    await group.until_committed({0: 3})
    assert desk.values(0) == [b"0", b"2"]


async def test_whoever_comes_next_starts_after_what_was_finished(group: Group) -> None:
    first, second = Desk(), Desk()
    leave = await group.join(first)
    await group.write(0, numbers(0, 3))
    await group.until_committed({0: 3})
    first.failure = Unavailable("on purpose")
    await group.write(0, numbers(3, 5))
    await group.until(lambda: first.attempts[-1][0].offset == 3)
    await leave()
    await group.join(second)
    await group.until_committed({0: 5})
    assert (first.values(0), second.values(0)) == (numbers(0, 3), numbers(3, 5))


async def test_two_members_share_the_partitions_and_one_takes_over_when_the_other_leaves(group: Group) -> None:
    first, second = Desk(), Desk()
    leave = await group.join(first)
    await group.join(second)
    for partition in range(3):
        await group.write(partition, numbers(0, 3))
    await group.until_committed(dict.fromkeys(range(3), 3))
    assert [first.values(partition) + second.values(partition) for partition in range(3)] == [numbers(0, 3)] * 3
    await leave()
    for partition in range(3):
        await group.write(partition, numbers(3, 6))
    await group.until_committed(dict.fromkeys(range(3), 6))
    assert all(second.values(partition)[-3:] == numbers(3, 6) for partition in range(3))


async def test_a_member_that_leaves_has_committed_all_that_it_finished(group: Group) -> None:
    desk = Desk()
    leave = await group.join(desk)
    for number in range(5):
        await group.write(0, numbers(number, number + 1))
        await group.until(partial(desk.has_handled, number + 1))
    await leave()
    assert await group.committed() == {0: 5}


async def test_what_was_finished_is_not_done_again_when_its_partition_goes_to_another_member(group: Group) -> None:
    first, second = Desk(), Desk()
    await group.join(first)
    for number in range(5):
        for partition in range(3):
            await group.write(partition, numbers(number, number + 1))
        await group.until(partial(first.has_handled, 3 * (number + 1)))
    await group.join(second)
    for partition in range(3):
        await group.write(partition, numbers(5, 10))
    await group.until_committed(dict.fromkeys(range(3), 10))
    assert [first.values(partition) + second.values(partition) for partition in range(3)] == [numbers(0, 10)] * 3
