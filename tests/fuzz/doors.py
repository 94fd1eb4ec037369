"""Intake's HTTP door behind a real uvicorn on a real socket, in a thread of its own."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from deploy.local.ports import LOOPBACK
from services.intake.app import build_doors
from shared.clock import ManualClock
from shared.contract.agency import RequestSubmitted
from shared.contract.events import Language
from shared.http import BoundedHttp
from shared.jurisdiction import Agency, Jurisdiction, key_digest
from shared.metrics import IntakeMetrics
from shared.store.sqlite import SqliteStore
from tests.fakes import MemoryPublisher

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
KEY = "cnss.first-secret"
HANG_SECONDS = 30.0
"""What says nothing for so long hangs, on a busy machine too: every bound in these tests is far shorter."""


class Hasty(BoundedHttp):
    """The bounds of the real door, reached in a test's time."""

    patience_seconds = 0.3
    idle_seconds = 0.6
    connections_max = 40


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; None where the door hung up without a word."""

    status: int | None
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


NOTHING = Answer(None, {}, b"")


@dataclass(frozen=True, slots=True)
class HttpDoorAddress:
    """Where the door listens, and its application."""

    port: int
    app: FastAPI

    def connect(self) -> socket.socket:
        return socket.create_connection((LOOPBACK, self.port), timeout=HANG_SECONDS)

    def call(self, request: bytes, *, method: str = "POST") -> Answer:
        """The answer to a request written byte by byte as it is. TimeoutError if the door hangs."""
        with self.connect() as connection:
            # Whoever is refused early may be hung up on while still speaking.
            with contextlib.suppress(ConnectionError):
                connection.sendall(request)
            return read_answer(connection, method)

    def call_all(self, requests: Sequence[bytes]) -> list[Answer]:
        """The answers to requests that are under way at the same time, on a connection each."""
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(self.connect()) for _ in requests]
            for connection, request in zip(connections, requests, strict=True):
                with contextlib.suppress(ConnectionError):
                    connection.sendall(request)
            return [read_answer(connection) for connection in connections]


def read_answer(connection: socket.socket, method: str = "POST") -> Answer:
    response = HTTPResponse(connection, method=method)
    try:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())
    except (ConnectionError, HTTPException):
        return NOTHING
    finally:
        response.close()


def post(body: bytes, *headers: tuple[bytes, bytes], kind: bytes = b"application/cloudevents+json") -> bytes:
    """A call that publishes, with its key and length."""
    lines = [
        b"POST /v1/events HTTP/1.1",
        b"host: intake",
        b"authorization: Bearer " + KEY.encode(),
        b"content-type: " + kind,
        b"content-length: %d" % len(body),
        *(name + b": " + value for name, value in headers),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def submission(number: str = "1", **other: Any) -> dict[str, Any]:
    """A submission as an agency writes it."""
    event = {
        "specversion": "1.0",
        "id": f"submit-{number}",
        "source": "/agency",
        "type": RequestSubmitted.TYPE,
        "time": "2026-03-01T08:00:00Z",
        "data": {
            "agency_reference": number,
            "service_code": "birth-certificate",
            "applicant": {"name": "Asha", "phone": "77 00 00 01", "email": "a@example.org", "language": "fr"},
            "description": "Deux copies",
            "place": {"zone": "Balbala", "latitude": 11.57, "longitude": 43.12},
            "attributes": {"copies": 2},
        },
    }
    return event | other


def jurisdiction() -> Jurisdiction:
    return Jurisdiction(
        name="Test",
        timezone=ZoneInfo("Africa/Djibouti"),
        phone_region="DJ",
        default_language=Language.FRENCH,
        sms_sender="Guichet",
        mail_from="guichet@example.org",
        agencies={"cnss": Agency("cnss", "cnss", key_digests=(key_digest(KEY.split(".")[1]),))},
        services={},
        offices={},
    )


@contextlib.contextmanager
def http_door(directory: Path) -> Iterator[HttpDoorAddress]:
    """The door, open until the end of the block. Its background task must still run by then."""
    listener = socket.create_server((LOOPBACK, 0))
    opened: Future[tuple[FastAPI, uvicorn.Server]] = Future()
    with ThreadPoolExecutor(max_workers=1) as thread:
        serving = thread.submit(asyncio.run, _serve(directory, listener, opened))
        app, server = opened.result(HANG_SECONDS)
        try:
            yield HttpDoorAddress(listener.getsockname()[1], app)
        finally:
            server.should_exit = True
            serving.result()


async def _serve(directory: Path, listener: socket.socket, opened: Future[tuple[FastAPI, uvicorn.Server]]) -> None:
    store = SqliteStore(directory / "intake.db")
    await store.open()
    doors = build_doors(
        jurisdiction(),
        store=store,
        publisher=MemoryPublisher(),
        clock=ManualClock(NOW),
        metrics=IntakeMetrics(CollectorRegistry()),
    )
    gathering = asyncio.create_task(doors.gatherer.run())

    class Http(Hasty):
        whole = doors.whole

    server = uvicorn.Server(
        uvicorn.Config(doors.http, http=Http, ws="none", log_config=None, access_log=False, server_header=False)
    )
    opened.set_result((doors.http, server))
    await server.serve(sockets=[listener])
    assert not gathering.done(), "the task that decides has ended"
    gathering.cancel()
    await store.close()
