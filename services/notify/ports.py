"""Where notify talks to the outside: a provider takes one message and says what became of it."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, Protocol, TypeVar

from services.notify.sms import Segmented
from shared.contract.events import Channel, Language


@dataclass(frozen=True, slots=True)
class ShortMessage:
    """`recipient` in E.164. `accepted`: the provider's ids of the first parts, where those were accepted before."""

    id: str
    recipient: str
    text: Segmented
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail in two forms that say the same."""

    id: str
    recipient: str
    language: Language
    subject: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class Sent:
    """The provider has taken it over: its own ids, one a part."""

    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """It will never be taken as it is, here or elsewhere: it is about the recipient, or the message."""

    reason: str
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Declined:
    """This provider will never take it as it is, for a reason of its own: another one may."""

    reason: str
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Later:
    """It was surely not taken (but for the parts with an id), and may be at another time.

    `retry_after`: the pause that the provider asks for. Then nothing is wrong with it.
    """

    reason: str
    retry_after: timedelta | None = None
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unknown:
    """It was handed over and no answer was read: nobody can say whether it was taken."""

    reason: str
    references: tuple[str, ...] = ()


Answer = Sent | Refused | Declined | Later | Unknown

M = TypeVar("M", ShortMessage, Mail)
M_contra = TypeVar("M_contra", ShortMessage, Mail, contravariant=True)


class Unsendable(Exception):
    """A notification can't be written as a message; the text is a reason code."""


@dataclass(frozen=True, slots=True)
class Composed(Generic[M]):
    """A message ready to be sent, the version of its template, and how many SMS segments it takes (0 for a mail)."""

    message: M
    template: str
    segments: int


class Provider(Protocol[M_contra]):
    """A way to send. `window`: how many messages it takes at the same time. `connected`: whether it can be reached."""

    @property
    def name(self) -> str: ...

    @property
    def channel(self) -> Channel: ...

    @property
    def window(self) -> int: ...

    @property
    def connected(self) -> bool: ...

    async def start(self) -> None:
        """Begin to connect, and reconnect from then on."""
        ...

    async def stop(self) -> None:
        """Take leave and let go of every connection."""
        ...

    async def available(self) -> None:
        """Return once a message would probably be taken; wait as long as that takes."""
        ...

    async def check(self) -> None:
        """Return if the provider can be reached now; raise, with the reason, if not."""
        ...

    async def send(self, message: M_contra) -> Answer:
        """Hand over a message and wait for the answer, a bounded time. Never raises for what a provider does."""
        ...
