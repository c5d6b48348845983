"""The greenlet's loop over real sockets, in-process: answers, keep-alive, deadlines, slow readers, cuts."""

import gc
import itertools
import math
import struct
import sys
from pathlib import Path

import gevent
import pytest
from gevent import socket

from fileserver import connection, root, transport
from fileserver.listing import PAGE_POLICY
from fileserver.store import Body
from fileserver.transport import Transport, Waiting
from fileserver.wire import OneLine, RequestReader
from lrucache import CHUNK_BYTES, Entry
from tests.exchange import GET, LAST, split
from tests.house import Gate, House, connect, pattern, reap, receive_all, wait_for


def ask(port: int, content: bytes) -> bytes:
    """Send, then read until the server closes."""
    with connect(port) as client:
        client.sendall(content)
        return receive_all(client)


class Stingy:
    """A socket that takes a few bytes at a time and nothing each second time."""

    def __init__(self, ours: socket.socket, *, vectored: bool) -> None:
        self._ours = ours
        self._takes = itertools.cycle([7, 0, 1, 0])
        self.sendmsg = (lambda buffers: self.send(b"".join(buffers))) if vectored else None

    def __getattr__(self, name: str) -> object:
        return getattr(self._ours, name)

    def send(self, content: bytes | memoryview) -> int:
        takes = next(self._takes)
        if not takes:
            raise BlockingIOError
        return self._ours.send(content[:takes])


@pytest.mark.parametrize("vectored", [True, False])
@pytest.mark.parametrize("size", [0, 1, 5000, CHUNK_BYTES, 9 * CHUNK_BYTES + 5])
def test_every_way_of_sending_gives_the_same_bytes(folder: Path, io: str, size: int, vectored: bool) -> None:
    with House(folder, io=io) as house, house.serving(vectored=vectored) as port:
        content = house.write("a", pattern(size))
        received = 0
        for expected in (b"MISS", b"HIT"):
            answer = ask(port, LAST % b"a")
            status, fields, body = split(answer)
            assert (status, fields[b"x-cache"], body) == (200, expected, content)
            received += len(answer)
        assert ask(port, b"GET a\n") == content
        assert house.site.traffic.bytes_sent == received + size


@pytest.mark.parametrize("vectored", [True, False])
@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (LAST % b"a", (200, pattern(2000))),
        (LAST % b"large", (200, pattern(3000))),
        (LAST % b"missing", (404, b"no such file: missing\n")),
        (LAST % b"-/cache", (200, b"a\n" + b"large\n")),
        (b"GET / HTTP/1.1\r\n\r\n", (400, b"the Host field is missing\n")),
    ],
)
def test_a_socket_that_takes_little_at_a_time_gets_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, request_bytes: bytes, answer: tuple[int, bytes], vectored: bool
) -> None:
    monkeypatch.setattr(connection, "JOIN_BYTES", 2000)
    with House(folder) as house:
        for name in ("large", "a"):
            house.write(name, pattern({"a": 2000, "large": 3000}[name]))
            house.fetch(name)
        ours, theirs = socket.socketpair()
        theirs.sendall(request_bytes)
        stingy = Stingy(ours, vectored=vectored)
        serving = gevent.spawn(house.connection(stingy, vectored=vectored).serve)
        status, _, body = split(receive_all(theirs))
        assert (status, body) == answer
        theirs.close()
        serving.join()


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


@pytest.mark.parametrize("path", [b"a", b"missing", b"sub", b"sub/", b"-/health", b"-/cache", b"-/nothing"])
def test_head_is_the_head_of_get_without_a_body(folder: Path, path: bytes) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("a", b"content")
        house.write("sub/b", b"")
        ask(port, LAST % b"a")
        get, head = split(ask(port, LAST % path)), split(ask(port, LAST.replace(b"GET", b"HEAD") % path))
        for _, fields, _ in (get, head):
            assert fields.pop(b"date")
        assert head == (*get[:2], b"")
        assert int(get[1][b"content-length"]) == len(get[2]) > 0


