"""What a process costs, as Linux counts it: threads and all, children not."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time since the process began, to a hundredth of a second, and the memory it holds now."""

    cpu_seconds: float
    rss_mb: float


def usage(pid: int) -> Usage:
    """The usage of a process that runs; ProcessLookupError if it doesn't."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        memory = Path(f"/proc/{pid}/statm").read_text()
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None
    # The name in the second field may hold spaces and parentheses.
    user_ticks, system_ticks = stat.rpartition(")")[2].split()[11:13]
    cpu_seconds = (int(user_ticks) + int(system_ticks)) * _TICK_SECONDS
    return Usage(cpu_seconds, int(memory.split()[1]) * _PAGE_BYTES / 2**20)
