"""What `/-/stats` counts: each answer exactly once whichever way it went, its times, and how connections end."""

import errno
import json
import socket as native
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket

from fileserver import server as server_room
from fileserver.about.counters import STATS_SCHEMA
from fileserver.disk import Disk
from fileserver.latency import BOUNDS, EVERY, SLOWEST_KEPT
from fileserver.server import Listener
from fileserver.transport import PROGRESS_LOOKS, PROGRESS_S, Gone, Transport, Waiting
from lrucache import CHUNK_BYTES
from tests.exchange import GET, split
from tests.house import OLD_NS, Clock, FaultyRoot, Gate, House, connect, limited, pattern, receive_all, wait_for
from tests.program import Program, sparse

LARGE_BYTES = 6 * CHUNK_BYTES
CAPACITY = 64 * CHUNK_BYTES

Key = tuple[str, int, str]


def stats_of(house: House) -> Any:
    """As they go out, in JSON and back."""
    return json.loads(json.dumps(house.site.about.stats()))


def requests_in(stats: Any) -> Counter[Key]:
    """The counts by method, status and cache; no kind may be there twice, or without an answer."""
    found = {(each["method"], each["status"], each["cache"]): each["count"] for each in stats["requests"]}
    assert len(found) == len(stats["requests"])
    assert all(found.values())
    return Counter(found)


def wait_ended(house: House) -> None:
    wait_for(lambda: not house.site.traffic.connections)


def ask(port: int, content: bytes) -> bytes:
    """Send, then read until the server closes."""
    with connect(port, content) as client:
        client.shutdown(socket.SHUT_WR)
        return receive_all(client)


def write_cold(house: House, content: bytes = b"content") -> Gate:
    """A file `cold` that is not in the page cache; its reads wait at the gate."""
    house.write("cold", content)
    house.root.cold.add("cold")
    gate = Gate()
    house.root.before_read = lambda name, offset: gate.wait()
    return gate


