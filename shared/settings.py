"""Settings that every service has. They come from the environment, once, in `app.py`, and nowhere else."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, FilePath, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.bus.access import KafkaAccess, Mechanism, Protocol
from shared.config import ConfigError
from shared.failpoints import NONE, Failpoints, parse_failpoints


def wrong_settings(error: ValidationError) -> ConfigError:
    """What is wrong with the environment, by the names of its variables."""
    return ConfigError(
        ": ".join(filter(None, ("_".join(map(str, one["loc"])).upper(), one["msg"].removeprefix("Value error, "))))
        for one in error.errors()
    )


def _parsed(value: str | Failpoints) -> Failpoints:
    return parse_failpoints(value) if isinstance(value, str) else value


class KafkaSettings(BaseSettings):
    """Where Kafka is, and as whom to speak to it; the names are those of Kafka's own clients."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)

    kafka_bootstrap_servers: str = Field(description="Comma-separated host:port of Kafka brokers.")
    kafka_security_protocol: Protocol = Field(default="PLAINTEXT", description="SSL: TLS. SASL: by name and password.")
    kafka_sasl_mechanism: Mechanism = "SCRAM-SHA-512"
    kafka_sasl_username: str = ""
    kafka_sasl_password: SecretStr = SecretStr("")
    kafka_ssl_ca_file: FilePath | None = Field(
        default=None, description="PEM: who signs the brokers' certificates; else the machine's authorities do."
    )
    kafka_ssl_certificate_file: FilePath | None = Field(
        default=None, description="PEM: this client's own certificate, where brokers know clients by it."
    )
    kafka_ssl_key_file: FilePath | None = Field(default=None, description="PEM: the key that goes with it.")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        sasl = self.kafka_security_protocol.startswith("SASL")
        if sasl and not (self.kafka_sasl_username and self.kafka_sasl_password.get_secret_value()):
            raise ValueError(
                f"KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol} needs KAFKA_SASL_USERNAME and "
                "KAFKA_SASL_PASSWORD"
            )
        if not sasl and self.kafka_sasl_username:
            raise ValueError("KAFKA_SASL_USERNAME needs KAFKA_SECURITY_PROTOCOL=SASL_SSL or SASL_PLAINTEXT")
        if (self.kafka_ssl_certificate_file is None) != (self.kafka_ssl_key_file is None):
            raise ValueError("KAFKA_SSL_CERTIFICATE_FILE and KAFKA_SSL_KEY_FILE go together")
        return self

    def kafka_access(self) -> KafkaAccess:
        """The same, as all that speaks to Kafka takes it."""
        return KafkaAccess(
            self.kafka_bootstrap_servers,
            protocol=self.kafka_security_protocol,
            mechanism=self.kafka_sasl_mechanism,
            username=self.kafka_sasl_username,
            password=self.kafka_sasl_password.get_secret_value(),
            ca_file=self.kafka_ssl_ca_file,
            certificate_file=self.kafka_ssl_certificate_file,
            key_file=self.kafka_ssl_key_file,
        )


KAFKA_ACCESS_SETTINGS = frozenset(name.upper() for name in KafkaSettings.model_fields)
"""The environment variables by which access to Kafka is told."""


class ServiceSettings(KafkaSettings):
    """Where the parts of the mesh are. Each field is an environment variable of the same name in capitals."""

    mongodb_url: str | None = Field(default=None, description="With it MongoDB is the store, without it SQLite.")
    mongodb_database: str = Field(
        default="guichet", pattern=r"^[a-z0-9_-]{1,40}$", description="What the services' database names begin with."
    )
    data_dir: Path = Field(default=Path("data"), description="Folder of the SQLite files, one a service.")
    jurisdiction_dir: Path = Field(description="Folder with jurisdiction.yaml, agencies.yaml, services.yaml, …")
    http_host: str = "127.0.0.1"
    http_port: int = Field(default=8080, ge=1, le=65535)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    failpoints: Annotated[Failpoints, NoDecode, BeforeValidator(_parsed)] = Field(
        default=NONE,
        description="Where this process is to fail, to be tested: see shared.failpoints. Never in production.",
    )
