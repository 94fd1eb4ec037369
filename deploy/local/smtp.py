"""An SMTP sink: takes every mail, writes it down before it says so, and delivers to nobody.

As a program: `python -m deploy.local.smtp --port 2525 --log accepted.jsonl`. Recipients whose address starts with
`refuse` are refused for good (550 5.1.1), as an unknown mailbox is.
"""

import argparse
import asyncio
from email import message_from_bytes
from email.policy import default
from functools import partial
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from deploy.local.journal import Journal, read_journal
from deploy.local.ports import LOOPBACK, free_port, listens
from deploy.local.process import Process, module_argv, project_env

_SIZE_MAX = 10_000_000


class Sink:
    """The answers to RCPT and DATA; aiosmtpd finds them by name, and speaks the rest."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address.startswith("refuse"):
            return "550 5.1.1 No such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Recipient ok"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        raw = envelope.original_content or b""
        mail = message_from_bytes(raw, policy=default)
        self._journal.append(
            {
                "mail_from": envelope.mail_from,
                "rcpt": envelope.rcpt_tos,
                "message_id": mail.get("Message-ID"),
                "subject": mail.get("Subject"),
                "size": len(raw),
                "raw": raw.decode("utf-8", "surrogateescape"),
            }
        )
        return "250 2.0.0 Taken"


class RecordingSmtp:
    """The sink in a process of its own on a free port; what it accepted is read back from its journal."""

    host = LOOPBACK

    def __init__(self, directory: Path, name: str = "smtp") -> None:
        self.port = free_port()
        self.log = directory / f"{name}.jsonl"
        self.process = Process(
            name,
            module_argv("deploy.local.smtp", "--port", self.port, "--log", self.log),
            env=project_env(),
            log_path=directory / f"{name}.log",
        )

    async def start(self) -> None:
        """Return when it takes connections. Raises PartFailed."""
        self.process.start()
        await self.process.answers(partial(listens, self.port), within_seconds=15.0)

    async def stop(self) -> None:
        await self.process.stop()

    async def kill(self) -> None:
        await self.process.kill()

    def accepted(self) -> list[dict[str, Any]]:
        """Every mail so far, oldest first; see `Sink.handle_DATA` for the fields. `raw` holds octets that are not
        UTF-8 as surrogates: `.encode("utf-8", "surrogateescape")` gives them back."""
        return read_journal(self.log)


async def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.smtp", description=__doc__)
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True, help="file that mails are appended to, as JSON lines")
    asked = parser.parse_args()
    sink = Sink(Journal(asked.log))
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(sink, hostname="localhost", data_size_limit=_SIZE_MAX, enable_SMTPUTF8=True),
        asked.host,
        asked.port,
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