def reset(client: socket.socket) -> None:
    """Leave without a goodbye."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def last(path: bytes, fields: bytes = b"", method: bytes = b"GET") -> bytes:
    """One request on a connection of its own."""
    return b"%s /%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n" % (method, path, fields)


@pytest.fixture(params=["fast", "general"])
def house(request: pytest.FixtureRequest, folder: Path) -> Iterator[House]:
    """One that answers plain requests the fast way, and one that answers all the general way."""
    with House(folder, capacity=CAPACITY) as house:
        house.site.has_fast_path = request.param == "fast"
        yield house


# Requests.

MIX: list[tuple[bytes, list[Key]]] = [
    (last(b"small"), [("GET", 200, "miss")]),
    (last(b"small"), [("GET", 200, "hit")]),
    (last(b"empty"), [("GET", 200, "miss")]),
    (last(b"empty"), [("GET", 200, "hit")]),
    (GET % b"small" * 3 + last(b"small"), [("GET", 200, "hit")] * 4),
    (GET % b"small" + last(b"small", b"X-Y: z\r\n") + b"GET /small", [("GET", 200, "hit")] * 2),
    (last(b"large"), [("GET", 200, "miss")]),
    (last(b"large"), [("GET", 200, "hit")]),
    (b"GET /small HTTP/1.0\r\n\r\n", [("GET", 200, "hit")]),
    (last(b"small?query"), [("GET", 200, "hit")]),
    (last(b"huge"), [("GET", 200, "bypass")]),
    (last(b"small", method=b"HEAD"), [("HEAD", 200, "none")]),
    (last(b"missing", method=b"HEAD"), [("HEAD", 404, "none")]),
    (last(b"small", b"If-None-Match: *\r\n"), [("GET", 304, "none")]),
    (last(b"small", b'If-Match: "other"\r\n'), [("GET", 412, "none")]),
    (last(b"small", b"Range: bytes=1-5\r\n"), [("GET", 206, "hit")]),
    (last(b"small", b"Range: bytes=5000-\r\n"), [("GET", 416, "none")]),
    (last(b"missing"), [("GET", 404, "none")]),
    (last(b"sub"), [("GET", 301, "none")]),
    (last(b"sub/"), [("GET", 200, "none")]),
    (last(b"-/cache"), [("GET", 200, "none")]),
    (last(b"-/health"), [("GET", 200, "none")]),
    (last(b"-/stats"), [("GET", 200, "none")]),
    (last(b"-/stats", method=b"HEAD"), [("HEAD", 200, "none")]),
    (last(b"-/events", method=b"HEAD"), [("HEAD", 200, "none")]),
    (last(b"%zz"), [("GET", 400, "none")]),
    (last(b"small", method=b"OPTIONS"), [("OPTIONS", 204, "none")]),
    (last(b"small", method=b"POST"), [("other", 405, "none")]),
    (last(b"small", b"Content-Length: 3\r\n", b"PUT") + b"abc", [("other", 405, "none")]),
    (last(b"small", b"Content-Length: 3\r\nExpect: 100-continue\r\n", b"POST") + b"abc", [("other", 405, "none")]),
    (last(b"small", method=b"DELETE"), [("other", 405, "none")]),
    (last(b"small", method=b"BREW"), [("other", 501, "none")]),
    (last(b"small", b"Content-Length: 900000\r\n", b"POST"), [("other", 413, "none")]),
    (b"garbage\r\n\r\n", [("other", 400, "none")]),
    (b"GET / HTTP/1.1\r\n\r\n", [("other", 400, "none")]),
    (b"\x16\x03\x01\x00\xa5\x01\x00\x00\r\n\r\n", [("other", 400, "none")]),
    (GET % b"small" + b"garbage\r\n\r\n", [("GET", 200, "hit"), ("other", 400, "none")]),
    (b"GET small\n", [("line", 200, "hit")]),
    (b"GET large\r\n", [("line", 200, "hit")]),
    (b"LIST\n", [("line", 200, "none")]),
    (b"GET missing\n", [("line", 404, "none")]),
    (b"GET -/stats\n", [("line", 404, "none")]),
    (b"GET " + b"x" * 9000 + b"\n", [("line", 414, "none")]),
    (b"", []),
    (b"GET /small HTTP/1.1\r\nHost", []),
]


def furnish(house: House) -> None:
    house.write("small", pattern(1000))
    house.write("empty", b"")
    house.write("large", pattern(2 * CHUNK_BYTES + 5))
    sparse(house.folder / "huge", CAPACITY + 1)
    house.write("sub/file", b"")


def test_each_answer_of_a_known_mix_is_counted_exactly_once(house: House) -> None:
    furnish(house)
    expected: Counter[Key] = Counter()
    with house.serving() as port:
        for content, kinds in MIX:
            ask(port, content)
            wait_ended(house)
            expected.update(kinds)
            assert requests_in(stats_of(house)) == expected, content[:80]
    check(stats_of(house))


def check(stats: Any) -> None:
    """What has to be equal in a server that is at rest, where no answer was cut or failed."""
    requests = requests_in(stats)
    by_cache: Counter[str] = Counter()
    for (_, _, cache), count in requests.items():
        by_cache[cache] += count
    assert by_cache["hit"] == stats["hits"]
    assert by_cache["miss"] == stats["misses"]
    assert by_cache["coalesced"] == stats["coalesced"]
    assert by_cache["bypass"] == stats["bypasses"]
    assert stats["file_answers"] == requests.total() - by_cache["none"]
    for cache, latency in stats["latency"].items():
        first, total = latency["first_byte_s"], latency["total_s"]
        assert first["count"] == total["count"] == by_cache[cache]
        for share in ("p50", "p90", "p99", "p99.9"):
            assert (first[share] is None) == (total[share] is None) == (not by_cache[cache])
            assert first[share] is None or first[share] <= total[share]


def test_counters_add_up_after_many_clients_at_once(house: House) -> None:
    furnish(house)
    gate = write_cold(house, pattern(3 * CHUNK_BYTES))
    with house.serving() as port:
        asking = [gevent.spawn(ask, port, last(b"cold")) for _ in range(10)]
        wait_for(lambda: gate.waiting and house.site.traffic.by_state()[Waiting.NOTHING] == 10)
        asking += [gevent.spawn(ask, port, content) for content, _ in MIX * 3]
        gate.open()
        gevent.joinall(asking, timeout=30, raise_error=True)
        assert all(each.successful() for each in asking)
        wait_ended(house)
    stats = stats_of(house)
    requests = requests_in(stats)
    assert requests.total() == 10 + 3 * sum(len(kinds) for _, kinds in MIX)
    assert requests["GET", 200, "coalesced"] >= 9
    check(stats)


def test_each_plain_hit_is_counted_beyond_those_that_are_timed(house: House) -> None:
    house.write("small", b"content")
    house.fetch("small")
    asked = 1100
    with house.serving() as port, connect(port) as client:
        for _ in range(asked):
            client.sendall(GET % b"small")
            assert client.recv(4096).endswith(b"content")
        wait_for(lambda: house.site.traffic.idle)
        stats = stats_of(house)
        assert requests_in(stats) == {("GET", 200, "hit"): asked}
        timed = stats["latency"]["hit"]["total_s"]["count"]
        assert asked - 2 * EVERY < timed <= asked
        assert timed == asked or house.site.has_fast_path


def test_an_answer_is_counted_when_it_has_ended(house: House) -> None:
    house.write("large", pattern(LARGE_BYTES))
    house.fetch("large")
    with house.serving(send_buffer=4096) as port, connect(port, last(b"large"), receive_buffer=4096) as client:
        wait_for(lambda: house.site.traffic.by_state()[Waiting.WRITABLE])
        assert requests_in(stats_of(house)) == {}
        receive_all(client)
        wait_ended(house)
        assert requests_in(stats_of(house)) == {("GET", 200, "hit"): 1}


@pytest.mark.parametrize("line", [last(b"large"), b"GET large\n"])
def test_what_was_cut_is_counted_as_a_request_and_in_no_latency(house: House, line: bytes) -> None:
    method = "GET" if line.startswith(b"GET /") else "line"
    house.write("large", pattern(LARGE_BYTES))
    house.fetch("large")
    with house.serving(send_buffer=1 << 16) as port:
        client = connect(port, line, receive_buffer=4096)
        wait_for(lambda: house.site.traffic.by_state()[Waiting.WRITABLE])
        reset(client)
        wait_ended(house)
        stats = stats_of(house)
        assert requests_in(stats) == {(method, 200, "hit"): 1}
        assert set(stats["connections_expired"].values()) == {0}, "it left by itself"
        assert [stats["latency"]["hit"][which]["count"] for which in ("first_byte_s", "total_s")] == [0, 0]
        assert len(ask(port, line)) >= LARGE_BYTES
        wait_ended(house)
        stats = stats_of(house)
        assert requests_in(stats) == {(method, 200, "hit"): 2}
        assert [stats["latency"]["hit"][which]["count"] for which in ("first_byte_s", "total_s")] == [1, 1]


def test_an_answer_to_a_client_that_has_left_is_counted_and_in_no_latency(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.write("small", b"content")
    house.fetch("small")

    def offer(*_: object) -> int:
        raise Gone

    monkeypatch.setattr(Transport, "offer", offer)
    with house.serving() as port:
        with pytest.raises(ConnectionResetError):
            ask(port, GET % b"small")
        wait_ended(house)
    stats = stats_of(house)
    assert requests_in(stats) == {("GET", 200, "hit"): 1}
    assert stats["latency"]["hit"]["total_s"]["count"] == 0


@pytest.mark.parametrize("rubbish", [b"GET /../.. \x01\r\n\r\n", b"GET \xff\n"])
def test_a_refusal_that_nobody_was_there_to_hear_is_counted(
    house: House, monkeypatch: pytest.MonkeyPatch, rubbish: bytes
) -> None:
    def gone(transport: Transport, buffers: object) -> int:
        raise Gone

    with house.serving() as port, connect(port) as client:
        wait_for(lambda: house.site.traffic.connections)
        monkeypatch.setattr(Transport, "offer", gone)
        client.sendall(rubbish)
        wait_ended(house)
    (((_, status, cache), count),) = requests_in(stats_of(house)).items()
    assert (status >= 400, cache, count) == (True, "none", 1)


def test_what_is_cut_after_a_whole_answer_is_in_no_latency(house: House) -> None:
    house.write("large", pattern(LARGE_BYTES))
    house.fetch("large")
    with house.serving(send_buffer=4096) as port:
        client = connect(port, GET % b"-/health", receive_buffer=4096)
        assert client.recv(4096).endswith(b"ok\n")
        client.sendall(GET % b"large")
        wait_for(lambda: house.site.traffic.by_state()[Waiting.WRITABLE])
        reset(client)
        wait_ended(house)
    stats = stats_of(house)
    assert requests_in(stats) == {("GET", 200, "none"): 1, ("GET", 200, "hit"): 1}
    assert [stats["latency"][cache]["total_s"]["count"] for cache in ("none", "hit")] == [1, 0]


def test_an_answer_of_which_nothing_was_sent_and_that_is_made_anew_is_counted_once(house: House) -> None:
    house.write("large", pattern(LARGE_BYTES))
    house.fetch("large")
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.setblocking(False)
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += ours.send(b"-")
    serving = gevent.spawn(house.connection(ours).serve)
    with theirs:
        theirs.sendall(last(b"large"))
        wait_for(lambda: house.site.traffic.by_state()[Waiting.WRITABLE])
        (entry,) = house.cache.snapshot()[1]
        assert house.cache.discard(entry)
        house.write("large", bytes(LARGE_BYTES), OLD_NS + 1)
        answer = receive_all(theirs)[filled:]
    serving.join(20)
    assert answer.count(b"HTTP/1.1 ") == 1
    requests = requests_in(stats_of(house))
    assert requests.total() == 1
    assert {status for _, status, _ in requests} == {split(answer)[0]}


def test_a_page_that_was_cut_is_counted_as_a_request_and_in_no_latency(house: House) -> None:
    for number in range(500):
        house.cache.put(f"{'n' * 400}{number}", b"x", None)
    with house.serving(send_buffer=4096) as port:
        client = connect(port, last(b"-/cache"), receive_buffer=4096)
        wait_for(lambda: house.site.traffic.by_state()[Waiting.WRITABLE])
        reset(client)
        wait_ended(house)
        stats = stats_of(house)
        assert requests_in(stats) == {("GET", 200, "none"): 1}
        assert stats["latency"]["none"]["total_s"]["count"] == 0


def test_an_answer_the_disk_fails_in_is_counted_once(house: House) -> None:
    house.write("begun", pattern(4 * CHUNK_BYTES))
    house.write("never", b"content")
    house.root.cold |= {"begun", "never"}
    gate = Gate()

    def fault(name: str, offset: int) -> None:
        if name == "never" or offset >= CHUNK_BYTES:
            gate.wait()
            house.fail(name)(name)

    house.root.before_read = fault
    with house.serving() as port:
        with connect(port, last(b"begun")) as client:
            client.recv(CHUNK_BYTES)
            gate.open()
            with pytest.raises(ConnectionResetError):
                receive_all(client)
        assert split(ask(port, last(b"never")))[0] == 500
        wait_ended(house)
    stats = stats_of(house)
    assert requests_in(stats) == {("GET", 200, "miss"): 1, ("GET", 500, "none"): 1}
    assert stats["latency"]["miss"]["total_s"]["count"] == 0
    assert stats["latency"]["none"]["total_s"]["count"] == 1


@pytest.mark.parametrize("where", ["answer", "read"])
def test_what_nobody_expected_is_one_answer_500(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    from fileserver.store import Body

    house.write("large", pattern(2 * CHUNK_BYTES))

    def fail(*_: object) -> None:
        raise ZeroDivisionError("said the test")

    if where == "answer":
        monkeypatch.setattr(house.site, "answer", fail)
    else:
        monkeypatch.setattr(Body, "read", fail)
    with house.serving() as port:
        assert split(ask(port, last(b"large")))[0] == 500
        wait_ended(house)
    assert requests_in(stats_of(house)) == {("other", 500, "none"): 1}
    assert len(caplog.records) == 1


# Latency.


def bound(seconds: float) -> float:
    """The percentile of one time alone."""
    return next(each for each in BOUNDS if each >= seconds)


def times_of(house: House, cache: str) -> tuple[float, float]:
    """The median times to the first byte and to the last."""
    latency = stats_of(house)["latency"][cache]
    return latency["first_byte_s"]["p50"], latency["total_s"]["p50"]


@pytest.mark.parametrize("line", [last(b"large"), b"GET large\n"])
@pytest.mark.parametrize("cache", ["miss", "hit"])
def test_a_slow_reader_has_his_first_byte_soon_and_his_last_late(house: House, cache: str, line: bytes) -> None:
    house.write("large", pattern(LARGE_BYTES))
    if cache == "hit":
        house.fetch("large")
    with (
        house.serving(send_buffer=4096, clock=house.clock) as port,
        connect(port, line, receive_buffer=4096) as client,
    ):
        wait_for(lambda: house.site.traffic.by_state()[Waiting.WRITABLE])
        house.clock.now_s += 30
        receive_all(client)
        wait_ended(house)
    assert times_of(house, cache) == (BOUNDS[0], bound(30))
    found = stats_of(house)["latency"]
    assert {each: latency["total_s"]["count"] for each, latency in found.items()} == {
        **dict.fromkeys(("hit", "miss", "coalesced", "bypass", "none"), 0),
        cache: 1,
    }


def test_a_slow_disk_delays_the_first_byte_for_all_who_wait_for_it(house: House) -> None:
    gate = write_cold(house)
    with house.serving(clock=house.clock) as port:
        first = gevent.spawn(ask, port, last(b"cold"))
        wait_for(lambda: gate.waiting)
        house.clock.now_s += 4
        second = gevent.spawn(ask, port, last(b"cold"))
        wait_for(lambda: house.site.traffic.by_state()[Waiting.NOTHING] == 2)
        house.clock.now_s += 8
        gate.open()
        gevent.joinall([first, second], timeout=20, raise_error=True)
        wait_ended(house)
    assert times_of(house, "miss") == (bound(12), bound(12))
    assert times_of(house, "coalesced") == (bound(8), bound(8))


def test_what_is_asked_behind_a_slow_answer_is_timed_from_its_end(house: House) -> None:
    gate = write_cold(house)
    with house.serving(clock=house.clock) as port:
        asking = gevent.spawn(ask, port, GET % b"cold" + last(b"-/health"))
        wait_for(lambda: gate.waiting)
        house.clock.now_s += 4
        gate.open()
        assert asking.get(timeout=20).endswith(b"ok\n")
        wait_ended(house)
    assert times_of(house, "miss") == (bound(4), bound(4))
    assert times_of(house, "none") == (BOUNDS[0], BOUNDS[0])


def test_what_was_refused_is_timed_from_the_refusal_on(house: House) -> None:
    with house.serving(clock=house.clock) as port, connect(port, b"POST /a HTTP/1.1\r\n") as client:
        wait_for(lambda: house.site.traffic.by_state()[Waiting.REST_OF_REQUEST])
        house.clock.now_s += 5
        client.sendall(b"Bad Name: x\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        assert split(receive_all(client))[0] == 400
        wait_ended(house)
    assert times_of(house, "none") == (BOUNDS[0], BOUNDS[0])


def test_the_word_to_go_on_is_no_first_byte(house: House) -> None:
    with house.serving(clock=house.clock) as port:
        with connect(port, last(b"a", b"Content-Length: 3\r\nExpect: 100-continue\r\n", b"POST")) as client:
            assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
            house.clock.now_s += 5
            client.sendall(b"abc")
            assert split(receive_all(client))[0] == 405
        wait_ended(house)
    assert times_of(house, "none") == (BOUNDS[0], BOUNDS[0]), "nor is the client's time ours"
    assert requests_in(stats_of(house)) == {("other", 405, "none"): 1}


def test_who_waits_between_two_requests_is_in_no_latency(house: House) -> None:
    house.write("small", b"content")
    house.fetch("small")
    with house.serving(clock=house.clock) as port, connect(port) as client:
        for path in (b"small", b"-/health", b"small", b"-/health"):
            wait_for(lambda: house.site.traffic.idle)
            house.clock.now_s += 7
            client.sendall(GET % path)
            client.recv(4096)
    assert times_of(house, "hit") == times_of(house, "none") == (BOUNDS[0], BOUNDS[0])


@pytest.mark.parametrize("line", [b"LIST\n", b"GET empty\n"])
def test_an_answer_without_a_byte_took_no_negative_time(house: House, line: bytes) -> None:
    if b"empty" in line:
        house.write("empty", b"")
        house.fetch("empty")
    with house.serving(clock=house.clock) as port, connect(port) as client:
        wait_for(lambda: house.site.traffic.idle)
        house.clock.now_s += 5
        client.sendall(line)
        assert receive_all(client) == b""
        wait_ended(house)
    sums = [each.first_byte.sum for each in house.site.traffic.latency.values()]
    assert sums == [0.0] * len(sums)


# Connections.


def ask_and_stay(port: int, opened: ExitStack) -> socket.socket:
    """A client that has had an answer and is idle."""
    client = opened.enter_context(connect(port, GET % b"-/health"))
    assert client.recv(4096).endswith(b"ok\n")
    return client


def test_connections_are_counted_by_what_they_wait_for(house: House) -> None:
    house.write("large", pattern(LARGE_BYTES))
    gate = write_cold(house)
    with house.serving(send_buffer=4096) as port, ExitStack() as opened:
        for _ in range(2):
            ask_and_stay(port, opened)
        opened.enter_context(connect(port, b"GET /a HTTP/1.1\r\nHo"))
        for _ in range(3):
            opened.enter_context(connect(port, GET % b"large", receive_buffer=4096))
        opened.enter_context(connect(port, GET % b"cold"))
        closing = opened.enter_context(connect(port, b"POST /a HTTP/1.1\r\nContent-Length: 900000\r\n\r\n"))
        receive_all(closing)
        expected = {"idle": 2, "reading": 1, "writing": 3, "closing": 1, "working": 1}
        wait_for(lambda: stats_of(house)["connections_by_state"] == expected)
        stats = stats_of(house)
        assert stats["connections"] == sum(expected.values())
        assert stats["connections_idle"] == 2
        gate.open()
    wait_ended(house)
    assert set(stats_of(house)["connections_by_state"].values()) == {0}


def reap(house: House) -> None:
    """What the server's reaper does, by the house's clock."""
    for one in house.site.traffic.overdue(house.clock()):
        one.expire()
    for _ in range(5):
        gevent.sleep(0)


def test_who_waited_too_long_is_counted_once_by_what_it_waited_for(house: House) -> None:
    house.write("large", pattern(LARGE_BYTES))
    with house.serving(send_buffer=4096, clock=house.clock, idle_s=2.0) as port, ExitStack() as opened:
        expired = {"idle": 0, "reading": 0, "writing": 0, "closing": 0}
        assert stats_of(house)["connections_expired"] == expired

        def late(state: Waiting, seconds: float) -> None:
            wait_for(lambda: house.site.traffic.by_state()[state])
            reap(house)
            assert stats_of(house)["connections_expired"] == expired, "too early"
            house.clock.now_s += seconds + 0.1
            reap(house)
            reap(house)
            expired[state.value] += 1
            wait_for(lambda: not house.site.traffic.by_state()[state])
            assert stats_of(house)["connections_expired"] == expired

        idle = ask_and_stay(port, opened)
        late(Waiting.REQUEST, 2.0)
        assert receive_all(idle) == b""
        opened.enter_context(connect(port))
        late(Waiting.REQUEST, 2.0)
        reading = opened.enter_context(connect(port, b"GET /a HTTP/1.1\r\nHo"))
        late(Waiting.REST_OF_REQUEST, 10.0)
        assert split(receive_all(reading))[0] == 408
        reading.close()
        wait_ended(house)
        closing = opened.enter_context(connect(port, b"POST /a HTTP/1.1\r\nContent-Length: 900000\r\n\r\n"))
        receive_all(closing)
        late(Waiting.GOODBYE, 2.0)
        opened.enter_context(connect(port, GET % b"large", receive_buffer=4096))
        wait_for(lambda: house.site.traffic.by_state()[Waiting.WRITABLE])
        looks = 0
        while house.site.traffic.connections:
            assert stats_of(house)["connections_expired"] == expired, "it is looked at, and has not expired yet"
            house.clock.now_s += PROGRESS_S / PROGRESS_LOOKS + 0.1
            reap(house)
            looks += 1
        assert looks >= PROGRESS_LOOKS
        expired["writing"] += 1
        assert stats_of(house)["connections_expired"] == expired
    assert stats_of(house)["connections_expired"] == expired
    requests = requests_in(stats_of(house))
    assert requests["other", 408, "none"] == 1
    assert (requests["GET", 200, "miss"], stats_of(house)["latency"]["miss"]["total_s"]["count"]) == (1, 0)


def test_who_gives_way_and_who_is_turned_away_are_counted(house: House) -> None:
    with limited(house, 2) as serving, ExitStack() as opened:
        first = ask_and_stay(serving.port, opened)
        opened.enter_context(connect(serving.port, b"GET /a HTTP/1.1\r\nHo"))
        wait_for(lambda: house.site.traffic.by_state()[Waiting.REST_OF_REQUEST])
        busy = opened.enter_context(connect(serving.port, b"GET /-/health HTTP/1.1\r\n"))
        assert receive_all(first) == b""
        wait_for(lambda: house.site.traffic.by_state()[Waiting.REST_OF_REQUEST] == 2)
        stats = stats_of(house)
        assert (stats["connections_gave_way"], stats["connections_turned_away"]) == (1, 0)
        for _ in range(3):
            assert split(ask(serving.port, b""))[0] == 503
        wait_for(lambda: len(house.site.traffic.connections) == 2)
        stats = stats_of(house)
        assert (stats["connections_gave_way"], stats["connections_turned_away"]) == (1, 3)
        assert requests_in(stats) == {("GET", 200, "none"): 1, ("other", 503, "none"): 3}
        assert set(stats["connections_expired"].values()) == {0}
        busy.close()


def test_a_shortage_is_counted_each_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_room, "ACCEPT_PAUSE_S", 0.01)
    accept = Listener._accept
    left = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ECONNABORTED]

    def failing(self: Listener) -> Any:
        if left:
            raise OSError(left.pop(), "said the test")
        return accept(self)

    with limited(house, 5) as serving:
        monkeypatch.setattr(Listener, "_accept", failing)
        with ExitStack() as opened:
            ask_and_stay(serving.port, opened)
        assert stats_of(house)["accept_shortages"] == 4, "a client that left is none"


def impatient(*more: str) -> str:
    return "; ".join(
        ("connection.HEAD_S = 0.2", "transport.PROGRESS_S = 0.4", "server.REAP_EVERY_S = 0.05", *more)
    )


def test_a_whole_server_counts_what_its_reaper_ends(folder: Path) -> None:
    sparse(folder / "large", 20 << 20)
    options = ("--idle-timeout", "0.2")
    with Program(folder, *options, changes=impatient("transport.LINGER_S = 0.2")) as server, ExitStack() as opened:
        contents = {
            "idle": b"",
            "reading": b"GET /large HTTP/1.1\r\nHo",
            "writing": GET % b"large",
            "closing": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n",
        }
        for content in contents.values():
            client = opened.enter_context(native.socket())
            client.setsockopt(native.SOL_SOCKET, native.SO_RCVBUF, 4096)
            client.connect((server.host, server.port))
            client.sendall(content)
        expected = {"idle": 1, "reading": 1, "writing": 1, "closing": 2}
        while (stats := server.stats())["connections"] > 1:
            pass
        # Who was told 408 is waited for until it closes, and does not.
        assert stats["connections_expired"] == expected
        assert requests_in(stats)["other", 408, "none"] == 1
        assert requests_in(stats)["other", 413, "none"] == 1


# The disk.


def test_reads_are_timed_by_the_way_they_went(folder: Path, io: str) -> None:
    with House(folder, io=io) as house:
        house.write("large", pattern(3 * CHUNK_BYTES))
        house.write("small", b"content")
        house.fetch("large")
        house.fetch("small")
        house.fetch("small")
        stats = stats_of(house)
        inline, pool = stats["disk_read_s"]["inline"], stats["disk_read_s"]["pool"]
        assert (stats["disk_reads_inline"], stats["disk_reads_pool"]) == (inline["count"], pool["count"])
        assert inline["count"] + pool["count"] == len(house.root.reads) == 4
        there, absent = (inline, pool) if io == "auto" else (pool, inline)
        assert there["count"] == 4
        assert absent == {"count": 0, "p50": None, "p90": None, "p99": None, "p99.9": None}
        assert 0 < there["p50"] <= there["p99.9"]


@pytest.fixture
def timed(folder: Path) -> Iterator[tuple[Disk, FaultyRoot, Clock]]:
    """A disk by a clock of the test's, with room for one open file."""
    (folder / "small").write_bytes(b"content")
    (folder / "chunks").write_bytes(pattern(CHUNK_BYTES + 1))
    clock = Clock()
    root = FaultyRoot(str(folder))
    root.cold |= {"small", "chunks"}
    disk = Disk(root, threads=2, open_max=1, clock=clock)
    yield disk, root, clock
    disk.close()
    root.close()


