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

    A client has `patience_seconds` to begin its first call, to send each whole, and to read the answer. In between its
    connection is kept for `idle_seconds`, longer than nginx keeps its own: a reverse proxy that is hung up on first now
    and then sends a call into a connection that was just closed, and tells the agency that it failed. All of a call
    that is not its body (request line, headers, sizes of chunks, trailers) has at most `framing_bytes_max`, and what
    was read in one go with the last of them. Whoever has more than `pipelined_max` calls wait for the answer to an
    earlier one is hung up on. Beyond `connections_max`, whoever has kept us waiting longest makes room.

    Calls in `whole`, by method and path, are handed over as soon as they are there, if they say how long they are and
    are not large: by ASGI, with a task and messages for each, they would cost more than what they ask for. The same
    calls go to the application where anything about them is unusual, and so do all others.
    """

    whole: ClassVar[Mapping[tuple[str, str], Take]] = {}

    patience_seconds: ClassVar[float] = 30.0
    idle_seconds: ClassVar[float] = 75.0
    framing_bytes_max: ClassVar[int] = 64 * 1024
    pipelined_max: ClassVar[int] = 100
    connections_max: ClassVar[int] = 500

    _waiting_since: float | None = None
    """Since when it is the client's turn, by the loop's time; None while it is not."""
    _allowed_seconds = 0.0
    """How long the turn may take."""
    _alarm: asyncio.TimerHandle | None = None
    _framing_bytes = 0
    _call_begun = False
    _body_begun = False
    _awaited: RequestResponseCycle | None = None
    """The call in turn, if it is to be handed over once it is there whole."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        super().connection_made(cast(asyncio.Transport, OnePiece(transport)))
        self._see_whose_turn()
        if len(self.connections) > self.connections_max:
            connections = [each for each in self.connections if isinstance(each, BoundedHttp)]
            min(connections, key=BoundedHttp._turn_began_at).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting_since = None
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
        self.headers = []  # of trailers, which are nobody's

    def on_message_begin(self) -> None:
        self._call_begun = True
        self._see_whose_turn()
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        self._framing_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._framing_bytes = 0
        self._call_begun = self._body_begun = False
        super().on_message_complete()
        self._see_whose_turn()
        if self._awaited is self.cycle:
            self._hand_over()

    def on_response_complete(self) -> None:
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
        else:
            # As there, but for the timer that it would set and cancel for each call.
            self.server_state.total_requests += 1
            self.flow.resume_reading()
        self._see_whose_turn()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if (cycle.scope["method"], cycle.scope["path"]) not in self.whole or not self._is_usual(cycle):
            super()._start_asgi_task(cycle, app)
            return
        self._awaited = cycle
        if not cycle.more_body:
            self._hand_over()

    def _is_usual(self, cycle: RequestResponseCycle) -> bool:
        """Whether its body will come by itself, and whoever called reads the answers."""
        if cycle.waiting_for_100_continue or self.flow.write_paused:
            return False
        for name, value in cycle.scope["headers"]:
            if name == b"content-length":
                # With a longer body uvicorn stops reading until somebody takes what came.
                return value.isdigit() and len(value) <= 6 and int(value) <= HIGH_WATER_LIMIT
        return False

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
        super().pause_writing()
        self._see_whose_turn()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._see_whose_turn()

    def _see_whose_turn(self) -> None:
        """Called with whatever may change it. The client's time runs anew where it has something else to do now."""
        if self._call_begun or self.flow.write_paused or self.cycle is None:
            allowed_seconds = self.patience_seconds
        elif self.cycle.response_complete:
            allowed_seconds = self.idle_seconds
        else:
            self._waiting_since, self._allowed_seconds = None, 0.0
            return
        if allowed_seconds != self._allowed_seconds:
            self._waiting_since, self._allowed_seconds = self.loop.time(), allowed_seconds
            self._set_alarm(self._waiting_since + allowed_seconds)

    def _set_alarm(self, patience_ends: float) -> None:
        """One alarm for all turns of the client, put off where it came for one that is over: one each costs more."""
        if self._alarm is not None and self._alarm.when() > patience_ends:
            self._alarm.cancel()
            self._alarm = None
        if self._alarm is None:
            self._alarm = self.loop.call_at(patience_ends, self._look_at_the_time)

    def _turn_began_at(self) -> float:
        return float("inf") if self._waiting_since is None else self._waiting_since

    def _look_at_the_time(self) -> None:
        self._alarm = None
        if self._waiting_since is None:
            return
        patience_ends = self._waiting_since + self._allowed_seconds
        if self.loop.time() < patience_ends:
            self._set_alarm(patience_ends)
        else:
            self._give_up()

    def _give_up(self) -> None:
        self._waiting_since = None
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
