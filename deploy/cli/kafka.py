"""Which Kafka a command speaks to: the one that is named, else the one of a local mesh that runs."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.running import Exit, fail
from deploy.local.state import access_of, environment_access, running
from shared.bus.access import KafkaAccess
from shared.config import ConfigError

MESH_DIRECTORY = Path(".guichet/mesh")

Directory = Annotated[Path, typer.Option("--dir", help="Where a local mesh keeps its data, logs and keys.")]
Bootstrap = Annotated[
    str | None, typer.Option(envvar="KAFKA_BOOTSTRAP_SERVERS", help="host:port of a broker; else the local mesh's.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def access(bootstrap: str | None, directory: Path) -> KafkaAccess:
    """To the brokers that are named, as the environment says, or to those of the local mesh; ends the command where
    there are none."""
    state = None if bootstrap else running(directory)
    if not bootstrap and state is None:
        fail(Exit.CONFIGURATION, f"give --bootstrap, or the --dir of a local mesh that runs (none does in {directory})")
    try:
        return access_of(state) if state else environment_access(bootstrap)
    except ConfigError as error:
        fail(Exit.CONFIGURATION, str(error))
