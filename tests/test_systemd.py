"""What a service manager hands over and is told, with real sockets and processes; the units as shipped."""

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.program import GIVE_UP_S, PROJECT, Program, gclient, read_all, until

DEPLOY = PROJECT / "deploy"

HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""What systemd does between fork and exec: the socket becomes descriptor 3."""


def handed(listener: socket.socket, arguments: list[str], count: str = "1") -> "subprocess.Popen[str]":
    """A Python that is started with that socket; LISTEN_FDS says `count`."""
    return subprocess.Popen(
        [sys.executable, "-c", HAND_OVER, str(listener.fileno()), *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        pass_fds=[listener.fileno()],
        env={**os.environ, "LISTEN_FDS": count, "LISTEN_FDNAMES": "x"},
    )


class Handed(Program):
    """A gserver.py that was started with a listening socket."""

    def __init__(self, listener: socket.socket, directory: Path, *options: str) -> None:
        self._handed = listener
        super().__init__(directory, *options)

    def started(self, command: list[str]) -> "subprocess.Popen[str]":
        return handed(self._handed, command[1:])


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    served = tmp_path / "served"
    served.mkdir()
    (served / "x").write_bytes(b"content")
    return served


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=GIVE_UP_S) as client:
        client.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return read_all(client)


# The socket


def test_it_serves_where_it_was_told_to_listen(listener: socket.socket, folder: Path) -> None:
    with Handed(listener, folder) as server:
        assert server.port == listener.getsockname()[1]
        assert ask(server.port).endswith(b"content")


def test_whoever_comes_between_two_processes_is_served_by_the_second(
    listener: socket.socket, folder: Path
) -> None:
    with Handed(listener, folder) as server:
        port = server.port
    with socket.create_connection(("127.0.0.1", port), timeout=GIVE_UP_S) as client:
        client.sendall(b"GET /x HTTP/1.0\r\n\r\n")
        with Handed(listener, folder):
            assert read_all(client).endswith(b"content")


def test_restarts_lose_no_connection(listener: socket.socket, folder: Path) -> None:
    port = listener.getsockname()[1]
    answers: list[bytes] = []
    over = threading.Event()

    def go_on_asking() -> None:
        while not over.is_set():
            answers.append(ask(port))

    clients = [threading.Thread(target=go_on_asking) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        for _ in range(3):
            with Handed(listener, folder):
                seen = len(answers)
                until(lambda seen=seen: len(answers) > seen + 50)  # type: ignore[misc]
        last = Handed(listener, folder)
    finally:
        over.set()
    with last:
        for client in clients:
            client.join(GIVE_UP_S)
            assert not client.is_alive()
    assert all(answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"content") for answer in answers)


def test_who_was_accepted_and_speaks_only_when_the_server_stops_is_answered(
    listener: socket.socket, folder: Path
) -> None:
    request = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
    with (
        Handed(listener, folder, "--drain", "600") as server,
        server.connect() as first,
        server.connect() as second,
    ):
        second.sendall(request)
        second.recv(4096)  # they are accepted in turn, so the first is, too
        server.begin_stop()
        assert second.recv(1) == b""
        first.sendall(request)
        head, _, body = read_all(first).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nConnection: close" in head
        assert body == b"content"


def test_who_says_nothing_does_not_keep_a_stop(listener: socket.socket, folder: Path) -> None:
    with Handed(listener, folder, "--drain", "600") as server, server.connect() as client:
        with server.connect() as second:
            second.sendall(b"GET /x HTTP/1.0\r\n\r\n")
            read_all(second)
        server.stop()
        assert server.process.returncode == 0
        assert client.recv(1) == b""


def test_a_socket_for_another_process_is_not_touched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    with Program(folder) as server:
        assert server.get("/x")[2] == b"content"


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_who_can_ask_is_judged_by_the_socket_and_not_by_the_command_line(folder: Path, host: str) -> None:
    other = "127.0.0.1" if host == "0.0.0.0" else "0.0.0.0"
    with socket.create_server((host, 0)) as listener, Handed(listener, folder, "--host", other) as server:
        assert ("anyone who can reach it" in server.start_line) == (host == "0.0.0.0")
        strangers = {"Host": "elsewhere.example"}  # to whom statistics are open only if nobody else can ask
        assert server.get("/-/stats", **strangers)[0] == (403 if host == "0.0.0.0" else 200)


def test_of_both_families_is_one_socket(folder: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener,
        Handed(listener, folder) as server,
    ):
        for address in ("127.0.0.1", "::1"):
            assert gclient(address, str(server.port), "x", "-").stdout == b"content"


def refused(made: socket.socket, folder: Path, count: str = "1") -> str:
    """The error line of a gserver.py that was handed that."""
    process = handed(made, [str(PROJECT / "gserver.py"), "0", str(folder)], count)
    _, said = process.communicate(timeout=GIVE_UP_S)
    assert process.returncode == 1
    return said.rstrip("\n")


def test_what_is_no_listening_tcp_socket_is_an_error(folder: Path, tmp_path: Path) -> None:
    wrong = "gserver: cannot use the socket that was handed over: it is no TCP socket that listens"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        assert refused(datagrams, folder) == wrong
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        assert refused(silent, folder) == wrong
    with socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "local"))
        local.listen()
        assert refused(local, folder) == wrong


def test_several_sockets_are_an_error(listener: socket.socket, folder: Path) -> None:
    said = refused(listener, folder, count="2")
    assert said == "gserver: cannot use the socket that was handed over: 2 of them, and one process serves one"


# The words


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """Who is told, at a path or (@) a name in no folder."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("\0" + address[1:] if address.startswith("@") else address)
        heard.settimeout(GIVE_UP_S)
        yield heard


