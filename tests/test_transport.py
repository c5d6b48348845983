"""The transport over real sockets, in-process: plain and TLS carry the same bytes, TLS holds little for a slow
client, and what progress means."""

import ctypes
import gc
import itertools
import math
import ssl
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import pytest
import trustme
from gevent import socket
from gevent import ssl as gevent_ssl

from fileserver import connection, root, tls, transport
from fileserver.tls import TlsTransport
from fileserver.transport import Expired, Gone, Transport, Waiting
from lrucache import CHUNK_BYTES
from tests.exchange import GET, LAST, split
from tests.house import Clock, House, connect, pattern, reap, receive_all, wait_for

LOOK_S = transport.PROGRESS_S / transport.PROGRESS_LOOKS
"""Between two looks at whether a client has taken something."""


RESET_ON_CLOSE = struct.pack("ii", 1, 0)

SIZES = [0, 1, 5000, CHUNK_BYTES, 9 * CHUNK_BYTES + 5]

Client = socket.socket
"""A plain one, or a gevent.ssl.SSLSocket, which is used in the same way."""


class Ends(NamedTuple):
    """The server's context, as `tls.load` makes it, and the file of the authority that its clients trust."""

    server: ssl.SSLContext
    authority: Path

    def trusting(self) -> Any:
        """A context for a client of gevent.ssl."""
        context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.authority)
        return context

    def wrap(self, client: Client, context: Any = None, *, strict: bool = False) -> Any:
        """Do the client's handshake. A `strict` client raises at an end without a close_notify."""
        return (context or self.trusting()).wrap_socket(
            client, server_hostname="127.0.0.1", suppress_ragged_eofs=not strict
        )


@pytest.fixture(scope="session")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    authority = trustme.CA()
    folder = tmp_path_factory.mktemp("tls")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return Ends(tls.load(str(folder / "server.pem"), None), folder / "ca.pem")


@pytest.fixture(params=["plain", "tls"])
def both(request: pytest.FixtureRequest, ends: Ends) -> Ends | None:
    """Whatever uses this runs once over plain TCP (None) and once over TLS."""
    return ends if request.param == "tls" else None


def context(both: Ends | None) -> ssl.SSLContext | None:
    return both.server if both else None


def reach(port: int, both: Ends | None, *, receive_buffer: int = 0) -> Any:
    client = connect(port, receive_buffer=receive_buffer)
    return both.wrap(client) if both else client


def ask(port: int, content: bytes, both: Ends | None) -> bytes:
    """Send, then read until the server closes."""
    with reach(port, both) as client:
        client.sendall(content)
        return receive_all(client)


def receive_answer(client: Any) -> tuple[int, dict[bytes, bytes], bytes]:
    """One answer with a Content-Length, on a connection that goes on."""
    answer, end = bytearray(), math.inf
    while len(answer) < end:
        piece = client.recv(1 << 16)
        assert piece, "the server closed too early"
        answer += piece
        if end == math.inf and b"\r\n\r\n" in answer:
            head = answer.index(b"\r\n\r\n") + 4
            end = head + int(split(bytes(answer))[1][b"content-length"])
    return split(bytes(answer))


def only(house: House) -> Any:
    """The one connection's transport."""
    wait_for(lambda: len(house.site.traffic.connections) == 1)
    return next(iter(house.site.traffic.connections))


def wait_ended(house: House) -> None:
    wait_for(lambda: not house.site.traffic.connections)


def tcp_pair(*, receive_buffer: int = 0, send_buffer: int = 0) -> tuple[socket.socket, socket.socket]:
    """An accepted socket and its client."""
    with socket.socket() as listener:
        if send_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        theirs = connect(listener.getsockname()[1], receive_buffer=receive_buffer)
        ours, _ = listener.accept()
    return ours, theirs


def raises(problem: type[Exception], action: Callable[[], object]) -> bool:
    try:
        action()
    except problem:
        return True
    return False


class Plain:
    """A client without TLS, used like Records."""

    def __init__(self, carrier: socket.socket) -> None:
        self.carrier = carrier

    def send(self, *contents: bytes) -> None:
        self.carrier.sendall(b"".join(contents))

    def receive_all(self) -> bytes:
        return receive_all(self.carrier)


