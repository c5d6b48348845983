"""One streaming read for each name at a time, shared by everyone who wants it.

A fill is a greenlet of its own: no client leads it, so no client can slow it down or take it away. It opens the
file, reads the first chunk, and only then asks the cache for room, so a failing disk evicts nothing. Then chunk
after chunk becomes visible to whoever is waiting. However it ends, it leaves the table and tells everyone.
"""

import time
from collections.abc import Callable

import gevent
from gevent.event import Event

from fileserver.disk import Disk
from fileserver.latency import Slow, Slowest
from fileserver.pauses import pause
from fileserver.representation import Representation
from fileserver.root import FileError, Identity, Opened
from fileserver.versions import Version, Versions
from lrucache import CHUNK_BYTES, Cache, Entry, Refusal

YOUNG_NS = 2_000_000_000
"""A file stamped less than this ago may change again within one tick of its stamp (FAT counts in 2 s)."""


class Stored:
    """What the store keeps with an entry: its representation, and how long it may be believed.

    `looked_s`: when a look, or the open, last showed that the name is this version. `young`: the stamps were too
    fresh at the end of the fill to prove anything, so look no more, read again. `looking`: a look ahead of the
    window's end is under way. `digest` is the SHA-256, once somebody wanted it. `hit_fields` and `hit_log` are
    what all plain hits have in common in their heads and in the access log, once there was one.
    """

    __slots__ = ("digest", "hit_fields", "hit_log", "looked_s", "looking", "representation", "young")

    def __init__(self, representation: Representation, looked_s: float) -> None:
        self.representation = representation
        self.looked_s = looked_s
        self.young = self.looking = False
        self.digest: bytes | None = None
        self.hit_fields = b""
        self.hit_log: tuple[bytes, bytes] | None = None


class Fill:
    """One read of one file. `wait_open` first; then either `refusal` says why it is not stored, or `entry` fills.

    `version` is a use of the open file that is the caller's to release, only after a refusal. One that `is_purged`
    is for those who have it already: nobody else may join it, and it is not stored. Until somebody wants it now,
    one that was begun in advance is stored only `after` another has ended, and may not evict.
    """

    __slots__ = (
        "_askers",
        "_moved",
        "after",
        "began_s",
        "ended",
        "entry",
        "error",
        "is_purged",
        "looked_s",
        "may_evict",
        "refusal",
        "representation",
        "version",
    )

    def __init__(self, looked_s: float) -> None:
        self.began_s = self.looked_s = looked_s
        self.representation: Representation | None = None
        self.entry: Entry | None = None
        self.refusal: Refusal | None = None
        self.version: Version | None = None
        self.error: FileError | None = None
        self.ended = self.is_purged = False
        self.may_evict = True
        self.after: Fill | None = None
        self._askers = 0
        self._moved = Event()

    def wait_open(self) -> Representation:
        """Wait until the file is open and its fate is known. Switches greenlets; raises the fill's own error."""
        self._askers += 1
        self.may_evict = True
        while self.representation is None and not self.ended:
            self._moved.wait()
        if self.representation is None:
            raise _anew(self.error)
        return self.representation

    def wait_beyond(self, offset: int) -> None:
        """Wait until the byte at `offset` is there, or the fill has ended. Raises the fill's own error."""
        while not self.ended and self.entry is not None and self.entry.held <= offset:
            self._moved.wait()
        if self.error is not None:
            raise _anew(self.error)

    def wait_end(self) -> FileError | None:
        """Wait until it has ended; the error it ended with. Switches greenlets."""
        while not self.ended:
            self._moved.wait()
        return _anew(self.error) if self.error is not None else None

    def move(self) -> None:
        """Wake everyone who waits: there is something new to see."""
        moved, self._moved = self._moved, Event()
        moved.set()

    def refuse(self, refusal: Refusal, version: Version | None) -> None:
        """Nothing is stored: every waiting client gets a use of the open version instead."""
        self.refusal = refusal
        if version is not None and self._askers:
            self.version = version
            version.uses += self._askers


