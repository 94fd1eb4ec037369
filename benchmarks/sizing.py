"""How many machines a rate takes, and what breaks first: arithmetic on measured costs and stated assumptions. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final, Self

from benchmarks.events import AGENCY
from benchmarks.harness.report import Table
from benchmarks.replicas import REPLICAS
from services.notify.settings import SmppSettings, SmtpSettings
from shared.bus.admin import AGENCY_RETENTION_MS
from shared.contract.schemas import RECEIVES
from shared.contract.topics import MESH_TOPICS, agency_topic

RATES: Final = (250, 10_000, 1_000_000)
"""Requests a second: what Estonia's X-Road carries on average, forty times that, and a hundred times that again."""

UTILISATION: Final = 0.5
"""Of whatever runs out: the other half is for peaks, for replicas that are away, and for what was measured too low."""

REPLICATION: Final = 3
CORES: Final = 8
NETWORK_BYTES_PER_SECOND: Final = 1.25e9
DISK_BYTES: Final = 8e12
BROKERS_MIN: Final = 3
SERVICE_MACHINES_MIN: Final = 2
PARTITIONS_MIN: Final = 12
"""What `guichet topics apply` makes."""

PARTITIONS_A_PROCESS: Final = 2
"""So that the partitions of a process that is away can be shared out."""

SMS_PER_SECOND: Final = float(SmppSettings.model_fields["per_second"].default)
MAILS_PER_SECOND: Final = float(SmtpSettings.model_fields["per_second"].default)
OPEN_SECONDS: Final = 14 * 86_400.0
"""How long a request waits for its answer."""

START_SECONDS: Final = 600.0
"""How long the dashboards may be without metrics while it starts: nothing else waits for it."""

MESH_PER_SECOND: Final = 10_000
"""What one mesh should carry at most; beyond that, several, each with agencies of its own."""

YEAR_SECONDS: Final = 365 * 24 * 3600.0
AGENCY_TOPIC: Final = agency_topic(AGENCY)
RETENTION_SECONDS: Final[Mapping[str, float]] = {
    AGENCY_TOPIC: AGENCY_RETENTION_MS / 1000,
    **{topic.name: topic.retention_ms / 1000 for topic in MESH_TOPICS},
}
READS: Final[Mapping[str, tuple[str, ...]]] = {
    service: tuple(topic.name for topic in topics) or (AGENCY_TOPIC,) for service, topics in RECEIVES.items()
}
SHARED_OUT: Final = ("intake", "routing", "notify")
"""The services that may run as several replicas."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What one request costs. CPU time by service, bytes by topic; `start_seconds` of a start while it is open."""

    cpu_seconds: Mapping[str, float]
    kafka_cpu_seconds: float
    log_bytes: Mapping[str, float]
    store_bytes: float
    rows: float
    segments: float
    mails: float
    start_seconds: float

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> Self:
        """From the figures of `benchmarks.costs`."""
        rows = figures["rows"]
        return cls(
            cpu_seconds={service: figures["cpu_us"][service] / 1e6 for service in READS},
            kafka_cpu_seconds=figures["cpu_us"]["kafka-0"] / 1e6,
            log_bytes=figures["log_bytes"],
            store_bytes=sum(figures["store_bytes"].values()),
            rows=sum(count for collections in rows.values() for count in collections.values()),
            # The provider's reference of each segment is a row.
            segments=rows["notify"]["provider_references"],
            mails=rows["notify"]["notifications_email"],
            start_seconds=figures["start_us"] / 1e6,
        )

    @property
    def dearest_cpu_seconds(self) -> float:
        """Of the services that may run as several replicas."""
        return max(self.cpu_seconds[service] for service in SHARED_OUT)

    @property
    def broker_cpu_seconds(self) -> float:
        """Of all brokers. A copy is taken to cost as much as the original, which is too much: nobody else reads it."""
        return self.kafka_cpu_seconds * REPLICATION

    @property
    def broker_network_bytes(self) -> float:
        """Into or out of all brokers, whichever is more."""
        written = sum(self.log_bytes.values())
        read = sum(self.log_bytes[topic] for topics in READS.values() for topic in topics)
        return max(written * REPLICATION, written * (REPLICATION - 1) + read)

    @property
    def broker_disk_byte_seconds(self) -> float:
        """What a request takes on all brokers' disks, times how long it stays there."""
        return REPLICATION * sum(size * RETENTION_SECONDS[topic] for topic, size in self.log_bytes.items())


