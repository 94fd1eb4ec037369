"""What the HTTP server does with a connection, apart from its bounds, which are fuzzed."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from shared.http import BoundedHttp, OnePiece


class Connection(asyncio.Transport):
    """Keeps what is sent, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override] # of all that may be written, bytes
        assert not self.closed
        self.pieces.append(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class TurnedByHand:
    """A loop as it runs, but for its clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._now = 1000.0
        self._alarms: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        self._alarms.append((when, callback))
        return asyncio.TimerHandle(when, callback, (), self._loop)

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback)

    def turn(self, seconds: float) -> None:
        """Let time pass, and what is due happen."""
        self._now += seconds
        due = [callback for when, callback in self._alarms if when <= self._now]
        self._alarms = [alarm for alarm in self._alarms if alarm[0] > self._now]
        for callback in due:
            callback()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def says_nothing(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def test_each_turn_of_a_client_has_its_whole_patience() -> None:
    clock, connection = TurnedByHand(asyncio.get_running_loop()), Connection()
    config = uvicorn.Config(says_nothing, log_config=None, access_log=False, timeout_keep_alive=3600)
    config.load()
    http = BoundedHttp(config, ServerState(), {}, cast(asyncio.AbstractEventLoop, clock))
    http.connection_made(connection)
    for calls in range(1, 4):
        clock.turn(0.7 * BoundedHttp.patience_seconds)
        assert not connection.closed
        http.data_received(b"GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(10):
            while len(connection.pieces) < calls:
                await asyncio.sleep(0)
    clock.turn(0.7 * BoundedHttp.patience_seconds)
    assert not connection.closed
    clock.turn(0.4 * BoundedHttp.patience_seconds)
    assert connection.closed


async def test_a_head_and_its_body_go_out_in_one_piece() -> None:
    connection = Connection()
    transport = OnePiece(connection)
    for answer in (b"head body", b"next one"):
        for part in answer.split():
            transport.write(part)
        await asyncio.sleep(0)
    assert connection.pieces == [b"headbody", b"nextone"]


async def test_what_was_written_goes_out_before_the_connection_is_closed() -> None:
    connection = Connection()
    transport = OnePiece(connection)
    transport.write(b"bye")
    transport.close()
    await asyncio.sleep(0)
    assert (connection.pieces, connection.closed) == ([b"bye"], True)


async def test_nothing_goes_out_on_a_connection_that_was_lost_in_between() -> None:
    connection = Connection()
    transport = OnePiece(connection)
    transport.write(b"late")
    connection.close()
    await asyncio.sleep(0)
    assert connection.pieces == []
