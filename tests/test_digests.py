"""Repr-Digest: right wherever it is said, said to nobody who did not ask, and no burden to anybody else."""

import base64
import hashlib
import socket as native
import struct
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import gevent
import pytest
from gevent import socket

from fileserver import digests
from fileserver.digests import Digests
from fileserver.precompressed import Precompressed
from fileserver.root import DiskFailure, FileError
from fileserver.site import Site
from fileserver.store import Body
from lrucache import CHUNK_BYTES
from tests.exchange import split
from tests.house import Gate, House, connect, outcome, pattern, read_body, receive_all, wait_for
from tests.program import Program

MIB = 1 << 20
WANT = b"Want-Repr-Digest: sha-256=10"
SIZES = [
    *(0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1),
    *(MIB - 1, MIB, MIB + 1, 3 * MIB, 5 * MIB + 17),
]


class Hashing:
    """In the place of hashlib: real SHA-256, but `before` is asked first, in the thread, how much was hashed.

    Notes how many were `begun`, how many bytes were given to all of them together, the threads in which that was
    done, and in how many threads at once.
    """

    def __init__(self) -> None:
        self.begun = 0
        self.hashed = 0
        self.threads: set[int] = set()
        self.most_at_once = 0
        self.before: Callable[[int], None] = lambda hashed: None
        self._at_once = 0
        self._lock = threading.Lock()

    def sha256(self) -> "Watched":
        self.begun += 1
        return Watched(self)

    def enter(self) -> None:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.threads.add(threading.get_ident())

    def leave(self, length: int) -> None:
        with self._lock:
            self._at_once -= 1
            self.hashed += length


class Watched:
    """One SHA-256."""

    def __init__(self, hashing: Hashing) -> None:
        self._hashing = hashing
        self._real = hashlib.sha256()
        self._hashed = 0

    def update(self, piece: bytes | memoryview) -> None:
        self._hashing.enter()
        try:
            self._hashing.before(self._hashed)
            self._real.update(piece)
            self._hashed += len(piece)
        finally:
            self._hashing.leave(len(piece))

    def digest(self) -> bytes:
        return self._real.digest()


@pytest.fixture(autouse=True)
def hashing(monkeypatch: pytest.MonkeyPatch) -> Hashing:
    """What the room hashes, watched; and no machine is too slow for anybody's patience."""
    watched = Hashing()
    monkeypatch.setattr(digests, "hashlib", watched)
    monkeypatch.setattr(digests, "PATIENCE_S", 30.0)
    return watched


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[gevent.Timeout]:
    """One for each who began to wait for a digest."""
    begun: list[gevent.Timeout] = []

    class Noted(gevent.Timeout):
        def start(self) -> None:
            super().start()
            begun.append(self)

    monkeypatch.setattr(gevent, "Timeout", Noted)
    return begun


class Answer(NamedTuple):
    status: int
    fields: dict[bytes, bytes]
    body: bytes

    @property
    def digest(self) -> bytes | None:
        return self.fields.get(b"repr-digest")

    @property
    def origin(self) -> bytes:
        return self.fields[b"x-cache"]


def said_of(content: bytes) -> bytes:
    """The value of the field (RFC 9530 section 3, and RFC 9651 section 3.3.5 for its form)."""
    return b"sha-256=:%s:" % base64.b64encode(hashlib.sha256(content).digest())


def request(*lines: bytes, method: bytes = b"GET", target: bytes = b"/a") -> bytes:
    return b"\r\n".join((b"%b %b HTTP/1.1" % (method, target), b"Host: x", b"Connection: close", *lines, b"\r\n"))


def ask(port: int, *lines: bytes, method: bytes = b"GET", target: bytes = b"/a") -> Answer:
    """One request with more header lines, and everything that comes back."""
    with connect(port, request(*lines, method=method, target=target)) as client:
        answer = receive_all(client)
    assert answer.lower().count(b"\r\nrepr-digest:") <= 1
    return Answer(*split(answer))


def asking(port: int, count: int = 1, target: bytes = b"/a") -> "list[gevent.Greenlet[..., Answer]]":
    """So many who want a digest at once."""
    return [gevent.spawn(ask, port, WANT, target=target) for _ in range(count)]


def room_of(house: House) -> Digests:
    return house.site._files._digests


def is_at_rest(room: Digests) -> bool:
    """Nothing is being hashed or waits for it, and nothing is left of what was."""
    return not room._under_way and room._turns.free == 1


def digest_of(house: House, name: str = "a") -> bytes | None:
    """What the store keeps with the entry."""
    stored = house.store.describe(name).stored
    return stored.digest if stored is not None else None


def cached(house: House, names: str, size: int) -> dict[str, bytes]:
    """Files with different contents that are in the cache."""
    contents = {name: house.write(name, pattern(size, ord(name))) for name in names}
    for name in names:
        house.fetch(name)
    return contents


def evict(house: House, name: str = "a") -> None:
    """Take the file out of the cache; it is there."""
    entry = house.cache.find(name)
    assert entry is not None
    house.cache.discard(entry)


def hold_from(house: House, name: str, offset: int) -> Gate:
    """Reads of the file from there on wait at the gate."""
    gate = Gate()
    house.root.cold.add(name)
    house.root.before_read = lambda asked, at: gate.wait() if asked == name and at >= offset else None
    return gate


