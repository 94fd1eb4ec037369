"""A child of ours is started before it is awaited, ended with all its own children, and never outlives us."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING

import pytest

from deploy.local.process import PartFailed, Process, project_env

if TYPE_CHECKING:
    from tests.mesh.parts.conftest import Eventually

SLEEPER = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
)
POLITE = (
    sys.executable,
    "-c",
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0));"
    "print('up', flush=True); time.sleep(60)",
)
PARENT = """
import signal, sys, time
from pathlib import Path
from deploy.local.process import Process, project_env
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background has it ignored
child = Process("child", sys.argv[2:], env=project_env(), log_path=Path(sys.argv[1]))
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""


def state_of(pid: int | None) -> str:
    """What `ps` says of a process, as T for one that is stopped; empty if it is gone."""
    return subprocess.run(["/bin/ps", "-o", "stat=", "-p", str(pid)], stdout=PIPE, text=True).stdout


def is_running(pid: int) -> bool:
    """Not counting a zombie: whoever inherits an orphan may be slow to bury it."""
    state = state_of(pid)
    return bool(state) and not state.startswith("Z")


def process(tmp_path: Path, *argv: str) -> Process:
    return Process("part", argv, env=project_env(), log_path=tmp_path / "part.log")


def says_up(log_path: Path) -> bool:
    return log_path.exists() and "up" in log_path.read_text()


@pytest.mark.parametrize(
    ("child", "number"),
    [
        pytest.param(STUBBORN, signal.SIGKILL, id="even one that ignores SIGTERM, after kill -9"),
        pytest.param(SLEEPER, signal.SIGTERM, id="after SIGTERM"),
        pytest.param(SLEEPER, signal.SIGINT, id="after Ctrl-C"),
    ],
)
async def test_a_child_is_gone_soon_after_its_parent_however_that_ended(
    child: tuple[str, ...], number: signal.Signals, tmp_path: Path, eventually: "Eventually"
) -> None:
    log_path = tmp_path / "child.log"
    argv = [sys.executable, "-c", PARENT, str(log_path), *child]
    parent = await asyncio.create_subprocess_exec(*argv, env=project_env(), stdout=PIPE, stderr=DEVNULL)
    try:
        assert parent.stdout
        pid = int(await parent.stdout.readline())
        await eventually(lambda: says_up(log_path), within_seconds=10)
        assert is_running(pid)
    finally:
        parent.send_signal(number)
        await parent.wait()
    await eventually(lambda: not is_running(pid), within_seconds=10)


async def test_stop_asks_politely_first(tmp_path: Path, eventually: "Eventually") -> None:
    part = process(tmp_path, *SLEEPER)
    part.start()
    await eventually(lambda: says_up(part.log_path), within_seconds=10)
    await part.stop(grace_seconds=10)
    assert part.status == -signal.SIGTERM


async def test_stop_insists_after_the_grace(tmp_path: Path, eventually: "Eventually") -> None:
    part = process(tmp_path, *STUBBORN)
    part.start()
    await eventually(lambda: says_up(part.log_path), within_seconds=10)
    await part.stop(grace_seconds=0.2)
    assert part.status == -signal.SIGKILL


async def test_stop_ends_the_children_of_a_program_that_is_already_gone(
    tmp_path: Path, eventually: "Eventually"
) -> None:
    part = process(tmp_path, "/bin/sh", "-c", "sleep 60 & echo $!")
    part.start()
    await eventually(lambda: not part.alive, within_seconds=10)
    orphan = int(part.log_path.read_text())
    assert is_running(orphan)
    await part.stop()
    await eventually(lambda: not is_running(orphan), within_seconds=10)


async def test_a_stopped_program_may_be_started_again_and_a_running_one_may_not(tmp_path: Path) -> None:
    part = process(tmp_path, *SLEEPER)
    part.start()
    first = part.pid
    with pytest.raises(RuntimeError, match="not stopped"):
        part.start()
    await part.stop()
    part.start()
    assert part.alive
    assert part.pid != first
    await part.kill()


async def test_a_suspended_program_does_nothing_until_it_is_resumed(tmp_path: Path, eventually: "Eventually") -> None:
    part = process(tmp_path, *SLEEPER)
    part.start()
    part.suspend()
    await eventually(lambda: state_of(part.pid).startswith("T"), within_seconds=10)
    assert part.alive
    part.resume()
    await eventually(lambda: not state_of(part.pid).startswith("T"), within_seconds=10)
    await part.kill()
    part.suspend()  # of what has ended: nobody is left to be suspended
    assert not part.alive


async def test_stop_asks_a_suspended_program_politely_too(tmp_path: Path, eventually: "Eventually") -> None:
    part = process(tmp_path, *POLITE)
    part.start()
    await eventually(lambda: says_up(part.log_path), within_seconds=10)
    part.suspend()
    await part.stop(grace_seconds=10)
    assert part.status == 0


async def test_a_failed_start_names_the_part_and_shows_the_end_of_its_log(tmp_path: Path) -> None:
    part = process(tmp_path, sys.executable, "-c", "raise SystemExit('no room at the inn')")
    part.start()

    async def never() -> bool:
        return False

    with pytest.raises(PartFailed, match=r"(?s)^part ended .*status 1.*part\.log.*no room at the inn"):
        await part.answers(never, within_seconds=10)
    await part.stop()


async def test_a_part_that_never_answers_is_given_up_in_time(tmp_path: Path) -> None:
    part = process(tmp_path, *SLEEPER)
    part.start()

    async def never() -> bool:
        return False

    with pytest.raises(PartFailed, match=r"did not answer within 0\.2 s"):
        await part.answers(never, within_seconds=0.2)
    await part.stop()


async def test_a_program_that_does_not_exist_fails_like_any_other(tmp_path: Path) -> None:
    part = process(tmp_path, "/no/such/program")
    part.start()
    with pytest.raises(PartFailed, match="/no/such/program"):
        await part.completes(within_seconds=10)


async def test_a_child_has_no_part_of_its_parents_session(tmp_path: Path) -> None:
    part = process(tmp_path, *SLEEPER)
    part.start()
    assert part.pid
    assert os.getsid(part.pid) == part.pid
    await part.stop()
