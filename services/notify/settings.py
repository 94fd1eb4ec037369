"""Settings of the notify service."""

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from shared.settings import ServiceSettings


class SmppSettings(BaseModel):
    """Where an SMSC is, and how fast it may be spoken to."""

    model_config = ConfigDict(frozen=True)

    host: str = Field(min_length=1)
    port: int = Field(default=2775, ge=1, le=65535)
    system_id: str = Field(max_length=15)
    password: SecretStr = Field(max_length=8, description="SMPP 3.4 takes eight characters at most.")
    window: int = Field(default=50, ge=1, le=1000, description="Messages that wait for their answer at once.")
    weight: float = Field(default=1.0, gt=0, description="Its share of the messages, beside the other's.")
    per_second: float = Field(default=100.0, gt=0, description="Segments a second.")


class SmtpSettings(BaseModel):
    """Where a mail server is, and how fast it may be spoken to."""

    model_config = ConfigDict(frozen=True)

    host: str = Field(min_length=1)
    port: int = Field(default=25, ge=1, le=65535)
    username: str | None = None
    password: SecretStr | None = None
    starttls: bool = False
    connections: int = Field(default=10, ge=1, le=100)
    weight: float = Field(default=1.0, gt=0, description="Its share of the mails, beside the other's.")
    per_second: float = Field(default=50.0, gt=0)


class NotifySettings(ServiceSettings):
    """The providers, each under its own prefix: SMPP_HOST, SMPP2_HOST, SMTP_HOST, SMTP2_HOST and so on.

    A second one counts where anything is said of it.
    """

    model_config = SettingsConfigDict(env_nested_delimiter="_", env_nested_max_split=1)

    smpp: SmppSettings = Field(default_factory=dict, validate_default=True)
    smpp2: SmppSettings | None = None
    smtp: SmtpSettings = Field(default_factory=dict, validate_default=True)
    smtp2: SmtpSettings | None = None
    receipt_window_seconds: float = Field(
        default=900.0,
        gt=0,
        description="How long a receipt may settle what became of a message before it is sent again.",
    )
    fallback_after_seconds: float = Field(
        default=900.0, gt=0, description="After this the citizen's other channel is taken, if nothing could be sent."
    )
