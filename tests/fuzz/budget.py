"""How long the doors are fuzzed, and from which seed."""

import os
import time
from collections.abc import Callable
from random import SystemRandom

from hypothesis import HealthCheck, Phase, seed, settings

FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
"""What each door gets; its claims share it."""

round_of = settings(
    max_examples=10,
    deadline=None,
    database=None,
    derandomize=False,
    print_blob=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""The settings of one round: a round is short, so that a budget is kept."""


def fuzz(claim: Callable[[], None], *, share: float = 1.0) -> None:
    """Try the claim, a Hypothesis test with `round_of`, round after round until its share of FUZZ_SECONDS is used.

    A failure names the seed of its round; with FUZZ_SEED set to that, it is the first round.
    """
    first = os.environ.get("FUZZ_SEED")
    end = time.monotonic() + FUZZ_SECONDS * share
    rounds = 0
    while rounds == 0 or time.monotonic() < end:
        number = int(first) if first and not rounds else SystemRandom().getrandbits(32)
        rounds += 1
        try:
            seed(number)(claim)()
        except BaseException as error:
            error.add_note(f"round {rounds}; again with FUZZ_SEED={number}")
            raise
    print(f"{rounds} rounds of at most {round_of.max_examples} examples")  # noqa: T201 - pytest shows it on failure
