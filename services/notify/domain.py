"""Who is told what, and the life of a notification. Pure: events, rows and moments in, rows out.

    planned ──▶ sending ──▶ sent ──▶ delivered
      ▲ ▲          ├──▶ failed ◀──┘ (by receipt)
      │ └── later ─┴──▶ unknown ──▶ delivered | failed (by receipt)
      └── at the end of the receipt window, where that is the step's policy
    unreachable (nobody to tell)

`sending` stands durably before a provider is spoken to, so whoever finds it later, its sender gone, knows that nobody
knows: the message may have been sent. A failed one is followed by one on the citizen's other channel, if there is one.
"""

import calendar
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final
from zlib import crc32

import phonenumbers
from msgspec.structs import replace
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
    Timed,
    Timeline,
)
from shared.ids import event_id, notification_id
from shared.jurisdiction import Jurisdiction

SOURCE: Final = "/guichet/notify"

RETRY_FIRST: Final = timedelta(seconds=5)
RETRY_LONGEST: Final = timedelta(hours=1)
RETRY_LIMIT: Final = timedelta(hours=24)

UNKNOWNS_MAX: Final = 3
"""How often nobody may know of one notification before it is sent no more."""


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


class Policy(StrEnum):
    """What follows when nobody knows whether a message was sent, and no receipt came: send it again, or never."""

    AT_LEAST_ONCE = "at_least_once"
    AT_MOST_ONCE = "at_most_once"


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

_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
_OTHER: Final = {Channel.SMS: Channel.EMAIL, Channel.EMAIL: Channel.SMS}
_FINAL = (State.DELIVERED, State.FAILED, State.UNREACHABLE)
_INDEX = {status: index for index, status in enumerate(NotificationStatus)}


class Alternative(Part, frozen=True, kw_only=True):
    """How else the citizen can be told: by the other channel. `note`: what may be said of the office's note there."""

    recipient: str
    note: str | None = None


class Notification(Timed, frozen=True, kw_only=True):
    """A row of the ledger: what should be said to whom, and how far that has come.

    `outbox` holds outcome events (JSON) that were decided and perhaps not published yet: as they are bytes of the
    row, they are the same however often they are published. `not_before` is when a planned one should be sent, and
    `since` from when on that is tried, where it is not from its planning.

    `tried` are the providers that said "later" in this round, `declined` those that will never take it. `unknowns`
    counts how often nobody knew; `resend_at` is when an unknown one is planned again, and what receipts say of its
    attempts up to `superseded` they say of an earlier copy. `owes_fallback`: the one that follows it on the other
    channel is perhaps not planned yet.
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
    since: Moment | None = None
    policy: Policy = Policy.AT_MOST_ONCE
    provider: str | None = None
    tried: tuple[str, ...] = ()
    declined: tuple[str, ...] = ()
    provider_references: tuple[str, ...] = ()
    delivered_references: tuple[str, ...] = ()
    segments: int = 0
    reason: str | None = None
    unknowns: int = 0
    unknown_since: Moment | None = None
    resend_at: Moment | None = None
    superseded: int = 0
    alternative: Alternative | None = None
    owes_fallback: bool = False
    fallback_of: str | None = None
    announced: tuple[NotificationStatus, ...] = ()
    outbox: tuple[str, ...] = ()
    timeline: Timeline

    @property
    def untold(self) -> bool:
        """Whether something that was decided of it is perhaps not done yet."""
        return bool(self.outbox) or self.owes_fallback

    @property
    def waiting_since(self) -> datetime:
        """From when on it is tried to send it."""
        return self.since or self.timeline.planned or self.not_before


class WrongState(Exception):
    """A notification was to become what it can't become from where it stands."""

    def __init__(self, notification: Notification, wanted: State) -> None:
        super().__init__(f"notification {notification.id} is {notification.status} and can't become {wanted}")


def plan(
    event: Event,
    *,
    jurisdiction: Jurisdiction,
    versions: Mapping[tuple[Language, Step], str],
    policies: Mapping[Step, Policy],
    now: datetime,
) -> Notification | None:
    """What the citizen should be told of this event; None if nothing. `versions`: each template's current version."""
    if not isinstance(event, RequestAccepted | RequestAssigned | RequestUpdated):
        return None
    step = _step(event)
    if step is None:
        return None
    request = event.data.request
    language = _language(request.applicant, request.agency, jurisdiction)
    contacts = _contacts(request.applicant, jurisdiction)
    channel = next(iter(contacts), None)
    notification = Notification(
        id=notification_id(event.id, step, channel or "none", _caused(event.data.timeline)),
        cause=event.id,
        request_id=request.request_id,
        reference=request.reference,
        agency=request.agency,
        service_code=request.service_code,
        step=step,
        channel=channel,
        language=language,
        template=versions[language, step],
        recipient=contacts[channel] if channel else None,
        personalisation=_personalisation(event, channel, language, jurisdiction),
        status=State.PLANNED,
        not_before=now,
        policy=policies[step],
        alternative=_alternative(event, contacts),
        timeline=event.data.timeline.at(planned=now),
    )
    return notification if channel else _concluded(notification, State.UNREACHABLE, now, reason=_why_unreachable(event))


