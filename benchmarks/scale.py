"""What rates of requests take, on paper, from what one request costs here.

    python -m benchmarks.scale                                      # measures: a quarter of an hour
    python -m benchmarks.scale --figures benchmarks/scale.json      # counts anew, from figures measured before

Prints tables, and puts them into a document that asks for them: each stands there between `<!-- NAME -->` and
`<!-- end -->`. `make scale` measures and refreshes docs/scaling.md.
"""

import asyncio
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from benchmarks import costs, replicas
from benchmarks.harness.machine import machine
from benchmarks.harness.report import Bench, Outcome, Table, show, write
from benchmarks.harness.rounds import Wrong
from benchmarks.sizing import RATES, Costs, assumptions_table, limits, limits_table, size, sizes_table
from deploy.local.process import PartFailed

# The costs last: their load names its providers in the environment.
MEASURED: Final = {"replicas": replicas.measure, "costs": costs.measure}

screen = Console(log_path=False, width=150)


def main(
    figures: Annotated[Path | None, typer.Option(help="Figures that were measured before.")] = None,
    report: Annotated[Path, typer.Option(help="Where new figures go, as JSON.")] = Path("scale.json"),
    document: Annotated[Path | None, typer.Option(help="A text whose tables are to show these figures.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often replicas run; medians are shown.")] = 3,
) -> None:
    """Measure what a request costs and whether replicas add up; from that, say what rates take and what breaks."""
    if figures is None:
        try:
            asyncio.run(_measure(report, rounds))
        except (PartFailed, Wrong) as error:
            raise SystemExit(str(error)) from None
    found = tables(json.loads((figures or report).read_text()))
    show(Outcome({}, list(found.values())), screen)
    if document is not None:
        document.write_text(with_tables(document.read_text(), found))


async def _measure(report: Path, rounds: int) -> None:
    figures: dict[str, Any] = {"machine": machine(), "rounds": rounds}
    for name, measure in MEASURED.items():
        with tempfile.TemporaryDirectory(prefix=f"guichet-{name}-") as directory:
            figures[name] = (await measure(Bench(Path(directory), rounds, screen.log))).figures
        write(figures, report)


def tables(figures: Mapping[str, Any]) -> dict[str, Table]:
    """All tables, by the names that a document gives them."""
    cost = Costs.of(figures["costs"])
    cpu, topics, stores, start = costs.costs_tables(figures["costs"])
    return {
        "machine": _machine_table(figures),
        "cpu": cpu,
        "topics": topics,
        "stores": stores,
        "start": start,
        "replicas": replicas.replicas_table(figures["replicas"]),
        "assumptions": assumptions_table(),
        "sizes": sizes_table([size(cost, rate) for rate in RATES]),
        "limits": limits_table(limits(cost)),
    }


def with_tables(text: str, found: Mapping[str, Table]) -> str:
    """The text with each of its tables as it is now; KeyError for a name that no table has."""
    return re.sub(
        r"<!-- (\w+) -->\n.*?<!-- end -->",
        lambda place: f"<!-- {place[1]} -->\n{_markdown(found[place[1]])}<!-- end -->",
        text,
        flags=re.DOTALL,
    )


def _markdown(table: Table) -> str:
    rows = (table.columns, ("---",) * len(table.columns), *table.rows)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _machine_table(figures: Mapping[str, Any]) -> Table:
    on = figures["machine"]
    rows = [
        ("processor", f"{on['cpu']}, {on['cores']} cores"),
        ("a million additions in a loop", f"{on['loop_ms']:.0f} ms"),
        ("memory", f"{on['memory_mb'] / 1024:.0f} GB"),
        ("Kafka, Python, SQLite", f"{on['kafka']}, {on['python']}, {on['libraries']['sqlite']}"),
        ("busy before (load average)", f"{on['load_before']:.1f}"),
        ("requests of the load", f"{figures['costs']['requests']:,} at {figures['costs']['rate']:,.0f}/s"),
        ("all sent after its end", f"{figures['costs']['behind_seconds']:.1f} s"),
        ("rounds of replicas", f"{figures['rounds']}"),
    ]
    return Table("Measured on", ("", ""), rows)


if __name__ == "__main__":
    typer.run(main)
