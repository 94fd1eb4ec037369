"""Notify, whatever fails: no second copy unless nobody knew of the first, no status goes back, and all is told."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import cycle
from typing import Any, Generic

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from services.notify import handlers
from services.notify.backlog import Backlog, Desk
from services.notify.domain import UNKNOWNS_MAX, Notification, Policy, State, user_message_reference
from services.notify.lane import Lane
from services.notify.ledger import ANNOUNCE_LEASE, SENDING_LEASE, TAKE_LEASE, TOLD_AHEAD, Ledger
from services.notify.outcomes import Outcomes
from services.notify.ports import Answer, Composed, Declined, Later, M, Mail, Refused, Sent, ShortMessage, Unknown
from services.notify.rate import TokenBucket
from services.notify.receipts import LEASE, Receipt, Receipts, References
from services.notify.rendering import load_templates
from services.notify.sender import Answered, Begun, Sender
from services.notify.shortcut import Shortcut
from shared.bus.loop import Decode, Handle, decode_mesh_event
from shared.bus.port import Publisher
from shared.clock import Clock
from shared.contract.events import Applicant, Channel, Event, NotificationOutcome, NotificationStatus, Status
from shared.contract.topics import ACCEPTED, OUTCOME, UPDATED
from shared.metrics import NotifyMetrics
from shared.store.port import Store, StoreUnavailable
from tests.fakes import Crash, Fate, MemoryStore
from tests.states.consuming import MORE_RUNS, PARTITIONS, Consuming, races, troubles
from tests.states.requests import JURISDICTION, accepted, updated

WINDOW = timedelta(minutes=15)
FALLBACK_AFTER = timedelta(minutes=20)
PAUSE = timedelta(seconds=1)
DAY = timedelta(hours=25)
HEALING_ROUNDS = 30

CHANNELS = {"smpp": Channel.SMS, "smpp2": Channel.SMS, "smtp": Channel.EMAIL}
LEDGERS = {
    Channel.SMS: "notifications_sms",
    Channel.EMAIL: "notifications_email",
    None: "notifications_unreachable",
}
CITIZENS = (
    Applicant(),
    Applicant(phone="+25377112201"),
    Applicant(phone="+25377112202", email="b@example.org"),
    Applicant(phone="+25377112203", email="c@example.org", channel=Channel.EMAIL),
)
EVENTS: dict[str, Event] = {
    event.id: event
    for number, applicant in enumerate(CITIZENS)
    for event in (accepted(number, applicant=applicant), updated(number, 1, Status.RESOLVED, applicant=applicant))
}
"""Of each request one that is never sent again where nobody knows, and one that is."""

SURELY_NOT_TAKEN = (Declined, Later)

spans = st.sampled_from(
    [timedelta(0), timedelta(0), PAUSE, timedelta(seconds=6), SENDING_LEASE, WINDOW, FALLBACK_AFTER, DAY]
)
some = st.integers(0, 3)
some_events = st.lists(st.sampled_from(sorted(EVENTS)[::-1]), min_size=2, max_size=6)
nothing: list[Fate] = []
faults = st.just(nothing) | troubles()
templates = cache(load_templates)

Compose = Callable[[Notification], Composed[M]]


@dataclass(frozen=True)
class Reply:
    """What a provider does with a message: whether it `takes` it, and its answer; None: the sender dies over it."""

    answer: Answer | None
    takes: bool


TAKEN = Reply(Sent(), takes=True)
REPLIES = (
    *[TAKEN] * 4,
    Reply(Refused("absent"), takes=False),
    Reply(Declined("barred"), takes=False),
    Reply(Later("busy"), takes=False),
    Reply(Later("throttled", PAUSE), takes=False),
    *(Reply(answer, takes) for answer in (Unknown("no_answer"), None) for takes in (True, False)),
)


@dataclass(frozen=True)
class HandedOver:
    """A message at a provider, as that remembers it: it outlives every process."""

    notification: str
    provider: str
    message_id: str
    reply: Reply
    at: datetime

    @property
    def at_provider(self) -> tuple[str, str]:
        """What its receipt calls it."""
        return self.provider, self.message_id


class Provider(Generic[M]):
    """Has each message answered by `reply`, which is given the provider's name and the notification's id."""

    window = 50

    def __init__(self, name: str, reply: Callable[[str, str], Answer]) -> None:
        self.name = name
        self.channel = CHANNELS[name]
        self.connected = True
        self._reply = reply

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def available(self) -> None: ...

    async def check(self) -> None: ...

    async def send(self, message: M) -> Answer:
        return self._reply(self.name, message.id)


class Process:
    """What a process of the service has in memory."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        publisher: Publisher,
        metrics: NotifyMetrics,
        *,
        short: Sequence[Provider[ShortMessage]],
        mail: Sequence[Provider[Mail]],
    ) -> None:
        rows = {
            channel: Shortcut(store.collection(LEDGERS[channel]), lease=TAKE_LEASE, clock=clock) for channel in Channel
        }
        self.ledgers: dict[Channel | None, Ledger] = {channel: Ledger(each) for channel, each in rows.items()}
        self.ledgers[None] = Ledger(store.collection(LEDGERS[None]))
        references = References(store.collection("provider_references"))
        outcomes = {
            channel: Outcomes(
                channel,
                ledger=self.ledgers[channel],
                other=self.ledgers[other],
                publisher=publisher,
                clock=clock,
                metrics=metrics,
            )
            for channel, other in ((Channel.SMS, Channel.EMAIL), (Channel.EMAIL, Channel.SMS))
        }
        self.receipts = Receipts(
            collection=Shortcut(store.collection("receipts"), lease=LEASE, clock=clock),
            references=references,
            ledger=self.ledgers[Channel.SMS],
            outcomes=outcomes[Channel.SMS],
            clock=clock,
            metrics=metrics,
        )
        self.backlog = Backlog(
            [Desk(self.ledgers[channel], outcomes[channel]) for channel in Channel],
            fallback_after=FALLBACK_AFTER,
            clock=clock,
            metrics=metrics,
        )

        def sender(channel: Channel, providers: Sequence[Provider[M]], compose: Compose[M]) -> Sender[M]:
            return Sender(
                ledger=self.ledgers[channel],
                lanes=[Lane(each, TokenBucket(1e6, clock)) for each in providers],
                compose=compose,
                references=references,
                outcomes=outcomes[channel],
                receipt_window=WINDOW,
                clock=clock,
                metrics=metrics,
            )

        self.sms = sender(Channel.SMS, short, templates().short_message)
        self.mail = sender(Channel.EMAIL, mail, templates().mail)
        self.senders: tuple[Sender[Any], ...] = (self.sms, self.mail)


