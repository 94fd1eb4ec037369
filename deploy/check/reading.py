"""Observes a mesh: its topics from the first record to what stands there now, offsets, stores, logs and metrics."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import monotonic

import aiohttp
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from prometheus_client.parser import text_string_to_metric_families

from deploy.check.checks import GROUPS
from deploy.check.ledger import is_there, read_notifications
from deploy.check.observed import (
    LedgerRow,
    Letter,
    Observed,
    Place,
    Rulebook,
    Sample,
    Scrape,
    ShortMessage,
    Sightings,
    TopicPlace,
    sighting,
    together,
)
from deploy.check.privacy import Gatherer, Mentions, impersonal
from deploy.local.journal import read_journal
from deploy.local.state import access_of, running, service_of
from services.notify.domain import Notification, State
from services.routing.calendar import load_calendar
from services.routing.rules import load_rules
from shared.bus.access import KafkaAccess
from shared.bus.loop import decode_mesh_event
from shared.bus.port import Record, Unavailable, Undecodable
from shared.contract.events import DeadLetter, NotificationOutcome, RequestAccepted, RequestRejected
from shared.contract.topics import ACCEPTED, MESH_TOPICS
from shared.jurisdiction import load_jurisdiction
from shared.store import MONGODB_DATABASE

POLL_MS = 500
REST_SECONDS = 10.0
"""How long a mesh may go on working while it is observed; then what it is at is taken as it is."""

SCRAPE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Sources:
    """Where all that can be observed is. What is None or empty is not there to be read.

    `notify_data` is the folder of notify's SQLite file, which counts where there is no `mongodb_url`. `samples` of
    committed offsets were taken during the run, oldest first; `faults` is when faults were injected. `service_urls`
    are by replica, as in mesh.json: `routing`, `routing-2`, …
    """

    kafka: KafkaAccess
    smsc_logs: Sequence[Path] | None = None
    smtp_logs: Sequence[Path] | None = None
    notify_data: Path | None = None
    mongodb_url: str | None = None
    mongodb_database: str = MONGODB_DATABASE
    service_urls: Mapping[str, str] = field(default_factory=dict)
    service_logs: Sequence[Path] = ()
    jurisdiction: Path | None = None
    samples: Sequence[Sample] = ()
    faults: Sequence[datetime] | None = None
    poison: Collection[Place] | None = None


def local_sources(directory: Path) -> Sources | None:
    """Those of the mesh that runs in a directory; None if none does."""
    state = running(directory)
    if state is None:
        return None
    folder = directory / "jurisdiction"
    return Sources(
        kafka=access_of(state),
        smsc_logs=[Path(log) for log in state["smsc_logs"]] or None,
        smtp_logs=[Path(log) for log in state["smtp_logs"]] or None,
        notify_data=directory / "data" / "notify",
        mongodb_url=state["mongodb_url"],
        mongodb_database=state["mongodb_database"],
        service_urls=state["services"],
        service_logs=[Path(state["logs"][name]) for name in state["services"]],
        jurisdiction=folder if folder.exists() else None,
    )


async def observe(sources: Sources, *, requests: Collection[str] | None = None) -> Observed:
    """All that stands there now, once the mesh has come to rest; of these requests only, if they are named.

    Unavailable if a part does not answer; ConfigError if the jurisdiction's files are wrong.
    """
    async with _kafka(sources.kafka) as kafka:
        topics = _Topics(kafka, requests)
        deadline = monotonic() + REST_SECONDS
        while True:
            await topics.read()
            ledger = await _read_ledger(sources)
            sample = await kafka.sample()
            still_told = any(row.untold for row in (ledger or {}).values())
            if (topics.at(sample) and not still_told) or monotonic() > deadline:
                break
            await asyncio.sleep(POLL_MS / 1000)
    scrapes: dict[str, list[Scrape | None]] = defaultdict(list)
    for replica, url in sources.service_urls.items():
        scrapes[service_of(replica)].append(await _scrape(url, topics.mentions))
    for log in sources.service_logs:
        _look_through(log, topics.mentions)
    return Observed(
        sightings=topics.sightings,
        dead_letters=topics.dead_letters,
        unreadable=topics.unreadable,
        partitions=kafka.partitions,
        poison=sources.poison,
        ledger=ledger,
        short_messages=_short_messages(sources.smsc_logs),
        letters=_letters(sources.smtp_logs),
        faults=sources.faults,
        samples=[*sources.samples, sample],
        rulebook=read_rulebook(sources.jurisdiction) if sources.jurisdiction else None,
        accepted_values=topics.accepted_values,
        scrapes={service: counted for service, replicas in scrapes.items() if (counted := together(replicas))} or None,
        began=topics.began,
        personal=topics.citizens.personal(),
        mentions=topics.mentions.found,
    )


@asynccontextmanager
async def sampling(access: KafkaAccess) -> AsyncIterator[Callable[[], Awaitable[Sample]]]:
    """What takes a sample: how far each group has committed, and then where each partition ends. For during a run."""
    async with _kafka(access) as kafka:
        yield kafka.sample


def read_rulebook(jurisdiction: Path) -> Rulebook:
    """What routing decides by in a jurisdiction's folder; ConfigError if its files are wrong."""
    known = load_jurisdiction(jurisdiction)
    calendar = load_calendar(jurisdiction / "calendar.yaml", known.timezone)
    return Rulebook(load_rules(jurisdiction / "rules.yaml", known), calendar)


