"""Service requests of a country like Djibouti, made from a seed: the same seed gives the same bytes.

Shares, delays and hours are those of real requests: City of St. Louis, Citizens' Service Bureau, 2009 to 2011, 4,245
requests. Each agency of Djibouti's jurisdiction stands in for one of its offices; the week is Sunday to Thursday.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from random import Random
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from deploy.jurisdictions import DJIBOUTI as JURISDICTION
from deploy.replay.people import DJIBOUTI, citizen_of, door_of
from deploy.replay.steps import Kind, Replay, Step, cloud_event
from shared.contract.events import Status
from shared.ids import event_id

T = TypeVar("T")

DEFAULT_COUNT = 2_000
DEFAULT_SEED = 7


FIRST_DAY = date(2023, 1, 1)  # a Sunday
WEEKS = 52
AS_OF = datetime(2025, 1, 1, tzinfo=UTC)
"""When the year's requests were looked at: what would have happened later is still open."""

CANCELLED_SHARE = 0.056
DUPLICATE_SHARE = 0.042
INVALID_SHARE = 0.01
WAITING_SHARE = 0.05

_TIMEZONE = ZoneInfo("Africa/Djibouti")
_WEEKDAYS = dict(zip(range(7), (0.21, 0.20, 0.20, 0.194, 0.18, 0.008, 0.008), strict=True))  # from Sunday
_HOURS = {7: 2, 8: 9, 9: 14, 10: 15, 11: 13, 12: 10, 13: 6, 14: 10, 15: 9, 16: 8, 17: 3, 20: 1}
_ZONES = {
    "Balbala": 30, "Boulaos": 24, "Plateau": 12, "Hodan": 6, "PK12": 4, "Ambouli": 4, "Einguela": 3, "Doraleh": 2,
    "Ali Sabieh": 5, "Dikhil": 4, "Tadjourah": 3, "Arta": 2, "Obock": 1,
}  # fmt: skip
_TAKEN_BY = {"counter": 60, "phone": 20, "web": 20}


@dataclass(frozen=True, slots=True)
class Profile:
    """How an agency's requests come and go: its share of all requests, its services with their weights, and days
    from opening to closing. `late` is the share that closes more than a day after `promised_days`."""

    agency: str
    requests: int
    services: Mapping[str, float]
    days_p10: float
    days_p50: float
    days_p90: float
    promised_days: float
    late: float

    def days_to_close(self, quantile: float) -> float:
        """The delay that this share of requests does not exceed: log-linear between the figures known."""
        points = sorted(
            {
                0.0: self.days_p10 / 5,
                0.1: self.days_p10,
                0.5: self.days_p50,
                1 - self.late: self.promised_days + 1,
                0.9: self.days_p90,
                1.0: self.days_p90 * 1.5,
            }.items()
        )
        shares = [share for share, _ in points]
        logs = list(accumulate((math.log(days) for _, days in points), max))
        index = min(bisect_right(shares, quantile), len(points) - 1)
        low, high = shares[index - 1], shares[index]
        return math.exp(logs[index - 1] + (logs[index] - logs[index - 1]) * (quantile - low) / (high - low))


PROFILES = (
    Profile(
        "etat-civil",
        2874,
        {
            "national-id-card": 34, "birth-certificate": 22, "passport": 20, "residence-certificate": 9,
            "family-record-book": 5, "marriage-certificate": 4, "birth-registration": 4, "death-certificate": 2,
        },
        0.02, 13.1, 799, 19.6, 0.38,
    ),
    Profile("habitat", 443, {"social-housing": 70, "building-permit": 18, "land-title": 12}, 1.1, 264, 737, 263, 0.49),
    Profile("voirie", 197, {"waste-collection": 60, "pothole": 32, "street-light": 8}, 2.2, 7.8, 203, 6.5, 0.55),
    Profile("onead", 171, {"water-leak": 35, "water-bill": 30, "water-connection": 25, "sewer-blockage": 10},
            4.0, 10.9, 147, 19.6, 0.26),
    Profile("cnss", 105, {"health-insurance-card": 50, "family-allowance": 25, "pension-claim": 20,
                          "employer-registration": 5}, 1.8, 678, 4764, 9.6, 0.67),
    Profile("edd", 96, {"power-outage": 50, "electricity-bill": 30, "electricity-connection": 20},
            0.1, 1.8, 8.4, 4.7, 0.11),
    Profile("sante", 65, {"vaccination-card": 65, "medical-aid": 20, "health-insurance-card": 15},
            5.9, 678, 2069, 19.6, 0.68),
    Profile("transports", 54, {"driving-licence": 65, "vehicle-registration": 35}, 1.4, 3.4, 2558, 6.0, 0.19),
    Profile("impots", 39, {"tax-number": 45, "tax-clearance": 35, "business-licence": 20}, 1.3, 5.5, 12.5, 10.5, 0.10),
)  # fmt: skip
"""In the figures' order: FORESTRY, NST, REFUSE, BUILDING DIV, ANIMAL CARE, TRAFFIC DIVISION, COMM SANITATION,
STREET DEPT, STREET DIVISION. A p10 of nothing is half an hour."""


