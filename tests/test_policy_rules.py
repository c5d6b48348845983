"""Each order of eviction against its rule: a naive model that is in step with it for 10^5 operations, and golden
traces worked out by hand.

The models know no heap, tree, hand in two queues or halving put off: they look at everything, each time.
"""

import random
from collections.abc import Callable
from typing import Protocol
from unittest.mock import patch

import pytest

from lrucache import POLICIES, Cache, CacheStats, Entry, Outcome, Policy, Refusal
from lrucache.policies import gdsf, s3fifo
from tests.test_policies import ASKED, CAPACITY, NAIVE, Held, drain, fill, silence, story


class Model(Protocol):
    """What a naive model answers. Unlike a policy it is told which removal is an eviction."""

    capacity: int

    def admit(self, name: str, size: int) -> bool: ...
    def victim(self, size: int) -> str: ...
    def added(self, name: str, size: int) -> None: ...
    def hit(self, name: str) -> None: ...
    def evicted(self, name: str) -> None: ...
    def invalidated(self, name: str) -> None: ...
    def order(self) -> Held: ...


class NaiveRecency:
    """The two rules whose whole state is who was used last."""

    def __init__(self, name: str, capacity: int) -> None:
        self.capacity = capacity
        self._rule = NAIVE[name]
        self._held: Held = []

    def admit(self, name: str, size: int) -> bool:
        return True

    def victim(self, size: int) -> str:
        return self._rule(self._held, size)

    def added(self, name: str, size: int) -> None:
        self._held.append((name, size))

    def hit(self, name: str) -> None:
        self._held.sort(key=lambda held: held[0] == name)

    def evicted(self, name: str) -> None:
        self._held = [held for held in self._held if held[0] != name]

    invalidated = evicted

    def order(self) -> Held:
        return self._held


class NaiveSieve:
    """One list, oldest first; the hand is an index into it, and never past its end."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._queue: Held = []
        self._marked: list[str] = []
        self._hand = 0

    def admit(self, name: str, size: int) -> bool:
        return True

    def victim(self, size: int) -> str:
        while self._queue[self._hand][0] in self._marked:
            self._marked.remove(self._queue[self._hand][0])
            self._hand = (self._hand + 1) % len(self._queue)
        return self._queue[self._hand][0]

    def added(self, name: str, size: int) -> None:
        self._queue.append((name, size))

    def hit(self, name: str) -> None:
        if name not in self._marked:
            self._marked.append(name)

    def evicted(self, name: str) -> None:
        at = [held[0] for held in self._queue].index(name)
        del self._queue[at]
        if at < self._hand:
            self._hand -= 1
        if self._hand == len(self._queue):
            self._hand = 0
        if name in self._marked:
            self._marked.remove(name)

    invalidated = evicted

    def order(self) -> Held:
        from_the_hand_on = self._queue[self._hand :] + self._queue[: self._hand]
        return sorted(from_the_hand_on, key=lambda held: held[0] in self._marked)


class NaiveS3Fifo:
    """Three lists, oldest first, and each question adds up their bytes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._small: Held = []
        self._main: Held = []
        self._ghosts: Held = []
        self._returning: list[str] = []
        self._uses: dict[str, int] = {}

    def admit(self, name: str, size: int) -> bool:
        if name in names_of(self._ghosts):
            self._ghosts = without(self._ghosts, name)
            self._returning = [*self._returning, name][-s3fifo.LEAST_GHOSTS :]
        if name in self._returning:
            return True
        if self._has_room(size) or size <= self.capacity / 20:
            return True
        self._haunt(name, size)
        return False

    def victim(self, size: int) -> str:
        while True:
            if self._has_room(size):  # for the bytes, but there are too many entries
                is_over = 10 * len(self._small) >= len(self._small + self._main)
            else:
                is_over = bytes_of(self._small) >= self.capacity / 10
            from_small = is_over or not self._main
            queue = self._small if self._small and from_small else self._main
            name, held_size = queue[0]
            if self._uses[name] == 0:
                return name
            del queue[0]
            self._uses[name] = 0 if queue is self._small else self._uses[name] - 1
            self._main.append((name, held_size))

    def added(self, name: str, size: int) -> None:
        if name in self._returning:
            self._returning.remove(name)
            self._main.append((name, size))
        else:
            self._small.append((name, size))
        self._uses[name] = 0

    def hit(self, name: str) -> None:
        self._uses[name] = min(3, self._uses[name] + 1)

    def evicted(self, name: str) -> None:
        left_small = [held for held in self._small if held[0] == name]
        self.invalidated(name)
        for _, size in left_small:
            self._haunt(name, size)

    def invalidated(self, name: str) -> None:
        del self._uses[name]
        self._small = without(self._small, name)
        self._main = without(self._main, name)

    def order(self) -> Held:
        return sorted(self._small + self._main, key=lambda held: self._uses[held[0]])

    def _has_room(self, size: int) -> bool:
        return bytes_of(self._small) + bytes_of(self._main) + size <= self.capacity

    def _haunt(self, name: str, size: int) -> None:
        self._ghosts = [*without(self._ghosts, name), (name, size)]
        while len(self._ghosts) > max(s3fifo.LEAST_GHOSTS, len(self._uses)):
            del self._ghosts[0]
        while len(self._ghosts) > 1 and bytes_of(self._ghosts) > self.capacity * 9 / 10:
            del self._ghosts[0]


