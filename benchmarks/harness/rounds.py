"""Rounds in which contenders alternate, so that what the machine does meanwhile meets all of them alike."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from statistics import median
from time import monotonic

Figures = Mapping[str, float]
"""What one run of one contender gave, by name with the unit last."""

Contender = Callable[[], Awaitable[Figures]]
"""Runs once, from nothing, and returns its figures; raises Wrong if the work it measures was not done."""

Say = Callable[[str], None]


class Wrong(RuntimeError):
    """A contender did not do the work that was measured."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """The figures of every contender, one a round, or of the first round alone."""

    runs: Mapping[str, list[Figures]] = field(default_factory=dict)
    first_round_only: Collection[str] = ()

    def median(self, contender: str, figure: str) -> float:
        """The middle one of a contender's figures."""
        return median(run[figure] for run in self.runs[contender])

    def medians(self, contender: str) -> dict[str, float]:
        """The middle one of each of a contender's figures."""
        return {figure: self.median(contender, figure) for figure in self.runs[contender][0]}

    def ratio(self, contender: str, other: str, figure: str = "per_second") -> float:
        """How many times the other's figure a contender's is: the median of the ratios of the rounds that had both."""
        had_both = 1 if {contender, other} & set(self.first_round_only) else None
        pairs = zip(self.runs[contender][:had_both], self.runs[other][:had_both], strict=True)
        return median(mine[figure] / theirs[figure] for mine, theirs in pairs)


async def interleaved(
    contenders: Mapping[str, Contender], rounds: int, *, say: Say, first_round_only: Collection[str] = ()
) -> Rounds:
    """Run each contender once a round; every second round backwards, so that none always follows the same one.

    Of `first_round_only` one run has to do: they are slow, and compared with what else ran in that round.
    """
    done = Rounds({name: [] for name in contenders}, first_round_only)
    for number in range(1, rounds + 1):
        for name in contenders if number % 2 else reversed(list(contenders)):
            if number > 1 and name in first_round_only:
                continue
            started = monotonic()
            figures = await contenders[name]()
            done.runs[name].append(figures)
            told = ", ".join(f"{figure} {value:,.4g}" for figure, value in figures.items())
            say(f"round {number}/{rounds}  {name}: {told}  ({monotonic() - started:.0f} s)")
    return done
