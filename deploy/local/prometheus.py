"""Prometheus itself, found or fetched without root and without installing anything."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from deploy.local.places import cache_folder
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.process import PartFailed, Process

_FETCH_SECONDS = 120.0
_ANSWER = aiohttp.ClientTimeout(total=10.0)


@dataclass(frozen=True, slots=True)
class PrometheusTools:
    prometheus: Path
    promtool: Path


class Sample(NamedTuple):
    """One series of an instant query's answer."""

    labels: Mapping[str, str]
    value: float


class Prometheus:
    """A Prometheus server on a free port; `config` is its configuration file as data, kept under `directory`."""

    def __init__(self, directory: Path, config: Mapping[str, Any]) -> None:
        self._directory = directory
        self._config = config
        self._port = free_port()
        self.process = Process("prometheus", [], env=os.environ, log_path=directory / "prometheus.log")

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._port}"

    async def start(self) -> None:
        """Return when it answers queries. Raises PartFailed."""
        tools = await prometheus_tools()
        self._directory.mkdir(parents=True, exist_ok=True)
        config = self._directory / "prometheus.yml"
        config.write_text(json.dumps(self._config, indent=2))  # JSON is YAML too
        self.process.argv = [
            str(tools.prometheus),
            f"--config.file={config}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address={LOOPBACK}:{self._port}",
        ]
        self.process.start()
        await self.process.answers(self.ready, within_seconds=30.0)

    async def ready(self) -> bool:
        """Whether it answers queries now."""
        try:
            async with aiohttp.request("GET", f"{self.url}/-/ready", timeout=_ANSWER) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def query(self, promql: str) -> list[Sample]:
        """The instant value of an expression, scalar or vector. Raises ValueError with Prometheus's own words."""
        parameters = {"query": promql}
        async with aiohttp.request("GET", f"{self.url}/api/v1/query", params=parameters, timeout=_ANSWER) as answer:
            said = await answer.json()
        if said["status"] != "success":
            raise ValueError(f"{promql}: {said['error']}")
        match said["data"]:
            case {"resultType": "scalar", "result": [_, value]}:
                return [Sample({}, float(value))]
            case {"resultType": "vector", "result": series}:
                return [Sample(one["metric"], float(one["value"][1])) for one in series]
            case other:
                raise ValueError(f"{promql}: gives a {other['resultType']}, not a scalar or an instant vector")

    async def stop(self) -> None:
        await self.process.stop()


async def prometheus_tools() -> PrometheusTools:
    """`prometheus` and `promtool`: from $PROMETHEUS_HOME, else the path, else fetched once into the cache.

    Fetching takes Debian's package manager, not root, and installs nothing. Raises PartFailed when there is none.
    """
    fetched = cache_folder() / "prometheus"
    if home := os.environ.get("PROMETHEUS_HOME"):
        places = [home]
    else:
        places = [os.environ.get("PATH", os.defpath), str(fetched / "usr" / "bin")]
    if tools := _find(places):
        return tools
    if not home and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        await _fetch(fetched)
        if tools := _find(places):
            return tools
    raise PartFailed(
        "No prometheus and promtool found. Install Prometheus (a release archive will do) and set PROMETHEUS_HOME "
        "to the folder that holds both."
    )


def _find(places: list[str]) -> PrometheusTools | None:
    for place in places:
        found = [shutil.which(name, path=place) for name in ("prometheus", "promtool")]
        if all(found):
            return PrometheusTools(*(Path(str(tool)) for tool in found))
    return None


async def _fetch(target: Path) -> None:
    """Download and unpack Debian's package, with lists, state and archives of our own beside the system's."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="prometheus-") as name:
        work = Path(name)
        (work / "state" / "lists" / "partial").mkdir(parents=True)
        (work / "cache" / "archives" / "partial").mkdir(parents=True)
        own = [
            *("-o", f"Dir::State={work / 'state'}"),
            *("-o", f"Dir::State::status={os.devnull}"),
            *("-o", f"Dir::Cache={work / 'cache'}"),
            *("-o", "APT::Sandbox::User="),  # as root, apt would become a user who may not write here
        ]
        await _run(work, "apt-get", *own, "update")
        await _run(work, "apt-get", *own, "download", "prometheus")
        await _run(work, "sh", "-c", "dpkg-deb -x prometheus_*.deb unpacked")
        _move(work / "unpacked", target)


def _move(unpacked: Path, target: Path) -> None:
    if not target.exists():  # another process may have been quicker
        unpacked.rename(target)


async def _run(work: Path, *argv: str) -> None:
    log_path = cache_folder() / "prometheus-fetch.log"
    command = Process(argv[0], argv, env={**os.environ, "LC_ALL": "C"}, log_path=log_path, cwd=work)
    command.start()
    await command.completes(within_seconds=_FETCH_SECONDS)
