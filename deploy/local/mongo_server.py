"""The MongoDB stand-in's own process: mongo-java-server, run inside this interpreter by way of JPype.

Its own main program can neither choose its port nor speak a protocol version that current PyMongo takes; both are
a matter of a few calls, and JPype makes them without a Java compiler.
"""

import argparse
import os
import signal
import threading
from pathlib import Path
from typing import Any

import jpype

from deploy.local.jars import LIBJVM, SMALL_JVM
from deploy.local.ports import LOOPBACK

_WIRE_VERSION = 13  # MongoDB 5.0; PyMongo 4.20 takes 9 and above
_VERSION = [5, 0, 0]


def main() -> None:
    """Serve until SIGTERM or SIGINT, then close the file properly."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.mongo_server", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--class-path", required=True)
    asked = parser.parse_args()

    # -Xrs leaves the signals to us: the virtual machine would otherwise end at once, with the file still
    # open.
    jpype.startJVM(str(LIBJVM), "-Xmx256m", "-Xrs", *SMALL_JVM, classpath=asked.class_path.split(os.pathsep))
    server = _serve(asked.file, asked.port)

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    server.shutdown()


def _serve(file: Path, port: int) -> Any:
    backend = jpype.JClass("de.bwaldvogel.mongo.backend.h2.H2Backend")(str(file))
    version = jpype.JProxy("de.bwaldvogel.mongo.MongoVersion", inst=_Version())
    server = jpype.JClass("de.bwaldvogel.mongo.MongoServer")(backend.version(version))
    server.bind(LOOPBACK, port)
    return server


class _Version:
    """de.bwaldvogel.mongo.MongoVersion, whose own constants end at wire version 8."""

    def getWireVersion(self) -> int:
        return _WIRE_VERSION

    def getVersionArray(self) -> Any:
        integer = jpype.JClass("java.lang.Integer")
        return jpype.JClass("java.util.ArrayList")([integer(part) for part in _VERSION])


if __name__ == "__main__":
    main()