def generate(count: int = DEFAULT_COUNT, seed: int = DEFAULT_SEED) -> Replay:
    """A year of requests: `count` submissions, what happened to them since, some told twice, some not to be taken."""
    rng = Random(seed)  # noqa: S311 (nothing here is secret)
    shares = {index: profile.requests for index, profile in enumerate(PROFILES)}
    requests = sorted((_opening(rng), number, _draw(rng, shares)) for number in range(count))
    placed: list[tuple[datetime, int, int, Step]] = []
    for serial, (opened, _, index) in enumerate(requests, start=1):
        profile = PROFILES[index]
        steps = _steps(rng, profile, f"{profile.agency.upper()}-{seed}-{serial:05d}", opened)
        placed.extend((step.at, serial, order, step) for order, step in enumerate(steps))
    placed.sort(key=lambda place: place[:3])
    return Replay(f"generated, seed {seed}", JURISDICTION, [step for *_, step in placed], seed=seed)


def _opening(rng: Random) -> datetime:
    days = timedelta(weeks=int(rng.random() * WEEKS), days=_draw(rng, _WEEKDAYS))
    local = datetime(FIRST_DAY.year, FIRST_DAY.month, FIRST_DAY.day, _draw(rng, _HOURS), tzinfo=_TIMEZONE) + days
    return local.astimezone(UTC) + timedelta(seconds=int(rng.random() * 3600))


def _steps(rng: Random, profile: Profile, reference: str, opened: datetime) -> Iterator[Step]:
    submission = _submission(rng, profile, reference, opened)
    if rng.random() < INVALID_SHARE:
        yield _spoilt(rng, submission)
        return
    yield submission
    if rng.random() < DUPLICATE_SHARE:
        # An agency that got no answer asks again soon.
        yield replace(submission, at=opened + timedelta(seconds=1 + int(rng.random() * 60)), duplicate=True)
    for at, status in _progress(rng, profile, opened):
        if at > AS_OF:
            return
        named = event_id(f"{profile.agency}/{reference}/{status}", Kind.STATUS_CHANGED)
        data = {"agency_reference": reference, "status": status.value}
        event = cloud_event(profile.agency, named, Kind.STATUS_CHANGED, at, data)
        yield Step(at, profile.agency, event, submission.door, Kind.STATUS_CHANGED)


def _submission(rng: Random, profile: Profile, reference: str, opened: datetime) -> Step:
    service = _draw(rng, profile.services)
    attributes: dict[str, Any] = {"taken_by": _draw(rng, _TAKEN_BY)}
    if service == "passport" and rng.random() < 0.1:
        attributes["urgent"] = True
    if service == "power-outage" and rng.random() < 0.1:
        attributes["site"] = "hospital"
    data = {
        "agency_reference": reference,
        "service_code": service,
        "applicant": citizen_of(profile.agency, reference, DJIBOUTI).as_applicant(),
        "place": {"zone": _draw(rng, _ZONES)},
        "attributes": attributes,
    }
    named = event_id(f"{profile.agency}/{reference}", Kind.SUBMITTED)
    event = cloud_event(profile.agency, named, Kind.SUBMITTED, opened, data)
    return Step(opened, profile.agency, event, door_of(profile.agency, reference), Kind.SUBMITTED)


def _progress(rng: Random, profile: Profile, opened: datetime) -> Iterator[tuple[datetime, Status]]:
    """What happens to a request after it was opened, in order."""
    whole = timedelta(days=profile.days_to_close(rng.random()))
    begun, waiting = sorted((rng.random(), rng.random()))
    if rng.random() < CANCELLED_SHARE:
        yield _to_the_second(opened + whole * waiting), Status.CANCELLED
        return
    yield _to_the_second(opened + whole * begun), Status.IN_PROGRESS
    if rng.random() < WAITING_SHARE:
        yield _to_the_second(opened + whole * waiting), Status.WAITING_FOR_CITIZEN
    yield _to_the_second(opened + whole), Status.RESOLVED


def _to_the_second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def _spoilt(rng: Random, submission: Step) -> Step:
    """The submission with something in it for which the mesh has to refuse it."""
    event = dict(submission.event)
    data = dict(event["data"])
    match int(rng.random() * 3):
        case 0:
            data["applicant"] = {**data["applicant"], "phone": "12"}
        case 1:
            data["priority"] = "high"
        case _:
            event["time"] = "2999-01-01T00:00:00Z"
    return replace(submission, event={**event, "data": data}, expect_rejected=True)


def _draw(rng: Random, weights: Mapping[T, float]) -> T:
    names: Sequence[T] = list(weights)
    sums = list(accumulate(weights.values()))
    return names[bisect_right(sums, rng.random() * sums[-1])]
