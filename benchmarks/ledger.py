"""Notify's ledger, filled by notify's own planning."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from benchmarks.stage.inputs import chunks
from services.notify.handlers import plan
from services.notify.ledger import Ledger
from services.notify.rendering import load_templates
from shared.bus.loop import decode_mesh_event
from shared.bus.port import Incoming, Publication, Record
from shared.clock import SystemClock
from shared.contract import topics as mesh
from shared.contract.events import Channel
from shared.jurisdiction import load_jurisdiction
from shared.metrics import NotifyMetrics
from shared.store.sqlite import SqliteStore

PLANNED_AT_ONCE: Final = 5_000

SMS, EMAIL, UNREACHABLE = "notifications_sms", "notifications_email", "notifications_unreachable"


async def write_ledger(events: Sequence[Publication], jurisdiction_dir: Path, file: Path) -> None:
    """Write down in a store whom to tell what of these events; all of it is due."""
    store = SqliteStore(file)
    await store.open()
    try:
        planning = partial(
            plan,
            jurisdiction=load_jurisdiction(jurisdiction_dir),
            templates=load_templates(),
            ledgers={
                Channel.SMS: Ledger(store.collection(SMS)),
                Channel.EMAIL: Ledger(store.collection(EMAIL)),
                None: Ledger(store.collection(UNREACHABLE)),
            },
            clock=SystemClock(),
            metrics=NotifyMetrics(CollectorRegistry()),
        )
        decode = decode_mesh_event([mesh.ACCEPTED, mesh.ASSIGNED])
        for batch in chunks(events, PLANNED_AT_ONCE):
            records = [Record(one.topic.name, 0, 0, 0, datetime.now(UTC), None, one.value) for one in batch]
            await planning([Incoming(read.event, read.record) for read in map(decode, records)])
    finally:
        await store.close()
