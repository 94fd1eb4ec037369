"""How every command runs: a clean end on Ctrl-C and SIGTERM, errors as sentences with an exit status."""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from enum import IntEnum
from typing import Any, NoReturn, TypeVar

import typer
from rich.console import Console

from deploy.local.process import PartFailed
from deploy.replay.steps import SourceError
from shared.bus.admin import TopicConflict
from shared.bus.grants import NoAuthorizer
from shared.bus.port import Unavailable
from shared.config import ConfigError

T = TypeVar("T")

errors = Console(stderr=True, highlight=False)


class Exit(IntEnum):
    """What a command's exit status says. 2, a wrong call, is Typer's own."""

    DONE = 0
    FOUND = 1
    UNAVAILABLE = 3
    CONFIGURATION = 4
    INTERRUPTED = 130


def fail(status: Exit, message: str) -> NoReturn:
    """End with this status and say why, on standard error."""
    errors.print(message, style="bold red", markup=False, soft_wrap=True)
    raise typer.Exit(status)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, or to Ctrl-C or SIGTERM: then everything that was started is stopped first."""
    try:
        return asyncio.run(_until_stopped(work))
    except asyncio.CancelledError:
        raise typer.Exit(Exit.INTERRUPTED) from None
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None
    except (PartFailed, Unavailable) as error:
        fail(Exit.UNAVAILABLE, str(error))
    except (ConfigError, NoAuthorizer, TopicConflict, SourceError) as error:
        fail(Exit.CONFIGURATION, str(error))
    except OSError as error:
        if error.filename is None:
            raise
        fail(Exit.CONFIGURATION, f"{error.filename}: {error.strerror}")


async def _until_stopped(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    # Where signals can't be handled so (another thread, Windows), Ctrl-C still ends the loop.
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
    return await task
