import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from prometheus_client import CollectorRegistry

from services.notify import handlers
from services.notify.backlog import Backlog
from services.notify.backlog import Desk as LookedAfter
from services.notify.domain import Notification
from services.notify.lane import Lane
from services.notify.ledger import ANNOUNCE_LEASE, TAKE_LEASE, Held, Ledger
from services.notify.outcomes import Outcomes
from services.notify.ports import Answer, Sent, ShortMessage
from services.notify.rate import TokenBucket
from services.notify.receipts import LEASE, Receipts, References
from services.notify.rendering import Templates, load_templates
from services.notify.sender import Sender
from services.notify.shortcut import Shortcut
from shared.bus.port import Incoming, Publication, Record, Unavailable
from shared.clock import ManualClock
from shared.contract.events import (
    Applicant,
    Card,
    Channel,
    Event,
    Language,
    NotificationOutcome,
    Office,
    RequestAccepted,
    RequestAcceptedData,
    RequestAssigned,
    RequestAssignedData,
    RequestUpdated,
    RequestUpdatedData,
    Status,
    Timeline,
)
from shared.jurisdiction import Agency, Jurisdiction, Service
from shared.metrics import NotifyMetrics
from shared.store.sqlite import SqliteStore

START = datetime(2026, 11, 1, 6, 0, tzinfo=UTC)
WINDOW = timedelta(minutes=15)
FALLBACK_AFTER = timedelta(minutes=10)
MOBILE, FIXED = "+25377112233", "+25321350000"


class RecordingPublisher:
    """Takes everything, or nothing while `down`; answers nobody unless it `answers`."""

    def __init__(self) -> None:
        self.published: list[Publication] = []
        self.down = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def publish(self, publications: Sequence[Publication]) -> None:
        await self.answers.wait()
        if self.down:
            raise Unavailable("down")
        self.published += publications

    @property
    def outcomes(self) -> list[NotificationOutcome]:
        return [NotificationOutcome.from_json(each.value) for each in self.published]

    @property
    def statuses(self) -> list[str]:
        return [outcome.data.status.value for outcome in self.outcomes]


class ScriptedProvider:
    """Answers as told, in order; then accepts everything. `connected` as told."""

    channel = Channel.SMS
    window = 50

    def __init__(self, name: str = "smpp") -> None:
        self.name = name
        self.connected = True
        self.script: list[Answer | Exception] = []
        self.messages: list[ShortMessage] = []
        self._called = asyncio.Event()

    async def until(self, count: int) -> None:
        """Return once so many messages were handed over."""
        async with asyncio.timeout(20):
            while len(self.messages) < count:
                self._called.clear()
                await self._called.wait()

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def available(self) -> None:
        if not self.connected:
            await asyncio.Event().wait()

    async def check(self) -> None:
        if not self.connected:
            raise ConnectionError(self.name)

    async def send(self, message: ShortMessage) -> Answer:
        self.messages.append(message)
        self._called.set()
        answer = self.script.pop(0) if self.script else self._accepted(message)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _accepted(self, message: ShortMessage) -> Answer:
        return Sent(tuple(f"{message.id}-{number}" for number, _ in enumerate(message.text.parts, start=1)))


