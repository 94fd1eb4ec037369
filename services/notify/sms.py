"""What fits in a short message: GSM 03.38 or UCS-2, whole or in parts (3GPP TS 23.038, 23.040)."""

import re
from codecs import charmap_encode
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_ESCAPE = 0x1B
_EXTENSION = {
    "\f": 0x0A, "^": 0x14, "{": 0x28, "}": 0x29, "\\": 0x2F, "[": 0x3C, "~": 0x3D, "]": 0x3E, "|": 0x40, "€": 0x65,
}  # fmt: skip

_SEPTETS = {ord(character): bytes((code,)) for code, character in enumerate(_BASIC) if code != _ESCAPE} | {
    ord(character): bytes((_ESCAPE, code)) for character, code in _EXTENSION.items()
}
"""Each character as SMPP carries it: one octet a septet, two for the extension table."""

_IN_GSM = re.compile(f"[{re.escape(''.join(map(chr, _SEPTETS)))}]*")
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
_EXTENDED = re.compile(f"[{re.escape(''.join(_EXTENSION))}]")

PARTS_MAX = 255


class Encoding(StrEnum):
    """How a short message is written: 160 characters alone and 153 in a part, or 70 and 67."""

    GSM = "gsm"
    UCS2 = "ucs2"


_LIMITS = {Encoding.GSM: (160, 153), Encoding.UCS2: (70, 67)}


@dataclass(frozen=True, slots=True)
class Segmented:
    """A text in the parts in which it will be sent; one part if it fits."""

    encoding: Encoding
    parts: tuple[str, ...]

    def octets(self, reference: int) -> tuple[bytes, ...]:
        """Each part's user data. `reference` (0 to 255) ties the parts of one message together on the phone."""
        bodies = [_octets(part, self.encoding) for part in self.parts]
        if len(bodies) == 1:
            return (bodies[0],)
        return tuple(
            bytes((5, 0, 3, reference, len(bodies), number)) + body for number, body in enumerate(bodies, start=1)
        )


def encode(text: str) -> Segmented:
    """The text in as few parts as may be; nothing in it is changed, and no character is torn between two parts.

    ValueError if that takes more than 255 parts.
    """
    encoding = Encoding.GSM if _IN_GSM.fullmatch(text) else Encoding.UCS2
    whole, part = _LIMITS[encoding]
    parts = (text,) if _units(text, encoding) <= whole else tuple(_split(text, encoding, part))
    if len(parts) > PARTS_MAX:
        raise ValueError(f"the text takes {len(parts)} parts, and a short message has at most {PARTS_MAX}")
    return Segmented(encoding, parts)


def offending_characters(text: str) -> tuple[str, ...]:
    """The characters for which the text can't be written in GSM 03.38, each once, in order."""
    return tuple(dict.fromkeys(character for character in text if ord(character) not in _SEPTETS))


def _octets(text: str, encoding: Encoding) -> bytes:
    if encoding is Encoding.GSM:
        return charmap_encode(text, "strict", _SEPTETS)[0]
    # A lone surrogate is no text; it is sent as a question mark rather than not at all.
    return text.encode("utf-16-be", "replace")


def _units(text: str, encoding: Encoding) -> int:
    if encoding is Encoding.GSM:
        return len(text) + len(_EXTENDED.findall(text))
    return len(text) + len(_ASTRAL.findall(text))


def _split(text: str, encoding: Encoding, limit: int) -> Iterator[str]:
    start = used = 0
    for position, character in enumerate(text):
        units = _units(character, encoding)
        if used + units > limit:
            yield text[start:position]
            start, used = position, 0
        used += units
    yield text[start:]
