"""How many SMS and mails a second leave through one connection and through several, the ledger in their path.

Notify runs as it always does, on a SQLite ledger full of messages that are due, and tells every outcome on Kafka; the
providers are sinks that keep nothing.
"""

import asyncio
import shutil
from collections.abc import Mapping
from functools import partial
from itertools import count, islice
from pathlib import Path
from time import monotonic
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.events import AGENCY, MAIL_EVERY, submissions
from benchmarks.harness.report import Bench, Outcome, Table
from benchmarks.harness.rounds import Figures, interleaved
from benchmarks.harness.usage import usage
from benchmarks.ledger import write_ledger
from benchmarks.stage.inputs import chunks
from deploy.cli.starting import topics_of
from deploy.jurisdictions import DJIBOUTI
from deploy.local.kafka import KafkaCluster
from deploy.local.mesh import service_argv
from deploy.local.ports import LOOPBACK, free_port, listens
from deploy.local.process import Process, module_argv, project_env
from deploy.replay.jurisdiction import write_jurisdiction
from services.intake.handlers import Intake, publication
from services.intake.kafka import decoder
from services.intake.references import References
from shared.bus.port import Publication, Record
from shared.clock import SystemClock
from shared.contract.topics import agency_topic
from shared.jurisdiction import load_jurisdiction
from shared.store.sqlite import SqliteStore

MESSAGES: Final = 6_000
ROUNDS_MAX: Final = 2
BATCH: Final = 1_000
START_SECONDS: Final = 60.0
SEND_SECONDS: Final = 300.0
POLL_SECONDS: Final = 0.25
WARM_SHARE: Final = 0.1
ATTEMPTS: Final = "guichet_delivery_attempts_total"


async def measure(bench: Bench) -> Outcome:
    """Messages a second and what one costs, by channel and connections."""
    folder = bench.directory / "jurisdiction"
    write_jurisdiction(DJIBOUTI, folder)
    for channel, mail in (("sms", False), ("mail", True)):
        bench.say(f"planning {MESSAGES:,} messages by {channel}")
        accepted = await _accepted(folder, bench.directory / f"{channel}-intake.sqlite", mail=mail)
        await write_ledger(accepted, folder, bench.directory / f"{channel}.sqlite")
    ports = {"SMPP": free_port(), "SMTP": free_port()}
    sinks = Process(
        "sinks",
        module_argv("benchmarks.sinks", "--smpp-port", ports["SMPP"], "--smtp-port", ports["SMTP"]),
        env=project_env(),
        log_path=bench.directory / "sinks.log",
    )
    kafka = KafkaCluster(bench.directory / "kafka")
    try:
        sinks.start()
        await kafka.start()
        await topics_of(folder)(kafka.access, 1)
        for port in ports.values():
            await sinks.answers(partial(listens, port), within_seconds=START_SECONDS)
        second = {"SMPP2_HOST": LOOPBACK, "SMPP2_PORT": str(ports["SMPP"])}
        second |= {f"SMPP2_{name}": value for name, value in _SMSC.items()}
        desk = _Desk(bench.directory, kafka, sinks, folder, ports)
        rounds = await interleaved(
            {
                "sms, one connection": partial(desk.run, "sms", {}),
                "sms, two connections": partial(desk.run, "sms", second),
                "mail, one connection": partial(desk.run, "mail", {"SMTP_CONNECTIONS": "1"}),
                "mail, ten connections": partial(desk.run, "mail", {"SMTP_CONNECTIONS": "10"}),
            },
            min(bench.rounds, ROUNDS_MAX),
            say=bench.say,
        )
    finally:
        await sinks.stop()
        await kafka.stop()
    figures = {name.replace(", ", "_").replace(" ", "_"): rounds.medians(name) for name in rounds.runs}
    rows = [
        (name, *(f"{rounds.median(name, figure):,.0f}" for figure in ("per_second", "cpu_us", "sinks_cpu_us")))
        for name in rounds.runs
    ]
    return Outcome(figures, [Table("Messages", ("", "a second", "CPU µs a message", "the sinks'"), rows)])


