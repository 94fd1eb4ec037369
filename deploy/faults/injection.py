"""What is done to a mesh for each kind of fault. Each returns when it is healed, with the moment from which recovery
counts on the monotonic clock: that of the fault where others take over, else that at which it was healed."""

import asyncio
import resource
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from time import monotonic
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from deploy.check.observed import Place
from deploy.faults.plan import REPLICAS, Fault, Kind
from deploy.faults.scene import NotReached, Scene
from deploy.local.smsc import SmscFaults
from deploy.local.smtp import SmtpFaults
from deploy.local.state import service_of
from shared.contract.topics import ACCEPTED, agency_topic

REACHED_SECONDS: Final = 90.0
"""Long enough for whatever is being killed beside it to let work come through again."""

POLL_SECONDS: Final = 0.1
UNTIL_HELD_UP_SECONDS: Final = 6.0
HELD_UP_SECONDS: Final = 2.0
"""Shorter than a session, so that what comes meanwhile is kept for the one that is held up."""

POISON_AGENCY: Final = "etat-civil"
POISON: Final = (b"", b"\xff\xfe", b"{", b'{"specversion": "1.0"', b"null", b"[" * 2000, b'{"a": 1, "a": 2}', b"1e999")
MESH_POISON: Final = (b"", b"no event of ours")

Inject = Callable[[Scene, Fault], Awaitable[float]]


async def inject(scene: Scene, fault: Fault) -> float:
    """Do it and heal it. NotReached if a failpoint was armed and nothing passed it."""
    return await _INJECT[fault.kind](scene, fault)


async def _service_killed(scene: Scene, fault: Fault) -> float:
    async with scene.handling(fault.target):
        at = scene.now()
        await scene.mesh.kill(fault.target)
        await asyncio.sleep(fault.seconds)
        back = monotonic()
        await scene.restart(fault.target)
    return at if _others_take_over(fault.target) else back


async def _killed_at_failpoint(scene: Scene, fault: Fault) -> float:
    async with scene.handling(fault.target):
        await scene.mesh.restart(fault.target, {"FAILPOINTS": fault.failpoints}, ready=False)
        reached = await _until(scene, fault.target, lambda: not scene.mesh.processes[fault.target].alive)
        at = scene.now()
        await asyncio.sleep(fault.seconds if reached else 0)
        back = monotonic()
        await scene.restart(fault.target)
    if not reached:
        raise NotReached(str(fault))
    return at if _others_take_over(fault.target) else back


async def _failed_at_failpoint(scene: Scene, fault: Fault) -> float:
    log = scene.mesh.logs[fault.target]
    async with scene.handling(fault.target):
        read = log.stat().st_size
        await scene.mesh.restart(fault.target, {"FAILPOINTS": fault.failpoints}, ready=False)
        reached = await _until(scene, fault.target, lambda: b'"message": "failpoint"' in log.read_bytes()[read:])
    if not reached:
        raise NotReached(str(fault))
    return scene.now()


async def _service_frozen(scene: Scene, fault: Fault) -> float:
    async with scene.handling(fault.target):
        at = scene.now()
        scene.mesh.freeze(fault.target)
        await asyncio.sleep(fault.seconds)
        scene.mesh.thaw(fault.target)
        thawed = scene.now()
    return at if _others_take_over(fault.target) else thawed


async def _service_terminated(scene: Scene, fault: Fault) -> float:
    at = scene.now()
    await scene.restart(fault.target)
    return at


async def _rebalance_storm(scene: Scene, fault: Fault) -> float:
    until = scene.now() + fault.seconds
    scene.shrunk.add(fault.target)
    while monotonic() < until:
        name = await scene.mesh.add(fault.target)
        await scene.mesh.remove(name)
    return scene.now()


async def _leader_killed(scene: Scene, fault: Fault) -> float:
    at = scene.now()
    with scene.disturbing_brokers():
        await scene.kafka.kill(int(fault.target))
        await asyncio.sleep(fault.seconds)
        await scene.kafka.restart(int(fault.target))
    return at


