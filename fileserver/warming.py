"""Files read before anybody asks: one at an operator's word, or what was cached when the server last stopped.

They come into the cache by the same fills as for clients, and count as no client's answer.
"""

import errno
import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from itertools import islice
from typing import NamedTuple

import gevent
from gevent.event import AsyncResult

from fileserver import names
from fileserver.fills import Fill
from fileserver.pauses import pause
from fileserver.rendering import size_text
from fileserver.root import Exhausted, FileError
from fileserver.store import Store
from fileserver.turns import Turns
from lrucache import EVICTIONS_KEPT, MAX_ENTRIES, Entry, Eviction

WARMS_MAX = 8
"""Files that are warmed at somebody's word at a time, also those whose word-giver has had a 202."""
WARM_WAIT_S = 10.0
"""How long such a word waits for its file: less than what sits in front of a server waits for an answer (HAProxy's
example has 30 s, nginx 60)."""

RESTORED_AT_ONCE = 4
"""Files of a list that are looked at or read at a time: clients have the other threads (64 by default)."""
LIST_MAX_BYTES = 64 << 20
"""Of a list: 65,536 names of 1 KiB each."""

log = logging.getLogger("gserver")


class Warmth(Enum):
    """What became of a file that should be warm, or in a dry run would."""

    CACHED = "cached"
    """It was there, and is not older than a stored file is believed."""
    STORED = "stored"
    REFUSED = "refused"


class Warmed(NamedTuple):
    """One file that should be warm. `evictions`: for it, the first one first, at most as many as are kept."""

    warmth: Warmth
    name: str
    size: int
    detail: str = ""
    """Why it was refused, in the words of Cache-Status (RFC 9211)."""
    evictions: tuple[Eviction, ...] = ()
    is_all: bool = True
    """Whether these are all evictions."""


