import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import pytest


class Eventually(Protocol):
    async def __call__(self, condition: Callable[[], bool], *, within_seconds: float) -> None: ...


@pytest.fixture
def eventually() -> Eventually:
    """Wait for a condition that nobody signals; fails when its time is over."""

    async def wait(condition: Callable[[], bool], *, within_seconds: float) -> None:
        deadline = time.monotonic() + within_seconds
        while not condition():
            assert time.monotonic() < deadline, f"still not so after {within_seconds:g} s"
            await asyncio.sleep(0.02)

    return wait