def _caused(timeline: Timeline) -> datetime:
    """When that happened of which a notification tells: its last step before it was planned."""
    return timeline.assigned or timeline.updated or timeline.accepted or timeline.published or _NEVER


def _step(event: RequestAccepted | RequestAssigned | RequestUpdated) -> Step | None:
    if isinstance(event, RequestAccepted):
        return Step.ACCEPTED
    if isinstance(event, RequestAssigned):
        return Step.ASSIGNED
    return _STEP_OF_STATUS.get(event.data.status)


def _language(applicant: Applicant, agency: str, jurisdiction: Jurisdiction) -> Language:
    known_agency = jurisdiction.agencies.get(agency)
    return applicant.language or (known_agency and known_agency.language) or jurisdiction.default_language


def _contacts(applicant: Applicant, jurisdiction: Jurisdiction) -> dict[Channel, str]:
    """How the citizen can be told, the best way first: their wish if it can be met, then SMS to a mobile phone."""
    contacts: dict[Channel, str] = {}
    if applicant.phone and takes_sms(applicant.phone, jurisdiction.phone_region, jurisdiction.mobile_prefixes):
        contacts[Channel.SMS] = applicant.phone
    if applicant.email:
        contacts[Channel.EMAIL] = applicant.email
    return dict(sorted(contacts.items(), key=lambda contact: contact[0] is not applicant.channel))


def _alternative(
    event: RequestAccepted | RequestAssigned | RequestUpdated, contacts: Mapping[Channel, str]
) -> Alternative | None:
    """The second way to tell the citizen, if there is one."""
    for channel in list(contacts)[1:]:
        return Alternative(recipient=contacts[channel], note=_note(event, channel))
    return None


@lru_cache(maxsize=4096)  # every citizen is told several times, and a look-up takes 0.1 ms
def takes_sms(phone: str, region: str, mobile_prefixes: tuple[str, ...]) -> bool:
    """Whether a phone in E.164 is a mobile one, by its numbering plan and, at home, by the prefixes given.

    Some plans, as North America's, do not tell mobile from fixed; there every number may be a mobile one.
    """
    home = f"+{phonenumbers.country_code_for_region(region)}"
    if mobile_prefixes and phone.startswith(home):
        return phone.startswith(mobile_prefixes, len(home))
    try:
        number = phonenumbers.parse(phone, None)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.number_type(number) in (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE)


def _why_unreachable(event: RequestAccepted | RequestAssigned | RequestUpdated) -> str:
    return "not_a_mobile_phone" if event.data.request.applicant.phone else "no_contact"


def _personalisation(
    event: RequestAccepted | RequestAssigned | RequestUpdated,
    channel: Channel | None,
    language: Language,
    jurisdiction: Jurisdiction,
) -> dict[str, str]:
    """The values of the template's fields, in the citizen's language."""
    request = event.data.request
    service = jurisdiction.services.get(request.service_code)
    values = {
        "reference": request.reference,
        "service": service.name_in(language) if service else _UNLISTED_SERVICE[language],
    }
    if isinstance(event, RequestAssigned):
        values |= {"office": event.data.office.name, "due_date": format_date(event.data.due, language)}
    if note := _note(event, channel):
        values["note"] = note
    return values


def _note(event: RequestAccepted | RequestAssigned | RequestUpdated, channel: Channel | None) -> str | None:
    """What the office adds by its own hand. It is personal: it never goes by SMS."""
    return event.data.note if isinstance(event, RequestUpdated) and channel is Channel.EMAIL else None


def format_date(day: date, language: Language) -> str:
    """A date as the language writes it, in Latin digits; the month in words where figures could mean two days."""
    if language is Language.ENGLISH:
        return f"{day.day} {calendar.month_name[day.month]} {day.year}"
    return f"{day:%d/%m/%Y}"


