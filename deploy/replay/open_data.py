"""Municipal open data on service requests, as St. Louis and New York publish it, read as a replay.

Columns are found by name, in any order, and their case, spaces and underscores do not matter. Each receiving office
is an agency and sends its own requests.
"""

import csv
import io
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from statistics import median_low
from typing import Any
from zoneinfo import ZoneInfo

import holidays

from deploy.replay.naming import code, one_line, slug
from deploy.replay.people import UNITED_STATES, citizen_of, door_of
from deploy.replay.steps import Catalogue, Kind, Promise, Replay, RowProblem, SourceError, Step, cloud_event
from shared.contract.events import Language, Status
from shared.ids import event_id

EARLIEST_YEAR = 1970
LATEST_YEAR = 2100
DEFAULT_PROMISE_DAYS = 10
LONGEST_PROMISE_DAYS = 2500

NO_OFFICE = "No office named"
"""Sends the requests that name no office. It promises nothing: other offices' rules take them, or nobody's do."""

_US_DATE = re.compile(
    r"(\d{1,2})/(\d{1,2})/(\d{4})(?:[ T]+(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?\s*([AP]M)?)?", re.IGNORECASE
)
_OFFICE_EXTENSION = re.compile(r"\s*,[\s\d-]*$")  # St. Louis writes a comma behind the office, and its telephone


@dataclass(frozen=True, slots=True)
class Layout:
    """How a city publishes requests. Every part names its columns; the first that is there and not empty counts.

    `statuses` are parts that hold a date, and what happened then; among equal dates their order decides.
    """

    city: str
    timezone: ZoneInfo
    columns: Mapping[str, Sequence[str]]
    attributes: Mapping[str, Sequence[str]]
    statuses: Sequence[tuple[str, Status]]


ESSENTIAL = ("reference", "opened", "service", "office")
"""Parts without whose columns a file can't be read."""

ST_LOUIS = Layout(
    city="St. Louis",
    timezone=ZoneInfo("America/Chicago"),
    columns={
        "reference": ("REQUESTID",),
        "opened": ("DATETIMEINIT",),
        "service": ("PROBLEMCODE",),
        "service_name": ("PLAIN_ENGLISH_NAME_FOR_PROBLEMCODE", "PROBLEMCODE"),
        "office": ("SUBMITTO",),
        "description": ("PLAIN_ENGLISH_NAME_FOR_PROBLEMCODE", "DESCRIPTION"),
        "promised": ("PRJCOMPLETEDATE",),
        "begun": ("DATEINVTDONE",),
        "cancelled": ("DATECANCELLED",),
        "closed": ("DATETIMECLOSED",),
        "address": ("PROBADDRESS",),
        "zone": ("WARD",),
    },
    attributes={
        "group": ("GROUP",),
        "neighborhood": ("NEIGHBORHOOD",),
        "postal_code": ("PROBZIP",),
        "caller_type": ("CALLERTYPE",),
    },
    statuses=(("begun", Status.IN_PROGRESS), ("cancelled", Status.CANCELLED), ("closed", Status.RESOLVED)),
)
_PROBLEM = ("Complaint Type", "Problem (formerly Complaint Type)", "Problem")
_DETAIL = ("Descriptor", "Problem Detail (formerly Descriptor)", "Problem Detail")
NEW_YORK = Layout(
    city="New York",
    timezone=ZoneInfo("America/New_York"),
    columns={
        "reference": ("Unique Key",),
        "opened": ("Created Date",),
        "service": _PROBLEM,
        "service_name": _PROBLEM,
        "office": ("Agency",),
        "description": _DETAIL,
        "promised": ("Due Date",),
        "closed": ("Closed Date",),
        "note": ("Resolution Description",),
        "address": ("Incident Address",),
        "zone": ("Borough",),
        "latitude": ("Latitude",),
        "longitude": ("Longitude",),
    },
    attributes={
        "location_type": ("Location Type",),
        "postal_code": ("Incident Zip",),
        "channel": ("Open Data Channel Type",),
    },
    statuses=(("closed", Status.RESOLVED),),
)
LAYOUTS = (ST_LOUIS, NEW_YORK)


