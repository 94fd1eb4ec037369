"""Which office answers a request, and by when. Pure."""

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from unicodedata import normalize
from zoneinfo import ZoneInfo

from shared.contract.events import AttributeValue, Language, Office, RequestAcceptedData
from shared.contract.reasons import Reason


class Calendar:
    """The days on which a jurisdiction's offices work, in its own time zone, from 1970 to 2100."""

    FIRST_DAY = date(1970, 1, 1)
    LAST_DAY = date(2100, 12, 31)

    def __init__(self, timezone: ZoneInfo, *, weekend: Collection[int], holidays: Collection[date]) -> None:
        """`weekend` holds days of the week, Monday being 0."""
        self._timezone = timezone
        closed = {holiday.toordinal() for holiday in holidays}
        self._working_days = tuple(
            ordinal
            for ordinal in range(self.FIRST_DAY.toordinal(), self.LAST_DAY.toordinal() + 1)
            if ordinal not in closed and date.fromordinal(ordinal).weekday() not in weekend
        )

    def add_working_days(self, moment: datetime, days: int) -> date:
        """The local date `days` working days after the first working day on or after the moment's local date.

        ValueError if either lies outside the calendar.
        """
        day = self.day_of(moment)
        due = bisect_left(self._working_days, day.toordinal()) + days
        if day < self.FIRST_DAY or due >= len(self._working_days):
            raise ValueError(f"{days} working days from {day} is outside the calendar, 1970 to 2100")
        return date.fromordinal(self._working_days[due])

    def day_of(self, moment: datetime) -> date:
        """The local date at a moment."""
        return moment.astimezone(self._timezone).date()

    def end_of(self, day: date) -> datetime:
        """The midnight that ends a local date, in UTC."""
        return datetime.combine(day + timedelta(days=1), time(), self._timezone).astimezone(UTC)


AttributeKey = tuple[bool, AttributeValue]


def attribute_key(value: AttributeValue) -> AttributeKey:
    """What attribute values are compared by: in JSON `true` is not 1, as it is in Python, but 3 is 3.0."""
    return isinstance(value, bool), value


@lru_cache(maxsize=4096)
def zone_key(zone: str) -> str:
    """What zones are compared by: people write "Balbala" and "BALBALA ", and a file may be in another Unicode form."""
    return normalize("NFC", zone).strip().casefold()


@dataclass(frozen=True, slots=True)
class Condition:
    """What a request must be for a rule to apply: one of the values of each part. None: any."""

    services: frozenset[str] | None = None
    zones: frozenset[str] | None = None
    agencies: frozenset[str] | None = None
    languages: frozenset[Language] | None = None
    attributes: tuple[tuple[str, frozenset[AttributeKey]], ...] = ()

    def holds_for(self, request: RequestAcceptedData) -> bool:
        """Whether the request meets every part. One that lacks a zone or a language meets no condition on it."""
        card = request.request
        if self.services is not None and card.service_code not in self.services:
            return False
        if self.agencies is not None and card.agency not in self.agencies:
            return False
        if self.languages is not None and card.applicant.language not in self.languages:
            return False
        if self.zones is not None:
            zone = request.place.zone if request.place is not None else None
            if zone is None or zone_key(zone) not in self.zones:
                return False
        for name, values in self.attributes:
            value = request.attributes.get(name)
            if value is None or attribute_key(value) not in values:
                return False
        return True

    def covers(self, other: "Condition") -> bool:
        """Whether this holds wherever the other does."""
        mine, theirs = dict(self.attributes), dict(other.attributes)
        return (
            _covers(self.services, other.services)
            and _covers(self.zones, other.zones)
            and _covers(self.agencies, other.agencies)
            and _covers(self.languages, other.languages)
            and all(name in theirs and theirs[name] <= values for name, values in mine.items())
        )


def _covers(mine: frozenset[str] | None, theirs: frozenset[str] | None) -> bool:
    return mine is None or (theirs is not None and theirs <= mine)


@dataclass(frozen=True, slots=True)
class Rule:
    """Requests that meet `when` go to `office`, which promises an answer within so many working days."""

    id: str
    when: Condition
    office: Office
    promise_days: int


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that may apply to each service of the catalogue, in order. `version` names this set of rules."""

    version: str
    by_service: Mapping[str, Sequence[Rule]]

    def first_match(self, request: RequestAcceptedData) -> Rule | None:
        """The first rule whose condition holds; None if there is none, or the service is not in the catalogue."""
        for rule in self.by_service.get(request.request.service_code, ()):
            if rule.when.holds_for(request):
                return rule
        return None


@dataclass(frozen=True, slots=True)
class Assigned:
    """The office answers, by the due date; `rule` said so."""

    office: Office
    due: date
    rule: str


@dataclass(frozen=True, slots=True)
class Unroutable:
    """No office answers: a person has to look."""

    reason: Reason


def decide(request: RequestAcceptedData, rules: Rules, calendar: Calendar) -> Assigned | Unroutable:
    """The first rule that matches names the office; its promise, counted from submission, sets the due date."""
    card = request.request
    if card.service_code not in rules.by_service:
        return Unroutable(Reason.UNKNOWN_SERVICE)
    rule = rules.first_match(request)
    if rule is None:
        return Unroutable(Reason.NO_RULE)
    return Assigned(rule.office, calendar.add_working_days(card.submitted_at, rule.promise_days), rule.id)


# A batch is decided at one moment, and few dates are given in it.
@lru_cache(maxsize=256)
def overdue_from(due: date, assigned_at: datetime, calendar: Calendar) -> datetime:
    """From when on a request is overdue: the midnight that ends its due date, or the day on which it was assigned if
    that is later. What was published so late says on the same day what became of it."""
    return calendar.end_of(max(due, calendar.day_of(assigned_at)))
