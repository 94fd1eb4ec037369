"""`guichet faults`: a mesh under faults, held against its promise."""

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.cli.running import Exit, fail, run
from deploy.cli.starting import clear, topics_of
from deploy.local.state import running
from deploy.replay.report import write_report

screen = Console()


def faults(
    seed: Annotated[int, typer.Option(help="Draws the faults and the requests: the same seed, the same ones.")] = 7,
    minutes: Annotated[
        float | None, typer.Option(min=0.5, help="How long faults come; without it, a short fixed set of them.")
    ] = None,
    report: Annotated[Path, typer.Option(help="Where the report is written, as JSON.")] = Path("faults-report.json"),
    speed: Annotated[float, typer.Option(min=0.1, help="New requests a second.")] = 8.0,
    directory: Annotated[Path, typer.Option("--dir", help="Where the mesh keeps its data and logs.")] = Path(
        ".guichet/faults"
    ),
) -> None:
    """Put a mesh on three brokers under faults while requests flow, heal it, and check its promise of delivery.

    Services are killed, frozen and failed at every failpoint, brokers killed and restarted, stores locked and full,
    providers down, slow, throttling and lying about receipts. Linux only. The exit status is 1 if anything was lost,
    doubled or sent again without a reason, if the mesh did not recover, or if a checker missed its seeded bug.
    """
    raise typer.Exit(run(_faults(seed, minutes, report, speed, directory)))


async def _faults(seed: int, minutes: float | None, report: Path, speed: float, directory: Path) -> int:
    from deploy.faults.campaign import long_programme, run_campaign, short_programme  # the image has no local parts
    from deploy.faults.report import as_report, findings, summarise

    if running(directory):
        fail(Exit.CONFIGURATION, f"a mesh runs in {directory}; stop it first, or name another --dir")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its complaints about brokers that we kill are no news
    await asyncio.to_thread(lambda: report.open("a").close())
    await asyncio.to_thread(clear, directory)
    programme = short_programme(seed, speed) if minutes is None else long_programme(seed, minutes, speed)

    def tell(what: str) -> None:
        screen.print(f"{datetime.now(UTC):%H:%M:%S} {what}", markup=False, highlight=False, soft_wrap=True)

    campaign = await run_campaign(programme, directory, topics_of(directory / "jurisdiction"), tell=tell)
    write_report(as_report(campaign), report)
    summarise(campaign, screen)
    screen.print(f"Report: {report}   Logs: {directory}")
    return Exit.FOUND if findings(campaign) else Exit.DONE