class NaiveGdsf:
    """Every count halved when it is time, every held name's worth looked at for each question."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._held: Held = []
        """In the order of their last use."""
        self._worth: dict[str, float] = {}
        self._uses: dict[str, int] = {}
        self._left: list[str] = []
        self._level = 0.0
        self._looks = 0
        self._until_halved = 10 * gdsf.LEAST_HELD

    def admit(self, name: str, size: int) -> bool:
        self._count(name)
        if name not in names_of(self._held):
            self._leave(name)
        missing = bytes_of(self._held) + size - self.capacity
        for other, other_size in self.order():
            if missing <= 0:
                break
            if self._looks == 0 or self._worth[other] > self._level + self._use_of(name, size):
                return False
            self._looks -= 1
            missing -= other_size
        return True

    def victim(self, size: int) -> str:
        return min(self._held, key=lambda held: self._worth[held[0]])[0]

    def added(self, name: str, size: int) -> None:
        if name in self._left:
            self._left.remove(name)
        else:  # those who went for it were more than are remembered
            self._uses[name] = 1
        self._held.append((name, size))
        self._worth[name] = self._level + self._use_of(name, size)

    def hit(self, name: str) -> None:
        self._count(name)
        self._held.sort(key=lambda held: held[0] == name)
        self._worth[name] = self._level + self._use_of(*self._held[-1])

    def evicted(self, name: str) -> None:
        self._level = max(self._level, self._worth[name])
        self.invalidated(name)

    def invalidated(self, name: str) -> None:
        self._held = without(self._held, name)
        self._leave(name)

    def order(self) -> Held:
        return sorted(self._held, key=lambda held: self._worth[held[0]])

    def _use_of(self, name: str, size: int) -> float:
        return float(self._uses[name] / max(size, 1) ** 0.75)

    def _count(self, name: str) -> None:
        self._looks = min(self._looks + 8, gdsf.MOST_LOOKS)
        self._until_halved -= 1
        if self._until_halved == 0:
            self._uses = {each: uses // 2 for each, uses in self._uses.items()}
            self._until_halved = 10 * max(len(self._held), gdsf.LEAST_HELD)
        self._uses[name] = self._uses.get(name, 0) + 1

    def _leave(self, name: str) -> None:
        self._left = [*(each for each in self._left if each != name), name]
        if len(self._left) > gdsf.REMEMBERED:
            del self._uses[self._left.pop(0)]


def names_of(held: Held) -> list[str]:
    """Only the names."""
    return [name for name, _ in held]


def bytes_of(held: Held) -> int:
    """All sizes together."""
    return sum(size for _, size in held)


def without(held: Held, name: str) -> Held:
    """The same list, and `name` not in it."""
    return [each for each in held if each[0] != name]


MODELS: dict[str, Callable[[int], Model]] = {
    "lru": lambda capacity: NaiveRecency("lru", capacity),
    "relocate": lambda capacity: NaiveRecency("relocate", capacity),
    "sieve": NaiveSieve,
    "s3fifo": NaiveS3Fifo,
    "gdsf": NaiveGdsf,
}


class InStep:
    """A policy and its model, and a cache's part for both: whatever one answers, the other must.

    To names in flight their bytes are lent: neither of the two holds them, and both have less capacity.
    """

    def __init__(self, name: str, capacity: int, chance: random.Random) -> None:
        self.capacity = capacity
        self.held: dict[str, int] = {}
        self.in_flight: dict[str, int] = {}
        self.refusals = self.evictions = self.hits = 0
        self._policy = POLICIES[name](capacity)
        self._model = MODELS[name](capacity)
        self._chance = chance

    def request(self, name: str, size: int) -> None:
        """A hit, or a miss that may evict. Another size than before is another version, which misses."""
        if self.held.get(name) == size:
            self._policy.hit(name)
            self._model.hit(name)
            self.hits += 1
        elif size <= self.capacity and not self._is_crowded(name, size):
            if self._chance.random() < 0.5:  # the old version is invalidated before the new one knocks, or after
                self.invalidate(name)
            if self._admit(name, size):
                self.invalidate(name)
                while sum(self.held.values()) + size > self._policy.capacity:
                    self.evict(size)
                self._lend(size)
                self.in_flight[name] = size

    def finish(self, name: str, *, well: bool) -> None:
        """What is in flight is stored, or its fill failed."""
        size = self.in_flight.pop(name)
        self._lend(-size)
        if well:
            self._policy.added(name, size)
            self._model.added(name, size)
            self.held[name] = size

    def invalidate(self, name: str) -> None:
        """Drop a name, if it is held."""
        if name in self.held:
            del self.held[name]
            self._policy.removed(name)
            self._model.invalidated(name)

    def evict(self, size: int) -> None:
        """Let one go for a newcomer of `size`."""
        name = self._policy.victim(size)
        assert name == self._model.victim(size)
        if self._chance.random() < 0.1:
            assert self._policy.victim(size) == name
        del self.held[name]
        self._policy.removed(name)
        self._model.evicted(name)
        self.evictions += 1

    def check(self) -> None:
        """Both hold the same, in the same order."""
        assert list(self._policy.order()) == self._model.order()
        assert dict(self._policy.order()) == self.held

    def _is_crowded(self, name: str, size: int) -> bool:
        """Who is in flight is not asked for again; together they hold at most half, unless there is only one."""
        lent = sum(self.in_flight.values())
        return name in self.in_flight or bool(self.in_flight and lent + size > self.capacity // 2)

    def _lend(self, size: int) -> None:
        self._policy.capacity -= size
        self._model.capacity -= size

    def _admit(self, name: str, size: int) -> bool:
        is_welcome = self._policy.admit(name, size)
        assert is_welcome == self._model.admit(name, size)
        self.refusals += not is_welcome
        return is_welcome


LIVES = [
    # names, capacity, sizes
    (6, 10, (0, 1, 1, 2, 3, 5, 10, 11)),
    (40, 1000, (0, 1, 20, 49, 50, 51, 60, 99, 100, 101, 300, 999, 1000, 1001)),
    (150, 4000, (1, 16, 16, 81, 200, 201, 256, 256, 256, 625, 1296, 3999)),
]
LIFE_STEPS = 34_000


def live(name: str, names: int, capacity: int, sizes: tuple[int, ...], steps: int) -> InStep:
    """A seeded life in step: popular names and rare ones, now and then of another size; fills that last, or fail;
    invalidations; and evictions that bytes are no reason for, as when a cache has entries enough."""
    chance = random.Random(names)
    both = InStep(name, capacity, chance)
    size_of = {f"n{at}": chance.choice(sizes) for at in range(names)}
    for step in range(steps):
        asked = f"n{int(names * chance.random() ** 3)}"
        what = chance.random()
        if what < 0.02 and both.held:
            both.evict(chance.choice(sizes))
        elif what < 0.06 and both.held:
            both.invalidate(chance.choice(list(both.held)))
        else:
            if what > 0.97:
                size_of[asked] = chance.choice(sizes)
            both.request(asked, size_of[asked])
        for flying in [flying for flying in both.in_flight if chance.random() < 0.6]:
            both.finish(flying, well=chance.random() < 0.95)
        if step % 97 == 0:
            both.check()
    both.check()
    return both


def test_every_policy_has_a_model() -> None:
    assert set(MODELS) == set(POLICIES)


@pytest.mark.parametrize(("names", "capacity", "sizes"), LIVES)
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_policy_is_in_step_with_its_naive_model(
    name: str, names: int, capacity: int, sizes: tuple[int, ...]
) -> None:
    both = live(name, names, capacity, sizes, LIFE_STEPS)
    assert both.hits > LIFE_STEPS / 6
    assert both.evictions > LIFE_STEPS / 50
    assert (both.refusals > LIFE_STEPS / 20) == (name in {"gdsf", "s3fifo"})


@pytest.mark.parametrize(("names", "capacity", "sizes"), LIVES)
@pytest.mark.parametrize("least", [1, 5, 30])
def test_s3fifo_is_in_step_when_it_remembers_few_ghosts(
    least: int, names: int, capacity: int, sizes: tuple[int, ...]
) -> None:
    with patch.object(s3fifo, "LEAST_GHOSTS", least):
        live("s3fifo", names, capacity, sizes, 8000)


@pytest.mark.parametrize(("names", "capacity", "sizes"), LIVES)
@pytest.mark.parametrize("remembered", [1, 5, 30])
def test_gdsf_is_in_step_when_it_remembers_few_names(
    remembered: int, names: int, capacity: int, sizes: tuple[int, ...]
) -> None:
    with patch.object(gdsf, "REMEMBERED", remembered):
        live("gdsf", names, capacity, sizes, 8000)


@pytest.mark.parametrize(("names", "capacity", "sizes"), LIVES)
@pytest.mark.parametrize("most", [1, 9, 40])
def test_gdsf_is_in_step_when_it_saves_up_few_looks(
    most: int, names: int, capacity: int, sizes: tuple[int, ...]
) -> None:
    with patch.object(gdsf, "MOST_LOOKS", most):
        live("gdsf", names, capacity, sizes, 8000)


@pytest.mark.parametrize(("names", "capacity", "sizes"), LIVES)
@pytest.mark.parametrize("least", [1, 10, 100])
def test_gdsf_is_in_step_when_it_halves_often(
    least: int, names: int, capacity: int, sizes: tuple[int, ...]
) -> None:
    """As often as for each 10 requests, and, with more names held than `least`, for ten times as many as those."""
    with patch.object(gdsf, "LEAST_HELD", least):
        live("gdsf", names, capacity, sizes, 8000)


def test_gdsf_turns_away_who_needs_more_looks_than_the_requests_so_far_have_earned() -> None:
    both = InStep("gdsf", 300, random.Random(0))
    for at in range(200):
        both.request(f"small {at}", 1)
        both.finish(f"small {at}", well=True)
    both.request("favourite", 100)
    both.finish("favourite", well=True)
    for _ in range(199):
        both.request("favourite", 100)
    both.evict(1)  # from here on a newcomer starts level with all the small ones

    def knock(name: str, size: int) -> bool:
        """Whether it was let in."""
        both.request(name, size)
        was_let_in = name in both.in_flight
        if was_let_in:
            both.finish(name, well=True)
        both.check()
        return was_let_in

    assert knock("before", 50)
    looks = 8 * 401 - 49
    for at in range(looks // 150 + 2):
        assert not knock(f"large {at}", 300)  # it looks at every name up to the favourite, in vain
    assert not knock("after", 50)
    for _ in range(10):
        both.request("favourite", 100)
    assert knock("after", 50)


def test_gdsf_turns_away_what_is_larger_than_the_cache_and_holds_what_it_held() -> None:
    policy = POLICIES["gdsf"](10)
    policy.added("a", 10)
    assert not any(policy.admit("b", 11) for _ in range(9))  # it is soon worth more than all that is held
    assert list(policy.order()) == [("a", 10)]


def test_gdsf_halves_the_uses_of_who_is_in_flight() -> None:
    with patch.object(gdsf, "LEAST_HELD", 1):
        policy = POLICIES["gdsf"](CAPACITY)
    for name in "yz":
        policy.added(name, 1)
    for _ in range(4):
        policy.admit("x", 1)
    for name in "yyyzzz":  # with the last of these ten requests all uses are halved: x has two of four
        policy.hit(name)
    policy.added("x", 1)
    assert [name for name, _ in policy.order()] == ["z", "x", "y"]


# GDSF, and a fill in flight: whom the door looked at goes, and nobody else.


@pytest.mark.parametrize(
    ("hot", "flying", "newcomer"),
    [
        (60, 40, 1),
        (60, 40, 5),
        (50, 50, 0),
        (90, 10, 10),
        (75, 25, 25),
        (20, 80, 1),
    ],
)
def test_a_newcomer_worth_less_evicts_no_favourite_when_the_rest_is_in_flight(
    hot: int, flying: int, newcomer: int
) -> None:
    """The favourite's bytes and those in flight are the capacity. An empty newcomer needs no room."""
    cache = Cache(100, POLICIES["gdsf"](100))
    favourite = cache.put("favourite", bytes(hot), None)
    assert isinstance(favourite, Entry)
    for _ in range(2000):
        cache.hit(favourite)
    entry = cache.reserve("flying", flying, None)
    assert isinstance(entry, Entry)
    for at in range(50):
        cache.put(f"n{at}", bytes(newcomer), None)
    assert cache.find("favourite") is favourite
    assert cache.stats().entries == (51 if newcomer == 0 else 1)
    fill(cache, entry)
    assert cache.find("favourite") is favourite
    assert cache.evicted() == []


