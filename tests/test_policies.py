"""The orders of eviction: one contract for all of them, alone, through the cache and through the replay.

Each one's rule is in `test_policy_rules`, what it costs in `test_policy_cost`, what it misses in `test_replay`."""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any
from unittest.mock import patch

import pytest

from lrucache import CHUNK_BYTES, POLICIES, Cache, Entry, Policy
from lrucache.policies import gdsf, s3fifo
from lrucache.replay import Replay
from tests.program import PROJECT

CAPACITY = 64 * 1024 * 1024
SIZES = (0, 1, 2, 3, 50, 51, 1000, CAPACITY)
ASKED = (0, 1, 2, 51, 999, 1000, 1001, CAPACITY, CAPACITY + 1)

Held = list[tuple[str, int]]
"""Names and sizes; for a naive model of recency its whole state, least recently used first."""


def naive_lru(held: Held, size: int) -> str:
    """The least recently used name."""
    return held[0][0]


def naive_relocate(held: Held, size: int) -> str:
    """The least recently used name of at least `size`; if there is none, the least recently used name."""
    return next((name for name, held_size in held if held_size >= size), held[0][0])


NAIVE: dict[str, Callable[[Held, int], str]] = {"lru": naive_lru, "relocate": naive_relocate}
"""The policies whose only state is recency, so that a list says all there is to know about them."""


@pytest.fixture(params=sorted(POLICIES))
def make(request: pytest.FixtureRequest) -> Callable[[], Policy]:
    """A maker of one policy; whatever uses this runs once for each policy there is."""
    return lambda: POLICIES[request.param](CAPACITY)


@pytest.fixture(params=sorted(POLICIES))
def make_with(request: pytest.FixtureRequest) -> Callable[[int], Policy]:
    """The same, with the capacity open."""
    return POLICIES[request.param]


def story(policy: Policy, seed: int, steps: int, names: int, told: Callable[[Held], None]) -> Held:
    """A seeded life of at most `names` names. `told` sees the recency list after each step; it is returned."""
    chance = random.Random(seed)
    away = [f"n{at}" for at in range(names)]
    held: Held = []
    for _ in range(steps):
        at = chance.randrange(names)
        if at >= len(held):
            name, size = away.pop(chance.randrange(len(away))), chance.choice(SIZES)
            held.append((name, size))
            policy.added(name, size)
        elif chance.random() < 0.7:
            held.append(held.pop(at))
            policy.hit(held[-1][0])
        else:
            away.append(held.pop(at)[0])
            policy.removed(away[-1])
        told(held)
    return held


def silence(held: Held) -> None:
    """Tell nobody."""


def drain(policy: Policy, size: int) -> Iterator[str]:
    """Evict for a newcomer of `size` until nothing is held."""
    while True:
        try:
            victim = policy.victim(size)
        except LookupError:
            return
        policy.removed(victim)
        yield victim


def asked_for(seed: int, requests: int) -> Held:
    """Names and sizes to ask a cache of 500 bytes for: popular ones and rare ones, and some with a newer size."""
    chance = random.Random(seed)
    size_of = {f"n{at}": chance.choice((0, 1, 10, 20, 50, 100, 300, 500, 501)) for at in range(60)}
    asked = []
    for _ in range(requests):
        name = f"n{int(60 * chance.random() ** 2)}"
        if chance.random() < 0.05:
            size_of[name] = chance.choice((0, 3, 30, 60, 499))
        asked.append((name, size_of[name]))
    return asked


def fill(cache: Cache, entry: Entry) -> None:
    """Append everything that is missing, and commit."""
    while entry.held < entry.size:
        cache.append(entry, bytes(min(CHUNK_BYTES, entry.size - entry.held)))
    cache.commit(entry)


# The contract.


def test_a_policy_that_holds_nothing_has_no_victim(make: Callable[[], Policy]) -> None:
    policy = make()
    for size in ASKED:
        with pytest.raises(LookupError):
            policy.victim(size)
    policy.added("a", 1)
    policy.removed("a")
    with pytest.raises(LookupError):
        policy.victim(0)
    assert list(policy.order()) == []


def test_the_only_name_is_the_victim_of_any_size(make: Callable[[], Policy]) -> None:
    for held, size in product(SIZES, ASKED):
        policy = make()
        policy.added("only", held)
        assert policy.victim(size) == "only"


def test_a_victim_is_always_a_held_name(make: Callable[[], Policy]) -> None:
    policy = make()

    def told(held: Held) -> None:
        if held:
            assert {policy.victim(size) for size in ASKED} <= {name for name, _ in held}

    story(policy, seed=1, steps=1500, names=40, told=told)


