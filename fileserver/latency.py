"""How long things took, in buckets that grow like a logarithm: bounded memory, percentiles to be trusted. Pure.

A mean hides what hurts, and a list of all times grows without end. Here each time moves one of a hundred counters,
ten to a decade, so that a percentile is never too low, and from a microsecond on less than three tenths too high.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import accumulate
from random import randrange
from typing import NamedTuple

STEPS = (1, 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8)
"""Preferred numbers (ISO 3, R10)."""
BOUNDS = [float(f"{step}e{decade}") for decade in range(-6, 3) for step in STEPS]
"""The upper bounds of the buckets in seconds, 1 us to 800 s; after them comes one for all that took longer."""

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}

ALL_TIMED = 1000
EVERY = 16

SLOWEST_KEPT = 10
SLOWEST_PERIOD_S = 300.0
"""The slowest are those of this period and the one before: five to ten minutes."""


class Histogram:
    """Times in seconds. `counts` are those within each of BOUNDS (and above the one before), `sum` is of all."""

    __slots__ = ("counts", "sum")

    def __init__(self, counts: Sequence[int] = (), total_s: float = 0.0) -> None:
        self.counts = list(counts) or [0] * (len(BOUNDS) + 1)
        self.sum = total_s

    def note(self, seconds: float, times: int = 1) -> None:
        """One more, or so many that are taken to have been the same."""
        self.counts[bisect_left(BOUNDS, seconds)] += times
        self.sum += seconds * times

    @property
    def count(self) -> int:
        """How many."""
        return sum(self.counts)

    def __add__(self, other: "Histogram") -> "Histogram":
        return Histogram([a + b for a, b in zip(self.counts, other.counts, strict=True)], self.sum + other.sum)

    def percentile(self, share: float) -> float | None:
        """The lowest bound that this share of the times did not exceed; None if there is none, or no time."""
        total = self.count
        needed = max(1.0, share * total)
        reached = next((index for index, held in enumerate(accumulate(self.counts)) if held >= needed), None)
        return BOUNDS[reached] if total and reached is not None and reached < len(BOUNDS) else None

    def summary(self) -> dict[str, float | None]:
        """What `/-/stats` says: `count`, and the percentiles in seconds."""
        return {"count": self.count, **{name: self.percentile(share) for name, share in PERCENTILES.items()}}


class Latency:
    """Times to the first byte and to the last of one class of answers, from the moment the request was all there.

    The fast path's leave in one send: it counts them in `at_once` and, when that reaches `due`, gives `timed` how
    long this one took. To time each would cost it 3 % of its throughput; so the first ALL_TIMED are, and then one
    in EVERY, for those before it: by chance, or of files that are asked for in turn it might always be the same.
    """

    __slots__ = ("_at_once", "_first", "_last", "_timed", "at_once", "due")

    def __init__(self) -> None:
        self.at_once = self._timed = 0
        self.due = 1
        self._at_once = Histogram()
        self._first = Histogram()
        self._last = Histogram()

    def timed(self, seconds: float) -> None:
        """The latest at once took so long, and stands for all since the last that was timed."""
        self._at_once.note(seconds, self.at_once - self._timed)
        self._timed = self.at_once
        self.due = self.at_once + (1 if self.at_once < ALL_TIMED else randrange(1, 2 * EVERY))

    def note(self, first_s: float, last_s: float) -> None:
        """An answer of the general way."""
        self._first.note(first_s)
        self._last.note(last_s)

    @property
    def first_byte(self) -> Histogram:
        """Until the first byte was taken by the socket."""
        return self._at_once + self._first

    @property
    def total(self) -> Histogram:
        """Until the last byte was."""
        return self._at_once + self._last


class Slow(NamedTuple):
    """What took long, and when it ended on the clock of who noted it. Sizes are bytes."""

    seconds: float
    name: str
    size: int
    when_s: float


class Slowest:
    """The slowest of the last minutes, at most SLOWEST_KEPT of them."""

    def __init__(self) -> None:
        self._now: list[Slow] = []
        self._before: list[Slow] = []
        self._until_s = 0.0

    def note(self, slow: Slow) -> None:
        """One that has just ended."""
        self._turn(slow.when_s)
        insort(self._now, slow, key=lambda each: -each.seconds)
        del self._now[SLOWEST_KEPT:]

    def latest(self, now_s: float) -> list[Slow]:
        """The slowest first."""
        self._turn(now_s)
        return sorted(self._before + self._now, key=lambda each: -each.seconds)[:SLOWEST_KEPT]

    def _turn(self, now_s: float) -> None:
        while self._until_s <= now_s:
            is_next = now_s < self._until_s + SLOWEST_PERIOD_S
            self._before, self._now = (self._now if is_next else []), []
            self._until_s = self._until_s + SLOWEST_PERIOD_S if is_next else now_s + SLOWEST_PERIOD_S