def passes(clock: Clock, seconds: float) -> Callable[..., None]:
    def passing(*_: object) -> None:
        clock.now_s += seconds

    return passing


def test_a_read_in_a_thread_is_timed_with_its_open(timed: tuple[Disk, FaultyRoot, Clock]) -> None:
    disk, root, clock = timed
    root.before_open, root.before_read = passes(clock, 2), passes(clock, 3)
    assert disk.open("small", CHUNK_BYTES).first == b"content"
    assert (disk.pool_reads.count, disk.pool_reads.sum, disk.inline_reads.count) == (1, 5.0, 0)


def test_each_chunk_of_an_open_file_is_a_read_of_its_own(timed: tuple[Disk, FaultyRoot, Clock]) -> None:
    disk, root, clock = timed
    opened = disk.open("chunks")
    assert disk.pool_reads.count == 0, "nothing was read"
    root.before_read = passes(clock, 3)
    for offset in (0, CHUNK_BYTES):
        disk.read(opened.descriptor, opened.identity, offset, CHUNK_BYTES)
    assert (disk.pool_reads.count, disk.pool_reads.sum) == (2, 6.0)
    root.cold.clear()
    disk.read(opened.descriptor, opened.identity, 0, CHUNK_BYTES)
    assert (disk.pool_reads.count, disk.inline_reads.count, disk.inline_reads.sum) == (2, 1, 0.0)
    disk.release(opened.descriptor)


