"""Greedy-Dual-Size-Frequency (Cao and Irani, USITS 1997; Cherkasova, HPL-98-69, 1998), with a memory and a door.

A name is worth L + uses / size^0.75: many small files instead of one large one, and those most of all that are
asked for. Least worth goes first. L is what the last one to go was worth, so that newcomers start level with those
who stayed, and who is not used any more is overtaken in time.

Two things beside the papers. Uses are counted for names that have left, too, and all of them halved again and
again, so that a popular file is known when it comes back, and no favourite's count grows for ever. And there is a
door: a newcomer worth less than any one of those it would push out is served but not stored.

Good: the fewest misses of all orders here, by far; large files asked for once cost the popular small ones little.
Weak: it counts misses and not bytes; large files, unless they are very popular, come from the disk each time, and
many small ones push them out. What a held name is worth stays until its next use, however old the uses are (to
halve that too was tried: more misses on every trace, even where all that is popular changes).

The heap is allowed to be behind: a use changes what a name is worth, mostly for the better, and the name finds its
place when it comes to the top; only one that is worth less than before, after a halving, goes there at once.
Looking through the door takes names out and puts them back, so looks are rationed: eight for each request, and no
more than some thousands saved up. Real traces take about one for each miss; who has large newcomers compared with
thousands of small names, again and again, is turned away after that.
"""

from collections import OrderedDict
from collections.abc import Iterator
from copy import copy
from heapq import heapify, heappop, heappush, heapreplace

from lrucache.policies.overlay import Overlay

SIZE_EXPONENT = 0.75
HALVED_EACH = 10
"""Uses are halved after so many requests for each name held, ..."""
LEAST_HELD = 1024
"""... or for each of so many, where there are fewer."""
REMEMBERED = 65_536
"""Names that have left, or were turned away, and whose uses are still known; the first to leave is forgotten."""
LOOKS_EACH = 8
MOST_LOOKS = 8192
"""That are saved up, for a request that takes many: some 15 ms."""

Place = tuple[float, int, str]
"""In the heap: worth, when that was found (the earlier goes first), name."""


class _Held:
    """A held name: how often it was used (as of a halving), what that made it worth and when, where it stands."""

    __slots__ = ("halvings", "place", "size", "used", "uses", "worth")

    def __init__(self, size: int, uses: int, halvings: int) -> None:
        self.size = size
        self.uses = uses
        self.halvings = halvings
        self.worth = 0.0
        self.used = 0
        self.place: Place = (0.0, 0, "")


class Gdsf:
    """Evict the name that is worth least, and admit no newcomer that is worth less than whom it would push out."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._held: dict[str, _Held] = {}
        self._held_bytes = 0
        self._heap: list[Place] = []
        self._left: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """Uses, and as of which halving, of names that are not held."""
        self._level = 0.0
        self._requests = self._halvings = self._valued = 0
        self._looks = self._looks_given = 0
        """That may be taken; and for how many requests they were given."""
        self._halve_at = HALVED_EACH * LEAST_HELD
        self._chosen = ""

    def admit(self, name: str, size: int) -> bool:
        self._count_request()
        held = self._held.get(name)
        uses = 1 + (self._aged(held.uses, held.halvings) if held else self._aged(*self._left.pop(name, (0, 0))))
        if held:
            held.uses, held.halvings = uses, self._halvings
        else:
            self._remember(name, uses, self._halvings)
        return self._is_worth_it(size, uses)

    def victim(self, size: int) -> str:
        if not self._held:
            raise LookupError("nothing to evict")
        self._chosen = self._least()[2]
        return self._chosen

    def rule(self, victim: str, size: int) -> str:
        return "worth least"

    def added(self, name: str, size: int) -> None:
        uses, halvings = self._left.pop(name, (1, self._halvings))
        held = self._held[name] = _Held(size, self._aged(uses, halvings), self._halvings)
        self._held_bytes += size
        self._value(held)
        self._place(name, held)

    def hit(self, name: str) -> None:
        self._count_request()
        held = self._held[name]
        held.uses = 1 + (held.uses if held.halvings == self._halvings else self._aged(held.uses, held.halvings))
        held.halvings = self._halvings
        self._value(held)
        if held.worth < held.place[0]:  # uses were halved since
            self._place(name, held)

    def removed(self, name: str) -> None:
        held = self._held.pop(name)
        self._held_bytes -= held.size
        if name == self._chosen:
            self._level = max(self._level, held.worth)
        self._chosen = ""
        self._remember(name, held.uses, held.halvings)

    def trial(self) -> "Gdsf":
        trial = copy(self)
        trial._held, trial._left = Overlay(self._held, own=copy), Overlay(self._left)
        trial._heap = self._heap.copy()
        return trial

    def order(self) -> Iterator[tuple[str, int]]:
        held = sorted(self._held.items(), key=lambda item: (item[1].worth, item[1].used))
        return iter([(name, each.size) for name, each in held])

    def _count_request(self) -> None:
        self._requests += 1
        if self._requests >= self._halve_at:
            self._halvings += 1
            self._halve_at = self._requests + HALVED_EACH * max(len(self._held), LEAST_HELD)

    def _aged(self, uses: int, halvings: int) -> int:
        """All uses are halved at one moment; each name's own are when it is next looked at."""
        return uses >> self._halvings - halvings

    def _remember(self, name: str, uses: int, halvings: int) -> None:
        self._left[name] = (uses, halvings)
        if len(self._left) > REMEMBERED:
            self._left.popitem(last=False)

    def _value(self, held: _Held) -> None:
        held.worth = self._level + held.uses / (held.size or 1) ** SIZE_EXPONENT
        self._valued += 1
        held.used = self._valued

    def _place(self, name: str, held: _Held) -> None:
        held.place = (held.worth, held.used, name)
        heappush(self._heap, held.place)
        if len(self._heap) > 2 * len(self._held) + LEAST_HELD:  # places that names left long ago
            self._heap = [each.place for each in self._held.values()]
            heapify(self._heap)

    def _least(self) -> Place:
        """Bring the top of the heap up to date. Something must be held."""
        while True:
            place = self._heap[0]
            held = self._held.get(place[2])
            if held is None or held.place is not place:
                heappop(self._heap)
            elif (held.worth, held.used) == place[:2]:
                return place
            else:
                held.place = (held.worth, held.used, place[2])
                heapreplace(self._heap, held.place)

    def _is_worth_it(self, size: int, uses: int) -> bool:
        if size > self.capacity:
            return False
        missing = self._held_bytes + size - self.capacity
        worth = self._level + uses / (size or 1) ** SIZE_EXPONENT
        self._looks = min(self._looks + LOOKS_EACH * (self._requests - self._looks_given), MOST_LOOKS)
        self._looks_given = self._requests
        seen: list[Place] = []
        while missing > 0 and self._looks:
            place = self._least()
            if place[0] > worth:
                break
            self._looks -= 1
            seen.append(heappop(self._heap))
            missing -= self._held[place[2]].size
        for place in seen:
            heappush(self._heap, place)
        return missing <= 0