def test_only_what_answers_with_a_file_is_a_file_answer(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("a", b"content")
        house.write("sub/b", b"")
        for path in (b"missing", b"sub", b"sub/", b"-/stats", b"-/cache"):
            ask(port, LAST % path)
            ask(port, b"GET %s\n" % path)
        ask(port, LAST.replace(b"GET", b"HEAD") % b"a")
        ask(port, LAST.replace(b"GET", b"POST") % b"a")
        assert house.site.traffic.file_answers == 0
        ask(port, LAST % b"a")
        ask(port, b"GET a\n")
        stats = house.cache.stats()
        assert (house.site.traffic.file_answers, stats.misses, stats.hits) == (2, 1, 1)


@pytest.mark.parametrize("name", [b"..", b".hidden", b"sub//b", b"sub/../sub/b", b"-/b", b"-b/.."])
def test_what_is_no_name_never_reaches_the_disk(folder: Path, name: bytes) -> None:
    with House(folder) as house, house.serving() as port:
        for path in ("sub/b", "-/b", ".hidden"):
            house.write(path, b"secret")
        listed: list[str] = []
        house.root.before_list = listed.append
        for asked in (name, name + b"/"):
            assert ask(port, b"GET %s\n" % asked).startswith(b"ERROR no such file")
            for last in (LAST, LAST.replace(b"GET", b"HEAD")):
                assert split(ask(port, last % asked))[0] == 404
        assert house.root.opens == house.root.looks == listed == []


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (b"missing", {b"cache-control": b"no-store", b"x-content-type-options": b"nosniff"}),
        (b"-/health", {b"cache-control": b"no-store", b"x-content-type-options": b"nosniff"}),
        (b"-/cache", {b"vary": b"Accept", b"cache-control": b"no-store"}),
        (b"-/cache?format=json", {b"vary": b"Accept", b"content-type": b"application/json"}),
        (b"", {b"vary": b"Accept", b"content-security-policy": PAGE_POLICY.encode()}),
        (b"?format=json", {b"vary": b"Accept", b"content-type": b"application/json"}),
        (b"sub?format=json&x=%C3%A4", {b"location": b"/sub/?format=json&x=%C3%A4"}),
    ],
)
def test_a_page_says_what_caches_and_browsers_must_know(
    folder: Path, path: bytes, fields: dict[bytes, bytes]
) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("sub/b", b"")
        assert fields.items() <= split(ask(port, LAST % path))[1].items()


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (root.NotFound, 404),
        (root.Forbidden, 403),
        (root.Exhausted, 503),
        (root.Changed, 503),
        (root.DiskFailure, 500),
        (root.FileError, 500),
    ],
)
def test_each_error_of_the_disk_has_its_status(folder: Path, problem: type[root.FileError], status: int) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("a", b"content")
        house.root.cold.add("a")

        def fail(name: str) -> None:
            raise problem("said the test")

        house.root.before_open = fail
        got, fields, _ = split(ask(port, LAST % b"a"))
        assert (got, fields.get(b"retry-after")) == (status, b"1" if status == 503 else None)


