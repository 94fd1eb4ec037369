"""The wiring of the routing service."""

from functools import partial

from starlette.applications import Starlette

from services.routing.calendar import load_calendar
from services.routing.handlers import route
from services.routing.rules import load_rules
from services.routing.settings import RoutingSettings
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
    service.consume(
        (topics.ACCEPTED,),
        partial(
            route,
            rules=load_rules(settings.jurisdiction_dir / "rules.yaml", jurisdiction),
            calendar=load_calendar(settings.jurisdiction_dir / "calendar.yaml", jurisdiction.timezone),
            decisions=service.store.collection("decisions"),
            clock=service.clock,
            metrics=RoutingMetrics(service.registry),
        ),
    )
    return service.app()
