"""The whole mesh on real parts: requests in at the doors, messages out at the providers, nothing lost or doubled."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from rich.console import Console

from deploy.check.reading import local_sources
from deploy.grafana.generate import panel_queries
from deploy.local.mesh import SERVICES, LocalMesh
from deploy.local.prometheus import Prometheus
from deploy.prometheus import configuration
from deploy.replay.jurisdiction import read_keys
from deploy.replay.run import MeshAddresses, prepare
from deploy.replay.run import replay as play
from deploy.replay.steps import Replay
from shared.bus.access import KafkaAccess
from shared.bus.admin import apply_topics
from shared.jurisdiction import load_jurisdiction

SCRAPES_SECONDS = 30.0


class Played:
    """A mesh that is about to have requests played through it, and the report of that."""

    def __init__(self, directory: Path, mesh: LocalMesh, prepared: Replay) -> None:
        self.mesh = mesh
        self._directory = directory
        self._prepared = prepared

    async def play(self, *, speed: float) -> dict[str, Any]:
        """The report of the replay; the test fails if the replay itself found anything wrong."""
        file = self._directory / "report.json"
        mesh = self.mesh
        sources = local_sources(self._directory)
        assert sources is not None
        addresses = MeshAddresses(sources, mesh.service_url("intake"))
        keys = read_keys(self._directory / "jurisdiction")
        console = Console(file=StringIO())
        status = await play(self._prepared, mesh=addresses, keys=keys, report=file, console=console, speed=speed)
        report: dict[str, Any] = json.loads(file.read_text())
        assert report["findings"] == []
        assert status == 0
        return report


@asynccontextmanager
async def a_mesh(
    directory: Path, *, count: int, brokers: int = 1, mongodb: bool | None = None
) -> AsyncIterator[Played]:
    folder = directory / "jurisdiction"
    prepared = prepare(None, folder, seed=11, count=count)

    async def topics(kafka: KafkaAccess, replication: int) -> None:
        agencies = list(load_jurisdiction(folder).agencies)
        await apply_topics(kafka, agencies, partitions=6, replication=replication)

    async with LocalMesh(directory, folder, apply_topics=topics, brokers=brokers, mongodb=mongodb) as mesh:
        yield Played(directory, mesh, prepared)


def assert_promise_kept(report: Mapping[str, Any]) -> None:
    assert (report["lost"], report["doubled"], report["not_told"], report["dead_letters"]) == (0, 0, 0, 0)
    requests = report["requests"]
    assert requests["accepted"] == requests["assigned"] + requests["unroutable"] > 0
    assert requests["published"] - requests["duplicates"] >= requests["accepted"]
    for channel in ("sms", "email"):
        assert report["notifications"][channel]["sent"] > 0
        assert report["notifications"][channel]["unknown"] == 0
    # A receipt that comes before the reply it belongs to is looked at again later, maybe after the report.
    assert report["notifications"]["sms"]["delivered"] > 0


async def test_every_panel_shows_data_of_a_mesh_that_keeps_its_promise(tmp_path: Path) -> None:
    async with a_mesh(tmp_path, count=150) as played:
        targets = {name: played.mesh.service_url(name).removeprefix("http://") for name in SERVICES}
        prometheus = Prometheus(tmp_path / "prometheus", configuration(targets, interval="1s"))
        await prometheus.start()
        try:
            # From before the first event on, so that rates see the counters rise.
            await _until(lambda: _all_up(prometheus))
            assert_promise_kept(await played.play(speed=30))
            queries = panel_queries(rate_interval="30s", time_range="2m")
            missing = queries

            async def each_has_data() -> bool:
                nonlocal missing
                missing = [one for one in queries if not await prometheus.query(one.promql)]
                return not missing

            await _until(each_has_data, or_else=lambda: f"no data for {missing}")
            firing = await prometheus.query('ALERTS{alertstate="firing"}')
            assert {sample.labels["alertname"] for sample in firing} == {"GuichetWatchdog"}
        finally:
            await prometheus.stop()


async def test_with_mongodb_as_the_store_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    async with a_mesh(tmp_path, count=60, mongodb=True) as played:
        assert_promise_kept(await played.play(speed=15))
    assert not list(tmp_path.glob("data/**/*.sqlite"))


async def test_a_leader_killed_amid_requests_costs_none_of_them(tmp_path: Path) -> None:
    async with a_mesh(tmp_path, count=120, brokers=3) as played:
        kafka = played.mesh.kafka
        assert kafka is not None
        playing = asyncio.create_task(played.play(speed=12))
        await _until(lambda: _accepted_some(played.mesh))
        await kafka.kill(0)
        assert_promise_kept(await playing)


async def test_a_service_that_is_killed_and_comes_back_goes_on_where_it_was(tmp_path: Path) -> None:
    async with a_mesh(tmp_path, count=120) as played:
        playing = asyncio.create_task(played.play(speed=20))
        for service in ("routing", "metrics"):
            await _until(lambda: _accepted_some(played.mesh))
            await played.mesh.kill(service)
            await played.mesh.restart(service)
        assert_promise_kept(await playing)


async def test_what_the_jurisdiction_gets_wrong_is_said_before_anything_starts(tmp_path: Path) -> None:
    folder = tmp_path / "jurisdiction"
    prepare(None, folder, seed=11, count=1)
    rules = folder / "rules.yaml"
    rules.write_text(rules.read_text().replace("promise_days:", "promised_days:", 1))

    async def topics(_kafka: KafkaAccess, _replication: int) -> None: ...

    with pytest.raises(Exception, match=r"rules\.yaml:\d+.*promised_days"):
        async with LocalMesh(tmp_path, folder, apply_topics=topics, services=("routing",)):
            pass


async def _all_up(prometheus: Prometheus) -> bool:
    return [sample.value for sample in await prometheus.query("up")] == [1.0] * len(SERVICES)


async def _accepted_some(mesh: LocalMesh) -> bool:
    async with aiohttp.request("GET", f"{mesh.service_url('intake')}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    counted = [line for line in lines if line.startswith("guichet_intake_events_total") and '"accepted"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in counted) > 10


async def _until(true: Any, *, or_else: Any = lambda: "it never came true") -> None:
    try:
        async with asyncio.timeout(SCRAPES_SECONDS):
            while not await true():
                await asyncio.sleep(0.2)  # between two looks
    except TimeoutError:
        pytest.fail(or_else())
