"""Which of a channel's providers is given the next message. Pure: moments are passed in, as monotonic seconds.

Each has its share of the messages, by its weight. The share falls with each failure and where a provider takes
materially longer than the fastest, and drifts back with time. One that fails several times in a row is left out, save
for one message after each pause, until that one goes well; the last one there is is never left out.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

HALF_LIFE_SECONDS: Final = 60.0
"""In this time half of what a provider has lost of its share comes back."""

TRUST_AFTER_FAILURE: Final = 0.7
SHARE_MIN: Final = 0.05
SLOWER_SHARE: Final = 0.15
SLOWER_SECONDS: Final = 0.05
"""How much longer than the fastest a provider has to take for it to count, by both measures."""

ANSWERS_AVERAGED: Final = 20
FAILURES_IN_A_ROW_MAX: Final = 5
PAUSE_FIRST_SECONDS: Final = 5.0
PAUSE_LONGEST_SECONDS: Final = 60.0


@dataclass(slots=True)
class Standing:
    """How a provider has done of late.

    `turn` is what the round robin owes it. `trust` (0 to 1) and `took_seconds`, a mean, are as of `at_seconds`. With
    `pause_seconds` its breaker is open: from `probe_at_seconds` on it may be given one message.
    """

    weight: float
    turn: float = 0.0
    trust: float = 1.0
    took_seconds: float | None = None
    at_seconds: float = 0.0
    failures_in_a_row: int = 0
    pause_seconds: float | None = None
    probe_at_seconds: float = 0.0
    probing: bool = False

    @property
    def is_open(self) -> bool:
        return self.pause_seconds is not None

    def may_probe(self, now_seconds: float) -> bool:
        return self.is_open and now_seconds >= self.probe_at_seconds

    def pause(self, seconds: float, now_seconds: float) -> None:
        self.pause_seconds = seconds
        self.probe_at_seconds = now_seconds + seconds
        self.probing = False

    def trust_at(self, now_seconds: float) -> float:
        return 1 - self._left_of(1 - self.trust, now_seconds)

    def pace_at(self, now_seconds: float, fastest_seconds: float) -> float:
        """1, or by how much less it should be given for being slower than the fastest."""
        slower_by = self._left_of((self.took_seconds or fastest_seconds) - fastest_seconds, now_seconds)
        if slower_by < max(SLOWER_SECONDS, SLOWER_SHARE * fastest_seconds):
            return 1.0
        return fastest_seconds / (fastest_seconds + slower_by)

    def _left_of(self, loss: float, now_seconds: float) -> float:
        return float(loss * 0.5 ** ((now_seconds - self.at_seconds) / HALF_LIFE_SECONDS))


class Pool:
    """The providers of a channel by name, and how they stand. At least one, each with a weight of more than 0."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._standings = {name: Standing(weight) for name, weight in weights.items()}

    def sound(self, connected: Collection[str], now_seconds: float) -> list[str]:
        """Those of the connected that may be given messages; all of them where every breaker is open."""
        standings = self._standings
        passing = [name for name in connected if not standings[name].is_open or standings[name].may_probe(now_seconds)]
        return passing or list(connected)

    def room(self, offered: Mapping[str, int], connected: Collection[str], now_seconds: float) -> dict[str, int]:
        """How many messages each may be given of the number that it has room for; one where that is to try it out."""
        sound = self.sound(connected, now_seconds)
        trying = any(not self._standings[name].is_open for name in sound)
        return {
            name: 1 if trying and self._standings[name].is_open else most
            for name, most in offered.items()
            if name in sound
        }

    def choose(self, among: Collection[str], now_seconds: float) -> str:
        """The one whose turn it is: smooth weighted round robin, the same choices for the same history.

        One that is to be tried out is chosen first, and then not before its pause has passed again.
        """
        for name in among:
            standing = self._standings[name]
            if standing.pause_seconds is not None and standing.may_probe(now_seconds):
                standing.pause(standing.pause_seconds, now_seconds)
                standing.probing = True
                return name
        if len(among) == 1:  # its turn, and as much owed as before
            return next(iter(among))
        shares = {name: self.share(name, now_seconds) for name in among}
        for name, share in shares.items():
            self._standings[name].turn += share
        chosen = max(among, key=lambda name: self._standings[name].turn)
        self._standings[chosen].turn -= sum(shares.values())
        return chosen

    def share(self, name: str, now_seconds: float) -> float:
        """The provider's weight as it is now; never 0."""
        standing = self._standings[name]
        taken = (each.took_seconds for each in self._standings.values())
        fastest_seconds = min((seconds for seconds in taken if seconds is not None), default=0.0)
        kept = standing.trust_at(now_seconds) * standing.pace_at(now_seconds, fastest_seconds)
        return standing.weight * max(SHARE_MIN, kept)

    def worked(self, name: str, took_seconds: float, now_seconds: float) -> None:
        """It took a message, or said for good that this one can't be delivered."""
        standing = self._standings[name]
        known = took_seconds if standing.took_seconds is None else standing.took_seconds
        standing.trust = standing.trust_at(now_seconds)
        standing.took_seconds = known + (took_seconds - known) / ANSWERS_AVERAGED
        standing.at_seconds = now_seconds
        standing.failures_in_a_row = 0
        standing.pause_seconds = None

    def failed(self, name: str, now_seconds: float) -> None:
        """It did not take a message for a reason of its own, or said nothing."""
        standing = self._standings[name]
        standing.trust = standing.trust_at(now_seconds) * TRUST_AFTER_FAILURE
        standing.at_seconds = now_seconds
        standing.failures_in_a_row += 1
        if standing.pause_seconds is None:
            if standing.failures_in_a_row >= FAILURES_IN_A_ROW_MAX:
                standing.pause(PAUSE_FIRST_SECONDS, now_seconds)
        elif standing.probing:
            # Others that fail now were handed over before it opened, and say nothing new.
            standing.pause(min(2 * standing.pause_seconds, PAUSE_LONGEST_SECONDS), now_seconds)
