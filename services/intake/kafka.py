"""The Kafka door: `agency.<id>.events`. The topic says who the agency is; keys and headers prove nothing."""

from collections.abc import Callable
from datetime import datetime

from services.intake.agency_event import AgencyEvent
from services.intake.domain import Received, reject
from services.intake.handlers import publication
from services.intake.validation import Refused, read_event
from shared.bus.port import Record, Undecodable
from shared.clock import Clock
from shared.contract.events import Door, Origin
from shared.contract.reasons import Reason
from shared.contract.topics import agency_of
from shared.jurisdiction import Jurisdiction

_UNREADABLE = frozenset(
    {
        Reason.EMPTY,
        Reason.NOT_UTF8,
        Reason.NOT_JSON,
        Reason.TOO_DEEP,
        Reason.TOO_LARGE,
        Reason.DUPLICATE_KEY,
        Reason.NUMBER_OUT_OF_RANGE,
        Reason.NOT_A_CLOUDEVENT,
    }
)


def decoder(jurisdiction: Jurisdiction, clock: Clock) -> Callable[[Record], Received]:
    """Reads a record of an agency's topic.

    What can't be read at all is set aside among the dead letters, and the agency is told; what can be read but not
    taken is for the handler to reject.
    """

    def decode(record: Record) -> Received:
        agency = agency_of(record.topic)
        if agency not in jurisdiction.agencies:
            raise Undecodable(Reason.UNKNOWN_AGENCY, f"the register has no agency {agency!r}")
        now = clock.now()
        try:
            event = read_event(record.value or b"", now=now, phone_region=jurisdiction.phone_region)
        except Refused as refusal:
            received = _received(agency, record, refusal, now)
            problem = refusal.problems[0]
            if problem.reason in _UNREADABLE:
                notice = publication(reject(received, refusal.problems))
                raise Undecodable(problem.reason, problem.detail, notices=(notice,)) from None
            return received
        return _received(agency, record, event, now)

    return decode


def _received(agency: str, record: Record, event: AgencyEvent | Refused, now: datetime) -> Received:
    return Received(
        agency=agency,
        door=Door.KAFKA,
        event=event,
        published_at=record.recorded_at,
        received_at=now,
        origin=Origin(topic=record.topic, partition=record.partition, offset=record.offset),
        content=record.value or b"",
    )
