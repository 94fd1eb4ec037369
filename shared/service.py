"""The shell every service lives in: store, publisher, consumers, tasks beside them, and three HTTP answers.

`/live` says whether this process should be left alone, `/ready` whether it can do its work now, `/metrics` what it did.
"""

import asyncio
import contextlib
import gc
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import uvicorn
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import generate_latest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from shared.bus.kafka import LINGER_MS, KafkaBus, KafkaPublisher
from shared.bus.loop import Decode, Handle
from shared.bus.port import Incoming, Publisher, Unavailable
from shared.clock import Clock, SystemClock
from shared.config import ConfigError
from shared.contract.events import Event
from shared.contract.topics import Topic
from shared.http import BoundedHttp, Take
from shared.log import configure_logging, get_logger
from shared.metrics import BusMetrics
from shared.settings import ServiceSettings, wrong_settings
from shared.store import open_store
from shared.store.failing import FailingStore
from shared.store.port import Store, StoreUnavailable

T = TypeVar("T")

STUCK_SECONDS = 120.0
RESTART_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
READINESS_TIMEOUT_SECONDS = 3.0
CALLS_SECONDS = 5
"""How long HTTP calls may still take when the service is told to stop, before it stops the rest."""

SWITCH_SECONDS = 0.0005
"""How long a thread that wants the interpreter waits for one that does not let go of it: the store's has to get it back
after each statement, and by Python's own 5 ms would wait ten times as long for a busy event loop."""

GARBAGE_AFTER = 10_000
"""How many new objects make the garbage collector look for cycles, of which work leaves next to none. By Python's own
700 it looks several times a batch, and takes a tenth of a sender's time."""

log = get_logger(__name__)