def test_asked_again_a_policy_names_the_same_victim_and_nothing_leaves(make: Callable[[], Policy]) -> None:
    policy = make()

    def told(held: Held) -> None:
        for size in ASKED if held else ():
            victim = policy.victim(size)
            assert sorted(policy.order()) == sorted(held)
            assert policy.victim(size) == victim
            assert policy.rule(victim, size)
            assert policy.victim(size) == victim

    story(policy, seed=2, steps=1000, names=40, told=told)


def test_asking_for_the_order_changes_nothing(make: Callable[[], Policy]) -> None:
    asked, left_alone = make(), make()

    def told(held: Held) -> None:
        assert list(asked.order()) == list(asked.order())

    story(asked, seed=2, steps=1000, names=40, told=told)
    story(left_alone, seed=2, steps=1000, names=40, told=silence)
    assert list(drain(asked, 2)) == list(drain(left_alone, 2))


def test_a_rule_is_said_in_a_few_words(make: Callable[[], Policy]) -> None:
    policy = make()
    story(policy, seed=8, steps=500, names=40, told=silence)
    for size in ASKED:
        assert 2 <= len(policy.rule(policy.victim(size), size).split()) <= 10


def test_the_order_lists_every_held_name_and_size_once(make: Callable[[], Policy]) -> None:
    policy = make()

    def told(held: Held) -> None:
        assert sorted(policy.order()) == sorted(held)

    story(policy, seed=3, steps=1500, names=40, told=told)


@pytest.mark.parametrize("size", [0, 51, CAPACITY + 1])
def test_evicting_until_nothing_is_held_names_everything_once(make: Callable[[], Policy], size: int) -> None:
    policy = make()
    held = story(policy, seed=4, steps=1500, names=200, told=silence)
    assert len(held) > 100
    assert sorted(drain(policy, size)) == sorted(name for name, _ in held)


def test_an_invalidated_name_is_forgotten_and_may_come_back_with_another_size(make: Callable[[], Policy]) -> None:
    policy = make()
    policy.added("a", 1000)
    policy.added("b", 50)
    assert policy.victim(1000) in {"a", "b"}  # whatever is noted lazily is noted now
    policy.removed("a")
    assert [policy.victim(size) for size in ASKED] == ["b"] * len(ASKED)
    assert list(policy.order()) == [("b", 50)]
    policy.added("a", 7)
    policy.removed("b")
    assert list(policy.order()) == [("a", 7)]
    assert list(drain(policy, 8)) == ["a"]


@pytest.mark.parametrize("other", sorted(POLICIES))
def test_any_policy_can_be_rebuilt_from_the_order_of_any_other(make: Callable[[], Policy], other: str) -> None:
    policy, rebuilt = make(), POLICIES[other](CAPACITY)
    story(policy, seed=5, steps=500, names=40, told=silence)
    for name, size in policy.order():
        rebuilt.added(name, size)
    assert sorted(rebuilt.order()) == sorted(policy.order())


def biography() -> str:
    """Everything the policies say about one life and one replay; `test_..._every_process` compares processes."""
    lines = []
    for name in sorted(POLICIES):
        policy = POLICIES[name](CAPACITY)
        story(policy, seed=6, steps=1000, names=60, told=silence)
        replay = Replay(POLICIES[name], 500)
        for _ in replay.run(asked_for(seed=6, requests=2000)):
            pass
        lines.append(f"{name} {list(policy.order())} {list(drain(policy, 3))}")
        lines.append(f"{replay.hits} {list(replay.policy.order())} {list(drain(replay.policy, 3))}")
    return "; ".join(lines)


