"""Settings that every service has. They come from the environment, once, in `app.py`, and nowhere else."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.failpoints import NONE, Failpoints, parse_failpoints


def _parsed(value: str | Failpoints) -> Failpoints:
    return parse_failpoints(value) if isinstance(value, str) else value


class ServiceSettings(BaseSettings):
    """Where the parts of the mesh are. Each field is an environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)

    kafka_bootstrap_servers: str = Field(description="Comma-separated host:port of Kafka brokers.")
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
