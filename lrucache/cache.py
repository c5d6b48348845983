"""The table of entries, its byte budget and its counters, behind one semaphore.

Everything here is quick and runs in the thread of the gevent hub: decide under the semaphore, act after it. Pool
threads never come here. The order of eviction is somebody else's idea (`lrucache.policies`); recency for LIST is
kept here, because every policy has its own.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from gevent.lock import Semaphore

from lrucache.policies import Policy

CHUNK_BYTES = 256 * 1024
"""The most one chunk holds; every chunk of an entry but the last is exactly this long."""

MAX_ENTRIES = 65_536
"""Bound on entries, since an empty payload costs an entry and no bytes (memcached bounds items the same way)."""


EVICTIONS_KEPT = 1000
"""The latest evictions are kept, to be explained."""

FORESEEN_MAX = EVICTIONS_KEPT
"""Victims of one newcomer that are foreseen, ..."""
FORESEE_S = 0.01
"""... and how long is taken for them, for nothing else runs meanwhile. The one that is being looked for is found:
where all of 65,536 names have just been used that takes up to 0.15 s, as it would the first miss."""

Accesses = deque[tuple[str, int]]
"""Name and size of what was answered with, in the order of the answers; bounded by its own `maxlen`."""


class Outcome(Enum):
    """Where an answer's payload came from. Exactly one is counted for each answer."""

    __hash__ = object.__hash__  # members are single; Enum's own is slow, and this is asked for with each answer

    HIT = "hit"
    MISS = "miss"
    COALESCED = "coalesced"
    BYPASS = "bypass"


class Refusal(Enum):
    """Why the cache did not take a newcomer."""

    TOO_LARGE = "too-large"
    NO_ROOM = "no-room"
    NOT_WORTH_IT = "not-worth-it"


class Entry:
    """One named payload. Owned by the cache; holders read it and never change it.

    `chunks` grows while the entry fills and is emptied in place the moment the entry is evicted, released or
    discarded, so a holder sees an empty list and no memory outlives the budget. `meta` is the owner's own: the
    cache does not look at it. So is `sure_until_s`: until then `take` may hand the entry out without a question.
    """

    __slots__ = (
        "chunks",
        "created_s",
        "held",
        "hits",
        "meta",
        "name",
        "readers",
        "size",
        "sure_until_s",
        "used_s",
    )

    def __init__(self, name: str, size: int, meta: Any, now_s: float) -> None:
        self.name = name
        self.size = size
        self.meta = meta
        self.chunks: list[bytes] = []
        self.held = 0
        self.hits = 0
        self.readers = 0
        self.sure_until_s = now_s
        self.created_s = self.used_s = now_s

    def complete(self, content: bytes) -> None:
        """Take all of the content at once; it is at most one chunk. For the cache, or who made the entry."""
        self.held = self.size
        self.chunks = [content] if content else []

    def window(self, offset: int, limit: int) -> list[bytes | memoryview]:
        """At most `limit` bytes from `offset` on, without a copy; empty when they are not here (yet, or any more).

        The buffers keep their chunks alive: drop them before anything that switches greenlets.
        """
        if offset >= self.held:
            return []
        index, skip = divmod(offset, CHUNK_BYTES)
        buffers: list[bytes | memoryview] = []
        while limit > 0 and index < len(self.chunks):
            chunk: bytes | memoryview = self.chunks[index]
            if skip or len(chunk) > limit:
                chunk = memoryview(chunk)[skip : skip + limit]
            buffers.append(chunk)
            limit -= len(chunk)
            index, skip = index + 1, 0
        return buffers


class Eviction(NamedTuple):
    """One that was. Sizes are bytes, times seconds of the cache's clock."""

    name: str
    size: int
    hits: int
    age_s: float
    """How long it was in the cache."""
    newcomer: str
    """For whom it had to go, ..."""
    rule: str
    """... and why it and no other, in the policy's words."""
    when_s: float


class Foreseen(NamedTuple):
    """What would happen to a newcomer: it is refused, or stored after these evictions."""

    refusal: Refusal | None
    evictions: list[Eviction]
    is_all: bool
    """Whether there would be no more than these."""


class CacheStats(NamedTuple):
    """The cache at one instant. Sizes are bytes."""

    capacity: int
    cached: int
    filling: int
    peak: int
    violations: int
    entries: int
    hits: int
    misses: int
    coalesced: int
    bypasses: int
    evictions: int

    @property
    def answers(self) -> int:
        """How many there were, wherever their payload came from."""
        return self.hits + self.misses + self.coalesced + self.bypasses


