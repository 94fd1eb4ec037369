from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec import convert

from services.intake.agency_event import AgencyEvent, StatusChange, Submission
from services.intake.domain import Received, Verdict
from services.intake.handlers import Intake, publication
from services.intake.reference import reference_of
from shared.bus.port import Publication
from shared.clock import ManualClock
from shared.contract.agency import RequestSubmitted, StatusChanged
from shared.contract.events import Door, Origin, Status
from shared.store.port import Store
from shared.store.sqlite import SqliteStore

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRET = b"a secret of the tests"


@dataclass(frozen=True)
class Agency:
    """What an agency sends, as it comes in at the Kafka door."""

    id: str = "cnss"
    offset: int = 0

    def submits(self, number: str = "1", event_id: str | None = None, **data: Any) -> Received:
        """A submission of the request with this number."""
        event = {
            "specversion": "1.0",
            "id": event_id or f"submit-{number}",
            "source": "/agency",
            "type": RequestSubmitted.TYPE,
            "time": "2026-03-01T08:00:00Z",
            "data": {"agency_reference": number, "service_code": "birth-certificate"} | data,
        }
        return self._received(convert(event, Submission))

    def changes(
        self, status: Status, number: str = "1", event_id: str | None = None, minute: int = 0, **data: Any
    ) -> Received:
        """A change of that request's status, some minutes after nine."""
        event = {
            "specversion": "1.0",
            "id": event_id or f"{status}-{number}",
            "source": "/agency",
            "type": StatusChanged.TYPE,
            "time": datetime(2026, 3, 1, 9, tzinfo=UTC) + timedelta(minutes=minute),
            "data": {"agency_reference": number, "status": status} | data,
        }
        return self._received(convert(event, StatusChange))

    def _received(self, event: AgencyEvent) -> Received:
        topic = f"agency.{self.id}.events"
        return Received(
            agency=self.id,
            door=Door.KAFKA,
            event=event,
            received_at=NOW,
            content=b"",
            published_at=NOW - timedelta(seconds=1),
            origin=Origin(topic=topic, partition=0, offset=self.offset),
        )


async def candidates(keys: Iterable[str], attempt: int) -> dict[str, str]:
    """References under a secret that is known beforehand."""
    return {key: reference_of(key, SECRET, attempt) for key in keys}


@dataclass
class Desk:
    """An intake over a store."""

    store: Store
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))

    @property
    def intake(self) -> Intake:
        return Intake(
            claims=self.store.collection("claims"),
            requests=self.store.collection("requests"),
            clock=self.clock,
            candidates=candidates,
        )

    async def decide(self, *batch: Received) -> list[Verdict]:
        """The verdicts, a minute after whatever was decided before."""
        self.clock.advance(timedelta(minutes=1))
        return await self.intake.decide(batch)

    async def publications(self, *batch: Received) -> list[Publication]:
        """What is published of these."""
        return [publication(verdict) for verdict in await self.decide(*batch)]


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = SqliteStore(tmp_path / "intake.db")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)


@pytest_asyncio.fixture
async def two_desks(tmp_path: Path) -> AsyncIterator[tuple[Desk, Desk]]:
    """Two replicas, each with its own connection to the same file."""
    stores = [SqliteStore(tmp_path / "shared.db") for _ in range(2)]
    for store in stores:
        await store.open()
    yield Desk(stores[0]), Desk(stores[1])
    for store in stores:
        await store.close()


@pytest.fixture
def agency() -> Callable[..., Agency]:
    return Agency
