import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from services.intake.app import build_doors
from services.intake.domain import Received, Verdict
from shared import http
from shared.bus.gather import Gatherer
from shared.bus.port import Publication, Unavailable
from shared.clock import ManualClock
from shared.contract.agency import RequestSubmitted, StatusChanged
from shared.contract.events import Language
from shared.http import Take
from shared.jurisdiction import Agency, Jurisdiction, key_digest
from shared.metrics import IntakeMetrics
from shared.store.port import Store
from shared.store.sqlite import SqliteStore

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
KEYS = {"cnss": "cnss.first-secret", "edd": "edd.second-secret"}
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"


def submission(number: str = "1", **other: Any) -> dict[str, Any]:
    """A submission as an agency writes it."""
    event = {
        "specversion": "1.0",
        "id": f"submit-{number}",
        "source": "/agency",
        "type": RequestSubmitted.TYPE,
        "time": "2026-03-01T08:00:00Z",
        "data": {"agency_reference": number, "service_code": "birth-certificate"},
    }
    return event | other


def status_change(status: str, number: str = "1", **other: Any) -> dict[str, Any]:
    """A change of status as an agency writes it."""
    data = {"agency_reference": number, "status": status}
    event = {"id": f"{status}-{number}", "type": StatusChanged.TYPE, "time": "2026-03-01T09:00:00Z", "data": data}
    return submission() | event | other


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class MemoryPublisher:
    """Keeps what is published, or says that Kafka is away, or lets it wait until `acknowledges` is set.

    `asked` is how often it was asked to.
    """

    asked: int = 0
    published: list[Publication] = field(default_factory=list)
    away: bool = False
    acknowledges: asyncio.Event = field(default_factory=_set)

    async def publish(self, publications: Sequence[Publication]) -> None:
        self.asked += 1
        await self.acknowledges.wait()
        if self.away:
            raise Unavailable("no broker answers")
        self.published.extend(publications)


@dataclass(frozen=True)
class Answer:
    """What the door answered. `body_read`: whether it asked for any of the body."""

    status: int
    headers: dict[str, str]
    body: bytes
    body_read: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> Any:
        """The reason code of a problem, which is told as such."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.json["status"] == self.status
        return self.json["reason"]


@dataclass
class Client:
    """An agency's HTTP client, in the same process as the application."""

    app: ASGIApp
    publisher: MemoryPublisher
    store: Store
    registry: CollectorRegistry
    metrics: IntakeMetrics
    jurisdiction: Jurisdiction
    gatherer: Gatherer[Received, Verdict]
    whole: Mapping[tuple[str, str], Take]
    """Calls that are handed over past the application."""

    async def call(
        self,
        method: str,
        path: str,
        body: bytes | Sequence[bytes] = b"",
        *,
        key: str | None = KEYS["cnss"],
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        announce: bool = True,
    ) -> Answer:
        """One call. A body in several pieces is one sent in chunks, without a length."""
        pieces = [body] if isinstance(body, bytes) else list(body)
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
        if key is not None:
            pairs.append(("authorization", f"Bearer {key}"))
        if isinstance(body, bytes) and announce:
            pairs.append(("content-length", str(len(body))))
        fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs]
        take = self.whole.get((method, path))
        if take is not None and len(pieces) == 1 and announce and len(pieces[0]) <= HIGH_WATER_LIMIT:
            answered_whole: asyncio.Future[http.Answer] = asyncio.get_running_loop().create_future()
            take(fields, pieces[0], answered_whole.set_result)
            said = await answered_whole
            named = {"content-type": said.media_type} | {name.lower(): value for name, value in said.headers.items()}
            return Answer(said.status, named, said.body, body_read=False)
        path, _, query = path.partition("?")
        unread = list(pieces)
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            piece = unread.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(unread)}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": fields,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        await self.app(scope, receive, send)
        answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        content = b"".join(message.get("body", b"") for message in sent[1:])
        return Answer(sent[0]["status"], answered, content, len(unread) < len(pieces))

    async def post(self, event: Any, *, kind: str = STRUCTURED, **other: Any) -> Answer:
        """Publish one event in structured mode, or whatever bytes are given."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        return await self.call("POST", "/v1/events", body, headers={"content-type": kind}, **other)

    async def post_batch(self, events: Any, **other: Any) -> Answer:
        return await self.post(events, kind=BATCH, **other)

    async def post_binary(self, data: Any, attributes: Mapping[str, str] | Sequence[tuple[str, str]]) -> Answer:
        pairs = list(attributes.items() if isinstance(attributes, Mapping) else attributes)
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        headers = [("content-type", "application/json"), *((f"ce-{name}", value) for name, value in pairs)]
        return await self.call("POST", "/v1/events", body, headers=headers)

    async def get(self, path: str, **other: Any) -> Answer:
        return await self.call("GET", path, **other)

    def sample(self, name: str, **labels: str) -> float | None:
        """A metric's present value."""
        return self.registry.get_sample_value(name, labels)


def jurisdiction() -> Jurisdiction:
    agencies = {name: Agency(name, name, key_digests=(key_digest(key.split(".")[1]),)) for name, key in KEYS.items()}
    return Jurisdiction(
        name="Test",
        timezone=ZoneInfo("Africa/Djibouti"),
        phone_region="DJ",
        default_language=Language.FRENCH,
        sms_sender="Guichet",
        mail_from="guichet@example.org",
        agencies=agencies,
        services={},
        offices={},
    )


@pytest_asyncio.fixture(params=["by ASGI", "whole"])
async def client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Client]:
    store = SqliteStore(tmp_path / "intake.db")
    await store.open()
    registry, publisher = CollectorRegistry(), MemoryPublisher()
    metrics, register = IntakeMetrics(registry), jurisdiction()
    doors = build_doors(
        register,
        store=store,
        publisher=publisher,
        clock=ManualClock(NOW),
        metrics=metrics,
    )
    gathering = asyncio.create_task(doors.gatherer.run())
    whole = doors.whole if request.param == "whole" else {}
    yield Client(doors.http, publisher, store, registry, metrics, register, doors.gatherer, whole)
    gathering.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await gathering
    await store.close()


@pytest.fixture
def submit() -> Callable[..., dict[str, Any]]:
    return submission


@pytest.fixture
def change() -> Callable[..., dict[str, Any]]:
    return status_change
