"""The load test's own sockets, against servers that do as the test says, and against the real one."""

import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import BadStatusLine, IncompleteRead, RemoteDisconnected
from pathlib import Path
from typing import Any

import pytest
import trustme

from loadtest import _raw
from loadtest._raw import FAILURES, ask, connect, lines, receive_all, request, response
from tests.program import Program

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Cache: HIT\r\n\r\nhello"

Handler = Callable[[socket.socket], None]


class Listening:
    """What a server on a thread was told. `done` is set when its one client was served."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.heard = b""
        self.errors: list[BaseException] = []


@contextmanager
def serving(handler: Callable[[socket.socket, Listening], None]) -> Iterator[Listening]:
    """A server of one client on a free port; its connection is closed when `handler` returns."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        listening = Listening(listener.getsockname()[1])

        def serve() -> None:
            try:
                client, _ = listener.accept()
                with client:
                    client.settimeout(30)
                    handler(client, listening)
            except Exception as error:
                listening.errors.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening
        finally:
            thread.join(40)
            assert not thread.is_alive()


def hear(client: socket.socket, listening: Listening) -> None:
    """Read a request's head."""
    while b"\r\n\r\n" not in listening.heard and (piece := client.recv(1 << 16)):
        listening.heard += piece


def answering(answer: bytes) -> Callable[[socket.socket, Listening], None]:
    """A handler that reads a request, answers and closes."""

    def handler(client: socket.socket, listening: Listening) -> None:
        hear(client, listening)
        client.sendall(answer)

    return handler


def until_closed(client: socket.socket, listening: Listening) -> None:
    """A handler that reads until the other side closes."""
    while piece := client.recv(1 << 16):
        listening.heard += piece


def reset(client: socket.socket, listening: Listening) -> None:
    """A handler that breaks off with a reset, after a few bytes of a body."""
    hear(client, listening)
    client.sendall(OK[:-2])
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# Connections


class Recording(socket.socket):
    """A socket that remembers in which order it was set up, if that was on this thread: not the server's."""

    acts: list[str]

    def remember(self, act: str) -> None:
        if threading.current_thread() is threading.main_thread():
            self.acts.append(act)

    def setsockopt(self, *arguments: Any) -> None:
        if arguments[:2] == (socket.SOL_SOCKET, socket.SO_RCVBUF):
            self.remember(f"receive buffer {arguments[2]}")
        super().setsockopt(*arguments)

    def settimeout(self, value: float | None) -> None:
        self.remember(f"timeout {value}")
        super().settimeout(value)

    def connect(self, address: Any) -> None:
        self.remember("connect")
        super().connect(address)


@pytest.fixture
def acts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to sockets from now on."""
    done: list[str] = []
    monkeypatch.setattr(Recording, "acts", done, raising=False)
    monkeypatch.setattr(socket, "socket", Recording)
    return done


def test_the_receive_buffer_is_set_before_the_connection_is_made(acts: list[str]) -> None:
    """Later would be too late: the window's scale is agreed on in the first packets."""
    with serving(until_closed) as server:
        acts.clear()
        with connect(server.url, receive_buffer=16 << 10) as client:
            assert acts == ["timeout 30.0", "receive buffer 16384", "connect"]
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 2 * (16 << 10)


def test_without_a_wish_the_kernel_chooses_the_receive_buffer(acts: list[str]) -> None:
    with serving(until_closed) as server:
        acts.clear()
        with connect(server.url):
            assert acts == ["timeout 30.0", "connect"]


def test_a_connection_has_a_timeout_from_its_beginning() -> None:
    with serving(until_closed) as server, connect(server.url) as client:
        assert client.gettimeout() == _raw.TIMEOUT_S == 30.0


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://example.test", ("example.test", 80)),
        ("http://example.test/", ("example.test", 80)),
        ("http://example.test:8080", ("example.test", 8080)),
        ("https://example.test", ("example.test", 443)),
        ("https://example.test:8443/a/path", ("example.test", 8443)),
        ("http://[::1]:8080", ("::1", 8080)),
        ("http://user:word@example.test:1", ("example.test", 1)),
        ("http://", ("127.0.0.1", 80)),
    ],
)
def test_a_url_says_where_to_connect(monkeypatch: pytest.MonkeyPatch, url: str, address: tuple[str, int]) -> None:
    asked = []

    def unknown(*arguments: Any, type: int) -> None:
        asked.append((*arguments, type))
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(OSError, match="no such host"):
        connect(url)
    assert asked == [(*address, socket.SOCK_STREAM)]


