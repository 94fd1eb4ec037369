import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from benchmarks.harness.quota import CpuQuota
from benchmarks.harness.rounds import Wrong

# Works for a tenth of a second of CPU time once it is told to, and says how long that took it.
WORK: Final = """
import sys, time
sys.stdin.readline()
began, end = time.monotonic(), time.process_time() + 0.1
while time.process_time() < end:
    pass
print(time.monotonic() - began)
"""


def test_a_process_gets_no_more_than_its_quota() -> None:
    with subprocess.Popen([sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            with CpuQuota(f"guichet-test-{os.getpid()}", 0.05) as quota:
                quota.hold(process.pid)
                told, _ = process.communicate(b"\n")
        except Wrong as error:
            process.kill()
            pytest.skip(str(error))
    # A twentieth of a core needs two seconds for it, less what was left of the first period.
    assert float(told) > 1.5


def test_a_process_that_outlives_its_quota_is_free_again() -> None:
    with subprocess.Popen([sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            groups = Path(f"/proc/{process.pid}/cgroup")
            before = groups.read_text()
            with CpuQuota(f"guichet-test-{os.getpid()}", 0.1) as quota:
                quota.hold(process.pid)
                assert groups.read_text() != before
            assert "guichet-test" not in groups.read_text()
        except Wrong as error:
            pytest.skip(str(error))
        finally:
            process.kill()


def test_a_machine_that_sets_no_quotas_is_told_what_it_lacks(tmp_path: Path) -> None:
    with (
        pytest.raises(Wrong, match=r"no CPU quota can be set on this machine: .*cpu\.max"),
        CpuQuota("any", 0.1, tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_control_groups_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(Wrong, match="no CPU quota can be set"), CpuQuota("any", 0.1, tmp_path / "nowhere"):
        pass
