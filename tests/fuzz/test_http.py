"""What the HTTP door does with whatever is sent to it: a reason code, never a 500, never a hang."""

import contextlib
import gzip
import itertools
import json
import resource
import select
import socket
import sys
import time
from collections.abc import Iterable
from typing import Any

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from shared.contract.agency import MAX_BATCH_BYTES
from shared.contract.reasons import Reason
from tests.fuzz.budget import fuzz, round_of
from tests.fuzz.doors import KEY, NOTHING, Answer, Hasty, HttpDoorAddress, post, read_answer, submission

KINDS = (b"application/cloudevents+json", b"application/cloudevents-batch+json", b"application/json")
DOCUMENTED = {202, 207, 400, 401, 404, 405, 408, 409, 413, 415, 422, 431}
SLACK_SECONDS = 10.0
GROWTH_BYTES_MAX = 64 * 1024 * 1024

numbers = itertools.count()


def assert_said(answer: Answer) -> None:
    """The door said something that it may say, refusals with a reason code."""
    assert answer.status in DOCUMENTED, answer
    if answer.status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert Reason(answer.json["reason"])
        assert answer.json["status"] == answer.status


def assert_works(door: HttpDoorAddress) -> None:
    """A good event gets in."""
    body = json.dumps(submission(f"good-{next(numbers)}")).encode()
    answer = door.call(post(body))
    assert answer.status == 202, answer


NASTY: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, "", True, "true", 1, "1", 0, -1, 1.5, 2**53 + 1, 10**400, -0.0, 1e308, [], {}, [None], {"": None}),
        *("\0", "\x1b[2J", "a\r\nb", "\u2028", "\u0085", "\ufeff", "\ud800", "\udfff\ud800", "\u202ea", "a\u0301" * 9),
        *("{{7*7}}", "{0.__class__}", "%0a", "' OR 1=1 --", "$(id)", "<script>", "${jndi:ldap://x}", "../../etc"),
        *("0000-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "2026-02-30T00:00:00Z", "2026-03-01T23:59:60Z"),
        *("guichet.request.submitted.v0", "guichet.request.submitted.v2", "guichet.request.status_changed.v1"),
        *("１２３４５６", "٧٧٠٠٠٠٠١", "+1 900 555 0100", "17", "+" + "9" * 16, "77 00 00 01 ext 5"),
        *("a@b", '"a b"@example.org', "é@example.org", "a@xn--e1afmkfd.org", "a" * 249 + "@b.org", "@x:a@example.org"),
        *({"$where": "1"}, {"$gt": ""}, {"a.b": 1}, {"__proto__": {}}, {"\ud800": 1}, "x" * 129, "x" * 70_000),
    ]
)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | NASTY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def events(draw: st.DrawFn) -> Any:
    """An event of which some fields are other than they should be, or not there, or too many."""
    event = submission(f"fuzzed-{draw(st.integers(0, 5))}")
    for _ in range(draw(st.integers(0, 3))):
        part = event
        while True:
            key = draw(st.sampled_from([*sorted(part), "extra"]))
            if not isinstance(part.get(key), dict) or draw(st.booleans()):
                break
            part = part[key]
        if draw(st.booleans()):
            part[key] = draw(TREES)
        else:
            part.pop(key, None)
        if not part:
            break
    return event


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """JSON of such events, or of anything, and bytes that once were JSON (classes 1 to 18 of bad input)."""
    value = draw(events() | st.lists(events(), max_size=3) | TREES)
    body = json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    match draw(st.sampled_from(["whole", "cut", "spliced", "bytes", "wrapped", "encoded"])):
        case "cut":
            return body[: draw(st.integers(0, len(body)))]
        case "spliced":
            at = draw(st.integers(0, len(body)))
            return body[:at] + draw(st.binary(max_size=8) | st.sampled_from(SPLICES)) + body[at:]
        case "bytes":
            return draw(st.binary(max_size=200) | st.sampled_from(SPLICES))
        case "wrapped":
            return b'{"data":' * (depth := draw(st.sampled_from([1, 100, 5000]))) + body + b"}" * depth
        case "encoded":
            return body.decode("utf-8", "surrogatepass").encode(
                draw(st.sampled_from(["utf-16", "utf-8-sig", "utf-32-le"])), "surrogatepass"
            )
    return body


