"""Three brokers, services in processes of their own, an agency that calls, a reader of the topics."""

import asyncio
import os
import signal
import sqlite3
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from msgspec.structs import replace

from deploy.local.kafka import KafkaCluster
from deploy.local.mesh import service_argv
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.process import Process, project_env
from deploy.replay.jurisdiction import read_keys, write_jurisdiction
from shared.bus.admin import apply_topics
from shared.contract.agency import RequestSubmitted
from shared.contract.events import RequestAccepted
from shared.contract.topics import ACCEPTED, ASSIGNED, UNROUTABLE, Topic
from shared.ids import partition_of

PROJECT = Path(__file__).parents[2]
DJIBOUTI = PROJECT / "deploy" / "jurisdictions" / "djibouti"
GOLDEN = PROJECT / "tests" / "golden" / "guichet.request.accepted.v1.json"

AGENCY = "etat-civil"
PARTITIONS = 3
READY_SECONDS = 60.0
PATIENCE_SECONDS = 60.0
ANSWER_SECONDS = 25.0
"""The longest that intake takes to answer in the worst case, and a little."""

PUT_BACK = 'guichet_batch_failures_total{cause="StoreUnavailable"}'

Measure = Callable[[str, float], None]


@dataclass(frozen=True)
class Answer:
    """What intake said to one call, and after how long. `status` 0: the connection gave no answer."""

    event_id: str
    status: int
    seconds: float
    retry_after: str | None = None
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def request_id(self) -> str:
        found: str = self.body["request_id"]
        return found


class Running:
    """A service in a process of its own."""

    def __init__(self, process: Process, url: str) -> None:
        self.process = process
        self.url = url

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body; status 0 where there is no answer."""
        timeout = aiohttp.ClientTimeout(total=5.0)
        try:
            async with aiohttp.request("GET", f"{self.url}{path}", timeout=timeout) as answer:
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return 0, ""

    async def until_ready(self) -> None:
        async def ready() -> bool:
            return (await self.get("/ready"))[0] == 200

        await self.process.answers(ready, within_seconds=READY_SECONDS)

    async def metric(self, series: str) -> float:
        """The value of one series as `/metrics` writes it; 0 where it is not there yet."""
        status, text = await self.get("/metrics")
        assert status == 200
        found = [line for line in text.splitlines() if line.startswith(f"{series} ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.pid, number)

    def freeze(self) -> None:
        """Stand still with all connections open, as in a long pause of the machine; return when it does.

        A thread ends the system call it is in before it stops: it might still take a lock that is free by then.
        """
        self.process.suspend()
        os.waitpid(self.pid, os.WUNTRACED)

    def thaw(self) -> None:
        self.process.resume()


class Crew:
    """Starts services; all of them are gone after the test."""

    def __init__(self, directory: Path, bootstrap: str, jurisdiction: Path) -> None:
        self._directory = directory
        self._bootstrap = bootstrap
        self._jurisdiction = jurisdiction
        self._running: list[Running] = []

    async def start(self, service: str, **env: str) -> Running:
        """A service, once it is ready. Several of one name are replicas: they share their data."""
        number = len(self._running)
        data, port = self._directory / "data" / service, free_port()
        data.mkdir(parents=True, exist_ok=True)
        whole = project_env(
            KAFKA_BOOTSTRAP_SERVERS=self._bootstrap,
            JURISDICTION_DIR=str(self._jurisdiction),
            DATA_DIR=str(data),
            HTTP_HOST=LOOPBACK,
            HTTP_PORT=str(port),
        )
        whole.pop("MONGODB_URL", None)
        log = self._directory / f"{service}-{number}.log"
        process = Process(service, service_argv(service), env=whole | env, log_path=log)
        running = Running(process, f"http://{LOOPBACK}:{port}")
        self._running.append(running)
        process.start()
        await running.until_ready()
        return running

    def data(self, service: str) -> Path:
        """The folder of a service's SQLite file."""
        return self._directory / "data" / service

    async def stop(self) -> None:
        await asyncio.gather(*(running.process.stop() for running in self._running))


def submission(event_id: str) -> dict[str, Any]:
    """A request as an agency writes it."""
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "/agency",
        "type": RequestSubmitted.TYPE,
        "time": "2026-11-22T09:30:00+03:00",
        "data": {"agency_reference": event_id, "service_code": "birth-certificate"},
    }


