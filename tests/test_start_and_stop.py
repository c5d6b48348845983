"""How gserver.py starts, says what it does, refuses what it cannot do, and stops."""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fileserver.disk import LOOK_THREADS
from tests.program import PROJECT, Program, read_all, sparse

MIB = 1 << 20

Start = Callable[..., Program]


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
    said = ", ".join(
        f"self._transport.socket.getsockopt(server.{level}, server.{option})" for level, option in options
    )
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
        assert server.names() == ["new", stays]


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
        for number in range(5):
            client = connected.enter_context(server.connect())
            client.sendall(b"GET /f%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
        while server.stats()["fills_in_flight"] < 5:
            pass
        server.stats()
        assert len(list(threads.iterdir())) == 1 + 3 + LOOK_THREADS
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
            client.sendall(b"GET /-/health HTTP/1.1\r\nHost: x\r\n")
        assert server.raw(b"").startswith(b"HTTP/1.1 503")
        one.close()
        two.sendall(b"\r\n")
        assert two.recv(4096).startswith(b"HTTP/1.1 200")


def test_an_idle_connection_ends_after_its_time(folder: Path) -> None:
    with Program(folder, "--idle-timeout", "0.1") as server, server.connect() as client:
        assert client.recv(1) == b""


def test_who_has_time_left_is_spared_when_deadlines_are_looked_at(folder: Path) -> None:
    with Program(folder, changes="server.REAP_EVERY_S = 0.0001") as server, server.connect() as client:
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


def test_a_stop_lets_a_running_transfer_finish(start: Start, folder: Path) -> None:
    content = random.Random(3).randbytes(20 * MIB)
    (folder / "large").write_bytes(content)
    server = start()
    with slow_transfer(server) as (client, beginning):
        client.sendall(b"GET /-/health HTTP/1.1\r\nHost: x\r\n\r\n")
        server.begin_stop()
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
        server.begin_stop(signal.SIGINT)
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
