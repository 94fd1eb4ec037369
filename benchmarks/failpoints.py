"""What it costs to pass a failpoint that nobody armed: `python -m benchmarks.failpoints`."""

import asyncio
from statistics import median
from time import perf_counter

from shared.bus.port import Unavailable
from shared.failpoints import NONE, Point

PASSINGS = 200_000
ROUNDS = 7


async def _empty() -> float:
    started = perf_counter()
    for _ in range(PASSINGS):
        pass
    return perf_counter() - started


async def _at() -> float:
    started = perf_counter()
    for _ in range(PASSINGS):
        async with NONE.at(Point.PUBLISHED, Unavailable):
            pass
    return perf_counter() - started


async def _reach() -> float:
    started = perf_counter()
    for _ in range(PASSINGS):
        await NONE.reach(Point.COMMITTED, Unavailable)
    return perf_counter() - started


async def main() -> None:
    """Print nanoseconds a passing, the loop around it taken off; medians of interleaved rounds."""
    rounds = [(await _empty(), await _at(), await _reach()) for _ in range(ROUNDS)]
    empty, at, reach = (median(column) for column in zip(*rounds, strict=True))
    for name, seconds in (("at", at), ("reach", reach)):
        print(f"{name:6} {(seconds - empty) / PASSINGS * 1e9:6.0f} ns")


if __name__ == "__main__":
    asyncio.run(main())
