"""The number a citizen is given: can't be guessed, is easy to read out, and shows a slip of the pen.

Twelve characters of Crockford's alphabet (no I, L, O, U) in three groups: 55 bits of a keyed BLAKE2b, a third of the
work of an HMAC, and one check character.
"""

from hashlib import blake2b

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_DOUBLED = tuple((value << 1) ^ (0b100101 if value & 0b10000 else 0) for value in range(32))
"""Each value times x in GF(2)[x] / (x^5 + x^2 + 1), in which x has order 31."""

_VALUES = {character: value for value, character in enumerate(ALPHABET)}
_READ_AS = str.maketrans({"I": "1", "L": "1", "O": "0", "-": None, " ": None, "\u200e": None})
_PAYLOAD_LENGTH = 11
_PAIRS = tuple(first + second for first in ALPHABET for second in ALPHABET)
_PAIRS_DOUBLED = tuple(_DOUBLED[_DOUBLED[pair >> 5] ^ (pair & 31)] for pair in range(1024))
"""What `_check` makes of two values at once, written as one number."""


def reference_of(key: str, secret: bytes, attempt: int = 0) -> str:
    """The reference of the request under a key, like `7K3M-9XQ2-HTB4`. A further attempt gives another.

    The secret has at most 64 bytes.
    """
    bits = int.from_bytes(blake2b(f"{key}\n{attempt}".encode(), key=secret, digest_size=7).digest()) >> 1
    a, b, c, d, e = bits >> 45, bits >> 35 & 1023, bits >> 25 & 1023, bits >> 15 & 1023, bits >> 5 & 1023
    last, total = bits & 31, 0
    for pair in (a, b, c, d, e):
        total = _PAIRS_DOUBLED[total << 5 ^ pair]
    check = _DOUBLED[total ^ last]
    return f"{_PAIRS[a]}{_PAIRS[b]}-{_PAIRS[c]}{_PAIRS[d]}-{_PAIRS[e]}{_PAIRS[last << 5 | check]}"


def normalise(written: str) -> str | None:
    """The reference meant by what somebody typed or read out; None if it can't be one.

    Case, spaces and hyphens do not matter, nor the mark before it in right-to-left texts; O is read as 0, I and L as 1.
    """
    characters = written.upper().translate(_READ_AS)
    if len(characters) != _PAYLOAD_LENGTH + 1 or any(character not in _VALUES for character in characters):
        return None
    values = [_VALUES[character] for character in characters]
    if _check(values[:-1]) != values[-1]:
        return None
    return f"{characters[:4]}-{characters[4:8]}-{characters[8:]}"


def _check(values: list[int]) -> int:
    """A weighted sum over the field of 32 elements, each place with a weight of its own.

    Since weights differ and none is 0 or 1 (the check character's own), one wrong character and any two characters
    swapped are always seen.
    """
    total = 0
    for value in values:
        total = _DOUBLED[total ^ value]
    return total
