"""What 1,000 events cost each stage in things that can be counted, whatever the machine.

`python -m benchmarks.counters` counts anew and writes `baseline.json`, to which tests/app/test_costs.py holds every
change.
"""

import asyncio
import cProfile
import gc
import json
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from collections.abc import Collection as Keys
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition
from faststream.kafka import KafkaMessage
from starlette.applications import Starlette

from benchmarks.stage.inputs import Inputs, chunks, make_inputs
from services.intake.app import build_app as build_intake
from services.intake.settings import IntakeSettings
from services.metrics.app import build_app as build_metrics
from services.metrics.settings import MetricsSettings
from services.notify.app import build_app as build_notify
from services.notify.settings import NotifySettings, SmppSettings, SmtpSettings
from services.routing.app import build_app as build_routing
from services.routing.settings import RoutingSettings
from shared.bus.kafka import BATCH_RECORDS
from shared.bus.port import Publication
from shared.clock import ManualClock
from shared.contract.topics import agency_topic
from shared.store.port import Change, Collection, Document, Row, Store
from shared.store.sqlite import SqliteStore

EVENTS = 1000
NOW = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)
BASELINE = Path(__file__).with_name("baseline.json")
STAGES = ("intake", "routing", "notify", "metrics")


@dataclass(slots=True)
class Costs:
    """Of 1,000 events in batches as Kafka's consumer brings them.

    `python_calls` are calls of functions on the event loop's thread, a measure of its work; `peak_kib` is what Python
    had allocated for them at its highest, cycles never collected. These two vary by a hundredth, and with the version
    of Python; all others are exact.
    """

    commits: int = 0
    publish_calls: int = 0
    published_events: int = 0
    published_bytes: int = 0
    store_calls: int = 0
    store_rows: int = 0
    store_bytes: int = 0
    python_calls: int = 0
    peak_kib: int = 0


class CountingPublisher:
    """Acknowledges everything at once."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs

    async def publish(self, publications: Sequence[Publication]) -> None:
        self._costs.publish_calls += 1
        self._costs.published_events += len(publications)
        self._costs.published_bytes += sum(len(one.value) for one in publications)


class CountingConsumer:
    """Takes commits as Kafka's consumer does; owns whatever partition is asked for."""

    def __init__(self, costs: Costs, topics: Keys[str]) -> None:
        self._costs = costs
        self._assigned = {TopicPartition(topic, 0) for topic in topics}

    def assignment(self) -> set[TopicPartition]:
        return self._assigned

    def highwater(self, _partition: TopicPartition) -> int:
        return 0

    async def commit(self, _offsets: Mapping[TopicPartition, int] | None = None) -> None:
        self._costs.commits += 1

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """A batch was put back, and what follows would be counted twice."""
        raise AssertionError(f"{partition} was put back to {offset}: a batch failed")


class CountingStore:
    """Another store, counted."""

    def __init__(self, store: Store, costs: Costs) -> None:
        self._store = store
        self._costs = costs

    async def open(self) -> None:
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()

    async def ping(self) -> None:
        await self._store.ping()

    def collection(self, name: str) -> "CountingCollection":
        return CountingCollection(self._store.collection(name), self._costs)


class CountingCollection:
    """Another collection, counted: calls, rows asked for or written, bytes written."""

    def __init__(self, collection: Collection, costs: Costs) -> None:
        self._collection = collection
        self._costs = costs

    async def insert_new(self, documents: Mapping[str, Document]) -> dict[str, Row]:
        self._count(len(documents), sum(len(one.body) for one in documents.values()))
        return await self._collection.insert_new(documents)

    async def get_many(self, keys: Keys[str]) -> dict[str, Row]:
        self._count(len(keys))
        return await self._collection.get_many(keys)

    async def compare_and_set(self, changes: Mapping[str, Change]) -> set[str]:
        self._count(len(changes), sum(len(one.body) for one in changes.values()))
        return await self._collection.compare_and_set(changes)

    async def take_due(self, now: datetime, *, limit: int, lease: timedelta) -> list[Row]:
        self._count(limit)
        return await self._collection.take_due(now, limit=limit, lease=lease)

    def scan(self, *, due_only: bool = False) -> AsyncIterator[Row]:
        self._count(0)
        return self._collection.scan(due_only=due_only)

    def _count(self, rows: int, written: int = 0) -> None:
        self._costs.store_calls += 1
        self._costs.store_rows += rows
        self._costs.store_bytes += written


