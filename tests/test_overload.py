"""More than there is, of connections, descriptors, threads and open files: nobody hangs, nothing restarts."""

import errno
import json
import math
import re
import signal
import socket as native
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sized
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from fileserver import disk, server, traffic
from fileserver.disk import Disk
from fileserver.root import DiskFailure, Exhausted, FileError, Root
from fileserver.server import Listener
from fileserver.transport import Waiting
from fileserver.turns import Turns
from lrucache import CHUNK_BYTES
from tests.exchange import GET, LAST
from tests.house import Gate, House, connect, limited, pattern, read_body, receive_all, wait_for
from tests.program import PROJECT, Program, read_all

UNFINISHED = b"GET /-/health HTTP/1.1\r\nHost: x\r\n"

# Connections.


def ask(client: socket.socket) -> None:
    """One request on a connection that stays."""
    client.sendall(GET % b"-/health")
    answer = b""
    while not answer.endswith(b"ok\n"):
        piece = client.recv(4096)
        assert piece, "the connection was closed"
        answer += piece
    assert answer.startswith(b"HTTP/1.1 200")


def await_count(things: Sized, count: int) -> None:
    wait_for(lambda: len(things) >= count)


def idle_clients(house: House, port: int, count: int, opened: ExitStack) -> list[socket.socket]:
    """Clients that have had one answer each and wait, the longest-idle first."""
    clients = []
    for number in range(count):
        clients.append(opened.enter_context(connect(port)))
        ask(clients[-1])
        await_count(house.site.traffic.idle, number + 1)
    return clients


def test_the_longest_idle_connection_is_closed_without_a_word_for_a_newcomer(folder: Path) -> None:
    with House(folder) as house, limited(house, 3) as serving, ExitStack() as opened:
        one, two, three = idle_clients(house, serving.port, 3, opened)
        ask(one)  # and is now the one that has been idle for the shortest time
        newcomer = opened.enter_context(connect(serving.port))
        ask(newcomer)
        assert receive_all(two) == b""
        for stays in (one, three, newcomer):
            ask(stays)
        another = opened.enter_context(connect(serving.port))
        ask(another)
        assert receive_all(one) == b""
        for stays in (three, newcomer, another):
            ask(stays)


def test_who_has_connected_and_said_nothing_is_idle_too(folder: Path) -> None:
    with House(folder) as house, limited(house, 2) as serving, ExitStack() as opened:
        silent = opened.enter_context(connect(serving.port))
        wait_for(lambda: house.site.traffic.idle)
        one, newcomer = (opened.enter_context(connect(serving.port)) for _ in range(2))
        ask(newcomer)
        assert receive_all(silent) == b""
        ask(one)


def test_up_to_the_limit_nobody_has_to_leave(folder: Path) -> None:
    with House(folder) as house, limited(house, 5) as serving, ExitStack() as opened:
        clients = idle_clients(house, serving.port, 5, opened)
        for client in clients:
            ask(client)
        assert len(house.site.traffic.connections) == 5


def busy_clients(house: House, port: int, opened: ExitStack) -> tuple[list[socket.socket], Gate]:
    """Three that may not be cut off: in the middle of a request, of a transfer, and waiting for a disk."""
    house.write("large", pattern(8 * CHUNK_BYTES))
    house.write("cold", b"content")
    house.root.cold.add("cold")
    gate = Gate()
    house.root.before_open = lambda name: gate.wait() if name == "cold" else None
    requests = (UNFINISHED, LAST % b"large", LAST % b"cold")
    clients = [opened.enter_context(connect(port, asked, receive_buffer=4096)) for asked in requests]
    wait_for(lambda: gate.waiting)
    wait_for(
        lambda: (
            {Waiting.REST_OF_REQUEST, Waiting.WRITABLE} <= {one.waiting for one in house.site.traffic.connections}
        )
    )
    return clients, gate