async def _broker_frozen(scene: Scene, fault: Fault) -> float:
    at = scene.now()
    with scene.disturbing_brokers():
        async with _frozen(scene, f"kafka-{fault.target}"):
            await asyncio.sleep(fault.seconds)
    return at


async def _brokers_short(scene: Scene, fault: Fault) -> float:
    scene.now()
    killed = [index for index in range(len(scene.kafka.processes)) if index != int(fault.target)]
    with scene.disturbing_brokers():
        await asyncio.gather(*map(scene.kafka.kill, killed))
        await asyncio.sleep(fault.seconds)
        back = scene.now()
        await asyncio.gather(*map(scene.kafka.restart, killed))
    return back


async def _brokers_restarted(scene: Scene, _fault: Fault) -> float:
    scene.now()
    with scene.disturbing_brokers():
        await scene.kafka.kill_all()
        back = monotonic()
        await asyncio.gather(*map(scene.kafka.restart, range(len(scene.kafka.processes))))
    return back


async def _store_locked(scene: Scene, fault: Fault) -> float:
    """Another process holds the write lock of the service's file: the store is slow, and then unavailable."""
    file = scene.mesh.directory / "data" / fault.target / f"{fault.target}.sqlite"
    scene.now()
    with closing(sqlite3.connect(file, timeout=30.0, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(fault.seconds)
        connection.execute("ROLLBACK")
    return scene.now()


async def _store_full(scene: Scene, fault: Fault) -> float:
    """The processes of a service can write to no file, as on a full disk."""
    pids = [scene.mesh.processes[name].pid for name in scene.mesh.services if service_of(name) == fault.target]
    scene.now()
    for pid in filter(None, pids):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    await asyncio.sleep(fault.seconds)
    for pid in filter(None, pids):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return scene.now()


async def _poison(scene: Scene, _fault: Fault) -> float:
    """What nobody can read, among what can be: on an agency's topic, and a little on one of the mesh."""
    scene.now()
    producer = AIOKafkaProducer(acks="all", enable_idempotence=True, **scene.mesh.kafka_access.options())
    records = [(agency_topic(POISON_AGENCY), value) for value in POISON] + [(ACCEPTED.name, one) for one in MESH_POISON]
    try:
        await producer.start()
        for topic, value in records:
            stood = await producer.send_and_wait(topic, value, key=b"poison")
            scene.poison.add(Place(stood.topic, stood.partition, stood.offset))
    except KafkaError as error:
        raise NotReached(f"poison: {error!r}") from error
    finally:
        await producer.stop()
    return scene.now()


async def _provider_killed(scene: Scene, fault: Fault) -> float:
    scene.now()
    await scene.mesh.kill(fault.target)
    await asyncio.sleep(fault.seconds)
    smscs = {smsc.process.name: smsc.start for smsc in scene.mesh.smscs}
    sinks = {sink.process.name: sink.start for sink in scene.mesh.sinks}
    await (smscs | sinks)[fault.target]()
    return scene.now()


async def _provider_frozen(scene: Scene, fault: Fault) -> float:
    scene.now()
    async with _frozen(scene, fault.target):
        await asyncio.sleep(fault.seconds)
    return scene.now()


def _smsc(faults: SmscFaults) -> Inject:
    async def misbehave(scene: Scene, fault: Fault) -> float:
        smsc = next(one for one in scene.mesh.smscs if one.process.name == fault.target)
        smsc.set_faults(faults)
        return await _until_cleared(scene, fault, smsc.clear_faults)

    return misbehave


def _smtp(faults: SmtpFaults) -> Inject:
    async def misbehave(scene: Scene, fault: Fault) -> float:
        sink = next(one for one in scene.mesh.sinks if one.process.name == fault.target)
        sink.set_faults(faults)
        return await _until_cleared(scene, fault, sink.clear_faults)

    return misbehave


async def _until_cleared(scene: Scene, fault: Fault, clear: Callable[[], None]) -> float:
    scene.now()
    await asyncio.sleep(fault.seconds)
    clear()
    return scene.now()


@asynccontextmanager
async def _frozen(scene: Scene, name: str) -> AsyncIterator[None]:
    scene.mesh.freeze(name)
    try:
        yield
    finally:
        scene.mesh.thaw(name)


async def _until(scene: Scene, target: str, reached: Callable[[], bool]) -> bool:
    """Whether it was reached in time. There are points that only a batch of several records passes, and where few come
    each is brought alone: so the target is held up now and then, and finds some together."""
    began = held_up = monotonic()
    while not reached():
        now = monotonic()
        if now > began + REACHED_SECONDS:
            return False
        if now > held_up + UNTIL_HELD_UP_SECONDS:
            async with _frozen(scene, target):
                await asyncio.sleep(HELD_UP_SECONDS)
            held_up = monotonic()
        await asyncio.sleep(POLL_SECONDS)
    return True


def _others_take_over(name: str) -> bool:
    return REPLICAS[service_of(name)] > 1


_INJECT: Final[Mapping[Kind, Inject]] = {
    Kind.SERVICE_KILLED: _service_killed,
    Kind.KILLED_AT_FAILPOINT: _killed_at_failpoint,
    Kind.FAILED_AT_FAILPOINT: _failed_at_failpoint,
    Kind.STALLED_AT_FAILPOINT: _failed_at_failpoint,
    Kind.SERVICE_FROZEN: _service_frozen,
    Kind.SERVICE_TERMINATED: _service_terminated,
    Kind.REBALANCE_STORM: _rebalance_storm,
    Kind.LEADER_KILLED: _leader_killed,
    Kind.BROKER_FROZEN: _broker_frozen,
    Kind.BROKERS_SHORT: _brokers_short,
    Kind.BROKERS_RESTARTED: _brokers_restarted,
    Kind.STORE_LOCKED: _store_locked,
    Kind.STORE_FULL: _store_full,
    Kind.POISON: _poison,
    Kind.SMSC_KILLED: _provider_killed,
    Kind.SMSC_FROZEN: _provider_frozen,
    Kind.SMSC_SLOW: _smsc(SmscFaults(answer_delay_ms=1500)),
    Kind.SMSC_THROTTLING: _smsc(SmscFaults(throttle_share=0.5)),
    Kind.SMSC_FAILING: _smsc(SmscFaults(error_share=0.3, refuse_share=0.2)),
    Kind.SMSC_CUT: _smsc(SmscFaults(cut_share=0.1, cut_before_share=0.1)),
    Kind.SMSC_GARBLING: _smsc(SmscFaults(unknown_command_share=0.1, bad_length_share=0.05, wrong_sequence_share=0.1)),
    Kind.RECEIPTS_DOUBLED: _smsc(SmscFaults(receipt="twice")),
    Kind.RECEIPTS_LATE: _smsc(SmscFaults(receipt="late", receipt_delay_ms=30_000)),
    Kind.RECEIPTS_EARLY: _smsc(SmscFaults(receipt="early")),
    Kind.RECEIPTS_FORGED: _smsc(SmscFaults(receipt="forged")),
    Kind.RECEIPTS_FAILED: _smsc(SmscFaults(receipt="failed")),
    Kind.RECEIPTS_MISSING: _smsc(SmscFaults(receipt="none")),
    Kind.SMTP_KILLED: _provider_killed,
    Kind.SMTP_FROZEN: _provider_frozen,
    Kind.SMTP_SLOW: _smtp(SmtpFaults(answer_delay_ms=1500)),
    Kind.SMTP_FAILING: _smtp(SmtpFaults(defer_share=0.3, refuse_share=0.2, mailbox_share=0.05)),
    Kind.SMTP_CUT: _smtp(SmtpFaults(cut_share=0.1, cut_before_share=0.1)),
    Kind.SMTP_GARBLING: _smtp(SmtpFaults(many_lines_share=0.1, bad_code_share=0.1, no_line_end_share=0.1)),
}

if undone := set(Kind) - _INJECT.keys():
    raise AssertionError(f"there is no way to do {undone}")
