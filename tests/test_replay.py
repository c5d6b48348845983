"""Policies replayed without content: the accounts by hand, beside the cache itself, in pauses; golden counts."""

import gzip
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fileserver.simulate import traces
from lrucache import POLICIES, Cache, Entry, Policy
from lrucache.policies.lru import Lru
from lrucache.replay import PAUSE_STEPS, Replay
from tests.program import PROJECT

Requests = list[tuple[str, int]]

SMALL = Path(__file__).parent / "traces" / "small.csv.gz"
TRACES = PROJECT.parent / "shared" / "traces"


@pytest.fixture(params=sorted(POLICIES))
def make(request: pytest.FixtureRequest) -> Callable[[int], Policy]:
    """A maker of one policy; whatever uses this runs once for each policy there is."""
    return POLICIES[request.param]


def run(replay: Replay, requests: Iterable[tuple[str, int]]) -> int:
    """Make all these requests; how many pauses there were."""
    return sum(1 for _ in replay.run(requests))


def check(replay: Replay) -> None:
    """Recount what the replay says it holds."""
    assert sorted(replay.policy.order()) == sorted(replay.sizes.items())
    assert replay.free == replay.capacity - sum(replay.sizes.values())
    assert replay.free >= 0


def chance_requests(seed: int, requests: int, names: int, largest: int) -> Requests:
    """Requests with favourites among them; each name has one size of at most `largest`."""
    chance = random.Random(seed)
    sizes = [int((1 + largest) * chance.random() ** 4) for _ in range(names)]
    asked = [int(names * chance.random() ** 3) for _ in range(requests)]
    return [(f"n{at}", sizes[at]) for at in asked]