def held_back(hashing: Hashing, hashed: int = 0) -> Gate:
    """Who hashes waits at the gate when so much is hashed, and only the first."""
    gate = Gate()
    hashing.before = lambda now: gate.wait() if now == hashed and not gate.waiting else None
    return gate


# What is said.


@pytest.mark.parametrize("size", SIZES)
def test_the_digest_is_that_of_the_file_whatever_its_size(folder: Path, io: str, size: int) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        content = house.write("a", pattern(size, 3))
        for origin in (b"MISS", b"HIT", b"HIT"):
            answer = ask(port, WANT)
            assert (answer.status, answer.origin, answer.body) == (200, origin, content)
            assert answer.digest == said_of(content)


def test_the_field_has_the_form_of_a_dictionary_of_bytes() -> None:
    assert digests.field(bytes(range(32))) == (
        b"Repr-Digest: sha-256=:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=:\r\n"
    )
    assert digests.field(None) == b""


@pytest.mark.parametrize("is_cached", [False, True])
def test_a_part_has_the_digest_of_the_whole(folder: Path, io: str, is_cached: bool) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        content = house.write("a", pattern(MIB + 7))
        if is_cached:
            house.fetch("a")
        tag = house.store.describe("a").representation.etag.encode()
        for lines in ((), (b"If-Range: " + tag,), (b"If-Match: " + tag,)):
            status, _, body = answer = ask(port, WANT, b"Range: bytes=1000-1999", *lines)
            assert (status, body, answer.digest) == (206, content[1000:2000], said_of(content))
        answer = ask(port, WANT, b"Range: bytes=1000-1999", b'If-Range: "other"')
        assert (answer.status, answer.body, answer.digest) == (200, content, said_of(content))


def test_head_has_it_only_if_it_is_known_and_wanted(folder: Path, io: str, hashing: Hashing) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        content = house.write("a", pattern(MIB))

        def head(*lines: bytes) -> bytes | None:
            answer = ask(port, *lines, method=b"HEAD")
            assert (answer.status, answer.body) == (206 if len(lines) > 1 else 200, b"")
            return answer.digest

        assert head(WANT) is None
        assert ask(port).origin == b"MISS"
        assert head(WANT) is None
        assert hashing.begun == 0
        assert ask(port, WANT).digest == said_of(content)
        assert head(WANT) == head(WANT, b"Range: bytes=0-1") == said_of(content)
        assert head() is head(b"Want-Repr-Digest: sha-256=0") is head(b"Range: bytes=0-1", b"X: y") is None
        assert hashing.begun == 1
        house.replace("a", pattern(MIB, 5))
        house.clock.now_s += 1.1
        assert head(WANT) is None
        assert (hashing.begun, house.cache.stats().misses) == (1, 1)


@pytest.mark.parametrize(
    "line",
    [
        b"X: nothing",
        b"Want-Repr-Digest:",
        b"Want-Repr-Digest: sha-256=0",
        b"Want-Repr-Digest: sha-256=10, sha-256=0",
        b"Want-Repr-Digest: sha-256",
        b"Want-Repr-Digest: sha-512=10, sha-256=0",
        b"Want-Repr-Digest: sha-512=10",
        b"Want-Repr-Digest: sha-256=10\r\nWant-Repr-Digest: sha-256=0",
        b"Want-Content-Digest: sha-256=10",
        b"Want-Digest: sha-256",
        b"X-Want-Repr-Digest: sha-256=10",
        b"Repr-Digest: sha-256=10",
    ],
)
def test_who_does_not_want_it_is_not_told(folder: Path, hashing: Hashing, line: bytes) -> None:
    with House(folder) as house, house.serving() as port:
        content = house.write("a", pattern(MIB))
        house.write("b", b"other")
        for method in (b"GET", b"HEAD"):
            assert ask(port, line, method=method).digest is None
        assert hashing.begun == 0
        assert ask(port, WANT).digest == said_of(content)
        for method in (b"GET", b"HEAD"):
            assert ask(port, line, method=method).digest is None
            assert ask(port, line, b"Range: bytes=0-0", method=method).digest is None


@pytest.mark.parametrize(
    "lines",
    [
        (b"want-repr-digest: sha-256=1",),
        (b"WANT-REPR-DIGEST:sha-256=5",),
        (b"wANT-rEPR-dIGEST:\t sha-256=10 \t",),
        (b"Want-Repr-Digest: sha-512=10, sha-256=1",),
        (b"Want-Repr-Digest: sha-512=10", b"Want-Repr-Digest: sha-256=1"),
        (b"Want-Repr-Digest: sha-256=0", b"Want-Repr-Digest: sha-256=1"),
    ],
)
def test_it_is_wanted_in_every_way_of_writing_that(folder: Path, lines: tuple[bytes, ...]) -> None:
    with House(folder) as house, house.serving() as port:
        content = house.write("a", b"content")
        for _ in range(2):
            assert ask(port, *lines).digest == said_of(content)
            assert ask(port).digest is None


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize(
    ("method", "target", "line", "status"),
    [
        (b"GET", b"/a", b"If-None-Match: *", 304),
        (b"HEAD", b"/a", b"If-None-Match: *", 304),
        (b"GET", b"/a", b"If-Modified-Since: Tue, 01 Jan 2030 00:00:00 GMT", 304),
        (b"GET", b"/a", b'If-Match: "other"', 412),
        (b"HEAD", b"/a", b'If-Match: "other"', 412),
        (b"GET", b"/a", b"Range: bytes=9-", 416),
        (b"HEAD", b"/a", b"Range: bytes=9-", 416),
        (b"POST", b"/a", b"X: nothing", 405),
        (b"OPTIONS", b"/a", b"X: nothing", 204),
        (b"GET", b"/a/", b"X: nothing", 404),
        (b"GET", b"/missing", b"X: nothing", 404),
        (b"GET", b"/sub", b"X: nothing", 301),
        (b"GET", b"/sub/", b"X: nothing", 200),
        (b"GET", b"/", b"Accept: application/json", 200),
        (b"GET", b"/-/health", b"X: nothing", 200),
        (b"GET", b"/-/cache", b"X: nothing", 200),
        (b"GET", b"/%", b"X: nothing", 400),
    ],
)
def test_what_is_no_answer_with_a_file_never_has_it(
    folder: Path, hashing: Hashing, *, method: bytes, target: bytes, line: bytes, status: int, is_known: bool
) -> None:
    with House(folder) as house, house.serving() as port:
        content = house.write("a", b"content")
        house.write("sub/b", b"")
        if is_known:
            assert ask(port, WANT).digest == said_of(content)
        answer = ask(port, WANT, line, method=method, target=target)
        assert (answer.status, answer.digest) == (status, None)
        assert hashing.begun == is_known


