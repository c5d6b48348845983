"""Which files were asked for, in which order, and how large they are: from CSV traces and access logs.

A CSV trace has the first line `time,object,size`. Everything else is taken for an access log, Common or Combined
(Apache, nginx, and what our own `--access-log` adds): each GET that was answered with 200 or 206 is a request for
the file that gserver would have sent, so queries do not count. Left out is what no cache of files would see: other
methods and answers, and in our own logs the pages that are not files. Neither kind says for certain how large a
file is, for transfers are cut and parts are asked for: it is taken to be as large as the most that was sent of it.
"""

import csv
import gzip
import io
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from fileserver import names

COLUMNS = "time,object,size"
STANDARD_INPUT = "-"
LINE_MAX = 64 * 1024
"""Characters of a log's line, above which it is none: servers take requests of some 8 to 32 KiB."""

_GZIP_MAGIC = b"\x1f\x8b"
_QUOTED = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_LINE = re.compile(
    rf"\S++ \S++ [^\[]*+\[([^\]]++)\] ({_QUOTED}) (\d{{3}}) (\d{{1,18}}+|-)(?!\S)(?: {_QUOTED} {_QUOTED}"
    r"(?: ([A-Z]++|-) \d++ [\d.]++$)?)?"
)
"""Address, identity, user, time, request line, status, bytes, referer, agent; ours: cache status, numbers."""
_ESCAPED = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|([\"\\]))")
"""As nginx and we write it, or Apache."""
_TIME = "%d/%b/%Y:%H:%M:%S %z"

Watch = Callable[[Iterable[str], str], Iterable[str]]
"""Passes on the lines of a file that is so called, and may tell somebody how far it is."""


class NotATrace(Exception):
    """What is wrong with which file, in words for whoever named it."""


class Trace(NamedTuple):
    """Names in the order of the requests, each name's size in bytes, and how many lines were no lines of a log."""

    requests: list[str]
    sizes: dict[str, int]
    skipped: int

    def sized(self) -> Iterator[tuple[str, int]]:
        """The requests, each with its size."""
        return zip(self.requests, map(self.sizes.__getitem__, self.requests), strict=True)

    def asked_bytes(self) -> int:
        """What all answers have together."""
        return sum(map(self.sizes.__getitem__, self.requests))

    def unique_bytes(self) -> int:
        """What all files have together."""
        return sum(self.sizes.values())


class _Part(NamedTuple):
    """One file's requests; `began` is the time of the first, in seconds of whatever clock."""

    began: float
    requests: list[str]
    skipped: int


def read(paths: Sequence[str], watch: Watch = lambda lines, path: lines) -> Trace:
    """One trace of all these files, in the order of their first requests: `access.log*` does what is meant.

    Each may be compressed with gzip; `-` is standard input. Raises NotATrace.
    """
    sizes: dict[str, int] = {}
    parts = sorted((_read_part(path, sizes, watch) for path in paths), key=lambda part: part.began)
    requests = [name for part in parts for name in part.requests]
    if not requests:
        raise NotATrace(f"{', '.join(paths)}: no request for a file (not an access log, and not {COLUMNS}?)")
    return Trace(requests, sizes, sum(part.skipped for part in parts))


def _read_part(path: str, sizes: dict[str, int], watch: Watch) -> _Part:
    try:
        with _opened(path) as lines:
            first = lines.readline()
            if _is_header(first):
                return _from_csv(path, watch(lines, path), sizes)
            return _from_log(_chained(first, watch(lines, path)), sizes)
    except (OSError, EOFError, zlib.error) as problem:
        raise NotATrace(f"{path}: {getattr(problem, 'strerror', None) or problem}") from problem


@contextmanager
def _opened(path: str) -> Iterator[io.TextIOWrapper]:
    """The file's lines, whatever bytes are in them."""
    is_file = path != STANDARD_INPUT
    with open(path if is_file else 0, "rb", closefd=is_file) as raw:
        is_gzip = raw.peek(2)[:2] == _GZIP_MAGIC
        content: Any = gzip.GzipFile(fileobj=raw) if is_gzip else raw
        yield io.TextIOWrapper(content, encoding="utf-8", errors="surrogateescape", newline="")


def _is_header(line: str) -> bool:
    """Whether it says that this is CSV, plain or as spreadsheets write it."""
    return line.removeprefix("\ufeff").replace('"', "").strip() == COLUMNS


def _from_csv(path: str, lines: Iterable[str], sizes: dict[str, int]) -> _Part:
    began = 0.0
    requests: list[str] = []
    rows = csv.reader(lines)
    try:
        for row in rows:
            if not row:
                continue
            time, name, text = row
            size = int(text)
            if not 0 <= size <= sys.maxsize:
                raise NotATrace(f"{path}: line {rows.line_num + 1} has a size that no file has")
            if not requests:
                began = float(time)
            requests.append(_noted(name, size, sizes))
    except (ValueError, csv.Error):
        raise NotATrace(f"{path}: line {rows.line_num + 1} is not {COLUMNS}") from None
    return _Part(began, requests, 0)


def _from_log(lines: Iterable[str], sizes: dict[str, int]) -> _Part:
    began = 0.0
    requests: list[str] = []
    skipped = 0
    for line in lines:
        match = _LINE.match(line) if len(line) <= LINE_MAX else None
        if match is None:
            skipped += 1
            continue
        time, request, status, size, cache = match.groups()
        name = _name(request) if status in ("200", "206") and cache != "-" else None
        if name is None:
            continue
        if not requests:
            began = _seconds(time)
        requests.append(_noted(name, 0 if size == "-" else int(size), sizes))
    return _Part(began, requests, skipped)


def _noted(name: str, size: int, sizes: dict[str, int]) -> str:
    """One string for all requests of a name; it is at least so large."""
    name = sys.intern(name)
    known = sizes.get(name)
    if known is None or size > known:
        sizes[name] = size
    return name


@lru_cache(1 << 18)
def _name(request: str) -> str | None:
    """The file that gserver would send for a request line, in its quotes; None when that is none."""
    line = request[1:-1].encode("utf-8", "surrogateescape")
    if b"\\" in line:
        line = _ESCAPED.sub(lambda code: bytes([int(code[1], 16)]) if code[1] else code[2], line)
    method, _, target = line.partition(b" ")
    before, version, _ = target.rpartition(b" HTTP/")
    try:
        if method != b"GET":
            return None
        if version or target.startswith(b"/"):
            name = names.decode_target(before if version else target)[0]
        else:
            name = names.decode_name(target)
    except names.BadTarget:
        return None
    if name is None or names.is_reserved(name):
        return None
    return name + "index.html" if name == "" or name.endswith("/") else name


def _seconds(time: str) -> float:
    """Of the first line that counts; a clock that nobody can read puts its file first."""
    try:
        return datetime.strptime(time, _TIME).timestamp()
    except ValueError:
        return 0.0


def _chained(first: str, others: Iterable[str]) -> Iterator[str]:
    if first:
        yield first
    yield from others
