"""The fast path beside the general one: the same requests both ways, with equal bytes and equal counts, and what
can happen around the wait in which it answers."""

import math
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import gevent
import pytest
from gevent import socket
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fileserver import conditional, digests, names, wire
from fileserver.accesslog import AccessLog
from fileserver.fastpath import JOIN_BYTES
from fileserver.fills import YOUNG_NS
from fileserver.heads import StatusLines
from fileserver.precompressed import Precompressed
from fileserver.root import SMALL_BYTES, Opened
from fileserver.site import Site
from fileserver.store import Body
from fileserver.tokens import Tokens
from fileserver.transport import SEND_BYTES, Buffer, Transport, Waiting
from lrucache import CHUNK_BYTES, Entry
from tests.exchange import GET, LAST, split
from tests.house import OLD_NS, Gate, House, connect, pattern, reap, receive_all, wait_for

WALL_S = 1_600_000_000.25

SIZES = {
    "empty": 0,
    "small": 1000,
    "almost": SMALL_BYTES - 1,
    "joined": JOIN_BYTES,
    "vectored": JOIN_BYTES + 1,
    "chunk": CHUNK_BYTES,
    "chunks": CHUNK_BYTES + 1,
    "large": 9 * CHUNK_BYTES + 5,
    "sub/inner": 10,
    "second": 10,
    "third": 10,
    "-/openapi.json": 10,
    "-/small": 10,
    ".git/config": 10,
    "azAZ09-._~!$&'()*+,;=:@": 10,
}

BROWSER = (
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nDNT: 1\r\n"
    b"Connection: keep-alive\r\nUpgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\n"
    b"Sec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\nSec-Fetch-User: ?1\r\nPriority: u=1\r\n"
    b"Pragma: no-cache\r\nCache-Control: no-cache\r\nReferer: http://x/\r\n"
)


def asks(fields: bytes = b"Host: x\r\n", name: bytes = b"small") -> bytes:
    """A request with these header lines."""
    return b"GET /%s HTTP/1.1\r\n%s\r\n" % (name, fields)


def filler(count: int) -> bytes:
    """So many header lines that mean nothing."""
    return b"".join(b"x-%d: y\r\n" % number for number in range(count))


def padded(length: int, fields: bytes = b"Host: x\r\n", name: bytes = b"small") -> bytes:
    """A plain request of so many bytes."""
    missing = length - len(asks(fields, name)) - len(b"Cookie: \r\n")
    return asks(fields + b"Cookie: %s\r\n" % (b"c" * missing), name)


@pytest.fixture(scope="module")
def house_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that no test changes: equal bytes need equal stamps."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_bytes(b"secret")
    folder = tmp_path_factory.mktemp("served")
    for name, size in SIZES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pattern(size, seed=len(name)))
        os.utime(path, ns=(OLD_NS, OLD_NS))
    (folder / "out").symlink_to(outside / "secret")
    (folder / "outside").symlink_to(outside)
    (folder / "link").symlink_to("small")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    return folder


class Told(NamedTuple):
    """What a conversation came to: the bytes, and all that was counted."""

    received: tuple[bytes, ...]
    counted: tuple[object, ...]
    entries: list[tuple[object, ...]]


class Talk:
    """A house that answers the fast way or the general one alone. Counts what went the general way."""

    def __init__(self, house: House, monkeypatch: pytest.MonkeyPatch, *, is_fast: bool) -> None:
        self.house = house
        self.general = 0
        house._statuses = StatusLines(lambda: WALL_S)
        house.site.has_fast_path = house.site.has_fast_path and is_fast
        for way in ("answer", "answer_line"):
            monkeypatch.setattr(house.site, way, self._counted(getattr(house.site, way)))

    def _counted(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*asked: Any) -> Any:
            self.general += 1
            return answer(*asked)

        return counted

    def say(self, *pieces: bytes, send_buffer: int = 0) -> bytes:
        """One connection: each piece is sent when the one before has been taken note of; then all that comes."""
        with self.talking(send_buffer=send_buffer) as (theirs, transport):
            for piece in pieces:
                with suppress(OSError):  # it may have ended
                    theirs.sendall(piece)
                self.wait_until_heard(transport)
            theirs.shutdown(socket.SHUT_WR)
            return receive_all(theirs)

    def wait_until_heard(self, transport: Transport) -> None:
        """Until what was sent has been received and answered, as far as the client takes the answer."""
        traffic = self.house.site.traffic
        wait_for(
            lambda: (
                transport not in traffic.connections
                or transport.waiting is Waiting.WRITABLE
                or (transport.waiting is not Waiting.NOTHING and transport.is_silent())
            )
        )

    @contextmanager
    def talking(self, *, send_buffer: int = 0) -> Iterator[tuple[socket.socket, Transport]]:
        """A client, and the transport of its connection, which has ended afterwards."""
        ours, theirs = socket.socketpair()
        if send_buffer:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        theirs.settimeout(20)
        connection = self.house.connection(ours)
        serving = gevent.spawn(connection.serve)
        with theirs:
            gevent.sleep(0)
            self.wait_until_heard(connection._transport)
            yield theirs, connection._transport
        serving.join(20)
        assert serving.ready()

    def told(self, *received: bytes) -> Told:
        """So far."""
        stats, entries = self.house.cache.snapshot()
        traffic = self.house.site.traffic
        assert stats.hits + stats.misses + stats.coalesced + stats.bypasses == traffic.file_answers
        return Told(
            received,
            (stats, traffic.file_answers, traffic.bytes_sent),
            [(one.name, one.size, one.hits, one.readers, one.used_s, one.sure_until_s) for one in entries],
        )


class Row(NamedTuple):
    """A conversation, which is had twice: the statuses it gives, and how many of its requests go the general way
    when the cache is cold and when it is warm, though the fast way is open (None: the kernel's affair)."""

    pieces: tuple[bytes, ...]
    statuses: tuple[int, ...]
    general: tuple[int, int] | None
    options: dict[str, Any] = {}  # noqa: RUF012 (read only)
    is_young: bool = False


def plain(*pieces: bytes, count: int = 1, **rest: Any) -> Row:
    """Answered the fast way from the first time on."""
    return Row(pieces, (200,) * count, (0, 0), **rest)


def stored(*pieces: bytes) -> Row:
    """Answered the fast way once it is stored."""
    return Row(pieces, (200,), (1, 0))


def general(piece: bytes, status: int, **rest: Any) -> Row:
    """Always answered the general way."""
    return Row((piece,), (status,), (1, 1), **rest)


def refused(piece: bytes, status: int = 400) -> Row:
    """Not answered by the site at all."""
    return Row((piece,), (status,), (0, 0))


