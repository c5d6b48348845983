"""`--what-if`: what is noted and what is dropped, how much time it takes, and that a real server's is right."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from fileserver import whatif
from fileserver.whatif import LEAST_SHARE, REST_S, RING, SLICE_S, WhatIf
from lrucache import POLICIES, Cache, Outcome
from lrucache.policies.lru import Lru
from tests.house import Clock, pattern, wait_for
from tests.program import Program, sparse
from tests.test_ghosts import Requests, full, zipf

CAPACITY = 8 << 20


def rounded(requests: Requests, capacity: int) -> dict[str, dict[str, float]]:
    """What /-/stats must say of these requests: full simulation, to four digits."""
    return {
        name: {"object_hit_ratio": round(ratios.object_hit, 4), "byte_hit_ratio": round(ratios.byte_hit, 4)}
        for name, ratios in full(requests, capacity).items()
    }


class Ticking(Clock):
    """So much later each time it is looked at."""

    def __init__(self, tick_s: float) -> None:
        super().__init__()
        self._tick_s = tick_s

    def __call__(self) -> float:
        self.now_s += self._tick_s
        return self.now_s


class Asked:
    """A cache whose answers a what-if is told of; nobody keeps up with them but the test."""

    def __init__(self, capacity: int = CAPACITY, **options: Any) -> None:
        self.what_if = WhatIf(capacity, **options)
        self.cache = Cache(capacity, Lru(capacity), accesses=self.what_if.accesses)

    def answer(self, requests: Requests) -> None:
        """Count these as misses."""
        for name, size in requests:
            self.cache.count(Outcome.MISS, name, size)

    def work_off(self) -> None:
        """Slice after slice until nothing is left."""
        while self.what_if.work():
            pass

    def stats(self) -> dict[str, Any]:
        """What /-/stats says under `what_if`."""
        return dict(self.what_if.stats(self.cache.stats()))


# What is noted.


def test_the_page_says_what_full_simulation_says() -> None:
    requests = zipf(2000, RING)
    asked = Asked()
    asked.answer(requests)
    asked.work_off()
    assert asked.stats() == {
        "requests": RING,
        "waiting": 0,
        "dropped": 0,
        "sample_rate": 1.0,
        "expected_error": 0.0,
        "policies": rounded(requests, CAPACITY),
    }


def test_before_the_first_answer_everything_is_0() -> None:
    asked = Asked()
    asked.work_off()
    stats = asked.stats()
    assert (stats["requests"], stats["waiting"], stats["dropped"]) == (0, 0, 0)
    assert stats["policies"] == {name: {"object_hit_ratio": 0, "byte_hit_ratio": 0} for name in POLICIES}


def test_every_kind_of_answer_is_a_request() -> None:
    asked = Asked()
    asked.cache.put("a", b"xxx", None)
    for outcome in (Outcome.MISS, Outcome.COALESCED, Outcome.BYPASS):
        asked.cache.count(outcome, "a", 3)
    found = asked.cache.find("a")
    assert found is not None
    assert asked.cache.hit(found)
    found.sure_until_s = 1.0
    assert asked.cache.take("a", 0.0) is found
    asked.work_off()
    stats = asked.stats()
    assert (stats["requests"], stats["dropped"]) == (5, 0)
    assert stats["policies"]["lru"] == {"object_hit_ratio": 0.8, "byte_hit_ratio": 0.8}


def test_the_ghosts_have_the_capacity_of_the_cache() -> None:
    for capacity, ratio in ((9, 0.0), (10, 0.5)):
        asked = Asked(capacity)
        asked.answer([("a", 10), ("a", 10)])
        asked.work_off()
        assert asked.stats()["policies"]["lru"]["object_hit_ratio"] == ratio


def test_what_does_not_fit_into_the_ring_is_dropped_the_oldest_first_and_counted() -> None:
    asked = Asked()
    requests = [("old", 1)] * 5 + zipf(100, RING)
    asked.answer(requests)
    stats = asked.stats()
    assert (stats["requests"], stats["waiting"], stats["dropped"]) == (0, RING, 5)
    asked.work_off()
    stats = asked.stats()
    assert (stats["requests"], stats["waiting"], stats["dropped"]) == (RING, 0, 5)
    assert stats["policies"] == rounded(requests[5:], CAPACITY)
    asked.answer(zipf(100, 10))
    assert (asked.stats()["waiting"], asked.stats()["dropped"]) == (10, 5)


@pytest.mark.parametrize("names", [100, 9000])
def test_how_far_to_trust_it_is_not_known_once_anything_was_dropped(names: int) -> None:
    asked = Asked()
    asked.answer([(f"n{at % names}", 1) for at in range(RING)])
    asked.work_off()
    assert asked.stats()["expected_error"] == (0.0 if names <= 8192 else 0.011)
    asked.answer([("a", 1)] * (RING + 1))
    assert asked.stats()["expected_error"] is None
    asked.work_off()
    asked.answer([("a", 1)])
    asked.work_off()
    assert (asked.stats()["dropped"], asked.stats()["expected_error"]) == (1, None)


def test_in_the_middle_of_the_work_every_answer_is_seen_or_waits() -> None:
    asked = Asked(clock=Ticking(SLICE_S))
    asked.answer(zipf(3000, 5000))
    slices = 0
    while asked.what_if.work():
        slices += 1
        stats = asked.stats()
        assert (stats["requests"] + stats["waiting"], stats["dropped"]) == (5000, 0)
        assert stats["expected_error"] == 0.0
        for ratios in stats["policies"].values():
            assert 0 <= min(ratios.values()) <= max(ratios.values()) <= 1
    assert slices > 50


def test_above_the_limit_of_names_the_page_says_the_rate_and_how_far_to_trust_it() -> None:
    asked = Asked()
    asked.answer([(f"n{at}", 1) for at in range(9000)])
    asked.work_off()
    stats = asked.stats()
    assert (stats["sample_rate"], stats["expected_error"], stats["requests"]) == (0.5, 0.011, 9000)


# What time it takes.


@pytest.mark.parametrize(("step_s", "steps"), [(0.0001, 10), (0.00024, 5), (0.0006, 2), (0.5, 1)])
def test_a_slice_ends_with_the_first_step_after_a_millisecond(step_s: float, steps: int) -> None:
    clock, done = Clock(), []
    what_if = WhatIf(CAPACITY, clock=clock)

    def step() -> Iterator[bool]:
        while True:
            clock.now_s += step_s
            done.append(1)
            yield True

    what_if._work = step()
    assert what_if.work()
    assert len(done) in {steps, steps + 1}  # a thousandth is not exact in binary
    assert SLICE_S <= 0.001


def test_a_slice_ends_when_nothing_is_left() -> None:
    asked = Asked(clock=Clock())
    asked.answer(zipf(100, 1000))
    assert not asked.what_if.work()
    assert not asked.what_if.work()
    assert asked.stats()["requests"] == 1000


def test_a_slice_of_real_work_stops_in_the_middle_and_the_next_goes_on() -> None:
    asked = Asked(clock=Ticking(SLICE_S / 100))
    requests = zipf(2000, 10_000)
    asked.answer(requests)
    assert asked.what_if.work()
    assert 0 < asked.stats()["requests"] < 2000
    asked.work_off()
    assert asked.stats()["policies"] == rounded(requests, CAPACITY)


class Enough(Exception):
    """The test has seen what it wants."""


class Loop:
    """A loop by a clock of its own: a moment when it has nothing to do comes after `busy_s`, if it is not longer.

    Stands where `gevent` stands in `whatif`; who waits lets the time pass.
    """

    def __init__(self, busy_s: float) -> None:
        self.now_s = self.worked_s = 0.0
        self.slices = 0
        self._busy_s = busy_s

    def idle(self) -> None:
        """The next moment with nothing to do."""
        self.now_s += self._busy_s

    def with_timeout(self, seconds: float, wait: Callable[[], None], *, timeout_value: None) -> None:
        before_s = self.now_s
        wait()
        self.now_s = min(self.now_s, before_s + seconds)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def share(self, monkeypatch: pytest.MonkeyPatch, *, has_more: bool = True, slices: int = 100) -> float:
        """Of all time, what a what-if takes that always has something left, or never."""
        what_if = WhatIf(CAPACITY)

        def work() -> bool:
            if self.slices == slices:
                raise Enough
            self.slices += 1
            self.now_s += SLICE_S
            self.worked_s += SLICE_S
            return has_more

        monkeypatch.setattr(whatif, "gevent", self)
        monkeypatch.setattr(what_if, "work", work)
        with pytest.raises(Enough):
            what_if._keep_up()
        return self.worked_s / self.now_s


def test_a_loop_that_is_never_idle_gives_a_hundredth_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Loop(busy_s=1e9).share(monkeypatch) == pytest.approx(LEAST_SHARE, rel=0.03)
    assert LEAST_SHARE == 0.01


def test_a_loop_that_is_idle_gives_half_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Loop(busy_s=0).share(monkeypatch) == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("busy_s", [0.0005, 0.002, 0.02, 0.09, 0.11])
def test_a_loop_that_is_idle_now_and_then_gives_something_between(
    monkeypatch: pytest.MonkeyPatch, busy_s: float
) -> None:
    assert LEAST_SHARE * 0.97 < Loop(busy_s).share(monkeypatch) < 0.5


def test_who_has_nothing_left_looks_ten_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(busy_s=0)
    loop.share(monkeypatch, has_more=False)
    assert loop.now_s == pytest.approx(loop.slices * (REST_S + SLICE_S), rel=0.03)
    assert 10 * REST_S == 1


@pytest.fixture
def keeping_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """A what-if that has started; its greenlet ends with the test."""
    spawned: list[gevent.Greenlet[..., Any]] = []
    with monkeypatch.context() as patching:
        patching.setattr(gevent, "spawn", lambda *run: spawned.append(gevent.Greenlet.spawn(*run)))
        asked = Asked()
        asked.what_if.start()
    yield asked
    assert len(spawned) == 1
    assert not spawned[0].ready(), "it works as long as the process lives"
    gevent.killall(spawned)


def test_a_loop_that_is_idle_keeps_up(keeping_up: Asked) -> None:
    for _ in range(3):
        before = keeping_up.stats()["requests"]
        keeping_up.answer(zipf(100, 500))
        wait_for(lambda: keeping_up.stats()["waiting"] == 0)
        assert keeping_up.stats()["requests"] == before + 500


def test_a_loop_that_is_never_idle_keeps_up_as_well(keeping_up: Asked) -> None:
    keeping_up.answer(zipf(100, 500))
    while keeping_up.stats()["requests"] < 500:
        gevent.sleep(0)


def test_nothing_is_worked_off_within_a_request(keeping_up: Asked) -> None:
    """What is noted stays where it is until its own greenlet has a turn."""
    keeping_up.answer(zipf(100, 500))
    assert (keeping_up.stats()["requests"], keeping_up.stats()["waiting"]) == (0, 500)
    wait_for(lambda: keeping_up.stats()["waiting"] == 0)


# Whole program.


def keep_asking(server: Program, paths: list[str], **headers: str) -> None:
    """GET one after the other on one connection."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    try:
        for path in paths:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            response.read()
            assert response.status in (200, 206)
    finally:
        connection.close()


