"""The SHA-256 of what is stored, for clients that ask for it to check what they got: Repr-Digest (RFC 9530).

Computed when somebody first wants it, from memory alone, in a native thread; one file at a time, a MiB at a time.
Whatever would make that a burden leaves the answer without the field, which the RFC allows: a file that is read
past the cache or still being read after a while, an entry that is evicted meanwhile, too many that wait.
"""

import base64
import hashlib

import gevent
from gevent.threadpool import ThreadPool

from fileserver.fills import Stored
from fileserver.store import Body
from fileserver.turns import Turns
from lrucache import Entry

SLICE_BYTES = 1 << 20
"""Hashed at a time, and the most of an evicted entry that is kept alive by it."""
PATIENCE_S = 1.0
"""Longer nobody waits for the head of an answer, neither for the fill nor for the digest; both go on."""
UNDER_WAY_MAX = 16
"""Files that are being hashed, or wait for their turn."""
IDLE_S = 10
"""A thread that nobody needed for so long ends."""


class Digests:
    """Computes digests and leaves them with the entries. Used from the hub's thread only."""

    def __init__(self) -> None:
        self._turns = Turns(1)
        self._thread = ThreadPool(1, idle_task_timeout=IDLE_S)
        self._under_way: dict[Stored, gevent.Greenlet[[Entry], None]] = {}

    def of(self, body: Body) -> bytes | None:
        """The SHA-256 of the whole version; None when it cannot be had soon. May switch greenlets.

        Raises FileError when the version can no longer be had at all.
        """
        entry = body.entry
        if entry is None:
            return None
        stored: Stored = entry.meta
        if stored.digest is None:
            with gevent.Timeout(PATIENCE_S, False):  # type: ignore[arg-type]  # False: it ends in silence
                body.wait_whole()
                work = self._under_way.get(stored)
                if work is None and len(self._under_way) < UNDER_WAY_MAX:
                    work = self._under_way[stored] = gevent.spawn(self._compute, entry)
                if work is not None:
                    work.join()
        return stored.digest

    def _compute(self, entry: Entry) -> None:
        """In a greenlet of its own: nobody who asked and went away can stop it for the others."""
        stored: Stored = entry.meta
        self._turns.take()
        try:
            stored.digest = self._hashed(entry)
        finally:
            self._turns.give()
            del self._under_way[stored]

    def _hashed(self, entry: Entry) -> bytes | None:
        """None as soon as it would have to be read from disk, or when no thread can be had."""
        found = hashlib.sha256()
        offset = 0
        while offset < entry.size:
            pieces = entry.window(offset, SLICE_BYTES)
            if not pieces:
                return None
            offset += sum(map(len, pieces))
            try:
                self._thread.size = 1  # or a task that finds no thread would stay in the pool's queue
                self._thread.apply(_update, (found, pieces))
            except RuntimeError:
                return None
        return found.digest()


def field(digest: bytes | None) -> bytes:
    """The header line that says it, if there is one."""
    return b"Repr-Digest: sha-256=:" + base64.b64encode(digest) + b":\r\n" if digest is not None else b""


def _update(found: "hashlib._Hash", pieces: list[bytes | memoryview]) -> None:
    for piece in pieces:
        found.update(piece)
