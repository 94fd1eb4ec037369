"""A small city's files, and the events of a mesh that handled a request."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import pytest

from shared.bus.port import Incoming, Record
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
    RequestRejected,
    RequestRejectedData,
    RequestUpdated,
    RequestUpdatedData,
    Status,
    Timeline,
)
from shared.contract.reasons import Reason
from shared.ids import event_id, notification_id, request_id

Row = Mapping[str, str]
Write = Callable[[Sequence[Row]], str]

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def written(rows: Sequence[Row], delimiter: str = ",") -> str:
    """The rows as CSV, every column that any of them has."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, delimiter=delimiter, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@pytest.fixture
def as_csv() -> Callable[..., str]:
    return written


@pytest.fixture
def lamp() -> Row:
    """A request in the columns of St. Louis."""
    return {
        "REQUESTID": "700001",
        "DATETIMEINIT": "2019-05-06 09:30:00.0",
        "PRJCOMPLETEDATE": "2019-05-13 00:00:00.0",
        "DATEINVTDONE": "2019-05-07 00:00:00.0",
        "DATETIMECLOSED": "2019-05-09 16:45:10.5",
        "DATECANCELLED": "",
        "PROBLEMCODE": "Lamp Out",
        "DESCRIPTION": "Lamp does not burn",
        "GROUP": "Lights",
        "SUBMITTO": "LAMPS & POLES, 512",
        "PROBADDRESS": "1 SAMPLE ST",
        "PROBZIP": "00000",
        "WARD": "99",
        "NEIGHBORHOOD": "98",
        "CALLERTYPE": "WEB",
        "STATUS": "CLOSED",
    }


@pytest.fixture
def noise() -> Row:
    """A request in the columns of New York."""
    return {
        "Unique Key": "900001",
        "Created Date": "07/04/2019 11:05:00 PM",
        "Closed Date": "07/05/2019 12:15:00 AM",
        "Agency": "NOISE",
        "Complaint Type": "Noise - Made Up",
        "Descriptor": "Drums",
        "Incident Zip": "00000",
        "Incident Address": "2 SAMPLE AVENUE",
        "Borough": "SAMPLE ISLAND",
        "Due Date": "07/12/2019 11:05:00 PM",
        "Status": "Closed",
        "Resolution Description": "The drums were asked to stop.",
        "Latitude": "40.5",
        "Longitude": "-74.25",
    }


class Handled:
    """The events that a mesh publishes about one request; each step takes 100 ms."""

    def __init__(self, agency: str = "edd", reference: str = "A-1") -> None:
        self.agency = agency
        self.card = Card(
            request_id=request_id(agency, reference, START),
            reference="7K3M-9XQ2-HTB4",
            agency=agency,
            agency_reference=reference,
            service_code="power-outage",
            submitted_at=START,
            applicant=Applicant(phone="+491713920001", language=Language.FRENCH),
        )
        self._steps = Timeline(published=START, received=START)

    def accepted(self, cause: str = "e-1") -> RequestAccepted:
        steps = self._steps.at(accepted=START + timedelta(seconds=0.1))
        return RequestAccepted(
            id=event_id(f"{self.agency}/{cause}", RequestAccepted.TYPE),
            source="/guichet/intake",
            subject=self.card.request_id,
            causationid=cause,
            data=RequestAcceptedData(request=self.card, timeline=steps),
        )

    def assigned(self, by: str = "", office: str = "plateau") -> RequestAssigned:
        accepted = self.accepted()
        return RequestAssigned(
            id=event_id(f"{accepted.id}{by}", RequestAssigned.TYPE),
            source="/guichet/routing",
            subject=self.card.request_id,
            causationid=accepted.id,
            data=RequestAssignedData(
                request=self.card,
                office=Office(id=office, name=f"Office {office}"),
                due=date(2026, 3, 9),
                rule="r",
                rules_version="1",
                timeline=accepted.data.timeline.at(assigned=START + timedelta(seconds=0.2)),
            ),
        )

    def updated(self, cause: str = "e-2") -> RequestUpdated:
        return RequestUpdated(
            id=event_id(f"{self.agency}/{cause}", RequestUpdated.TYPE),
            source="/guichet/intake",
            subject=self.card.request_id,
            causationid=cause,
            data=RequestUpdatedData(
                request=self.card,
                status=Status.RESOLVED,
                previous_status=Status.RECEIVED,
                sequence=1,
                occurred_at=START,
                timeline=self._steps.at(updated=START + timedelta(seconds=0.1)),
            ),
        )

    def rejected(self, cause: str = "e-1", reason: Reason = Reason.INVALID_PHONE) -> RequestRejected:
        return RequestRejected(
            id=event_id(f"{self.agency}/{cause}", RequestRejected.TYPE),
            source="/guichet/intake",
            subject=self.agency,
            causationid=cause,
            data=RequestRejectedData(
                agency=self.agency,
                event_id=cause,
                door=Door.KAFKA,
                problems=(Problem(reason=reason, detail="so it is"),),
                timeline=self._steps,
            ),
        )

    def told(
        self,
        cause: RequestAccepted | RequestAssigned | RequestUpdated,
        status: NotificationStatus = NotificationStatus.SENT,
        channel: Channel | None = Channel.SMS,
        step: str = "a-step",
    ) -> NotificationOutcome:
        notification = notification_id(cause.id, step, channel or "none", START)
        return NotificationOutcome(
            id=event_id(notification, NotificationOutcome.TYPE, list(NotificationStatus).index(status)),
            source="/guichet/notify",
            subject=self.card.request_id,
            causationid=cause.id,
            data=NotificationOutcomeData(
                notification_id=notification,
                request_id=self.card.request_id,
                reference=self.card.reference,
                agency=self.agency,
                service_code=self.card.service_code,
                step=step,
                channel=channel,
                language=Language.FRENCH,
                template="t",
                status=status,
                timeline=cause.data.timeline.at(sent=START + timedelta(seconds=0.5)),
            ),
        )


@pytest.fixture
def handled() -> Callable[..., Handled]:
    return Handled


def stood(event: Event) -> Incoming[Event]:
    """The event as it was read from its topic."""
    record = Record("topic", 0, 0, 0, None, None, event.to_json())
    return Incoming(event, record)


@pytest.fixture
def on_topic() -> Callable[[Event], Incoming[Event]]:
    return stood
