"""The wiring of the metrics service."""

from functools import partial

from starlette.applications import Starlette

from services.metrics.handlers import observe
from services.metrics.open_requests import OpenRequests
from services.metrics.settings import MetricsSettings
from services.metrics.tally import Tally
from shared.clock import Clock
from shared.contract.topics import MESH_TOPICS
from shared.jurisdiction import load_jurisdiction
from shared.metrics import LatencyMetrics
from shared.service import Service
from shared.store.port import Store

LINGER_MS = 250
"""Nobody waits for a figure: Prometheus asks every few seconds."""


def build_app(
    settings: MetricsSettings | None = None, *, clock: Clock | None = None, store: Store | None = None
) -> Starlette:
    """The service as an ASGI application. It runs as one replica, since each would know its own open requests only."""
    settings = settings or MetricsSettings()
    service = Service("metrics", settings, clock=clock, store=store)
    jurisdiction = load_jurisdiction(settings.jurisdiction_dir)
    metrics = LatencyMetrics(service.registry)
    requests = service.store.collection("requests")
    open_requests = OpenRequests(requests, clock=service.clock, metrics=metrics, offices=jurisdiction.offices)
    service.on_start(open_requests.load)
    service.consume(
        MESH_TOPICS,
        partial(
            observe,
            requests=requests,
            open_requests=open_requests,
            tally=Tally(metrics, jurisdiction),
            timezone=jurisdiction.timezone,
        ),
        linger_ms=LINGER_MS,
    )
    return service.app()
