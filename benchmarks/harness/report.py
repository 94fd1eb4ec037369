"""What a benchmark is given, and what it hands back."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from benchmarks.harness.rounds import Say


@dataclass(frozen=True, slots=True)
class Bench:
    """`directory` is the benchmark's own and empty. `only` names the one part of it that is wanted; None: all."""

    directory: Path
    rounds: int
    say: Say
    only: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text for people; numbers come formatted."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured: `figures` by their place in the report, and the same as tables."""

    figures: Mapping[str, Any]
    tables: Sequence[Table] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of what took part besides the mesh itself."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`measure` starts its parts, measures, and stops them; it raises when something did not do its work.

    `parts` are those that may be asked for alone.
    """

    measure: Callable[[Bench], Awaitable[Outcome]]
    parts: Sequence[str] = ()


def show(outcome: Outcome, console: Console) -> None:
    """Print the tables: the first column names, the others are figures."""
    for table in outcome.tables:
        grid = Grid(title=table.title, title_justify="left")
        for index, column in enumerate(table.columns):
            grid.add_column(column, justify="right" if index else "left", no_wrap=True)
        for row in table.rows:
            grid.add_row(*row)
        console.print(grid)


def write(report: Mapping[str, Any], path: Path) -> None:
    """Write the report as JSON; figures to four significant places, which is more than they are good for."""
    path.write_text(json.dumps(_rounded(report), indent=2) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return value
