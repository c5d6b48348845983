"""What each request is answered with: files, folders, LIST, health, statistics, errors.

Everything between a parsed request and the bytes of a connection. The one place that maps errors to statuses, and
none of them with the error's own text.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gevent
from gevent.lock import Semaphore

from fileserver import admin, names, process, root, wire
from fileserver.store import Body, Store
from lrucache import CacheStats, Outcome

STATS_SCHEMA = 1
"""Raised when a key of `/-/stats` changes its meaning or goes; new keys do not count."""

ALLOW = "GET, HEAD"
_BY_ACCEPT = {"Vary": "Accept"}
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
_HTML = "text/html; charset=utf-8"


PAGES_MAX_BYTES = 32 << 20
"""Pages that may wait for slow clients. A page of 65,536 names is 8 MB, and many clients could hold one each;
above it a page is 503 (nginx streams a listing from a pool of its own for each request, without a bound)."""

LISTING_TURNS = 4
"""Folders that are listed and rendered at a time; the cache's own list has a turn of its own."""


@dataclass(slots=True)
class Traffic:
    """What the connections count. Plain numbers, changed in the hub's thread."""

    bytes_sent: int = 0
    file_answers: int = 0
    page_bytes: int = 0
    """Of answers other than files, while they are being sent."""
    connections: set[Any] = field(default_factory=set)
    """The open Connections: Any, because their room is above this one."""


class Reply(NamedTuple):
    """An answer: rendered header lines, and after the head a `body` (the receiver's to close) or `content`."""

    status: int
    fields: bytes
    content: bytes = b""
    body: Body | None = None


_ERRORS: dict[type[Exception], tuple[int, str]] = {
    root.NotFound: (404, "no such file"),
    root.IsFolder: (404, "a folder, not a file"),
    root.Forbidden: (403, "not readable"),
    root.Exhausted: (503, "too busy, try again"),
    root.Changed: (503, "changed while it was read, try again"),
    root.DiskFailure: (500, "the disk failed"),
    root.FileError: (500, "could not be read"),
    names.BadTarget: (400, "not a valid target"),
}


class Site:
    """The files of one store and the pages about them. `answer` and `answer_line` may switch greenlets."""

    def __init__(
        self,
        store: Store,
        *,
        hidden: bool = False,
        index: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._hidden = hidden
        self._index = index
        self._clock = clock
        self._listing_turns = Semaphore(LISTING_TURNS)
        self._cache_turn = Semaphore(1)
        self.traffic = Traffic()
        self.draining = False

    def answer(self, request: wire.Request) -> Reply:
        """The answer to an HTTP request. Errors are answers too; only what nobody expected is raised."""
        if request.method not in (b"GET", b"HEAD"):
            return error(405, "only GET and HEAD are allowed", {"Allow": ALLOW})
        name: str | None = None
        try:
            name, query = names.decode_target(request.target)
            return self._resource(request, name, query)
        except (root.FileError, names.BadTarget) as problem:
            return explain(problem, name)

    def answer_line(self, line: wire.OneLine) -> bytes | Body:
        """The payload that answers a request in the one-line protocol; a Body is the caller's to close."""
        name = None
        try:
            if line.name is None:
                return self._list_text()
            name = names.decode_name(line.name)
            if name is None or _is_reserved(name) or not self._is_valid(name):
                raise root.NotFound("not a name")
            return self._body(name)
        except root.FileError as problem:
            return b"ERROR " + explain(problem, name).content

    def stats(self) -> dict[str, object]:
        """Every counter of the program at this instant, the public schema of `/-/stats`."""
        return self._stats(self._store.cache.stats())

    def _resource(self, request: wire.Request, name: str | None, query: bytes) -> Reply:
        if name is None:
            raise root.NotFound("not UTF-8")
        if _is_reserved(name):
            return self._about(request, name, query)
        if name == "" or name.endswith("/"):
            return self._folder(request, name[:-1], query, is_root=name == "")
        if not self._is_valid(name):
            raise root.NotFound("not a name")
        try:
            return self._file(request, name)
        except root.IsFolder:
            if not self._index:
                raise root.NotFound("folders are not shown") from None
            location = names.encode_path(name) + "/" + ("?" + query.decode("latin-1") if query else "")
            return error(301, f"a folder: {location}", {"Location": location})

    def _file(self, request: wire.Request, name: str) -> Reply:
        if request.method == b"HEAD":
            described = self._store.describe(name)
            status = _CACHE_FIELDS[Outcome.HIT] if described.is_cached else b""
            return Reply(200, described.representation.fields + status)
        body = self._body(name)
        return Reply(200, body.representation.fields + cache_fields(body), body=body)

    def _body(self, name: str) -> Body:
        body = self._store.get(name)
        self.traffic.file_answers += 1
        return body

    def _folder(self, request: wire.Request, folder: str, query: bytes, *, is_root: bool) -> Reply:
        if not (is_root or self._is_valid(folder)):
            raise root.NotFound("not a name")
        if not self._index:
            raise root.NotFound("folders are not shown")
        try:
            return self._file(request, f"{folder}/index.html" if folder else "index.html")
        except (root.NotFound, root.IsFolder):
            pass
        with self._turn(self._listing_turns):
            listing = self._store.list(folder)
            if is_root:
                shown = [entry for entry in listing.entries if not _is_reserved(entry.name)]
                listing = listing._replace(entries=shown)
            if _wants_json(request, query):
                return page(_joined(admin.folder_json(folder, listing)), _JSON, fields=_BY_ACCEPT)
            html = _joined(admin.folder_html(folder, listing))
        return page(html, _HTML, fields=_BY_ACCEPT | {"Content-Security-Policy": admin.PAGE_POLICY})

    @contextmanager
    def _turn(self, turns: Semaphore) -> Iterator[None]:
        """Make one long page at a time, and none while too many wait for slow clients. Raises Exhausted."""
        with turns:
            if self.traffic.page_bytes > PAGES_MAX_BYTES:
                raise root.Exhausted("too many pages wait for their clients")
            yield

    def _list_text(self) -> bytes:
        with self._turn(self._cache_turn):
            return _joined(admin.cache_text(self._store.cache.snapshot()[1]))

    def _about(self, request: wire.Request, name: str, query: bytes) -> Reply:
        if name == "-/health":
            return error(503, "draining") if self.draining else page(b"ok\n", _TEXT)
        if name == "-/stats":
            return page(admin.stats_json(self.stats()), _JSON)
        if name == "-/cache":
            if not _wants_json(request, query):
                return page(self._list_text(), _TEXT, fields=_BY_ACCEPT)
            with self._turn(self._cache_turn):
                cache, entries = self._store.cache.snapshot()
                pieces = admin.cache_json(self._stats(cache), entries, self._clock())
                return page(_joined(pieces), _JSON, fields=_BY_ACCEPT)
        raise root.NotFound("reserved")

    def _stats(self, cache: CacheStats) -> dict[str, object]:
        disk = self._store.disk
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
            "file_answers": self.traffic.file_answers,
            "evictions": cache.evictions,
            "connections": len(self.traffic.connections),
            "open_fds": process.open_descriptors(),
            "rss_bytes": process.rss_bytes(),
            "bytes_sent": self.traffic.bytes_sent,
            "disk_reads_inline": disk.reads_inline,
            "disk_reads_pool": disk.reads_pool,
            "fills_in_flight": len(self._store.fills),
        }

    def _is_valid(self, name: str) -> bool:
        return names.is_valid(name, hidden=self._hidden)


