"""A part is down for minutes while requests flow: what memory does, where the backlog waits, how long it takes after.

    python -m benchmarks.outage --part smsc --minutes 10 --rate 30

What waits has to wait in Kafka and in the ledger, so the services' memory has to be flat.
"""

import asyncio
import logging
import sqlite3
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from benchmarks.harness.machine import machine
from benchmarks.harness.report import Outcome, Table, show, write
from benchmarks.watching import GAUGES, Look, Watch, rss_slope_mb_per_hour
from deploy.check.reading import Sources, local_sources, work_left
from deploy.cli.starting import topics_of
from deploy.faults.agencies import Agencies
from deploy.faults.monitor import Monitor
from deploy.jurisdictions import DJIBOUTI
from deploy.local.kafka import KafkaCluster
from deploy.local.mesh import LocalMesh
from deploy.local.process import PartFailed
from deploy.local.smsc import RecordingSmsc
from deploy.local.smtp import RecordingSmtp
from deploy.replay.jurisdiction import read_keys, write_jurisdiction
from deploy.replay.publisher import IN_FLIGHT_MAX
from shared.bus.port import Unavailable

WARM_SECONDS: Final = 60.0
"""Requests flow for so long before the part goes down: a process that just started still grows."""

LOOK_SECONDS: Final = 10.0
WAIT_SECONDS: Final = 1800.0
"""What is not all sent by then counts as not caught up."""

PAUSE_SECONDS: Final = 1.0
SETTLED_SECONDS: Final = 10.0
LOCK_SECONDS: Final = 30.0
PROVIDERS: Final = 2

screen = Console()


class Part(StrEnum):
    """What can be down: both SMSCs, both mail servers, every broker, the file of every service."""

    SMSC = "smsc"
    SMTP = "smtp"
    KAFKA = "kafka"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class Phases:
    """Moments of the run, in seconds since watching began. `caught_up`: None if it never came."""

    down: float
    back: float
    caught_up: float | None


def main(
    part: Annotated[Part, typer.Option(help="What is down.")],
    minutes: Annotated[float, typer.Option(min=0.5, help="For how long.")] = 10.0,
    rate: Annotated[float, typer.Option(min=0.1, help="New requests a second, each followed by its changes.")] = 30.0,
    report: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")] = Path("outage.json"),
) -> None:
    """Take a part down while requests flow, bring it back, and show memory and backlog all the while."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its complaints about brokers that we kill are no news
    with tempfile.TemporaryDirectory(prefix=f"guichet-outage-{part}-") as directory:
        outcome = asyncio.run(_measure(part, minutes * 60, rate, Path(directory)))
    show(outcome, screen)
    write({"machine": machine(), "outage": outcome.figures}, report)


async def _measure(part: Part, seconds: float, rate: float, directory: Path) -> Outcome:
    folder = directory / "jurisdiction"
    write_jurisdiction(DJIBOUTI, folder)
    mesh = LocalMesh(directory, folder, apply_topics=topics_of(folder), providers=PROVIDERS, mongodb=False)
    async with mesh:
        sources = local_sources(directory)
        if sources is None or mesh.kafka is None or len(mesh.smscs) + len(mesh.sinks) != 2 * PROVIDERS:
            raise PartFailed(
                "Only parts of its own can be taken down: unset KAFKA_BOOTSTRAP_SERVERS, SMPP_HOST, SMTP_HOST."
            )
        watch, monitor = Watch(mesh, every_seconds=LOOK_SECONDS), Monitor(mesh.kafka_access)
        # A call at a time for each event in flight: nobody waits for another's answer.
        patience_seconds = seconds + WAIT_SECONDS
        agencies = Agencies(
            mesh, read_keys(folder), seed=7, speed=rate, patience_seconds=patience_seconds, connections=IN_FLIGHT_MAX
        )
        async with asyncio.TaskGroup() as beside:
            watching, monitoring = beside.create_task(watch.run()), beside.create_task(monitor.run())
            publishing = beside.create_task(agencies.publish())
            await asyncio.sleep(WARM_SECONDS)
            _say(f"{part} goes down")
            down = watch.seconds
            async with _down(part, mesh, mesh.kafka):
                await asyncio.sleep(seconds)
            back = watch.seconds
            _say(f"{part} is back; the mesh catches up")
            agencies.enough.set()
            await publishing
            done = await _all_sent(sources, monitor)
            caught_up = watch.seconds if done else None
            await asyncio.sleep(SETTLED_SECONDS)
            watching.cancel()
            monitoring.cancel()
    answers = Counter(str(answer.outcome) for answer in agencies.answers)
    return _outcome(part, rate, Phases(down, back, caught_up), watch, answers, list(mesh.services))


async def _all_sent(sources: Sources, monitor: Monitor) -> bool:
    """Wait until every group has read all there is and no notification is due; whether that came in time."""
    deadline = monotonic() + WAIT_SECONDS
    while (left_seconds := deadline - monotonic()) > 0:
        with suppress(Unavailable):
            if await monitor.finished(within_seconds=left_seconds) and await work_left(sources) == 0:
                return True
        await asyncio.sleep(PAUSE_SECONDS)
    return False


def _down(part: Part, mesh: LocalMesh, kafka: KafkaCluster) -> AbstractAsyncContextManager[None]:
    """The part is down as long as this lasts, and back when it ends."""
    match part:
        case Part.SMSC:
            return _killed(mesh.smscs)
        case Part.SMTP:
            return _killed(mesh.sinks)
        case Part.KAFKA:
            return _brokers_killed(kafka)
        case Part.STORE:
            return _stores_locked(mesh.directory / "data")


@asynccontextmanager
async def _killed(providers: Sequence[RecordingSmsc] | Sequence[RecordingSmtp]) -> AsyncIterator[None]:
    await asyncio.gather(*(provider.kill() for provider in providers))
    yield
    await asyncio.gather(*(provider.start() for provider in providers))


@asynccontextmanager
async def _brokers_killed(kafka: KafkaCluster) -> AsyncIterator[None]:
    await kafka.kill_all()
    yield
    await asyncio.gather(*map(kafka.restart, range(len(kafka.processes))))


@asynccontextmanager
async def _stores_locked(data: Path) -> AsyncIterator[None]:
    """Another process would hold the write lock of every service's file, for as long as this lasts."""
    files = await asyncio.to_thread(lambda: list(data.glob("*/*.sqlite")))
    with ExitStack() as held:
        for file in files:
            connection = held.enter_context(closing(sqlite3.connect(file, timeout=LOCK_SECONDS, isolation_level=None)))
            connection.execute("BEGIN IMMEDIATE")
        yield