def test_whom_the_door_of_gdsf_looked_at_goes_and_no_favourite_while_a_large_fill_lasts() -> None:
    """The least worth go, as many as must: those the door compared the newcomer with, but for none in flight."""
    chance = random.Random(15)
    cache = Cache(1000, policy := POLICIES["gdsf"](1000))
    favourite = cache.put("favourite", bytes(500), None)
    assert isinstance(favourite, Entry)
    for _ in range(5000):
        cache.hit(favourite)
    flying = cache.reserve("flying", 350, None)
    assert isinstance(flying, Entry)
    evictions = refusals = 0
    for at in range(2000):
        if chance.random() < 0.02:
            cache.release(flying)
            flying = cache.reserve(f"flying {at}", 350, None)
            assert isinstance(flying, Entry)
        name, size = f"n{int(60 * chance.random() ** 2)}", chance.choice((1, 5, 10, 40, 60, 100, 150))
        entry = cache.find(name)
        if entry is not None:
            assert cache.hit(entry)
            continue
        least_first = list(policy.order())
        missing = bytes_of(least_first) + 350 + size - 1000
        must_go: list[str] = []
        while missing > 0:
            must_go.append(least_first[len(must_go)][0])
            missing -= least_first[len(must_go) - 1][1]
        before = cache.stats().evictions
        if isinstance(cache.put(name, bytes(size), None), Entry):
            gone = cache.evicted()[: cache.stats().evictions - before]
            assert [eviction.name for eviction in reversed(gone)] == must_go
            evictions += len(gone)
        else:
            refusals += 1
        assert cache.find("favourite") is favourite
    assert evictions > 100
    assert refusals > 50


