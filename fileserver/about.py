"""What can be asked about the server itself, LIST, statistics and health; and what is counted for that."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import gevent

from fileserver import admin, process, root, wire
from fileserver.accesslog import AccessLog
from fileserver.negotiation import prefers_json
from fileserver.replies import TEXT, Reply, error, page
from fileserver.store import Store
from fileserver.traffic import Traffic
from fileserver.turns import Turns
from lrucache import CacheStats

STATS_SCHEMA = 1
"""Raised when a key of `/-/stats` changes its meaning or goes; new keys do not count."""

PAGES_MAX_BYTES = 32 << 20
"""Pages that may wait for slow clients. A page of 65,536 names is 8 MB, and many clients could hold one each;
above it a page is 503 (nginx streams a listing from a pool of its own for each request, without a bound)."""

PAGE_WAIT_S = 60.0
"""How long a page waits for its turn, as an open does for its own."""

BY_ACCEPT = {"Vary": "Accept"}
JSON = "application/json"


class WhatIf(Protocol):
    """What other policies would do, for whoever asked for that (`fileserver.whatif`)."""

    def stats(self, cache: CacheStats) -> dict[str, object]:
        """Said of the same instant as the cache's own counters."""


class About:
    """The pages under `/-/`, over the counters of one store and its traffic. `answer` may switch greenlets."""

    def __init__(
        self,
        store: Store,
        traffic: Traffic,
        access_log: AccessLog | None,
        what_if: WhatIf | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._traffic = traffic
        self._access_log = access_log
        self._what_if = what_if
        self._clock = clock
        self._list_turn = Turns(1)

    def answer(self, request: wire.Request, name: str, query: bytes) -> Reply:
        """The page `name`, which begins with `-`. Raises NotFound, and Exhausted."""
        if name == "-/health":
            return error(503, "draining") if self._traffic.draining else page(b"ok\n", TEXT)
        if name == "-/stats":
            return page(admin.stats_json(self.stats()), JSON)
        if name == "-/cache":
            if not wants_json(request, query):
                return page(self.list_text(), TEXT, fields=BY_ACCEPT)
            with self.page_turn(self._list_turn):
                cache, entries = self._store.cache.snapshot()
                pieces = admin.cache_json(self._stats(cache), entries, self._clock())
                return page(joined(pieces), JSON, fields=BY_ACCEPT)
        if name == "-/evictions":
            with self.page_turn(self._list_turn):
                evictions, now_s = self._store.cache.evicted(), self._clock()
                if wants_json(request, query):
                    return page(joined(admin.evictions_json(evictions, now_s)), JSON, fields=BY_ACCEPT)
                return page(joined(admin.evictions_text(evictions, now_s)), TEXT, fields=BY_ACCEPT)
        raise root.NotFound("reserved")

    def list_text(self) -> bytes:
        """LIST: the names in the cache, one a line. Raises Exhausted."""
        with self.page_turn(self._list_turn):
            return joined(admin.cache_text(self._store.cache.snapshot()[1]))

    def stats(self) -> dict[str, object]:
        """Every counter of the program at this instant, the public schema of `/-/stats`."""
        return self._stats(self._store.cache.stats())

    @contextmanager
    def page_turn(self, turns: Turns) -> Iterator[None]:
        """Make so many long pages at a time, and none while too many wait for slow clients. Raises Exhausted."""
        if not turns.take(PAGE_WAIT_S):
            raise root.Exhausted("too many pages are being made")
        try:
            if self._traffic.page_bytes > PAGES_MAX_BYTES:
                raise root.Exhausted("too many pages wait for their clients")
            yield
        finally:
            turns.give()

    def _stats(self, cache: CacheStats) -> dict[str, object]:
        disk = self._store.disk
        what_if = {"what_if": self._what_if.stats(cache)} if self._what_if is not None else {}
        return {
            "schema": STATS_SCHEMA,
            "capacity": cache.capacity,
            "cached": cache.cached,
            "filling": cache.filling,
            "peak": cache.peak,
            "violations": cache.violations,
            "entries": cache.entries,
            "hits": cache.hits,
            "misses": cache.misses,
            "coalesced": cache.coalesced,
            "bypasses": cache.bypasses,
            "file_answers": self._traffic.file_answers,
            "evictions": cache.evictions,
            "connections": len(self._traffic.connections),
            "connections_idle": len(self._traffic.idle),
            "open_fds": process.open_descriptors(),
            "rss_bytes": process.rss_bytes(),
            "bytes_sent": self._traffic.bytes_sent,
            "disk_reads_inline": disk.reads_inline,
            "disk_reads_pool": disk.reads_pool,
            "fills_in_flight": len(self._store.fills),
            "access_log_dropped": self._access_log.dropped if self._access_log is not None else 0,
            **what_if,
        }


def wants_json(request: wire.Request, query: bytes) -> bool:
    """Whether a page that has both forms is wanted in JSON."""
    return b"format=json" in query.split(b"&") or prefers_json(request.fields.get(b"accept", b""))


def joined(pieces: Iterator[bytes]) -> bytes:
    """Render a long page without holding the loop: others run between two slices."""
    parts = []
    for piece in pieces:
        parts.append(piece)
        gevent.sleep(0)
    return b"".join(parts)
