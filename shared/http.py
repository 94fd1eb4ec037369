"""HTTP/1.1 as uvicorn speaks it, with bounds on how long and how large a call may be, and a short way to an answer.

uvicorn waits for ever for the rest of a head, a body or a reader, and keeps a head of any size. A few hundred
connections that drip a byte now and then would keep everybody else out; these bounds are why they can't. Many calls
from one address are a reverse proxy's to refuse: behind one, all calls come from the proxy.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from shared.contract.reasons import MEANINGS, Reason
from shared.one_piece import OnePiece

Fields = Sequence[tuple[bytes, bytes]]
"""The headers of a call as they came, their names in lower case."""


class Answer(NamedTuple):
    """A whole answer to a call. `headers` are those beside its type and length."""

    status: int
    media_type: str
    body: bytes
    headers: Mapping[str, str] = {}


Take = Callable[[Fields, bytes, Callable[[Answer], None]], None]
"""Answers a call that is there whole, given its headers and its body: once, now or later. Raises nothing."""


class BoundedHttp(HttpToolsProtocol):
    """One connection. What can't be read as a call, or does not come in time, is told in RFC 9457 problem details.

    A client has `patience_seconds` to send a call whole, and again to read the answer. All of a call that is not its
    body (request line, headers, sizes of chunks, trailers) has at most `framing_bytes_max`, and what was read in one
    go with the last of them. Whoever has more than `pipelined_max` calls wait for the answer to an earlier one is hung
    up on. Beyond `connections_max`, whoever has kept us waiting longest makes room.

    Calls in `whole`, by method and path, are handed over as soon as they are there, if they say how long they are and
    are not large: by ASGI, with a task and messages for each, they would cost more than what they ask for. The same
    calls go to the application where anything about them is unusual, and so do all others.
    """

    whole: ClassVar[Mapping[tuple[str, str], Take]] = {}

    patience_seconds: ClassVar[float] = 30.0
    framing_bytes_max: ClassVar[int] = 64 * 1024
    pipelined_max: ClassVar[int] = 100
    connections_max: ClassVar[int] = 500

    _patience_ends: float | None = None
    """When the client will have kept us waiting for too long, by the loop's time; None while it is not its turn."""
    _alarm: asyncio.TimerHandle | None = None
    _framing_bytes = 0
    _body_begun = False
    _awaited: RequestResponseCycle | None = None
    """The call in turn, if it is to be handed over once it is there whole."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        super().connection_made(cast(asyncio.Transport, OnePiece(transport)))
        self._wait()
        if len(self.connections) > self.connections_max:
            waiting = [each for each in self.connections if isinstance(each, BoundedHttp) and each._patience_ends]
            min(waiting, key=BoundedHttp._gives_up_at).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        if self._alarm is not None:
            self._alarm.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._framing_bytes += len(data)
        super().data_received(data)
        if len(self.pipeline) > self.pipelined_max:
            self.transport.abort()
        if self._framing_bytes > self.framing_bytes_max and not self.transport.is_closing():
            self._refuse(431, Reason.TOO_LARGE, f"a call has at most {self.framing_bytes_max} bytes beside its body")

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, Reason.NOT_HTTP, msg)

    def on_headers_complete(self) -> None:
        self._body_begun = True
        super().on_headers_complete()

    def on_message_begin(self) -> None:
        self._body_begun = False
        self._wait()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._body_begun:  # a trailer is nobody's
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._framing_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._framing_bytes = 0
        self._body_begun = False
        self._wait_no_more()
        super().on_message_complete()
        if self._awaited is self.cycle:
            self._hand_over()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:
            self._wait()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if (cycle.scope["method"], cycle.scope["path"]) not in self.whole or not self._is_usual(cycle):
            super()._start_asgi_task(cycle, app)
            return
        self._awaited = cycle
        if not cycle.more_body:
            self._hand_over()

    def _is_usual(self, cycle: RequestResponseCycle) -> bool:
        """Whether its body will come by itself, and whoever called reads the answers."""
        length = next((value for name, value in cycle.scope["headers"] if name == b"content-length"), b"")
        # With a longer body uvicorn stops reading until somebody takes what came.
        comes = length.isdigit() and len(length) <= 6 and int(length) <= HIGH_WATER_LIMIT
        return comes and not cycle.waiting_for_100_continue and not self.flow.write_paused

    def _hand_over(self) -> None:
        """Not now: the parser is amid what was read, and an answer leads to the next call in line."""
        cycle, self._awaited = cast(RequestResponseCycle, self._awaited), None
        self.loop.call_soon(self._take, cycle)

    def _take(self, cycle: RequestResponseCycle) -> None:
        if not cycle.disconnected:
            take = self.whole[cycle.scope["method"], cycle.scope["path"]]
            take(cast(Fields, cycle.scope["headers"]), bytes(cycle.body), partial(self._answer, cycle))

    def _answer(self, cycle: RequestResponseCycle, answer: Answer) -> None:
        if cycle.disconnected or self.transport.is_closing():
            return
        cycle.response_started = cycle.response_complete = True
        self._write(answer, keep_alive=cycle.keep_alive)
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _write(self, answer: Answer, *, keep_alive: bool) -> None:
        fields = [
            *self.server_state.default_headers,
            (b"content-length", b"%d" % len(answer.body)),
            (b"content-type", answer.media_type.encode()),
            *((name.lower().encode(), value.encode()) for name, value in answer.headers.items()),
            *(() if keep_alive else ((b"connection", b"close"),)),
        ]
        head = b"".join(b"%b: %b\r\n" % field for field in fields)
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[answer.status], head, answer.body))

    def pause_writing(self) -> None:
        self._wait()
        super().pause_writing()

    def resume_writing(self) -> None:
        if not self.cycle.response_complete and not self.cycle.more_body:
            self._wait_no_more()
        super().resume_writing()

    def _wait(self) -> None:
        """It is the client's turn, from now on if it was not before."""
        if self._patience_ends is None:
            self._patience_ends = self.loop.time() + self.patience_seconds
            if self._alarm is None:
                self._alarm = self.loop.call_at(self._patience_ends, self._look_at_the_time)

    def _wait_no_more(self) -> None:
        self._patience_ends = None

    def _gives_up_at(self) -> float:
        return self._patience_ends or float("inf")

    def _look_at_the_time(self) -> None:
        """One alarm for all turns of the client, put off where it came for one that is over: one each costs more."""
        self._alarm = None
        if self._patience_ends is None:
            return
        if self.loop.time() < self._patience_ends:
            self._alarm = self.loop.call_at(self._patience_ends, self._look_at_the_time)
        else:
            self._give_up()

    def _give_up(self) -> None:
        self._wait_no_more()
        if self._framing_bytes and self._is_next():
            self._refuse(408, Reason.TOO_SLOW, f"a call has to be there whole within {self.patience_seconds:g} s")
        else:
            self.transport.abort()

    def _is_next(self) -> bool:
        """Whether the answer that the client waits for is that to the call which is being read."""
        if self._body_begun:
            return not self.cycle.response_started and not self.pipeline
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, status: int, reason: Reason, detail: str) -> None:
        """Read no more, and hang up once what is to be said is said."""
        if not self._is_next():
            self.flow.pause_reading()
            self.cycle.keep_alive = False  # then uvicorn hangs up behind the answer to an earlier call
            if self.cycle.response_complete:
                self.transport.close()
            return
        problem = {
            "type": f"urn:guichet:problem:{reason}",
            "title": MEANINGS[reason],
            "status": status,
            "reason": reason,
            "detail": detail,
        }
        self._write(Answer(status, "application/problem+json", json.dumps(problem).encode()), keep_alive=False)
        self.transport.close()
