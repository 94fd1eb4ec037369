from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from services.metrics.handlers import observe
from services.metrics.open_requests import OpenRequests
from services.metrics.tally import Tally
from shared.bus.port import Incoming, Publication, Record
from shared.clock import ManualClock
from shared.contract.events import (
    Applicant,
    Card,
    Channel,
    Door,
    Event,
    Language,
    NotificationOutcome,
    NotificationOutcomeData,
    NotificationStatus,
    Office,
    Problem,
    RequestAccepted,
    RequestAcceptedData,
    RequestAssigned,
    RequestAssignedData,
    RequestOverdue,
    RequestOverdueData,
    RequestRejected,
    RequestRejectedData,
    RequestUnroutable,
    RequestUnroutableData,
    RequestUpdated,
    RequestUpdatedData,
    Status,
    Timeline,
)
from shared.contract.reasons import Reason
from shared.ids import event_id, request_id
from shared.jurisdiction import Agency, Jurisdiction, Service
from shared.metrics import LatencyMetrics
from shared.store.port import Collection
from shared.store.sqlite import SqliteStore

PUBLISHED = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """A moment, in seconds after the publication."""
    return PUBLISHED + timedelta(seconds=seconds)


@dataclass(frozen=True)
class Story:
    """One request, and the events that can be told of it. Steps are in seconds after its publication."""

    number: str = "1"
    agency: str = "civil-registry"
    service_code: str = "birth-certificate"
    submitted_at: datetime = PUBLISHED

    @property
    def request_id(self) -> str:
        return request_id(self.agency, self.number, PUBLISHED)

    def accepted(self, accepted: float = 1.0, published: float = 0.0) -> RequestAccepted:
        steps = Timeline(published=at(published), accepted=at(accepted))
        return RequestAccepted(
            **self._head(RequestAccepted), data=RequestAcceptedData(request=self._card, timeline=steps)
        )

    def assigned(
        self, office: str = "counter-1", due: date = date(2026, 3, 5), accepted: float = 1.0, assigned: float = 3.0
    ) -> RequestAssigned:
        data = RequestAssignedData(
            request=self._card,
            office=Office(id=office, name=office),
            due=due,
            rule="r1",
            rules_version="v1",
            timeline=Timeline(published=at(0), accepted=at(accepted), assigned=at(assigned)),
        )
        return RequestAssigned(**self._head(RequestAssigned), data=data)

    def overdue(self, office: str = "counter-1", due: date = date(2026, 3, 5)) -> RequestOverdue:
        data = RequestOverdueData(
            request=self._card, office=Office(id=office, name=office), due=due, timeline=Timeline(assigned=at(3))
        )
        return RequestOverdue(**self._head(RequestOverdue), data=data)

    def unroutable(self) -> RequestUnroutable:
        data = RequestUnroutableData(
            request=self._card, reason=Reason.NO_RULE, rules_version="v1", timeline=Timeline(accepted=at(1))
        )
        return RequestUnroutable(**self._head(RequestUnroutable), data=data)

    def updated(self, status: Status, occurred_at: datetime = PUBLISHED, sequence: int = 1) -> RequestUpdated:
        data = RequestUpdatedData(
            request=self._card,
            status=status,
            previous_status=Status.RECEIVED,
            sequence=sequence,
            occurred_at=occurred_at,
            timeline=Timeline(published=at(100), updated=at(102)),
        )
        return RequestUpdated(**self._head(RequestUpdated, str(sequence)), data=data)

    def rejected(self) -> RequestRejected:
        problem = Problem(reason=Reason.MISSING_FIELD, detail="field required", field="data.service_code")
        data = RequestRejectedData(agency=self.agency, door=Door.HTTP, problems=(problem,), timeline=Timeline())
        return RequestRejected(**self._head(RequestRejected), data=data)

    def outcome(
        self,
        status: NotificationStatus,
        channel: Channel | None = Channel.SMS,
        *,
        planned: datetime | None = None,
        sent: datetime | None = None,
        delivered: datetime | None = None,
    ) -> NotificationOutcome:
        data = NotificationOutcomeData(
            notification_id="n1",
            request_id=self.request_id,
            reference="DJ-1",
            agency=self.agency,
            service_code=self.service_code,
            step="assigned",
            channel=channel,
            language=Language.FRENCH,
            template="assigned",
            status=status,
            timeline=Timeline(
                published=at(0), accepted=at(1), assigned=at(3), planned=planned, sent=sent, delivered=delivered
            ),
        )
        return NotificationOutcome(**self._head(NotificationOutcome, status), data=data)

    @property
    def _card(self) -> Card:
        return Card(
            request_id=self.request_id,
            reference="DJ-1",
            agency=self.agency,
            agency_reference=self.number,
            service_code=self.service_code,
            submitted_at=self.submitted_at,
            applicant=Applicant(),
        )

    def _head(self, event: type[Event], what: str = "") -> dict[str, Any]:
        return {"id": event_id(f"{self.agency}/{self.number}/{what}", event.TYPE), "source": "/test"}


JURISDICTION = Jurisdiction(
    name="Testland",
    timezone=ZoneInfo("Africa/Djibouti"),
    phone_region="DJ",
    default_language=Language.FRENCH,
    sms_sender="Guichet",
    mail_from="guichet@example.org",
    agencies={"civil-registry": Agency("civil-registry", "Civil registry")},
    services={
        "birth-certificate": Service("birth-certificate", {Language.FRENCH: "Acte de naissance"}, Language.FRENCH)
    },
    offices={office: Office(id=office, name=office) for office in ("counter-1", "counter-2")},
)


@dataclass
class Observatory:
    """A metrics service without its shell: events in, samples out."""

    requests: Collection
    clock: ManualClock
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        metrics = LatencyMetrics(self.registry)
        self.tally = Tally(metrics, JURISDICTION)
        self.open_requests = OpenRequests(
            self.requests, clock=self.clock, metrics=metrics, offices=JURISDICTION.offices
        )

    async def observe(self, *events: Event) -> list[Publication]:
        record = Record("any", 0, 0, 0, None, None, None)
        return await observe(
            [Incoming(event, record) for event in events],
            requests=self.requests,
            open_requests=self.open_requests,
            tally=self.tally,
            timezone=JURISDICTION.timezone,
        )

    def value(self, sample: str, **labels: str) -> float:
        """The value of a sample that must be there."""
        value = self.registry.get_sample_value(sample, labels)
        assert value is not None, f"no series {sample} {labels}"
        return value

    def series(self) -> int:
        """How many series there are."""
        return sum(len(metric.samples) for metric in self.registry.collect())


@pytest.fixture
def story() -> type[Story]:
    return Story


@pytest.fixture
def moment() -> Callable[[float], datetime]:
    return at


@pytest_asyncio.fixture
async def requests(tmp_path: Path) -> AsyncIterator[Collection]:
    """The service's rows, in a real SQLite file."""
    store = SqliteStore(tmp_path / "metrics.sqlite")
    await store.open()
    yield store.collection("requests")
    await store.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(PUBLISHED)


@pytest.fixture
def start(clock: ManualClock) -> Callable[[Collection], Observatory]:
    """Start a metrics service, with all that was in memory gone, on rows that stand."""
    return lambda requests: Observatory(requests, clock)


@pytest.fixture
def observatory(requests: Collection, start: Callable[[Collection], Observatory]) -> Observatory:
    return start(requests)
