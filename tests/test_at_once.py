"""What takes no wait is read, stored, looked at and taken at once: what the fast path stands on."""

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock, patch

import gevent
import pytest

from fileserver import positioned
from fileserver.root import SMALL_BYTES, Root
from lrucache import CHUNK_BYTES, POLICIES, Accesses, Cache, Entry, Outcome, Refusal
from lrucache.policies.lru import Lru
from tests.house import OLD_NS, Gate, House, wait_for

LATER_NS = 10**18 * 4
NAMES_OF_OPEN = "/proc/self/fd"


@pytest.mark.parametrize("size", [0, 1, SMALL_BYTES - 1])
def test_a_small_file_at_rest_is_read_whole_and_closed(folder: Path, size: int) -> None:
    (folder / "a").write_bytes(b"x" * size)
    root = Root(str(folder))
    before = len(os.listdir(NAMES_OF_OPEN))
    opened = root.read_settled("a", LATER_NS)
    assert opened is not None
    assert (opened.descriptor, opened.first) == (-1, b"x" * size)
    assert opened.identity == root.stat("a")
    assert len(os.listdir(NAMES_OF_OPEN)) == before
    root.close()


@pytest.mark.parametrize(
    "name", ["limit", "large", "sub", "pipe", "missing", "out", "sub/none", "small/x", "loop", "a" * 256]
)
def test_what_is_no_small_file_is_not_settled(folder: Path, name: str) -> None:
    (folder / "small").write_bytes(b"x")
    (folder / "limit").write_bytes(b"x" * SMALL_BYTES)
    (folder / "large").write_bytes(b"x" * (SMALL_BYTES + 1))
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")
    (folder.parent / "secret").write_bytes(b"x")
    (folder / "out").symlink_to(folder.parent / "secret")
    (folder / "loop").symlink_to("loop")
    root = Root(str(folder))
    before = len(os.listdir(NAMES_OF_OPEN))
    assert root.read_settled("small", LATER_NS) is not None
    assert root.read_settled(name, LATER_NS) is None
    assert len(os.listdir(NAMES_OF_OPEN)) == before
    root.close()


@pytest.mark.parametrize(
    ("mtime_ns", "before_ns", "settled"),
    [(OLD_NS, LATER_NS, True), (LATER_NS, LATER_NS, False), (LATER_NS - 1, LATER_NS, True), (OLD_NS, None, False)],
)
def test_a_file_is_settled_when_both_stamps_are_earlier(
    folder: Path, mtime_ns: int, before_ns: int | None, settled: bool
) -> None:
    (folder / "a").write_bytes(b"x")
    os.utime(folder / "a", ns=(mtime_ns, mtime_ns))
    root = Root(str(folder))
    if before_ns is None:
        before_ns = root.stat("a").ctime_ns
        assert root.read_settled("a", before_ns + 1) is not None
    assert (root.read_settled("a", before_ns) is not None) is settled
    root.close()


@pytest.mark.parametrize("read", [b"", b"12", b"1234"])
def test_a_file_whose_size_is_not_what_was_read_is_not_settled(
    folder: Path, read: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a").write_bytes(b"123")
    root = Root(str(folder))
    monkeypatch.setattr(positioned, "read_cached_once", lambda *_: read)
    assert root.read_settled("a", LATER_NS) is None
    root.close()


def test_where_the_kernel_cannot_say_what_it_has_cached_nothing_is_settled(folder: Path) -> None:
    (folder / "a").write_bytes(b"123")
    root = Root(str(folder), portable=True)
    assert root.read_settled("a", LATER_NS) is None
    root.close()


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES])
def test_what_is_put_is_stored_at_once(size: int) -> None:
    cache = Cache(CHUNK_BYTES, Lru(CHUNK_BYTES), clock=lambda: 7.0)
    entry = cache.put("a", bytes(size), "meta")
    assert isinstance(entry, Entry)
    assert cache.find("a") is entry
    assert (entry.size, entry.held, b"".join(entry.chunks), entry.meta, entry.created_s) == (
        size,
        size,
        bytes(size),
        "meta",
        7.0,
    )
    assert len(entry.chunks) == (size > 0)
    stats = cache.stats()
    assert (stats.cached, stats.filling, stats.entries, stats.violations) == (size, 0, 1, 0)


