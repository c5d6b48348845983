"""What the dashboard is fed with: rates, snapshots beside a naive model, and viewers of every kind who all get the
same snapshot, hold nothing up and leave nothing behind."""

import json
import socket as native
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import gevent
import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from fileserver import rendering
from fileserver.about import documents
from fileserver.about import live as room
from fileserver.about.counters import VIEWERS_MAX, Counters
from fileserver.about.documents import LARGEST, LARGEST_BYTES, LATEST, snapshot_json
from fileserver.about.live import FRESH_S, HISTORY, Live, Rates
from fileserver.rendering import SLICE
from fileserver.transport import PROGRESS_LOOKS, PROGRESS_S, Waiting
from lrucache import MAX_ENTRIES, Entry, Eviction, Outcome
from tests.exchange import GET, LAST, split
from tests.house import House, connect, receive_all, spawned, wait_for
from tests.program import Program

EVENTS = GET % b"-/events"
TICK_S = 0.005
CROWD = 20


# Rates.


def rates_of(house: House) -> Rates:
    return Rates(Counters(house.store, house.site.traffic, None, None, clock=house.clock))


def answer(house: House, times: int, outcome: Outcome | None = None) -> None:
    for _ in range(times):
        house.site.traffic.answered(("GET", 200, outcome), 0.0, 0.0)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.5])
def test_rates_are_what_moved_divided_by_how_long_it_took(folder: Path, seconds: float) -> None:
    with House(folder, capacity=10) as house:
        for name in ("a", "b", "c"):
            house.write(name, name.encode() * 8)
        answer(house, 1000)
        house.fetch("a")
        house.fetch("b")
        house.site.traffic.bytes_sent = 10**6
        rates = rates_of(house)
        assert json.loads(rates.json()) == []
        house.clock.now_s += seconds
        answer(house, 10)
        house.site.traffic.bytes_sent += 5000
        for name in ("b", "b", "b", "c", "a"):  # three hits, and two that evict
            house.fetch(name)
        rates.note()
        ((at_s, *found),) = json.loads(rates.json())
        assert at_s == seconds
        assert found == [10 / seconds, 5000 / seconds, 2 / seconds, 0.6]


def test_each_second_has_its_own_rates_the_oldest_first(folder: Path) -> None:
    with House(folder) as house:
        house.write("a", b"a")
        rates = rates_of(house)
        for count in (3, 0, 7):
            house.clock.now_s += 1
            answer(house, count)
            for _ in range(count):
                house.fetch("a")
            rates.note()
        assert json.loads(rates.json()) == [
            [1, 3.0, 0.0, 0.0, 0.6667],
            [2, 0.0, 0.0, 0.0, None],
            [3, 7.0, 0.0, 0.0, 1.0],
        ]


@pytest.mark.parametrize("back_s", [0.0, 5.0])
def test_without_time_nothing_is_noted_and_nothing_is_lost(folder: Path, back_s: float) -> None:
    with House(folder) as house:
        rates = rates_of(house)
        answer(house, 4)
        house.clock.now_s -= back_s
        rates.note()
        assert json.loads(rates.json()) == []
        house.clock.now_s += back_s + 2
        rates.note()
        assert json.loads(rates.json()) == [[2, 2.0, 0.0, 0.0, None]]


@pytest.mark.parametrize("outcome", ["misses", "coalesced", "bypasses"])
def test_the_ratio_is_of_all_file_answers(folder: Path, outcome: str) -> None:
    with House(folder) as house:
        rates = rates_of(house)
        kind = {"misses": Outcome.MISS, "coalesced": Outcome.COALESCED, "bypasses": Outcome.BYPASS}[outcome]
        house.cache.count(kind, "a", 1)
        house.clock.now_s += 1
        rates.note()
        assert json.loads(rates.json())[0][-1] == 0.0


def test_the_rates_of_ten_minutes_are_kept(folder: Path) -> None:
    with House(folder) as house:
        rates = rates_of(house)
        for _ in range(HISTORY + 100):
            house.clock.now_s += 1
            rates.note()
        assert [each[0] for each in json.loads(rates.json())] == list(range(101, 101 + HISTORY))
        assert HISTORY == 600