def words(heard: socket.socket) -> dict[str, str]:
    """The next that is said."""
    return dict(line.split("=", 1) for line in heard.recv(4096).decode().split("\n"))


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_it_says_when_it_serves_reloads_and_stops(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "abstract" and sys.platform != "linux":
        pytest.skip("only Linux has such names")
    address = str(tmp_path / "manager") if kind == "path" else f"@gserver-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with manager(address) as heard, Program(folder) as server:
        said = words(heard)
        assert said == {"READY": "1", "STATUS": server.start_line.removeprefix("gserver: ").rstrip("\n")}
        assert ask(server.port).endswith(b"content")
        server.process.send_signal(signal.SIGHUP)  # there is nothing to reload, and still it is no reason to stop
        assert words(heard).keys() == {"RELOADING", "MONOTONIC_USEC"}
        assert words(heard) == {"READY": "1"}
        assert ask(server.port).endswith(b"content")
        server.process.terminate()
        assert words(heard) == {"STOPPING": "1", "STATUS": "finishing what is being sent"}


def test_a_folder_of_a_strange_name_is_told_in_one_line_of_utf_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / os.fsdecode(b"not \xff UTF-8\nWATCHDOG=trigger")
    try:
        folder.mkdir()
    except OSError as problem:
        pytest.skip(f"no such names here: {problem}")
    address = str(tmp_path / "manager")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with manager(address) as heard, Program(folder):
        said = words(heard)
        assert said.keys() == {"READY", "STATUS"}
        assert "not \\udcff UTF-8 WATCHDOG=trigger" in said["STATUS"]


def test_it_says_that_it_is_alive_as_long_as_the_loop_turns(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(tmp_path / "manager")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    stand_still = (
        "import time; from gevent.monkey import get_original;"
        "from fileserver.site import Site;"
        "Site.has_fast_path = False;"
        "right = Site.answer;"
        "Site.answer = lambda *all: (get_original('time', 'sleep')(3600), right(*all))"
    )
    with manager(address) as heard:
        server = Program(folder, changes=stand_still)
        try:
            assert words(heard)["READY"] == "1"
            for _ in range(5):
                assert words(heard) == {"WATCHDOG": "1"}
            with server.connect() as client:
                client.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
                until(lambda: not said_within(heard, 1.0))
        finally:
            server.process.kill()
            server.process.communicate()


def said_within(heard: socket.socket, seconds: float) -> bool:
    """Whether something came; it is read."""
    came = bool(select.select([heard], [], [], seconds)[0])
    if came:
        heard.recv(4096)
    return came


@pytest.mark.parametrize(
    ("name", "value"), [("WATCHDOG_PID", "1"), ("WATCHDOG_USEC", "0"), ("WATCHDOG_USEC", "x")]
)
def test_a_watchdog_that_is_none_of_ours_is_not_fed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    address = str(tmp_path / "manager")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    monkeypatch.setenv(name, value)
    with manager(address) as heard, Program(folder) as server:
        assert words(heard)["READY"] == "1"
        assert ask(server.port).endswith(b"content")
        server.process.terminate()
        assert "STOPPING" in words(heard)


def test_a_manager_that_has_gone_is_missed_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    with Program(folder) as server:
        for _ in range(20):
            assert ask(server.port).endswith(b"content")
        assert server.stop().count("cannot tell the service manager: No such file or directory") == 1


# The units


def shipped() -> list[str]:
    return sorted(path.name for path in DEPLOY.glob("gserver*"))


def test_there_is_a_unit_for_one_port_and_for_several() -> None:
    assert shipped() == ["gserver.service", "gserver.socket", "gserver@.service", "gserver@.socket"]


@pytest.mark.parametrize("kind", ["service", "socket"])
def test_the_unit_for_several_ports_is_that_for_one_but_for_the_port(kind: str) -> None:
    one, several = (
        (DEPLOY / f"gserver{mark}.{kind}").read_text().partition("[Unit]")[2].splitlines() for mark in ("", "@")
    )
    assert len(one) == len(several)
    changed = {(mine, theirs) for mine, theirs in zip(one, several, strict=True) if mine != theirs}
    assert changed
    for mine, theirs in changed:
        assert mine in (
            theirs.replace("gserver@%i", "gserver").replace(", port %i", "").replace(" port %i", " port"),
            theirs.replace("%i", "8080"),
        )


@pytest.mark.external
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_to_say_of_the_units(tmp_path: Path) -> None:
    for name in shipped():
        text = (DEPLOY / name).read_text()
        program = re.search(r"^ExecStart=(\S+)", text, re.MULTILINE)
        here = text.replace(program[1], sys.executable) if program else text  # it looks whether it is there
        (tmp_path / name).write_text(here)
    (tmp_path / "gserver@8081.service").symlink_to("gserver@.service")
    (tmp_path / "gserver@8081.socket").symlink_to("gserver@.socket")
    units = [tmp_path / "gserver.service", tmp_path / "gserver.socket"]
    units += [tmp_path / "gserver@8081.service", tmp_path / "gserver@8081.socket"]
    assert analyzed("verify", *units) == ""
    analyzed("security", "--offline=yes", "--threshold=20", tmp_path / "gserver.service")


def analyzed(*arguments: str | Path) -> str:
    """What systemd-analyze says when it does not fail."""
    result = subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=GIVE_UP_S, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stderr


def test_the_command_of_the_unit_is_one_of_ours(folder: Path, listener: socket.socket) -> None:
    """As systemd runs it, but for where it is installed."""
    text = (DEPLOY / "gserver.service").read_text()
    line = re.search(r"^ExecStart=\S+/gserver (.*)$", text, re.MULTILINE)
    assert line is not None
    port, directory, *options = line[1].split()
    assert (port, directory, options.pop()) == ("8080", "${DIR}", "$OPTIONS")
    with Handed(listener, folder, *options) as server:
        assert ask(server.port).endswith(b"content")
