"""The loop that a good engineer writes by hand on aiokafka: take many, send each, wait for all, commit.

Guarantees at least once: offsets are committed after every acknowledgement. No dedupe, no dead letters, no
redelivery after a failed send within the process: it ends and is started again.
"""

import asyncio

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.peers.job import Job, Task, read_task


async def carry(task: Task) -> None:
    job = bytes if task.forward else Job(task.book)
    consumer = AIOKafkaConsumer(
        task.source,
        bootstrap_servers=task.bootstrap,
        group_id=task.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=task.bootstrap,
        acks="all",
        enable_idempotence=True,
        max_batch_size=256 * 1024,
        linger_ms=0,
    )
    async with consumer, producer:
        while True:
            fetched = await consumer.getmany(timeout_ms=100, max_records=1000)
            # To the partition it came from: that spares aiokafka's hash, which is Python and costs 8 µs a key.
            sent = [
                await producer.send(task.target, job(record.value), key=record.key, partition=record.partition)
                for records in fetched.values()
                for record in records
            ]
            if sent:
                await asyncio.gather(*sent)
                await consumer.commit()


uvloop.run(carry(read_task()))