class Agency:
    """An agency at intake's HTTP door."""

    def __init__(self, session: aiohttp.ClientSession, key: str) -> None:
        self._session = session
        self._key = key

    async def submit(self, intake: Running, event_id: str | None = None) -> Answer:
        """Submit one request; with the id of an earlier call, the same request again."""
        event = submission(event_id or uuid4().hex)
        return await self._call(intake, event["id"], event, "application/cloudevents+json")

    async def submit_batch(self, intake: Running, count: int) -> Answer:
        """Submit so many requests in one call."""
        events = [submission(uuid4().hex) for _ in range(count)]
        return await self._call(intake, "", events, "application/cloudevents-batch+json")

    async def _call(self, intake: Running, event_id: str, content: object, kind: str) -> Answer:
        headers = {"authorization": f"Bearer {self._key}", "content-type": kind}
        started = time.monotonic()
        try:
            async with self._session.post(f"{intake.url}/v1/events", json=content, headers=headers) as answer:
                body = await answer.json(content_type=None)
                seconds = time.monotonic() - started
                return Answer(event_id, answer.status, seconds, answer.headers.get("retry-after"), body)
        except (aiohttp.ClientError, TimeoutError):
            return Answer(event_id, 0, time.monotonic() - started)

    async def submit_many(self, intake: Running, count: int) -> list[Answer]:
        """So many at once."""
        return list(await asyncio.gather(*(self.submit(intake) for _ in range(count))))

    async def insist(self, intake: Running, event_id: str | None = None) -> Answer:
        """Submit one request again and again until it is accepted, as its agency is told to do."""
        event_id = event_id or uuid4().hex
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (answer := await self.submit(intake, event_id)).status != 202:
            assert time.monotonic() < deadline, answer
            await asyncio.sleep(0.2)
        return answer


class Stream:
    """Requests that keep coming, from several callers one after the other, until it is ended."""

    def __init__(self, agency: Agency, intake: Running) -> None:
        self._agency = agency
        self._intake = intake
        self._ended = asyncio.Event()
        self._changed = asyncio.Condition()
        self.answers: list[Answer] = []

    async def call(self) -> None:
        while not self._ended.is_set():
            answer = await self._agency.submit(self._intake)
            self.answers.append(answer)
            async with self._changed:
                self._changed.notify_all()
            if answer.status == 0:
                return

    async def until(self, count: int) -> None:
        """Return once so many more are accepted."""
        wanted = len(self.accepted) + count
        async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
            await self._changed.wait_for(lambda: len(self.accepted) >= wanted)

    def end(self) -> None:
        self._ended.set()

    @property
    def accepted(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status == 202]


@asynccontextmanager
async def streaming(agency: Agency, intake: Running, *, callers: int = 8) -> AsyncIterator[Stream]:
    """A stream of requests; on leaving, it is ended and its last answers are there."""
    stream = Stream(agency, intake)
    calling = [asyncio.create_task(stream.call()) for _ in range(callers)]
    try:
        yield stream
    finally:
        stream.end()
        await asyncio.gather(*calling)


class Log:
    """What stands on the topics."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    async def read(self, *topics: Topic) -> dict[str, list[bytes]]:
        """The values by key, in order per partition, of all that stands on these topics now."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        found: dict[str, list[bytes]] = defaultdict(list)
        try:
            places = [TopicPartition(topic.name, number) for topic in topics for number in range(PARTITIONS)]
            consumer.assign(places)
            ends = await consumer.end_offsets(places)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while any([await consumer.position(place) < ends[place] for place in places]):
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        for record in records:
                            found[record.key.decode()].append(record.value)
        finally:
            await consumer.stop()
        return found

    async def decided(self, request_ids: Sequence[str]) -> dict[str, list[bytes]]:
        """Every decision on these requests, once there is one on each of them."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            found = await self.read(ASSIGNED, UNROUTABLE)
            missing = [one for one in request_ids if one not in found]
            if not missing:
                return {one: found[one] for one in request_ids}
            assert time.monotonic() < deadline, f"{len(missing)} of {len(request_ids)} are not decided"
            await asyncio.sleep(0.5)

    async def committed(self, service: str, topic: Topic) -> dict[int, int]:
        """The committed offsets of a service's group."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            offsets = await admin.list_consumer_group_offsets(f"guichet-{service}")
        finally:
            await admin.close()
        return {place.partition: stood.offset for place, stood in offsets.items() if place.topic == topic.name}

    async def publish_accepted(self, count: int) -> list[str]:
        """Have so many accepted requests stand on their topic, as intake writes them; their ids."""
        golden = RequestAccepted.from_json(GOLDEN.read_bytes())
        requests = [_another(golden) for _ in range(count)]
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all") as producer:
            sent = []
            for event in requests:
                key = event.data.request.request_id.encode()
                place = partition_of(key, PARTITIONS)
                sent.append(await producer.send(ACCEPTED.name, event.to_json(), key=key, partition=place))
            await asyncio.gather(*sent)
        return [event.data.request.request_id for event in requests]