SPLICES = (
    *(b"\xc0\xaf", b"\xed\xa0\x80", b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\\u0000", b"\\ud800", b"NaN", b"-Infinity"),
    *(b"1e999", b"9" * 10_000, b"[" * 30_000, b'{"id":1,"id":2}', b"{}{}", b"<?xml version='1.0'?><event/>", b"//"),
    b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>',
)
attribute_names = st.sampled_from(["specversion", "id", "source", "type", "time", "subject", "data", "x"])
binary_headers = st.lists(
    st.tuples(
        attribute_names.map(lambda name: b"ce-" + name.encode()),
        st.sampled_from([b"1.0", b"%", b"%ff", b"%00", b"%0d%0aX: y", b"2026-03-01T08:00:00Z", b"\xff", b""])
        | st.binary(max_size=20).map(lambda value: value.translate(None, b"\0\r\n")),
    ),
    max_size=6,
)


def test_any_body_gets_a_verdict_or_a_reason(door: HttpDoorAddress) -> None:
    @round_of
    @given(st.lists(st.tuples(bodies(), st.sampled_from(KINDS), binary_headers), min_size=1, max_size=8))
    def claim(calls: list[tuple[bytes, bytes, list[tuple[bytes, bytes]]]]) -> None:
        for answer in door.call_all([post(body, *headers, kind=kind) for body, kind, headers in calls]):
            assert_said(answer)
        assert_works(door)

    fuzz(claim, share=0.4)


PLAIN = json.dumps(submission("raw")).encode()
HEAD = post(b"")[: -len(b"content-length: 0\r\n\r\n")]
FRAMINGS = (
    b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nx",
    b"transfer-encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-trailer: 1\r\nauthorization: 2\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n",
    b"content-length: -1\r\n\r\n",
    b"content-length: 1e3\r\n\r\n",
    b"content-length: 99999999999999999999999999\r\n\r\n",
    b"content-length: 10\r\n\r\nshort",
    b"content-length: 2\r\nexpect: 100-continue\r\n\r\n{}",
    b"content-length: 2\r\nexpect: nonsense\r\n\r\n{}",
    b"content-length: 2\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n{}",
    b"content-length: 2\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n{}",
    b"x: " + b"y" * 40_000 + b"\r\ncontent-length: 2\r\n\r\n{}",
    b"".join(b"x%d: y\r\n" % n for n in range(3000)) + b"content-length: 2\r\n\r\n{}",
    b"\0: x\r\n\r\n",
    b"a b: x\r\n\r\n",
    b" folded: x\r\n\r\n",
    b"host: a\r\nhost: b\r\ncontent-length: 0\r\n\r\n",
)
LINES = (
    *(
        b"GET /v1/requests?agency_reference=%ff%00&agency_reference=1 HTTP/1.1",
        b"GET /v1/requests/%00 HTTP/1.1",
        b"GET /v1/requests/%ff%fe HTTP/1.1",
        b"GET /v1/requests/../.. HTTP/1.1",
    ),
    *(b"OPTIONS * HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"GET http://other/v1/events HTTP/1.1", b"GET // HTTP/1.1"),
    *(b"GET /v1/events", b"GET /v1/events HTTP/0.9", b"POST /v1/events HTTP/1.0", b"POST /v1/events HTTP/9.9"),
    *(b"PRI * HTTP/2.0", b"BREW / HTTP/1.1", b"\x16\x03\x01\x02\x00\x01", b"get / http/1.1", b"GET /\xe9 HTTP/1.1"),
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1",
)


@st.composite
def raw_calls(draw: st.DrawFn) -> bytes:
    """Bytes that are nearly an HTTP call (class 36), sometimes followed by a second one."""
    head = draw(st.sampled_from(LINES)) + b"\r\n" if draw(st.booleans()) else HEAD
    call = head + draw(st.sampled_from(FRAMINGS)) if draw(st.booleans()) else post(PLAIN)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(call)))
        until = draw(st.integers(at, min(len(call), at + 10)))
        call = call[:at] + draw(st.binary(max_size=6) | st.sampled_from([b"\r\n", b"\n", b"\r\n\r\n"])) + call[until:]
    return call + (post(PLAIN) if draw(st.booleans()) else b"")


