"""Child processes that never outlive us: started, awaited until they answer, stopped; leashed in case we crash."""

import asyncio
import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, cast

from deploy.local import leash
from deploy.local.places import PROJECT

_JANITOR_SECONDS = 10.0
_POLL_SECONDS = 0.05
_LOG_LINES_SHOWN = 15

# The child waits here for one line before it becomes the program: it must not run before the leash knows it,
# or a crash of ours in between would leave it behind. If we die first, `read` meets the end of the pipe and
# it ends.
_GATE = 'read -r _ && exec "$@" </dev/null'


class PartFailed(RuntimeError):
    """A part did not start, or ended by itself. Names the part and its log, and shows the end of that log."""


class Process:
    """A program in a process group of its own, its output appended to `log_path`.

    It belongs to no event loop: it may be started in one and stopped in another, or from none.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        log_path: Path,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.argv = [str(word) for word in argv]
        self.env = dict(env)
        self.log_path = log_path
        self.cwd = cwd
        self._child: subprocess.Popen[bytes] | None = None
        self._group: int | None = None  # while it may have members: a number given back may become a stranger's

    @property
    def pid(self) -> int | None:
        """The process id, which is its group's too; None before `start`. It stays known after the end."""
        return self._child.pid if self._child else None

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs, and before."""
        return self._child.poll() if self._child else None

    def start(self) -> None:
        """Start the program; it answers later (see `answers`). After `stop` or `kill` it may be started again."""
        if self._group is not None:
            raise RuntimeError(f"{self.name} was started before and not stopped")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                ["/bin/sh", "-c", _GATE, self.name, *self.argv],
                env=self.env,
                cwd=self.cwd,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._group = self._child.pid
        with cast(IO[bytes], self._child.stdin) as gate:
            _tell_leash(f"+{self._group}")
            gate.write(b"\n")

    async def answers(self, probe: Callable[[], Awaitable[bool]], *, within_seconds: float) -> None:
        """Return once `probe` says True. Raises PartFailed if the process ends before that, or when time runs out."""
        try:
            async with asyncio.timeout(within_seconds):
                while self.alive:
                    if await probe() and self.alive:  # a stranger on our port may have answered for a dead child
                        return
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise self.failed(f"did not answer within {within_seconds:g} s") from None
        raise self.failed("ended before it answered")

    async def completes(self, *, within_seconds: float) -> None:
        """Return once the program ended with status 0. Raises PartFailed for any other end, or when time runs out."""
        try:
            await self._ended(within_seconds)
            if self.alive:
                raise self.failed(f"was not done within {within_seconds:g} s")
            if self.status != 0:
                raise self.failed("failed")
        finally:
            await self.kill()

    async def stop(self, grace_seconds: float = 10.0) -> None:
        """End the whole group: ask (SIGTERM), then after the grace insist (SIGKILL). No-op if it never ran."""
        if self._group is not None and self.alive:
            leash.signalled(self._group, signal.SIGTERM)
            self.resume()  # one that is suspended could not answer
            await self._ended(grace_seconds)
        await self.kill()

    async def kill(self) -> None:
        """End the whole group at once (SIGKILL), children that outlived the program included."""
        if self._child is None or self._group is None:
            return
        leash.signalled(self._group, signal.SIGKILL)
        await asyncio.to_thread(self._child.wait)
        with suppress(BrokenPipeError):  # somebody ended the leash; what it held is ended all the same
            _tell_leash(f"-{self._group}")
        self._group = None

    def suspend(self) -> None:
        """Let the whole group do nothing at all until `resume` (SIGSTOP); its sockets stay open. No-op once ended."""
        if self._group is not None:
            leash.signalled(self._group, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended group go on where it was (SIGCONT). No-op if it runs, and once it ended."""
        if self._group is not None:
            leash.signalled(self._group, signal.SIGCONT)

    async def _ended(self, within_seconds: float) -> None:
        deadline = time.monotonic() + within_seconds
        while self.alive and time.monotonic() < deadline:  # noqa: ASYNC110 - a process's end sets no event of ours
            await asyncio.sleep(_POLL_SECONDS)

    def failed(self, what: str) -> PartFailed:
        """The error that says what happened to it, with the end of its log."""
        status = "" if self.status is None else f" (status {self.status})"
        lines = self.log_path.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        tail = "\n".join(f"  | {line}" for line in lines) or "  | (empty)"
        return PartFailed(f"{self.name} {what}{status}. Its log, {self.log_path}, ends with:\n{tail}")


def module_argv(module: str, *arguments: object) -> list[str]:
    """The command that runs one of the project's modules in an interpreter of its own."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def project_env(**extra: str) -> dict[str, str]:
    """Our own environment plus `extra`, with the project importable whether it is installed or checked out."""
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **extra}


async def together(*steps: Coroutine[Any, Any, Any]) -> None:
    """Run the steps at once. The first failure cancels the others and is raised as itself, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


@cache
def _leash() -> "subprocess.Popen[bytes]":
    janitor = subprocess.Popen(
        [sys.executable, "-I", leash.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    atexit.register(_let_go, janitor)
    return janitor


def _let_go(janitor: "subprocess.Popen[bytes]") -> None:
    """An orderly end waits for the janitor, so that what was forgotten is gone when we are."""
    cast(IO[bytes], janitor.stdin).close()
    with suppress(subprocess.TimeoutExpired):
        janitor.wait(timeout=_JANITOR_SECONDS)


def _tell_leash(line: str) -> None:
    pipe = cast(IO[bytes], _leash().stdin)
    pipe.write(line.encode() + b"\n")
    pipe.flush()
