"""The cache against a naive model that recounts everything after each step, and its rules one by one."""

import math
from collections import deque
from collections.abc import Callable
from functools import cache as remember
from itertools import product
from typing import Any

import gevent
import pytest
from gevent.event import Event
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lrucache import (
    CHUNK_BYTES,
    MAX_ENTRIES,
    POLICIES,
    Accesses,
    Cache,
    CacheStats,
    Entry,
    Eviction,
    Outcome,
    Policy,
    Refusal,
)
from lrucache.cache import EVICTIONS_KEPT
from lrucache.policies.lru import Lru
from tests.house import Clock
from tests.test_policies import NAIVE, Held


@remember
def zeros(size: int) -> bytes:
    """One object for each size: the chunks of a thousand examples cost the memory of a few."""
    return bytes(size)


def next_chunk(entry: Entry) -> bytes:
    """What `append` must be given next."""
    return zeros(min(CHUNK_BYTES, entry.size - entry.held))


def fill(cache: Cache, entry: Entry) -> None:
    """Append everything that is missing, and commit."""
    while entry.held < entry.size:
        cache.append(entry, next_chunk(entry))
    cache.commit(entry)


def reserved(cache: Cache, name: str, size: int) -> Entry:
    """Reserve what must not be refused."""
    entry = cache.reserve(name, size, None)
    assert isinstance(entry, Entry), entry
    return entry


def stored(cache: Cache, name: str, size: int) -> Entry:
    """Reserve, fill and commit."""
    entry = reserved(cache, name, size)
    fill(cache, entry)
    return entry


def names(cache: Cache) -> list[str]:
    """LIST: most recently used first."""
    return [entry.name for entry in cache.snapshot()[1]]


NAMES = "abcdefgh"

EIGHTHS = st.sampled_from([0, 1, 1, 1, 2, 2, 3, 4, 5, 8])
BESIDE = st.sampled_from([0, 0, 0, 0, -1, 1])
PICK = st.integers(0, 63)


NAIVE_RULES: dict[str, Callable[[int, int], str]] = {
    "lru": lambda held_size, size: "least recently used",
    "relocate": lambda held_size, size: "large enough" if held_size >= size else "least recently used",
}
"""Why the victim of that size had to go for a newcomer of this size."""


