"""Free loopback ports. No part of the local mesh ever assumes a default one."""

import asyncio
import random
import socket
from collections.abc import Sequence

LOOPBACK = "127.0.0.1"

# Below the range that Linux (from 32768) and macOS (from 49152) take outgoing connections from: a port that
# was free when asked for must still be free when its server binds it, seconds later and among many
# connections.
_RANGE = range(20_000, 32_000)
_BLOCK = 500
_left: list[int] = []
"""The ports of the blocks that are this process's, without those that were given away."""


def free_port() -> int:
    """A loopback TCP port that nothing listens on; never the same one twice, here or in another process that asks
    for one in this way, as long as this one lives.

    Raises OSError when none is found. A stranger may still win the race for it: the part then fails to start, and says
    so in its log.
    """
    while True:
        if not _left:
            _left.extend(_block())
        if _is_free(port := _left.pop()):
            return port


def _block() -> Sequence[int]:
    """The ports of a block, at random, that are this process's until it ends: whose the first one is has the others.

    A part that was killed is not listening, and its port is still its own: nobody else must be given it meanwhile.
    """
    for first in random.sample(_RANGE[::_BLOCK], len(_RANGE) // _BLOCK):
        mark = socket.socket()
        try:
            mark.bind((LOOPBACK, first))
        except OSError:
            mark.close()
        else:
            mark.detach()  # open until the process ends
            return random.sample(range(first + 1, first + _BLOCK), _BLOCK - 1)
    raise OSError(f"no free loopback port found in {_RANGE}")


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
