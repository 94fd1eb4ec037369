"""Notify, whatever fails: nobody is told twice, no status goes back, and what became of each message is told."""

from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from prometheus_client import CollectorRegistry

from services.notify import handlers
from services.notify.domain import Notification, State, user_message_reference
from services.notify.ledger import Ledger
from services.notify.ports import Answer, Later, Refused, Sent, ShortMessage, Unknown
from services.notify.rate import TokenBucket
from services.notify.receipts import Receipt, Receipts, References
from services.notify.rendering import load_templates
from services.notify.sender import Answered, Begun, Sender
from shared.bus.loop import Decode, Handle, decode_mesh_event
from shared.contract.events import Applicant, Channel, NotificationOutcome, NotificationStatus
from shared.contract.topics import ACCEPTED, OUTCOME
from shared.metrics import NotifyMetrics
from shared.store.port import Store, StoreUnavailable
from tests.fakes import Crash, Fate, MemoryStore
from tests.fakes.store import Tables
from tests.states.consuming import PARTITIONS, SETTINGS, Consuming, troubles
from tests.states.requests import JURISDICTION, accepted

FINAL = (State.DELIVERED, State.FAILED, State.UNREACHABLE)
SMS, UNREACHABLE = "notifications_sms", "notifications_unreachable"
HEALING_ROUNDS = 30

numbers = st.integers(0, 4)
faults = troubles()
templates = cache(load_templates)


def rows_of(tables: Tables, name: str) -> dict[str, Notification]:
    return {key: Notification.model_validate_json(row.body) for key, row in tables.get(name, {}).items()}