def explain(problem: Exception, name: str | None = None) -> Reply:
    """The answer that says why not, without the error's own text."""
    status, reason = next(_ERRORS[kind] for kind in type(problem).__mro__ if kind in _ERRORS)
    subject = f": {name}" if name and name.isprintable() else ""
    return error(status, reason + subject)


def error(status: int, reason: str, fields: dict[str, str] | None = None) -> Reply:
    """A short plain-text answer. 503 tells the client to come back."""
    come_back = {"Retry-After": "1"} if status == 503 else {}
    return page(reason.encode("utf-8", "replace") + b"\n", _TEXT, status, come_back | (fields or {}))


def page(content: bytes, content_type: str, status: int = 200, fields: dict[str, str] | None = None) -> Reply:
    """An answer of our own making: never cached, never sniffed."""
    head = {
        "Content-Length": str(len(content)),
        "Content-Type": content_type,
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return Reply(status, wire.fields(head | (fields or {})), content)


def cache_fields(body: Body) -> bytes:
    """X-Cache and Cache-Status (RFC 9211): where the answer came from."""
    if body.outcome is Outcome.BYPASS:
        return f"X-Cache: BYPASS\r\nCache-Status: gserver; fwd=bypass; detail={body.detail}\r\n".encode()
    return _CACHE_FIELDS[body.outcome]


_CACHE_FIELDS = {
    Outcome.HIT: b"X-Cache: HIT\r\nCache-Status: gserver; hit\r\n",
    Outcome.MISS: b"X-Cache: MISS\r\nCache-Status: gserver; fwd=miss\r\n",
    Outcome.COALESCED: b"X-Cache: COALESCED\r\nCache-Status: gserver; fwd=miss; collapsed\r\n",
}


def _is_reserved(name: str) -> bool:
    return name == "-" or name.startswith("-/")


def _wants_json(request: wire.Request, query: bytes) -> bool:
    return b"format=json" in query.split(b"&") or b"application/json" in request.fields.get(b"accept", b"")


def _joined(pieces: Iterator[bytes]) -> bytes:
    """Render a long page without holding the loop: others run between two slices."""
    parts = []
    for piece in pieces:
        parts.append(piece)
        gevent.sleep(0)
    return b"".join(parts)
