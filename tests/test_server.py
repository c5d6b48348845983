"""gserver.py as its users run it: real processes, real sockets, real files, real clients."""

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.program import PROJECT, Program, read_all

MIB = 1 << 20
CAPACITY = 64 * MIB

Start = Callable[..., Program]

STATS = {
    "schema", "capacity", "cached", "filling", "peak", "violations", "entries", "hits", "misses", "coalesced",
    "bypasses", "file_answers", "evictions", "connections", "open_fds", "rss_bytes", "bytes_sent",
    "disk_reads_inline", "disk_reads_pool", "fills_in_flight",
}  # fmt: skip


def sparse(path: Path, size: int) -> Path:
    """A file of zeroes that takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def names(server: Program) -> list[str]:
    """What LIST says."""
    return server.get("/-/cache")[2].decode().splitlines()


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
    assert names(server) == []


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
    assert names(server) == []
    for path in ("/a", "/b%20c", "/%C3%A4", "/a"):
        server.get(path)
    assert names(server) == ["a", "ä", "b c"]
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
    assert stats["connections"] == 1


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


# Starting and stopping.


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, str(PROJECT / "gserver.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        **options,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["8080"],
        ["x", "."],
        ["70000", "."],
        ["0", ".", "--cache", "lots"],
        ["0", ".", "--policy", "magic"],
        ["0", ".", "--threads", "0"],
        ["0", ".", "--revalidate", "-1"],
        ["0", ".", "--cache-control", "a\nb"],
        ["0", ".", "--io", "tape"],
        ["0", ".", "--unknown"],
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("gserver: ")
    assert done.stderr.count("\n") == 1


def test_a_folder_that_is_not_there_is_one_line_and_exit_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for missing in ("nope", "file"):
        done = run("0", str(tmp_path / missing))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert missing in done.stderr


def test_a_port_in_use_is_one_line_and_exit_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(str(taken.getsockname()[1]), str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "in use" in done.stderr


@pytest.mark.parametrize("package", ["gevent", "httptools"])
def test_a_missing_package_is_one_clear_line(tmp_path: Path, package: str) -> None:
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('gone', name={package!r})")
    done = run("0", str(tmp_path), env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr == f"gserver: {package} is missing; install it with: pip install -r requirements.txt\n"


def test_importing_the_packages_patches_nothing() -> None:
    program = (
        "import fileserver.connection, socket, threading\n"
        "from gevent import monkey\n"
        "print(monkey.is_module_patched('socket'), monkey.is_module_patched('threading'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert done.stdout == "False False\n"


@pytest.mark.parametrize(
    ("host", "shown", "reach"),
    [
        ("127.0.0.2", "127.0.0.2", "only this machine"),
        ("localhost", "localhost", "only this machine"),
        ("::1", "[::1]", "only this machine"),
        ("0.0.0.0", "127.0.0.1", "anyone"),
        ("::", "[::1]", "anyone"),
    ],
)
def test_the_start_line_says_where_and_who(folder: Path, host: str, shown: str, reach: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with Program(folder, "--host", host, "--policy", "lru", "--cache", "1MiB") as server:
        assert server.start_line.startswith(
            f"gserver: http://{shown}:{server.port}/ serves {folder} (1 MiB cache, lru"
        )
        assert reach in server.start_line
        assert server.get("/-/health")[2] == b"ok\n"


def test_who_says_nothing_else_serves_this_machine_only(folder: Path) -> None:
    with Program(folder) as server:
        assert server.host == "127.0.0.1"
        assert "(64 MiB cache, relocate; only this machine" in server.start_line


def test_each_socket_sends_without_delay_from_a_bounded_buffer_and_threads_switch_quickly(folder: Path) -> None:
    options = [("socket.SOL_SOCKET", "socket.SO_SNDBUF"), ("socket.IPPROTO_TCP", "socket.TCP_NODELAY")]
    said = ", ".join(f"self._socket.getsockopt(gserver.{level}, gserver.{option})" for level, option in options)
    changes = (
        "serve = connection.Connection.serve; connection.Connection.serve = lambda self:"
        f" (gserver.log.warning('set: %d %d %g', {said}, gserver.sys.getswitchinterval()), serve(self))[1]"
    )
    with Program(folder, changes=changes) as server:
        server.get("/-/health")
        assert server.process.stderr is not None
        line = server.process.stderr.readline()
    buffer, no_delay, interval = line.partition("set: ")[2].split()
    # Linux says twice what was asked for.
    assert int(buffer) in (224 * 1024, 2 * 224 * 1024)
    assert (int(no_delay), float(interval)) == (1, 0.0005)


def test_clients_that_come_faster_than_they_are_accepted_wait_in_the_kernel(folder: Path) -> None:
    clients = 400
    somaxconn = Path("/proc/sys/net/core/somaxconn")
    if not somaxconn.exists() or int(somaxconn.read_text()) < clients:
        pytest.skip("this system lets fewer wait, or does not say")
    with Program(folder) as server, ExitStack() as connected:
        server.process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(clients):
                connected.enter_context(server.connect(timeout=10))
        finally:
            server.process.send_signal(signal.SIGCONT)


def test_the_descriptor_limit_is_the_hard_one(folder: Path) -> None:
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("only Linux tells the limits of another process")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1000), hard))
    try:
        server = Program(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with server:
        raised = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)[0]
    assert raised == (1 << 20 if hard == resource.RLIM_INFINITY else min(hard, 1 << 20))


def test_io_pool_reads_in_threads_alone(folder: Path) -> None:
    (folder / "a").write_bytes(b"content")
    with Program(folder, "--io", "pool") as server:
        server.get("/a")
        stats = server.stats()
    assert (stats["disk_reads_inline"], stats["disk_reads_pool"]) == (0, 1)


@pytest.mark.parametrize(("policy", "stays"), [("lru", "large"), ("relocate", "small")])
def test_the_policy_asked_for_decides_who_goes(folder: Path, policy: str, stays: str) -> None:
    for name, size in (("small", 200_000), ("large", 700_000), ("new", 300_000)):
        sparse(folder / name, size)
    with Program(folder, "--cache", "1MiB", "--policy", policy) as server:
        for name in ("small", "large", "new"):
            server.get(f"/{name}")
        assert names(server) == ["new", stays]


def test_revalidate_0_serves_a_replaced_file_fresh_at_once(start: Start, folder: Path) -> None:
    server = start("--revalidate", "0")
    for content in (b"one", b"two", b"three"):
        (folder / "new").write_bytes(content)
        (folder / "new").rename(folder / "a")
        assert server.get("/a")[2] == content


def test_the_log_level_leaves_out_what_is_below_it(folder: Path) -> None:
    with Program(folder, "--log-level", "warning") as server:
        assert server.stop() == ""


HANGS = (
    "from fileserver.root import Root; import gevent.monkey;"
    " Root.open = lambda *_, **__: gevent.monkey.get_original('time', 'sleep')(1000)"
)
"""Changes that make the disk a dead one: an open never returns."""


def test_as_many_threads_wait_for_a_dead_disk_as_are_allowed_and_a_stop_waits_for_none(folder: Path) -> None:
    options = ("--io", "pool", "--threads", "3", "--drain", "0.1")
    with Program(folder, *options, changes=HANGS) as server, ExitStack() as connected:
        threads = Path(f"/proc/{server.process.pid}/task")
        if not threads.exists():
            pytest.skip("this system does not list threads")
        before = len(list(threads.iterdir()))
        for number in range(5):
            client = connected.enter_context(server.connect())
            client.sendall(b"GET /f%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
        while server.stats()["fills_in_flight"] < 5:
            pass
        server.stats()
        assert len(list(threads.iterdir())) == before + 3
        assert "5 transfers cut" in server.stop()


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_more_connections_than_allowed_are_told_so_at_once(folder: Path) -> None:
    with Program(folder, "--max-connections", "2") as server, server.connect() as one, server.connect() as two:
        for client in (one, two):
            client.sendall(b"GET /-/health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        assert server.raw(b"").startswith(b"HTTP/1.1 503")
        one.close()
        two.sendall(b"GET /-/health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert two.recv(4096).startswith(b"HTTP/1.1 200")


def test_an_idle_connection_ends_after_its_time(folder: Path) -> None:
    with Program(folder, "--idle-timeout", "0.1") as server, server.connect() as client:
        assert client.recv(1) == b""


def test_who_has_time_left_is_spared_when_deadlines_are_looked_at(folder: Path) -> None:
    with Program(folder, changes="gserver.REAP_EVERY_S = 0.0001") as server, server.connect() as client:
        for _ in range(20):
            assert server.get("/-/health")[0] == 200
        client.sendall(b"GET /-/health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


@contextmanager
def slow_transfer(server: Program) -> Iterator[tuple[socket.socket, bytes]]:
    """A client that has read the beginning of /large, and nothing more; and that beginning."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.settimeout(30)
        client.connect((server.host, server.port))
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        yield client, client.recv(1000)


