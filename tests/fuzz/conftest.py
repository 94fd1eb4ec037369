"""The door and the loop that the fuzzed tests share."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.fuzz.doors import HANG_SECONDS, HttpDoorAddress, http_door

Run = Callable[[Awaitable[Any]], Any]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpDoorAddress]:
    with http_door(tmp_path_factory.mktemp("intake")) as address:
        yield address


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs a coroutine on a loop that outlives it, until it ends or hangs; no task of the loop may fail unseen."""
    unseen: list[dict[str, Any]] = []
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: unseen.append(context))

        async def bounded(work: Awaitable[Any]) -> Any:
            async with asyncio.timeout(HANG_SECONDS):
                return await work

        yield lambda work: runner.run(bounded(work))
        assert unseen == []
