"""Ghost caches: equal to a replay of everything while all of it counts; above that a sample, not far off."""

import csv
import gzip
import random
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise

import pytest

from lrucache import POLICIES
from lrucache.cache import Accesses
from lrucache.ghosts import BATCH, GhostRatios, Ghosts
from lrucache.policies.lru import Lru
from lrucache.replay import PAUSE_STEPS, Replay
from tests.program import PROJECT

CAPACITY = 64 * 1024 * 1024
TRACES = PROJECT.parent / "shared" / "traces"

Requests = list[tuple[str, int]]


def zipf(names: int, requests: int, *, exponent: float = 0.9, largest: int = 8000, seed: int = 1) -> Requests:
    """Requests for (name, size): the n-th name is asked for in proportion to n^-exponent, whatever its size."""
    chance = random.Random(seed)
    sizes = [chance.randrange(largest) for _ in range(names)]
    weights = list(accumulate((place + 1) ** -exponent for place in range(names)))
    return [(f"n{at}", sizes[at]) for at in chance.choices(range(names), cum_weights=weights, k=requests)]


def small_zipf() -> Requests:
    """For ghosts of 8 MiB: a third of the names fit."""
    return zipf(4000, 30_000)


def full(requests: Requests, capacity: int) -> dict[str, GhostRatios]:
    """What each policy makes of all these requests, by full simulation."""
    ratios = {}
    for name, make in POLICIES.items():
        replay = Replay(make, capacity)
        for _ in replay.run(requests):
            pass
        ratios[name] = GhostRatios(replay.hits / replay.requests, replay.hit_bytes / replay.asked_bytes)
    return ratios


class Fed:
    """Ghosts and what they read from."""

    def __init__(self, ghosts: Ghosts) -> None:
        self.ghosts = ghosts
        self.accesses: Accesses = deque()
        self._work = ghosts.work(self.accesses)

    def feed(self, requests: Requests) -> None:
        """Have all of them seen."""
        for _ in self.pauses(requests):
            pass

    def pauses(self, requests: Requests) -> Iterator[None]:
        """The same, told of each pause."""
        self.accesses.extend(requests)
        while next(self._work):
            yield

    def held(self) -> dict[str, set[str]]:
        """The names in each ghost."""
        return {name: set(ghost.sizes) for name, ghost in self.ghosts._ghosts.items()}


def fed(requests: Requests, capacity: int, **options: int) -> Ghosts:
    """Ghosts of all policies that have seen these requests."""
    ghosts = Ghosts(POLICIES, capacity, **options)
    Fed(ghosts).feed(requests)
    return ghosts


# While everything counts.


SYNTHETIC: dict[str, Callable[[], tuple[Requests, int]]] = {
    "small files": lambda: (small_zipf(), 8 << 20),
    "files of all sizes": lambda: (zipf(2000, 10_000, largest=1 << 20), CAPACITY),
    "some larger than the cache": lambda: (zipf(500, 5000, largest=1 << 20), 700_000),
    "new sizes under old names": lambda: (zipf(500, 3000, seed=2) + zipf(500, 3000, seed=3), 1 << 20),
}


@pytest.mark.parametrize("case", SYNTHETIC)
def test_a_full_stream_gives_exactly_what_full_simulation_gives(case: str) -> None:
    requests, capacity = SYNTHETIC[case]()
    ghosts = fed(requests, capacity)
    assert ghosts.ratios() == full(requests, capacity)
    assert (ghosts.seen, ghosts.rate, ghosts.expected_error) == (len(requests), 1.0, 0.0)
    assert len(set(ghosts.ratios().values())) > 1, "or no policy could be told from another"


@pytest.mark.skipif(not TRACES.is_dir(), reason="the public traces are not beside this checkout")
@pytest.mark.parametrize("trace", ["semicomplete_2015", "nasa_19950801"])
def test_a_real_trace_gives_exactly_what_full_simulation_gives(trace: str) -> None:
    with gzip.open(TRACES / f"{trace}.csv.gz", "rt") as lines:
        requests = [(line["object"], int(line["size"])) for line in csv.DictReader(lines)]
    ghosts = fed(requests, CAPACITY)
    assert ghosts.ratios() == full(requests, CAPACITY)
    assert (ghosts.seen, ghosts.rate) == (len(requests), 1.0)