def read_open_data(text: str, name: str, *, now: datetime) -> Replay:
    """The replay of a CSV file; SourceError if it lacks an essential column or holds no request.

    Rows without a reference or a date are dropped and told with their line. A further row of a request sends its
    first row's submission again, and what it says of the request's progress counts with the rest.
    """
    first_line = re.search(r"[^\r\n]+", text)
    delimiter = max(",;\t|", key=(first_line[0] if first_line else "").count)
    rows = _rows(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    header = next((row for _, row in rows if isinstance(row, list)), [])
    layout = _layout(header, name)
    fields_of = _Reader(layout, header)
    book = _Book(layout, now)
    for line, row in rows:
        if isinstance(row, csv.Error):
            book.problems.append(RowProblem(line, f"is no CSV: {row}"))
        elif len(row) > len(header) and any(cell.strip() for cell in row[len(header) :]):
            book.problems.append(RowProblem(line, f"has {len(row)} fields, but the header has {len(header)}"))
        else:
            book.take(line, fields_of(row))
    if not book.requests:
        first = f": line {book.problems[0].line} {book.problems[0].what}" if book.problems else ""
        raise SourceError(f"{name} holds no request that could be replayed{first}.")
    return Replay(name, book.catalogue(), book.steps(), book.problems)


def utc_moment(written: str, timezone: ZoneInfo) -> datetime:
    """The moment that a local date, with or without a time, names, in UTC; ValueError if it names none.

    In the hour that the clock skips in spring it counts as if the clock had not been put on; in the hour that comes
    twice in autumn it is the first one.
    """
    if match := _US_DATE.fullmatch(written):
        month, day, year, hour, minute, second = (int(group or 0) for group in match.groups()[:6])
        if half := match[7]:
            if not 1 <= hour <= 12:
                raise ValueError(f"{hour} is no hour of a clock with twelve")
            hour = hour % 12 + (12 if half.upper() == "PM" else 0)
        moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone)
    else:
        moment = datetime.fromisoformat(written)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone)
    if not EARLIEST_YEAR <= moment.year <= LATEST_YEAR:
        raise ValueError(f"the year {moment.year} is not one of the mesh's")
    return moment.astimezone(UTC)


def _rows(reader: Any) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Rows that are not blank, with the line on which each begins."""
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, error
        else:
            if any(cell.strip() for cell in row):
                yield line, row


def _column_key(name: str) -> str:
    """What column names are compared by: `Unique Key`, `unique_key` and `UNIQUEKEY` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _layout(header: Sequence[str], name: str) -> Layout:
    present = {_column_key(column) for column in header}

    def missing(layout: Layout) -> list[str]:
        essential = [layout.columns[part] for part in ESSENTIAL]
        return [columns[0] for columns in essential if present.isdisjoint(map(_column_key, columns))]

    layout = min(LAYOUTS, key=lambda candidate: len(missing(candidate)))
    lacking = missing(layout)
    if len(lacking) == len(ESSENTIAL):
        known = "; ".join(f"{city.city} has {', '.join(missing(city))}" for city in LAYOUTS)
        raise SourceError(f"{name} has no column that tells of a request: {known}.")
    if lacking:
        columns = "the columns" if len(lacking) > 1 else "the column"
        raise SourceError(f"{name} reads like {layout.city}'s requests, but lacks {columns} {', '.join(lacking)}.")
    return layout


Fields = Mapping[str, str]
"""The parts of a row that are not empty; attributes under `attribute.<name>`."""


class _Reader:
    """Finds a layout's parts in rows, wherever the columns stand."""

    def __init__(self, layout: Layout, header: Sequence[str]) -> None:
        places: dict[str, int] = {}
        for index, column in enumerate(header):
            places.setdefault(_column_key(column), index)
        wanted = {**layout.columns, **{f"attribute.{name}": names for name, names in layout.attributes.items()}}
        self._places = {
            part: [places[key] for key in map(_column_key, columns) if key in places]
            for part, columns in wanted.items()
        }

    def __call__(self, row: Sequence[str]) -> Fields:
        fields = {}
        for part, places in self._places.items():
            cells = (row[place].strip() for place in places if place < len(row))
            if cell := next(filter(None, cells), None):
                fields[part] = cell
        return fields


@dataclass(frozen=True, slots=True)
class _Change:
    at: datetime
    rank: int
    status: Status
    note: str | None


