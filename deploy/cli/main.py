"""The `guichet` command: start a mesh, feed it, look after it."""

import asyncio
import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.check.checks import Result, findings_of
from deploy.check.checks import check as judge
from deploy.check.observed import Observed
from deploy.check.reading import Sources, local_sources, observe
from deploy.cli import dlq, offsets
from deploy.cli.faults import faults
from deploy.cli.kafka import MESH_DIRECTORY, AsJson, Bootstrap, Directory, access
from deploy.cli.notifications import notifications
from deploy.cli.publishing import publish_http, publish_kafka, read_events
from deploy.cli.running import Exit, errors, fail, run
from deploy.cli.starting import clear, topics_of
from deploy.jurisdictions import DJIBOUTI
from deploy.local.state import running
from deploy.replay.generator import DEFAULT_COUNT, DEFAULT_SEED
from deploy.replay.jurisdiction import KEYS, read_keys, write_jurisdiction
from deploy.replay.publisher import DEFAULT_REQUESTS_PER_SECOND
from deploy.replay.report import FINDINGS_SHOWN
from deploy.replay.run import MeshAddresses, read_replay
from deploy.replay.run import replay as play
from shared.bus.admin import apply_topics
from shared.bus.grants import SERVICES, apply_grants, grants
from shared.contract.events import RequestAccepted
from shared.jurisdiction import load_jurisdiction

if TYPE_CHECKING:
    from deploy.local.mesh import LocalMesh

DEMO_DIRECTORY = Path(".guichet/demo")
WATCHED_EVERY_SECONDS = 1.0

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Carries citizens' requests from agencies to offices over Kafka, and tells the citizen at each step.",
    epilog="Exit status: 0 done, 1 something was refused or found wrong, 2 wrong call, 3 a part can't be reached, "
    "4 wrong configuration, 130 interrupted.",
)
topics = typer.Typer(no_args_is_help=True, help="The topics of the mesh.")
app.add_typer(topics, name="topics")
app.add_typer(dlq.app, name="dlq")
app.add_typer(offsets.app, name="offsets")
app.command("faults")(faults)
app.command("notifications")(notifications)

screen = Console()

JurisdictionFolder = Annotated[
    Path,
    typer.Option(
        "--jurisdiction",
        envvar="JURISDICTION_DIR",
        help="Folder with agencies.yaml, services.yaml, rules.yaml, calendar.yaml.",
    ),
]
Brokers = Annotated[int, typer.Option(min=1, max=5, help="Kafka brokers to start.")]
Partitions = Annotated[int, typer.Option(min=1, max=1000, help="Partitions of every topic of the mesh.")]
EventsFile = Annotated[Path, typer.Argument(help="Events as JSON: one, an array, or one a line; - is standard input.")]
AgencyName = Annotated[str | None, typer.Option("--agency", help="Who publishes: for --kafka or a local mesh.")]
IntakeUrl = Annotated[str | None, typer.Option("--url", envvar="GUICHET_URL", help="Intake; else the local mesh's.")]
ApiKey = Annotated[
    str | None, typer.Option("--key", envvar="GUICHET_KEY", help="<agency>.<secret>; else the local mesh's.")
]
OverKafka = Annotated[bool, typer.Option("--kafka", help="Publish to the agency's topic instead of over HTTP.")]
ReplayFile = Annotated[Path | None, typer.Argument(help="Requests to replay; without it, generated ones.")]
ReportFile = Annotated[Path, typer.Option(help="Where the report is written, as JSON.")]
Speed = Annotated[float, typer.Option(min=0.1, help="New requests a second.")]
Replication = Annotated[int, typer.Option(min=1, max=9, help="Copies of every record.")]


@app.command()
def up(
    directory: Directory = MESH_DIRECTORY,
    jurisdiction: JurisdictionFolder = DJIBOUTI,
    brokers: Brokers = 1,
    as_json: AsJson = False,
) -> None:
    """Start the whole mesh on this machine and keep it running until Ctrl-C.

    Apache Kafka, an SMSC, a mail server and the four services, each a process of its own on free ports. What the
    environment names is used instead: KAFKA_BOOTSTRAP_SERVERS, MONGODB_URL, SMPP_HOST, SMTP_HOST. Each agency's API
    key is made at the first start and kept in DIR/jurisdiction/keys.json.
    """
    run(_up(directory, jurisdiction, brokers, as_json=as_json))


