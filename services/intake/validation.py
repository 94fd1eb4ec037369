"""From an agency's bytes to a valid event, or to every reason why not. Pure.

The same for every door. Nothing is repaired in silence: what passes is what was sent, save that a phone number is
written in E.164 and a mail domain in ASCII.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NoReturn

from msgspec import convert
from msgspec.json import Encoder
from pydantic import ValidationError

from services.intake.agency_event import EVENT_OF, AgencyEvent, Submission, with_contacts
from services.intake.contacts import e164, mail_address
from services.intake.plain import (
    COMBINING,
    EARLIEST_YEAR,
    FORBIDDEN,
    FUTURE_TOLERANCE,
    NotPlain,
    is_plain_text,
    plain_event,
    plain_json,
)
from shared.contract.agency import MAX_EVENT_BYTES, RequestSubmitted, StatusChanged
from shared.contract.events import Problem
from shared.contract.reasons import Reason

MAX_PROBLEMS = 20

_EVENTS: Mapping[str, type[RequestSubmitted] | type[StatusChanged]] = {
    RequestSubmitted.TYPE: RequestSubmitted,
    StatusChanged.TYPE: StatusChanged,
}
_EXTENSION_NAME = re.compile(r"[a-z0-9]+")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_VERSIONED_TYPE = re.compile(r"^(guichet\.request\.(?:submitted|status_changed))\.v[0-9-]+$")

# Multi-line texts may hold tabs and line ends; nothing else may.
_MULTILINE_FIELDS = frozenset({"data.description", "data.note"})
_FORBIDDEN = re.compile(f"[{FORBIDDEN}]")
_LINE_ENDS = re.compile("[\t\n\r]")
_COMBINING_PILE = re.compile(f"[{COMBINING}]{{9}}")

_REASONS = {
    "missing": Reason.MISSING_FIELD,
    "extra_forbidden": Reason.UNKNOWN_FIELD,
    "string_too_long": Reason.TOO_LONG,
    "too_long": Reason.TOO_MANY,
    "finite_number": Reason.NUMBER_OUT_OF_RANGE,
    "timezone_aware": Reason.INVALID_TIME,
    # Moment is the only type with a check of its own: that it can be told in UTC.
    "value_error": Reason.TIME_OUT_OF_RANGE,
}

_RFC3339_WANTED = "write it as RFC 3339: 2026-01-31T08:30:00Z"
_DETAILS = {
    "missing": "this field has to be there",
    "extra_forbidden": "the contract has no such field",
    "string_pattern_mismatch": "it is made of visible ASCII characters, without spaces",
    "timezone_aware": _RFC3339_WANTED,
}
"""What to say where the models' parser speaks of patterns and inputs; elsewhere it says it well."""

_ENCODER = Encoder()
_ENUM_MEMBER = re.compile(r"<\w+\.\w+: ('\w+')>")


class Refused(Exception):
    """Why an event can't be taken, with what could be read of it all the same."""

    def __init__(self, *problems: Problem, event_id: str | None = None, agency_reference: str | None = None) -> None:
        super().__init__("; ".join(f"{problem.reason} {problem.field or ''}" for problem in problems))
        self.problems = problems
        self.event_id = event_id
        self.agency_reference = agency_reference


def read_event(body: bytes, *, now: datetime, phone_region: str) -> AgencyEvent:
    """The event in these bytes, valid in itself; Refused with all its problems if it is not.

    `phone_region` (ISO 3166) is the country whose national numbers need no country code.
    """
    if len(body) > MAX_EVENT_BYTES:
        refuse(Reason.TOO_LARGE, f"an event has at most {MAX_EVENT_BYTES} bytes, this one has {len(body)}")
    return check_event(read_json(body), body, now=now, phone_region=phone_region)


def read_json(body: bytes) -> Any:
    """The JSON value in these bytes; Refused if they are not exactly one, without ambiguity."""
    try:
        return plain_json(body)
    except NotPlain:
        return read_json_closely(body)


def read_json_closely(body: bytes) -> Any:
    """As `read_json`, and what that returns or raises for whatever is not plain."""
    if not body.strip():
        refuse(Reason.EMPTY, "there is nothing in it")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        refuse(Reason.NOT_UTF8, f"byte {error.start} is not UTF-8")
    if text.startswith("\ufeff"):
        refuse(Reason.NOT_UTF8, "it starts with a byte-order mark")
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant, parse_float=_finite_float)
    except json.JSONDecodeError as error:
        refuse(Reason.NOT_JSON, f"line {error.lineno}, column {error.colno}: {error.msg}")
    except RecursionError:
        refuse(Reason.TOO_DEEP, "it is nested too deeply")
    except ValueError:
        refuse(Reason.NUMBER_OUT_OF_RANGE, "it holds an integer of thousands of digits")


