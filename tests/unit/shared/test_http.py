"""What the HTTP server does with a connection, apart from its bounds, which are fuzzed."""

import asyncio

from shared.http import OnePiece


class Connection(asyncio.Transport):
    """Keeps what is sent, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override] # of all that may be written, bytes
        assert not self.closed
        self.pieces.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def test_a_head_and_its_body_go_out_in_one_piece() -> None:
    connection = Connection()
    transport = OnePiece(connection)
    for answer in (b"head body", b"next one"):
        for part in answer.split():
            transport.write(part)
        await asyncio.sleep(0)
    assert connection.pieces == [b"headbody", b"nextone"]


async def test_what_was_written_goes_out_before_the_connection_is_closed() -> None:
    connection = Connection()
    transport = OnePiece(connection)
    transport.write(b"bye")
    transport.close()
    await asyncio.sleep(0)
    assert (connection.pieces, connection.closed) == ([b"bye"], True)


async def test_nothing_goes_out_on_a_connection_that_was_lost_in_between() -> None:
    connection = Connection()
    transport = OnePiece(connection)
    transport.write(b"late")
    connection.close()
    await asyncio.sleep(0)
    assert connection.pieces == []
