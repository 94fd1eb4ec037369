"""Agencies that say a thing until it is taken, as they are asked to, through any outage that ends."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from time import monotonic
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from deploy.local.mesh import LocalMesh
from deploy.replay.generator import generate
from deploy.replay.publisher import (
    CONNECTIONS,
    Answer,
    HttpDoor,
    KafkaDoor,
    Outcome,
    Player,
    PublishingDoor,
    agencies_producer,
    http_session,
)
from deploy.replay.steps import Step
from shared.contract.events import Door
from shared.contract.reasons import Reason

PATIENCE_SECONDS: Final = 240.0
PAUSE_SECONDS: Final = 1.0
STRETCH_SECONDS: Final = 15.0
"""Requests are made for so long at a time."""


class Agencies:
    """Publish generated requests at both doors, `speed` new ones a second, for as long as is wanted.

    Each event is sent again until it is taken or refused, for `patience_seconds` at most.
    """

    def __init__(
        self,
        mesh: LocalMesh,
        keys: Mapping[str, str],
        *,
        seed: int,
        speed: float,
        patience_seconds: float = PATIENCE_SECONDS,
        connections: int = CONNECTIONS,
    ) -> None:
        self._mesh = mesh
        self._keys = keys
        self._seed = seed
        self._speed = speed
        self._patience_seconds = patience_seconds
        self._connections = connections
        self.enough = asyncio.Event()
        self.answers: list[Answer] = []

    async def publish(self) -> None:
        """Return once it is enough and all that was begun is answered."""
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(http_session(self._connections))
            kafka = ReconnectingKafkaDoor(self._connect)
            stack.push_async_callback(kafka.stop)
            doors: dict[Door, PublishingDoor] = {
                Door.HTTP: Patient(
                    HttpDoor(self._mesh.service_url("intake"), self._keys, session), self._patience_seconds
                ),
                Door.KAFKA: Patient(kafka, self._patience_seconds),
            }
            player = Player(doors, self._speed)
            count = max(1, round(self._speed * STRETCH_SECONDS))
            for stretch in itertools.count():
                if self.enough.is_set():
                    return
                requests = generate(count, self._seed * 10_000 + stretch)
                await player.play(requests.steps, on_answer=self.answers.append)

    async def _connect(self) -> AIOKafkaProducer:
        producer = agencies_producer(self._mesh.kafka_access)
        try:
            await producer.start()
        except KafkaError:
            await producer.stop()
            raise
        return producer


class Patient:
    """A door at which each event is sent again until it is taken or refused."""

    def __init__(self, door: PublishingDoor, seconds: float = PATIENCE_SECONDS) -> None:
        self._door = door
        self._seconds = seconds

    async def send(self, step: Step) -> Answer:
        """See PublishingDoor.send."""
        deadline = monotonic() + self._seconds
        while True:
            answer = await self._door.send(step)
            if answer.outcome is not Outcome.NOT_TAKEN or monotonic() > deadline:
                return answer
            await asyncio.sleep(PAUSE_SECONDS)


class ReconnectingKafkaDoor:
    """An agency's producer, replaced by a new one when it fails: outages can leave one that never recovers."""

    def __init__(self, connect: Callable[[], Awaitable[AIOKafkaProducer]]) -> None:
        self._connect = connect
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()

    async def send(self, step: Step) -> Answer:
        """See PublishingDoor.send."""
        try:
            producer = await self._connected()
        except KafkaError as error:
            return Answer(step, Outcome.NOT_TAKEN, reasons=(Reason.UNAVAILABLE,), detail=repr(error))
        answer = await KafkaDoor(producer).send(step)
        if answer.outcome is Outcome.NOT_TAKEN and self._producer is producer:
            await self.stop()
        return answer

    async def stop(self) -> None:
        """Let go of the connection."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._producer is None:
                try:
                    self._producer = await self._connect()
                except KafkaError:
                    await asyncio.sleep(PAUSE_SECONDS)  # with the lock: one try a second, however many wait
                    raise
            return self._producer