def signal_stop(server: Program, number: signal.Signals) -> None:
    """Send a first signal and wait until it was handled."""
    server.process.send_signal(number)
    assert server.process.stderr is not None
    assert "accepting no more" in server.process.stderr.readline()


def test_a_stop_lets_a_running_transfer_finish(start: Start, folder: Path) -> None:
    content = random.Random(3).randbytes(20 * MIB)
    (folder / "large").write_bytes(content)
    server = start()
    with slow_transfer(server) as (client, beginning):
        client.sendall(b"GET /-/health HTTP/1.1\r\nHost: x\r\n\r\n")
        signal_stop(server, signal.SIGTERM)
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        head, _, rest = (beginning + read_all(client)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert rest[: len(content)] == content
    assert rest[len(content) :].startswith(b"HTTP/1.1 503")
    assert b"Connection: close" in rest[len(content) :]
    assert "0 transfers cut" in server.process.communicate(timeout=30)[1]
    assert server.process.returncode == 0


def test_a_stop_cuts_what_takes_longer_than_the_drain(start: Start, folder: Path) -> None:
    sparse(folder / "large", 60 * MIB)
    server = start("--drain", "0.1")
    with slow_transfer(server) as (client, _):
        assert "1 transfers cut" in server.stop()
        assert server.process.returncode == 0
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_a_second_signal_stops_at_once(start: Start, folder: Path) -> None:
    sparse(folder / "large", 60 * MIB)
    server = start("--drain", "600")
    with slow_transfer(server):
        signal_stop(server, signal.SIGINT)
        server.process.send_signal(signal.SIGINT)
        assert "1 transfers cut" in server.process.communicate(timeout=30)[1]
        assert server.process.returncode == 0


def test_an_idle_server_stops_at_once_although_clients_stay_connected(start: Start) -> None:
    server = start("--drain", "600")
    with server.connect() as client:
        client.sendall(b"GET /-/health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        server.stop()
        assert server.process.returncode == 0
        assert client.recv(1) == b""
