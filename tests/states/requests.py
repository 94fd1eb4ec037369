"""Events of the mesh for machines whose service reads them."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from shared.contract.events import (
    Applicant,
    Card,
    Language,
    Office,
    RequestAccepted,
    RequestAcceptedData,
    RequestUpdated,
    RequestUpdatedData,
    Status,
    Timeline,
)
from shared.jurisdiction import Agency, Jurisdiction, Service
from tests.states.consuming import START

JURISDICTION = Jurisdiction(
    name="Test",
    timezone=ZoneInfo("Africa/Djibouti"),
    phone_region="DJ",
    default_language=Language.FRENCH,
    sms_sender="Guichet",
    mail_from="guichet@example.org",
    agencies={"cnss": Agency("cnss", "CNSS")},
    services={code: Service(code, {Language.FRENCH: code}, Language.FRENCH) for code in ("birth", "passport")},
    offices={name: Office(id=name, name=name.title()) for name in ("plateau", "balbala")},
)


PHONE = Applicant(phone="+25377112233")


def card(number: int, service: str = "birth", applicant: Applicant = PHONE) -> Card:
    """The card of the request with this number."""
    return Card(
        request_id=f"request-{number}",
        reference=f"7K3M-9XQ2-{number:04d}",
        agency="cnss",
        agency_reference=str(number),
        service_code=service,
        submitted_at=START - timedelta(hours=1),
        applicant=applicant,
    )


def accepted(
    number: int, service: str = "birth", *, at: datetime = START, applicant: Applicant = PHONE
) -> RequestAccepted:
    """The request with this number, as intake tells of it."""
    return RequestAccepted(
        id=f"accepted-{number}",
        source="/guichet/intake",
        subject=f"request-{number}",
        time=at,
        data=RequestAcceptedData(
            request=card(number, service, applicant), timeline=Timeline(published=at, accepted=at)
        ),
    )


def updated(number: int, sequence: int, status: Status, *, applicant: Applicant = PHONE) -> RequestUpdated:
    """A change of the request with this number."""
    return RequestUpdated(
        id=f"updated-{number}-{sequence}",
        source="/guichet/intake",
        data=RequestUpdatedData(
            request=card(number, applicant=applicant),
            status=status,
            previous_status=Status.RECEIVED,
            sequence=sequence,
            occurred_at=START,
            timeline=Timeline(published=START, updated=START),
        ),
    )
