"""Faults that a provider of ours makes while it runs, as a small JSON file tells it, which may change at any time."""

from math import fsum
from pathlib import Path
from random import Random
from typing import Annotated, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""The part of all that meets a fault: 0.0 none of it, 1.0 all."""

_ROUNDING = 1e-9


class Faults(BaseModel):
    """Which faults are made. Each `<kind>_share` is a kind of fault; whatever comes meets one of them at most."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    """Decides who meets a fault. The draws begin anew whenever the file changes."""

    @property
    def shares(self) -> dict[str, float]:
        """The share of each kind."""
        return {name.removesuffix("_share"): value for name, value in self if name.endswith("_share")}

    @model_validator(mode="after")
    def _has_room_for_all(self) -> Self:
        if fsum(self.shares.values()) > 1 + _ROUNDING:
            raise ValueError("the shares of the faults add up to more than 1")
        return self

    def write(self, file: Path) -> None:
        """Make the file say so, at once and whole."""
        draft = file.with_suffix(".draft")
        draft.write_text(self.model_dump_json())
        draft.replace(file)


F = TypeVar("F", bound=Faults)


class Script(Generic[F]):
    """What a file asks for now. It is looked at each time, and read again only if it changed; no file, no faults."""

    def __init__(self, kind: type[F], file: Path | None) -> None:
        self._kind = kind
        self._file = file
        self._seen: object = None
        self._faults = kind()
        self._random = Random(self._faults.seed)  # noqa: S311 - repeatable on purpose

    @property
    def faults(self) -> F:
        """Raises pydantic's ValidationError if the file holds something else than faults of this kind."""
        if self._file is None:
            return self._faults
        try:
            status = self._file.stat()
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen == self._seen:
                return self._faults
            asked = self._kind.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            if self._seen is None:
                return self._faults
            seen, asked = None, self._kind()
        self._seen, self._faults = seen, asked
        self._random = Random(asked.seed)  # noqa: S311 - repeatable on purpose
        return asked

    def draw(self, *kinds: str) -> str | None:
        """The kind of fault that is met now, if any: one of these, or of all if none is named."""
        shares, left = self.faults.shares, self._random.random()
        for kind in kinds or shares:
            left -= shares[kind]
            if left < 0:
                return kind
        return None
