"""Settings of intake."""

from pydantic import Field, SecretStr

from shared.settings import ServiceSettings


class IntakeSettings(ServiceSettings):
    """What intake needs beyond what every service has."""

    reference_secret: SecretStr = Field(
        min_length=16,
        description="Key from which citizens' references are made. Keep it secret. A new one changes only new ones.",
    )
