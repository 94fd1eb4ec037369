from pathlib import Path

import pytest
import pytest_asyncio

from benchmarks.peers.environments import versions
from benchmarks.peers.job import Job
from benchmarks.stage.inputs import Inputs, make_inputs, office_and_due
from shared.clock import SystemClock


@pytest_asyncio.fixture(scope="module")
async def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return await make_inputs(300, tmp_path_factory.mktemp("inputs"), SystemClock())


def test_the_job_of_the_peers_names_the_office_and_the_due_date_that_routing_names(inputs: Inputs) -> None:
    job = Job(inputs.book)
    by_peer = [office_and_due(job(one.value)) for one in inputs.accepted]
    assert by_peer == [office_and_due(one.value) for one in inputs.assigned]


def test_each_event_of_the_input_has_a_request_of_its_own(inputs: Inputs) -> None:
    assert len({one.key for one in inputs.accepted}) == len(inputs.accepted) == 300
    assert [one.key for one in inputs.accepted] == [one.key for one in inputs.assigned]


def test_every_peer_is_locked() -> None:
    assert "not locked" not in versions().values()


def test_no_lock_of_a_peer_names_a_package_index() -> None:
    locks = list(Path("benchmarks/peers").glob("*/requirements.txt"))
    assert locks
    assert not [lock for lock in locks if "://" in lock.read_text()]
