"""The orders of eviction: one contract for all of them, the two old rules against naive lists, golden traces
worked out by hand, the cost of `relocate` counted, and real traces."""

import csv
import gzip
import math
import os
import random
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any
from unittest.mock import patch

import pytest

from lrucache import POLICIES, Cache, Entry, Outcome, Policy, Refusal
from lrucache.policies.relocate import Relocate
from tests.program import PROJECT

CAPACITY = 64 * 1024 * 1024
SIZES = (0, 1, 2, 3, 50, 51, 1000, CAPACITY)
ASKED = (0, 1, 2, 51, 999, 1000, 1001, CAPACITY, CAPACITY + 1)

Held = list[tuple[str, int]]
"""The naive model's whole state: (name, size), least recently used first."""


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


def test_asking_for_a_victim_or_the_order_changes_nothing(make: Callable[[], Policy]) -> None:
    asked, left_alone = make(), make()

    def told(held: Held) -> None:
        if held:
            first = [asked.victim(size) for size in ASKED]
            assert list(asked.order()) == list(asked.order())
            assert [asked.victim(size) for size in ASKED] == first

    story(asked, seed=2, steps=1000, names=40, told=told)
    story(left_alone, seed=2, steps=1000, names=40, told=silence)
    assert list(asked.order()) == list(left_alone.order())
    assert list(drain(asked, 2)) == list(drain(left_alone, 2))


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
    """Everything the policies say about one life, in a line; `test_..._every_process` compares processes."""
    lines = []
    for name in sorted(POLICIES):
        policy = POLICIES[name](CAPACITY)
        story(policy, seed=6, steps=1000, names=60, told=silence)
        lines.append(f"{name} {list(policy.order())} {list(drain(policy, 3))}")
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


# The rules, against naive lists.


@pytest.mark.parametrize("name", sorted(NAIVE))
@pytest.mark.parametrize(("names", "ask_each"), [(3, 1), (40, 1), (40, 23), (400, 7), (400, 997)])
def test_a_policy_agrees_with_its_naive_list(name: str, names: int, ask_each: int) -> None:
    policy, rule = POLICIES[name](CAPACITY), NAIVE[name]
    steps = iter(range(12_000))

    def told(held: Held) -> None:
        step = next(steps)
        if step % ask_each == 0 and held:  # rarely, too: uses are noted lazily and pile up between two questions
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


@pytest.mark.parametrize("name", sorted(NAIVE))
def test_the_old_rules_admit_every_newcomer(name: str) -> None:
    policy = POLICIES[name](CAPACITY)
    assert all(policy.admit("a", size) for size in SIZES)


# Golden traces, through the cache.


def evictions(name: str, capacity: int, trace: str) -> tuple[list[str], Cache]:
    """Replay `name-size` requests; each as "hit", "too-large" or "miss" and whom it evicted, in order."""
    policy = POLICIES[name](capacity)
    cache = Cache(capacity, policy)
    seen = []
    for asked, size in (request.split("-") for request in trace.split()):
        found = cache.find(asked)
        if found is not None:
            assert cache.hit(found)
            seen.append("hit")
            continue
        with patch.object(policy, "removed", wraps=policy.removed) as removed:
            entry = cache.reserve(asked, int(size), None)
        if isinstance(entry, Refusal):
            cache.count(Outcome.BYPASS)
            seen.append(entry.value)
            continue
        store(cache, entry)
        seen.append(" ".join(["miss", *(call.args[0] for call in removed.call_args_list)]))
    return seen, cache


def store(cache: Cache, entry: Entry) -> None:
    """Fill an entry of at most one chunk and commit it."""
    if entry.size:
        cache.append(entry, bytes(entry.size))
    cache.commit(entry)
    cache.count(Outcome.MISS)


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
    seen, cache = evictions("lru", 10, GOLDEN)
    assert seen == [
        *("miss", "miss", "miss", "hit", "miss b", "miss c a", "miss", "miss"),
        *("miss d b", "miss", "miss e c f", "miss", "too-large"),
    ]
    stats, entries = cache.snapshot()
    assert (stats.hits, stats.misses, stats.bypasses, stats.evictions) == (1, 11, 1, 8)
    assert [entry.name for entry in entries] == ["c", "a", "g"]


def test_relocate_evicts_as_worked_out_by_hand() -> None:
    seen, cache = evictions("relocate", 10, GOLDEN)
    assert seen == [
        *("miss", "miss", "miss", "hit", "miss a", "hit", "miss", "hit"),
        *("miss d b", "miss", "miss f", "hit", "too-large"),
    ]
    stats, entries = cache.snapshot()
    assert (stats.hits, stats.misses, stats.bypasses, stats.evictions) == (4, 8, 1, 4)
    assert [entry.name for entry in entries] == ["c", "a", "g", "e"]


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
    seen_by_lru, lru = evictions("lru", 64, WORST)
    seen_by_relocate, relocate = evictions("relocate", 64, WORST)
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


# The cost of relocate, counted.


class Visited(list[int]):
    """The nodes of the tree; each one read or written is work."""

    def __init__(self, nodes: list[int], owner: "Counted") -> None:
        super().__init__(nodes)
        self._owner = owner

    def __getitem__(self, node: Any) -> Any:
        self._owner.work += 1
        return super().__getitem__(node)

    def __setitem__(self, node: Any, size: Any) -> None:
        self._owner.work += 1
        super().__setitem__(node, size)


