"""Where personal data stands that does not belong there: phones, mail addresses and names in any text. Pure."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.check.observed import Personal
from shared.contract.events import Applicant

_PHONE = re.compile(r"(?<![\w.-])(?:\+|00)?(\d{8,15})(?![\w-])")
_MAIL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w-]+(?:\.[\w-]+)+")
_WORD = re.compile(r"\w+")

_PERSONAL_DATA = ("description", "note")
_KEPT_WHOLE = ("key", "value", "headers")
"""What a dead letter repeats of its record."""


class Gatherer:
    """Gathers what must not be told to others."""

    def __init__(self) -> None:
        self._contacts: set[str] = set()
        self._names: set[str] = set()

    def take(self, applicant: Applicant) -> None:
        """Take note of a citizen. A name of one word may be any word, and is no name here."""
        if applicant.phone:
            self._contacts.add(applicant.phone.removeprefix("+"))
        if applicant.email:
            self._contacts.add(applicant.email.lower())
        if applicant.name and len(applicant.name.split()) > 1:
            self._names.add(applicant.name)

    def personal(self) -> Personal:
        """All that was taken so far."""
        return Personal(frozenset(self._contacts), frozenset(self._names))


class Mentions:
    """What looks like a contact, and which names stand, in texts where nothing personal belongs."""

    def __init__(self, personal: Personal) -> None:
        # By its first word, so that a text is searched once and not once for each name.
        self._names: Mapping[str, list[str]] = defaultdict(list)
        for name in personal.names:
            if first := _WORD.search(name):
                self._names[first.group()].append(name)
        self.found: dict[str, str] = {}

    def take(self, text: str, where: str) -> None:
        """Look through a text; `where` says to people where it stood."""
        for mention in self._in(text):
            self.found.setdefault(mention, where)

    def _in(self, text: str) -> Iterator[str]:
        for phone in _PHONE.finditer(text):
            yield phone.group(1)
        if "@" in text:
            for mail in _MAIL.finditer(text):
                yield mail.group().lower()
        if self._names:
            for word in _WORD.finditer(text):
                for name in self._names.get(word.group(), ()):
                    if text.startswith(name, word.start()):
                        yield name


def impersonal(value: bytes, headers: Sequence[tuple[str, bytes | None]] = (), key: bytes | None = None) -> str:
    """A record's key, headers and event without the fields that are there for personal data."""
    event = json.loads(value)
    data: dict[str, Any] = event.get("data") or {}
    if isinstance(request := data.get("request"), dict):
        request.pop("applicant", None)
    if "origin" in data and "service" in data:
        for field in _KEPT_WHOLE:
            data.pop(field, None)
    for field in _PERSONAL_DATA:
        data.pop(field, None)
    parts = [(key or b"").decode(errors="replace"), json.dumps(event, ensure_ascii=False)]
    parts += [f"{name}: {(content or b'').decode(errors='replace')}" for name, content in headers]
    return "\n".join(parts)
