"""gclient.py as its users run it: against the real server, and against servers that misbehave on purpose."""

import argparse
import errno
import hashlib
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gclient as client_module
from tests.program import PROJECT, Program, gclient

GIVE_UP_S = 20
"""Bounds every wait for the other side; nothing that passes waits for it."""

BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
"""The environment of most users: Python writes standard output again at exit."""

FIRST_PIECE = b"1" * (300 * 1024)
"""More than the client reads at once, so that it shows progress for it."""

NAMES = [
    "plain.txt",
    "with some spaces",
    "ünï-日本.txt",
    "100%",
    "100%25",
    "what?",
    "a#b",
    "a&b=c;d+e",
    "back\\slash",
    "'quoted\"",
    "list",
    "stats",
    "get",
    "n" * 255,
    "é" * 127 + "x",
    "sub/inner",
    "sub/deep er/ünner?",
]

HOSTILE_NAMES = [
    "../evil",
    "../../../evil",
    "/../evil",
    "a/../../evil",
    "/etc/evil",
    "//evil",
    "..%2fevil",
    "%2e%2e/evil",
    "..\\evil",
    "..\\..\\evil",
    "...",
    "a\nb",
    "~/evil",
    "C:evil",
]

NOT_NAMES = ["", "/", ".", "..", "../", "a/..", "a/.", "sub/", "/../.."]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One server for every test that only fetches; it serves NAMES, each file holding its own name."""
    folder = tmp_path_factory.mktemp("served")
    for name in [*NAMES, "-dash"]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (folder / "empty").touch()
    (folder / "big").write_bytes(b"b" * 3_000_000)
    with Program(folder) as program:
        yield program


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty DIR to fetch into, deep enough that `../..` stays within the test."""
    path = tmp_path / "outer" / "inner" / "into"
    path.mkdir(parents=True)
    return path


Script = Callable[[socket.socket, threading.Event], None]


class FakeServer:
    """Takes one client, reads its request head, and runs `script` on it; then the connection is closed.

    The script gets a gate to wait at, which the test opens, or the end of the `with` does.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(GIVE_UP_S)
        self.address = ("127.0.0.1", str(self._listener.getsockname()[1]))
        self.gate = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> "FakeServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._thread.join(GIVE_UP_S + 1)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        with self._listener:
            client, _ = self._listener.accept()
        with client, suppress(ConnectionError):  # the client may leave first
            client.settimeout(GIVE_UP_S)
            with client.makefile("rb") as request:
                while request.readline().strip():
                    pass
            self._script(client, self.gate)


def says(content: bytes) -> Script:
    """Send this, and close."""
    return lambda client, _: client.sendall(content)


def head(length: int, status: str = "200 OK", content_type: str = "text/plain") -> bytes:
    """An answer's head that promises `length` bytes."""
    return f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n".encode()


def held(first: bytes, rest: bytes, missing: int = 0) -> Script:
    """Send a head and `first`, the `rest` only when the gate opens, and the last `missing` bytes never."""

    def script(client: socket.socket, gate: threading.Event) -> None:
        client.sendall(head(len(first) + len(rest) + missing) + first)
        gate.wait(GIVE_UP_S)
        client.sendall(rest)

    return script


def reset(client: socket.socket, gate: threading.Event) -> None:
    """Send a part of a body; when the gate opens, reset the connection."""
    client.sendall(head(1 << 20) + FIRST_PIECE)
    gate.wait(GIVE_UP_S)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def silent(_client: socket.socket, gate: threading.Event) -> None:
    """No answer."""
    gate.wait(GIVE_UP_S)


def endless(client: socket.socket, _gate: threading.Event) -> None:
    """An error message that goes on until the client leaves."""
    client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n\r\n")
    for _ in range(4096):
        client.sendall(b"no " * 20_000)
    pytest.fail("the client read all of it")


