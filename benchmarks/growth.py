"""What a full store costs: each stage on a store that holds nothing, and on ones that hold up to a million requests.

The rows are those that the services write, of the benchmark's own requests; they are cloned under keys that earlier
requests would have had, until there are enough, and inserted by the store's own insert.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle, islice
from multiprocessing import get_context
from operator import itemgetter
from pathlib import Path
from time import monotonic
from typing import Final
from uuid import UUID, uuid5

import aiohttp

from benchmarks.harness.report import Bench, Outcome, Table
from benchmarks.harness.rounds import Rounds, interleaved
from benchmarks.ledger import EMAIL, SMS, UNREACHABLE, write_ledger
from benchmarks.stage.contenders import Field
from benchmarks.stage.inputs import STORE_FILE, chunks, make_inputs
from benchmarks.stage.topics import topics_on
from deploy.local.kafka import KafkaCluster
from deploy.local.mesh import service_argv
from deploy.local.mongo import MongoServer
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.process import Process
from services.intake.reference import reference_of
from shared.clock import SystemClock
from shared.store.port import Document, Row
from shared.store.sqlite import SqliteStore

EVENTS: Final = 20_000
SIZES: Final = (0, 10_000, 100_000, 1_000_000)
INSERTED_AT_ONCE: Final = 50_000
ROUNDS_MAX: Final = 1
"""Each run adds to its store."""

START_SECONDS: Final = 60.0

COLLECTIONS: Final[Mapping[str, Sequence[str]]] = {
    "intake": ("claims", "requests"),
    "routing": ("decisions",),
    "notify": (SMS, EMAIL, UNREACHABLE),
}


async def measure(bench: Bench) -> Outcome:
    """Rates of each stage by how many requests its store holds, the worst stage's first, and how long a service takes
    then to be ready, and a second replica to have its part of the work."""
    stages = tuple(COLLECTIONS)
    clock = SystemClock()
    inputs = await make_inputs(EVENTS, bench.directory, clock)
    await write_ledger([*inputs.accepted, *inputs.assigned], inputs.jurisdiction_dir, bench.directory / STORE_FILE)
    bench.say(f"storing up to {SIZES[-1]:,} requests for {', '.join(stages)}")
    stored = {(stage, size): bench.directory / f"{stage}-{size}.sqlite" for stage in stages for size in SIZES[1:]}
    # As many at once as there are cores, the large ones first.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        filling = [
            pool.submit(_fill, bench.directory / STORE_FILE, stored[place], *place)
            for place in sorted(stored, key=itemgetter(1), reverse=True)
        ]
        await asyncio.gather(*map(asyncio.wrap_future, filling))
    kafka = KafkaCluster(bench.directory / "kafka")
    async with topics_on(kafka, inputs.jurisdiction_dir) as topics:
        field = Field(bench.directory, inputs, topics, kafka, MongoServer(bench.directory / "mongo"))
        empty = [_contender(stage, 0) for stage in stages]
        contenders = {
            _contender(stage, size): field.stage(stage, "sqlite", stored=stored.get((stage, size)))
            for stage in stages
            for size in SIZES
        }
        # What runs first finds topics that were only just filled, and a broker that was only just started.
        await interleaved({name: contenders[name] for name in empty}, 1, say=lambda _said: None)
        rounds = await interleaved(contenders, min(bench.rounds, ROUNDS_MAX), say=bench.say)
        starts = {
            (stage, size): await _start_seconds(field, stage, stored.get((stage, size)))
            for stage in stages
            if stage != "notify"  # which is ready only where its providers are
            for size in (SIZES[0], SIZES[-1])
        }
    return _outcome(rounds, stages, starts)


def _fill(source: Path, target: Path, stage: str, requests: int) -> None:
    """As `_store`, in a process of its own."""
    asyncio.run(_store(source, target, stage, requests))


async def _store(source: Path, target: Path, stage: str, requests: int) -> None:
    """Fill a store with what `requests` requests leave there, all of it settled, save for due dates that lie ahead."""
    original, grown = SqliteStore(source), SqliteStore(target)
    await original.open()
    await grown.open()
    try:
        for name in COLLECTIONS[stage]:
            rows = [row async for row in original.collection(name).scan()]
            # Of each request intake and routing keep one row of a kind, notify as many as there are messages.
            wanted = round(requests * len(rows) / EVENTS) if stage == "notify" else requests
            for batch in chunks(islice(_clones(rows, keep_due=stage == "routing"), wanted), INSERTED_AT_ONCE):
                # In the order of their keys, so that each page of an index is gone to once for all of them.
                await grown.collection(name).insert_new(dict(sorted(batch, key=itemgetter(0))))
    finally:
        await original.close()
        await grown.close()


def _clones(rows: Sequence[Row], *, keep_due: bool) -> Iterator[tuple[str, Document]]:
    for number, row in enumerate(cycle(rows)):
        yield _earlier_key(row.key, number), Document(row.body, row.due if keep_due else None)


def _earlier_key(key: str, number: int) -> str:
    """What the number-th request might have instead, long before: our ids begin with a time, and an agency's event
    ids and the citizens' references lie anywhere."""
    agency, slash, own = key.rpartition("/")
    try:
        own_id = UUID(own)
    except ValueError:
        return reference_of(f"{number}", b"of no request")
    if own_id.version == 8:
        return str(UUID(int=number << 80 | own_id.int & (1 << 80) - 1))
    return f"{agency}{slash}{uuid5(own_id, str(number))}"