class Records:
    """A TLS client whose records the test carries by hand over a plain socket."""

    def __init__(self, carrier: socket.socket, ends: Ends) -> None:
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.load_verify_locations(ends.authority)
        self.carrier = carrier
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = trusting.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")

    def handshake(self, *, at_a_time: int = 1 << 16) -> None:
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.carry(at_a_time)
                self._incoming.write(self.carrier.recv(1 << 16))
        self.carry(at_a_time)

    def send(self, *contents: bytes, at_a_time: int = 1 << 16) -> None:
        """Each content in a record of its own; `at_a_time` bytes in each segment."""
        if self.tls.version() is None:
            self.handshake()
        for content in contents:
            self.tls.write(content)
        self.carry(at_a_time)

    def carry(self, at_a_time: int = 1 << 16) -> None:
        """What TLS has to say, in segments of so many bytes."""
        encrypted = self._outgoing.read()
        for start in range(0, len(encrypted), at_a_time):
            self.carrier.sendall(encrypted[start : start + at_a_time])
            if at_a_time < 100:
                gevent.sleep(0)

    def receive(self) -> bytes:
        while True:
            try:
                return self.tls.read(1 << 16)
            except ssl.SSLWantReadError:
                received = self.carrier.recv(1 << 16)
                if received:
                    self._incoming.write(received)
                else:
                    self._incoming.write_eof()

    def receive_all(self) -> bytes:
        """Everything until a close_notify; an end without one raises SSLEOFError."""
        pieces = []
        while piece := self.receive():
            pieces.append(piece)
        return b"".join(pieces)


class KeyUpdates:
    """A TLS 1.3 client of OpenSSL itself, because Python's ssl cannot ask for new keys."""

    UPDATE_REQUESTED = 1

    def __init__(self, carrier: socket.socket) -> None:
        import _ssl

        self._openssl = ctypes.CDLL(_ssl.__file__)
        try:
            for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new", "BIO_s_mem", "BIO_new"):
                getattr(self._openssl, name).restype = ctypes.c_void_p
        except AttributeError:
            pytest.skip("this Python does not share its OpenSSL")
        self._carrier = carrier
        call = self._openssl
        self._context = ctypes.c_void_p(call.SSL_CTX_new(ctypes.c_void_p(call.TLS_client_method())))
        self._client = ctypes.c_void_p(call.SSL_new(self._context))
        kind = ctypes.c_void_p(call.BIO_s_mem())
        self._incoming, self._outgoing = ctypes.c_void_p(call.BIO_new(kind)), ctypes.c_void_p(call.BIO_new(kind))
        # It says "come again" when it is empty, not "the end".
        for one in (self._incoming, self._outgoing):
            call.BIO_ctrl(one, 130, ctypes.c_long(-1), None)  # BIO_C_SET_BUF_MEM_EOF_RETURN
        call.SSL_set_bio(self._client, self._incoming, self._outgoing)
        call.SSL_set_connect_state(self._client)

    def __enter__(self) -> "KeyUpdates":
        while self._openssl.SSL_do_handshake(self._client) != 1:
            self._carrier.sendall(self._encrypted())
            received = self._carrier.recv(1 << 16)
            self._openssl.BIO_write(self._incoming, received, len(received))
        self._carrier.sendall(self._encrypted())
        return self

    def __exit__(self, *_: object) -> None:
        self._openssl.SSL_free(self._client)
        self._openssl.SSL_CTX_free(self._context)

    def ask(self, times: int) -> bytes:
        """So many requests for new keys, as bytes for the wire."""
        for _ in range(times):
            assert self._openssl.SSL_key_update(self._client, self.UPDATE_REQUESTED) == 1
            assert self._openssl.SSL_do_handshake(self._client) == 1
        return self._encrypted()

    def encrypt(self, content: bytes) -> bytes:
        assert self._openssl.SSL_write(self._client, content, len(content)) == len(content)
        return self._encrypted()

    def decrypt(self, received: bytes) -> bytes:
        self._openssl.BIO_write(self._incoming, received, len(received))
        into = ctypes.create_string_buffer(1 << 16)
        content = b""
        while (count := self._openssl.SSL_read(self._client, into, len(into))) > 0:
            content += into.raw[:count]
        return content

    def _encrypted(self) -> bytes:
        into = ctypes.create_string_buffer(1 << 20)
        count: int = self._openssl.BIO_read(self._outgoing, into, len(into))
        return into.raw[: max(0, count)]


class Stingy:
    """A socket that takes a few bytes at a time and nothing each second time."""

    def __init__(self, ours: socket.socket) -> None:
        self._ours = ours
        self._takes = itertools.cycle([7, 0, 1000, 0])
        self.is_stingy = True

    def __getattr__(self, name: str) -> object:
        return getattr(self._ours, name)

    def send(self, content: bytes | memoryview) -> int:
        takes = next(self._takes) if self.is_stingy else len(content)
        if not takes:
            raise BlockingIOError
        return self._ours.send(content[:takes])


# The same bytes, plain and TLS.


@pytest.mark.parametrize("size", SIZES)
def test_plain_and_tls_give_the_same_bytes_cold_and_warm(
    folder: Path, io: str, both: Ends | None, size: int
) -> None:
    with House(folder, io=io) as house, house.serving(tls=context(both)) as port:
        content = house.write("a", pattern(size))
        received = 0
        for expected in (b"MISS", b"HIT"):
            answer = ask(port, LAST % b"a", both)
            status, fields, body = split(answer)
            assert (status, fields[b"x-cache"], body) == (200, expected, content)
            received += len(answer)
        assert ask(port, b"GET a\n", both) == content
        assert house.site.traffic.bytes_sent == received + size


