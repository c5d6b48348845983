"""PFOO-L: beside every order of eviction there is, beside the policies, exactly, and on real traces."""

import random
from fractions import Fraction
from itertools import chain, combinations
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fileserver.simulate import traces
from lrucache import POLICIES
from lrucache.bound import Bound
from lrucache.replay import Replay
from tests.program import PROJECT

Requests = list[tuple[str, int]]

TRACES = PROJECT.parent / "shared" / "traces"


class Worth(NamedTuple):
    """What a hit is worth, and for each of its bytes."""

    each: float
    each_byte: float


REQUESTS, BYTES, SECONDS = Worth(1, 0), Worth(0, 1), Worth(0.5, 0.25)


@pytest.fixture(params=[REQUESTS, BYTES, SECONDS], ids=["requests", "bytes", "seconds"])
def worth(request: pytest.FixtureRequest) -> Worth:
    """Everything that is counted: whatever uses this runs once for each."""
    found: Worth = request.param
    return found


def most(requests: Requests, capacity: int, worth: Worth) -> float:
    """The bound at one capacity."""
    return Bound(requests).most([capacity], each=worth.each, each_byte=worth.each_byte)[0]


def best(requests: Requests, capacity: int, worth: Worth) -> float:
    """The most that any order of eviction makes of few requests: all of them are tried.

    After each request any of what was held, and who came, may be held on, as far as it fits: so anybody may be
    evicted at any time, and newcomers need not be stored.
    """
    sizes = dict(requests)
    worths: dict[frozenset[str], float] = {frozenset(): 0.0}
    for name, size in requests:
        later: dict[frozenset[str], float] = {}
        for held, so_far in worths.items():
            gained = so_far + (worth.each + worth.each_byte * size if name in held else 0)
            at_hand = held | {name}
            subsets = (combinations(sorted(at_hand), count) for count in range(len(at_hand) + 1))
            for kept in map(frozenset, chain.from_iterable(subsets)):
                if sum(map(sizes.__getitem__, kept)) <= capacity:
                    later[kept] = max(gained, later.get(kept, 0.0))
        worths = later
    return max(worths.values())


def exactly(requests: Requests, capacity: int, worth: Worth) -> Fraction:
    """The bound in fractions, after the paper: the hits that cost least for their worth, the last in part."""
    latest: dict[str, int] = {}
    hits: list[tuple[Fraction, Fraction]] = []
    for at, (name, size) in enumerate(requests):
        gain = Fraction(worth.each) + Fraction(worth.each_byte) * size
        if name in latest and size <= capacity and gain:
            hits.append((Fraction(size * (at - latest[name])), gain))
        latest[name] = at
    left, total = Fraction(capacity * len(requests)), Fraction(0)
    for cost, gain in sorted(hits, key=lambda hit: hit[0] / hit[1]):
        share = min(Fraction(1), left / cost) if cost else Fraction(1)
        left, total = left - share * cost, total + share * gain
    return total


def sized(names: str, sizes: dict[str, int]) -> Requests:
    """A request for each letter."""
    return [(name, sizes[name]) for name in names]


def chance_requests(seed: int) -> Requests:
    """A thousand requests, with favourites among them."""
    chance = random.Random(seed)
    sizes = {f"n{at}": int(1000 * chance.random() ** 3) for at in range(200)}
    asked = [f"n{int(200 * chance.random() ** 2)}" for _ in range(1000)]
    return [(name, sizes[name]) for name in asked]


@pytest.mark.parametrize(
    ("names", "capacity", "expected", "expected_bytes"),
    [
        ("", 10, 0, 0),
        ("a", 10, 0, 0),
        ("aa", 3, 0, 0),  # a has 4 bytes and is never held
        ("aa", 4, 1, 4),
        ("aaaa", 4, 3, 12),
        ("ee", 0, 1, 0),  # e has none
        ("abab", 2, 1, 2),  # 8 to spend: a is too large, b costs 4
        ("abcabc", 4, 3, 7),  # 24 to spend: c costs 3, b 6, a 12
        ("abcabcabc", 4, 5.5, 12),  # 36 to spend: twice c, twice b, once a, half of a
    ],
)
def test_small_bounds_are_as_worked_out_by_hand(
    names: str, capacity: int, expected: float, expected_bytes: float
) -> None:
    requests = sized(names, {"a": 4, "b": 2, "c": 1, "e": 0})
    assert most(requests, capacity, REQUESTS) == pytest.approx(expected)
    assert most(requests, capacity, BYTES) == pytest.approx(expected_bytes)


