"""Whether replicas add up: a stage in 1, 2 and 4 replicas of one consumer group, each on a tenth of a core.

A quota makes a replica as slow as a small machine of its own would, so that two cores carry four beside the broker.
They run on one SQLite file, as they do on one machine, and on a file each. Nobody should run a mesh in this second way,
which forgets a replica's decisions when its partitions go to another; here it stands for a store that keeps up with
any number of replicas, and so tells what the group costs from what the file costs. The stand-in for MongoDB does not
keep up with two.
"""

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from time import monotonic
from typing import Any, Final

from benchmarks.costs import COLLECTIONS
from benchmarks.harness.quota import CpuQuota
from benchmarks.harness.report import Bench, Outcome, Table
from benchmarks.harness.rounds import Figures, Rounds, Wrong, interleaved
from benchmarks.harness.usage import usage
from benchmarks.stage.contenders import Field
from benchmarks.stage.inputs import make_inputs
from benchmarks.stage.run import Mark
from benchmarks.stage.topics import Topics, topics_on
from deploy.local.kafka import KafkaCluster
from deploy.local.mesh import service_argv
from deploy.local.mongo import MongoServer
from deploy.local.process import Process
from shared.clock import SystemClock
from shared.contract import topics as mesh
from shared.store import open_store

EVENTS: Final = 30_000
REPLICAS: Final = (1, 2, 4)
CORES: Final = 0.1
JOIN_MS: Final = 3000
"""How long the broker waits for more members before it gives the first ones partitions, so that all begin at once."""

BEGIN_SHARE: Final = 0.05
END_SHARE: Final = 0.6
"""Before any of four has emptied its partitions, of which two have one and two have two."""

IDLE_SHARE: Final = 0.25
"""A replica that used no more of its quota had no partitions, most of the time."""