def test_any_bytes_get_an_answer_or_are_hung_up_on_in_time(door: HttpDoorAddress) -> None:
    @round_of
    @given(st.lists(raw_calls(), min_size=1, max_size=16))
    def claim(calls: list[bytes]) -> None:
        for answer in door.call_all(calls):
            if answer is not NOTHING:
                assert answer.status in {200, *DOCUMENTED}, answer
                if answer.status >= 400 and answer.body:
                    assert_said(answer)
        assert_works(door)

    fuzz(claim, share=0.4)


def bomb(codec: str) -> bytes:
    """Bytes that would be ten times the largest body if anybody unpacked them."""
    content = b" " * (10 * MAX_BATCH_BYTES)
    packed = gzip.compress(content) if codec == "gzip" else bytes(cramjam.zstd.compress(content))
    assert len(packed) < 200_000
    return packed


def test_compressed_bodies_are_refused_before_anything_is_unpacked(door: HttpDoorAddress) -> None:
    packed = {
        "gzip": bomb("gzip"),
        "zstd": bomb("zstd"),
        "plain": PLAIN,
        "broken": gzip.compress(PLAIN)[:-4] + b"\0" * 4,
    }
    before = peak_bytes()
    for named, sent in itertools.product(["gzip", "zstd", "br", "deflate", "x", "gzip, gzip", "GZIP"], packed):
        for kind in KINDS:
            answer = door.call(post(packed[sent], (b"content-encoding", named.encode()), kind=kind))
            assert (answer.status, answer.json["reason"]) == (415, "unsupported_media_type")
    # Packed, and nothing says so.
    for kind in KINDS:
        for sent in ("gzip", "zstd", "broken"):
            answer = door.call(post(packed[sent], kind=kind))
            assert (answer.status, answer.json["reason"]) in {(400, "not_utf8"), (413, "too_large")}
    assert peak_bytes() - before < GROWTH_BYTES_MAX
    assert_works(door)


@pytest.mark.parametrize(("key", "status"), [(KEY, 413), ("nobody", 401)])
def test_an_endless_body_is_refused_and_leaves_memory_flat(door: HttpDoorAddress, key: str, status: int) -> None:
    head = HEAD.replace(KEY.encode(), key.encode()).replace(b"events+json", b"events-batch+json")
    piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    before = peak_bytes()
    for _ in range(3):
        with door.connect() as connection:
            connection.sendall(head + b"transfer-encoding: chunked\r\n\r\n")
            sent = send_until_hung_up(connection, itertools.repeat(piece, 100))
            assert sent > MAX_BATCH_BYTES
            assert read_answer(connection).status in (status, None)  # a reset may overtake the answer
    assert peak_bytes() - before < GROWTH_BYTES_MAX
    assert_works(door)


