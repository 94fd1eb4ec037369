"""A mail as it goes over the wire (RFC 5322, and RFC 2045 to 2047 for what is not ASCII).

Written by hand, since every mail has the same shape: the standard library's message classes take 0.7 ms for one.
"""

import re
from binascii import b2a_base64
from collections.abc import Iterator
from datetime import datetime
from email.utils import format_datetime, formataddr
from functools import lru_cache
from typing import Final

from services.notify.ports import Mail

_LINE_OCTETS: Final = 57
"""So many make a line of 76 characters in base64 (RFC 2045, 6.8)."""

_WORD_OCTETS: Final = 42
"""So many fit an encoded word, which has 75 characters at most (RFC 2047, 2)."""

_PLAIN_SUBJECT_MAX: Final = 64
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

# "_" is no digit of base64, so no part can hold the boundary.
_SHAPE: Final = """\
From: {sender}
To: {recipient}
Subject: {subject}
Date: {date}
Message-ID: <{id}@{domain}>
Auto-Submitted: auto-generated
Content-Language: {language}
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="=_guichet"

--=_guichet
Content-Type: text/plain; charset="utf-8"
Content-Transfer-Encoding: base64

{text}
--=_guichet
Content-Type: text/html; charset="utf-8"
Content-Transfer-Encoding: base64

{html}
--=_guichet--
""".replace("\n", "\r\n")


def as_octets(mail: Mail, *, sender_name: str, mail_from: str, written_at: datetime) -> bytes:
    """The mail in lines of ASCII, none of which begins with a dot; headers that can't be broken out of.

    The Message-ID comes from the notification's id alone, so that a mail sent twice can be told. ValueError for an
    address, an id or a subject that can't stand in a header.
    """
    written = _SHAPE.format(
        sender=_mailbox(sender_name, mail_from),
        recipient=_checked(mail.recipient),
        subject=_unstructured(mail.subject),
        date=format_datetime(written_at),
        id=_checked(mail.id),
        domain=mail_from.rpartition("@")[2],
        language=mail.language.value,
        text=_base64(mail.text),
        html=_base64(mail.html),
    )
    return written.encode("ascii")


@lru_cache(maxsize=16)  # a process has one or two
def _mailbox(name: str, address: str) -> str:
    return formataddr((name, address)) if name.isascii() else f"{_unstructured(name)} <{address}>"


def _checked(value: str) -> str:
    if not value.isascii() or _CONTROL.search(value):
        raise ValueError("this can't stand in a header")
    return value


def _unstructured(text: str) -> str:
    """The text as it stands if it may, else in encoded words, one a line."""
    if _CONTROL.search(text):
        raise ValueError("this can't stand in a header")
    if text.isascii() and len(text) <= _PLAIN_SUBJECT_MAX and "=?" not in text:
        return text
    return "\r\n ".join(f"=?utf-8?b?{b2a_base64(word, newline=False).decode()}?=" for word in _words(text))


def _words(text: str) -> Iterator[bytes]:
    """The text's octets in pieces that fit an encoded word; no character is torn in two."""
    word = b""
    for character in map(str.encode, text):
        if len(word) + len(character) > _WORD_OCTETS:
            yield word
            word = b""
        word += character
    yield word


def _base64(text: str) -> str:
    octets = _LINE_END.sub("\r\n", text).encode()
    lines = [octets[start : start + _LINE_OCTETS] for start in range(0, len(octets), _LINE_OCTETS)]
    return "\r\n".join([b2a_base64(line, newline=False).decode("ascii") for line in lines])
