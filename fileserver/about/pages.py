"""What can be asked about the server itself: LIST and health for all, the rest for whom it concerns."""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import gevent

from fileserver import wire
from fileserver.about import assets, documents
from fileserver.about.counters import Counters
from fileserver.about.live import Live
from fileserver.longpages import LongPages, Shared, joined
from fileserver.negotiation import BY_ACCEPT, wants_json
from fileserver.replies import HTML, JSON, TEXT, Reply, error, event_stream, page
from fileserver.root import NotFound
from fileserver.turns import Turns
from lrucache import Eviction

STATISTICS = ("-/", "-/events", "-/snapshot", "-/stats", "-/metrics", "-/evictions")
"""The pages that can be kept from strangers."""


class About:
    """The pages under `/-/`, over `counters`. `answer` may switch greenlets; `start` once the hub runs."""

    def __init__(self, counters: Counters, long_pages: LongPages) -> None:
        self._counters = counters
        self._cache = counters.store.cache
        self._traffic = counters.traffic
        self._long_pages = long_pages
        self._live = Live(counters)
        self._list_text = Shared(long_pages, self._render_text)
        self._list_json = Shared(long_pages, lambda: self._render_json(with_stats=True))
        self._list_for_strangers = Shared(long_pages, lambda: self._render_json(with_stats=False))
        self._evictions_text = Shared(long_pages, lambda: self._render_evictions(documents.evictions_text))
        self._evictions_json = Shared(long_pages, lambda: self._render_evictions(documents.evictions_json))
        self._metrics_turn = Turns(1)
        self._metrics: Any = None
        self._pages: dict[str, Callable[[wire.Request, bytes], Reply]] = {
            "-/": self._dashboard,
            "-/events": self._events,
            "-/snapshot": self._snapshot,
            "-/stats": self._stats_page,
            "-/metrics": self._metrics_page,
            "-/evictions": self._evictions,
            "-/openapi.json": self._openapi,
        }

    def start(self) -> None:
        """Begin to measure the loop's delay and the rates of each second. Blocks to read the dashboard's parts."""
        assets.dashboard()
        assets.openapi()
        self._counters.lag.start()
        self._live.start()

    def end_streams(self) -> None:
        """Who watches has to ask again, and may be refused."""
        self._live.end()

    def answer(self, request: wire.Request, name: str, query: bytes, *, is_stranger: bool = False) -> Reply:
        """The page `name`, which begins with `-`; strangers get no statistics. Raises NotFound, and Exhausted."""
        if name == "-/health":
            return error(503, "draining") if self._traffic.draining else page(b"ok\n", TEXT)
        if name == "-":
            return error(301, "a page: /-/", {"Location": "/-/"})
        if is_stranger and name in STATISTICS:
            return error(403, "statistics are not for strangers (--admin)")
        if name == "-/cache":
            return self._list(request, query, with_stats=not is_stranger)
        if name not in self._pages:
            raise NotFound("reserved")
        self._long_pages.check()
        return self._pages[name](request, query)

    def list_text(self) -> bytes:
        """LIST: the names in the cache, one a line. Raises Exhausted."""
        return self._list_text.get()

    def stats(self) -> dict[str, object]:
        """Every counter of the program at this instant, the public schema of `/-/stats`."""
        return self._counters.stats(self._cache.stats())

    def _list(self, request: wire.Request, query: bytes, *, with_stats: bool) -> Reply:
        if not wants_json(request, query):
            return page(self.list_text(), TEXT, fields=BY_ACCEPT)
        shared = self._list_json if with_stats else self._list_for_strangers
        return page(shared.get(), JSON, fields=BY_ACCEPT)

    def _render_text(self) -> bytes:
        return joined(documents.cache_text(self._cache.snapshot()[1]))

    def _render_json(self, *, with_stats: bool) -> bytes:
        cache, entries = self._cache.snapshot()
        stats = self._counters.stats(cache) if with_stats else None
        return joined(documents.cache_json(stats, entries, self._counters.clock()))

    def _openapi(self, request: wire.Request, query: bytes) -> Reply:
        return page(assets.openapi(), JSON)

    def _dashboard(self, request: wire.Request, query: bytes) -> Reply:
        content, policy = assets.dashboard()
        return page(content, HTML, fields={"Content-Security-Policy": policy})

    def _stats_page(self, request: wire.Request, query: bytes) -> Reply:
        return page(documents.stats_json(self.stats()), JSON)

    def _evictions(self, request: wire.Request, query: bytes) -> Reply:
        if wants_json(request, query):
            return page(self._evictions_json.get(), JSON, fields=BY_ACCEPT)
        return page(self._evictions_text.get(), TEXT, fields=BY_ACCEPT)

    def _render_evictions(self, render: Callable[[list[Eviction], float], Iterator[bytes]]) -> bytes:
        return joined(render(self._cache.evicted(), self._counters.clock()))

    def _metrics_page(self, request: wire.Request, query: bytes) -> Reply:
        with self._long_pages.turn(self._metrics_turn):
            if self._metrics is None:
                # A twentieth of a second that only those pay who scrape; in a thread, for it would hold the loop.
                pool = gevent.get_hub().threadpool
                self._metrics, problem = pool.apply(_imported, ("fileserver.about.metrics",))
                if self._metrics is None:
                    return error(501, f"{problem}; pip install -r requirements.txt")
            return page(joined(self._metrics.text(self._counters)), self._metrics.CONTENT_TYPE)

    def _snapshot(self, request: wire.Request, query: bytes) -> Reply:
        self._live.refresh()
        self._long_pages.check()  # many may have waited for this one
        return page(self._live.document, JSON)

    def _events(self, request: wire.Request, query: bytes) -> Reply:
        if request.method == b"HEAD":
            return event_stream(None)
        viewer = self._live.watch()
        if viewer is None:
            return error(503, "too many are watching, poll /-/snapshot")
        return event_stream(viewer)


def _imported(name: str) -> tuple[Any, str]:
    """A module, or why not. (An exception that left the thread would be printed.)"""
    try:
        return import_module(name), ""
    except ImportError as problem:
        return None, str(problem)
