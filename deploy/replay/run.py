"""A replay from end to end: `prepare` before the mesh starts, `replay` while it runs."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from rich.console import Console

from deploy.check.checks import TELL_WHAT_IS_MISSING, check, findings_of
from deploy.check.reading import Sources, observe
from deploy.replay.generator import DEFAULT_COUNT, DEFAULT_SEED, generate
from deploy.replay.importers import read_source
from deploy.replay.jurisdiction import write_jurisdiction
from deploy.replay.progress import Progress
from deploy.replay.publisher import (
    DEFAULT_REQUESTS_PER_SECOND,
    Answer,
    HttpDoor,
    KafkaDoor,
    Player,
    PublishingDoor,
    agencies_producer,
    http_session,
)
from deploy.replay.report import (
    Mesh,
    build_report,
    exit_status,
    judge,
    not_taken,
    published,
    summarise,
    unfinished,
    write_report,
)
from deploy.replay.steps import Replay
from deploy.replay.tally import Tally
from deploy.replay.watcher import Watcher
from shared.contract.events import Door, RequestAccepted
from shared.contract.topics import agency_topic

PATIENCE_SECONDS = 30.0
"""How long nothing new may come before what is missing is taken for lost."""

RECEIPTS_PATIENCE_SECONDS = 3.0
"""How long nothing new may come before receipts that are missing are taken for never sent. None is promised."""


@dataclass(frozen=True, slots=True)
class MeshAddresses:
    """Where a running mesh is, and all that can be observed of it."""

    sources: Sources
    intake_url: str
    store: str = "sqlite"
    kafka_version: str | None = None


def read_replay(source: Path | None, *, seed: int = DEFAULT_SEED, count: int = DEFAULT_COUNT) -> Replay:
    """The replay of a file, or without one a generated one. Raises SourceError."""
    return generate(count, seed) if source is None else read_source(source, now=datetime.now(UTC))


def prepare(source: Path | None, directory: Path, *, seed: int = DEFAULT_SEED, count: int = DEFAULT_COUNT) -> Replay:
    """The replay, and its jurisdiction written to a folder with which a mesh can be started. Raises SourceError."""
    prepared = read_replay(source, seed=seed, count=count)
    write_jurisdiction(prepared.jurisdiction, directory)
    return prepared


async def replay(
    prepared: Replay,
    *,
    mesh: MeshAddresses,
    keys: Mapping[str, str],
    report: Path,
    console: Console,
    speed: float = DEFAULT_REQUESTS_PER_SECOND,
) -> int:
    """Play it through a running mesh that knows its jurisdiction, show how it goes, and write the report.

    `keys`: the API key of each agency. `speed`: new requests a second. Returns the exit status: 0 if the mesh kept
    its promise. Raises WatchFailed if its topics can't be read, or are not those of the replay's jurisdiction.
    """
    tally = Tally(prepared.steps)
    answers: list[Answer] = []
    async with AsyncExitStack() as stack:
        watcher = await stack.enter_async_context(Watcher(mesh.sources.kafka, tally))
        await watcher.require([agency_topic(agency) for agency in prepared.agencies])
        producer = agencies_producer(mesh.sources.kafka)
        await producer.start()
        stack.push_async_callback(producer.stop)
        session = await stack.enter_async_context(http_session())
        doors: dict[Door, PublishingDoor] = {
            Door.HTTP: HttpDoor(mesh.intake_url, keys, session),
            Door.KAFKA: KafkaDoor(producer),
        }
        progress = Progress(prepared.source, tally, steps=len(prepared.steps), answered=answers)
        started = monotonic()
        async with progress.shown(console, watcher):
            await Player(doors, speed).play(prepared.steps, on_answer=answers.append)
            await watcher.until(
                lambda: not unfinished(judge(answers, tally, TELL_WHAT_IS_MISSING)), patience_seconds=PATIENCE_SECONDS
            )
            # What was told twice may still have a second effect.
            await watcher.caught_up(patience_seconds=PATIENCE_SECONDS)
            await watcher.until(lambda: not tally.receipts_missing, patience_seconds=RECEIPTS_PATIENCE_SECONDS)
        duration = monotonic() - started
        ran_on = Mesh(mesh.kafka_version, await watcher.brokers(), mesh.store)
    requests = {seen.request_id for seen in tally.sightings.of(RequestAccepted) if seen.request_id}
    observed = await observe(mesh.sources, requests=requests)
    # Dead letters that stood there before are not this replay's.
    dead = tally.dead_letters
    results = check(replace(observed, dead_letters=dead, published=published(answers, dead)))
    findings = [*findings_of(results), *not_taken(answers)]
    said = build_report(prepared, answers, tally, ran_on, findings, duration_seconds=duration, results=results)
    write_report(said, report)
    summarise(said, findings, prepared, console)
    return exit_status(findings)
