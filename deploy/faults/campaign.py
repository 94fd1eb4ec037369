"""A mesh on three brokers under faults while requests flow; then it is healed, and held against its promise."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any, Final

from deploy.check.checks import Result, check
from deploy.check.observed import Observed
from deploy.check.reading import Sources, local_sources, observe, work_left
from deploy.check.seeding import seeded_bugs
from deploy.faults.agencies import Agencies
from deploy.faults.injection import inject
from deploy.faults.monitor import Monitor
from deploy.faults.plan import (
    BROKERS,
    PROVIDER_KINDS,
    PROVIDERS,
    REPLICAS,
    Fault,
    Kind,
    Lane,
    each_once,
    plan,
    sweep,
)
from deploy.faults.scene import NotReached, Scene
from deploy.jurisdictions import DJIBOUTI
from deploy.local.mesh import ApplyTopics, LocalMesh
from deploy.local.process import PartFailed
from deploy.local.state import service_of
from deploy.replay.jurisdiction import read_keys, write_jurisdiction
from deploy.replay.publisher import Answer
from deploy.replay.report import published

RECOVERY_SECONDS: Final = 90.0
"""What has not been recovered from by then counts as not recovered."""

CALM_SECONDS: Final = 1.0
BRIEF_SECONDS: Final = 3.0
FEW_KINDS: Final = (
    Kind.FAILED_AT_FAILPOINT,
    Kind.STALLED_AT_FAILPOINT,
    Kind.SERVICE_FROZEN,
    Kind.POISON,
    Kind.BROKERS_RESTARTED,
)

REST_SECONDS: Final = 300.0
"""How long a healed mesh may take to finish: a retry waits as long again as its message has waited."""

SERVICES_ENV: Final = {
    # Short, so that their ends, and what follows from those, happen many times in a campaign.
    "RECEIPT_WINDOW_SECONDS": "20",
    "FALLBACK_AFTER_SECONDS": "60",
}

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that was done, and when: seconds from the campaign's start.

    `recovery_seconds`: until no service was late any more; None where that took too long or was not waited for.
    """

    fault: Fault
    at_seconds: float
    recovery_seconds: float | None = None
    recovered: bool = True


@dataclass(frozen=True, slots=True)
class Campaign:
    """What was done to a mesh, and what it was found to have done.

    `not_reached`: failpoints that were armed and that nothing passed. `restarts`: services started again by whoever
    looked after them, by the reason they gave. `rested`: whether all was finished after the last fault.
    """

    seed: int
    injected: Sequence[Injected]
    not_reached: Sequence[str]
    restarts: Mapping[str, int]
    answers: Sequence[Answer]
    rested: bool
    observed: Observed
    results: Sequence[Result]
    seeded_bugs: Mapping[str, bool]
    seconds: float


@dataclass(frozen=True, slots=True)
class Phase:
    """Lanes go side by side; in each, faults in order. `waits`: each is recovered from before the lane's next."""

    lanes: Sequence[Iterable[Fault]]
    waits: bool = True


@dataclass(frozen=True, slots=True)
class Programme:
    """What is to be done: phases, one after the other.

    It ends with its last fault, or after `seconds`. Requests flow all the while, `speed` new ones a second.
    """

    seed: int
    phases: Sequence[Phase]
    speed: float
    seconds: float = math.inf


def long_programme(seed: int, minutes: float, speed: float) -> Programme:
    """Faults of every kind, drawn by the seed, until the minutes are over."""
    return Programme(seed, [Phase([plan(seed, lane) for lane in Lane])], speed, minutes * 60)


def short_programme(seed: int, speed: float) -> Programme:
    """Every service killed at each of its failpoints, while each provider's fault comes once; then a few of the mesh's.

    The others of these are rows of tests/faults, each by itself.
    """
    providers = [replace(fault, seconds=min(fault.seconds, BRIEF_SECONDS)) for fault in each_once(seed, PROVIDER_KINDS)]
    return Programme(seed, [Phase([*sweep(), providers], waits=False), Phase([each_once(seed, FEW_KINDS)])], speed)