class Cache:
    """Payloads by name, never more than `capacity` bytes of them, cached and filling together.

    A newcomer is reserved (its whole size is taken and victims go), appended chunk by chunk, and then committed,
    or released. Fills in flight may hold at most half the capacity, unless there is only one: a file as large as
    the cache can be stored, and yet no crowd of newcomers empties it.

    Use it from the thread of one hub. No method switches greenlets once it has the semaphore, so nobody waits
    long for it; a method waits only if a caller yields inside the section, which none here does.

    `accesses` is told of each answer; who reads it may take from its left end.
    """

    def __init__(
        self,
        capacity: int,
        policy: Policy,
        *,
        max_entries: int = MAX_ENTRIES,
        clock: Callable[[], float] = time.monotonic,
        accesses: Accesses | None = None,
    ) -> None:
        if capacity < 0 or max_entries < 1:
            raise ValueError("capacity must be >= 0 bytes and max_entries >= 1")
        self.capacity = capacity
        self.max_entries = max_entries
        self._policy = policy
        self._note_use = policy.hit
        self._clock = clock
        self._section = Semaphore(1)
        self._table: OrderedDict[str, Entry] = OrderedDict()
        self._in_flight: dict[str, Entry] = {}
        self._cached = self._filling = self._peak = 0
        self._violations = self._evictions = self._hits = 0
        self._evicted: deque[Eviction] = deque(maxlen=EVICTIONS_KEPT)
        self._accesses = accesses
        self._counts = {Outcome.MISS: 0, Outcome.COALESCED: 0, Outcome.BYPASS: 0}

    def find(self, name: str) -> Entry | None:
        """The stored entry, without counting a use; None while it is only being filled."""
        with self._section:
            return self._table.get(name)

    def hit(self, entry: Entry) -> bool:
        """Count a use of `entry`; False if it has left the cache since it was found."""
        with self._section:
            if self._table.get(entry.name) is not entry:
                return False
            self._use(entry, self._clock())
            return True

    def take(self, name: str, now_s: float) -> Entry | None:
        """`find` and `hit` in one step, for an entry whose owner is sure of it; None means ask the long way."""
        with self._section:
            entry = self._table.get(name)
            if entry is None or entry.sure_until_s <= now_s:
                return None
            self._use(entry, now_s)
            return entry

    def count(self, outcome: Outcome, name: str, size: int) -> None:
        """Count an answer that was not a hit: those are counted by `hit` and `take`. Raises KeyError for one."""
        with self._section:
            self._counts[outcome] += 1
            if self._accesses is not None:
                self._accesses.append((name, size))

    def reserve(self, name: str, size: int, meta: Any, *, may_evict: bool = True) -> Entry | Refusal:
        """Take `size` bytes for `name`, evicting until they fit; an older entry of that name is dropped.

        The caller owns the returned entry and must end it with `commit` or `release`. Who may not evict is refused
        where there is no room. Raises ValueError when the name is being filled already.
        """
        with self._section:
            if name in self._in_flight:
                raise ValueError(f"{name!r} is being filled already")
            if not (may_evict or self._fits(size)):
                return Refusal.NO_ROOM
            return self._reserve(name, size, meta)

    def foresee(self, name: str, size: int) -> Foreseen:
        """What `reserve` would do now, whom it would evict in what order, and why. Changes nothing."""
        with self._section:
            return self._foresee(name, size)

    def append(self, entry: Entry, chunk: bytes) -> None:
        """Add the next chunk of an entry in flight, full unless it is the last. Raises ValueError on any other."""
        with self._section:
            expected = min(CHUNK_BYTES, entry.size - entry.held)
            if self._in_flight.get(entry.name) is not entry or len(chunk) != expected:
                self._violations += 1
                raise ValueError(f"{entry.name!r}: this chunk was not reserved")
            entry.held += len(chunk)
            if chunk:
                entry.chunks.append(chunk)

    def commit(self, entry: Entry) -> None:
        """Make a completely filled entry the one that `find` returns. Raises ValueError if it is not complete."""
        with self._section:
            if self._in_flight.get(entry.name) is not entry or entry.held != entry.size:
                self._violations += 1
                raise ValueError(f"{entry.name!r} is not complete")
            self._commit(entry)

    def put(self, name: str, content: bytes, meta: Any) -> Entry | Refusal:
        """`reserve`, `append` and `commit` in one step, for what is complete with its first chunk.

        Raises ValueError when it is larger than a chunk, or the name is being filled.
        """
        with self._section:
            if name in self._in_flight or len(content) > CHUNK_BYTES:
                raise ValueError(f"{name!r} is being filled already, or too large for one chunk")
            entry = self._reserve(name, len(content), meta)
            if isinstance(entry, Entry):
                entry.complete(content)
                self._commit(entry)
            return entry

    def release(self, entry: Entry) -> None:
        """Give up an entry in flight and its bytes. Does nothing if it was committed or released before."""
        with self._section:
            if self._in_flight.get(entry.name) is entry:
                self._end_filling(entry)
                entry.chunks.clear()

    def discard(self, entry: Entry) -> bool:
        """Drop a stored entry that is no longer true; False if it had left before. Not counted as an eviction."""
        with self._section:
            if self._table.get(entry.name) is not entry:
                return False
            self._drop(entry)
            return True

    def snapshot(self) -> tuple[CacheStats, list[Entry]]:
        """Counters and entries, most recently used first, of one instant. Entries may lose their chunks later."""
        with self._section:
            return self._stats(), list(reversed(self._table.values()))

    def has_room(self, size: int) -> bool:
        """Whether an entry of so many bytes would fit without an eviction."""
        with self._section:
            return self._fits(size)

    def stats(self) -> CacheStats:
        """The counters alone."""
        with self._section:
            return self._stats()

    def evicted(self) -> list[Eviction]:
        """The latest evictions, the last one first."""
        with self._section:
            return list(reversed(self._evicted))

    # Below here the semaphore is held.

    def _use(self, entry: Entry, now_s: float) -> None:
        self._table.move_to_end(entry.name)
        self._note_use(entry.name)
        entry.hits += 1
        entry.used_s = now_s
        self._hits += 1
        if self._accesses is not None:
            self._accesses.append((entry.name, entry.size))

    def _reserve(self, name: str, size: int, meta: Any) -> Entry | Refusal:
        refusal = self._refusal(self._policy, name, size)
        if refusal is not None:
            return refusal
        if name in self._table:
            self._drop(self._table[name])
        self._make_room(name, size)
        entry = self._in_flight[name] = Entry(name, size, meta, self._clock())
        self._filling += size
        self._policy.capacity -= size
        self._check_budget()
        return entry

    def _commit(self, entry: Entry) -> None:
        self._end_filling(entry)
        self._table[entry.name] = entry
        self._cached += entry.size
        self._policy.added(entry.name, entry.size)
        self._check_budget()

    def _end_filling(self, entry: Entry) -> None:
        del self._in_flight[entry.name]
        self._filling -= entry.size
        self._policy.capacity += entry.size

    def _refusal(self, policy: Policy, name: str, size: int) -> Refusal | None:
        if size > self.capacity:
            return Refusal.TOO_LARGE
        crowded = self._filling + size > self.capacity // 2 or len(self._in_flight) >= self.max_entries // 2
        if self._in_flight and crowded:
            return Refusal.NO_ROOM
        return None if policy.admit(name, size) else Refusal.NOT_WORTH_IT

    def _fits(self, size: int, *, gone: int = 0, gone_bytes: int = 0) -> bool:
        """Whether it would, with so many entries gone."""
        entries = len(self._table) + len(self._in_flight) - gone
        return self._cached + self._filling - gone_bytes + size <= self.capacity and entries < self.max_entries

    def _make_room(self, name: str, size: int) -> None:
        while not self._fits(size):
            eviction = self._next_eviction(self._policy, name, size)
            self._evicted.append(eviction)
            self._drop(self._table[eviction.name])
            self._evictions += 1

    def _next_eviction(self, policy: Policy, newcomer: str, size: int) -> Eviction:
        victim = policy.victim(size)
        entry, now_s = self._table[victim], self._clock()
        age_s = now_s - entry.created_s
        return Eviction(victim, entry.size, entry.hits, age_s, newcomer, policy.rule(victim, size), now_s)

    def _foresee(self, name: str, size: int) -> Foreseen:
        """The steps of `_reserve` with a trial of the policy, and entries that are only counted as gone."""
        policy = self._policy.trial()
        refusal = self._refusal(policy, name, size)
        if refusal is not None:
            return Foreseen(refusal, [], is_all=True)
        gone = gone_bytes = 0
        if name in self._table:
            policy.removed(name)
            gone, gone_bytes = 1, self._table[name].size
        evictions: list[Eviction] = []
        until_s = self._clock() + FORESEE_S
        while not self._fits(size, gone=gone, gone_bytes=gone_bytes):
            if len(evictions) == FORESEEN_MAX or self._clock() > until_s:
                return Foreseen(None, evictions, is_all=False)
            evictions.append(self._next_eviction(policy, name, size))
            policy.removed(evictions[-1].name)
            gone, gone_bytes = gone + 1, gone_bytes + evictions[-1].size
        return Foreseen(None, evictions, is_all=True)

    def _drop(self, entry: Entry) -> None:
        del self._table[entry.name]
        self._policy.removed(entry.name)
        self._cached -= entry.size
        entry.chunks.clear()

    def _check_budget(self) -> None:
        held = self._cached + self._filling
        self._peak = max(self._peak, held)
        if held > self.capacity or len(self._table) + len(self._in_flight) > self.max_entries:
            self._violations += 1

    def _stats(self) -> CacheStats:
        return CacheStats(
            capacity=self.capacity,
            cached=self._cached,
            filling=self._filling,
            peak=self._peak,
            violations=self._violations,
            entries=len(self._table),
            hits=self._hits,
            misses=self._counts[Outcome.MISS],
            coalesced=self._counts[Outcome.COALESCED],
            bypasses=self._counts[Outcome.BYPASS],
            evictions=self._evictions,
        )