# S3-FIFO, and names in flight. All are small enough to be let in.


def full_of_ones() -> tuple[Cache, Policy]:
    """A cache of 100 names of one byte; the first of them has gone and is a ghost, n0."""
    cache = Cache(100, policy := POLICIES["s3fifo"](100))
    for at in range(101):
        cache.put(f"n{at}", b"1", None)
    assert [eviction.name for eviction in cache.evicted()] == ["n0"]
    return cache, policy


def in_flight(cache: Cache, name: str) -> Entry:
    """A fill of one byte that lasts."""
    entry = cache.reserve(name, 1, None)
    assert isinstance(entry, Entry)
    return entry


def assert_in_main(policy: Policy, small: list[str], main: list[str]) -> None:
    """These are the queues. Whoever never fits evicts from the small one, which is over its share until nine bytes
    are left in it, and then from the main one."""
    assert list(drain(policy, 101)) == [*small[:-9], *main, *small[-9:]]


def test_a_ghost_comes_to_the_main_queue_when_its_fill_ends_and_others_came_meanwhile() -> None:
    cache, policy = full_of_ones()
    entry = in_flight(cache, "n0")
    cache.put("x", b"1", None)
    cache.put("y", b"1", None)
    fill(cache, entry)
    assert_in_main(policy, [*(f"n{at}" for at in range(4, 101)), "x", "y"], ["n0"])