def may_take(notification: Notification, providers: Collection[str], *, template: str | None = None) -> list[str]:
    """Those of a channel's providers that may be given it now.

    One that has taken parts of the text keeps the rest: a citizen can't read parts from two. Else none that declined
    it, and none that said "later" in this round. `template`: the version in which it would be written.
    """
    if notification.provider_references and template in (None, notification.template):
        return [name for name in providers if name == notification.provider]
    return [name for name in providers if name not in notification.declined and name not in notification.tried]


def begin(notification: Notification, *, template: str, segments: int, provider: str) -> Notification:
    """It is about to be handed to the provider; this has to be durable first.

    Where some parts were accepted before and the template has changed since, all parts are sent anew.
    """
    _require(notification, State.PLANNED, becoming=State.SENDING)
    same_text = notification.template == template
    return replace(
        notification,
        status=State.SENDING,
        attempts=notification.attempts + 1,
        template=template,
        segments=segments,
        provider=provider,
        provider_references=notification.provider_references if same_text else (),
    )


def sent(notification: Notification, now: datetime, *, references: tuple[str, ...] = ()) -> Notification:
    """The provider has taken it over."""
    _require(notification, State.SENDING, becoming=State.SENT)
    return _concluded(
        notification,
        State.SENT,
        now,
        timeline=notification.timeline.at(sent=now),
        provider_references=references,
    )


def refused(notification: Notification, now: datetime, *, reason: str) -> Notification:
    """No provider of the channel will ever take it, or it can't be written at all, or the channel had its time."""
    _require(notification, State.SENDING, State.PLANNED, becoming=State.FAILED)
    return _failed(notification, now, reason=reason)


def declined(
    notification: Notification,
    now: datetime,
    *,
    reason: str,
    providers: Collection[str],
    references: tuple[str, ...] = (),
) -> Notification:
    """This provider will never take it, for a reason of its own: planned anew for those that may, or failed.

    `references`: parts it has taken nevertheless; then no other may.
    """
    _require(notification, State.SENDING, becoming=State.PLANNED)
    without = replace(notification, declined=(*notification.declined, notification.provider), reason=reason)
    if references or not any(name not in without.declined for name in providers):
        return _failed(without, now, reason=reason)
    return replace(without, status=State.PLANNED, not_before=now)


def switched(notification: Notification, now: datetime, *, reason: str) -> Notification:
    """The provider did not take it now: planned anew, at once, for the others of this round."""
    _require(notification, State.SENDING, becoming=State.PLANNED)
    return replace(
        notification,
        status=State.PLANNED,
        not_before=now,
        tried=(*notification.tried, notification.provider),
        reason=reason,
    )


def held_back(notification: Notification, until: datetime) -> Notification:
    """Those that may take it have no room just now: it stays in its round."""
    _require(notification, State.PLANNED, becoming=State.PLANNED)
    return replace(notification, not_before=until)


def postponed(
    notification: Notification,
    now: datetime,
    *,
    reason: str,
    retry_after: timedelta | None = None,
    references: tuple[str, ...] = (),
) -> Notification:
    """Nobody takes it now: planned for a new round, or failed when there is no more time.

    `references`: parts accepted.
    """
    _require(notification, State.SENDING, State.PLANNED, becoming=State.PLANNED)
    tried = replace(notification, provider_references=references, reason=reason, tried=())
    moment = next_attempt(notification.id, since=notification.waiting_since, now=now, wish=retry_after)
    if moment is None:
        return _failed(tried, now, reason="retries_exhausted")
    return replace(tried, status=State.PLANNED, not_before=moment)


def lost_sight(
    notification: Notification,
    now: datetime,
    *,
    reason: str,
    window: timedelta,
    references: tuple[str, ...] = (),
) -> Notification:
    """It was handed over, or may have been, and no answer came: until the window has ended, only a receipt can tell."""
    _require(notification, State.SENDING, becoming=State.UNKNOWN)
    unknowns = notification.unknowns + 1
    again = notification.policy is Policy.AT_LEAST_ONCE and unknowns < UNKNOWNS_MAX
    return _concluded(
        notification,
        State.UNKNOWN,
        now,
        reason=reason,
        provider_references=references or notification.provider_references,
        unknowns=unknowns,
        unknown_since=now,
        resend_at=now + window if again else None,
    )


def to_be_sent_again(notification: Notification, now: datetime) -> bool:
    """Whether it is unknown, all is told of that, and its receipt window has ended."""
    due = notification.resend_at
    return notification.status is State.UNKNOWN and not notification.untold and due is not None and due <= now