def test_a_folder_that_is_answered_with_a_file_has_its_digest(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        content = house.write("sub/index.html", b"<p>content")
        answer = ask(port, WANT, target=b"/sub/")
        assert (answer.body, answer.digest) == (content, said_of(content))


def test_the_one_line_protocol_has_none(folder: Path, hashing: Hashing) -> None:
    with House(folder) as house, house.serving() as port:
        content = house.write("a", b"content")
        for begun in (0, 1):
            assert hashing.begun == begun
            with connect(port, b"GET a\n") as client:
                assert receive_all(client) == content
            assert ask(port, WANT).digest == said_of(content)


def test_a_precompressed_form_has_the_digest_of_its_own_bytes(folder: Path) -> None:
    with House(folder) as house:
        known = Precompressed(house.store, clock=house.clock)
        house.site = Site(house.store, clock=house.clock, precompressed=known)
        contents = {b"": house.write("a", b"content" * 100), b"gzip": house.write("a.gz", b"\x1f\x8bsmall")}
        contents[b"br"] = house.write("a.br", b"smaller")
        with house.serving() as port:
            for _ in range(2):
                for coding, content in contents.items():
                    for method in (b"GET", b"HEAD"):
                        answer = ask(port, WANT, b"Accept-Encoding: " + coding, method=method)
                        assert answer.fields.get(b"content-encoding", b"") == coding
                        assert answer.body == (content if method == b"GET" else b"")
                        assert answer.digest == said_of(content)


def test_web_pages_of_other_origins_may_want_it_and_read_it(folder: Path) -> None:
    with House(folder, cors="https://x.example") as house, house.serving() as port:
        content = house.write("a", b"content")
        preflight = ask(port, b"Access-Control-Request-Headers: want-repr-digest", method=b"OPTIONS")
        assert b"Want-Repr-Digest" in preflight.fields[b"access-control-allow-headers"].split(b", ")
        answer = ask(port, WANT)
        assert answer.digest == said_of(content)
        assert b"Repr-Digest" in answer.fields[b"access-control-expose-headers"].split(b", ")


# While the file is being read.


def test_a_miss_and_who_shares_it_wait_for_the_end_of_the_file(
    folder: Path, io: str, hashing: Hashing, waits: list[gevent.Timeout]
) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        content = house.write("a", pattern(3 * CHUNK_BYTES + 1))
        gate = hold_from(house, "a", 3 * CHUNK_BYTES)
        (first,) = asking(port)
        wait_for(lambda: gate.waiting)
        others = asking(port, 2)
        wait_for(lambda: len(waits) == 3)
        assert (house.site.traffic.bytes_sent, hashing.begun) == (0, 0)
        gate.open()
        answers = [each.get() for each in (first, *others)]
        assert [answer.origin for answer in answers] == [b"MISS", b"COALESCED", b"COALESCED"]
        assert {(answer.body, answer.digest) for answer in answers} == {(content, said_of(content))}
        assert (hashing.begun, len(waits)) == (1, 3)


def test_who_waits_for_a_file_keeps_nobody_from_the_digest_of_another(folder: Path, io: str) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        house.write("a", pattern(2 * CHUNK_BYTES))
        other = house.write("b", pattern(MIB))
        gate = hold_from(house, "a", CHUNK_BYTES)
        waiting = asking(port, 20)
        wait_for(lambda: gate.waiting and house.cache.stats().coalesced == 19)
        assert ask(port, WANT, target=b"/b").digest == said_of(other)
        gate.open()
        for each in waiting:
            assert each.get().status == 200


def receive_head(client: socket.socket) -> bytes:
    """Up to its end, and nothing behind it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = client.recv(1)
        assert piece
        head += piece
    return head


def test_a_file_that_is_read_slowly_comes_without_and_whole(
    folder: Path, io: str, hashing: Hashing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "PATIENCE_S", 0.01)
    with House(folder, io=io) as house, house.serving() as port:
        content = house.write("a", pattern(3 * CHUNK_BYTES + 1))
        gate = hold_from(house, "a", CHUNK_BYTES)
        with connect(port, request(WANT)) as client:
            head = receive_head(client)
            assert split(head)[0] == 200
            assert b"x-cache: miss" in head.lower()
            assert b"digest" not in head.lower()
            gate.open()
            assert receive_all(client) == content
        assert hashing.begun == 0
        monkeypatch.setattr(digests, "PATIENCE_S", 30.0)
        assert ask(port, WANT).digest == said_of(content)


@pytest.mark.parametrize("fault", ["open", "first chunk", "later chunk"])
def test_a_file_that_cannot_be_read_is_an_error_as_it_is_without(folder: Path, io: str, fault: str) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        house.write("a", pattern(3 * CHUNK_BYTES))
        house.root.cold.add("a")

        def fail(name: str, offset: int = -1) -> None:
            if {"open": -1, "first chunk": 0, "later chunk": 2 * CHUNK_BYTES}[fault] == offset:
                raise DiskFailure("EIO, said the test")

        house.root.before_open = fail
        house.root.before_read = fail
        with pytest.raises(DiskFailure):
            house.fetch("a")
        answer = ask(port, WANT)
        assert (answer.status, answer.digest) == (500, None)
        assert is_at_rest(room_of(house))
        house.root.before_open = lambda name: None
        house.root.before_read = lambda name, offset: None
        assert ask(port, WANT).digest == said_of(pattern(3 * CHUNK_BYTES))


def test_the_error_of_a_fill_is_raised_by_all_who_wait_for_its_digest(folder: Path, io: str) -> None:
    with House(folder, io=io) as house:
        house.write("a", pattern(2 * CHUNK_BYTES))
        gate = hold_from(house, "a", CHUNK_BYTES)
        room = Digests()
        bodies = [house.store.get("a") for _ in range(3)]
        waiting = [gevent.spawn(room.of, body) for body in bodies]
        wait_for(lambda: gate.waiting)
        (folder / "a").write_bytes(b"cut short")
        gate.open()
        gevent.joinall(waiting)
        assert [type(each.exception) for each in waiting] == [type(waiting[0].exception)] * 3
        assert isinstance(waiting[0].exception, FileError)
        for body in bodies:
            with pytest.raises(type(waiting[0].exception)):
                read_body(body)
            body.close()


def test_who_is_told_of_an_error_instead_of_a_digest_reads_no_longer(folder: Path, io: str) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        house.write("a", pattern(2 * CHUNK_BYTES))
        gate = hold_from(house, "a", CHUNK_BYTES)
        (first,) = asking(port)
        wait_for(lambda: gate.waiting)
        fill = house.store.fills.running("a")
        assert fill is not None
        assert fill.entry is not None
        assert fill.entry.readers == 1
        (folder / "a").write_bytes(b"cut short")
        gate.open()
        assert first.get().status == 503
        assert fill.entry.readers == 0


# Past the cache.


def test_what_is_larger_than_the_cache_comes_without(folder: Path, io: str, hashing: Hashing) -> None:
    with House(folder, io=io, capacity=MIB) as house, house.serving() as port:
        fits = house.write("fits", pattern(MIB))
        content = house.write("a", pattern(MIB + 1))
        assert ask(port, WANT, target=b"/fits").digest == said_of(fits)
        answer = ask(port, WANT)
        assert (answer.origin, answer.body, answer.digest) == (b"BYPASS", content, None)
        assert ask(port, WANT, b"Range: bytes=5-6").digest is None
        assert hashing.begun == 1


def test_what_the_policy_does_not_want_comes_without(folder: Path, io: str, hashing: Hashing) -> None:
    with House(folder, io=io, policy="gdsf", capacity=MIB) as house, house.serving() as port:
        house.write("small", pattern(CHUNK_BYTES))
        content = house.write("a", pattern(MIB))
        for _ in range(3):
            house.fetch("small")
        answer = ask(port, WANT)
        assert (answer.body, answer.digest, hashing.begun) == (content, None, 0)
        assert answer.fields[b"cache-status"] == b"gserver; fwd=bypass; detail=not-worth-it"


def test_what_has_no_room_beside_a_fill_comes_without(folder: Path, io: str, hashing: Hashing) -> None:
    with House(folder, io=io, capacity=4 * CHUNK_BYTES) as house, house.serving() as port:
        first = house.write("first", pattern(3 * CHUNK_BYTES))
        content = house.write("a", b"content")
        gate = hold_from(house, "first", CHUNK_BYTES)
        (filling,) = asking(port, target=b"/first")
        wait_for(lambda: gate.waiting)
        answer = ask(port, WANT)
        assert (answer.origin, answer.body, answer.digest, hashing.begun) == (b"BYPASS", content, None, 0)
        gate.open()
        assert filling.get().digest == said_of(first)


def test_a_version_that_took_the_name_during_a_fill_comes_without(folder: Path, io: str) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        old = house.write("a", pattern(2 * CHUNK_BYTES))
        gate = hold_from(house, "a", CHUNK_BYTES)
        (filling,) = asking(port)
        wait_for(lambda: gate.waiting)
        new = house.replace("a", b"new")
        house.clock.now_s += 1.1
        answer = ask(port, WANT)
        assert (answer.origin, answer.body, answer.digest) == (b"BYPASS", new, None)
        gate.open()
        assert (filling.get().body, filling.get().digest) == (old, said_of(old))


@pytest.mark.parametrize("size", [7, 3 * CHUNK_BYTES])
def test_what_is_too_young_to_be_kept_comes_without(folder: Path, io: str, size: int) -> None:
    with House(folder, io=io, revalidate_s=0.0) as house, house.serving() as port:
        content = house.write("a", pattern(size))
        house.wall_ns = (folder / "a").stat().st_ctime_ns
        answer = ask(port, WANT)
        assert (answer.status, answer.body, answer.digest) == (200, content, None)
        assert house.cache.stats().entries == 0


# From memory alone.


def kept(chunks: list[bytes]) -> int:
    """How many bytes of these are referred to by others."""
    alone = [bytes(bytearray(5))]
    return sum(
        len(chunks[place])
        for place in range(len(chunks))
        if sys.getrefcount(chunks[place]) > sys.getrefcount(alone[0])
    )


def test_what_is_evicted_while_it_is_hashed_comes_without_and_whole(
    folder: Path, io: str, hashing: Hashing
) -> None:
    with House(folder, io=io, capacity=5 * MIB) as house, house.serving() as port:
        content = house.write("a", pattern(4 * MIB))
        house.write("b", pattern(3 * MIB))
        house.fetch("a")
        chunks = list(house.cache.snapshot()[1][0].chunks)
        gate = held_back(hashing, hashed=MIB)
        (first,) = asking(port)
        wait_for(lambda: gate.waiting)
        house.fetch("b")
        assert house.cache.stats().evictions == 1
        assert kept(chunks) == MIB
        read_before = house.root.reads.count(("a", 0))
        gate.open()
        answer = first.get()
        assert (answer.origin, answer.body, answer.digest) == (b"HIT", content, None)
        assert hashing.hashed == 2 * MIB
        reads = [offset for name, offset in house.root.reads if name == "a"]
        assert read_before == 1
        assert reads == list(range(0, 4 * MIB, CHUNK_BYTES)) * 2
        wait_for(lambda: kept(chunks) == 0)
        assert is_at_rest(room_of(house))


def test_what_is_evicted_before_its_turn_comes_without(folder: Path, io: str, hashing: Hashing) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        contents = cached(house, "ab", MIB)
        gate = held_back(hashing)
        (first,) = asking(port, target=b"/b")
        wait_for(lambda: gate.waiting)
        (second,) = asking(port)
        wait_for(lambda: len(room_of(house)._under_way) == 2)
        evict(house)
        gate.open()
        assert first.get().digest == said_of(contents["b"])
        assert (second.get().body, second.get().digest) == (contents["a"], None)
        assert hashing.hashed == MIB


def test_what_is_evicted_when_all_of_it_was_handed_over_still_has_it(folder: Path, hashing: Hashing) -> None:
    with House(folder) as house, house.serving() as port:
        content = cached(house, "a", MIB + 1)["a"]
        gate = held_back(hashing, hashed=MIB)
        (first,) = asking(port)
        wait_for(lambda: gate.waiting)
        evict(house)
        gate.open()
        assert (first.get().body, first.get().digest) == (content, said_of(content))


@pytest.mark.parametrize("hashed", [0, 2 * MIB])
def test_a_mib_of_what_is_evicted_is_the_most_that_is_kept(folder: Path, hashing: Hashing, hashed: int) -> None:
    with House(folder) as house:
        cached(house, "a", 4 * MIB)
        body = house.store.get("a")
        assert body.entry is not None
        chunks = list(body.entry.chunks)
        gate = held_back(hashing, hashed=hashed)
        finding = gevent.spawn(Digests().of, body)
        wait_for(lambda: gate.waiting)
        evict(house)
        assert kept(chunks) == MIB
        gate.open()
        assert finding.get() is None
        wait_for(lambda: kept(chunks) == 0)
        body.close()


def test_wanting_it_asks_the_disk_for_nothing_more(folder: Path, io: str) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        asked = []
        for target, lines in ((b"/a", ()), (b"/b", (WANT,))):
            house.write(target[1:].decode(), pattern(MIB))
            for _ in range(2):
                ask(port, *lines, target=target)
            asked.append(
                (house.root.opens.copy(), house.root.looks.copy(), [offset for _, offset in house.root.reads])
            )
            for calls in (house.root.opens, house.root.looks, house.root.reads):
                calls.clear()
        assert asked[0] == (["a"], [], list(range(0, MIB, CHUNK_BYTES)))
        assert asked[1] == (["b"], [], list(range(0, MIB, CHUNK_BYTES)))


# Once for each entry.


def test_it_is_computed_when_it_is_first_wanted_and_kept(folder: Path, hashing: Hashing) -> None:
    with House(folder) as house, house.serving() as port:
        content = house.write("a", pattern(MIB + 1))
        for begun in (0, 1, 1, 1):
            assert hashing.begun == begun
            assert ask(port, WANT).digest == said_of(content)
        assert digest_of(house) == hashlib.sha256(content).digest()
        assert hashing.hashed == len(content)


def test_a_known_digest_costs_no_switch_of_greenlets_even_while_another_is_hashed(
    folder: Path, hashing: Hashing
) -> None:
    with House(folder) as house:
        contents = cached(house, "ab", MIB)
        room = Digests()
        body, other = house.store.get("a"), house.store.get("b")
        assert room.of(body) == hashlib.sha256(contents["a"]).digest()
        gate = held_back(hashing)
        finding = gevent.spawn(room.of, other)
        wait_for(lambda: gate.waiting)
        others: list[int] = []
        gevent.spawn(others.append, 1)
        assert room.of(body) == hashlib.sha256(contents["a"]).digest()
        assert others == []
        gate.open()
        assert finding.get() == hashlib.sha256(contents["b"]).digest()
        for each in (body, other):
            each.close()


def test_all_who_want_it_at_once_have_it_from_one_computation(
    folder: Path, hashing: Hashing, waits: list[gevent.Timeout]
) -> None:
    with House(folder) as house, house.serving() as port:
        content = cached(house, "a", 2 * MIB)["a"]
        gate = held_back(hashing)
        (first,) = asking(port)
        wait_for(lambda: gate.waiting)
        others = asking(port, 20)
        wait_for(lambda: len(waits) == 21)
        assert all(wait.pending for wait in waits)
        assert len(room_of(house)._under_way) == 1
        gate.open()
        for each in (first, *others):
            assert (each.get().body, each.get().digest) == (content, said_of(content))
        assert (hashing.begun, hashing.hashed) == (1, 2 * MIB)


def test_when_too_many_are_under_way_the_next_comes_without_at_once(
    folder: Path, hashing: Hashing, waits: list[gevent.Timeout]
) -> None:
    with House(folder) as house, house.serving() as port:
        contents = cached(house, "abcdefghijklmnopqrst", MIB)
        targets = [b"/" + name.encode() for name in contents]
        gate = held_back(hashing)
        greenlets = len(house._greenlets)
        waiting = [asking(port, target=target)[0] for target in targets[:16]]
        wait_for(lambda: gate.waiting and len(waits) == 16)
        for target, content in zip(targets[16:], [*contents.values()][16:], strict=True):
            answer = ask(port, WANT, target=target)
            assert (answer.status, answer.body, answer.digest) == (200, content, None)
        assert (hashing.begun, len(room_of(house)._under_way)) == (1, 16)
        assert len(house._greenlets) - greenlets == 2 * 16  # who asks, and who computes it
        waiting += asking(port, target=targets[15])
        wait_for(lambda: len(waits) == 21)
        gate.open()
        for each in waiting:
            assert each.get().digest == said_of(each.get().body)
        assert (hashing.begun, hashing.most_at_once) == (16, 1)
        assert ask(port, WANT, target=targets[16]).digest == said_of(contents["q"])


def test_a_file_that_changed_has_the_digest_of_what_it_is_now(folder: Path, io: str, hashing: Hashing) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        for version in range(3):
            content = house.replace("a", pattern(MIB + version, version))
            house.clock.now_s += 1.1
            for origin in (b"MISS", b"HIT"):
                answer = ask(port, WANT)
                assert (answer.origin, answer.body, answer.digest) == (origin, content, said_of(content))
            assert hashing.begun == version + 1


def test_a_file_that_changes_while_it_is_hashed_has_each_answer_with_its_own_digest(
    folder: Path, io: str, hashing: Hashing
) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        old = cached(house, "a", MIB)["a"]
        gate = held_back(hashing)
        (first,) = asking(port)
        wait_for(lambda: gate.waiting)
        new = house.replace("a", pattern(MIB, 9))
        house.clock.now_s += 1.1
        (second,) = asking(port)
        wait_for(lambda: len(room_of(house)._under_way) == 2)
        gate.open()
        answer = second.get()
        assert (answer.body, answer.digest) == (new, said_of(new))
        assert first.get().status == 503  # its version has gone from the disk and, meanwhile, from the cache
        assert old != new


def test_an_entry_that_is_stored_again_is_hashed_again(folder: Path, hashing: Hashing) -> None:
    with House(folder) as house, house.serving() as port:
        content = house.write("a", pattern(MIB))
        for begun in (1, 2):
            assert ask(port, WANT).digest == said_of(content)
            assert hashing.begun == begun
            evict(house)
            assert ask(port, WANT, method=b"HEAD").digest is None


# One at a time, beside the loop.


def test_a_crowd_that_wants_many_files_is_answered_rightly_one_after_the_other(
    folder: Path, io: str, hashing: Hashing
) -> None:
    with House(folder, io=io, capacity=6 * MIB) as house, house.serving() as port:
        contents = {
            b"/%d" % number: house.write(str(number), pattern(MIB + number, number)) for number in range(8)
        }
        for _ in range(2):
            asked = [(target, asking(port, 2, target=target)) for target in contents]
            for target, both in asked:
                for each in both:
                    answer = each.get()
                    assert answer.body == contents[target]
                    assert answer.digest in (None, said_of(contents[target]))
        assert hashing.begun >= 2
        assert hashing.most_at_once == 1
        assert is_at_rest(room_of(house))


def test_it_is_hashed_in_a_thread_of_its_own_while_the_loop_goes_on(folder: Path, hashing: Hashing) -> None:
    with House(folder) as house, house.serving() as port:
        content = cached(house, "a", 3 * MIB)["a"]
        other = house.write("b", b"other")
        busy = Gate()
        hub_pool = gevent.get_hub().threadpool
        others = [hub_pool.spawn(busy.wait) for _ in range(hub_pool.maxsize)]
        gates = {hashed: Gate() for hashed in range(0, 3 * MIB, CHUNK_BYTES)}
        hashing.before = lambda hashed: gates[hashed].wait()
        (first,) = asking(port)
        for gate in gates.values():
            wait_for(lambda: gate.waiting)  # noqa: B023
            assert ask(port, target=b"/b").body == other
            assert not first.ready()
            gate.open()
        assert first.get().digest == said_of(content)
        assert len(hashing.threads) == 1
        assert threading.get_ident() not in hashing.threads
        busy.open()
        for each in others:
            each.get()


def no_threads(patching: pytest.MonkeyPatch) -> None:
    """From here on the system starts no native thread."""

    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    patching.setattr("gevent.threadpool.start_new_thread", fail)


def test_where_no_thread_can_be_had_it_comes_without_until_there_is_one(folder: Path, hashing: Hashing) -> None:
    with House(folder) as house, house.serving() as port:
        content = cached(house, "a", 2 * MIB)["a"]
        with pytest.MonkeyPatch.context() as patching:
            no_threads(patching)
            for _ in range(3):
                answer = ask(port, WANT)
                assert (answer.status, answer.origin, answer.body) == (200, b"HIT", content)
                assert (answer.digest, digest_of(house)) == (None, None)
            assert hashing.hashed == 0
        assert ask(port, WANT).digest == said_of(content)


def test_where_no_thread_can_be_had_nothing_is_kept_for_one(folder: Path) -> None:
    with House(folder) as house, house.serving() as port, pytest.MonkeyPatch.context() as patching:
        no_threads(patching)
        cached(house, "a", 2 * MIB)
        chunks = list(house.cache.snapshot()[1][0].chunks)
        assert ask(port, WANT).digest is None
        evict(house)
        assert kept(chunks) == 0


@pytest.mark.parametrize("ending", ["done", "evicted", "no thread", "failure"])
def test_however_the_work_ends_nothing_is_left_of_it(folder: Path, hashing: Hashing, ending: str) -> None:
    def fail(_: int) -> None:
        raise ValueError("said the test")

    with House(folder) as house, pytest.MonkeyPatch.context() as patching:
        content = cached(house, "a", MIB)["a"]
        room = Digests()
        body = house.store.get("a")
        if ending == "evicted":
            evict(house)
        elif ending == "no thread":
            no_threads(patching)
        elif ending == "failure":
            hashing.before = fail
        is_done = ending == "done"
        for begun in (1, 1 if is_done else 2):
            assert room.of(body) == (hashlib.sha256(content).digest() if is_done else None)
            assert is_at_rest(room)
            assert hashing.begun == begun
            assert not len(room._thread)
        assert any(each.exception for each in house._greenlets) == (ending == "failure")
        body.close()


# Who goes.


def begin_and_leave(port: int, target: bytes) -> None:
    """Ask, and reset the connection before there is an answer."""
    with connect(port, request(WANT, target=target)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_clients_that_leave_meanwhile_stop_nothing_and_leave_no_trace(folder: Path, hashing: Hashing) -> None:
    with House(folder) as house, house.serving() as port:
        contents = cached(house, "abc", 2 * MIB)
        gate = held_back(hashing)
        for under_way, target in enumerate((b"/a", b"/b"), 1):
            begin_and_leave(port, target)
            wait_for(lambda: gate.waiting and len(room_of(house)._under_way) == under_way)  # noqa: B023
        (last,) = asking(port, target=b"/c")
        wait_for(lambda: len(room_of(house)._under_way) == 3)
        gate.open()
        assert last.get().digest == said_of(contents["c"])
        wait_for(lambda: not house.site.traffic.connections)
        assert is_at_rest(room_of(house))
        assert [entry.readers for entry in house.cache.snapshot()[1]] == [0, 0, 0]
        for target, name in ((b"/a", "a"), (b"/b", "b")):
            assert ask(port, WANT, target=target).digest == said_of(contents[name])
        assert hashing.begun == 3


@pytest.mark.parametrize("victims", [(0,), (1,), (3,), (0, 1, 2, 3)])
def test_who_is_killed_meanwhile_stops_nothing(
    folder: Path, hashing: Hashing, waits: list[gevent.Timeout], victims: tuple[int, ...]
) -> None:
    with House(folder) as house:
        contents = cached(house, "ab", 2 * MIB)
        expected = {name: hashlib.sha256(content).digest() for name, content in contents.items()}
        room = Digests()
        names = "aaab"
        bodies = [house.store.get(name) for name in names]
        gate = held_back(hashing, hashed=MIB)
        finding = [gevent.spawn(room.of, body) for body in bodies]
        wait_for(lambda: gate.waiting and len(waits) == 4)
        gevent.killall([finding[victim] for victim in victims])
        gate.open()
        for place, each in enumerate(finding):
            if place not in victims:
                assert each.get() == expected[names[place]]
        wait_for(lambda: is_at_rest(room))
        assert {name: digest_of(house, name) for name in "ab"} == expected
        assert (hashing.begun, hashing.hashed) == (2, 4 * MIB)
        for body in bodies:
            body.close()


def test_what_takes_longer_than_anybody_waits_is_absent_first_and_there_the_next_time(
    folder: Path, hashing: Hashing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "PATIENCE_S", 0.01)
    with House(folder) as house, house.serving() as port:
        content = cached(house, "a", 2 * MIB)["a"]
        gate = held_back(hashing, hashed=MIB)
        for _ in range(3):
            answer = ask(port, WANT)
            assert (answer.status, answer.body, answer.digest) == (200, content, None)
        gate.open()
        wait_for(lambda: is_at_rest(room_of(house)))
        assert ask(port, WANT).digest == said_of(content)
        assert (hashing.begun, hashing.hashed) == (1, 2 * MIB)


def test_one_is_hashed_at_a_time_and_who_waits_no_longer_leaves_the_file_in_its_place(
    folder: Path, hashing: Hashing, monkeypatch: pytest.MonkeyPatch
) -> None:
    with House(folder) as house, house.serving() as port:
        contents = cached(house, "abc", 2 * MIB)
        gate = held_back(hashing)
        (patient,) = asking(port)
        wait_for(lambda: gate.waiting)
        monkeypatch.setattr(digests, "PATIENCE_S", 0.01)
        for target in (b"/b", b"/c"):
            answer = ask(port, WANT, target=target)
            assert (answer.status, answer.digest) == (200, None)
        assert (hashing.begun, len(room_of(house)._under_way)) == (1, 3)
        gate.open()
        assert patient.get().digest == said_of(contents["a"])
        wait_for(lambda: is_at_rest(room_of(house)))
        for name, content in contents.items():
            assert digest_of(house, name) == hashlib.sha256(content).digest()
        assert (hashing.begun, hashing.most_at_once) == (3, 1)


def test_the_time_that_somebody_else_has_set_is_not_taken_for_ours(folder: Path, hashing: Hashing) -> None:
    with House(folder) as house:
        content = house.write("a", pattern(MIB))
        body = house.store.get("a")
        gate = held_back(hashing)
        room = Digests()
        mine = gevent.Timeout(0.01)
        with pytest.raises(gevent.Timeout) as raised, mine:
            room.of(body)
        assert raised.value is mine
        gate.open()
        assert room.of(body) == hashlib.sha256(content).digest()
        assert hashing.begun == 1
        body.close()


# What a body says of itself.


def test_the_entry_is_known_by_each_of_its_bodies_until_they_are_closed(folder: Path, io: str) -> None:
    with House(folder, io=io, capacity=MIB) as house:
        house.write("a", pattern(MIB))
        house.write("large", pattern(MIB + 1))
        miss, hit, bypass = (house.store.get(name) for name in ("a", "a", "large"))
        miss.wait_whole()
        assert outcome(bypass) == "bypass too-large"
        assert bypass.entry is None
        assert miss.entry is hit.entry is house.cache.find("a") is not None
        bypass.wait_whole()
        for body in (miss, hit, bypass):
            body.close()
            assert body.entry is None


def test_a_hit_is_whole_and_waits_for_nothing(folder: Path) -> None:
    with House(folder) as house:
        cached(house, "a", MIB)
        body = house.store.get("a")
        others: list[int] = []
        gevent.spawn(others.append, 1)
        body.wait_whole()
        assert others == []
        body.close()


def test_a_body_that_has_lost_its_entry_and_reads_from_disk_has_no_digest(folder: Path, hashing: Hashing) -> None:
    with House(folder) as house:
        content = cached(house, "a", MIB)["a"]
        body: Body = house.store.get("a")
        evict(house)
        assert read_body(body) == content
        assert body.entry is None
        assert Digests().of(body) is None
        assert hashing.begun == 0
        body.close()


# The program.


def receive_answer(program: Program, *lines: bytes, target: bytes, method: bytes = b"GET") -> Answer:
    """Over a socket that nobody has patched."""
    return Answer(*split(program.raw(request(*lines, method=method, target=target))))


def test_the_program_says_it_of_files_of_every_size_that_fit(start: Callable[..., Program], folder: Path) -> None:
    for number, size in enumerate(SIZES):
        (folder / str(number)).write_bytes(pattern(size, number))
    (folder / "large").write_bytes(pattern(16 * MIB + 1))
    program = start("--cache", "16MiB")
    for number, size in enumerate(SIZES):
        target, content = b"/%d" % number, pattern(size, number)
        assert receive_answer(program, target=target).digest is None
        for _ in range(60):  # a machine that is busy for a second may leave it out
            answer = receive_answer(program, WANT, target=target)
            assert (answer.status, answer.body) == (200, content)
            if answer.digest is not None:
                break
        assert answer.digest == said_of(content)
        assert receive_answer(program, WANT, target=target, method=b"HEAD").digest == said_of(content)
        if size:
            part = receive_answer(program, WANT, b"Range: bytes=-1", target=target)
            assert (part.status, part.body, part.digest) == (206, content[-1:], said_of(content))
    large = receive_answer(program, WANT, target=b"/large")
    assert (large.origin, len(large.body), large.digest) == (b"BYPASS", 16 * MIB + 1, None)


def test_many_clients_of_the_program_have_the_right_one_or_none(
    start: Callable[..., Program], folder: Path
) -> None:
    contents = {b"/%d" % number: pattern(MIB + number, number) for number in range(6)}
    for target, content in contents.items():
        (folder / target[1:].decode()).write_bytes(content)
    program = start("--cache", "4MiB")

    def ask_for_all(first: int) -> int:
        known = 0
        for target in [*contents][first:] + [*contents][:first]:
            answer = receive_answer(program, WANT, target=target)
            assert answer.body == contents[target]
            assert answer.digest in (None, said_of(contents[target]))
            known += answer.digest is not None
        return known

    with ThreadPoolExecutor(6) as clients:
        assert sum(clients.map(ask_for_all, range(6))) > 0
        with native.create_connection((program.host, program.port), timeout=30) as leaving:
            leaving.sendall(request(WANT, target=b"/0"))
        assert sum(clients.map(ask_for_all, range(6))) > 0
