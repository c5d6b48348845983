"""Our `lru` and `sieve` beside those of libCacheSim, request by request: other people's, in C.

Only sizes of one byte and more, and one size for each object: there the two mean the same. An object larger than
the cache is a miss in both, and not stored.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest

from fileserver.simulate import traces
from lrucache import POLICIES
from lrucache.replay import Replay
from tests.program import PROJECT
from tests.test_replay import SMALL

libcachesim = pytest.importorskip("libcachesim", reason="libcachesim is not installed here", exc_type=ImportError)

Objects = list[tuple[int, int]]
"""Requests: the object's number, and its size in bytes."""

TRACES = PROJECT.parent / "shared" / "traces"
THEIRS: dict[str, Callable[..., Any]] = {"lru": libcachesim.LRU, "sieve": libcachesim.Sieve}
HASH_POWER = 12
"""Of two, the places in their hash table; the default takes 128 MiB."""


def theirs(name: str, capacity: int, objects: Objects) -> tuple[list[bool], int]:
    """Which requests hit, and the bytes that are held in the end, in libCacheSim."""
    cache = THEIRS[name](cache_size=capacity, hashpower=HASH_POWER, consider_obj_metadata=False)
    hits = [cache.get(libcachesim.Request(obj_id=number, obj_size=size)) for number, size in objects]
    return hits, cache.get_occupied_byte()


def ours(name: str, capacity: int, objects: Objects) -> tuple[list[bool], int]:
    """The same of our policy."""
    replay = Replay(POLICIES[name], capacity)
    hits = []
    for number, size in objects:
        before = replay.hits
        for _ in replay.run([(str(number), size)]):
            pass
        hits.append(replay.hits > before)
    return hits, sum(replay.sizes.values())


def from_trace(path: str) -> Objects:
    """A trace as libCacheSim takes it: numbers for names, and no object without a byte."""
    return [(int(name), max(1, size)) for name, size in traces.read([path]).sized()]


@pytest.mark.parametrize("name", sorted(THEIRS))
@pytest.mark.parametrize("capacity", [1, 100, 1000, 10_000, 1_000_000])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_requests_hit_and_miss_as_in_libcachesim(name: str, capacity: int, seed: int) -> None:
    chance = random.Random(seed)
    sizes = [1 + int(2000 * chance.random() ** 4) for _ in range(300)]
    objects = [(number, sizes[number]) for number in (int(300 * chance.random() ** 2) for _ in range(5000))]
    assert any(size > capacity for size in sizes) == (capacity < 10_000)
    assert ours(name, capacity, objects) == theirs(name, capacity, objects)


@pytest.mark.parametrize("name", sorted(THEIRS))
@pytest.mark.parametrize("capacity", [16 << 10, 64 << 10, 256 << 10])
def test_a_trace_hits_and_misses_as_in_libcachesim(name: str, capacity: int) -> None:
    objects = from_trace(str(SMALL))
    hits, held = theirs(name, capacity, objects)
    assert (hits, held) == ours(name, capacity, objects)
    assert 500 < sum(hits) < 4000


@pytest.mark.skipif(not TRACES.is_dir(), reason="the public traces are not beside this checkout")
@pytest.mark.parametrize("name", sorted(THEIRS))
@pytest.mark.parametrize("trace", ["cran_mirror_2012", "semicomplete_2015", "nasa_19950801"])
def test_a_real_trace_hits_and_misses_as_in_libcachesim(name: str, trace: str) -> None:
    objects = from_trace(str(TRACES / f"{trace}.csv.gz"))
    assert ours(name, 64 << 20, objects) == theirs(name, 64 << 20, objects)