POLL_SECONDS: Final = 0.02
PATIENCE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A service, and on which topics its input stands. `skips` are those that give it nothing."""

    service: str
    reads: Sequence[str]
    skips: Sequence[str] = ()

    @property
    def group(self) -> str:
        return f"guichet-{self.service}"


STAGES: Final = (
    Stage("routing", [mesh.ACCEPTED.name]),
    Stage("notify", [mesh.ACCEPTED.name, mesh.ASSIGNED.name], [mesh.UPDATED.name]),
)
STORES: Final = ("one_file", "file_each")


async def measure(bench: Bench) -> Outcome:
    """The rate of each stage by how many replicas share its work, and as a multiple of what one does alone."""
    bench.say(f"making {EVENTS:,} events of each sort")
    inputs = await make_inputs(EVENTS, bench.directory, SystemClock())
    kafka = KafkaCluster(bench.directory / "kafka", settings={"group.initial.rebalance.delay.ms": JOIN_MS})
    async with topics_on(kafka, inputs.jurisdiction_dir) as topics:
        for topic, publications in ((mesh.ACCEPTED, inputs.accepted), (mesh.ASSIGNED, inputs.assigned)):
            await topics.hold(topic.name, [(one.key.encode(), one.value) for one in publications])
        field = Field(bench.directory, inputs, topics, kafka, MongoServer(bench.directory / "mongo"))
        ground = _Ground(field, topics, kafka.processes[0])
        contenders = {
            _contender(stage, store, replicas): partial(ground.run, stage, store, replicas)
            for stage in STAGES
            for store in STORES
            for replicas in REPLICAS
        }
        rounds = await interleaved(contenders, bench.rounds, say=bench.say)
    return _outcome(rounds)


class _Ground:
    """Where replicas run."""

    def __init__(self, field: Field, topics: Topics, kafka: Process) -> None:
        self._field = field
        self._topics = topics
        self._kafka = kafka

    async def run(self, stage: Stage, store: str, replicas: int) -> Figures:
        """Events a second of all replicas together, from an empty store; the cores that one of them and Kafka used."""
        await self._topics.place(stage.group, stage.reads, stage.skips)
        places = [self._field.place(stage.service) for _ in range(replicas)]
        processes = []
        for number, (directory, env) in enumerate(places, start=1):
            data = places[0][0] if store == "one_file" else directory
            name, told = f"{stage.service}-{number}", env | {"DATA_DIR": str(data)}
            processes.append(Process(name, service_argv(stage.service), env=told, log_path=directory / "log"))
        try:
            with ExitStack() as quotas:
                for process in processes:
                    quota = quotas.enter_context(CpuQuota(f"guichet-{os.getpid()}-{process.name}", CORES))
                    process.start()
                    quota.hold(process.pid or 0)
                begin, end = await self._watch(stage, processes)
        finally:
            await asyncio.gather(*(process.stop() for process in processes))
        if (
            kept := await _rows(stage.service, {Path(process.env["DATA_DIR"]) for process in processes})
        ) < end.committed:
            raise Wrong(f"{stage.group} committed {end.committed} records and kept only {kept} rows")
        seconds = end.at - begin.at
        cores = {name: (end.cpu_seconds[name] - spent) / seconds for name, spent in begin.cpu_seconds.items()}
        if idle := [process.name for process in processes if cores[process.name] < IDLE_SHARE * CORES]:
            raise Wrong(f"{', '.join(idle)} took no part: the group's partitions were not shared out when all began")
        return {
            "per_second": (end.committed - begin.committed) / seconds,
            "replica_cores": fmean(cores[process.name] for process in processes),
            "kafka_cores": cores[self._kafka.name],
        }

    async def _watch(self, stage: Stage, processes: Sequence[Process]) -> tuple[Mark, Mark]:
        """Two marks between which all replicas had work, taken at commits."""
        total = len(stage.reads) * EVENTS
        watched = [*processes, self._kafka]
        begin, last = None, Mark(monotonic(), 0, {})
        while True:
            await asyncio.sleep(POLL_SECONDS)
            for process in processes:
                if not process.alive:
                    raise process.failed("ended")
            committed = await self._topics.committed(stage.group, stage.reads)
            now = monotonic()
            if committed > last.committed:
                last = Mark(now, committed, {one.name: usage(one.pid or 0).cpu_seconds for one in watched})
                if begin is None and committed >= BEGIN_SHARE * total:
                    begin = last
                elif begin is not None and committed >= END_SHARE * total:
                    return begin, last
            elif now - last.at > PATIENCE_SECONDS:
                raise Wrong(f"{stage.group} was at {committed} of {total} records and went no further")


async def _rows(service: str, directories: Iterable[Path]) -> int:
    """How many rows the stores in these folders hold: one for each event, of both stages."""
    rows = 0
    for directory in directories:
        store = open_store(service, mongodb_url=None, data_dir=directory)
        await store.open()
        try:
            rows += sum([1 for name in COLLECTIONS[service] async for _ in store.collection(name).scan()])
        finally:
            await store.close()
    return rows


def _contender(stage: Stage, store: str, replicas: int) -> str:
    return f"{stage.service}, {store.replace('_', ' ')} × {replicas}"


def _outcome(rounds: Rounds) -> Outcome:
    figures: dict[str, dict[str, object]] = {stage.service: {} for stage in STAGES}
    for stage in STAGES:
        for store in STORES:
            alone, *_ = names = [_contender(stage, store, replicas) for replicas in REPLICAS]
            figures[stage.service][store] = {
                str(replicas): rounds.medians(name) | {"ratio": rounds.ratio(name, alone)}
                for replicas, name in zip(REPLICAS, names, strict=True)
            }
    return Outcome(figures, [replicas_table(figures)])


def replicas_table(figures: Mapping[str, Mapping[str, Any]]) -> Table:
    """The figures of each stage and store, by replicas."""
    rows = [
        (
            f"{service}, {store.replace('_', ' ')}",
            replicas,
            f"{one['per_second']:,.0f}",
            f"{one['ratio']:.2f} ×",
            f"{one['replica_cores']:.3f}",
            f"{one['kafka_cores']:.2f}",
        )
        for service, stores in figures.items()
        for store, by_replicas in stores.items()
        for replicas, one in by_replicas.items()
    ]
    columns = ("stage, store", "replicas", "events/s", "of one", "cores of a replica", "of Kafka")
    return Table(f"Replicas, each held to {CORES:g} of a core", columns, rows)