def test_it_makes_no_difference_in_how_many_portions_requests_come() -> None:
    requests = small_zipf()[:6000]
    portions = Fed(Ghosts(POLICIES, 1 << 20, names=100))
    chance = random.Random(5)
    at = 0
    while at < len(requests):
        step = BATCH * chance.randrange(1, 9)  # a sample is halved after a batch, not in the middle
        portions.feed(requests[at : at + step])
        at += step
    whole = fed(requests, 1 << 20, names=100)
    assert portions.ghosts.rate == whole.rate < 1.0
    assert portions.ghosts.ratios() == whole.ratios()


def test_every_policy_has_a_ghost_of_its_own_and_nothing_is_known_before_the_first_request() -> None:
    ghosts = Ghosts(POLICIES, CAPACITY)
    assert ghosts.ratios() == dict.fromkeys(POLICIES, GhostRatios(0.0, 0.0))
    assert (ghosts.seen, ghosts.rate, ghosts.expected_error) == (0, 1.0, 0.0)


def test_requests_that_come_later_are_seen_as_well() -> None:
    ghosts = Fed(Ghosts({"lru": Lru}, 10))
    ghosts.feed([("a", 2), ("a", 2)])
    assert ghosts.ghosts.ratios()["lru"] == GhostRatios(0.5, 0.5)
    ghosts.feed([])
    ghosts.feed([("b", 8), ("a", 2)])
    assert ghosts.ghosts.ratios()["lru"] == GhostRatios(0.5, 4 / 14)
    assert ghosts.ghosts.seen == 4
    assert not ghosts.accesses


def test_what_is_larger_than_the_cache_is_missed_each_time() -> None:
    ghosts = Fed(Ghosts({"lru": Lru}, 10))
    ghosts.feed([("a", 1), ("large", 11), ("a", 1), ("large", 11)])
    assert ghosts.ghosts.ratios()["lru"] == GhostRatios(0.25, 1 / 24)


# The sample.


def test_as_many_names_as_are_allowed_are_not_sampled_and_one_more_is() -> None:
    ghosts = Fed(Ghosts(POLICIES, CAPACITY, names=100))
    ghosts.feed([(f"n{at}", 1) for at in range(100)] * 2)
    assert (ghosts.ghosts.rate, ghosts.ghosts.expected_error) == (1.0, 0.0)
    ghosts.feed([("one more", 1)])
    assert (ghosts.ghosts.rate, ghosts.ghosts.expected_error) == (0.5, 0.1)


class Shy(Lru):
    """Takes nobody in."""

    def admit(self, name: str, size: int) -> bool:
        return False


@pytest.mark.parametrize("policies", [{"shy": Shy, "lru": Lru}, {"lru": Lru, "shy": Shy}])
def test_the_ghost_that_holds_most_decides(policies: dict[str, type[Lru]]) -> None:
    ghosts = Fed(Ghosts(policies, CAPACITY, names=10))
    ghosts.feed([(f"n{at}", 1) for at in range(50)])
    assert ghosts.ghosts.rate < 0.5
    assert (len(ghosts.held()["lru"]) <= 10, ghosts.held()["shy"]) == (True, set())


def test_the_rate_is_halved_as_often_as_it_must_be_and_never_goes_up_again() -> None:
    ghosts = Fed(Ghosts(POLICIES, CAPACITY, names=100))
    rates = []
    for start in range(0, 2000, 100):
        ghosts.feed([(f"n{at}", 1) for at in range(start, start + 100)])
        assert max(map(len, ghosts.held().values())) <= 100
        rates.append(ghosts.ghosts.rate)
    ghosts.feed([("n1", 1)] * 1000)
    rates.append(ghosts.ghosts.rate)
    assert {after / before for before, after in pairwise(rates)} <= {1.0, 0.5, 0.25}
    assert len(set(rates)) > 3, "not all at once"
    assert rates[-1] in {1 / 16, 1 / 32}, "2000 names, of which at most 100 are held"
    assert ghosts.ghosts.seen == 3000


def test_a_ghost_has_that_share_of_the_capacity() -> None:
    ghosts = Fed(Ghosts(POLICIES, 1_000_001, names=64))
    ghosts.feed(small_zipf()[:3000])
    rate = ghosts.ghosts.rate
    assert rate < 0.5
    for ghost in ghosts.ghosts._ghosts.values():
        assert ghost.capacity == ghost.policy.capacity == int(1_000_001 * rate)
        assert ghost.free == ghost.capacity - sum(ghost.sizes.values())
        assert ghost.free >= 0


