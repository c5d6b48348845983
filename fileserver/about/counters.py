"""Where everything that is counted is kept, and all of it at one instant: the `stats` of `/-/stats`.

Nothing is counted for these pages alone. They read what the rooms keep anyway, when somebody asks.
"""

import time
from collections.abc import Callable
from typing import Protocol

from fileserver import process
from fileserver.about.lag import Lag
from fileserver.accesslog import AccessLog
from fileserver.latency import Slow
from fileserver.store import Store
from fileserver.traffic import Traffic
from fileserver.turns import Turns
from lrucache import CacheStats, Outcome

STATS_SCHEMA = 1
"""Raised when a key of `/-/stats` changes its meaning or goes; new keys do not count."""

VIEWERS_MAX = 32
"""Who may watch the dashboard live; others poll."""


class WhatIf(Protocol):
    """What other policies would do, for whoever asked for that (`fileserver.whatif`)."""

    def stats(self, cache: CacheStats) -> dict[str, object]:
        """Said of the same instant as the cache's own counters."""


class Counters:
    """The rooms that count. `clock` gives monotonic seconds, of which the uptime is counted from now on."""

    def __init__(
        self,
        store: Store,
        traffic: Traffic,
        access_log: AccessLog | None,
        what_if: WhatIf | None,
        *,
        viewers: int = VIEWERS_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.traffic = traffic
        self.access_log = access_log
        self.what_if = what_if
        self.clock = clock
        self.lag = Lag()
        self.viewers = Turns(viewers)
        self._began_s = clock()

    def uptime_s(self) -> float:
        """Seconds since the start."""
        return self.clock() - self._began_s

    def stats(self, cache: CacheStats) -> dict[str, object]:
        """The public schema of `/-/stats`, at this instant, which is that of `cache`. Sizes are bytes."""
        disk, traffic, now_s = self.store.disk, self.traffic, self.clock()
        what_if = {"what_if": self.what_if.stats(cache)} if self.what_if is not None else {}
        return {
            "schema": STATS_SCHEMA,
            "uptime_s": round(self.uptime_s(), 3),
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
            "file_answers": traffic.file_answers,
            "evictions": cache.evictions,
            "connections": len(traffic.connections),
            "connections_idle": len(traffic.idle),
            "connections_by_state": {state.value: count for state, count in traffic.by_state().items()},
            "connections_expired": {state.value: count for state, count in traffic.expired.items()},
            "connections_gave_way": traffic.gave_way,
            "connections_turned_away": traffic.turned_away,
            "accept_shortages": traffic.shortages,
            "open_fds": process.open_descriptors(),
            "rss_bytes": process.rss_bytes(),
            "bytes_sent": traffic.bytes_sent,
            "requests": [
                {"method": method, "status": status, "cache": word(outcome), "count": count}
                for (method, status, outcome), count in traffic.answers().items()
            ],
            "latency": {
                word(outcome): {"first_byte_s": latency.first_byte.summary(), "total_s": latency.total.summary()}
                for outcome, latency in traffic.latency.items()
            },
            "disk_reads_inline": disk.inline_reads.count,
            "disk_reads_pool": disk.pool_reads.count,
            "disk_read_s": {"inline": disk.inline_reads.summary(), "pool": disk.pool_reads.summary()},
            "fills_in_flight": len(self.store.fills),
            "slowest_fills": [_slow(fill, now_s) for fill in self.store.fills.slowest.latest(now_s)],
            "loop_lag": {
                "last_s": round(self.lag.last_s, 6),
                "worst_s": round(self.lag.worst_s, 6),
                "stalls": self.lag.stalls,
            },
            "viewers": self.viewers.taken,
            "access_log_dropped": self.access_log.dropped if self.access_log is not None else 0,
            **what_if,
        }


def word(outcome: Outcome | None) -> str:
    """Where a payload came from, as the counters call it; `none` is an answer without one."""
    return outcome.value if outcome is not None else "none"


def _slow(fill: Slow, now_s: float) -> dict[str, object]:
    return {
        "name": fill.name,
        "size": fill.size,
        "seconds": round(fill.seconds, 6),
        "ago_s": round(max(0.0, now_s - fill.when_s), 3),
    }
