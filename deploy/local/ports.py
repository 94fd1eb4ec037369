"""Free loopback ports. No part of the local mesh ever assumes a default one."""

import asyncio
import random
import socket

LOOPBACK = "127.0.0.1"

# Below the range that Linux (from 32768) and macOS (from 49152) take outgoing connections from: a port that
# was free when asked for must still be free when its server binds it, seconds later and among many
# connections.
_RANGE = range(20_000, 32_000)
_ATTEMPTS_MAX = 200
_given: set[int] = set()


def free_port() -> int:
    """A loopback TCP port that nothing listens on; never the same one twice in this process.

    Raises OSError when none is found. Another process may still win the race for it: the part then fails to
    start, and says so in its log.
    """
    for port in random.sample(_RANGE, _ATTEMPTS_MAX):
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise OSError(f"no free loopback port found in {_RANGE} after {_ATTEMPTS_MAX} attempts")


async def listens(port: int) -> bool:
    """Whether something takes loopback connections on the port."""
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
