"""A MongoDB that is slow, hangs or dies under running services, which are never restarted here."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from deploy.local.mongo import MongoServer
from deploy.local.ports import LOOPBACK
from tests.faults.conftest import Crew, assert_nothing_passes, assert_one_decision_each
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.local.kafka import KafkaCluster
    from tests.faults.conftest import Agency, Log, Measure, Running


@dataclass
class OnMongo:
    """Services whose store is a MongoDB of their own, at the other end of a connection that can be slow."""

    mongo: MongoServer
    proxy: Proxy
    intake: "Running"
    routing: "Running"


@pytest.fixture(scope="module")
async def on_mongo(
    tmp_path_factory: pytest.TempPathFactory, brokers: "KafkaCluster", folder: "Path"
) -> AsyncIterator[OnMongo]:
    directory = tmp_path_factory.mktemp("on-mongo")
    mongo = MongoServer(directory / "mongo")
    crew = Crew(directory, brokers.bootstrap, folder)
    try:
        await mongo.start()
        proxy = Proxy(int(mongo.url.rpartition(":")[2]))
        await proxy.start()
        url = f"mongodb://{LOOPBACK}:{proxy.port}"
        intake, routing = await asyncio.gather(
            crew.start("intake", MONGODB_URL=url), crew.start("routing", MONGODB_URL=url)
        )
        yield OnMongo(mongo, proxy, intake, routing)
    finally:
        await crew.stop()
        await proxy.cut()
        await mongo.stop()


async def test_a_slow_mongodb_costs_time_and_no_request(on_mongo: OnMongo, agency: "Agency", log: "Log") -> None:
    on_mongo.proxy.delay_seconds = 0.2
    answers = await agency.submit_many(on_mongo.intake, 100)
    decided = await log.decided([answer.request_id for answer in answers])
    on_mongo.proxy.delay_seconds = 0.0
    assert {answer.status for answer in answers} == {202}
    assert min(answer.seconds for answer in answers) > 2 * 0.2
    assert {len(copies) for copies in decided.values()} == {1}


@pytest.mark.parametrize("fault", ["frozen", "killed"])
async def test_while_mongodb_is_away_nothing_is_accepted_or_committed_and_all_goes_on_when_it_is_back(
    fault: str, on_mongo: OnMongo, agency: "Agency", log: "Log", measure: "Measure"
) -> None:
    before = await agency.submit_many(on_mongo.intake, 10)
    await log.decided([answer.request_id for answer in before])
    if fault == "frozen":
        on_mongo.mongo.process.suspend()
    else:
        await on_mongo.mongo.kill()
    try:
        refused, waiting = await assert_nothing_passes(on_mongo.intake, on_mongo.routing, agency, log)
    finally:
        back = time.monotonic()
        if fault == "frozen":
            on_mongo.mongo.process.resume()
        else:
            await on_mongo.mongo.start()
    await agency.insist(on_mongo.intake)
    measure("accepting_again_seconds", time.monotonic() - back)
    again = await asyncio.gather(*(agency.insist(on_mongo.intake, answer.event_id) for answer in refused))
    assert_one_decision_each(await log.decided([*waiting, *(answer.request_id for answer in (*before, *again))]))
