"""jSMPP's simulator: an SMSC written by others, to hold our SMPP client against."""

import os
from pathlib import Path

from deploy.local.jars import JAVA, SMALL_JVM, class_path, jars
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.process import Process

_SIMULATOR = "org.jsmpp:jsmpp-examples:3.0.1"


class JsmppSimulator:
    """The simulator on a free port.

    It greets whoever binds as a receiver with a message of its own, adds parameters to its answers, throttles when
    pushed, and sends receipts some seconds later.
    """

    host = LOOPBACK
    system_id = "j"
    password = "jpwd"  # noqa: S105 - the simulator's own, built in

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.process = Process("jsmpp", [], env=os.environ, log_path=directory / "jsmpp.log")

    async def start(self) -> None:
        """Return when it takes connections. Raises PartFailed."""
        classes = class_path(await jars(_SIMULATOR))
        main_class = "org.jsmpp.examples.SMPPServerSimulator"
        port = f"-Djsmpp.simulator.port={self.port}"
        self.process.argv = [str(JAVA), "-Xmx128m", *SMALL_JVM, port, "-cp", classes, main_class]
        self.process.start()
        await self.process.answers(self._says_it_listens, within_seconds=30.0)

    async def stop(self) -> None:
        await self.process.stop()

    async def _says_it_listens(self) -> bool:
        # Not asked by a connection: one that does not bind keeps all others waiting for half a minute.
        return f"Listening on port {self.port}\n" in self.process.log_path.read_text()