def settled(server: Program, policies: dict[str, dict[str, float]] | None = None) -> dict[str, Any]:
    """/-/stats, once nothing waits any more; and says that of the policies, if it ever does.

    The last requests no longer wait as soon as they have been taken from the ring.
    """
    for _ in range(2000):
        stats = server.stats()
        what_if = stats["what_if"]
        if what_if["waiting"] == 0 and policies in (None, what_if["policies"]):
            break
    return stats


@pytest.mark.parametrize("policy", ["relocate", "gdsf"])
def test_a_real_servers_ghosts_are_equal_to_full_simulation(folder: Path, policy: str) -> None:
    capacity = 1 << 20
    large, empty = ("large", capacity + 1), ("empty", 0)
    requests = [large, *zipf(300, 2000, largest=30_000), empty, large]
    for name, size in set(requests):
        sparse(folder / name, size)
    with Program(folder, "--what-if", "--cache", str(capacity), "--policy", policy) as server:
        keep_asking(server, [f"/{name}" for name, _ in requests])
        stats = settled(server, rounded(requests, capacity))
    assert stats["what_if"] == {
        "requests": len(requests),
        "waiting": 0,
        "dropped": 0,
        "sample_rate": 1.0,
        "expected_error": 0.0,
        "policies": rounded(requests, capacity),
    }
    assert stats["file_answers"] == len(requests)
    assert stats["evictions"] > 100
    assert stats["violations"] == 0


