"""What a service says of itself at /live and /ready, on real Kafka."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from starlette.applications import Starlette
from starlette.types import Message

from shared.bus.breaker import LIMIT_IN_A_ROW
from shared.bus.port import Incoming, Publication
from shared.contract.events import Event
from shared.service import Service
from shared.settings import ServiceSettings
from tests.mesh.bus.conftest import PATIENCE_SECONDS

if TYPE_CHECKING:
    from tests.mesh.bus.conftest import Cluster


def service(cluster: "Cluster", data_dir: Path) -> Service:
    settings = ServiceSettings(kafka_bootstrap_servers=cluster.bootstrap, data_dir=data_dir, jurisdiction_dir=data_dir)
    return Service(f"test-{uuid4().hex}", settings)


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    @property
    def reasons(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.body)["reasons"]
        return found


async def get(app: Starlette, path: str) -> Answer:
    """What the application answers."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}, receive, send)
    return Answer(sent[0]["status"], b"".join(message.get("body", b"") for message in sent))


async def until(app: Starlette, path: str, holds: Callable[[Answer], bool]) -> Answer:
    """The first answer that is as wanted."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds(answer := await get(app, path)):
        assert time.monotonic() < deadline, answer
        await asyncio.sleep(0.05)
    return answer


async def no_events(batch: Sequence[Incoming[Event]]) -> list[Publication]:
    return []


async def test_a_stopped_consumer_is_neither_live_nor_ready_says_why_and_still_shows_its_metrics(
    cluster: "Cluster", tmp_path: Path
) -> None:
    topic = await cluster.create("in")
    mesh = service(cluster, tmp_path)
    mesh.consume([topic], no_events)
    app = mesh.app()
    async with app.router.lifespan_context(app):
        await until(app, "/ready", lambda answer: answer.status == 200)
        await asyncio.gather(*(cluster.send(topic, b"{") for _ in range(2 * LIMIT_IN_A_ROW)))
        for path in ("/live", "/ready"):
            answer = await until(app, path, lambda answer: answer.status == 503)
            assert "could not be processed" in answer.reasons["bus"]
        metrics = (await get(app, "/metrics")).body.decode()
        assert 'guichet_consumer_stopped{reason="dead_letters"} 1.0' in metrics
        assert 'guichet_consumer_stopped{reason="offsets_gone"} 0.0' in metrics


async def test_a_task_beside_that_fails_or_ends_is_not_live(cluster: "Cluster", tmp_path: Path) -> None:
    again = asyncio.Event()

    async def fails_once() -> None:
        if not again.is_set():
            again.set()
            raise RuntimeError("on purpose")
        await asyncio.Event().wait()

    async def ends() -> None:
        await again.wait()

    mesh = service(cluster, tmp_path)
    mesh.run_beside("sender", fails_once)
    mesh.run_beside("backlog", ends)
    app = mesh.app()
    async with app.router.lifespan_context(app):
        answer = await until(app, "/live", lambda answer: len(answer.reasons) == 2)
        assert answer.reasons == {"sender": "RuntimeError('on purpose')", "backlog": "has ended"}
        answer = await until(app, "/live", lambda answer: "sender" not in answer.reasons)
        assert (answer.status, answer.reasons) == (503, {"backlog": "has ended"})


async def test_what_a_services_own_watchdog_says_is_a_reason_to_be_restarted(
    cluster: "Cluster", tmp_path: Path
) -> None:
    stuck: list[str] = []
    mesh = service(cluster, tmp_path)
    mesh.watch("watchdog", lambda after_seconds: f"{stuck[0]} for {after_seconds:g} s" if stuck else None)
    app = mesh.app()
    async with app.router.lifespan_context(app):
        assert (await get(app, "/live")).status == 200
        stuck.append("mails wait")
        answer = await get(app, "/live")
        assert (answer.status, answer.reasons) == (503, {"watchdog": "mails wait for 120 s"})


async def test_a_service_that_could_not_start_for_a_reason_that_does_not_pass_is_not_live(
    cluster: "Cluster", tmp_path: Path
) -> None:
    async def prepare() -> None:
        raise RuntimeError("on purpose")

    mesh = service(cluster, tmp_path)
    mesh.on_start(prepare)
    app = mesh.app()
    async with app.router.lifespan_context(app):
        answer = await until(app, "/live", lambda answer: answer.status == 503)
        assert answer.reasons == {"run": "RuntimeError('on purpose')"}
