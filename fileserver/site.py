"""What each request is answered with: who may ask, what the target means, files, folders, and what goes wrong.

Everything between a parsed request and a Reply.
"""

import time
from collections.abc import Callable

from fileserver import heads, listing, names, root, wire
from fileserver.about.changes import CHANGES, Changes
from fileserver.about.counters import VIEWERS_MAX, Counters, WhatIf
from fileserver.about.pages import STATISTICS, About
from fileserver.accesslog import AccessLog
from fileserver.bursts import Burst
from fileserver.files import Files, Whole
from fileserver.longpages import LongPages, joined
from fileserver.negotiation import BY_ACCEPT, wants_json
from fileserver.precompressed import Precompressed
from fileserver.replies import HTML, JSON, Reply, error, explain, one_line, page
from fileserver.store import Store
from fileserver.tokens import Admin, Tokens, is_cross_site, is_local
from fileserver.traffic import Traffic
from fileserver.turns import Turns
from fileserver.warming import Warming

METHODS = "GET, HEAD, OPTIONS"
METHODS_OF_CHANGES = "OPTIONS, POST"
LISTING_TURNS = 4
"""Folders that are listed and rendered at a time, 1 MB each at the most; the cache's own list has its own turn."""

CHALLENGES = (
    b'WWW-Authenticate: Bearer realm="gserver"\r\n'
    b'WWW-Authenticate: Basic realm="gserver: the token as password", charset="UTF-8"\r\n'
)
"""What a client that brought no token is told it could bring (RFC 6750, RFC 7617). Browsers ask for the second,
which Chromium only finds in a line of its own."""

_STATISTICS = frozenset(f"/{name}".encode() for name in STATISTICS)
_ALLOWED = (
    "Authorization, If-Match, If-Modified-Since, If-None-Match, If-Range, If-Unmodified-Since, Range, "
    "Want-Repr-Digest"
)
_EXPOSED = "Accept-Ranges, Cache-Status, Content-Encoding, Content-Range, Date, ETag, Repr-Digest, X-Cache"