class Service:
    """One service of the mesh. Wire it in `app.py`, then serve what `app()` returns."""

    def __init__(
        self, name: str, settings: ServiceSettings, *, clock: Clock | None = None, store: Store | None = None
    ) -> None:
        configure_logging(name, settings.log_level)
        self.name = name
        self.settings = settings
        self.clock = clock or SystemClock()
        self.failpoints = settings.failpoints
        self.store = store or open_store(
            name,
            mongodb_url=settings.mongodb_url,
            mongodb_database=settings.mongodb_database,
            data_dir=settings.data_dir,
        )
        if self.failpoints:
            log.warning("failpoints are armed")
            self.store = FailingStore(self.store, self.failpoints)
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        metrics = BusMetrics(self.registry)
        access = settings.kafka_access()
        self._publisher = KafkaPublisher(name, access, metrics, failpoints=self.failpoints)
        self.bus = KafkaBus(
            name,
            access,
            publisher=self._publisher,
            clock=self.clock,
            metrics=metrics,
            failpoints=self.failpoints,
        )
        self._before_consuming: list[Callable[[], Awaitable[None]]] = []
        self._beside: dict[str, Callable[[], Awaitable[None]]] = {}
        self._watched: dict[str, Callable[[float], str | None]] = {"bus": self.bus.stuck}
        self._failing: dict[str, str] = {"start": "starting"}
        self._running: asyncio.Task[None] | None = None
        self._checks: dict[str, Callable[[], Awaitable[None]]] = {
            "store": self.store.ping,
            "kafka": self._publisher.ping,
        }

    @property
    def publisher(self) -> Publisher:
        """Publishes to the mesh's topics."""
        return self._publisher

    def consume(self, topics: Sequence[Topic], handle: Handle[Incoming[Event]], *, linger_ms: int = LINGER_MS) -> None:
        """Hand every event on these topics to the handler, in batches, in order per partition.

        What comes may wait for as long as `linger_ms` for more.
        """
        self.bus.consume(topics, handle, linger_ms=linger_ms)

    def consume_pattern(self, pattern: str, decode: Decode[T], handle: Handle[T], *, label: str) -> None:
        """Hand every record on topics whose name matches, now or later, to the handler."""
        self.bus.consume_pattern(pattern, decode, handle, label=label)

    async def read_up(self, topic: Topic) -> None:
        """Return once all replicas have done what stood on the topic when this was called; else raise Unavailable."""
        await self.bus.read_up(topic)

    def on_start(self, prepare: Callable[[], Awaitable[None]]) -> None:
        """Run this once the store is open, before anything is consumed."""
        self._before_consuming.append(prepare)

    def run_beside(self, name: str, task: Callable[[], Awaitable[None]]) -> None:
        """Run this from start to stop, cancelled at the end. If it fails it is restarted, and `/live` says so."""
        self._beside[name] = task

    def check(self, name: str, ready: Callable[[], Awaitable[None]]) -> None:
        """A further condition of readiness: raises when this part can't be used now."""
        self._checks[name] = ready

    def watch(self, name: str, stuck: Callable[[float], str | None]) -> None:
        """A further condition of life: says why only a new process helps, if it was so for more than these seconds."""
        self._watched[name] = stuck

    def app(
        self, routes: Sequence[BaseRoute] = (), *, whole: Mapping[tuple[str, str], Take] = BoundedHttp.whole
    ) -> Starlette:
        """The ASGI application: the service's own routes and the three that all have.

        `whole`: by method and path, calls that `run` hands over past the application where it can, see BoundedHttp.
        """
        app = Starlette(
            routes=[
                Route("/live", self._live),
                Route("/ready", self._ready),
                Route("/metrics", self._metrics),
                *routes,
            ],
            lifespan=self._lifespan,
        )
        app.state.settings = self.settings
        app.state.service = self
        app.state.whole = whole
        return app

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        running = self._running = asyncio.create_task(self._run(), name=self.name)
        try:
            yield
        finally:
            log.info("stopping")
            await self.bus.stop()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await self._publisher.stop()
            await self.store.close()
            log.info("stopped")

    async def _run(self) -> None:
        """Start what can be started, again and again until it is, then run the tasks beside the consumers."""
        for attempt in itertools.count():
            try:
                await self._start()
                break
            except (Unavailable, StoreUnavailable) as error:
                self._failing["start"] = str(error)
                log.warning("waiting for a part", detail=str(error))
                await asyncio.sleep(RESTART_SECONDS[min(attempt, len(RESTART_SECONDS) - 1)])
            except Exception:
                log.exception("could not start")
                raise
        self._failing.pop("start", None)
        log.info("started")
        async with asyncio.TaskGroup() as group:
            for name, task in self._beside.items():
                group.create_task(self._supervise(name, task), name=name)

    async def _start(self) -> None:
        await self.store.open()
        await self._publisher.start()
        for prepare in self._before_consuming:
            await prepare()
        await self.bus.start()

    async def _supervise(self, name: str, task: Callable[[], Awaitable[None]]) -> None:
        for attempt in itertools.count():
            try:
                await task()
                self._failing[name] = "has ended"
                return
            except Exception as error:
                log.exception("a task failed and is restarted", task=name)
                self._failing[name] = repr(error)
            await asyncio.sleep(RESTART_SECONDS[min(attempt, len(RESTART_SECONDS) - 1)])
            self._failing.pop(name, None)

    async def _live(self, _request: Request) -> Response:
        reasons = {name: reason for name, reason in self._failing.items() if name != "start"}
        running = self._running
        if running is not None and running.done() and not running.cancelled() and (error := running.exception()):
            reasons["run"] = repr(error)
        for name, stuck in self._watched.items():
            if why := stuck(STUCK_SECONDS):
                reasons[name] = why
        return JSONResponse(
            {"service": self.name, "live": not reasons, "reasons": reasons}, status_code=503 if reasons else 200
        )

    async def _ready(self, _request: Request) -> Response:
        reasons = dict(self._failing)
        if not reasons:
            if stopped := self.bus.stopped():
                reasons["bus"] = stopped
            elif not self.bus.joined():
                reasons["bus"] = "not a member of its consumer group yet"
            for name, ready in self._checks.items():
                try:
                    async with asyncio.timeout(READINESS_TIMEOUT_SECONDS):
                        await ready()
                except Exception as error:
                    reasons[name] = str(error) or repr(error)
        return JSONResponse(
            {"service": self.name, "ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200
        )

    async def _metrics(self, _request: Request) -> Response:
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)


def run(build_app: Callable[[], Starlette]) -> None:
    """Serve until SIGTERM or SIGINT; then refuse new calls, finish what is in flight, and return.

    Wrong settings or a wrong jurisdiction end the process with a sentence that says what to change.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a time of creation for each series would double what Prometheus has to keep
    try:
        app = build_app()
    except ConfigError as error:
        raise SystemExit(str(error)) from None
    except ValidationError as error:
        raise SystemExit(f"Wrong settings in the environment:\n{wrong_settings(error)}") from None
    settings: ServiceSettings = app.state.settings
    # What was imported and read so far stays: the collector need not look through it again and again.
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER)

    class Http(BoundedHttp):
        whole = app.state.whole

    uvicorn.run(
        app,
        host=settings.http_host,
        port=settings.http_port,
        http=Http,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=CALLS_SECONDS,
    )