@pytest.mark.parametrize("endless", ["line", "header", "headers", "trailer", "trailers", "chunk extension"])
def test_whatever_is_endless_beside_the_body_is_hung_up_on_and_leaves_memory_flat(
    door: HttpDoorAddress, endless: str
) -> None:
    chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    begin, more = {
        "line": (b"GET /", b"a" * 1000),
        "header": (HEAD + b"x: ", b"a" * 1000),
        "headers": (HEAD, b"x: y\r\n" * 100),
        "trailer": (chunked + b"0\r\nx: ", b"a" * 1000),
        "trailers": (chunked + b"0\r\n", b"x: y\r\n" * 100),
        "chunk extension": (chunked + b"1;x=", b"a" * 1000),
    }[endless]
    before = peak_bytes()
    with door.connect() as connection:
        connection.sendall(begin)
        sent = send_until_hung_up(connection, itertools.repeat(more, 100_000))
        assert sent < 16 * 1024 * 1024  # what the sockets between us hold, and not all of it
        answer = read_answer(connection)
        assert answer is NOTHING or (answer.status, answer.json["reason"]) in {(431, "too_large"), (400, "not_http")}
    assert peak_bytes() - before < GROWTH_BYTES_MAX
    assert_works(door)


def send_until_hung_up(connection: socket.socket, pieces: Iterable[bytes]) -> int:
    """How many bytes were sent before the door hung up, or all were."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            connection.sendall(piece)
            sent += len(piece)
    return sent


def test_a_call_that_drips_is_told_so_and_hung_up_on(door: HttpDoorAddress) -> None:
    in_head, in_body = post(PLAIN)[:60], post(PLAIN)[:-20]
    for call, drop, status in ((in_head, b"x", 408), (in_body, b"x", 408), (b"\r\n", b"\r\n", 408), (b"", b"", None)):
        with door.connect() as connection:
            connection.sendall(call)
            began = time.monotonic()
            drip_until_readable(connection, drop)
            answer = read_answer(connection)
            assert time.monotonic() - began < Hasty.patience_seconds + SLACK_SECONDS
            assert answer.status == status
            assert answer is NOTHING or answer.json["reason"] == "too_slow"


def drip_until_readable(connection: socket.socket, drop: bytes) -> None:
    """Send a byte now and then, as slow-loris does, until there is something to read."""
    while not select.select([connection], [], [], 0.05)[0]:
        with contextlib.suppress(ConnectionError):
            connection.sendall(drop)


def test_a_call_answered_early_may_not_go_on_for_ever(door: HttpDoorAddress) -> None:
    with door.connect() as connection:
        connection.sendall(post(b"x" * 2 * HIGH_WATER_LIMIT).replace(KEY.encode(), b"nobody")[:-500])
        assert read_answer(connection).status == 401
        drip_until_readable(connection, b"x")
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""


def test_a_client_that_reads_no_answers_is_hung_up_on(door: HttpDoorAddress) -> None:
    call = b"GET /openapi.json HTTP/1.1\r\n\r\n"
    with door.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(call * Hasty.pipelined_max)
        began = time.monotonic()
        while still_takes(connection, b"\r\n"):
            assert time.monotonic() - began < Hasty.patience_seconds + SLACK_SECONDS
            time.sleep(0.02)
    assert_works(door)


def test_a_client_that_waits_for_no_answer_is_hung_up_on(door: HttpDoorAddress) -> None:
    with door.connect() as connection:
        calls = itertools.repeat(b"GET /openapi.json HTTP/1.1\r\n\r\n" * 1000, 1000)
        assert send_until_hung_up(connection, calls) < 20_000_000
    assert_works(door)


def still_takes(connection: socket.socket, drop: bytes) -> bool:
    """Whether the door has not hung up yet, which a reader of nothing sees by what it sends."""
    try:
        connection.sendall(drop)
    except ConnectionError:
        return False
    return True


def test_slow_connections_keep_nobody_out(door: HttpDoorAddress) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(Hasty.connections_max * 5):
            slow = stack.enter_context(door.connect())
            slow.sendall(post(PLAIN)[: number % 100])
            if number % 10 == 0:
                assert_works(door)


def test_an_answer_that_is_due_is_not_lost_for_the_nonsense_behind_its_call(door: HttpDoorAddress) -> None:
    for nonsense in (b"\0\0\0\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"x" * 70_000):
        assert door.call(post(json.dumps(submission("first")).encode()) + nonsense).status == 202


def peak_bytes() -> int:
    """The most memory that this process, the door with it, has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
