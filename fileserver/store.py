"""get(name) -> Body: the only place where the disk, the fills and the cache meet.

A request for a file goes: stored and believable? a hit. Being read by somebody else? join them. Otherwise start a
fill; and where the cache will not have the file, read it from disk past the cache. All four end in a `Body`, which
decides anew each time it is asked where its bytes are.
"""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import gevent

from fileserver.disk import Disk
from fileserver.fills import Fill, Fills, Stored
from fileserver.looks import Look, Looks
from fileserver.representation import Representation
from fileserver.root import Changed, FileError, Folder
from fileserver.versions import Version, Versions
from lrucache import CHUNK_BYTES, Cache, Entry, Outcome


class Described(NamedTuple):
    """What HEAD wants to know."""

    representation: Representation
    stored: Stored | None


class Found(NamedTuple):
    """A whole file, in memory, and how it came there. After a bypass the entry is the holder's alone."""

    entry: Entry
    outcome: Outcome
    detail: str = ""
    """Why a bypass is one, in the words of Cache-Status (RFC 9211)."""


class Purged(NamedTuple):
    """What there was of a name. `size` is that of the stored version in bytes, 0 without one."""

    was_cached: bool
    was_filling: bool
    size: int


class Body:
    """One version of one file, readable from any offset: from the cache, from the running fill, or from disk.

    Holds no payload between two calls. The holder calls `close` when it has sent what it wants; until then a disk
    reader keeps one descriptor open, shared with all readers of that version.
    """

    __slots__ = ("_entry", "_fill", "_store", "_version", "detail", "outcome", "representation", "size")

    def __init__(
        self,
        store: "Store",
        outcome: Outcome,
        representation: Representation,
        *,
        entry: Entry | None = None,
        fill: Fill | None = None,
        version: Version | None = None,
        detail: str = "",
    ) -> None:
        self._store = store
        self._entry = entry
        self._fill = fill
        self._version = version
        self.outcome = outcome
        self.representation = representation
        self.detail = detail
        """Why a bypass is one, in the words of Cache-Status (RFC 9211)."""
        self.size = representation.identity.size
        if entry is not None:
            entry.readers += 1

    def read(self, offset: int, limit: int) -> list[bytes | memoryview]:
        """At least one byte and at most `limit` from `offset` (< size) on, in buffers that are not copies.

        May switch greenlets. Drop the buffers before waiting for anything else: they keep evicted chunks alive.
        Raises FileError when this version can no longer be had; what was read before stays right.
        """
        while True:
            entry = self._entry
            if entry is None:
                return [self._from_disk(offset, limit)]
            buffers = entry.window(offset, limit)
            if buffers:
                return buffers
            if self._fill is not None and self._fill.entry is entry:
                self._fill.wait_beyond(offset)
            if not entry.chunks:
                self._attach(self._store.stored_again(self.representation))

    @property
    def entry(self) -> Entry | None:
        """What it is read from; None when that is the disk."""
        return self._entry

    def wait_whole(self) -> None:
        """Wait until the fill that it is read from, if it is one, has all of it. Raises the fill's own error."""
        if self._fill is not None and self._fill.entry is self._entry:
            self._fill.wait_beyond(self.size - 1)

    def hold(self) -> None:
        """Prepare for a slow client: keep the file open if that costs no wait.

        Without a descriptor, a name that is replaced while it is sent from the cache takes the rest of this
        version with it, and the answer is cut; with one it is finished, as by servers that send from descriptors.
        """
        if self._version is None:
            self._version = self._store.versions.open_cached(
                self.representation.name, self.representation.identity
            )

    def close(self) -> None:
        """Give back what this body holds."""
        self._attach(None)
        if self._version is not None:
            self._version.release()
            self._version = None

    def _attach(self, entry: Entry | None) -> None:
        if self._entry is not None:
            self._entry.readers -= 1
        self._entry = entry
        if entry is not None:
            entry.readers += 1

    def _from_disk(self, offset: int, limit: int) -> bytes:
        if self._version is None:
            self._version = self._store.open_version(self.representation)
        return self._version.read(offset, min(limit, CHUNK_BYTES))


