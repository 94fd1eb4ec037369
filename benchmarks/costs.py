"""What one request costs: CPU time by process, bytes on each topic and in each store, a start while it is open.

The load is that of `end_to_end`: a submission that is accepted and gets an office, and two messages about it. What it
left is read off the files afterwards, at rest. A MongoDB would hold the documents, in files of its own shape.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client import CollectorRegistry

from benchmarks import end_to_end
from benchmarks.events import AGENCY
from benchmarks.harness.report import Bench, Outcome, Table
from deploy.cli.starting import LOCAL_PARTITIONS
from deploy.jurisdictions import DJIBOUTI
from deploy.local.kafka import KafkaCluster
from services.metrics.open_requests import OpenRequests
from shared.clock import SystemClock
from shared.contract.topics import MESH_TOPICS, agency_topic
from shared.jurisdiction import load_jurisdiction
from shared.metrics import LatencyMetrics
from shared.store import open_store

TOPICS: Final = (agency_topic(AGENCY), *(topic.name for topic in MESH_TOPICS))
COLLECTIONS: Final[Mapping[str, Sequence[str]]] = {
    "intake": ("claims", "requests"),
    "routing": ("decisions", "closed"),
    "notify": (
        "notifications_sms",
        "notifications_email",
        "notifications_unreachable",
        "provider_references",
        "receipts",
    ),
    "metrics": ("requests",),
}
POLL_MS: Final = 500


@dataclass(frozen=True, slots=True)
class _Kept:
    """What stands in a service's store: rows by collection, the bytes of their keys and bodies, and of its files."""

    rows: Mapping[str, int]
    document_bytes: int
    file_bytes: int


async def measure(bench: Bench) -> Outcome:
    """The costs of a request, from one load on a mesh with one broker and SQLite."""
    load = (await end_to_end.measure(bench)).figures
    kafka = bench.directory / "kafka"
    log_bytes = {topic: _bytes_in(kafka, f"broker-0/data/{topic}-*/*.log") for topic in TOPICS}
    record_bytes = await _record_bytes(kafka)
    kept = {service: await _kept(service, bench.directory / "data" / service) for service in COLLECTIONS}
    requests = kept["intake"].rows["requests"]
    figures: dict[str, Any] = {
        "requests": requests,
        "rate": load["rate"],
        "behind_seconds": load["behind_seconds"],
        "cpu_us": load["cpu_us"],
        "log_bytes": _each(log_bytes, requests),
        "record_bytes": _each(record_bytes, requests),
        "rows": {service: _each(one.rows, requests) for service, one in kept.items()},
        "store_bytes": _each({service: one.file_bytes for service, one in kept.items()}, requests),
        "document_bytes": _each({service: one.document_bytes for service, one in kept.items()}, requests),
        "start_us": await _start_us(bench.directory / "data" / "metrics"),
    }
    return Outcome(figures, costs_tables(figures))


def costs_tables(figures: Mapping[str, Any]) -> tuple[Table, Table, Table, Table]:
    """CPU time, topics, stores and a start of metrics, a request each."""
    cpu_us, log_bytes = figures["cpu_us"], figures["log_bytes"]
    stores = [
        (
            service,
            f"{figures['store_bytes'][service]:,.0f}",
            f"{figures['document_bytes'][service]:,.0f}",
            f"{sum(rows.values()):.1f}",
        )
        for service, rows in figures["rows"].items()
    ]
    return (
        Table("CPU time of a request", ("process", "µs"), [(name, f"{cost:,.0f}") for name, cost in cpu_us.items()]),
        Table(
            "Bytes of a request on topics",
            ("topic", "of the log", "of keys and values"),
            [(topic, f"{size:,.0f}", f"{figures['record_bytes'][topic]:,.0f}") for topic, size in log_bytes.items()],
        ),
        Table("Bytes of a request in stores", ("service", "of the SQLite file", "of the documents", "rows"), stores),
        Table(
            "CPU time of a start for each open request", ("process", "µs"), [("metrics", f"{figures['start_us']:,.1f}")]
        ),
    )


def _each(totals: Mapping[str, int], requests: int) -> dict[str, float]:
    return {name: total / requests for name, total in totals.items()}


def _bytes_in(folder: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in folder.glob(pattern))


async def _record_bytes(directory: Path) -> dict[str, int]:
    """What the keys and values on each topic weigh, read from a broker that is started again on its files."""
    kafka, weighed = KafkaCluster(directory), dict.fromkeys(TOPICS, 0)
    await kafka.start()
    try:
        async with AIOKafkaConsumer(
            bootstrap_servers=kafka.bootstrap, group_id=None, auto_offset_reset="earliest"
        ) as consumer:
            places = [TopicPartition(topic, number) for topic in TOPICS for number in range(LOCAL_PARTITIONS)]
            consumer.assign(places)
            ends = await consumer.end_offsets(places)
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                for place, records in (await consumer.getmany(timeout_ms=POLL_MS)).items():
                    weighed[place.topic] += sum(len(one.key or b"") + len(one.value or b"") for one in records)
    finally:
        await kafka.stop()
    return weighed


async def _kept(service: str, directory: Path) -> _Kept:
    rows, document_bytes = {}, 0
    store = open_store(service, mongodb_url=None, data_dir=directory)
    await store.open()
    try:
        for name in COLLECTIONS[service]:
            sizes = [len(row.key.encode()) + len(row.body) async for row in store.collection(name).scan()]
            rows[name], document_bytes = len(sizes), document_bytes + sum(sizes)
    finally:
        await store.close()
    return _Kept(rows, document_bytes, _bytes_in(directory, "*"))


async def _start_us(directory: Path) -> float:
    """What the metrics service does at its start for each request that is open, as those of the load all are."""
    store = open_store("metrics", mongodb_url=None, data_dir=directory)
    await store.open()
    try:
        view = OpenRequests(
            store.collection("requests"),
            clock=SystemClock(),
            metrics=LatencyMetrics(registry := CollectorRegistry()),
            offices=load_jurisdiction(DJIBOUTI).offices,
        )
        started = process_time()
        await view.load()
        took_seconds = process_time() - started
    finally:
        await store.close()
    found = sum(
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "guichet_open_requests"
    )
    return took_seconds / found * 1e6
