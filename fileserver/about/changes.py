"""The two resources that change what is cached: a name is forgotten (purge), or read before anybody asks (warm).

Who may is the site's to say. Both have a dry run, which says what would happen and changes nothing.
"""

import json
import time
from collections.abc import Callable, Iterator

from fileserver import names, wire
from fileserver.about.documents import eviction_json
from fileserver.longpages import LongPages, joined
from fileserver.negotiation import BY_ACCEPT, wants_json
from fileserver.rendering import lines_json, size_text, slices
from fileserver.replies import JSON, TEXT, Reply, error, page
from fileserver.root import NotFound
from fileserver.store import Purged, Store
from fileserver.warming import WARM_WAIT_S, Warmed, Warming, Warmth

PURGE, WARM = "-/purge", "-/warm"
CHANGES = frozenset((PURGE, WARM))

_PARAMETERS = {"name", "dry-run", "format"}
_PASSES = frozenset(("no-room", "changed"))
"""Refusals that another try may not meet."""


class Changes:
    """Answers to POST. `is_valid` says what can be a name; `clock` is that of the cache."""

    def __init__(
        self,
        store: Store,
        warming: Warming,
        long_pages: LongPages,
        is_valid: Callable[[str], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._warming = warming
        self._long_pages = long_pages
        self._is_valid = is_valid
        self._clock = clock

    def answer(self, request: wire.Request, resource: str, query: bytes) -> Reply:
        """What was done to `name=`, or with `dry-run=1` would be. May switch greenlets. Raises FileError, and
        BadTarget."""
        parameters = names.decode_parameters(query)
        unknown = parameters.keys() - _PARAMETERS
        is_dry = parameters.get("dry-run", "0")
        if unknown:
            return error(400, "the parameters are name, dry-run and format, and no others")
        if "name" not in parameters:
            return error(400, "say which file: ?name=")
        if is_dry not in ("0", "1"):
            return error(400, "dry-run is 1 or 0")
        name = parameters["name"]
        if name is None or names.is_reserved(name) or not self._is_valid(name):
            raise NotFound("not a name")
        self._long_pages.check()
        as_json = wants_json(request, query)
        change = self._purge if resource == PURGE else self._warm
        return change(name, is_dry == "1", as_json)

    def _purge(self, name: str, is_dry: bool, as_json: bool) -> Reply:
        purged = self._store.purge(name, dry_run=is_dry)
        content = (_purged_json if as_json else _purged_text)(name, purged, is_dry)
        return page(content, JSON if as_json else TEXT, fields=BY_ACCEPT)

    def _warm(self, name: str, is_dry: bool, as_json: bool) -> Reply:
        warmed = self._warming.warm(name, dry_run=is_dry)
        if warmed is None:
            status, content = 202, _reading(name, as_json)
        else:
            status = 200 if is_dry else _status(warmed)
            content = joined(
                _warmed_json(warmed, is_dry, self._clock()) if as_json else _warmed_text(warmed, is_dry)
            )
        come_back = {"Retry-After": "1"} if status == 503 else {}
        return page(content, JSON if as_json else TEXT, status, BY_ACCEPT | come_back)


def _status(warmed: Warmed) -> int:
    if warmed.warmth is not Warmth.REFUSED:
        return 200
    return 503 if warmed.detail in _PASSES else 409


def _purged_text(name: str, purged: Purged, is_dry: bool) -> bytes:
    would = "would be " if is_dry else ""
    lines = [f"{would}purged: {name} ({size_text(purged.size)})" if purged.was_cached else f"not cached: {name}"]
    if purged.was_filling:
        lines.append(f"{'would not be' if is_dry else 'will not be'} stored: the read of it that is under way")
    return "".join(f"{line}\n" for line in lines).encode()


def _purged_json(name: str, purged: Purged, is_dry: bool) -> bytes:
    document = {"name": name, "dry_run": is_dry, **purged._asdict()}
    return json.dumps(document).encode() + b"\n"


def _reading(name: str, as_json: bool) -> bytes:
    if as_json:
        return json.dumps({"name": name, "outcome": "reading"}).encode() + b"\n"
    return f"still being read after {WARM_WAIT_S:g} s, and going on: {name}\n".encode()


def _warmed_text(warmed: Warmed, is_dry: bool) -> Iterator[bytes]:
    would = "would be " if is_dry else ""
    file = f"{warmed.name} ({size_text(warmed.size)})"
    if warmed.warmth is Warmth.CACHED:
        yield f"cached already: {file}\n".encode()
    elif warmed.warmth is Warmth.REFUSED:
        yield f"{'would not be' if is_dry else 'not'} stored: {file}: {warmed.detail}\n".encode()
    else:
        yield f"{would}stored: {file}\n".encode()
        if not warmed.evictions and warmed.is_all:
            yield f"{would}evicted: nothing\n".encode()
    for some in slices(list(warmed.evictions)):
        yield "".join(
            f"{would}evicted: {each.name} ({size_text(each.size)}): {each.rule}\n" for each in some
        ).encode()
    if not warmed.is_all:
        yield f"{would}evicted: {'' if is_dry else 'perhaps '}more than these\n".encode()


def _warmed_json(warmed: Warmed, is_dry: bool, now_s: float) -> Iterator[bytes]:
    document = {
        "name": warmed.name,
        "dry_run": is_dry,
        "outcome": warmed.warmth.value,
        "size": warmed.size,
        "detail": warmed.detail,
        "more_evicted": not warmed.is_all,
    }
    yield json.dumps(document).encode().removesuffix(b"}") + b', "evicted": ['
    yield from lines_json(list(warmed.evictions), lambda each: eviction_json(each, now_s))
    yield b"]}\n"