def test_what_is_put_pushes_out_what_the_policy_says_and_an_older_one_of_its_name() -> None:
    cache = Cache(100, Lru(100))
    first = cache.put("a", bytes(60), None)
    assert isinstance(first, Entry)
    second = cache.put("b", bytes(60), None)
    assert isinstance(second, Entry)
    assert first.chunks == []
    third = cache.put("b", bytes(90), None)
    assert second.chunks == []
    stats, entries = cache.snapshot()
    assert entries == [third]
    assert (stats.cached, stats.evictions, stats.peak, stats.violations) == (90, 1, 90, 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_put_refuses_what_reserve_refuses(policy: str) -> None:
    for capacity, filling, size in [(0, 0, 1), (99, 0, 100), (100, 40, 11), (100, 40, 10), (100, 0, 100)]:
        outcomes = []
        for way in ("put", "reserve"):
            cache = Cache(capacity, POLICIES[policy](capacity))
            if filling:
                cache.reserve("other", filling, None)
            got = cache.put("a", bytes(size), None) if way == "put" else cache.reserve("a", size, None)
            outcomes.append(got if isinstance(got, Refusal) else None)
            assert cache.stats().violations == 0
        assert outcomes[0] == outcomes[1]


def test_put_raises_for_a_name_in_flight_and_for_more_than_a_chunk() -> None:
    cache = Cache(4 * CHUNK_BYTES, Lru(4 * CHUNK_BYTES))
    with pytest.raises(ValueError, match="too large"):
        cache.put("a", bytes(CHUNK_BYTES + 1), None)
    cache.reserve("a", 1, None)
    with pytest.raises(ValueError, match="filled already"):
        cache.put("a", b"x", None)
    stats = cache.stats()
    assert (stats.cached, stats.filling) == (0, 1)


@pytest.mark.parametrize(("now_s", "taken"), [(0.0, True), (9.9, True), (10.0, False), (11.0, False)])
def test_take_is_find_and_hit_as_long_as_the_owner_is_sure(now_s: float, taken: bool) -> None:
    cache = Cache(100, POLICIES["relocate"](100))
    a, b = cache.put("a", b"x", None), cache.put("b", b"y", None)
    assert isinstance(a, Entry)
    assert isinstance(b, Entry)
    a.sure_until_s = 10.0
    assert cache.take("a", now_s) is (a if taken else None)
    assert (a.hits, cache.stats().hits) == (taken, taken)
    assert [one.name for one in cache.snapshot()[1]] == (["a", "b"] if taken else ["b", "a"])
    if taken:
        assert a.used_s == now_s


def test_take_knows_no_name_that_is_missing_or_being_filled() -> None:
    cache = Cache(100, Lru(100))
    entry = cache.reserve("a", 1, None)
    assert isinstance(entry, Entry)
    entry.sure_until_s = 10.0
    assert cache.take("a", 0.0) is None
    assert cache.take("b", 0.0) is None
    assert cache.stats().hits == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_taken_is_not_the_next_victim(policy: str) -> None:
    cache = Cache(30, POLICIES[policy](30))
    for name in "abc":
        entry = cache.put(name, bytes(10), None)
        assert isinstance(entry, Entry)
        entry.sure_until_s = 10.0
    assert cache.take("a", 0.0)
    if isinstance(cache.put("d", bytes(10), None), Refusal):  # and comes again
        assert isinstance(cache.put("d", bytes(10), None), Entry)
    assert cache.find("a") is not None
    assert cache.find("b") is None


def now(house: House, name: str) -> tuple[str, bytes] | None:
    found = house.store.get_now(name, house.clock())
    return None if found is None else (found[1].value, b"".join(found[0].chunks))


def test_what_needs_no_wait_is_stored_and_then_a_hit(folder: Path) -> None:
    with House(folder) as house:
        house.write("a", b"content")
        assert now(house, "a") == ("miss", b"content")
        assert now(house, "a") == ("hit", b"content")
        assert house.fetch("a") == ("hit", b"content")
        stats = house.cache.stats()
        assert (stats.hits, stats.misses, house.disk.inline_reads.count) == (2, 1, 1)
        assert house.root.reads == [("a", 0)]


def test_nothing_is_done_where_reads_go_to_the_pool(folder: Path) -> None:
    with House(folder, io="pool") as house:
        house.write("a", b"content")
        assert now(house, "a") is None
        assert (house.root.opens, house.root.reads) == ([], [])


@pytest.mark.parametrize("why", ["cold", "large", "missing", "folder", "young", "no turn"])
def test_nothing_is_stored_or_counted_where_it_would_wait_or_err(folder: Path, why: str) -> None:
    with House(folder, capacity=1 << 20) as house:
        if why == "folder":
            (folder / "a").mkdir()
        elif why != "missing":
            house.write("a", b"x" * (SMALL_BYTES if why == "large" else 10))
        if why == "cold":
            house.root.cold.add("a")
        if why == "young":
            house.wall_ns = time.time_ns()
        taken = 0
        while why == "no turn" and house.disk._open_turns.take_now():
            taken += 1
        assert now(house, "a") is None
        for _ in range(taken):
            house.disk._open_turns.give()
        stats = house.cache.stats()
        assert (stats.hits, stats.misses, stats.bypasses, stats.entries) == (0, 0, 0, 0)


@pytest.mark.parametrize("later", [b"another", b"longer than before", b""])
def test_a_file_that_changes_between_read_and_look_is_not_stored(folder: Path, later: bytes) -> None:
    with House(folder) as house:
        house.write("a", b"content")
        changed_ns: list[int] = []

        def change(name: str, offset: int) -> None:
            (folder / "a").write_bytes(later)
            changed_ns.append(house.wall_ns)  # the stamp that the change leaves, by the house's clock

        house.root.after_read = change
        house.root.stamps = lambda name, identity: (
            identity._replace(mtime_ns=changed_ns[-1]) if changed_ns else identity
        )
        assert now(house, "a") is None
        assert changed_ns
        assert house.cache.stats().entries == 0


def test_a_file_that_somebody_is_filling_is_not_read_again(folder: Path) -> None:
    with House(folder) as house:
        house.write("a", b"content")
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_open = lambda name: gate.wait()
        asking = gevent.spawn(house.fetch, "a")
        wait_for(lambda: gate.waiting)
        house.root.cold.clear()
        assert now(house, "a") is None
        gate.open()
        assert asking.get() == ("miss", b"content")
        assert now(house, "a") == ("hit", b"content")


@pytest.mark.parametrize(("gap_s", "looks"), [(0.4, 0), (0.6, 1), (1.0, 1), (9.0, 1)])
def test_a_stored_file_is_looked_at_after_half_of_the_window(folder: Path, gap_s: float, looks: int) -> None:
    with House(folder) as house:
        house.write("a", b"content")
        assert now(house, "a") == ("miss", b"content")
        house.clock.now_s += gap_s
        assert now(house, "a") == ("hit", b"content")
        assert len(house.root.looks) == looks
        house.replace("a", b"another")
        house.clock.now_s += 1.0
        assert now(house, "a") is None
        assert house.fetch("a") == ("miss", b"another")


def test_what_cannot_be_looked_at_at_once_is_believed_within_the_window_alone(folder: Path) -> None:
    with House(folder) as house:
        house.write("a", b"content")
        assert now(house, "a") == ("miss", b"content")
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_stat = lambda name: gate.wait()
        house.clock.now_s += 0.6
        assert now(house, "a") == ("hit", b"content")
        assert now(house, "a") == ("hit", b"content")
        wait_for(lambda: gate.waiting)
        house.clock.now_s += 0.4
        assert now(house, "a") is None
        gate.open()
        wait_for(lambda: house.root.looks)
        assert len(house.root.looks) == 1
        assert house.cache.stats().hits == 2


def test_nothing_is_believed_without_a_look_when_each_request_wants_one(folder: Path) -> None:
    with House(folder, revalidate_s=0.0) as house:
        house.write("a", b"content")
        assert now(house, "a") == ("miss", b"content")
        assert house.cache.take("a", house.clock()) is None
        assert now(house, "a") == ("hit", b"content")
        assert house.root.looks == ["a"]


def test_an_entry_that_left_while_it_was_asked_for_is_no_hit(folder: Path) -> None:
    with House(folder) as house:
        house.write("a", b"content")
        assert now(house, "a") == ("miss", b"content")
        (folder / "a").unlink()
        house.clock.now_s += 0.6
        assert now(house, "a") is None
        assert (house.cache.stats().entries, house.cache.stats().hits) == (0, 0)


# What the cache does not take.


class Refusing(NamedTuple):
    """A house that refuses "new", ten bytes: why, and how often the policy is asked about it."""

    detail: str
    asked: int
    capacity: int
    policy: str = "relocate"
    stored: tuple[str, ...] = ()
    filling: int = 0


REFUSING = {
    "a cache of nothing": Refusing("too-large", 0, 0),
    "larger than the cache": Refusing("too-large", 0, 9),
    "the fills have their half": Refusing("no-room", 0, 100, filling=41),
    "worth less than whom it would push out": Refusing("not-worth-it", 1, 14, "gdsf", ("small",)),
    "too large for the small queue": Refusing("not-worth-it", 1, 14, "s3fifo", ("small",)),
}


@contextmanager
def refusing(folder: Path, case: str, io: str = "auto") -> Iterator[tuple[House, Mock]]:
    """Such a house, with "new" and "small" in its folder, and what is asked of its policy's door from now on."""
    row = REFUSING[case]
    with House(folder, io=io, capacity=row.capacity, policy=row.policy) as house:
        house.write("new", b"0123456789")
        house.write("small", b"-----")
        for name in row.stored:
            assert house.fetch(name)[0] == "miss"
            assert house.fetch(name)[0] == "hit"
        flying = house.cache.reserve("flying", row.filling, None) if row.filling else None
        house.root.reads.clear()
        policy = house.cache._policy
        with patch.object(policy, "admit", wraps=policy.admit) as asked:
            yield house, asked
        if isinstance(flying, Entry):
            house.cache.release(flying)


@pytest.mark.parametrize("case", REFUSING)
def test_what_the_cache_does_not_take_is_had_at_once_and_past_it(folder: Path, case: str) -> None:
    row = REFUSING[case]
    with refusing(folder, case) as (house, asked):
        before, entries = house.cache.snapshot()
        accesses: Accesses = deque()
        house.cache._accesses = accesses
        found = house.store.get_now("new", house.clock())
        assert found is not None
        assert (found.outcome, found.detail) == (Outcome.BYPASS, row.detail)
        assert (found.entry.size, found.entry.held, found.entry.chunks) == (10, 10, [b"0123456789"])
        assert (house.root.reads, house.root.opens.count("new")) == ([("new", 0)], 1)
        assert asked.call_count == row.asked
        assert house.cache.snapshot() == (before._replace(bypasses=1), entries)
        assert list(accesses) == [("new", 10)]


@pytest.mark.parametrize("case", REFUSING)
def test_the_general_way_refuses_the_same_for_the_same_reason(folder: Path, io: str, case: str) -> None:
    row = REFUSING[case]
    with refusing(folder, case, io) as (house, asked):
        assert house.fetch("new") == (f"bypass {row.detail}", b"0123456789")
        assert asked.call_count == row.asked
        assert house.cache.stats().bypasses == 1


@pytest.mark.parametrize("case", REFUSING)
def test_an_answer_that_was_begun_past_the_cache_goes_on_from_the_disk_uncounted(folder: Path, case: str) -> None:
    with refusing(folder, case) as (house, asked):
        found = house.store.get_now("new", house.clock())
        assert found is not None
        asked.reset_mock()
        body = house.store.resume(found.entry, found.outcome)
        assert (body.outcome, body.size) == (Outcome.BYPASS, 10)
        assert found.entry.readers == 0, "or the entry would live as long as the body"
        found.entry.chunks.clear()
        assert b"".join(body.read(4, 100)) == b"456789"
        body.close()
        assert house.root.reads == [("new", 0), ("new", 4)]
        assert asked.call_count == 0
        assert house.cache.stats().bypasses == 1


@pytest.mark.parametrize("outcome", [Outcome.HIT, Outcome.MISS])
def test_an_answer_that_was_begun_from_the_cache_goes_on_from_there_uncounted(
    folder: Path, outcome: Outcome
) -> None:
    with House(folder) as house:
        house.write("a", b"0123456789")
        found = house.store.get_now("a", house.clock())
        assert found is not None
        counted = house.cache.stats()
        body = house.store.resume(found.entry, outcome)
        assert (body.outcome, found.entry.readers) == (outcome, 1)
        assert b"".join(body.read(4, 100)) == b"456789"
        body.close()
        assert found.entry.readers == 0
        assert (house.root.reads, house.cache.stats()) == ([("a", 0)], counted)


def test_a_newcomer_that_was_refused_once_may_be_taken_the_next_time(folder: Path) -> None:
    with refusing(folder, "too large for the small queue") as (house, asked):
        assert now(house, "new") == ("bypass", b"0123456789")
        assert now(house, "new") == ("miss", b"0123456789")
        assert now(house, "new") == ("hit", b"0123456789")
        assert asked.call_count == 2
        assert house.root.reads == [("new", 0), ("new", 0)]
