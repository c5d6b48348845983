"""A folder's entries as a page for people, or a document for programs, in slices. Pure."""

import json
from collections.abc import Iterator
from html import escape
from time import gmtime, strftime

from fileserver.names import encode_path
from fileserver.rendering import lines_json, size_text, slices
from fileserver.root import Folder, FolderEntry

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


def folder_json(name: str, folder: Folder) -> Iterator[bytes]:
    """A listing for programs: `size` in bytes, `mtime` in Unix seconds or null; `type` is `file` or `folder`."""
    beginning = {"folder": name, "truncated": folder.truncated}
    yield json.dumps(beginning)[:-1].encode() + b', "entries": ['
    yield from lines_json(folder.entries, _line_json)
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
    for some in slices(folder.entries):
        yield "".join(_row(name, entry) for entry in some).encode()
    more = " The folder has more entries than are shown." if folder.truncated else ""
    shown = len(folder.entries)
    yield (
        f"</tbody></table>\n<footer>{shown} {'entry' if shown == 1 else 'entries'}.{more} "
        '<a href="/-/">Dashboard</a> <a href="/-/cache">What the cache holds</a></footer></body></html>\n'
    ).encode()


def _row(folder: str, entry: FolderEntry) -> str:
    path = f"{folder}/{entry.name}" if folder else entry.name
    slash = "/" if entry.is_folder else ""
    return (
        f'<tr><td><a href="{_href(path, is_folder=entry.is_folder)}">{escape(entry.name)}{slash}</a></td>'
        f'<td class="n">{"" if entry.is_folder else size_text(entry.size)}</td>'
        f'<td class="n">{_date(entry.mtime_s)}</td></tr>\n'
    )


def _date(mtime_s: float | None) -> str:
    return "" if mtime_s is None else strftime("%Y-%m-%d %H:%M", gmtime(min(max(0, mtime_s), _END_OF_9999_S)))


def _href(path: str, *, is_folder: bool) -> str:
    return escape(encode_path(path) + ("/" if is_folder and path else ""))


def _line_json(entry: FolderEntry) -> str:
    kind = "folder" if entry.is_folder else "file"
    mtime_s = None if entry.mtime_s is None else round(entry.mtime_s, 3)
    return json.dumps({"name": entry.name, "type": kind, "size": entry.size, "mtime": mtime_s})