_SMSC: Final = {"SYSTEM_ID": "load", "PASSWORD": "load", "PER_SECOND": "100000", "WINDOW": "500"}


class _Desk:
    """Runs notify on a full ledger."""

    def __init__(
        self, directory: Path, kafka: KafkaCluster, sinks: Process, jurisdiction: Path, ports: Mapping[str, int]
    ) -> None:
        self._directory = directory
        self._sinks = sinks
        self._numbers = count(1)
        self._env = project_env(
            KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap,
            JURISDICTION_DIR=str(jurisdiction),
            HTTP_HOST=LOOPBACK,
            LOG_LEVEL="warning",
            SMTP_PER_SECOND="100000",
            **{f"SMPP_{name}": value for name, value in _SMSC.items()},
            **{f"{name}_HOST": LOOPBACK for name in ports},
            **{f"{name}_PORT": str(port) for name, port in ports.items()},
        )

    async def run(self, channel: str, more: Mapping[str, str]) -> Figures:
        """Send all that is due, and count from when a tenth of it is sent; TimeoutError if it never is."""
        directory = self._directory / f"run-{next(self._numbers)}"
        directory.mkdir()
        shutil.copyfile(self._directory / f"{channel}.sqlite", directory / "notify.sqlite")
        port = free_port()
        env = {**self._env, **more, "DATA_DIR": str(directory), "HTTP_PORT": str(port)}
        notify = Process("notify", service_argv("notify"), env=env, log_path=directory / "log")
        notify.start()
        try:
            await notify.answers(partial(listens, port), within_seconds=START_SECONDS)
            async with aiohttp.ClientSession() as session, asyncio.timeout(SEND_SECONDS):
                sent_before = await _until_sent(session, port, MESSAGES * WARM_SHARE)
                started, before = monotonic(), self._cpu(notify)
                sent = await _until_sent(session, port, MESSAGES) - sent_before
                seconds, after = monotonic() - started, self._cpu(notify)
        finally:
            await notify.stop()
        costs = {name: (after[name] - spent) / sent * 1e6 for name, spent in before.items()}
        return {"per_second": sent / seconds, **costs}

    def _cpu(self, notify: Process) -> dict[str, float]:
        pids = {"cpu_us": notify.pid, "sinks_cpu_us": self._sinks.pid}
        return {name: usage(pid).cpu_seconds for name, pid in pids.items() if pid is not None}


async def _until_sent(session: aiohttp.ClientSession, port: int, wanted: float) -> float:
    """Wait until so many messages have been accepted by a provider; how many have."""
    while True:
        async with session.get(f"http://{LOOPBACK}:{port}/metrics") as answer:
            families = text_string_to_metric_families(await answer.text())
        samples = [sample for family in families for sample in family.samples if sample.name == ATTEMPTS]
        sent = sum(sample.value for sample in samples if sample.labels["outcome"] == "accepted")
        if sent >= wanted:
            return sent
        await asyncio.sleep(POLL_SECONDS)


async def _accepted(folder: Path, file: Path, *, mail: bool) -> list[Publication]:
    """Requests as intake accepts them, of citizens who are all reached the same way."""
    clock, store = SystemClock(), SqliteStore(file)
    decode = decoder(load_jurisdiction(folder), clock)
    events = (event for number, (_, event) in enumerate(submissions("sender")) if (number % MAIL_EVERY == 0) == mail)
    await store.open()
    try:
        intake = Intake(
            claims=store.collection("claims"),
            requests=store.collection("requests"),
            clock=clock,
            candidates=References(store.collection("secrets")).candidates,
        )
        found: list[Publication] = []
        for batch in chunks(islice(events, MESSAGES), BATCH):
            received = [decode(Record(agency_topic(AGENCY), 0, 0, 0, clock.now(), None, event)) for event in batch]
            found += [publication(verdict) for verdict in await intake.decide(received)]
        return found
    finally:
        await store.close()