def test_who_is_in_the_middle_of_something_never_has_to_leave(folder: Path) -> None:
    with House(folder) as house, limited(house, 4) as serving, ExitStack() as opened:
        (unfinished, transfer, waiting), gate = busy_clients(house, serving.port, opened)
        (idle,) = idle_clients(house, serving.port, 1, opened)
        newcomer = opened.enter_context(connect(serving.port))
        ask(newcomer)
        assert receive_all(idle) == b""
        newcomer.sendall(UNFINISHED)
        wait_for(lambda: not house.site.traffic.idle)
        # Now nobody is idle.
        for _ in range(30):
            with connect(serving.port) as refused:
                answer = receive_all(refused)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"\r\nRetry-After: 1\r\n" in answer
            assert b"\r\nConnection: close\r\n" in answer
        wait_for(lambda: len(house.site.traffic.connections) == 4)
        gate.open()
        for client in (unfinished, newcomer):
            client.sendall(b"\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        assert receive_all(waiting).endswith(b"\r\n\r\ncontent")
        assert receive_all(transfer).partition(b"\r\n\r\n")[2] == pattern(8 * CHUNK_BYTES)


def test_whose_request_has_just_arrived_does_not_have_to_leave(folder: Path) -> None:
    with House(folder) as house, limited(house, 3) as serving, ExitStack() as opened:
        one, two, three = idle_clients(house, serving.port, 3, opened)
        # No other greenlet runs before room is made.
        one.sendall(GET % b"-/health")
        assert house.site.traffic.make_room()
        assert receive_all(two) == b""
        assert one.recv(4096).endswith(b"ok\n")
        for client in (one, three):
            ask(client)


def test_who_has_hung_up_already_is_idle(folder: Path) -> None:
    with House(folder) as house, limited(house, 3) as serving, ExitStack() as opened:
        one, two = idle_clients(house, serving.port, 2, opened)
        one.shutdown(socket.SHUT_WR)
        assert house.site.traffic.make_room()
        assert receive_all(one) == b""
        ask(two)


@pytest.mark.parametrize(("asking", "is_found"), [(2, True), (3, False)])
def test_only_some_are_looked_at_to_find_one_that_is_idle(
    folder: Path, monkeypatch: pytest.MonkeyPatch, asking: int, is_found: bool
) -> None:
    monkeypatch.setattr(traffic, "IDLE_LOOKED_AT", 3)
    with House(folder) as house, limited(house, 9) as serving, ExitStack() as opened:
        clients = idle_clients(house, serving.port, 4, opened)
        for client in clients[:asking]:
            client.sendall(GET % b"-/health")
        assert house.site.traffic.make_room() is is_found
        for client in clients[:asking]:
            assert client.recv(4096).endswith(b"ok\n")


def test_a_request_that_crosses_the_order_to_leave_is_answered_and_its_deadline_kept(folder: Path) -> None:
    with House(folder) as house, limited(house, 9) as serving, ExitStack() as opened:
        asked, begun = idle_clients(house, serving.port, 2, opened)
        assert house.site.traffic.make_room()
        assert house.site.traffic.make_room()
        assert not house.site.traffic.make_room(), "nobody is idle any more"
        asked.sendall(GET % b"-/health")
        begun.sendall(UNFINISHED)
        answer = receive_all(asked)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"\r\nConnection: close\r\n" in answer
        (transport,) = house.site.traffic.connections
        assert transport.deadline_s < 1e18
        transport.expire()
        assert receive_all(begun).startswith(b"HTTP/1.1 408")


def test_a_request_that_comes_before_the_order_to_leave_takes_effect_is_the_last_and_its_deadline_kept(
    folder: Path,
) -> None:
    """A busy loop asks the sockets again before it has run all that was scheduled, the order to leave last."""
    with House(folder) as house, limited(house, 3) as serving, ExitStack() as opened:
        (client,) = idle_clients(house, serving.port, 1, opened)
        (transport,) = house.site.traffic.connections
        loop = gevent.get_hub().loop
        for _ in range(60):
            loop.run_callback(time.sleep, 0.0005)
        assert house.site.traffic.make_room()
        client.sendall(UNFINISHED)
        wait_for(lambda: transport.waiting is Waiting.REST_OF_REQUEST)
        assert transport in house.site.traffic.connections
        assert transport.deadline_s < math.inf
        assert not house.site.traffic.leaving
        client.sendall(b"\r\n")
        answer = receive_all(client)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"\r\nConnection: close\r\n" in answer


def test_a_stop_without_patience_cuts_answers_and_counts_no_others(folder: Path) -> None:
    with House(folder) as house, limited(house, 9) as serving, ExitStack() as opened:
        house.write("a", pattern(60 * CHUNK_BYTES))
        idle = idle_clients(house, serving.port, 3, opened)
        slow = opened.enter_context(connect(serving.port, LAST % b"a", receive_buffer=4096))
        begun = opened.enter_context(connect(serving.port, UNFINISHED))
        wait_for(
            lambda: (
                {one.waiting for one in house.site.traffic.connections}
                == set(Waiting) - {Waiting.NOTHING, Waiting.GOODBYE}
            )
        )
        assert serving.drain(0.0, Event()) == 1
        for client in idle:
            assert receive_all(client) == b""
        with pytest.raises(ConnectionResetError):
            receive_all(slow)
        assert begun.recv(4096).startswith(b"HTTP/1.1 408")


def test_newcomers_push_each_other_out_and_nobody_hangs(folder: Path) -> None:
    with House(folder) as house, limited(house, 3) as serving, ExitStack() as opened:
        clients = []
        for _ in range(60):
            clients.append(opened.enter_context(connect(serving.port)))
            ask(clients[-1])
            assert len(house.site.traffic.connections) <= 3
        for client in clients[:-3]:
            assert receive_all(client) == b""
        for client in clients[-3:]:
            ask(client)


def test_a_crowd_that_comes_at_once_is_answered_one_way_or_the_other(folder: Path) -> None:
    with House(folder) as house, limited(house, 3) as serving, ExitStack() as opened:
        for _ in range(2):
            clients = [opened.enter_context(connect(serving.port, LAST % b"-/health")) for _ in range(100)]
            answers = [gevent.spawn(receive_all, client) for client in clients]
            gevent.joinall(answers, raise_error=True)
            statuses = {one.get()[9:12] for one in answers}
            assert statuses <= {b"200", b"503", b""}
            assert b"200" in statuses
        wait_for(lambda: not house.site.traffic.connections)
        assert not house.site.traffic.leaving


def test_of_those_turned_away_only_some_linger(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TURNED_AWAY_MAX", 2)
    with House(folder) as house, limited(house, 1) as serving, ExitStack() as opened:
        busy = opened.enter_context(connect(serving.port, UNFINISHED))
        wait_for(lambda: house.site.traffic.connections and not house.site.traffic.idle)
        refused = [opened.enter_context(connect(serving.port)) for _ in range(6)]
        for client in refused:
            assert receive_all(client).startswith(b"HTTP/1.1 503")
        wait_for(lambda: len(house.site.traffic.connections) == 1 + 2)
        busy.sendall(b"\r\n")
        assert busy.recv(4096).startswith(b"HTTP/1.1 200")


def test_who_was_turned_away_and_lingers_holds_no_place(folder: Path) -> None:
    with House(folder) as house, limited(house, 2) as serving, ExitStack() as opened:
        leaves, stays = (opened.enter_context(connect(serving.port, UNFINISHED)) for _ in range(2))
        wait_for(lambda: len(house.site.traffic.connections) == 2 and not house.site.traffic.idle)
        for _ in range(5):
            assert receive_all(opened.enter_context(connect(serving.port))).startswith(b"HTTP/1.1 503")
        leaves.close()
        wait_for(lambda: len(house.site.traffic.connections) == 1 + 5)
        newcomer = opened.enter_context(connect(serving.port))
        ask(newcomer)
        stays.sendall(b"\r\n")
        assert stays.recv(4096).startswith(b"HTTP/1.1 200")


def test_room_that_was_made_is_room_at_once(folder: Path) -> None:
    with House(folder) as house, limited(house, 2) as serving, ExitStack() as opened:
        _, stays = idle_clients(house, serving.port, 2, opened)
        assert not house.site.traffic.has_room(2)
        assert house.site.traffic.make_room()
        assert house.site.traffic.has_room(2)
        ask(stays)


def test_in_a_burst_that_was_not_read_yet_the_one_that_asks_is_answered(folder: Path) -> None:
    """Through the whole program: all of it arrives while the process is stopped."""
    with Program(folder, "--max-connections", "2") as program, ExitStack() as opened:
        asking, silent = (opened.enter_context(program.connect()) for _ in range(2))
        for client in (asking, silent):
            client.sendall(GET % b"-/health")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        program.process.send_signal(signal.SIGSTOP)
        try:
            asking.sendall(GET % b"-/health")
            newcomer = opened.enter_context(program.connect())
            newcomer.sendall(GET % b"-/health")
        finally:
            program.process.send_signal(signal.SIGCONT)
        assert asking.recv(4096).startswith(b"HTTP/1.1 200")
        assert newcomer.recv(4096).startswith(b"HTTP/1.1 200")
        assert silent.recv(1) == b""


# Descriptors.


def allowed(descriptors: int) -> str:
    """Changes that leave the program so many descriptors, for good."""
    pytest.importorskip("resource")
    return f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors}))"