def _another(golden: RequestAccepted) -> RequestAccepted:
    request_id = str(uuid4())
    card = replace(golden.data.request, request_id=request_id)
    data = replace(golden.data, request=card)
    return replace(golden, id=str(uuid4()), subject=request_id, data=data)


def assert_one_decision_each(decisions: dict[str, list[bytes]]) -> None:
    """Raw copies may stand there, but all of them say the same to the byte."""
    assert {key for key, copies in decisions.items() if len(set(copies)) != 1} == set()


async def assert_nothing_passes(
    intake: Running, routing: Running, agency: Agency, log: Log
) -> tuple[list[Answer], list[str]]:
    """While neither's store works. What intake refused meanwhile, and the requests that wait for routing."""
    waiting = await log.publish_accepted(100)
    # What was under way when the store went away may still be committed before the first batch is put back.
    await until_put_back(routing)
    committed = await log.committed("routing", ACCEPTED)
    refused = await agency.submit_many(intake, 10)
    assert {(answer.status, answer.retry_after) for answer in refused} == {(503, "5")}
    assert max(answer.seconds for answer in refused) < ANSWER_SECONDS
    await until_put_back(routing)
    assert await log.committed("routing", ACCEPTED) == committed
    assert not (await log.read(ASSIGNED, UNROUTABLE)).keys() & set(waiting)
    lives = await asyncio.gather(*(service.get("/live") for service in (intake, routing)))
    assert [status for status, _ in lives] == [200, 200]
    ready = await asyncio.gather(*(service.get("/ready") for service in (intake, routing)))
    assert [(status, "store" in why) for status, why in ready] == [(503, True)] * 2
    return refused, waiting


async def until_put_back(service: Running) -> None:
    """Return when the service has put one more batch back."""
    before = await service.metric(PUT_BACK)

    async def put_back() -> bool:
        return await service.metric(PUT_BACK) > before

    await until(put_back)


async def until(holds: Callable[[], Awaitable[bool]], *, within_seconds: float = PATIENCE_SECONDS) -> float:
    """Return when it holds; after how many seconds that was."""
    started = time.monotonic()
    while not await holds():
        assert time.monotonic() - started < within_seconds, "it never came to hold"
        await asyncio.sleep(0.05)
    return time.monotonic() - started


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Keep the write lock of a SQLite file, so that its service waits in the middle of its batch."""
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A jurisdiction with keys."""
    directory = tmp_path_factory.mktemp("jurisdiction")
    write_jurisdiction(DJIBOUTI, directory)
    return directory


@pytest.fixture(scope="session")
async def brokers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KafkaCluster]:
    """Three brokers that tests may kill, with the mesh's topics on all of them."""
    cluster = KafkaCluster(tmp_path_factory.mktemp("kafka"), brokers=3)
    try:
        await cluster.start()
        await apply_topics(cluster.access, [AGENCY], partitions=PARTITIONS, replication=3)
        yield cluster
    finally:
        await cluster.stop()


@pytest.fixture
def log(brokers: KafkaCluster) -> Log:
    return Log(brokers.bootstrap)


@pytest.fixture
async def crew(tmp_path: Path, brokers: KafkaCluster, folder: Path) -> AsyncIterator[Crew]:
    crew = Crew(tmp_path, brokers.bootstrap, folder)
    yield crew
    await crew.stop()


@pytest.fixture
async def agency(folder: Path) -> AsyncIterator[Agency]:
    timeout = aiohttp.ClientTimeout(total=2 * ANSWER_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        yield Agency(session, read_keys(folder)[AGENCY])


@pytest.fixture
def measure(record_property: Callable[[str, object], None]) -> Measure:
    """Keeps a figure with the test's result; all of them are shown at the end of the run."""
    return lambda name, value: record_property(name, round(value, 2))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    measured = [report for report in terminalreporter.stats.get("passed", []) if report.user_properties]
    for report in measured:
        figures = ", ".join(f"{name} {value}" for name, value in report.user_properties)
        terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {figures}")
