"""How each peer is started: its command, in a locked environment that is made when it is first needed, then kept."""

import asyncio
import hashlib
import os
import re
import shutil
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from deploy.local.jars import JAVA, class_path, jars
from deploy.local.places import cache_folder
from deploy.local.process import Process

_HERE = Path(__file__).parent
_STREAMS = "org.apache.kafka:kafka-streams:4.4.0"
_COMPILER = "org.eclipse.jdt:ecj:3.44.0"  # the runtime that pip brings has no compiler of its own
_INSTALL_SECONDS = 300.0

_LIBRARIES = {
    "aiokafka": "aiokafka",
    "confluent": "confluent-kafka",
    "faststream": "faststream",
    "quix": "quixstreams",
    "faust": "faust-streaming",
}


async def python_peer(name: str) -> list[str]:
    """The command that runs a peer in Python, but for its task. Raises PartFailed if its packages can't be had."""
    locked = _HERE / name / "requirements.txt"
    home = cache_folder() / "peers" / f"{name}-{_digest(locked)}"
    interpreter = home / "bin" / "python"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        await asyncio.to_thread(venv.create, home, with_pip=True)
        await _completes(
            f"install-{name}",
            [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes",
             "-r", locked],
        )  # fmt: skip
        (home / "complete").touch()
    return [str(interpreter), "-m", f"benchmarks.peers.{name}"]


async def streams_peer(state: Path) -> list[str]:
    """The command that runs Kafka Streams, its state under `state`; compiled when first needed."""
    source = _HERE / "kafka_streams" / "Assign.java"
    libraries = class_path(await jars(_STREAMS))
    classes = cache_folder() / "peers" / f"kafka_streams-{_digest(source)}"
    if not (classes / "Assign.class").exists():
        compiler = class_path(await jars(_COMPILER))
        main = "org.eclipse.jdt.internal.compiler.batch.Main"
        await _completes(
            "compile-kafka-streams",
            [JAVA, "-cp", compiler, main, "-21", "-proc:none", "-nowarn", "-cp", libraries, "-d", classes, source],
        )
    classes_and_libraries = os.pathsep.join([str(classes), libraries])
    return [str(JAVA), "-Xmx512m", "-cp", classes_and_libraries, "Assign", "--state", str(state)]


def versions() -> dict[str, str]:
    """The version of each peer's library, as locked."""
    found = {}
    for peer, library in _LIBRARIES.items():
        locked = re.search(rf"^{library}==(\S+)", (_HERE / peer / "requirements.txt").read_text(), re.MULTILINE)
        found[f"{library} ({peer})"] = locked[1] if locked else "not locked"
    return {**found, "kafka-streams": _STREAMS.rpartition(":")[2]}


def _digest(file: Path) -> str:
    """What an environment depends on: the file, and the interpreter that made it."""
    return hashlib.sha256(file.read_bytes() + sys.version.encode()).hexdigest()[:12]


async def _completes(name: str, argv: Sequence[str | Path]) -> None:
    process = Process(name, argv, env=os.environ, log_path=cache_folder() / "peers" / f"{name}.log")
    process.start()
    await process.completes(within_seconds=_INSTALL_SECONDS)
