"""Whom a newcomer would evict, said beforehand: exactly whom it then does, and saying so changes nothing."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lrucache import POLICIES, Cache, Entry, Eviction, Refusal
from lrucache.cache import FORESEEN_MAX
from lrucache.policies.overlay import Overlay
from tests.house import Clock
from tests.test_cache import names, stored, zeros

CAPACITY = 500

Step = tuple[str, str, int]
"""What is done, with which name, and its size."""

NAMES = st.sampled_from([f"n{at}" for at in range(14)])
SIZES = st.sampled_from([0, 0, 1, 3, 10, 20, 24, 25, 26, 50, 60, 100, 100, 200, 250, 300, 499, 500, 501])
STEPS = st.lists(
    st.tuples(st.sampled_from(["ask"] * 6 + ["renew", "discard", "begin", "end", "fail"]), NAMES, SIZES),
    max_size=90,
)


class Life:
    """One cache that is used for a while."""

    def __init__(self, policy: str, max_entries: int) -> None:
        self.clock = Clock()
        self.cache = Cache(CAPACITY, POLICIES[policy](CAPACITY), max_entries=max_entries, clock=self.clock)
        self.policy = self.cache._policy
        self.in_flight: OrderedDict[str, Entry] = OrderedDict()

    def take(self, step: Step) -> Refusal | None:
        """One step; why a newcomer was refused."""
        what, name, size = step
        self.clock.now_s += 1
        entry = self.cache.find(name)
        if what in ("end", "fail"):
            if self.in_flight:
                oldest = self.in_flight.popitem(last=False)[1]
                if what == "end":
                    self.cache.append(oldest, zeros(oldest.size))
                    self.cache.commit(oldest)
                else:
                    self.cache.release(oldest)
        elif name in self.in_flight:
            pass
        elif what == "discard":
            if entry is not None:
                self.cache.discard(entry)
        elif what == "ask" and entry is not None:
            self.cache.hit(entry)
        else:
            put: Callable[..., Entry | Refusal] = self.cache.reserve
            come = put(name, size, None) if what == "begin" else self.cache.put(name, zeros(size), None)
            if isinstance(come, Refusal):
                return come
            if what == "begin":
                self.in_flight[name] = come
        return None

    def is_newcomer(self, step: Step) -> bool:
        """Whether the step will reserve something."""
        what, name, _ = step
        if name in self.in_flight or what not in ("ask", "renew", "begin"):
            return False
        return what != "ask" or self.cache.find(name) is None

    def evicted_since(self, before: int) -> list[Eviction]:
        """The evictions after the first so many, in order."""
        latest = self.cache.evicted()
        return latest[: self.cache.stats().evictions - before][::-1]


def told(evictions: list[Eviction]) -> list[tuple[str, int, int, str, str]]:
    """Without times: the real one comes a moment later."""
    return [(each.name, each.size, each.hits, each.newcomer, each.rule) for each in evictions]


@pytest.mark.parametrize("policy", sorted(POLICIES))
@settings(max_examples=150, deadline=None)
@given(
    max_entries=st.sampled_from([1, 3, 6, 100]), steps=STEPS, others=st.lists(st.tuples(NAMES, SIZES), max_size=3)
)
@example(max_entries=100, steps=[("ask", f"n{at % 13}", 50) for at in range(40)], others=[("n13", 300)])
def test_whoever_is_foreseen_to_go_goes_and_nothing_else_changes(
    policy: str, max_entries: int, steps: list[Step], others: list[tuple[str, int]]
) -> None:
    """Beside a twin that is never asked to foresee anything."""
    life, twin = Life(policy, max_entries), Life(policy, max_entries)
    for step in steps:
        for other, size in others:
            if other not in life.in_flight:
                life.cache.foresee(other, size)
        foreseen = life.cache.foresee(step[1], step[2]) if life.is_newcomer(step) else None
        assert life.cache.snapshot()[0] == twin.cache.snapshot()[0]
        before = life.cache.stats().evictions
        refusal = life.take(step)
        if foreseen is not None:
            assert foreseen.is_all
            assert foreseen.refusal is refusal
            assert told(foreseen.evictions) == told(life.evicted_since(before))
        assert twin.take(step) is refusal
        assert life.cache.evicted() == twin.cache.evicted()
        assert names(life.cache) == names(twin.cache)
        assert list(life.policy.order()) == list(twin.policy.order())
        assert life.policy.capacity == twin.policy.capacity


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_no_more_are_foreseen_than_are_kept_and_that_is_said(policy: str) -> None:
    cache = Cache(FORESEEN_MAX + 9, POLICIES[policy](FORESEEN_MAX + 9), clock=Clock())
    for at in range(FORESEEN_MAX + 9):
        stored(cache, f"n{at}", 1)
    foreseen = cache.foresee("n3", FORESEEN_MAX + 9)
    assert (foreseen.refusal is None) or policy in ("s3fifo", "gdsf")
    if foreseen.refusal is None:
        assert (len(foreseen.evictions), foreseen.is_all) == (FORESEEN_MAX, False)
        assert "n3" not in {each.name for each in foreseen.evictions}, "it is dropped, not evicted"
    assert cache.stats().evictions == 0


def test_foreseeing_ends_when_its_time_has_passed() -> None:
    clock = Clock()
    cache = Cache(100, POLICIES["lru"](100), clock=clock)
    for at in range(100):
        stored(cache, f"n{at}", 1)

    def later() -> float:
        clock.now_s += 0.001
        return clock.now_s

    cache._clock = later
    foreseen = cache.foresee("new", 100)
    assert 1 <= len(foreseen.evictions) <= 10
    assert not foreseen.is_all


def test_who_may_not_evict_is_refused_where_there_is_no_room() -> None:
    cache = Cache(10, POLICIES["lru"](10))
    stored(cache, "a", 6)
    assert cache.reserve("b", 5, None, may_evict=False) is Refusal.NO_ROOM
    assert names(cache) == ["a"]
    entry = cache.reserve("b", 4, None, may_evict=False)
    assert isinstance(entry, Entry)
    cache.release(entry)


# What trials are made of.

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["set", "pop", "pop default", "popitem", "move", "del", "get"]),
        st.sampled_from("abcdefgh"),
        st.integers(0, 9),
    ),
    max_size=60,
)


def done(mapping: OrderedDict[str, list[int]], what: str, name: str, value: int) -> Any:
    """One operation and what came of it."""
    try:
        if what == "set":
            mapping[name] = [value]
        elif what == "del":
            del mapping[name]
        elif what == "move":
            mapping.move_to_end(name)
        elif what == "popitem":
            return mapping.popitem(last=False)
        elif what == "get":
            if name in mapping:
                mapping[name].append(value)
            return mapping.get(name)
        else:
            return mapping.pop(name, *[[value]] * (what == "pop default"))
    except (KeyError, StopIteration):
        return KeyError
    return None


@settings(max_examples=300, deadline=None)
@given(before=st.lists(st.sampled_from("abcdef"), unique=True), operations=OPERATIONS)
def test_an_overlay_is_an_ordered_dictionary_and_its_base_stays(
    before: list[str], operations: list[tuple[str, str, int]]
) -> None:
    base = OrderedDict((name, [at]) for at, name in enumerate(before))
    plain = OrderedDict((name, [at]) for at, name in enumerate(before))
    overlay = Overlay(base, own=list.copy)
    for operation in operations:
        assert done(overlay, *operation) == done(plain, *operation)
        assert list(overlay) == list(plain)
        assert (len(overlay), bool(overlay)) == (len(plain), bool(plain))
        assert [overlay[name] for name in overlay] == list(plain.values())
        assert [name in overlay for name in "abcdefgh"] == [name in plain for name in "abcdefgh"]
    assert base == OrderedDict((name, [at]) for at, name in enumerate(before))


@pytest.mark.parametrize(
    "use",
    [
        lambda overlay: overlay.items(),
        lambda overlay: overlay.values(),
        lambda overlay: overlay.keys(),
        lambda overlay: overlay.copy(),
        lambda overlay: overlay.clear(),
        lambda overlay: overlay.update({}),
        lambda overlay: overlay.popitem(),
        lambda overlay: overlay.move_to_end("a", last=False),
        reversed,
    ],
)
def test_what_an_overlay_has_no_use_for_is_refused(use: Callable[[Any], Any]) -> None:
    with pytest.raises(NotImplementedError):
        use(Overlay({"a": 1}))
