"""Files that lie there compressed already: NAME.br, NAME.zst and NAME.gz beside NAME, none older than it."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import gevent

from fileserver.negotiation import CODINGS
from fileserver.root import FileError
from fileserver.store import Store

REMEMBERED = 4096
"""Names whose siblings are known, for as long as a stored file is believed. About 1 MB of ordinary names."""


class Siblings(NamedTuple):
    """The codings of a file's siblings, and when the first look at any of them began."""

    looked_s: float
    codings: frozenset[str]


class Precompressed:
    """Knows which siblings a file has. Used from the hub's thread only.

    `revalidate_s` is how long that is believed, as for the files themselves; from half of it on a request begins
    the next look and is answered at once.
    """

    def __init__(
        self, store: Store, *, revalidate_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._revalidate_s = revalidate_s
        self._clock = clock
        self._known: OrderedDict[str, Siblings] = OrderedDict()
        self._learning: set[str] = set()

    def codings(self, name: str) -> frozenset[str]:
        """The codings in which the file can be had besides its own. May switch greenlets. Raises FileError."""
        known = self._known.get(name)
        asked_s = self._clock()
        if known is None or asked_s - known.looked_s >= self._revalidate_s:
            return self._learn(name, asked_s, known=known is not None)
        if asked_s - known.looked_s >= self._revalidate_s / 2 and name not in self._learning:
            self._learning.add(name)
            gevent.spawn(self._learn_ahead, name)
        return known.codings

    def forget(self, name: str) -> None:
        """A sibling could not be had after all: look again when somebody asks."""
        self._known.pop(name, None)

    def _learn(self, name: str, asked_s: float, *, known: bool) -> frozenset[str]:
        siblings = [name + suffix for suffix in CODINGS.values()]
        itself, *looks = self._store.looks([name, *siblings], asked_s, known=known)
        mtime_ns = itself.seen().mtime_ns
        # What cannot be looked at is not there, and what is empty is only being made: the file itself will do.
        found = frozenset(
            coding
            for coding, look in zip(CODINGS, looks, strict=True)
            if look.identity is not None and look.identity.size and look.identity.mtime_ns >= mtime_ns
        )
        self._known[name] = Siblings(min(look.began_s for look in (itself, *looks)), found)
        self._known.move_to_end(name)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found

    def _learn_ahead(self, name: str) -> None:
        try:
            self._learn(name, self._clock() + self._revalidate_s, known=True)
        except FileError:
            self.forget(name)
        finally:
            self._learning.discard(name)