# Snapshots.


def drawn(*, name: str, size: int, hits: int, readers: int, created_s: float, used_s: float) -> Entry:
    """An entry as hypothesis likes it."""
    entry = Entry(name, size, None, created_s)
    entry.hits, entry.readers, entry.used_s = hits, readers, used_s
    return entry


times_s = st.floats(0, 1e6)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
sizes = st.integers(0, 30) | st.integers(0, 1 << 40)
counts = st.integers(0, 9)
entry_lists = st.lists(
    st.builds(drawn, name=texts, size=sizes, hits=counts, readers=counts, created_s=times_s, used_s=times_s),
    max_size=120,
)
eviction_lists = st.lists(
    st.builds(Eviction, texts, sizes, st.integers(0, 9), times_s, texts, texts, times_s), max_size=8
)


def described(entry: Entry, now_s: float) -> dict[str, object]:
    return {
        "name": entry.name,
        "size": entry.size,
        "hits": entry.hits,
        "age_s": pytest.approx(max(0.0, now_s - entry.created_s), abs=0.00051),
        "idle_s": pytest.approx(max(0.0, now_s - entry.used_s), abs=0.00051),
        "readers": entry.readers,
    }


@settings(derandomize=True, database=None, deadline=None)
@given(
    entries=entry_lists,
    evictions=eviction_lists,
    now_s=times_s,
    most=st.integers(1, 8),
    most_bytes=st.integers(0, 1500),
    slice_lines=st.integers(1, 7),
)
def test_a_snapshot_has_the_largest_and_the_sums_of_the_others(
    *,
    entries: list[Entry],
    evictions: list[Eviction],
    now_s: float,
    most: int,
    most_bytes: int,
    slice_lines: int,
) -> None:
    stats: dict[str, object] = {"hits": 3, "name": "a\nb"}
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(documents, "LARGEST", most)
        patching.setattr(documents, "LARGEST_BYTES", most_bytes)
        patching.setattr(documents, "LATEST", 3)
        patching.setattr(rendering, "SLICE", slice_lines)
        pieces = list(snapshot_json(stats, "[[1,2]]", evictions, entries, now_s))
    document = b"".join(pieces)
    assert document.count(b"\n") == document.endswith(b"\n") == 1
    assert b"\r" not in document
    snapshot = json.loads(document)
    largest = sorted(entries, key=lambda entry: -entry.size)[:most]
    shown, held = [], 0
    for entry in largest:
        held += len(documents.entry_json(entry, now_s))
        if held > most_bytes:
            break
        shown.append(entry)
    assert snapshot["entries"] == [described(entry, now_s) for entry in shown]
    others = sum(entry.size for entry in entries) - sum(entry.size for entry in shown)
    assert snapshot["others"] == {"entries": len(entries) - len(shown), "size": others}
    assert (snapshot["stats"], snapshot["rates"]) == (stats, [[1, 2]])
    assert [each["name"] for each in snapshot["evictions"]] == [each.name for each in evictions[:3]]
    assert snapshot.keys() == {"stats", "rates", "evictions", "entries", "others"}
    assert len(pieces) > len(entries) / slice_lines, "looking at a slice is a piece of its own"


