"""A SQLite file that somebody holds, or that can't grow, under running services, which are never restarted here."""

import asyncio
import resource
import sys
from typing import TYPE_CHECKING

import pytest

from tests.faults.conftest import assert_nothing_passes, assert_one_decision_each, locked

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.conftest import Agency, Crew, Log, Running

UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


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


def limit_files(service: "Running", file: "Path") -> None:
    """Let no file of this process grow beyond what this one has."""
    resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (file.stat().st_size, resource.RLIM_INFINITY))
