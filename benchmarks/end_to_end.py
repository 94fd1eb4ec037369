"""The whole mesh under a fixed load, from the agency's event to the provider's acceptance of the message.

    python -m benchmarks.end_to_end --rate 200 --seconds 60
    python -m benchmarks.end_to_end --rate 200 --seconds 30 --knee
    python -m benchmarks.end_to_end --rate 100 --seconds 30 --burst

Half of the requests come over HTTP in batches, half by Kafka, at times set beforehand; each brings two messages, four
in five by SMS. Latencies are read off the timelines of the outcomes, once all is sent. Over HTTP a timeline begins
where intake has the call.
"""

import asyncio
import json
import os
import tempfile
from array import array
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from time import monotonic, time
from typing import Annotated, Any, Final

import typer
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.console import Console

from benchmarks.events import AGENCY
from benchmarks.harness.machine import machine
from benchmarks.harness.report import Bench, Outcome, Table, show, write
from benchmarks.harness.rounds import Say
from benchmarks.harness.usage import usage
from benchmarks.watching import Look, Watch, rss_slope_mb_per_hour
from deploy.check.reading import Sources, local_sources, work_left
from deploy.cli.starting import LOCAL_PARTITIONS, topics_of
from deploy.faults.monitor import Monitor
from deploy.jurisdictions import DJIBOUTI
from deploy.local.mesh import LocalMesh
from deploy.local.ports import LOOPBACK, free_port, listens
from deploy.local.process import Process, module_argv, project_env
from deploy.replay.jurisdiction import read_keys, write_jurisdiction
from shared.contract.events import NotificationOutcome, NotificationStatus, Timeline
from shared.contract.topics import OUTCOME

RATE: Final = 200.0
SECONDS: Final = 20.0
BATCH: Final = 25
CONNECTIONS: Final = 16
MESSAGES: Final = 2
"""What each request brings: that it was taken, and which office has it."""

WARM_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 5.0
START_SECONDS: Final = 15.0
REST_SECONDS: Final = 600.0
BEHIND_SECONDS: Final = 5.0
"""A mesh that has sent all so soon after the load's end kept up with it."""

KNEE_STEP: Final = 1.25
BURST: Final = 10
BURST_SECONDS: Final = 60.0
POLL_MS: Final = 500

STAGES: Final[Mapping[str, tuple[str, str]]] = {
    "published → accepted": ("published", "accepted"),
    "accepted → assigned": ("accepted", "assigned"),
    "assigned → planned": ("assigned", "planned"),
    "planned → sent": ("planned", "sent"),
    "published → sent": ("published", "sent"),
}
WHOLE: Final = "published → sent"

screen = Console()


class Wrong(RuntimeError):
    """Requests were taken whose messages were not all sent."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one load showed. Latencies in seconds, by stage, ascending; CPU in microseconds a request, by process."""

    rate: float
    seconds: float
    behind_seconds: float
    latencies: Mapping[str, Sequence[float]]
    cpu_us: Mapping[str, float]
    looks: list[Look]

    @property
    def kept_up(self) -> bool:
        """Whether nothing had heaped up when the load ended."""
        return self.behind_seconds < BEHIND_SECONDS

    def quantile_ms(self, share: float, stage: str = WHOLE) -> float:
        """The latency that this share of messages does not exceed."""
        ordered = self.latencies[stage]
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


async def measure(bench: Bench) -> Outcome:
    """One load, as `make bench` asks for it."""
    async with _mesh(bench.directory) as field_:
        return _outcome([await field_.run(RATE, SECONDS, bench.say)])


def main(
    rate: Annotated[float, typer.Option(min=1, help="New requests a second; with --knee the first rate.")] = RATE,
    seconds: Annotated[float, typer.Option(min=10, help="How long each load takes.")] = SECONDS,
    knee: Annotated[bool, typer.Option(help="Raise the rate until the mesh falls behind, then run at half.")] = False,
    burst: Annotated[bool, typer.Option(help="Then ten times as many for a minute, until all is sent.")] = False,
    report: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")] = Path("end-to-end.json"),
) -> None:
    """Put the whole mesh under load and show its latencies, its memory and what each process costs."""
    with tempfile.TemporaryDirectory(prefix="guichet-end-to-end-") as directory:
        outcome = asyncio.run(_loads(Path(directory), rate, seconds, knee=knee, burst=burst))
    show(outcome, screen)
    write({"machine": machine(), "end_to_end": outcome.figures}, report)


async def _loads(directory: Path, rate: float, seconds: float, *, knee: bool, burst: bool) -> Outcome:
    async with _mesh(directory) as mesh:
        runs = [await mesh.run(rate, seconds, screen.log)]
        while knee and runs[-1].kept_up:
            runs.append(await mesh.run(runs[-1].rate * KNEE_STEP, seconds, screen.log))
        if knee and len(runs) > 1:
            runs.append(await mesh.run(runs[-2].rate / 2, seconds, screen.log))
        if burst:
            runs.append(await mesh.run(rate * BURST, BURST_SECONDS, screen.log))
    return _outcome(runs)


