"""gclient.py and servers that say no, say strange things, say nothing, or hang up: which exit code that is, in
which words, and that nothing is left behind. One try each; what is tried again is in other files."""

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

import gclient as client_module
from tests.clients import OnATerminal, command, error_line, tree
from tests.misbehaving import (
    GIVE_UP_S,
    Misbehaving,
    Script,
    endless,
    head,
    held,
    reset,
    says,
    silent,
    trickles,
)
from tests.program import gclient

OK = b"HTTP/1.1 200 OK\r\n"
NOT_HTTP = "the answer is not HTTP"
NO_LENGTH = "the server does not say how long its answer is"
STRANGE_LENGTH = "the answer has a strange length"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty DIR to fetch into."""
    path = tmp_path / "into"
    path.mkdir()
    return path


def once(script: Script, directory: Path, *options: str) -> tuple[int, str]:
    """Ask for a file, once: the exit code and the words. Nothing may be left."""
    with Misbehaving(script) as fake:
        said = error_line(*fake.address, "x", str(directory), "--tries", "1", *options)
    assert tree(directory) == {}
    assert fake.requests[0][""] == "GET /x HTTP/1.1"
    return said


# 22: the server said no


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (head(9, "404 Not Found", "text/html") + b"<b>no</b>", "the server said 404 Not Found"),
        (b"HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", "the server said 404 "),
        (head(0, "503 Busy"), "the server said 503 Busy"),
        (head(5, "503 Busy", Retry_After="301") + b"busy\n", "busy (in 5 min, it says)"),
        (head(3, "403 Forbidden") + b"no\n", "no"),
        (head(3, "403 Forbidden", "text/plain; charset=utf-8") + "né".encode(), "né"),
        (head(9, "403 Forbidden") + b"cut", "cut"),
        (b"HTTP/1.1 403 No\r\nContent-Type: text/plain\r\n\r\nup to the end", "up to the end"),
        (b"HTTP/1.0 403 No\r\nContent-Type: text/plain\r\n\r\nold", "old"),
        (head(2, "204 No Content"), "the server said 204 No Content"),
        (head(0, "205 Reset Content"), "the server said 205 Reset Content"),
        (head(0, "416 Range Not Satisfiable"), "the server said 416 Range Not Satisfiable"),
        (head(2, "500 Oops", "text/html") + b"no", "the server said 500 Oops"),
        (head(9, "404 \x1b[31mred", "text/html") + b"<b>no</b>", "the server said 404 ?[31mred"),
        (
            head(19, "404 No") + b"\x1b[2Jgone\x07\r\nx\x9b\xc2\x9b\xe2\x80\xae",
            "?[2Jgone???x\N{REPLACEMENT CHARACTER}??",
        ),
    ],
)
def test_a_refusal_exits_22_in_the_servers_words_and_no_terminal_obeys_them(
    directory: Path, content: bytes, message: str
) -> None:
    code, said = once(says(content), directory)
    assert (code, said) == (22, message)
    assert said.isprintable()


@pytest.mark.parametrize("status", ["300 Many", "301 Moved", "302 Found", "303 See", "307 Temporary", "308 Moved"])
def test_a_redirect_is_refused_and_not_followed(directory: Path, status: str) -> None:
    with Misbehaving(says(head(1) + b"x"), may_stay_away=True) as other:
        elsewhere = f"http://{':'.join(other.address)}/x"
        code, said = once(says(head(5, status, Location=elsewhere) + b"there"), directory)
    assert (code, said) == (22, f"the server says to ask for {elsewhere}, which gclient does not")
    assert other.requests == []


def test_where_a_redirect_leads_is_printed_safely(directory: Path) -> None:
    for location in ("\x1b]0;title\x07", "\x9b31m", "/\x7f"):
        code, said = once(says(head(0, "302 Found", Location=location)), directory)
        assert code == 22
        assert said.isprintable()


def test_the_words_of_a_chunked_refusal_are_not_its_chunks(directory: Path) -> None:
    content = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n" + CHUNKED
    code, said = once(says(content), directory)
    assert code == 22
    assert said in ("x", "the server said 404 Not Found")


def test_an_endless_refusal_is_not_read_to_its_end(directory: Path) -> None:
    code, said = once(endless, directory)
    assert code == 22
    assert 1000 < len(said) <= client_module.MESSAGE_BYTES


@pytest.mark.parametrize("words", [b"some words", b""])
def test_the_words_of_a_refusal_are_not_waited_for_as_long_as_a_file_is(
    directory: Path, monkeypatch: pytest.MonkeyPatch, words: bytes
) -> None:
    left: list[bool] = []

    def script(connected: socket.socket, _gate: threading.Event) -> None:
        connected.sendall(head(99, "404 Not Found") + words)
        left.append(not connected.recv(1))

    monkeypatch.setattr(client_module, "MESSAGE_S", 0.1)
    with Misbehaving(script) as fake:
        client = client_module.Client(fake.address[0], int(fake.address[1]), timeout_s=2 * GIVE_UP_S, tries=1)
        with client, pytest.raises(client_module.Failure) as caught:
            client.get("x", directory)
    assert left == [True]
    assert (caught.value.code, str(caught.value)) == (22, words.decode() or "the server said 404 Not Found")
    assert tree(directory) == {}


def test_a_long_refusal_is_cut(directory: Path) -> None:
    code, said = once(says(head(10_000, "404 No") + b"n" * 10_000), directory)
    assert (code, said) == (22, "n" * client_module.MESSAGE_BYTES)
    padding = "y" * (
        client_module.HEAD_BYTES - 100 - len(head(10_000, "404 No", X=""))
    )  # the first piece is short
    code, said = once(says(head(10_000, "404 No", X=padding) + b"n" * 10_000), directory)
    assert (code, said) == (22, "n" * client_module.MESSAGE_BYTES)


# 8: strange answers


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", NOT_HTTP),
        (b"HTTP/1.1 yes\r\n\r\n", NOT_HTTP),
        (b"HTTP/1.1 20 OK\r\n\r\n", NOT_HTTP),
        (b"HTTP/1.1 2000 OK\r\n\r\n", NOT_HTTP),
        (b"HTTP/1.1 600 OK\r\n\r\n", NOT_HTTP),
        (b"HTTP/1.1 099 OK\r\n\r\n", NOT_HTTP),
        (b"HTTP/1.12 200 OK\r\n\r\n", NOT_HTTP),
        (b"HTTP/2 200\r\nContent-Length: 1\r\n\r\nx", NOT_HTTP),
        (b"http/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", NOT_HTTP),
        (b"\0\xff" * 50_000, NOT_HTTP),
        (b"H" * 100_000, NOT_HTTP),
        (OK + b"Content-Length 1\r\n\r\nx", NOT_HTTP),
        (OK + b"Content-Length : 1\r\n\r\nx", NOT_HTTP),
        (OK + b"X: a\r\n b\r\nContent-Length: 1\r\n\r\nx", NOT_HTTP),
        (OK + b"X: a\nContent-Length: 1\r\n\r\nx", NOT_HTTP),
        (OK + b"X: a\0b\r\nContent-Length: 1\r\n\r\nx", NOT_HTTP),
        (OK + b": a\r\nContent-Length: 1\r\n\r\nx", NOT_HTTP),
        (OK + b"X: y\r\n" * 50_000, NOT_HTTP),
        (OK + CHUNKED, NO_LENGTH),
        (OK + b"Content-Length: 11\r\n" + CHUNKED, NO_LENGTH),
        (OK + b"\r\nx", NO_LENGTH),
        *(
            (OK + b"Content-Length: " + length + b"\r\n\r\nx", STRANGE_LENGTH)
            for length in (b"-1", b"+1", b"0x1", b"1.0", b"", b"1 1", b"one", b"\xb2", b"1_0", b"1" * 19, b"1, 2")
        ),
        (OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", STRANGE_LENGTH),
        (head(1, Content_Encoding="gzip") + b"x", "the answer is compressed, which nobody asked for"),
        (head(1, Content_Encoding="identity, br") + b"x", "the answer is compressed, which nobody asked for"),
    ],
    ids=lambda each: repr(each)[:60],
)
def test_a_strange_answer_exits_8(directory: Path, content: bytes, message: str) -> None:
    assert once(says(content), directory) == (8, message)


@pytest.mark.parametrize("words", [["list"], ["health"], ["stats"], ["list", "--json"]])
@pytest.mark.parametrize(
    "content", [b"SSH-2.0\r\n", OK + CHUNKED, OK + b"\r\nx", head(1, Content_Encoding="gzip") + b"\x1f"]
)
def test_a_strange_answer_to_a_command_exits_8(words: list[str], content: bytes) -> None:
    with Misbehaving(says(content)) as fake:
        assert error_line(*fake.address, *words)[0] == 8


@pytest.mark.parametrize(("length", "code"), [(64 * 1024, 0), (64 * 1024 + 1, 8)])
def test_a_head_of_64_kib_is_read_and_a_longer_one_is_not(directory: Path, length: int, code: int) -> None:
    padding = length - len(head(1, X=""))
    with Misbehaving(says(head(1, X="y" * padding) + b"x")) as fake:
        result = gclient(*fake.address, "x", str(directory))
    assert result.returncode == code, result.stderr
    assert tree(directory) == ({"x": b"x"} if code == 0 else {})


# What is unusual, and right


@pytest.mark.parametrize(
    "content",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nxyz",
        b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nxyz",
        b"HTTP/1.1 200 \r\ncontent-LENGTH:3\r\n\r\nxyz",
        OK + b"Content-Length: \t3 \t\r\nX-Empty:\r\n\r\nxyz",
        OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nxyz",
        OK + b"Content-Length: 3, 3\r\n\r\nxyz",
        OK + b"Content-Length: 003\r\n\r\nxyz and what nobody asked for",
        OK + b"Content-Length: 3\r\nContent-Encoding: identity\r\nX: \xff\xfe\r\n\r\nxyz",
        b"HTTP/1.1 100 Continue\r\n\r\n" + head(3) + b"xyz",
        b"HTTP/1.1 103 Early Hints\r\nLink: </y>\r\n\r\n" * 3 + head(3) + b"xyz",
        b"HTTP/1.1 101 Switching Protocols\r\nContent-Length: 7\r\n\r\n" + head(3) + b"xyz",
    ],
    ids=range(11),
)
@pytest.mark.parametrize("way", [says, trickles])
def test_an_answer_that_is_unusual_and_right_is_understood(
    directory: Path, way: Callable[[bytes], Script], content: bytes
) -> None:
    with Misbehaving(way(content)) as fake:
        result = gclient(*fake.address, "x", str(directory))
    assert (result.returncode, result.stderr) == (0, b"")
    assert tree(directory) == {"x": b"xyz"}


def test_there_may_be_more_hints_before_an_answer_than_a_head_has_room_for(directory: Path) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </y>\r\n\r\n"
    content = hint * (5 * client_module.HEAD_BYTES // len(hint)) + head(300_000) + b"x" * 300_000
    with Misbehaving(says(content)) as fake:
        assert gclient(*fake.address, "x", str(directory)).returncode == 0
    assert tree(directory) == {"x": b"x" * 300_000}


def test_what_comes_behind_an_answer_is_not_taken_for_the_next(directory: Path) -> None:
    """The connection is kept for the second file, unless the server went on talking."""
    two = says(head(1) + b"x", head(1) + b"y")
    with Misbehaving(two) as fake:
        assert gclient(*fake.address, "get", "x", "y", "-d", str(directory)).returncode == 0
    assert tree(directory) == {"x": b"x", "y": b"y"}
    talks_on = says(head(1) + b"x" + head(4) + b"evil", head(1) + b"z")
    with Misbehaving(talks_on, says(head(1) + b"y")) as fake:
        assert gclient(*fake.address, "get", "x", "y", "-d", str(directory)).returncode == 0
    assert tree(directory) == {"x": b"x", "y": b"y"}


@pytest.mark.parametrize("closing", [b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\n", b"HTTP/1.0 200 OK\r\n"])
def test_a_server_that_will_close_is_not_asked_again_on_the_same_connection(
    directory: Path, closing: bytes
) -> None:
    first = says(closing + b"Content-Length: 1\r\n\r\nx", head(4) + b"evil")
    with Misbehaving(first, says(head(1) + b"y")) as fake:
        assert gclient(*fake.address, "get", "x", "y", "-d", str(directory)).returncode == 0
    assert tree(directory) == {"x": b"x", "y": b"y"}


# 33: parts that nobody asked for


@pytest.mark.parametrize("content_range", ["bytes 0-0/1", "bytes 0-0/9", ""])
def test_a_part_that_nobody_asked_for_exits_33(directory: Path, content_range: str) -> None:
    answer = head(1, "206 Partial Content", Content_Range=content_range, ETag='"1"') + b"x"
    message = "the server sent a part of the file, and was not asked for one"
    assert once(says(answer), directory) == (33, message)


# 18 and 56: the end comes early


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"", 56, "the server hung up without an answer"),
        (b"H", 18, "the answer was cut"),
        (OK + b"Content-Le", 18, "the answer was cut"),
        (b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx", 18, "the answer was cut"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 56, "the server hung up without an answer"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP", 18, "the answer was cut"),
        (head(100), 18, "the transfer was cut, 100 bytes are missing"),
        (head(100) + b"x" * 40, 18, "the transfer was cut, 60 bytes are missing"),
        (head(100) + b"x" * 99, 18, "the transfer was cut, 1 bytes are missing"),
        (head(1 << 21) + b"x" * ((1 << 21) - 1), 18, "the transfer was cut, 1 bytes are missing"),
        (head(10**18 - 1) + b"x", 18, "the transfer was cut, 999999999999999998 bytes are missing"),
    ],
)
def test_an_answer_that_ends_early_leaves_nothing(
    directory: Path, content: bytes, code: int, message: str
) -> None:
    assert once(says(content), directory) == (code, message)


@pytest.mark.parametrize("content", [head(5)[:-1], head(5) + b"byte", head(5, "404 No") + b"nope"])
def test_a_trickle_that_ends_early_is_what_it_would_be_at_once(directory: Path, content: bytes) -> None:
    assert once(trickles(content), directory) == once(says(content), directory)


def test_a_trickle_of_garbage_is_known_by_its_first_byte(directory: Path) -> None:
    """The server sends one and waits: who waits for more ends with 28."""

    def script(client: socket.socket, gate: threading.Event) -> None:
        client.sendall(b"S")
        gate.wait(GIVE_UP_S)

    assert once(script, directory, "--timeout", "5") == (8, NOT_HTTP)


@pytest.mark.parametrize("words", [["list"], ["health"], ["stats", "--json"]])
def test_a_command_that_fails_is_not_tried_again(words: list[str]) -> None:
    for content, code in ((b"", 56), (head(9) + b"x", 18), (head(0, "503 Busy"), 22)):
        with Misbehaving(says(content)) as fake:
            assert error_line(*fake.address, *words)[0] == code


def test_a_reset_in_the_middle_exits_56_and_leaves_nothing(directory: Path) -> None:
    arguments = ("x", str(directory), "--tries", "1")
    with Misbehaving(reset) as fake, OnATerminal(*fake.address, *arguments) as client:
        client.wait_for(b"[")
        assert "x.part" in tree(directory)
        fake.gate.set()
        assert client.finish() == 56
    assert b"gclient: the connection was lost: Connection reset by peer\r\n" in client.screen
    assert tree(directory) == {}


@pytest.mark.parametrize(("more", "code"), [((), 56), (("--tls",), 35)])
def test_a_server_that_hangs_up_at_once_exits_56_and_with_tls_35(more: tuple[str, ...], code: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(GIVE_UP_S)
        port = str(listener.getsockname()[1])
        arguments = command("127.0.0.1", port, "health", *more)
        with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
            listener.accept()[0].close()
            said = process.communicate(timeout=GIVE_UP_S)[1]
    assert process.returncode == code
    assert said.startswith(f"gclient: no TLS with 127.0.0.1 port {port}: " if more else "gclient: the ")
    assert said.count("\n") == 1


# 28: nothing comes


@pytest.mark.parametrize(
    "script",
    [silent, held(b"", b"", missing=9), held(b"1234", b"", missing=5)],
    ids=["no head", "no body", "no more"],
)
def test_a_server_that_goes_silent_exits_28_and_leaves_nothing(directory: Path, script: Script) -> None:
    assert once(script, directory, "--timeout", "0.3") == (28, "nothing came for 0.3 s")


def test_a_call_that_takes_too_long_altogether_exits_28(directory: Path) -> None:
    for script in (silent, held(b"1234", b"", missing=5)):
        assert once(script, directory, "--max-time", "0.3") == (28, "it took longer than 0.3 s")
    with Misbehaving(silent) as fake:
        said = error_line(*fake.address, "list", "--max-time", "0.3")
    assert said == (28, "it took longer than 0.3 s")


def test_a_body_that_trickles_for_ever_ends_with_the_time_for_all(directory: Path) -> None:
    def script(client: socket.socket, gate: threading.Event) -> None:
        client.sendall(head(1 << 30))
        while not gate.wait(0.01):
            client.sendall(b"x")

    assert once(script, directory, "--max-time", "0.5") == (28, "it took longer than 0.5 s")


@pytest.mark.parametrize("line", [b"HTTP/1.1 100 Continue\r\n\r\n", b""], ids=["1xx", "fields"])
def test_a_head_that_never_ends_exits_28(directory: Path, line: bytes) -> None:
    """Each byte comes in time, and never the answer."""

    def script(client: socket.socket, gate: threading.Event) -> None:
        client.sendall(b"" if line else b"HTTP/1.1 200 OK\r\nX: ")
        while not gate.wait(0.01):
            client.sendall(line or b"y")

    code, said = once(script, directory, "--timeout", "0.5")
    assert code == 28
    assert said.endswith(" 0.5 s")


def test_a_silent_server_that_should_speak_tls_exits_28() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        said = error_line("127.0.0.1", port, "health", "--tls", "--timeout", "0.3")
    assert said == (28, "nothing came for 0.3 s")


@contextmanager
def crowded() -> Iterator[str]:
    """A port on which nobody is let in: whoever waits there fills the queue."""
    with ExitStack() as waiting, socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        for _ in range(8):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(listener.getsockname())
        yield str(listener.getsockname()[1])


def test_a_host_that_does_not_answer_exits_28(directory: Path) -> None:
    with crowded() as port:
        for words in (["health"], ["x", str(directory), "--tries", "1"]):
            said = error_line("127.0.0.1", port, *words, "--timeout", "0.3")
            assert said == (28, "nothing came for 0.3 s")
    assert tree(directory) == {}


# Several files


def test_each_file_is_asked_for_and_the_first_failure_is_the_exit_code(directory: Path) -> None:
    scripts = (says(head(9) + b"a"), says(b"SSH"), says(head(0, "404 No")), says(head(2) + b"d!"))
    with Misbehaving(*scripts) as fake:
        result = gclient(*fake.address, "get", "a", "b", "c", "d", "-d", str(directory), "--tries", "1")
    assert result.returncode == 18
    assert result.stderr.decode().splitlines() == [
        "gclient: a: the transfer was cut, 8 bytes are missing",
        f"gclient: b: {NOT_HTTP}",
        "gclient: c: the server said 404 No",
    ]
    assert [request[""] for request in fake.requests] == [f"GET /{name} HTTP/1.1" for name in "abcd"]
    assert tree(directory) == {"d": b"d!"}


def test_after_a_failed_file_to_standard_output_the_next_is_written() -> None:
    with Misbehaving(says(head(2) + b"a"), says(head(2) + b"b!")) as fake:
        result = gclient(*fake.address, "get", "a", "b", "-d", "-", "--tries", "1")
    assert (result.returncode, result.stdout) == (18, b"ab!")


def test_a_name_in_a_message_is_printed_safely(directory: Path) -> None:
    name = os.fsdecode(b"\x1b[31m\xff/..")
    code, said = error_line("127.0.0.1", "1", name, str(directory))
    assert (code, said.isprintable()) == (2, True)
