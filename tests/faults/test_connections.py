"""Connections that are slow, half open or cut, between running services and what they speak to."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from deploy.local.kafka import KafkaCluster
from deploy.local.ports import LOOPBACK
from shared.bus.admin import apply_topics
from shared.contract.topics import ACCEPTED
from tests.faults.conftest import AGENCY, ANSWER_SECONDS, PARTITIONS, Crew, Log, assert_one_decision_each
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.conftest import Agency, Measure, Running

RESIDENT = "process_resident_memory_bytes"
GROWTH_BYTES_MAX = 64 * 1024 * 1024


@dataclass
class Line:
    """A broker, the only way to it, and what is at the other end."""

    proxy: Proxy
    intake: "Running"
    routing: "Running"
    log: Log


@pytest.fixture(scope="module")
async def line(tmp_path_factory: pytest.TempPathFactory, folder: "Path") -> AsyncIterator[Line]:
    directory = tmp_path_factory.mktemp("line")
    proxy = Proxy()
    address = f"PLAINTEXT://{LOOPBACK}"
    kafka = KafkaCluster(directory / "kafka", settings={"advertised.listeners": f"{address}:{proxy.port}"})
    proxy.target_port = int(kafka.bootstrap.rpartition(":")[2])
    crew = Crew(directory, f"{LOOPBACK}:{proxy.port}", folder)
    await proxy.start()
    try:
        await kafka.start()
        await apply_topics(kafka.access, [AGENCY], partitions=PARTITIONS, replication=1)
        intake, routing = await asyncio.gather(crew.start("intake"), crew.start("routing"))
        yield Line(proxy, intake, routing, Log(kafka.bootstrap))
    finally:
        await proxy.mend()
        await crew.stop()
        await proxy.cut()
        await kafka.stop()


async def test_a_slow_connection_to_kafka_costs_time_and_no_request(
    line: Line, agency: "Agency", measure: "Measure"
) -> None:
    line.proxy.delay_seconds = 0.2
    answers = await agency.submit_many(line.intake, 100)
    line.proxy.delay_seconds = 0.0
    measure("longest_wait_seconds", max(answer.seconds for answer in answers))
    assert {answer.status for answer in answers} == {202}
    assert min(answer.seconds for answer in answers) > 2 * 0.2
    decided = await line.log.decided([answer.request_id for answer in answers])
    assert {len(copies) for copies in decided.values()} == {1}


async def test_while_the_connection_to_kafka_is_half_open_intake_takes_no_more_than_it_can_hold_and_goes_on_by_itself(
    line: Line, agency: "Agency", measure: "Measure"
) -> None:
    before = await agency.submit_many(line.intake, 20)
    resident = await line.intake.metric(RESIDENT)
    line.proxy.half_open()
    refused = await asyncio.gather(*(agency.submit_batch(line.intake, 500) for _ in range(20)))
    assert {(answer.status, answer.retry_after) for answer in refused} == {(503, "5")}
    assert max(answer.seconds for answer in refused) < ANSWER_SECONDS
    # What is more than the door may hold is refused before any patience is over.
    assert min(answer.seconds for answer in refused) < ANSWER_SECONDS / 3
    measure("resident_growth_megabytes", (await line.intake.metric(RESIDENT) - resident) / 1e6)
    assert await line.intake.metric(RESIDENT) - resident < GROWTH_BYTES_MAX
    assert (await line.intake.get("/live"))[0] == 200
    started = asyncio.get_running_loop().time()
    await line.proxy.mend()
    again = [await agency.insist(line.intake) for _ in range(20)]
    measure("accepting_again_seconds", asyncio.get_running_loop().time() - started)
    accepted = [answer.request_id for answer in (*before, *again)]
    assert_one_decision_each(await line.log.decided(accepted))
    measure("deciding_again_seconds", asyncio.get_running_loop().time() - started)
    standing = await line.log.read(ACCEPTED)
    assert_one_decision_each({request_id: standing[request_id] for request_id in accepted})