def test_all_ghosts_have_the_same_sample_and_a_smaller_sample_is_a_part_of_a_larger_one() -> None:
    names = [(f"n{at}", 1) for at in range(2000)]
    drawn = []
    for limit in (2000, 1500, 700, 300, 100):
        ghosts = Fed(Ghosts(POLICIES, CAPACITY, names=limit))
        ghosts.feed(names)
        ghosts.feed(names[::-1])  # now everything that is drawn has come after the last halving
        held = ghosts.held()
        assert set(map(frozenset, held.values())) == {frozenset(held["lru"])}
        drawn.append((ghosts.ghosts.rate, held["lru"]))
    assert [rate for rate, _ in drawn] == sorted({rate for rate, _ in drawn}, reverse=True)
    for (_, larger), (_, smaller) in pairwise(drawn):
        assert smaller < larger


def test_who_is_not_in_the_sample_is_dropped_and_does_not_come_back() -> None:
    names = [f"n{at}" for at in range(200)]
    ghosts = Fed(Ghosts(POLICIES, CAPACITY, names=150))
    ghosts.feed([(name, 1) for name in names])
    drawn = ghosts.held()["lru"] & set(names)
    assert ghosts.ghosts.rate == 0.5
    ghosts.feed([(name, 1) for name in names] * 3)
    assert drawn <= ghosts.held()["lru"]
    out = set(names) - ghosts.held()["lru"]
    assert 60 < len(out) < 140
    ghosts.feed([(name, 2) for name in out])  # as new versions, too
    assert not any(held & out for held in ghosts.held().values())


@pytest.mark.parametrize("pattern", ["{}", "n{:05d}", "img/{}.png", "{}/index.html", "a" * 200 + "{}", "\udc80{}"])
def test_about_half_of_the_names_are_drawn_each_time_however_regular_they_are(pattern: str) -> None:
    ghosts = Fed(Ghosts({"lru": Lru}, CAPACITY, names=4000))
    names = [(pattern.format(at), 1) for at in range(4000)]
    left = []
    for limit in (3999, 3000, 1500, 700):
        ghosts = Fed(Ghosts({"lru": Lru}, CAPACITY, names=limit))
        ghosts.feed(names)
        ghosts.feed(names)
        left.append(len(ghosts.held()["lru"]) / 4000 / ghosts.ghosts.rate)
    assert left == pytest.approx([1.0] * 4, abs=0.2)


