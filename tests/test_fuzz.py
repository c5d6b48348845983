"""Bytes that nobody meant: the target of tests/fuzz_wire.py under hypothesis, and the same on real sockets."""

import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from gevent import socket
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fileserver.transport import Waiting
from fileserver.wire import MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES, OneLine
from lrucache import CHUNK_BYTES
from tests.fuzz_wire import SEEDS, check, is_request, observe, split
from tests.house import House, connect, pattern, receive_all, wait_for
from tests.program import PROJECT

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"
ENDS = (b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\r\n ", b"\r\n\t", b"\0\r\n", b"\r\n\r\n", b"\x0b", b"\x85")
FIELDS = (
    *(
        b"Host: b",
        b"Host: [::1]:80",
        b"Host: a b",
        b"host:",
        b"X: Host: a",
        b"Content-Length: 5",
        b"content-length:0",
    ),
    *(b"Content-Length: 5, 5", b"Content-Length: +5", b"Content-Length: 00005 ", b"Content-Length: " + b"9" * 20),
    *(
        b"Transfer-Encoding: chunked",
        b"transfer-encoding:\tgzip, Chunked ",
        b"Transfer-Encoding: chunked, identity",
    ),
    *(b"Transfer-Encoding: identity", b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding : chunked", b": x"),
    *(b"Connection: close", b"Connection: keep-alive, x", b"Connection: upgrade", b"Upgrade: h2c", b"X", b"X:"),
    *(b"Expect: 100-continue", b"Expect: x", b"Range: bytes=0-1", b"If-None-Match: *", b" folded: y", b"X\0: y"),
    b"X: \xff",
)
TOKENS = (
    *(b"GET ", b"POST ", b"FOO ", b"CONNECT ", b"LIST", b"/", b"*", b"http://a/", b" HTTP/1.1", b" HTTP/1.0"),
    *(
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"=",
        b'"',
        b"#",
        b"%",
        b"\0",
        b"\x7f",
        b"\xff",
        b"0",
        b"5",
        b"f",
        b"0\r\n\r\n",
    ),
    b" HTTP/2.0",
)
SIZE_LINES = (b"%X", b"0%x", b"%x;a=b", b'%x;a="b\\"', b"%x;", b"%x ", b"0x%x", b"+%x", b"%x\t;a", b"%x;\xff")
LENGTHS = (
    0,
    1,
    5,
    255,
    MAX_TARGET_BYTES - 9,
    MAX_TARGET_BYTES,
    MAX_HEAD_BYTES - 60,
    MAX_HEAD_BYTES,
    MAX_BODY_BYTES,
)


def some_end(draw: Random) -> bytes:
    """An end of a line, mostly the right one."""
    return draw.choice(ENDS) if draw.random() < 0.01 else b"\r\n"


def some_chunks(draw: Random) -> bytes:
    """A body in chunks, mostly a good one."""
    body = b""
    for _ in range(draw.randrange(4)):
        content = draw.choice((draw.randbytes(draw.randrange(20)), draw.choice(SEEDS), draw.choice(ENDS), b"x"))
        size = draw.choice(SIZE_LINES) if draw.random() < 0.2 else b"%x"
        size %= max(0, len(content) + (draw.choice((1, -1)) if draw.random() < 0.05 else 0))
        body += size + some_end(draw) + content + some_end(draw)
    trailers = b"".join(draw.choice(FIELDS) + b"\r\n" for _ in range(draw.choice((0, 0, 0, 0, 1))))
    return body + draw.choice((b"0", b"0", b"0", b"000", b"0;x")) + some_end(draw) + trailers + some_end(draw)


def some_request(draw: Random) -> bytes:
    """What is nearly a request."""
    target = draw.choice((b"/", b"/a?b", b"http://a/x", b"*", b"a:80", b"x", b"/%zz", b"/a#b"))
    if draw.random() < 0.05:
        target = target.ljust(draw.choice(LENGTHS), b"x")
    method = draw.choice((b"GET", b"GET", b"POST", b"HEAD", b"CONNECT", b"OPTIONS", b"M-SEARCH", b"FOO"))
    version = draw.choice((b"HTTP/1.1",) * 5 + (b"HTTP/1.0",) * 2 + (b"HTTP/1.2",))
    lines = [b" ".join((method, target, version)), *([b"Host: a"] if draw.random() < 0.95 else [])]
    lines += draw.choices(FIELDS, k=draw.choice((0, 0, 1, 2)))
    if draw.random() < 0.05:
        lines += [b"X: y"] * draw.choice((MAX_HEADERS - 2, MAX_HEADERS))
    if draw.random() < 0.1:
        draw.shuffle(lines)
    head = b"".join(line + some_end(draw) for line in lines) + some_end(draw)
    return head + draw.choice((b"", b"hello", some_chunks(draw)))


def some_framed(draw: Random) -> bytes:
    """A request with a body that is framed one way."""
    fields = draw.choice(
        (b"", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n", draw.choice(FIELDS) + b"\r\n")
    )
    if draw.random() < 0.5:
        return HEAD + b"Transfer-Encoding: chunked\r\n" + fields + b"\r\n" + some_chunks(draw)
    size = draw.choice(LENGTHS) if draw.random() < 0.1 else draw.randrange(20)
    return HEAD + fields + b"Content-Length: %d\r\n\r\n" % size + draw.choice(SEEDS).ljust(size, b"x")[:size]


def some_bytes(draw: Random) -> bytes:
    """A few of these one after another, with some places cut out, doubled or replaced; now and then anything."""
    if draw.random() < 0.02:
        return draw.randbytes(draw.randrange(300))
    kinds = (some_request, some_framed, lambda draw: draw.choice(SEEDS))
    raw = b"".join(draw.choice(kinds)(draw) for _ in range(draw.randint(1, 3)))
    for _ in range(draw.choice((0, 0, 0, 1, 1, 2))):
        start = draw.randrange(draw.choice((60, len(raw))) + 1)
        size = draw.randrange(10)
        new = draw.choice(
            (draw.choice(TOKENS + ENDS + FIELDS), draw.randbytes(draw.randrange(3)), raw[start:][:size] * 2)
        )
        raw = raw[:start] + new + raw[start + size :]
    return raw


ANYTHING = st.randoms(use_true_random=True).map(some_bytes)
"""One draw an example and a plain generator behind it: a hundred times faster than a hundred draws."""
BOUNDED = settings(derandomize=True, deadline=None, database=None)


@settings(BOUNDED, max_examples=3500)
@given(ANYTHING)
def test_only_what_is_a_request_is_read_as_one(raw: bytes) -> None:
    check(raw)


@pytest.mark.parametrize("raw", SEEDS, ids=range(len(SEEDS)))
def test_each_seed_has_the_same_requests_in_every_split_by_one_place(raw: bytes) -> None:
    whole = observe([raw])
    check(raw)
    for place in range(1, len(raw)):
        assert observe([raw[:place], raw[place:]]) == whole, place


@pytest.mark.parametrize(
    ("raw", "change"),
    [
        (HEAD + b"\r\n", {"method": b"HEAD"}),
        (HEAD + b"\r\n", {"target": b"/x"}),
        (HEAD + b"\r\n", {"minor": 0}),
        (HEAD + b"\r\n", {"fields": {}}),
        (HEAD + b"Connection: close\r\n\r\n", {"keep_alive": True}),
        (HEAD.replace(b"1.1", b"1.0") + b"\r\n", {"keep_alive": True}),
    ],
)
def test_the_grammar_tells_another_request_from_the_one_that_is_there(raw: bytes, change: dict[str, Any]) -> None:
    ((seen, end_of_request),), _ = observe([raw])
    assert not isinstance(seen, OneLine)
    assert is_request(raw, 0, end_of_request, seen)
    assert not is_request(raw, 0, end_of_request - 1, seen)
    assert not is_request(raw, 0, end_of_request, seen._replace(**change))


STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def converse(port: int, raw: bytes) -> tuple[bytes, bool]:
    """Send this in pieces; everything that came back, and whether the connection ended in a reset."""
    received = b""
    with connect(port) as client:
        with suppress(ConnectionError):
            for piece in split(raw):
                client.sendall(piece)
        with suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        try:
            while piece := client.recv(1 << 16):
                received += piece
        except ConnectionResetError:
            return received, True
    return received, False


def test_whatever_comes_over_a_connection_each_request_is_answered_once_and_nothing_else(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("index.html", b"")
        house.write("a", b"content")

        @settings(BOUNDED, max_examples=400)
        @given(ANYTHING)
        @example(SEEDS[0] * 300)
        def exchange(raw: bytes) -> None:
            requests, is_refused = observe([raw])
            answer, is_reset = converse(port, raw)
            last = requests[-1][0] if requests else None
            # What comes after the last request of a connection may meet a socket that is closed.
            assert not is_reset or isinstance(last, OneLine) or (last is not None and not last.keep_alive)
            if isinstance(last, OneLine):
                assert not answer.startswith(b"HTTP/")
                return
            statuses = [int(status) for status in STATUS.findall(answer)]
            finals = [status for status in statuses if status != 100]
            assert len(finals) == len(requests) + is_refused or answer.startswith(b"ERROR"), (finals, requests)
            assert 500 not in statuses

        exchange()


@pytest.mark.parametrize(
    "line",
    [b"GET large\n", b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"],
    ids=["one-line", "HTTP"],
)
def test_who_sends_more_while_the_last_answer_comes_still_gets_all_of_it(folder: Path, line: bytes) -> None:
    """Closing a socket that has unread bytes resets it: what was not sent yet is lost (RFC 9112 section 9.6)."""
    with House(folder) as house, house.serving() as port:
        content = house.write("large", pattern(60 * CHUNK_BYTES))
        with connect(port, line, receive_buffer=4096) as client:
            wait_for(lambda: any(one.waiting is Waiting.WRITABLE for one in house.site.traffic.connections))
            client.sendall(b"\r\n")
            assert receive_all(client).endswith(content)


def test_the_target_says_what_it_needs() -> None:
    """`python -m tests.fuzz_wire` under atheris, where that is installed; otherwise a word about it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz_wire", "-runs=1"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 or "pip install atheris" in done.stderr, done.stderr
