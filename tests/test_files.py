"""Files over HTTP on loopback sockets: parts, conditions, precompressed forms, and what answers say and count."""

from pathlib import Path
from typing import NamedTuple

import gevent
import pytest

from fileserver import precompressed, root
from fileserver.precompressed import Precompressed
from fileserver.representation import Representation
from fileserver.site import Site
from fileserver.tokens import Tokens
from lrucache import CHUNK_BYTES
from tests.house import OLD_NS, Gate, House, connect, pattern, receive_all, wait_for

OLD = b"Sun, 09 Sep 2001 01:46:40 GMT"
SECOND_NS = 1_000_000_000
SIZE = 1000


class Answer(NamedTuple):
    status: int
    fields: dict[bytes, bytes]
    body: bytes


def parse(answer: bytes) -> Answer:
    """Field names in lower case; none comes twice but that which offers two ways to authenticate."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
    assert len(fields) == len(lines) - (b"www-authenticate" in fields)
    return Answer(int(first.split()[1]), fields, body)


def request(*lines: bytes, method: bytes = b"GET", target: bytes = b"/a") -> bytes:
    return b"\r\n".join((b"%b %b HTTP/1.1" % (method, target), b"Host: x", b"Connection: close", *lines, b"\r\n"))


def ask(port: int, *lines: bytes, method: bytes = b"GET", target: bytes = b"/a") -> Answer:
    """One request with more header lines, and everything that comes back."""
    with connect(port, request(*lines, method=method, target=target)) as client:
        return parse(receive_all(client))


def counted(house: House) -> dict[str, int]:
    """How many answers are counted, by where they came from; and that each is a file answer."""
    stats = house.cache.stats()
    counts = {
        "hits": stats.hits,
        "misses": stats.misses,
        "coalesced": stats.coalesced,
        "bypasses": stats.bypasses,
    }
    assert sum(counts.values()) == house.site.traffic.file_answers
    return {name: count for name, count in counts.items() if count}


def present(house: House, name: str = "a") -> Representation:
    return house.store.describe(name).representation


def tag_of(house: House, name: str = "a") -> bytes:
    return present(house, name).etag.encode()


# Parts.


@pytest.mark.parametrize(
    ("value", "start", "end"),
    [
        (b"0-0", 0, 1),
        (b"0-", 0, SIZE),
        (b"500-", 500, SIZE),
        (b"500-599", 500, 600),
        (b"999-", 999, SIZE),
        (b"990-2000", 990, SIZE),
        (b"-1", 999, SIZE),
        (b"-2000", 0, SIZE),
    ],
)
def test_a_part_is_these_bytes_and_says_which(folder: Path, io: str, value: bytes, start: int, end: int) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        content = house.write("a", pattern(SIZE))
        for origin in (b"MISS", b"HIT"):
            status, fields, body = ask(port, b"Range: bytes=" + value)
            assert (status, body) == (206, content[start:end])
            assert fields[b"content-range"] == b"bytes %d-%d/%d" % (start, end - 1, SIZE)
            assert fields[b"content-length"] == b"%d" % (end - start)
            assert fields[b"x-cache"] == origin


def test_the_head_of_a_part_is_that_of_the_whole_but_for_its_length(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("a", pattern(SIZE))
        house.fetch("a")
        whole, part = ask(port).fields, ask(port, b"Range: bytes=1-2").fields
        for fields in (whole, part):
            assert fields.pop(b"date")
        assert whole.pop(b"content-length") == b"1000"
        assert part.pop(b"content-length") == b"2"
        assert part.pop(b"content-range") == b"bytes 1-2/1000"
        assert whole == part
        assert part[b"accept-ranges"] == b"bytes"
        assert part[b"etag"] == tag_of(house)
        assert part[b"last-modified"] == OLD
        assert part[b"cache-status"] == b"gserver; hit"


@pytest.mark.parametrize(
    ("size", "value", "status"),
    [
        (SIZE, b"1000-", 416),
        (SIZE, b"-0", 416),
        (0, b"0-", 416),
        (0, b"0-0", 416),
        (0, b"-0", 416),
        (0, b"-5", 200),
        (0, b"5-4", 200),
        (SIZE, b"5-4", 200),
        (SIZE, b"0-0,5-5", 200),
    ],
)
def test_a_range_that_is_beyond_the_end_says_where_the_end_is(
    folder: Path, io: str, size: int, value: bytes, status: int
) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        content = house.write("a", pattern(size))
        for is_cached in (False, True):
            if is_cached:
                house.fetch("a")
            answer = ask(port, b"Range: bytes=" + value)
            assert answer.status == status
            if status == 416:
                assert answer.fields[b"content-range"] == b"bytes */%d" % size
                assert answer.body == b"the file has %d bytes\n" % size
                assert answer.fields[b"cache-control"] == b"no-store"
            else:
                assert answer.body == content
                assert b"content-range" not in answer.fields
            assert int(answer.fields[b"content-length"]) == len(answer.body)


@pytest.mark.parametrize("if_range", [b'"other"', b'W/"other"', b"Sun, 09 Sep 2001 01:46:39 GMT", b"nonsense"])
def test_a_part_of_another_version_is_the_whole_of_this_one(folder: Path, io: str, if_range: bytes) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        content = house.write("a", pattern(SIZE))
        status, fields, body = ask(port, b"Range: bytes=500-", b"If-Range: " + if_range)
        assert (status, body) == (200, content)
        assert b"content-range" not in fields
        for same in (tag_of(house), OLD):
            assert ask(port, b"Range: bytes=500-", b"If-Range: " + same).body == content[500:]


# Conditions.

NOT_MODIFIED = [b"If-None-Match: %b", b'If-None-Match: "other", W/%b', b"If-None-Match: *"]


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("line", [*NOT_MODIFIED, b"If-Modified-Since: " + OLD])
def test_a_304_says_what_a_cache_must_know_and_has_no_body(
    folder: Path, io: str, line: bytes, method: bytes, is_cached: bool
) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        house.write("a", pattern(SIZE))
        if is_cached:
            house.fetch("a")
        line = line.replace(b"%b", tag_of(house))
        status, fields, body = ask(port, line, method=method)
        assert (status, body) == (304, b"")
        assert fields.pop(b"date").endswith(b" GMT")
        assert fields == {
            b"etag": tag_of(house),
            b"last-modified": OLD,
            b"cache-control": b"no-cache",
            b"connection": b"close",
        }


def test_what_follows_a_304_on_a_connection_is_the_next_answer(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("a", b"content")
        first = b"GET /a HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\n\r\n"
        with connect(port, first * 2 + request()) as client:
            heads = receive_all(client).split(b"\r\n\r\n")
        assert [head.split()[1] for head in heads[:-1]] == [b"304", b"304", b"200"]
        assert heads[-1] == b"content"


@pytest.mark.parametrize(
    "line",
    [
        b'If-Match: "other"',
        b'If-Match: W/"other"',
        b"If-Unmodified-Since: Sun, 09 Sep 2001 01:46:39 GMT",
    ],
)
def test_a_condition_that_fails_is_412(folder: Path, io: str, line: bytes) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        house.write("a", pattern(SIZE))
        status, fields, body = ask(port, line, b"Range: bytes=0-1")
        assert (status, body) == (412, b"the file is another version\n")
        assert fields[b"cache-control"] == b"no-store"
        assert b"content-range" not in fields


def test_conditions_repeated_in_several_lines_are_one_list(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("a", b"content")
        lines = (b'If-None-Match: "other"', b"If-None-Match: " + tag_of(house))
        assert ask(port, *lines).status == 304


@pytest.mark.parametrize(
    "line",
    [
        b"X: nothing",
        b"Range: bytes=10-19",
        b"Range: bytes=1000-",
        b"If-None-Match: *",
        b'If-Match: "other"',
    ],
)
def test_head_is_the_head_of_get_for_parts_and_conditions_too(folder: Path, io: str, line: bytes) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        house.write("a", pattern(SIZE))
        house.fetch("a")
        get, head = ask(port, line), ask(port, line, method=b"HEAD")
        for answer in (get, head):
            assert answer.fields.pop(b"date")
        assert head == get._replace(body=b"")


def test_head_of_what_is_not_cached_does_not_say_where_it_would_come_from(folder: Path, io: str) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        house.write("a", pattern(SIZE))
        for line in (b"X: nothing", b"Range: bytes=10-19"):
            fields = ask(port, line, method=b"HEAD").fields
            assert not {b"x-cache", b"cache-status"} & set(fields)
        house.fetch("a")
        assert ask(port, method=b"HEAD").fields[b"x-cache"] == b"HIT"


# Counters.

NO_PAYLOAD = [
    (b"HEAD", b"X: nothing", 200),
    (b"HEAD", b"Range: bytes=0-9", 206),
    (b"HEAD", b"Range: bytes=1000-", 416),
    (b"HEAD", b"If-None-Match: *", 304),
    (b"GET", b"If-None-Match: *", 304),
    (b"GET", b"If-Modified-Since: " + OLD, 304),
    (b"GET", b'If-Match: "other"', 412),
    (b"GET", b"Range: bytes=1000-", 416),
]


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize(("method", "line", "status"), NO_PAYLOAD)
def test_an_answer_without_payload_reads_nothing_and_counts_nothing(
    folder: Path, io: str, *, method: bytes, line: bytes, status: int, is_cached: bool
) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        house.write("a", pattern(SIZE))
        if is_cached:
            house.fetch("a")
        before = house.cache.stats()
        house.root.opens.clear()
        house.root.reads.clear()
        assert ask(port, line, method=method).status == status
        assert (house.root.opens, house.root.reads) == ([], [])
        assert house.cache.stats() == before
        assert house.site.traffic.file_answers == 0


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"X: nothing", 200),
        (b"Range: bytes=0-9", 206),
        (b"Range: bytes=0-9,20-29", 200),
        (b'If-None-Match: "other"', 200),
        (b"If-Match: *", 200),
    ],
)
def test_an_answer_with_payload_counts_once(folder: Path, io: str, line: bytes, status: int) -> None:
    with House(folder, io=io, capacity=SIZE) as house, house.serving() as port:
        house.write("a", pattern(SIZE))
        house.write("larger", pattern(SIZE + 1))
        assert ask(port, line).status == status
        assert counted(house) == {"misses": 1}
        assert ask(port, line).status == status
        assert counted(house) == {"misses": 1, "hits": 1}
        assert ask(port, line, target=b"/larger").fields[b"x-cache"] == b"BYPASS"
        assert counted(house) == {"misses": 1, "hits": 1, "bypasses": 1}
        house.write("cold", pattern(10))
        house.root.cold.add("cold")
        gate = Gate()
        house.root.before_open = lambda name: gate.wait()
        asking = [gevent.spawn(ask, port, line, target=b"/cold") for _ in range(2)]
        wait_for(lambda: (fill := house.store.fills.running("cold")) is not None and fill._askers == 2)
        gate.open()
        assert [one.get().status for one in asking] == [status, status]
        assert counted(house) == {"misses": 2, "hits": 1, "bypasses": 1, "coalesced": 1}


# Parts of large files.


def test_a_part_of_a_cached_file_reads_no_disk(folder: Path, io: str) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        content = house.write("a", pattern(3 * CHUNK_BYTES))
        house.fetch("a")
        house.root.opens.clear()
        house.root.reads.clear()
        for start, end in ((0, 1), (CHUNK_BYTES - 5, CHUNK_BYTES + 5), (CHUNK_BYTES, 3 * CHUNK_BYTES)):
            answer = ask(port, b"Range: bytes=%d-%d" % (start, end - 1))
            assert answer.body == content[start:end]
        assert (house.root.opens, house.root.reads) == ([], [])


@pytest.mark.parametrize("start", [0, 10, CHUNK_BYTES - 10, CHUNK_BYTES])
def test_a_part_is_answered_when_its_chunks_are_there_and_the_fill_goes_on(
    folder: Path, io: str, start: int
) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        content = house.write("a", pattern(4 * CHUNK_BYTES))
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_read = lambda name, offset: gate.wait() if offset == 2 * CHUNK_BYTES else None
        status, fields, body = ask(port, b"Range: bytes=%d-%d" % (start, start + 99))
        assert (status, fields[b"x-cache"], body) == (206, b"MISS", content[start : start + 100])
        assert len(house.store.fills) == 1
        gate.open()
        wait_for(lambda: not len(house.store.fills))
        assert house.fetch("a") == ("hit", content)
        assert house.root.reads == [("a", number * CHUNK_BYTES) for number in range(4)]


def test_a_part_waits_for_its_own_chunks(folder: Path, io: str) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        content = house.write("a", pattern(3 * CHUNK_BYTES))
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_read = lambda name, offset: gate.wait() if offset == 2 * CHUNK_BYTES else None
        asking = gevent.spawn(ask, port, b"Range: bytes=-5")
        wait_for(lambda: gate.waiting)
        first = ask(port, b"Range: bytes=0-4")
        assert (first.fields[b"x-cache"], first.body) == (b"COALESCED", content[:5])
        assert not asking.ready()
        gate.open()
        assert asking.get().body == content[-5:]


def test_a_part_of_a_file_that_is_larger_than_the_cache_reads_only_that_part(folder: Path, io: str) -> None:
    with House(folder, io=io, capacity=CHUNK_BYTES) as house, house.serving() as port:
        content = house.write("a", pattern(8 * CHUNK_BYTES))
        for start, end, offsets in (
            (3 * CHUNK_BYTES + 7, 3 * CHUNK_BYTES + 9, [3 * CHUNK_BYTES + 7]),
            (10, CHUNK_BYTES + 20, [10, CHUNK_BYTES + 10]),
            (8 * CHUNK_BYTES - 1, 8 * CHUNK_BYTES, [8 * CHUNK_BYTES - 1]),
        ):
            house.root.reads.clear()
            status, fields, body = ask(port, b"Range: bytes=%d-%d" % (start, end - 1))
            assert (status, fields[b"x-cache"], body) == (206, b"BYPASS", content[start:end])
            assert fields[b"cache-status"] == b"gserver; fwd=bypass; detail=too-large"
            assert house.root.reads == [("a", offset) for offset in offsets]


def test_a_download_that_is_cut_and_resumed_again_and_again_is_the_file(folder: Path, io: str) -> None:
    with House(folder, io=io) as house, house.serving(send_buffer=1 << 16) as port:
        content = house.write("a", pattern(9 * CHUNK_BYTES + 7))
        house.root.cold.add("a")
        tag = tag_of(house)
        received = b""
        for wanted in (1, 1000, CHUNK_BYTES, 3 * CHUNK_BYTES + 1, CHUNK_BYTES - 3):
            lines = (b"Range: bytes=%d-" % len(received), b"If-Range: " + tag)
            with connect(port, request(*lines)) as client:
                answer = b""
                while len(answer.partition(b"\r\n\r\n")[2]) < wanted:
                    answer += client.recv(max(1000, wanted))
                assert parse(answer).status == 206
                received += parse(answer).body
        rest = ask(port, b"Range: bytes=%d-" % len(received), b"If-Range: " + tag)
        assert received + rest.body == content
        assert len(rest.body) > 0


def test_a_download_of_a_file_that_was_replaced_meanwhile_begins_anew(folder: Path, io: str) -> None:
    with House(folder, io=io, revalidate_s=0) as house, house.serving() as port:
        house.write("a", pattern(SIZE))
        tag = ask(port).fields[b"etag"]
        new = house.replace("a", pattern(SIZE, 7))
        status, fields, body = ask(port, b"Range: bytes=500-", b"If-Range: " + tag)
        assert (status, body) == (200, new)
        assert fields[b"etag"] not in (tag, b"")


# A file that is replaced between the look and the body is judged again.


@pytest.mark.parametrize("capacity", [1 << 20, 1])
@pytest.mark.parametrize(
    ("lines", "status", "body"),
    [
        ((b"Range: bytes=2-",), 206, b"xt version"),
        ((b"Range: bytes=50-",), 416, b"the file has 12 bytes\n"),
        ((b"Range: bytes=2-", b"If-Range: %b"), 200, b"next version"),
        ((b"Range: bytes=2-", b"If-Range: " + OLD), 200, b"next version"),
        ((b"If-Match: %b",), 412, b"the file is another version\n"),
        ((b"If-Unmodified-Since: " + OLD,), 200, b"next version"),
        ((b"If-Modified-Since: Sun, 09 Sep 2001 01:46:39 GMT",), 304, b""),
        ((b'If-None-Match: "other"',), 200, b"next version"),
    ],
)
def test_a_file_replaced_between_the_look_and_the_body_is_judged_again(
    folder: Path, io: str, *, capacity: int, lines: tuple[bytes, ...], status: int, body: bytes
) -> None:
    with House(folder, io=io, capacity=capacity) as house, house.serving() as port:
        house.write("a", pattern(SIZE))
        old_tag = tag_of(house)
        house.root.cold.add("a")
        looks = len(house.root.looks)

        def replace(name: str) -> None:
            house.root.before_open = lambda name: None
            assert len(house.root.looks) == looks + 1
            house.replace("a", b"next version", OLD_NS - SECOND_NS)

        house.root.before_open = replace
        answer = ask(port, *(line.replace(b"%b", old_tag) for line in lines))
        assert (answer.status, answer.body) == (status, body)
        if status in (200, 206, 304):
            assert answer.fields[b"etag"] == tag_of(house) != old_tag
        # It was counted before it was known to be none, but once, like every other.
        assert counted(house) == {"misses" if capacity > 1 else "bypasses": 1}
        wait_for(lambda: not len(house.store.versions))


# Methods and targets.


@pytest.mark.parametrize("target", [b"*", b"/a", b"/missing", b"/", b"/-/health", b"http://x/a", b"/a?b"])
def test_options_says_what_may_be_asked(folder: Path, target: bytes) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("a", b"content")
        status, fields, body = ask(port, method=b"OPTIONS", target=target)
        assert (status, body) == (204, b"")
        assert fields.pop(b"date")
        assert fields == {b"allow": b"GET, HEAD, OPTIONS", b"connection": b"close"}
        assert house.root.opens == house.root.looks == []


@pytest.mark.parametrize("target", [b"a", b"**", b"/%", b"/%00", b"ftp://x/a", b"http:///a"])
def test_options_of_what_is_no_target_is_400(folder: Path, target: bytes) -> None:
    with House(folder) as house, house.serving() as port:
        assert ask(port, method=b"OPTIONS", target=target).status == 400


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_only_options_asks_about_the_server_itself(folder: Path, method: bytes) -> None:
    with House(folder) as house, house.serving() as port:
        assert ask(port, method=method, target=b"*").status == 400


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"TRACE", b"PATCH", b"PROPFIND"])
@pytest.mark.parametrize("target", [b"/a", b"/missing", b"*", b"/-/health"])
def test_other_methods_are_405_and_told_which_are_not(folder: Path, method: bytes, target: bytes) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("a", b"content")
        status, fields, body = ask(port, method=method, target=target)
        assert (status, fields[b"allow"]) == (405, b"GET, HEAD, OPTIONS")
        assert body == b"only GET, HEAD, OPTIONS are allowed\n"
        assert house.root.opens == house.root.looks == []
        assert (folder / "a").read_bytes() == b"content"


@pytest.mark.parametrize(
    "target",
    [
        b"/a",
        b"/a?",
        b"/a?b",
        b"/a?/b?c=%",
        b"/%61",
        b"http://x/a",
        b"HTTP://x:80/a?b",
        b"https://other.example/a",
    ],
)
def test_a_target_asks_for_its_path(folder: Path, target: bytes) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("a", b"content")
        assert ask(port, target=target).body == b"content"


# --cors and --download.

EVERYWHERE = [
    (b"GET", b"/a", b"X: nothing", 200),
    (b"HEAD", b"/a", b"X: nothing", 200),
    (b"GET", b"/a", b"Range: bytes=0-1", 206),
    (b"GET", b"/a", b"Range: bytes=99-", 416),
    (b"GET", b"/a", b"If-None-Match: *", 304),
    (b"GET", b"/a", b'If-Match: "other"', 412),
    (b"GET", b"/missing", b"X: nothing", 404),
    (b"GET", b"/sub", b"X: nothing", 301),
    (b"GET", b"/sub/", b"X: nothing", 200),
    (b"GET", b"/%", b"X: nothing", 400),
    (b"POST", b"/a", b"X: nothing", 405),
    (b"GET", b"/-/health", b"X: nothing", 200),
    (b"GET", b"/-/cache", b"X: nothing", 200),
    (b"OPTIONS", b"/a", b"Origin: https://x.example", 204),
    (b"OPTIONS", b"*", b"X: nothing", 204),
]


@pytest.mark.parametrize("origin", [None, "*", "https://x.example"])
@pytest.mark.parametrize(("method", "target", "line", "status"), EVERYWHERE)
def test_every_answer_says_which_pages_may_read_it(
    folder: Path, *, method: bytes, target: bytes, line: bytes, status: int, origin: str | None
) -> None:
    with House(folder, cors=origin) as house, house.serving() as port:
        house.write("a", b"content")
        house.write("sub/b", b"")
        answer = ask(port, line, method=method, target=target)
        assert answer.status == status
        said = {name: value for name, value in answer.fields.items() if name.startswith(b"access-control-")}
        if origin is None:
            assert said == {}
            return
        assert said.pop(b"access-control-allow-origin") == origin.encode()
        exposed = set(said.pop(b"access-control-expose-headers").split(b", "))
        assert exposed >= {b"ETag", b"Content-Range", b"Accept-Ranges", b"Content-Encoding", b"X-Cache"}
        if status == 204:
            assert said.pop(b"access-control-allow-methods") == b"GET, HEAD, OPTIONS"
            allowed = set(said.pop(b"access-control-allow-headers").split(b", "))
            assert allowed >= {b"Authorization", b"Range", b"If-Range", b"If-None-Match", b"If-Match"}
            assert said.pop(b"access-control-max-age") == b"86400"
            assert answer.fields[b"allow"] == b"GET, HEAD, OPTIONS"
            assert b"content-length" not in answer.fields
        assert said == {}


def test_an_answer_whose_first_byte_cannot_be_read_says_it_too(folder: Path, io: str) -> None:
    with House(folder, io=io, cors="*", capacity=1) as house, house.serving() as port:
        house.write("a", pattern(SIZE))
        house.root.cold.add("a")
        house.root.before_read = house.fail("a")
        status, fields, _ = ask(port)
        assert status == 500
        assert fields.get(b"access-control-allow-origin") == b"*"


def test_a_preflight_needs_no_token_because_it_has_none(folder: Path) -> None:
    with House(folder, cors="*", tokens=Tokens([b"secret"])) as house, house.serving() as port:
        assert ask(port, method=b"OPTIONS").status == 204
        status, fields, _ = ask(port)
        assert (status, fields[b"access-control-allow-origin"]) == (401, b"*")


def test_a_download_is_saved_and_never_shown(folder: Path) -> None:
    with House(folder, download=True) as house, house.serving() as port:
        house.write("a", b"content")
        house.write("index.html", b"<script>")
        for lines in ((), (b"Range: bytes=0-1",)):
            for method in (b"GET", b"HEAD"):
                for target in (b"/a", b"/index.html"):
                    fields = ask(port, *lines, method=method, target=target).fields
                    assert fields[b"content-disposition"] == b"attachment"
        listing = ask(port, target=b"/")
        assert listing.status == 200
        assert b"<script>" not in listing.body
        assert b"index.html" in listing.body
        assert b"content-disposition" not in listing.fields


def test_without_download_files_are_shown_and_an_index_is_the_page_of_its_folder(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("index.html", b"<script>")
        status, fields, body = ask(port, target=b"/")
        assert (status, body) == (200, b"<script>")
        assert b"content-disposition" not in fields
        assert ask(port, b"Range: bytes=1-3", target=b"/").body == b"scr"


# Precompressed forms.

FORMS = {b"br": "a.txt.br", b"zstd": "a.txt.zst", b"gzip": "a.txt.gz"}


def precompress(house: House, revalidate_s: float = 1.0) -> Precompressed:
    """What --precompressed does."""
    known = Precompressed(house.store, revalidate_s=revalidate_s, clock=house.clock)
    house.site = Site(house.store, clock=house.clock, precompressed=known)
    return known


def write_forms(house: House, *codings: bytes, name: str = "a.txt", mtime_ns: int = OLD_NS) -> None:
    """The file and its forms; the content of each says which it is."""
    house.write(name, b"plain text")
    for coding in codings or FORMS:
        house.write(name + FORMS[coding].removeprefix("a.txt"), b"as " + coding, mtime_ns)


def form_of(answer: Answer) -> bytes:
    """The coding of a 200 that holds what it says."""
    coding = answer.fields.get(b"content-encoding", b"")
    assert answer.status == 200
    assert answer.body == (b"as " + coding if coding else b"plain text")
    assert answer.fields[b"vary"] == b"Accept-Encoding"
    assert answer.fields[b"content-type"] == b"text/plain; charset=utf-8"
    assert answer.fields[b"content-length"] == b"%d" % len(answer.body)
    return coding


def accept(port: int, value: bytes, *lines: bytes, method: bytes = b"GET", target: bytes = b"/a.txt") -> Answer:
    return ask(port, b"Accept-Encoding: " + value, *lines, method=method, target=target)


@pytest.mark.parametrize(
    ("there", "value", "coding"),
    [
        ((b"br", b"zstd", b"gzip"), b"gzip, zstd, br", b"br"),
        ((b"zstd", b"gzip"), b"gzip, zstd, br", b"zstd"),
        ((b"gzip",), b"gzip, zstd, br", b"gzip"),
        ((b"br", b"zstd", b"gzip"), b"gzip, zstd", b"zstd"),
        ((b"br", b"zstd", b"gzip"), b"gzip", b"gzip"),
        ((b"br", b"zstd", b"gzip"), b"x-gzip", b"gzip"),
        ((b"br", b"zstd", b"gzip"), b"br;q=0.5, gzip", b"gzip"),
        ((b"br", b"zstd"), b"br;q=0.5, gzip, zstd;q=0.1", b"br"),
        ((b"br", b"zstd", b"gzip"), b"br;q=0, *", b"zstd"),
        ((b"br", b"zstd", b"gzip"), b"gzip;q=0.5, identity", b""),
        ((b"br", b"zstd", b"gzip"), b"gzip;q=0", b""),
        ((b"br", b"zstd", b"gzip"), b"identity", b""),
        ((b"br", b"zstd", b"gzip"), b"", b""),
        ((b"br", b"zstd", b"gzip"), b"deflate", b""),
        ((b"br",), b"gzip", b""),
        ((b"gzip",), b"br", b""),
    ],
)
def test_a_client_gets_the_form_it_likes_best(
    folder: Path, io: str, there: tuple[bytes, ...], value: bytes, coding: bytes
) -> None:
    with House(folder, io=io) as house:
        precompress(house)
        write_forms(house, *there)
        with house.serving() as port:
            for origin in (b"MISS", b"HIT"):
                answer = accept(port, value)
                assert form_of(answer) == coding
                assert answer.fields[b"x-cache"] == origin


def test_who_names_no_coding_gets_the_file_without_a_look_at_its_forms(folder: Path) -> None:
    with House(folder) as house:
        precompress(house)
        write_forms(house)
        with house.serving() as port:
            answer = ask(port, target=b"/a.txt")
            assert form_of(answer) == b""
            assert house.root.looks == []


def test_forms_lie_there_unused_without_the_option(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        write_forms(house)
        answer = accept(port, b"gzip")
        assert answer.body == b"plain text"
        assert not {b"vary", b"content-encoding"} & set(answer.fields)


@pytest.mark.parametrize(("mtime_ns", "coding"), [(OLD_NS - 1, b""), (OLD_NS, b"gzip"), (OLD_NS + 1, b"gzip")])
def test_a_form_that_is_older_than_the_file_is_not_used(folder: Path, mtime_ns: int, coding: bytes) -> None:
    with House(folder) as house:
        precompress(house)
        write_forms(house, b"gzip", mtime_ns=mtime_ns)
        with house.serving() as port:
            assert form_of(accept(port, b"gzip")) == coding


def test_a_form_without_its_file_is_no_answer_for_it(folder: Path) -> None:
    with House(folder) as house:
        precompress(house)
        write_forms(house, b"gzip")
        (folder / "a.txt").unlink()
        with house.serving() as port:
            assert accept(port, b"gzip").status == 404
            # It is a file of its own, though.
            status, fields, body = accept(port, b"gzip", target=b"/a.txt.gz")
            assert (status, body, fields[b"content-type"]) == (200, b"as gzip", b"application/gzip")
            assert b"content-encoding" not in fields


def test_what_is_no_file_is_no_form(folder: Path) -> None:
    with House(folder) as house:
        precompress(house)
        write_forms(house, b"gzip")
        house.write("a.txt.br/b", b"")
        (folder / "a.txt.zst").symlink_to("/etc/passwd")
        with house.serving() as port:
            assert form_of(accept(port, b"br, zstd, gzip")) == b"gzip"


def test_a_form_that_may_not_be_read_is_not_used(folder: Path) -> None:
    with House(folder) as house:
        precompress(house)
        write_forms(house, b"gzip", b"br")
        house.root.cold.add("a.txt.br")

        def forbid(name: str) -> None:
            raise root.Forbidden("said the test")

        house.root.before_stat = forbid
        with house.serving() as port:
            assert form_of(accept(port, b"br, gzip")) == b"gzip"


def test_a_folder_has_the_forms_of_its_index_and_none_without_one(folder: Path) -> None:
    with House(folder) as house:
        precompress(house)
        write_forms(house, b"gzip", name="index.html")
        with house.serving() as port:
            answer = accept(port, b"gzip", target=b"/")
            assert (answer.body, answer.fields[b"content-type"]) == (b"as gzip", b"text/html; charset=utf-8")
            (folder / "index.html").unlink()
            house.clock.now_s += 10
            listing = accept(port, b"gzip", target=b"/")
            assert (listing.status, b"index.html.gz" in listing.body) == (200, True)
            assert b"content-encoding" not in listing.fields
            assert accept(port, b"gzip", target=b"/index.html/").status == 404


def test_each_form_is_a_version_of_its_own(folder: Path, io: str) -> None:
    with House(folder, io=io) as house:
        precompress(house)
        write_forms(house, b"br", b"gzip")
        with house.serving() as port:
            tags = [accept(port, value).fields[b"etag"] for value in (b"br", b"gzip", b"identity")]
            assert len(set(tags)) == 3
            gzip, plain = tags[1:]
            same = accept(port, b"gzip", b"If-None-Match: " + gzip)
            assert (same.status, same.body) == (304, b"")
            assert same.fields.pop(b"date")
            assert same.fields == {
                b"etag": gzip,
                b"last-modified": OLD,
                b"cache-control": b"no-cache",
                b"vary": b"Accept-Encoding",
                b"connection": b"close",
            }
            assert accept(port, b"gzip", b"If-None-Match: " + plain).status == 200
            assert accept(port, b"identity", b"If-None-Match: " + gzip).status == 200
            assert accept(port, b"gzip", b"If-Match: " + plain).status == 412


def test_a_range_of_a_form_counts_its_own_bytes(folder: Path, io: str) -> None:
    with House(folder, io=io) as house:
        precompress(house)
        write_forms(house, b"gzip")
        with house.serving() as port:
            gzip, plain = (accept(port, value).fields[b"etag"] for value in (b"gzip", b"identity"))
            for method, body in ((b"GET", b"gzip"), (b"HEAD", b"")):
                part = accept(port, b"gzip", b"Range: bytes=3-", b"If-Range: " + gzip, method=method)
                assert (part.status, part.body) == (206, body)
                assert part.fields[b"content-range"] == b"bytes 3-6/7"
                assert part.fields[b"content-encoding"] == b"gzip"
                assert part.fields[b"content-type"] == b"text/plain; charset=utf-8"
                assert part.fields[b"vary"] == b"Accept-Encoding"
                assert part.fields[b"etag"] == gzip
            other = accept(port, b"gzip", b"Range: bytes=3-", b"If-Range: " + plain)
            assert form_of(other) == b"gzip"
            assert accept(port, b"gzip", b"Range: bytes=7-").fields[b"content-range"] == b"bytes */7"


def test_head_of_a_form_is_the_head_of_get(folder: Path, io: str) -> None:
    with House(folder, io=io) as house:
        precompress(house)
        write_forms(house, b"gzip")
        house.fetch("a.txt.gz")
        before = house.cache.stats()
        with house.serving() as port:
            head = accept(port, b"gzip", method=b"HEAD")
            assert house.cache.stats() == before
            get = accept(port, b"gzip")
            for answer in (get, head):
                assert answer.fields.pop(b"date")
            assert form_of(get) == b"gzip"
            assert head == get._replace(body=b"")


def test_the_one_line_protocol_knows_no_forms(folder: Path) -> None:
    with House(folder) as house:
        precompress(house)
        write_forms(house)
        with house.serving() as port, connect(port, b"GET a.txt\n") as client:
            assert receive_all(client) == b"plain text"


def test_which_forms_there_are_is_known_for_a_while_and_no_longer(folder: Path) -> None:
    with House(folder, revalidate_s=2) as house:
        precompress(house, revalidate_s=2)
        write_forms(house, b"gzip")
        with house.serving() as port:
            assert form_of(accept(port, b"gzip, br")) == b"gzip"
            house.write("a.txt.br", b"as br")
            house.root.looks.clear()
            house.clock.now_s += 0.99
            assert form_of(accept(port, b"gzip, br")) == b"gzip"
            assert house.root.looks == []
            house.clock.now_s += 1.01
            assert form_of(accept(port, b"gzip, br")) == b"br"
            assert {"a.txt", "a.txt.br", "a.txt.zst"} <= set(house.root.looks)


def test_from_half_of_its_time_on_a_request_begins_the_next_look_and_does_not_wait_for_it(folder: Path) -> None:
    with House(folder, io="pool", revalidate_s=2) as house:
        precompress(house, revalidate_s=2)
        write_forms(house, b"gzip")
        with house.serving() as port:
            assert form_of(accept(port, b"gzip, br")) == b"gzip"
            house.write("a.txt.br", b"as br")
            house.fetch("a.txt.gz")
            gate = Gate()
            house.root.before_stat = lambda name: gate.wait()
            house.clock.now_s += 1
            assert form_of(accept(port, b"gzip, br")) == b"gzip"
            wait_for(lambda: gate.waiting)
            gate.open()
            wait_for(lambda: "a.txt.zst" in house.root.looks and "a.txt.br" in house.root.looks)
            for _ in range(10):
                gevent.sleep(0.001)
            looks = len(house.root.looks)
            house.clock.now_s += 0.5
            assert form_of(accept(port, b"gzip, br")) == b"br"
            assert len(house.root.looks) <= looks + 1, "only the form itself is new"


def test_a_known_form_is_served_from_memory_while_every_reader_waits_for_a_slow_disk(folder: Path) -> None:
    with House(folder, io="pool", threads=2) as house:
        precompress(house)
        write_forms(house, b"gzip")
        house.write("slow1", b"")
        house.write("slow2", b"")
        with house.serving() as port:
            assert form_of(accept(port, b"gzip")) == b"gzip"
            gate = Gate()
            house.root.before_open = lambda name: gate.wait()
            blocked = [connect(port, request(target=b"/slow%d" % number)) for number in (1, 2)]
            wait_for(lambda: gate.waiting == 2)
            house.clock.now_s += 5
            answer = accept(port, b"gzip")
            assert (form_of(answer), answer.fields[b"x-cache"]) == (b"gzip", b"HIT")
            gate.open()
            for client in blocked:
                receive_all(client)
                client.close()


def test_the_time_that_siblings_are_believed_runs_from_when_the_look_began(folder: Path) -> None:
    with House(folder) as house:
        known = precompress(house)
        write_forms(house, b"gzip")
        began_s = house.clock()

        def later(name: str) -> None:
            house.clock.now_s += 0.4 * (name == "a.txt.zst")

        house.root.cold.add("a.txt.zst")
        house.root.before_stat = later
        assert known.codings("a.txt") == {"gzip"}
        assert house.clock() == began_s + 0.4
        house.write("a.txt.br", b"as br")
        house.clock.now_s = began_s + 1
        assert known.codings("a.txt") == {"br", "gzip"}


def test_an_empty_form_is_one_that_is_only_being_made(folder: Path) -> None:
    with House(folder) as house:
        precompress(house)
        write_forms(house, b"gzip")
        house.write("a.txt.gz", b"")
        with house.serving() as port:
            assert form_of(accept(port, b"gzip")) == b""


def test_a_file_that_is_newer_than_its_forms_is_itself_again_after_a_while(folder: Path) -> None:
    with House(folder) as house:
        precompress(house)
        write_forms(house, b"gzip")
        with house.serving() as port:
            assert form_of(accept(port, b"gzip")) == b"gzip"
            house.replace("a.txt", b"plain text", OLD_NS + 1)
            house.clock.now_s += 1
            assert form_of(accept(port, b"gzip")) == b""
            (folder / "a.txt").unlink()
            house.clock.now_s += 1
            assert accept(port, b"gzip").status == 404


def test_a_form_that_has_gone_since_it_was_seen_is_not_missed(folder: Path) -> None:
    with House(folder) as house:
        precompress(house)
        write_forms(house, b"gzip")
        with house.serving() as port:
            assert accept(port, b"gzip", method=b"HEAD").fields[b"content-encoding"] == b"gzip"
            (folder / "a.txt.gz").unlink()
            assert form_of(accept(port, b"gzip")) == b""


def test_with_no_time_to_believe_each_request_looks(folder: Path) -> None:
    with House(folder, revalidate_s=0) as house:
        known = precompress(house, revalidate_s=0)
        write_forms(house, b"gzip")
        assert known.codings("a.txt") == {"gzip"}
        house.write("a.txt.br", b"as br")
        assert known.codings("a.txt") == {"gzip", "br"}


def looked(house: House, known: Precompressed, name: str) -> bool:
    """Whether the disk is asked for the forms of a name."""
    house.root.looks.clear()
    assert known.codings(name) == {"gzip"}
    return bool(house.root.looks)


def test_the_forms_of_so_many_names_are_remembered_and_the_oldest_forgotten(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precompressed, "REMEMBERED", 2)
    with House(folder) as house:
        known = precompress(house)
        for name in ("a", "b", "c"):
            house.write(name, b"plain text")
            house.write(name + ".gz", b"as gzip")
        assert [looked(house, known, name) for name in ("a", "b", "a", "b")] == [True, True, False, False]
        assert looked(house, known, "c")
        assert [looked(house, known, name) for name in ("b", "c", "a")] == [False, False, True]


def test_a_name_looked_at_again_is_not_the_oldest_any_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precompressed, "REMEMBERED", 2)
    with House(folder) as house:
        known = precompress(house)
        for name in ("a", "b", "c"):
            house.write(name, b"plain text")
            house.write(name + ".gz", b"as gzip")
        assert looked(house, known, "a")
        house.clock.now_s += 0.5
        assert looked(house, known, "b")
        house.clock.now_s += 0.5
        assert looked(house, known, "a")
        assert looked(house, known, "c")
        assert [looked(house, known, name) for name in ("a", "b")] == [False, True]