@dataclass(frozen=True, slots=True)
class Size:
    """What a rate takes. `brokers` by what would run out: the most of them is what it needs."""

    per_second: int
    processes: Mapping[str, int]
    service_machines: int
    partitions: int
    brokers: Mapping[str, int]
    topic_bytes: float
    store_bytes_a_year: float
    rows_per_second: float
    sms_per_second: float
    mails_per_second: float
    start_seconds: float

    @property
    def brokers_needed(self) -> int:
        return max(BROKERS_MIN, *self.brokers.values())


@dataclass(frozen=True, slots=True)
class Limit:
    """Something that carries so many requests a second and no more, and what is to be done then."""

    what: str
    per_second: float
    then: str


def size(costs: Costs, per_second: int) -> Size:
    """What this many requests a second take, evenly through the day."""
    processes = {service: ceil(per_second * seconds / UTILISATION) for service, seconds in costs.cpu_seconds.items()}
    needs = {
        "CPU": per_second * costs.broker_cpu_seconds / CORES,
        "network": per_second * costs.broker_network_bytes / NETWORK_BYTES_PER_SECOND,
        "disk": per_second * costs.broker_disk_byte_seconds / DISK_BYTES,
    }
    return Size(
        per_second=per_second,
        processes=processes,
        service_machines=max(SERVICE_MACHINES_MIN, ceil(sum(processes.values()) / CORES)),
        partitions=max(PARTITIONS_MIN, PARTITIONS_A_PROCESS * max(processes[service] for service in SHARED_OUT)),
        brokers={part: ceil(need / UTILISATION) for part, need in needs.items()},
        topic_bytes=per_second * costs.broker_disk_byte_seconds,
        store_bytes_a_year=per_second * costs.store_bytes * YEAR_SECONDS,
        rows_per_second=per_second * costs.rows,
        sms_per_second=per_second * costs.segments,
        mails_per_second=per_second * costs.mails,
        start_seconds=per_second * costs.start_seconds * OPEN_SECONDS,
    )


def limits(costs: Costs) -> list[Limit]:
    """What breaks, the first first."""
    return sorted(_limits(costs), key=lambda limit: limit.per_second)


def _limits(costs: Costs) -> Iterator[Limit]:
    machine = CORES * UTILISATION
    brokers = BROKERS_MIN * UTILISATION
    yield Limit("one SMS contract", SMS_PER_SECOND / costs.segments, "more contracts")
    yield Limit("one mail relay", MAILS_PER_SECOND / costs.mails, "more relays")
    for service, seconds in costs.cpu_seconds.items():
        then = "replicas" if service in SHARED_OUT else "new code, decision 0012"
        yield Limit(f"one process of {service}", UTILISATION / seconds, then)
    yield Limit(
        "a start of metrics, which reads what is open",
        START_SECONDS / (costs.start_seconds * OPEN_SECONDS),
        "new code, decision 0012",
    )
    yield Limit(
        "one machine with all on it",
        machine / (sum(costs.cpu_seconds.values()) + costs.kafka_cpu_seconds),
        "brokers elsewhere",
    )
    yield Limit("one machine a service, on SQLite", machine / costs.dearest_cpu_seconds, "MongoDB")
    yield Limit(
        f"{max(REPLICAS)} replicas, the most that were tried",
        max(REPLICAS) * UTILISATION / costs.dearest_cpu_seconds,
        "try more of them first",
    )
    yield Limit(
        "one disk for all stores, a year long",
        DISK_BYTES * UTILISATION / (costs.store_bytes * YEAR_SECONDS),
        "new code that removes old rows, or disks",
    )
    yield Limit(
        f"{PARTITIONS_MIN} partitions",
        PARTITIONS_MIN * UTILISATION / costs.dearest_cpu_seconds,
        "more, at rest, decision 0006",
    )
    yield Limit(
        "disks of three brokers", brokers * DISK_BYTES / costs.broker_disk_byte_seconds, "shorter retention, or brokers"
    )
    yield Limit("CPU of three brokers", brokers * CORES / costs.broker_cpu_seconds, "brokers")
    yield Limit("network of three brokers", brokers * NETWORK_BYTES_PER_SECOND / costs.broker_network_bytes, "brokers")


