"""A provider beside the others of its channel: what it can be given now, by its window and its rate."""

import asyncio
from typing import Generic

from services.notify.ports import M, Provider
from services.notify.rate import TokenBucket


class Lane(Generic[M]):
    """Offers room for messages again and again, as the provider has it; `offered` is the offer that stands.

    A provider that is away or pauses offers nothing, and holds up nobody else.
    """

    def __init__(self, provider: Provider[M], rate: TokenBucket, weight: float = 1.0) -> None:
        self.provider: Provider[M] = provider
        self.weight = weight
        self.offered = 0
        self._rate = rate
        self._in_flight = 0
        self._unanswered = 0
        self._room = asyncio.Event()
        self._closed = asyncio.Event()

    async def run(self, bell: asyncio.Event) -> None:
        """Make offers until cancelled, the next when the last was closed. `bell` is rung at each."""
        while True:
            await self.provider.available()
            self.offered = await self._rate.take(await self._free())
            self._closed.clear()
            bell.set()
            await self._closed.wait()

    def take(self, *, messages: int, segments: int) -> None:
        """So much of the offer is used: messages are being handed over now."""
        self._unanswered += messages
        self._in_flight += messages
        self._rate.settle(segments - self.offered)
        self.offered = 0

    def close(self) -> None:
        """The offer is over, used or not."""
        self._closed.set()

    def withdraw(self) -> None:
        """The provider has gone since the offer was made: it is waited for before there is another."""
        self.take(messages=0, segments=0)
        self.close()

    def answered(self) -> None:
        """The provider has answered a message."""
        self._unanswered -= 1
        self._room.set()

    def settled(self) -> None:
        """The answer to a message is saved."""
        self._in_flight -= 1
        self._room.set()

    async def _free(self) -> int:
        """Room in the provider's window, once there is room for half of it.

        Each turn costs a few store calls, however many messages it is for: a busy sender takes them by the dozen. As
        many again may have their answer and wait to be saved; a crash would leave the fate of all of these unknown.
        """
        window = self.provider.window
        while (free := min(window - self._unanswered, 2 * window - self._in_flight)) < max(1, window // 2):
            self._room.clear()
            await self._room.wait()
        return free
