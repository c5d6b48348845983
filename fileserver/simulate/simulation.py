"""What each policy makes of a trace at each capacity, in misses and in seconds of a disk. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from fileserver.simulate.traces import Trace
from lrucache import POLICIES
from lrucache.bound import Bound
from lrucache.replay import Replay

BOUND = "PFOO-L"


class Storage(NamedTuple):
    """What a miss costs: seconds before its first byte, and bytes a second from then on."""

    name: str
    seek_s: float
    bytes_per_s: float

    def busy_s(self, misses: float, missed_bytes: float) -> float:
        """Seconds for so many misses, one after the other."""
        return misses * self.seek_s + missed_bytes / self.bytes_per_s


class Result(NamedTuple):
    """Of one policy, or of the bound, at one capacity (bytes): fractions missed, and seconds by storage."""

    policy: str
    capacity: int
    object_miss: float
    byte_miss: float
    disk_time: dict[str, float]


def simulate(
    trace: Trace,
    capacities: Sequence[int],
    policies: Sequence[str],
    storages: Sequence[Storage],
    watch: Callable[[str, int, float], None],
) -> Iterator[Result]:
    """Every policy at every capacity; `watch` is told of which, and how many of its requests are done."""
    asked, asked_bytes = len(trace.requests), trace.asked_bytes()
    for capacity, policy in product(capacities, policies):
        replay = Replay(POLICIES[policy], capacity)
        for _ in replay.run(trace.sized()):
            watch(policy, capacity, replay.requests)
        misses, missed_bytes = asked - replay.hits, asked_bytes - replay.hit_bytes
        seconds = {each.name: each.busy_s(misses, missed_bytes) for each in storages}
        yield Result(policy, capacity, misses / asked, missed_bytes / max(1, asked_bytes), seconds)


def bound(trace: Trace, capacities: Sequence[int], storages: Sequence[Storage]) -> list[Result]:
    """What no order of eviction can do better, one for each capacity; each number for itself, not all at once."""
    asked, asked_bytes = len(trace.requests), trace.asked_bytes()
    best = Bound(trace.sized())
    hits = best.most(capacities, each=1)
    hit_bytes = best.most(capacities, each_byte=1)
    saved_s = {each: best.most(capacities, each=each.seek_s, each_byte=1 / each.bytes_per_s) for each in storages}
    return [
        Result(
            BOUND,
            capacity,
            (asked - hits[at]) / asked,
            (asked_bytes - hit_bytes[at]) / max(1, asked_bytes),
            {each.name: each.busy_s(asked, asked_bytes) - saved[at] for each, saved in saved_s.items()},
        )
        for at, capacity in enumerate(capacities)
    ]


def choices(results: Sequence[Result]) -> dict[str, str]:
    """Of results at one capacity, by storage: the policy with the least disk time; `any` if all take as long."""
    return {
        name: _choice({each.policy: each.disk_time[name] for each in results}) for name in results[0].disk_time
    }


def _choice(seconds: Mapping[str, float]) -> str:
    return min(seconds, key=lambda policy: seconds[policy]) if len(set(seconds.values())) > 1 else "any"
