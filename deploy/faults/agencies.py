"""Agencies that say a thing until it is taken, as they are asked to, through any outage that ends."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from deploy.replay.publisher import Answer, KafkaDoor, Outcome, PublishingDoor
from deploy.replay.steps import Step
from shared.contract.reasons import Reason

PATIENCE_SECONDS: Final = 240.0
PAUSE_SECONDS: Final = 1.0


class Patient:
    """A door at which each event is sent again until it is taken or refused."""

    def __init__(self, door: PublishingDoor) -> None:
        self._door = door

    async def send(self, step: Step) -> Answer:
        """See PublishingDoor.send."""
        deadline = monotonic() + PATIENCE_SECONDS
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
                self._producer = await self._connect()
            return self._producer
