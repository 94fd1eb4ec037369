"""One run of one contender: filled topics, a process, its group's offsets watched, its output checked."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import monotonic

import aiohttp
from aiokafka import TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness.rounds import Figures, Wrong
from benchmarks.harness.usage import usage
from benchmarks.stage.inputs import office_and_due
from benchmarks.stage.topics import Content, Topics
from deploy.local.process import Process

WINDOW_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
"""How long nothing may be committed before a contender is given up."""

POLL_SECONDS = 0.02
BATCH_SECONDS = "guichet_batch_seconds"
SAMPLE = 120

Expected = Mapping[bytes, object]
"""By request id, what the event that assigns it has to say."""


@dataclass(frozen=True, slots=True)
class Program:
    """What runs: a command that reads topics as a member of a group, and writes to others.

    `skips` are topics that it reads, too, but of which it gets nothing. `assigns`: what it writes names offices.
    `checked` raises if its work was not done; it is given how many records were committed at least. It is warm so long
    after its first commit, or after that share of the input, whichever is sooner: what it was slow at until then is not
    counted. `metrics_url` is where a service of the mesh tells how long its batches took.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    group: str
    reads: Mapping[str, Content]
    skips: Sequence[str] = ()
    writes: Sequence[str] = ()
    assigns: bool = False
    checked: Callable[[int], Awaitable[None]] | None = None
    warm_seconds: float = 1.0
    warm_share: float = 0.1
    metrics_url: str | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a group was, when, and what each process had cost by then."""

    at: float
    committed: int
    cpu_seconds: Mapping[str, float]


async def run(
    program: Program, directory: Path, *, topics: Topics, servers: Mapping[str, int], expected: Expected
) -> Figures:
    """Records a second, and microseconds of CPU time for each: its own as `cpu_us`, those of `servers` by name; of a
    service `batch_p99_ms`, too, from taking a batch to its end, its first ones included.

    Raises Wrong or PartFailed.
    """
    for topic, content in program.reads.items():
        await topics.hold(topic, content)
    await topics.place(program.group, list(program.reads), program.skips)
    written_before = await topics.ends(program.writes)
    process = Process(program.name, program.argv, env=program.env, log_path=directory / "log", cwd=directory)
    process.start()
    try:
        begin, end = await _watch(program, process, topics, servers)
        more = {"batch_p99_ms": await _batch_p99_ms(program.metrics_url)} if program.metrics_url else {}
    finally:
        await process.stop()
    written = sum((await topics.ends(program.writes)).values()) - sum(written_before.values())
    if program.writes and written < end.committed:
        raise Wrong(f"{program.name} committed {end.committed} records and wrote only {written}")
    if program.assigns:
        await _assigned(program, topics, written_before, expected)
    if program.checked is not None:
        await program.checked(end.committed)
    return {**_figures(begin, end), **more}


async def _batch_p99_ms(metrics_url: str) -> float:
    """As Prometheus's histogram_quantile would say it: straight lines between the buckets' edges."""
    async with aiohttp.request("GET", metrics_url) as answer:
        families = text_string_to_metric_families(await answer.text())
    [histogram] = (family for family in families if family.name == BATCH_SECONDS)
    buckets = [(float(one.labels["le"]), one.value) for one in histogram.samples if "le" in one.labels]
    wanted, (lower, below) = 0.99 * buckets[-1][1], (0.0, 0.0)
    for edge, reached in buckets:
        if reached >= wanted:
            return 1000 * (lower if edge == inf else lower + (edge - lower) * (wanted - below) / (reached - below))
        lower, below = edge, reached
    raise Wrong("no batch was timed")


async def _assigned(program: Program, topics: Topics, since: Mapping[TopicPartition, int], expected: Expected) -> None:
    """Raise Wrong unless a sample of what was written says what the rules say."""
    for key, value in await topics.read(since, SAMPLE):
        if office_and_due(value) != expected[key]:
            raise Wrong(f"{program.name} assigned otherwise than the rules say: {value!r}")


async def _watch(program: Program, process: Process, topics: Topics, servers: Mapping[str, int]) -> tuple[Mark, Mark]:
    """The marks between which it was warm and had work: taken at commits, so that no batch counts in part."""
    total = sum(map(len, program.reads.values()))
    pids = {"cpu_us": process.pid or 0, **servers}
    begin, last = None, Mark(monotonic(), 0, {})
    first = last.at
    while True:
        await asyncio.sleep(POLL_SECONDS)
        if not process.alive:
            raise process.failed("ended")
        committed = await topics.committed(program.group, list(program.reads))
        now = monotonic()
        if committed > last.committed:
            first = now if last.committed == 0 else first
            last = Mark(now, committed, {name: usage(pid).cpu_seconds for name, pid in pids.items()})
            if begin is not None and (committed >= total or now - begin.at >= WINDOW_SECONDS):
                return begin, last
            if begin is None and (now - first >= program.warm_seconds or committed >= program.warm_share * total):
                begin = last
        elif now - last.at > PATIENCE_SECONDS or committed >= total:
            raise process.failed(f"was at {committed} of {total} records and could not be measured")


def _figures(begin: Mark, end: Mark) -> Figures:
    done = end.committed - begin.committed
    costs = {name: (end.cpu_seconds[name] - spent) * 1e6 / done for name, spent in begin.cpu_seconds.items()}
    return {"per_second": done / (end.at - begin.at), **costs}
