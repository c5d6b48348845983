"""The greenlet's loop over real sockets, in-process: answers, keep-alive, deadlines, slow readers, cuts."""

import math
import struct
from pathlib import Path

import gevent
import pytest
from gevent import socket

from fileserver import connection, root
from fileserver.wire import StatusLines
from lrucache import CHUNK_BYTES
from tests.house import Gate, House, pattern, receive_all, wait_for

GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def connect(port: int, *, receive_buffer: int = 0) -> socket.socket:
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(20)
    client.connect(("127.0.0.1", port))
    return client


def ask(port: int, content: bytes) -> bytes:
    """Send, then read until the server closes."""
    with connect(port) as client:
        client.sendall(content)
        return receive_all(client)


def split(answer: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, fields (lower-case names), body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
    return int(first.split()[1]), fields, body


def reap(house: House) -> None:
    """What the server's reaper does, once."""
    for one in list(house.site.traffic.connections):
        if one.deadline_s < math.inf:
            one.expire()


@pytest.mark.parametrize("vectored", [True, False])
@pytest.mark.parametrize("size", [0, 1, 5000, CHUNK_BYTES, 9 * CHUNK_BYTES + 5])
def test_every_way_of_sending_gives_the_same_bytes(folder: Path, io: str, size: int, vectored: bool) -> None:
    with House(folder, io=io) as house, house.serving(vectored=vectored) as port:
        content = house.write("a", pattern(size))
        large = 10 * CHUNK_BYTES
        for expected in (b"MISS", b"HIT"):
            status, fields, body = split(ask(port, LAST % b"a"))
            assert (status, fields[b"x-cache"], body) == (200, expected, content)
        assert ask(port, b"GET a\n") == content
        assert house.site.traffic.bytes_sent > 3 * size
        assert size < large


def test_answers_to_pipelined_requests_come_in_order(folder: Path, io: str) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        names = [b"f%d" % number for number in range(300)]
        for name in names:
            house.write(name.decode(), name)
        answers = ask(port, b"".join(GET % name for name in names) + LAST % b"f0")
        bodies = [part.partition(b"\r\n\r\n")[2] for part in answers.split(b"HTTP/1.1 200 OK")[1:]]
        assert bodies == [*names, b"f0"]


@pytest.mark.parametrize(
    ("request_head", "stays", "field"),
    [
        (b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", True, None),
        (b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", False, b"close"),
        (b"GET /a HTTP/1.0\r\n\r\n", False, b"close"),
        (b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True, b"keep-alive"),
    ],
)
def test_the_connection_stays_as_its_version_says(
    folder: Path, request_head: bytes, stays: bool, field: bytes | None
) -> None:
    with House(folder) as house, house.serving() as port, connect(port) as client:
        house.write("a", b"content")
        client.sendall(request_head)
        answer = client.recv(4096)
        assert split(answer)[1].get(b"connection") == field
        client.sendall(LAST % b"a")
        assert bool(receive_all(client)) == stays


def test_head_is_the_head_of_get_without_a_body(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("a", b"content")
        ask(port, LAST % b"a")
        get, head = ask(port, LAST % b"a"), ask(port, LAST.replace(b"GET", b"HEAD") % b"a")
        assert get == head + b"content"


def test_a_request_body_is_never_the_next_request(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("a", b"right")
        house.write("b", b"wrong")
        inner = GET % b"b"
        outer = b"GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(inner)
        answer = ask(port, outer + inner + LAST % b"a")
        assert answer.count(b"right") == 2
        assert b"wrong" not in answer


def test_a_refusal_reaches_a_client_that_is_still_sending(folder: Path) -> None:
    with House(folder) as house, house.serving() as port, connect(port) as client:
        client.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n" + b"x" * 900_000)
        assert split(receive_all(client))[0] == 413


def test_an_unexpected_error_is_logged_once_and_answered_500(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with House(folder) as house, house.serving() as port:

        def fail(*_: object) -> None:
            raise ZeroDivisionError("a secret of ours")

        monkeypatch.setattr(house.site, "answer", fail)
        status, _, body = split(ask(port, LAST % b"a"))
        assert (status, body) == (500, b"internal error\n")
        assert [record.exc_info is not None for record in caplog.records] == [True]


def test_a_disk_that_fails_before_the_head_is_500_and_says_nothing_of_itself(folder: Path, io: str) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        house.write("a", b"content")
        house.root.cold.add("a")
        house.root.before_open = house.fail("a")
        status, _, body = split(ask(port, LAST % b"a"))
        assert (status, body) == (500, b"the disk failed: a\n")


def test_a_disk_that_fails_at_the_first_byte_of_a_bypass_is_still_an_answer(folder: Path, io: str) -> None:
    with House(folder, io=io, capacity=CHUNK_BYTES) as house, house.serving() as port:
        house.write("a", pattern(4 * CHUNK_BYTES))
        house.root.cold.add("a")
        house.root.before_read = house.fail("a")
        assert split(ask(port, LAST % b"a"))[0] == 500
        assert ask(port, b"GET a\n") == b"ERROR the disk failed\n"


@pytest.mark.parametrize("line", [b"GET a\n", LAST % b"a"])
def test_a_transfer_that_must_be_cut_ends_in_a_reset(folder: Path, io: str, line: bytes) -> None:
    with House(folder, io=io) as house, house.serving() as port, connect(port) as client:
        house.write("a", pattern(20 * CHUNK_BYTES))
        house.root.cold.add("a")

        def fail_late(name: str, offset: int) -> None:
            if offset == 19 * CHUNK_BYTES:
                raise root.DiskFailure("EIO, said the test")

        house.root.before_read = fail_late
        client.sendall(line)
        with pytest.raises(ConnectionResetError):
            receive_all(client)


def test_a_client_that_resets_leaves_no_trace(folder: Path, io: str) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        house.write("a", pattern(40 * CHUNK_BYTES))
        for _ in range(10):
            client = connect(port, receive_buffer=4096)
            client.sendall(LAST % b"a")
            client.recv(100)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        wait_for(lambda: not house.site.traffic.connections)
        assert all(entry.readers == 0 for entry in house.cache.snapshot()[1])


def test_an_idle_connection_is_closed_without_a_word(folder: Path) -> None:
    with House(folder) as house, house.serving() as port, connect(port) as client:
        house.write("a", b"content")
        client.sendall(GET % b"a")
        client.recv(4096)
        wait_for(lambda: any(one.deadline_s < math.inf for one in house.site.traffic.connections))
        reap(house)
        assert receive_all(client) == b""


def test_a_head_that_does_not_end_is_answered_408(folder: Path) -> None:
    with House(folder) as house, house.serving() as port, connect(port) as client:
        client.sendall(b"GET /a HTTP/1.1\r\nHost")
        wait_for(
            lambda: any(
                one.waiting is connection.Waiting.REST_OF_REQUEST for one in house.site.traffic.connections
            )
        )
        reap(house)
        assert split(receive_all(client))[0] == 408


def test_the_time_for_a_head_runs_from_its_first_byte(folder: Path) -> None:
    with House(folder) as house, house.serving(clock=house.clock) as port, connect(port) as client:
        house.clock.now_s = 0.0
        client.sendall(b"G")
        wait_for(lambda: any(one.deadline_s == connection.HEAD_S for one in house.site.traffic.connections))
        house.clock.now_s = 5.0
        client.sendall(b"ET /a HTTP/1.1\r\n")
        for _ in range(50):
            gevent.sleep(0.001)
        assert [one.deadline_s for one in house.site.traffic.connections] == [connection.HEAD_S]


def test_a_reader_that_stops_is_cut_at_its_deadline(folder: Path) -> None:
    with House(folder) as house, house.serving() as port, connect(port, receive_buffer=4096) as client:
        house.write("a", pattern(60 * CHUNK_BYTES))
        client.sendall(LAST % b"a")
        wait_for(lambda: any(one.waiting is connection.Waiting.WRITABLE for one in house.site.traffic.connections))
        reap(house)
        with pytest.raises(ConnectionResetError):
            receive_all(client)


def test_blocked_readers_hold_no_chunk(folder: Path, io: str) -> None:
    """Evict what a hundred clients are blocked on: its memory is free at once, and they still get every byte."""
    import gc

    with House(folder, io=io, capacity=64 * CHUNK_BYTES) as house, house.serving() as port:
        content = house.write("a", pattern(40 * CHUNK_BYTES))
        house.write("b", pattern(60 * CHUNK_BYTES, 9))
        house.fetch("a")
        clients = [connect(port, receive_buffer=4096) for _ in range(100)]
        for client in clients:
            client.sendall(LAST % b"a")
        blocked = connection.Waiting.WRITABLE
        wait_for(lambda: [one.waiting for one in house.site.traffic.connections].count(blocked) == 100)
        first = house.cache.snapshot()[1][0].chunks[0]
        holders = [one for one in gc.get_referrers(first) if isinstance(one, list)]
        assert holders == [house.cache.snapshot()[1][0].chunks]
        house.fetch("b")
        assert [entry.name for entry in house.cache.snapshot()[1]] == ["b"]
        assert [one for one in gc.get_referrers(first) if isinstance(one, list)] == []
        for client in clients[:10]:
            assert split(receive_all(client))[2] == content
        for client in clients:
            client.close()


def test_while_a_disk_is_slow_hits_go_on(folder: Path, io: str) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        house.write("hot", b"hot")
        house.write("cold", b"cold")
        house.fetch("hot")
        house.root.cold.add("cold")
        gate = Gate()
        house.root.before_open = lambda name: gate.wait()
        cold = gevent.spawn(ask, port, LAST % b"cold")
        wait_for(lambda: gate.waiting)
        for _ in range(20):
            assert split(ask(port, LAST % b"hot"))[1][b"x-cache"] == b"HIT"
        gate.open()
        assert split(cold.get())[2] == b"cold"


def test_a_full_server_says_so(folder: Path) -> None:
    with House(folder) as house:
        ours, theirs = socket.socketpair()
        turned_away = connection.Connection(ours, house.site, StatusLines())
        turning = gevent.spawn(turned_away.turn_away)
        status, fields, _ = split(receive_all(theirs))
        assert (status, fields[b"retry-after"], fields[b"connection"]) == (503, b"1", b"close")
        theirs.close()
        turning.join()
        assert not house.site.traffic.connections


def test_draining_ends_idle_connections_and_marks_the_last_answer(folder: Path) -> None:
    with House(folder) as house, house.serving() as port, connect(port) as idle, connect(port) as busy:
        house.write("a", b"content")
        for client in (idle, busy):
            client.sendall(GET % b"a")
            client.recv(4096)
        wait_for(
            lambda: [one.waiting for one in house.site.traffic.connections] == [connection.Waiting.REQUEST] * 2
        )
        busy.sendall(b"GET /-/health HTTP/1.1\r\n")
        wait_for(
            lambda: connection.Waiting.REST_OF_REQUEST in [one.waiting for one in house.site.traffic.connections]
        )
        house.site.draining = True
        for one in list(house.site.traffic.connections):
            one.end_if_idle()
        assert receive_all(idle) == b""
        busy.sendall(b"Host: x\r\n\r\n")
        status, fields, _ = split(receive_all(busy))
        assert (status, fields[b"connection"]) == (503, b"close")
