"""Where a scripted peer of a provider listens."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from deploy.local.ports import LOOPBACK

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    """The port at which connections are served until the end of the block; by then each has come to its own end."""
    served: set[asyncio.Task[None]] = set()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            await serve(reader, writer)
        writer.close()
        served.remove(task)

    server = await asyncio.start_server(serve_one, LOOPBACK, 0, limit=1 << 20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(served):
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)
