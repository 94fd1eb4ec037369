import os
import time

import pytest

from benchmarks.harness.usage import usage


def test_the_cpu_time_of_a_process_is_what_the_kernel_counts_for_all_its_threads() -> None:
    before = time.process_time()
    counted = usage(os.getpid()).cpu_seconds
    # Linux shows it to a hundredth of a second.
    assert before - 0.05 <= counted <= time.process_time() + 0.05


def test_a_process_holds_memory() -> None:
    assert 1 < usage(os.getpid()).rss_mb < 100_000


def test_a_process_that_is_gone_has_no_usage() -> None:
    with pytest.raises(ProcessLookupError):
        usage(2**22 + 1)  # Linux gives no number so high