def test_a_turn_among_the_open_files_is_in_no_time(timed: tuple[Disk, FaultyRoot, Clock]) -> None:
    disk, _, clock = timed
    holds = disk.open("chunks")
    waiting = gevent.spawn(disk.open, "small", CHUNK_BYTES)
    gevent.sleep(0)
    clock.now_s += 100
    disk.release(holds.descriptor)
    assert waiting.get(timeout=20).first == b"content"
    assert (disk.pool_reads.count, disk.pool_reads.sum) == (1, 0.0)


def test_the_slowest_fills_are_told_with_their_seconds(house: House) -> None:
    took_s = {"a": 3.0, "b": 0.5, "c": 12.0}
    for name in took_s:
        house.write(name, pattern(1000))
    house.root.cold |= set(took_s)
    house.root.before_read = lambda name, offset: passes(house.clock, took_s[name])()
    for name in took_s:
        house.fetch(name)
    house.clock.now_s += 60
    assert stats_of(house)["slowest_fills"] == [
        {"name": "c", "size": 1000, "seconds": 12.0, "ago_s": 60.0},
        {"name": "a", "size": 1000, "seconds": 3.0, "ago_s": 72.5},
        {"name": "b", "size": 1000, "seconds": 0.5, "ago_s": 72.0},
    ]
    house.clock.now_s += 600
    assert stats_of(house)["slowest_fills"] == []