def test_two_ghosts_in_flight_both_come_to_the_main_queue() -> None:
    cache, policy = full_of_ones()
    first = in_flight(cache, "n0")
    second = in_flight(cache, "n1")
    fill(cache, second)
    fill(cache, first)
    assert_in_main(policy, [f"n{at}" for at in range(3, 101)], ["n1", "n0"])


def test_a_ghost_whose_fill_failed_still_comes_to_the_main_queue() -> None:
    cache, policy = full_of_ones()
    for _ in range(3):
        cache.release(in_flight(cache, "n0"))
    cache.put("n0", b"1", None)
    assert_in_main(policy, [f"n{at}" for at in range(2, 101)], ["n0"])


def test_a_ghost_that_was_stored_is_none_any_more() -> None:
    cache, policy = full_of_ones()
    n0 = cache.put("n0", b"1", None)
    assert isinstance(n0, Entry)
    assert cache.discard(n0)
    cache.put("n0", b"1", None)
    assert_in_main(policy, [*(f"n{at}" for at in range(2, 101)), "n0"], [])


def test_a_newcomer_whose_fill_failed_is_no_ghost() -> None:
    cache, policy = full_of_ones()
    x = in_flight(cache, "x")
    cache.release(x)
    cache.put("x", b"1", None)
    assert_in_main(policy, [*(f"n{at}" for at in range(2, 101)), "x"], [])


@pytest.mark.parametrize("popular", [400, 900, 3000])
def test_s3fifo_that_has_entries_enough_and_bytes_to_spare_hits_the_popular_at_least_as_often_as_lru(
    popular: int,
) -> None:
    """Every other request is a scan's, and asks for a name of its own."""
    hits = dict.fromkeys(("s3fifo", "lru"), 0)
    for name in hits:
        chance = random.Random(popular)
        cache = Cache(CAPACITY, POLICIES[name](CAPACITY), max_entries=1000)
        for at in range(20_000):
            for asked in (f"popular {int(popular * chance.random() ** 3)}", f"scan {at}"):
                entry = cache.find(asked)
                if entry is None:
                    cache.put(asked, b"1", None)
                else:
                    hits[name] += cache.hit(entry)
        assert cache.stats().entries == 1000
    assert hits["s3fifo"] >= hits["lru"] > 5000


# The rules whose only state is recency, with uses that pile up between two questions.


@pytest.mark.parametrize("name", sorted(NAIVE))
@pytest.mark.parametrize(("names", "ask_each"), [(3, 1), (40, 1), (40, 23), (400, 7), (400, 997)])
def test_a_policy_agrees_with_its_naive_list(name: str, names: int, ask_each: int) -> None:
    policy, rule = POLICIES[name](CAPACITY), NAIVE[name]
    steps = iter(range(12_000))

    def told(held: Held) -> None:
        step = next(steps)
        if step % ask_each == 0 and held:
            assert [policy.victim(size) for size in ASKED] == [rule(held, size) for size in ASKED]
        if step % 499 == 0:
            assert list(policy.order()) == held

    held = story(policy, seed=names, steps=12_000, names=names, told=told)
    assert list(policy.order()) == held


