"""The wiring of the routing service."""

from functools import partial

from starlette.applications import Starlette

from services.routing.calendar import load_calendar
from services.routing.handlers import route
from services.routing.rules import load_rules
from services.routing.settings import RoutingSettings
from services.routing.watch import OverdueWatch
from shared.clock import Clock
from shared.contract import topics
from shared.jurisdiction import load_jurisdiction
from shared.metrics import RoutingMetrics
from shared.service import Service
from shared.store.port import Store


def build_app(
    settings: RoutingSettings | None = None, *, clock: Clock | None = None, store: Store | None = None
) -> Starlette:
    """The service as an ASGI application; ConfigError if the jurisdiction's files are wrong."""
    settings = settings or RoutingSettings()
    service = Service("routing", settings, clock=clock, store=store)
    jurisdiction = load_jurisdiction(settings.jurisdiction_dir)
    calendar = load_calendar(settings.jurisdiction_dir / "calendar.yaml", jurisdiction.timezone)
    decisions = service.store.collection("decisions")
    closed = service.store.collection("closed")
    service.consume(
        (topics.ACCEPTED, topics.UPDATED),
        partial(
            route,
            rules=load_rules(settings.jurisdiction_dir / "rules.yaml", jurisdiction),
            calendar=calendar,
            decisions=decisions,
            closed=closed,
            clock=service.clock,
            metrics=RoutingMetrics(service.registry),
        ),
    )
    watch = OverdueWatch(
        decisions=decisions,
        closed=closed,
        read_up=partial(service.read_up, topics.UPDATED),
        calendar=calendar,
        publisher=service.publisher,
        clock=service.clock,
    )
    service.run_beside("due dates", watch.run)
    return service.app()
