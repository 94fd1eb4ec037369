"""Says to a mesh what agencies said, in their order, with time compressed: by HTTP and by Kafka, as an agency would."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any, Protocol

import aiohttp
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from deploy.replay.steps import Kind, Step
from shared.bus.access import KafkaAccess
from shared.contract.events import Door
from shared.contract.reasons import Reason
from shared.contract.topics import agency_topic

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"

DEFAULT_REQUESTS_PER_SECOND = 60.0
IN_FLIGHT_MAX = 512
CONNECTIONS = 32
BATCH_EVENTS_MAX = 50
BATCH_GATHERED_SECONDS = 0.3
BATCHED_SHARE = 0.25
TRIES_MAX = 6
RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 10.0
CALL_TIMEOUT_SECONDS = 30.0


class Outcome(StrEnum):
    """What a door said. By Kafka it is only that the event is durable: the verdict comes as an event."""

    ACCEPTED = "accepted"
    UPDATED = "updated"
    REJECTED = "rejected"
    DURABLE = "durable"
    NOT_TAKEN = "not_taken"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a step at its door. `reasons` name what was wrong; `detail` says it for people."""

    step: Step
    outcome: Outcome
    reference: str | None = None
    reasons: tuple[str, ...] = ()
    detail: str | None = None


class PublishingDoor(Protocol):
    """A way into the mesh."""

    async def send(self, step: Step) -> Answer:
        """Publish one event; return when the mesh has it for good, has refused it, or does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class Player:
    """Sends steps through their doors, in order, `speed` submissions a second.

    The steps are spaced evenly: real ones lie between nothing and years apart. What is told of one request goes one
    after the other, each when the one before was answered.
    """

    doors: Mapping[Door, PublishingDoor]
    speed: float = DEFAULT_REQUESTS_PER_SECOND

    async def play(self, steps: Sequence[Step], *, on_answer: Callable[[Answer], None]) -> None:
        """Send all; `on_answer` is told of each as it is answered."""
        tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        room = asyncio.Semaphore(IN_FLIGHT_MAX)

        async def send(step: Step, before: asyncio.Task[None] | None) -> None:
            try:
                if before is not None:
                    await asyncio.wait([before])
                on_answer(await self.doors[step.door].send(step))
            finally:
                room.release()
                if tasks.get(step.request) is asyncio.current_task():
                    del tasks[step.request]

        async with asyncio.TaskGroup() as group:
            started = asyncio.get_running_loop().time()
            for step, seconds in zip(steps, self._schedule(steps), strict=True):
                await _until(started + seconds)
                await room.acquire()
                tasks[step.request] = group.create_task(send(step, tasks.get(step.request)))

    def _schedule(self, steps: Sequence[Step]) -> Iterator[float]:
        """Seconds from the start for each step."""
        submissions = sum(step.kind is Kind.SUBMITTED and not step.duplicate for step in steps)
        interval = max(submissions, 1) / self.speed / max(len(steps), 1)
        return (index * interval for index in range(len(steps)))


async def _until(moment: float) -> None:
    wait = moment - asyncio.get_running_loop().time()
    if wait > 0:
        await asyncio.sleep(wait)


class HttpDoor:
    """POST /v1/events with the agency's own key; a quarter of the requests in batches, as some agencies would.

    `keys` holds each agency's key, `<agency id>.<secret>`. A call that is not answered, or answered with 503, is
    repeated a few times, after as long as Retry-After says.
    """

    def __init__(
        self,
        intake_url: str,
        keys: Mapping[str, str],
        session: aiohttp.ClientSession,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url = f"{intake_url.rstrip('/')}/v1/events"
        self._keys = keys
        self._session = session
        self._sleep = sleep
        self._batches: dict[str, _Batch] = {}

    async def send(self, step: Step) -> Answer:
        """See PublishingDoor.send."""
        return await (self._send_gathered(step) if is_batched(step) else self._send_alone(step))

    async def _send_alone(self, step: Step) -> Answer:
        status, answer = await self._post(step.agency, STRUCTURED, step.body)
        return _answer(step, status, answer)

    async def _send_gathered(self, step: Step) -> Answer:
        batch = self._batches.get(step.agency)
        if batch is None:
            steps, full = list[Step](), asyncio.Event()
            sending = asyncio.create_task(self._send_batch(step.agency, steps, full))
            batch = self._batches[step.agency] = _Batch(steps, full, sending)
        place = len(batch.steps)
        batch.steps.append(step)
        if len(batch.steps) == BATCH_EVENTS_MAX:
            del self._batches[step.agency]
            batch.full.set()
        return (await batch.sending)[place]

    async def _send_batch(self, agency: str, steps: Sequence[Step], full: asyncio.Event) -> list[Answer]:
        try:
            async with asyncio.timeout(BATCH_GATHERED_SECONDS):
                await full.wait()
        except TimeoutError:
            gathering = self._batches.get(agency)
            if gathering is not None and gathering.steps is steps:
                del self._batches[agency]
        body = b"[" + b",".join(step.body for step in steps) + b"]"
        status, answer = await self._post(agency, BATCH, body)
        results = answer.get("results")
        if isinstance(results, list) and len(results) == len(steps):
            return [_answer(step, result["status"], result) for step, result in zip(steps, results, strict=True)]
        if 400 <= status < 500:  # one event spoils the batch: whoever sent it finds out which
            return [await self._send_alone(step) for step in steps]
        return [_answer(step, status, answer) for step in steps]

    async def _post(self, agency: str, kind: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """The last answer: its status (503 if there was none) and its JSON."""
        headers = {"Authorization": f"Bearer {self._keys.get(agency, '')}", "Content-Type": kind}
        failure: dict[str, Any] = {}
        for tried in range(1, TRIES_MAX + 1):
            wait = RETRY_SECONDS
            try:
                async with self._session.post(self._url, data=body, headers=headers) as response:
                    answer = await _json(response)
                    if response.status != 503:
                        return response.status, answer
                    failure, wait = answer, _seconds(response.headers.get("Retry-After"))
            except (aiohttp.ClientError, TimeoutError) as error:
                failure = {"reason": Reason.UNAVAILABLE, "detail": repr(error)}
            if tried < TRIES_MAX:
                await self._sleep(wait)
        return 503, failure


@dataclass(frozen=True, slots=True)
class _Batch:
    """Events of one agency that go in one call. Only `_send_gathered` adds to `steps`, until they are taken."""

    steps: list[Step]
    full: asyncio.Event
    sending: asyncio.Task[list[Answer]]


class KafkaDoor:
    """The agency's own topic, keyed by the agency's reference, so that a request's events keep their order."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    async def send(self, step: Step) -> Answer:
        """See PublishingDoor.send."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                await self._producer.send_and_wait(
                    agency_topic(step.agency), value=step.body, key=step.agency_reference.encode("utf-8", "replace")
                )
        except (KafkaError, TimeoutError) as error:
            return Answer(step, Outcome.NOT_TAKEN, reasons=(Reason.UNAVAILABLE,), detail=repr(error))
        return Answer(step, Outcome.DURABLE)


def agencies_producer(kafka: KafkaAccess) -> AIOKafkaProducer:
    """An idempotent producer as an agency should have one."""
    return AIOKafkaProducer(
        client_id="guichet-replay",
        **kafka.options(),
        acks="all",
        enable_idempotence=True,
        linger_ms=10,
        request_timeout_ms=10_000,
    )


def http_session(connections: int = CONNECTIONS) -> aiohttp.ClientSession:
    """Connections that are kept: so many at once."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections), timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT_SECONDS)
    )


