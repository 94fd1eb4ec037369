"""Settings of the routing service: those that all have."""

from shared.settings import ServiceSettings


class RoutingSettings(ServiceSettings):
    """The rules and the calendar stand in the jurisdiction's folder, so routing needs nothing of its own."""
