"""What a policy would have made of given requests: names and sizes, and not one byte. Pure.

The simulator asks this about whole traces, the live what-if about what the server is being asked right now; both
run the very policies that evict in `cache`. Unlike there, nothing is bounded but the bytes: entries may be as many
as fit, a miss is stored at once, and no fill is ever under way.
"""

from collections.abc import Callable, Iterable, Iterator

from lrucache.policies import Policy

PAUSE_STEPS = 16
"""Requests and evictions, together, between two pauses: some 5 to 100 microseconds."""


class Replay:
    """A cache without content. Counts requests and hits, and the bytes of both; whoever counts may scale them."""

    def __init__(self, make: Callable[[int], Policy], capacity: int) -> None:
        self.capacity = capacity
        self.policy = make(capacity)
        self.sizes: dict[str, int] = {}
        """Of what is held, in bytes."""
        self.free = capacity
        self.requests: float = 0
        self.hits: float = 0
        self.asked_bytes: float = 0
        self.hit_bytes: float = 0

    def run(self, requests: Iterable[tuple[str, int]]) -> Iterator[None]:
        """Make these requests, (name, bytes), while the iterator is asked for more: it pauses now and then.

        What is larger than the cache is not stored. A name that has another size than before is another version:
        it misses, and takes the place of the old one.
        """
        sizes, policy, hit = self.sizes, self.policy, self.policy.hit
        steps = 0
        for name, size in requests:
            self.requests += 1
            self.asked_bytes += size
            if sizes.get(name) == size:
                self.hits += 1
                self.hit_bytes += size
                hit(name)
            else:
                if name in sizes:
                    self._remove(name)
                if size <= self.capacity and policy.admit(name, size):
                    while self.free < size:
                        self._remove(policy.victim(size))
                        steps += 1
                        if steps % PAUSE_STEPS == 0:
                            yield
                    policy.added(name, size)
                    sizes[name] = size
                    self.free -= size
            steps += 1
            if steps % PAUSE_STEPS == 0:
                yield

    def shrink(self, capacity: int, keep: Callable[[str], bool]) -> Iterator[None]:
        """Go on with only the names to `keep` and less room for them; pauses as `run` does."""
        self.free -= self.capacity - capacity
        self.capacity = self.policy.capacity = capacity
        for steps, name in enumerate(list(self.sizes)):
            if not keep(name):
                self._remove(name)
            if steps % PAUSE_STEPS == 0:
                yield
        while self.free < 0:
            self._remove(self.policy.victim(0))
            yield

    def _remove(self, name: str) -> None:
        self.free += self.sizes.pop(name)
        self.policy.removed(name)
