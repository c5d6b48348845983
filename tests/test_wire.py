"""The rules of the wire. Every row is fed whole and 1, 3 and 10 bytes at a time, and reads the same each way."""

import json
import re
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from gevent import socket
from hypothesis import given, settings
from hypothesis import strategies as st

from fileserver.heads import REASONS, StatusLines, connection_field, fields
from fileserver.wire import (
    KNOWN_METHODS,
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_LINE_BYTES,
    MAX_TARGET_BYTES,
    OneLine,
    OneLineError,
    Request,
    RequestReader,
    WireError,
)
from tests.house import House, connect, receive_all

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
UPGRADE = b"Connection: upgrade\r\nUpgrade: x\r\n"

Seen = Request | OneLine | tuple[type[WireError], int]


def get(target: bytes = b"/", *lines: bytes) -> bytes:
    """A GET with a Host and more header lines, which bring their own ends."""
    return b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n" + b"".join(lines) + b"\r\n"


def post(*lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    """A POST with its body and, after it, the next request."""
    return b"POST / HTTP/" + version + b"\r\nHost: a\r\n" + b"".join(lines) + b"\r\n" + body + NEXT


def length(size: int) -> bytes:
    return b"Content-Length: %d\r\n" % size


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def play(pieces: Iterable[bytes]) -> list[Seen]:
    """What a connection would see of these pieces up to its end. Raises whatever is not a WireError."""
    reader = RequestReader()
    seen: list[Seen] = []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (request := reader.next()) is not None:
                seen.append(request)
                if isinstance(request, OneLine) or not request.keep_alive:
                    return seen
    except WireError as problem:
        seen.append((type(problem), problem.status))
    return seen


def pieces_of(raw: bytes, size: int) -> list[bytes]:
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def read(raw: bytes) -> list[Seen]:
    """`play`, the same whole and 1, 3 and 10 bytes at a time."""
    whole = play([raw])
    for size in (1, 3, 10):
        assert play(pieces_of(raw, size)) == whole, f"{size} bytes at a time"
    return whole


def told(raw: bytes) -> list[str]:
    """`read`, in words: `GET / keep`, `GET / close`, `LIST`, `NAME x`, `400`, `ERROR 414`."""
    words = []
    for seen in read(raw):
        if isinstance(seen, Request):
            line = (seen.method + b" " + seen.target[:20]).decode("latin-1")
            words.append(f"{line} {'keep' if seen.keep_alive else 'close'}")
        elif isinstance(seen, OneLine):
            words.append("LIST" if seen.name is None else f"NAME {seen.name.decode()}")
        else:
            words.append(f"{'ERROR ' if seen[0] is OneLineError else ''}{seen[1]}")
    return words


ANSWERED = {
    "1.1 keeps alive": (GET, ["GET / keep"]),
    "1.1 closes when asked": (get(b"/", b"Connection: close\r\n"), ["GET / close"]),
    "1.1 reads a list of options": (get(b"/", b"Connection: x, Close\r\n"), ["GET / close"]),
    "1.0 closes": (b"GET / HTTP/1.0\r\n\r\n", ["GET / close"]),
    "1.0 keeps alive when asked": (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", ["GET / keep"]),
    # RFC 9112 section 9.3: close comes first.
    "1.0 closes when asked for both": (
        b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
        ["GET / close"],
    ),
    "HEAD": (b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n", ["HEAD /x keep"]),
    "a pipeline is in order": (
        get(b"/1") + get(b"/2") + get(b"/3"),
        ["GET /1 keep", "GET /2 keep", "GET /3 keep"],
    ),
    "nothing is read after close": (get(b"/", b"Connection: close\r\n") + NEXT, ["GET / close"]),
    "nothing is read after 1.0": (b"GET / HTTP/1.0\r\n\r\n" + NEXT, ["GET / close"]),
    "an error follows what came before it": (GET + b"\0\r\n\r\n", ["GET / keep", "400"]),
    "an unfinished request waits": (GET + b"GET / HTTP/1.1\r\nHost: a\r\n", ["GET / keep"]),
    "empty lines before a request": (b"\r\n\r\n" + GET + b"\r\n" + NEXT, ["GET / keep", "GET /next keep"]),
    "no value of Host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", ["GET / keep"]),
    "a fragment is for names to refuse": (get(b"/a#b"), ["GET /a#b keep"]),
    "no escape is decoded": (get(b"/%2e%2E/%00"), ["GET /%2e%2E/%00 keep"]),
    "absolute form": (get(b"http://a:1/x?y"), ["GET http://a:1/x?y keep"]),
    "asterisk form": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", ["OPTIONS * keep"]),
    "CONNECT is a request like others": (
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n" + NEXT,
        ["CONNECT a:80 keep", "GET /next keep"],
    ),
    "Upgrade is ignored": (get(b"/", UPGRADE) + NEXT, ["GET / keep", "GET /next keep"]),
    "bytes above ASCII in a value": (get(b"/", b"X: \xff\xc3\xa4\r\n"), ["GET / keep"]),
}

BODIES = {
    "of a length": (post(length(5), body=b"hello"), ["POST / keep", "GET /next keep"]),
    "of length 0": (post(length(0)), ["POST / keep", "GET /next keep"]),
    "of none": (post(), ["POST / keep", "GET /next keep"]),
    "of leading zeros": (post(b"Content-Length: 005\r\n", body=b"hello"), ["POST / keep", "GET /next keep"]),
    "of a GET": (get(b"/", length(5)) + b"hello" + NEXT, ["GET / keep", "GET /next keep"]),
    "not all there": (get(b"/", length(50)) + NEXT, []),
    "that looks like a request": (post(length(len(SMUGGLED)), body=SMUGGLED), ["POST / keep", "GET /next keep"]),
    "chunked": (post(CHUNKED, body=chunk(b"hello") + b"0\r\n\r\n"), ["POST / keep", "GET /next keep"]),
    "chunked, last in a list": (
        post(b"Transfer-Encoding: gzip, chunked\r\n", body=b"0\r\n\r\n"),
        ["POST / keep", "GET /next keep"],
    ),
    "chunked with extensions and trailers": (
        post(CHUNKED, body=b'5;a;b=c;d="e"\r\nhello\r\n000\r\nHost: b\r\nX: y\r\n\r\n'),
        ["POST / keep", "GET /next keep"],
    ),
    "chunks that look like requests": (
        post(CHUNKED, body=chunk(SMUGGLED) + chunk(b"\r\n\r\n") + chunk(b"0\r\n\r\n" + SMUGGLED) + b"0\r\n\r\n"),
        ["POST / keep", "GET /next keep"],
    ),
    "one after another": (
        post(length(2), body=b"hi") + post(CHUNKED, body=b"0\r\n\r\n"),
        ["POST / keep", "GET /next keep", "POST / keep", "GET /next keep"],
    ),
    "of an Upgrade end the connection": (post(UPGRADE, length(5), body=b"hello"), ["POST / close"]),
    "of a chunked Upgrade end it too": (post(UPGRADE, CHUNKED, body=b"0\r\n\r\n"), ["POST / close"]),
    "of a CONNECT end it too": (
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + NEXT,
        ["CONNECT a:80 close"],
    ),
    # RFC 9112 section 6.1: whoever forwarded it may not have known the coding.
    "of 1.0 in chunks end it too": (
        post(CHUNKED, b"Connection: keep-alive\r\n", body=b"0\r\n\r\n", version=b"1.0"),
        ["POST / close"],
    ),
}

REFUSED = {
    "two lengths": (post(length(5), length(5), body=b"hello"), 400),
    "two lengths in one": (post(b"Content-Length: 5, 5\r\n", body=b"hello"), 400),
    "a length and chunked": (post(length(5), CHUNKED, body=b"0\r\n\r\n"), 400),
    "chunked and a length": (post(CHUNKED, length(5), body=b"0\r\n\r\n"), 400),
    "an empty length": (post(b"Content-Length:\r\n"), 400),
    "a signed length": (post(b"Content-Length: +5\r\n", body=b"hello"), 400),
    "a negative length": (post(b"Content-Length: -5\r\n"), 400),
    "a hexadecimal length": (post(b"Content-Length: 0x5\r\n"), 400),
    "a length beyond 64 bits": (post(b"Content-Length: 18446744073709551621\r\n"), 400),
    "a coding that is not chunked": (post(b"Transfer-Encoding: gzip\r\n"), 400),
    "a coding after chunked": (post(b"Transfer-Encoding: chunked, gzip\r\n"), 400),
    "chunked twice": (post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"), 400),
    "nearly chunked": (post(b"Transfer-Encoding: xchunked\r\n", body=b"0\r\n\r\n"), 400),
    "no coding": (post(b"Transfer-Encoding:\r\n", body=b"0\r\n\r\n"), 400),
    "a chunk of no size": (post(CHUNKED, body=b"zz\r\n\r\n"), 400),
    "a chunk of a bare LF": (post(CHUNKED, body=b"5\nhello\n0\n\n"), 400),
    "a chunk longer than its size": (post(CHUNKED, body=b"5\r\nhello!\r\n0\r\n\r\n"), 400),
    "a length in a trailer": (post(CHUNKED, body=b"0\r\nContent-Length: 9\r\n\r\n"), 400),
    "a bare LF after the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "a bare LF after a field": (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
    "a bare LF before the empty line": (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    "bare LFs only": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "a bare LF for an empty line": (b"\n" + GET, 400),
    "a bare CR in a value": (get(b"/", b"X: a\rb\r\n"), 400),
    "a bare CR before a field": (get(b"/", b"X: a\rHost: b\r\n"), 400),
    "a CR too many": (get(b"/", b"X: a\r\r\n"), 400),
    "a bare CR before the request line": (b"\r" + GET, 400),
    "a folded line": (get(b"/", b"X: a\r\n b\r\n"), 400),
    "a folded first line": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "a space before the colon": (get(b"/", b"X : a\r\n"), 400),
    "a space before the colon of Host": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "a field of no name": (get(b"/", b": a\r\n"), 400),
    "a field of no colon": (get(b"/", b"X\r\n"), 400),
    "a NUL in a value": (get(b"/", b"X: \0\r\n"), 400),
    "a NUL in a name": (get(b"/", b"X\0: a\r\n"), 400),
    "a NUL in the target": (get(b"/\0"), 400),
    "a control character": (get(b"/", b"X: \x01\r\n"), 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "no Host in absolute form": (b"GET http://a/ HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (get(b"/", b"Host: a\r\n"), 400),
    "two Hosts in 1.0": (b"GET / HTTP/1.0\r\nHost: a\r\nhOST: b\r\n\r\n", 400),
    "a space in the target": (get(b"/a b"), 400),
    "two spaces before the target": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a tab for a space": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a space at the end of the line": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "UTF-8 in the target": (get("/ä".encode()), 400),
    "a byte that is no UTF-8": (get(b"/\xff"), 400),
    "no version": (b"GET /\r\n\r\n", 400),
    "a version in lower case": (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    "half a version": (b"GET / HTTP/1\r\nHost: a\r\n\r\n", 400),
    "a version of two digits": (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400),
    "another protocol": (b"GET / RTSP/1.0\r\nHost: a\r\n\r\n", 400),
    "a TLS handshake": (b"\x16\x03\x01\x02\x00\x01\x00\r\n", 400),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\n\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "an unknown method": (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "a method in lower case": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "a method that HTTP never had": (b"SOURCE / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "an unknown method and no version": (b"FOO /\r\n\r\n", 400),
    "an unknown method and no target": (b"FOO HTTP/1.1\r\n\r\n", 400),
    "a method that is no token": (b"F(O / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "an unknown method and a bare LF": (b"FOO / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 501),
    "a wrong version and a bare LF": (b"GET / HTTP/2.0\r\nHost: a\n\n", 505),
}

HOSTS = [
    # RFC 9112 section 3.2: empty where the target has no authority.
    b"", b"   ",
    # RFC 3986 section 3.2.2: reg-name, and section 3.2.3: port, which may be empty.
    b"a", b"a.example", b"A-b_c~d", b"a.", b"a!$&'()*+,;=b", b"%41b", b"a%2F", b"127.0.0.1",
    b"a:80", b"a:", b"a:65535", b"127.0.0.1:8080", b":80", b" \ta:80\t ",
    # IP-literal: IPv6 and IPvFuture.
    b"[::1]", b"[::1]:80", b"[::1]:", b"[2001:DB8::ffff:1.2.3.4]", b"[v1.a:~]",
]  # fmt: skip
NO_HOSTS = [
    b"a b", b"a\tb", b"a/", b"/", b"a/b", b"a@b", b"@", b"http://a", b"a?b", b"a#b", b"a\\b", b"<a>", b'"a"',
    b"a:1:2", b"a::", b"::1", b"a:b", b"a:8o", b"a:+1", b"a:-1", b"a: 1", b"a:123456", b"a:80/", b"a, b:1",
    b"[::1", b"::1]", b"[]", b"[", b"]", b"[[::1]]", b"[::1]x", b"[::1]x:80", b"x[::1]", b"[::1]:x", b"[::1]:1:2",
    b"[::1/]", b"[::1]]", b"a|b", b"[fe80::1%25lo]", b"%zz", b"%4", b"a%", b"%%41", b"\xff", "ä".encode(),
]  # fmt: skip

EXPECTING = {
    "100-continue": (post(b"Expect: 100-continue\r\n", length(2), body=b"hi"), ["POST / keep", "GET /next keep"]),
    "in any case": (post(b"eXPECT:100-ConTINUE\t\r\n", length(2), body=b"hi"), ["POST / keep", "GET /next keep"]),
    "and no body": (get(b"/", b"Expect: 100-continue\r\n"), ["GET / keep"]),
    # RFC 9110 section 10.1.1: another expectation may be answered 417.
    "something else": (post(b"Expect: 200-ok\r\n", length(2), body=b"hi"), ["417"]),
    "something else, and no body": (get(b"/", b"Expect: x\r\n"), ["417"]),
    "nothing": (get(b"/", b"Expect:\r\n"), ["417"]),
    "nearly 100-continue": (get(b"/", b"Expect: 100-continues\r\n"), ["417"]),
    "something besides": (get(b"/", b"Expect: 100-continue, x\r\n"), ["417"]),
    "something besides, in a line of its own": (get(b"/", b"Expect: 100-continue\r\nExpect: x\r\n"), ["417"]),
    # The same: what 1.0 expects is ignored.
    "something else in 1.0": (
        post(b"Expect: x\r\nConnection: keep-alive\r\n", length(2), body=b"hi", version=b"1.0"),
        ["POST / keep", "GET /next keep"],
    ),
    "that a body is too large": (post(b"Expect: 100-continue\r\n", length(MAX_BODY_BYTES + 1)), ["413"]),
    "what is no field": (get(b"/", b"Expected: x\r\nX-Expect: x\r\n"), ["GET / keep"]),
}

ONE_LINE = {
    "LIST": (b"LIST\n", ["LIST"]),
    "LIST with CR": (b"LIST\r\n", ["LIST"]),
    "a name": (b"GET a.txt\n", ["NAME a.txt"]),
    "a name with CR": (b"GET a.txt\r\n", ["NAME a.txt"]),
    "spaces are the name's": (b"GET  a  b \n", ["NAME  a  b "]),
    "UTF-8 as it is": ("GET ä/€.txt\n".encode(), ["NAME ä/€.txt"]),
    "a percent sign is one": (b"GET 100%25%2F\n", ["NAME 100%25%2F"]),
    "no name is for names to refuse": (b"GET \n", ["NAME "]),
    "nearly a version": (b"GET x HTTP/1.1y\n", ["NAME x HTTP/1.1y"]),
    "a version of no number": (b"GET x HTTP/1.x\r\n", ["NAME x HTTP/1.x"]),
    "a version in lower case": (b"GET x http/1.1\n", ["NAME x http/1.1"]),
    "what follows is not read": (b"LIST\nLIST\n" + GET, ["LIST"]),
    "a URL with a version is HTTP": (get(b"http://x/"), ["GET http://x/ keep"]),
    "a name with a version is HTTP": (get(b"x"), ["400"]),
    "a name with a version and a bare LF is HTTP": (b"GET x HTTP/1.1\n", ["400"]),
    "a slash is HTTP": (b"GET /x\r\n", ["400"]),
    "LIST with a target is HTTP": (b"LIST / HTTP/1.1\r\n\r\n", ["501"]),
    "LIST and more is HTTP": (b"LIST x\n", ["400"]),
    "lower case is HTTP": (b"list\r\n", ["400"]),
    "GET and no space is HTTP": (b"GET\r\n", ["400"]),
    "only the first line: LIST": (GET + b"LIST\r\n", ["GET / keep", "400"]),
    "only the first line: a name": (GET + b"GET a\r\n", ["GET / keep", "400"]),
    "only the first line: after an Upgrade": (get(b"/", UPGRADE) + b"LIST\r\n", ["GET / keep", "400"]),
    "only the first line: after an empty one": (b"\r\nLIST\r\n", ["400"]),
    "only the first line: after two empty ones": (b"\r\n\r\nGET a\r\n", ["400"]),
}


def headers(count: int) -> bytes:
    """A head of `count` fields, Host among them."""
    return get(b"/", *[b"X: y\r\n"] * (count - 1))


def head(size: int) -> bytes:
    """A head of `size` bytes."""
    return get(b"/", b"X: ", b"y" * (size - len(get(b"/", b"X: \r\n"))), b"\r\n")


def in_chunks(size: int) -> bytes:
    """A chunked body of `size` bytes, framing included."""
    return chunk(b"x" * (size - len(b"ffff\r\n\r\n0\r\n\r\n"))) + b"0\r\n\r\n"


LIMITS = {
    "a target": (get(b"/" * MAX_TARGET_BYTES), ["GET //////////////////// keep"]),
    "a target, one more": (get(b"/" * (MAX_TARGET_BYTES + 1)), ["414"]),
    "a target, many more": (get(b"/" * (2 * MAX_HEAD_BYTES)), ["414"]),
    "a target in absolute form": (
        get(b"http://a/".ljust(MAX_TARGET_BYTES, b"x")),
        ["GET http://a/xxxxxxxxxxx keep"],
    ),
    "a head": (head(MAX_HEAD_BYTES), ["GET / keep"]),
    "a head, one more": (head(MAX_HEAD_BYTES + 1), ["431"]),
    "a head, many more": (head(3 * MAX_HEAD_BYTES), ["431"]),
    "heads one after another": (head(MAX_HEAD_BYTES) * 2, ["GET / keep", "GET / keep"]),
    "fields": (headers(MAX_HEADERS), ["GET / keep"]),
    "fields, one more": (headers(MAX_HEADERS + 1), ["431"]),
    "a body": (post(length(MAX_BODY_BYTES), body=b"x" * MAX_BODY_BYTES), ["POST / keep", "GET /next keep"]),
    "a body, one more": (post(length(MAX_BODY_BYTES + 1)), ["413"]),
    "a body in chunks": (post(CHUNKED, body=in_chunks(MAX_BODY_BYTES)), ["POST / keep", "GET /next keep"]),
    "a body in chunks, one more": (post(CHUNKED, body=in_chunks(MAX_BODY_BYTES + 1)), ["413"]),
    "bodies one after another": (
        post(length(MAX_BODY_BYTES), body=b"x" * MAX_BODY_BYTES) * 2,
        ["POST / keep", "GET /next keep"] * 2,
    ),
    "a line": (b"GET ".ljust(MAX_LINE_BYTES, b"x") + b"\n", ["NAME " + "x" * (MAX_LINE_BYTES - 4)]),
    "a line, one more": (b"GET ".ljust(MAX_LINE_BYTES + 1, b"x") + b"\n", ["ERROR 414"]),
    "a line, many more": (b"GET " + b"x" * 3 * MAX_LINE_BYTES, ["ERROR 414"]),
    "a long target and a wrong version": (get(b"/" * 9000).replace(b"HTTP/1.1", b"HTTP/2.0"), ["414"]),
    "a long target and an unknown method": (get(b"/" * 9000).replace(b"GET", b"FOO"), ["414"]),
}

EARLY = {
    "not a request line": (b"\x16\x03\x01\r\n", "400"),
    "a bare LF": (b"GET / HTTP/1.1\r\nHost: a\n", "400"),
    "an unknown method": (b"FOO / HTTP/1.1\r\n", "501"),
    "a version": (b"GET / HTTP/2.0\r\n", "505"),
    "a NUL in the target": (b"GET /\0 HTTP/1.1\r\n", "400"),
    "a control character in the target": (b"GET /\x7f HTTP/1.1\r\n", "400"),
    "more than a version": (b"GET / HTTP/1.1x\r\n", "400"),
    "a target": (get(b"/" * (MAX_TARGET_BYTES + 1))[: MAX_TARGET_BYTES + 16], "414"),
    "a request line without an end": (b"GET ".ljust(MAX_TARGET_BYTES + 65, b"/"), "414"),
    "a head without an end": (head(MAX_HEAD_BYTES + 100)[: MAX_HEAD_BYTES + 1], "431"),
    "a body that is announced": (get(b"/", length(MAX_BODY_BYTES + 1)), "413"),
}

LINES = {
    "of a request": (GET, [b"GET / HTTP/1.1"]),
    "of each request": (get(b"/1") + get(b"/2"), [b"GET /1 HTTP/1.1", b"GET /2 HTTP/1.1"]),
    "of a head that is not all there": (GET + b"PUT /a HTTP/1.0\r\nH", [b"GET / HTTP/1.1", b"PUT /a HTTP/1.0"]),
    "of a body that is not all there": (post(length(999), body=b"GET /b"), [b"POST / HTTP/1.1"]),
    "that has no LF yet": (b"GET / HTTP/1.1\r", [b"GET / HTTP/1.1"]),
    "that has no end yet": (b"GET /a b", [b"GET /a b"]),
    "after empty lines": (b"\r\n\r\n" + NEXT + b"\r\nHEAD", [b"GET /next HTTP/1.1", b"HEAD"]),
    "of nothing more": (GET + b"\r\n", [b"GET / HTTP/1.1"]),
    "of the one-line protocol": (b"GET a  b\n", [b"GET a  b"]),
    "of the one-line protocol with CR": (b"LIST\r\n", [b"LIST"]),
    "of the one-line protocol, not all there": (b"GET a.t", [b"GET a.t"]),
    "that is no request line": (b"\x16\x03\x01\r\n\r\n", [b"\x16\x03\x01"]),
    "of an unknown method": (GET + b"FOO / HTTP/1.1\r\n\r\n", [b"GET / HTTP/1.1", b"FOO / HTTP/1.1"]),
    "of a wrong version": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", [b"GET / HTTP/2.0"]),
    "before a bad field": (get(b"/a", b"X : y\r\n"), [b"GET /a HTTP/1.1"]),
    "before a missing Host": (b"GET /a HTTP/1.1\r\n\r\n", [b"GET /a HTTP/1.1"]),
    "before too many fields": (headers(MAX_HEADERS + 1), [b"GET / HTTP/1.1"]),
    "before too large a body": (post(length(MAX_BODY_BYTES + 1)), [b"POST / HTTP/1.1"]),
    "before a bad chunk": (post(CHUNKED, body=b"zz\r\n\r\n"), [b"POST / HTTP/1.1"]),
    "before a wrong expectation": (get(b"/e", b"Expect: x\r\n"), [b"GET /e HTTP/1.1"]),
}
"""`line` after each request, and at the end when there is something that was not one."""

UNDECIDED = [
    b"\r",
    b"L",
    b"LIST",
    b"LIST\r",
    b"G",
    b"GET",
    b"GET ",
    b"GET x",
    b"GET x\r",
    b"GET http://x/ HTTP/1.1",
    b"GET http://x/ HTTP/1.1\r",
    b"GET / HTTP/1.1\r",
    GET[:-1],
]


def table(rows: dict[str, tuple[bytes, list[str]]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("raw", "expected"), rows.values(), ids=rows.keys())


@table(ANSWERED)
def test_requests_are_read_in_order_and_know_whether_the_connection_goes_on(
    raw: bytes, expected: list[str]
) -> None:
    assert told(raw) == expected


@table(BODIES)
def test_a_body_is_thrown_away_and_never_read_as_a_request(raw: bytes, expected: list[str]) -> None:
    assert told(raw) == expected


@table({name: (raw, [str(status)]) for name, (raw, status) in REFUSED.items()})
def test_a_malformed_request_is_refused_with_its_status(raw: bytes, expected: list[str]) -> None:
    assert told(raw) == expected


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize(
    ("value", "is_host"),
    [(value, True) for value in HOSTS] + [(value, False) for value in NO_HOSTS],
    ids=repr,
)
def test_a_host_is_a_name_or_an_address_and_a_port_in_either_version(
    value: bytes, is_host: bool, version: bytes
) -> None:
    seen = read(b"GET / HTTP/" + version + b"\r\nHost:" + value + b"\r\n\r\n")
    if is_host:
        host = {b"host": value.strip(b" \t")}
        assert seen == [Request(b"GET", b"/", host, int(version[2:]), version == b"1.1")]
    else:
        assert seen == [(WireError, 400)]


@table(EXPECTING)
def test_only_100_continue_can_be_expected(raw: bytes, expected: list[str]) -> None:
    assert told(raw) == expected


@table(ONE_LINE)
def test_the_first_line_of_a_connection_may_be_in_the_one_line_protocol(raw: bytes, expected: list[str]) -> None:
    assert told(raw) == expected


@table(LIMITS)
def test_a_limit_is_the_last_size_that_passes(raw: bytes, expected: list[str]) -> None:
    assert told(raw) == expected


@pytest.mark.parametrize(("raw", "expected"), EARLY.values(), ids=EARLY.keys())
def test_a_refusal_comes_with_the_byte_that_earns_it(raw: bytes, expected: str) -> None:
    assert told(raw[:-1]) == []
    assert told(raw) == [expected]


@pytest.mark.parametrize("raw", UNDECIDED, ids=repr)
def test_an_open_question_waits(raw: bytes) -> None:
    reader = RequestReader()
    reader.feed(raw)
    assert reader.next() is None
    assert not reader.is_empty


@pytest.mark.parametrize("method", sorted(KNOWN_METHODS), ids=bytes.decode)
def test_llhttp_reads_every_method_we_call_known(method: bytes) -> None:
    target = b"a:80" if method == b"CONNECT" else b"/"
    request = Request(method, target, {b"host": b"a"}, 1, True)
    assert read(method + b" " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n") == [request]


def test_field_names_are_lower_case_and_repeated_fields_are_joined() -> None:
    raw = get(
        b"/", b"ACCEPT:text/html\r\n", b"X: Accept: no\r\n", b"X-Accept: no\r\n", b"aCcept: \t a/b ;q=1 \t\r\n"
    )
    assert read(raw) == [Request(b"GET", b"/", {b"host": b"a", b"accept": b"text/html, a/b ;q=1"}, 1, True)]


@pytest.mark.parametrize(
    "name",
    [
        *(b"accept", b"accept-encoding", b"authorization", b"if-match", b"if-modified-since", b"if-none-match"),
        *(b"if-range", b"if-unmodified-since", b"range", b"referer", b"user-agent", b"want-repr-digest"),
    ],
    ids=bytes.decode,
)
def test_a_field_we_act_on_is_found_whole_joined_and_under_its_own_name_only(name: bytes) -> None:
    def fields_of(*lines: bytes) -> dict[bytes, bytes]:
        (request,) = read(get(b"/", *lines))
        assert isinstance(request, Request)
        return request.fields

    assert fields_of(name.title() + b':a: b, "c"\xff \r\n') == {b"host": b"a", name: b'a: b, "c"\xff'}
    lines = [name + b": 1\r\n", b"X: y\r\n", name.upper() + b":\t2,3\r\n", name + b":\r\n"]
    assert fields_of(*lines) == {b"host": b"a", name: b"1, 2,3, "}
    assert fields_of(b"X-" + name + b": 1\r\n", name + b"s: 1\r\n", b"X: " + name + b": 1\r\n") == {b"host": b"a"}


def test_a_field_we_do_not_act_on_is_left_out() -> None:
    assert read(get(b"/", b"Cookie: c\r\n", b"Connection: x\r\n", b"Want-Content-Digest: a=1\r\n")) == [
        Request(b"GET", b"/", {b"host": b"a"}, 1, True)
    ]


def test_the_minor_version_is_kept() -> None:
    assert read(b"GET / HTTP/1.0\r\n\r\n") == [Request(b"GET", b"/", {}, 0, False)]


def test_a_length_of_thousands_of_digits_is_read_or_refused() -> None:
    raw = post(b"Content-Length: " + b"5".zfill(5000) + b"\r\n", body=b"hello")
    assert told(raw) in (["POST / keep", "GET /next keep"], ["400"], ["413"])


def test_a_reader_is_empty_between_requests_and_not_within_one() -> None:
    reader = RequestReader()
    assert reader.is_empty
    *pieces, last = pieces_of(get(b"/", length(2)) + b"hi", 1)
    for piece in pieces:
        reader.feed(piece)
        assert reader.next() is None
        assert not reader.is_empty
    reader.feed(last)
    assert reader.next() is not None
    assert reader.is_empty
    reader.feed(b"\r\n")
    assert reader.next() is None
    assert reader.is_empty


EXPECT = b"Expect: 100-continue\r\n"


def asks(reader: RequestReader, received: bytes) -> bool:
    """Whether the client, having sent this and not yet a whole request, waits for a word from us."""
    reader.feed(received)
    assert reader.next() is None
    return reader.expects_continue()


@pytest.mark.parametrize("before", [b"", b"\r\n", GET], ids=["at first", "after an empty line", "later"])
@pytest.mark.parametrize(
    ("lines", "body"), [(length(2), b"hi"), (CHUNKED, chunk(b"hi") + b"0\r\n\r\n")], ids=["length", "chunked"]
)
def test_a_client_that_waits_is_known_once_and_only_before_its_body(
    before: bytes, lines: bytes, body: bytes
) -> None:
    reader = RequestReader()
    reader.feed(before)
    while reader.next() is not None:
        pass
    for _ in range(2):
        *head_bytes, end = pieces_of(b"POST / HTTP/1.1\r\nHost: a\r\n" + EXPECT + lines + b"\r\n", 1)
        assert not any(asks(reader, byte) for byte in head_bytes)
        assert asks(reader, end)
        assert not reader.expects_continue()
        assert not any(asks(reader, byte) for byte in pieces_of(body[:-1], 1))
        reader.feed(body[-1:])
        assert reader.next() is not None
        assert not reader.expects_continue()


@pytest.mark.parametrize(
    "raw",
    [
        get(b"/", length(2)),
        get(b"/", EXPECT, length(2)) + b"h",
        get(b"/", EXPECT, CHUNKED) + b"2",
        get(b"/", EXPECT, length(2)).replace(b"1.1", b"1.0"),
        get(b"/", EXPECT)[:-1],
    ],
    ids=["not asked for", "body begun", "chunked body begun", "1.0", "head begun"],
)
def test_who_does_not_wait_is_not_told_to_go_on(raw: bytes) -> None:
    assert not asks(RequestReader(), raw)


@pytest.mark.parametrize(
    "raw",
    [
        get(b"/", EXPECT),
        get(b"/", EXPECT, length(0)),
        get(b"/", EXPECT, length(2)) + b"hi",
        get(b"/", EXPECT, CHUNKED) + b"0\r\n\r\n",
        get(b"/", EXPECT, UPGRADE, length(2)),
    ],
    ids=["no body", "length 0", "all there", "chunked, all there", "upgrade"],
)
def test_who_has_nothing_more_to_send_is_not_told_to_go_on(raw: bytes) -> None:
    reader = RequestReader()
    reader.feed(raw)
    assert reader.next() is not None
    assert not reader.expects_continue()


def test_who_was_not_told_and_has_sent_its_body_is_not_told_any_more() -> None:
    reader = RequestReader()
    reader.feed(get(b"/", EXPECT, length(2)))
    assert reader.next() is None
    reader.feed(b"hi")
    assert reader.next() is not None
    assert not reader.expects_continue()


def test_who_waits_to_send_too_much_is_refused_and_not_told_to_go_on() -> None:
    reader = RequestReader()
    reader.feed(get(b"/", EXPECT, length(MAX_BODY_BYTES + 1)))
    with pytest.raises(WireError):
        reader.next()
    assert not reader.expects_continue()


def lines_of(pieces: Iterable[bytes]) -> list[bytes]:
    """`line` after each request, and at the end when there is something that was not one."""
    reader = RequestReader()
    lines = []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (request := reader.next()) is not None:
                lines.append(reader.line)
                if isinstance(request, OneLine):
                    return lines
    except WireError:
        return [*lines, reader.line]
    assert reader.line == b"" or not reader.is_empty
    return lines if reader.is_empty else [*lines, reader.line]


@pytest.mark.parametrize(("raw", "expected"), LINES.values(), ids=LINES.keys())
def test_the_first_line_is_known_as_far_as_it_has_come(raw: bytes, expected: list[bytes]) -> None:
    for size in (len(raw), 1, 3, 10):
        assert lines_of(pieces_of(raw, size)) == expected


@pytest.mark.parametrize("raw", [b"GET ".ljust(9000, b"a"), b"GET /".ljust(9000, b"a")], ids=["one-line", "HTTP"])
def test_of_a_line_that_is_too_long_the_beginning_is_known(raw: bytes) -> None:
    for size in (len(raw), 1, 10):
        (line,) = lines_of(pieces_of(raw, size))
        assert len(line) > MAX_LINE_BYTES
        assert raw.startswith(line)


def test_an_unread_pipeline_is_not_empty() -> None:
    reader = RequestReader()
    reader.feed(GET + NEXT)
    assert reader.next() is not None
    assert not reader.is_empty
    assert reader.next() is not None
    assert reader.is_empty


def test_a_closed_reader_keeps_no_parser_that_keeps_it() -> None:
    reader = RequestReader()
    count = sys.getrefcount(reader)
    reader.feed(GET)
    reader.next()
    assert sys.getrefcount(reader) > count
    reader.close()
    assert sys.getrefcount(reader) == count


# Anything at all.

VALID = [
    GET,
    post(length(5), body=b"hello"),
    post(CHUNKED, body=b"5;e=1\r\nhello\r\n0\r\nT: v\r\n\r\n"),
    get(b"http://h/x"),
    get(b"/", UPGRADE),
    b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nhost: a\r\nAccept: x\r\nConnection: close\r\n\r\n",
    b"GET a b\n",
    b"LIST\r\n",
]
TOKENS = [
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b"/", b"#", b"\xff", b"0", b"5\r\n", b"\r\n\r\n", b"a"),
    *(b"GET ", b"FOO ", b"LIST", b"HTTP/1.1", b"HTTP/2.0", b"Host: b\r\n", length(3), CHUNKED, UPGRADE),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Valid requests, with up to three places cut out or replaced, the beginning more often than others."""
    raw = b"".join(draw(st.lists(st.sampled_from(VALID), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.just(0) | st.integers(0, len(raw)))
        removed = draw(st.integers(0, 4))
        raw = raw[:start] + draw(st.sampled_from(TOKENS) | st.binary(max_size=2)) + raw[start + removed :]
    return raw


@settings(derandomize=True, max_examples=1000, deadline=None)
@given(mutated() | st.binary(), st.lists(st.floats(0, 1), max_size=4).map(sorted))
def test_no_bytes_raise_anything_else_and_no_split_changes_what_they_mean(raw: bytes, cuts: list[float]) -> None:
    places = [0, *(round(cut * len(raw)) for cut in cuts), len(raw)]
    assert play(raw[start:end] for start, end in pairwise(places)) == read(raw)


# What others refuse. The lists are beside the project, not in it.

ELSEWHERE = {
    "ours is the one-line protocol": {
        "invalid request-line: method space",
        "invalid request-line: method space space",
        "invalid request-line: method space space slash proto",
    },
    "we have one site: any host that can be one will do": {
        "leading and trailing dot",
        "leading dot",
        "two dots",
        "port given but host missing",
        "leading dash",
        "dot only",
        "broken IPv4 address - non-digit",
        "broken IPv4 address - too short",
        "absolute-uri in request-line (with Host mismatch)",
    },
    "RFC 9112 section 3.2: HTTP/1.1 has a Host, in absolute form too": {
        "absolute-uri in request-line (without Host)",
    },
    "RFC 9112 section 5.2: folded lines are refused": {
        "#1232 - duplicate headers with line-wrapping",
        "#1232 - duplicate headers with line-wrapping - test 2",
        "#1232 - duplicate headers with line-wrapping - test 3",
        "line-folding",
    },
    "a body is thrown away, so none is missing and none is too many": {
        "POST request, no Content-Length",
        "GET with Content-Length",
        "HEAD with Content-Length",
    },
    "a length is believed, and this body is not all there": {
        "content-length/Content-Length reset when no body is received",
    },
    "we do not act on the field": {
        "Duplicate Content-Type headers",
        "Duplicate If-Modified-Since headers",
        "reject duplicated If-Modified-Since if not matching",
    },
    "nothing is read after close, so nothing can be wrong with it": {
        "connection/No restart when keep-alive is off (1.0)",
        "connection/CRLF between requests, explicit `close`",
        "connection/CRLF between requests, explicit `close` followed by tab",
    },
    "only HTTP, its methods and its versions": {
        "method/SOURCE request",
        "method/SOURCE request with ICE",
        "method/OPTIONS request with RTSP",
        "method/ANNOUNCE request with RTSP",
        "sample/No HTTP version",
    },
}
"""Where our verdict is another than lighttpd's or llhttp's: why, and on what."""


def is_accepted(raw: bytes) -> bool:
    seen = read(raw)
    return bool(seen) and all(isinstance(each, Request | OneLine) for each in seen)


def with_host(raw: bytes) -> bytes:
    """llhttp does not ask for a Host and we do, before anything else that may be wrong with its samples."""
    return raw if b"host:" in raw.lower() else raw.replace(b" HTTP/1.1\r\n", b" HTTP/1.1\r\nHost: a\r\n")


def test_the_verdict_is_that_of_lighttpd_and_llhttp_but_for_a_reason(shared_lists: Path) -> None:
    disputed = set()
    for row in json.loads((shared_lists / "lighttpd_request.json").read_text()):
        if is_accepted(row["raw"].encode("latin-1")) != (row["expect"] == 0):
            disputed.add(row["name"])
    for row in json.loads((shared_lists / "llhttp_request.json").read_text()):
        if is_accepted(with_host(row["raw"].encode("latin-1"))) != (row["error"] is None and row["complete"]):
            disputed.add(row["name"])
    assert disputed == set().union(*ELSEWHERE.values())


STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def test_what_others_refuse_is_refused_over_a_connection_too_and_nothing_is_an_error_of_ours(
    shared_lists: Path, folder: Path
) -> None:
    rows = [
        (row["name"], row["raw"].encode("latin-1"), row["expect"] != 0)
        for row in json.loads((shared_lists / "lighttpd_request.json").read_text())
    ] + [
        (row["name"], with_host(row["raw"].encode("latin-1")), row["error"] is not None)
        for row in json.loads((shared_lists / "llhttp_request.json").read_text())
    ]
    disputed = set().union(*ELSEWHERE.values())
    with House(folder) as house, house.serving() as port:
        house.write("index.html", b"")
        for name, raw, is_bad in rows:
            with connect(port, raw) as client:
                client.shutdown(socket.SHUT_WR)
                answer = receive_all(client)
            statuses = [int(status) for status in STATUS.findall(answer)]
            assert 500 not in statuses, name
            if is_bad and name not in disputed:
                # An answer of the wire's, or none at all: the rest of the request never came.
                assert set(statuses[-1:]) <= {400, 413, 414, 417, 431, 501, 505}, (name, answer)
                assert not answer.startswith(b"ERROR"), name


# Answers.


def test_the_date_of_an_answer_is_made_once_a_second_and_follows_the_clock() -> None:
    now_s = 784111777.0
    lines = StatusLines(lambda: now_s)
    first = lines[200]
    assert first == b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    now_s += 0.9
    assert lines[200] is first
    assert lines[404] == b"HTTP/1.1 404 Not Found\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    now_s += 0.1
    assert lines[200] == first.replace(b":37", b":38")
    assert lines[404].endswith(b"08:49:38 GMT\r\n")
    now_s -= 3600
    assert lines[200] == first.replace(b"08:49:37", b"07:49:38")


def test_every_status_that_is_raised_has_a_reason() -> None:
    lines = StatusLines(lambda: 0.0)
    for status, reason in REASONS.items():
        assert lines[status].startswith(f"HTTP/1.1 {status} {reason}\r\n".encode())


@pytest.mark.parametrize(
    ("keep_alive", "minor", "expected"),
    [
        (True, 1, b"\r\n"),
        (True, 0, b"Connection: keep-alive\r\n\r\n"),
        (False, 1, b"Connection: close\r\n\r\n"),
        (False, 0, b"Connection: close\r\n\r\n"),
    ],
)
def test_only_what_a_version_does_not_do_by_itself_is_said(keep_alive: bool, minor: int, expected: bytes) -> None:
    assert connection_field(keep_alive=keep_alive, minor=minor) == expected


def test_fields_are_lines_in_the_order_given() -> None:
    assert fields({}) == b""
    assert fields({"B": "1", "A": "x; y=é"}) == b"B: 1\r\nA: x; y=\xe9\r\n"
