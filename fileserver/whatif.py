"""`--what-if`: the ghosts of all policies, kept up with what is asked in the time that requests leave.

A request only leaves its name and size in a ring. A greenlet takes from it in slices of a millisecond, each when
the loop has nothing else to do, or when it had no such moment for so long that a slice is a hundredth of its time.
What does not fit into the ring meanwhile pushes out the oldest, and is counted.
"""

import time
from collections import deque
from collections.abc import Callable

import gevent

from lrucache import POLICIES, Accesses, CacheStats
from lrucache.ghosts import Ghosts

RING = 16_384
"""Answers that wait to be replayed, 2 MB of names and sizes."""
SLICE_S = 0.001
LEAST_SHARE = 0.01
"""Of the loop's time, however busy it is."""
REST_S = SLICE_S / LEAST_SHARE


class WhatIf:
    """Hit ratios of every policy at this capacity. Give `accesses` to the cache; `start` once the hub runs."""

    def __init__(self, capacity: int, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.accesses: Accesses = deque(maxlen=RING)
        self._ghosts = Ghosts(POLICIES, capacity)
        self._work = self._ghosts.work(self.accesses)
        self._clock = clock

    def start(self) -> None:
        """Spawn the greenlet that keeps up, for as long as the process lives."""
        gevent.spawn(self._keep_up)

    def work(self) -> bool:
        """One slice; whether anything is left. A single step of a policy is not interrupted."""
        until_s = self._clock() + SLICE_S
        while next(self._work):
            if self._clock() >= until_s:
                return True
        return False

    def stats(self, cache: CacheStats) -> dict[str, object]:
        """What `/-/stats` says: hit ratios since the start as fractions, and how far they can be trusted."""
        seen, waiting = self._ghosts.seen, self._ghosts.under_way + len(self.accesses)
        dropped = cache.answers - seen - waiting
        return {
            "requests": seen,
            "waiting": waiting,
            "dropped": dropped,
            "sample_rate": self._ghosts.rate,
            "expected_error": None if dropped else round(self._ghosts.expected_error, 4),
            "policies": {
                name: {
                    "object_hit_ratio": round(ratios.object_hit, 4),
                    "byte_hit_ratio": round(ratios.byte_hit, 4),
                }
                for name, ratios in self._ghosts.ratios().items()
            },
        }

    def _keep_up(self) -> None:
        while True:
            gevent.with_timeout(REST_S, gevent.idle, timeout_value=None)
            gevent.sleep(SLICE_S if self.work() else REST_S)
