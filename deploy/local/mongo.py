"""A MongoDB-protocol server from pip alone: mongo-java-server on H2, a stand-in where MongoDB itself cannot run.

Unique indexes, find_one_and_update, unordered bulk upserts with error details and aggregation work; sessions and
transactions are refused. What it stores is durable in one file.
"""

from functools import partial
from pathlib import Path

from deploy.local.jars import class_path, jars
from deploy.local.ports import LOOPBACK, free_port, listens
from deploy.local.process import Process, module_argv, project_env

_SERVER = "de.bwaldvogel:mongo-java-server-h2-backend:1.47.0"


class MongoServer:
    """The stand-in in a process of its own on a free port; a later one on the same directory has its data."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self.process = Process("mongo", [], env=project_env(), log_path=directory / "mongo.log")

    @property
    def url(self) -> str:
        return f"mongodb://{LOOPBACK}:{self._port}"

    async def start(self) -> None:
        """Return when it takes connections. Raises PartFailed."""
        self._directory.mkdir(parents=True, exist_ok=True)
        classes = class_path(await jars(_SERVER))
        arguments = ("--port", self._port, "--file", self._directory / "data.h2", "--class-path", classes)
        self.process.argv = module_argv("deploy.local.mongo_server", *arguments)
        self.process.start()
        await self.process.answers(partial(listens, self._port), within_seconds=30.0)

    async def stop(self) -> None:
        await self.process.stop()

    async def kill(self) -> None:
        await self.process.kill()
