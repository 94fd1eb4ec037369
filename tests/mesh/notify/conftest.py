import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec import convert
from prometheus_client import CollectorRegistry

from deploy.local.jsmpp import JsmppSimulator
from deploy.local.smsc import RecordingSmsc
from deploy.local.smtp import RecordingSmtp
from services.notify import handlers
from services.notify.backlog import Backlog, Desk
from services.notify.domain import State
from services.notify.lane import Lane
from services.notify.ledger import TAKE_LEASE, Ledger
from services.notify.outcomes import Outcomes
from services.notify.providers.smpp import ANSWER_SECONDS, SmppProvider
from services.notify.providers.smtp import FREE_SECONDS, SmtpProvider
from services.notify.rate import TokenBucket
from services.notify.receipts import LEASE, Receipts, References
from services.notify.rendering import load_templates
from services.notify.sender import Sender
from services.notify.shortcut import Shortcut
from shared.bus.port import Incoming, Publication, Record
from shared.clock import SystemClock
from shared.contract.events import (
    Applicant,
    Card,
    Channel,
    Language,
    NotificationOutcome,
    RequestAccepted,
    RequestAcceptedData,
    RequestUpdated,
    Timeline,
)
from shared.jurisdiction import load_jurisdiction
from shared.metrics import NotifyMetrics
from shared.store.sqlite import SqliteStore

JURISDICTION = Path(__file__).parents[3] / "deploy" / "jurisdictions" / "djibouti"
CLOCK = SystemClock()
WINDOW = timedelta(seconds=2)


class Publisher:
    """Remembers what was told; `until` waits for so many outcomes of a status, `until_told` of whichever."""

    def __init__(self) -> None:
        self.outcomes: list[NotificationOutcome] = []
        self._told = asyncio.Event()

    async def publish(self, publications: Sequence[Publication]) -> None:
        self.outcomes += [NotificationOutcome.from_json(each.value) for each in publications]
        self._told.set()

    def ids(self, status: str) -> list[str]:
        return [each.data.notification_id for each in self.outcomes if each.data.status.value == status]

    async def until(self, status: str, count: int, *, within_seconds: float = 20.0) -> None:
        await self._until(lambda: len(set(self.ids(status))) >= count, within_seconds)

    async def until_told(self, count: int, *, within_seconds: float = 20.0) -> None:
        await self._until(lambda: len({each.data.notification_id for each in self.outcomes}) >= count, within_seconds)

    async def _until(self, reached: Callable[[], bool], within_seconds: float) -> None:
        async with asyncio.timeout(within_seconds):
            while not reached():
                self._told.clear()
                await self._told.wait()


