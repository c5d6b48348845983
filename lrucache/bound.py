"""PFOO-L (Berger, Beckmann and Harchol-Balter, SIGMETRICS 2018): what no order of eviction can do better than.

Whoever knows the future keeps a name from one request to the next, or does not. To keep it costs its size for so
many requests; all together there are the capacity times all requests. Take the cheapest hits until that is spent:
as this forgets that at no moment more than the capacity may be held, it hits at least as often as the best order
could. The last one taken counts in part, which keeps it a bound for bytes and seconds, too.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


class Bound:
    """The cheapest hits of one trace of (name, bytes), where a name always has the same size.

    What a hit is worth is the caller's to say: 1 counts requests, its size bytes, or seconds of a disk.
    """

    def __init__(self, requests: Iterable[tuple[str, int]]) -> None:
        latest: dict[str, int] = {}
        sizes, lengths = [], []
        at = -1
        for at, (name, size) in enumerate(requests):
            before = latest.get(name)
            if before is not None:
                sizes.append(size)
                lengths.append(at - before)
            latest[name] = at
        self._requests = at + 1
        self._sizes: Numbers = np.array(sizes, dtype=np.float64)
        self._costs: Numbers = self._sizes * np.array(lengths, dtype=np.float64)

    def most(self, capacities: Sequence[int], *, each: float = 0.0, each_byte: float = 0.0) -> list[float]:
        """The most that all hits can be worth, at each capacity; one is worth `each` and `each_byte` of its size.

        What is larger than the capacity is never hit.
        """
        worths = each + each_byte * self._sizes
        cheapest = np.argsort(self._costs / np.maximum(worths, np.finfo(float).tiny), kind="stable")
        return [
            _spend(self._costs[kept], worths[kept], capacity * self._requests)
            for capacity in capacities
            for kept in [cheapest[self._sizes[cheapest] <= capacity]]
        ]


def _spend(costs: Numbers, worths: Numbers, budget: int) -> float:
    """What the first of these are worth together, until the budget is spent; of the last one, a part."""
    spent = np.cumsum(costs)
    whole = int(np.searchsorted(spent, budget, side="right"))
    worth = float(worths[:whole].sum())
    if whole < len(costs):
        left = budget - (float(spent[whole - 1]) if whole else 0.0)
        worth += left / float(costs[whole]) * float(worths[whole])
    return worth