@asynccontextmanager
async def _mesh(directory: Path) -> "AsyncIterator[_LoadedMesh]":
    """A mesh on one broker that sends to sinks which cost little."""
    folder = directory / "jurisdiction"
    write_jurisdiction(DJIBOUTI, folder)
    ports = {"SMPP": free_port(), "SMTP": free_port()}
    sinks = Process(
        "sinks",
        module_argv("benchmarks.sinks", "--smpp-port", ports["SMPP"], "--smtp-port", ports["SMTP"]),
        env=project_env(),
        log_path=directory / "sinks.log",
    )
    # A mesh starts no providers of its own where the environment names others.
    os.environ |= {"SMPP_SYSTEM_ID": "load", "SMPP_PASSWORD": "load", "SMPP_PER_SECOND": "10000", "SMPP_WINDOW": "500"}
    os.environ |= {"SMTP_PER_SECOND": "10000", "SMTP_CONNECTIONS": "20"}
    for name, port in ports.items():
        os.environ |= {f"{name}_HOST": LOOPBACK, f"{name}_PORT": str(port)}
    try:
        sinks.start()
        for port in ports.values():
            await sinks.answers(partial(listens, port), within_seconds=START_SECONDS)
        async with LocalMesh(directory, folder, apply_topics=topics_of(folder), mongodb=False) as mesh:
            sources = local_sources(directory)
            if sources is None:
                raise Wrong("the mesh does not say what runs where")
            async with _reader(mesh.bootstrap) as reader:
                yield _LoadedMesh(mesh, sinks, sources, read_keys(folder)[AGENCY], reader)
    finally:
        await sinks.stop()


@asynccontextmanager
async def _reader(bootstrap: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(OUTCOME.name, number) for number in range(LOCAL_PARTITIONS)])
        yield consumer
    finally:
        await consumer.stop()


@dataclass
class _LoadedMesh:
    """A running mesh, and what loads it."""

    mesh: LocalMesh
    sinks: Process
    sources: Sources
    key: str
    reader: AIOKafkaConsumer
    _numbers: "count[int]" = field(default_factory=lambda: count(1))

    async def run(self, rate: float, seconds: float, say: Say) -> Run:
        """One load, from rest to rest; Wrong if a message is missing."""
        number = next(self._numbers)
        watch, monitor = Watch(self.mesh, every_seconds=LOOK_SECONDS), Monitor(self.mesh.kafka_access)
        async with asyncio.TaskGroup() as beside:
            tasks = [beside.create_task(watch.run()), beside.create_task(monitor.run())]
            before, started = self._cpu(), time()
            said = await asyncio.gather(self._http(number, rate / 2, seconds), self._kafka(number, rate / 2, seconds))
            ended = monotonic()
            if not await self._all_sent(monitor):
                raise Wrong(f"not all was sent {REST_SECONDS:g} s after the load")
            behind_seconds, after = monotonic() - ended, self._cpu()
            for task in tasks:
                task.cancel()
        made = sum(one["made"] for one in said)
        latencies = await self._latencies(made, warm_until=started + WARM_SECONDS)
        cpu_us = {name: (after[name] - before[name]) / made * 1e6 for name in after}
        cpu_us |= {"http load": said[0]["cpu_us"], "kafka load": said[1]["cpu_us"]}
        run = Run(rate, seconds, behind_seconds, latencies, cpu_us, watch.looks)
        say(
            f"{rate:,.0f}/s for {seconds:g} s: p50 {run.quantile_ms(0.5):,.0f} ms, p99 {run.quantile_ms(0.99):,.0f} ms,"
            f" all sent {behind_seconds:.1f} s after it"
        )
        return run

    async def _http(self, number: int, rate: float, seconds: float) -> dict[str, Any]:
        port = self.mesh.service_url("intake").rpartition(":")[2]
        said = await self._load(
            "benchmarks.http_load",
            *("--port", port, "--key", self.key, "--run", f"http-{number}", "--batch", BATCH),
            *("--connections", CONNECTIONS, "--rate", rate / BATCH, "--warm-seconds", 1, "--seconds", seconds - 1),
        )
        if said["refused"]:
            raise Wrong(f"intake refused calls, by status: {said['refused']}")
        return said

    async def _kafka(self, number: int, rate: float, seconds: float) -> dict[str, Any]:
        return await self._load(
            "benchmarks.kafka_load",
            *("--bootstrap", self.mesh.bootstrap, "--run", f"kafka-{number}", "--rate", rate, "--seconds", seconds),
        )

    async def _load(self, module: str, *arguments: object) -> dict[str, Any]:
        """What a load's process says of its run."""
        log = self.mesh.directory / f"{module}-{next(self._numbers)}.json"
        load = Process(module, module_argv(module, *arguments), env=project_env(), log_path=log)
        load.start()
        await load.completes(within_seconds=REST_SECONDS + 3600)
        said: dict[str, Any] = json.loads(log.read_text())
        return said

    async def _all_sent(self, monitor: Monitor) -> bool:
        deadline = monotonic() + REST_SECONDS
        while (left_seconds := deadline - monotonic()) > 0:
            if await monitor.finished(within_seconds=left_seconds) and await work_left(self.sources) == 0:
                return True
        return False

    def _cpu(self) -> dict[str, float]:
        processes = {**self.mesh.processes, "sinks": self.sinks}
        return {name: usage(one.pid).cpu_seconds for name, one in processes.items() if one.pid is not None}

    async def _latencies(self, requests: int, *, warm_until: float) -> dict[str, Sequence[float]]:
        """Read on to the topic's end what was sent; Wrong if that is not every message of these requests."""
        found: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        sent: set[str] = set()
        ends = await self.reader.end_offsets(self.reader.assignment())
        while any([await self.reader.position(place) < end for place, end in ends.items()]):
            for records in (await self.reader.getmany(timeout_ms=POLL_MS)).values():
                for record in records:
                    data = NotificationOutcome.from_json(record.value or b"").data
                    if data.status is NotificationStatus.SENT and data.notification_id not in sent:
                        sent.add(data.notification_id)
                        _note(found, data.timeline, warm_until)
        if len(sent) != requests * MESSAGES:
            raise Wrong(f"{requests} requests were taken, and {len(sent)} messages sent")
        return {stage: sorted(seconds) for stage, seconds in found.items()}


