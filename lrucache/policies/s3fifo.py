"""S3-FIFO (Yang et al., SOSP 2023), aware of sizes: newcomers wait in a small queue, and most leave from there.

A tenth of the bytes is the small queue. At its end, who was used meanwhile moves to the main queue; who was not
goes, and only the name is remembered, as a ghost. A newcomer who still is a ghost goes to the main queue at once.
At the end of that, who was used goes round again, one use the poorer (three count at the most); who was not, goes.

The paper has objects of one size. Here a file may be as large as the cache, so sizes are honoured in three places:
queues are measured in bytes. One use is enough for promotion, since the small queue holds few files. And where
something would have to go for it, a newcomer larger than half the small queue, of which it could not hold two, is
made a ghost instead of stored: it is if it is asked for again.

Good: scans and large files that nobody asks for twice cost the popular ones nothing; few bytes are read. Weak: the
second request for a large file misses, too; it keeps more bytes but fewer small files than `gdsf`.
"""

from collections import OrderedDict
from collections.abc import Iterator
from copy import copy

from lrucache.policies.overlay import Overlay

SMALL_SHARE = 0.1
MAX_USES = 3
LEAST_GHOSTS = 1024
"""Ghosts are as many as names are held, as in the paper, but at least so many: a few large files fill a cache."""


class S3Fifo:
    """Evict from the small queue while it is over its share, else from the main one; who was used may stay."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._small: OrderedDict[str, int] = OrderedDict()
        self._main: OrderedDict[str, int] = OrderedDict()
        self._ghosts: OrderedDict[str, int] = OrderedDict()
        """Sizes by name, all three: the first in is the first out."""
        self._small_bytes = self._main_bytes = self._ghost_bytes = 0
        self._uses: dict[str, int] = {}
        self._returning: OrderedDict[str, None] = OrderedDict()
        """Ghosts that were admitted; those whose fills fail stay, but not for ever."""
        self._chosen = ""

    def admit(self, name: str, size: int) -> bool:
        if name in self._ghosts:
            self._ghost_bytes -= self._ghosts.pop(name)
            self._returning[name] = None
            if len(self._returning) > LEAST_GHOSTS:
                self._returning.popitem(last=False)
        if name in self._returning:
            return True
        is_full = self._small_bytes + self._main_bytes + size > self.capacity
        if is_full and size > SMALL_SHARE * self.capacity / 2:
            self._remember(name, size)
            return False
        return True

    def victim(self, size: int) -> str:
        if not self._uses:
            raise LookupError("nothing to evict")
        while True:
            if self._small and (self._is_small_over(size) or not self._main):
                name = next(iter(self._small))
                if not self._uses[name]:
                    break
                self._promote(name)
            else:
                name = next(iter(self._main))
                if not self._uses[name]:
                    break
                self._uses[name] -= 1
                self._main.move_to_end(name)
        self._chosen = name
        return name

    def rule(self, victim: str, size: int) -> str:
        return "not used since it came" if victim in self._small else "not used since it came round"

    def added(self, name: str, size: int) -> None:
        self._uses[name] = 0
        if name in self._returning:
            del self._returning[name]
            self._main[name] = size
            self._main_bytes += size
        else:
            self._small[name] = size
            self._small_bytes += size

    def hit(self, name: str) -> None:
        uses = self._uses
        if uses[name] < MAX_USES:
            uses[name] += 1

    def removed(self, name: str) -> None:
        del self._uses[name]
        if name in self._main:
            self._main_bytes -= self._main.pop(name)
        else:
            size = self._small.pop(name)
            self._small_bytes -= size
            if name == self._chosen:
                self._remember(name, size)
        self._chosen = ""

    def trial(self) -> "S3Fifo":
        trial = copy(self)
        trial._small, trial._main = Overlay(self._small), Overlay(self._main)
        trial._ghosts, trial._returning = Overlay(self._ghosts), Overlay(self._returning)
        trial._uses = Overlay(self._uses)
        return trial

    def order(self) -> Iterator[tuple[str, int]]:
        held = [*self._small.items(), *self._main.items()]
        return iter(sorted(held, key=lambda name_and_size: self._uses[name_and_size[0]]))

    def _is_small_over(self, size: int) -> bool:
        """In bytes; where those would fit, who asks for a victim has too many entries, and they count."""
        if self._small_bytes + self._main_bytes + size <= self.capacity:
            return len(self._small) >= SMALL_SHARE * len(self._uses)
        return self._small_bytes >= SMALL_SHARE * self.capacity

    def _promote(self, name: str) -> None:
        size = self._small.pop(name)
        self._small_bytes -= size
        self._main[name] = size
        self._main_bytes += size
        self._uses[name] = 0

    def _remember(self, name: str, size: int) -> None:
        self._ghost_bytes += size - self._ghosts.pop(name, 0)
        self._ghosts[name] = size
        most_bytes, most = (1 - SMALL_SHARE) * self.capacity, max(LEAST_GHOSTS, len(self._uses))
        while len(self._ghosts) > most or (self._ghost_bytes > most_bytes and len(self._ghosts) > 1):
            self._ghost_bytes -= self._ghosts.popitem(last=False)[1]