@dataclass
class Provider:
    """An SMSC: it outlives the process, and remembers what it took. Answers as told for the next message."""

    tables: Tables
    name: str = "smpp"
    channel: Channel = Channel.SMS
    window: int = 50
    answer: Answer | None = None
    takes: bool = True
    crash: bool = False
    taken: list[tuple[str, str]] = field(default_factory=list)
    """The notification and our message id of each copy that it has taken, in order."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def available(self) -> None: ...

    async def check(self) -> None: ...

    async def send(self, message: ShortMessage) -> Answer:
        row = rows_of(self.tables, SMS)[message.id]
        assert row.status is not State.PLANNED, "handed over before its row said so"
        reference = f"{message.id}-{len(self.taken)}"
        if self.takes:
            copies = [each for each, _ in self.taken if each == message.id]
            assert not copies or NotificationStatus.UNKNOWN in row.announced, "sent twice, and nobody was told"
            self.taken.append((message.id, reference))
        if self.crash:
            raise Crash
        return self.answer or Sent((reference,))


class NotifyingOfRequests(Consuming):
    """The handler plans, senders send, receipts come; each of them can die between any two of its steps."""

    topics = (ACCEPTED.name,)

    def __init__(self) -> None:
        super().__init__()
        self.provider = Provider(self.tables)
        self.counted = NotifyMetrics(CollectorRegistry())
        self.begun: list[Begun[ShortMessage]] = []
        self.answered: list[Answered] = []
        self.final: dict[str, State] = {}
        self.told: set[int] = set()
        self.kept: set[str] = set()
        """Notifications for which a receipt of our provider was kept."""
        self.desk = MemoryStore(self.tables, self.fates)
        self.desk.is_open = True
        self.sms = Ledger(self.desk.collection(SMS))
        self.references = References(self.desk.collection("provider_references"))
        self.receipts = Receipts(
            collection=self.desk.collection("receipts"),
            references=self.references,
            ledger=self.sms,
            publisher=self.publisher,
            clock=self.clock,
            metrics=self.counted,
        )
        self.sender = Sender(
            ledger=self.sms,
            provider=self.provider,
            compose=templates().short_message,
            references=self.references,
            rate=TokenBucket(1e6, self.clock),
            publisher=self.publisher,
            clock=self.clock,
            metrics=self.counted,
        )

    async def service(self, store: Store) -> tuple[Decode[Any], Handle[Any]]:
        handle: Handle[Any] = partial(
            handlers.plan,
            jurisdiction=JURISDICTION,
            versions=templates().versions,
            ledgers={
                Channel.SMS: Ledger(store.collection(SMS)),
                Channel.EMAIL: Ledger(store.collection("notifications_email")),
                None: Ledger(store.collection(UNREACHABLE)),
            },
            clock=self.clock,
            metrics=self.counted,
        )
        return decode_mesh_event([ACCEPTED]), handle

    @rule(requests=st.lists(numbers, min_size=1, max_size=3))
    def requests_are_accepted(self, requests: list[int]) -> None:
        """Each citizen has a phone of their own, save the first, who has none."""
        for number in requests:
            self.told.add(number)
            event = accepted(number)
            applicant = Applicant(phone=f"+2537711220{number}") if number else Applicant()
            request = event.data.request.model_copy(update={"applicant": applicant})
            event = event.model_copy(update={"data": event.data.model_copy(update={"request": request})})
            self.log.append((ACCEPTED.name, number % PARTITIONS), None, event.to_json(), self.clock.now())

    @rule(limit=st.integers(1, 4), fates=faults)
    def a_sender_takes_its_turn(self, limit: int, fates: list[Fate]) -> None:
        self.run(self.or_die(self.begin(limit)), fates=fates)

    @precondition(lambda self: self.begun)
    @rule(
        answer=st.sampled_from([None, Refused("x"), Later("x"), Later("x", timedelta(seconds=1)), Unknown("x")]),
        takes_what_is_unknown=st.booleans(),
        crash=st.sampled_from([False, False, False, True]),
    )
    def a_message_is_handed_over(self, answer: Answer | None, *, takes_what_is_unknown: bool, crash: bool) -> None:
        self.provider.answer, self.provider.crash = answer, crash
        self.provider.takes = takes_what_is_unknown if crash or isinstance(answer, Unknown) else answer is None
        self.run(self.or_die(self.hand_over()))
        self.provider.answer, self.provider.crash, self.provider.takes = None, False, True

    @precondition(lambda self: self.answered)
    @rule(fates=faults)
    def answers_are_saved_and_told(self, fates: list[Fate]) -> None:
        self.run(self.or_die(self.settle()), fates=fates)

    @rule()
    def the_sender_dies(self) -> None:
        self.begun, self.answered = [], []

    @precondition(lambda self: self.provider.taken)
    @rule(
        which=st.integers(0, 20),
        failure=st.sampled_from([None, None, "expired"]),
        provider=st.sampled_from(["smpp", "smpp", "another"]),
        forged=st.sampled_from([False, False, True]),
        times=st.integers(1, 2),
        fates=faults,
    )
    def receipts_come(
        self, which: int, failure: str | None, provider: str, *, forged: bool, times: int, fates: list[Fate]
    ) -> None:
        notification, message_id = self.provider.taken[which % len(self.provider.taken)]
        receipt = Receipt(
            provider=provider,
            message_id=f"forged-{which}" if forged else message_id,
            failure=failure,
            received_at=self.clock.now(),
            recipient=rows_of(self.tables, SMS)[notification].recipient,
            user_message_reference=None if forged else user_message_reference(notification),
        )

        async def accept() -> None:
            for _ in range(times):
                await self.receipts.accept([receipt])
            if provider == self.provider.name and not forged:
                self.kept.add(notification)

        self.run(self.or_die(accept()), fates=fates)

    @rule(fates=faults)
    def receipts_are_matched(self, fates: list[Fate]) -> None:
        async def match() -> None:
            await self.receipts.match()

        self.run(self.or_die(match()), fates=fates)

    @rule(seconds=st.sampled_from([1, 6, 46, 3600, 30 * 3600]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    @invariant()
    def what_is_final_stays_so(self) -> None:
        for key, notification in rows_of(self.tables, SMS).items():
            assert self.final.get(key, notification.status) is notification.status
            if notification.status in FINAL:
                self.final[key] = notification.status

    @invariant()
    def nothing_is_told_that_does_not_stand_in_the_ledger(self) -> None:
        rows = rows_of(self.tables, SMS) | rows_of(self.tables, UNREACHABLE)
        for event in self.outcomes():
            assert event.data.status in rows[event.data.notification_id].announced

    def check(self) -> None:
        for _ in range(HEALING_ROUNDS):
            self.clock.advance(timedelta(hours=1))
            self.run(self.work())
        self.every_copy_of_an_event_is_the_same_to_the_byte()
        self.what_is_final_stays_so()
        rows = rows_of(self.tables, SMS)
        assert len(rows | rows_of(self.tables, UNREACHABLE)) == len(self.told), "somebody is not told"
        assert not [row for row in rows.values() if row.outbox or row.status in (State.PLANNED, State.SENDING)]
        for key, row in (rows | rows_of(self.tables, UNREACHABLE)).items():
            told = [event.data.status for event in self.outcomes() if event.data.notification_id == key]
            assert sorted(told) == sorted(row.announced), "a status was not told, or twice"
        unheard = [key for key in self.kept if rows[key].status not in FINAL]
        assert not unheard, "a receipt was kept and not heard"
        taken = {notification for notification, _ in self.provider.taken}
        never = [key for key, row in rows.items() if key not in taken and row.status in (State.SENT, State.DELIVERED)]
        assert not never, "a message is said to be sent that no provider took"

    def outcomes(self) -> list[NotificationOutcome]:
        return [
            NotificationOutcome.model_validate_json(each.value)
            for each in self.events.values()
            if each.topic is OUTCOME
        ]

    async def begin(self, limit: int) -> None:
        turn = await self.sender.begin(limit)
        self.begun += turn.begun
        await self.sender.announce(turn.untold)

    async def hand_over(self) -> None:
        self.answered.append(await self.sender.hand_over(self.begun.pop(0)))

    async def settle(self) -> None:
        await self.sender.settle(self.answered)
        self.answered = []

    async def work(self) -> None:
        """A whole turn of all, as long as nothing fails."""
        await self.begin(100)
        while self.begun:
            await self.hand_over()
        await self.settle()
        await self.receipts.match()

    async def or_die(self, work: Any) -> None:
        """Do it; where the store does not answer it is tried again some day, and who dies forgets what it had."""
        try:
            await work
        except StoreUnavailable:
            pass
        except Crash:
            self.the_sender_dies()


test_whatever_fails_nobody_is_told_twice_and_every_outcome_is_told = NotifyingOfRequests.TestCase
test_whatever_fails_nobody_is_told_twice_and_every_outcome_is_told.settings = SETTINGS