class _Kafka:
    """A reader in no group, and an administrator."""

    def __init__(self, consumer: AIOKafkaConsumer, admin: AIOKafkaAdminClient) -> None:
        self.consumer = consumer
        self._admin = admin
        self.partitions: dict[str, int] = {}
        self._agencies: list[TopicPartition] = []

    async def lay_out(self) -> None:
        """Learn which partitions there are. Unavailable if a topic of the mesh is missing."""
        names = await self._admin.list_topics()
        described = await self._admin.describe_topics([name for name in names if not name.startswith("__")])
        sizes = {topic["topic"]: len(topic["partitions"]) for topic in described}
        if missing := [topic.name for topic in MESH_TOPICS if topic.name not in sizes]:
            raise Unavailable(f"the broker has no topic {', '.join(missing)}")
        self.partitions = {topic.name: sizes[topic.name] for topic in MESH_TOPICS}
        agencies = {name: size for name, size in sizes.items() if name.startswith("agency.")}
        self._agencies = [TopicPartition(name, index) for name, size in agencies.items() for index in range(size)]

    def places(self, topics: Iterable[str]) -> list[TopicPartition]:
        return [TopicPartition(topic, index) for topic in topics for index in range(self.partitions[topic])]

    async def sample(self) -> Sample:
        """Offsets first and ends afterwards: what a commit rests on has to stand below the ends."""
        committed: dict[str, dict[TopicPlace, int]] = {}
        for group in GROUPS:
            offsets = await self._admin.list_consumer_group_offsets(group)
            committed[group] = {
                (place.topic, place.partition): at.offset for place, at in offsets.items() if at.offset >= 0
            }
        everywhere = [*self.places(self.partitions), *self._agencies]
        # The client learns of topics that it does not read one at a time, half a second each; of these, all at once.
        self.consumer.assign(everywhere)
        self.consumer.pause(*everywhere)
        ends = await self.consumer.end_offsets(everywhere)
        return Sample(committed, {(place.topic, place.partition): end for place, end in ends.items()})


