"""A load of HTTP calls from a process of its own: `python -m benchmarks.http_load --port 8080 --key … --seconds 10`.

Without a rate each connection makes its next call once the one before was answered. With one, calls have their times
beforehand, and a latency counts from the time at which a call was meant to be made, whether or not a connection was
free for it: a slow server is not asked less. A connection that the server closed is opened anew, and a call that it
had not answered is made again. Prints what came of it as JSON.
"""

import argparse
import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Final, cast

import uvloop
from httptools import HttpResponseParser

from benchmarks.events import submissions
from deploy.local.ports import LOOPBACK

BATCH_TYPE: Final = "application/cloudevents-batch+json"
SINGLE_TYPE: Final = "application/cloudevents+json"
PACE_SECONDS: Final = 0.001
ANSWER_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to call, and how often. `rate` in calls a second; None: as fast as answers come."""

    host: str
    port: int
    key: str
    run: str
    batch: int
    connections: int
    warm_seconds: float
    seconds: float
    rate: float | None


@dataclass(frozen=True, slots=True)
class Calls:
    """What came of it, after warming up. `made` are all events that were taken, those of the warming up included."""

    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_us: float
    made: int
    refused: dict[int, int]


class _Connection(asyncio.Protocol):
    """One call at a time."""

    def __init__(self, load: "_Load") -> None:
        self._load = load
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._content = b""
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _error: Exception | None) -> None:
        self._load.lost(self, self._content, self._due)

    def call(self, content: bytes, due: float) -> None:
        """Make a call that was due at this time."""
        self._content, self._due = content, due
        cast(asyncio.Transport, self._transport).write(content)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._load.answered(self, self._due, self._parser.get_status_code())
        self._parser = HttpResponseParser(self)


class _Load:
    """Hands calls to connections as they are free, and keeps how long each took."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._calls = _calls(plan)
        self._free: list[_Connection] = []
        self._due: deque[float] = deque()
        self._unanswered: deque[tuple[bytes, float]] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._started = self._counts_from = self._ends = 0.0
        self._cpu_from = 0.0
        self._seconds: list[float] = []
        self._taken = 0
        self._refused: Counter[int] = Counter()
        self._open = 0
        self._pacing = False
        self._finished = asyncio.Event()

    async def run(self) -> Calls:
        """All of it; ConnectionError if no call was taken, TimeoutError if some are never answered."""
        plan = self._plan
        for _ in range(plan.connections):
            await self._connect()
        self._started = time.perf_counter()
        self._counts_from = self._started + plan.warm_seconds
        self._ends = self._counts_from + plan.seconds
        loop = asyncio.get_running_loop()
        loop.call_later(plan.warm_seconds, self._note_cpu)
        loop.call_later(plan.warm_seconds + plan.seconds + PACE_SECONDS, self._finish)
        if plan.rate is None:
            self._due.extend([self._started] * plan.connections)
            self._make()
        else:
            await self._pace(plan.rate)
            self._finish()
        async with asyncio.timeout(plan.warm_seconds + plan.seconds + ANSWER_SECONDS):
            await self._finished.wait()
        cpu_seconds = time.process_time() - self._cpu_from
        if not self._seconds:
            raise ConnectionError(f"no call was taken: {dict(self._refused)}")
        ordered = sorted(self._seconds)
        events = len(ordered) * plan.batch
        return Calls(
            per_second=events / plan.seconds,
            p50_ms=_quantile(ordered, 0.50) * 1000,
            p99_ms=_quantile(ordered, 0.99) * 1000,
            max_ms=ordered[-1] * 1000,
            cpu_us=cpu_seconds / events * 1e6,
            made=self._taken * plan.batch,
            refused=dict(self._refused),
        )

    async def _pace(self, rate: float) -> None:
        """Make each call due at its time."""
        due, self._pacing = self._started, True
        while due < self._ends:
            # Woken for each call, or for several that are due so soon after each other.
            await asyncio.sleep(max(PACE_SECONDS, due - time.perf_counter()))
            now = time.perf_counter()
            while due <= min(now, self._ends):
                self._due.append(due)
                due += 1 / rate
            self._make()
        self._pacing = False

    def answered(self, connection: _Connection, due: float, status: int) -> None:
        """A call was answered; its connection makes the next one."""
        now = time.perf_counter()
        self._open -= 1
        if status == 202:
            self._taken += 1
            # By when it was due if that was planned, else by when it was answered.
            counted = due if self._plan.rate else now
            if self._counts_from <= counted < self._ends:
                self._seconds.append(now - due)
        else:
            self._refused[status] += 1
        self._free.append(connection)
        if self._plan.rate is None and now < self._ends:
            self._due.append(now)
        self._make()
        self._finish()

    def lost(self, connection: _Connection, content: bytes, due: float) -> None:
        """The server closed a connection, as it does with one that is idle for seconds."""
        if self._finished.is_set():
            return
        if connection in self._free:
            self._free.remove(connection)
        else:
            self._open -= 1
            self._unanswered.append((content, due))
        opening = asyncio.create_task(self._connect())
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        plan = self._plan
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(self), plan.host, plan.port
        )
        self._free.append(connection)
        self._make()

    def _make(self) -> None:
        """Make what calls can be made; the connection that was used last goes first, and others may end idle."""
        while self._free and (self._unanswered or self._due):
            content, due = self._unanswered.popleft() if self._unanswered else (next(self._calls), self._due.popleft())
            self._open += 1
            self._free.pop().call(content, due)

    def _finish(self) -> None:
        over = time.perf_counter() >= self._ends and not self._pacing
        if over and not (self._open or self._due or self._unanswered):
            self._finished.set()

    def _note_cpu(self) -> None:
        self._cpu_from = time.process_time()


def _calls(plan: Plan) -> Iterator[bytes]:
    events = (event for _, event in submissions(plan.run))
    head = (
        f"POST /v1/events HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\nAuthorization: Bearer {plan.key}\r\n"
        f"Content-Type: {SINGLE_TYPE if plan.batch == 1 else BATCH_TYPE}\r\nContent-Length: "
    ).encode()
    while True:
        body = next(events) if plan.batch == 1 else b"[" + b",".join(islice(events, plan.batch)) + b"]"
        yield head + b"%d\r\n\r\n" % len(body) + body


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _arguments() -> Plan:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http_load", description=__doc__)
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True, help="the API key of the agency whose events these are")
    parser.add_argument("--run", required=True, help="what its events' ids begin with")
    parser.add_argument("--batch", type=int, default=1, help="events in a call")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--warm-seconds", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, help="calls a second; without it, as fast as answers come")
    return Plan(**vars(parser.parse_args()))


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(_Load(_arguments()).run()))))