class CacheMachine(RuleBasedStateMachine):
    """Any sequence of calls, on current and on stale entries, against plain lists that are recounted each time."""

    @initialize(
        policy=st.sampled_from(sorted(NAIVE_RULES)),
        capacity=st.sampled_from([8, 4 * CHUNK_BYTES]),
        max_entries=st.sampled_from([1, 4, 5, 6, 8, 100]),
        asked=st.lists(st.tuples(st.sampled_from(NAMES), EIGHTHS), min_size=4, max_size=12),
    )
    def create(self, policy: str, capacity: int, max_entries: int, asked: list[tuple[str, int]]) -> None:
        """Begin with a cache that has been used for a while; hypothesis alone seldom gets one full."""
        self.naive_victim = NAIVE[policy]
        self.naive_rule = NAIVE_RULES[policy]
        self.policy = POLICIES[policy](capacity)
        self.clock = Clock()
        self.accesses: Accesses = deque()
        self.cache = Cache(
            capacity, self.policy, max_entries=max_entries, clock=self.clock, accesses=self.accesses
        )
        self.seen: list[Entry] = []
        self.stored: list[Entry] = []  # least recently used first
        self.in_flight: dict[str, Entry] = {}
        self.order: Held = []  # the policy's: from commit on, least recently used first
        self.peak = self.misuses = 0
        self.evictions: list[Eviction] = []  # the last one first
        self.answers: list[tuple[str, int]] = []
        self.outcomes = dict.fromkeys(Outcome, 0)
        for name, eighths in asked:
            self.one_request(name, eighths, 0)
            self.check()

    def picked(self, pick: int) -> Entry:
        """A stored entry, one in flight, or now and then one that has left."""
        current = [*self.in_flight.values(), *self.stored]
        choice = current if current and pick % 8 else self.seen
        return choice[pick // 8 % len(choice)]

    @rule(name=st.sampled_from(NAMES), eighths=st.sampled_from([0, 1, 1, 2, 3, 8]), beside=BESIDE)
    def reserve(self, name: str, eighths: int, beside: int) -> None:
        self.begin(name, eighths, beside)

    def begin(self, name: str, eighths: int, beside: int) -> Entry | None:
        """Reserve or be refused. Sizes are eighths of the capacity, exactly or a byte beside."""
        size = max(0, self.cache.capacity * eighths // 8 + beside)
        if name in self.in_flight:
            with pytest.raises(ValueError, match="being filled already"):
                self.cache.reserve(name, size, None)
            return None
        refusal = self.model_refusal(size)
        if refusal is not None:
            assert self.cache.reserve(name, size, None) is refusal
            return None
        self.model_reserve(name, size)
        entry = self.in_flight[name] = reserved(self.cache, name, size)
        self.seen.append(entry)
        return entry

    @rule(name=st.sampled_from(NAMES), eighths=EIGHTHS, beside=BESIDE)
    def request(self, name: str, eighths: int, beside: int) -> None:
        self.one_request(name, eighths, beside)

    def one_request(self, name: str, eighths: int, beside: int) -> None:
        """What a store does for one request, all at once: a hit, or a fill from reservation to commit."""
        found = self.cache.find(name)
        if found is not None:
            self.model_hit(found)
            return
        entry = self.begin(name, eighths, beside)
        if entry is not None:
            self.finish(entry)

    def finish(self, entry: Entry) -> None:
        fill(self.cache, entry)
        self.model_commit(entry)

    @precondition(lambda self: self.in_flight)
    @rule()
    def finish_the_oldest(self) -> None:
        self.finish(next(iter(self.in_flight.values())))

    @precondition(lambda self: self.in_flight)
    @rule(pick=PICK)
    def append(self, pick: int) -> None:
        entry = self.picked(pick)
        if self.in_flight.get(entry.name) is entry:
            self.cache.append(entry, next_chunk(entry))
            return
        with pytest.raises(ValueError, match="was not reserved"):
            self.cache.append(entry, b"x")
        self.misuses += 1

    @precondition(lambda self: self.in_flight)
    @rule(pick=PICK)
    def commit(self, pick: int) -> None:
        entry = self.picked(pick)
        if self.in_flight.get(entry.name) is entry and entry.held == entry.size:
            self.cache.commit(entry)
            self.model_commit(entry)
            return
        with pytest.raises(ValueError, match="is not complete"):
            self.cache.commit(entry)
        self.misuses += 1

    @precondition(lambda self: self.seen)
    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        entry = self.picked(pick)
        self.cache.release(entry)
        if self.in_flight.get(entry.name) is entry:
            del self.in_flight[entry.name]

    @precondition(lambda self: self.seen)
    @rule(pick=PICK)
    def discard(self, pick: int) -> None:
        entry = self.picked(pick)
        assert self.cache.discard(entry) is (entry in self.stored)
        if entry in self.stored:
            self.stored.remove(entry)
            self.order.remove((entry.name, entry.size))

    @precondition(lambda self: self.seen)
    @rule(pick=PICK)
    def hit(self, pick: int) -> None:
        self.model_hit(self.picked(pick))

    @rule(
        outcome=st.sampled_from([Outcome.MISS, Outcome.COALESCED, Outcome.BYPASS]),
        name=st.sampled_from(NAMES),
        size=st.integers(0, 9),
    )
    def count(self, outcome: Outcome, name: str, size: int) -> None:
        self.cache.count(outcome, name, size)
        self.outcomes[outcome] += 1
        self.answers.append((name, size))

    @precondition(lambda self: self.seen)
    @rule(pick=PICK, is_sure=st.booleans())
    def take(self, pick: int, is_sure: bool) -> None:
        entry = self.picked(pick)
        entry.sure_until_s = self.clock.now_s + is_sure
        stored = next((one for one in self.stored if one.name == entry.name), None)
        if stored is None or stored.sure_until_s <= self.clock.now_s:
            assert self.cache.take(entry.name, self.clock.now_s) is None
            return
        assert self.cache.take(entry.name, self.clock.now_s) is stored
        self.model_use(stored)

    def model_hit(self, entry: Entry) -> None:
        hits = entry.hits
        assert self.cache.hit(entry) is (entry in self.stored)
        assert entry.hits == hits + (entry in self.stored)
        if entry in self.stored:
            self.model_use(entry)

    def model_use(self, entry: Entry) -> None:
        self.stored.remove(entry)
        self.stored.append(entry)
        self.order.remove((entry.name, entry.size))
        self.order.append((entry.name, entry.size))
        self.outcomes[Outcome.HIT] += 1
        self.answers.append((entry.name, entry.size))

    def model_refusal(self, size: int) -> Refusal | None:
        flying = list(self.in_flight.values())
        if size > self.cache.capacity:
            return Refusal.TOO_LARGE
        half_bytes, half_entries = self.cache.capacity // 2, self.cache.max_entries // 2
        if flying and (sum(entry.size for entry in flying) + size > half_bytes or len(flying) + 1 > half_entries):
            return Refusal.NO_ROOM
        return None

    def model_reserve(self, name: str, size: int) -> None:
        """An older entry of the name goes, then victims until it fits. The policy knows only who is stored."""
        self.stored = [entry for entry in self.stored if entry.name != name]
        self.order = [(held, held_size) for held, held_size in self.order if held != name]
        flying = list(self.in_flight.values())
        while (
            sum(entry.size for entry in self.stored + flying) + size > self.cache.capacity
            or len(self.stored + flying) + 1 > self.cache.max_entries
        ):
            victim = self.naive_victim(self.order, size)
            self.model_evict(victim, name, size)
            self.order = [(held, held_size) for held, held_size in self.order if held != victim]

    def model_commit(self, entry: Entry) -> None:
        self.stored.append(self.in_flight.pop(entry.name))
        self.order.append((entry.name, entry.size))

    def model_evict(self, victim: str, newcomer: str, size: int) -> None:
        (gone,) = (entry for entry in self.stored if entry.name == victim)
        self.stored.remove(gone)
        rule, now_s = self.naive_rule(gone.size, size), self.clock.now_s
        age_s = now_s - gone.created_s
        self.evictions.insert(0, Eviction(victim, gone.size, gone.hits, age_s, newcomer, rule, now_s))

    @invariant()
    def check(self) -> None:
        """Recount everything."""
        flying = list(self.in_flight.values())
        cached, filling = (sum(entry.size for entry in held) for held in (self.stored, flying))
        self.peak = max(self.peak, cached + filling)
        assert cached + filling <= self.cache.capacity
        assert len(self.stored) + len(flying) <= self.cache.max_entries
        stats, entries = self.cache.snapshot()
        assert entries == self.stored[::-1]
        assert list(self.policy.order()) == self.order
        assert self.policy.capacity == self.cache.capacity - filling
        assert stats == self.cache.stats()
        assert stats == CacheStats(
            capacity=self.cache.capacity,
            cached=cached,
            filling=filling,
            peak=self.peak,
            violations=self.misuses,  # so: the budget and the bound never once
            entries=len(self.stored),
            hits=self.outcomes[Outcome.HIT],
            misses=self.outcomes[Outcome.MISS],
            coalesced=self.outcomes[Outcome.COALESCED],
            bypasses=self.outcomes[Outcome.BYPASS],
            evictions=len(self.evictions),
        )
        assert self.cache.evicted() == self.evictions[:EVICTIONS_KEPT]
        assert list(self.accesses) == self.answers
        self.clock.now_s += 1
        for name in NAMES:
            assert self.cache.find(name) is next((entry for entry in self.stored if entry.name == name), None)
        for entry in self.seen:
            self.check_chunks(entry)

    def check_chunks(self, entry: Entry) -> None:
        """Whatever is held is whole; whatever has left is empty."""
        assert all(len(chunk) == CHUNK_BYTES for chunk in entry.chunks[:-1])
        lengths = sum(map(len, entry.chunks))
        if entry in self.stored:
            assert lengths == entry.held == entry.size
        elif self.in_flight.get(entry.name) is entry:
            assert lengths == entry.held <= entry.size
        else:
            assert entry.chunks == []


def test_the_cache_agrees_with_a_naive_model() -> None:
    rules = settings(derandomize=True, database=None, deadline=None, max_examples=200, stateful_step_count=50)
    run_state_machine_as_test(CacheMachine, settings=rules)


# The budget and the bound.


def admitting(name: str, capacity: int) -> Policy:
    """A policy that admits everyone: these are the cache's rules, and whom to turn away is not one of them."""
    policy = POLICIES[name](capacity)
    setattr(policy, "admit", lambda name, size: True)  # noqa: B010 (mypy minds it said plainly)
    return policy


@pytest.fixture(params=sorted(POLICIES))
def make(request: pytest.FixtureRequest) -> Callable[..., Cache]:
    """A maker of caches with one policy; whatever uses this runs once for each policy there is."""

    def maker(capacity: int, max_entries: int = MAX_ENTRIES, **options: Any) -> Cache:
        return Cache(capacity, admitting(request.param, capacity), max_entries=max_entries, **options)

    return maker


@pytest.mark.parametrize(("capacity", "max_entries"), [(-1, 1), (10, 0)])
def test_a_cache_needs_a_capacity_and_an_entry_bound(capacity: int, max_entries: int) -> None:
    with pytest.raises(ValueError, match="capacity must be"):
        Cache(capacity, Lru(capacity), max_entries=max_entries)


def test_exactly_the_capacity_fits_and_one_byte_more_is_too_large(make: Callable[..., Cache]) -> None:
    cache = make(10)
    stored(cache, "small", 1)
    assert cache.reserve("larger", 11, None) is Refusal.TOO_LARGE
    assert names(cache) == ["small"]
    stored(cache, "exact", 10)
    assert names(cache) == ["exact"]
    assert (cache.stats().cached, cache.stats().peak) == (10, 10)


def test_a_newcomer_that_fits_the_free_space_evicts_nothing_and_one_byte_more_does(
    make: Callable[..., Cache],
) -> None:
    cache = make(10)
    stored(cache, "a", 4)
    stored(cache, "b", 6)
    assert names(cache) == ["b", "a"]
    assert cache.stats().evictions == 0
    stored(cache, "c", 1)
    assert cache.stats().evictions == 1


def test_a_cache_of_no_bytes_stores_only_empty_payloads(make: Callable[..., Cache]) -> None:
    cache = make(0)
    stored(cache, "empty", 0)
    assert cache.reserve("byte", 1, None) is Refusal.TOO_LARGE
    assert names(cache) == ["empty"]


def test_empty_payloads_are_bounded_by_entries(make: Callable[..., Cache]) -> None:
    cache = make(10, max_entries=3)
    for name in "abcd":
        stored(cache, name, 0)
    assert names(cache) == ["d", "c", "b"]
    assert cache.stats().evictions == 1


def test_a_name_in_flight_counts_as_an_entry(make: Callable[..., Cache]) -> None:
    cache = make(10, max_entries=4)
    reserved(cache, "flying", 0)
    for name in "abcd":
        stored(cache, name, 0)
    assert names(cache) == ["d", "c", "b"]


def test_70_000_empty_names_leave_the_latest_65_536(make: Callable[..., Cache]) -> None:
    cache = make(10)
    for at in range(70_000):
        cache.commit(reserved(cache, str(at), 0))
    assert names(cache) == [str(at) for at in range(69_999, 70_000 - 65_536 - 1, -1)]
    stats = cache.stats()
    assert (stats.entries, stats.evictions, stats.violations) == (MAX_ENTRIES, 70_000 - 65_536, 0)


# Fills in flight.


@pytest.mark.parametrize(
    ("capacity", "flying", "newcomer", "taken"),
    [
        (10, [], 10, True),
        (10, [2], 3, True),
        (10, [2], 4, False),
        (10, [10], 0, False),
        (10, [5], 0, True),
        (10, [1, 2], 2, True),
        (10, [1, 2], 3, False),
        (11, [2], 3, True),
        (11, [2], 4, False),
    ],
)
def test_fills_in_flight_hold_at_most_half_the_capacity_unless_there_is_only_one(
    make: Callable[..., Cache], capacity: int, flying: list[int], newcomer: int, taken: bool
) -> None:
    cache = make(capacity)
    for at, size in enumerate(flying):
        reserved(cache, f"flying {at}", size)
    entry = cache.reserve("newcomer", newcomer, None)
    assert isinstance(entry, Entry) if taken else entry is Refusal.NO_ROOM
    assert cache.stats().filling == sum(flying) + newcomer * taken


@pytest.mark.parametrize(("max_entries", "at_once"), [(1, 1), (3, 1), (4, 2), (7, 3)])
def test_fills_in_flight_are_at_most_half_the_entry_bound_unless_there_is_only_one(
    make: Callable[..., Cache], max_entries: int, at_once: int
) -> None:
    cache = make(10, max_entries=max_entries)
    for at in range(at_once):
        reserved(cache, str(at), 0)
    assert cache.reserve("one more", 0, None) is Refusal.NO_ROOM


@pytest.mark.parametrize("end", [fill, Cache.release])
def test_an_ended_fill_makes_room_for_another(
    make: Callable[..., Cache], end: Callable[[Cache, Entry], None]
) -> None:
    cache = make(10)
    first = reserved(cache, "first", 5)
    assert cache.reserve("second", 1, None) is Refusal.NO_ROOM
    end(cache, first)
    stored(cache, "second", 1)
    assert cache.stats().filling == 0


def test_a_refused_newcomer_evicts_nothing_and_its_older_entry_stays(make: Callable[..., Cache]) -> None:
    cache = make(10)
    older = stored(cache, "a", 4)
    assert cache.reserve("a", 11, None) is Refusal.TOO_LARGE
    reserved(cache, "flying", 5)
    assert cache.reserve("a", 4, None) is Refusal.NO_ROOM
    assert cache.find("a") is older
    assert older.chunks == [bytes(4)]


def test_a_newcomer_the_policy_does_not_admit_is_not_worth_it_and_evicts_nothing() -> None:
    class Choosy(Lru):
        def admit(self, name: str, size: int) -> bool:
            return name != "x"

    cache = Cache(10, Choosy(10))
    stored(cache, "a", 10)
    assert cache.reserve("x", 10, None) is Refusal.NOT_WORTH_IT
    assert cache.reserve("x", 11, None) is Refusal.TOO_LARGE
    assert names(cache) == ["a"]


def test_a_name_in_flight_is_never_evicted(make: Callable[..., Cache]) -> None:
    cache = make(10)
    flying = reserved(cache, "flying", 1)
    for name in "bcdefg":
        stored(cache, name, 4)
    assert names(cache) == ["g", "f"]
    fill(cache, flying)
    assert names(cache) == ["flying", "g", "f"]
    assert cache.hit(flying)
    stored(cache, "h", 10)  # once stored, it may go like any other
    assert names(cache) == ["h"]


def test_a_name_that_is_being_filled_cannot_be_reserved_and_is_not_found(make: Callable[..., Cache]) -> None:
    cache = make(10)
    flying = reserved(cache, "a", 1)
    with pytest.raises(ValueError, match="'a' is being filled already"):
        cache.reserve("a", 1, None)
    assert cache.find("a") is None
    assert not cache.hit(flying)
    assert not cache.discard(flying)
    fill(cache, flying)
    assert cache.find("a") is flying


def test_a_newcomer_replaces_the_older_entry_of_its_name_without_an_eviction(make: Callable[..., Cache]) -> None:
    cache = make(10)
    older, other = stored(cache, "a", 6), stored(cache, "b", 4)
    newer = reserved(cache, "a", 5)
    assert older.chunks == []
    assert cache.find("a") is None
    fill(cache, newer)
    assert cache.snapshot()[1] == [newer, other]
    assert not cache.hit(older)
    assert not cache.discard(older)
    assert (cache.stats().cached, cache.stats().evictions) == (9, 0)


@pytest.mark.parametrize(
    ("size", "before", "wrong"),
    [
        (3, [], 4),
        (3, [], 2),
        (3, [], 0),
        (3, [3], 1),
        (0, [], 1),
        (CHUNK_BYTES + 5, [], CHUNK_BYTES - 1),
        (CHUNK_BYTES + 5, [CHUNK_BYTES], CHUNK_BYTES),
        (CHUNK_BYTES + 5, [CHUNK_BYTES], 6),
        (CHUNK_BYTES + 5, [], CHUNK_BYTES + 5),
    ],
)
def test_a_chunk_that_is_not_the_next_one_reserved_is_refused_and_counted(
    make: Callable[..., Cache], size: int, before: list[int], wrong: int
) -> None:
    cache = make(4 * CHUNK_BYTES)
    entry = reserved(cache, "a", size)
    for length in before:
        cache.append(entry, zeros(length))
    with pytest.raises(ValueError, match="'a': this chunk was not reserved"):
        cache.append(entry, zeros(wrong))
    assert cache.stats().violations == 1
    assert list(map(len, entry.chunks)) == before
    assert entry.held == sum(before)


def test_nothing_is_appended_to_an_entry_that_is_not_in_flight(make: Callable[..., Cache]) -> None:
    cache = make(10)
    committed, released = stored(cache, "a", 1), reserved(cache, "b", 1)
    cache.release(released)
    for entry in committed, released:
        with pytest.raises(ValueError, match="was not reserved"):
            cache.append(entry, b"x")
    assert cache.stats().violations == 2
    assert (committed.chunks, released.chunks) == ([bytes(1)], [])


def test_an_incomplete_entry_cannot_be_committed_and_none_twice(make: Callable[..., Cache]) -> None:
    cache = make(4 * CHUNK_BYTES)
    entry = reserved(cache, "a", CHUNK_BYTES + 1)
    cache.append(entry, zeros(CHUNK_BYTES))
    with pytest.raises(ValueError, match="'a' is not complete"):
        cache.commit(entry)
    assert cache.find("a") is None
    fill(cache, entry)
    with pytest.raises(ValueError, match="'a' is not complete"):
        cache.commit(entry)
    assert (cache.stats().violations, cache.stats().cached) == (2, CHUNK_BYTES + 1)


@pytest.mark.parametrize("leave", ["evicted", "released", "discarded"])
def test_an_entry_that_leaves_drops_its_chunks_at_once(make: Callable[..., Cache], leave: str) -> None:
    cache = make(10)
    entry = reserved(cache, "a", 10)
    cache.append(entry, bytes(10))
    chunks = entry.chunks
    if leave == "released":
        cache.release(entry)
        cache.release(entry)
    else:
        cache.commit(entry)
        cache.release(entry)
        assert chunks
        if leave == "evicted":
            reserved(cache, "b", 10)
        else:
            assert cache.discard(entry)
    assert chunks == []
    assert entry.window(0, 10) == []
    assert cache.stats().cached == 0


# The window.

CONTENT = bytes(at % 251 for at in range(2 * CHUNK_BYTES + 10))


def filled_to(held: int) -> Entry:
    """An entry of CONTENT of which `held` bytes are here."""
    entry = Entry("a", len(CONTENT), None, 0.0)
    entry.chunks = [CONTENT[at : min(at + CHUNK_BYTES, held)] for at in range(0, held, CHUNK_BYTES)]
    entry.held = held
    return entry


EDGES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, len(CONTENT) - 1]


@pytest.mark.parametrize("held", [0, CHUNK_BYTES, 2 * CHUNK_BYTES, len(CONTENT)])
def test_a_window_is_the_bytes_from_offset_up_to_limit_that_are_here(held: int) -> None:
    entry = filled_to(held)
    for offset, limit in product(EDGES, [*EDGES, len(CONTENT), 3 * CHUNK_BYTES]):
        buffers = entry.window(offset, limit)
        assert b"".join(buffers) == CONTENT[:held][offset : offset + limit], (offset, limit)
        assert all(buffers), (offset, limit)


def test_a_window_copies_nothing() -> None:
    entry = filled_to(len(CONTENT))
    whole = entry.window(0, len(CONTENT))
    assert [id(buffer) for buffer in whole] == [id(chunk) for chunk in entry.chunks]
    cut = entry.window(CHUNK_BYTES - 1, CHUNK_BYTES + 2)
    assert [buffer.obj for buffer in cut if isinstance(buffer, memoryview)] == [entry.chunks[0], entry.chunks[2]]
    assert cut[1] is entry.chunks[1]


@pytest.mark.parametrize(
    "offset",
    [
        len(CONTENT),
        3 * CHUNK_BYTES,
        4 * CHUNK_BYTES + 1,
    ],
)
def test_a_window_past_the_end_is_empty(offset: int) -> None:
    assert filled_to(len(CONTENT)).window(offset, 10) == []


# Counters, recency and the clock.


def test_each_outcome_has_its_own_counter_and_a_hit_counts_itself(make: Callable[..., Cache]) -> None:
    cache = make(10)
    entry = stored(cache, "a", 1)
    for outcome, times in (Outcome.MISS, 1), (Outcome.COALESCED, 2), (Outcome.BYPASS, 3):
        for _ in range(times):
            cache.count(outcome, "a", 1)
    for _ in range(4):
        assert cache.hit(entry)
    stats = cache.stats()
    assert (stats.misses, stats.coalesced, stats.bypasses, stats.hits) == (1, 2, 3, 4)
    assert entry.hits == 4


def test_a_look_is_not_a_use_and_a_hit_is(make: Callable[..., Cache]) -> None:
    cache = make(10)
    entry = stored(cache, "a", 1)
    stored(cache, "b", 1)
    assert cache.find("a") is entry
    assert names(cache) == ["b", "a"]
    assert cache.hit(entry)
    assert names(cache) == ["a", "b"]


def test_peak_is_the_most_that_was_ever_cached_and_filling_together(make: Callable[..., Cache]) -> None:
    cache = make(10)
    entry = stored(cache, "a", 4)
    cache.release(reserved(cache, "b", 5))
    assert cache.discard(entry)
    stats = cache.stats()
    assert (stats.peak, stats.cached, stats.filling, stats.evictions) == (9, 0, 0, 0)


@pytest.mark.parametrize("limit", ["capacity", "max_entries"])
def test_a_broken_budget_or_bound_would_be_counted(make: Callable[..., Cache], limit: str) -> None:
    cache = make(1, max_entries=1)
    entry = reserved(cache, "a", 1)
    setattr(cache, limit, 0)  # no sequence of calls breaks them, so the limit moves instead
    fill(cache, entry)
    assert cache.stats().violations == 1


def test_an_entry_knows_when_it_came_and_when_it_was_last_used() -> None:
    now_s = iter([100.0, 107.5])
    cache = Cache(10, Lru(10), clock=lambda: next(now_s))
    entry = cache.reserve("a", 0, "anything")
    assert isinstance(entry, Entry)
    cache.commit(entry)
    assert (entry.created_s, entry.used_s, entry.meta) == (100.0, 100.0, "anything")
    assert cache.hit(entry)
    assert (entry.created_s, entry.used_s) == (100.0, 107.5)


def test_a_hit_is_no_outcome_to_count(make: Callable[..., Cache]) -> None:
    accesses: Accesses = deque()
    cache = make(10, accesses=accesses)
    with pytest.raises(KeyError):
        cache.count(Outcome.HIT, "a", 1)
    assert cache.stats().hits == 0
    assert not accesses


def test_accesses_are_all_answers_in_their_order_and_nothing_else(make: Callable[..., Cache]) -> None:
    accesses: Accesses = deque()
    cache = make(10, accesses=accesses)
    entry = stored(cache, "a", 3)
    cache.put("b", b"xx", None)
    cache.find("a")
    cache.snapshot()
    assert not accesses, "none of that was an answer"
    cache.count(Outcome.MISS, "a", 3)
    assert cache.hit(entry)
    cache.count(Outcome.BYPASS, "large", 11)
    entry.sure_until_s = math.inf
    assert cache.take("a", 0.0) is entry
    cache.count(Outcome.COALESCED, "b", 2)
    assert cache.discard(entry)
    assert not cache.hit(entry)
    assert cache.take("a", 0.0) is None
    assert list(accesses) == [("a", 3), ("a", 3), ("large", 11), ("a", 3), ("b", 2)]


def test_accesses_may_be_taken_from_the_left_and_be_bounded(make: Callable[..., Cache]) -> None:
    accesses: Accesses = deque(maxlen=2)
    cache = make(10, accesses=accesses)
    for size in range(3):
        cache.count(Outcome.MISS, "a", size)
    assert accesses.popleft() == ("a", 1)
    cache.count(Outcome.MISS, "a", 3)
    assert list(accesses) == [("a", 2), ("a", 3)]
    assert cache.stats().misses == 4


@pytest.mark.parametrize(("content", "chunks"), [(b"", []), (b"x", [b"x"]), (b"abc", [b"abc"])])
def test_a_complete_entry_holds_all_of_its_content(content: bytes, chunks: list[bytes]) -> None:
    entry = Entry("a", len(content), None, 0.0)
    entry.complete(content)
    assert (entry.held, entry.chunks) == (len(content), chunks)
    assert b"".join(entry.window(0, 10)) == content


# The ring of evictions.


def test_an_eviction_says_who_went_for_whom_and_why() -> None:
    clock = Clock()
    cache = Cache(10, POLICIES["relocate"](10), clock=clock)
    cache.put("small", bytes(2), None)
    clock.now_s += 5
    large = cache.put("large", bytes(8), None)
    assert isinstance(large, Entry)
    assert cache.hit(large)
    assert cache.hit(large)
    clock.now_s += 2.5
    cache.put("newcomer", bytes(3), None)
    clock.now_s += 1
    cache.put("whole", bytes(10), None)
    assert cache.evicted() == [
        Eviction("newcomer", 3, 0, 1.0, "whole", "least recently used", 1008.5),
        Eviction("small", 2, 0, 8.5, "whole", "least recently used", 1008.5),
        Eviction("large", 8, 2, 2.5, "newcomer", "large enough", 1007.5),
    ]


RULES = {
    "lru": {"least recently used"},
    "relocate": {"large enough"},
    "sieve": {"not used since the hand came by"},
    "s3fifo": {"not used since it came", "not used since it came round"},
    "gdsf": {"worth least"},
}


@pytest.mark.parametrize("policy", sorted(RULES))
def test_the_rule_of_an_eviction_is_the_policys_own(policy: str) -> None:
    cache = Cache(100, admitting(policy, 100))
    for at in range(40):
        entry = stored(cache, str(at), 10)
        if at < 20:  # enough that some come round
            assert cache.hit(entry)
    assert len(cache.evicted()) == 30
    assert {eviction.rule for eviction in cache.evicted()} == RULES[policy]


def test_every_policy_has_its_rules_here() -> None:
    assert set(RULES) == set(POLICIES)


@pytest.mark.parametrize("leave", [Cache.discard, lambda cache, entry: cache.reserve("a", 1, None)])
def test_who_leaves_untrue_or_for_a_new_version_was_not_evicted(
    make: Callable[..., Cache], leave: Callable[[Cache, Entry], object]
) -> None:
    cache = make(10)
    leave(cache, stored(cache, "a", 10))
    cache.release(reserved(cache, "b", 1))
    assert cache.find("a") is None
    assert (cache.evicted(), cache.stats().evictions) == ([], 0)


def test_the_latest_thousand_evictions_are_kept_and_all_are_counted() -> None:
    cache = Cache(1, Lru(1))
    for at in range(EVICTIONS_KEPT + 6):
        cache.put(str(at), b"x", None)
    assert EVICTIONS_KEPT == 1000
    assert [one.name for one in cache.evicted()] == [str(at) for at in range(EVICTIONS_KEPT + 4, 4, -1)]
    assert [one.newcomer for one in cache.evicted()] == [str(at) for at in range(EVICTIONS_KEPT + 5, 5, -1)]
    assert cache.stats().evictions == EVICTIONS_KEPT + 5


def test_the_list_of_evictions_is_the_callers_own(make: Callable[..., Cache]) -> None:
    cache = make(1)
    stored(cache, "a", 1)
    stored(cache, "b", 1)
    evicted = cache.evicted()
    stored(cache, "c", 1)
    assert [one.name for one in evicted] == ["a"]
    evicted.clear()
    assert [one.name for one in cache.evicted()] == ["b", "a"]


# The semaphore.

CALLS: dict[str, Callable[[Cache, Entry, Entry], object]] = {
    "find": lambda cache, held, flying: cache.find("held"),
    "hit": lambda cache, held, flying: cache.hit(held),
    "count": lambda cache, held, flying: cache.count(Outcome.MISS, "a", 1),
    "reserve": lambda cache, held, flying: cache.reserve("new", 1, None),
    "append": lambda cache, held, flying: cache.append(flying, b"x"),
    "commit": lambda cache, held, flying: cache.commit(flying),
    "release": lambda cache, held, flying: cache.release(flying),
    "discard": lambda cache, held, flying: cache.discard(held),
    "snapshot": lambda cache, held, flying: cache.snapshot(),
    "stats": lambda cache, held, flying: cache.stats(),
    "evicted": lambda cache, held, flying: cache.evicted(),
    "take": lambda cache, held, flying: cache.take("held", 0.0),
    "put": lambda cache, held, flying: cache.put("new", b"x", None),
}


@pytest.mark.parametrize("call", sorted(CALLS))
def test_a_greenlet_that_yields_inside_the_section_excludes_the_others(call: str) -> None:
    cache = Cache(10, Lru(10))
    held, flying = stored(cache, "held", 1), reserved(cache, "flying", call != "commit")
    asked, answered = Event(), Event()

    def ask() -> None:
        asked.set()
        CALLS[call](cache, held, flying)
        answered.set()

    with cache._section:
        asker = gevent.spawn(ask)
        assert asked.wait(10)  # yields; `ask` ran on until the semaphore stopped it
        assert not answered.is_set()
    asker.get(timeout=10)
    assert answered.is_set()
    assert not cache._section.locked()