@asynccontextmanager
async def _kafka(access: KafkaAccess) -> AsyncIterator[_Kafka]:
    consumer = AIOKafkaConsumer(
        client_id="guichet-check",
        **access.options(),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    admin = AIOKafkaAdminClient(client_id="guichet-check", **access.options())
    try:
        await consumer.start()
        await admin.start()
        kafka = _Kafka(consumer, admin)
        await kafka.lay_out()
        yield kafka
    except KafkaError as error:
        raise Unavailable(f"Kafka at {access} does not answer: {error!r}") from error
    finally:
        await consumer.stop()
        await admin.close()


class _Topics:
    """What was read of the mesh's topics so far, and how far that is."""

    def __init__(self, kafka: _Kafka, requests: Collection[str] | None) -> None:
        self._kafka = kafka
        self._requests = requests
        self._decode = decode_mesh_event(MESH_TOPICS)
        self._positions: dict[TopicPartition, int] = {}
        self.sightings = Sightings()
        self.dead_letters: list[DeadLetter] = []
        self.unreadable: list[Place] = []
        self.accepted_values: dict[str, bytes] = {}
        self.began: float | None = None
        self.citizens = Gatherer()
        self.mentions = Mentions(self.citizens.personal())

    async def read(self) -> None:
        """Read on to what stands there now. Accepted events first: they say which names must not stand elsewhere."""
        await self._read(self._kafka.places([ACCEPTED.name]))
        found = self.mentions.found
        self.mentions = Mentions(self.citizens.personal())
        self.mentions.found.update(found)
        for key, value in self.accepted_values.items():
            self.mentions.take(impersonal(value), f"{ACCEPTED.name} {key}")
        await self._read(self._kafka.places(topic.name for topic in MESH_TOPICS if topic is not ACCEPTED))

    def at(self, sample: Sample) -> bool:
        """Whether nothing has come since."""
        return all(sample.ends[place.topic, place.partition] <= at for place, at in self._positions.items())

    async def _read(self, places: Sequence[TopicPartition]) -> None:
        consumer = self._kafka.consumer
        consumer.assign(places)
        begins = await consumer.beginning_offsets(places)
        ends = await consumer.end_offsets(places)
        for place in places:
            at = self._positions.setdefault(place, begins[place])
            consumer.seek(place, at)
        unread = {place for place in places if self._positions[place] < ends[place]}
        while unread:
            for place, records in (await consumer.getmany(*unread, timeout_ms=POLL_MS)).items():
                for record in records:
                    self._take(record)
                self._positions[place] = records[-1].offset + 1
                if self._positions[place] >= ends[place]:
                    unread.discard(place)

    def _take(self, raw: "ConsumerRecord[bytes | None, bytes | None]") -> None:
        published = raw.timestamp / 1000
        self.began = published if self.began is None else min(self.began, published)
        headers = tuple(raw.headers)
        record = Record(raw.topic, raw.partition, raw.offset, raw.timestamp, None, raw.key, raw.value, headers)
        try:
            incoming = self._decode(record)
        except Undecodable:
            self.unreadable.append(Place(raw.topic, raw.partition, raw.offset))
            return
        seen, event = sighting(incoming), incoming.event
        if self._requests is not None and seen.request_id is not None and seen.request_id not in self._requests:
            return
        first = self.sightings.add(seen)
        if first and isinstance(event, DeadLetter):
            self.dead_letters.append(event)
        where = f"{raw.topic}/{raw.partition}/{raw.offset}"
        if isinstance(event, RequestAccepted):
            self.citizens.take(event.data.request.applicant)
            if first:
                self.accepted_values[seen.id] = raw.value or b""
            self.mentions.take(f"{raw.key!r} {headers!r}", where)
        elif first or headers:
            # Outcomes and rejections repeat nothing personal, so nothing has to be taken out of them first.
            if isinstance(event, NotificationOutcome | RequestRejected):
                self.mentions.take(f"{raw.key!r} {headers!r} {(raw.value or b'').decode()}", where)
            else:
                self.mentions.take(impersonal(raw.value or b"", headers, raw.key), where)


async def work_left(sources: Sources) -> int:
    """How many notifications are still to be sent, told or resolved; 0 where notify's store is not there to be read."""
    return sum([1 async for _ in _notifications(sources, due_only=True)]) if _has_ledger(sources) else 0


async def _read_ledger(sources: Sources) -> dict[str, LedgerRow] | None:
    """Every row of notify's ledger by its id; None if its store is not there to be read."""
    if not _has_ledger(sources):
        return None
    return {each.id: _ledger_row(each) async for each in _notifications(sources)}


def _has_ledger(sources: Sources) -> bool:
    return is_there(notify_data=sources.notify_data, mongodb_url=sources.mongodb_url)


def _notifications(sources: Sources, *, due_only: bool = False) -> AsyncIterator[Notification]:
    return read_notifications(
        notify_data=sources.notify_data,
        mongodb_url=sources.mongodb_url,
        mongodb_database=sources.mongodb_database,
        due_only=due_only,
    )


def _ledger_row(notification: Notification) -> LedgerRow:
    return LedgerRow(
        id=notification.id,
        cause=notification.cause,
        request_id=notification.request_id,
        channel=notification.channel,
        recipient=notification.recipient,
        status=notification.status,
        announced=frozenset(notification.announced),
        references=notification.provider_references,
        segments=notification.segments,
        attempts=notification.attempts,
        policy=notification.policy,
        unknowns=notification.unknowns,
        has_alternative=notification.alternative is not None,
        fallback_of=notification.fallback_of,
        untold=_is_untold(notification),
    )


def _is_untold(notification: Notification) -> bool:
    if notification.fallback_of and notification.status in (State.PLANNED, State.SENDING):
        return True
    # An unreachable one keeps its outcome for ever: it is published with the batch that planned it.
    return notification.untold and notification.status is not State.UNREACHABLE


def _short_messages(logs: Sequence[Path] | None) -> list[ShortMessage] | None:
    if logs is None:
        return None
    return [
        ShortMessage(
            message_id=entry["message_id"],
            recipient=entry["destination"],
            user_message_reference=entry["user_message_reference"],
            part=(entry["part"] or {}).get("number", 1),
            octets=entry["octets"],
            at=datetime.fromisoformat(entry["time"]),
        )
        for log in logs
        for entry in read_journal(log)
    ]


def _letters(logs: Sequence[Path] | None) -> list[Letter] | None:
    if logs is None:
        return None
    return [
        Letter(
            notification_id=(entry["message_id"] or "").strip("<>").partition("@")[0],
            recipients=tuple(entry["rcpt"]),
            at=datetime.fromisoformat(entry["time"]),
        )
        for log in logs
        for entry in read_journal(log)
    ]


async def _scrape(url: str, mentions: Mentions) -> Scrape | None:
    """What a service's /metrics say; None if it does not answer."""
    timeout = aiohttp.ClientTimeout(total=SCRAPE_SECONDS)
    try:
        async with aiohttp.request("GET", f"{url}/metrics", timeout=timeout) as answer:
            text = await answer.text()
    except (aiohttp.ClientError, TimeoutError):
        return None
    mentions.take(text, f"{url}/metrics")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _look_through(log: Path, mentions: Mentions) -> None:
    if not log.exists():
        return
    with log.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            mentions.take(_unescaped(line), f"{log.name}:{number}")


def _unescaped(line: str) -> str:
    """A line of a log as people read it: in JSON a name may hide behind escapes."""
    try:
        return json.dumps(json.loads(line), ensure_ascii=False)
    except ValueError:
        return line