@pytest.mark.parametrize("name", sorted(NAIVE))
@pytest.mark.parametrize("size", [0, CAPACITY + 1])
def test_a_newcomer_nothing_is_large_enough_for_evicts_in_order_of_recency(name: str, size: int) -> None:
    policy = POLICIES[name](CAPACITY)
    held = story(policy, seed=7, steps=1000, names=200, told=silence)
    order = [held_name for held_name, _ in policy.order()]
    assert order == [held_name for held_name, _ in held]
    assert list(drain(policy, size)) == order


@pytest.mark.parametrize("name", ["lru", "relocate", "sieve"])
def test_the_rules_without_a_door_admit_every_newcomer(name: str) -> None:
    policy = POLICIES[name](1)
    policy.added("a", 1)
    assert all(policy.admit("b", size) for size in ASKED)


# Golden traces, through the cache.


def replayed(name: str, capacity: int, trace: str) -> tuple[list[str], Cache]:
    """Ask for `name-size`, again and again; each as "hit", "miss" and whom it evicted, in order, or a refusal."""
    cache = Cache(capacity, POLICIES[name](capacity))
    seen = []
    for asked, size in (request.split("-") for request in trace.split()):
        found = cache.find(asked)
        if found is not None:
            assert cache.hit(found)
            seen.append("hit")
            continue
        evictions_before = cache.stats().evictions
        entry = cache.reserve(asked, int(size), None)
        if isinstance(entry, Refusal):
            cache.count(Outcome.BYPASS, asked, int(size))
            seen.append(entry.value)
            continue
        fill(cache, entry)
        cache.count(Outcome.MISS, asked, int(size))
        latest = cache.evicted()[: cache.stats().evictions - evictions_before]
        assert all(eviction.newcomer == asked for eviction in latest)
        seen.append(" ".join(["miss", *(eviction.name for eviction in reversed(latest))]))
    return seen, cache


def counters(stats: CacheStats) -> tuple[int, int, int, int]:
    """Hits, misses, bypasses, evictions."""
    return stats.hits, stats.misses, stats.bypasses, stats.evictions


GOLDEN = "a-4 b-3 c-2 a-4 d-4 b-3 e-1 c-2 f-7 g-0 a-4 c-2 h-11"
# Ten bytes. Held names with their sizes after each request, least recently used first.
#
#         lru                                         relocate
#   a-4   miss            a4                    free 6   miss        a4                    free 6
#   b-3   miss            a4 b3                 free 3   miss        a4 b3                 free 3
#   c-2   miss            a4 b3 c2              free 1   miss        a4 b3 c2              free 1
#   a-4   hit             b3 c2 a4              free 1   hit         b3 c2 a4              free 1
#   d-4   miss, b goes    c2 a4 d4              free 0   miss, a     b3 c2 d4              free 1   a: first >= 4
#   b-3   miss, c then a  d4 b3                 free 3   hit         c2 d4 b3              free 1
#   e-1   miss            d4 b3 e1              free 2   miss        c2 d4 b3 e1           free 0
#   c-2   miss            d4 b3 e1 c2           free 0   hit         d4 b3 e1 c2           free 0
#   f-7   miss, d then b  e1 c2 f7              free 0   miss, d b   e1 c2 f7              free 0   none is >= 7
#   g-0   miss            e1 c2 f7 g0           free 0   miss        e1 c2 f7 g0           free 0   needs no room
#   a-4   miss, e, c, f   g0 a4                 free 6   miss, f     e1 c2 g0 a4           free 3   f: first >= 4
#   c-2   miss            g0 a4 c2              free 4   hit         e1 g0 a4 c2           free 3
#   h-11  too large       g0 a4 c2              free 4   too large   e1 g0 a4 c2           free 3


def test_lru_evicts_as_worked_out_by_hand() -> None:
    seen, cache = replayed("lru", 10, GOLDEN)
    assert seen == [
        *("miss", "miss", "miss", "hit", "miss b", "miss c a", "miss", "miss"),
        *("miss d b", "miss", "miss e c f", "miss", "too-large"),
    ]
    stats, entries = cache.snapshot()
    assert counters(stats) == (1, 11, 1, 8)
    assert [entry.name for entry in entries] == ["c", "a", "g"]


def test_relocate_evicts_as_worked_out_by_hand() -> None:
    seen, cache = replayed("relocate", 10, GOLDEN)
    assert seen == [
        *("miss", "miss", "miss", "hit", "miss a", "hit", "miss", "hit"),
        *("miss d b", "miss", "miss f", "hit", "too-large"),
    ]
    stats, entries = cache.snapshot()
    assert counters(stats) == (4, 8, 1, 4)
    assert [entry.name for entry in entries] == ["c", "a", "g", "e"]