class Fills:
    """The fills in flight, by name. Used from the hub's thread only."""

    def __init__(
        self,
        disk: Disk,
        versions: Versions,
        cache: Cache,
        *,
        revalidate_s: float,
        cache_control: str,
        clock: Callable[[], float] = time.monotonic,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._disk = disk
        self._versions = versions
        self._cache = cache
        self._revalidate_s = revalidate_s
        self._cache_control = cache_control
        self._clock = clock
        self._clock_ns = clock_ns
        self._in_flight: dict[str, Fill] = {}
        self.slowest = Slowest()
        """Of those that took a greenlet; the others wait for nothing."""

    def __len__(self) -> int:
        return len(self._in_flight)

    def running(self, name: str) -> Fill | None:
        """The fill in flight for `name`."""
        return self._in_flight.get(name)

    def start(self, name: str) -> Fill:
        """Begin to read `name`; nobody may be filling it already. Raises FileError if that is known at once.

        Never waits. What the kernel has in memory and fits one chunk is read here and now, and the fill has ended
        when it is returned. Everything else goes on in a greenlet, and reads its first chunk there: no payload
        may wait for a greenlet's turn, or many newcomers at once would hold a chunk each.
        """
        fill = Fill(self._clock())
        opened = self._disk.open_cached(name, min(CHUNK_BYTES, self._cache.capacity))
        if opened is not None and opened.descriptor < 0:
            self._store_first(fill, name, opened)
            fill.ended = True
            return fill
        self._in_flight[name] = fill
        gevent.spawn(self._run, fill, name, opened)
        return fill

    def start_ahead(self, name: str, after: Fill | None) -> Fill:
        """The same for a name that nobody waits for, always in a greenlet."""
        fill = self._in_flight[name] = Fill(self._clock())
        fill.may_evict = False
        while after is not None and after.ended:
            after = after.after
        fill.after = after
        gevent.spawn(self._run, fill, name, None)
        return fill

    def read_now(self, name: str, now_s: float) -> tuple[Entry, Refusal | None] | None:
        """Store a small file that has been at rest, if that takes no wait; None when nothing was done.

        After a refusal the entry is the caller's alone, to be dropped like a chunk before anything is waited for.
        Nobody may be filling it already. Never switches greenlets.
        """
        opened = self._disk.read_settled(name, self._clock_ns() - YOUNG_NS)
        if opened is None or opened.first is None:
            return None
        stored = Stored(Representation(name, opened.identity, self._cache_control), now_s)
        entry = self._cache.put(name, opened.first, stored)
        if isinstance(entry, Refusal):
            unstored = Entry(name, len(opened.first), stored, now_s)
            unstored.complete(opened.first)
            return unstored, entry
        entry.sure_until_s = now_s + self._revalidate_s / 2
        return entry, None

    def _run(self, fill: Fill, name: str, opened: Opened | None) -> None:
        try:
            self._stream(fill, name, opened)
        except FileError as error:
            fill.error = error
        except BaseException as error:
            fill.error = FileError(repr(error))
            raise
        finally:
            if fill.entry is not None:
                self._cache.release(fill.entry)
            fill.ended = True
            del self._in_flight[name]
            fill.move()
        if fill.entry is not None and fill.error is None:
            now_s = self._clock()
            self.slowest.note(Slow(now_s - fill.began_s, name, fill.entry.size, now_s))

    def _stream(self, fill: Fill, name: str, opened: Opened | None) -> None:
        opened = self._disk.finish_open(name, opened, self._cache.capacity)
        version = None
        if opened.descriptor >= 0:
            version = self._versions.adopt(name, opened.identity, opened.descriptor)
        try:
            self._store_first(fill, name, opened, version)
            entry = fill.entry
            while entry is not None and version is not None and entry.held < entry.size:
                fill.move()
                pause()  # a page-cached file of 64 MiB would hold the loop for many milliseconds
                self._cache.append(entry, version.read(entry.held, CHUNK_BYTES))
                if entry.held == entry.size:
                    self._finish(fill, entry)
                    version.was_read()
        finally:
            if version is not None:
                version.release()

    def _store_first(self, fill: Fill, name: str, opened: Opened, version: Version | None = None) -> None:
        """With the first chunk in hand, ask the cache for room. A file that is complete with it is stored."""
        representation = Representation(name, opened.identity, self._cache_control)
        stored = Stored(representation, fill.looked_s)
        reserved = self._cache.reserve(name, opened.identity.size, stored, may_evict=fill.may_evict)
        fill.representation = representation
        if isinstance(reserved, Refusal):
            fill.refuse(reserved, version)
            return
        assert opened.first is not None, "only a file that is too large comes without its first chunk"
        fill.entry = reserved
        self._cache.append(reserved, opened.first)
        if reserved.held == reserved.size:
            self._finish(fill, reserved)

    def _finish(self, fill: Fill, entry: Entry) -> None:
        """Store what is complete, in its turn; but not for a moment what nobody may believe that long."""
        if fill.after is not None:
            fill.move()
        while fill.after is not None:
            fill.after.wait_end()
            fill.after = fill.after.after  # still there, if that one failed and has not waited itself
        identity: Identity = entry.meta.representation.identity
        entry.meta.young = self._clock_ns() - max(identity.mtime_ns, identity.ctime_ns) < YOUNG_NS
        if fill.is_purged or (entry.meta.young and self._revalidate_s == 0):
            self._cache.release(entry)
        else:
            entry.sure_until_s = entry.meta.looked_s + self._revalidate_s / 2
            self._cache.commit(entry)


def _anew(error: FileError | None) -> FileError:
    """The fill's error for one of those who wait: raised by all, one object would collect all their frames."""
    return type(error)(*error.args) if error is not None else FileError("the fill ended early")
