"""Which Kafka a command speaks to: the one that is named, else the one of a local mesh that runs."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.running import Exit, fail
from deploy.local.state import running

MESH_DIRECTORY = Path(".guichet/mesh")

Directory = Annotated[Path, typer.Option("--dir", help="Where a local mesh keeps its data, logs and keys.")]
Bootstrap = Annotated[
    str | None, typer.Option(envvar="KAFKA_BOOTSTRAP_SERVERS", help="host:port of a broker; else the local mesh's.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def address(bootstrap: str | None, directory: Path) -> str:
    """The bootstrap servers; ends the command where there are none."""
    found: str | None = bootstrap or (running(directory) or {}).get("bootstrap")
    if found is None:
        fail(Exit.CONFIGURATION, f"give --bootstrap, or the --dir of a local mesh that runs (none does in {directory})")
    return found