class Site:
    """The files of one store and the pages about them. `answer` and `answer_line` may switch greenlets.

    `tokens` (None: everybody may ask) can be exchanged while it serves, but not switched on or off. `cors` is an
    origin or `*`. `admin` says who may see the statistics (None: who may ask for files), `viewers` how many may
    watch them live.
    """

    def __init__(
        self,
        store: Store,
        *,
        hidden: bool = False,
        index: bool = True,
        download: bool = False,
        cors: str | None = None,
        precompressed: Precompressed | None = None,
        tokens: Tokens | None = None,
        admin: Admin | None = None,
        viewers: int = VIEWERS_MAX,
        access_log: AccessLog | None = None,
        what_if: WhatIf | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._hidden = hidden
        self._index = index
        self._download = download
        self._listing_turns = Turns(LISTING_TURNS)
        self._too_busy = Burst("turned a request away")
        self._cut = Burst("cut a transfer")
        self._failed = Burst("could not read a file")
        self._every_fields, self._options_fields = _cors_fields(cors)
        self._admin: Admin = admin or ("open" if tokens is None else "token")
        self.tokens = tokens
        self.access_log = access_log
        self.traffic = Traffic()
        self._long_pages = LongPages(self.traffic)
        self._files = Files(
            store,
            self.traffic,
            download=download,
            precompressed=precompressed,
            every_fields=self._every_fields,
        )
        self.has_fast_path = tokens is None and precompressed is None
        """Whether a plain request is answered alike whoever asks: then `fastpath` may use these three."""
        self.take = store.cache.take
        self.hit_fields = self._files.hit_fields
        self.resume = store.resume
        counters = Counters(store, self.traffic, access_log, what_if, viewers=viewers, clock=clock)
        self.about = About(counters, self._long_pages)
        self.warming = Warming(store, self._is_valid, clock=clock)
        self._changes = Changes(store, self.warming, self._long_pages, self._is_valid, clock=clock)

    def whole_now(self, name: str, now_s: float) -> Whole | None:
        """The whole of a file without a wait; None when `answer` has to be asked. Never switches greenlets."""
        if names.is_reserved(name) or not self._is_valid(name):
            return None
        return self._files.whole_now(name, now_s)

    def answer(self, request: wire.Request, address: bytes = b"-") -> Reply:
        """The answer to a request from `address`. Errors are answers; only what nobody expected is raised."""
        return self._finished(self._answer(request, address))

    def answer_line(self, line: wire.OneLine) -> Reply:
        """The payload that answers a request in the one-line protocol; its header lines are of no use."""
        name = None
        try:
            if self.tokens is not None:
                return one_line(error(401, "a token is needed, and this protocol has no place for one"))
            if line.name is None:
                return page(self.about.list_text(), "")
            name = names.decode_name(line.name)
            if name is None or names.is_reserved(name) or not self._is_valid(name):
                raise root.NotFound("not a name")
            return self._files.whole(name)
        except root.FileError as problem:
            return one_line(self._why_not(problem, name))

    def explain(self, problem: root.FileError) -> Reply:
        """The answer when a file cannot be read after all."""
        return self._finished(self._why_not(problem, None))

    def cut_short(self, name: str, problem: root.FileError) -> None:
        """An answer whose head was sent cannot be finished."""
        self._cut(f"{name!r}: {problem}")

    def refuse(self, problem: wire.WireError) -> Reply:
        """The answer to what is no request, or has no place here."""
        return self._finished(error(problem.status, problem.reason))

    def _finished(self, reply: Reply) -> Reply:
        if self._every_fields and not reply.is_private:
            reply = reply._replace(fields=reply.fields + self._every_fields)
        return reply

    def _answer(self, request: wire.Request, address: bytes) -> Reply:
        name: str | None = None
        try:
            if request.method == b"OPTIONS":
                return self._options(request.target)
            if self.tokens is not None and not self._may_ask(request, self.tokens):
                refusal = error(401, "a valid token is needed")
                return refusal._replace(fields=refusal.fields + CHALLENGES)
            change = _change(request.target)
            if change is not None:
                return self._changed(request, *change, address)._replace(is_private=True)
            if request.method not in (b"GET", b"HEAD"):
                return error(405, f"only {METHODS} are allowed", {"Allow": METHODS})
            name, query = names.decode_target(request.target)
            return self._resource(request, name, query, address)
        except (root.FileError, names.BadTarget) as problem:
            return self._why_not(problem, name)

    def _options(self, target: bytes) -> Reply:
        if target != b"*":
            names.decode_target(target)
        if _change(target) is not None:
            return Reply(204, heads.fields({"Allow": METHODS_OF_CHANGES}), is_private=True)
        return Reply(204, self._options_fields)

    def _may_ask(self, request: wire.Request, tokens: Tokens) -> bool:
        """Health is open to everybody: who asks is a load balancer. For statistics it is `--admin`'s to say."""
        path = request.target.partition(b"?")[0]
        is_open = path == b"/-/health" or (self._admin != "token" and path in _STATISTICS)
        return is_open or tokens.permit(request.fields.get(b"authorization"))

    def _changed(self, request: wire.Request, name: str, query: bytes, address: bytes) -> Reply:
        """For who has a token; without tokens, and with `--admin loopback`, for who asks from this machine. What
        changes something is never open to everybody, nor to a page that somebody here has in a browser."""
        if request.method != b"POST":
            allowed = {"Allow": METHODS_OF_CHANGES}
            return error(405, f"only {METHODS_OF_CHANGES} are allowed", allowed)
        is_here = is_local(address, request.fields.get(b"host", b""))
        if not is_here and (self.tokens is None or self._admin == "loopback"):
            return error(403, "this is not for strangers: ask from the server's machine, or with a token")
        if is_cross_site(request.fields):
            return error(403, "this is not for web pages from elsewhere")
        return self._changes.answer(request, name, query)

    def _resource(self, request: wire.Request, name: str | None, query: bytes, address: bytes) -> Reply:
        if name is None:
            raise root.NotFound("not UTF-8")
        if names.is_reserved(name):
            is_local_only = self._admin == "loopback"
            is_stranger = is_local_only and not is_local(address, request.fields.get(b"host", b""))
            reply = self.about.answer(request, name, query, is_stranger=is_stranger)
            return reply._replace(is_private=is_local_only and not is_stranger)
        if name == "" or name.endswith("/"):
            return self._folder(request, name[:-1], query, is_root=name == "")
        if not self._is_valid(name):
            raise root.NotFound("not a name")
        try:
            return self._files.answer(request, name)
        except root.IsFolder:
            if not self._index:
                raise root.NotFound("folders are not shown") from None
            location = names.encode_path(name) + "/" + ("?" + query.decode("latin-1") if query else "")
            return error(301, f"a folder: {location}", {"Location": location})

    # Folders.

    def _folder(self, request: wire.Request, folder: str, query: bytes, *, is_root: bool) -> Reply:
        if not (is_root or self._is_valid(folder)):
            raise root.NotFound("not a name")
        if not self._index:
            raise root.NotFound("folders are not shown")
        if not self._download:  # a stranger's index.html would run as a page of ours
            try:
                return self._files.answer(request, f"{folder}/index.html" if folder else "index.html")
            except (root.NotFound, root.IsFolder):
                pass
        with self._long_pages.turn(self._listing_turns):
            found = self._store.list(folder)
            if is_root:
                found = found._replace(
                    entries=[each for each in found.entries if not names.is_reserved(each.name)]
                )
            if wants_json(request, query):
                return page(joined(listing.folder_json(folder, found)), JSON, fields=BY_ACCEPT)
            html = joined(listing.folder_html(folder, found))
        return page(html, HTML, fields=BY_ACCEPT | {"Content-Security-Policy": listing.PAGE_POLICY})

    def _is_valid(self, name: str) -> bool:
        return names.is_valid(name, hidden=self._hidden)

    def _why_not(self, problem: Exception, name: str | None) -> Reply:
        """The answer to an error; what the operator should know is said once."""
        reply = explain(problem, name)
        if isinstance(problem, root.Exhausted):
            self._too_busy(f"{name!r}: {problem}")
        elif reply.status == 500:
            self._failed(f"{name!r}: {problem}")
        return reply


def _change(target: bytes) -> tuple[str, bytes] | None:
    """Name and query of what changes something, if the target is that."""
    try:
        name, query = names.decode_target(target)
    except names.BadTarget:
        return None
    return (name, query) if name is not None and name in CHANGES else None


def _cors_fields(origin: str | None) -> tuple[bytes, bytes]:
    """The header lines of every answer, and of an answer to OPTIONS (the Fetch standard's preflight)."""
    options = {"Allow": METHODS}
    if not origin:
        return b"", heads.fields(options)
    preflight = {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": _ALLOWED,
        "Access-Control-Max-Age": "86400",
    }
    every = {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _EXPOSED}
    return heads.fields(every), heads.fields(options | preflight)
