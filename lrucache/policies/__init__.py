"""The order of eviction: one small class each, without lock, gevent or clock.

A policy knows names and sizes and nothing else. The cache tells it what happened and asks it who goes next; it
never evicts by itself. A further policy is one new file here and one line in `POLICIES`.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from lrucache.policies.gdsf import Gdsf
from lrucache.policies.lru import Lru
from lrucache.policies.relocate import Relocate
from lrucache.policies.s3fifo import S3Fifo
from lrucache.policies.sieve import Sieve


class Policy(Protocol):
    """What the cache asks of an order of eviction. Every call is amortised O(log n) in the names held.

    Names are unique; sizes are bytes >= 0 and never change while a name is held. What a policy remembers of names
    that are not held is bounded by a number of its own.
    """

    capacity: int
    """Bytes for all held names together. Less while the cache lends some to a name that is being filled: that is
    not held until it is complete, and so cannot be evicted."""

    def admit(self, name: str, size: int) -> bool:
        """Whether a newcomer is worth storing. Asked once for each miss, before any eviction.

        With room for it, always.
        """

    def victim(self, size: int) -> str:
        """Name who goes next to make room for a newcomer of `size` bytes; asked until it fits.

        Asked again before anything else happens, it names the same: the name is gone only after `removed`, which
        right after this means an eviction. Raises LookupError when nothing is held.
        """

    def rule(self, victim: str, size: int) -> str:
        """In a few words, why `victim`, just named, has to go for a newcomer of `size` bytes."""

    def added(self, name: str, size: int) -> None:
        """A newcomer is stored; there is room for it."""

    def hit(self, name: str) -> None:
        """A held name was asked for again. On the path of every request: no more than a few dict operations."""

    def removed(self, name: str) -> None:
        """A held name was evicted or invalidated."""

    def trial(self) -> "Policy":
        """One that would do what this one would do next, to be asked for its victims, told of their removal, and
        thrown away: nothing of it reaches this one. Only `admit`, `victim`, `rule` and `removed` may be called,
        and this one must not be called meanwhile. Costs no more than copying a list or two.
        """

    def order(self) -> Iterator[tuple[str, int]]:
        """Every held (name, size), least worth keeping first, so that another policy can be built from it."""


POLICIES: dict[str, Callable[[int], Policy]] = {
    "relocate": Relocate,
    "lru": Lru,
    "sieve": Sieve,
    "s3fifo": S3Fifo,
    "gdsf": Gdsf,
}
"""By `--policy` name; each is made with the capacity in bytes, which some orders need."""