async def run_campaign(programme: Programme, directory: Path, topics: ApplyTopics, *, tell: Tell) -> Campaign:
    """Start a mesh in the directory, do it all, heal it, and hold it against its promise."""
    started = monotonic()
    folder = directory / "jurisdiction"
    write_jurisdiction(DJIBOUTI, folder)
    mesh = LocalMesh(
        directory,
        folder,
        apply_topics=topics,
        brokers=BROKERS,
        replicas=REPLICAS,
        providers=PROVIDERS,
        mongodb=False,
        env=SERVICES_ENV,
    )
    async with mesh:
        sources = local_sources(directory)
        if sources is None or mesh.kafka is None or not (mesh.smscs and mesh.sinks):
            raise PartFailed(
                "A campaign needs parts of its own to break: unset KAFKA_BOOTSTRAP_SERVERS, SMPP_HOST, SMTP_HOST."
            )
        tell(f"the mesh runs; seed {programme.seed}")
        scene = Scene(mesh, mesh.kafka)
        monitor = Monitor(mesh.kafka_access, settled=lambda: scene.brokers_settled)
        fire = _Fire(scene, monitor, tell, until=monotonic() + programme.seconds)
        agencies = Agencies(mesh, read_keys(folder), seed=programme.seed, speed=programme.speed)
        async with _beside(monitor.run()), _beside(scene.look_after()):
            publishing = asyncio.create_task(agencies.publish())
            await monitor.in_view()
            for phase in programme.phases:
                async with asyncio.TaskGroup() as group:
                    for lane in phase.lanes:
                        group.create_task(fire.go_through(lane, waits=phase.waits))
            tell("no more faults; the mesh finishes what it has")
            agencies.enough.set()
            await publishing
            rested = await _rest(sources, monitor)
        tell("checking")
        urls = {name: url for name, url in sources.service_urls.items() if service_of(name) not in scene.shrunk}
        seen = await observe(
            replace(sources, service_urls=urls, samples=monitor.kept, faults=scene.at, poison=scene.poison)
        )
    observed = replace(seen, published=published(agencies.answers, seen.dead_letters))
    return Campaign(
        seed=programme.seed,
        injected=fire.injected,
        not_reached=fire.not_reached,
        restarts=scene.restarts,
        answers=agencies.answers,
        rested=rested,
        observed=observed,
        results=check(observed),
        seeded_bugs=seeded_bugs(observed),
        seconds=monotonic() - started,
    )


@dataclass
class _Fire:
    """Goes through the faults of the lanes."""

    scene: Scene
    monitor: Monitor
    tell: Tell
    until: float
    began: float = field(default_factory=monotonic)
    injected: list[Injected] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)

    async def go_through(self, faults: Iterable[Fault], *, waits: bool) -> None:
        """Do one after the other, until time is over. Providers hold up no service: there is nothing to wait for."""
        for fault in faults:
            if monotonic() >= self.until:
                return
            await self._do(fault, waits=waits and fault.kind not in PROVIDER_KINDS)
            await asyncio.sleep(CALM_SECONDS)

    async def _do(self, fault: Fault, *, waits: bool) -> None:
        at = monotonic()
        try:
            counts_from = await inject(self.scene, fault)
        except NotReached:
            self.not_reached.append(str(fault))
            self.tell(f"{fault}: nothing passed there")
            return
        except PartFailed as error:
            # A service that does not get ready amid another fault is started again by whoever looks after it.
            self.tell(f"{fault}: {error}")
            counts_from = monotonic()
        if not waits:
            self._note(Injected(fault, at - self.began))
            return
        seconds = await self.monitor.recovered(since=counts_from, within_seconds=RECOVERY_SECONDS)
        self._note(Injected(fault, at - self.began, seconds, recovered=seconds is not None))

    def _note(self, injected: Injected) -> None:
        self.injected.append(injected)
        said = f"recovered in {injected.recovery_seconds:.1f} s" if injected.recovery_seconds is not None else "healed"
        self.tell(f"{injected.fault}: {said if injected.recovered else f'not recovered in {RECOVERY_SECONDS:g} s'}")


async def _rest(sources: Sources, monitor: Monitor) -> bool:
    """Wait until nothing is left to read, to send or to tell; whether that came."""
    deadline = monotonic() + REST_SECONDS
    while monotonic() < deadline:
        done = await monitor.finished(within_seconds=deadline - monotonic())
        if done and await work_left(sources) == 0:
            return True
        await asyncio.sleep(CALM_SECONDS)
    return False


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
