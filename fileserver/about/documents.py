"""What the cache holds and whom it has evicted, as text and as JSON, in slices. Pure."""

import json
from collections.abc import Generator, Iterator
from json.encoder import encode_basestring_ascii as _quoted
from operator import attrgetter

from fileserver.rendering import lines_json, size_text, slices
from lrucache import Entry, Eviction

LARGEST = 1000
"""Entries in a snapshot; of the others only the sums."""
LARGEST_BYTES = 512 * 1024
"""Of their JSON: a name can be 8 KiB long."""
LATEST = 50
"""Evictions in a snapshot, ..."""
LATEST_BYTES = 64 * 1024
"""... and of their JSON."""


def cache_text(entries: list[Entry]) -> Iterator[bytes]:
    """LIST: the cached names, one a line."""
    for some in slices(entries):
        yield "".join(f"{entry.name}\n" for entry in some).encode()


def cache_json(stats: dict[str, object] | None, entries: list[Entry], now_s: float) -> Iterator[bytes]:
    """LIST with sizes, uses and ages (seconds), and the `stats` of the same instant, for who may see them."""
    yield b"{" + (b'"stats": ' + json.dumps(stats).encode() + b", ") * (stats is not None) + b'"entries": ['
    yield from lines_json(entries, lambda entry: entry_json(entry, now_s))
    yield b"]}\n"


def stats_json(stats: dict[str, object]) -> bytes:
    """The `stats` object alone."""
    return json.dumps(stats, indent=2).encode() + b"\n"


def evictions_json(evictions: list[Eviction], now_s: float) -> Iterator[bytes]:
    """Who was evicted, the last one first; sizes are bytes, times seconds."""
    yield b'{"evictions": ['
    yield from lines_json(evictions, lambda eviction: eviction_json(eviction, now_s))
    yield b"]}\n"


def evictions_text(evictions: list[Eviction], now_s: float) -> Iterator[bytes]:
    """The same for people, a line each."""
    for some in slices(evictions):
        yield "".join(_eviction_text(each, now_s) for each in some).encode()


def snapshot_json(
    stats: dict[str, object], rates: str, evictions: list[Eviction], entries: list[Entry], now_s: float
) -> Iterator[bytes]:
    """The dashboard's: `stats`, `rates` (JSON), the latest evictions, the largest entries, and the sums of the
    others. On one line; some slices are empty, for looking also takes time."""
    latest = _within(LATEST_BYTES, (eviction_json(each, now_s) for each in evictions[:LATEST]))
    yield f'{{"stats":{json.dumps(stats)},"rates":{rates},"evictions":[{",".join(latest)}],"entries":['.encode()
    largest, total_bytes = yield from _select(entries)
    count, shown_bytes = yield from _show(largest, now_s)
    others = {"entries": len(entries) - count, "size": total_bytes - shown_bytes}
    yield f'],"others":{json.dumps(others)}}}\n'.encode()


def _select(entries: list[Entry]) -> Generator[bytes, None, tuple[list[Entry], int]]:
    """The LARGEST of them in empty slices; then they, and how many bytes all have."""
    largest: list[Entry] = []
    floor, total_bytes = -1, 0
    for some in slices(entries):
        largest += [entry for entry in some if entry.size > floor]
        total_bytes += sum(entry.size for entry in some)
        if len(largest) > 4 * LARGEST:
            largest = _largest(largest)
            floor = largest[-1].size
        yield b""
    return _largest(largest), total_bytes


def _show(entries: list[Entry], now_s: float) -> Generator[bytes, None, tuple[int, int]]:
    """As many of the first of them as LARGEST_BYTES have room for; then how many, and how many bytes they have."""
    shown: list[Entry] = []
    left_bytes = LARGEST_BYTES
    for some in slices(entries):
        lines = _within(left_bytes, (entry_json(entry, now_s) for entry in some))
        yield ("," * bool(shown and lines) + ",".join(lines)).encode()
        shown += some[: len(lines)]
        left_bytes = left_bytes - sum(map(len, lines)) if len(lines) == len(some) else 0
    return len(shown), sum(entry.size for entry in shown)


def _within(most_bytes: int, lines: Iterator[str]) -> list[str]:
    """The first lines that have at most so many bytes together."""
    found = []
    for line in lines:
        most_bytes -= len(line)
        if most_bytes < 0:
            break
        found.append(line)
    return found


def _largest(entries: list[Entry]) -> list[Entry]:
    return sorted(entries, key=attrgetter("size"), reverse=True)[:LARGEST]


def entry_json(entry: Entry, now_s: float) -> str:
    """One entry; times are seconds. By hand, in a quarter of the time: there may be 65,536 of them."""
    return (
        f'{{"name": {_quoted(entry.name)}, "size": {entry.size}, "hits": {entry.hits}, '
        f'"age_s": {max(0.0, now_s - entry.created_s):.3f}, "idle_s": {max(0.0, now_s - entry.used_s):.3f}, '
        f'"readers": {entry.readers}}}'
    )


def eviction_json(eviction: Eviction, now_s: float) -> str:
    """One eviction; times are seconds."""
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
