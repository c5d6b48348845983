"""Ghost caches: what every policy would make of what the real cache is asked, while it is asked. Pure.

A ghost is a replay, names and sizes without content, and all of them see the same requests. While no ghost holds
more than `names` names, that is every request. Above, the sample is halved, as often as it must be: names are
drawn by a hash, so that of a name's requests all count or none, and the ghosts have that share of the capacity
(miniature simulation, Waldspurger et al., USENIX ATC 2017). The counts are corrected for how popular the drawn
names happen to be: requests there are too few of, or too many, were hits (SHARDS-adj, the same, FAST 2015).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple
from zlib import crc32

from lrucache.cache import Accesses
from lrucache.policies import Policy
from lrucache.replay import Replay

NAMES = 8192
"""As SHARDS: at that size of the sample the median error of a miss ratio was 0.6 points there."""

BATCH = 64
"""Requests that all ghosts see before anyone sees the next."""


class GhostRatios(NamedTuple):
    """Hits as a share of the requests, and of their bytes; a name's first request is a miss."""

    object_hit: float
    byte_hit: float


class Ghosts:
    """A ghost for each policy, at the capacity that the real cache has."""

    def __init__(
        self, policies: Mapping[str, Callable[[int], Policy]], capacity: int, *, names: int = NAMES
    ) -> None:
        self._ghosts = {name: Replay(make, capacity) for name, make in policies.items()}
        self._capacity = capacity
        self._names = names
        self._halvings = 0
        self._asked: float = 0
        self.seen = 0
        """Requests that all ghosts have had, whether they were drawn or not."""
        self.under_way = 0
        """Requests that were taken, and that some ghosts have not had yet."""

    @property
    def rate(self) -> float:
        """The share of names that are in the sample."""
        return 0.5**self._halvings

    @property
    def expected_error(self) -> float:
        """Of an object hit ratio where no file is a large part of the cache; 0 while every request counts."""
        return 0.0 if self._halvings == 0 else self._names**-0.5

    def work(self, accesses: Accesses) -> Iterator[bool]:
        """Take requests from the left end, for ever. Pauses now and then; False when nothing is left to do."""
        while True:
            batch = [accesses.popleft() for _ in range(min(BATCH, len(accesses)))]
            if not batch:
                yield False
                continue
            self.under_way = len(batch)
            drawn = batch if self._halvings == 0 else [access for access in batch if self._is_drawn(access[0])]
            for ghost in self._ghosts.values():
                for _ in ghost.run(drawn):
                    yield True
            self.under_way = 0
            self.seen += len(batch)
            self._asked += len(batch) * self.rate
            while max(len(ghost.sizes) for ghost in self._ghosts.values()) > self._names:
                for _ in self._halve():
                    yield True
            yield True

    def ratios(self) -> dict[str, GhostRatios]:
        """By policy; zeros before the first request."""
        return {name: self._ratios(ghost) for name, ghost in self._ghosts.items()}

    def _ratios(self, ghost: Replay) -> GhostRatios:
        missing = missing_bytes = 0.0
        if self._halvings and ghost.requests:
            missing = self._asked - ghost.requests
            missing_bytes = missing * ghost.asked_bytes / ghost.requests
        return GhostRatios(
            _share(ghost.hits + missing, ghost.requests + missing),
            _share(ghost.hit_bytes + missing_bytes, ghost.asked_bytes + missing_bytes),
        )

    def _halve(self) -> Iterator[None]:
        self._halvings += 1
        self._asked /= 2
        for ghost in self._ghosts.values():
            ghost.requests /= 2
            ghost.hits /= 2
            ghost.asked_bytes /= 2
            ghost.hit_bytes /= 2
        for ghost in self._ghosts.values():
            yield from ghost.shrink(int(self._capacity * self.rate), self._is_drawn)

    def _is_drawn(self, name: str) -> bool:
        return _hash(name) >> 32 - self._halvings == 0


def _share(part: float, whole: float) -> float:
    return max(part / whole, 0.0) if whole else 0.0


def _hash(name: str) -> int:
    """32 bits, the same in every process. CRC alone is too regular for names that are counted through."""
    mixed = crc32(name.encode("utf-8", "surrogatepass"))
    mixed = (mixed ^ mixed >> 16) * 0x7FEB352D & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 15) * 0x846CA68B & 0xFFFFFFFF
    return mixed ^ mixed >> 16
