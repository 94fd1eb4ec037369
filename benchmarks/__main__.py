"""`python -m benchmarks`: measure, print tables, write the report. `make bench` calls it."""

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import end_to_end, growth, http, sender
from benchmarks.harness.machine import machine
from benchmarks.harness.report import Bench, Benchmark, show, write
from benchmarks.harness.rounds import Wrong
from benchmarks.stage.measure import STAGES
from benchmarks.stage.measure import measure as measure_stages
from deploy.local.process import PartFailed

BENCHMARKS: Mapping[str, Benchmark] = {
    "stage": Benchmark(measure_stages, parts=STAGES),
    "http": Benchmark(http.measure),
    "end_to_end": Benchmark(end_to_end.measure),
    "sender": Benchmark(sender.measure),
    "growth": Benchmark(growth.measure),
}
"""Each by its name, which is its place in the report."""

screen = Console(log_path=False, width=150)


def main(
    stage: Annotated[str | None, typer.Option(help="Only this benchmark, or this part of one.")] = None,
    report: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")] = Path("bench.json"),
    rounds: Annotated[int, typer.Option(min=1, help="How often each contender runs; medians are shown.")] = 3,
) -> None:
    """Measure the mesh beside its peers."""
    wanted = {name: one for name, one in BENCHMARKS.items() if stage in (None, name, *one.parts)}
    if not wanted:
        names = (word for name, one in BENCHMARKS.items() for word in (name, *one.parts))
        raise typer.BadParameter(f"{stage!r} is none of {', '.join(names)}", param_hint="--stage")
    try:
        asyncio.run(_measure(wanted, stage, report, rounds))
    except (PartFailed, Wrong) as error:
        raise SystemExit(str(error)) from None


async def _measure(wanted: Mapping[str, Benchmark], stage: str | None, path: Path, rounds: int) -> None:
    report: dict[str, Any] = {"machine": machine(), "rounds": rounds}
    for name, benchmark in wanted.items():
        only = stage if stage in benchmark.parts else None
        with tempfile.TemporaryDirectory(prefix=f"guichet-{name}-") as directory:
            outcome = await benchmark.measure(Bench(Path(directory), rounds, screen.log, only))
        report[name] = outcome.figures
        report["machine"]["libraries"] |= outcome.versions
        show(outcome, screen)
        write(report, path)


if __name__ == "__main__":
    typer.run(main)