@dataclass(slots=True)
class _Request:
    """A request as its rows tell of it. `row` is its first, `repeats` are the others."""

    submission: Step
    row: int
    repeats: list[int] = field(default_factory=list)
    changes: list[_Change] = field(default_factory=list)

    def steps(self) -> Iterator[tuple[int, Step]]:
        """What its agency says of it, in order, with the row that places it among others of the same moment."""
        yield self.row, self.submission
        for repeat in self.repeats:
            yield repeat, replace(self.submission, duplicate=True)
        for step in self._progress():
            yield max((self.row, *self.repeats)), step

    def _progress(self) -> Iterator[Step]:
        """Its changes, each status once, nothing before the submission and nothing after the end."""
        agency, reference, opened = self.submission.agency, self.submission.agency_reference, self.submission.at
        told: set[Status] = set()
        for change in sorted(self.changes, key=lambda change: (max(change.at, opened), change.rank)):
            if change.status in told:
                continue
            told.add(change.status)
            at = max(change.at, opened)
            data = {"agency_reference": reference, "status": change.status.value}
            if change.note and change.status.is_terminal:
                data["note"] = change.note
            named = event_id(f"{agency}/{reference}/{change.status}/{at.isoformat()}", Kind.STATUS_CHANGED)
            event = cloud_event(agency, named, Kind.STATUS_CHANGED, at, data)
            yield Step(at, agency, event, self.submission.door, Kind.STATUS_CHANGED)
            if change.status.is_terminal:
                return


class _Book:
    """The requests of a file, gathered row by row."""

    def __init__(self, layout: Layout, now: datetime) -> None:
        self.requests: dict[tuple[str, str], _Request] = {}
        self.problems: list[RowProblem] = []
        self._layout = layout
        self._now = now
        self._rows = 0
        self._agencies: dict[str, str] = {}
        self._services: dict[str, str] = {}
        self._asked: Counter[tuple[str, str]] = Counter()
        self._promises = _Promises(last_year=now.year + 10)

    def take(self, line: int, fields: Fields) -> None:
        """Read a row."""
        for part in ("reference", "opened"):
            if part not in fields:
                self._refuse(line, f"has no {self._layout.columns[part][0]}", dropped=True)
                return
        opened = self._moment(line, fields, "opened", dropped=True)
        if opened is None:
            return
        self._rows += 1
        office = _OFFICE_EXTENSION.sub("", fields.get("office", "")) or NO_OFFICE
        key = (slug(office), code(fields["reference"]))
        if standing := self.requests.get(key):
            standing.repeats.append(self._rows)
        else:
            self.requests[key] = _Request(self._submission(*key, opened, fields), self._rows)
            self._note(line, office, opened, fields)
        self.requests[key].changes.extend(self._changes(line, fields))

    def steps(self) -> list[Step]:
        """All that agencies say, in order."""
        placed = [
            (step.at, row, index, step)
            for request in self.requests.values()
            for index, (row, step) in enumerate(request.steps())
        ]
        placed.sort(key=lambda place: place[:3])
        return [step for *_, step in placed]

    def catalogue(self) -> Catalogue:
        """The city, as far as its requests tell."""
        nobody = slug(NO_OFFICE)
        asked = [(agency, service) for agency, service in sorted(self._asked) if agency != nobody]
        promises = [Promise(agency, service, self._promises.days(agency, service), agency) for agency, service in asked]
        if nobody in self._agencies:
            usual = {service: agency for agency, service in sorted(asked, key=lambda pair: self._asked[pair])}
            promises += [
                Promise(office, service, self._promises.days(office, service)) for service, office in usual.items()
            ]
        return Catalogue(
            name=self._layout.city,
            timezone=self._layout.timezone.key,
            phone_region="US",
            default_language=Language.ENGLISH,
            sms_sender=re.sub(r"[^A-Za-z]", "", self._layout.city)[:11],
            weekend=("saturday", "sunday"),
            country="US",
            agencies=self._agencies,
            services=self._services,
            promises=promises,
        )

    def _submission(self, agency: str, reference: str, opened: datetime, fields: Fields) -> Step:
        data: dict[str, Any] = {
            "agency_reference": reference,
            "service_code": _service(fields),
            "applicant": citizen_of(agency, reference, UNITED_STATES).as_applicant(),
        }
        if description := one_line(fields.get("description", ""), 4000):
            data["description"] = description
        if place := _place(fields):
            data["place"] = place
        attributes = {name: one_line(fields.get(f"attribute.{name}", ""), 500) for name in self._layout.attributes}
        if any(attributes.values()):
            data["attributes"] = {name: value for name, value in attributes.items() if value}
        named = event_id(f"{agency}/{reference}", Kind.SUBMITTED)
        event = cloud_event(agency, named, Kind.SUBMITTED, opened, data)
        return Step(opened, agency, event, door_of(agency, reference), Kind.SUBMITTED)

    def _note(self, line: int, office: str, opened: datetime, fields: Fields) -> None:
        """Remember what the row says of the city: its offices, services and promises."""
        agency, service = slug(office), _service(fields)
        self._agencies.setdefault(agency, one_line(office, 200))
        self._services.setdefault(service, one_line(fields.get("service_name", service), 200))
        self._asked[agency, service] += 1
        promised = self._moment(line, fields, "promised", may_come=True)
        if promised and promised >= opened:
            zone = self._layout.timezone
            self._promises.add(agency, service, opened.astimezone(zone).date(), promised.astimezone(zone).date())

    def _changes(self, line: int, fields: Fields) -> Iterator[_Change]:
        for rank, (part, status) in enumerate(self._layout.statuses):
            if at := self._moment(line, fields, part):
                yield _Change(at, rank, status, one_line(fields.get("note", ""), 500) or None)

    def _moment(
        self, line: int, fields: Fields, part: str, *, dropped: bool = False, may_come: bool = False
    ) -> datetime | None:
        written = fields.get(part)
        if written is None:
            return None
        shown = f"{self._layout.columns[part][0]} {one_line(written, 40)!r}"
        try:
            moment = utc_moment(written, self._layout.timezone)
        except ValueError:
            self._refuse(line, f"{shown} is no date", dropped=dropped)
            return None
        if moment > self._now and not may_come:
            self._refuse(line, f"{shown} lies in the future", dropped=dropped)
            return None
        return moment

    def _refuse(self, line: int, what: str, *, dropped: bool) -> None:
        self.problems.append(RowProblem(line, what, dropped))