class Desk:
    """The notify service without its wires: a real store, a clock that stands, a provider that does as it is told."""

    def __init__(
        self, store: SqliteStore, templates: Templates, jurisdiction: Jurisdiction, clock: ManualClock
    ) -> None:
        self.started = START
        self.store = store
        self.clock = clock
        self.jurisdiction = jurisdiction
        self.templates = templates
        self.metrics = NotifyMetrics(CollectorRegistry())
        self.publisher = RecordingPublisher()
        self.provider = ScriptedProvider()
        self.second = ScriptedProvider("smpp2")
        self.sms_rows = store.collection("notifications_sms")
        self.sms = Ledger(Shortcut(self.sms_rows, lease=TAKE_LEASE, clock=self.clock))
        self.mail = Ledger(Shortcut(store.collection("notifications_email"), lease=TAKE_LEASE, clock=self.clock))
        self.unreachable = Ledger(store.collection("notifications_unreachable"))
        self.references = References(store.collection("provider_references"))
        self.receipt_rows = store.collection("receipts")
        self.receipts = Receipts(
            collection=Shortcut(self.receipt_rows, lease=LEASE, clock=self.clock),
            references=self.references,
            ledger=self.sms,
            outcomes=self.outcomes(Channel.SMS),
            clock=self.clock,
            metrics=self.metrics,
        )

    def restarted(self) -> "Desk":
        """Another process, which knows only what the store knows."""
        return Desk(self.store, self.templates, self.jurisdiction, self.clock)

    def outcomes(self, channel: Channel) -> Outcomes:
        ledger, other = (self.sms, self.mail) if channel is Channel.SMS else (self.mail, self.sms)
        return Outcomes(
            channel, ledger=ledger, other=other, publisher=self.publisher, clock=self.clock, metrics=self.metrics
        )

    def backlog(self) -> Backlog:
        desks = (
            LookedAfter(self.sms, self.outcomes(Channel.SMS)),
            LookedAfter(self.mail, self.outcomes(Channel.EMAIL)),
        )
        return Backlog(desks, fallback_after=FALLBACK_AFTER, clock=self.clock, metrics=self.metrics)

    def sender(self, *providers: ScriptedProvider) -> Sender[ShortMessage]:
        """A sender as it is after a start: it knows only what the store knows. Of one provider, if none are named."""
        return Sender(
            ledger=self.sms,
            lanes=[Lane(each, TokenBucket(1e6, self.clock)) for each in providers or (self.provider,)],
            compose=self.templates.short_message,
            references=self.references,
            outcomes=self.outcomes(Channel.SMS),
            receipt_window=WINDOW,
            clock=self.clock,
            metrics=self.metrics,
        )

    async def plan(self, *events: Event) -> list[Publication]:
        record = Record("requests.accepted", 0, 0, 0, None, None, None)
        return await handlers.plan(
            [Incoming(event, record) for event in events],
            jurisdiction=self.jurisdiction,
            templates=self.templates,
            ledgers={Channel.SMS: self.sms, Channel.EMAIL: self.mail, None: self.unreachable},
            clock=self.clock,
            metrics=self.metrics,
        )

    async def work(self, sender: Sender[ShortMessage] | None = None, **room: int) -> int:
        """One whole turn: what is due is begun, handed over and settled. How many were handed over.

        Before it, of what was told in the meantime that is written, in time.

        `room`: for how many messages each provider has some; else the first one for a hundred.
        """
        sender = sender or self.sender()
        await self.sms.write_told(self.clock.now())
        turn = await sender.begin(room or {"smpp": 100})
        await sender.announce(turn.untold)
        await sender.settle([await sender.hand_over(each) for each in turn.begun])
        return len(turn.begun)

    async def rest(self) -> None:
        """So little time passes that nothing comes due, and so much that of all that was told that is written."""
        for ledger in (self.sms, self.mail):
            await ledger.write_told(self.clock.now(), ahead=ANNOUNCE_LEASE)

    async def row(self, notification_id: str) -> Held:
        return (await self.sms.get([notification_id]))[notification_id]

    async def notification(self) -> Notification:
        """The only one there is in the SMS ledger."""
        held = await self.sms.get([self.ids[-1]])
        return held[self.ids[-1]].notification

    @property
    def ids(self) -> list[str]:
        """The notifications that were handed over, in order, each once."""
        return list(dict.fromkeys(message.id for message in self.provider.messages))

    def later(self, **span: float) -> None:
        self.clock.advance(timedelta(**span))

    def gauge(self, metric: Any) -> float:
        value: float = metric._value.get()
        return value

    def count(self, metric: Any, *labels: str) -> float:
        value: float = metric.labels(*labels)._value.get()
        return value


MakeEvent = Callable[..., Any]


def card(number: int = 1, **applicant: Any) -> Card:
    return Card(
        request_id=f"request-{number}",
        reference=f"7K3M-9XQ2-{number:04d}",
        agency="port",
        agency_reference=str(number),
        service_code="birth",
        submitted_at=START,
        applicant=Applicant(**({"phone": MOBILE} | applicant)),
    )


@pytest.fixture
def accepted() -> MakeEvent:
    def make(number: int = 1, **applicant: Any) -> RequestAccepted:
        data = RequestAcceptedData(request=card(number, **applicant), timeline=Timeline(published=START))
        return RequestAccepted(id=f"accepted-{number}", source="/test", data=data)

    return make


@pytest.fixture
def assigned() -> MakeEvent:
    def make(number: int = 1, **applicant: Any) -> RequestAssigned:
        data = RequestAssignedData(
            request=card(number, **applicant),
            office=Office(id="registry", name="Bureau d'état civil"),
            due=date(2026, 12, 14),
            rule="r",
            rules_version="v",
            timeline=Timeline(published=START),
        )
        return RequestAssigned(id=f"assigned-{number}", source="/test", data=data)

    return make


@pytest.fixture
def updated() -> MakeEvent:
    def make(number: int = 1, status: str = "resolved", note: str | None = None, **applicant: Any) -> RequestUpdated:
        data = RequestUpdatedData(
            request=card(number, **applicant),
            status=Status(status),
            previous_status=Status.RECEIVED,
            sequence=1,
            occurred_at=START,
            note=note,
            timeline=Timeline(published=START),
        )
        return RequestUpdated(id=f"updated-{number}-{status}", source="/test", data=data)

    return make


@pytest.fixture(scope="session")
def templates() -> Templates:
    return load_templates()


@pytest.fixture(scope="session")
def jurisdiction() -> Jurisdiction:
    names = {Language.FRENCH: "Extrait d'acte de naissance", Language.ARABIC: "شهادة الميلاد"}
    return Jurisdiction(
        name="Djibouti",
        timezone=ZoneInfo("Africa/Djibouti"),
        phone_region="DJ",
        default_language=Language.FRENCH,
        sms_sender="Guichet",
        mail_from="guichet@example.org",
        agencies={"port": Agency("port", "Port", Language.ENGLISH), "mairie": Agency("mairie", "Mairie")},
        services={"birth": Service("birth", names, Language.FRENCH)},
        offices={},
        mobile_prefixes=("77",),
    )


@pytest.fixture
async def desk(tmp_path: Path, templates: Templates, jurisdiction: Jurisdiction) -> AsyncIterator[Desk]:
    store = SqliteStore(tmp_path / "notify.sqlite")
    await store.open()
    yield Desk(store, templates, jurisdiction, ManualClock(START))
    await store.close()