async def _up(directory: Path, jurisdiction: Path, brokers: int, *, as_json: bool) -> None:
    from deploy.local.mesh import LocalMesh  # the image has no local parts, and needs none

    folder = directory / "jurisdiction"
    if not (folder / KEYS).exists():
        write_jurisdiction(jurisdiction, folder)
    elif jurisdiction != DJIBOUTI:
        errors.print(f"The jurisdiction is that of an earlier start, {folder}; for another one name another --dir.")
    with errors.status("Starting the mesh …"):
        mesh = LocalMesh(directory, folder, apply_topics=topics_of(folder), brokers=brokers)
        await mesh.start()
    try:
        show_addresses(directory, as_json=as_json)
        errors.print("Stop it with Ctrl-C.")
        await _look_after(mesh)
    finally:
        errors.print("Stopping …")
        await mesh.stop()


async def _look_after(mesh: "LocalMesh") -> NoReturn:
    """Start a service that ended again; say so, and where its log is. Raises PartFailed for any other part."""
    while True:
        for name in mesh.ended():
            screen.print(f"{name} ended and is started again; its log is {mesh.logs[name]}", style="yellow")
            await mesh.restart(name)
        await asyncio.sleep(WATCHED_EVERY_SECONDS)


def show_addresses(directory: Path, *, as_json: bool = False) -> None:
    """Where everything of a running mesh is, and where each log."""
    state = running(directory)
    if state is None:
        fail(Exit.UNAVAILABLE, f"no mesh runs in {directory}")
    if as_json:
        typer.echo(json.dumps(state))
        return
    addresses = {name: state["bootstrap"] for name in state["logs"] if name.startswith("kafka")} | state["services"]
    table = Table("part", "address", "log", title="The mesh runs", title_justify="left")
    for name, log in state["logs"].items():
        table.add_row(name, addresses.get(name, ""), log)
    screen.print(table)
    for log in (*state["smsc_logs"], *state["smtp_logs"]):
        screen.print(f"What the {Path(log).stem} accepted: {log}", soft_wrap=True)
    screen.print(f"API keys: {directory / 'jurisdiction' / KEYS}", soft_wrap=True)


@app.command()
def replay(
    file: ReplayFile = None,
    report: ReportFile = Path("demo-report.json"),
    speed: Speed = DEFAULT_REQUESTS_PER_SECOND,
    seed: Annotated[int, typer.Option(help="Of the generated requests, where no file is given.")] = DEFAULT_SEED,
    count: Annotated[int, typer.Option(min=1, help="Generated requests, where no file is given.")] = DEFAULT_COUNT,
    brokers: Brokers = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the mesh running afterwards, until Ctrl-C.")] = False,
    directory: Directory = DEMO_DIRECTORY,
    as_json: AsJson = False,
) -> None:
    """Start a mesh and play requests through it as their offices' agencies, half over HTTP and half over Kafka.

    FILE is municipal open data (CSV, gzip too; columns by name, as St. Louis or New York publish them) or JSON Lines
    of events. Without it, a seeded generator makes requests of a jurisdiction like Djibouti's. Ends with a summary
    and a report; the exit status is 1 if anything was lost, doubled, not told or unexplained.
    """
    status = run(_replay(file, directory, report, speed=speed, seed=seed, count=count, brokers=brokers, keep=keep))
    if as_json:
        typer.echo(report.read_text())
    raise typer.Exit(status)


