"""The checkers on what a real mesh left behind."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deploy.check.checks import CHECKERS, check, findings_of
from deploy.check.observed import Observed, Published
from deploy.check.reading import Sources, local_sources, observe
from deploy.check.seeding import BUGS, seeded_bugs, seen_by
from deploy.local.mesh import LocalMesh
from deploy.replay.jurisdiction import read_keys
from deploy.replay.run import MeshAddresses, prepare, replay
from shared.bus.access import KafkaAccess
from shared.bus.admin import apply_topics

REQUESTS = 60
REPLICAS = {"intake": 2, "routing": 2, "notify": 2}
LOOKS = 8


async def at_rest(sources: Sources) -> Observed:
    """What stands there once the last receipts are told of, too, which a slow store delays beyond the replay."""
    for _ in range(LOOKS):
        observed = replace(await observe(sources), published=Published())
        if not findings_of(check(observed)):
            break
    return observed


async def told_by_the_command(directory: Path) -> dict[str, Any]:
    """What `guichet check --json` says of the mesh in a directory."""
    program = "from deploy.cli.main import app; app()"
    command = (sys.executable, "-c", program, "check", "--dir", str(directory), "--json")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return dict(json.loads(output))


@pytest.mark.parametrize("mongodb", [False, True], ids=["sqlite", "mongodb"])
async def test_a_small_run_of_replicas_is_sound_and_every_bug_planted_in_it_is_seen(
    tmp_path: Path, mongodb: bool
) -> None:
    folder = tmp_path / "jurisdiction"
    prepared = prepare(None, folder, count=REQUESTS)

    async def topics(kafka: KafkaAccess, replication: int) -> None:
        await apply_topics(kafka, prepared.agencies, partitions=3, replication=replication)

    async with LocalMesh(tmp_path, folder, apply_topics=topics, replicas=REPLICAS, mongodb=mongodb) as mesh:
        sources = local_sources(tmp_path)
        assert sources is not None
        addresses = MeshAddresses(sources, mesh.service_url("intake"))
        report = tmp_path / "report.json"
        status = await replay(
            prepared, mesh=addresses, keys=read_keys(folder), report=report, console=Console(quiet=True)
        )
        assert status == 0, report.read_text()
        observed = await at_rest(sources)
        said = await told_by_the_command(tmp_path)

    results = check(observed)
    assert findings_of(results) == []
    assert all(result.findings is not None for result in results)
    assert {one["id"]: one["findings"] for one in said["checks"]} == {
        checker.id: None if checker.id == "I0" else 0 for checker in CHECKERS
    }
    assert seeded_bugs(observed) == {checker.id: True for checker in CHECKERS}
    for bug in BUGS:
        planted = bug.plant(observed)
        assert planted is not None, bug.name
        assert seen_by(observed, planted) - bug.also == {bug.checker}, bug.name
