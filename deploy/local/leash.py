"""The janitor: ends every process group it was told of, once whoever told it is gone.

Its standard input is a pipe that only the parent holds open, so the kernel closes it when the parent ends, however
it ends, kill -9 included. Lines are `+PGID` (watch it) and `-PGID` (it is gone). It works on Linux and macOS alike;
run as a script, standard library only, so that it is up at once.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable

_GRACE_SECONDS = 4.0
_POLL_SECONDS = 0.05


def alive(groups: Iterable[int]) -> set[int]:
    """Those of the process groups that still have a member."""
    return {group for group in groups if signalled(group, 0)}


def signalled(group: int, number: int) -> bool:
    """Send a signal to a process group; False when nobody is left to take it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS says "not permitted" when only zombies are left
        return False
    return True


def main() -> None:
    # A Ctrl-C or a polite stop is for the parent to answer; the janitor only ever ends after the parent.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        signalled(group, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    while alive(groups) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    for group in alive(groups):
        signalled(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
