"""Pages and documents about files and the cache, as pieces of bytes. Pure.

Long ones come as generators of slices, so that the connection can let others run in between: rendering 65,536
entries at once would hold the loop for a tenth of a second.
"""

import json
from collections.abc import Callable, Iterator
from html import escape
from time import gmtime, strftime
from typing import TypeVar

from fileserver.names import encode_path
from fileserver.root import Folder, FolderEntry
from lrucache import Entry, Eviction

Item = TypeVar("Item")

SLICE = 500
"""Lines rendered between two chances for others: about a millisecond."""

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content-Security-Policy of our own pages: no script, nothing from elsewhere."""

_END_OF_9999_S = 253_402_300_799
"""The last second of the years that gmtime can name; a file system may hold any 64 bits."""

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}
h1{font-size:1.25rem;font-weight:600;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}
th{font-weight:500;text-align:left;opacity:.65;font-size:.85rem}
td,th{padding:.3rem .75rem .3rem 0;border-bottom:1px solid #8884}
td:first-child{overflow-wrap:anywhere}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
a{text-decoration:none}a:hover{text-decoration:underline}
footer{margin-top:1.5rem;opacity:.65;font-size:.85rem}
""".strip()


def cache_text(entries: list[Entry]) -> Iterator[bytes]:
    """LIST: the cached names, one a line."""
    for some in _slices(entries):
        yield "".join(f"{entry.name}\n" for entry in some).encode()


def cache_json(stats: dict[str, object], entries: list[Entry], now_s: float) -> Iterator[bytes]:
    """LIST with sizes, uses and ages (seconds), and the `stats` of the same instant."""
    yield b'{"stats": ' + json.dumps(stats).encode() + b', "entries": ['
    yield from _lines_json(entries, lambda entry: _entry_json(entry, now_s))
    yield b"]}\n"


def stats_json(stats: dict[str, object]) -> bytes:
    """The `stats` object alone."""
    return json.dumps(stats, indent=2).encode() + b"\n"


def evictions_json(evictions: list[Eviction], now_s: float) -> Iterator[bytes]:
    """Who was evicted, the last one first; sizes are bytes, times seconds."""
    yield b'{"evictions": ['
    yield from _lines_json(evictions, lambda eviction: _eviction_json(eviction, now_s))
    yield b"]}\n"


def evictions_text(evictions: list[Eviction], now_s: float) -> Iterator[bytes]:
    """The same for people, a line each."""
    for some in _slices(evictions):
        yield "".join(_eviction_text(each, now_s) for each in some).encode()


def folder_json(name: str, folder: Folder) -> Iterator[bytes]:
    """A listing for programs: `size` in bytes, `mtime` in Unix seconds; `type` is `file` or `folder`."""
    beginning = {"folder": name, "truncated": folder.truncated}
    yield json.dumps(beginning)[:-1].encode() + b', "entries": ['
    yield from _lines_json(folder.entries, _line_json)
    yield b"]}\n"


def folder_html(name: str, folder: Folder) -> Iterator[bytes]:
    """A listing for people: folders first, sizes and dates, links that work for every name."""
    title = escape(f"/{name}/" if name else "/")
    yield (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style></head>\n'
        f"<body><h1>{title}</h1>\n<table><thead><tr><th>Name</th>"
        '<th class="n">Size</th><th class="n">Changed (UTC)</th></tr></thead><tbody>\n'
    ).encode()
    if name:
        parent = name.rpartition("/")[0]
        yield f'<tr><td><a href="{_href(parent, is_folder=True)}">../</a></td><td></td><td></td></tr>\n'.encode()
    for some in _slices(folder.entries):
        yield "".join(_row(name, entry) for entry in some).encode()
    more = " The folder has more entries than are shown." if folder.truncated else ""
    shown = len(folder.entries)
    yield (
        f"</tbody></table>\n<footer>{shown} {'entry' if shown == 1 else 'entries'}.{more} "
        '<a href="/-/cache">What the cache holds</a></footer></body></html>\n'
    ).encode()


def size_text(size: int) -> str:
    """Bytes for people, in powers of 1024: `17 B`, `1.5 KiB`, `64 MiB`."""
    if size < 1024:
        return f"{size} B"
    amount, unit = float(size), "B"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):  # noqa: B007
        amount /= 1024
        if amount < 999.5:
            break
    return f"{amount:.3g} {unit}"


def _slices(items: list[Item]) -> Iterator[list[Item]]:
    return (items[start : start + SLICE] for start in range(0, len(items), SLICE))


def _lines_json(items: list[Item], line: Callable[[Item], str]) -> Iterator[bytes]:
    """The inside of a list, a line for each item."""
    separator = ""
    for some in _slices(items):
        yield (separator + ",\n".join(map(line, some))).encode()
        separator = ",\n"


def _row(folder: str, entry: FolderEntry) -> str:
    path = f"{folder}/{entry.name}" if folder else entry.name
    slash = "/" if entry.is_folder else ""
    date = strftime("%Y-%m-%d %H:%M", gmtime(min(max(0, entry.mtime_s), _END_OF_9999_S)))
    return (
        f'<tr><td><a href="{_href(path, is_folder=entry.is_folder)}">{escape(entry.name)}{slash}</a></td>'
        f'<td class="n">{"" if entry.is_folder else size_text(entry.size)}</td><td class="n">{date}</td></tr>\n'
    )


def _href(path: str, *, is_folder: bool) -> str:
    return escape(encode_path(path) + ("/" if is_folder and path else ""))


def _entry_json(entry: Entry, now_s: float) -> str:
    return json.dumps(
        {
            "name": entry.name,
            "size": entry.size,
            "hits": entry.hits,
            "age_s": round(max(0.0, now_s - entry.created_s), 3),
            "idle_s": round(max(0.0, now_s - entry.used_s), 3),
            "readers": entry.readers,
        }
    )


def _eviction_json(eviction: Eviction, now_s: float) -> str:
    return json.dumps(
        {
            "name": eviction.name,
            "size": eviction.size,
            "hits": eviction.hits,
            "age_s": round(eviction.age_s, 3),
            "ago_s": round(max(0.0, now_s - eviction.when_s), 3),
            "newcomer": eviction.newcomer,
            "rule": eviction.rule,
        }
    )


def _eviction_text(eviction: Eviction, now_s: float) -> str:
    hits = f"{eviction.hits} {'hit' if eviction.hits == 1 else 'hits'} in {eviction.age_s:.1f} s"
    return (
        f"{max(0.0, now_s - eviction.when_s):.1f} s ago: {eviction.name} ({size_text(eviction.size)}, {hits}) "
        f"for {eviction.newcomer}: {eviction.rule}\n"
    )


def _line_json(entry: FolderEntry) -> str:
    kind = "folder" if entry.is_folder else "file"
    return json.dumps({"name": entry.name, "type": kind, "size": entry.size, "mtime": round(entry.mtime_s, 3)})
