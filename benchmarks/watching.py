"""Looks at a running mesh again and again: what each process costs, how far behind it is, what its files hold."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import linear_regression
from time import monotonic
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness.usage import Usage, usage
from deploy.local.mesh import LocalMesh

SCRAPE_SECONDS: Final = 5.0
GAUGES: Final = (
    "guichet_consumer_lag_seconds",
    "guichet_notifications_waiting",
    "guichet_oldest_unsent_notification_seconds",
)


@dataclass(frozen=True, slots=True)
class Look:
    """A moment of a mesh, in seconds since watching began.

    `usage` by process, of those that run. `gauges` by name, the worst of what the services said; one is missing where
    none of them answered. `stored_mb` is what all files in the services' data folders hold.
    """

    at_seconds: float
    usage: Mapping[str, Usage]
    gauges: Mapping[str, float]
    stored_mb: float


class Watch:
    """Takes looks until cancelled, one every `every_seconds`."""

    def __init__(self, mesh: LocalMesh, *, every_seconds: float) -> None:
        self._mesh = mesh
        self._every_seconds = every_seconds
        self._began = monotonic()
        self.looks: list[Look] = []

    @property
    def seconds(self) -> float:
        """How long it has been watching."""
        return monotonic() - self._began

    async def run(self) -> None:
        """Look until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SCRAPE_SECONDS)) as session:
            while True:
                self.looks.append(await self._look(session))
                await asyncio.sleep(self._every_seconds - self.seconds % self._every_seconds)

    def between(self, start_seconds: float, end_seconds: float) -> list[Look]:
        """The looks taken from one moment to another."""
        return [look for look in self.looks if start_seconds <= look.at_seconds <= end_seconds]

    async def _look(self, session: aiohttp.ClientSession) -> Look:
        costs: dict[str, Usage] = {}
        for name, process in self._mesh.processes.items():
            if process.alive and process.pid is not None:
                with suppress(ProcessLookupError):  # it may end at any moment
                    costs[name] = usage(process.pid)
        said = await asyncio.gather(*(_gauges(session, self._mesh.service_url(name)) for name in self._mesh.services))
        stored = await asyncio.to_thread(_bytes_in, self._mesh.directory / "data")
        told = sorted((name, value) for gauges in said for name, value in gauges.items())
        worst = {name: max(value for _, value in values) for name, values in groupby(told, lambda one: one[0])}
        return Look(self.seconds, costs, worst, stored / 2**20)


def rss_slope_mb_per_hour(looks: list[Look], process: str) -> float:
    """By how much the memory of a process grew, as the straight line through these looks has it."""
    seen = [(look.at_seconds / 3600, look.usage[process].rss_mb) for look in looks if process in look.usage]
    return linear_regression(*zip(*seen, strict=True)).slope if len(seen) > 1 else 0.0


async def _gauges(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """The largest sample of each gauge; of a service that does not answer, none."""
    try:
        async with session.get(f"{url}/metrics") as answer:
            text = await answer.text()
    except (aiohttp.ClientError, TimeoutError):
        return {}
    return {
        family.name: max(sample.value for sample in family.samples)
        for family in text_string_to_metric_families(text)
        if family.name in GAUGES and family.samples
    }


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
