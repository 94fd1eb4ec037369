"""Prometheus itself, found or fetched."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from deploy.local.ports import LOOPBACK, free_port
from deploy.local.process import PartFailed
from deploy.local.prometheus import Prometheus, Sample, prometheus_tools


async def metrics(_request: web.Request) -> web.Response:
    return web.Response(text='guichet_requests_total{stage="intake"} 3\n')


@pytest.fixture
async def target() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, LOOPBACK, port).start()
    yield f"{LOOPBACK}:{port}"
    await runner.cleanup()


async def test_it_scrapes_a_target_and_answers_queries(tmp_path: Path, target: str) -> None:
    jobs = [{"job_name": "mesh", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}]
    prometheus = Prometheus(tmp_path, {"scrape_configs": jobs})
    try:
        await prometheus.start()
        async with asyncio.timeout(20):
            while not (found := await prometheus.query("sum by (stage) (guichet_requests_total)")):
                await asyncio.sleep(0.1)
        assert found == [Sample({"stage": "intake"}, 3.0)]
        assert await prometheus.query("1 + 1") == [Sample({}, 2.0)]
        with pytest.raises(ValueError, match="parse error"):
            await prometheus.query("sum(")
        with pytest.raises(ValueError, match="matrix"):
            await prometheus.query("up[1m]")
    finally:
        await prometheus.stop()


async def test_a_home_without_prometheus_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_HOME", str(tmp_path))
    with pytest.raises(PartFailed, match="PROMETHEUS_HOME"):
        await prometheus_tools()
