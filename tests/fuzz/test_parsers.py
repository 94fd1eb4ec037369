"""Our own parsers of what comes over the wire, fuzzed by coverage; their real bytes are read in any case."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.process import project_env
from tests.fuzz.budget import FUZZ_SECONDS
from tests.fuzz.harnesses import PARSERS

HAS_ATHERIS = sys.platform == "linux" and platform.machine() == "x86_64"
BYTES_MAX = 4096


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_reads_real_bytes_and_these_cut_anywhere(name: str) -> None:
    harness, corpus = PARSERS[name]
    for octets in corpus:
        for end in range(len(octets) + 1):
            harness(octets[:end])


@pytest.mark.skipif(not HAS_ATHERIS, reason="atheris has wheels only for Linux on x86-64: NOT FUZZED HERE")
@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_raises_nothing_but_what_it_promises(name: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, octets in enumerate(PARSERS[name][1]):
        (corpus / str(number)).write_bytes(octets)
    seconds = max(1, round(FUZZ_SECONDS / len(PARSERS)))
    bounds = (f"-max_total_time={seconds}", f"-max_len={BYTES_MAX}", "-rss_limit_mb=1024", "-timeout=20")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.under_atheris", name, *bounds, f"-artifact_prefix={tmp_path}/", str(corpus)],
        env=project_env(),
        capture_output=True,
        text=True,
        timeout=seconds + 120,
        cwd=Path(__file__).parents[2],
    )
    culprits = [f"{path.name}: {path.read_bytes().hex()}" for path in tmp_path.iterdir() if path.is_file()]
    assert culprits == [], done.stdout[-3000:] + done.stderr[-1000:]
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DONE" in done.stderr
