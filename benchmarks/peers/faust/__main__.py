"""Faust as its docs have it: an agent over a stream of a topic, sending to another.

At least once: an event is acknowledged when the agent goes on to the next, and offsets are committed every 500 events
or 100 ms; what was sent is acknowledged by then or later. No dedupe.
"""

import faust

from benchmarks.peers.job import Job, read_task

task = read_task()
job = Job(task.book)
app = faust.App(
    task.group,
    broker=f"kafka://{task.bootstrap}",
    store="memory://",
    web_enabled=False,
    topic_disable_leader=True,
    topic_allow_declare=False,
    consumer_auto_offset_reset="earliest",
    broker_commit_every=500,
    broker_commit_interval=0.1,
    producer_acks=-1,
    producer_linger=5,
)
source = app.topic(task.source, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
target = app.topic(task.target, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")


@app.agent(source)
async def assign(stream: faust.Stream[bytes]) -> None:
    async for key, value in stream.items():
        await target.send(key=key, value=job(value))


faust.Worker(app, loglevel="WARNING").execute_from_commandline()
