"""Settings of the metrics service."""

from shared.settings import ServiceSettings


class MetricsSettings(ServiceSettings):
    """The metrics service needs nothing beyond what every service has."""