def check_event(value: Any, body: bytes, *, now: datetime, phone_region: str) -> AgencyEvent:
    """The event that a JSON value says; `body` is the same value as bytes."""
    try:
        return plain_event(value, body, now=now, phone_region=phone_region)
    except NotPlain:
        return check_event_closely(value, body, now=now, phone_region=phone_region)


def check_event_closely(value: Any, body: bytes, *, now: datetime, phone_region: str) -> AgencyEvent:
    """As `check_event`, and what that returns or raises for whatever is not plain."""
    if not isinstance(value, dict):
        refuse(Reason.NOT_A_CLOUDEVENT, "a CloudEvent is a JSON object")
    known = _known_parts(value)
    model = _model_of(value, known)
    try:
        read = model.model_validate_json(body)
    except ValidationError as error:
        problems = _unparsed(value, body) if error.errors()[0]["type"] == "json_invalid" else _problems(error)
        raise Refused(*problems[:MAX_PROBLEMS], **known) from None
    problems = [*_name_problems(read), *_character_problems(value, body), *_time_problems(read, value["time"], now)]
    event = convert(read, EVENT_OF[model.TYPE], from_attributes=True)
    if isinstance(event, Submission):
        problems.extend(_attribute_problems(event, value["data"].get("attributes", {})))
        event, contact_problems = _with_normal_contacts(event, phone_region)
        problems.extend(contact_problems)
    if problems:
        raise Refused(*problems[:MAX_PROBLEMS], **known)
    return event


def write_json(value: Any) -> bytes:
    """The shortest JSON that says a value which read_json gave; Refused if it is nested too deeply for that."""
    try:
        return _ENCODER.encode(value)
    except (UnicodeEncodeError, OverflowError):
        # A lone surrogate exists only as an escape. It will be refused, by its path; so will an integer of such a size.
        return json.dumps(value, separators=(",", ":")).encode()
    except RecursionError:
        refuse(Reason.TOO_DEEP, "it is nested too deeply")


def refuse(reason: Reason, detail: str, field: str | None = None) -> NoReturn:
    """Refuse for one reason."""
    raise Refused(Problem(reason=reason, detail=detail, field=field)) from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        refuse(Reason.DUPLICATE_KEY, "an object has the same key twice")
    return value


def _no_constant(name: str) -> NoReturn:
    refuse(Reason.NUMBER_OUT_OF_RANGE, f"{name} is no JSON number")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        refuse(Reason.NUMBER_OUT_OF_RANGE, "a number is too large")
    return value


def _known_parts(value: dict[str, Any]) -> dict[str, str | None]:
    """What tells the agency which of its events is meant, where it can be read safely."""

    def token(candidate: Any) -> str | None:
        usable = isinstance(candidate, str) and 0 < len(candidate) <= 128 and candidate.isascii()
        return candidate if usable and candidate.isprintable() and " " not in candidate else None

    data = value.get("data")
    return {
        "event_id": token(value.get("id")),
        "agency_reference": token(data.get("agency_reference")) if isinstance(data, dict) else None,
    }


def _model_of(value: dict[str, Any], known: dict[str, str | None]) -> type[RequestSubmitted] | type[StatusChanged]:
    def refused(reason: Reason, detail: str, field: str) -> Refused:
        return Refused(Problem(reason=reason, detail=detail, field=field), **known)

    if "specversion" not in value:
        raise refused(Reason.NOT_A_CLOUDEVENT, "a CloudEvent has a specversion", "specversion")
    if value["specversion"] != "1.0":
        raise refused(Reason.UNSUPPORTED_VERSION, 'the specversion has to be "1.0"', "specversion")
    named = value.get("type")
    if named is None:
        raise refused(Reason.MISSING_FIELD, _DETAILS["missing"], "type")
    if not isinstance(named, str):
        raise refused(Reason.WRONG_TYPE, "Input should be a valid string", "type")
    model = _EVENTS.get(named)
    if model is not None:
        return model
    if _VERSIONED_TYPE.match(named):
        raise refused(Reason.UNSUPPORTED_VERSION, "this version of the event is not known here", "type")
    raise refused(Reason.UNKNOWN_EVENT_TYPE, f"the types are {', '.join(_EVENTS)}", "type")


def _unparsed(value: dict[str, Any], body: bytes) -> list[Problem]:
    """Why the models' parser can't read what Python's could: lone surrogates, or a lesser depth."""
    too_deep = Problem(reason=Reason.TOO_DEEP, detail="it is nested too deeply")
    return list(_character_problems(value, body)) or [too_deep]


