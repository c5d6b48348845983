"""Where disk work runs: inline when the kernel has the answer in memory, in a native thread when it would wait.

The rule of the whole program is that the loop never waits for a disk. A page-cached read costs some microseconds
inline and a thread hand-over costs much more, so inline is tried first; what would block goes to the pool, 64
threads by default: so many readers can wait for a slow disk at a time (nginx has 32). Looks (is this file still
that version?) have two threads of their own, so that a hit never queues behind slow reads.

Pool tasks touch no cache, no lock and no log: plain values in, `(value, error)` out, raised again in the greenlet,
since an exception that leaves a pool task prints its traceback even when somebody catches it.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import gevent
from gevent import Greenlet
from gevent.threadpool import ThreadPool

from fileserver.latency import Histogram
from fileserver.root import Exhausted, Folder, Identity, Opened
from fileserver.threads import started
from fileserver.turns import Turns
from lrucache import CHUNK_BYTES

Value = TypeVar("Value")

LOOK_THREADS = 2

OPEN_MAX = 1024
"""Files that may be open at a time, unless the caller knows its descriptor limit better (Linux's soft limit)."""
OPEN_WAIT_S = 60.0
"""How long an open waits for its turn before it fails: as long as a client may take nothing (nginx send_timeout),
for a turn that is held longer is held by somebody who makes progress, perhaps for hours."""


class Source(Protocol):
    """Where files come from: `root.Root`, a folder, and `objects.ObjectRoot`, a bucket, which say more of it.

    Every method is plain and blocking, and safe in any native thread; all raise FileError. A descriptor stands for
    one version of one file until `close_descriptor`, and means nothing to others.
    """

    path: str
    """What people call it."""

    @property
    def knows_cached(self) -> bool:
        """Whether `cached=True` can succeed, and closing a descriptor asks nobody."""

    @property
    def closes_at_once(self) -> bool:
        """Whether descriptors are only numbers, and closing one asks nobody."""

    def open(self, name: str, first_max: int = 0, *, cached: bool = False) -> Opened:
        """Open `name`, with its first chunk if it has at most `first_max` bytes."""

    def close_descriptor(self, descriptor: int) -> None:
        """Give back what `open` gave."""

    def stat(self, name: str, *, cached: bool = False) -> Identity:
        """The identity of `name` now."""

    def read_settled(self, name: str, before_ns: int) -> Opened | None:
        """A small file at rest, whole, if that takes no wait. Hub thread only."""

    def read(
        self, descriptor: int, identity: Identity, offset: int, length: int, *, cached: bool = False
    ) -> bytes:
        """The bytes [offset, offset + length) of the version `identity`, fewer only at its end."""

    def was_read(self, descriptor: int) -> None:
        """All of an open file was read."""

    def list(self, folder: str) -> Folder:
        """A folder's own entries; `""` is the root."""

    def close(self) -> None:
        """Give back what it holds; nothing may be asked afterwards."""


class Disk:
    """The source, asked without ever blocking the loop. What is not called `cached` may switch greenlets.

    At most `open_max` files are open at a time; more wait for their turn, in order. `inline=False` sends
    everything to the pool (`--io pool`); `lookers` threads are for looks alone. Raises what the source raises;
    OSError when no thread can be started. `close` ends the threads.
    """

    def __init__(
        self,
        root: Source,
        *,
        threads: int = 64,
        lookers: int = LOOK_THREADS,
        inline: bool = True,
        open_max: int = OPEN_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._inline = inline
        self._opens_inline = inline and root.knows_cached
        self._closes_inline = self._opens_inline or root.closes_at_once
        self._open_turns = Turns(open_max)
        self._lookers = started(lookers)  # before the readers take what there is
        self._readers = started(threads)
        self._releasing: set[Greenlet[..., Any]] = set()
        self._clock = clock
        self.inline_reads = Histogram()
        """How long each read took that the kernel had in memory, with its open where that came with it."""
        self.pool_reads = Histogram()
        """How long those in threads took, from asking to having; a turn among the open files is not counted."""

    def open(self, name: str, first_max: int = 0) -> Opened:
        """Open `name`, with its first chunk if it has at most `first_max` bytes. End it with `release`."""
        return self.finish_open(name, self.open_cached(name, first_max), first_max)

    def open_cached(self, name: str, first_max: int = 0) -> Opened | None:
        """The same without waiting; None when the open would wait. `first` is None when only the read would."""
        if not self._opens_inline or not self._open_turns.take_now():
            return None
        began_s = self._clock()
        try:
            opened = self._root.open(name, first_max, cached=True)
        except BlockingIOError:
            self._open_turns.give()
            return None
        except BaseException:
            self._open_turns.give()
            raise
        self._count_open(opened)
        if opened.first is not None:
            self.inline_reads.note(self._clock() - began_s)
        return opened

    def read_settled(self, name: str, before_ns: int) -> Opened | None:
        """A small file that was last changed before `before_ns`, whole, if that takes no wait and is not refused.

        Never switches greenlets.
        """
        if not self._opens_inline or not self._open_turns.free:
            return None
        began_s = self._clock()
        opened = self._root.read_settled(name, before_ns)
        if opened is not None:
            self.inline_reads.note(self._clock() - began_s)
        return opened

    def open_spare(self, name: str) -> Opened | None:
        """`open_cached` for who could do without: None also when half of the turns are taken."""
        return self.open_cached(name, -1) if self._open_turns.free * 2 > self._open_turns.limit else None

    def finish_open(self, name: str, opened: Opened | None, first_max: int) -> Opened:
        """Whatever `open_cached` could not do without waiting."""
        if opened is None:
            opened = self._open_in_pool(name, first_max)
        if opened.first is not None or opened.identity.size > first_max:
            return opened
        try:
            first = self.read(opened.descriptor, opened.identity, 0, CHUNK_BYTES)
        except BaseException:
            self.release(opened.descriptor)
            raise
        if len(first) == opened.identity.size:
            self.was_read(opened.descriptor)
            self.release(opened.descriptor)
            return Opened(-1, opened.identity, first)
        return opened._replace(first=first)

    def _open_in_pool(self, name: str, first_max: int) -> Opened:
        if not self._open_turns.take(OPEN_WAIT_S):
            raise Exhausted("too many files are open")
        began_s = self._clock()
        try:
            opened = _in(self._readers, self._root.open, name, first_max)
        except BaseException:
            self._open_turns.give()
            raise
        self._count_open(opened)
        if opened.first is not None:
            self.pool_reads.note(self._clock() - began_s)
        return opened

    def _count_open(self, opened: Opened) -> None:
        """What is closed already has had its turn; an open descriptor keeps it until `release`."""
        if opened.descriptor < 0:
            self._open_turns.give()

    def read(self, descriptor: int, identity: Identity, offset: int, length: int) -> bytes:
        """At most one chunk from `offset` on. The descriptor must stay open until this returns."""
        began_s = self._clock()
        if self._inline:
            try:
                content = self._root.read(descriptor, identity, offset, length, cached=True)
                self.inline_reads.note(self._clock() - began_s)
                return content
            except BlockingIOError:
                pass
        content = _in(self._readers, self._root.read, descriptor, identity, offset, length)
        self.pool_reads.note(self._clock() - began_s)
        return content

    def was_read(self, descriptor: int) -> None:
        """All of an open file is stored, and need not stay in the page cache."""
        self._root.was_read(descriptor)

    def look_cached(self, name: str) -> Identity | None:
        """The identity of `name` now, or None when the kernel would have to ask the disk."""
        if not self._opens_inline:
            return None
        try:
            return self._root.stat(name, cached=True)
        except BlockingIOError:
            return None

    def look(self, name: str) -> Identity:
        """The identity of `name` now, from a thread that only looks at stored files."""
        return _in(self._lookers, self._root.stat, name)

    def stat(self, name: str) -> Identity:
        """The identity of `name` now, in turn with the reads: for names that nobody has asked for before."""
        return _in(self._readers, self._root.stat, name)

    def list(self, folder: str) -> Folder:
        """The folder's entries."""
        return _in(self._readers, self._root.list, folder)

    def release(self, descriptor: int) -> None:
        """Close a descriptor, and wait for nothing; where that asks a server (FUSE, NFS) a thread does it."""
        if self._closes_inline:
            try:
                self._root.close_descriptor(descriptor)
            finally:
                self._open_turns.give()
        else:
            releasing = gevent.spawn(self._close_in_pool, descriptor)
            self._releasing.add(releasing)
            releasing.link(self._releasing.discard)

    def _close_in_pool(self, descriptor: int) -> None:
        try:
            _in(self._readers, self._root.close_descriptor, descriptor)
        finally:
            self._open_turns.give()

    def close(self) -> None:
        """End the threads, waiting for what they are doing."""
        gevent.joinall(list(self._releasing))
        for pool in (self._readers, self._lookers):
            pool.kill()


def _in(pool: ThreadPool, work: Callable[..., Value], *arguments: object) -> Value:
    value, error = cast(tuple[Any, Exception | None], pool.spawn(_attempt, work, arguments).get())
    if error is not None:
        raise error
    return cast(Value, value)


def _attempt(work: Callable[..., object], arguments: tuple[object, ...]) -> tuple[Any, Exception | None]:
    try:
        return work(*arguments), None
    except Exception as error:
        return None, error
