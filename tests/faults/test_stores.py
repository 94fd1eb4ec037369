"""Stores that die, hang or are full under running services, which are never restarted here."""

import asyncio
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deploy.local.mongo import MongoServer
from shared.contract.topics import ACCEPTED, ASSIGNED, UNROUTABLE
from tests.faults.conftest import ANSWER_SECONDS, assert_one_decision_each, locked, until

if TYPE_CHECKING:
    from tests.faults.conftest import Agency, Answer, Crew, Log, Measure, Running

PUT_BACK = 'guichet_batch_failures_total{cause="StoreUnavailable"}'


@pytest.fixture
async def mongo(tmp_path: Path) -> AsyncIterator[MongoServer]:
    server = MongoServer(tmp_path / "mongo")
    await server.start()
    yield server
    await server.stop()


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_while_mongodb_is_away_nothing_is_accepted_or_committed_and_all_goes_on_when_it_is_back(
    fault: str, mongo: MongoServer, crew: "Crew", agency: "Agency", log: "Log", measure: "Measure"
) -> None:
    intake, routing = await asyncio.gather(
        crew.start("intake", MONGODB_URL=mongo.url), crew.start("routing", MONGODB_URL=mongo.url)
    )
    before = await agency.submit_many(intake, 10)
    await log.decided([answer.request_id for answer in before])
    if fault == "killed":
        await mongo.kill()
    else:
        os.killpg(mongo.process.pid or 0, signal.SIGSTOP)
    try:
        refused, waiting = await assert_nothing_passes(intake, routing, agency, log)
    finally:
        if fault == "frozen":
            os.killpg(mongo.process.pid or 0, signal.SIGCONT)
    if fault == "killed":
        await mongo.start()
    back = time.monotonic()
    await agency.insist(intake)
    measure("accepting_again_seconds", time.monotonic() - back)
    again = await asyncio.gather(*(agency.insist(intake, answer.event_id) for answer in refused))
    assert_one_decision_each(await log.decided([*waiting, *(answer.request_id for answer in (*before, *again))]))


async def test_while_another_holds_the_sqlite_file_nothing_is_accepted_or_committed_and_all_goes_on_after_it(
    crew: "Crew", agency: "Agency", log: "Log"
) -> None:
    intake, routing = await asyncio.gather(crew.start("intake"), crew.start("routing"))
    with locked(crew.data("intake") / "intake.sqlite"), locked(crew.data("routing") / "routing.sqlite"):
        refused, waiting = await assert_nothing_passes(intake, routing, agency, log)
    again = await asyncio.gather(*(agency.insist(intake, answer.event_id) for answer in refused))
    assert_one_decision_each(await log.decided([*waiting, *(answer.request_id for answer in again)]))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets one process limit the files of another")
async def test_while_the_disk_takes_no_more_nothing_is_accepted_or_committed_and_all_goes_on_when_it_does(
    crew: "Crew", agency: "Agency", log: "Log"
) -> None:
    intake, routing = await asyncio.gather(crew.start("intake"), crew.start("routing"))
    before = await agency.submit_many(intake, 50)
    await log.decided([answer.request_id for answer in before])
    for service, name in ((intake, "intake"), (routing, "routing")):
        limit_files(service, crew.data(name) / f"{name}.sqlite-wal")
    refused, waiting = await assert_nothing_passes(intake, routing, agency, log)
    for service in (intake, routing):
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, UNLIMITED)
    again = await asyncio.gather(*(agency.insist(intake, answer.event_id) for answer in refused))
    assert_one_decision_each(await log.decided([*waiting, *(answer.request_id for answer in (*before, *again))]))


UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def limit_files(service: "Running", file: Path) -> None:
    """Let no file of this process grow beyond what this one has."""
    resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (file.stat().st_size, resource.RLIM_INFINITY))


async def assert_nothing_passes(
    intake: "Running", routing: "Running", agency: "Agency", log: "Log"
) -> "tuple[list[Answer], list[str]]":
    """While neither's store works. What intake refused meanwhile, and the requests that wait for routing."""
    committed = await log.committed("routing", ACCEPTED)
    put_back = await routing.metric(PUT_BACK)
    waiting = await log.publish_accepted(100)
    refused = await agency.submit_many(intake, 10)
    assert {(answer.status, answer.retry_after) for answer in refused} == {(503, "5")}
    assert max(answer.seconds for answer in refused) < ANSWER_SECONDS

    async def tried_again() -> bool:
        return await routing.metric(PUT_BACK) > put_back

    await until(tried_again)
    assert await log.committed("routing", ACCEPTED) == committed
    assert not (await log.read(ASSIGNED, UNROUTABLE)).keys() & set(waiting)
    for service in (intake, routing):
        assert (await service.get("/live"))[0] == 200
        status, why = await service.get("/ready")
        assert (status, "store" in why) == (503, True)
    return refused, waiting