class Picky(Lru):
    """Turns away the names that begin with an x, and notes of whom it was asked."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.asked: list[str] = []

    def admit(self, name: str, size: int) -> bool:
        self.asked.append(name)
        return not name.startswith("x")


# The accounts.

STORY = [
    # request, hit, held afterwards (least recently used first)
    (("a", 4), False, "a4"),
    (("b", 3), False, "a4 b3"),
    (("a", 4), True, "b3 a4"),
    (("e", 0), False, "b3 a4 e0"),
    (("c", 4), False, "a4 e0 c4"),
    (("big", 11), False, "a4 e0 c4"),
    (("big", 11), False, "a4 e0 c4"),
    (("e", 0), True, "a4 c4 e0"),
    (("x", 1), False, "a4 c4 e0"),
    (("x", 1), False, "a4 c4 e0"),
    (("all", 10), False, "e0 all10"),
    (("all", 10), True, "e0 all10"),
    (("all", 2), False, "e0 all2"),
    (("all", 2), True, "e0 all2"),
    (("e", 5), False, "all2 e5"),
    (("e", 12), False, "all2"),
    (("e", 5), False, "all2 e5"),
    (("all", 0), False, "e5 all0"),
]
"""Ten bytes, least recently used goes first, and names with an x are turned away."""


def test_requests_are_counted_and_held_as_worked_out_by_hand() -> None:
    replay = Replay(Picky, 10)
    requests = hits = asked_bytes = hit_bytes = 0
    for request, is_hit, held in STORY:
        run(replay, [request])
        requests, asked_bytes = requests + 1, asked_bytes + request[1]
        hits, hit_bytes = hits + is_hit, hit_bytes + is_hit * request[1]
        assert (replay.requests, replay.asked_bytes) == (requests, asked_bytes)
        assert (replay.hits, replay.hit_bytes) == (hits, hit_bytes)
        assert " ".join(f"{name}{size}" for name, size in replay.policy.order()) == held
        check(replay)


def test_a_policy_is_asked_once_for_each_miss_that_could_fit() -> None:
    replay = Replay(Picky, 10)
    run(replay, [request for request, _, _ in STORY])
    policy = replay.policy
    assert isinstance(policy, Picky)
    assert policy.asked == [name for (name, size), is_hit, _ in STORY if not is_hit and size <= 10]


@pytest.mark.parametrize("capacity", [0, 1, 50, 1000, 100_000])
def test_no_more_is_held_than_the_capacity(make: Callable[[int], Policy], capacity: int) -> None:
    replay = Replay(make, capacity)
    for request in chance_requests(1, 2000, 150, 1500):
        run(replay, [request])
        check(replay)
    assert replay.requests == 2000
    assert replay.hits > 0


def test_nothing_is_replayed_before_it_is_asked_for() -> None:
    replay = Replay(Lru, 10)
    replay.run([("a", 1)])
    assert replay.requests == 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 12)), max_size=60), st.integers(0, 20))
def test_names_that_change_their_size_are_other_versions(requests: Requests, capacity: int) -> None:
    for make in POLICIES.values():
        replay = Replay(make, capacity)
        for name, size in requests:
            held, hits = replay.sizes.get(name), replay.hits
            run(replay, [(name, size)])
            assert (replay.hits > hits) == (held == size)
            assert replay.sizes.get(name) in {None, size}
            check(replay)


# Beside the cache.


def cached(cache: Cache, name: str, size: int) -> bool:
    """Ask the real cache, and fill what it takes; whether it was a hit."""
    found = cache.find(name)
    if found is not None:
        assert cache.hit(found)
        return True
    entry = cache.reserve(name, size, None)
    if isinstance(entry, Entry):
        if size:
            cache.append(entry, bytes(size))
        cache.commit(entry)
    return False


@pytest.mark.parametrize("capacity", [500, 5000, 50_000])
def test_a_replay_hits_when_the_cache_hits(make: Callable[[int], Policy], capacity: int) -> None:
    replay, cache = Replay(make, capacity), Cache(capacity, make(capacity))
    for name, size in chance_requests(2, 4000, 300, 1000):
        hits = replay.hits
        run(replay, [(name, size)])
        assert cached(cache, name, size) == (replay.hits > hits)
    assert cache.stats().evictions > 0
    assert 100 < replay.hits < 4000


# Pauses.


def test_there_is_a_pause_for_so_many_requests_and_evictions() -> None:
    replay = Replay(Lru, 1000)
    ones = [(f"n{at}", 1) for at in range(1000)]
    assert run(replay, ones) == 1000 // PAUSE_STEPS
    assert run(replay, [("n1", 1)] * (PAUSE_STEPS - 1)) == 0
    assert run(replay, [("n1", 1)] * PAUSE_STEPS) == 1
    assert run(replay, [("all", 1000)]) == 1001 // PAUSE_STEPS
    assert run(replay, [("too large", 1001)] * PAUSE_STEPS) == 1


def test_a_replay_can_be_left_at_any_pause_and_its_accounts_are_right_after_the_next_request() -> None:
    replay = Replay(Lru, 1000)
    run(replay, [(f"n{at}", 1) for at in range(1000)])
    next(replay.run([("all", 1000)]))  # left in the midst of the evictions
    check(replay)
    assert len(replay.sizes) == 1000 - PAUSE_STEPS
    assert "all" not in replay.sizes
    run(replay, [("all", 1000)])
    check(replay)
    assert replay.sizes == {"all": 1000}


# Shrinking.


@pytest.mark.parametrize("capacity", [0, 1, 2000, 20_000, 40_000])
def test_who_is_to_be_kept_is_kept_as_far_as_there_is_room(make: Callable[[int], Policy], capacity: int) -> None:
    replay = Replay(make, 40_000)
    requests = chance_requests(3, 3000, 600, 1000)
    run(replay, requests)
    kept = {name: size for name, size in replay.sizes.items() if name[-1] in "02468"}
    counted = (replay.requests, replay.hits, replay.asked_bytes, replay.hit_bytes)
    for _ in replay.shrink(capacity, kept.__contains__):
        pass
    check(replay)
    assert (replay.capacity, replay.policy.capacity) == (capacity, capacity)
    assert replay.sizes.items() <= kept.items()
    assert (len(replay.sizes) == len(kept)) == (sum(kept.values()) <= capacity)
    assert counted == (replay.requests, replay.hits, replay.asked_bytes, replay.hit_bytes)
    run(replay, requests)
    check(replay)


def test_least_worth_keeping_goes_first_when_there_is_less_room() -> None:
    replay = Replay(Lru, 10)
    run(replay, [("a", 3), ("b", 3), ("c", 3), ("a", 3)])
    for _ in replay.shrink(6, lambda name: True):
        pass
    assert list(replay.policy.order()) == [("c", 3), ("a", 3)]
    assert replay.free == 0


def steps_between(pauses: Iterator[None], held: dict[str, int]) -> list[int]:
    """How many names went before each pause, and after the last one."""
    counts = [len(held)]
    counts += [len(held) for _ in pauses]
    counts.append(len(held))
    return [before - after for before, after in pairwise(counts)]


@pytest.mark.parametrize(("capacity", "keep"), [(1000, False), (0, True), (500, True)])
def test_shrinking_pauses_too(capacity: int, keep: bool) -> None:
    replay = Replay(Lru, 1000)
    run(replay, [(f"n{at}", 1) for at in range(1000)])
    gone = steps_between(replay.shrink(capacity, lambda name: keep), replay.sizes)
    assert max(gone) <= PAUSE_STEPS
    assert sum(gone) == (1000 - capacity if keep else 1000)


# Golden counts.


def small() -> str:
    """The text of tests/traces/small.csv.gz, made by nothing but multiplications: the same everywhere.

    Three of four requests have favourites, sizes have nothing to do with that; the others go round all names.

        gzip.compress(small().encode(), 9, mtime=0)
    """
    chance = random.Random(1998)
    sizes = [int(chance.random() * (1 << 8 + number % 9)) for number in range(400)]
    lines = [traces.COLUMNS]
    for at in range(5000):
        place = chance.random()
        number = int(400 * place * place * place) if chance.random() < 0.75 else at // 10 % 400
        lines.append(f"{at},{number},{sizes[number]}")
    return "\n".join(lines) + "\n"


GOLDEN = [
    ("relocate", 64 << 10, 1394, 5835208),
    ("relocate", 256 << 10, 2185, 9767556),
    ("lru", 64 << 10, 1259, 5957814),
    ("lru", 256 << 10, 1927, 10001893),
    ("sieve", 64 << 10, 1349, 5816917),
    ("sieve", 256 << 10, 2130, 10491065),
    ("s3fifo", 64 << 10, 1633, 4398738),
    ("s3fifo", 256 << 10, 2175, 9519633),
    ("gdsf", 64 << 10, 2371, 3334366),
    ("gdsf", 256 << 10, 3071, 9493339),
]
"""Hits and their bytes in tests/traces/small.csv.gz, at 64 and 256 KiB."""


def test_the_small_trace_is_what_its_recipe_makes() -> None:
    assert gzip.decompress(SMALL.read_bytes()).decode() == small()
    trace = traces.read([str(SMALL)])
    assert (len(trace.requests), len(trace.sizes), trace.unique_bytes(), trace.asked_bytes()) == (
        5000,
        399,
        3062219,
        34043693,
    )


@pytest.mark.parametrize(("name", "capacity", "hits", "hit_bytes"), GOLDEN)
def test_the_small_trace_hits_as_often_as_ever(name: str, capacity: int, hits: int, hit_bytes: int) -> None:
    replay = Replay(POLICIES[name], capacity)
    run(replay, traces.read([str(SMALL)]).sized())
    assert (replay.hits, replay.hit_bytes) == (hits, hit_bytes)


def test_there_are_golden_counts_for_every_policy_at_two_capacities() -> None:
    assert sorted({(name, capacity) for name, capacity, _, _ in GOLDEN}) == sorted(
        (name, capacity) for name in POLICIES for capacity in (64 << 10, 256 << 10)
    )


MEASURED = [
    ("cran_mirror_2012", "lru", 87.71, 89.22),
    ("cran_mirror_2012", "relocate", 85.79, 89.37),
    ("cran_mirror_2012", "sieve", 85.46, 87.59),
    ("semicomplete_2015", "lru", 36.71, 70.66),
    ("semicomplete_2015", "relocate", 33.37, 75.06),
    ("semicomplete_2015", "sieve", 33.96, 71.85),
    ("nasa_19950801", "lru", 6.89, 23.87),
    ("nasa_19950801", "relocate", 6.36, 25.33),
    ("nasa_19950801", "sieve", 6.39, 22.45),
]
"""Trace, policy, requests and bytes missed at 64 MiB, in per cent."""


@pytest.mark.skipif(not TRACES.is_dir(), reason="the public traces are not beside this checkout")
@pytest.mark.parametrize(("trace", "name", "objects", "object_bytes"), MEASURED)
def test_a_real_trace_misses_what_was_measured(trace: str, name: str, objects: float, object_bytes: float) -> None:
    replay = Replay(POLICIES[name], 64 << 20)
    run(replay, traces.read([str(TRACES / f"{trace}.csv.gz")]).sized())
    missed = 1 - replay.hits / replay.requests, 1 - replay.hit_bytes / replay.asked_bytes
    assert [100 * each for each in missed] == pytest.approx([objects, object_bytes], abs=0.05)


AT_MOST = [
    ("cran_mirror_2012", "s3fifo", 82.3),
    ("cran_mirror_2012", "gdsf", 75.9),
    ("semicomplete_2015", "s3fifo", 28.5),
    ("semicomplete_2015", "gdsf", 14.9),
    ("nasa_19950801", "s3fifo", 6.41),
    ("nasa_19950801", "gdsf", 5.86),
]
"""Trace, policy, requests missed at 64 MiB, in per cent."""


@pytest.mark.skipif(not TRACES.is_dir(), reason="the public traces are not beside this checkout")
@pytest.mark.parametrize(("trace", "name", "objects"), AT_MOST)
def test_a_real_trace_misses_no_more_requests_than_was_promised(trace: str, name: str, objects: float) -> None:
    replay = Replay(POLICIES[name], 64 << 20)
    run(replay, traces.read([str(TRACES / f"{trace}.csv.gz")]).sized())
    assert 100 * (1 - replay.hits / replay.requests) <= objects
