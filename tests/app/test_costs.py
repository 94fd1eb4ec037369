"""What 1,000 events cost, held to benchmarks/baseline.json."""

import json
from dataclasses import asdict

import pytest
import pytest_asyncio

from benchmarks.counters import BASELINE, EVENTS, STAGES, Costs, count_all
from shared.bus.kafka import BATCH_RECORDS

TOLERANCE = 0.15
"""For what depends on the version of Python. A change of the mesh's own work is seldom smaller."""

VARYING = ("python_calls", "peak_kib")
RENEW = "if that is meant, write the baseline anew with `python -m benchmarks.counters`"


@pytest_asyncio.fixture(scope="module")
async def counted() -> dict[str, Costs]:
    return await count_all()


@pytest.fixture(scope="module")
def baseline() -> dict[str, dict[str, int]]:
    content: dict[str, dict[str, int]] = json.loads(BASELINE.read_text())
    return content


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_calls_its_store_and_kafka_as_often_as_the_baseline_says_and_writes_as_many_bytes(
    stage: str, counted: dict[str, Costs], baseline: dict[str, dict[str, int]]
) -> None:
    exact = {name: value for name, value in asdict(counted[stage]).items() if name not in VARYING}
    assert exact == {name: baseline[stage][name] for name in exact}, RENEW


@pytest.mark.parametrize("figure", VARYING)
@pytest.mark.parametrize("stage", STAGES)
def test_the_work_and_the_memory_of_a_stage_stay_near_the_baseline(
    stage: str, figure: str, counted: dict[str, Costs], baseline: dict[str, dict[str, int]]
) -> None:
    assert asdict(counted[stage])[figure] == pytest.approx(baseline[stage][figure], rel=TOLERANCE), RENEW


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_is_committed_once_and_published_at_most_once(stage: str, counted: dict[str, Costs]) -> None:
    costs = counted[stage]
    assert costs.commits == EVENTS / BATCH_RECORDS
    assert costs.publish_calls <= costs.commits
