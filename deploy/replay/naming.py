"""Names and texts from anywhere, written as the contract wants them. Pure."""

import re
import unicodedata
from functools import lru_cache
from hashlib import sha256

SLUG_LENGTH = 48

_COMBINING = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_PILE = re.compile(f"([{_COMBINING}]{{8}})[{_COMBINING}]+")
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ufeff\ufffe\uffff\ud800-\udfff]")


@lru_cache(maxsize=4096)  # a file names the same few offices and services in every row
def slug(name: str) -> str:
    """A name as an id of a-z, 0-9 and inner hyphens: names that differ in case, spaces or punctuation only are one.

    Where more than that is lost (letters of other scripts, length), a digest of the name keeps it apart from others.
    """
    folded = name.strip().casefold()
    letters = [letter for letter in unicodedata.normalize("NFKD", folded) if not unicodedata.combining(letter)]
    hyphenated = re.sub(r"[^a-z0-9]+", "-", "".join(letters)).strip("-")
    whole = not any(letter.isalnum() and not letter.isascii() for letter in letters)
    if hyphenated and whole and len(hyphenated) <= SLUG_LENGTH:
        return hyphenated
    digest = sha256(folded.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{hyphenated[: SLUG_LENGTH - 9].rstrip('-')}-{digest}".lstrip("-")


def code(reference: str) -> str:
    """The reference as it is where the contract allows that, else a slug of it."""
    usable = 0 < len(reference) <= 64 and reference.isascii() and reference.isprintable() and " " not in reference
    return reference if usable else slug(reference)


def one_line(text: str, length: int) -> str:
    """The text as one line without what the mesh refuses, cut with an ellipsis where it is longer than `length`."""
    if not (text.isascii() and text.isprintable()):
        text = _PILE.sub(r"\1", _FORBIDDEN.sub(" ", text))
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"
