"""The original system's rule: one file that is large enough goes first, else the least recently used ones.

For a newcomer of size s that does not fit: if some held name has size >= s, the least recently used *such* name
goes; otherwise names go in least-recently-used order until it fits.

Good: one eviction instead of many, so small files survive large newcomers; on the real traces measured it misses
fewer requests than LRU. Weak: the hottest name goes when it is the only larger one. One hot 40 MiB file in 64 MiB,
asked for between newcomers, costs nothing when they are equal; of 0 to 1 MiB, it is missed every tenth time or so;
when each newcomer is larger than the one before, almost always (93.9 % of all requests missed, where LRU misses
the newcomers' 50 %). `tests/test_policy_rules.py` holds a golden trace of both sides.

"Least recently used of size >= s" is a question in two dimensions. Recency is a row of slots, filled from the
left; a segment tree over the slots keeps the largest size of each stretch, so the leftmost slot of size >= s is
found by walking down once. Uses are only noted when they happen and moved into the tree when a victim is next
asked for: a cache that only hits never touches the tree.
"""

from collections.abc import Iterator
from copy import copy

from lrucache.policies.overlay import Overlay

_EMPTY = -1
_LEAST_SLOTS = 64
_CHEAPER_ANEW = 8
"""To plant the tree anew costs a name an eighth of what it costs to move it."""


class Relocate:
    """Evict the least recently used name of at least the newcomer's size, else the least recently used of all."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._sizes: dict[str, int] = {}
        self._slot_of: dict[str, int] = {}
        self._used_since: dict[str, None] = {}
        """Names added or hit since the tree was last brought up to date, in the order of their last use."""
        self._plant([])

    def admit(self, name: str, size: int) -> bool:
        return True

    def victim(self, size: int) -> str:
        self._settle()
        tree = self._largest
        if tree[1] == _EMPTY:
            raise LookupError("nothing to evict")
        wanted = size if tree[1] >= size else 0
        node = 1
        while node < self._width:
            node *= 2
            if tree[node] < wanted:
                node += 1
        return self._name_at[node - self._width]

    def rule(self, victim: str, size: int) -> str:
        return "large enough" if self._sizes[victim] >= size else "least recently used"

    def added(self, name: str, size: int) -> None:
        self._sizes[name] = size
        self._used_since[name] = None

    def hit(self, name: str) -> None:
        self._used_since.pop(name, None)
        self._used_since[name] = None

    def removed(self, name: str) -> None:
        del self._sizes[name]
        self._used_since.pop(name, None)
        slot = self._slot_of.pop(name, None)
        if slot is not None:
            self._put(slot, _EMPTY)

    def trial(self) -> "Relocate":
        self._settle()  # else each trial would have to
        trial = copy(self)
        trial._sizes, trial._slot_of = Overlay(self._sizes), Overlay(self._slot_of)
        trial._used_since, trial._largest = {}, self._largest.copy()
        return trial

    def order(self) -> Iterator[tuple[str, int]]:
        return iter([(name, self._sizes[name]) for name in self._by_recency()])

    def _by_recency(self) -> list[str]:
        slots, used = self._slot_of, self._used_since
        row = enumerate(self._name_at[: self._next_slot])
        return [name for slot, name in row if slots.get(name) == slot and name not in used] + list(used)

    def _settle(self) -> None:
        """Give every name used since the last time a new slot at the right end."""
        used = len(self._used_since)
        if self._next_slot + used > self._width or used * _CHEAPER_ANEW > len(self._slot_of) + _LEAST_SLOTS:
            self._plant(self._by_recency())
            return
        for name in self._used_since:
            old = self._slot_of.get(name)
            if old is not None:
                self._put(old, _EMPTY)
            self._seat(name)
        self._used_since.clear()

    def _plant(self, names: list[str]) -> None:
        """Start again with as many free slots as names: it takes that many uses at the least to fill the row."""
        width = _LEAST_SLOTS
        while width < 2 * len(names):
            width *= 2
        free = width - len(names)
        level = [self._sizes[name] for name in names] + [_EMPTY] * free
        levels = [level]
        while len(level) > 1:
            level = list(map(max, level[::2], level[1::2]))
            levels.append(level)
        self._largest = [_EMPTY]  # nothing is at 0: the root is 1, and the children of n are 2n and 2n + 1
        for level in reversed(levels):
            self._largest += level
        self._width = width
        self._name_at = names + [""] * free
        self._next_slot = len(names)
        self._slot_of = {name: slot for slot, name in enumerate(names)}
        self._used_since.clear()

    def _seat(self, name: str) -> None:
        slot = self._next_slot
        self._next_slot += 1
        self._slot_of[name] = slot
        self._name_at[slot] = name
        self._put(slot, self._sizes[name])

    def _put(self, slot: int, size: int) -> None:
        tree = self._largest
        node = slot + self._width
        tree[node] = size
        while node > 1:
            node //= 2
            largest = max(tree[2 * node], tree[2 * node + 1])
            if tree[node] == largest:
                return
            tree[node] = largest
