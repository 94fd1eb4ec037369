"""Fewer and larger pieces on a connection: each costs a system call, and on a busy machine the other side a turn."""

import asyncio
from typing import Any


class OnePiece:
    """A transport, or a stream, that sends in one piece what is written in one turn of the event loop.

    uvloop sends each piece by itself: the head and the body of an answer, and each of the messages for one SMSC.
    """

    def __init__(self, transport: asyncio.Transport | asyncio.StreamWriter) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._written:
            self._loop.call_soon(self._send)
        self._written.append(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _send(self) -> None:
        if self._written and not self._transport.is_closing():
            self._transport.write(b"".join(self._written))
        self._written.clear()
