"""Settings of intake: those that all have."""

from shared.settings import ServiceSettings


class IntakeSettings(ServiceSettings):
    """Who the agencies are stands in the jurisdiction's folder, so intake needs nothing of its own."""
