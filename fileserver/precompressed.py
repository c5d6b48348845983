"""Files that lie there compressed already: NAME.br, NAME.zst and NAME.gz beside NAME, none older than it."""

import time
from collections import OrderedDict
from collections.abc import Callable

from fileserver.negotiation import CODINGS
from fileserver.root import FileError
from fileserver.store import Store

REMEMBERED = 4096
"""Names whose siblings are known, for as long as a stored file is believed. About 1 MB of ordinary names."""


class Precompressed:
    """Knows which siblings a file has. Used from the hub's thread only.

    `revalidate_s` is how long that is believed, as for the files themselves.
    """

    def __init__(
        self, store: Store, *, revalidate_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._revalidate_s = revalidate_s
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, frozenset[str]]] = OrderedDict()

    def codings(self, name: str) -> frozenset[str]:
        """The codings in which the file can be had besides its own. May switch greenlets. Raises FileError."""
        asked_s = self._clock()
        known = self._known.get(name)
        if known is not None and asked_s - known[0] < self._revalidate_s:
            return known[1]
        mtime_ns = self._mtime_ns(name)
        found = frozenset(coding for coding, suffix in CODINGS.items() if self._is_as_new(name + suffix, mtime_ns))
        self._known[name] = (asked_s, found)
        self._known.move_to_end(name)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found

    def forget(self, name: str) -> None:
        """A sibling could not be had after all: look again when somebody asks."""
        self._known.pop(name, None)

    def _is_as_new(self, sibling: str, mtime_ns: int) -> bool:
        try:
            return self._mtime_ns(sibling) >= mtime_ns
        except FileError:
            return False

    def _mtime_ns(self, name: str) -> int:
        return self._store.describe(name).representation.identity.mtime_ns
