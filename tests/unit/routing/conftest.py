from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from services.routing.domain import Calendar, Rules
from services.routing.rules import load_rules
from shared.bus.port import Incoming, Record
from shared.contract.events import (
    Applicant,
    AttributeValue,
    Card,
    Language,
    Office,
    Place,
    RequestAccepted,
    RequestAcceptedData,
    RequestUpdated,
    RequestUpdatedData,
    Status,
    Timeline,
)
from shared.ids import request_id
from shared.jurisdiction import Agency, Jurisdiction, Service
from shared.store.port import Store
from shared.store.sqlite import SqliteStore

SUBMITTED_AT = datetime(2026, 11, 1, 7, 30, tzinfo=UTC)  # a Sunday morning in Djibouti
PUBLISHED_AT = datetime(2026, 11, 3, 8, 59, tzinfo=UTC)

MakeRequest = Callable[..., RequestAccepted]
MakeUpdate = Callable[..., RequestUpdated]
MakeIncoming = Callable[[RequestAccepted | RequestUpdated], Incoming[RequestAccepted | RequestUpdated]]
WriteRules = Callable[[str], Rules]


@pytest.fixture(scope="session")
def jurisdiction() -> Jurisdiction:
    return Jurisdiction(
        name="Test",
        timezone=ZoneInfo("Africa/Djibouti"),
        phone_region="DJ",
        default_language=Language.FRENCH,
        sms_sender="Guichet",
        mail_from="guichet@example.org",
        agencies={name: Agency(name, name.title()) for name in ("civil", "health")},
        services={
            code: Service(code, {Language.FRENCH: code}, Language.FRENCH) for code in ("birth", "passport", "leak")
        },
        offices={name: Office(id=name, name=name.title()) for name in ("plateau", "balbala", "obock")},
    )


@pytest.fixture(scope="session")
def calendar() -> Calendar:
    """A week from Sunday to Thursday, without holidays."""
    return Calendar(ZoneInfo("Africa/Djibouti"), weekend=[4, 5], holidays=[])


@pytest.fixture
def write_rules(tmp_path: Path, jurisdiction: Jurisdiction) -> WriteRules:
    """Reads rules from the text of a file."""

    def write(text: str) -> Rules:
        path = tmp_path / "rules.yaml"
        path.write_text(text, encoding="utf-8")
        return load_rules(path, jurisdiction)

    return write


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = SqliteStore(tmp_path / "routing.sqlite")
    await store.open()
    yield store
    await store.close()


@pytest.fixture(scope="session")
def make_request() -> MakeRequest:
    def make(
        number: str = "1",
        *,
        service: str = "birth",
        agency: str = "civil",
        zone: str | None = None,
        language: Language | None = None,
        submitted_at: datetime = SUBMITTED_AT,
        **attributes: AttributeValue,
    ) -> RequestAccepted:
        return RequestAccepted(
            id=f"accepted-{number}",
            source="/guichet/intake",
            subject=request_id(agency, number, PUBLISHED_AT),
            data=RequestAcceptedData(
                request=Card(
                    request_id=request_id(agency, number, PUBLISHED_AT),
                    reference=f"REF-{number}",
                    agency=agency,
                    agency_reference=number,
                    service_code=service,
                    submitted_at=submitted_at,
                    applicant=Applicant(phone="+25377000000", language=language),
                ),
                place=Place(zone=zone) if zone is not None else None,
                attributes=attributes,
                timeline=Timeline(published=PUBLISHED_AT, received=PUBLISHED_AT, accepted=PUBLISHED_AT),
            ),
        )

    return make


@pytest.fixture(scope="session")
def make_update(make_request: MakeRequest) -> MakeUpdate:
    """A change of the request with the same number."""

    def make(number: str = "1", *, status: Status) -> RequestUpdated:
        card = make_request(number).data.request
        return RequestUpdated(
            id=f"updated-{number}-{status}",
            source="/guichet/intake",
            subject=card.request_id,
            data=RequestUpdatedData(
                request=card,
                status=status,
                previous_status=Status.RECEIVED,
                sequence=1,
                occurred_at=PUBLISHED_AT,
                timeline=Timeline(published=PUBLISHED_AT, updated=PUBLISHED_AT),
            ),
        )

    return make


@pytest.fixture(scope="session")
def incoming() -> MakeIncoming:
    def wrap(event: RequestAccepted | RequestUpdated) -> Incoming[RequestAccepted | RequestUpdated]:
        key = event.data.request.request_id.encode()
        return Incoming(event, Record("any", 0, 0, 0, None, key, event.to_json()))

    return wrap