SIEVED = "a-1 b-1 c-1 a-1 c-1 d-1 e-1 a-1 b-1 a-1 f-2 g-4 h-0 a-1"
# Three bytes. The queue after each request, oldest first; * is marked, > is where the hand will look next.
#
#   a-1   miss            >a
#   b-1   miss            >a   b
#   c-1   miss            >a   b   c
#   a-1   hit             >a*  b   c
#   c-1   hit             >a*  b   c*
#   d-1   miss, b          a  >c*  d      a is passed over
#   e-1   miss, d         >a   c   e      c is passed over; d was the newest: the hand begins again
#   a-1   hit             >a*  c   e
#   b-1   miss, c          a  >e   b
#   a-1   hit              a* >e   b      marked again behind the hand
#   f-2   miss, e then b  >a*  f          the hand was at the end again
#   g-4   too large       >a*  f
#   h-0   miss            >a*  f   h      needs no room
#   a-1   hit             >a*  f   h


def test_sieve_evicts_as_worked_out_by_hand() -> None:
    seen, cache = replayed("sieve", 3, SIEVED)
    assert seen == [
        *("miss", "miss", "miss", "hit", "hit", "miss b", "miss d", "hit"),
        *("miss c", "hit", "miss e b", "too-large", "miss", "hit"),
    ]
    assert counters(cache.stats()) == (5, 8, 1, 5)
    assert {eviction.rule for eviction in cache.evicted()} == {"not used since the hand came by"}


QUEUED = "a-40 b-50 c-4 a-40 d-5 e-5 b-50 f-6 d-5 f-6 b-50 b-50 g-30 h-5 i-5 j-40 j-40 k-5 l-60 c-4 h-5"
# 100 bytes. The small queue is over its share from 10 bytes on; larger than 5 is large. The first in stand first,
# ' is a use. Ghosts may have 90 bytes together.
#
#         who goes         small        main         ghosts         free
#   a-40  miss             a40                                        60
#   b-50  miss             a40 b50                                    10
#   c-4   miss             a40 b50 c4                                  6
#   a-40  hit              a' b50 c4                                   6
#   d-5   miss             a' b50 c4 d5                                1
#   e-5   miss, b          c4 d5 e5     a            b50              46  a is promoted
#   b-50  miss, c          d5 e5        a b          c4                0  b was a ghost
#   f-6   not worth it     d5 e5        a b          c4 f6             0  large
#   d-5   hit              d' e5        a b          c4 f6             0
#   f-6   miss, a          e5           b d f        c4               34  d is promoted, and then it is main's turn
#   b-50  hit              e5           b' d f       c4               34
#   b-50  hit              e5           b'' d f      c4               34
#   g-30  miss             e5 g30       b'' d f      c4                4  large, but there is room
#   h-5   miss, e          g30 h5       b'' d f      c4 e5             4
#   i-5   miss, g          h5 i5        b'' d f      c4 e5 g30        29
#   j-40  not worth it     h5 i5        b'' d f      c4 e5 g30 j40    29
#   j-40  miss, h, d, f    i5           b' j         c4 e5 g30 h5      5  b goes round
#   k-5   miss             i5 k5        b' j         c4 e5 g30 h5      0
#   l-60  not worth it     i5 k5        b' j         h5 l60            0  104 bytes: three ghosts are forgotten
#   c-4   miss, i          k5 c4        b' j         h5 l60 i5         1  no ghost any more
#   h-5   miss, j          k5 c4        b h          l60 i5           36  b goes round


def test_s3fifo_evicts_as_worked_out_by_hand() -> None:
    seen, cache = replayed("s3fifo", 100, QUEUED)
    assert seen == [
        *("miss", "miss", "miss", "hit", "miss", "miss b", "miss c", "not-worth-it", "hit"),
        *("miss a", "hit", "hit", "miss", "miss e", "miss g", "not-worth-it"),
        *("miss h d f", "miss", "not-worth-it", "miss i", "miss j"),
    ]
    assert counters(cache.stats()) == (4, 14, 3, 10)
    rules = {eviction.name: eviction.rule for eviction in cache.evicted()}
    assert {name for name, rule in rules.items() if rule == "not used since it came"} == set("bceghi")
    assert {name for name, rule in rules.items() if rule == "not used since it came round"} == set("adfj")


VALUED = "a-16 b-16 c-1 a-16 d-16 e-32 b-16 a-16 d-16 f-1 g-1 e-32 e-32 e-32 e-32 e-32 h-35"
# 34 bytes. A use is worth 1 for c, f and g, 1/8 for a, b and d, and 1/13.45 for e. What each is worth, times 8,
# the first to go first, and L after it; of a newcomer first what it is compared with.
#
#   a-16  miss                        a 1                       L 0
#   b-16  miss                        a 1  b 1                  L 0
#   c-1   miss                        a 1  b 1  c 8             L 0
#   a-16  hit                         b 1  a 2  c 8             L 0
#   d-16  miss, b         1 >= 1      a 2  d 2  c 8             L 1   it comes with L + 1
#   e-32  not worth it    1.59 < 2    a 2  d 2  c 8             L 1
#   b-16  miss, a         3 >= 2      d 2  b 3 + 1  c 8         L 2   two uses; a was used before d came
#   a-16  miss, d         5 >= 2      b 4  a 5  c 8             L 2   three uses
#   d-16  miss, b         4 >= 4      a 5  d 6  c 8             L 4   two uses
#   f-1   miss                        a 5  d 6  c 8  f 12       L 4   there is room for one
#   g-1   miss, a         12 >= 5     d 6  c 8  f 12  g 13      L 5   15 free
#   e-32  not worth it    6.19 < 8    d 6  c 8  f 12  g 13      L 5   d would not do, and c is worth more
#   e-32  not worth it    6.78 < 8    the same: e has three uses
#   e-32  not worth it    7.38 < 8    the same
#   e-32  not worth it    7.97 < 8    the same
#   e-32  miss, d, c      8.57 >= 8   e 11.57  f 12  g 13       L 8   six uses
#   h-35  too large