TABLE = {
    # Files of all sizes.
    "a small file": plain(asks()),
    "an empty file": plain(asks(name=b"empty")),
    "the largest that is read in one go": plain(asks(name=b"almost")),
    "the largest that is joined to its head": stored(asks(name=b"joined")),
    "the smallest that is not": stored(asks(name=b"vectored")),
    "one chunk": stored(asks(name=b"chunk")),
    "two chunks": stored(asks(name=b"chunks")),
    "many chunks": stored(asks(name=b"large")),
    "a link": Row((asks(name=b"link"),), (200,), None),
    "a name with every character": plain(asks(name=b"azAZ09-._~!$&'()*+,;=:@")),
    "a file of a folder": plain(asks(name=b"sub/inner")),
    "a young file": Row((asks(),), (200,), (1, 0), is_young=True),
    # Heads.
    "a browser": plain(asks(b"Host: x\r\n" + BROWSER)),
    "Host last": plain(asks(BROWSER + b"Host: x\r\n")),
    "Host alone in lower case": plain(asks(b"host:x\r\n")),
    "Host with a port": plain(asks(b"Host: example.org:8080\r\n")),
    "Host of IPv6": plain(asks(b"Host: [::1]:8080\r\n")),
    "lower-case names": plain(asks(b"host: x\r\nuser-agent: y\r\naccept: */*\r\nconnection: keep-alive\r\n")),
    "a cookie": plain(asks(b"Host: x\r\nCookie: a=b; c=\"d\"; e=f,g\r\ncookie: h\r\n")),
    "a referer with spaces": plain(asks(b"Host: x\r\nReferer:   http://x/ y  \r\nUser-Agent:\r\n")),
    "two referers": plain(asks(b"referer: a\r\nHost: x\r\nReferer: b\r\nuser-agent: c\r\nUser-Agent: d\r\n")),
    "Connection: keep-alive": plain(asks(b"Host: x\r\nConnection: keep-alive\r\n"), asks(), count=2),
    "Connection: close": plain(asks(b"Host: x\r\nConnection: close\r\n")),
    "Connection: close before Host": plain(asks(b"connection: close\r\nHost: x\r\n")),
    "Connection: close and keep-alive": plain(
        asks(b"Host: x\r\nConnection: close\r\nConnection: keep-alive\r\n"), asks()
    ),
    "Connection: keep-alive and close": plain(
        asks(b"Connection: keep-alive\r\nHost: x\r\nConnection: close\r\n"), asks()
    ),
    "Connection: Close": general(asks(b"Host: x\r\nConnection: Close\r\n"), 200),
    "Connection: close among others": general(asks(b"Host: x\r\nConnection: foo, close\r\n"), 200),
    "many fields": plain(asks(filler(48) + b"Host: x\r\n" + filler(48))),
    "98 fields": general(asks(b"Host: x\r\n" + filler(97)), 200),
    "100 fields": general(asks(b"Host: x\r\n" + filler(99)), 200),
    "101 fields": refused(asks(b"Host: x\r\n" + filler(100)), 431),
    "a head shorter than what is read at once": plain(padded(wire.PLAIN_BYTES - 1)),
    "a head as long as what is read at once": general(padded(wire.PLAIN_BYTES), 200),
    "a head one byte longer": general(padded(wire.PLAIN_BYTES + 1), 200),
    "a head that is too long": refused(asks(b"Host: x\r\nCookie: %s\r\n" % (b"c" * 16384)), 431),
    # What asks for more than the whole of a file.
    "HTTP/1.0": general(b"GET /small HTTP/1.0\r\n\r\n", 200),
    "HTTP/1.0 that stays": general(b"GET /small HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200),
    "HTTP/2.0": refused(b"GET /small HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "HEAD": general(asks().replace(b"GET", b"HEAD"), 200),
    "POST": general(asks().replace(b"GET", b"POST"), 405),
    "a query": general(asks(name=b"small?a=b"), 200),
    "a percent escape": general(asks(name=b"sm%61ll"), 200),
    "a bad percent escape": general(asks(name=b"small%"), 400),
    "a fragment": general(asks(name=b"small#a"), 400),
    "an absolute target": general(b"GET http://x/small HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    "Range": general(asks(b"Host: x\r\nRange: bytes=1-3\r\n"), 206),
    "range": general(asks(b"range: bytes=1-3\r\nHost: x\r\n"), 206),
    "If-Range": general(asks(b"Host: x\r\nRange: bytes=1-3\r\nIf-Range: \"x\"\r\n"), 200),
    "If-None-Match": general(asks(b"Host: x\r\nIf-None-Match: *\r\n"), 304),
    "If-Match": general(asks(b"Host: x\r\nIf-Match: \"x\"\r\n"), 412),
    "If-Modified-Since": general(asks(b"Host: x\r\nIf-Modified-Since: Tue, 01 Jan 2030 00:00:00 GMT\r\n"), 304),
    "If-Unmodified-Since": general(
        asks(b"Host: x\r\nif-unmodified-since: Thu, 01 Jan 1970 00:00:00 GMT\r\n"), 412
    ),
    "Want-Repr-Digest": general(asks(b"Host: x\r\nWant-Repr-Digest: sha-256=1\r\n"), 200),
    "want-repr-digest": general(asks(b"want-repr-digest: sha-256=1\r\nHost: x\r\n", b"chunks"), 200),
    "WANT-REPR-DIGEST": general(asks(b"Host: x\r\nWANT-REPR-DIGEST: sha-256=0\r\n"), 200),
    "Want-Repr-Digest of a part": general(
        asks(b"Host: x\r\nWant-Repr-Digest: sha-256=1\r\nRange: bytes=1-3\r\n"), 206
    ),
    "Want-Repr-Digest, and then not": Row(
        (asks(), asks(b"Host: x\r\nWant-Repr-Digest: sha-256=1\r\n"), asks()), (200,) * 3, (1, 1)
    ),
    "Expect": refused(asks(b"Host: x\r\nExpect: more\r\n"), 417),
    "a body": general(asks(b"Host: x\r\nContent-Length: 3\r\n") + b"abc", 200),
    "a body in chunks": general(asks(b"Host: x\r\nTransfer-Encoding: chunked\r\n") + b"1\r\na\r\n0\r\n\r\n", 200),
    "a body that is a request": general(asks(b"Host: x\r\nContent-Length: %d\r\n" % len(asks())) + asks(), 200),
    "Upgrade": general(asks(b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"), 200),
    "TE": general(asks(b"Host: x\r\nTE: trailers\r\n"), 200),
    "Authorization": plain(asks(b"Host: x\r\nAuthorization: Bearer x\r\n")),
    # What is wrong with a head.
    "no Host": refused(asks(b"Accept: */*\r\n")),
    "two Hosts": refused(asks(b"Host: x\r\nHost: x\r\n")),
    "a Host that is none": refused(asks(b"Host: x/y\r\n")),
    "an empty Host": general(asks(b"Host:\r\n"), 200),
    "a NUL in a value": refused(asks(b"Host: x\r\nCookie: a\0b\r\n")),
    "a tab in a value": general(asks(b"Host: x\r\nCookie: a\tb\r\n"), 200),
    "an 8-bit value": general(asks(b"Host: x\r\nCookie: \xe4\r\n"), 200),
    "a bare LF": refused(asks(b"Host: x\nCookie: a\r\n")),
    "a bare CR": refused(asks(b"Host: x\r\nCookie: a\rb\r\n")),
    "a folded line": refused(asks(b"Host: x\r\nCookie: a\r\n b\r\n")),
    "a space before the colon": refused(asks(b"Host: x\r\nCookie : a\r\n")),
    "a line without a colon": refused(asks(b"Host: x\r\nCookie\r\n")),
    "8-bit in the target": refused(asks(name=b"\xc3\xa4"), 400),
    # Names.
    "a missing file": general(asks(name=b"missing"), 404),
    "a missing file of a file": general(asks(name=b"small/x"), 404),
    "a folder": general(asks(name=b"sub"), 301),
    "a folder's listing": general(asks(name=b"sub/"), 200),
    "the root's listing": general(asks(name=b""), 200),
    "a file with a slash behind": general(asks(name=b"small/"), 404),
    "two slashes": general(asks(name=b"sub//inner"), 404),
    "a slash in front": general(asks(name=b"/small"), 404),
    "a dot": general(asks(name=b"./small"), 404),
    "two dots": general(asks(name=b"sub/../small"), 404),
    "out of the root": general(asks(name=b"../small"), 404),
    "a hidden name": general(asks(name=b".git/config"), 404),
    "a hidden name that is shown": plain(asks(name=b".git/config"), options={"hidden": True}),
    "a link that leads out": general(asks(name=b"out"), 404),
    "a folder's link that leads out": general(asks(name=b"outside/secret"), 404),
    "a link to itself": general(asks(name=b"loop"), 404),
    "a pipe": general(asks(name=b"pipe"), 404),
    "a name that is too long": general(asks(name=b"a" * 256), 404),
    "the reserved folder": general(asks(name=b"-"), 301),
    "the dashboard": general(asks(name=b"-/"), 200),
    "a file of a folder called so": general(asks(name=b"-/small"), 404),
    "a page beside a file called so": general(asks(name=b"-/openapi.json"), 200),
    "health": general(asks(name=b"-/health"), 200),
    "LIST": general(asks(name=b"-/cache"), 200),
    # What the cache does not take.
    "a cache of nothing": plain(asks(), options={"capacity": 0}),
    "an empty file in a cache of nothing": plain(asks(name=b"empty"), options={"capacity": 0}),
    "a file larger than the cache": plain(asks(), options={"capacity": 999}),
    "the last request for a file larger than the cache": plain(LAST % b"small", options={"capacity": 999}),
    "a file larger than the cache to a web page": plain(asks(), options={"capacity": 999, "cors": "*"}),
    "a large file larger than the cache": general(asks(name=b"large"), 200, options={"capacity": CHUNK_BYTES}),
    "files that push each other out": Row(
        (asks(name=b"almost"), asks(name=b"azAZ09-._~!$&'()*+,;=:@"), asks(), asks(name=b"almost")),
        (200,) * 4,
        (0, 0),
        {"capacity": SMALL_BYTES + 5},
    ),
    "a file that is worth less than who would have to go": plain(
        asks(), asks(), asks(name=b"almost"), count=3, options={"policy": "gdsf", "capacity": SMALL_BYTES}
    ),
    "a file that is taken the second time": plain(
        asks(name=b"second"), asks(), asks(), asks(), count=4, options={"policy": "s3fifo", "capacity": 1005}
    ),
    "who was asked for last stays": Row(
        tuple(asks(name=name) for name in (b"second", b"third", b"second", b"sub/inner", b"second", b"-/cache")),
        (200,) * 6,
        (1, 1),
        {"capacity": 20},
    ),
    # Options of the site.
    "download": plain(asks(), options={"download": True}),
    "CORS": plain(asks(), options={"cors": "*"}),
    "CORS of one origin": stored(asks(name=b"joined"))._replace(options={"cors": "https://example.org"}),
    "a look at each request": plain(asks(), options={"revalidate_s": 0.0}),
    "a token, which is not there": general(asks(), 401, options={"tokens": Tokens([b"secret"])}),
    "a token": general(asks(b"Host: x\r\nAuthorization: Bearer a\r\n"), 200, options={"tokens": Tokens([b"a"])}),
    # Order on one connection.
    "two requests one after the other": plain(asks(), asks(name=b"empty"), count=2),
    "a request in two pieces": Row((asks()[:20], asks()[20:]), (200,), (1, 1)),
    "a request in three pieces": Row((asks()[:1], asks()[1:-1], asks()[-1:]), (200,), (1, 1)),
    "plain after pieces": Row((asks()[:20], asks()[20:], asks()), (200, 200), (1, 1)),
    "a pipeline": Row((asks() + asks(name=b"empty"),), (200, 200), (2, 2)),
    "one and a half": Row((asks() + asks()[:9], asks()[9:], asks()), (200,) * 3, (2, 2)),
    "plain and not in turns": Row(
        (asks(), asks(name=b"missing"), asks(), asks().replace(b"GET", b"HEAD"), asks()),
        (200, 404, 200, 200, 200),
        (2, 2),
    ),
    "nothing after Connection: close": plain(LAST % b"small", asks()),
    "nothing after Connection: close in one piece": Row((LAST % b"small" + asks(),), (200,), (1, 1)),
    "an empty line before a request": Row((asks(), b"\r\n" + asks()), (200, 200), (1, 1)),
    "no request": Row((), (), (0, 0)),
    "half a request": Row((asks()[:20],), (), (0, 0)),
    "half a request after a whole one": plain(asks(), asks()[:20]),
    # The one-line protocol is for the first line alone.
    "a line": Row((b"GET small\n",), (), (1, 1)),
    "a line for the list": Row((b"LIST\r\n",), (), (1, 1)),
    "a line after an answer": plain(asks(), b"GET small\n")._replace(statuses=(200, 400)),
    "the list after an answer": plain(asks(), b"LIST\n")._replace(statuses=(200, 400)),
    "a line after a large answer": Row((asks(name=b"large"), b"GET small\n"), (200, 400), (1, 0)),
    "a line after an error": Row((asks(name=b"missing"), b"GET small\n"), (404, 400), (1, 1)),
}  # fmt: skip


def had_both_ways(
    folder: Path,
    converse: Callable[[Talk], tuple[bytes, ...]],
    *,
    is_young: bool = False,
    **options: Any,
) -> tuple[Told, Told]:
    """What the same conversation comes to the fast way, and the general one."""
    told = []
    for is_fast in (True, False):
        with House(folder, **options) as house, pytest.MonkeyPatch.context() as patching:
            if is_young:  # however long the tests before this one took
                small = folder / "small"
                house.wall_ns = small.stat().st_ctime_ns + YOUNG_NS // 2 if small.exists() else time.time_ns()
            patching.setattr(digests, "PATIENCE_S", 30.0)  # however busy the machine is
            talk = Talk(house, patching, is_fast=is_fast)
            told.append(talk.told(*converse(talk)))
    return told[0], told[1]


@pytest.mark.parametrize("case", TABLE)
def test_both_ways_give_equal_bytes_and_equal_counts(house_folder: Path, io: str, case: str) -> None:
    row = TABLE[case]
    went_general = []
    reads_at_once = []

    def converse(talk: Talk) -> tuple[bytes, ...]:
        reads_at_once.append(talk.house.disk.read_settled("small", 2 * OLD_NS) is not None)
        received = []
        for _ in range(2):
            before = talk.general
            received.append(talk.say(*row.pieces))
            went_general.append(talk.general - before)
        return tuple(received)

    fast, slow = had_both_ways(house_folder, converse, io=io, is_young=row.is_young, **row.options)
    assert fast == slow
    for received in fast.received:
        assert tuple(map(int, re.findall(rb"HTTP/1\.1 (\d+) ", received))) == row.statuses
    if reads_at_once[0] and row.general is not None:
        assert tuple(went_general[:2]) == row.general


def logged(folder: Path, path: Path, *, is_fast: bool) -> list[bytes]:
    """The lines that every row of the table leaves in the access log, one after the other in one house."""
    access_log = AccessLog(str(path), clock=lambda: WALL_S)
    try:
        with House(folder, access_log=access_log) as house, pytest.MonkeyPatch.context() as patching:
            talk = Talk(house, patching, is_fast=is_fast)
            for row in TABLE.values():
                talk.say(*row.pieces)
                talk.say(*row.pieces, send_buffer=4096)
    finally:
        access_log.close()
    return path.read_bytes().splitlines()


def test_both_ways_log_the_same_lines(house_folder: Path, tmp_path: Path) -> None:
    fast = logged(house_folder, tmp_path / "fast", is_fast=True)
    slow = logged(house_folder, tmp_path / "slow", is_fast=False)
    for one, other in zip(fast, slow, strict=True):
        assert one == other
    assert len(fast) > 2 * len(TABLE)


def test_every_file_of_the_table_is_there(house_folder: Path) -> None:
    """Or its rows would compare errors."""
    for name, size in SIZES.items():
        assert (house_folder / name).stat().st_size == size


def test_where_there_are_precompressed_forms_every_request_goes_the_general_way(house_folder: Path) -> None:
    with House(house_folder) as house:
        assert not Site(house.store, precompressed=Precompressed(house.store, revalidate_s=1.0)).has_fast_path
        assert Site(house.store).has_fast_path


def test_a_plain_request_is_answered_beside_the_site(house_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with House(house_folder) as house:
        talk = Talk(house, monkeypatch, is_fast=True)
        status, fields, body = split(talk.say(asks()))
        assert (status, fields[b"x-cache"], body) == (200, b"MISS", pattern(1000, seed=5))
        assert fields[b"date"] == b"Sun, 13 Sep 2020 12:26:40 GMT"
        before = talk.general
        status, fields, body = split(talk.say(asks(b"Host: x\r\n" + BROWSER)))
        assert (status, fields[b"x-cache"], body) == (200, b"HIT", pattern(1000, seed=5))
        assert talk.general == before


@pytest.mark.parametrize("gap_s", [0.4, 0.6, 0.99, 1.0, 1.4, 5.0])
@pytest.mark.parametrize("name", [b"small", b"joined"])
@pytest.mark.parametrize("change", ["none", "replaced", "removed", "made a folder", "touched"])
@pytest.mark.parametrize("is_young", [False, True])
def test_a_stored_file_is_believed_as_long_both_ways(
    tmp_path: Path, gap_s: float, name: bytes, change: str, is_young: bool
) -> None:
    outcomes = []

    def converse(talk: Talk) -> tuple[bytes, ...]:
        house, path = talk.house, talk.house.folder / name.decode()
        if path.is_dir():
            path.rmdir()
        house.write(name.decode(), pattern(SIZES[name.decode()]))
        received = [talk.say(asks(name=name), asks(name=name))]
        if change == "replaced":
            house.replace(name.decode(), b"another")
        elif change == "touched":
            os.utime(path, ns=(OLD_NS, OLD_NS + 1))
        elif change != "none":
            path.unlink()
        if change == "made a folder":
            path.mkdir()
        for _ in range(3):
            house.clock.now_s += gap_s
            received.append(talk.say(asks(name=name), asks(name=name)))
        outcomes.append(
            re.findall(rb"HTTP/1.1 (?:[13-5]..)|X-Cache: (?:.*)|Content-Length: (?:.*)", b"".join(received))
        )
        return ()

    folder = tmp_path / "served"
    folder.mkdir()
    fast, slow = had_both_ways(folder, converse, is_young=is_young)
    assert outcomes[0] == outcomes[1]
    assert (fast.counted, fast.entries) == (slow.counted, slow.entries)


# Plain requests.


def read_as_one_request(head: bytes) -> None:
    """What `plain` takes is for the general parser one request for the same file, and for nothing more."""
    match = wire.plain(head)
    if match is None:
        return
    reader = wire.RequestReader()
    reader.feed(head)
    request = reader.next()
    assert isinstance(request, wire.Request)
    assert (request.method, request.minor) == (b"GET", 1)
    assert names.decode_target(request.target) == (match[1].decode(), b"")
    assert request.keep_alive is (match.lastindex == 1)
    assert conditional.FIELDS.isdisjoint(request.fields)
    assert {b"expect", b"content-length", b"transfer-encoding", b"want-repr-digest"}.isdisjoint(request.fields)
    assert reader.next() is None
    assert reader.is_empty
    assert not reader.expects_continue()


FIELD_NAMES = [
    *b"Host host HOST Connection connection CONNECTION Cookie cookie User-Agent Accept Accept-Encoding".split(),
    *b"Range range If-Range if-none-match If-Match IF-MODIFIED-SINCE Expect expect Content-Length".split(),
    *b"content-length Transfer-Encoding transfer-encoding TE Trailer Upgrade upgrade Proxy-Connection".split(),
    *b"Keep-Alive Cache-Control Pragma Priority Referer DNT Upgrade-Insecure-Requests X-Y Authorization".split(),
    *b"HTTP2-Settings Origin Sec-Fetch-Mode Date Link _x A Want-Repr-Digest want-repr-digest".split(),
]
VALUES = [
    *b"x x:80 [::1] [::1]:8080 x:123456 close Close keep-alive bytes=0-1 * 100-continue 0 3 chunked".split(),
    *b"websocket trailers gzip Upgrade".split(),
    b"",
    b"close, keep-alive",
    b"keep-alive, close",
    b"x y",
    b"x\ty",
    b"\x7f",
    b"\xe4",
    b"\0",
]
field_lines = st.builds(
    lambda name, colon, value, end: name + colon + value + end,
    st.sampled_from(FIELD_NAMES),
    st.sampled_from([b": ", b": ", b": ", b":", b":  ", b" : "]),
    st.sampled_from(VALUES),
    st.sampled_from([b"\r\n"] * 6 + [b"\n", b" \r\n", b"\r\n ", b"\r"]),
)
plain_lines = st.sampled_from(
    [b"Accept: */*\r\n", b"Connection: close\r\n", b"connection: keep-alive\r\n", b"Cookie: a=b\r\n"]
)
targets = st.one_of(
    st.sampled_from(
        [b"/small", b"/", b"//", b"/a:b@c", b"/..", b"small", b"*", b"/a%20b", b"/a?b", b"/a#b", b"/\xc3\xa4"]
    ),
    st.binary(max_size=6).map(lambda rest: b"/" + rest),
)
heads = st.builds(
    lambda start, target, version, before, after, end: (
        start + target + version + b"".join(before) + b"Host: x\r\n" + b"".join(after) + end
    ),
    st.sampled_from([b"GET "] * 6 + [b"get ", b"HEAD ", b"GET  ", b"\r\nGET "]),
    targets,
    st.sampled_from([b" HTTP/1.1\r\n"] * 6 + [b" HTTP/1.0\r\n", b" HTTP/1.1\n", b"\r\n", b"  HTTP/1.1\r\n"]),
    st.lists(plain_lines | field_lines, max_size=3),
    st.lists(plain_lines | field_lines, max_size=3),
    st.sampled_from([b"\r\n"] * 6 + [b"\n", b"", b"\r\n\r\n", b"\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n"]),
)


@settings(max_examples=500, deadline=None)
@given(heads)
@example(asks(b"Host: x\r\n" + BROWSER))
@example(asks(b"Connection: close\r\nHost: x\r\nConnection: keep-alive\r\n"))
@example(asks(b"Connection: keep-alive\r\nHost: x\r\nConnection: close\r\n"))
def test_what_is_plain_is_the_same_request_to_the_general_parser(head: bytes) -> None:
    read_as_one_request(head)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(
        [asks(), asks(b"Host: [::1]:80\r\n" + BROWSER), LAST % b"sub/inner", asks(b"a: b\r\nhost:x\r\n")]
    ),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 2), st.binary(max_size=2)), max_size=3),
)
def test_a_plain_request_with_some_bytes_changed_is_not_taken_for_another(
    head: bytes, changes: list[tuple[int, int, bytes]]
) -> None:
    for place, length, instead in changes:
        head = head[:place] + instead + head[place + length :]
    read_as_one_request(head)


@pytest.mark.parametrize(
    "line",
    [
        *(name + b": bytes=0-0" for name in sorted(conditional.FIELDS)),
        *(name.title() + b": *" for name in sorted(conditional.FIELDS)),
        *(name.upper() + b": *" for name in sorted(conditional.FIELDS)),
        *(b"%s: 3" % name for name in b"Content-Length content-length CONTENT-LENGTH cONTENT-lENGTH".split()),
        *(b"%s: chunked" % name for name in b"Transfer-Encoding transfer-encoding TRANSFER-ENCODING".split()),
        *(b"%s: 100-continue" % name for name in b"Expect expect EXPECT".split()),
        *(b"%s: websocket" % name for name in b"Upgrade upgrade UPGRADE".split()),
        *(
            b"%s: sha-256=10" % name
            for name in b"Want-Repr-Digest want-repr-digest WANT-REPR-DIGEST wANT-rEPR-dIGEST".split()
        ),
        *(
            b"Connection: %s" % value
            for value in (b"Close", b"upgrade", b"close, x", b"x", b"", b"keep-alive ", b"closed")
        ),
        *(b"%s: x" % name for name in b"Host host HOST TE te Trailer Proxy-Connection HTTP2-Settings".split()),
        b"Cookie : a",
        b"Accept : a",
        b"Cookie",
        b" Cookie: a",
        b": a",
        b"",
        b"Cookie: a\n",
        b"Cookie: a\rb",
        b"Cookie: \0",
        b"Cookie: \x7f",
        b"Cookie: \xe4",
    ],
)
@pytest.mark.parametrize("pattern", [b"%s\r\nHost: x\r\n", b"Host: x\r\n%s\r\n"])
def test_what_asks_for_more_than_a_whole_file_is_not_plain(line: bytes, pattern: bytes) -> None:
    assert wire.plain(asks(pattern % line)) is None
    assert wire.plain(asks(pattern % b"Cookie: a")) is not None


@pytest.mark.parametrize(
    "head",
    [
        b"",
        asks()[:-1],
        asks() + b"G",
        asks() + asks(),
        b"\r\n" + asks(),
        asks(b""),
        asks(b"Host:\r\n"),
        asks(b"Host: x/y\r\n"),
        asks(b"Host: x:123456\r\n"),
        asks(b"Host: [::1\r\n"),
        asks(name=b"a?b"),
        asks(name=b"a%20"),
        asks(name=b"a#b"),
        asks(name=b"a b"),
        asks(name=b'"'),
        asks(name=b"\xc3\xa4"),
        asks().replace(b"GET", b"HEAD"),
        asks().replace(b"GET", b"get"),
        asks().replace(b"1.1", b"1.0"),
        asks().replace(b" /", b" "),
        asks().replace(b"\r\n", b"\n"),
        asks(b"Host: x\r\n" + filler(100)),
    ],
)
def test_what_the_general_parser_may_see_otherwise_is_not_plain(head: bytes) -> None:
    assert wire.plain(head) is None


# Around the wait.


@pytest.fixture(params=[True, False], ids=["fast", "general"])
def is_fast(request: pytest.FixtureRequest) -> bool:
    """What is promised here holds both ways."""
    chosen: bool = request.param
    return chosen


@pytest.fixture
def talk(folder: Path, monkeypatch: pytest.MonkeyPatch, is_fast: bool) -> Iterator[Talk]:
    """A house with two small files."""
    with House(folder) as house:
        house.write("a", b"content")
        house.write("b", b"the other content")
        yield Talk(house, monkeypatch, is_fast=is_fast)


def take(client: socket.socket, length: int) -> bytes:
    """So many bytes."""
    content = b""
    while len(content) < length:
        content += (piece := client.recv(length - len(content)))
        assert piece, "it ended early"
    return content


def take_answer(client: socket.socket) -> bytes:
    """One answer, with its head."""
    content = b""
    while b"\r\n\r\n" not in content:
        content += take(client, 1)
    return content + take(client, int(split(content)[1][b"content-length"]))


def is_reset(client: socket.socket) -> bool:
    """Whether the connection ends in a reset, whatever comes before."""
    try:
        receive_all(client)
    except ConnectionResetError:
        return True
    return False


LARGE = pattern(9 * CHUNK_BYTES + 5)


def begin_large(talk: Talk, theirs: socket.socket, transport: Transport, request: bytes = GET % b"large") -> bytes:
    """Have an answer under way that waits for its client; the content it must be."""
    content = talk.house.write("large", LARGE)
    talk.house.fetch("large")
    talk.house.site.traffic.file_answers += 1
    theirs.sendall(request)
    wait_for(lambda: transport.waiting is Waiting.WRITABLE)
    return content


def test_a_slow_reader_gets_every_byte_and_the_next_answer(talk: Talk) -> None:
    with talk.talking(send_buffer=4096) as (theirs, transport):
        content = begin_large(talk, theirs, transport)
        assert split(take_answer(theirs))[2] == content
        theirs.sendall(LAST % b"a")
        assert split(receive_all(theirs))[2] == b"content"
    talk.told()


def test_a_request_for_what_is_being_read_shares_the_read(talk: Talk) -> None:
    house, gate = talk.house, Gate()
    house.root.cold.add("a")
    house.root.before_open = lambda name: gate.wait()
    with talk.talking() as (first, _), talk.talking() as (second, transport):
        first.sendall(LAST % b"a")
        wait_for(lambda: gate.waiting)
        house.root.cold.clear()
        second.sendall(LAST % b"a")
        wait_for(lambda: transport.waiting is Waiting.NOTHING and transport.is_silent())
        gate.open()
        answers = [split(receive_all(client)) for client in (first, second)]
    assert [(fields[b"x-cache"], body) for _, fields, body in answers] == [
        (b"MISS", b"content"),
        (b"COALESCED", b"content"),
    ]
    talk.told()


def test_no_more_than_one_call_may_send_is_offered_at_once(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = []

    def offer(transport: Transport, buffers: list[Buffer]) -> int:
        offered.append(sum(map(len, buffers[1:])))
        return original(transport, buffers)

    original = Transport.offer
    monkeypatch.setattr(Transport, "offer", offer)
    with talk.talking() as (theirs, transport):
        begin_large(talk, theirs, transport)
        take_answer(theirs)
    assert offered[0] == SEND_BYTES < len(LARGE)
    assert max(offered) == SEND_BYTES


def test_the_rest_of_an_answer_that_was_begun_is_not_counted_again(talk: Talk) -> None:
    with talk.talking(send_buffer=4096) as (theirs, transport):
        begin_large(talk, theirs, transport, LAST % b"large")
        received = receive_all(theirs)
    (entry,) = talk.house.cache.snapshot()[1]
    assert (entry.hits, entry.readers) == (1, 0)
    assert talk.house.site.traffic.bytes_sent == len(received)
    assert talk.house.site.traffic.file_answers == 2


def test_a_client_that_leaves_in_the_middle_leaves_no_trace(talk: Talk) -> None:
    with talk.talking(send_buffer=4096) as (theirs, transport):
        begin_large(talk, theirs, transport)
        (entry,) = talk.house.cache.snapshot()[1]
        assert entry.readers == 1
        theirs.close()
        wait_for(lambda: not talk.house.site.traffic.connections)
    assert entry.readers == 0
    assert not talk.house.site.traffic.idle
    talk.told()


def fill_buffer(ours: socket.socket) -> int:
    """Leave no room in a socket's send buffer; how many bytes that took."""
    taken = 0
    with suppress(BlockingIOError):
        while True:
            taken += ours.send(b"-")
    return taken


@pytest.mark.parametrize("name", [b"a", b"large"])
def test_an_answer_of_which_nothing_could_be_sent_at_once_comes_whole(talk: Talk, name: bytes) -> None:
    content = {b"a": b"content", b"large": talk.house.write("large", LARGE)}[name]
    talk.say(asks(name=name))
    with talk.talking(send_buffer=4096) as (theirs, transport):
        before = fill_buffer(transport.socket)
        theirs.sendall(LAST % name)
        wait_for(lambda: transport.waiting is Waiting.WRITABLE)
        take(theirs, before)
        assert split(receive_all(theirs))[2] == content
    talk.told()


@pytest.mark.parametrize("change", ["none", "replaced", "removed"])
def test_what_was_begun_is_finished_after_its_entry_was_evicted(talk: Talk, change: str) -> None:
    with talk.talking(send_buffer=4096) as (theirs, transport):
        content = begin_large(talk, theirs, transport)
        (entry,) = talk.house.cache.snapshot()[1]
        assert talk.house.cache.discard(entry)
        if change == "replaced":
            talk.house.replace("large", b"-" * len(content))
        elif change == "removed":
            (talk.house.folder / "large").unlink()
        assert split(take_answer(theirs))[2] == content


def test_what_was_begun_and_changed_on_the_disk_is_cut(talk: Talk) -> None:
    with talk.talking(send_buffer=4096) as (theirs, transport):
        content = begin_large(talk, theirs, transport)
        (entry,) = talk.house.cache.snapshot()[1]
        assert talk.house.cache.discard(entry)
        talk.house.write("large", b"-" * len(content), OLD_NS + 1)
        received = b""
        with suppress(ConnectionResetError):
            while piece := theirs.recv(1 << 16):
                received += piece
        assert content.startswith(split(received)[2])
        assert len(split(received)[2]) < len(content)
    assert not talk.house.site.traffic.connections


def test_what_was_not_begun_and_changed_on_the_disk_is_refused_or_answered_anew(
    talk: Talk, caplog: pytest.LogCaptureFixture
) -> None:
    talk.house.write("large", LARGE)
    talk.say(asks(name=b"large"))
    with talk.talking(send_buffer=4096) as (theirs, transport):
        before = fill_buffer(transport.socket)
        theirs.sendall(GET % b"large")
        wait_for(lambda: transport.waiting is Waiting.WRITABLE)
        (entry,) = talk.house.cache.snapshot()[1]
        assert talk.house.cache.discard(entry)
        talk.house.write("large", b"-" * len(LARGE), OLD_NS + 1)
        take(theirs, before)
        status, _, body = split(take_answer(theirs))
        assert status == 503 or (status, body) == (200, b"-" * len(LARGE))
        theirs.sendall(LAST % b"a")
        assert split(receive_all(theirs))[2] == b"content"
    assert not [record for record in caplog.records if record.exc_info]


def test_an_unexpected_error_in_the_rest_of_an_answer_is_a_reset_and_no_second_answer(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with talk.talking(send_buffer=4096) as (theirs, transport):
        begin_large(talk, theirs, transport)
        monkeypatch.setattr(Body, "read", lambda *_: 1 / 0)
        received = b""
        with suppress(ConnectionResetError):
            while piece := theirs.recv(1 << 16):
                received += piece
        assert received.count(b"HTTP/1.1 ") == 1
    assert [record.getMessage() for record in caplog.records] == ["a connection failed"]


def test_an_unexpected_error_after_a_slow_answer_is_answered_500(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with talk.talking(send_buffer=4096) as (theirs, transport):
        begin_large(talk, theirs, transport)
        take_answer(theirs)
        monkeypatch.setattr(talk.house.site, "answer", lambda _: 1 / 0)
        theirs.sendall(GET % b"a?")
        assert split(receive_all(theirs))[0] == 500
    assert len(caplog.records) == 1


def test_a_request_that_comes_too_slowly_after_a_slow_answer_is_answered_408(talk: Talk) -> None:
    with talk.talking(send_buffer=4096) as (theirs, transport):
        begin_large(talk, theirs, transport)
        take_answer(theirs)
        theirs.sendall(b"GET /a")
        wait_for(lambda: transport.waiting is Waiting.REST_OF_REQUEST)
        reap(talk.house)
        assert split(take_answer(theirs))[0] == 408


@pytest.mark.parametrize("name", [b"a", b"large"])
def test_the_last_answer_reaches_a_client_that_has_sent_more(folder: Path, is_fast: bool, name: bytes) -> None:
    """Closing on bytes that were not read resets, and what the client has not taken yet is lost."""
    with (
        House(folder) as house,
        house.serving(send_buffer=4096) as port,
        connect(port, receive_buffer=4096) as client,
    ):
        house.site.has_fast_path = is_fast
        content = {b"a": house.write("a", b"content"), b"large": house.write("large", LARGE)}[name]
        house.fetch(name.decode())
        house.clock.now_s += 0.1
        if name == b"large":
            client.sendall(LAST % name)
            wait_for(lambda: any(one.waiting is Waiting.WRITABLE for one in house.site.traffic.connections))
            client.sendall(b"x" * 1000)
        else:  # the request is exactly what is read at once
            request = padded(wire.PLAIN_BYTES, b"Host: x\r\nConnection: close\r\n", name)
            client.sendall(request + b"x" * 300_000)
        status, _, body = split(receive_all(client))
        assert (status, body) == (200, content)


# What the cache does not take.


def test_what_did_not_go_into_the_cache_says_why(house_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for policy, capacity, detail, asked in (
        ("lru", 999, b"too-large", 0),
        ("s3fifo", 1005, b"not-worth-it", 1),
        ("gdsf", 1005, b"not-worth-it", 1),
    ):
        with House(house_folder, policy=policy, capacity=capacity) as house:
            talk = Talk(house, monkeypatch, is_fast=True)
            talk.say(asks(name=b"second"))
            judge, general = house.cache._policy, talk.general
            with patch.object(judge, "admit", wraps=judge.admit) as admit:
                status, fields, body = split(talk.say(asks()))
            assert (talk.general, admit.call_count) == (general, asked)
            assert (status, fields[b"x-cache"], body) == (200, b"BYPASS", pattern(1000, seed=5))
            assert fields[b"cache-status"] == b"gserver; fwd=bypass; detail=" + detail


def test_no_room_beside_a_fill_is_the_same_both_ways(house_folder: Path) -> None:
    went_general = []

    def converse(talk: Talk) -> tuple[bytes, ...]:
        flying = talk.house.cache.reserve("flying", 5000, None)
        assert isinstance(flying, Entry)
        received = talk.say(asks(), asks(name=b"second"), asks())
        talk.house.cache.release(flying)
        went_general.append(talk.general)
        return (received, talk.say(asks()))

    fast, slow = had_both_ways(house_folder, converse, capacity=10_000)
    assert fast == slow
    assert fast.received[0].count(b"Cache-Status: gserver; fwd=bypass; detail=no-room\r\n") == 3
    assert b"X-Cache: MISS\r\n" in fast.received[1]
    assert went_general == [0, 3]


class Payload(bytes):
    """Content of a file; `alive` counts how much of it somebody still refers to."""

    alive = 0

    def __new__(cls, content: bytes) -> "Payload":
        cls.alive += 1
        return super().__new__(cls, content)

    def __del__(self) -> None:
        Payload.alive -= 1


@pytest.fixture
def uncached(folder: Path, monkeypatch: pytest.MonkeyPatch, is_fast: bool) -> Iterator[Talk]:
    """A house whose cache takes nothing, with "a" in its folder; what is read from the disk are Payloads."""
    with House(folder, capacity=0) as house:
        house.write("a", SMALL)
        root = house.root
        read, read_settled = root.read, root.read_settled

        def settled(name: str, before_ns: int) -> Opened | None:
            opened = read_settled(name, before_ns)
            return opened and opened._replace(first=Payload(opened.first or b""))

        monkeypatch.setattr(root, "read_settled", settled)
        monkeypatch.setattr(root, "read", lambda *args, **options: Payload(read(*args, **options)))
        yield Talk(house, monkeypatch, is_fast=is_fast)
        stats = house.cache.stats()
        assert (stats.bypasses, stats.hits, stats.misses, stats.coalesced) == (1, 0, 0, 0)
        assert house.site.traffic.file_answers == 1
    assert Payload.alive == 0


SMALL = pattern(SMALL_BYTES - 1, seed=7)


def test_who_takes_all_of_it_at_once_causes_one_read(uncached: Talk) -> None:
    with uncached.talking() as (theirs, _):
        theirs.sendall(GET % b"a")
        assert split(take_answer(theirs))[2] == SMALL
        wait_for(lambda: not Payload.alive)
    assert [name for name, _ in uncached.house.root.reads] == ["a"]


def begin_small(talk: Talk, theirs: socket.socket, transport: Transport) -> None:
    """Have the answer under way, of which the socket took the head and some of the content."""
    theirs.sendall(GET % b"a")
    wait_for(lambda: transport.waiting is Waiting.WRITABLE)
    assert 500 < talk.house.site.traffic.bytes_sent < len(SMALL)


def test_a_slow_client_has_the_rest_from_the_disk_and_no_payload_waits_for_it(uncached: Talk) -> None:
    with uncached.talking(send_buffer=4096) as (theirs, transport):
        begin_small(uncached, theirs, transport)
        assert Payload.alive == 0
        assert split(take_answer(theirs))[2] == SMALL
        assert uncached.house.site.traffic.bytes_sent > len(SMALL)
    first, *later = uncached.house.root.reads
    assert first == ("a", 0)
    assert later
    assert all(offset > 0 for _, offset in later)


@pytest.mark.parametrize("few", [0, 1, 100, 1000])
def test_every_byte_comes_however_few_are_taken_at_a_time(
    uncached: Talk, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    offers: list[int] = []

    def offer(transport: Transport, buffers: list[Buffer]) -> int:
        offers.append(len(offers))
        if few == 0 and len(offers) == 1:
            return 0
        return original(transport, [b"".join(buffers)[: few or None]])

    original = Transport.offer
    monkeypatch.setattr(Transport, "offer", offer)
    with uncached.talking() as (theirs, _):
        theirs.sendall(GET % b"a")
        assert split(take_answer(theirs))[2] == SMALL
    assert len(offers) > 1


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_what_was_begun_past_the_cache_is_finished_when_its_name_has_gone(uncached: Talk, change: str) -> None:
    with uncached.talking(send_buffer=4096) as (theirs, transport):
        begin_small(uncached, theirs, transport)
        if change == "replaced":
            uncached.house.replace("a", b"-" * len(SMALL))
        else:
            (uncached.house.folder / "a").unlink()
        assert split(take_answer(theirs))[2] == SMALL


def test_what_was_begun_past_the_cache_and_changed_is_cut(uncached: Talk) -> None:
    with uncached.talking(send_buffer=4096) as (theirs, transport):
        begin_small(uncached, theirs, transport)
        uncached.house.write("a", b"-" * len(SMALL), OLD_NS + 1)
        received = b""
        with suppress(ConnectionResetError):
            while piece := theirs.recv(1 << 16):
                received += piece
    body = split(received)[2]
    assert len(body) < len(SMALL)
    assert SMALL.startswith(body)


def test_a_client_that_leaves_in_the_middle_of_what_is_not_cached_leaves_no_trace(uncached: Talk) -> None:
    with uncached.talking(send_buffer=4096) as (theirs, transport):
        begin_small(uncached, theirs, transport)
        theirs.close()
        wait_for(lambda: not uncached.house.site.traffic.connections)


def test_what_is_not_cached_is_logged_as_a_bypass(folder: Path, tmp_path: Path, is_fast: bool) -> None:
    def converse(talk: Talk) -> None:
        large = SMALL_BYTES - 1
        talk.house.cache.capacity = 10
        talk.house.write("b", bytes(large))
        talk.say(asks(name=b"b"))
        talk.say(asks(name=b"a"))
        with talk.talking(send_buffer=4096) as (theirs, transport):
            theirs.sendall(GET % b"b")
            wait_for(lambda: transport.waiting is Waiting.WRITABLE)
            take_answer(theirs)

    lines = lines_of(converse, folder, tmp_path / "log", is_fast=is_fast)
    assert lines == [
        b"GET /b HTTP/1.1 200 16383 BYPASS",
        b"GET /a HTTP/1.1 200 7 MISS",
        b"GET /b HTTP/1.1 200 16383 BYPASS",
    ]


# Rest, deadlines and the end.


def rest(talk: Talk, theirs: socket.socket, transport: Transport) -> None:
    """Have one answer, and wait until the connection waits for the next request."""
    theirs.sendall(GET % b"a")
    assert split(take_answer(theirs))[2] == b"content"
    wait_for(lambda: transport.waiting is Waiting.REQUEST and transport in talk.house.site.traffic.idle)


def test_a_connection_that_rests_too_long_is_closed_without_a_word(talk: Talk) -> None:
    with talk.talking() as (theirs, transport):
        rest(talk, theirs, transport)
        assert transport.deadline_s == talk.house.clock.now_s + 60
        reap(talk.house)
        assert receive_all(theirs) == b""
    assert not talk.house.site.traffic.connections
    assert not talk.house.site.traffic.idle


def test_each_answer_puts_the_deadline_off(talk: Talk) -> None:
    with talk.talking() as (theirs, transport):
        for _ in range(3):
            rest(talk, theirs, transport)
            assert transport.deadline_s == talk.house.clock.now_s + 60
            talk.house.clock.now_s += 50


def test_whoever_was_answered_last_is_the_last_to_give_way(talk: Talk) -> None:
    traffic = talk.house.site.traffic
    with talk.talking() as (one, first), talk.talking() as (other, second):
        rest(talk, one, first)
        rest(talk, other, second)
        assert list(traffic.idle) == [first, second]
        rest(talk, one, first)
        assert list(traffic.idle) == [second, first]
        assert traffic.make_room()
        assert receive_all(other) == b""
        rest(talk, one, first)


def test_a_connection_that_gives_way_is_closed_without_a_word(talk: Talk) -> None:
    traffic = talk.house.site.traffic
    with talk.talking() as (theirs, transport):
        rest(talk, theirs, transport)
        assert traffic.make_room()
        assert not traffic.idle
        assert traffic.leaving == {transport}
        assert receive_all(theirs) == b""
    assert not traffic.leaving
    assert not traffic.connections


def test_who_has_sent_a_request_is_not_told_to_give_way(talk: Talk) -> None:
    with talk.talking() as (theirs, transport):
        rest(talk, theirs, transport)
        theirs.sendall(GET % b"b")
        assert not talk.house.site.traffic.make_room()
        assert split(take_answer(theirs))[2] == b"the other content"
        rest(talk, theirs, transport)


@pytest.mark.parametrize("word", ["expire", "make_room", "end_idle"])
@pytest.mark.parametrize(
    ("request_bytes", "status", "body"),
    [
        (GET % b"b", 200, b"the other content"),
        (LAST % b"b", 200, b"the other content"),
        (GET % b"missing", 404, b"no such file: missing\n"),
        (b"GET b\n", 400, b"lines end in CR LF\n"),
    ],
)
def test_a_request_that_crosses_the_end_of_the_wait_is_answered_as_the_last(
    talk: Talk, word: str, request_bytes: bytes, status: int, body: bytes
) -> None:
    traffic = talk.house.site.traffic
    with talk.talking() as (theirs, transport):
        rest(talk, theirs, transport)
        if word == "end_idle":
            traffic.draining = True
        {"expire": transport.expire, "make_room": traffic.make_room, "end_idle": traffic.end_idle}[word]()
        theirs.sendall(request_bytes)
        answer = split(receive_all(theirs))
        assert (answer[0], answer[1][b"connection"], answer[2]) == (status, b"close", body)
    talk.told()


def test_a_request_that_is_read_before_the_wait_is_ended_is_answered(talk: Talk) -> None:
    """The loop may have heard of both in one turn, and tell of the request first."""
    with talk.talking() as (theirs, transport):
        rest(talk, theirs, transport)
        theirs.sendall(GET % b"b")
        heard = transport._readable
        gevent.get_hub().loop.run_callback(heard.callback, *(heard.args or ()))
        transport.expire()
        assert split(take_answer(theirs))[2] == b"the other content"
        rest(talk, theirs, transport)
        assert transport.deadline_s < math.inf


def test_the_end_of_the_wait_does_not_reach_the_answer_that_has_begun(talk: Talk) -> None:
    gate = Gate()
    talk.house.root.cold.add("b")
    talk.house.root.before_open = lambda name: gate.wait()
    with talk.talking() as (theirs, transport):
        rest(talk, theirs, transport)
        theirs.sendall(GET % b"b")
        heard = transport._readable
        gevent.get_hub().loop.run_callback(heard.callback, *(heard.args or ()))
        transport.expire()
        wait_for(lambda: gate.waiting)
        gate.open()
        assert split(take_answer(theirs))[2] == b"the other content"


@pytest.mark.parametrize("word", ["make_room", "end_idle"])
def test_a_request_that_is_read_before_the_word_to_leave_has_its_effect_is_the_last(talk: Talk, word: str) -> None:
    traffic = talk.house.site.traffic
    with talk.talking() as (theirs, transport):
        rest(talk, theirs, transport)
        heard = transport._readable
        gevent.get_hub().loop.run_callback(heard.callback, *(heard.args or ()))
        traffic.draining = word == "end_idle"
        {"make_room": traffic.make_room, "end_idle": traffic.end_idle}[word]()
        theirs.sendall(GET % b"b")
        status, fields, body = split(receive_all(theirs))
        assert (status, fields[b"connection"], body) == (200, b"close", b"the other content")
    assert not traffic.leaving
    talk.told()


def test_an_end_of_another_wait_that_comes_too_late_is_none_of_this_one(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of a request and its deadline may be in one turn of the loop; then it rests again."""
    problems = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *problem: problems.append(problem))
    with talk.talking() as (theirs, transport):
        rest(talk, theirs, transport)
        theirs.sendall(b"GET /b HTTP/1.1\r\n")
        wait_for(lambda: transport.waiting is Waiting.REST_OF_REQUEST)
        theirs.sendall(b"Host: x\r\n\r\n")
        heard = transport._readable
        gevent.get_hub().loop.run_callback(heard.callback, *(heard.args or ()))
        transport.expire()
        assert split(take_answer(theirs))[2] == b"the other content"
        rest(talk, theirs, transport)
    assert problems == []


def test_an_answer_under_way_when_the_server_stops_is_finished_and_the_last(talk: Talk) -> None:
    traffic = talk.house.site.traffic
    with talk.talking(send_buffer=4096) as (theirs, transport):
        content = begin_large(talk, theirs, transport)
        traffic.draining = True
        traffic.end_idle()
        assert split(receive_all(theirs))[2] == content
    assert not traffic.connections


def test_what_comes_after_a_stop_is_the_last_and_says_so(talk: Talk) -> None:
    with talk.talking() as (theirs, transport):
        rest(talk, theirs, transport)
        talk.house.site.traffic.draining = True
        theirs.sendall(GET % b"b")
        talk.house.site.traffic.end_idle()
        status, fields, body = split(receive_all(theirs))
        assert (status, fields[b"connection"], body) == (200, b"close", b"the other content")


def test_a_stop_cuts_what_is_under_way(talk: Talk) -> None:
    with talk.talking(send_buffer=4096) as (theirs, transport):
        begin_large(talk, theirs, transport)
        assert talk.house.site.traffic.cut() == 1
        wait_for(lambda: not talk.house.site.traffic.connections)


def test_what_a_client_that_has_left_asked_for_is_counted_as_an_answer(talk: Talk) -> None:
    """Each hit is an answer, and each answer a hit or one of the other three: `told` sums them up."""
    talk.say(asks(name=b"a"))
    with talk.talking() as (theirs, _):
        theirs.sendall(GET % b"a")
        theirs.close()
        wait_for(lambda: not talk.house.site.traffic.connections)
    talk.told()


def lines_of(converse: Callable[[Talk], None], folder: Path, log: Path, *, is_fast: bool) -> list[bytes]:
    """Request line, status, bytes of the body, and where they came from, of all that is logged meanwhile."""
    access_log = AccessLog(str(log))
    try:
        with House(folder, access_log=access_log) as house, pytest.MonkeyPatch.context() as patching:
            house.write("a", b"content")
            converse(Talk(house, patching, is_fast=is_fast))
    finally:
        access_log.close()
    kept = re.findall(rb'"(.*?)" (\d+ \d+) ".*" ".*" (\S+) ', log.read_bytes())
    return [b" ".join(one) for one in kept]


def test_an_answer_that_nobody_took_is_logged(folder: Path, tmp_path: Path, is_fast: bool) -> None:
    def converse(talk: Talk) -> None:
        talk.say(asks(name=b"a"))
        with talk.talking() as (theirs, _):
            theirs.sendall(GET % b"a")
            theirs.close()
            wait_for(lambda: not talk.house.site.traffic.connections)

    lines = lines_of(converse, folder, tmp_path / "log", is_fast=is_fast)
    assert lines == [b"GET /a HTTP/1.1 200 7 MISS", b"GET /a HTTP/1.1 200 0 HIT"]


def test_a_request_is_logged_once_however_often_it_is_answered(
    folder: Path, tmp_path: Path, is_fast: bool
) -> None:
    def converse(talk: Talk) -> None:
        talk.house.write("large", LARGE)
        talk.house.fetch("large")
        with talk.talking(send_buffer=4096) as (theirs, transport):
            before = fill_buffer(transport.socket)
            theirs.sendall(LAST % b"large")
            wait_for(lambda: transport.waiting is Waiting.WRITABLE)
            talk.house.cache.discard(talk.house.cache.snapshot()[1][0])
            talk.house.write("large", b"-", OLD_NS + 1)
            take(theirs, before)
            receive_all(theirs)

    assert len(lines_of(converse, folder, tmp_path / "log", is_fast=is_fast)) == 1


def test_what_was_begun_and_left_is_logged_with_what_was_taken(
    folder: Path, tmp_path: Path, is_fast: bool
) -> None:
    def converse(talk: Talk) -> None:
        with talk.talking(send_buffer=4096) as (theirs, transport):
            begin_large(talk, theirs, transport)
            theirs.close()
            wait_for(lambda: not talk.house.site.traffic.connections)

    (line,) = lines_of(converse, folder, tmp_path / "log", is_fast=is_fast)
    request, taken, came = re.fullmatch(rb"(.*) 200 (\d+) (\S+)", line).groups()  # type: ignore[union-attr]
    assert (request, came) == (b"GET /large HTTP/1.1", b"HIT")
    assert 0 < int(taken) < len(LARGE)


def test_a_client_that_resets_while_it_rests_ends_its_connection_alone(
    folder: Path, is_fast: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with House(folder) as house, house.serving() as port, connect(port) as stays:
        house.site.has_fast_path = is_fast
        house.write("a", b"content")
        for _ in range(5):
            client = connect(port, GET % b"a")
            take_answer(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        stays.sendall(GET % b"a")
        assert split(take_answer(stays))[2] == b"content"
        wait_for(lambda: len(house.site.traffic.connections) == 1)
        assert len(house.site.traffic.idle) <= 1
    assert not caplog.records


def test_an_unexpected_error_while_it_listens_ends_that_connection_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with House(folder) as house:
        house.write("a", b"content")
        talk = Talk(house, monkeypatch, is_fast=True)
        with talk.talking() as (theirs, transport), talk.talking() as (others, other):
            rest(talk, theirs, transport)
            rest(talk, others, other)
            with monkeypatch.context() as patching:
                patching.setattr(wire, "plain", lambda *_: 1 / 0)
                theirs.sendall(GET % b"a")
                status, fields, body = split(receive_all(theirs))
            assert (status, fields[b"connection"], body) == (500, b"close", b"internal error\n")
            rest(talk, others, other)
            assert list(house.site.traffic.idle) == [other]
    assert [(one.getMessage(), one.exc_info is not None) for one in caplog.records] == [
        ("a connection failed", True)
    ]


def test_nothing_is_answered_after_the_last_answer(talk: Talk) -> None:
    with talk.talking() as (theirs, transport):
        rest(talk, theirs, transport)
        theirs.sendall(LAST % b"b")
        assert split(take_answer(theirs))[2] == b"the other content"
        assert theirs.recv(1) == b""
        with suppress(OSError):
            theirs.sendall(GET % b"a")
        assert theirs.recv(1) == b""
    assert talk.house.site.traffic.file_answers == 2


def test_nothing_is_answered_after_a_last_answer_that_was_slow(talk: Talk) -> None:
    with talk.talking(send_buffer=4096) as (theirs, transport):
        content = begin_large(talk, theirs, transport, LAST % b"large")
        theirs.sendall(GET % b"a")
        answers = b""
        with suppress(ConnectionResetError):
            while piece := theirs.recv(1 << 16):
                answers += piece
        assert answers.count(b"HTTP/1.1 ") == 1
        assert split(answers)[2] == content
    assert talk.house.site.traffic.file_answers == 2


def test_a_connection_that_answered_leaves_no_descriptor_behind(talk: Talk) -> None:
    with talk.talking(send_buffer=4096) as (theirs, transport):
        rest(talk, theirs, transport)
        begin_large(talk, theirs, transport)
        take_answer(theirs)
        theirs.shutdown(socket.SHUT_WR)
        assert receive_all(theirs) == b""
    assert transport.socket.fileno() == -1
    assert transport._listener is None
