"""Settings of the notify service."""

from pydantic import Field, SecretStr

from shared.settings import ServiceSettings


class NotifySettings(ServiceSettings):
    """Where the SMSC and the mail server are, and how fast they may be spoken to."""

    smpp_host: str
    smpp_port: int = Field(default=2775, ge=1, le=65535)
    smpp_system_id: str = Field(max_length=15)
    smpp_password: SecretStr = Field(max_length=8, description="SMPP 3.4 takes eight characters at most.")
    smpp_window: int = Field(default=50, ge=1, le=1000, description="Messages that wait for their answer at once.")
    sms_per_second: float = Field(default=100.0, gt=0, description="Segments a second.")

    smtp_host: str
    smtp_port: int = Field(default=25, ge=1, le=65535)
    smtp_username: str | None = None
    smtp_password: SecretStr | None = None
    smtp_starttls: bool = False
    smtp_connections: int = Field(default=10, ge=1, le=100)
    mails_per_second: float = Field(default=50.0, gt=0)
