"""`guichet dlq`: what stands among the dead letters, and sending it back once the cause is mended."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from msgspec import to_builtins
from msgspec.structs import asdict
from rich.console import Console
from rich.table import Column, Table

from deploy.cli.dead_letters import Letter, Replayed, Selection, read_letters, replay, unpacked
from deploy.cli.kafka import MESH_DIRECTORY, AsJson, Bootstrap, Directory, access
from deploy.cli.running import Exit, fail, run
from shared.bus.access import KafkaAccess
from shared.contract.reasons import MEANINGS, Reason

app = typer.Typer(no_args_is_help=True, help="Dead letters: records that could not be processed.")
screen = Console()

_SPAN = re.compile(r"^(\d+)(m|h|d)$")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def moment(text: str) -> datetime:
    """A point in time: RFC 3339 with its zone, or a span before now such as 30m, 12h, 7d."""
    if span := _SPAN.match(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("give a time such as 2026-11-22T08:30:00Z, or a span such as 30m, 12h, 7d") from None
    if at.tzinfo is None:
        raise typer.BadParameter("give the time with its zone, such as 2026-11-22T08:30:00+03:00")
    return at


ByReason = Annotated[Reason | None, typer.Option("--reason", help="Only those set aside for this reason.")]
ByTopic = Annotated[str | None, typer.Option("--topic", help="Only records of this topic.")]
Since = Annotated[
    datetime | None,
    typer.Option("--since", parser=moment, metavar="TIME", help="Only those set aside since: a time, or 30m, 12h, 7d."),
]


@app.command("list")
def list_letters(
    reason: ByReason = None,
    topic: ByTopic = None,
    since: Since = None,
    bootstrap: Bootstrap = None,
    directory: Directory = MESH_DIRECTORY,
    as_json: AsJson = False,
) -> None:
    """List dead letters: where the record stood, why it was set aside, by which service."""
    letters = run(read_letters(access(bootstrap, directory), Selection(reason, topic, since)))
    if as_json:
        typer.echo(json.dumps([summary(letter) for letter in letters], indent=2))
        return
    table = Table(
        Column("id", no_wrap=True),
        *(Column(name, overflow="fold") for name in ("record", "reason", "set aside", "detail")),
    )
    for letter in letters:
        data = letter.event.data
        at = f"{letter.set_aside_at:%Y-%m-%d %H:%M:%S}Z by {data.service}"
        table.add_row(letter.event.id, letter.place, data.reason, at, data.detail)
    screen.print(table, markup=False)
    screen.print(f"{len(letters)} dead letters")


@app.command("show")
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, or topic/partition/offset of the record.")],
    bootstrap: Bootstrap = None,
    directory: Directory = MESH_DIRECTORY,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter with all that was kept of its record. It may hold personal data."""
    letters = run(read_letters(access(bootstrap, directory), Selection(ids=frozenset({letter_id}))))
    if not letters:
        fail(Exit.FOUND, f"no dead letter has the id {letter_id}")
    (letter,) = letters[:1]
    data = letter.event.data
    if as_json:
        typer.echo(json.dumps({**summary(letter), **to_builtins(asdict(data))}, indent=2))
        return
    lines = {
        "id": letter.event.id,
        "record": letter.place,
        "recorded": letter.event.time.isoformat() if letter.event.time else "its timestamp is no sane time",
        "set aside": f"{letter.set_aside_at.isoformat()} by {data.service}",
        "reason": f"{data.reason}: {MEANINGS[data.reason]}",
        "detail": data.detail,
        "replay": letter.why_not_replayed or "can be replayed",
        "key": readable(data.key),
        **{f"header {name}": readable(content) for name, content in data.headers},
        "value": readable(data.value),
    }
    for name, text in lines.items():
        screen.print(f"{name}: {text}", markup=False, highlight=False, soft_wrap=True)


@app.command("replay")
def replay_letters(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="These ones only, by id or topic/partition/offset.")
    ] = None,
    reason: ByReason = None,
    topic: ByTopic = None,
    since: Since = None,
    everything: Annotated[bool, typer.Option("--all", help="All there are, where nothing else says which.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be replayed, and send nothing.")] = False,
    rate: Annotated[float, typer.Option(min=0.1, max=10_000, help="Records a second, at most.")] = 50.0,
    bootstrap: Bootstrap = None,
    directory: Directory = MESH_DIRECTORY,
    as_json: AsJson = False,
) -> None:
    """Send records back to the topic and partition they came from, byte for byte, through the same door.

    Mend the cause first. Doing it twice does no harm: every service drops what it has seen. Dead letters stay where
    they are until their topic's retention ends; a record that fails again leaves a new one. A record whose bytes are
    not all here is refused, and the exit status is 1.
    """
    selection = Selection(reason, topic, since, frozenset(ids or ()))
    if selection == Selection() and not everything:
        fail(Exit.CONFIGURATION, "say which: by ID, --reason, --topic, --since, or --all of them")
    refused = run(_replay(access(bootstrap, directory), selection, dry_run=dry_run, rate=rate, as_json=as_json))
    if refused:
        raise typer.Exit(Exit.FOUND)


async def _replay(kafka: KafkaAccess, selection: Selection, *, dry_run: bool, rate: float, as_json: bool) -> int:
    letters = await read_letters(kafka, selection)
    missing = selection.ids - {name for letter in letters for name in (letter.event.id, letter.place)}
    for letter_id in sorted(missing):
        say({"id": letter_id, "outcome": "not found"}, as_json)
    sent = refused = 0
    if dry_run:
        outcomes: Sequence[Replayed] = [Replayed(letter, refused=letter.why_not_replayed) for letter in letters]
        for outcome in outcomes:
            refused += outcome.refused is not None
            say(_said(outcome, "would be replayed"), as_json)
    else:
        # Each is told as soon as it is done, so that it stands on the screen even if Kafka goes away meanwhile.
        async for outcome in replay(kafka, letters, per_second=rate):
            sent += outcome.refused is None
            refused += outcome.refused is not None
            say(_said(outcome, "replayed"), as_json)
    if not as_json:
        screen.print(f"{sent} replayed, {refused} refused, {len(missing)} not found")
    return refused + len(missing)


def _said(outcome: Replayed, done: str) -> dict[str, str]:
    said = {"id": outcome.letter.event.id, "record": outcome.letter.place}
    if outcome.refused is not None:
        return {**said, "outcome": "refused", "why": outcome.refused}
    return {**said, "outcome": done, **({"now": outcome.place} if outcome.place else {})}


def say(said: dict[str, str], as_json: bool) -> None:
    """One line for one letter: for people, or a JSON object."""
    if as_json:
        typer.echo(json.dumps(said))
    else:
        screen.print(" ".join(said.values()), markup=False, highlight=False, soft_wrap=True)


def summary(letter: Letter) -> dict[str, Any]:
    """What a list says of one."""
    data = letter.event.data
    return {
        "id": letter.event.id,
        "record": letter.place,
        "reason": data.reason,
        "detail": data.detail,
        "service": data.service,
        "set_aside_at": letter.set_aside_at.isoformat(),
        "replayable": letter.why_not_replayed is None,
    }


def readable(encoded: str | None) -> str:
    """Bytes as text where they are text, else as Python writes them."""
    if (content := unpacked(encoded)) is None:
        return "none"
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return repr(content)
    return text if text.isprintable() else repr(text)
