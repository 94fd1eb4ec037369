"""A mesh under fire: what the faults act on, and what has to be remembered of them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Final

import aiohttp

from deploy.check.observed import Place
from deploy.local.kafka import KafkaCluster
from deploy.local.mesh import LocalMesh
from deploy.local.process import PartFailed

LOOK_SECONDS: Final = 2.0
SETTLED_SECONDS: Final = 10.0
"""For so long after a broker came back, consumers may begin again where it thought them to be."""

DEAD_LOOKS: Final = 3
"""How often in a row a service has to say that it should be restarted before it is, as an orchestrator would."""


class NotReached(Exception):
    """A failpoint was armed, and nothing passed it in time."""


@dataclass
class Scene:
    """The mesh, and what was done to it. `at` are the moments at which faults began or ended."""

    mesh: LocalMesh
    kafka: KafkaCluster
    at: list[datetime] = field(default_factory=list)
    poison: set[Place] = field(default_factory=set)
    restarts: Counter[str] = field(default_factory=Counter)
    """How often a service had to be started again though no fault was being done to it, by what it said."""
    shrunk: set[str] = field(default_factory=set)
    """The services of which a replica was removed: what that one had counted is gone."""
    _busy: Counter[str] = field(default_factory=Counter)
    _brokers_disturbed: int = 0
    _brokers_left_alone_at: float = 0.0

    def now(self) -> float:
        """This moment: noted for the checkers, and told on the monotonic clock."""
        self.at.append(datetime.now(UTC))
        return monotonic()

    @asynccontextmanager
    async def handling(self, *names: str) -> AsyncIterator[None]:
        """While a fault is being done to these processes nobody else restarts them."""
        self._busy.update(names)
        try:
            yield
        finally:
            self._busy.subtract(names)

    @contextmanager
    def disturbing_brokers(self) -> Iterator[None]:
        """While brokers are being ended, frozen, or brought back."""
        self._brokers_disturbed += 1
        try:
            yield
        finally:
            self._brokers_disturbed -= 1
            self._brokers_left_alone_at = monotonic()

    @property
    def brokers_settled(self) -> bool:
        """Whether all brokers run and know again what they knew before they were disturbed."""
        return not self._brokers_disturbed and monotonic() - self._brokers_left_alone_at > SETTLED_SECONDS

    async def look_after(self) -> None:
        """Until cancelled, start again what ended by itself or says at /live that it should be: an orchestrator."""
        dead: Counter[str] = Counter()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                for name in list(self.mesh.services):
                    why = await self._why_dead(session, name)
                    dead[name] = dead[name] + 1 if why and not self._busy[name] else 0
                    if (
                        why
                        and (dead[name] >= DEAD_LOOKS or not self.mesh.processes[name].alive)
                        and not self._busy[name]
                    ):
                        dead[name] = 0
                        self.restarts[f"{name}: {why}"] += 1
                        await self.restart(name)

    async def restart(self, name: str) -> None:
        """Start a service again; once more if a fault beside it kept it from getting ready."""
        async with self.handling(name):
            try:
                await self.mesh.restart(name)
            except PartFailed:
                await self.mesh.restart(name, ready=False)

    async def _why_dead(self, session: aiohttp.ClientSession, name: str) -> str | None:
        if not self.mesh.processes[name].alive:
            return f"ended with {self.mesh.processes[name].status}"
        try:
            async with session.get(f"{self.mesh.service_url(name)}/live") as answer:
                return None if answer.status == 200 else str((await answer.json())["reasons"])
        except (aiohttp.ClientError, TimeoutError, KeyError):
            return None  # it is starting, or does not answer now: that is no word that it should be restarted