class Warming:
    """Warms the cache of one store. Used from the hub's thread only."""

    def __init__(
        self,
        store: Store,
        is_valid: Callable[[str], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._cache = store.cache
        self._is_valid = is_valid
        self._clock = clock
        self._turns = Turns(WARMS_MAX)
        self._pending: list[str] = []
        """The list that is being restored, until all of it was seen to."""
        self._is_stopping = False

    # One file, at an operator's word.

    def warm(self, name: str, *, dry_run: bool = False, wait_s: float = WARM_WAIT_S) -> Warmed | None:
        """Have `name` in the cache, or only say what that would do. None: it takes longer than `wait_s`.

        Then it goes on. Switches greenlets. Raises FileError, Exhausted when too many are being warmed.
        """
        if not self._turns.take_now():
            raise Exhausted("too many files are being warmed")
        result: AsyncResult[Warmed | FileError] = AsyncResult()
        gevent.spawn(self._find_out, self._foresee if dry_run else self._warm, name, result)
        try:
            found = result.get(timeout=wait_s)
        except gevent.Timeout:
            return None
        if isinstance(found, FileError):
            raise found
        return found

    def _find_out(
        self, ask: Callable[[str], Warmed], name: str, result: "AsyncResult[Warmed | FileError]"
    ) -> None:
        found: Warmed | FileError = FileError("the warming ended early")
        try:
            found = ask(name)
        except FileError as problem:
            found = problem
        finally:
            self._turns.give()
            result.set(found)

    def _warm(self, name: str) -> Warmed:
        while True:
            found = self._store.wanted(name)
            if isinstance(found, Entry):
                return Warmed(Warmth.CACHED, name, found.size)
            error = found.wait_end()
            if error is not None:
                raise error
            if not found.is_purged:
                return self._came(name, found)

    def _came(self, name: str, fill: Fill) -> Warmed:
        """What became of a fill that has ended well."""
        assert fill.representation is not None
        size = fill.representation.identity.size
        if fill.refusal is not None:
            return Warmed(Warmth.REFUSED, name, size, fill.refusal.value)
        kept = self._cache.evicted()
        is_all = len(kept) < EVICTIONS_KEPT or kept[-1].when_s < fill.began_s
        went = tuple(each for each in reversed(kept) if each.newcomer == name and each.when_s >= fill.began_s)
        if self._cache.find(name) is fill.entry:
            return Warmed(Warmth.STORED, name, size, "", went, is_all)
        return Warmed(Warmth.REFUSED, name, size, "changed", went, is_all)

    def _foresee(self, name: str) -> Warmed:
        described = self._store.describe(name)
        size = described.representation.identity.size
        if described.stored is not None:
            return Warmed(Warmth.CACHED, name, size)
        fill = self._store.fills.running(name)
        if fill is not None and fill.entry is not None and not fill.is_purged:
            return Warmed(Warmth.STORED, name, size)  # it has its room already
        foreseen = self._cache.foresee(name, size)
        if foreseen.refusal is not None:
            return Warmed(Warmth.REFUSED, name, size, foreseen.refusal.value)
        return Warmed(Warmth.STORED, name, size, "", tuple(foreseen.evictions), foreseen.is_all)

    # What was cached when the server last stopped.

    def restore(self, listed: list[str], source: str) -> None:
        """Read what was `listed`, most recently used first, in a greenlet, as much of it as there is room for:
        nothing is evicted for it. Afterwards the order is that of the list. Logs one line at its end."""
        self._pending = listed
        gevent.spawn(self._restore, source)

    def stop(self) -> None:
        """Begin no more reads of what was listed."""
        self._is_stopping = True

    def names(self) -> list[str]:
        """What is cached, most recently used first, and after it what still was to be restored."""
        cached = (entry.name for entry in self._cache.snapshot()[1])
        return list(dict.fromkeys((*cached, *self._pending)))[:MAX_ENTRIES]

    def _restore(self, source: str) -> None:
        began_s = self._clock()
        stored = [entry.size for entry in self._read(self._choose(self._pending))]
        log.info(
            "%s from %s: %d %s, %s, in %.1f s, %d skipped",
            "stopped warming" if self._is_stopping else "warmed",
            source,
            len(stored),
            "file" if len(stored) == 1 else "files",
            size_text(sum(stored)),
            self._clock() - began_s,
            len(self._pending) - len(stored),
        )
        if not self._is_stopping:
            self._pending = []

    def _choose(self, listed: list[str]) -> list[tuple[str, int]]:
        """Those of the list that fit the cache together, the first ones first, with their sizes."""
        valid = iter([name for name in listed if not names.is_reserved(name) and self._is_valid(name)])
        room = self._cache.capacity
        chosen: list[tuple[str, int]] = []
        while (some := list(islice(valid, RESTORED_AT_ONCE))) and not self._is_stopping:
            for name, look in zip(some, self._store.looks(some, self._clock(), known=False), strict=True):
                if look.identity is not None and look.identity.size <= room:
                    room -= look.identity.size
                    chosen.append((name, look.identity.size))
            pause()
        return chosen

    def _read(self, chosen: list[tuple[str, int]]) -> Iterator[Entry]:
        """Read these, the last one first. The entries that were stored, as they are."""
        under_way: deque[tuple[Fill, int]] = deque()
        while chosen and not self._is_stopping:
            name, size = chosen.pop()
            # Not more at a time than the cache takes of newcomers, which is half of it, or one alone.
            while under_way and (
                len(under_way) == RESTORED_AT_ONCE
                or sum(others for _, others in under_way) + size > self._cache.capacity // 2
            ):
                yield from self._stored(under_way.popleft()[0])
            if self._is_stopping or self._store.is_known(name) or not self._cache.has_room(size):
                continue
            after = under_way[-1][0] if under_way else None
            under_way.append((self._store.fills.start_ahead(name, after), size))
        for fill, _ in under_way:
            yield from self._stored(fill)

    def _stored(self, fill: Fill) -> Iterator[Entry]:
        """What a fill has stored, once it has ended."""
        fill.wait_end()
        if fill.entry is not None and self._cache.find(fill.entry.name) is fill.entry:
            yield fill.entry


def read_list(path: str) -> list[str]:
    """The names in a list, one a line; those that are not UTF-8 are left out, and so is what no cache could hold.

    Blocks. Raises OSError, and ValueError when there are more than LIST_MAX_BYTES.
    """
    with open(path, "rb") as file:
        content = file.read(LIST_MAX_BYTES + 1)
    if len(content) > LIST_MAX_BYTES:
        raise ValueError(f"more than {size_text(LIST_MAX_BYTES)} of names")
    lines = islice(filter(None, content.splitlines()), MAX_ENTRIES)
    return list(dict.fromkeys(filter(None, map(names.decode_name, lines))))


def save_list(path: str, listed: list[str]) -> None:
    """Write names as `read_list` reads them: a new file that takes the place of the old one when it is complete.

    Blocks. Raises OSError.
    """
    path = os.path.realpath(path)
    descriptor, temporary = tempfile.mkstemp(prefix=".gserver-", dir=os.path.dirname(path))
    try:
        with open(descriptor, "wb") as file:
            file.writelines(f"{name}\n".encode() for name in listed)
            file.flush()
            os.fsync(descriptor)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def check_saving(path: str) -> None:
    """Whether `save_list` could write there now. Blocks. Raises OSError."""
    path = os.path.realpath(path)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    with tempfile.TemporaryFile(dir=os.path.dirname(path)):
        pass