def test_what_does_not_fit_the_cache_passes_tls_too(folder: Path, io: str, ends: Ends) -> None:
    with House(folder, io=io, capacity=CHUNK_BYTES) as house, house.serving(tls=ends.server) as port:
        content = house.write("a", pattern(3 * CHUNK_BYTES))
        status, fields, body = split(ask(port, LAST % b"a", ends))
        assert (status, fields[b"x-cache"], body) == (200, b"BYPASS", content)


def test_answers_to_pipelined_requests_come_in_order(folder: Path, both: Ends | None) -> None:
    with House(folder) as house, house.serving(tls=context(both)) as port:
        names = [b"f%d" % number for number in range(300)]
        for name in names:
            house.write(name.decode(), name)
        answers = ask(port, b"".join(GET % name for name in names) + LAST % b"f0", both)
        bodies = [part.partition(b"\r\n\r\n")[2] for part in answers.split(b"HTTP/1.1 200 OK")[1:]]
        assert bodies == [*names, b"f0"]


@pytest.mark.parametrize("size", SIZES)
def test_a_connection_is_kept_and_nothing_of_an_answer_waits_for_the_next_request(
    folder: Path, both: Ends | None, size: int
) -> None:
    with House(folder) as house, house.serving(tls=context(both), send_buffer=32768 * bool(both)) as port:
        content = house.write("a", pattern(size))
        with reach(port, both) as client:
            for _ in range(3):
                client.sendall(GET % b"a")
                assert receive_answer(client)[::2] == (200, content)
            client.sendall(b"GET /-/cache HTTP/1.1\r\nHost: x\r\n\r\n")
            assert receive_answer(client)[::2] == (200, b"a\n")


def test_a_long_page_of_our_own_reaches_a_tls_client_that_reads_slowly(folder: Path, ends: Ends) -> None:
    names = [f"{'n' * 200}{number:04}" for number in range(500)]
    for name in names:
        (folder / name).touch()
    with House(folder) as house, house.serving(tls=ends.server, send_buffer=4096) as port:
        with ends.wrap(connect(port, receive_buffer=4096)) as client:
            client.sendall(b"GET /?format=json HTTP/1.1\r\nHost: x\r\n\r\n")
            assert only(house) is not None
            wait_for(lambda: only(house).waiting is Waiting.WRITABLE)
            status, _, body = receive_answer(client)
        assert (status, body.count(b'"type": "file"')) == (200, len(names))


def test_a_socket_that_takes_little_at_a_time_gets_the_same_bytes_through_tls(folder: Path, ends: Ends) -> None:
    with House(folder) as house:
        content = house.write("a", pattern(100_000))
        ours, theirs = socket.socketpair()
        stingy = Stingy(ours)
        stingy.is_stingy = False
        serving = gevent.spawn(house.connection(stingy, ends.server, vectored=False).serve)
        with ends.wrap(theirs) as client:
            client.sendall(GET % b"missing")
            receive_answer(client)
            stingy.is_stingy = True
            client.sendall(GET % b"a" + LAST % b"a")
            assert receive_all(client).count(content) == 2
        serving.join()


def test_a_handshake_is_sent_whole_through_a_socket_that_takes_little_at_a_time(folder: Path, ends: Ends) -> None:
    with House(folder) as house:
        ours, theirs = socket.socketpair()
        served = TlsTransport(Stingy(ours), ends.server)
        house.site.traffic.connections.add(served)
        serving = gevent.spawn(served.handshake, 10.0)
        shaking = gevent.spawn(Records(theirs, ends).handshake)
        is_whole = shaking.get(timeout=5) is None if gevent.wait([shaking], timeout=5) else False
        theirs.close()
        shaking.kill()
        serving.get()
        served.close()
        assert is_whole


def test_a_handshake_and_a_request_that_come_byte_by_byte_are_understood(folder: Path, ends: Ends) -> None:
    with House(folder) as house, house.serving(tls=ends.server) as port, connect(port) as carrier:
        house.write("a", b"content")
        carrier.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Records(carrier, ends)
        client.handshake(at_a_time=7)
        client.send(GET % b"a", at_a_time=1)
        assert client.receive().endswith(b"content")


def test_a_request_is_read_whose_record_came_together_with_the_one_before(folder: Path, ends: Ends) -> None:
    with House(folder) as house, house.serving(tls=ends.server) as port, connect(port) as carrier:
        house.write("a", b"content")
        client = Records(carrier, ends)
        client.handshake()
        whole = GET % b"a"
        client.send(whole[:10], whole[10:20], whole[20:], GET % b"a")
        answers = b""
        while answers.count(b"\r\n\r\ncontent") < 2:
            answers += client.receive()


def test_a_request_may_come_together_with_the_end_of_the_handshake(folder: Path, ends: Ends) -> None:
    with House(folder) as house, house.serving(tls=ends.server) as port, connect(port) as carrier:
        house.write("a", b"content")
        client = Records(carrier, ends)
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.do_handshake()
        client.carry()
        client._incoming.write(carrier.recv(1 << 16))
        client.tls.do_handshake()
        client.send(GET % b"a")
        assert client.receive().endswith(b"content")


