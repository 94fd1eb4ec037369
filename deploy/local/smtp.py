"""An SMTP sink: takes every mail, writes it down before it says so, and delivers to nobody.

As a program: `python -m deploy.local.smtp --port 2525 --log accepted.jsonl`. Recipients whose address starts with
`refuse` are refused for good (550 5.1.1), as an unknown mailbox is. It makes the faults that the file of `--faults`
asks for (see SmtpFaults), and from the moment that it does.
"""

import argparse
import asyncio
from email import message_from_bytes
from email.policy import default
from functools import partial
from pathlib import Path
from typing import Any, cast

from aiosmtpd.smtp import SMTP, Envelope, Session
from pydantic import Field

from deploy.local.faults import Faults, Script, Share
from deploy.local.journal import Journal, read_journal
from deploy.local.ports import LOOPBACK, free_port, listens
from deploy.local.process import Process, module_argv, project_env

_SIZE_MAX = 10_000_000
_LINES = 9_999

_NO_SUCH_MAILBOX = "550 5.1.1 No such mailbox"
_TAKEN = "250 2.0.0 Taken"
_REPLIES = {
    "defer": "451 4.3.0 Not now",
    "refuse": "554 5.7.1 Refused by policy",
    "many_lines": "250-2.0.0 Taken\r\n" * (_LINES - 1) + _TAKEN,
    "bad_code": "999 Taken",
}
_NOT_TAKEN = ("defer", "refuse", "cut_before")
_CUT = ("cut_before", "cut", "no_line_end")


class SmtpFaults(Faults):
    """What befalls a recipient (`mailbox_share`), and a mail (the other shares)."""

    mailbox_share: Share = 0.0
    """Refused for good: 550 5.1.1, no such mailbox."""
    defer_share: Share = 0.0
    """Not taken now: 451."""
    refuse_share: Share = 0.0
    """Not taken, by a policy of this server's own: 554 5.7.1. Another may take it."""
    cut_before_share: Share = 0.0
    """Not taken: the connection is closed after the mail's last octet."""
    cut_share: Share = 0.0
    """Taken, and then the connection is closed without an answer."""
    many_lines_share: Share = 0.0
    """Taken, and said so in 9,999 lines."""
    bad_code_share: Share = 0.0
    """Taken, and answered by a code that does not exist: 999."""
    no_line_end_share: Share = 0.0
    """Taken, and the connection is closed within the line that says so."""

    answer_delay_ms: int = Field(default=0, ge=0)
    """What the answer to each mail waits for; other connections go on meanwhile."""


class Sink:
    """The answers to RCPT and DATA; aiosmtpd finds them by name, and speaks the rest."""

    def __init__(self, journal: Journal, script: Script[SmtpFaults]) -> None:
        self._journal = journal
        self._script = script
        self._kinds = [kind for kind in script.faults.shares if kind != "mailbox"]

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address.startswith("refuse") or self._script.draw("mailbox"):
            return _NO_SUCH_MAILBOX
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Recipient ok"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:
        fault = self._script.draw(*self._kinds)
        if fault not in _NOT_TAKEN:
            self._take(envelope)
        await asyncio.sleep(self._script.faults.answer_delay_ms / 1000)
        connection = cast(asyncio.Transport, server.transport)
        if fault == "no_line_end":
            connection.write(_TAKEN.encode())
        if fault in _CUT:
            connection.close()  # what is answered after that goes nowhere
        return _REPLIES.get(fault or "", _TAKEN)

    def _take(self, envelope: Envelope) -> None:
        """Write the mail down, before anybody is told that it was taken."""
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


class RecordingSmtp:
    """The sink in a process of its own on a free port; what it accepted is read back from its journal."""

    host = LOOPBACK

    def __init__(self, directory: Path, name: str = "smtp") -> None:
        self.port = free_port()
        self.log = directory / f"{name}.jsonl"
        self._faults = directory / f"{name}-faults.json"
        self.process = Process(
            name,
            module_argv("deploy.local.smtp", "--port", self.port, "--log", self.log, "--faults", self._faults),
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

    def set_faults(self, faults: SmtpFaults) -> None:
        """Have these faults made from the next mail on, in place of those before; after a restart, too."""
        faults.write(self._faults)

    def clear_faults(self) -> None:
        """Have no more faults made."""
        self._faults.unlink(missing_ok=True)

    def accepted(self) -> list[dict[str, Any]]:
        """Every mail so far, oldest first; see `Sink._take` for the fields. `raw` holds octets that are not
        UTF-8 as surrogates: `.encode("utf-8", "surrogateescape")` gives them back."""
        return read_journal(self.log)


async def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.smtp", description=__doc__)
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True, help="file that mails are appended to, as JSON lines")
    parser.add_argument("--faults", type=Path, help="file that says, as JSON, which faults to make; it may change")
    asked = parser.parse_args()
    with Journal(asked.log) as journal:
        sink = Sink(journal, Script(SmtpFaults, asked.faults))
        server = await asyncio.get_running_loop().create_server(
            lambda: SMTP(sink, hostname="localhost", data_size_limit=_SIZE_MAX, enable_SMTPUTF8=True),
            asked.host,
            asked.port,
        )
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