async def _start_seconds(field: Field, stage: str, stored: Path | None) -> tuple[float, float]:
    """From the start of a service's process until it is ready, and the same of a second replica on the same store:
    that is how long a rebalance takes."""
    folder, env = field.place(stage, stored)
    async with (
        _ready(stage, env, folder / "log") as first,
        _ready(stage, env | {"HTTP_PORT": str(free_port())}, folder / "second-log") as second,
    ):
        return first, second


@asynccontextmanager
async def _ready(stage: str, env: Mapping[str, str], log: Path) -> AsyncIterator[float]:
    """A service that is ready: a member of its group, with its partitions. After how many seconds it was."""
    process = Process(stage, service_argv(stage), env=env, log_path=log)
    started = monotonic()
    process.start()
    try:
        await process.answers(partial(_answers, env["HTTP_PORT"]), within_seconds=START_SECONDS)
        yield monotonic() - started
    finally:
        await process.stop()


async def _answers(port: str) -> bool:
    try:
        async with aiohttp.request("GET", f"http://{LOOPBACK}:{port}/ready") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


def _contender(stage: str, size: int) -> str:
    return f"{stage} at {size:,}"


def _outcome(rounds: Rounds, stages: Sequence[str], starts: Mapping[tuple[str, int], tuple[float, float]]) -> Outcome:
    ratios = {
        stage: {size: rounds.ratio(_contender(stage, size), _contender(stage, 0)) for size in SIZES} for stage in stages
    }
    by_stage = {
        stage: {
            "ratio": {str(size): ratio for size, ratio in ratios[stage].items()},
            "per_second": {str(size): rounds.median(_contender(stage, size), "per_second") for size in SIZES},
            "cpu_us": {str(size): rounds.median(_contender(stage, size), "cpu_us") for size in SIZES},
            "batch_p99_ms": {str(size): rounds.median(_contender(stage, size), "batch_p99_ms") for size in SIZES},
            "start_seconds": {str(size): first for (named, size), (first, _) in starts.items() if named == stage},
            "rebalance_seconds": {str(size): second for (named, size), (_, second) in starts.items() if named == stage},
        }
        for stage in stages
    }
    rates = [[stage, *(f"{ratios[stage][size]:.2f} ×" for size in SIZES)] for stage in stages]
    waited = [[_contender(*place), *(f"{seconds:.1f}" for seconds in both)] for place, both in starts.items()]
    waits = [
        [stage, *(f"{rounds.median(_contender(stage, size), 'batch_p99_ms'):,.0f}" for size in SIZES)]
        for stage in stages
    ]
    return Outcome(
        {**{str(size): min(ratios[stage][size] for stage in stages) for size in SIZES}, "stages": by_stage},
        [
            Table(
                "Events a second by requests stored, as a multiple of an empty store's",
                ["", *map("{:,}".format, SIZES)],
                rates,
            ),
            Table("p99 of the time a batch takes, ms", ["", *map("{:,}".format, SIZES)], waits),
            Table("Seconds until ready", ["", "the first", "a second replica"], waited),
        ],
    )