def test_only_so_many_slow_fills_are_told(house: House) -> None:
    house.root.before_read = lambda name, offset: passes(house.clock, int(name))()
    for number in range(1, SLOWEST_KEPT + 5):
        house.write(f"{number}", b"x")
        house.root.cold.add(f"{number}")
        house.fetch(f"{number}")
    told = stats_of(house)["slowest_fills"]
    assert [fill["seconds"] for fill in told] == [float(SLOWEST_KEPT + 4 - place) for place in range(SLOWEST_KEPT)]


def test_a_real_server_tells_which_way_it_read(folder: Path, io: str) -> None:
    (folder / "a").write_bytes(b"content")
    with Program(folder, "--io", io) as server:
        server.get("/a")
        stats = server.stats()
        counts = {way: found["count"] for way, found in stats["disk_read_s"].items()}
        assert counts == {"inline": int(io == "auto"), "pool": int(io == "pool")}
        assert [fill["name"] for fill in stats["slowest_fills"]] == ["a"] * (io == "pool")


# The whole.


def test_the_uptime_is_the_time_since_the_start(house: House) -> None:
    assert stats_of(house)["uptime_s"] == 0
    house.clock.now_s += 12.3456
    assert stats_of(house)["uptime_s"] == 12.346
    assert stats_of(house)["schema"] == STATS_SCHEMA == 1


