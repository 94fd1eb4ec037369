"""What the HTTP server does with a connection, apart from its bounds, which are fuzzed."""

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.server import ServerState

from shared.http import Answer, BoundedHttp, Fields, Take
from shared.one_piece import OnePiece

PROXY_IDLE_SECONDS = 60.0
"""For how long nginx, unless told otherwise, keeps a connection to a server behind it."""


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

    def pause_reading(self) -> None:
        """What is read comes from the test, which knows when to stop."""

    def resume_reading(self) -> None:
        """See pause_reading."""


class TurnedByHand:
    """A loop as it runs, but for its clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._now = 1000.0
        self._alarms: list[tuple[asyncio.TimerHandle, Callable[[], None]]] = []

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        alarm = asyncio.TimerHandle(when, callback, (), self._loop)
        self._alarms.append((alarm, callback))
        return alarm

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback)

    def turn(self, seconds: float) -> None:
        """Let time pass, and what is due happen."""
        self._now += seconds
        due = [(alarm, callback) for alarm, callback in self._alarms if alarm.when() <= self._now]
        self._alarms = [(alarm, callback) for alarm, callback in self._alarms if alarm.when() > self._now]
        for alarm, callback in due:
            if not alarm.cancelled():
                callback()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def says_nothing(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class Client:
    """Of an application that answers at once; its patience and its idleness are counted by hand."""

    def __init__(self) -> None:
        self.clock, self.connection = TurnedByHand(asyncio.get_running_loop()), Connection()
        config = uvicorn.Config(says_nothing, log_config=None, access_log=False)
        config.load()
        self.http = BoundedHttp(config, ServerState(), {}, cast(asyncio.AbstractEventLoop, self.clock))
        self.http.connection_made(self.connection)

    async def sends(self, call: bytes) -> None:
        """Until it is answered."""
        answers = len(self.connection.pieces)
        self.http.data_received(call)
        async with asyncio.timeout(10):
            while len(self.connection.pieces) == answers:
                await asyncio.sleep(0)

    def waits(self, seconds: float) -> bool:
        """Whether it is still connected afterwards."""
        self.clock.turn(seconds)
        return not self.connection.closed


async def test_each_turn_of_a_client_has_its_whole_patience() -> None:
    client = Client()
    for _ in range(3):
        assert client.waits(0.7 * BoundedHttp.patience_seconds)
        await client.sends(b"GET / HTTP/1.1\r\n\r\n")
        assert client.waits(0.9 * BoundedHttp.idle_seconds)
        client.http.data_received(b"GET / HTTP/1.1\r\n")
        assert client.waits(0.9 * BoundedHttp.patience_seconds)
        await client.sends(b"\r\n")
    client.http.data_received(b"GET / HTTP/1.1\r\n")
    assert not client.waits(1.1 * BoundedHttp.patience_seconds)
    assert b"408" in client.connection.pieces[-1]


async def test_a_connection_without_a_call_is_kept_for_longer_than_a_reverse_proxy_keeps_it() -> None:
    client = Client()
    await client.sends(b"GET / HTTP/1.1\r\n\r\n")
    assert client.waits(PROXY_IDLE_SECONDS + 1)
    assert not client.waits(BoundedHttp.idle_seconds - PROXY_IDLE_SECONDS)


async def test_a_call_that_was_answered_before_it_was_there_whole_leaves_the_connection_idle_when_it_is() -> None:
    client = Client()
    await client.sends(b"POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nbo")
    client.http.data_received(b"dy")
    assert client.waits(1.1 * BoundedHttp.patience_seconds)
    assert not client.waits(BoundedHttp.idle_seconds)


async def test_a_call_that_was_answered_before_it_was_there_whole_may_not_go_on_for_ever() -> None:
    client = Client()
    await client.sends(b"POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nbo")
    assert not client.waits(1.1 * BoundedHttp.patience_seconds)


async def test_whoever_does_not_read_an_answer_has_no_longer_than_to_send_a_call() -> None:
    client = Client()
    await client.sends(b"GET / HTTP/1.1\r\n\r\n")
    client.http.pause_writing()
    assert not client.waits(1.1 * BoundedHttp.patience_seconds)


CALL = b"POST /whole HTTP/1.1\r\ncontent-length: 4\r\n\r\nbody"


class Office:
    """Takes whole calls, and answers them when it is told to; the application answers all others with 204."""

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, Callable[[Answer], None]]] = []

        class Http(BoundedHttp):
            whole: ClassVar[Mapping[tuple[str, str], Take]] = {("POST", "/whole"): self._take}

        config = uvicorn.Config(says_nothing, log_config=None, access_log=False, date_header=False)
        config.load()
        self.connection = Connection()
        self.http = Http(config, ServerState(), {}, asyncio.get_running_loop())
        self.http.connection_made(self.connection)

    def _take(self, _fields: Fields, body: bytes, answer: Callable[[Answer], None]) -> None:
        self.taken.append((body, answer))

    def answer(self, body: bytes = b"yes") -> None:
        """Answer the one that was taken first."""
        self.taken.pop(0)[1](Answer(202, "text/plain", body, {"X-Why": "because"}))

    async def says(self, calls: bytes) -> list[bytes]:
        """The status lines of all that is sent once these calls were received."""
        self.http.data_received(calls)
        return await self.said()

    async def said(self) -> list[bytes]:
        for _ in range(20):
            await asyncio.sleep(0)
        return re.findall(rb"HTTP/1\.1 [^\r]+", b"".join(self.connection.pieces))


async def test_a_whole_call_is_handed_over_once_it_is_there_and_answered_when_its_answer_comes() -> None:
    office = Office()
    assert await office.says(CALL[:-2]) == []
    assert office.taken == []
    assert await office.says(CALL[-2:]) == []
    assert [body for body, _ in office.taken] == [b"body"]
    office.answer()
    await office.said()
    assert b"".join(office.connection.pieces) == (
        b"HTTP/1.1 202 Accepted\r\ncontent-length: 3\r\ncontent-type: text/plain\r\nx-why: because\r\n\r\nyes"
    )


async def test_calls_that_are_sent_without_waiting_are_handed_over_one_after_the_other() -> None:
    office = Office()
    assert await office.says(CALL + CALL + b"GET / HTTP/1.1\r\n\r\n" + CALL) == []
    for number in range(2):
        assert len(office.taken) == 1
        office.answer()
        assert len(await office.said()) == (1 if number == 0 else 3)
    office.answer()
    said = [line.split()[1] for line in await office.said()]
    assert said == [b"202", b"202", b"204", b"202"]


async def test_a_hundred_calls_that_are_answered_at_once_end_in_order() -> None:
    office = Office()
    said = await office.says(CALL * 100)
    for number in range(100):
        assert len(said) == number
        office.answer()
        said = await office.said()
    assert len(said) == 100


async def test_a_call_of_which_anything_is_unusual_goes_to_the_application() -> None:
    office = Office()
    chunked = b"POST /whole HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
    unsized = b"POST /whole HTTP/1.1\r\n\r\n"
    waiting = CALL.replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n")
    large = b"POST /whole HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (HIGH_WATER_LIMIT + 1)
    other = CALL.replace(b"/whole", b"/other")
    for number, call in enumerate((chunked, unsized, waiting, other, large), start=1):
        said = await office.says(call)
        assert said == [b"HTTP/1.1 204 No Content"] * number
    assert office.taken == []


async def test_calls_of_whoever_does_not_read_the_answers_go_to_the_application_which_waits() -> None:
    office = Office()
    office.http.pause_writing()
    assert await office.says(CALL) == []
    assert office.taken == []
    office.http.resume_writing()
    assert await office.said() == [b"HTTP/1.1 204 No Content"]


async def test_a_connection_that_is_not_to_be_kept_is_closed_behind_the_answer() -> None:
    office = Office()
    await office.says(CALL.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    assert not office.connection.closed
    office.answer()
    assert b"connection: close" in b"".join(office.connection.pieces)
    assert office.connection.closed


async def test_who_asks_when_the_server_is_told_to_stop_is_answered_and_hung_up_on() -> None:
    office = Office()
    await office.says(CALL)
    office.http.shutdown()
    assert not office.connection.closed
    office.answer()
    assert await office.said() == [b"HTTP/1.1 202 Accepted"]
    assert office.connection.closed


async def test_a_call_whose_caller_hung_up_is_not_answered_nor_handed_over_any_more() -> None:
    office = Office()
    await office.says(CALL)
    office.http.data_received(CALL)
    office.http.connection_lost(None)
    office.answer()
    assert await office.said() == []
    assert office.taken == []


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