class OnATerminal:
    """gclient.py with its standard error on a terminal, while it runs. Leaving the `with` ends it."""

    def __init__(self, *arguments: str) -> None:
        self.screen = b""
        self._master, slave = pty.openpty()
        # A shell starts background jobs with SIGINT ignored, and that would be inherited.
        interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=slave)
        finally:
            signal.signal(signal.SIGINT, interrupt)
            os.close(slave)

    def __enter__(self) -> "OnATerminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._master)

    def wait_for_the_bar(self) -> None:
        """Until some progress is shown: the first piece of the body is in the part file then."""
        while b"[" not in self.screen:
            assert self._read(), self.screen

    def finish(self) -> int:
        """Wait for the end; the exit code."""
        while self._read():
            pass
        return self.process.wait(GIVE_UP_S)

    def _read(self) -> bytes:
        try:
            piece = os.read(self._master, 1 << 16)
        except OSError:  # EIO: Linux says so when the last one on the terminal has left
            piece = b""
        self.screen += piece
        return piece


def command(*arguments: str) -> list[str]:
    """The command line of gclient.py, for what `gclient` cannot run."""
    return [sys.executable, str(PROJECT / "gclient.py"), *arguments]


def address(server: Program) -> tuple[str, str]:
    """HOST and PORT as arguments."""
    return server.host, str(server.port)


