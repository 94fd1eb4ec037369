"""Quix Streams as its docs have it: a dataframe over a topic, applied to and written to another.

At least once: every 500 messages, or after 100 ms, it flushes its producer and then commits. No dedupe; an error in
the job ends the process.
"""

from quixstreams import Application

from benchmarks.peers.job import Job, read_task

task = read_task()
app = Application(
    broker_address=task.bootstrap,
    consumer_group=task.group,
    auto_offset_reset="earliest",
    auto_create_topics=False,
    commit_every=500,
    commit_interval=0.1,
    producer_extra_config={"enable.idempotence": True, "acks": "all", "linger.ms": 5},
    loglevel="WARNING",
)
source = app.topic(task.source, value_deserializer="bytes")
target = app.topic(task.target, value_serializer="bytes")
app.dataframe(source).apply(Job(task.book)).to_topic(target)
app.run()