def run(folder: Path, *options: str, changes: str) -> subprocess.CompletedProcess[str]:
    """gserver.py to its end, with changes as Program makes them."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys, gserver; {changes}; sys.exit(gserver.main())",
            "0",
            str(folder),
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=PROJECT,
    )


def test_more_connections_than_there_are_descriptors_are_refused_in_one_line(folder: Path) -> None:
    done = run(folder, "--max-connections", "12", changes=allowed(172))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert re.match(r"gserver: 12 connections need more descriptors than the 172 allowed", done.stderr)
    with Program(folder, "--max-connections", "11", changes=allowed(172)) as program:
        assert program.get("/-/health")[0] == 200
        assert "only 1 files can be open for 11 connections" in program.warnings


@pytest.mark.parametrize(("descriptors", "clients"), [(172, 6), (161, 1), (100, 1)])
def test_who_says_nothing_gets_half_of_what_is_left_and_at_least_one(
    folder: Path, descriptors: int, clients: int
) -> None:
    with Program(folder, changes=allowed(descriptors)) as program, ExitStack() as opened:
        busy = [opened.enter_context(program.connect()) for _ in range(clients)]
        for client in busy:
            client.sendall(UNFINISHED)
        assert program.raw(b"").startswith(b"HTTP/1.1 503")
        for client in busy:
            client.sendall(b"\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")


FEW = 60
SHORTAGE = "; gserver.DESCRIPTORS_KEPT = -1; server.ACCEPT_PAUSE_S = 0.01"
"""With it, more clients are admitted than there are descriptors for."""


def test_clients_without_a_descriptor_wait_in_the_kernel_and_are_served_when_others_leave(folder: Path) -> None:
    (folder / "a").write_bytes(b"content")
    options = ("--max-connections", str(FEW - 2), "--threads", "2")
    with Program(folder, *options, changes=allowed(FEW) + SHORTAGE) as program, ExitStack() as opened:
        # All of them have sent something before one is accepted, so none is ever idle.
        program.process.send_signal(signal.SIGSTOP)
        try:
            clients = [opened.enter_context(program.connect()) for _ in range(2 * FEW)]
            for client in clients:
                client.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
        finally:
            program.process.send_signal(signal.SIGCONT)
        assert program.process.stderr is not None
        line = program.process.stderr.readline()
        assert "cannot accept connections: Too many open files" in line
        # No descriptor is left for a file either: come again. Then there is one more.
        clients[0].sendall(b"\r\n")
        answer = read_all(clients[0])
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"\r\nRetry-After: 1\r\n" in answer
        for client in clients[1 : FEW // 2]:
            client.close()
        for client in clients[FEW // 2 :]:
            client.sendall(b"\r\n")
            answer = read_all(client)
            assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 503"))
        assert program.get("/a")[2] == b"content"
        said = program.stop()
    assert "cannot accept" not in said
    assert said.count("turned a request away") == 1
    assert "Traceback" not in said


def test_without_descriptors_the_longest_idle_gives_way(folder: Path) -> None:
    options = ("--max-connections", str(FEW - 2), "--threads", "2")
    with Program(folder, *options, changes=allowed(FEW) + SHORTAGE) as program, ExitStack() as opened:
        clients = []
        for _ in range(2 * FEW):
            clients.append(opened.enter_context(program.connect()))
            clients[-1].sendall(GET % b"-/health")
            assert clients[-1].recv(4096).startswith(b"HTTP/1.1 200")
        for client in clients[:FEW]:
            assert client.recv(1) == b""
        clients[-1].sendall(GET % b"-/health")
        assert clients[-1].recv(4096).startswith(b"HTTP/1.1 200")
        said = program.stop()
    assert said.count("cannot accept connections") == 1


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Listener, list[OSError], list[str]]]:
    """A listener, the errors its next accepts fail with, and what happened: `served`, `made room`."""
    monkeypatch.setattr(server, "ACCEPT_PAUSE_S", 0.02)
    errors: list[OSError] = []
    happened: list[str] = []
    read = Listener._accept

    def failing(self: Listener) -> Any:
        if errors:
            raise errors.pop(0)
        return read(self)

    def serve(client: socket.socket, _: object) -> None:
        happened.append("served")
        client.close()

    monkeypatch.setattr(Listener, "_accept", failing)
    listening = Listener(("127.0.0.1", 0), serve, lambda: happened.append("made room"))
    listening.start()
    yield listening, errors, happened
    listening.stop()


ListenerFixture = tuple[Listener, list[OSError], list[str]]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_a_shortage_pauses_makes_room_and_is_said_once(
    listener: ListenerFixture, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], number: int
) -> None:
    listening, errors, happened = listener
    errors += [OSError(number, "said the test") for _ in range(5)]
    with connect(int(listening.address[1])) as client:
        assert receive_all(client) == b""
    assert happened == ["made room"] * 5 + ["served"]
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "cannot accept connections: said the test"
    ]
    assert capfd.readouterr().err == ""


def test_during_a_shortage_nothing_is_accepted(listener: ListenerFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ACCEPT_PAUSE_S", 1000.0)
    listening, errors, happened = listener
    errors.append(OSError(errno.EMFILE, "said the test"))
    spawned: list[tuple[float, Callable[[], None]]] = []
    monkeypatch.setattr(gevent, "spawn_later", lambda delay_s, go_on: spawned.append((delay_s, go_on)))
    with connect(int(listening.address[1])) as client:
        for _ in range(20):
            gevent.sleep(0.001)
        assert happened == ["made room"]
        ((delay_s, go_on),) = spawned
        assert delay_s == 1000.0
        go_on()
        assert receive_all(client) == b""
    assert happened == ["made room", "served"]


def test_a_listener_that_was_stopped_during_its_pause_stays_stopped(listener: ListenerFixture) -> None:
    listening, _, _ = listener
    listening.stop()
    listening._go_on()
    assert listening.closed


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM])
def test_a_client_that_left_before_it_was_accepted_is_not_spoken_of(
    listener: ListenerFixture, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], number: int
) -> None:
    listening, errors, happened = listener
    errors.append(OSError(number, "said the test"))
    with connect(int(listening.address[1])) as client:
        assert receive_all(client) == b""
    assert happened == ["served"]
    assert caplog.records == []
    assert capfd.readouterr().err == ""


def test_an_error_that_nobody_expected_is_not_swallowed(listener: ListenerFixture) -> None:
    listening, errors, _ = listener
    errors.append(OSError(errno.EINVAL, "said the test"))
    with pytest.raises(OSError, match="said the test"):
        listening.do_read()


# Threads.


def threads_to_be_had(count: int) -> str:
    """Changes with which the system starts so many native threads and no more."""
    return (
        "import gevent.threadpool as pools; begun = []; begin = pools.start_new_thread;"
        " fail = lambda: (_ for _ in ()).throw(RuntimeError('can\\'t start new thread'));"
        " pools.start_new_thread ="
        f" lambda *work: fail() if len(begun) >= {count} else (begun.append(1), begin(*work))[1]"
    )


@contextmanager
def short_of_threads(folder: Path, threads: int, *options: str) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """gserver.py with so many native threads, for it says so before its start line; its port."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import gserver; {threads_to_be_had(threads)}; gserver.main()",
            "0",
            str(folder),
            *options,
        ],
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    )
    try:
        assert process.stderr is not None
        assert re.search(r"WARNING only \d+ of \d+ threads could be started\n", process.stderr.readline())
        match = re.search(r":(\d+)/ serves", line := process.stderr.readline())
        assert match, line
        yield int(match[1]), process
    finally:
        process.kill()
        process.communicate(timeout=30)