def test_what_is_no_file_answer_is_no_request_and_a_part_counts_as_the_whole_file(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).write_bytes(pattern(1000))
    with Program(folder, "--what-if", "--cache", "1500") as server:
        etag = server.get("/a")[1]["etag"]
        for method, path, headers, status in (
            ("HEAD", "/a", {}, 200),
            ("GET", "/a", {"If_None_Match": etag}, 304),
            ("GET", "/a", {"If_Match": '"x"'}, 412),
            ("GET", "/a", {"Range": "bytes=5000-"}, 416),
            ("GET", "/missing", {}, 404),
            ("GET", "/", {}, 200),
            ("GET", "/-/cache", {}, 200),
            ("GET", "/-/evictions", {}, 200),
        ):
            assert server.get(path, method, **headers)[0] == status
        assert settled(server)["what_if"]["requests"] == 1
        assert server.get("/b", Range="bytes=0-0")[0] == 206
        assert server.raw(b"GET a\n") == pattern(1000)
        # By lru b has pushed a out, though one byte of it was asked for.
        right = rounded([("a", 1000), ("b", 1000), ("a", 1000)], 1500)
        assert right["lru"]["object_hit_ratio"] == 0
        stats = settled(server, right)
    assert (stats["what_if"]["requests"], stats["file_answers"], stats["what_if"]["dropped"]) == (3, 3, 0)
    assert stats["what_if"]["policies"] == right