def _service(fields: Fields) -> str:
    return slug(fields.get("service", "general"))


def _place(fields: Fields) -> dict[str, Any]:
    place: dict[str, Any] = {}
    if address := one_line(fields.get("address", ""), 300):
        place["address"] = address
    zone = one_line(fields.get("zone", ""), 64)
    if zone and zone.lower() != "unspecified":
        place["zone"] = zone
    return place | _degrees(fields)


def _degrees(fields: Fields) -> dict[str, float]:
    """Latitude and longitude, both or none."""
    try:
        latitude, longitude = float(fields["latitude"]), float(fields["longitude"])
    except (KeyError, ValueError):
        return {}
    return {"latitude": latitude, "longitude": longitude} if abs(latitude) <= 90 and abs(longitude) <= 180 else {}


class _Promises:
    """How many working days offices usually promise."""

    def __init__(self, last_year: int) -> None:
        years = range(EARLIEST_YEAR, last_year + 1)
        self._holidays = sorted(day for day in holidays.country_holidays("US", years=years) if day.weekday() < 5)
        self._by_service: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._by_agency: dict[str, list[int]] = defaultdict(list)
        self._all: list[int] = []

    def add(self, agency: str, service: str, opened: date, promised: date) -> None:
        """Take note of one promise."""
        days = self._working_days(opened, promised)
        for promises in (self._by_service[agency, service], self._by_agency[agency], self._all):
            promises.append(days)

    def days(self, agency: str, service: str) -> int:
        """The median promise for the service, without one the agency's, without any the city's."""
        promises = self._by_service.get((agency, service)) or self._by_agency.get(agency) or self._all
        return min(median_low(promises), LONGEST_PROMISE_DAYS) if promises else DEFAULT_PROMISE_DAYS

    def _working_days(self, first: date, last: date) -> int:
        """Working days after the first day up to and with the last."""
        weeks, rest = divmod((last - first).days, 7)
        weekdays = weeks * 5 + sum((first + timedelta(days=day)).weekday() < 5 for day in range(1, rest + 1))
        return weekdays - (bisect_right(self._holidays, last) - bisect_right(self._holidays, first))