def _problems(error: ValidationError) -> list[Problem]:
    problems: dict[str, Problem] = {}
    for entry in error.errors(include_url=False, include_input=False, include_context=False):
        parts = [str(part) for part in entry["loc"]]
        kind = entry["type"]
        detail = _detail(kind, entry["msg"])
        if parts[:2] == ["data", "attributes"] and len(parts) > 2:
            # One failed branch of the union for each type it could have been: say it once.
            del parts[3:]
            if kind.endswith("_type"):
                detail = "Input should be a text, a number or a boolean"
        elif len(parts) == 2 and parts[0] != "data":
            del parts[1:]
            detail = "an extension attribute is a text, a number or a boolean"
        path = ".".join(parts)
        said = problems.get(path)
        # The branch of the union that fits in type says best what is wrong.
        if said is None or (said.reason is Reason.WRONG_TYPE and not kind.endswith("_type")):
            problems[path] = Problem(reason=_reason(kind), detail=detail, field=_shown(path))
    return list(problems.values())


def _shown(path: str) -> str | None:
    """The path of a field, fit to be told: keys are an agency's own and may be long or hold anything."""
    return "".join(character if character.isprintable() else "\ufffd" for character in path[:200]) or None


def _detail(kind: str, said: str) -> str:
    if kind.startswith("datetime"):
        return _RFC3339_WANTED
    return _DETAILS.get(kind) or _ENUM_MEMBER.sub(r"\1", said)


def _reason(kind: str) -> Reason:
    if kind in _REASONS:
        return _REASONS[kind]
    if kind.startswith("datetime"):
        return Reason.INVALID_TIME
    return Reason.WRONG_TYPE if kind.endswith("_type") else Reason.INVALID_VALUE


def _name_problems(event: RequestSubmitted | StatusChanged) -> Iterator[Problem]:
    for name in event.model_extra or ():
        if not _EXTENSION_NAME.fullmatch(name):
            detail = "the name of an extension attribute is made of a-z and 0-9"
            yield Problem(reason=Reason.UNKNOWN_FIELD, detail=detail, field=_shown(name))


def _attribute_problems(event: Submission, written: dict[str, Any]) -> Iterator[Problem]:
    for name, read in event.data.attributes.items():
        if isinstance(read, float) and isinstance(written[name], int):
            detail = "an integer beyond 2^53 would lose digits: send it as a text"
            yield Problem(reason=Reason.INVALID_VALUE, detail=detail, field=_shown(f"data.attributes.{name}"))


def _character_problems(value: dict[str, Any], body: bytes) -> Iterator[Problem]:
    # Forbidden characters come in as themselves or as an escape: without either there is nothing to walk for.
    if is_plain_text(body):
        return
    for path, text in _texts(value):
        if _FORBIDDEN.search(text) or _COMBINING_PILE.search(text):
            detail = "it holds a control character, a directional override or a pile of combining marks"
            yield Problem(reason=Reason.FORBIDDEN_CHARACTER, detail=detail, field=_shown(path))
        elif path not in _MULTILINE_FIELDS and _LINE_ENDS.search(text):
            detail = "this field is a single line"
            yield Problem(reason=Reason.FORBIDDEN_CHARACTER, detail=detail, field=_shown(path))


def _texts(value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every text and every key, each with its path. Not recursive, since what is not valid may be deep."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, part = waiting.pop()
        if isinstance(part, str):
            yield path, part
        elif isinstance(part, dict):
            members = [(f"{path}.{key}" if path else key, key, member) for key, member in part.items()]
            yield from ((inner, key) for inner, key, _ in members)
            waiting.extend((inner, member) for inner, _, member in reversed(members))
        elif isinstance(part, list):
            waiting.extend((path, member) for member in reversed(part))


def _time_problems(event: RequestSubmitted | StatusChanged, written: str, now: datetime) -> Iterator[Problem]:
    if not _RFC3339.fullmatch(written):
        yield Problem(reason=Reason.INVALID_TIME, detail=_RFC3339_WANTED, field="time")
    elif event.time > now + FUTURE_TOLERANCE:
        yield Problem(reason=Reason.TIME_OUT_OF_RANGE, detail="it lies in the future", field="time")
    elif event.time.year < EARLIEST_YEAR:
        detail = f"it lies before the year {EARLIEST_YEAR}"
        yield Problem(reason=Reason.TIME_OUT_OF_RANGE, detail=detail, field="time")


def _with_normal_contacts(event: Submission, region: str) -> tuple[Submission, list[Problem]]:
    applicant = event.data.applicant
    problems: list[Problem] = []
    phone, email = applicant.phone, applicant.email
    if phone is not None and (phone := e164(phone, region)) is None:
        detail = "it is no phone number at which a citizen can be reached"
        problems.append(Problem(reason=Reason.INVALID_PHONE, detail=detail, field="data.applicant.phone"))
    if email is not None and (email := mail_address(email)) is None:
        detail = "it is no mail address to which a message can be sent"
        problems.append(Problem(reason=Reason.INVALID_EMAIL, detail=detail, field="data.applicant.email"))
    return with_contacts(event, phone=phone, email=email), problems
