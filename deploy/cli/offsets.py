"""`guichet offsets`: where a service stands on its topics, and the way out when that place is gone."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import CommitFailedError, KafkaError, UnknownMemberIdError
from rich.console import Console

from deploy.cli.kafka import MESH_DIRECTORY, AsJson, Bootstrap, Directory, access
from deploy.cli.running import Exit, fail, run
from shared.bus.access import KafkaAccess
from shared.bus.port import Unavailable

app = typer.Typer(no_args_is_help=True, help="Where services stand on their topics.")
screen = Console()


@dataclass(frozen=True, slots=True)
class Gap:
    """A partition on which a service's next record is gone: the log reaches from `begins` up to `ends`."""

    topic: str
    partition: int
    committed: int
    begins: int
    ends: int

    @property
    def what(self) -> str:
        """What is missing, in words."""
        if self.committed < self.begins:
            return f"records {self.committed} to {self.begins - 1} are gone, {self.begins - self.committed} in number"
        return f"record {self.committed} is due, but the log ends at {self.ends}: it was cut or made anew"


class StillRuns(Exception):
    """The service has members in its group, who alone may commit."""


@app.command("accept-gap")
def accept_gap(
    service: Annotated[str, typer.Argument(help="intake, routing, notify or metrics.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Accept that they are gone; without it, they are only listed.")
    ] = False,
    bootstrap: Bootstrap = None,
    directory: Directory = MESH_DIRECTORY,
    as_json: AsJson = False,
) -> None:
    """List the records that are gone before a service could read them; with --yes, let it go on after them.

    A service that meets such a gap stops rather than skip it. Keep the list: those events were never processed, and
    only their senders still have them. Stop every replica of the service first, and start it afterwards: it goes on at
    the beginning of the log. The exit status is 1 while a gap is not accepted.
    """
    gaps = run(_gaps(access(bootstrap, directory), service))
    if as_json:
        typer.echo(json.dumps([{**asdict(gap), "accepted": yes} for gap in gaps], indent=2))
    else:
        for gap in gaps:
            screen.print(f"{gap.topic}/{gap.partition}: {gap.what}", markup=False, highlight=False, soft_wrap=True)
        screen.print(f"{len(gaps)} partitions with a gap")
    if gaps and not yes:
        raise typer.Exit(Exit.FOUND)
    if gaps:
        try:
            run(_accept(access(bootstrap, directory), service, gaps))
        except StillRuns:
            fail(Exit.CONFIGURATION, f"{service} still runs: stop every replica of it first. Nothing was changed.")


async def _gaps(kafka: KafkaAccess, service: str) -> list[Gap]:
    admin = AIOKafkaAdminClient(client_id="guichet-offsets", **kafka.options())
    consumer = AIOKafkaConsumer(client_id="guichet-offsets", **kafka.options())
    try:
        await admin.start()
        await consumer.start()
        stood = await admin.list_consumer_group_offsets(f"guichet-{service}")
        topics = set(await admin.list_topics())
        committed = {
            place: entry.offset for place, entry in stood.items() if entry.offset >= 0 and place.topic in topics
        }
        begins = await consumer.beginning_offsets(list(committed))
        ends = await consumer.end_offsets(list(committed))
    except KafkaError as error:
        raise Unavailable(f"Kafka at {kafka} does not answer: {error!r}") from error
    finally:
        await consumer.stop()
        await admin.close()
    return [
        Gap(place.topic, place.partition, offset, begins[place], ends[place])
        for place, offset in sorted(committed.items())
        if not begins[place] <= offset <= ends[place]
    ]


async def _accept(kafka: KafkaAccess, service: str, gaps: list[Gap]) -> None:
    consumer = AIOKafkaConsumer(
        client_id="guichet-offsets",
        **kafka.options(),
        group_id=f"guichet-{service}",
        enable_auto_commit=False,
        auto_offset_reset="none",
    )
    try:
        await consumer.start()
        places = {TopicPartition(gap.topic, gap.partition): gap.begins for gap in gaps}
        consumer.assign(list(places))
        await consumer.commit(places)
    except (CommitFailedError, UnknownMemberIdError) as error:
        raise StillRuns from error
    except KafkaError as error:
        raise Unavailable(f"Kafka at {kafka} does not answer: {error!r}") from error
    finally:
        await consumer.stop()
