"""Who is told what, and the life of a notification. Pure: events, rows and moments in, rows out.

    planned ──▶ sending ──▶ sent ──▶ delivered
       ▲           ├──▶ failed ◀──┘ (by receipt)
       └── later ──┴──▶ unknown ──▶ delivered | failed (by receipt)
    unreachable (nobody to tell)

`sending` stands durably before a provider is spoken to, so whoever finds it later, its sender gone, knows that nobody
knows: the message may have been sent, and is not sent again.
"""

import calendar
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final
from zlib import crc32

import phonenumbers
from phonenumbers import PhoneNumberType

from shared.contract.events import (
    Applicant,
    Channel,
    Event,
    Language,
    Moment,
    NotificationOutcome,
    NotificationOutcomeData,
    NotificationStatus,
    Part,
    RequestAccepted,
    RequestAssigned,
    RequestUpdated,
    Status,
    Timeline,
)
from shared.ids import event_id, notification_id
from shared.jurisdiction import Jurisdiction

SOURCE: Final = "/guichet/notify"

RETRY_FIRST: Final = timedelta(seconds=5)
RETRY_LONGEST: Final = timedelta(hours=1)
RETRY_LIMIT: Final = timedelta(hours=24)


class Step(StrEnum):
    """What a citizen is told of."""

    ACCEPTED = "accepted"
    ASSIGNED = "assigned"
    IN_PROGRESS = "in_progress"
    WAITING_FOR_CITIZEN = "waiting_for_citizen"
    RESOLVED = "resolved"
    CANCELLED = "cancelled"


class State(StrEnum):
    """Where a notification stands. The values from `sent` on are those that its outcome tells."""

    PLANNED = "planned"
    SENDING = "sending"
    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"
    UNKNOWN = "unknown"
    UNREACHABLE = "unreachable"


_STEP_OF_STATUS = {
    Status.IN_PROGRESS: Step.IN_PROGRESS,
    Status.WAITING_FOR_CITIZEN: Step.WAITING_FOR_CITIZEN,
    Status.RESOLVED: Step.RESOLVED,
    Status.CANCELLED: Step.CANCELLED,
}
_UNLISTED_SERVICE: Final = {
    Language.FRENCH: "autre démarche",
    Language.ARABIC: "خدمة أخرى",
    Language.SOMALI: "adeeg kale",  # awaiting review by a native speaker
    Language.AFAR: "aki taama",  # awaiting review by a native speaker
    Language.ENGLISH: "other service",
}
"""What a service is called that the catalogue does not have: its code would tell a citizen nothing."""

_BEFORE_ANY_RECEIPT = (State.PLANNED, State.SENDING)
_OPEN_TO_RECEIPTS = (State.SENT, State.UNKNOWN)
_INDEX = {status: index for index, status in enumerate(NotificationStatus)}


class Notification(Part):
    """A row of the ledger: what should be said to whom, and how far that has come.

    `outbox` holds outcome events (JSON) that were decided and perhaps not published yet: as they are bytes of the
    row, they are the same however often they are published. `not_before` is when a planned one should be sent.
    """

    id: str
    cause: str
    request_id: str
    reference: str
    agency: str
    service_code: str
    step: Step
    channel: Channel | None
    language: Language
    template: str
    recipient: str | None
    personalisation: dict[str, str]
    status: State
    attempts: int = 0
    not_before: Moment
    provider: str | None = None
    provider_references: tuple[str, ...] = ()
    delivered_references: tuple[str, ...] = ()
    segments: int = 0
    reason: str | None = None
    announced: tuple[NotificationStatus, ...] = ()
    outbox: tuple[str, ...] = ()
    timeline: Timeline


class WrongState(Exception):
    """A notification was to become what it can't become from where it stands."""

    def __init__(self, notification: Notification, wanted: State) -> None:
        super().__init__(f"notification {notification.id} is {notification.status} and can't become {wanted}")


def plan(
    event: Event, *, jurisdiction: Jurisdiction, versions: Mapping[tuple[Language, Step], str], now: datetime
) -> Notification | None:
    """What the citizen should be told of this event; None if nothing. `versions`: each template's current version."""
    if not isinstance(event, RequestAccepted | RequestAssigned | RequestUpdated):
        return None
    step = _step(event)
    if step is None:
        return None
    request = event.data.request
    language = _language(request.applicant, request.agency, jurisdiction)
    channel, recipient = _contact(request.applicant, jurisdiction)
    notification = Notification(
        id=notification_id(event.id, step, channel or "none"),
        cause=event.id,
        request_id=request.request_id,
        reference=request.reference,
        agency=request.agency,
        service_code=request.service_code,
        step=step,
        channel=channel,
        language=language,
        template=versions[language, step],
        recipient=recipient,
        personalisation=_personalisation(event, channel, language, jurisdiction),
        status=State.PLANNED,
        not_before=now,
        timeline=event.data.timeline.at(planned=now),
    )
    return notification if channel else _concluded(notification, State.UNREACHABLE, now, reason=_why_unreachable(event))


