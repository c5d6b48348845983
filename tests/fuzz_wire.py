"""A fuzz target for the wire: `check(data)` raises AssertionError when bytes break one of its rules.

`python -m tests.fuzz_wire [CORPUS] [-max_total_time=300 ...]` runs it under atheris, which is not among the
requirements; tests/test_fuzz.py runs it under hypothesis. CORPUS is a folder, given the SEEDS when it is empty.

What is a request is decided here a second time, and another way than in fileserver.wire: without llhttp, line by
line, by the grammar of RFC 9112 and nothing besides. Only the target may be anything printable: which one is good
is for fileserver.names to say.
"""

import hashlib
import importlib
import random
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from fileserver.wire import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_LINE_BYTES,
    MAX_TARGET_BYTES,
    OneLine,
    Request,
    RequestReader,
    WireError,
)

PIECES = (1, 2, 3, 5, 16, 61, 509, 4096, 16384)
"""Sizes in which bytes arrive, mixed."""

SEEDS = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b'GET /a%20b?c=d HTTP/1.1\r\nHost: [::1]:80\r\nRange: bytes=0-9\r\nIf-Range: "x"\r\n\r\n' * 2,
    b"HEAD http://a:1/x HTTP/1.1\r\nhost:a\r\nConnection: x, Close\r\nAccept-Encoding: gzip;q=0, br\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 005\r\n\r\nhelloGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
        b'5;a;b=c;d="e"\r\nhello\r\n00A\r\n0123\r\n\r\n89\r\n000\r\nT: v\r\nHost: b\r\n\r\n\r\n'
        b"OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n"
    ),
    b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\nReferer: r\r\nReferer: s\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 1\r\n\r\nx",
    b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\nCONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"\r\n\r\nDELETE /x HTTP/1.1\r\nHost: a\r\nX: \xff\t\r\n\r\n\r\nM-SEARCH * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET a b.txt\r\n",
    b"LIST\nLIST\n",
    b"GET x HTTP/1.1y\n",
    b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\nLIST\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n z\r\n\r\n",
)


def check(data: bytes) -> None:
    """Read `data` whole and in pieces, and hold every request that comes out against the grammar."""
    whole, refused = observe([data])
    in_pieces, refused_in_pieces = observe(split(data))
    assert in_pieces == whole, (whole, in_pieces)
    assert refused_in_pieces == refused, (refused, refused_in_pieces)
    start = 0
    for request, end in whole:
        assert is_request(data, start, end, request), (data[start:end], request)
        start = end


def split(data: bytes) -> Iterator[bytes]:
    """`data` in pieces of sizes that are the same for the same bytes."""
    draw = random.Random(hashlib.blake2b(data, digest_size=8).digest())
    largest = draw.randrange(len(PIECES)) + 1
    start = 0
    while start < len(data):
        size = draw.choice(PIECES[:largest])
        yield data[start : start + size]
        start += size


Seen = tuple[list[tuple[Request | OneLine, int]], bool]


def observe(pieces: Iterable[bytes]) -> Seen:
    """Every request with the place where it ended, and whether the rest was refused.

    On the way: what is raised is a WireError, reading ends, and little is held.
    """
    reader = RequestReader()
    seen: list[tuple[Request | OneLine, int]] = []
    fed = end = 0
    try:
        for piece in pieces:
            reader.feed(piece)
            fed += len(piece)
            while (request := reader.next()) is not None:
                if isinstance(request, OneLine):
                    return [*seen, (request, 0)], False  # the end of the conversation, left where it is
                previous, end = end, fed - len(reader._buffer)
                assert previous < end <= fed, "a request of no bytes"
                seen.append((request, end))
                if not request.keep_alive:
                    return seen, False
            assert len(reader._buffer) <= MAX_HEAD_BYTES, "held too much"
            assert reader.is_empty == (not reader._buffer and reader._request is None)
    except WireError:
        return seen, True
    finally:
        reader.close()
    return seen, False


# The grammar.

_TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_ONE_LINE = re.compile(rb"(?:LIST|GET ([^\n]*?))\r?\n")
_START = re.compile(rb"(" + _TOKEN + rb") ([!-~]+) HTTP/1\.([01])")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):([\t -~\x80-\xff]*)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]+)(?:;[\t -~\x80-\xff]*)?")
_NUMBER = re.compile(rb"[0-9]+")
_ESCAPES = re.compile(rb"%[0-9A-Fa-f]{2}")
_NO_HOST = frozenset(b' \t"#%/<>?@[\\]^`{|}')

_KEPT = frozenset(
    b"accept accept-encoding authorization content-length expect host if-match if-modified-since if-none-match"
    b" if-range if-unmodified-since range referer transfer-encoding user-agent".split()
)


class NotGrammar(Exception):
    """The bytes are no request."""


class Head(NamedTuple):
    """A head as the grammar has it, and where it ends."""

    method: bytes
    target: bytes
    minor: int
    fields: dict[bytes, list[bytes]]
    end: int

    def members(self, name: bytes) -> list[bytes]:
        """The members of a field that is a list, in lower case."""
        values = b",".join(self.fields.get(name, []))
        return [member.strip(b" \t").lower() for member in values.split(b",") if member.strip(b" \t")]


def is_request(data: bytes, start: int, end: int, request: Request | OneLine) -> bool:
    """Whether `data` has just this request, at `start`, ending at `end`."""
    if isinstance(request, OneLine):
        return start == 0 and is_one_line(data, request)
    try:
        head = read_head(data, skip_empty_lines(data, start))
        check_host(head)
        return end == end_of_body(data, head, request.keep_alive) and is_as_read(head, request)
    except NotGrammar:
        return False