def test_of_a_full_cache_the_thousand_largest_are_shown() -> None:
    entries = [Entry(f"{number}", number * 7919 % MAX_ENTRIES, None, 0.0) for number in range(MAX_ENTRIES)]
    snapshot = json.loads(b"".join(snapshot_json({}, "[]", [], entries, 0.0)))
    assert [each["size"] for each in snapshot["entries"]] == list(
        range(MAX_ENTRIES - 1, MAX_ENTRIES - 1 - LARGEST, -1)
    )
    rest = MAX_ENTRIES - LARGEST
    assert snapshot["others"] == {"entries": rest, "size": rest * (rest - 1) // 2}
    assert LARGEST == 1000


@pytest.mark.parametrize("slice_lines", [1, 3, 7])
@pytest.mark.parametrize("step", [1, 17, 40])
def test_in_whatever_order_they_are_looked_at_the_largest_are_found(
    monkeypatch: pytest.MonkeyPatch, step: int, slice_lines: int
) -> None:
    monkeypatch.setattr(documents, "LARGEST", 8)
    monkeypatch.setattr(rendering, "SLICE", slice_lines)
    entries = [Entry("x", number * step % 41, None, 0.0) for number in range(1, 41)]
    snapshot = json.loads(b"".join(snapshot_json({}, "[]", [], entries, 0.0)))
    assert [each["size"] for each in snapshot["entries"]] == list(range(40, 32, -1))
    assert snapshot["others"] == {"entries": 32, "size": sum(range(33))}


def test_exactly_as_many_as_are_shown_leave_no_others() -> None:
    for number in (0, 1, SLICE, SLICE + 1, LARGEST):
        entries = [Entry(f"{each}", 5, None, 0.0) for each in range(number)]
        snapshot = json.loads(b"".join(snapshot_json({}, "[]", [], entries, 0.0)))
        assert [each["name"] for each in snapshot["entries"]] == [entry.name for entry in entries]
        assert snapshot["others"] == {"entries": 0, "size": 0}


@pytest.mark.parametrize("letter", ["n", "\x01", "ä", "😀"])
def test_very_long_names_make_no_long_snapshot(letter: str) -> None:
    entries = [Entry(f"{letter * 4000}{number}", 10_000 - number, None, 0.0) for number in range(2000)]
    document = b"".join(snapshot_json({}, "[]", [], entries, 0.0))
    snapshot = json.loads(document)
    line = len(documents.entry_json(entries[0], 0.0))
    shown = len(snapshot["entries"])
    assert LARGEST_BYTES - 2 * line < shown * line <= LARGEST_BYTES
    assert len(document) < LARGEST_BYTES + 10_000
    assert [each["name"] for each in snapshot["entries"]] == [entry.name for entry in entries[:shown]]
    assert snapshot["others"] == {"entries": 2000 - shown, "size": sum(each.size for each in entries[shown:])}


def test_the_latest_fifty_evictions_are_shown_the_last_one_first() -> None:
    evictions = [Eviction(f"{number}", 1, 0, 1.0, "new", "rule", 5.0) for number in range(1000)]
    snapshot = json.loads(b"".join(snapshot_json({}, "[]", evictions, [], 7.5)))
    assert [each["name"] for each in snapshot["evictions"]] == [f"{number}" for number in range(LATEST)]
    assert LATEST == 50
    assert snapshot["evictions"][0] == {
        "name": "0", "size": 1, "hits": 0, "age_s": 1.0, "ago_s": 2.5, "newcomer": "new", "rule": "rule"
    }  # fmt: skip


# Server-Sent Events, as the HTML standard has a browser read them.


class EventStream:
    """The events in what has come so far; `retry_ms` is what the stream asked for."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.retry_ms = 0
        self._lines = b""
        self._parts: list[bytes] = []

    def feed(self, content: bytes) -> None:
        assert b"\r" not in content
        *lines, self._lines = (self._lines + content).split(b"\n")
        for line in lines:
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if not line:
                if self._parts:
                    self.events.append(b"\n".join(self._parts))
                self._parts = []
            elif field == b"data":
                self._parts.append(value)
            else:
                assert field == b"retry", line
                self.retry_ms = int(value)

    @property
    def is_between_events(self) -> bool:
        return not self._lines and not self._parts


class Watching:
    """A client of `/-/events`, of any kind of socket."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.stream = EventStream()
        self._received = b""
        self.head = b""

    def receive(self) -> bool:
        """What comes next; False at the end."""
        piece = self.client.recv(1 << 16)
        if self.head:
            self.stream.feed(piece)
        else:
            self._received += piece
            head, end, rest = self._received.partition(b"\r\n\r\n")
            if end:
                self.head = head + end
                self.stream.feed(rest)
        return bool(piece)

    def event(self, number: int) -> dict[str, Any]:
        """The snapshot of that number, from 0, when it has come."""
        while len(self.stream.events) <= number:
            assert self.receive(), "the stream has ended"
        snapshot: dict[str, Any] = json.loads(self.stream.events[number])
        return snapshot

    def end(self) -> None:
        """Read to the end, which has to be clean."""
        while self.receive():
            pass
        assert self.stream.is_between_events


# In this process, where the test decides when a second has passed.


class Lively:
    """A house whose `Live` is at work, looking each TICK_S whether its clock has moved. Counts its snapshots."""

    def __init__(self, house: House, patching: pytest.MonkeyPatch) -> None:
        self.house = house
        self.live: Live = house.site.about._live
        self.viewers = self.live._counters.viewers
        self.made = 0
        self._ticks = 0
        make, note = documents.snapshot_json, self.live._rates.note

        def counted_make(*arguments: Any) -> Iterator[bytes]:
            self.made += 1
            return make(*arguments)

        def counted_note() -> None:
            self._ticks += 1
            note()

        patching.setattr(room, "EVERY_S", TICK_S)
        patching.setattr(room, "snapshot_json", counted_make)
        patching.setattr(self.live._rates, "note", counted_note)

    def second(self) -> None:
        """A second passes, and it is noticed."""
        self.house.clock.now_s += 1
        self.ticks(2)

    def ticks(self, count: int) -> None:
        until = self._ticks + count
        wait_for(lambda: self._ticks >= until)

    @property
    def taken(self) -> int:
        """The places that viewers have."""
        return self.viewers.limit - self.viewers.free


@contextmanager
def lively(house: House) -> Iterator[Lively]:
    with pytest.MonkeyPatch.context() as patching:
        lively = Lively(house, patching)
        with spawned() as started:
            house.site.about.start()
        try:
            yield lively
        finally:
            gevent.killall(started)


@pytest.fixture
def house(folder: Path) -> Iterator[House]:
    with House(folder) as house:
        yield house


def test_all_viewers_get_the_same_snapshot_and_it_is_made_once_a_second(house: House) -> None:
    with lively(house) as now, house.serving() as port, ExitStack() as opened:
        crowd = [Watching(opened.enter_context(connect(port, EVENTS))) for _ in range(CROWD)]
        for number in range(4):
            if number:
                now.second()
            said = {watching.event(number)["stats"]["uptime_s"] for watching in crowd}
            assert said == {float(number)}
            assert len({watching.stream.events[number] for watching in crowd}) == 1
            assert now.made == number + 1
        now.ticks(5)
        assert now.made == 4
        assert [len(watching.stream.events) for watching in crowd] == [4] * CROWD


def test_all_viewers_share_one_object(house: House) -> None:
    with lively(house) as now:
        viewers = [now.live.watch() for _ in range(CROWD)]
        for viewer in viewers:
            assert viewer is not None
            assert viewer.next() == room.BEGIN + now.live.event
        waiting = [gevent.spawn(viewer.next) for viewer in viewers if viewer is not None]
        now.second()
        pieces = [each.get(timeout=20) for each in waiting]
        assert all(piece is now.live.event for piece in pieces)
        assert now.made == 2


def test_who_waits_is_woken_by_the_news(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "EVERY_S", 1000.0)
    live: Live = house.site.about._live
    viewers = [live.watch() for _ in range(3)]
    for viewer in viewers:
        assert viewer is not None
        viewer.next()
    waiting = [gevent.spawn(viewer.next) for viewer in viewers if viewer is not None]
    gevent.sleep(0)
    for _ in range(3):
        house.clock.now_s += 1
        live.refresh()
        assert [each.get(timeout=20) for each in waiting] == [live.event] * 3
        waiting = [gevent.spawn(viewer.next) for viewer in viewers if viewer is not None]
        gevent.sleep(0)
    gevent.killall(waiting)


def test_while_nobody_watches_rates_are_noted_and_nothing_is_made(house: House) -> None:
    with lively(house) as now, house.serving() as port:
        for _ in range(5):
            now.second()
        assert now.made == 0
        assert now.live.event == b""
        with connect(port, EVENTS) as client:
            watching = Watching(client)
            assert len(watching.event(0)["rates"]) == 5
            assert now.made == 1
            now.second()
            watching.event(1)
        while now.taken:
            now.second()
        made = now.made
        for _ in range(5):
            now.second()
        assert now.made == made


def test_who_comes_later_gets_a_fresh_one_first(house: House) -> None:
    with lively(house) as now, house.serving() as port:
        with connect(port, EVENTS) as early:
            Watching(early).event(0)
        while now.taken:
            now.second()
        house.clock.now_s += 500
        with connect(port, EVENTS) as late:
            assert Watching(late).event(0)["stats"]["uptime_s"] == house.clock.now_s - 1000


def test_polls_within_half_a_second_share_one(house: House) -> None:
    with lively(house) as now, house.serving() as port:

        def poll() -> float:
            with connect(port, LAST % b"-/snapshot") as client:
                status, fields, body = split(receive_all(client))
            assert (status, fields[b"content-type"]) == (200, b"application/json")
            assert fields[b"cache-control"] == b"no-store"
            assert body.endswith(b"}\n")
            uptime_s: float = json.loads(body)["stats"]["uptime_s"]
            return uptime_s

        polls = [gevent.spawn(poll) for _ in range(CROWD)]
        assert {each.get(timeout=20) for each in polls} == {0.0}
        house.clock.now_s += FRESH_S - 0.001
        assert (poll(), now.made) == (0.0, 1)
        house.clock.now_s += 0.001
        assert (poll(), now.made) == (0.5, 2)
        polls = [gevent.spawn(poll) for _ in range(CROWD)]
        assert {each.get(timeout=20) for each in polls} == {0.5}
        assert now.made == 2
        assert FRESH_S == 0.5


def test_a_poll_is_news_for_viewers_too_and_is_not_made_again_for_them(house: House) -> None:
    with lively(house) as now, house.serving() as port, connect(port, EVENTS) as client:
        watching = Watching(client)
        watching.event(0)
        now.second()
        now.live.refresh()
        polled = json.loads(now.live.document)
        assert watching.event(1) == polled
        assert now.made == 2


def test_a_snapshot_is_of_the_cache_at_that_moment(house: House) -> None:
    for number in range(3):
        house.write(f"f{number}", b"x" * number)
        house.fetch(f"f{number}")
    with lively(house) as now, house.serving() as port, connect(port, EVENTS) as client:
        watching = Watching(client)
        snapshot = watching.event(0)
        assert [entry["name"] for entry in snapshot["entries"]] == ["f2", "f1", "f0"]
        assert snapshot["stats"]["viewers"] == 1
        house.write("new", b"x" * 100)
        house.fetch("new")
        now.second()
        assert watching.event(1)["entries"][0]["name"] == "new"
        assert watching.event(1)["stats"]["misses"] == 4


def test_others_run_while_a_snapshot_of_a_full_cache_is_made(house: House) -> None:
    for number in range(MAX_ENTRIES):
        house.cache.put(f"{number}", b"", None)
    assert house.cache.stats().entries == MAX_ENTRIES
    live = house.site.about._live
    making = gevent.spawn(live.refresh)
    turns = 0
    while not making.ready():
        turns += 1
        gevent.sleep(0)
    assert turns >= (MAX_ENTRIES + LARGEST) // SLICE
    making.get()
    assert json.loads(live.document)["others"]["entries"] == MAX_ENTRIES - LARGEST


def test_the_head_of_a_stream_says_that_it_is_one(house: House) -> None:
    with lively(house), house.serving() as port, connect(port, EVENTS) as client:
        watching = Watching(client)
        watching.event(0)
        status, fields, _ = split(watching.head)
        assert (status, fields[b"content-type"], fields[b"cache-control"]) == (
            200,
            b"text/event-stream",
            b"no-store",
        )
        assert (fields[b"connection"], fields[b"x-accel-buffering"]) == (b"close", b"no")
        assert fields.keys().isdisjoint({b"content-length", b"transfer-encoding"})
        assert watching.stream.retry_ms == 2000


def test_a_stream_over_http_1_0_is_ended_by_the_connection(house: House) -> None:
    with lively(house) as now, house.serving() as port, connect(port, b"GET /-/events HTTP/1.0\r\n\r\n") as client:
        watching = Watching(client)
        watching.event(0)
        now.second()
        watching.event(1)
        house.site.traffic.draining = True
        watching.end()


# Places.


def watched_by(now: Lively, port: int, opened: ExitStack, count: int) -> list[Watching]:
    """So many viewers who have had a snapshot."""
    watching = [Watching(opened.enter_context(connect(port, EVENTS))) for _ in range(count)]
    for each in watching:
        each.event(0)
    assert now.taken == count
    return watching


def refused(port: int) -> None:
    with connect(port, EVENTS) as client:
        status, fields, _ = split(client.recv(4096))
    assert (status, fields[b"retry-after"]) == (503, b"1")


def test_viewers_are_bounded_and_who_is_too_many_can_poll(house: House) -> None:
    assert VIEWERS_MAX == 32
    with lively(house) as now, house.serving() as port, ExitStack() as opened:
        watching = watched_by(now, port, opened, VIEWERS_MAX)
        for _ in range(3):
            refused(port)
        now.second()
        with connect(port, LAST % b"-/snapshot") as client:
            status, _, body = split(receive_all(client))
        assert (status, json.loads(body)["stats"]["viewers"]) == (200, VIEWERS_MAX)
        watching[7].client.close()
        while now.taken == VIEWERS_MAX:
            now.second()
        with connect(port, EVENTS) as client:
            Watching(client).event(0)
            assert now.taken == VIEWERS_MAX
            refused(port)
        assert house.site.about.stats()["viewers"] == VIEWERS_MAX


def test_every_viewer_that_leaves_makes_room_for_one(house: House) -> None:
    with lively(house) as now, house.serving() as port:
        for _ in range(2):
            with ExitStack() as opened:
                watched_by(now, port, opened, VIEWERS_MAX)
                refused(port)
            while now.taken:
                now.second()
            assert now.viewers.free == VIEWERS_MAX
            wait_for(lambda: not house.site.traffic.connections)


def test_a_viewer_that_is_closed_twice_had_one_place(house: House) -> None:
    with lively(house) as now:
        one, other = now.live.watch(), now.live.watch()
        assert one is not None
        assert other is not None
        one.close()
        one.close()
        assert now.taken == 1
        other.close()
        assert now.taken == 0


def test_a_viewer_whose_first_snapshot_fails_leaves_its_place(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> Iterator[bytes]:
        raise ZeroDivisionError("said the test")

    with house.serving() as port, monkeypatch.context() as patching:
        patching.setattr(room, "snapshot_json", failing)
        for _ in range(3):
            house.clock.now_s += 1
            with connect(port, EVENTS) as client:
                assert split(receive_all(client))[0] == 500
        assert house.site.about.stats()["viewers"] == 0
    assert len(caplog.records) == 3
    with lively(house), house.serving() as port, connect(port, EVENTS) as client:
        house.site.traffic.draining = False
        house.clock.now_s += 1
        Watching(client).event(0)


def test_head_takes_no_place_and_keeps_the_connection(house: House) -> None:
    with lively(house) as now, house.serving() as port, connect(port) as client, ExitStack() as opened:
        heads = []
        for count in (0, VIEWERS_MAX):
            watched_by(now, port, opened, count)
            for _ in range(VIEWERS_MAX + 1):
                client.sendall(EVENTS.replace(b"GET", b"HEAD"))
                heads.append(split(client.recv(4096)))
            assert now.taken == count
        assert {(status, fields[b"content-type"], body) for status, fields, body in heads} == {
            (200, b"text/event-stream", b"")
        }
        assert now.made == 1


def test_a_stream_counts_as_an_answer_when_it_has_ended_and_in_no_latency(house: House) -> None:
    with lively(house) as now, house.serving() as port:
        with connect(port, EVENTS) as client:
            Watching(client).event(0)
            assert house.site.traffic.answers() == {}
        while now.taken:
            now.second()
        wait_for(lambda: not house.site.traffic.connections)
        assert house.site.traffic.answers() == {("GET", 200, None): 1}
        assert house.site.traffic.latency[None].total.count == 0


# Viewers that do not read.


def fill_with_long_names(house: House, count: int = 800) -> None:
    """So that a snapshot is more than two small socket buffers hold."""
    for number in range(count):
        house.cache.put(f"{'n' * 400}{number}", b"x", None)


def blocked(house: House) -> Callable[[], bool]:
    return lambda: any(one.waiting is Waiting.WRITABLE for one in house.site.traffic.connections)


def test_who_does_not_read_is_not_queued_for_and_gets_the_newest_later(house: House) -> None:
    fill_with_long_names(house)
    with (
        lively(house) as now,
        house.serving(send_buffer=4096) as port,
        connect(port, EVENTS, receive_buffer=4096) as client,
    ):
        wait_for(blocked(house))
        held = house.site.traffic.page_bytes
        assert held == len(room.BEGIN + now.live.event)
        for number in range(1, 6):
            now.second()
            assert (now.made, house.site.traffic.page_bytes) == (number + 1, held)
        watching = Watching(client)
        assert watching.event(0)["stats"]["uptime_s"] == 0
        assert watching.event(1)["stats"]["uptime_s"] == 5
        assert now.made == 6
    wait_for(lambda: not now.taken)
    assert house.site.traffic.page_bytes == 0


def test_others_are_shown_what_is_new_while_one_does_not_read(house: House) -> None:
    fill_with_long_names(house)
    with (
        lively(house) as now,
        house.serving(send_buffer=4096) as port,
        connect(port, EVENTS, receive_buffer=4096),
        connect(port, EVENTS) as reader,
    ):
        wait_for(blocked(house))
        watching = Watching(reader)
        for number in range(4):
            assert watching.event(number)["stats"]["uptime_s"] == number
            now.second()


def test_who_reads_nothing_is_ended_by_the_clock_and_makes_room(house: House) -> None:
    fill_with_long_names(house)
    traffic = house.site.traffic
    with (
        lively(house) as now,
        house.serving(send_buffer=4096, clock=house.clock) as port,
        connect(port, EVENTS, receive_buffer=4096) as client,
    ):
        wait_for(blocked(house))
        began_s = house.clock.now_s
        while traffic.connections:
            house.clock.now_s += 1
            for one in traffic.overdue(house.clock.now_s):
                one.expire()
            gevent.sleep(TICK_S)
        waited_s = house.clock.now_s - began_s
        assert waited_s >= PROGRESS_S
        assert waited_s < 2 * PROGRESS_S * (PROGRESS_LOOKS + 1) / PROGRESS_LOOKS
        assert (now.taken, traffic.page_bytes, traffic.expired[Waiting.WRITABLE]) == (0, 0, 1)
        with pytest.raises(ConnectionResetError):
            receive_all(client)


def test_pages_that_wait_leave_no_room_for_more_viewers(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    from fileserver import longpages

    monkeypatch.setattr(longpages, "PAGES_MAX_BYTES", 100_000)
    fill_with_long_names(house)
    with (
        lively(house) as now,
        house.serving(send_buffer=4096) as port,
        connect(port, EVENTS, receive_buffer=4096),
    ):
        wait_for(blocked(house))
        for path in (b"-/events", b"-/snapshot"):
            with connect(port, LAST % path) as client:
                assert split(client.recv(4096))[0] == 503
        assert now.taken == 1


def test_who_watches_has_to_ask_again_when_tokens_were_loaded_anew(house: House) -> None:
    with lively(house) as now, house.serving() as port, ExitStack() as opened:
        watching = watched_by(now, port, opened, 3)
        house.site.about.end_streams()
        for each in watching:
            receive_all(each.client)
        wait_for(lambda: now.taken == 0)
        with connect(port, EVENTS) as client:
            later = Watching(client)
            later.event(0)
            now.second()
            later.event(1)


def test_draining_ends_those_who_wait_for_news(house: House) -> None:
    with lively(house) as now, house.serving() as port, ExitStack() as opened:
        watching = watched_by(now, port, opened, 3)
        house.site.traffic.draining = True
        for each in watching:
            each.end()
            assert len(each.stream.events) == 1
        wait_for(lambda: not house.site.traffic.connections)
        assert now.taken == 0


# A whole server.


def watching(server: Program) -> Watching:
    client = server.connect()
    client.sendall(EVENTS)
    return Watching(client)


def test_a_stop_ends_an_open_dashboard_cleanly(folder: Path) -> None:
    """The drain is longer than the test may take: who is not ended would hold the stop up."""
    with Program(folder, "--drain", "600") as server, ExitStack() as opened:
        crowd = [watching(server) for _ in range(5)]
        for each in crowd:
            opened.enter_context(each.client)
            each.event(1)
        said = server.stop()
        assert server.process.returncode == 0
        assert "stopped, 0 transfers cut" in said
        for each in crowd:
            each.end()


def test_a_stop_does_not_wait_for_a_viewer_that_does_not_read(folder: Path) -> None:
    for number in range(500):
        (folder / f"{'n' * 200}{number}").write_bytes(b"x")
    with Program(folder, "--drain", "1000") as server, native.socket() as client:
        for number in range(500):
            server.get(f"/{'n' * 200}{number}")
        client.setsockopt(native.SOL_SOCKET, native.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect((server.host, server.port))
        client.sendall(EVENTS)
        while server.stats()["connections_by_state"]["writing"] == 0:
            pass
        assert "stopped, 0 transfers cut" in server.stop(), "a stream is no transfer"
        assert server.process.returncode == 0


def test_a_server_makes_one_snapshot_a_second_for_all(folder: Path) -> None:
    with Program(folder) as server, ExitStack() as opened:
        crowd = [watching(server) for _ in range(CROWD)]
        for each in crowd:
            opened.enter_context(each.client)
        reading = [threading.Thread(target=each.event, args=(2,)) for each in crowd]
        for one in reading:
            one.start()
        for one in reading:
            one.join(30)
            assert not one.is_alive()
        uptimes = [json.loads(event)["stats"]["uptime_s"] for event in crowd[-1].stream.events]
        assert all(later - sooner >= FRESH_S for sooner, later in pairwise(uptimes))
        assert len({event for each in crowd for event in each.stream.events}) <= len(uptimes) + 2
        assert server.stats()["viewers"] == CROWD


VIEWER = """
import socket, sys
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30)
client.sendall(b"GET /-/events HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
client.recv(10)
print("watching", flush=True)
while True:
    client.recv(1 << 16)
"""


def test_the_place_of_a_viewer_that_was_killed_is_free_again(folder: Path) -> None:
    with (
        Program(folder) as server,
        subprocess.Popen([sys.executable, "-c", VIEWER, str(server.port)], stdout=subprocess.PIPE) as viewer,
    ):
        assert viewer.stdout is not None
        assert viewer.stdout.readline() == b"watching\n"
        assert server.stats()["viewers"] == 1
        viewer.kill()
        while server.stats()["viewers"]:
            pass
        assert server.stats()["connections"] == 1


def test_a_dashboard_over_tls_is_fed_and_ends_with_a_close_notify(folder: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    (folder / "a").write_bytes(b"content")
    with (
        Program(folder, "--tls-cert", str(tmp_path / "server.pem"), "--drain", "600") as server,
        trusting.wrap_socket(server.connect(), server_hostname="127.0.0.1", suppress_ragged_eofs=False) as client,
    ):
        client.sendall(EVENTS)
        watching = Watching(client)
        assert watching.event(0)["stats"]["viewers"] == 1
        assert watching.event(1)["stats"]["uptime_s"] > watching.event(0)["stats"]["uptime_s"]
        server.process.terminate()
        watching.end()
        assert server.process.wait(30) == 0
