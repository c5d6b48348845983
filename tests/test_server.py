"""gserver.py as its users run it: real processes, real sockets, real files, real clients."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.program import Program, sparse

MIB = 1 << 20
CAPACITY = 64 * MIB

Start = Callable[..., Program]

STATS = {
    "schema", "capacity", "cached", "filling", "peak", "violations", "entries", "hits", "misses", "coalesced",
    "bypasses", "file_answers", "evictions", "connections", "open_fds", "rss_bytes", "bytes_sent",
    "disk_reads_inline", "disk_reads_pool", "fills_in_flight", "connections_idle", "access_log_dropped",
    "uptime_s", "connections_by_state", "connections_expired", "connections_gave_way", "connections_turned_away",
    "accept_shortages", "requests", "latency", "disk_read_s", "slowest_fills", "loop_lag", "viewers",
}  # fmt: skip


def old(path: Path) -> None:
    """Stamps that are old enough to be believed (ctime cannot be set, so tests that need it wait for nothing)."""
    os.utime(path, ns=(10**18, 10**18))


# The original system's answers.


def test_a_file_in_the_cache_is_sent_from_memory(start: Start, folder: Path) -> None:
    (folder / "a").write_bytes(b"content")
    server = start()
    assert server.get("/a")[1]["x-cache"] == "MISS"
    reads = [server.stats()[key] for key in ("disk_reads_inline", "disk_reads_pool")]
    status, fields, body = server.get("/a")
    assert (status, fields["x-cache"], fields["cache-status"], body) == (200, "HIT", "gserver; hit", b"content")
    assert [server.stats()[key] for key in ("disk_reads_inline", "disk_reads_pool")] == reads


def test_a_file_larger_than_the_cache_is_streamed_and_never_cached(start: Start, folder: Path) -> None:
    sparse(folder / "large", CAPACITY + 1)
    server = start()
    for _ in range(2):
        status, fields, body = server.get("/large")
        assert (status, fields["x-cache"], len(body)) == (200, "BYPASS", CAPACITY + 1)
        assert fields["cache-status"] == "gserver; fwd=bypass; detail=too-large"
    assert server.names() == []


def test_a_file_of_exactly_the_cache_is_cached(start: Start, folder: Path) -> None:
    sparse(folder / "exact", CAPACITY)
    server = start()
    assert [server.get("/exact")[1]["x-cache"] for _ in range(2)] == ["MISS", "HIT"]
    stats = server.stats()
    assert (stats["cached"], stats["peak"], stats["violations"]) == (CAPACITY, CAPACITY, 0)


def test_a_missing_file_is_said_to_be_missing(start: Start) -> None:
    server = start()
    status, fields, body = server.get("/nope")
    assert (status, fields["content-type"], body) == (404, "text/plain; charset=utf-8", b"no such file: nope\n")
    assert server.raw(b"GET nope\n") == b"ERROR no such file: nope\n"


def test_a_client_can_ask_for_the_list(start: Start, folder: Path) -> None:
    for name in ("a", "b c", "ä"):
        (folder / name).write_bytes(name.encode())
    server = start()
    assert server.names() == []
    for path in ("/a", "/b%20c", "/%C3%A4", "/a"):
        server.get(path)
    assert server.names() == ["a", "ä", "b c"]
    assert server.raw(b"LIST\n") == server.raw(b"LIST\r\n") == "a\nä\nb c\n".encode()


# The budget.


def test_a_working_set_of_three_caches_is_evicted_and_never_exceeds_one(start: Start, folder: Path) -> None:
    dice = random.Random(1)
    digests: dict[str, bytes] = {}
    total = 0
    while total < 200 * MIB:
        name = f"f{len(digests)}"
        content = dice.randbytes(min(int(dice.lognormvariate(13.5, 1.5)), 30 * MIB))
        (folder / name).write_bytes(content)
        digests[name] = hashlib.sha256(content).digest()
        total += len(content)
    server = start()
    order = list(digests) * 2
    dice.shuffle(order)
    for name in order:
        assert hashlib.sha256(server.get(f"/{name}")[2]).digest() == digests[name]
        answer = json.loads(server.get("/-/cache?format=json")[2])
        held = sum(entry["size"] for entry in answer["entries"])
        assert held == answer["stats"]["cached"] <= CAPACITY
        assert len(answer["entries"]) == answer["stats"]["entries"]
    stats = server.stats()
    assert stats["peak"] <= CAPACITY
    assert stats["violations"] == 0
    assert stats["evictions"] > 0
    assert stats["hits"] + stats["misses"] + stats["coalesced"] + stats["bypasses"] == stats["file_answers"]
    assert stats["file_answers"] == len(order)


def test_two_hundred_clients_at_once_get_every_byte(start: Start, folder: Path) -> None:
    dice = random.Random(2)
    digests: dict[str, bytes] = {}
    for number in range(60):
        content = dice.randbytes(dice.randrange(4 * MIB))
        (folder / f"f{number}").write_bytes(content)
        digests[f"f{number}"] = hashlib.sha256(content).digest()
    server = start()
    ready = threading.Barrier(200)

    def client(seed: int) -> int:
        mine = random.Random(seed)
        ready.wait(30)
        wrong = 0
        for name in mine.choices(list(digests), k=4):
            status, _, body = server.get(f"/{name}")
            wrong += status != 200 or hashlib.sha256(body).digest() != digests[name]
        return wrong

    with ThreadPoolExecutor(200) as crowd:
        assert sum(crowd.map(client, range(200))) == 0
    stats = server.stats()
    assert stats["file_answers"] == 800
    assert stats["peak"] <= CAPACITY
    assert (stats["violations"], stats["filling"], stats["fills_in_flight"]) == (0, 0, 0)


# The wire.


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
        (b"GET /%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
        (b"GET /a\n\n", 400),
        (b"GET /../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"GET /%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"GET /.hidden HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"GET /-/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"DELETE /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n", 413),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 17_000 + b"\r\n\r\n", 431),
        (b"BREW /a HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    ],
)
def test_an_error_is_a_short_text_with_its_status(
    start: Start, folder: Path, request_bytes: bytes, status: int
) -> None:
    (folder / ".hidden").write_bytes(b"secret")
    answer = start().raw(request_bytes)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Type: text/plain" in answer
    assert len(answer.partition(b"\r\n\r\n")[2]) < 100
    assert (b"Allow: GET, HEAD" in answer) == (status == 405)
    assert b"Retry-After" not in answer


def test_a_folder_is_a_listing_for_people_and_for_programs(start: Start, folder: Path) -> None:
    (folder / "sub" / "deeper").mkdir(parents=True)
    (folder / "sub" / "<b>&.txt").write_bytes(b"12345")
    (folder / "sub" / ".hidden").write_bytes(b"")
    server = start()
    status, fields, _ = server.get("/sub")
    assert (status, fields["location"]) == (301, "/sub/")
    page = server.get("/sub/")[2].decode()
    assert page.index("deeper/") < page.index("&lt;b&gt;&amp;.txt")
    assert "hidden" not in page
    listing = json.loads(server.get("/sub/", Accept="application/json")[2])
    assert [(entry["name"], entry["type"], entry["size"]) for entry in listing["entries"]] == [
        ("deeper", "folder", 0),
        ("<b>&.txt", "file", 5),
    ]
    (folder / "sub" / "index.html").write_bytes(b"<p>mine")
    status, fields, body = server.get("/sub/")
    assert (fields["content-type"], fields["x-cache"], body) == ("text/html; charset=utf-8", "MISS", b"<p>mine")


def test_no_index_shows_no_folder_and_hidden_shows_hidden_names(start: Start, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / ".hidden").write_bytes(b"shown")
    server = start("--no-index", "--hidden")
    assert [server.get(path)[0] for path in ("/", "/sub", "/sub/")] == [404, 404, 404]
    assert server.get("/.hidden")[2] == b"shown"


def test_hidden_lists_hidden_names(start: Start, folder: Path) -> None:
    (folder / ".hidden").write_bytes(b"")
    assert [b".hidden" in start(*options).get("/")[2] for options in ((), ("--hidden",))] == [False, True]


def test_the_head_of_a_file_says_what_caches_want_to_know(start: Start, folder: Path) -> None:
    (folder / "a.html").write_bytes(b"<p>")
    old(folder / "a.html")
    server = start("--cache-control", "public, max-age=60")
    status, fields, body = server.get("/a.html", method="HEAD")
    assert (status, body) == (200, b"")
    assert "x-cache" not in fields
    assert fields["content-length"] == "3"
    assert fields["content-type"] == "text/html; charset=utf-8"
    assert fields["last-modified"] == "Sun, 09 Sep 2001 01:46:40 GMT"
    assert len(fields["etag"]) == 18
    assert fields["cache-control"] == "public, max-age=60"
    assert fields["x-content-type-options"] == "nosniff"
    assert "date" in fields


def test_statistics_have_their_public_schema(start: Start) -> None:
    stats = start().stats()
    assert stats.keys() == STATS
    assert stats["schema"] == 1
    assert stats["capacity"] == CAPACITY
    assert (stats["connections"], stats["connections_idle"]) == (1, 0)


# Strangers' clients.


@pytest.mark.parametrize("size", [0, 5, 3 * MIB + 1])
@pytest.mark.parametrize("client", ["curl", "wget", "nc"])
def test_other_peoples_clients_get_every_byte(start: Start, folder: Path, client: str, size: int) -> None:
    if shutil.which(client) is None:
        pytest.skip(f"{client} is not installed")
    content = random.Random(size).randbytes(size)
    (folder / "a b.bin").write_bytes(content)
    server = start()
    url = f"http://{server.host}:{server.port}/a%20b.bin"
    command = {
        "curl": ["curl", "-sS", "--fail", url],
        "wget": ["wget", "-q", "-O", "-", url],
        "nc": ["nc", server.host, str(server.port)],
    }[client]
    done = subprocess.run(command, input=b"GET a b.bin\n", capture_output=True, timeout=30, check=True)
    assert done.stdout == content
