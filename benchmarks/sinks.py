"""An SMSC and a mail server that take everything and keep nothing: `python -m benchmarks.sinks --smpp-port 2775 …`.

For loads only: what they cost is small, and is theirs alone. Every SMS has its receipt, a second later. Nothing is
checked: the parts in deploy/local do that.
"""

import argparse
import asyncio
import struct
from collections.abc import Callable
from itertools import count
from typing import Final, cast

import uvloop

from deploy.local.pdu import HEADER, RESPONSE, Command
from deploy.local.ports import LOOPBACK

RECEIPT_SECONDS: Final = 1.0

_RECEIPT: Final = 0x04
_ANSWER_TO_MAIL: Final = {
    b"EHLO": b"250-sink\r\n250-PIPELINING\r\n250 SIZE 10000000\r\n",
    b"DATA": b"354 Go on\r\n",
    b"QUIT": b"221 Bye\r\n",
}
_OK: Final = b"250 Ok\r\n"
_END_OF_MAIL: Final = b"\r\n.\r\n"


class SmppSink(asyncio.Protocol):
    """Answers binds and submissions, and sends receipts."""

    _message_ids = count(1)

    def __init__(self) -> None:
        self._unread = b""
        self._sequences = count(1)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        start, answers = 0, []
        while len(self._unread) - start >= HEADER.size:
            length, command, _, sequence = HEADER.unpack_from(self._unread, start)
            if len(self._unread) - start < length:
                break
            if not command & RESPONSE:
                answers.append(self._answer(command, sequence, self._unread[start + HEADER.size : start + length]))
            start += length
        self._unread = self._unread[start:]
        if answers:
            self._transport.write(b"".join(answers))

    def _answer(self, command: int, sequence: int, body: bytes) -> bytes:
        said = b""
        if command == Command.SUBMIT_SM:
            message_id = b"%d" % next(self._message_ids)
            asyncio.get_running_loop().call_later(RECEIPT_SECONDS, self._deliver, message_id, body)
            said = message_id + b"\0"
        elif command in (Command.BIND_RECEIVER, Command.BIND_TRANSMITTER, Command.BIND_TRANSCEIVER):
            said = b"sink\0"
        return HEADER.pack(HEADER.size + len(said), command | RESPONSE, 0, sequence) + said

    def _deliver(self, message_id: bytes, submission: bytes) -> None:
        if self._transport.is_closing():
            return
        source_at = submission.index(b"\0") + 1
        destination_at = submission.index(b"\0", source_at + 2) + 1
        end = submission.index(b"\0", destination_at + 2) + 1
        source, destination = submission[source_at:destination_at], submission[destination_at:end]
        text = b"id:%s sub:001 dlvrd:001 stat:DELIVRD err:000" % message_id
        addressed = b"\0" + destination + source
        body = addressed + struct.pack(">B8xB", _RECEIPT, len(text)) + text
        self._transport.write(HEADER.pack(HEADER.size + len(body), Command.DELIVER_SM, 0, next(self._sequences)) + body)


class SmtpSink(asyncio.Protocol):
    """Says yes to everything."""

    def __init__(self) -> None:
        self._unread = b""
        self._in_mail = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while True:
            said, end, rest = self._unread.partition(_END_OF_MAIL if self._in_mail else b"\r\n")
            if not end:
                return
            self._unread = rest
            verb = b"" if self._in_mail else said[:4].upper()
            self._in_mail = verb == b"DATA"
            self._transport.write(_ANSWER_TO_MAIL.get(verb, _OK))


async def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sinks", description=__doc__)
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--smpp-port", type=int, required=True)
    parser.add_argument("--smtp-port", type=int, required=True)
    asked = parser.parse_args()
    sinks: dict[int, Callable[[], asyncio.Protocol]] = {asked.smpp_port: SmppSink, asked.smtp_port: SmtpSink}
    servers = [await asyncio.get_running_loop().create_server(sink, asked.host, port) for port, sink in sinks.items()]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(_main())