def is_one_line(data: bytes, request: OneLine) -> bool:
    """Whether `data` begins with a line of the other protocol, which HTTP cannot claim."""
    match = _ONE_LINE.match(data)
    if match is None or match[1] != request.name or len(match[0]) > MAX_LINE_BYTES + 1:
        return False
    _, space, version = (request.name or b"").rpartition(b" ")
    is_http = bool(space) and version[:5] == b"HTTP/" and re.fullmatch(rb"\d\.\d", version[5:]) is not None
    return not (is_http or (request.name or b"").startswith(b"/"))


def is_as_read(head: Head, request: Request) -> bool:
    """Whether the reader has found in the head what is there."""
    joined = {name: b", ".join(values) for name, values in head.fields.items() if name in _KEPT}
    options = head.members(b"connection")
    stays = b"close" not in options if head.minor else b"keep-alive" in options
    return (
        (request.method, request.target, request.minor) == (head.method, head.target, head.minor)
        and request.fields == joined
        and (stays or not request.keep_alive)
    )


def skip_empty_lines(data: bytes, start: int) -> int:
    while data[start : start + 2] == b"\r\n":
        start += 2
    return start


def line_at(data: bytes, start: int) -> tuple[bytes, int]:
    """The line that begins at `start`, without its CR LF, and where the next one does."""
    end = data.find(b"\r\n", start)
    if end < 0:
        raise NotGrammar
    return data[start:end], end + 2


def read_head(data: bytes, start: int) -> Head:
    line, place = line_at(data, start)
    match = _START.fullmatch(line)
    if match is None or len(match[2]) > MAX_TARGET_BYTES:
        raise NotGrammar
    fields, place = read_fields(data, place)
    if place - start > MAX_HEAD_BYTES or sum(map(len, fields.values())) > MAX_HEADERS:
        raise NotGrammar
    return Head(match[1], match[2], int(match[3]), fields, place)


def read_fields(data: bytes, place: int) -> tuple[dict[bytes, list[bytes]], int]:
    """Header or trailer lines up to and with the empty line."""
    fields: dict[bytes, list[bytes]] = {}
    while True:
        line, place = line_at(data, place)
        if not line:
            return fields, place
        match = _FIELD.fullmatch(line)
        if match is None:
            raise NotGrammar
        fields.setdefault(match[1].lower(), []).append(match[2].strip(b" \t"))


def check_host(head: Head) -> None:
    hosts = head.fields.get(b"host", [])
    if len(hosts) != 1 and (head.minor or hosts):
        raise NotGrammar
    if head.minor and head.fields.get(b"expect", [b"100-continue"])[0].lower() != b"100-continue":
        raise NotGrammar
    for host in hosts:
        name, colon, port = host.rpartition(b":")
        if not colon or port.endswith(b"]"):
            name, port = host, b""
        if port and not (_NUMBER.fullmatch(port) and len(port) <= 5):
            raise NotGrammar
        if name.startswith(b"["):
            if not re.fullmatch(rb"\[[0-9A-Za-z:._~-]+\]", name):
                raise NotGrammar
        elif b":" in name or any(byte in _NO_HOST or not 0x20 < byte < 0x7F for byte in _ESCAPES.sub(b"", name)):
            raise NotGrammar


def end_of_body(data: bytes, head: Head, keep_alive: bool) -> int:
    """Where the request ends. Of one that asks for another protocol no body is read, and nothing after it."""
    lengths, codings = head.fields.get(b"content-length", []), head.members(b"transfer-encoding")
    is_chunked = b"transfer-encoding" in head.fields
    if len(lengths) + is_chunked > 1:
        raise NotGrammar
    if lengths and not _NUMBER.fullmatch(lengths[0]):
        raise NotGrammar
    length = int(lengths[0]) if lengths else 0
    is_upgrade = b"upgrade" in head.fields and b"upgrade" in head.members(b"connection")
    if (is_upgrade or head.method == b"CONNECT") and not keep_alive and (length or is_chunked):
        return head.end
    if is_chunked and (codings[-1:] != [b"chunked"] or codings.count(b"chunked") > 1):
        raise NotGrammar
    if is_chunked and not head.minor and keep_alive:
        raise NotGrammar
    end = end_of_chunks(data, head.end) if is_chunked else head.end + length
    if end > len(data) or end - head.end > MAX_BODY_BYTES:
        raise NotGrammar
    return end


def end_of_chunks(data: bytes, place: int) -> int:
    while True:
        line, place = line_at(data, place)
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise NotGrammar
        size = int(match[1], 16)
        if size == 0:
            trailers, place = read_fields(data, place)
            if not {b"content-length", b"transfer-encoding"}.isdisjoint(trailers):
                raise NotGrammar
            return place
        place += size
        if data[place : place + 2] != b"\r\n":
            raise NotGrammar
        place += 2


def main(arguments: list[str]) -> None:
    """Fuzz until something is found, or as long as the options of libFuzzer say."""
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        sys.exit("fuzz_wire: atheris is missing; install it with: pip install atheris")
    folders = [argument for argument in arguments if not argument.startswith("-")]
    corpus = Path(folders[0] if folders else tempfile.mkdtemp(prefix="fuzz_wire_"))
    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        for number, seed in enumerate(SEEDS):
            (corpus / f"seed{number}").write_bytes(seed)
    # What is imported from here on tells the fuzzer which branches it took.
    del sys.modules["fileserver.wire"]
    with atheris.instrument_imports(include=["fileserver.wire", "tests.fuzz_wire"]):
        target = importlib.import_module("tests.fuzz_wire")
    atheris.Setup([sys.argv[0], *arguments, *([] if folders else [str(corpus)])], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
