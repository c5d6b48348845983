"""Clients that take their time, against the whole program: thousands delay nobody, and each has its end."""

import hashlib
import random
import re
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.exchange import GET, LAST
from tests.program import Program, read_all, sparse

MIB = 1 << 20
SLOW = 2000


pytestmark = pytest.mark.timeout(60)


@contextmanager
def reader(server: Program, request: bytes = GET % b"large") -> Iterator[socket.socket]:
    """A client with a small receive buffer that has asked for something large."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect((server.host, server.port))
        client.sendall(request)
        yield client


def end_of(client: socket.socket) -> bytes:
    """What came before the end; a reset counts as one."""
    try:
        return read_all(client)
    except ConnectionResetError:
        return b""


# Requests that never come whole.


TIME_PASSES = (
    "import time; passed = [];"
    " gserver.on_signal('SIGUSR1', lambda: passed.append(1000.0));"
    " server.time = type('Clock', (), {'monotonic': staticmethod("
    "lambda: time.monotonic() + (passed.pop() if passed else 0.0))})"
)
"""Changes with which, after a SIGUSR1, one look at the deadlines is a look from a quarter of an hour later."""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
def test_two_thousand_unfinished_heads_delay_nobody_and_each_gets_408(folder: Path) -> None:
    (folder / "a").write_bytes(b"content")
    changes = f"{TIME_PASSES}; connection.HEAD_S = 900.0"
    with Program(folder, changes=changes) as server, ExitStack() as opened:
        slow = []
        for _ in range(SLOW):
            client = opened.enter_context(server.connect())
            client.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            slow.append(client)
        while server.stats()["connections"] < SLOW + 1:
            pass
        for _ in range(20):
            assert server.get("/a")[2] == b"content"
        stats = server.stats()
        assert (stats["connections"], stats["connections_idle"]) == (SLOW + 1, 0)
        server.process.send_signal(signal.SIGUSR1)
        for client in slow:
            answer = read_all(client)
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"\r\nConnection: close\r\n" in answer
            client.close()
        while server.stats()["connections"] > 1:
            pass
        assert server.get("/a")[2] == b"content"


def test_a_byte_now_and_then_buys_no_time(folder: Path) -> None:
    changes = "connection.HEAD_S = 0.3; server.REAP_EVERY_S = 0.05"
    with Program(folder, changes=changes) as server, server.connect() as client:
        client.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.05):
                try:
                    client.sendall(b"x")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert client.recv(4096).startswith(b"HTTP/1.1 408")
        finally:
            stop.set()
            dripping.join()


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (b"G", b"HTTP/1.1 408 "),
        (b"LIS", b"HTTP/1.1 408 "),
        (b"GET /a HTTP/1.1\r\n", b"HTTP/1.1 408 "),
        (b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf", b"HTTP/1.1 408 "),
        (b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal", b"HTTP/1.1 408 "),
        (b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n", b"HTTP/1.1 408 "),
        (
            b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 408 ",
        ),
    ],
    ids=["first byte", "one line", "head", "body", "chunk", "trailer", "expected body"],
)
def test_a_request_that_stops_somewhere_gets_408(folder: Path, request_bytes: bytes, answer: bytes) -> None:
    with Program(folder, changes="connection.HEAD_S = 0.1; server.REAP_EVERY_S = 0.05") as server:
        assert server.raw(request_bytes).startswith(answer)


def test_a_later_request_that_stops_somewhere_gets_408_after_the_answers_before_it(folder: Path) -> None:
    (folder / "a").write_bytes(b"content")
    with Program(folder, changes="connection.HEAD_S = 0.1; server.REAP_EVERY_S = 0.05") as server:
        answers = server.raw(GET % b"a" + GET % b"a" + b"GET /a HT")
    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"200", b"200", b"408"]


def test_who_sends_nothing_is_closed_without_a_word(folder: Path) -> None:
    (folder / "a").write_bytes(b"content")
    options = ("--idle-timeout", "0.2", "--log-level", "info")
    with Program(folder, *options, changes="server.REAP_EVERY_S = 0.05") as server, ExitStack() as opened:
        silent = [opened.enter_context(server.connect()) for _ in range(200)]
        for client in silent[:100]:
            client.sendall(GET % b"a")
            answer = b""
            while not answer.endswith(b"content"):
                answer += client.recv(4096)
        assert [read_all(client) for client in silent] == [b""] * 200
        assert "WARNING" not in server.stop()


# Answers that are not taken.


IMPATIENT = "transport.PROGRESS_S = 0.4; server.REAP_EVERY_S = 0.05"


def test_who_reads_nothing_more_is_cut_by_a_reset(folder: Path, io: str) -> None:
    sparse(folder / "large", 20 * MIB)
    with Program(folder, "--io", io, changes=IMPATIENT) as server, reader(server) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        while server.stats()["connections"] > 1:
            pass
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_who_takes_little_but_goes_on_taking_gets_every_byte(folder: Path, io: str) -> None:
    """Each taking comes sooner than the deadline, and all of them together take many deadlines."""
    content = random.Random(7).randbytes(3 * MIB)
    (folder / "large").write_bytes(content)
    with (
        Program(folder, "--io", io, changes="transport.PROGRESS_S = 1.0; server.REAP_EVERY_S = 0.05") as server,
        reader(server, LAST % b"large") as client,
    ):
        pause = threading.Event()
        received = b""
        # Slowly for two deadlines: too little for the socket to become writable in one of them.
        for _ in range(14):
            pause.wait(0.15)
            received += client.recv(4096)
        received += read_all(client)
    assert hashlib.sha256(received.partition(b"\r\n\r\n")[2]).digest() == hashlib.sha256(content).digest()


def test_who_asks_again_and_again_and_reads_no_page_is_cut_too(folder: Path) -> None:
    for number in range(300):
        (folder / f"{'n' * 200}{number}").write_bytes(b"")
    with Program(folder, changes=IMPATIENT) as server, reader(server, GET % b"" * 500) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        while server.stats()["connections"] > 1:
            pass
        with pytest.raises(ConnectionResetError):
            read_all(client)


# A stop while they are at it.


def test_a_stop_lets_all_transfers_finish_whole(start: Callable[..., Program], folder: Path) -> None:
    contents = [random.Random(number).randbytes(2 * MIB + number) for number in range(40)]
    for number, content in enumerate(contents):
        (folder / str(number)).write_bytes(content)
    server = start("--cache", "16MiB")
    with ExitStack() as opened:
        clients = [opened.enter_context(reader(server, GET % (b"%d" % number))) for number in range(40)]
        beginnings = [client.recv(1000) for client in clients]
        server.begin_stop()
        for beginning, client, content in zip(beginnings, clients, contents, strict=True):
            head, _, body = (beginning + read_all(client)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert body == content
    assert "stopped, 0 transfers cut" in server.process.communicate(timeout=30)[1]
    assert server.process.returncode == 0


def test_the_log_says_how_many_transfers_a_stop_has_cut(folder: Path) -> None:
    sparse(folder / "large", 20 * MIB)
    (folder / "a").write_bytes(b"content")
    with Program(folder, "--drain", "0.5") as server, ExitStack() as opened:
        stuck = [opened.enter_context(reader(server)) for _ in range(7)]
        for client in stuck:
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        idle = [opened.enter_context(server.connect()) for _ in range(5)]
        for client in idle:
            client.sendall(GET % b"a")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        assert "stopped, 7 transfers cut" in server.stop()
        assert server.process.returncode == 0
        for client in idle:
            assert client.recv(1) == b""
        for client in stuck:
            with pytest.raises(ConnectionResetError):
                read_all(client)


def test_while_it_drains_health_says_so_on_a_connection_that_is_still_open(folder: Path) -> None:
    sparse(folder / "large", 20 * MIB)
    with Program(folder) as server, server.connect() as asking, reader(server) as busy:
        asking.sendall(b"GET /-/health HTTP/1.1\r\nHost: x\r\n")
        busy.recv(100)
        while server.stats()["connections_idle"] > 0:
            pass
        server.begin_stop()
        asking.sendall(b"\r\n")
        answer = read_all(asking)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b"\r\n\r\ndraining\n")


def test_what_was_asked_before_the_stop_was_heard_is_answered(folder: Path) -> None:
    """The requests wait in the kernel when the signal arrives: the process is stopped meanwhile."""
    (folder / "a").write_bytes(b"content")
    with Program(folder) as server, ExitStack() as opened:
        clients = [opened.enter_context(server.connect()) for _ in range(50)]
        for client in clients:
            client.sendall(GET % b"a")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        server.process.send_signal(signal.SIGSTOP)
        try:
            for client in clients:
                client.sendall(GET % b"a")
            server.process.send_signal(signal.SIGTERM)
        finally:
            server.process.send_signal(signal.SIGCONT)
        for client in clients:
            answer = read_all(client)
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(b"\r\n\r\ncontent")
        assert "stopped, 0 transfers cut" in server.process.communicate(timeout=30)[1]


def test_a_client_that_was_accepted_with_the_stop_is_not_reset(folder: Path) -> None:
    """Its connection and the signal arrive together, and its request is there to be read."""
    (folder / "a").write_bytes(b"content")
    with Program(folder) as server, ExitStack() as opened:
        server.get("/a")
        server.process.send_signal(signal.SIGSTOP)
        try:
            clients = [opened.enter_context(server.connect()) for _ in range(10)]
            for client in clients:
                client.sendall(GET % b"a")
            server.process.send_signal(signal.SIGTERM)
        finally:
            server.process.send_signal(signal.SIGCONT)
        answers = [end_of(client) for client in clients]
        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 10


def test_clients_that_vanish_while_it_drains_hold_up_nothing(folder: Path) -> None:
    sparse(folder / "large", 20 * MIB)
    with Program(folder, "--drain", "600") as server, ExitStack() as opened:
        clients = [opened.enter_context(reader(server)) for _ in range(10)]
        for client in clients:
            client.recv(100)
        server.begin_stop()
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        assert "stopped, 0 transfers cut" in server.process.communicate(timeout=30)[1]