def assumptions_table() -> Table:
    """What the arithmetic takes for granted."""
    days = sorted({round(seconds / 86_400) for seconds in RETENTION_SECONDS.values()})
    rows = [
        ("use of a core, a network or a disk", f"{UTILISATION:.0%}"),
        ("cores of a machine", f"{CORES}"),
        ("network of a machine", f"{NETWORK_BYTES_PER_SECOND * 8 / 1e9:g} Gbit/s each way"),
        ("disk of a broker", f"{DISK_BYTES / 1e12:g} TB"),
        ("copies of each record", f"{REPLICATION}"),
        ("brokers, at least", f"{BROKERS_MIN}"),
        ("machines for services, at least", f"{SERVICE_MACHINES_MIN}"),
        ("partitions, at least", f"{PARTITIONS_MIN}"),
        ("partitions for each process", f"{PARTITIONS_A_PROCESS}"),
        ("days that topics are kept", f"{days[0]}; dead letters {days[-1]}"),
        ("days that a request is open", f"{OPEN_SECONDS / 86_400:g}"),
        ("minutes that metrics may be away for a start", f"{START_SECONDS / 60:g}"),
        ("an SMS contract, a mail relay", f"{SMS_PER_SECOND:g} segments/s, {MAILS_PER_SECOND:g} mails/s"),
    ]
    return Table("Assumptions", ("of", "assumed"), rows)


def sizes_table(sizes: Sequence[Size]) -> Table:
    """One column a rate."""
    rows: list[tuple[str, ...]] = [("requests a day", *(f"{one.per_second * 86_400:,}" for one in sizes))]
    rows += [
        (
            f"processes of {name}" if name in SHARED_OUT else f"processes of {name}, of which one can run",
            *(f"{one.processes[name]:,}" for one in sizes),
        )
        for name in READS
    ]
    rows += [
        ("machines for them", *(f"{one.service_machines:,}" for one in sizes)),
        ("partitions of each topic", *(f"{one.partitions:,}" for one in sizes)),
        ("brokers", *(f"{one.brokers_needed:,}" for one in sizes)),
    ]
    rows += [(f"… for their {part} alone", *(f"{one.brokers[part]:,}" for one in sizes)) for part in sizes[0].brokers]
    rows += [
        (
            f"meshes, of {MESH_PER_SECOND:,}/s at most",
            *(f"{ceil(one.per_second / MESH_PER_SECOND):,}" for one in sizes),
        ),
        ("TB on topics", *(f"{one.topic_bytes / 1e12:,.1f}" for one in sizes)),
        ("TB in stores, a year", *(f"{one.store_bytes_a_year / 1e12:,.1f}" for one in sizes)),
        ("minutes of a start of metrics", *(f"{one.start_seconds / 60:,.0f}" for one in sizes)),
        ("new documents/s in stores", *(f"{one.rows_per_second:,.0f}" for one in sizes)),
        ("SMS segments/s", *(f"{one.sms_per_second:,.0f}" for one in sizes)),
        ("SMS contracts", *(f"{ceil(one.sms_per_second / SMS_PER_SECOND):,}" for one in sizes)),
        ("mails/s", *(f"{one.mails_per_second:,.0f}" for one in sizes)),
        ("mail relays", *(f"{ceil(one.mails_per_second / MAILS_PER_SECOND):,}" for one in sizes)),
    ]
    return Table("What a rate takes", ("", *(f"{one.per_second:,}/s" for one in sizes)), rows)


def limits_table(found: Sequence[Limit]) -> Table:
    """Each limit, and at which of the rates it has broken."""
    rows = [
        (
            one.what,
            f"{one.per_second:,.0f}/s",
            *("broken" if one.per_second < rate else "holds" for rate in RATES),
            one.then,
        )
        for one in found
    ]
    return Table("What breaks first", ("", "carries", *(f"{rate:,}/s" for rate in RATES), "then"), rows)