def _step(event: RequestAccepted | RequestAssigned | RequestUpdated) -> Step | None:
    if isinstance(event, RequestAccepted):
        return Step.ACCEPTED
    if isinstance(event, RequestAssigned):
        return Step.ASSIGNED
    return _STEP_OF_STATUS.get(event.data.status)


def _language(applicant: Applicant, agency: str, jurisdiction: Jurisdiction) -> Language:
    known_agency = jurisdiction.agencies.get(agency)
    return applicant.language or (known_agency and known_agency.language) or jurisdiction.default_language


def _contact(applicant: Applicant, jurisdiction: Jurisdiction) -> tuple[Channel | None, str | None]:
    """The citizen's wish if it can be met, else SMS to a mobile phone, else mail."""
    contacts: dict[Channel, str] = {}
    if applicant.phone and takes_sms(applicant.phone, jurisdiction.phone_region, jurisdiction.mobile_prefixes):
        contacts[Channel.SMS] = applicant.phone
    if applicant.email:
        contacts[Channel.EMAIL] = applicant.email
    for channel in (applicant.channel, *contacts):
        if channel in contacts:
            return channel, contacts[channel]
    return None, None


@lru_cache(maxsize=4096)  # every citizen is told several times, and a look-up takes 0.1 ms
def takes_sms(phone: str, region: str, mobile_prefixes: tuple[str, ...]) -> bool:
    """Whether a phone in E.164 is a mobile one, by its numbering plan and, at home, by the prefixes given.

    Some plans, as North America's, do not tell mobile from fixed; there every number may be a mobile one.
    """
    try:
        number = phonenumbers.parse(phone, None)
    except phonenumbers.NumberParseException:
        return False
    at_home = number.country_code == phonenumbers.country_code_for_region(region)
    if at_home and mobile_prefixes:
        return phonenumbers.national_significant_number(number).startswith(mobile_prefixes)
    return phonenumbers.number_type(number) in (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE)


def _why_unreachable(event: RequestAccepted | RequestAssigned | RequestUpdated) -> str:
    return "not_a_mobile_phone" if event.data.request.applicant.phone else "no_contact"


def _personalisation(
    event: RequestAccepted | RequestAssigned | RequestUpdated,
    channel: Channel | None,
    language: Language,
    jurisdiction: Jurisdiction,
) -> dict[str, str]:
    """The values of the template's fields, in the citizen's language. The note is personal: it never goes by SMS."""
    request = event.data.request
    service = jurisdiction.services.get(request.service_code)
    values = {
        "reference": request.reference,
        "service": service.name_in(language) if service else _UNLISTED_SERVICE[language],
    }
    if isinstance(event, RequestAssigned):
        values |= {"office": event.data.office.name, "due_date": format_date(event.data.due, language)}
    if isinstance(event, RequestUpdated) and event.data.note and channel is Channel.EMAIL:
        values["note"] = event.data.note
    return values


def format_date(day: date, language: Language) -> str:
    """A date as the language writes it, in Latin digits; the month in words where figures could mean two days."""
    if language is Language.ENGLISH:
        return f"{day.day} {calendar.month_name[day.month]} {day.year}"
    return f"{day:%d/%m/%Y}"


def begin(notification: Notification, *, template: str, segments: int, provider: str) -> Notification:
    """It is about to be handed to the provider; this has to be durable first.

    Where some parts were accepted before and the template has changed since, all parts are sent anew.
    """
    _require(notification, State.PLANNED, becoming=State.SENDING)
    same_text = notification.template == template
    return notification.model_copy(
        update={
            "status": State.SENDING,
            "attempts": notification.attempts + 1,
            "template": template,
            "segments": segments,
            "provider": provider,
            "provider_references": notification.provider_references if same_text else (),
        }
    )


def sent(notification: Notification, now: datetime, *, references: tuple[str, ...] = ()) -> Notification:
    """The provider has taken it over."""
    _require(notification, State.SENDING, becoming=State.SENT)
    taken = notification.model_copy(
        update={"provider_references": references, "timeline": notification.timeline.at(sent=now)}
    )
    return _concluded(taken, State.SENT, now)


def refused(notification: Notification, now: datetime, *, reason: str) -> Notification:
    """The provider will never take it, or it can't be written at all."""
    _require(notification, State.SENDING, State.PLANNED, becoming=State.FAILED)
    return _concluded(notification, State.FAILED, now, reason=reason)