async def _replay(
    file: Path | None,
    directory: Path,
    report: Path,
    *,
    speed: float,
    seed: int,
    count: int,
    brokers: int,
    keep: bool,
) -> int:
    from deploy.local.mesh import LocalMesh  # the image has no local parts, and needs none

    if running(directory):
        fail(Exit.CONFIGURATION, f"a mesh runs in {directory}; stop it first, or name another --dir")
    # Whoever can't write the report should learn so now, and not when everything has been replayed.
    await asyncio.to_thread(lambda: report.open("a").close())
    folder = directory / "jurisdiction"
    with screen.status("Reading the requests …"):
        prepared = await asyncio.to_thread(read_replay, file, seed=seed, count=count)
    await asyncio.to_thread(clear, directory)
    write_jurisdiction(prepared.jurisdiction, folder)
    with screen.status("Starting Kafka, the services, an SMSC and a mail server … (the first time, Kafka is fetched)"):
        mesh = LocalMesh(directory, folder, apply_topics=topics_of(folder), brokers=brokers)
        await mesh.start()
    try:
        addresses = MeshAddresses(
            sources=local_sources(directory) or Sources(mesh.kafka_access),
            intake_url=mesh.service_url("intake"),
            store="mongodb" if os.environ.get("MONGODB_URL") else "sqlite",
            kafka_version=mesh.kafka.version if mesh.kafka else None,
        )
        status = await play(
            prepared, mesh=addresses, keys=read_keys(folder), report=report, console=screen, speed=speed
        )
        screen.print(f"Report: {report}   Logs: {directory}")
        if keep:
            show_addresses(directory)
            screen.print("Stop it with Ctrl-C.")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return status
    finally:
        await mesh.stop()


@app.command()
def publish(
    file: EventsFile,
    agency: AgencyName = None,
    url: IntakeUrl = None,
    key: ApiKey = None,
    kafka: OverKafka = False,
    bootstrap: Bootstrap = None,
    directory: Directory = MESH_DIRECTORY,
    as_json: AsJson = False,
) -> None:
    """Publish events as an agency, and say what became of each."""
    state = running(directory) or {}
    events = run(asyncio.to_thread(read_events, file))
    if kafka:
        if agency is None:
            fail(Exit.CONFIGURATION, "--kafka needs --agency")
        results = run(publish_kafka(access(bootstrap, directory), agency, events))
    else:
        url = url or state.get("services", {}).get("intake")
        key = key or (read_keys(directory / "jurisdiction").get(agency) if state and agency else None)
        if url is None or key is None:
            fail(Exit.CONFIGURATION, "give --url and --key, or --agency with a local mesh that runs (guichet up)")
        results = run(publish_http(url, key, events))
    if as_json:
        typer.echo(
            json.dumps([{"line": result.line, "outcome": result.outcome, **result.answer} for result in results])
        )
    else:
        for result in results:
            said = result.answer.get("reference") or result.answer.get("detail") or json.dumps(result.answer)
            screen.print(f"{result.line}: {result.event_id} {result.outcome}: {said}", markup=False)
    if any(result.refused for result in results):
        raise typer.Exit(Exit.FOUND)