def test_gdsf_evicts_as_worked_out_by_hand() -> None:
    seen, cache = replayed("gdsf", 34, VALUED)
    assert seen == [
        *("miss", "miss", "miss", "hit", "miss b", "not-worth-it", "miss a", "miss d", "miss b"),
        *("miss", "miss a", *["not-worth-it"] * 4, "miss d c", "too-large"),
    ]
    assert counters(cache.stats()) == (1, 10, 6, 7)
    assert {eviction.rule for eviction in cache.evicted()} == {"worth least"}


WORST = "H-40 a-10 H-40 b-11 H-40 c-12 H-40 d-13 H-40 e-14 H-40 f-15 H-40 g-16 H-40"
# 64 bytes. H is asked for every other time, and each newcomer is larger than every small name that is held.
#
#         lru                                         relocate
#   H-40  miss            H40                   free 24  miss        H40                   free 24
#   a-10  miss            H40 a10               free 14  miss        H40 a10               free 14
#   H-40  hit             a10 H40               free 14  hit         a10 H40               free 14
#   b-11  miss            a10 H40 b11           free 3   miss        a10 H40 b11           free 3
#   H-40  hit             a10 b11 H40           free 3   hit         a10 b11 H40           free 3
#   c-12  miss, a         b11 H40 c12           free 1   miss, H     a10 b11 c12           free 31  only H is >= 12
#   H-40  hit             b11 c12 H40           free 1   miss, a     b11 c12 H40           free 1   none is >= 40
#   d-13  miss, b then c  H40 d13               free 11  miss, H     b11 c12 d13           free 28
#   H-40  hit             d13 H40               free 11  miss, b c   d13 H40               free 11
#   e-14  miss, d         H40 e14               free 10  miss, H     d13 e14               free 37
#   H-40  hit             e14 H40               free 10  miss, d     e14 H40               free 10
#   f-15  miss, e         H40 f15               free 9   miss, H     e14 f15               free 35
#   H-40  hit             f15 H40               free 9   miss, e     f15 H40               free 9
#   g-16  miss, f         H40 g16               free 8   miss, H     f15 g16               free 33
#   H-40  hit             g16 H40               free 8   miss, f     g16 H40               free 8


def test_relocate_evicts_the_hottest_name_when_it_is_the_only_larger_one_and_lru_never_does() -> None:
    seen_by_lru, lru = replayed("lru", 64, WORST)
    seen_by_relocate, relocate = replayed("relocate", 64, WORST)
    assert seen_by_lru == [
        *("miss", "miss", "hit", "miss", "hit", "miss a", "hit", "miss b c"),
        *("hit", "miss d", "hit", "miss e", "hit", "miss f", "hit"),
    ]
    assert seen_by_relocate == [
        *("miss", "miss", "hit", "miss", "hit", "miss H", "miss a", "miss H"),
        *("miss b c", "miss H", "miss d", "miss H", "miss e", "miss H", "miss f"),
    ]
    assert (lru.stats().hits, lru.stats().misses) == (7, 8)
    assert (relocate.stats().hits, relocate.stats().misses) == (2, 13)


@pytest.mark.parametrize(
    ("name", "hits", "misses", "bypasses", "bytes_read"),
    [
        ("lru", 7, 8, 0, 131),
        ("relocate", 2, 13, 0, 331),
        ("sieve", 7, 8, 0, 131),  # H is marked each time the hand comes by
        ("s3fifo", 7, 3, 5, 131),  # as soon as it is full, newcomers of more than 3 bytes are turned away
        ("gdsf", 7, 3, 5, 131),  # a newcomer is worth less than a, which is smaller
    ],
)
def test_the_worst_case_of_relocate_is_no_other_policys(
    name: str, hits: int, misses: int, bypasses: int, bytes_read: int
) -> None:
    seen, cache = replayed(name, 64, WORST)
    sizes = [int(request.split("-")[1]) for request in WORST.split()]
    assert counters(cache.stats())[:3] == (hits, misses, bypasses)
    assert sum(size for what, size in zip(seen, sizes, strict=True) if what != "hit") == bytes_read