def postponed(
    notification: Notification,
    now: datetime,
    *,
    reason: str,
    retry_after: timedelta | None = None,
    references: tuple[str, ...] = (),
) -> Notification:
    """It was surely not sent: planned again, or failed when there is no more time. `references`: parts accepted."""
    _require(notification, State.SENDING, becoming=State.PLANNED)
    tried = notification.model_copy(update={"provider_references": references, "reason": reason})
    planned = notification.timeline.planned or now
    moment = next_attempt(notification.id, since=planned, now=now, wish=retry_after)
    if moment is None:
        return _concluded(tried, State.FAILED, now, reason="retries_exhausted")
    return tried.model_copy(update={"status": State.PLANNED, "not_before": moment})


def lost_sight(
    notification: Notification, now: datetime, *, reason: str, references: tuple[str, ...] = ()
) -> Notification:
    """It was handed over, or may have been, and no answer came: only a receipt can tell."""
    _require(notification, State.SENDING, becoming=State.UNKNOWN)
    known = references or notification.provider_references
    return _concluded(notification.model_copy(update={"provider_references": known}), State.UNKNOWN, now, reason=reason)


def takes_receipts(notification: Notification) -> bool:
    """False while it is still to be sent or being sent: a receipt that comes so early has to come again."""
    return notification.status not in _BEFORE_ANY_RECEIPT


def receipted(notification: Notification, now: datetime, *, reference: str, failure: str | None = None) -> Notification:
    """A receipt came for one part: delivered when all parts are, failed with the first that is.

    Once delivered or failed, the very same notification is returned. WrongState if it takes no receipts yet.
    """
    if not takes_receipts(notification):
        raise WrongState(notification, State.FAILED if failure else State.DELIVERED)
    if notification.status not in _OPEN_TO_RECEIPTS or reference in notification.delivered_references:
        return notification
    if failure is not None:
        return _concluded(notification, State.FAILED, now, reason=failure)
    delivered = (*notification.delivered_references, reference)
    noted = notification.model_copy(update={"delivered_references": delivered})
    if len(delivered) < notification.segments:
        return noted
    # A receipt can be read before the reply that it follows: nothing is delivered before it was sent.
    moment = max(now, noted.timeline.sent or now)
    return _concluded(
        noted.model_copy(update={"timeline": noted.timeline.at(delivered=moment)}), State.DELIVERED, moment, reason=None
    )


def published(notification: Notification) -> Notification:
    """What its outbox held is on its topic."""
    return notification.model_copy(update={"outbox": ()})


def user_message_reference(notification_id: str) -> int:
    """The 16 bits by which a receipt can name a message whose own id was never read (SMPP 3.4, 5.3.2.17)."""
    return crc32(notification_id.encode()) & 0xFFFF


def next_attempt(key: str, *, since: datetime, now: datetime, wish: timedelta | None = None) -> datetime | None:
    """When to try again what has been waiting `since`; None after 24 hours: the one retry schedule.

    As long again as it has waited already, at least 5 seconds and at most an hour, so that the delays double; up to a
    fifth more, always the same for one key, lest all that failed together come back together. A provider's `wish`
    is granted instead.
    """
    waited = now - since
    if waited >= RETRY_LIMIT:
        return None
    delay = min(max(waited, RETRY_FIRST), RETRY_LONGEST)
    return now + (min(wish, RETRY_LONGEST) if wish is not None else delay * (1 + crc32(key.encode()) % 1000 / 5000))


def _require(notification: Notification, *states: State, becoming: State) -> None:
    if notification.status not in states:
        raise WrongState(notification, becoming)


def _concluded(notification: Notification, state: State, now: datetime, reason: str | None = None) -> Notification:
    """The notification in a state that is told to others, with its outcome event in the outbox, once per status."""
    status = NotificationStatus(state)
    concluded = notification.model_copy(update={"status": state, "reason": reason})
    if status in notification.announced:
        return concluded
    outcome = NotificationOutcome(
        id=event_id(notification.id, NotificationOutcome.TYPE, _INDEX[status]),
        source=SOURCE,
        subject=notification.request_id,
        time=now,
        causationid=notification.cause,
        data=NotificationOutcomeData(
            notification_id=notification.id,
            request_id=notification.request_id,
            reference=notification.reference,
            agency=notification.agency,
            service_code=notification.service_code,
            step=notification.step,
            channel=notification.channel,
            language=notification.language,
            template=notification.template,
            provider=notification.provider,
            status=status,
            reason=reason,
            attempts=notification.attempts,
            segments=notification.segments,
            timeline=notification.timeline,
        ),
    )
    return concluded.model_copy(
        update={
            "announced": (*notification.announced, status),
            "outbox": (*notification.outbox, outcome.to_json().decode()),
        }
    )
