"""The loop that a good engineer writes by hand on confluent-kafka (librdkafka, in C): consume, produce, flush, commit.

Guarantees at least once: offsets are committed once everything was delivered, and a failed delivery ends the process.
No dedupe, no dead letters.
"""

from confluent_kafka import Consumer, KafkaError, Message, Producer

from benchmarks.peers.job import Job, Task, read_task


def carry(task: Task) -> None:
    job = bytes if task.forward else Job(task.book)
    failures: list[KafkaError] = []

    def delivered(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            failures.append(error)

    consumer = Consumer(
        {
            "bootstrap.servers": task.bootstrap,
            "group.id": task.group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": task.bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 5,
            "batch.size": 256 * 1024,
            "on_delivery": delivered,
        }
    )
    consumer.subscribe([task.source])
    while True:
        messages = [message for message in consumer.consume(1000, timeout=0.1) if message.error() is None]
        for message in messages:
            producer.produce(task.target, job(message.value()), key=message.key(), partition=message.partition())
        producer.flush()
        if failures:
            raise SystemExit(f"not delivered: {failures[0]}")
        if messages:
            consumer.commit(asynchronous=False)


carry(read_task())