def tree(path: Path) -> dict[str, bytes]:
    """Everything under `path` that is not a folder: its path from there, and the bytes."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if not file.is_dir()}


def error_line(*arguments: str) -> tuple[int, str]:
    """Run gclient.py; the exit code and what it says on standard error, which is one line."""
    result = gclient(*arguments)
    message = result.stderr.decode()
    assert message.startswith("gclient: "), message
    assert message.endswith("\n"), message
    assert message.count("\n") == 1, message
    return result.returncode, message.removeprefix("gclient: ").rstrip("\n")


# What it fetches, and where that lands


@pytest.mark.parametrize("name", NAMES)
def test_a_file_lands_under_the_last_component_of_its_name(server: Program, directory: Path, name: str) -> None:
    result = gclient(*address(server), name, str(directory))
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert tree(directory) == {name.rpartition("/")[2]: name.encode()}


def test_a_leading_slash_changes_nothing(server: Program, directory: Path) -> None:
    assert gclient(*address(server), "/sub/inner", str(directory)).returncode == 0
    assert tree(directory) == {"inner": b"sub/inner"}


def test_a_name_with_a_leading_dash_is_fetched_after_a_double_dash(server: Program, directory: Path) -> None:
    assert gclient("--", *address(server), "-dash", str(directory)).returncode == 0
    assert tree(directory) == {"-dash": b"-dash"}


def test_an_empty_file_is_fetched(server: Program, directory: Path) -> None:
    assert gclient(*address(server), "empty", str(directory)).returncode == 0
    assert tree(directory) == {"empty": b""}


def test_a_dash_as_dir_is_standard_output(server: Program, directory: Path) -> None:
    result = gclient(*address(server), "sub/inner", "-", cwd=directory)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"sub/inner", b"")
    assert tree(directory) == {}


def test_get_fetches_every_file_into_one_folder(server: Program, directory: Path) -> None:
    result = gclient(*address(server), "get", "plain.txt", "list", "sub/inner", "-d", str(directory))
    assert result.returncode == 0
    assert tree(directory) == {"plain.txt": b"plain.txt", "list": b"list", "inner": b"sub/inner"}


def test_get_without_a_folder_fetches_to_where_it_runs(server: Program, directory: Path) -> None:
    assert gclient(*address(server), "get", "plain.txt", cwd=directory).returncode == 0
    assert gclient(*address(server), "get", "100%", "what?", cwd=directory).returncode == 0
    assert tree(directory) == {"plain.txt": b"plain.txt", "100%": b"100%", "what?": b"what?"}


def test_get_to_standard_output_joins_the_files(server: Program) -> None:
    result = gclient(*address(server), "get", "list", "stats", "-d", "-")
    assert (result.returncode, result.stdout) == (0, b"liststats")


def test_get_stops_at_the_first_file_that_fails(server: Program, directory: Path) -> None:
    result = gclient(*address(server), "get", "list", "absent", "stats", "-d", str(directory))
    assert result.returncode == 22
    assert tree(directory) == {"list": b"list"}


def test_80_mib_more_than_the_cache_arrive_unchanged(
    start: Callable[..., Program], folder: Path, directory: Path
) -> None:
    content = b"".join(os.urandom(1 << 20) for _ in range(80))
    (folder / "large").write_bytes(content)
    assert gclient(*address(start()), "large", str(directory)).returncode == 0
    with (directory / "large").open("rb") as landed:
        assert hashlib.file_digest(landed, "sha256").digest() == hashlib.sha256(content).digest()


# The commands


def test_list_prints_the_cached_names_one_a_line(folder: Path, directory: Path) -> None:
    for name in ("one", "two words", "ü"):
        (folder / name).write_text(name)
    with Program(folder) as server:
        assert gclient(*address(server), "list").stdout == b""
        gclient(*address(server), "get", "two words", "ü", "-d", str(directory))
        result = gclient(*address(server), "list")
    assert (result.returncode, result.stdout.decode(), result.stderr) == (0, "ü\ntwo words\n", b"")


def test_stats_prints_the_counters(server: Program) -> None:
    result = gclient(*address(server), "stats", "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["capacity"] == 64 << 20


def test_health_prints_ok(server: Program) -> None:
    result = gclient(*address(server), "health")
    assert (result.returncode, result.stdout) == (0, b"ok\n")


@pytest.mark.parametrize("name", ["list", "stats", "get"])
def test_a_word_followed_by_a_folder_is_a_file_whatever_it_is_called(
    server: Program, directory: Path, name: str
) -> None:
    assert gclient(*address(server), name, str(directory)).stdout == b""
    assert tree(directory) == {name: name.encode()}


# Exit codes


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["localhost"],
        ["localhost", "80"],
        ["localhost", "0", "list"],
        ["localhost", "65536", "list"],
        ["localhost", "http", "list"],
        ["localhost", "80", "word"],
        ["localhost", "80", "get"],
        ["localhost", "80", "get", "-d", "."],
        ["localhost", "80", "list", "-d", "."],
        ["localhost", "80", "a", "b", "c"],
        ["localhost", "80", "a", ".", "-d", "."],
        ["localhost", "80", "list", "--nonsense"],
        *(["localhost", "80", "list", f"--timeout={text}"] for text in ("x", "0", "-1", "nan", "inf", "1e7")),
        *(["localhost", "80", name, "."] for name in NOT_NAMES),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_exits_2(arguments: list[str]) -> None:
    assert error_line(*arguments)[0] == 2


def test_help_exits_0_and_names_every_exit_code() -> None:
    result = gclient("--help")
    assert result.returncode == 0
    assert all(str(code).encode() in result.stdout for code in (0, 2, 6, 7, 18, 22, 23, 28, 130))


@pytest.mark.parametrize("host", ["no-such-host.invalid", "two words", "a..b", "x" * 70, ""])
def test_a_host_that_cannot_be_resolved_exits_6(host: str) -> None:
    code, message = error_line(host, "80", "list")
    assert code == 6
    assert message.startswith("cannot resolve ")


def test_a_port_nobody_listens_on_exits_7(directory: Path) -> None:
    with socket.socket() as bound:  # and never listens: nobody else can take the port meanwhile
        bound.bind(("127.0.0.1", 0))
        port = str(bound.getsockname()[1])
        code, message = error_line("127.0.0.1", port, "x", str(directory))
    assert (code, message) == (7, f"cannot connect to 127.0.0.1 port {port}: {os.strerror(errno.ECONNREFUSED)}")
    assert tree(directory) == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "no such file: absent"),
        ("sub", "a folder: /sub/"),
        ("../plain.txt", "no such file: ../plain.txt"),
        (os.fsdecode(b"\xff"), "no such file"),
        ("n" * 256, f"no such file: {'n' * 256}"),
    ],
)
def test_what_the_server_will_not_give_exits_22_with_its_words(
    server: Program, directory: Path, name: str, message: str
) -> None:
    assert error_line(*address(server), name, str(directory)) == (22, message)
    assert tree(directory) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (head(9, "404 Not Found", "text/html") + b"<b>no</b>", "the server said 404 Not Found"),
        (head(0, "503 Busy"), "the server said 503 Busy"),
        (head(3, "403 Forbidden") + b"no\n", "no"),
        (head(2, "204 No Content"), "the server said 204 No Content"),
        (head(9, "404 \x1b[31mred", "text/html") + b"<b>no</b>", "the server said 404 ?[31mred"),
        (
            head(19, "404 No") + b"\x1b[2Jgone\x07\r\nx\x9b\xc2\x9b\xe2\x80\xae",
            "?[2Jgone???x\N{REPLACEMENT CHARACTER}??",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            "the server did not say how long",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nx", "the server did not say how long"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "the server did not say how long"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx", "the server did not say how long"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 yes\r\n\r\n", "the answer is not HTTP"),
        (b"\0\xff" * 50_000, "the answer is not HTTP"),
    ],
)
def test_an_answer_that_is_no_file_exits_22_and_no_terminal_obeys_it(
    directory: Path, content: bytes, message: str
) -> None:
    with FakeServer(says(content)) as fake:
        code, said = error_line(*fake.address, "x", str(directory))
    assert (code, said[: len(message)]) == (22, message)
    assert said.isprintable()
    assert tree(directory) == {}


def test_an_endless_refusal_is_not_read_to_its_end(directory: Path) -> None:
    with FakeServer(endless) as fake:
        code, message = error_line(*fake.address, "x", str(directory))
    assert code == 22
    assert len(message) <= client_module.MESSAGE_BYTES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the connection was cut"),
        (head(100), "the transfer was cut, 100 bytes are missing"),
        (head(100) + b"x" * 40, "the transfer was cut, 60 bytes are missing"),
        (head(1 << 20) + b"x" * ((1 << 20) - 1), "the transfer was cut, 1 bytes are missing"),
    ],
)
def test_an_answer_that_ends_early_leaves_nothing(directory: Path, content: bytes, message: str) -> None:
    with FakeServer(says(content)) as fake:
        code, said = error_line(*fake.address, "x", str(directory))
    assert (code, said) == (18, message)
    assert tree(directory) == {}


def test_a_reset_in_the_middle_exits_18_and_leaves_nothing(directory: Path) -> None:
    with FakeServer(reset) as fake, OnATerminal(*fake.address, "x", str(directory)) as client:
        client.wait_for_the_bar()
        assert list(tree(directory)) == ["x.part"]
        fake.gate.set()
        assert client.finish() == 18
    assert client.screen.endswith(b"gclient: the connection was cut\r\n")
    assert tree(directory) == {}


def test_a_network_that_goes_away_is_a_cut_transfer() -> None:
    with FakeServer(says(head(9))) as fake:
        host, port = fake.address
        options = argparse.Namespace(host=host, port=int(port), timeout=GIVE_UP_S, tls=False, token_file=None)
        with pytest.raises(client_module.Failure) as caught, client_module.answer(options, "/x"):
            raise OSError(errno.EHOSTUNREACH, "no route")
    assert caught.value.code == 18


@pytest.mark.parametrize("script", [silent, held(b"", b"", missing=9), held(b"1234", b"", missing=5)])
def test_a_server_that_goes_silent_exits_28_and_leaves_nothing(directory: Path, script: Script) -> None:
    with FakeServer(script) as fake:
        code, message = error_line(*fake.address, "x", str(directory), "--timeout", "0.3")
    assert (code, message) == (28, "nothing came for 0.3 s")
    assert tree(directory) == {}


def test_an_interrupt_while_a_transfer_hangs_exits_130_and_leaves_nothing(directory: Path) -> None:
    script = held(FIRST_PIECE, b"", missing=9)
    with FakeServer(script) as fake, OnATerminal(*fake.address, "x", str(directory)) as client:
        client.wait_for_the_bar()
        assert list(tree(directory)) == ["x.part"]
        client.process.send_signal(signal.SIGINT)
        assert client.finish() == 130
    assert b"Traceback" not in client.screen
    assert tree(directory) == {}


# Exit code 23: what cannot be written


@pytest.mark.parametrize("into", ["missing", "file", "file/below"])
def test_a_dir_that_is_none_exits_23(server: Program, directory: Path, into: str) -> None:
    (directory / "file").touch()
    code, message = error_line(*address(server), "list", str(directory / into))
    assert (code, message) == (23, f"cannot write: {directory / into} is not a folder")
    assert tree(directory) == {"file": b""}


def test_a_dir_that_is_read_only_exits_23(server: Program, directory: Path) -> None:
    directory.chmod(0o555)
    # No mode stops root, but nobody makes a file in /sys.
    into = Path("/sys") if os.access(directory, os.W_OK) else directory
    code, message = error_line(*address(server), "list", str(into))
    assert code == 23
    assert message.startswith(f"cannot write {into / 'list.part'}: ")
    assert tree(directory) == {}


def test_a_name_too_long_for_the_disk_exits_23_and_leaves_nothing(directory: Path) -> None:
    with FakeServer(says(head(1) + b"x")) as fake:
        code, message = error_line(*fake.address, "n" * 256, str(directory))
    assert code == 23
    assert message.endswith(os.strerror(errno.ENAMETOOLONG))
    assert tree(directory) == {}


@pytest.mark.parametrize("folder_name", ["list", "list.part"])
def test_a_folder_in_the_way_exits_23_and_stays(server: Program, directory: Path, folder_name: str) -> None:
    (directory / folder_name).mkdir()
    (directory / folder_name / "kept").write_bytes(b"kept")
    assert error_line(*address(server), "list", str(directory))[0] == 23
    assert tree(directory) == {f"{folder_name}/kept": b"kept"}


@pytest.mark.parametrize("name", ["list", "big"])
def test_a_full_disk_under_standard_output_exits_23(server: Program, name: str) -> None:
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            command(*address(server), name, "-"),
            stdout=full,
            stderr=subprocess.PIPE,
            env=BUFFERED,
            timeout=60,
            check=False,
        )
    message = f"gclient: cannot write: {os.strerror(errno.ENOSPC)}\n"
    assert (result.returncode, result.stderr.decode()) == (23, message)


@pytest.mark.parametrize("words", [["big", "-"], ["health"]])
def test_a_reader_that_left_exits_23_in_one_line(server: Program, words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            command(*address(server), *words),
            stdout=writer,
            stderr=subprocess.PIPE,
            env=BUFFERED,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    message = f"gclient: cannot write: {os.strerror(errno.EPIPE)}\n"
    assert (result.returncode, result.stderr.decode()) == (23, message)


# Whole or not at all


def test_a_file_that_is_there_is_replaced_only_by_a_whole_one(directory: Path) -> None:
    (directory / "x").write_bytes(b"old")
    script = held(FIRST_PIECE, b"end")
    with FakeServer(script) as fake, OnATerminal(*fake.address, "x", str(directory)) as client:
        client.wait_for_the_bar()
        assert (directory / "x").read_bytes() == b"old"
        fake.gate.set()
        assert client.finish() == 0
    assert tree(directory) == {"x": FIRST_PIECE + b"end"}


def test_a_file_that_is_there_survives_a_failed_transfer(directory: Path) -> None:
    (directory / "x").write_bytes(b"old")
    with FakeServer(says(head(9) + b"new")) as fake:
        assert gclient(*fake.address, "x", str(directory)).returncode == 18
    assert tree(directory) == {"x": b"old"}


def test_a_part_left_by_a_killed_download_is_replaced(server: Program, directory: Path) -> None:
    (directory / "list.part").write_bytes(b"longer than the file itself")
    assert gclient(*address(server), "list", str(directory)).returncode == 0
    assert tree(directory) == {"list": b"list"}


@pytest.mark.parametrize("later_ends_first", [True, False])
def test_two_downloads_of_one_name_never_leave_a_mixed_file(directory: Path, later_ends_first: bool) -> None:
    first_bytes, later_bytes = FIRST_PIECE, FIRST_PIECE.replace(b"1", b"2")
    with (
        FakeServer(held(first_bytes, b"first")) as fake_first,
        FakeServer(held(later_bytes, b"later")) as fake_later,
        OnATerminal(*fake_first.address, "x", str(directory)) as first,
    ):
        first.wait_for_the_bar()
        with OnATerminal(*fake_later.address, "x", str(directory)) as later:
            later.wait_for_the_bar()
            ends = [(fake_first, first, 23), (fake_later, later, 0)]
            for fake, client, code in reversed(ends) if later_ends_first else ends:
                fake.gate.set()
                assert client.finish() == code, client.screen
    assert b"another download of the same name" in first.screen
    assert tree(directory) == {"x": later_bytes + b"later"}


def test_a_failed_download_leaves_the_part_of_another_alone(directory: Path) -> None:
    failing = client_module.Target(str(directory), "x")
    failing.__enter__()
    with client_module.Target(str(directory), "x") as part:
        part.write(b"later")
        failing.__exit__(client_module.Failure)
        assert list(tree(directory)) == ["x.part"]
    assert tree(directory) == {"x": b"later"}


# Never outside DIR


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_no_name_writes_outside_dir(tmp_path: Path, directory: Path, name: str) -> None:
    with FakeServer(says(head(4) + b"evil")) as fake:
        assert gclient(*fake.address, name, str(directory)).returncode == 0
    assert tree(tmp_path) == {f"outer/inner/into/{name.rpartition('/')[2]}": b"evil"}


@settings(max_examples=150, deadline=None)
@given(name=st.text(st.sampled_from("./\\~%:-a\0\n é"), max_size=12) | st.text(max_size=300))
def test_a_target_writes_one_file_in_dir_or_none(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    outer = tmp_path_factory.mktemp("outer")
    directory = outer / "into"
    directory.mkdir()
    allowed = {}
    try:
        with client_module.Target(str(directory), name) as part:
            part.write(b"x")
        allowed = {f"into/{name.rpartition('/')[2]}": b"x"}
    except client_module.Failure as failure:
        assert failure.code in (2, 23)  # noqa: PT017
    assert tree(outer) == allowed


@pytest.mark.parametrize("name", [*NOT_NAMES, "a\0b", "\0"])
def test_a_target_refuses_what_names_no_file(directory: Path, name: str) -> None:
    with pytest.raises(client_module.Failure) as caught:
        client_module.Target(str(directory), name)
    assert caught.value.code == 2
    assert tree(directory) == {}


@pytest.mark.parametrize("name", ["..\\evil", "C:evil", "file:stream", "a/b\\c", "what?"])
def test_a_target_refuses_what_windows_would_read_as_a_path(
    directory: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    into = str(directory)
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        with pytest.raises(client_module.Failure) as caught:
            client_module.Target(into, name)
    assert caught.value.code == 2


@pytest.mark.parametrize("planted", ["list.part", "list"])
def test_a_planted_link_is_replaced_and_not_followed(
    server: Program, tmp_path: Path, directory: Path, planted: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    (directory / planted).symlink_to(outside)
    assert gclient(*address(server), "list", str(directory)).returncode == 0
    assert outside.read_bytes() == b"untouched"
    assert not (directory / "list").is_symlink()
    assert tree(directory) == {"list": b"list"}


def test_a_link_planted_between_the_look_and_the_open_is_not_followed(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    monkeypatch.setattr(os, "unlink", lambda path: Path(path).symlink_to(outside))
    with pytest.raises(client_module.Failure) as caught, client_module.Target(str(directory), "x"):
        pytest.fail("it was opened")
    assert caught.value.code == 23
    assert outside.read_bytes() == b"untouched"


# The terminal


def test_a_terminal_sees_a_bar_that_ends_full(server: Program, directory: Path) -> None:
    with OnATerminal(*address(server), "big", str(directory)) as client:
        assert client.finish() == 0
    assert client.screen.endswith(b"\rbig [" + b"#" * 30 + b"] 100% 2.9 MiB\r\n")


def test_a_bar_in_the_middle_shows_how_far_it_is(directory: Path) -> None:
    piece = b"1" * client_module.PIECE_BYTES
    script = held(piece, piece)
    with FakeServer(script) as fake, OnATerminal(*fake.address, "x", str(directory)) as client:
        client.wait_for_the_bar()
        fake.gate.set()
        client.finish()
    assert client.screen.startswith(b"\rx [" + b"#" * 15 + b" " * 15 + b"]  50% 0.2 MiB")


def test_a_command_and_an_empty_file_show_no_bar(server: Program, directory: Path) -> None:
    for words in (["stats"], ["empty", str(directory)]):
        with OnATerminal(*address(server), *words) as client:
            assert client.finish() == 0
        assert client.screen == b""


def test_without_a_terminal_there_is_no_bar(server: Program, directory: Path) -> None:
    master, slave = pty.openpty()
    try:  # a terminal for the output makes none of standard error
        arguments = command(*address(server), "big", str(directory))
        result = subprocess.run(arguments, stdout=slave, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(master)
        os.close(slave)
    assert (result.returncode, result.stderr) == (0, b"")


# Other addresses


@contextmanager
def served_on(folder: Path, listen: str, reached: str) -> Iterator[tuple[str, str]]:
    """HOST and PORT of a server that listens on `listen`, as seen from here; skips without such an address."""
    family = socket.AF_INET6 if ":" in reached else socket.AF_INET
    try:
        with socket.socket(family) as trial:
            trial.bind((reached, 0))
    except OSError as error:
        pytest.skip(f"this machine has no {reached}: {error.strerror}")
    with Program(folder, "--host", listen) as server:
        yield reached, str(server.port)


@pytest.mark.parametrize(
    ("listen", "reached"),
    [
        ("127.0.0.2", "127.0.0.2"),
        ("0.0.0.0", "127.0.0.2"),
        ("0.0.0.0", "localhost"),
        ("::1", "::1"),
        ("::", "::1"),
    ],
)
def test_a_server_at_another_address_is_reached(folder: Path, directory: Path, listen: str, reached: str) -> None:
    (folder / "x").write_bytes(b"content")
    with served_on(folder, listen, reached) as there:
        assert gclient(*there, "x", str(directory)).returncode == 0
        assert gclient(*there, "list").stdout == b"x\n"
    assert tree(directory) == {"x": b"content"}


def test_a_server_at_another_address_only_is_not_reached_at_this_one(folder: Path) -> None:
    with served_on(folder, "127.0.0.2", "127.0.0.2") as (_, port):
        assert error_line("127.0.0.1", port, "health")[0] == 7


# What it is made of


def test_it_needs_nothing_but_the_standard_library() -> None:
    program = "import sys; sys.path.insert(0, sys.argv[1]); import gclient; print(*sys.modules)"
    arguments = [sys.executable, "-c", program, str(PROJECT)]
    loaded = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    roots = {name.partition(".")[0] for name in loaded}
    assert "gclient" in roots
    assert not roots & {"gevent", "greenlet", "httptools", "gserver", "fileserver", "lrucache", "tests"}


def test_the_one_file_alone_is_the_client(server: Program, tmp_path: Path) -> None:
    alone = tmp_path / "gclient.py"
    alone.write_bytes((PROJECT / "gclient.py").read_bytes())
    # -I and -S: no current folder, no installed packages.
    arguments = [sys.executable, "-I", "-S", str(alone), *address(server), "health"]
    result = subprocess.run(arguments, capture_output=True, timeout=60, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"ok\n", b"")
