"""Intake's HTTP door, beside the same endpoint written the plain way: single events, batches, and p99 at half the rate.

The service runs as it always does, in a process of its own, on one broker; so does the load, whose CPU time is told
apart. Each run has a new process and an empty store.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from benchmarks.events import AGENCY
from benchmarks.harness.report import Bench, Outcome, Table
from benchmarks.harness.rounds import Contender, Figures, Rounds, interleaved
from benchmarks.harness.usage import usage
from deploy.cli.starting import LOCAL_PARTITIONS, topics_of
from deploy.jurisdictions import DJIBOUTI
from deploy.local.kafka import KafkaCluster
from deploy.local.mesh import service_argv
from deploy.local.ports import LOOPBACK, free_port, listens
from deploy.local.process import Process, module_argv, project_env
from deploy.replay.jurisdiction import KEYS, read_keys, write_jurisdiction
from shared.contract.topics import ACCEPTED

PLAIN_TOPIC: Final = "plain.accepted"
BATCH: Final = 100
CONNECTIONS: Final = 64
BATCH_CONNECTIONS: Final = 8
WARM_SECONDS: Final = 1.0
SECONDS: Final = 4.0
START_SECONDS: Final = 60.0
LOAD_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Server:
    """A program that serves the endpoint, and the topic on which each event that it took has to stand."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    port: int
    path: str
    topic: str


class Wrong(RuntimeError):
    """A server refused what it should have taken, or said that it took what stands nowhere."""


async def measure(bench: Bench) -> Outcome:
    """Rates and latencies of both, and ours as a multiple of the plain one's."""
    folder = bench.directory / "jurisdiction"
    write_jurisdiction(DJIBOUTI, folder)
    kafka = KafkaCluster(bench.directory / "kafka")
    try:
        await kafka.start()
        await topics_of(folder)(kafka.access, 1)
        await _make_plain_topic(kafka.bootstrap)
        door = _Door(bench.directory, kafka, folder)
        contenders = {
            "single": partial(door.run, door.intake, connections=CONNECTIONS),
            "batched": partial(door.run, door.intake, connections=BATCH_CONNECTIONS, batch=BATCH),
            "plain": partial(door.run, door.plain, connections=CONNECTIONS),
        }
        # What runs first finds a broker that was only just started.
        await contenders["single"]()
        full = await interleaved(contenders, bench.rounds, say=bench.say)
        halves: dict[str, Contender] = {}
        for name, contender in contenders.items():
            calls = full.median(name, "per_second") / (BATCH if name == "batched" else 1)
            halves[name] = partial(contender, rate=calls / 2)
        half = await interleaved(halves, 1, say=bench.say)
    finally:
        await kafka.stop()
    return _outcome(full, half)


