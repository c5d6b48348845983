"""SIEVE (Zhang et al., NSDI 2024): a queue that nobody moves in, and a hand that passes over who was used.

Names stand in the order they came. A use only marks its name. The hand goes from the oldest to the newest and then
begins again; it takes the mark of each marked name it passes and stops at the first without one, which goes.

Good: the cheapest hit of all orders, and newcomers nobody asks for again go soon, so a scan does less harm than to
`lru`. Weak: sizes mean nothing to it; a large newcomer pushes out what it meets, mark or no mark.

The queue is two: those the hand has passed, and those before it. One after the other they are all names from the
oldest to the newest, and whoever the hand passes moves from the front of one to the end of the other.
"""

from collections import OrderedDict
from collections.abc import Iterator
from copy import copy

from lrucache.policies.overlay import Overlay


class Sieve:
    """Evict the first unmarked name the hand comes to; a name is marked by its use, until the hand passes it."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._passed: OrderedDict[str, int] = OrderedDict()
        self._ahead: OrderedDict[str, int] = OrderedDict()
        """Sizes by name. Empty only when nothing is held: whoever empties it lets the hand begin again."""
        self._marked: set[str] = set()

    def admit(self, name: str, size: int) -> bool:
        return True

    def victim(self, size: int) -> str:
        if not self._ahead:
            raise LookupError("nothing to evict")
        while (name := next(iter(self._ahead))) in self._marked:
            self._marked.remove(name)
            self._passed[name] = self._ahead.pop(name)
            self._begin_again_at_the_end()
        return name

    def rule(self, victim: str, size: int) -> str:
        return "not used since the hand came by"

    def added(self, name: str, size: int) -> None:
        self._ahead[name] = size

    def hit(self, name: str) -> None:
        self._marked.add(name)

    def removed(self, name: str) -> None:
        if name in self._ahead:
            del self._ahead[name]
            self._begin_again_at_the_end()
        else:
            del self._passed[name]
        self._marked.discard(name)

    def trial(self) -> "Sieve":
        trial = copy(self)
        trial._passed, trial._ahead = Overlay(self._passed), Overlay(self._ahead)
        trial._marked = self._marked.copy()
        return trial

    def order(self) -> Iterator[tuple[str, int]]:
        held = [*self._ahead.items(), *self._passed.items()]
        return iter(sorted(held, key=lambda name_and_size: name_and_size[0] in self._marked))

    def _begin_again_at_the_end(self) -> None:
        if not self._ahead:
            self._ahead, self._passed = self._passed, self._ahead
