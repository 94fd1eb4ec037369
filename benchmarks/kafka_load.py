"""A load of events on an agency's topic from a process of its own: `python -m benchmarks.kafka_load --rate 500 …`.

Each event has its time beforehand, and carries it as its record's time: if the load itself is late, that counts. What
is due within some milliseconds goes to a partition in one piece, up to so much later, so that the load costs little:
agencies have machines of their own. Prints what came of it as JSON.
"""

import argparse
import asyncio
import json
import time
from dataclasses import dataclass
from typing import Final

import uvloop
from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from benchmarks.events import AGENCY, submissions
from deploy.cli.starting import LOCAL_PARTITIONS
from shared.contract.topics import agency_topic
from shared.ids import partition_of

PACE_SECONDS: Final = 0.01


@dataclass(frozen=True, slots=True)
class Plan:
    """What to publish: `rate` events a second."""

    bootstrap: str
    run: str
    rate: float
    seconds: float


async def load(plan: Plan) -> dict[str, float]:
    """Publish all of it; KafkaError if anything is not acknowledged."""
    producer = AIOKafkaProducer(
        bootstrap_servers=plan.bootstrap, acks="all", enable_idempotence=True, max_batch_size=1024 * 1024
    )
    await producer.start()
    topic, events, made = agency_topic(AGENCY), submissions(plan.run), 0
    count = int(plan.rate * plan.seconds)
    acknowledged: list[asyncio.Future[object]] = []
    cpu_seconds, started = time.process_time(), time.time()
    try:
        while made < count:
            batches: dict[int, BatchBuilder] = {}
            while made < count and (due := started + made / plan.rate) <= time.time():
                reference, event = next(events)
                key = reference.encode()
                partition = partition_of(key, LOCAL_PARTITIONS)
                batch = batches.get(partition) or batches.setdefault(partition, producer.create_batch())
                batch.append(key=key, value=event, timestamp=int(due * 1000))
                made += 1
            for partition, batch in batches.items():
                acknowledged.append(await producer.send_batch(batch, topic, partition=partition))
            await asyncio.sleep(PACE_SECONDS)
        await asyncio.gather(*acknowledged)
    finally:
        await producer.stop()
    return {"made": made, "cpu_us": (time.process_time() - cpu_seconds) / made * 1e6}


def _arguments() -> Plan:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kafka_load", description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--run", required=True, help="what its events' ids begin with")
    parser.add_argument("--rate", type=float, required=True, help="events a second")
    parser.add_argument("--seconds", type=float, required=True)
    return Plan(**vars(parser.parse_args()))


if __name__ == "__main__":
    print(json.dumps(uvloop.run(load(_arguments()))))
