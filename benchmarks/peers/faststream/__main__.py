"""FastStream as its tutorial has it: one handler for one message, pydantic in and out, a publisher.

Its default acknowledges first: offsets are committed by a timer, and what was in hand at a crash is lost.
Each publication is acknowledged before the next message is taken.
"""

import uvloop
from faststream import FastStream
from faststream.kafka import KafkaBroker, KafkaResponse

from benchmarks.peers.job import Accepted, Job, read_task

task = read_task()
job = Job(task.book)
broker = KafkaBroker(task.bootstrap, acks="all", enable_idempotence=True, logger=None)
app = FastStream(broker, logger=None)


@broker.subscriber(task.source, group_id=task.group, auto_offset_reset="earliest", auto_commit_interval_ms=100)
@broker.publisher(task.target)
async def assign(event: Accepted) -> KafkaResponse:
    assigned = job.assign(event)
    return KafkaResponse(assigned.model_dump(mode="json", exclude_none=True), key=event.subject.encode())


uvloop.run(app.run())