@pytest.mark.parametrize("threads", [1 + disk.LOOK_THREADS, 7, 31 + disk.LOOK_THREADS])
def test_a_system_short_of_threads_is_said_once_and_files_are_served(folder: Path, threads: int) -> None:
    for number in range(20):
        (folder / str(number)).write_bytes(b"%d" % number)
    options = ("--io", "pool", "--revalidate", "0")
    with short_of_threads(folder, threads, *options) as (port, process), ExitStack() as opened:
        clients = [
            opened.enter_context(native.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(40)
        ]
        for number, client in enumerate(clients):
            client.sendall(LAST % (b"%d" % (number % 20)))
        for number, client in enumerate(clients):
            assert read_all(client).endswith(b"\r\n\r\n%d" % (number % 20))
        process.terminate()
        said = process.communicate(timeout=30)[1]
        assert process.returncode == 0
    assert "WARNING" not in said
    assert "Traceback" not in said


def test_with_as_many_threads_as_are_needed_nothing_is_said(folder: Path) -> None:
    with Program(folder, changes=threads_to_be_had(64 + disk.LOOK_THREADS)) as program:
        assert "WARNING" not in program.stop()


def test_without_any_thread_there_is_no_server(folder: Path) -> None:
    done = run(folder, changes=threads_to_be_had(0))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("gserver: cannot start: ")


def test_an_access_log_without_a_thread_to_write_it_is_no_start(folder: Path, tmp_path: Path) -> None:
    """Better than a server whose log is dead from its first line on."""
    changes = threads_to_be_had(64 + disk.LOOK_THREADS) + "; gserver.announce = lambda *_: gserver.sys.exit(0)"
    done = run(folder, "--access-log", str(tmp_path / "log"), changes=changes)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr


# Open files.


@pytest.fixture
def capped(folder: Path, io: str) -> Iterator[Disk]:
    """A disk that opens two files at a time, over ten of two chunks; every turn is back at the end."""
    for number in range(10):
        (folder / str(number)).write_bytes(pattern(2 * CHUNK_BYTES, number))
    root = Root(str(folder))
    capped_disk = Disk(root, threads=4, inline=io == "auto", open_max=2)
    yield capped_disk
    capped_disk.close()
    root.close()
    assert capped_disk._open_turns.free == 2


def test_who_opens_more_files_than_may_be_open_waits_and_has_them_in_order(capped: Disk) -> None:
    held = [capped.open(str(number)).descriptor for number in range(2)]
    order: list[int] = []

    def open_in_turn(number: int) -> None:
        held.append(capped.open(str(number)).descriptor)
        order.append(number)

    waiting = [gevent.spawn(open_in_turn, number) for number in range(2, 10)]
    gevent.sleep(0.01)
    assert order == []
    for number in range(2, 10):
        capped.release(held.pop(0))
        await_count(order, number - 1)
        assert order == list(range(2, number + 1))
    gevent.joinall(waiting, raise_error=True)
    for descriptor in held:
        capped.release(descriptor)


def test_a_file_that_was_read_whole_holds_no_turn(capped: Disk, folder: Path) -> None:
    (folder / "small").write_bytes(b"content")
    held = capped.open("0").descriptor
    for _ in range(5):
        assert capped.open("small", 100).first == b"content"
    capped.release(held)


def test_an_open_that_need_not_wait_for_the_disk_overtakes_nobody_who_waits(folder: Path) -> None:
    (folder / "a").write_bytes(b"content")
    root = Root(str(folder))
    two = Disk(root, threads=1, open_max=1)
    try:
        held = two.open("a", -1).descriptor
        waiting = gevent.spawn(two.open, "a", -1)
        gevent.sleep(0)
        assert two.open_cached("a", 100) is None
        two.release(held)  # gives the turn to who waits, who does not know yet
        assert two.open_cached("a", 100) is None
        two.release(waiting.get().descriptor)
        opened = two.open_cached("a", 100)
        assert opened is None or opened.first == b"content"
        assert two._open_turns.free == 1
    finally:
        two.close()
        root.close()


def test_an_open_waits_only_so_long(capped: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "OPEN_WAIT_S", 0.01)
    held = [capped.open(str(number)).descriptor for number in range(2)]
    with pytest.raises(Exhausted):
        capped.open("2")
    capped.release(held.pop())
    held.append(capped.open("2").descriptor)
    for descriptor in held:
        capped.release(descriptor)


def test_too_many_open_files_are_503_and_one_line_in_the_log(
    folder: Path, io: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk, "OPEN_WAIT_S", 0.01)
    with House(folder, io=io) as house, house.serving() as port:
        house.write("a", b"content")
        house.disk._open_turns = Turns(1)
        assert house.disk._open_turns.take_now()

        def get() -> bytes:
            with connect(port, LAST % b"a") as client:
                return receive_all(client)

        for _ in range(3):
            answer = get()
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"\r\nRetry-After: 1\r\n" in answer
        with connect(port, b"GET a\n") as client:
            assert receive_all(client).startswith(b"ERROR too busy")
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["turned a request away"]
        house.disk._open_turns.give()
        assert get().endswith(b"content")
    assert house.disk._open_turns.free == 1


def test_one_open_file_at_a_time_is_enough_for_everybody(folder: Path, io: str) -> None:
    """Files that are cached, too large for the cache, evicted by each other, and asked for by many at once."""
    with House(folder, io=io, capacity=8 * CHUNK_BYTES) as house, house.serving() as port, ExitStack() as opened:
        house.disk._open_turns = Turns(1)
        chunks = [0, 1, 5, 7, 9, 12]
        contents = [
            house.write(str(number), pattern(size * CHUNK_BYTES, size)) for number, size in enumerate(chunks)
        ]
        clients = [opened.enter_context(connect(port, LAST % (b"%d" % (number % 6)))) for number in range(36)]
        answers = [gevent.spawn(receive_all, client) for client in clients]
        gevent.joinall(answers, raise_error=True)
        for number, answer in enumerate(answers):
            assert answer.get().partition(b"\r\n\r\n")[2] == contents[number % 6]
    assert house.disk._open_turns.free == 1


def missing(house: House) -> None:
    with pytest.raises(FileError):
        house.fetch("nothing")


def a_folder(house: House) -> None:
    house.write("sub/file", b"")
    with pytest.raises(FileError):
        house.fetch("sub")


def a_failing_open(house: House) -> None:
    house.write("a", pattern(2 * CHUNK_BYTES))
    house.root.cold.add("a")
    house.root.before_open = house.fail("a")
    with pytest.raises(FileError):
        house.fetch("a")


def a_failing_first_read(house: House) -> None:
    house.write("a", pattern(2 * CHUNK_BYTES))
    house.root.cold.add("a")
    house.root.before_read = house.fail("a")
    with pytest.raises(FileError):
        house.fetch("a")


def a_failing_later_read(house: House) -> None:
    house.write("a", pattern(4 * CHUNK_BYTES))
    house.root.cold.add("a")

    def fail_late(name: str, offset: int) -> None:
        if offset:
            house.fail("a")(name)

    house.root.before_read = fail_late
    with pytest.raises(FileError):
        house.fetch("a")


def an_unexpected_error(house: House) -> None:
    house.write("a", pattern(2 * CHUNK_BYTES))
    house.root.cold.add("a")

    def fail(name: str) -> None:
        raise ZeroDivisionError("said the test")

    house.root.before_open = fail
    with pytest.raises(ZeroDivisionError):
        house.disk.open("a")


def an_unexpected_error_inline(house: House) -> None:
    house.write("a", b"content")

    def fail(name: str, identity: object) -> Any:
        raise ZeroDivisionError("said the test")

    house.root.cold.clear()
    house.root.before_open = lambda name: fail(name, None)
    house.root.open = lambda *_, **__: fail("", None)  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        house.disk.open("a")


def read_apart_from_open(house: House) -> None:
    """Have an inline open bring no content, as when only the read would wait."""
    whole_open = house.root.open
    house.root.open = lambda name, first_max=0, *, cached=False: whole_open(  # type: ignore[method-assign]
        name, -1 if cached else first_max, cached=cached
    )


def a_first_chunk_that_only_a_thread_can_read(house: House) -> None:
    content = house.write("a", pattern(5000))
    read_apart_from_open(house)
    assert house.fetch("a")[1] == content


def a_first_chunk_that_nobody_can_read(house: House) -> None:
    house.write("a", pattern(5000))
    read_apart_from_open(house)

    def fail(*_: object, **__: object) -> bytes:
        raise DiskFailure("EIO, said the test")

    house.root.read = fail  # type: ignore[method-assign]
    with suppress(DiskFailure):  # in a thread the open reads for itself
        house.fetch("a")


def an_eviction_while_read(house: House) -> None:
    content = house.write("a", pattern(5 * CHUNK_BYTES))
    house.write("b", pattern(7 * CHUNK_BYTES, 7))
    body = house.store.get("a")
    house.fetch("b")
    assert read_body(body) == content
    body.close()


def a_version_that_changes_while_read(house: House) -> None:
    content = house.write("a", pattern(9 * CHUNK_BYTES))
    body = house.store.get("a")
    house.replace("a", b"another")
    house.clock.now_s += 10
    assert house.fetch("a")[1] == b"another"
    assert read_body(body) == content
    body.close()


def a_version_that_is_gone_when_it_is_opened_again(house: House) -> None:
    house.write("a", pattern(5 * CHUNK_BYTES))
    house.write("b", pattern(7 * CHUNK_BYTES))
    house.fetch("a")
    body = house.store.get("a")
    house.replace("a", pattern(5 * CHUNK_BYTES, 5))
    house.fetch("b")
    with pytest.raises(FileError):
        read_body(body)
    body.close()


def a_held_version_of_another_identity(house: House) -> None:
    house.write("a", pattern(2 * CHUNK_BYTES))
    house.fetch("a")
    body = house.store.get("a")
    house.replace("a", b"another")
    body.hold()
    body.close()


def the_same_version_twice(house: House) -> None:
    content = house.write("a", pattern(9 * CHUNK_BYTES))
    bodies = [house.store.get("a") for _ in range(2)]
    readers = [gevent.spawn(read_body, body) for body in bodies]
    gevent.joinall(readers, raise_error=True)
    assert [reader.value for reader in readers] == [content] * 2
    for body in bodies:
        body.close()


def clients_that_leave(house: House) -> None:
    house.write("a", pattern(9 * CHUNK_BYTES))
    house.write("b", pattern(3 * CHUNK_BYTES))
    with house.serving() as port:
        for name in (b"a", b"b") * 5:
            with connect(port, LAST % name, receive_buffer=4096) as client:
                client.recv(100)
        wait_for(lambda: not house.site.traffic.connections)


TROUBLES = [
    missing,
    a_folder,
    a_failing_open,
    a_failing_first_read,
    a_failing_later_read,
    an_unexpected_error,
    an_unexpected_error_inline,
    a_first_chunk_that_only_a_thread_can_read,
    a_first_chunk_that_nobody_can_read,
    an_eviction_while_read,
    a_version_that_changes_while_read,
    a_version_that_is_gone_when_it_is_opened_again,
    a_held_version_of_another_identity,
    the_same_version_twice,
    clients_that_leave,
]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.__name__)
def test_every_turn_comes_back_after(folder: Path, io: str, trouble: Callable[[House], None]) -> None:
    with House(folder, io=io, capacity=8 * CHUNK_BYTES) as house:
        house.disk._open_turns = Turns(3)
        trouble(house)
    assert house.disk._open_turns.free == 3