class Counter:
    """Notify without Kafka: a real store, real providers, its tasks running."""

    def __init__(self, store: SqliteStore) -> None:
        self.jurisdiction = load_jurisdiction(JURISDICTION)
        self.templates = load_templates()
        self.metrics = NotifyMetrics(CollectorRegistry())
        self.publisher = Publisher()
        self.sms = Ledger(Shortcut(store.collection("notifications_sms"), lease=TAKE_LEASE, clock=CLOCK))
        self.mail = Ledger(Shortcut(store.collection("notifications_email"), lease=TAKE_LEASE, clock=CLOCK))
        self.unreachable = Ledger(store.collection("notifications_unreachable"))
        self.references = References(store.collection("provider_references"))
        self.receipts = Receipts(
            collection=Shortcut(store.collection("receipts"), lease=LEASE, clock=CLOCK),
            references=self.references,
            ledger=self.sms,
            outcomes=self.outcomes(Channel.SMS),
            clock=CLOCK,
            metrics=self.metrics,
        )
        self._running: list[asyncio.Task[None]] = []

    def outcomes(self, channel: Channel) -> Outcomes:
        ledger, other = (self.sms, self.mail) if channel is Channel.SMS else (self.mail, self.sms)
        return Outcomes(
            channel, ledger=ledger, other=other, publisher=self.publisher, clock=CLOCK, metrics=self.metrics
        )

    def smpp(
        self,
        port: int,
        system_id: str,
        password: str,
        *,
        name: str = "smpp",
        window: int = 50,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> SmppProvider:
        return SmppProvider(
            name=name,
            host="127.0.0.1",
            port=port,
            system_id=system_id,
            password=password,
            sender=self.jurisdiction.sms_sender,
            window=window,
            accept=self.receipts.accept,
            clock=CLOCK,
            answer_seconds=answer_seconds,
        )

    def smtp(
        self, port: int, *, name: str = "smtp", connections: int = 3, free_seconds: float = FREE_SECONDS
    ) -> SmtpProvider:
        return SmtpProvider(
            name=name,
            host="127.0.0.1",
            port=port,
            mail_from=self.jurisdiction.mail_from,
            sender_name=self.jurisdiction.name,
            connections=connections,
            clock=CLOCK,
            free_seconds=free_seconds,
        )

    def run_sms(self, *providers: SmppProvider, per_second: float = 5000.0) -> None:
        sender = Sender(
            ledger=self.sms,
            lanes=[Lane(provider, TokenBucket(per_second, CLOCK)) for provider in providers],
            compose=self.templates.short_message,
            references=self.references,
            outcomes=self.outcomes(Channel.SMS),
            receipt_window=WINDOW,
            clock=CLOCK,
            metrics=self.metrics,
        )
        self._running += [asyncio.create_task(sender.run()), asyncio.create_task(self.receipts.run())]

    def run_mail(self, *providers: SmtpProvider) -> None:
        sender = Sender(
            ledger=self.mail,
            lanes=[Lane(provider, TokenBucket(5000.0, CLOCK)) for provider in providers],
            compose=self.templates.mail,
            references=self.references,
            outcomes=self.outcomes(Channel.EMAIL),
            receipt_window=WINDOW,
            clock=CLOCK,
            metrics=self.metrics,
        )
        self._running.append(asyncio.create_task(sender.run()))

    def backlog(self, *, fallback_after: timedelta) -> Backlog:
        desks = (Desk(self.sms, self.outcomes(Channel.SMS)), Desk(self.mail, self.outcomes(Channel.EMAIL)))
        return Backlog(desks, fallback_after=fallback_after, clock=CLOCK, metrics=self.metrics)

    async def planned(self) -> int:
        """How many short messages wait to be sent."""
        return len([held async for held in self.sms.unfinished() if held.notification.status is State.PLANNED])

    async def plan(self, *events: RequestAccepted | RequestUpdated) -> None:
        record = Record("requests.accepted", 0, 0, 0, None, None, None)
        await handlers.plan(
            [Incoming(event, record) for event in events],
            jurisdiction=self.jurisdiction,
            templates=self.templates,
            ledgers={Channel.SMS: self.sms, Channel.EMAIL: self.mail, None: self.unreachable},
            clock=CLOCK,
            metrics=self.metrics,
        )

    async def stop(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


MakeAccepted = Callable[..., RequestAccepted]


@pytest.fixture
def accepted() -> MakeAccepted:
    def make(number: int = 1, *, language: Language = Language.FRENCH, **applicant: str) -> RequestAccepted:
        request = Card(
            request_id=f"request-{number}",
            reference=f"7K3M-9XQ2-{number:04d}",
            agency="port",
            agency_reference=str(number),
            service_code="birth-certificate",
            submitted_at=CLOCK.now(),
            applicant=convert({"language": language, "phone": f"+25377{number:06d}"} | applicant, Applicant),
        )
        data = RequestAcceptedData(request=request, timeline=Timeline())
        return RequestAccepted(id=f"accepted-{number}", source="/test", data=data)

    return make


@pytest.fixture
async def counter(tmp_path: Path) -> AsyncIterator[Counter]:
    store = SqliteStore(tmp_path / "notify.sqlite")
    await store.open()
    counter = Counter(store)
    yield counter
    await counter.stop()
    await store.close()


@pytest.fixture
async def smsc(tmp_path: Path) -> AsyncIterator[RecordingSmsc]:
    smsc = RecordingSmsc(tmp_path)
    await smsc.start()
    yield smsc
    await smsc.stop()


@pytest.fixture
async def second_smsc(tmp_path: Path) -> AsyncIterator[RecordingSmsc]:
    (tmp_path / "second").mkdir()
    smsc = RecordingSmsc(tmp_path / "second")
    await smsc.start()
    yield smsc
    await smsc.stop()


@pytest.fixture(scope="module")
async def jsmpp(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[JsmppSimulator]:
    simulator = JsmppSimulator(tmp_path_factory.mktemp("jsmpp"))
    await simulator.start()
    yield simulator
    await simulator.stop()


@pytest.fixture
async def smtp(tmp_path: Path) -> AsyncIterator[RecordingSmtp]:
    sink = RecordingSmtp(tmp_path)
    await sink.start()
    yield sink
    await sink.stop()
