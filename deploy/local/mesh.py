"""The whole mesh on one machine: broker, SMS and mail centres, the four services, each in a process of its own."""

import asyncio
import json
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import aiohttp

from deploy.local.kafka import KafkaCluster
from deploy.local.mongo import MongoServer
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.process import PartFailed, Process, module_argv, project_env, together
from deploy.local.smsc import RecordingSmsc
from deploy.local.smtp import RecordingSmtp
from deploy.local.state import STATE_FILE, environment_access, running, service_of
from shared.bus.access import KafkaAccess
from shared.settings import KAFKA_ACCESS_SETTINGS

SERVICES = ("intake", "routing", "notify", "metrics")
_READY_SECONDS = 60.0
_DRAIN_SECONDS = 15.0

ApplyTopics = Callable[[KafkaAccess, int], Awaitable[object]]
"""Create the mesh's topics: given the way to the brokers and the replication factor."""


def service_argv(name: str) -> list[str]:
    """The command that runs a service."""
    return module_argv(f"services.{name}")


class LocalMesh:
    """`async with LocalMesh(...) as mesh:` everything runs and every service is ready; after it, nothing is left.

    What the environment points to is used instead of a part of ours: KAFKA_BOOTSTRAP_SERVERS (with
    KAFKA_SECURITY_PROTOCOL and what goes with it), SMPP_HOST (with SMPP_PORT, SMPP_SYSTEM_ID, SMPP_PASSWORD), SMTP_HOST
    (with SMTP_PORT), MONGODB_URL. `mongodb` True starts the MongoDB stand-in, False keeps the services on SQLite, None
    leaves it to the environment.

    `replicas` of a service (one where it is not named) share its data and its secrets; they are called `routing`,
    `routing-2`, … So are the `providers` of a channel: `smsc`, `smsc-2`, `smtp`, `smtp-2`; notify is told of the second
    by SMPP2_HOST, SMTP2_HOST and what goes with them. `env` is what every service is told besides.

    Everything is kept under `directory`, and a mesh started there again goes on with it. `mesh.json` there says
    what runs where, for other commands, for as long as it runs.
    """

    def __init__(
        self,
        directory: Path,
        jurisdiction_dir: Path,
        *,
        apply_topics: ApplyTopics,
        brokers: int = 1,
        services: Sequence[str] = SERVICES,
        replicas: Mapping[str, int] = {},
        providers: Literal[1, 2] = 1,
        mongodb: bool | None = None,
        env: Mapping[str, str] = {},
        argv: Callable[[str], Sequence[str]] = service_argv,
    ) -> None:
        self.directory = directory = directory.resolve()
        self._jurisdiction_dir = jurisdiction_dir.resolve()
        self._apply_topics = apply_topics
        self._argv = argv
        self._replication = min(brokers, 3)
        self._env = env
        self._ports: dict[str, int] = {}
        for service in services:
            for _ in range(replicas.get(service, 1)):
                self._new_replica(service)
        self._services: dict[str, Process] = {}
        given = os.environ.keys()
        self.kafka = KafkaCluster(directory / "kafka", brokers) if "KAFKA_BOOTSTRAP_SERVERS" not in given else None
        self.kafka_access = self.kafka.access if self.kafka else environment_access()
        """The way to the brokers: ours ask for nothing, others for what the environment says."""
        numbers = range(1, providers + 1)
        self.smscs = [RecordingSmsc(directory, _numbered("smsc", n)) for n in numbers if "SMPP_HOST" not in given]
        self.sinks = [RecordingSmtp(directory, _numbered("smtp", n)) for n in numbers if "SMTP_HOST" not in given]
        self.mongo = MongoServer(directory / "mongo") if mongodb else None
        self._mongodb_url = None if mongodb is False else os.environ.get("MONGODB_URL")

    @property
    def bootstrap(self) -> str:
        """`host:port` of every broker, separated by commas."""
        return self.kafka_access.servers

    @property
    def services(self) -> Sequence[str]:
        """The names of the services' replicas that were started and not removed."""
        return tuple(self._services)

    @property
    def processes(self) -> dict[str, Process]:
        """Every process started so far, by name: services and their replicas, kafka-0, …, providers, mongo."""
        kafka = self.kafka.processes if self.kafka else []
        parts = [part.process for part in self._parts]
        return {process.name: process for process in (*kafka, *parts, *self._services.values())}

    @property
    def logs(self) -> dict[str, Path]:
        """Where each process's output goes."""
        return {name: process.log_path for name, process in self.processes.items()}

    def service_url(self, name: str) -> str:
        """`http://host:port` of a service's replica, without a slash at the end."""
        return f"http://{LOOPBACK}:{self._ports[name]}"

    async def start(self) -> None:
        """Return when every service is ready. Raises PartFailed (or what `apply_topics` raises), with all stopped."""
        if other := running(self.directory):
            raise PartFailed(
                f"A mesh already runs in {self.directory}, started by process {other['pid']}. If that process is "
                f"something else, the mesh crashed: remove {STATE_FILE} there."
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            await together(self._start_kafka(), *(part.start() for part in self._parts))
            self._services = {name: self._service(name) for name in self._ports}
            await together(*map(self._start_service, self._services))
            self._write_state()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the services first, so that what they hold is sent and committed, then what they speak to."""
        (self.directory / STATE_FILE).unlink(missing_ok=True)
        await asyncio.gather(*(service.stop(_DRAIN_SECONDS) for service in self._services.values()))
        await asyncio.gather(*(part.stop() for part in self._parts))
        if self.kafka:
            await self.kafka.stop()

    async def kill(self, name: str) -> None:
        """End a service, a broker or another part with SIGKILL, as a crash would."""
        await self.processes[name].kill()

    def freeze(self, name: str) -> None:
        """Let a service, a broker or another part do nothing at all (SIGSTOP), until `thaw`. Its connections stay."""
        self.processes[name].suspend()

    def thaw(self, name: str) -> None:
        """Let what was frozen go on where it was (SIGCONT)."""
        self.processes[name].resume()

    def ended(self) -> list[str]:
        """The services that no longer run. Raises PartFailed if another part does not: the mesh is lost without it."""
        gone = [process for process in self.processes.values() if not process.alive]
        for process in gone:
            if process.name not in self._services:
                raise process.failed("ended by itself")
        return [process.name for process in gone]

    async def restart(self, name: str, env: Mapping[str, str] = {}, *, ready: bool = True) -> None:
        """Stop a service if it runs, and start it again on its old port with its old data.

        `env` is what it is told besides, for this run only. Returns when it is ready, or at once if `ready` is False.
        """
        await self._services[name].stop(_DRAIN_SECONDS)
        self._services[name] = self._service(name, env)
        await self._start_service(name, ready=ready)
        self._write_state()

    async def add(self, service: str) -> str:
        """Start one more replica of a service; its name, once it is ready."""
        name = self._new_replica(service)
        self._services[name] = self._service(name)
        await self._start_service(name)
        self._write_state()
        return name

    async def remove(self, name: str) -> None:
        """Stop a replica for good; what it held is sent and committed first."""
        await self._services[name].stop(_DRAIN_SECONDS)
        del self._services[name], self._ports[name]
        self._write_state()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def _parts(self) -> "list[RecordingSmsc | RecordingSmtp | MongoServer]":
        """Those of ours that the services speak to, apart from Kafka."""
        return [*self.smscs, *self.sinks, *([self.mongo] if self.mongo else [])]

    async def _start_kafka(self) -> None:
        if self.kafka:
            await self.kafka.start()
        await self._apply_topics(self.kafka_access, self._replication)

    async def _start_service(self, name: str, *, ready: bool = True) -> None:
        service = self._services[name]
        service.start()
        if ready:
            await service.answers(partial(_is_ready, self.service_url(name)), within_seconds=_READY_SECONDS)

    def _new_replica(self, service: str) -> str:
        """The first name that is free for one more replica, which has a port from now on."""
        name = next(name for number in count(1) if (name := _numbered(service, number)) not in self._ports)
        if service == "metrics" and name != service:
            raise ValueError("metrics runs once: its gauges are in its memory")
        self._ports[name] = free_port()
        return name

    def _service(self, name: str, more: Mapping[str, str] = {}) -> Process:
        service = service_of(name)
        data = self.directory / "data" / service
        data.mkdir(parents=True, exist_ok=True)
        env = self._common_env() | {"DATA_DIR": str(data), "HTTP_PORT": str(self._ports[name])}
        env |= {**self._env, **more}
        return Process(name, self._argv(service), env=env, log_path=self.directory / f"{name}.log")

    def _common_env(self) -> dict[str, str]:
        """What every service is told. What the environment says of a part that is not ours is passed on as it is."""
        env = project_env(HTTP_HOST=LOOPBACK, JURISDICTION_DIR=str(self._jurisdiction_dir))
        if self.kafka:
            env = {name: value for name, value in env.items() if name not in KAFKA_ACCESS_SETTINGS}
        env["KAFKA_BOOTSTRAP_SERVERS"] = self.bootstrap
        env.pop("MONGODB_URL", None)
        if mongodb_url := self.mongo.url if self.mongo else self._mongodb_url:
            env |= {"MONGODB_URL": mongodb_url, "MONGODB_DATABASE": self._mongodb_database()}
        # The defaults are what an operator's provider allows; ours take what comes.
        for prefix, smsc in zip(("SMPP", "SMPP2"), self.smscs, strict=False):
            env |= {f"{prefix}_HOST": smsc.host, f"{prefix}_PORT": str(smsc.port)}
            env |= {f"{prefix}_SYSTEM_ID": smsc.system_id, f"{prefix}_PASSWORD": smsc.password}
            env.setdefault(f"{prefix}_PER_SECOND", "1000")
            env.setdefault(f"{prefix}_WINDOW", "200")
        for prefix, sink in zip(("SMTP", "SMTP2"), self.sinks, strict=False):
            env |= {f"{prefix}_HOST": sink.host, f"{prefix}_PORT": str(sink.port)}
            env.setdefault(f"{prefix}_PER_SECOND", "1000")
        return env

    def _mongodb_database(self) -> str:
        """Each directory has databases of its own on a server that may serve others: a new mesh begins with none."""
        return os.environ.get("MONGODB_DATABASE") or f"guichet_{_kept_name(self.directory / 'mongodb-name')}"

    def _write_state(self) -> None:
        file = self.directory / STATE_FILE
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(self._state(), indent=2) + "\n")
        draft.replace(file)  # whoever reads it meanwhile sees the old state or the new one, whole

    def _state(self) -> Mapping[str, object]:
        return {
            "pid": os.getpid(),
            "bootstrap": self.bootstrap,
            "own_kafka": self.kafka is not None,
            "services": {name: self.service_url(name) for name in self._services},
            "pids": {name: process.pid for name, process in self.processes.items()},
            "logs": {name: str(path) for name, path in self.logs.items()},
            "smsc_logs": [str(smsc.log) for smsc in self.smscs],
            "smtp_logs": [str(sink.log) for sink in self.sinks],
            "mongodb_url": self.mongo.url if self.mongo else self._mongodb_url,
            "mongodb_database": self._mongodb_database(),
        }


def _numbered(name: str, number: int) -> str:
    """What the first, second, … of a kind is called: `routing`, `routing-2`, …"""
    return name if number == 1 else f"{name}-{number}"


async def _is_ready(url: str) -> bool:
    try:
        async with aiohttp.request("GET", f"{url}/ready", timeout=aiohttp.ClientTimeout(total=2.0)) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def _kept_name(file: Path) -> str:
    """The name in the file, made on first use."""
    if not file.exists():
        file.write_text(secrets.token_hex(4))
    return file.read_text()