class _Door:
    """Runs a server and a load against it."""

    def __init__(self, directory: Path, kafka: KafkaCluster, jurisdiction: Path) -> None:
        self._directory = directory
        self._kafka = kafka
        self._jurisdiction = jurisdiction
        self._key = read_keys(jurisdiction)[AGENCY]
        self._numbers = count(1)

    def intake(self) -> Server:
        """The service, on a store that is empty."""
        port, number = free_port(), next(self._numbers)
        env = project_env(
            KAFKA_BOOTSTRAP_SERVERS=self._kafka.bootstrap,
            JURISDICTION_DIR=str(self._jurisdiction),
            DATA_DIR=str(self._directory / f"data-{number}"),
            HTTP_HOST=LOOPBACK,
            HTTP_PORT=str(port),
        )
        return Server(f"intake-{number}", service_argv("intake"), env, port, "/ready", ACCEPTED.name)

    def plain(self) -> Server:
        """The peer."""
        port, number = free_port(), next(self._numbers)
        argv = module_argv(
            "benchmarks.peers.plain_http",
            *("--bootstrap", self._kafka.bootstrap, "--topic", PLAIN_TOPIC, "--keys", self._jurisdiction / KEYS),
            *("--host", LOOPBACK, "--port", port),
        )
        return Server(f"plain-{number}", argv, project_env(), port, "/openapi.json", PLAIN_TOPIC)

    async def run(
        self, made: Callable[[], Server], *, connections: int, batch: int = 1, rate: float | None = None
    ) -> Figures:
        """One load on a new server; `rate` in calls a second. Wrong if anything was refused or does not stand."""
        server = made()
        process = Process(server.name, server.argv, env=server.env, log_path=self._directory / f"{server.name}.log")
        process.start()
        try:
            await process.answers(partial(_is_up, server), within_seconds=START_SECONDS)
            before = await _standing(self._kafka.bootstrap, server.topic)
            cpu = self._cpu(process)
            said = await self._load(server, connections, batch, rate)
            cost = {name: seconds - cpu[name] for name, seconds in self._cpu(process).items()}
        finally:
            await process.stop()
        stand = await _standing(self._kafka.bootstrap, server.topic) - before
        if said["refused"] or stand != said["made"]:
            raise Wrong(f"{server.name} took {said['made']} events, {stand} stand; refused: {said['refused']}")
        return {
            **{name: said[name] for name in ("per_second", "p50_ms", "p99_ms", "max_ms")},
            **{f"{name}_cpu_us": seconds / said["made"] * 1e6 for name, seconds in cost.items()},
            "load_cpu_us": said["cpu_us"],
        }

    async def _load(self, server: Server, connections: int, batch: int, rate: float | None) -> dict[str, Any]:
        """What the load's process says of its run."""
        argv = module_argv(
            "benchmarks.http_load",
            *("--port", server.port, "--key", self._key, "--run", server.name, "--batch", batch),
            *("--connections", connections, "--warm-seconds", WARM_SECONDS, "--seconds", SECONDS),
            *(() if rate is None else ("--rate", rate)),
        )
        log = self._directory / f"{server.name}-load.json"
        load = Process(f"{server.name}-load", argv, env=project_env(), log_path=log)
        load.start()
        await load.completes(within_seconds=LOAD_SECONDS)
        said: dict[str, Any] = json.loads(log.read_text())
        return said

    def _cpu(self, server: Process) -> dict[str, float]:
        pids = {"server": server.pid, "kafka": self._kafka.processes[0].pid}
        return {name: usage(pid).cpu_seconds for name, pid in pids.items() if pid is not None}


async def _is_up(server: Server) -> bool:
    if not await listens(server.port):
        return False
    async with aiohttp.request("GET", f"http://{LOOPBACK}:{server.port}{server.path}") as answer:
        return answer.status == 200


async def _make_plain_topic(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        await admin.create_topics([NewTopic(PLAIN_TOPIC, LOCAL_PARTITIONS, 1)])
    finally:
        await admin.close()


async def _standing(bootstrap: str, topic: str) -> int:
    """How many records the topic holds."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None)
    await consumer.start()
    try:
        ends = await consumer.end_offsets([TopicPartition(topic, number) for number in range(LOCAL_PARTITIONS)])
        return sum(ends.values())
    finally:
        await consumer.stop()


def _outcome(full: Rounds, half: Rounds) -> Outcome:
    ratio = full.ratio("single", "plain")
    figures: dict[str, Any] = {
        "single_per_second": full.median("single", "per_second"),
        "batched_per_second": full.median("batched", "per_second"),
        "plain_per_second": full.median("plain", "per_second"),
        "ratio_plain": ratio,
        "p99_ms": half.median("single", "p99_ms"),
        "batched_p99_ms": half.median("batched", "p99_ms"),
        "plain_p99_ms": half.median("plain", "p99_ms"),
        "full": _medians(full),
        "half": _medians(half),
    }
    wanted = ("per_second", "p50_ms", "p99_ms", "server_cpu_us", "kafka_cpu_us", "load_cpu_us")
    columns = ("events a second", "p50 ms", "p99 ms", "CPU µs an event", "Kafka's", "the load's")
    tables = [
        Table(
            f"{title} (single events {ratio:.2f} × the plain way)",
            ("door", *columns),
            [(name, *(f"{rounds.median(name, figure):,.1f}" for figure in wanted)) for name in rounds.runs],
        )
        for title, rounds in (("As fast as answers come", full), ("At half of that rate, open loop", half))
    ]
    return Outcome(figures, tables)


def _medians(rounds: Rounds) -> dict[str, dict[str, float]]:
    return {name: {figure: rounds.median(name, figure) for figure in runs[0]} for name, runs in rounds.runs.items()}