@app.command()
def check(
    directory: Directory = MESH_DIRECTORY,
    bootstrap: Bootstrap = None,
    smsc_log: Annotated[
        list[Path] | None, typer.Option(help="What an SMSC accepted, as JSON lines. May be repeated.")
    ] = None,
    smtp_log: Annotated[
        list[Path] | None, typer.Option(help="What a mail server accepted, as JSON lines. May be repeated.")
    ] = None,
    notify_data: Annotated[Path | None, typer.Option(help="Folder of notify's SQLite file.")] = None,
    mongodb_url: Annotated[
        str | None, typer.Option(envvar="MONGODB_URL", help="With --bootstrap: MongoDB, if the ledger is there.")
    ] = None,
    jurisdiction: Annotated[
        Path | None, typer.Option(help="The jurisdiction's folder; else the local mesh's. For due dates.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Observe a mesh and say where its promise of delivery was broken, if anywhere.

    Reads every topic, the committed offsets, notify's ledger, what the providers accepted by their own logs, the
    services' logs and metrics, and holds them against each other. What is not there to be read is left out, and said
    so. Let the mesh come to rest first: what is still under way counts as missing. Dead letters are counted and are
    no finding by themselves (see guichet dlq); records on the mesh's topics that can't be read are.
    """
    kafka = access(bootstrap, directory)
    sources = local_sources(directory) or Sources(kafka, mongodb_url=mongodb_url)
    sources = replace(
        sources,
        kafka=kafka,
        smsc_logs=smsc_log or sources.smsc_logs,
        smtp_logs=smtp_log or sources.smtp_logs,
        notify_data=notify_data or sources.notify_data,
        jurisdiction=jurisdiction or sources.jurisdiction,
    )
    observed = run(observe(sources))
    results = judge(observed)
    if as_json:
        typer.echo(json.dumps(as_report(observed, results), indent=2))
    else:
        show_checks(observed, results)
    if findings_of(results):
        raise typer.Exit(Exit.FOUND)


def as_report(observed: Observed, results: Sequence[Result]) -> dict[str, Any]:
    """What was checked and found, for programs."""
    return {
        "accepted": len(observed.sightings.of(RequestAccepted)),
        "dead_letters": len(observed.dead_letters),
        "unreadable": len(observed.unreadable),
        "raw_copies": observed.sightings.raw_copies,
        "checks": [
            {
                "id": result.checker.id,
                "name": result.checker.name,
                "promise": result.checker.promise,
                "verdict": result.verdict,
                "findings": None if result.findings is None else len(result.findings),
                "without": list(result.without),
            }
            for result in results
        ],
        "findings": [
            {"checker": result.checker.id, "fault": one.fault, "subject": one.subject, "what": one.what}
            for result in results
            for one in result.findings or ()
        ],
    }


def show_checks(observed: Observed, results: Sequence[Result]) -> None:
    """What was checked and found, for people."""
    table = Table("", "promise", "verdict")
    for result in results:
        style = "red" if result.findings else "dim" if result.findings is None else "green"
        table.add_row(result.checker.id, result.checker.promise, Text(result.verdict, style=style))
    screen.print(table)
    for result in results:
        for one in (result.findings or ())[:FINDINGS_SHOWN]:
            said = f"{result.checker.id} {one.fault}: {one.subject} {one.what}"
            screen.print(said, style="red", markup=False, highlight=False)
        if (more := len(result.findings or ()) - FINDINGS_SHOWN) > 0:
            screen.print(f"… and {more} more of {result.checker.id}; all with --json")
    for letter in observed.dead_letters[:FINDINGS_SHOWN]:
        screen.print(f"dead letter: {letter.subject} {letter.data.reason}: {letter.data.detail}", markup=False)
    screen.print(
        f"{len(observed.sightings.of(RequestAccepted)):,} requests accepted, {len(observed.dead_letters):,} dead "
        f"letters, {observed.sightings.raw_copies:,} raw copies"
    )


@topics.command("apply")
def topics_apply(
    bootstrap: Annotated[str, typer.Option(envvar="KAFKA_BOOTSTRAP_SERVERS", help="host:port of a broker.")],
    jurisdiction: JurisdictionFolder = DJIBOUTI,
    partitions: Partitions = 12,
    replication: Replication = 3,
    grant: Annotated[
        bool, typer.Option("--grant", help="Then let each agency write to its own topic, and services use the others.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create the mesh's topics and one for each agency, where they are missing. Safe to repeat.

    Refuses when a topic stands with another number of partitions, which would break the order of events. With --grant
    agencies are the users of their ids, and all services the user "guichet"; brokers need an authorizer, and what was
    granted before stays.
    """
    agencies = list(run(_agencies(jurisdiction)))
    kafka = access(bootstrap, MESH_DIRECTORY)
    applied = run(apply_topics(kafka, agencies, partitions=partitions, replication=replication))
    if grant:
        run(apply_grants(kafka, grants(agencies)))
    if as_json:
        typer.echo(
            json.dumps([{"topic": one.name, "partitions": one.partitions, "action": one.action} for one in applied])
        )
        return
    for one in applied:
        screen.print(f"{one.action:8} {one.name} ({one.partitions} partitions)", markup=False)
    if grant:
        screen.print(f"granted  {len(agencies)} agencies their topics, and {SERVICES} those of the mesh", markup=False)


async def _agencies(folder: Path) -> list[str]:
    return list(load_jurisdiction(folder).agencies)
