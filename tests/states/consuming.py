"""A service's handler in the real batch loop, on a bus and a store that fail as it is drawn.

The processes of the service come and go; what stands in the store, on the topics and in the group's offsets stays. A
machine adds what is written to the topics that it reads, and what must hold in the end.
"""

import asyncio
import json
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from shared.bus.loop import BatchLoop, Decode, Handle
from shared.bus.port import Publication
from shared.clock import ManualClock
from shared.contract.topics import DEAD_LETTERS
from shared.metrics import BusMetrics
from shared.store.port import Store
from tests.fakes import Crash, Ending, Fate, Fates, MemoryConsumer, MemoryLog, MemoryPublisher, MemoryStore
from tests.fakes.store import Tables

START = datetime(2026, 11, 1, 8, 0, tzinfo=UTC)
PARTITIONS = 2
CALLS_MAX = 4
DRAINING_TURNS_MAX = 3

SETTINGS = settings(deadline=None, max_examples=300, stateful_step_count=30, print_blob=True)
MORE_RUNS = settings(SETTINGS, max_examples=500)
"""For a machine in which it takes several steps that go together until something can go wrong."""

Member = MemoryConsumer[Any]
limits = st.integers(1, 6)


@st.composite
def troubles(draw: st.DrawFn) -> list[Fate]:
    """The fates of some calls: all go well up to one that fails or is its process's last; often that never comes."""
    ending = draw(st.sampled_from([Ending.FAILED, Ending.CRASHED]))
    done = draw(st.sampled_from([0, None, 1]))
    return [Fate()] * draw(st.integers(0, CALLS_MAX)) + [Fate(ending, done)]


@st.composite
def races(draw: st.DrawFn) -> list[Fate]:
    """The fates of the calls of processes that work at the same time: who waits for whom, and perhaps a trouble."""
    pauses = draw(st.lists(st.integers(0, 3), max_size=2 * CALLS_MAX))
    return [Fate(pause=pause) for pause in pauses] + draw(st.just([]) | troubles())


class TickingClock(ManualClock):
    """No two readings are the same, so that whoever says something anew, instead of what was said first, is found."""

    def now(self) -> datetime:
        self.advance(timedelta(milliseconds=1))
        return super().now()


class Consuming(RuleBasedStateMachine):
    """One process of a service, and the next one when it dies."""

    topics: Sequence[str]

    def __init__(self) -> None:
        super().__init__()
        self.event_loop = asyncio.new_event_loop()
        self.clock = TickingClock(START)
        self.fates = Fates()
        self.tables: Tables = {}
        self.publisher = MemoryPublisher(PARTITIONS, self.fates)
        self.log = MemoryLog([(topic, partition) for topic in self.topics for partition in range(PARTITIONS)])
        self.metrics = BusMetrics(CollectorRegistry())
        self.events: dict[str, Publication] = {}
        """What was published, by the event's id, in the order in which it first came."""
        self.seen = 0

    async def service(self, store: Store) -> tuple[Decode[Any], Handle[Any]]:
        """What one process of the service does; it knows only what the store knows."""
        raise NotImplementedError

    def check(self) -> None:
        """What must hold once all faults are healed and all is consumed."""
        raise NotImplementedError

    @initialize()
    def the_first_process_starts(self) -> None:
        self.run(self.start())

    @precondition(lambda self: self.waiting)
    @rule(who=st.integers(0, 1), limit=limits, begin=st.integers(0, 5), fates=troubles())
    def a_process_takes_a_batch(self, who: int, limit: int, begin: int, fates: list[Fate]) -> None:
        member = self.waiting[who % len(self.waiting)]
        self.run(self.turn(member, limit, begin), fates=fates)

    @precondition(lambda self: self.log.committed and not self.waiting)
    @rule(place=st.integers(0, 5), back=st.integers(1, 5))
    def records_are_delivered_again(self, place: int, back: int) -> None:
        """As after a crash whose commits got lost, or where an operator sets an offset back."""
        committed = sorted(self.log.committed)
        chosen = committed[place % len(committed)]
        self.log.rewind(chosen, max(0, self.log.committed[chosen] - back))

    @invariant()
    def every_copy_of_an_event_is_the_same_to_the_byte(self) -> None:
        for publication in self.publisher.published[self.seen :]:
            assert publication.topic is not DEAD_LETTERS, publication.value
            assert self.events.setdefault(json.loads(publication.value)["id"], publication) == publication
        self.seen = len(self.publisher.published)

    def teardown(self) -> None:
        try:
            self.run(self.drain())
            self.every_copy_of_an_event_is_the_same_to_the_byte()
            self.check()
            published = list(self.events)
            for place in self.log.committed:
                self.log.rewind(place, 0)
            self.run(self.drain())
            self.every_copy_of_an_event_is_the_same_to_the_byte()
            assert list(self.events) == published, "what was delivered again brought about something new"
        finally:
            self.event_loop.close()

    def run(self, *works: Coroutine[Any, Any, Any], fates: Sequence[Fate] = ()) -> None:
        """Do these now and at the same time, with these fates of the calls that they make."""

        async def all_of_them() -> None:
            await asyncio.gather(*works)

        self.fates.foretell(*fates)
        try:
            self.event_loop.run_until_complete(all_of_them())
        finally:
            self.fates.heal()

    async def start(self) -> Member:
        """One more process."""
        store = MemoryStore(self.tables, self.fates)
        await store.open()
        decode, handle = await self.service(store)
        loop = BatchLoop("test", decode, handle, self.publisher, self.metrics)
        member: Member = MemoryConsumer(self.log, loop, self.fates)
        self.log.join(member)
        return member

    async def turn(self, member: Member, limit: int, begin: int = 0) -> None:
        """The member takes a batch; if it dies of it, another one is started where none is left."""
        try:
            await member.turn(limit, begin=begin)
        except Crash:
            if member in self.log.members:
                self.log.leave(member)
            if not self.log.members:
                await self.start()

    @property
    def waiting(self) -> list[Member]:
        """The members for which there is something to take."""
        return [member for member in self.log.members if member.waiting]

    async def drain(self) -> None:
        """Consume all that was written."""
        for _ in range(DRAINING_TURNS_MAX):
            for member in self.waiting:
                await member.turn()
        ends = {place: len(records) for place, records in self.log.records.items()}
        assert self.log.committed == ends


class Replicated(Consuming):
    """At most two processes, each a member of the group with its own connection to the store."""

    @precondition(lambda self: len(self.log.members) < 2)
    @rule()
    def a_process_joins(self) -> None:
        self.run(self.start())

    @precondition(lambda self: len(self.log.members) > 1)
    @rule(who=st.integers(0, 1))
    def a_process_leaves(self, who: int) -> None:
        self.log.leave(self.log.members[who])

    @precondition(lambda self: len(self.waiting) > 1)
    @rule(limit=limits, fates=races())
    def both_work_at_the_same_time(self, limit: int, fates: list[Fate]) -> None:
        self.run(*(self.turn(member, limit) for member in self.log.members), fates=fates)

    @precondition(lambda self: self.waiting)
    @rule(limit=limits, later=limits, fates=races())
    def a_process_goes_on_after_its_partitions_went_to_another(self, limit: int, later: int, fates: list[Fate]) -> None:
        zombie = self.waiting[0]

        async def take_over() -> None:
            # The zombie has taken its batch by now, and waits for the end of its first pause.
            if zombie in self.log.members:
                self.log.leave(zombie)
            await self.turn(await self.start(), later)

        self.run(self.turn(zombie, limit), take_over(), fates=fates)