async def count(stage: str, inputs: Inputs, directory: Path) -> Costs:
    """What the stage's own wiring does with the first 1,000 events of its input, on an empty store."""
    # Once beforehand: what a process remembers, as of phones, would count or not by what else had run in it.
    await _work(stage, inputs, directory / f"{stage}-first", Costs(), nullcontext())
    # One after the other: whoever counts calls slows and swells what the other would see.
    costs = Costs()
    await _work(stage, inputs, directory / f"{stage}-calls", costs, _calls(costs))
    await _work(stage, inputs, directory / f"{stage}-memory", Costs(), _memory(costs))
    return costs


async def _work(
    stage: str, inputs: Inputs, directory: Path, costs: Costs, counting: AbstractContextManager[None]
) -> None:
    store = SqliteStore(directory / "store.sqlite")
    await store.open()
    try:
        app = _build(stage, inputs, directory, CountingStore(store, costs))
        [subscription] = app.state.service.bus.subscriptions
        subscription = replace(subscription, loop=replace(subscription.loop, publisher=CountingPublisher(costs)))
        records = list(_records(stage, inputs))
        consumer = CountingConsumer(costs, {record.topic for record in records})
        with counting:
            for batch in chunks(records, BATCH_RECORDS):
                await subscription.on_message(KafkaMessage(body=b"", raw_message=tuple(batch), consumer=consumer))
    finally:
        await store.close()


@contextmanager
def _calls(costs: Costs) -> Iterator[None]:
    profile = cProfile.Profile()
    with profile:
        yield
    costs.python_calls = sum(entry.callcount for entry in profile.getstats())


@contextmanager
def _memory(costs: Costs) -> Iterator[None]:
    # When cycles are collected depends on all else that the process holds.
    gc.disable()
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
        costs.peak_kib = peak // 1024
    finally:
        tracemalloc.stop()
        gc.enable()


def _build(stage: str, inputs: Inputs, directory: Path, store: Store) -> Starlette:
    common: dict[str, Any] = {
        "kafka_bootstrap_servers": "nowhere:9092",
        "jurisdiction_dir": inputs.jurisdiction_dir,
        "data_dir": directory,
        "log_level": "error",
    }
    parts: dict[str, Any] = {"clock": ManualClock(NOW), "store": store}
    match stage:
        case "intake":
            return build_intake(IntakeSettings(**common), **parts)
        case "routing":
            return build_routing(RoutingSettings(**common), **parts)
        case "notify":
            nobody: dict[str, Any] = {"host": "nowhere", "system_id": "nobody", "password": "nobody"}
            settings = NotifySettings(**common, smpp=SmppSettings(**nobody), smtp=SmtpSettings(host="nowhere"))
            return build_notify(settings, **parts)
    return build_metrics(MetricsSettings(**common), **parts)


def _records(stage: str, inputs: Inputs) -> Iterator[ConsumerRecord]:
    """The first events of the stage's input. What follows from a request comes after it."""
    if stage == "intake":
        events = [
            (agency_topic(step.agency), step.agency_reference.encode(), step.body) for step in inputs.published[:EVENTS]
        ]
    else:
        both = stage in ("notify", "metrics")
        followed = [*inputs.accepted[: EVENTS // 2], *inputs.assigned[: EVENTS // 2]]
        publications = followed if both else inputs.accepted[:EVENTS]
        events = [(one.topic.name, one.key.encode(), one.value) for one in publications]
    timestamp = int(NOW.timestamp() * 1000)
    for offset, (topic, key, value) in enumerate(events):
        yield ConsumerRecord(topic, 0, offset, timestamp, 0, key, value, None, len(key), len(value), ())


async def count_all() -> dict[str, Costs]:
    """The costs of every stage."""
    with tempfile.TemporaryDirectory(prefix="guichet-costs-") as directory:
        inputs = await make_inputs(EVENTS, Path(directory), ManualClock(NOW))
        return {stage: await count(stage, inputs, Path(directory)) for stage in STAGES}


def main() -> None:
    """Count anew, and write that down."""
    counted = {stage: asdict(costs) for stage, costs in asyncio.run(count_all()).items()}
    BASELINE.write_text(json.dumps(counted, indent=2) + "\n")
    print(BASELINE.read_text())


if __name__ == "__main__":
    main()