def test_a_name_that_cannot_be_printed_is_not_repeated(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        assert split(ask(port, LAST % b"%E2%80%AEexe.txt"))[2] == b"no such file\n"


def test_a_folder_whose_index_is_a_folder_is_listed(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("index.html/b", b"")
        status, _, body = split(ask(port, LAST % b""))
        assert (status, b"index.html" in body) == (200, True)


def test_a_folder_whose_index_cannot_be_read_is_an_error_and_no_listing(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("index.html", b"")
        house.root.cold.add("index.html")
        house.root.before_open = house.fail("index.html")
        assert split(ask(port, LAST % b""))[0] == 500


def test_an_answer_says_that_it_shared_a_read(folder: Path, io: str) -> None:
    with House(folder, io=io) as house, house.serving() as port:
        house.write("a", b"content")
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_open = lambda name: gate.wait()
        asking = [gevent.spawn(ask, port, LAST % b"a") for _ in range(2)]
        wait_for(lambda: len(house.site.traffic.connections) == 2 and gate.waiting)
        gate.open()
        said = {(one[b"x-cache"], one[b"cache-status"]) for one in (split(each.get())[1] for each in asking)}
        assert said == {
            (b"MISS", b"gserver; fwd=miss"),
            (b"COALESCED", b"gserver; fwd=miss; collapsed"),
        }
        stats = house.site.about.stats()
        assert (stats["coalesced"], stats["disk_reads_inline"], stats["disk_reads_pool"]) == (1, 0, 1)


def test_others_run_while_a_long_list_is_rendered(folder: Path) -> None:
    with House(folder) as house:
        for number in range(2000):
            entry = house.cache.reserve(str(number), 0, None)
            assert isinstance(entry, Entry)
            house.cache.commit(entry)
        asking = gevent.spawn(house.site.answer_line, OneLine(None))
        turns = 0
        while not asking.ready():
            turns += 1
            gevent.sleep(0)
        assert turns >= 4


def test_a_line_that_is_too_long_is_refused_in_one_line(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        assert ask(port, b"GET %s\n" % (b"a" * 9000)) == b"ERROR the line is too long\n"


def test_a_connection_that_has_ended_leaves_nothing_to_the_garbage_collector(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        house.write("a", b"content")
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                ask(port, LAST % b"a")
            wait_for(lambda: not house.site.traffic.connections)
            gevent.sleep(0)
            kinds = (connection.Connection, Transport, RequestReader)
            assert [one for one in gc.get_objects() if isinstance(one, kinds)] == []
        finally:
            gc.enable()


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


@pytest.mark.parametrize("breaks", [False, True])
def test_an_answer_reaches_a_client_that_has_sent_more_than_was_wanted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, breaks: bool
) -> None:
    with House(folder) as house, house.serving() as port, connect(port) as client:
        house.write("a", b"content")
        if breaks:
            monkeypatch.setattr(house.site, "answer", None)
        client.sendall(LAST % b"a" + b"x" * 500_000)
        assert split(receive_all(client))[0] == (500 if breaks else 200)


def test_a_client_that_has_sent_no_more_is_not_waited_for_after_the_last_answer(folder: Path) -> None:
    with House(folder) as house, house.serving(clock=house.clock) as port, connect(port) as client:
        client.sendall(LAST % b"-/health")
        wait_for(lambda: house.site.traffic.bytes_sent)
        wait_for(lambda: not house.site.traffic.connections)


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


def test_the_operator_is_told_once_which_file_the_disk_failed_on(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with House(folder, io="pool") as house, house.serving() as port:
        house.write("a", b"content")
        house.root.before_open = house.fail("a")
        for _ in range(3):
            assert split(ask(port, LAST % b"a"))[0] == 500
        assert split(ask(port, LAST % b"missing"))[0] == 404
    (record,) = caplog.records
    assert "'a'" in record.getMessage()
    assert "EIO, said the test" in record.getMessage()


def test_an_unexpected_error_in_the_middle_of_an_answer_is_a_reset_and_no_second_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with House(folder) as house, house.serving() as port, connect(port, receive_buffer=4096) as client:
        house.write("a", pattern(60 * CHUNK_BYTES))
        house.fetch("a")
        client.sendall(LAST % b"a")
        wait_for(lambda: any(one.waiting is Waiting.WRITABLE for one in house.site.traffic.connections))
        monkeypatch.setattr(Body, "read", lambda *_: 1 / 0)
        with pytest.raises(ConnectionResetError):
            receive_all(client)


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
        house.write("b", b"the next answer")
        house.root.cold.add("a")
        house.root.before_read = house.fail("a")
        answers = ask(port, GET % b"a" + LAST % b"b")
        status, fields, _ = split(answers)
        assert (status, b"connection" in fields) == (500, False)
        assert answers.endswith(b"\r\n\r\nthe next answer")
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
        wait_for(lambda: any(one.waiting is Waiting.REST_OF_REQUEST for one in house.site.traffic.connections))
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


def test_the_time_between_requests_is_as_configured_and_begins_anew_after_each(folder: Path) -> None:
    with House(folder) as house, house.serving(clock=house.clock, idle_s=7.0) as port, connect(port) as client:
        house.write("a", b"content")
        for _ in range(2):
            house.clock.now_s += 5
            client.sendall(GET % b"a")
            client.recv(4096)
            wait_for(lambda: [one.deadline_s - 7 for one in house.site.traffic.connections] == [house.clock()])


def test_the_time_for_the_client_to_take_something_runs_from_when_its_socket_was_full(folder: Path) -> None:
    with (
        House(folder) as house,
        house.serving(clock=house.clock, idle_s=7.0) as port,
        connect(port, receive_buffer=4096) as client,
    ):
        house.write("a", pattern(60 * CHUNK_BYTES))
        client.sendall(LAST % b"a")
        until_s = house.clock.now_s + transport.PROGRESS_S / transport.PROGRESS_LOOKS
        wait_for(lambda: any(one.waiting is Waiting.WRITABLE for one in house.site.traffic.connections))
        assert [one.deadline_s for one in house.site.traffic.connections] == [until_s]


def test_a_refused_client_that_stays_is_left_at_its_deadline(folder: Path) -> None:
    with House(folder) as house, house.serving(clock=house.clock) as port, connect(port) as client:
        client.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n")
        assert split(receive_all(client))[0] == 413
        until_s = house.clock.now_s + transport.LINGER_S
        assert [one.deadline_s for one in house.site.traffic.connections] == [until_s]
        reap(house)
        wait_for(lambda: not house.site.traffic.connections)


def test_a_refused_client_that_sends_without_end_is_left(folder: Path) -> None:
    with House(folder) as house, house.serving(clock=house.clock) as port, connect(port) as client:
        client.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n")
        assert split(receive_all(client))[0] == 413
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            client.sendall(bytes(100 * transport.LINGER_BYTES))
        assert not house.site.traffic.connections


def test_others_run_between_the_answers_to_a_burst_of_requests(folder: Path) -> None:
    with House(folder) as house, house.serving() as port, connect(port) as client:
        house.write("a", b"")
        house.fetch("a")
        asked = 500
        client.sendall(GET % b"a" * asked)
        seen = [0]
        while seen[-1] < asked:
            seen.append(house.site.traffic.file_answers)
            gevent.sleep(0)
        assert max(later - sooner for sooner, later in itertools.pairwise(seen)) <= connection.BURST


def test_others_run_between_two_sends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "SEND_BYTES", 1000)
    with House(folder) as house, house.serving() as port, connect(port) as client:
        house.write("a", pattern(CHUNK_BYTES // 8))
        house.fetch("a")
        client.sendall(b"GET a\n")
        seen = [0]
        while seen[-1] < CHUNK_BYTES // 8:
            seen.append(house.site.traffic.bytes_sent)
            gevent.sleep(0)
        assert max(later - sooner for sooner, later in itertools.pairwise(seen)) <= 1000


def test_a_reader_that_stops_is_cut_at_its_deadline(folder: Path) -> None:
    with House(folder) as house, house.serving() as port, connect(port, receive_buffer=4096) as client:
        house.write("a", pattern(60 * CHUNK_BYTES))
        client.sendall(LAST % b"a")
        wait_for(lambda: any(one.waiting is Waiting.WRITABLE for one in house.site.traffic.connections))
        # What its system still acknowledges the first time is progress.
        while house.site.traffic.connections:
            reap(house)
            gevent.sleep(0.001)
        with pytest.raises(ConnectionResetError):
            receive_all(client)


def test_blocked_readers_hold_no_chunk(folder: Path, io: str) -> None:
    """Evict what a hundred clients are blocked on: its memory is free at once, and they still get every byte."""
    with House(folder, io=io, capacity=64 * CHUNK_BYTES) as house, house.serving() as port:
        content = house.write("a", pattern(40 * CHUNK_BYTES))
        house.write("b", pattern(60 * CHUNK_BYTES, 9))
        house.fetch("a")
        chunks = house.cache.snapshot()[1][0].chunks
        held_by_the_cache_alone = [sys.getrefcount(chunks[number]) for number in range(40)]
        clients = [connect(port, receive_buffer=4096) for _ in range(100)]
        for client in clients:
            client.sendall(LAST % b"a")
        blocked = Waiting.WRITABLE
        wait_for(lambda: [one.waiting for one in house.site.traffic.connections].count(blocked) == 100)
        assert [sys.getrefcount(chunks[number]) for number in range(40)] == held_by_the_cache_alone
        house.fetch("b")
        assert [entry.name for entry in house.cache.snapshot()[1]] == ["b"]
        assert chunks == []
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
        theirs.sendall(GET % b"a")
        turned_away = house.connection(ours)
        turning = gevent.spawn(turned_away.turn_away)
        status, fields, _ = split(receive_all(theirs))
        assert (status, fields[b"retry-after"], fields[b"connection"]) == (503, b"1", b"close")
        theirs.close()
        turning.join()
        assert not house.site.traffic.connections


def test_a_client_that_was_turned_away_and_stays_is_left_at_its_deadline(folder: Path) -> None:
    with House(folder) as house:
        ours, theirs = socket.socketpair()
        turning = gevent.spawn(house.connection(ours).turn_away)
        assert split(receive_all(theirs))[0] == 503
        reap(house)
        turning.join()
        theirs.close()


def test_draining_ends_idle_connections_and_marks_the_last_answer(folder: Path) -> None:
    with House(folder) as house, house.serving() as port, connect(port) as idle, connect(port) as busy:
        house.write("a", b"content")
        for client in (idle, busy):
            client.sendall(GET % b"a")
            client.recv(4096)
        wait_for(lambda: [one.waiting for one in house.site.traffic.connections] == [Waiting.REQUEST] * 2)
        busy.sendall(b"GET /-/health HTTP/1.1\r\n")
        wait_for(lambda: Waiting.REST_OF_REQUEST in [one.waiting for one in house.site.traffic.connections])
        house.site.traffic.draining = True
        for one in list(house.site.traffic.idle):
            one.expire()
        assert receive_all(idle) == b""
        busy.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"Host: x\r\n\r\n":
            busy.sendall(bytes([byte]))
            gevent.sleep(0.001)
        status, fields, _ = split(receive_all(busy))
        assert (status, fields[b"connection"]) == (503, b"close")


def test_an_answer_that_was_begun_before_the_drain_ends_the_connection(folder: Path, io: str) -> None:
    with House(folder, io=io) as house, house.serving() as port, connect(port) as client:
        house.write("a", b"content")
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_open = lambda name: gate.wait()
        client.sendall(GET % b"a")
        wait_for(lambda: gate.waiting)
        house.site.traffic.draining = True
        gate.open()
        _, fields, body = split(receive_all(client))
        assert (fields[b"connection"], body) == (b"close", b"content")


def test_a_transfer_whose_head_was_sent_before_the_drain_is_the_last(folder: Path) -> None:
    with House(folder) as house, house.serving() as port, connect(port, receive_buffer=4096) as client:
        content = house.write("a", pattern(60 * CHUNK_BYTES))
        client.sendall(GET % b"a")
        wait_for(lambda: any(one.waiting is Waiting.WRITABLE for one in house.site.traffic.connections))
        house.site.traffic.draining = True
        for one in list(house.site.traffic.idle):
            one.expire()
        _, fields, body = split(receive_all(client))
        assert b"connection" not in fields
        assert body == content