def sent_again(notification: Notification, now: datetime) -> Notification:
    """The window has ended, no receipt came, and the citizen is to be told at least once: planned anew, for anybody."""
    _require(notification, State.UNKNOWN, becoming=State.PLANNED)
    return replace(
        notification,
        status=State.PLANNED,
        not_before=now,
        since=now,
        tried=(),
        provider_references=(),
        delivered_references=(),
        superseded=notification.attempts,
        resend_at=None,
    )


def takes_receipts(notification: Notification) -> bool:
    """False while it is being sent, and before it ever was: a receipt that comes so early has to come again."""
    if notification.status is State.PLANNED:
        return notification.superseded > 0
    return notification.status is not State.SENDING


def receipted(
    notification: Notification, now: datetime, *, reference: str, attempt: int, failure: str | None = None
) -> Notification:
    """A receipt came for one part: delivered when all parts are, failed with the first that is.

    Where it changes nothing, the very same notification is returned: once delivered or failed, or if what it says of an
    earlier copy is not that the citizen has all of it. WrongState if it takes no receipts yet. `attempt`: the one that
    the receipt is for.
    """
    if not takes_receipts(notification):
        raise WrongState(notification, State.FAILED if failure else State.DELIVERED)
    if notification.status in _FINAL or reference in notification.delivered_references:
        return notification
    if attempt <= notification.superseded and (failure is not None or notification.segments > 1):
        return notification
    if failure is not None:
        return _failed(notification, now, reason=failure)
    delivered = (*notification.delivered_references, reference)
    if len(delivered) < notification.segments:
        return replace(notification, delivered_references=delivered)
    # A receipt can be read before the reply that it follows: nothing is delivered before it was sent.
    moment = max(now, notification.timeline.sent or now)
    return _concluded(
        notification,
        State.DELIVERED,
        moment,
        timeline=notification.timeline.at(delivered=moment),
        delivered_references=delivered,
    )


def had_its_time(notification: Notification, now: datetime, *, after: timedelta) -> bool:
    """Whether a citizen who can be told otherwise has waited so long for this channel that it is given up."""
    return (
        notification.status is State.PLANNED
        and notification.alternative is not None
        and now - notification.waiting_since >= after
    )


def fallback(notification: Notification, now: datetime) -> Notification:
    """What follows a failed one on the other channel; always under the same id. It has no alternative in its turn."""
    if notification.channel is None or notification.alternative is None:
        raise ValueError(f"notification {notification.id} has no other channel")
    channel, instead = _OTHER[notification.channel], notification.alternative
    values = {name: value for name, value in notification.personalisation.items() if name != "note"}
    return Notification(
        id=notification_id(notification.cause, notification.step, channel, _caused(notification.timeline)),
        cause=notification.cause,
        request_id=notification.request_id,
        reference=notification.reference,
        agency=notification.agency,
        service_code=notification.service_code,
        step=notification.step,
        channel=channel,
        language=notification.language,
        template=notification.template,
        recipient=instead.recipient,
        personalisation=values | ({"note": instead.note} if instead.note else {}),
        status=State.PLANNED,
        not_before=now,
        since=now,
        policy=notification.policy,
        fallback_of=notification.id,
        # It was planned when the first was: what the citizen waits since then is waiting to be sent.
        timeline=replace(notification.timeline, sent=None, delivered=None),
    )


def published(notification: Notification) -> Notification:
    """What its outbox held is on its topic, and the fallback it owed is planned."""
    return replace(notification, outbox=(), owes_fallback=False)


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


def _failed(notification: Notification, now: datetime, reason: str) -> Notification:
    owes_fallback = notification.alternative is not None
    return _concluded(notification, State.FAILED, now, reason=reason, owes_fallback=owes_fallback)


def _concluded(
    notification: Notification,
    state: State,
    now: datetime,
    *,
    reason: str | None = None,
    timeline: Timeline | None = None,
    **also: Any,
) -> Notification:
    """The notification in a state that is told to others, with its outcome event in the outbox, once per status.

    `also`: what else changes, of which the outcome says nothing.
    """
    status = NotificationStatus(state)
    timeline = timeline or notification.timeline
    if status in notification.announced:
        return replace(notification, status=state, reason=reason, timeline=timeline, **also)
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
            fallback_of=notification.fallback_of,
            timeline=timeline,
        ),
    )
    return replace(
        notification,
        status=state,
        reason=reason,
        timeline=timeline,
        announced=(*notification.announced, status),
        outbox=(*notification.outbox, outcome.to_json().decode()),
        **also,
    )