def is_batched(step: Step) -> bool:
    """Whether the request's events go in batches: all of them or none, the same on every run."""
    return sha256("\n".join(step.request).encode("utf-8", "replace")).digest()[1] < 256 * BATCHED_SHARE


def _answer(step: Step, status: int, answer: Mapping[str, Any]) -> Answer:
    if status == 202:
        reference = answer.get("reference")
        outcome = Outcome.UPDATED if answer.get("outcome") == Outcome.UPDATED else Outcome.ACCEPTED
        return Answer(step, outcome, reference=reference if isinstance(reference, str) else None)
    problems = answer.get("problems") or [answer]
    reasons = tuple(str(problem.get("reason", status)) for problem in problems)
    # 401 and 404 say nothing of the event: the mesh does not know the agency, or is none.
    refused = 400 <= status < 500 and status not in (401, 404)
    outcome = Outcome.REJECTED if refused else Outcome.NOT_TAKEN
    return Answer(step, outcome, reasons=reasons, detail=str(problems[0].get("detail", f"status {status}")))


async def _json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    try:
        answer = json.loads(await response.read())
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _seconds(retry_after: str | None) -> float:
    written = (retry_after or "").strip()
    return min(float(written), RETRY_SECONDS_MAX) if written.isdecimal() else RETRY_SECONDS