def _outcome(
    part: Part, rate: float, phases: Phases, watch: Watch, answers: Mapping[str, int], services: Sequence[str]
) -> Outcome:
    before = watch.between(0, phases.down)
    second_half = watch.between((phases.down + phases.back) / 2, phases.back)
    memory = {name: _memory(name, watch.looks, before, second_half) for name in services}
    worst = {gauge: _worst(watch.looks, gauge) for gauge in GAUGES}
    caught_up_seconds = None if phases.caught_up is None else phases.caught_up - phases.back
    figures: dict[str, Any] = {
        "part": part,
        "rate": rate,
        "down_seconds": phases.back - phases.down,
        "caught_up_seconds": caught_up_seconds,
        "answers": dict(answers),
        "rss_mb": memory,
        "worst": worst,
        "looks": [_as_figures(look, services) for look in watch.looks],
    }
    took = "never" if caught_up_seconds is None else f"{caught_up_seconds:.0f} s"
    title = (
        f"{part} down for {figures['down_seconds']:.0f} s at {rate:g} requests/s; all sent after it was back: {took}"
    )
    columns = ("service", "MB at start", "max", "end", "MB/h in the second half")
    rows = [
        (name, *(f"{memory[name][figure]:.1f}" for figure in ("start", "max", "end", "growth_per_hour")))
        for name in services
    ]
    backlog = Table(
        "The worst of the backlog", ("gauge", "value"), [(name, f"{value:,.0f}") for name, value in worst.items()]
    )
    return Outcome(figures, [Table(title, columns, rows), backlog])


def _memory(name: str, looks: Sequence[Look], before: Iterable[Look], second_half: list[Look]) -> dict[str, float]:
    def rss(some: Iterable[Look]) -> list[float]:
        return [look.usage[name].rss_mb for look in some if name in look.usage]

    return {
        "start": rss(before)[-1],
        "max": max(rss(looks)),
        "end": rss(looks)[-1],
        "growth_per_hour": rss_slope_mb_per_hour(second_half, name),
    }


def _worst(looks: Iterable[Look], gauge: str) -> float:
    return max((look.gauges[gauge] for look in looks if gauge in look.gauges), default=0.0)


def _as_figures(look: Look, services: Sequence[str]) -> dict[str, Any]:
    rss = {name: look.usage[name].rss_mb for name in services if name in look.usage}
    return {"at_seconds": look.at_seconds, "rss_mb": rss, "stored_mb": look.stored_mb, **look.gauges}


def _say(what: str) -> None:
    screen.print(f"{datetime.now(UTC):%H:%M:%S} {what}", markup=False, highlight=False)


if __name__ == "__main__":
    typer.run(main)