class NotifyingOfRequests(Consuming):
    """The handler plans, senders send, receipts come; each of them can die between any two of its steps."""

    topics = (ACCEPTED.name, UPDATED.name)

    def __init__(self) -> None:
        super().__init__()
        self.counted = NotifyMetrics(CollectorRegistry())
        self.told: set[str] = set()
        self.reply = TAKEN
        self.handed: list[HandedOver] = []
        self.before: dict[str, State] = {}
        self.seen_by_providers: list[str] = []
        """What must not be: told later, since whatever a provider raises is only an unknown for its sender."""
        memory = MemoryStore(self.tables, self.fates)
        memory.is_open = True
        self.store: Store = memory
        self.short = [Provider[ShortMessage](name, self.answer) for name in ("smpp", "smpp2")]
        self.mail = [Provider[Mail]("smtp", self.answer)]
        self.the_senders_die()

    async def service(self, store: Store) -> tuple[Decode[Any], Handle[Any]]:
        """Its senders take from the same ledgers, until they die alone: then they are as another replica's."""
        self.store = store
        self.the_senders_die()
        handle: Handle[Any] = partial(
            handlers.plan,
            jurisdiction=JURISDICTION,
            templates=templates(),
            ledgers=self.process.ledgers,
            clock=self.clock,
            metrics=self.counted,
        )
        return decode_mesh_event([ACCEPTED, UPDATED]), handle

    @initialize(event_ids=some_events)
    def the_first_process_starts(self, event_ids: list[str]) -> None:
        super().the_first_process_starts()
        self.something_is_told(event_ids)
        self.run(self.drain())

    @precondition(lambda self: not self.waiting)
    @rule(event_ids=some_events)
    def something_is_told(self, event_ids: list[str]) -> None:
        self.told.update(event_ids)
        for event_id in event_ids:
            event = EVENTS[event_id]
            topic = ACCEPTED if isinstance(event, ACCEPTED.event) else UPDATED
            place = topic.name, int(event_id.split("-")[1]) % PARTITIONS
            self.log.append(place, None, event.to_json(), self.clock.now())

    @precondition(lambda self: self.something_is_due or self.begun or self.answered)
    @rule(
        after=spans,
        rooms=st.tuples(some, some, some),
        away=st.sampled_from([None, None, *CHANNELS]),
        replies=st.lists(st.sampled_from(REPLIES), min_size=1, max_size=4),
        fates=faults,
        settling=st.none() | faults,
    )
    def messages_are_sent(
        self,
        after: timedelta,
        rooms: tuple[int, ...],
        away: str | None,
        replies: list[Reply],
        fates: list[Fate],
        settling: list[Fate] | None,
    ) -> None:
        """Each one is replied to in turn; answers may have to wait for the next time."""
        self.wait(after)
        for provider in self.providers:
            provider.connected = provider.name != away
        self.run(self.or_die(self.begin(self.process, rooms)), fates=fates)
        for self.reply in cycle(replies):
            if not self.begun:
                break
            self.run(self.or_die(self.hand_over()))
        self.reply = TAKEN
        if settling is not None:
            self.run(self.or_die(self.settle()), fates=settling)

    @precondition(lambda self: self.begun or self.answered)
    @rule()
    def the_senders_die(self) -> None:
        """What they began and heard is forgotten, and the next ones know only what the store knows."""
        self.begun: list[tuple[Sender[Any], Begun[Any]]] = []
        self.answered: list[tuple[Sender[Any], Answered]] = []
        self.process, self.another = (
            Process(self.store, self.clock, self.publisher, self.counted, short=self.short, mail=self.mail)
            for _ in range(2)
        )

    @precondition(lambda self: self.taken_by_sms)
    @rule(
        which=st.integers(0, 20),
        failure=st.sampled_from([None, None, "expired"]),
        forged=st.sampled_from([False, False, True]),
        times=st.integers(1, 2),
        matching=st.none() | faults,
        fates=faults,
    )
    def receipts_come(
        self,
        which: int,
        failure: str | None,
        *,
        forged: bool,
        times: int,
        fates: list[Fate],
        matching: list[Fate] | None,
    ) -> None:
        meant = self.taken_by_sms[which % len(self.taken_by_sms)]
        work = self.receive_forged(meant.provider, failure) if forged else self.receive(meant, failure, times=times)
        self.run(self.or_die(work), fates=fates)
        if matching is not None:
            self.receipts_are_matched(matching)

    @precondition(lambda self: self.receipts_wait)
    @rule(fates=faults)
    def receipts_are_matched(self, fates: list[Fate]) -> None:
        self.run(self.or_die(self.process.receipts.match()), fates=fates)

    @precondition(lambda self: self.something_is_due)
    @rule(ahead=st.sampled_from([TOLD_AHEAD, ANNOUNCE_LEASE]), fates=faults)
    def what_was_told_is_written(self, ahead: timedelta, fates: list[Fate]) -> None:
        self.run(self.or_die(self.write_told(self.process, ahead)), fates=fates)

    @precondition(lambda self: self.something_is_due)
    @rule(fates=faults)
    def the_backlog_is_looked_through(self, fates: list[Fate]) -> None:
        self.run(self.or_die(self.process.backlog.look_through()), fates=fates)

    @precondition(lambda self: self.something_is_due)
    @rule(after=spans, heard=st.booleans(), reply=st.sampled_from(REPLIES), fates=races())
    def all_work_at_the_same_time(self, after: timedelta, *, heard: bool, reply: Reply, fates: list[Fate]) -> None:
        """Two replicas, too: both have senders. Perhaps the last receipt has just come."""
        self.wait(after)
        if heard:
            self.run(*map(self.receive, self.taken_by_sms[-1:]))
        self.reply = reply
        works = (
            self.send(self.process),
            self.send(self.another),
            self.settle(),
            self.process.receipts.match(),
            self.process.backlog.look_through(),
            self.write_told(self.another, ANNOUNCE_LEASE),
        )
        self.run(*map(self.or_die, works), fates=fates)
        self.reply = TAKEN

    @invariant()
    def no_status_goes_back(self) -> None:
        now = {key: row.status for key, row in self.rows.items()}
        for key, before in self.before.items():
            if before is State.SENT:
                assert now[key] in (State.SENT, State.DELIVERED, State.FAILED)
            elif before in (State.DELIVERED, State.FAILED, State.UNREACHABLE):
                assert now[key] is before
        self.before = now

    @invariant()
    def no_message_is_handed_over_that_may_not_be(self) -> None:
        assert self.seen_by_providers == []

    @invariant()
    def nothing_is_told_that_does_not_stand_in_the_ledger(self) -> None:
        rows = self.rows
        for event in self.outcomes():
            assert event.data.status in rows[event.data.notification_id].announced

    @invariant()
    def a_second_channel_follows_only_a_failed_first(self) -> None:
        rows = self.rows
        for row in rows.values():
            if row.fallback_of is not None:
                assert rows[row.fallback_of].status is State.FAILED
                assert self.surely_failed(row.fallback_of) or self.may_have_two(row.fallback_of)

    def check(self) -> None:
        for provider in self.providers:
            provider.connected = True
        self.heal()
        self.every_receipt_that_says_delivered_is_heard()
        self.run(*map(self.receive, self.taken_by_sms))
        self.heal()
        self.every_receipt_that_says_delivered_is_heard()
        self.every_copy_of_an_event_is_the_same_to_the_byte()
        self.no_status_goes_back()
        self.no_message_is_handed_over_that_may_not_be()
        self.a_second_channel_follows_only_a_failed_first()
        rows = self.rows
        assert not [row for row in rows.values() if row.status in (State.PLANNED, State.SENDING)]
        assert not [row for rows in self.tables.values() for row in rows.values() if row.due], "there is more to do"
        self.everybody_is_told_once_and_by_a_second_channel_once_the_first_failed(rows)
        self.every_status_is_told_once(rows)
        self.what_is_sent_and_delivered_is_what_providers_and_receipts_say(rows)

    def everybody_is_told_once_and_by_a_second_channel_once_the_first_failed(
        self, rows: dict[str, Notification]
    ) -> None:
        first = [row for row in rows.values() if row.fallback_of is None]
        assert sorted(row.cause for row in first) == sorted(self.told)
        failed = [row.id for row in first if row.status is State.FAILED and row.alternative]
        assert sorted(failed) == sorted(row.fallback_of for row in rows.values() if row.fallback_of)

    def every_status_is_told_once(self, rows: dict[str, Notification]) -> None:
        for key, row in rows.items():
            told = [event.data.status for event in self.outcomes() if event.data.notification_id == key]
            assert sorted(told) == sorted(row.announced), "a status was not told, or twice"

    def what_is_sent_and_delivered_is_what_providers_and_receipts_say(self, rows: dict[str, Notification]) -> None:
        taken = {each.notification for each in self.handed if each.reply.takes}
        for key, row in rows.items():
            assert row.status is not State.SENT or key in taken, "said to be sent, and no provider took it"
            assert row.status is not State.DELIVERED or key in self.delivered, "said to be delivered by no receipt"

    def every_receipt_that_says_delivered_is_heard(self) -> None:
        rows = self.rows
        unheard = [key for key in self.delivered if rows[key].status not in (State.DELIVERED, State.FAILED)]
        assert not unheard, "a receipt was not heard"

    def answer(self, provider: str, key: str) -> Answer:
        """The provider is handed a message, and does with it what was drawn."""
        row = self.rows[key]
        if (row.status, row.provider) != (State.SENDING, provider):
            self.seen_by_providers.append("handed over before its row said so")
        if not (self.surely_not_taken(key) or self.may_have_two(key)):
            self.seen_by_providers.append("sent again, and a copy may be on its way")
        if self.declined_by(provider, key) and not self.may_have_two(key):
            self.seen_by_providers.append("sent again to who will never take it")
        # Both SMSCs count from none: an id alone says nothing.
        message_id = f"id-{sum(each.provider == provider for each in self.handed)}"
        self.handed.append(HandedOver(key, provider, message_id, self.reply, self.clock.now()))
        if self.reply.answer is None:
            raise Crash
        return Sent((message_id,)) if isinstance(self.reply.answer, Sent) else self.reply.answer

    def declined_by(self, provider: str, key: str) -> bool:
        return any(each.provider == provider and isinstance(each.reply.answer, Declined) for each in self.of(key))

    def surely_not_taken(self, key: str) -> bool:
        """Whether it was never handed over, or the last provider that had it said so."""
        return all(isinstance(each.reply.answer, SURELY_NOT_TAKEN) for each in self.of(key)[-1:])

    def surely_failed(self, key: str) -> bool:
        """Whether no provider has it, by what the last one said, or by a receipt."""
        refused = all(isinstance(each.reply.answer, Refused) for each in self.of(key)[-1:])
        return (
            refused
            or self.surely_not_taken(key)
            or any(self.kept_receipts.get(each.at_provider) for each in self.of(key))
        )

    def may_have_two(self, key: str) -> bool:
        """Whether all is as it has to be before it may be sent again though a copy may be on its way."""
        told = [event.data.status for event in self.outcomes() if event.data.notification_id == key]
        copies = [each for each in self.of(key) if not isinstance(each.reply.answer, SURELY_NOT_TAKEN)]
        return (
            NotificationStatus.UNKNOWN in told
            and self.rows[key].policy is Policy.AT_LEAST_ONCE
            and self.clock.now() - copies[-1].at >= WINDOW
            and len(copies) < UNKNOWNS_MAX
        )

    def of(self, key: str) -> list[HandedOver]:
        """Each time that a provider was handed this notification."""
        return [each for each in self.handed if each.notification == key]

    @property
    def providers(self) -> list[Provider[Any]]:
        return [*self.short, *self.mail]

    @property
    def taken_by_sms(self) -> list[HandedOver]:
        return [each for each in self.handed if each.reply.takes and CHANNELS[each.provider] is Channel.SMS]

    @property
    def kept_receipts(self) -> dict[tuple[str, str], str | None]:
        """What went wrong with each message of which a receipt was kept: the first one counts."""
        kept = [Receipt.from_json(row.body) for row in self.tables.get("receipts", {}).values()]
        return {(receipt.provider, receipt.message_id): receipt.failure for receipt in kept}

    @property
    def delivered(self) -> set[str]:
        """The notifications of which some copy was delivered, by the receipts that were kept."""
        kept = self.kept_receipts
        return {each.notification for each in self.handed if kept.get(each.at_provider, "none was kept") is None}

    @property
    def rows(self) -> dict[str, Notification]:
        """All rows of the ledgers, by id."""
        return {
            key: Notification.from_json(row.body)
            for name in LEDGERS.values()
            for key, row in self.tables.get(name, {}).items()
        }

    def outcomes(self) -> list[NotificationOutcome]:
        """What stands on the topic, each event once."""
        self.every_copy_of_an_event_is_the_same_to_the_byte()
        return [NotificationOutcome.from_json(each.value) for each in self.events.values() if each.topic is OUTCOME]

    @property
    def something_is_due(self) -> bool:
        """Whether there is something to do about a notification, now or later."""
        return any(row.due for name in LEDGERS.values() for row in self.tables.get(name, {}).values())

    @property
    def receipts_wait(self) -> bool:
        return any(row.due for row in self.tables.get("receipts", {}).values())

    async def begin(self, process: Process, rooms: Sequence[int]) -> None:
        """Each provider has some room."""
        smpp, smpp2, smtp = rooms
        for sender, room in ((process.sms, {"smpp": smpp, "smpp2": smpp2}), (process.mail, {"smtp": smtp})):
            turn = await sender.begin(room)
            self.begun += [(sender, each) for each in turn.begun]
            await sender.announce(turn.untold)

    async def hand_over(self) -> None:
        sender, begun = self.begun.pop(0)
        self.answered.append((sender, await sender.hand_over(begun)))

    async def send(self, process: Process) -> None:
        await self.begin(process, (9, 9, 9))
        while self.begun:
            await self.hand_over()

    async def settle(self) -> None:
        for sender in (*self.process.senders, *self.another.senders):
            answered = [each for asked, each in self.answered if asked is sender]
            await sender.settle(answered)
            self.answered = [each for each in self.answered if each[0] is not sender]

    async def write_told(self, process: Process, ahead: timedelta) -> None:
        for ledger in process.ledgers.values():
            await ledger.write_told(self.clock.now(), ahead=ahead)

    async def receive(self, meant: HandedOver, failure: str | None = None, *, times: int = 1) -> None:
        """The SMSC says how a message ended."""
        recipient = self.rows[meant.notification].recipient
        receipt = Receipt(
            provider=meant.provider,
            message_id=meant.message_id,
            failure=failure,
            received_at=self.clock.now(),
            recipient=recipient,
            user_message_reference=user_message_reference(meant.notification),
        )
        for _ in range(times):
            await self.process.receipts.accept([receipt])

    async def receive_forged(self, provider: str, failure: str | None) -> None:
        forged = Receipt(provider=provider, message_id="forged", failure=failure, received_at=self.clock.now())
        await self.process.receipts.accept([forged])

    def wait(self, span: timedelta) -> None:
        """A message is handed over within a lease: whoever took longer has died before that.

        A receipt that waits is not kept for longer than a day, so then no day passes.
        """
        if span == DAY and self.receipts_wait:
            return
        if span >= SENDING_LEASE:
            self.begun = []
        self.clock.advance(span)

    def heal(self) -> None:
        for _ in range(HEALING_ROUNDS):
            self.wait(timedelta(hours=1))
            self.run(self.work())

    async def work(self) -> None:
        """A whole turn of all, as long as nothing fails."""
        await self.send(self.process)
        await self.settle()
        await self.process.receipts.match()
        await self.process.backlog.look_through()
        for process in (self.process, self.another):
            await self.write_told(process, ANNOUNCE_LEASE)

    async def or_die(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do it; where the store does not answer it is tried again some day, and who dies forgets what it had."""
        try:
            await work
        except StoreUnavailable:
            pass
        except Crash:
            self.the_senders_die()


test_whatever_fails_nobody_is_told_twice_unless_nobody_knew_and_all_is_told_in_the_end = NotifyingOfRequests.TestCase
test_whatever_fails_nobody_is_told_twice_unless_nobody_knew_and_all_is_told_in_the_end.settings = MORE_RUNS