def _note(found: Mapping[str, "array[float]"], timeline: Timeline, warm_until: float) -> None:
    if timeline.published is None or timeline.published.timestamp() < warm_until:
        return
    for stage, (start, end) in STAGES.items():
        began: datetime | None = getattr(timeline, start)
        done: datetime | None = getattr(timeline, end)
        if began is not None and done is not None:
            found[stage].append((done - began).total_seconds())


def _outcome(runs: Sequence[Run]) -> Outcome:
    """The last run's figures, which is the one at half of the knee if that was looked for, and all runs' rates."""
    last = runs[-1]
    memory = {name: one.rss_mb for name, one in last.looks[-1].usage.items()}
    growth = {name: rss_slope_mb_per_hour(last.looks[len(last.looks) // 2 :], name) for name in memory}
    kept = [run.rate for run in runs if run.kept_up]
    figures: dict[str, Any] = {
        "rate": last.rate,
        "seconds": last.seconds,
        "p50_ms": last.quantile_ms(0.5),
        "p99_ms": last.quantile_ms(0.99),
        "behind_seconds": last.behind_seconds,
        "rss_mb": memory,
        "rss_growth_mb_per_hour": growth,
        "stored_mb": [look.stored_mb for look in last.looks],
        "lag_seconds": [look.gauges.get("guichet_consumer_lag_seconds", 0.0) for look in last.looks],
        "cpu_us": dict(last.cpu_us),
        "stages_ms": {
            stage: {f"p{share:g}": last.quantile_ms(share / 100, stage) for share in (50, 90, 99)} for stage in STAGES
        },
        "kept_up_per_second": max(kept, default=0.0),
        "runs": [
            {"rate": run.rate, "p50_ms": run.quantile_ms(0.5), "p99_ms": run.quantile_ms(0.99)}
            | {"behind_seconds": run.behind_seconds, "cpu_us": dict(run.cpu_us)}
            for run in runs
        ],
    }
    loads = [
        (
            f"{run.rate:,.0f}/s",
            *(f"{run.quantile_ms(share):,.0f}" for share in (0.5, 0.99)),
            f"{run.behind_seconds:.1f}",
        )
        for run in runs
    ]
    stages = [(stage, *(f"{last.quantile_ms(share, stage):,.0f}" for share in (0.5, 0.9, 0.99))) for stage in STAGES]
    costs = [
        (name, f"{cost:,.0f}", f"{memory[name]:.0f}" if name in memory else "", f"{growth.get(name, 0.0):+.0f}")
        for name, cost in last.cpu_us.items()
    ]
    tables = [
        Table("Loads", ("requests", "p50 ms", "p99 ms", "s until all was sent"), loads),
        Table(f"Stages at {last.rate:,.0f}/s", ("stage", "p50 ms", "p90 ms", "p99 ms"), stages),
        Table("What each process costs", ("process", "CPU µs a request", "RSS MB", "MB/h"), costs),
    ]
    return Outcome(figures, tables)


if __name__ == "__main__":
    typer.run(main)
