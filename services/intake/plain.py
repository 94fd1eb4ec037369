"""Reads events with which nothing is wrong, at a fifth of what the models take. Pure.

It knows neither reasons nor fields: for whatever is wrong, and for a little that isn't, it raises NotPlain, and
`validation.py` looks closer. What it takes is what `validation.py` would take, and becomes the same event.
"""

import re
from datetime import datetime, timedelta
from typing import Any

from msgspec import MsgspecError, convert
from msgspec.json import Encoder, decode
from msgspec.structs import replace

from services.intake.agency_event import EVENT_OF, AgencyEvent, Submission, with_contacts
from services.intake.contacts import e164, mail_address
from shared.contract.events import Status, utc

EARLIEST_YEAR = 1970
FUTURE_TOLERANCE = timedelta(minutes=10)

COMBINING = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
FORBIDDEN = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ufeff\ufffe\uffff\ud800-\udfff"
"""What no text may hold. Directional overrides can make a text read as another one, which marks (U+200E, U+200F),
joiners and isolates can't."""

_PLAIN_TEXT = re.compile(rf"[^\\{FORBIDDEN}{COMBINING}]*")
_PLAIN_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_QUOTE_BY_NUMBER = b"\\u0022"
_ESCAPE = re.compile(rb"\\(.)")
_LINE_ENDS = frozenset({b"n", b"r", b"t"})
_TEXT_ESCAPES = frozenset({b'"', b"\\"}) | _LINE_ENDS
_ENCODER = Encoder()
_UNWRITABLE = (MsgspecError, ValueError, OverflowError, RecursionError)


class NotPlain(Exception):
    """Something has to be looked at closer; nothing is said about what."""


def plain_json(body: bytes) -> Any:
    """The JSON value in these bytes, if no object has a key twice; else NotPlain, and for a quote that hides."""
    if _QUOTE_BY_NUMBER in body:
        raise NotPlain
    try:
        value = decode(body)
        written = _ENCODER.encode(value)
    except _UNWRITABLE:
        raise NotPlain from None
    # Each text and each key has two quotes and those in it. A key that was there twice has left some behind.
    if written.count(b'"') != body.count(b'"'):
        raise NotPlain
    return value


def is_plain_text(body: bytes) -> bool:
    """Whether nothing in this JSON could be, or stand for, what no text may hold. UnicodeDecodeError if not UTF-8."""
    if body.isascii():
        # JSON has no other control character inside a text, save as an escape.
        return b"\\" not in body and b"\x7f" not in body
    return _PLAIN_TEXT.fullmatch(body.decode()) is not None


def plain_event(value: Any, body: bytes, *, now: datetime, phone_region: str) -> AgencyEvent:
    """The event that a JSON value says, if it is certainly valid, else NotPlain; `body` is the same value as bytes."""
    line_ends = 0
    if b"\\" in body:
        body, line_ends = _without_escapes(value)
    try:
        if not is_plain_text(body) or not _PLAIN_TIME.fullmatch(value["time"]):
            raise NotPlain
        event = convert(value, EVENT_OF[value["type"]])
        moment = utc(event.time)
    except (MsgspecError, KeyError, TypeError, ValueError):
        raise NotPlain from None
    if line_ends and line_ends != _line_ends_allowed(event):
        raise NotPlain
    if moment.year < EARLIEST_YEAR or moment > now + FUTURE_TOLERANCE:
        raise NotPlain
    if moment is not event.time:
        event = replace(event, time=moment)
    if isinstance(event, Submission):
        return _with_normal_contacts(event, phone_region)
    if event.data.status is Status.RECEIVED:
        raise NotPlain
    return event


def _without_escapes(value: Any) -> tuple[bytes, int]:
    """The JSON of a value with every character as itself, and how many line ends and tabs were left out of it."""
    try:
        written = _ENCODER.encode(value)
    except _UNWRITABLE:
        raise NotPlain from None
    # What is still an escape can't be written otherwise: quotes, backslashes, and control characters.
    escapes = _ESCAPE.findall(written)
    if not _TEXT_ESCAPES.issuperset(escapes):
        raise NotPlain
    return _ESCAPE.sub(b"", written), sum(escape in _LINE_ENDS for escape in escapes)


def _line_ends_allowed(event: AgencyEvent) -> int:
    """How many line ends and tabs there are where a text may have several lines."""
    text = event.data.description if isinstance(event, Submission) else event.data.note
    return sum(map((text or "").count, "\n\r\t"))


def _with_normal_contacts(event: Submission, region: str) -> Submission:
    applicant = event.data.applicant
    phone = applicant.phone and e164(applicant.phone, region)
    email = applicant.email and mail_address(applicant.email)
    if (phone is None) != (applicant.phone is None) or (email is None) != (applicant.email is None):
        raise NotPlain
    return with_contacts(event, phone=phone, email=email)