def test_the_sample_is_the_same_in_every_process() -> None:
    script = (
        "from tests.test_ghosts import *; ghosts = Fed(Ghosts({'lru': Lru}, 1000, names=9));"
        "ghosts.feed([(str(at), 1) for at in range(50)]); print(sorted(ghosts.held()['lru']))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed},
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


# Ratios of a sample.


def sampled_at_half() -> tuple[Fed, str, str]:
    """Three names asked for once each, of which one more than may be held; one that is drawn, one that is not."""
    for trial in range(100):
        names = [f"{trial} {at}" for at in range(3)]
        ghosts = Fed(Ghosts({"lru": Lru}, 300, names=2))
        ghosts.feed([(name, 10) for name in names])
        held = ghosts.held()["lru"]
        if ghosts.ghosts.rate == 0.5 and held:
            return ghosts, held.pop(), next(iter(set(names) - ghosts.held()["lru"]))
    raise AssertionError("no such names")


@pytest.mark.parametrize("popular_is_drawn", [True, False])
def test_the_requests_a_sample_has_too_many_or_too_few_of_were_hits(popular_is_drawn: bool) -> None:
    ghosts, drawn, other = sampled_at_half()
    ghosts.feed([(drawn if popular_is_drawn else other, 10)] * 10)
    # Of 13 requests 10 were hits, whether the one popular name is in the sample or not.
    assert ghosts.ghosts.ratios()["lru"] == pytest.approx(GhostRatios(10 / 13, 10 / 13))
    assert ghosts.ghosts.seen == 13


def test_halving_itself_changes_no_ratio() -> None:
    requests = small_zipf()[:640]
    limited, free = Fed(Ghosts(POLICIES, CAPACITY, names=250)), Fed(Ghosts(POLICIES, CAPACITY))
    while limited.ghosts.rate == 1.0:
        batch, requests = requests[:BATCH], requests[BATCH:]
        limited.feed(batch)
        free.feed(batch)
    for name, ratios in free.ghosts.ratios().items():
        assert limited.ghosts.ratios()[name] == pytest.approx(ratios)


def test_whoever_asks_while_a_sample_is_halved_is_told_the_same() -> None:
    requests = small_zipf()[: 100 * BATCH]
    ghosts = Fed(Ghosts(POLICIES, CAPACITY, names=1000))
    told = []
    before = ghosts.ghosts.ratios()
    for at in range(0, len(requests), BATCH):
        for _ in ghosts.pauses(requests[at : at + BATCH]):
            if ghosts.ghosts.rate < 1.0:
                told.append(ghosts.ghosts.ratios())
        if told:
            break
        before = ghosts.ghosts.ratios()
    assert len(told) > 10
    for ratios in told:
        for name in POLICIES:
            assert ratios[name].object_hit == pytest.approx(before[name].object_hit, abs=0.02)


@pytest.mark.parametrize("requests", [[("a", 0)] * 4, [("a", 11)] * 4, [("a", 1)]])
def test_no_ratio_is_outside_0_and_1(requests: Requests) -> None:
    for name, ratios in fed(requests, 10).ratios().items():
        assert 0 <= min(ratios) <= max(ratios) <= 1, name


def test_no_ratio_of_a_sample_is_below_0() -> None:
    """Only drawn names come, and all for the first time: too many requests, and yet none of them was a hit."""
    ghosts = Fed(Ghosts(POLICIES, CAPACITY, names=100))
    ghosts.feed([(f"n{at}", 5) for at in range(101)])
    assert ghosts.ghosts.rate == 0.5
    ghosts.feed([(f"o{at}", 5) for at in range(80) if ghosts.ghosts._is_drawn(f"o{at}")])
    assert ghosts.ghosts.ratios() == dict.fromkeys(POLICIES, GhostRatios(0.0, 0.0))


@pytest.mark.parametrize(
    ("names", "exponent", "capacity", "limit"),
    [(4000, 0.9, 8 << 20, 1024), (4000, 0.9, 4 << 20, 256), (6000, 0.8, 8 << 20, 1024), (6000, 1.0, 8 << 20, 512)],
)
def test_a_sample_of_popular_small_files_is_within_the_expected_error_or_so(
    names: int, exponent: float, capacity: int, limit: int
) -> None:
    requests = zipf(names, 40_000, exponent=exponent)
    ghosts = fed(requests, capacity, names=limit)
    assert ghosts.rate <= 0.25
    assert ghosts.expected_error == limit**-0.5
    exact = full(requests, capacity)
    for name, ratios in ghosts.ratios().items():
        assert ratios == pytest.approx(exact[name], abs=ghosts.expected_error), name


# Pauses.


class Counted(Lru):
    """Counts what is asked of it."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.calls = 0

    def added(self, name: str, size: int) -> None:
        self.calls += 1
        super().added(name, size)

    def hit(self, name: str) -> None:
        self.calls += 1
        super().hit(name)

    def removed(self, name: str) -> None:
        self.calls += 1
        super().removed(name)


PAUSED: dict[str, Callable[[Fed], Requests]] = {
    "hits": lambda ghosts: [("a", 1)] * 1000,
    "newcomers": lambda ghosts: [(f"n{at}", 1) for at in range(990)],
    "a newcomer that evicts a thousand": lambda ghosts: [("large", 1000)],
    "a sample that is halved again and again": lambda ghosts: [(f"n{at}", 0) for at in range(20_000)],
}


@pytest.mark.parametrize("case", PAUSED)
def test_no_more_happens_between_two_pauses_than_a_few_microseconds_are_enough_for(case: str) -> None:
    made: list[Counted] = []

    def make(capacity: int) -> Counted:
        made.append(Counted(capacity))
        return made[-1]

    ghosts = Fed(Ghosts({"one": make, "two": make}, 1000, names=1000))
    ghosts.feed([(f"o{at}", 1) for at in range(900)])
    requests = PAUSED[case](ghosts)
    calls, most, total = 0, 0, 0
    for policy in made:
        policy.calls = 0
    for _ in ghosts.pauses(requests):
        calls = sum(policy.calls for policy in made)
        for policy in made:
            policy.calls = 0
        most, total = max(most, calls), total + calls
    assert most <= 2 * len(made) * PAUSE_STEPS
    assert total > 5 * most


def test_all_ghosts_see_the_same_requests_before_anyone_sees_the_next() -> None:
    ghosts = Fed(Ghosts(POLICIES, CAPACITY))
    for _ in ghosts.pauses(small_zipf()[:2000]):
        counts = [ghost.requests for ghost in ghosts.ghosts._ghosts.values()]
        assert max(counts) - min(counts) <= 64
