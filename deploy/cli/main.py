"""The `guichet` command: start a mesh, feed it, look after it."""

import asyncio
import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from deploy.check.reading import check_mesh, read_mesh
from deploy.cli.publishing import publish_http, publish_kafka, read_events
from deploy.cli.running import Exit, fail, run
from deploy.jurisdictions import DJIBOUTI
from deploy.local.state import running
from deploy.replay.generator import DEFAULT_COUNT, DEFAULT_SEED
from deploy.replay.jurisdiction import KEYS, read_keys, write_jurisdiction
from deploy.replay.publisher import DEFAULT_REQUESTS_PER_SECOND
from deploy.replay.run import MeshAddresses, read_replay
from deploy.replay.run import replay as play
from shared.bus.admin import AppliedTopic, apply_topics
from shared.contract.events import RequestAccepted
from shared.jurisdiction import load_jurisdiction

if TYPE_CHECKING:
    from deploy.local.mesh import LocalMesh

MESH_DIRECTORY = Path(".guichet/mesh")
DEMO_DIRECTORY = Path(".guichet/demo")
LOCAL_PARTITIONS = 6
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

screen = Console()

Directory = Annotated[Path, typer.Option("--dir", help="Where a local mesh keeps its data, logs and keys.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
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
Bootstrap = Annotated[
    str | None,
    typer.Option("--bootstrap", envvar="KAFKA_BOOTSTRAP_SERVERS", help="Kafka; else the local mesh's."),
]
ReplayFile = Annotated[Path | None, typer.Argument(help="Requests to replay; without it, generated ones.")]
ReportFile = Annotated[Path, typer.Option(help="Where the report is written, as JSON.")]
Speed = Annotated[float, typer.Option(min=0.1, help="New requests a second.")]
Replication = Annotated[int, typer.Option(min=1, max=9, help="Copies of every record.")]


@app.command()
def up(
    directory: Directory = MESH_DIRECTORY, jurisdiction: JurisdictionFolder = DJIBOUTI, brokers: Brokers = 1
) -> None:
    """Start the whole mesh on this machine and keep it running until Ctrl-C.

    Apache Kafka, an SMSC, a mail server and the four services, each a process of its own on free ports. What the
    environment names is used instead: KAFKA_BOOTSTRAP_SERVERS, MONGODB_URL, SMPP_HOST, SMTP_HOST. Each agency's API
    key is made at the first start and kept in DIR/jurisdiction/keys.json.
    """
    run(_up(directory, jurisdiction, brokers))


async def _up(directory: Path, jurisdiction: Path, brokers: int) -> None:
    from deploy.local.mesh import LocalMesh  # the image has no local parts, and needs none

    folder = directory / "jurisdiction"
    if not (folder / KEYS).exists():
        write_jurisdiction(jurisdiction, folder)
    elif jurisdiction != DJIBOUTI:
        screen.print(f"The jurisdiction is that of an earlier start, {folder}; for another one name another --dir.")
    with screen.status("Starting the mesh …"):
        mesh = LocalMesh(directory, folder, apply_topics=topics_of(folder), brokers=brokers)
        await mesh.start()
    try:
        show_addresses(directory)
        screen.print("Stop it with Ctrl-C.")
        await _look_after(mesh)
    finally:
        screen.print("Stopping …")
        await mesh.stop()


async def _look_after(mesh: "LocalMesh") -> NoReturn:
    """Start a service that ended again; say so, and where its log is. Raises PartFailed for any other part."""
    while True:
        for name in mesh.ended():
            screen.print(f"{name} ended and is started again; its log is {mesh.logs[name]}", style="yellow")
            await mesh.restart(name)
        await asyncio.sleep(WATCHED_EVERY_SECONDS)


def topics_of(folder: Path) -> Any:
    """What LocalMesh calls to lay out the topics of a jurisdiction's folder."""

    async def apply(bootstrap: str, replication: int) -> list[AppliedTopic]:
        agencies = list(load_jurisdiction(folder).agencies)
        return await apply_topics(bootstrap, agencies, partitions=LOCAL_PARTITIONS, replication=replication)

    return apply


def show_addresses(directory: Path) -> None:
    """Where everything of a running mesh is."""
    state = running(directory)
    if state is None:
        fail(Exit.UNAVAILABLE, f"no mesh runs in {directory}")
    table = Table("part", "address", "log", title="The mesh runs")
    for index, address in enumerate(state["bootstrap"].split(",")):
        table.add_row("kafka", address, state["logs"].get(f"kafka-{index}", ""))
    for name, url in state["services"].items():
        table.add_row(name, url, state["logs"][name])
    for name in ("smsc", "smtp"):
        if name in state["logs"]:
            table.add_row(name, "", state[f"{name}_log"])
    screen.print(table)
    screen.print(f"API keys: {directory / 'jurisdiction' / KEYS}")


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
            bootstrap=mesh.bootstrap,
            intake_url=mesh.service_url("intake"),
            smsc_log=mesh.smsc_log,
            smtp_log=mesh.smtp_log,
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


def clear(directory: Path) -> None:
    """Remove what an earlier replay left, which would answer in the new one's place; never anything else."""
    if directory.is_dir() and any(directory.iterdir()) and not (directory / "jurisdiction" / KEYS).exists():
        fail(Exit.CONFIGURATION, f"{directory} holds something else than a mesh's data; name another --dir")
    shutil.rmtree(directory, ignore_errors=True)


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
        bootstrap = bootstrap or state.get("bootstrap")
        if bootstrap is None or agency is None:
            fail(Exit.CONFIGURATION, "--kafka needs --agency, and --bootstrap unless a local mesh runs")
        results = run(publish_kafka(bootstrap, agency, events))
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
    smsc_log: Annotated[Path | None, typer.Option(help="What the SMSC accepted, as JSON lines.")] = None,
    smtp_log: Annotated[Path | None, typer.Option(help="What the mail server accepted, as JSON lines.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read every topic of a mesh and say where its promise of delivery was broken, if anywhere.

    Every accepted request is routed once, its citizen is told once of each step, and copies are equal to the byte.
    Let the mesh come to rest first: what is still under way counts as missing.
    """
    state = running(directory) or {}
    bootstrap = bootstrap or state.get("bootstrap")
    if bootstrap is None:
        fail(Exit.CONFIGURATION, f"give --bootstrap, or the --dir of a local mesh that runs (none does in {directory})")
    seen = run(read_mesh(bootstrap))
    logs = {"smsc_log": smsc_log or state.get("smsc_log"), "smtp_log": smtp_log or state.get("smtp_log")}
    findings = check_mesh(seen, **{name: Path(log) if log else None for name, log in logs.items()})
    said = {
        "accepted": len(seen.sightings.of(RequestAccepted)),
        "dead_letters": len(seen.dead_letters),
        "unreadable": seen.unreadable,
        "raw_copies": seen.sightings.raw_copies,
        "findings": [{"fault": one.fault, "subject": one.subject, "what": one.what} for one in findings],
    }
    if as_json:
        typer.echo(json.dumps(said, indent=2))
    else:
        for one in findings:
            screen.print(f"{one.fault}: {one.subject} {one.what}", style="red", markup=False)
        for letter in seen.dead_letters:
            screen.print(f"dead letter: {letter.subject} {letter.data.reason}: {letter.data.detail}", markup=False)
        screen.print(
            f"{said['accepted']} requests accepted, {len(findings)} findings, {said['dead_letters']} dead letters, "
            f"{said['raw_copies']} raw copies"
        )
    if findings or seen.unreadable:
        raise typer.Exit(Exit.FOUND)


@topics.command("apply")
def topics_apply(
    bootstrap: Annotated[str, typer.Option(envvar="KAFKA_BOOTSTRAP_SERVERS", help="host:port of a broker.")],
    jurisdiction: JurisdictionFolder = DJIBOUTI,
    partitions: Partitions = 12,
    replication: Replication = 3,
    as_json: AsJson = False,
) -> None:
    """Create the mesh's topics and one for each agency, where they are missing. Safe to repeat.

    Refuses when a topic stands with another number of partitions, which would break the order of events.
    """
    agencies = list(run(_agencies(jurisdiction)))
    applied = run(apply_topics(bootstrap, agencies, partitions=partitions, replication=replication))
    if as_json:
        typer.echo(
            json.dumps([{"topic": one.name, "partitions": one.partitions, "action": one.action} for one in applied])
        )
        return
    for one in applied:
        screen.print(f"{one.action:8} {one.name} ({one.partitions} partitions)", markup=False)


async def _agencies(folder: Path) -> list[str]:
    return list(load_jurisdiction(folder).agencies)