def test_the_open_files_are_bounded_by_what_clients_leave_of_the_descriptors(folder: Path) -> None:
    """172 descriptors, 160 kept, 8 for clients: four files may be open, and a fifth has to wait."""
    for number in range(6):
        with (folder / str(number)).open("wb") as file:
            file.truncate(90 << 20)
    changes = allowed(172) + "; gserver.Disk.__init__.__globals__['OPEN_WAIT_S'] = 0.05"
    with Program(folder, "--max-connections", "8", changes=changes) as program, ExitStack() as opened:
        for number in range(4):
            client = opened.enter_context(native.socket())
            client.setsockopt(native.SOL_SOCKET, native.SO_RCVBUF, 4096)
            client.settimeout(30)
            client.connect((program.host, program.port))
            client.sendall(GET % (b"%d" % number))
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert program.get("/4")[0] == 503
        client.close()
        while json.loads(program.get("/-/stats")[2])["connections"] > 4:
            pass
        assert program.raw(b"GET /5 HTTP/1.0\r\nRange: bytes=0-9\r\n\r\n").endswith(bytes(10))


def test_slow_readers_of_what_is_cached_leave_half_of_the_turns_to_those_who_need_one(folder: Path) -> None:
    with House(folder) as house, house.serving(send_buffer=4096) as port, ExitStack() as opened:
        if not house.root.knows_cached:
            pytest.skip("this system does not say what it has in memory")
        house.disk._open_turns = Turns(4)
        for number in range(4):
            house.write(f"hot{number}", pattern(6 * CHUNK_BYTES))
            house.fetch(f"hot{number}")
        house.write("cold", pattern(300_000))
        slow = [connect(port, GET % b"hot%d" % number, receive_buffer=4096) for number in range(4)]
        for client in slow:
            opened.enter_context(client)
        wait_for(lambda: [one.waiting for one in house.site.traffic.connections] == [Waiting.WRITABLE] * 4)
        assert house.disk._open_turns.free == 2
        assert house.fetch("cold") == ("miss", pattern(300_000))
