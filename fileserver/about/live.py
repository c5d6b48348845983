"""What the dashboard shows, once a second for all who watch.

A greenlet notes the rates of each second, so that who comes later sees the last ten minutes. While somebody
watches it also makes one snapshot, and all viewers send the same bytes. A viewer who is slower than that misses
snapshots and is never queued for.
"""

import logging
import math
from collections import deque

import gevent
from gevent.event import Event

from fileserver.about.counters import Counters
from fileserver.about.documents import snapshot_json
from fileserver.longpages import joined
from fileserver.turns import Turns

EVERY_S = 1.0
FRESH_S = 0.5
"""A younger snapshot is not made anew, however many poll."""
HISTORY = 600
"""Seconds whose rates are kept."""
BEGIN = b"retry: 2000\n\n"
"""After how many milliseconds a browser whose stream has ended asks again."""
COMMENT = b":\n\n"
"""Says nothing, and finds out whether anybody is there."""
SILENT = 5
"""After so many seconds without news."""

log = logging.getLogger("gserver")


class Rates:
    """What the counters moved in each second: `[uptime, requests/s, bytes/s, evictions/s, hit ratio]`.

    The ratio is null in a second without a file answer.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._seconds: deque[str] = deque(maxlen=HISTORY)
        self._before = self._read()

    def note(self) -> None:
        """One more second, or however long it has been."""
        before, now = self._before, self._read()
        seconds = now[0] - before[0]
        if seconds <= 0:
            return
        *moved, hits, answers = (b - a for a, b in zip(before[1:], now[1:], strict=True))
        rates = ",".join(f"{each / seconds:.1f}" for each in moved)
        ratio = f"{hits / answers:.4f}" if answers else "null"
        self._seconds.append(f"[{now[0]:.1f},{rates},{ratio}]")
        self._before = now

    def json(self) -> str:
        """The latest HISTORY of them, the oldest first."""
        return f"[{','.join(self._seconds)}]"

    def _read(self) -> tuple[float, int, int, int, int, int]:
        traffic, cache = self._counters.traffic, self._counters.store.cache.stats()
        requests, uptime_s = sum(traffic.answers().values()), self._counters.uptime_s()
        return uptime_s, requests, traffic.bytes_sent, cache.evictions, cache.hits, cache.answers


class Live:
    """Snapshots of `counters` for the dashboard. `start` once the hub runs. Used from the hub's thread only."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._rates = Rates(counters)
        self._turn = Turns(1)
        self._news = Event()
        self._made_s = -math.inf
        self.era = 0
        """Viewers of an earlier one are at their end."""
        self.document = b""
        """The latest snapshot."""
        self.event = b""
        """The same as a Server-Sent Event."""

    def start(self) -> None:
        """Spawn the greenlet, for as long as the process lives."""
        gevent.spawn(self._keep_up)

    def refresh(self) -> None:
        """Have the latest snapshot be less than FRESH_S old. May switch greenlets."""
        self._turn.take()
        try:
            if self._counters.clock() - self._made_s >= FRESH_S:
                self._make()
        finally:
            self._turn.give()

    def watch(self) -> "Viewer | None":
        """A viewer of what comes, the caller's to close; None when there are too many. May switch greenlets."""
        if not self._counters.viewers.take_now():
            return None
        viewer = Viewer(self, self._counters)
        try:
            self.refresh()
        except BaseException:
            viewer.close()
            raise
        return viewer

    def end(self) -> None:
        """End all viewers."""
        self.era += 1
        self._tell()

    def wait(self) -> None:
        """Wait for the next snapshot, or so long as one should take."""
        self._news.wait(EVERY_S)

    def _keep_up(self) -> None:
        while True:
            gevent.sleep(EVERY_S)
            try:
                self._rates.note()
                if self._counters.viewers.taken:
                    self.refresh()
            except Exception:  # the next second is another
                log.exception("no snapshot for the dashboard")

    def _make(self) -> None:
        counters = self._counters
        now_s = counters.clock()
        cache, entries = counters.store.cache.snapshot()
        evictions, stats = counters.store.cache.evicted(), counters.stats(cache)
        self.document = joined(snapshot_json(stats, self._rates.json(), evictions, entries, now_s))
        self.event, self._made_s = b"data: %b\n" % self.document, now_s
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, Event()
        news.set()


class Viewer:
    """One who watches: a Stream of Server-Sent Events. Each is the whole snapshot, the latest at that moment."""

    def __init__(self, live: Live, counters: Counters) -> None:
        self._live = live
        self._counters = counters
        self._era = live.era
        self._seen = b""
        self._is_open = True

    def next(self) -> bytes | None:
        """The next event; None when the server stops, or all viewers are to ask again."""
        if not self._seen:
            self._seen = self._live.event
            return BEGIN + self._seen
        for _ in range(SILENT):
            if self._seen is not self._live.event:
                self._seen = self._live.event
                return self._seen
            self._live.wait()
            if self._counters.traffic.draining or self._era != self._live.era:
                return None
        return COMMENT

    def close(self) -> None:
        """Make room for another."""
        if self._is_open:
            self._is_open = False
            self._counters.viewers.give()