# Ends: clean ones, refusals, cuts.


@pytest.mark.parametrize(
    "request_bytes", [LAST % b"a", b"GET a\n", b"LIST\n", LAST % b"missing", b"nonsense\r\n\r\n"]
)
def test_a_clean_end_over_tls_says_close_notify(folder: Path, ends: Ends, request_bytes: bytes) -> None:
    with House(folder) as house, house.serving(tls=ends.server) as port:
        house.write("a", pattern(5000))
        house.fetch("a")
        with ends.wrap(connect(port), strict=True) as client:
            client.sendall(request_bytes)
            # Without a close_notify this raises SSLEOFError (RFC 8446 section 6.1).
            assert receive_all(client)


def test_an_idle_tls_connection_that_expires_says_close_notify(folder: Path, ends: Ends) -> None:
    with House(folder) as house, house.serving(tls=ends.server) as port:
        house.write("a", b"content")
        with ends.wrap(connect(port), strict=True) as client:
            client.sendall(GET % b"a")
            receive_answer(client)
            wait_for(lambda: only(house).deadline_s < math.inf)
            reap(house)
            assert receive_all(client) == b""


def test_a_refusal_reaches_a_client_that_is_still_sending(folder: Path, both: Ends | None) -> None:
    with House(folder) as house, house.serving(tls=context(both)) as port, reach(port, both) as client:
        client.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n" + b"x" * 900_000)
        assert split(receive_all(client))[0] == 413


def test_an_answer_reaches_a_client_that_has_sent_more_than_was_wanted(folder: Path, both: Ends | None) -> None:
    with House(folder) as house, house.serving(tls=context(both)) as port, reach(port, both) as client:
        house.write("a", b"content")
        client.sendall(LAST % b"a" + b"x" * 500_000)
        assert split(receive_all(client))[::2] == (200, b"content")


def test_a_refused_client_is_left_at_its_deadline_or_when_it_sends_without_end(
    folder: Path, both: Ends | None
) -> None:
    with House(folder) as house, house.serving(tls=context(both), clock=house.clock) as port:
        for stays in (True, False):
            with reach(port, both) as client:
                client.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n")
                assert split(receive_all(client))[0] == 413
                assert only(house).deadline_s == house.clock() + transport.LINGER_S
                if stays:
                    reap(house)
                else:
                    with pytest.raises(OSError, match=r"reset|pipe|EOF"):
                        client.sendall(bytes(100 * transport.LINGER_BYTES))
                wait_ended(house)


@pytest.mark.parametrize("line", [b"GET a\n", LAST % b"a"])
def test_a_cut_transfer_never_looks_whole(folder: Path, both: Ends | None, line: bytes) -> None:
    with House(folder) as house, house.serving(tls=context(both)) as port:
        house.write("a", pattern(20 * CHUNK_BYTES))
        house.root.cold.add("a")

        def fail_late(name: str, offset: int) -> None:
            if offset == 19 * CHUNK_BYTES:
                raise root.DiskFailure("EIO, said the test")

        house.root.before_read = fail_late
        with connect(port) as carrier:
            client = Records(carrier, both) if both else Plain(carrier)
            client.send(line)
            with pytest.raises(ConnectionResetError):
                client.receive_all()


def test_a_transfer_that_a_stop_cuts_never_looks_whole(folder: Path, both: Ends | None) -> None:
    with House(folder) as house, house.serving(tls=context(both)) as port:
        house.write("a", pattern(60 * CHUNK_BYTES))
        with connect(port, receive_buffer=4096) as carrier:
            client = Records(carrier, both) if both else Plain(carrier)
            client.send(b"GET a\n")
            wait_for(lambda: only(house).waiting is Waiting.WRITABLE)
            # As often as it would take a wait with progress to end.
            while house.site.traffic.connections:
                only(house).cut()
                gevent.sleep(0.001)
            with pytest.raises(ConnectionResetError):
                client.receive_all()