def test_a_name_is_resolved() -> None:
    with serving(answering(OK)) as server:
        answer, body = ask(f"http://localhost:{server.port}", "/")
    assert (answer.status, body) == (200, b"hello")


def test_ipv6_is_spoken() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with listener, connect(f"http://[::1]:{listener.getsockname()[1]}") as client:
        assert client.family == socket.AF_INET6


def test_of_several_addresses_the_first_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answering(OK)) as server:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            nobody = gone.getsockname()
        both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", at) for at in (nobody, ("127.0.0.1", server.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, type: both)
        assert ask("http://name.test", "/")[1] == b"hello"
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, type: both[:1])
        with pytest.raises(ConnectionRefusedError):
            ask("http://name.test", "/")
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, type: [])
        with pytest.raises(OSError, match=r"name.test has no address"):
            ask("http://name.test", "/")


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain and key that nobody here trusts, for a name that nobody here says."""
    path = tmp_path_factory.mktemp("papers") / "both.pem"
    trustme.CA().issue_cert("elsewhere.test").private_key_and_cert_chain_pem.write_to_path(path)
    return path


def test_https_is_tls_with_whatever_certificate_and_the_name_in_the_hello(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    names = []
    context.sni_callback = lambda _, name, __: names.append(name)

    def handler(client: socket.socket, listening: Listening) -> None:
        with context.wrap_socket(client, server_side=True) as encrypted:
            answering(OK)(encrypted, listening)

    with serving(handler) as server:
        answer, body = ask(f"https://localhost:{server.port}", "/secret")
    assert (answer.status, body) == (200, b"hello")
    assert server.heard.startswith(b"GET /secret HTTP/1.1\r\n")
    assert names == ["localhost"]


def test_https_to_who_speaks_none_is_a_failure_and_the_socket_is_closed() -> None:
    """The server goes on when it has seen the end."""

    def handler(client: socket.socket, listening: Listening) -> None:
        client.recv(1 << 16)
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        until_closed(client, listening)

    with serving(handler) as server, pytest.raises(ssl.SSLError):
        connect(server.url.replace("http:", "https:"))
    assert issubclass(ssl.SSLError, FAILURES)


def test_the_real_server_answers_with_tls_and_without(tmp_path: Path, certificate: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"hello")
    with Program(tmp_path) as server:
        answer, body = ask(f"http://127.0.0.1:{server.port}", "/a.txt")
        assert (answer.status, answer.headers["X-Cache"], body) == (200, "MISS", b"hello")
        answer, body = ask(f"http://127.0.0.1:{server.port}", "/a.txt", method="HEAD")
        assert (answer.status, answer.headers["Content-Length"], body) == (200, "5", b"")
        answer, body = ask(f"http://127.0.0.1:{server.port}", "/")
        assert answer.headers.get_content_type() == "application/json"
        with connect(f"http://127.0.0.1:{server.port}") as client:
            client.sendall(b"GET a.txt\n")
            assert receive_all(client, 100) == b"hello"
    with Program(tmp_path, "--tls-cert", str(certificate)) as server:
        answer, body = ask(f"https://127.0.0.1:{server.port}", "/a.txt")
        assert (answer.status, body) == (200, b"hello")
        with pytest.raises(FAILURES):
            ask(f"http://127.0.0.1:{server.port}", "/a.txt")


# Questions


@pytest.mark.parametrize(
    ("arguments", "first", "accept"),
    [
        (("/a%20b?c=d",), b"GET /a%20b?c=d HTTP/1.1", b"*/*"),
        (("/", "HEAD"), b"HEAD / HTTP/1.1", b"*/*"),
        (("/", "GET", "text/html"), b"GET / HTTP/1.1", b"text/html"),
    ],
)
def test_a_request_is_plain_and_the_last_of_its_connection(
    arguments: tuple[str, ...], first: bytes, accept: bytes
) -> None:
    line, *fields = request(*arguments).split(b"\r\n")
    assert line == first
    assert fields[-2:] == [b"", b""]
    assert dict(field.split(b": ") for field in fields[:-2]) == {
        b"Host": b"loadtest",
        b"Accept": accept,
        b"Accept-Encoding": b"identity",
        b"Connection": b"close",
    }


def test_a_path_that_was_not_quoted_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(UnicodeEncodeError):
        request("/é")


def test_ask_asks_for_json_and_gives_head_and_body() -> None:
    with serving(answering(OK)) as server:
        answer, body = ask(server.url, "/x")
    assert (answer.status, answer.headers["x-cache"], body) == (200, "HIT", b"hello")
    assert server.heard == request("/x", accept="application/json")
    with serving(answering(OK)) as server:
        ask(server.url, "/x", "text/plain", "HEAD")
    assert server.heard == request("/x", "HEAD", "text/plain")


@pytest.mark.parametrize(
    ("method", "answer", "body"),
    [
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more", b"hello"),
        ("GET", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end", b"to the end"),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            b"abcde",
        ),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x"),
        ("GET", b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nlate", b"late"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b""),
    ],
)
def test_a_body_ends_where_its_head_says(method: str, answer: bytes, body: bytes) -> None:
    with serving(answering(answer)) as server:
        assert ask(server.url, "/", method=method)[1] == body


def test_a_connection_is_closed_after_its_answer() -> None:
    def handler(client: socket.socket, listening: Listening) -> None:
        answering(OK)(client, listening)
        assert client.recv(1) == b""

    with serving(handler) as server:
        ask(server.url, "/")
    assert server.errors == []


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (answering(b""), RemoteDisconnected),
        (answering(b"220 smtp.example.test ESMTP\r\n"), BadStatusLine),
        (answering(b"HTTP/1.1 twohundred OK\r\n\r\n"), BadStatusLine),
        (answering(OK[:-2]), IncompleteRead),
        (reset, ConnectionResetError),
    ],
    ids=["nothing", "other protocol", "no status", "cut", "reset"],
)
def test_what_is_no_answer_is_a_failure(handler: Any, error: type[Exception]) -> None:
    with serving(handler) as server, pytest.raises(error):
        ask(server.url, "/")
    assert issubclass(error, FAILURES)


def test_who_does_not_listen_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        connect(f"http://127.0.0.1:{port}")
    assert issubclass(ConnectionRefusedError, FAILURES)


def test_who_never_answers_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_raw, "TIMEOUT_S", 0.05)
    with serving(until_closed) as server, pytest.raises(TimeoutError):
        ask(server.url, "/")
    assert issubclass(TimeoutError, FAILURES)
    assert server.heard.startswith(b"GET / HTTP/1.1\r\n")


def test_a_head_can_be_read_before_its_body_comes() -> None:
    """Slow readers and stampedes look at the head first; the body is read by whoever asked."""
    gate = threading.Event()

    def handler(client: socket.socket, listening: Listening) -> None:
        hear(client, listening)
        client.sendall(OK[:-5])
        assert gate.wait(30)
        client.sendall(OK[-5:])

    with serving(handler) as server, connect(server.url) as client:
        client.sendall(request("/"))
        answer = response(client)
        assert (answer.status, answer.length) == (200, 5)
        gate.set()
        assert answer.read(3) + answer.read(3) == b"hello"


# Everything until the end


@pytest.mark.parametrize(("size", "at_most"), [(0, 10), (5, 10), (10, 10), (0, 0), (300_000, 300_000)])
def test_everything_is_received_if_it_is_no_more_than_the_bound(size: int, at_most: int) -> None:
    content = bytes(i % 251 for i in range(size))
    with serving(lambda client, _: client.sendall(content)) as server, connect(server.url) as client:
        assert receive_all(client, at_most) == content


@pytest.mark.parametrize("at_most", [0, 10, 100_000])
def test_more_than_the_bound_is_seen_to_be_more_and_is_not_all_received(at_most: int) -> None:
    """The server would send for ever; it is told to stop by the end of the connection."""
    stopped = []

    def handler(client: socket.socket, listening: Listening) -> None:
        try:
            while True:
                client.sendall(bytes(1 << 16))
        except OSError as error:
            stopped.append(error)

    with serving(handler) as server:
        with connect(server.url) as client:
            received = receive_all(client, at_most)
        assert len(received) == at_most + 1
    assert len(stopped) == 1


def test_an_end_by_reset_is_an_error_and_not_the_end() -> None:
    with serving(reset) as server, connect(server.url) as client:
        client.sendall(request("/"))
        with pytest.raises(ConnectionResetError):
            receive_all(client, 1000)


def test_the_bytes_come_in_their_order_however_they_are_sent() -> None:
    content = re.sub(rb"\s", b"", Path(__file__).read_bytes())

    def handler(client: socket.socket, listening: Listening) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(content), 100):
            client.sendall(content[start : start + 100])

    with serving(handler) as server, connect(server.url) as client:
        assert receive_all(client, len(content)) == content


def test_a_listing_ends_its_names_with_line_feeds_and_nothing_else() -> None:
    assert lines(b"") == []
    assert lines("a\u2028b\nc\x85d\n".encode()) == ["a\u2028b", "c\x85d"]