def test_fills_in_flight_are_told_while_they_are(house: House) -> None:
    gate = write_cold(house)
    filling = gevent.spawn(house.fetch, "cold")
    wait_for(lambda: gate.waiting)
    assert (stats_of(house)["fills_in_flight"], stats_of(house)["slowest_fills"]) == (1, [])
    gate.open()
    filling.get(timeout=20)
    assert stats_of(house)["fills_in_flight"] == 0


def test_a_real_server_counts_a_known_mix_exactly(folder: Path, io: str) -> None:
    (folder / "small").write_bytes(pattern(1000))
    sparse(folder / "large", 3 << 20)
    with Program(folder, "--io", io) as server:
        for content in (
            last(b"small"),
            last(b"small"),
            last(b"large"),
            last(b"large", method=b"HEAD"),
            last(b"large", b"Range: bytes=0-9\r\n"),
            last(b"missing"),
            b"GET small\n",
            b"LIST\n",
            b"garbage\r\n\r\n",
        ):
            server.raw(content)
        while (stats := server.stats())["connections"] > 1:
            pass
        asked_before = requests_in(stats)["GET", 200, "none"]
        assert requests_in(server.stats()) == Counter(
            {
                ("GET", 200, "miss"): 2,
                ("GET", 200, "hit"): 1,
                ("HEAD", 200, "none"): 1,
                ("GET", 206, "hit"): 1,
                ("GET", 404, "none"): 1,
                ("line", 200, "hit"): 1,
                ("line", 200, "none"): 1,
                ("other", 400, "none"): 1,
                ("GET", 200, "none"): asked_before + 1,
            }
        )
        stats = server.stats()
        assert (stats["hits"], stats["misses"], stats["file_answers"]) == (3, 2, 5)
