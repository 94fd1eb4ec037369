"""`guichet notifications`: what notify's ledger says, above all of messages of which nobody knows."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from deploy.check.ledger import is_there, read_notifications
from deploy.check.reading import local_sources
from deploy.cli.dlq import moment
from deploy.cli.kafka import MESH_DIRECTORY, AsJson, Directory
from deploy.cli.running import Exit, fail, run
from services.notify.domain import Notification, State
from shared.contract.events import Channel
from shared.store import MONGODB_DATABASE

screen = Console()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which notifications to list; None: whatever it is."""

    status: State | None = None
    channel: Channel | None = None
    since: datetime | None = None

    def holds(self, notification: Notification) -> bool:
        """Whether this is one of them."""
        return (
            self.status in (None, notification.status)
            and self.channel in (None, notification.channel)
            and (self.since is None or stands_since(notification) >= self.since)
        )


def notifications(
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Only those of which nobody knows whether they were sent.")
    ] = False,
    status: Annotated[State | None, typer.Option(help="Only those that stand so.")] = None,
    channel: Annotated[Channel | None, typer.Option(help="Only those of this channel.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(parser=moment, metavar="TIME", help="Only those that stand so since: a time, or 30m, 12h, 7d."),
    ] = None,
    directory: Directory = MESH_DIRECTORY,
    notify_data: Annotated[Path | None, typer.Option(help="Folder of notify's SQLite file.")] = None,
    mongodb_url: Annotated[
        str | None,
        typer.Option(envvar="MONGODB_URL", help="MongoDB, where no local mesh runs and the ledger is there."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List notifications: where each stands, since when, and what happens to it next.

    With --unknown, those that were handed to a provider whose answer was never read. Nobody can be reached by what is
    listed: of phones and mail addresses only the ends are shown.
    """
    if unknown and status not in (None, State.UNKNOWN):
        fail(Exit.CONFIGURATION, "--unknown is short for --status unknown; give one of them")
    wanted = Wanted(State.UNKNOWN if unknown else status, channel, since)
    sources = local_sources(directory)
    place: dict[str, Any] = {"notify_data": notify_data, "mongodb_url": mongodb_url}
    if sources is not None and notify_data is None:
        place = {"notify_data": sources.notify_data, "mongodb_url": sources.mongodb_url}
    if not is_there(**place):
        fail(
            Exit.CONFIGURATION,
            f"give --notify-data or --mongodb-url, or the --dir of a local mesh that runs (none does in {directory})",
        )
    database = sources.mongodb_database if sources is not None else MONGODB_DATABASE
    found = run(_find(wanted, mongodb_database=database, **place))
    if as_json:
        typer.echo(json.dumps([summary(each) for each in found], indent=2))
        return
    # The id is what an operator copies; on a narrow screen the others give way.
    table = Table(
        Column("id", no_wrap=True), *(Column(name, overflow="fold") for name in ("request and step", "stands", "next"))
    )
    for each in found:
        told = f"{each.reference} {each.step} by {each.channel or 'none'} {each.provider or ''}".strip()
        reason = f" ({each.reason})" if each.reason else ""
        stands = f"{each.status}{reason} since {stands_since(each):%Y-%m-%d %H:%M:%S}Z"
        table.add_row(each.id, told, stands, f"{next_of(each)} ({each.policy})")
    screen.print(table, markup=False)
    screen.print(f"{len(found)} notifications")


async def _find(
    wanted: Wanted, *, notify_data: Path | None, mongodb_url: str | None, mongodb_database: str
) -> list[Notification]:
    everything = read_notifications(notify_data=notify_data, mongodb_url=mongodb_url, mongodb_database=mongodb_database)
    return sorted([each async for each in everything if wanted.holds(each)], key=stands_since)


def summary(notification: Notification) -> dict[str, Any]:
    """What a list says of one. Nothing in it is a contact."""
    return {
        "id": notification.id,
        "request_id": notification.request_id,
        "reference": notification.reference,
        "step": notification.step,
        "channel": notification.channel,
        "recipient": masked(notification.recipient),
        "provider": notification.provider,
        "provider_references": notification.provider_references,
        "status": notification.status,
        "reason": notification.reason,
        "since": stands_since(notification).isoformat(),
        "attempts": notification.attempts,
        "unknowns": notification.unknowns,
        "policy": notification.policy,
        "next": next_of(notification),
        "next_at": at.isoformat() if (at := next_at(notification)) else None,
        "fallback_of": notification.fallback_of,
    }


def stands_since(notification: Notification) -> datetime:
    """When the last thing happened to it that is written down with its time."""
    steps = notification.timeline
    known = (steps.planned, notification.since, notification.unknown_since, steps.sent, steps.delivered)
    return max((at for at in known if at is not None), default=notification.not_before)


def next_at(notification: Notification) -> datetime | None:
    """When something happens to it by itself; None: when a receipt comes, or never."""
    match notification.status:
        case State.PLANNED:
            return notification.not_before
        case State.UNKNOWN:
            return notification.resend_at
    return None


def next_of(notification: Notification) -> str:
    """What happens to it next, in words."""
    at = next_at(notification)
    match notification.status:
        case State.PLANNED:
            return f"is sent from {at:%H:%M:%S}Z on"
        case State.SENDING:
            return "the provider answers, or it becomes unknown"
        case State.UNKNOWN if at is not None:
            return f"is sent again at {at:%Y-%m-%d %H:%M:%S}Z, unless a receipt comes before"
        case State.UNKNOWN:
            return "is never sent again; a receipt would still settle it"
        case State.FAILED if notification.owes_fallback:
            return "is told by the other channel"
        case State.SENT if notification.channel is Channel.SMS:
            return "a receipt may come"
    return "nothing"


def masked(recipient: str | None) -> str | None:
    """Enough of a phone or a mail address to tell two apart, and too little to reach anybody."""
    if recipient is None:
        return None
    name, at, _ = recipient.partition("@")
    return f"{name[:1]}…@…" if at else f"…{recipient[-2:]}"