def test_no_answer_to_many_clients_at_once_is_lost(folder: Path) -> None:
    requests = zipf(200, 1600, largest=30_000)
    for name, size in set(requests):
        sparse(folder / name, size)
    paths = [f"/{name}" for name, _ in requests]
    with Program(folder, "--what-if", "--cache", "1MiB", "--threads", "4") as server:
        clients = [threading.Thread(target=keep_asking, args=(server, paths[at::8])) for at in range(8)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        stats = settled(server)
    answers = sum(stats[kind] for kind in ("hits", "misses", "coalesced", "bypasses"))
    assert stats["what_if"]["requests"] == stats["file_answers"] == answers == 1600
    assert stats["what_if"]["dropped"] == 0


def test_without_the_option_there_is_no_what_if(folder: Path) -> None:
    (folder / "a").write_bytes(b"x")
    with Program(folder) as server:
        assert server.get("/a")[0] == 200
        stats = server.stats()
    assert "what_if" not in stats


def test_the_ratios_are_in_the_json_of_the_cache_as_well(folder: Path) -> None:
    (folder / "a").write_bytes(b"x")
    with Program(folder, "--what-if") as server:
        keep_asking(server, ["/a"] * 4)
        right = rounded([("a", 1)] * 4, 64 << 20)
        settled(server, right)
        listed = json.loads(server.get("/-/cache?format=json")[2])["stats"]
    assert listed["what_if"]["policies"] == right
    assert right["lru"] == {"object_hit_ratio": 0.75, "byte_hit_ratio": 0.75}