@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(0, 5), min_size=1).flatmap(
        lambda sizes: st.lists(st.sampled_from(sorted(sizes.items())), max_size=8)
    ),
    st.integers(0, 10),
    st.sampled_from([REQUESTS, BYTES, SECONDS]),
)
def test_no_order_of_eviction_is_above_the_bound(requests: Requests, capacity: int, worth: Worth) -> None:
    assert best(requests, capacity, worth) <= most(requests, capacity, worth) + 1e-9


@pytest.mark.parametrize("names", ["aabbcc", "abcabc", "eaebece", "abacada"])
@pytest.mark.parametrize("capacity", [10, 100])
def test_where_everything_fits_all_but_the_first_requests_hit(names: str, capacity: int, worth: Worth) -> None:
    requests = sized(names, {"a": 4, "b": 2, "c": 1, "d": 3, "e": 0})
    first = {name: worth.each + worth.each_byte * size for name, size in requests}
    everything = sum(worth.each + worth.each_byte * size for _, size in requests)
    assert best(requests, capacity, worth) == most(requests, capacity, worth) == everything - sum(first.values())


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 50), min_size=1).flatmap(
        lambda sizes: st.lists(st.sampled_from(sorted(sizes.items())), max_size=40)
    ),
    st.integers(0, 100),
    st.sampled_from([REQUESTS, BYTES, SECONDS]),
)
def test_the_bound_is_that_of_the_paper(requests: Requests, capacity: int, worth: Worth) -> None:
    assert most(requests, capacity, worth) == pytest.approx(float(exactly(requests, capacity, worth)))


@pytest.mark.parametrize("capacity", [100, 1000, 5000])
def test_the_bound_of_many_requests_is_that_of_the_paper(capacity: int, worth: Worth) -> None:
    requests = chance_requests(5)
    found = most(requests, capacity, worth)
    assert found == pytest.approx(float(exactly(requests, capacity, worth)))
    assert found < 0.9 * most(requests, 10**9, worth)


@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_policy_is_above_the_bound(name: str, seed: int) -> None:
    requests = chance_requests(seed)
    for capacity in (0, 500, 2000, 10_000, 1_000_000):
        replay = Replay(POLICIES[name], capacity)
        for _ in replay.run(requests):
            pass
        assert replay.hits <= most(requests, capacity, REQUESTS) + 1e-6
        assert replay.hit_bytes <= most(requests, capacity, BYTES) + 1e-6
        seconds = SECONDS.each * replay.hits + SECONDS.each_byte * replay.hit_bytes
        assert seconds <= most(requests, capacity, SECONDS) + 1e-6


def test_each_capacity_has_its_own_bound_and_more_is_never_worse(worth: Worth) -> None:
    requests = chance_requests(4)
    capacities = [3000, 0, 100, 10_000, 500, 10**9]
    bounds = Bound(requests).most(capacities, each=worth.each, each_byte=worth.each_byte)
    assert bounds == [most(requests, capacity, worth) for capacity in capacities]
    assert sorted(bounds) == [found for _, found in sorted(zip(capacities, bounds, strict=True))]
    assert len(set(bounds)) > 4


@pytest.mark.skipif(not TRACES.is_dir(), reason="the public traces are not beside this checkout")
@pytest.mark.parametrize(
    ("name", "objects", "object_bytes"),
    [("cran_mirror_2012", 58.60, 63.94), ("semicomplete_2015", 14.48, 34.58), ("nasa_19950801", 5.72, 19.76)],
)
def test_the_bound_of_a_real_trace_is_what_others_computed(name: str, objects: float, object_bytes: float) -> None:
    trace = traces.read([str(TRACES / f"{name}.csv.gz")])
    bound = Bound(trace.sized())
    missed = [
        100 * (1 - bound.most([64 << 20], each=1)[0] / len(trace.requests)),
        100 * (1 - bound.most([64 << 20], each_byte=1)[0] / trace.asked_bytes()),
    ]
    assert missed == pytest.approx([objects, object_bytes], abs=0.05)
