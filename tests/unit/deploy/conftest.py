from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess, run

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from deploy.local.places import PROJECT
from deploy.local.prometheus import prometheus_tools
from shared import metrics

Promtool = Callable[..., "CompletedProcess[str]"]


@pytest_asyncio.fixture(scope="session")
async def promtool() -> Promtool:
    """Run promtool with these arguments, in the project's folder."""
    tools = await prometheus_tools()

    def call(*arguments: str | Path) -> "CompletedProcess[str]":
        return run([tools.promtool, *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)

    return call


@pytest.fixture(scope="session")
def metric_names() -> frozenset[str]:
    """The name of every series that a service can show, apart from those of the process itself."""
    registry = CollectorRegistry()
    for group in (
        metrics.BusMetrics,
        metrics.IntakeMetrics,
        metrics.RoutingMetrics,
        metrics.NotifyMetrics,
        metrics.LatencyMetrics,
    ):
        group(registry)
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    return frozenset(metric.name + suffix for metric in registry.collect() for suffix in suffixes[metric.type])