@pytest.mark.parametrize("notifies", [False, True])
def test_a_tls_client_that_leaves_is_no_trouble(
    folder: Path, ends: Ends, notifies: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with House(folder) as house, house.serving(tls=ends.server) as port, connect(port) as carrier:
        house.write("a", b"content")
        client = Records(carrier, ends)
        client.handshake()
        client.send(GET % b"a")
        assert client.receive().endswith(b"content")
        if notifies:
            with pytest.raises(ssl.SSLWantReadError):
                client.tls.unwrap()
            client.carry()
        else:
            carrier.shutdown(socket.SHUT_WR)
        receive_all(carrier)
        wait_ended(house)
        assert caplog.records == []


def test_a_tls_client_that_closes_in_the_middle_of_a_request_is_no_trouble(
    folder: Path, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    with House(folder) as house, house.serving(tls=ends.server) as port:
        for content in (b"GET /a HTTP/1.1\r\nHost", b""):
            client = ends.wrap(connect(port))
            client.sendall(content)
            wait_for(lambda: only(house).waiting in (Waiting.REST_OF_REQUEST, Waiting.REQUEST))
            client.close()
            wait_ended(house)
        assert caplog.records == []


def test_what_is_no_tls_record_ends_the_connection_in_a_reset(
    folder: Path, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    with House(folder) as house, house.serving(tls=ends.server) as port, connect(port) as carrier:
        client = Records(carrier, ends)
        client.handshake()
        carrier.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(ConnectionResetError):
            receive_all(carrier)
        wait_ended(house)
        assert caplog.records == []


def test_a_connection_that_has_ended_leaves_nothing_to_the_garbage_collector(
    folder: Path, both: Ends | None
) -> None:
    with House(folder) as house, house.serving(tls=context(both)) as port:
        house.write("a", b"content")
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                ask(port, LAST % b"a", both)
            wait_ended(house)
            gevent.sleep(0)
            assert [one for one in gc.get_objects() if isinstance(one, Transport)] == []
        finally:
            gc.enable()


# The handshake.


def test_a_client_that_is_silent_before_its_handshake_is_ended_quietly_at_the_deadline(
    folder: Path, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        House(folder) as house,
        house.serving(tls=ends.server, clock=house.clock) as port,
        connect(port) as client,
    ):
        assert only(house).deadline_s == house.clock() + connection.HEAD_S
        assert only(house).waiting is Waiting.REST_OF_REQUEST
        reap(house)
        assert receive_all(client) == b""
        wait_ended(house)
        assert caplog.records == []


def test_the_time_for_a_handshake_runs_from_the_beginning_and_ends_with_it(folder: Path, ends: Ends) -> None:
    with (
        House(folder) as house,
        house.serving(tls=ends.server, clock=house.clock, idle_s=99.0) as port,
        connect(port) as carrier,
    ):
        until_s = house.clock() + connection.HEAD_S
        assert only(house).deadline_s == until_s
        house.clock.now_s += 5
        client = Records(carrier, ends)
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.do_handshake()
        hello = client._outgoing.read()
        carrier.sendall(hello[:100])
        for _ in range(20):
            gevent.sleep(0.001)
        assert only(house).deadline_s == until_s
        carrier.sendall(hello[100:])
        client._incoming.write(carrier.recv(1 << 16))
        client.handshake()
        wait_for(lambda: only(house).deadline_s == house.clock() + 99)


def test_a_handshake_that_is_done_leaves_no_deadline(ends: Ends) -> None:
    ours, theirs = socket.socketpair()
    served = TlsTransport(ours, ends.server)
    shaking = gevent.spawn(served.handshake, 10.0)
    Records(theirs, ends).handshake()
    assert shaking.get() is True
    assert served.deadline_s == math.inf
    served.close()
    theirs.close()


def test_a_plain_transport_has_no_handshake() -> None:
    ours, theirs = socket.socketpair()
    served = Transport(ours)
    assert served.handshake(0.0) is True
    assert served.deadline_s == math.inf
    served.close()
    theirs.close()


@pytest.mark.parametrize("content", [LAST % b"a", b"GET a\n", b"\x16\x03\x01\x00\x05hello", b""])
def test_what_speaks_no_tls_is_ended_without_a_traceback(
    folder: Path, ends: Ends, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with House(folder) as house, house.serving(tls=ends.server) as port, connect(port, content) as client:
        house.write("a", b"content")
        if not content:
            client.shutdown(socket.SHUT_WR)
        answer = receive_all(client)
        assert b"content" not in answer
        assert answer[:1] in (b"", b"\x15")  # an alert, RFC 8446 section 5.1
        client.close()
        wait_ended(house)
        assert caplog.records == []
        assert house.root.opens == []


def test_a_client_whose_handshake_fails_is_told_why(folder: Path, ends: Ends) -> None:
    with House(folder) as house, house.serving(tls=ends.server) as port:
        trusting = ends.trusting()
        trusting.maximum_version = ssl.TLSVersion.TLSv1_2
        trusting.set_ciphers("AES128-SHA")  # no forward secrecy
        with connect(port) as client, pytest.raises(ssl.SSLError, match=r"(?i)alert"):
            ends.wrap(client, trusting)
        wait_ended(house)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(folder: Path, ends: Ends, version: ssl.TLSVersion) -> None:
    with House(folder) as house, house.serving(tls=ends.server) as port:
        house.write("a", b"content")
        trusting = ends.trusting()
        trusting.minimum_version = trusting.maximum_version = version
        with ends.wrap(connect(port), trusting) as client:
            assert client.version() == version.name.replace("_", ".")
            client.sendall(LAST % b"a")
            assert split(receive_all(client))[2] == b"content"


def test_tls_1_1_is_refused(folder: Path, ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    with House(folder) as house, house.serving(tls=ends.server) as port:
        trusting = ends.trusting()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            trusting.minimum_version = ssl.TLSVersion.TLSv1_1
            trusting.maximum_version = ssl.TLSVersion.TLSv1_1
        trusting.set_ciphers("ALL:@SECLEVEL=0")
        with connect(port) as client, pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
            ends.wrap(client, trusting)
        wait_ended(house)
        assert caplog.records == []


def test_the_context_has_no_renegotiation_and_begins_at_tls_1_2(ends: Ends) -> None:
    assert ends.server.minimum_version is ssl.TLSVersion.TLSv1_2
    assert ends.server.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], None), ([], None)],
)
def test_alpn_is_http_1_1(folder: Path, ends: Ends, offered: list[str], chosen: str | None) -> None:
    with House(folder) as house, house.serving(tls=ends.server) as port:
        trusting = ends.trusting()
        if offered:
            trusting.set_alpn_protocols(offered)
        with ends.wrap(connect(port), trusting) as client:
            assert client.selected_alpn_protocol() == chosen


# What waits for a slow client.


def test_blocked_tls_readers_hold_no_chunk_and_little_ciphertext(folder: Path, io: str, ends: Ends) -> None:
    """Evict what many clients are blocked on: its memory is free at once, and they still get every byte."""
    number_of_clients = 20
    with House(folder, io=io, capacity=64 * CHUNK_BYTES) as house, house.serving(tls=ends.server) as port:
        content = house.write("a", pattern(40 * CHUNK_BYTES))
        house.write("b", pattern(60 * CHUNK_BYTES, 9))
        house.fetch("a")
        chunks = house.cache.snapshot()[1][0].chunks
        held_by_the_cache_alone = [sys.getrefcount(chunks[number]) for number in range(40)]
        trusting = ends.trusting()
        clients = [ends.wrap(connect(port, receive_buffer=4096), trusting) for _ in range(number_of_clients)]
        for client in clients:
            client.sendall(LAST % b"a")
        served = house.site.traffic.connections
        wait_for(lambda: [one.waiting for one in served].count(Waiting.WRITABLE) == number_of_clients)
        assert [sys.getrefcount(chunks[number]) for number in range(40)] == held_by_the_cache_alone
        for one in served:
            assert isinstance(one, TlsTransport)
            # Four records, each with its header and tag, and perhaps the head of the answer.
            assert 0 < len(one._ciphertext) <= 4 * (16384 + 22) + 512
            assert one._outgoing.pending == 0
        house.fetch("b")
        assert [entry.name for entry in house.cache.snapshot()[1]] == ["b"]
        assert chunks == []
        for client in clients[:3]:
            assert split(receive_all(client))[2] == content
        for client in clients:
            client.close()


def test_a_tls_client_that_asks_for_new_keys_gets_them_and_its_answer(folder: Path, ends: Ends) -> None:
    with House(folder) as house, house.serving(tls=ends.server) as port, connect(port) as carrier:
        house.write("a", b"content")
        with KeyUpdates(carrier) as client:
            carrier.sendall(client.ask(100))
            carrier.sendall(client.encrypt(GET % b"a"))
            content = b""
            while not content.endswith(b"content"):
                received = carrier.recv(1 << 16)
                assert received
                content += client.decrypt(received)


def test_a_tls_client_that_makes_tls_talk_and_reads_nothing_is_cut(ends: Ends) -> None:
    """By hand: this OpenSSL answers nothing of its own accord that a client could have without end."""
    ours, theirs = socket.socketpair()
    served = TlsTransport(ours, ends.server)
    shaking = gevent.spawn(served.handshake, 10.0)
    Records(theirs, ends).handshake()
    shaking.get()
    full(served)
    served._outgoing.write(bytes(tls.TLS_PENDING_MAX - len(served._ciphertext)))
    assert served.receive_now() is None
    assert len(served._ciphertext) == tls.TLS_PENDING_MAX
    served._outgoing.write(b"x")
    with pytest.raises(Gone):
        served.receive_now()
    served.close()
    theirs.close()


def test_ciphertext_that_was_sent_is_not_kept(ends: Ends) -> None:
    ours, theirs = socket.socketpair()
    served = TlsTransport(ours, ends.server)
    shaking = gevent.spawn(served.handshake, 10.0)
    Records(theirs, ends).handshake()
    shaking.get()
    assert served.offer([bytes(tls.TLS_SEND_BYTES // 2)]) == tls.TLS_SEND_BYTES // 2
    while served.is_full:
        theirs.recv(1 << 16)
        served.wait_writable()
    assert served._ciphertext.obj == b""
    served.close()
    theirs.close()


def test_a_record_that_comes_in_many_pieces_is_understood_with_the_last_of_them(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pieces in range(1, 3 * tls.TLS_TAKES_MAX):
        ours, theirs = socket.socketpair()
        served = TlsTransport(ours, ends.server)
        shaking = gevent.spawn(served.handshake, 10.0)
        client = Records(theirs, ends)
        client.handshake()
        shaking.get()
        client.tls.write(b"content")
        record = client._outgoing.read()
        size = -(-len(record) // pieces)
        coming = [record[start : start + size] for start in range(0, len(record), size)]
        monkeypatch.setattr(TlsTransport, "_take", lambda _, coming=coming: coming.pop(0) if coming else None)
        assert served.receive_now() == b"content"
        monkeypatch.undo()
        served.close()
        theirs.close()


def test_others_run_while_a_tls_client_asks_for_new_keys_without_end(
    folder: Path, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    with House(folder) as house, house.serving(tls=ends.server) as port, connect(port) as carrier:
        house.write("a", b"content")
        turns = 0
        taken_in_turn: list[int] = []
        take = TlsTransport._take

        def taking(served: TlsTransport) -> bytes | None:
            received = take(served)
            if received:
                taken_in_turn.append(turns)
            return received

        with KeyUpdates(carrier) as client:
            wait_for(lambda: only(house).waiting is Waiting.REQUEST)
            monkeypatch.setattr(TlsTransport, "_take", taking)
            carrier.sendall(client.ask(6000) + client.encrypt(LAST % b"a"))
            while house.site.traffic.file_answers == 0:
                turns += 1
                gevent.sleep(0)
        taken = [taken_in_turn.count(turn) for turn in set(taken_in_turn)]
        assert sum(taken) >= 8
        assert max(taken) <= 4


# Progress.


def full(served: Transport) -> None:
    """Offer until the socket takes no more."""
    while not served.is_full:
        served.offer([bytes(1 << 16)])


@pytest.fixture
def pair() -> Iterator[tuple[Transport, socket.socket, Clock]]:
    """A transport with a clock of the test's, its client, and the clock."""
    clock = Clock()
    ours, theirs = socket.socketpair()
    served = Transport(ours, clock=clock)
    yield served, theirs, clock
    served.close()
    theirs.close()


@pytest.mark.parametrize(
    ("unacknowledged", "looks"),
    [
        ([10, 10, 10, 10, 10], 4),
        ([10, 11, 12, 13, 14], 4),
        ([0, 0, 0, 0, 0], 4),
        ([10, 9, 9, 9, 9, 9], 5),
        ([10, 10, 10, 10, 9, 9, 9, 9, 9], 8),
        ([10, 10, 10, 10, 9, 9, 9, 9, 8, 8, 8, 8, 8], 12),
        ([10, 9, 8, 0, 0, 0, 0, 0], 7),
        ([None, None, None, None, None], 4),
        ([None, 5, 5, 5, 5], 4),
        ([10, None, None, None, None], 4),
        ([10, 9, None, 8, None, 7], 5),
    ],
)
def test_a_client_has_gone_that_acknowledges_nothing_in_its_time(
    pair: tuple[Transport, socket.socket, Clock],
    monkeypatch: pytest.MonkeyPatch,
    unacknowledged: list[int | None],
    looks: int,
) -> None:
    """Looked at four times in that time: it has gone after four looks in a row that show no progress."""
    served, _, clock = pair
    full(served)
    said = iter(unacknowledged)
    monkeypatch.setattr(Transport, "_unacknowledged", lambda self: next(said))
    waiting = gevent.spawn(raises, Gone, served.wait_writable)
    for _ in range(looks):
        wait_for(lambda: served.deadline_s < math.inf)
        assert served.waiting is Waiting.WRITABLE
        assert served.deadline_s == clock() + LOOK_S
        clock.now_s += LOOK_S
        served.expire()
        assert served.deadline_s == math.inf
        for _ in range(3):
            gevent.sleep(0)
    assert waiting.ready()
    assert waiting.get() is True
    assert served.waiting is Waiting.NOTHING


def test_a_wait_ends_without_a_deadline_when_the_socket_takes_more(
    pair: tuple[Transport, socket.socket, Clock],
) -> None:
    served, theirs, clock = pair
    full(served)
    waiting = gevent.spawn(served.wait_writable)
    wait_for(lambda: served.waiting is Waiting.WRITABLE)
    assert served.deadline_s == clock() + LOOK_S
    theirs.setblocking(False)
    with suppress(BlockingIOError):
        while theirs.recv(1 << 20):
            pass
    waiting.get()
    assert (served.deadline_s, served.is_full, served.waiting) == (math.inf, False, Waiting.NOTHING)


def test_where_nobody_tells_nothing_is_known(
    pair: tuple[Transport, socket.socket, Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, _, _ = pair
    assert served._unacknowledged() == 0
    monkeypatch.setattr(transport, "fcntl", None)
    assert served._unacknowledged() is None
    monkeypatch.undo()
    ours = served.socket
    with open(__file__, "rb") as no_socket:
        served.socket = no_socket
        assert served._unacknowledged() is None
    served.socket = ours


@pytest.mark.skipif(sys.platform != "linux", reason="SIOCOUTQ counts what is not acknowledged on Linux")
def test_what_is_not_acknowledged_falls_as_the_client_reads() -> None:
    ours, theirs = tcp_pair(receive_buffer=4096)
    served = Transport(ours)
    full(served)
    left: int | None = None

    def settled() -> bool:
        nonlocal left
        before, left = left, served._unacknowledged()
        return left == before

    wait_for(settled)
    assert left
    for _ in range(3):
        most = left
        theirs.recv(4096)
        while left >= most:
            gevent.sleep(0.001)
            left = served._unacknowledged() or 0
        assert left
    theirs.close()
    served.close()


@pytest.mark.skipif(sys.platform != "linux", reason="SIOCOUTQ counts what is not acknowledged on Linux")
def test_who_drains_its_buffer_slowly_lives_and_who_reads_nothing_is_cut(folder: Path, both: Ends | None) -> None:
    buffers = {"send_buffer": 224 * 1024}
    with House(folder) as house, house.serving(tls=context(both), clock=house.clock, **buffers) as port:
        house.write("a", pattern(60 * CHUNK_BYTES))
        carrier = connect(port, receive_buffer=4096)
        with both.wrap(carrier, strict=True) if both else carrier as client:
            client.sendall(LAST % b"a")
            served = only(house)
            wait_for(lambda: served.waiting is Waiting.WRITABLE)
            sent = house.site.traffic.bytes_sent
            for _ in range(5):
                before = served._unacknowledged()
                while served._unacknowledged() == before:
                    # As little as moves its system to acknowledge something.
                    client.recv(1024)
                    gevent.sleep(0.001)
                house.clock.now_s += LOOK_S
                reap(house)
                wait_for(lambda: served.deadline_s == house.clock() + LOOK_S)
                assert served.waiting is Waiting.WRITABLE
            assert house.site.traffic.bytes_sent == sent, "the socket became writable: this showed nothing"
            while house.site.traffic.connections:
                reap(house)
                gevent.sleep(0.001)
            with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
                receive_all(client)


# Small things.


def test_who_has_sent_nothing_is_silent_and_looking_takes_nothing_away() -> None:
    ours, theirs = tcp_pair()
    served = Transport(ours)
    assert served.is_silent() is True
    theirs.sendall(b"G")
    wait_for(lambda: not served.is_silent())
    assert served.is_silent() is False
    assert served.receive_now() == b"G"
    assert served.is_silent() is True
    assert served.receive_now() is None
    served.close()
    theirs.close()


@pytest.mark.parametrize("resets", [False, True])
def test_who_has_left_is_silent_and_only_a_reset_is_no_end(resets: bool) -> None:
    for receive in (Transport.receive_now, lambda served: served.receive(Waiting.REQUEST)):
        ours, theirs = tcp_pair()
        served = Transport(ours)
        if resets:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        theirs.close()
        served._wait(served._readable, Waiting.REQUEST)
        if resets:
            with pytest.raises(Gone):
                receive(served)
        else:
            assert receive(served) == b""
        assert served.is_silent() is True
        served.close()


def test_who_has_reset_is_silent() -> None:
    ours, theirs = tcp_pair()
    served = Transport(ours)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    theirs.close()
    served._wait(served._readable, Waiting.REQUEST)
    assert served.is_silent() is True
    served.close()


def test_what_is_offered_to_a_client_that_has_left_raises_gone(
    pair: tuple[Transport, socket.socket, Clock],
) -> None:
    served, theirs, _ = pair
    theirs.close()
    for buffers in ([b"one"], [b"one", b"two"]):
        with pytest.raises(Gone):
            served.offer(list(buffers))


def test_a_deadline_interrupts_a_wait_and_only_a_wait(pair: tuple[Transport, socket.socket, Clock]) -> None:
    served, theirs, _ = pair
    served.deadline_s = 5.0
    served.expire()
    assert served.deadline_s == 5.0, "it is tried again"
    served.deadline_s = math.inf
    gevent.sleep(0)
    for waiting in (Waiting.REQUEST, Waiting.REST_OF_REQUEST):
        receiving = gevent.spawn(raises, Expired, partial(served.receive, waiting))
        wait_for(lambda: served.waiting is not Waiting.NOTHING)
        assert served.waiting == waiting
        served.expire()
        assert receiving.get() is True
        assert str(served.waiting) == str(Waiting.NOTHING)
    theirs.sendall(b"content")
    assert served.receive(Waiting.REQUEST) == b"content"


def test_closing_without_a_reset_sends_what_was_taken_and_with_one_does_not() -> None:
    for resets in (False, True):
        ours, theirs = tcp_pair()
        served = Transport(ours)
        assert served.offer([b"taken"]) == 5
        if resets:
            served.reset()
            served.close()
            with pytest.raises(ConnectionResetError):
                receive_all(theirs)
        else:
            served.close()
            assert receive_all(theirs) == b"taken"
        theirs.close()


def test_what_was_cut_ends_in_a_reset_even_if_nobody_waits() -> None:
    ours, theirs = tcp_pair()
    served = Transport(ours)
    assert served.offer([b"taken"]) == 5
    served.cut()
    served.close()
    with pytest.raises(ConnectionResetError):
        receive_all(theirs)
    theirs.close()
