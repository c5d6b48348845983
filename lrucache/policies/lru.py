"""Least recently used: the order everybody knows, and the yardstick for the others."""

from collections import OrderedDict
from collections.abc import Iterator
from copy import copy

from lrucache.policies.overlay import Overlay


class Lru:
    """Evict the name whose last use is longest ago, whatever its size."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def admit(self, name: str, size: int) -> bool:
        return True

    def victim(self, size: int) -> str:
        if not self._sizes:
            raise LookupError("nothing to evict")
        return next(iter(self._sizes))

    def rule(self, victim: str, size: int) -> str:
        return "least recently used"

    def added(self, name: str, size: int) -> None:
        self._sizes[name] = size

    def hit(self, name: str) -> None:
        self._sizes.move_to_end(name)

    def removed(self, name: str) -> None:
        del self._sizes[name]

    def trial(self) -> "Lru":
        trial = copy(self)
        trial._sizes = Overlay(self._sizes)
        return trial

    def order(self) -> Iterator[tuple[str, int]]:
        return iter(list(self._sizes.items()))