class Counted(Relocate):
    """Relocate that counts its own work: nodes visited, slots planted, names sorted."""

    work = 0

    def _plant(self, width: int) -> None:
        super()._plant(width)
        self.work += 3 * width
        self._largest = Visited(self._largest, self)

    def _by_recency(self) -> list[str]:
        names = super()._by_recency()
        self.work += len(names) * max(1, len(names).bit_length())
        return names


def hit_and_evict_in_turn(policy: Policy, names: int) -> int:
    """The least recently used name is hit, the next one goes, a newcomer comes: each time."""
    for at in range(names):
        policy.added(str(at), at)
    oldest = deque(map(str, range(names)))
    for at in range(8 * names):
        policy.hit(oldest[0])
        oldest.rotate(-1)
        assert policy.victim(0) == oldest[0]
        policy.removed(oldest.popleft())
        oldest.append(f"new {at}")
        policy.added(oldest[-1], at % 1000)
    return 17 * names


def many_hits_then_one_victim(policy: Policy, names: int) -> int:
    """Every name is hit, twice, and then one goes and a newcomer comes."""
    for at in range(names):
        policy.added(str(at), at)
    for at in range(names, names + 10):
        for held in [*range(at - names, at)] * 2:
            policy.hit(str(held))
        policy.removed(policy.victim(0))
        policy.added(str(at), at)
    return names + 10 * (2 * names + 1)


def grow_then_shrink(policy: Policy, names: int) -> int:
    """Three times from nothing to all the names and back, with a question at each step."""
    for _ in range(3):
        for at in range(names):
            policy.added(str(at), at % 100)
            policy.victim(50)
        for _ in range(names):
            policy.removed(policy.victim(50))
    return 6 * names


def hit_and_ask_without_evicting(policy: Policy, names: int) -> int:
    """As many names as leave the fewest free slots; each hit uses one up and each question looks at the tree."""
    for at in range(names):
        policy.added(str(at), names - at)
    for at in range(8 * names):
        policy.hit(str(at % names))
        policy.victim(1)
    return 9 * names


def few_names_left_of_many(policy: Policy, names: int) -> int:
    """The tree was once large; now eight names are hit and one question is asked for each hit."""
    for at in range(names):
        policy.added(str(at), at)
    policy.victim(0)
    for at in range(8, names):
        policy.removed(str(at))
    for at in range(8 * names):
        policy.hit(str(at % 8))
        policy.victim(3)
    return 10 * names


ADVERSARIES = [
    hit_and_evict_in_turn,
    many_hits_then_one_victim,
    grow_then_shrink,
    hit_and_ask_without_evicting,
    few_names_left_of_many,
]


@pytest.mark.parametrize("names", [64, 1023, 1024])
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_relocate_costs_at_most_12_log_n_a_request(adversary: Callable[[Policy, int], int], names: int) -> None:
    policy = Counted(CAPACITY)
    requests = adversary(policy, names)
    assert requests < policy.work < 12 * math.log2(names) * requests  # the worst measured is 10.1


def test_a_cache_that_only_hits_never_touches_the_tree() -> None:
    policy = Counted(CAPACITY)
    for at in range(100):
        policy.added(str(at), at)
    policy.victim(0)
    before = policy.work
    for at in range(10_000):
        policy.hit(str(at % 100))
    assert policy.work == before > 0


# Real traces.

TRACES = PROJECT.parent / "shared" / "traces"

MEASURED = [
    ("semicomplete_2015", "lru", 36.71, 70.66),
    ("semicomplete_2015", "relocate", 33.37, 75.06),
    ("nasa_19950801", "lru", 6.89, 23.87),
    ("nasa_19950801", "relocate", 6.36, 25.33),
    ("cran_mirror_2012", "lru", 87.71, 89.22),
    ("cran_mirror_2012", "relocate", 85.79, 89.37),
]


def miss_percent(policy: Policy, requests: list[tuple[str, int]]) -> tuple[float, float]:
    """Missed requests and bytes in per cent: cold ones count, what is larger than the cache is not stored."""
    held: dict[str, int] = {}
    free, missed, missed_bytes = CAPACITY, 0, 0
    for name, size in requests:
        if name in held:
            policy.hit(name)
            continue
        missed, missed_bytes = missed + 1, missed_bytes + size
        if size > CAPACITY:
            continue
        while size > free:
            victim = policy.victim(size)
            policy.removed(victim)
            free += held.pop(victim)
        policy.added(name, size)
        held[name] = size
        free -= size
    return 100 * missed / len(requests), 100 * missed_bytes / sum(size for _, size in requests)


@pytest.mark.skipif(not TRACES.is_dir(), reason="the public traces are not beside this checkout")
@pytest.mark.parametrize(("trace", "name", "objects", "object_bytes"), MEASURED)
def test_a_real_trace_misses_what_was_measured(trace: str, name: str, objects: float, object_bytes: float) -> None:
    with gzip.open(TRACES / f"{trace}.csv.gz", "rt") as lines:
        requests = [(line["object"], int(line["size"])) for line in csv.DictReader(lines)]
    missed = miss_percent(POLICIES[name](CAPACITY), requests)
    assert missed == pytest.approx((objects, object_bytes), abs=0.05)
