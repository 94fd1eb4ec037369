"""Files of service requests, read as replays: municipal open data (CSV) and agencies' own events (JSON Lines).

Both may be gzipped. What a file is, its content says and not its name.
"""

import gzip
import zlib
from datetime import datetime
from pathlib import Path

from deploy.replay.agency_events import read_events
from deploy.replay.open_data import read_open_data
from deploy.replay.steps import Replay, SourceError

MAX_SOURCE_BYTES = 1024**3
"""The largest file that is read, unpacked."""


def read_source(path: Path, *, now: datetime) -> Replay:
    """The replay that a file holds; SourceError if it is none. What lies after `now` has not happened yet."""
    text = _text(_octets(path), path.name)
    start = text.lstrip()[:1]
    if not start:
        raise SourceError(f"{path.name} is empty.")
    if start == "[":
        raise SourceError(f"{path.name} is a JSON array: write one event a line instead (JSON Lines).")
    return read_events(text, path.name) if start == "{" else read_open_data(text, path.name, now=now)


def _octets(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as content:
            octets = content.read(MAX_SOURCE_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(f"{path.name} is a damaged gzip file: {error}.") from error
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror or error}.") from error
    if len(octets) > MAX_SOURCE_BYTES:
        raise SourceError(f"{path.name} holds more than {MAX_SOURCE_BYTES} bytes: cut it into parts.")
    if octets.startswith(b"PK\x03\x04"):
        raise SourceError(f"{path.name} is a zip archive or a spreadsheet: unpack it, or export it as CSV.")
    return octets


def _text(octets: bytes, name: str) -> str:
    utf_16 = octets.startswith((b"\xff\xfe", b"\xfe\xff"))
    # Windows-1252 has letters and dashes where Latin-1 has control characters, but leaves five octets undefined.
    for encoding in ("utf-16",) if utf_16 else ("utf-8-sig", "cp1252", "latin-1"):
        try:
            return octets.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise SourceError(f"{name} starts as UTF-16 and goes on as something else.")
