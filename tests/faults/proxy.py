"""A TCP connection between two parts that can be slow, half open, or cut."""

import asyncio
from contextlib import suppress

from deploy.local.ports import LOOPBACK, free_port

CHUNK_BYTES = 64 * 1024


class Proxy:
    """Forwards connections to a port of loopback. `port` is its own."""

    def __init__(self, target_port: int | None = None) -> None:
        self.port = free_port()
        self.target_port = target_port or free_port()
        self.delay_seconds = 0.0
        """How much longer everything takes, in each direction."""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        # A connection works while the spell in which it began lasts.
        self._spell: object | None = object()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._taken, LOOPBACK, self.port)

    def half_open(self) -> None:
        """From now on nothing passes, and nobody is told: connections stay, and new ones are taken."""
        self._spell = None

    async def cut(self) -> None:
        """Break every connection off and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        broken = list(self._connections)
        for connection in broken:
            connection.cancel()
        await asyncio.gather(*broken, return_exceptions=True)

    async def mend(self) -> None:
        """From now on new connections work. Those that were half open stay as dead as they are."""
        self._spell = object()
        if self._server is None:
            await self.start()

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._forward(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        spell = self._spell
        try:
            with suppress(OSError):
                onward_reader, onward = await asyncio.open_connection(LOOPBACK, self.target_port)
                try:
                    await asyncio.gather(self._copy(reader, onward, spell), self._copy(onward_reader, writer, spell))
                finally:
                    onward.transport.abort()
        finally:
            writer.transport.abort()

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, spell: object | None) -> None:
        while data := await source.read(CHUNK_BYTES):
            await asyncio.sleep(self.delay_seconds)
            if spell is None or spell is not self._spell:
                await asyncio.Event().wait()  # until it is broken off
            target.write(data)
            await target.drain()
        target.close()