class Store:
    """Files by name, through the cache. Used from the hub's thread only; every public method may switch greenlets.

    `revalidate_s` is how long a stored version is believed without a look at the disk; 0 looks for each request.
    """

    def __init__(
        self,
        disk: Disk,
        cache: Cache,
        *,
        revalidate_s: float = 1.0,
        cache_control: str = "no-cache",
        clock: Callable[[], float] = time.monotonic,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.disk = disk
        self.cache = cache
        self._revalidate_s = revalidate_s
        self._cache_control = cache_control
        self._clock = clock
        self.versions = Versions(disk)
        self.fills = Fills(
            disk,
            self.versions,
            cache,
            revalidate_s=revalidate_s,
            cache_control=cache_control,
            clock=clock,
            clock_ns=clock_ns,
        )
        self._looks = Looks(disk, disk.look, clock=clock)
        self._strange_looks = Looks(disk, disk.stat, clock=clock)
        """At names that are not stored, which may be many and slow and must not delay the looks at what is."""

    def get(self, name: str) -> Body:
        """The file's present version, counted as the answer it will be. The caller closes it. Raises FileError."""
        asked_s = self._clock()
        entry = self._believable(name, asked_s)
        if entry is not None and self.cache.hit(entry):
            return self.resume(entry, Outcome.HIT)
        fill = self.fills.running(name)
        if fill is not None:
            return self._past(name, "purged") if fill.is_purged else self._joined(fill, name, asked_s)
        fill = self.fills.start(name)
        fill.wait_open()
        return self._body(fill, Outcome.MISS)

    def get_now(self, name: str, asked_s: float) -> Found | None:
        """`get` for who cannot wait: the whole of a file; None when nothing was done. Never switches greenlets."""
        entry = self.cache.find(name)
        if entry is not None:
            known = self._known(entry, asked_s) and self.cache.hit(entry)
            return Found(entry, Outcome.HIT) if known else None
        if self.fills.running(name) is not None:
            return None
        read = self.fills.read_now(name, asked_s)
        if read is None:
            return None
        entry, refusal = read
        found = Found(entry, Outcome.MISS) if refusal is None else Found(entry, Outcome.BYPASS, refusal.value)
        self.cache.count(found.outcome, name, entry.size)
        return found

    def resume(self, entry: Entry, outcome: Outcome) -> Body:
        """The body of an answer that the caller has counted and begun to send; the caller closes it."""
        stored = entry if outcome is not Outcome.BYPASS else None
        return Body(self, outcome, entry.meta.representation, entry=stored)

    def describe(self, name: str) -> Described:
        """The file's present version without its bytes. Starts no fill and counts nothing. Raises FileError."""
        asked_s = self._clock()
        entry = self._believable(name, asked_s)
        if entry is not None:
            return Described(entry.meta.representation, entry.meta)
        identity = self._strange_looks.look(name, asked_s - self._revalidate_s).seen()
        return Described(Representation(name, identity, self._cache_control), None)

    def wanted(self, name: str) -> Entry | Fill:
        """For who wants `name` stored and nothing sent: the entry, or the fill that may store it. Counts nothing.

        Raises FileError.
        """
        entry = self._believable(name, self._clock())
        if entry is not None and self.cache.find(name) is entry:
            return entry
        fill = self.fills.running(name)
        if fill is None:
            return self.fills.start(name)
        fill.may_evict = True
        return fill

    def is_known(self, name: str) -> bool:
        """Whether it is stored or being read. Looks at no disk."""
        return self.cache.find(name) is not None or self.fills.running(name) is not None

    def purge(self, name: str, *, dry_run: bool = False) -> Purged:
        """Forget what is stored of `name`; no running read of it is joined or stored. Switches no greenlets.

        Who asks from now on gets what is read from now on; while a read that began before goes on, for those who
        have it already, that is past the cache. Not an eviction. A dry run only looks.
        """
        entry, fill = self.cache.find(name), self.fills.running(name)
        if not dry_run:
            if entry is not None:
                self.cache.discard(entry)
            if fill is not None:
                fill.is_purged = True
        return Purged(entry is not None, fill is not None, entry.size if entry is not None else 0)

    def looks(self, names: Iterable[str], asked_s: float, *, known: bool) -> list[Look]:
        """Finished looks at these names, not older than a stored file is believed, all under way at once.

        Names that are not `known` to be asked for again and again wait in turn with the reads.
        """
        looks = self._looks if known else self._strange_looks
        return looks.look_at_all(names, asked_s - self._revalidate_s)

    def list(self, folder: str) -> Folder:
        """A folder's entries; `""` is the root. Raises FileError."""
        return self.disk.list(folder)

    def open_version(self, representation: Representation) -> Version:
        """A use of the open file, for a body that reads from disk. Raises FileError; Changed if it is another."""
        return self.versions.open(representation.name, representation.identity)

    def stored_again(self, representation: Representation) -> Entry | None:
        """The entry of exactly this version, for a body whose own was evicted."""
        entry = self.cache.find(representation.name)
        if entry is not None and entry.meta.representation.identity == representation.identity:
            return entry
        return None

    def _joined(self, fill: Fill, name: str, asked_s: float) -> Body:
        """Share a fill that somebody else began, if the name still is that version."""
        identity = fill.wait_open().identity
        try:
            if fill.looked_s < asked_s - self._revalidate_s:
                look = self._strange_looks.look(name, asked_s - self._revalidate_s)
                if look.seen() != identity:
                    raise Changed("another version has taken the name")
                fill.looked_s = look.began_s
        except FileError:
            if fill.version is not None:
                fill.version.release()
            return self._past(name, "changed")
        return self._body(fill, Outcome.COALESCED)

    def _past(self, name: str, detail: str) -> Body:
        """The present version, past the cache: an old one is still being filled under the name."""
        version = self.versions.open(name)
        representation = Representation(name, version.identity, self._cache_control)
        self.cache.count(Outcome.BYPASS, name, version.identity.size)
        return Body(self, Outcome.BYPASS, representation, version=version, detail=detail)

    def _body(self, fill: Fill, outcome: Outcome) -> Body:
        """The answer to who has waited until `fill` was open."""
        representation = fill.representation
        assert representation is not None
        outcome = outcome if fill.refusal is None else Outcome.BYPASS
        self.cache.count(outcome, representation.name, representation.identity.size)
        if fill.refusal is None:
            return Body(self, outcome, representation, entry=fill.entry, fill=fill)
        return Body(self, outcome, representation, version=fill.version, detail=fill.refusal.value)

    def _believable(self, name: str, asked_s: float) -> Entry | None:
        """The stored entry if it was shown to be true within the window, looking again if need be.

        A look that the kernel answers is done at once when the window has passed. After one that took a thread,
        from half the window on a hit begins the next and is served at once; it waits only when all of it has
        passed. Young stamps prove nothing, so a young entry is not looked at but read again.
        """
        entry = self.cache.find(name)
        if entry is None:
            return None
        stored: Stored = entry.meta
        if asked_s - stored.looked_s >= self._revalidate_s and stored.young:
            self.cache.discard(entry)
            return None
        known = self._known(entry, asked_s)
        if known is None:
            look = self._looks.look(name, asked_s - self._revalidate_s)
            if look.failure is not None:
                raise look.failure
            known = self._learn(entry, look)
        return entry if known else None

    def _known(self, entry: Entry, asked_s: float) -> bool | None:
        """Whether the entry is true, as far as that can be known without a wait; None when it takes one."""
        stored: Stored = entry.meta
        is_within = asked_s - stored.looked_s < self._revalidate_s
        if asked_s < entry.sure_until_s or (is_within and (stored.young or stored.looking)):
            return True
        if stored.young:
            return None
        look = self._looks.begin(entry.name)
        if look.is_done:
            return None if look.failure is not None and not is_within else self._learn(entry, look, at_once=True)
        if is_within:
            stored.looking = True
            gevent.spawn(self._learn_later, entry, look)
        return True if is_within else None

    def _learn_later(self, entry: Entry, look: Look) -> None:
        look.wait()
        entry.meta.looking = False
        self._learn(entry, look)

    def _learn(self, entry: Entry, look: Look, *, at_once: bool = False) -> bool:
        """Drop the entry and say False if the look shows it to be untrue; a failing disk shows nothing.

        A look that the kernel answered `at_once` cost nobody a wait, nor most likely will the next, a second
        later: it gets no head start, which would double the looks.
        """
        stored: Stored = entry.meta
        if look.failure is not None:
            return True
        if look.identity != stored.representation.identity:
            self.cache.discard(entry)
            return False
        stored.looked_s = max(stored.looked_s, look.began_s)
        entry.sure_until_s = stored.looked_s + (self._revalidate_s if at_once else self._revalidate_s / 2)
        return True