def test_the_same_calls_give_the_same_victims_in_every_process() -> None:
    ours = biography()
    for hash_seed in ("1", "2"):
        other = subprocess.run(
            [sys.executable, "-c", "from tests.test_policies import biography; print(biography())"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        assert other.stdout.strip() == ours


# The contract, through the cache and the replay.


def test_a_replay_holds_never_more_than_its_capacity_and_whom_its_policy_knows(
    make_with: Callable[[int], Policy],
) -> None:
    replay = Replay(make_with, 500)

    def watched() -> Iterator[tuple[str, int]]:
        for name, size in asked_for(seed=9, requests=3000):
            yield name, size
            assert sum(replay.sizes.values()) == 500 - replay.free <= 500
            assert sorted(replay.policy.order()) == sorted(replay.sizes.items())

    for _ in replay.run(watched()):
        pass
    assert replay.hits > 300


def test_a_newcomer_is_admitted_whenever_there_is_room(make_with: Callable[[int], Policy]) -> None:
    replay = Replay(make_with, 500)
    admit = replay.policy.admit
    with_room = []

    def watched(name: str, size: int) -> bool:
        is_welcome = admit(name, size)
        if size <= replay.free:
            with_room.append(is_welcome)
        return is_welcome

    with patch.object(replay.policy, "admit", watched):
        for _ in replay.run(asked_for(seed=10, requests=3000)):
            pass
    assert len(with_room) > 100
    assert all(with_room)


def test_a_lowered_capacity_is_honoured(make_with: Callable[[int], Policy]) -> None:
    replay = Replay(make_with, 500)
    for requests in (asked_for(seed=11, requests=1000), asked_for(seed=12, requests=1000)):
        for _ in replay.run(requests):
            pass
        held = dict(replay.sizes)
        lower = replay.capacity // 4
        for _ in replay.shrink(lower, keep=lambda name: True):
            pass
        assert sum(replay.sizes.values()) == lower - replay.free <= lower
        assert replay.sizes.items() <= held.items()
        assert sorted(replay.policy.order()) == sorted(replay.sizes.items())


class Lived:
    """A cache that is asked for names, some of which are left in flight; all there is to know is checked by
    `check` after each step."""

    def __init__(self, make_with: Callable[[int], Policy], capacity: int, max_entries: int) -> None:
        self.policy = make_with(capacity)
        self.cache = Cache(capacity, self.policy, max_entries=max_entries)
        self.stored: dict[str, Entry] = {}
        self.in_flight: dict[str, Entry] = {}
        self.evictions = self.evictions_beside = 0

    def request(self, name: str, size: int) -> None:
        """A hit, or a reservation that stays in flight, or nothing."""
        entry = self.stored.get(name)
        if entry is not None:
            assert self.cache.hit(entry)
        elif name not in self.in_flight:
            with patch.object(self.policy, "removed", wraps=self.policy.removed) as removed:
                reserved = self.cache.reserve(name, size, None)
            self._went([call.args[0] for call in removed.call_args_list])
            if isinstance(reserved, Entry):
                self.in_flight[name] = reserved

    def finish(self, name: str, *, well: bool) -> None:
        """Commit what is in flight, or release it."""
        entry = self.in_flight.pop(name)
        if well:
            fill(self.cache, entry)
            self.stored[name] = entry
        else:
            self.cache.release(entry)

    def discard(self, name: str) -> None:
        """Invalidate what is stored."""
        assert self.cache.discard(self.stored.pop(name))

    def check(self) -> None:
        """The budget, and that table and policy know the same names; to who is in flight its bytes are lent."""
        stats, entries = self.cache.snapshot()
        assert stats.cached + stats.filling <= stats.peak <= stats.capacity
        assert stats.violations == 0
        assert stats.evictions == self.evictions
        assert {entry.name: entry for entry in entries} == self.stored
        assert stats.filling == sum(entry.size for entry in self.in_flight.values())
        assert self.policy.capacity == stats.capacity - stats.filling
        assert sorted(self.policy.order()) == sorted((name, entry.size) for name, entry in self.stored.items())

    def _went(self, names: list[str]) -> None:
        """Who was taken from the policy was stored until now."""
        assert len(set(names)) == len(names)
        for name in names:
            assert not self.stored.pop(name).chunks
        self.evictions += len(names)
        self.evictions_beside += len(names) if self.in_flight else 0


@pytest.mark.parametrize("max_entries", [12, 1000])
def test_a_cache_evicts_each_stored_name_once_and_none_in_flight(
    make_with: Callable[[int], Policy], max_entries: int
) -> None:
    chance = random.Random(max_entries)
    life = Lived(make_with, 500, max_entries)
    for name, size in asked_for(seed=13, requests=3000):
        life.request(name, size)
        life.check()
        if len(life.in_flight) > 4:  # the latest one, so that the others stay long
            life.finish(list(life.in_flight)[-1], well=True)
            life.check()
        if life.in_flight and chance.random() < 0.03:
            life.finish(chance.choice(list(life.in_flight)), well=chance.random() < 0.5)
            life.check()
        if life.stored and chance.random() < 0.02:
            life.discard(chance.choice(list(life.stored)))
            life.check()
    assert life.evictions > 100
    assert life.evictions_beside > 100
    for name in list(life.in_flight):
        life.finish(name, well=chance.random() < 0.5)
        life.check()
    assert life.policy.capacity == 500


def test_the_life_of_an_entry_begins_when_it_is_stored(make_with: Callable[[int], Policy]) -> None:
    """`x` is the first to be reserved and in flight when `y` comes; `n0` goes, and `x` comes after `y`."""
    cache = Cache(100, policy := make_with(100))
    x = cache.reserve("x", 1, None)
    for at in range(99):
        cache.put(f"n{at}", b"1", None)
    cache.put("y", b"1", None)
    assert isinstance(x, Entry)
    fill(cache, x)
    assert [eviction.name for eviction in cache.evicted()] == ["n0"]
    assert list(drain(policy, 1)) == [*(f"n{at}" for at in range(1, 99)), "y", "x"]


def test_a_fill_that_fails_tells_the_policy_nothing(make_with: Callable[[int], Policy]) -> None:
    cache = Cache(100, policy := make_with(100))
    cache.put("a", b"1", None)
    x = cache.reserve("x", 60, None)
    assert isinstance(x, Entry)
    assert policy.capacity == 40
    with patch.object(policy, "added") as added, patch.object(policy, "removed") as removed:
        cache.release(x)
        cache.release(x)
    assert (added.call_args_list, removed.call_args_list) == ([], [])
    assert (policy.capacity, list(policy.order())) == (100, [("a", 1)])


# What a policy remembers is bounded.


def strings_in(part: Any) -> int:
    """How many strings a policy refers to, each as often as it does; those are names, but for a few."""
    if isinstance(part, str):
        return len(part) > 0
    if isinstance(part, dict):
        return sum(strings_in(key) + strings_in(value) for key, value in part.items())
    if isinstance(part, (list, tuple, set)):
        return sum(map(strings_in, part))
    slots = [getattr(part, slot) for slot in getattr(type(part), "__slots__", ())]
    return sum(map(strings_in, [*slots, *getattr(part, "__dict__", {}).values()]))


AT_MOST = {
    "lru": 0,
    "relocate": 64,  # places that were left and not taken again
    "sieve": 0,
    "s3fifo": 2 * s3fifo.LEAST_GHOSTS,  # ghosts, and those that were admitted and not stored yet
    "gdsf": gdsf.REMEMBERED + gdsf.LEAST_HELD,  # uses of names, and places in the heap that were left
}
"""Names that are not held, and remembered all the same, when hardly any are held."""


def one_after_the_other(policy: Policy, names: int) -> None:
    """Each comes, and is evicted by the one after it."""
    for at in range(names):
        policy.admit(f"n{at}", 1)
        if at:
            policy.removed(policy.victim(1))
        policy.added(f"n{at}", 1)


def invalidated_again_and_again(policy: Policy, names: int) -> None:
    """Each comes, and is invalidated before the next; a popular one stays below them."""
    policy.added("popular", 1)
    for at in range(names):
        policy.admit(f"n{at}", 1)
        policy.added(f"n{at}", 1)
        policy.removed(f"n{at}")


def the_same_again_and_again(policy: Policy, names: int) -> None:
    """Three names change, and are invalidated and added, for ever."""
    for at in range(names):
        if at >= 3:
            policy.removed(f"n{at % 3}")
        policy.admit(f"n{at % 3}", 1)
        policy.added(f"n{at % 3}", 1)


def knocking_in_vain(policy: Policy, names: int) -> None:
    """Somebody popular is nearly as large as the cache, and others are just too large to come in beside."""
    policy.admit("popular", CAPACITY - 10)
    policy.added("popular", CAPACITY - 10)
    for _ in range(100):
        policy.hit("popular")
    for at in range(names):
        policy.admit(f"n{at}", CAPACITY // 2)


def asked_for_twice_and_never_stored(policy: Policy, names: int) -> None:
    """The cache is full, and the fill of who comes back fails each time."""
    policy.added("all", CAPACITY)
    for at in range(names):
        policy.admit(f"n{at}", CAPACITY // 10)
        policy.admit(f"n{at}", CAPACITY // 10)


WAYS_TO_FILL_A_MEMORY = [
    one_after_the_other,
    invalidated_again_and_again,
    the_same_again_and_again,
    knocking_in_vain,
    asked_for_twice_and_never_stored,
]


@pytest.mark.parametrize("way", WAYS_TO_FILL_A_MEMORY)
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_what_is_remembered_of_names_not_held_is_bounded(name: str, way: Callable[[Policy, int], None]) -> None:
    policy = POLICIES[name](CAPACITY)
    way(policy, 70_000)
    held = len(list(policy.order()))
    assert held <= 3
    assert strings_in(policy) <= AT_MOST[name] + 10 * held


def test_places_in_the_heap_of_gdsf_are_bounded_however_often_uses_are_halved() -> None:
    """A refused newcomer brings the places of all up to date, and after each halving each takes one below that."""
    with patch.object(gdsf, "LEAST_HELD", 1):
        policy = gdsf.Gdsf(1000)
        for at in range(100):
            policy.added(f"n{at}", 10)
        most = 0
        for _ in range(50):
            for hit in range(1000):
                policy.hit(f"n{hit % 100}")
                most = max(most, len(policy._heap))
            assert not policy.admit("large", 1000)
        assert policy._halvings >= 50
        assert 150 < most <= 2 * 100 + 1


@pytest.mark.parametrize(("name", "bound"), [("s3fifo", s3fifo.LEAST_GHOSTS), ("gdsf", gdsf.REMEMBERED)])
def test_as_many_as_the_bound_says_are_remembered(name: str, bound: int) -> None:
    policy = POLICIES[name](CAPACITY)
    one_after_the_other(policy, 70_000)
    assert strings_in(policy) >= bound
