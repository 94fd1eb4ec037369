"""Holds processes to a share of a core, by Linux's control groups: so one machine can stand for several small ones."""

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.harness.rounds import Wrong

CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")
PERIOD_US: Final = 20_000
"""Short, so that whoever has used up its share is away for no longer than a slow disk would keep it."""


class CpuQuota:
    """While it is entered, the processes that it holds get `cores` of CPU time together, and no more.

    Takes the CPU controller where this machine has it, in version 2 of control groups or in version 1. Raises Wrong
    where it may not be used. When it is left, the processes that still run are as free as they were.
    """

    def __init__(self, name: str, cores: float, control_groups: Path = CONTROL_GROUPS) -> None:
        self._first_version = (control_groups / "cpu" / "cgroup.procs").exists()
        self._free = control_groups / "cpu" if self._first_version else control_groups
        self._group = self._free / name
        self._quota_us = int(cores * PERIOD_US)

    def hold(self, pid: int) -> None:
        """Let the quota count for a process from now on, and for what it starts."""
        _write(self._group / "cgroup.procs", pid)

    def __enter__(self) -> Self:
        try:
            self._group.mkdir()
        except OSError as error:
            raise _refused(error) from error
        try:
            if self._first_version:
                _write(self._group / "cpu.cfs_period_us", PERIOD_US)
                _write(self._group / "cpu.cfs_quota_us", self._quota_us)
            else:
                _write(self._group / "cpu.max", f"{self._quota_us} {PERIOD_US}")
        except Wrong:
            self._group.rmdir()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in (self._group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):  # it may end at any moment
                _write(self._free / "cgroup.procs", pid)
        self._group.rmdir()


def _write(file: Path, value: object) -> None:
    try:
        # Never make a file: one that is not there is a controller that is not there.
        with file.open("r+") as setting:
            setting.write(str(value))
    except ProcessLookupError:
        raise
    except OSError as error:
        raise _refused(error) from error


def _refused(error: OSError) -> Wrong:
    return Wrong(
        f"no CPU quota can be set on this machine: {error}. Run as root, where the cpu controller of control groups is"
        f" on (cgroup.subtree_control in version 2)."
    )
