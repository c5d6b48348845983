"""Resident memory of gserver quiet, with a full cache, and after twice the cache's worth of evictions.

A part of `benchmarks.footprint`.
"""

import math
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.clients import fetch_all, stats
from benchmarks.peers import REST_S, Peer, serving
from benchmarks.report import Table, judgement, mib
from benchmarks.workloads import KIB, MIB

CACHE_BYTES = 64 * MIB
CACHE_ENTRIES = 65_536
LARGE_TARGET_BYTES = CACHE_BYTES + 50 * MIB
"""Of resident memory with a cache full of files of at least 64 KiB."""
SMALL_TARGET_BYTES = CACHE_BYTES + 110 * MIB
"""Of resident memory with CACHE_ENTRIES files of 1 KiB."""

FETCHERS = 8
"""Connections that fill the cache."""

LINKS_MAX = 30_000
"""Names that share one small file on the disk; ext4 allows 65,000. The cache knows files by name."""


@dataclass(frozen=True, slots=True)
class Filling:
    """Files that fill the cache, then twice as many more; and what gserver may hold with them."""

    files: str
    make: Callable[[Path], list[str]]
    target_bytes: int
    options: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """A server at one moment: resident bytes, the most there ever were, and what its cache says."""

    moment: str
    rss_bytes: int
    peak_bytes: int
    cached: int
    entries: int
    evictions: int


def measure_all() -> dict[str, list[Held]]:
    """Every filling. Raises Missing, Refused and OSError; blocks."""
    return {filling.files: measure(filling) for filling in FILLINGS}


def measure(filling: Filling) -> list[Held]:
    """Quiet, full, and after twice as many evictions. Raises Missing, Refused and OSError; blocks."""
    with TemporaryDirectory(prefix="gserver-bench-") as name:
        folder = Path(name)
        names = filling.make(folder)
        full = cache_full(names, folder)
        with serving("gserver", folder, options=filling.options) as peer:
            moments = [held_by(peer, "quiet")]
            for moment, asked in {"full": names[:full], "later": names[full:]}.items():
                fetch_all(peer.port, asked, FETCHERS)
                moments.append(held_by(peer, moment))
            return moments


def held_by(peer: Peer, moment: str) -> Held:
    """What a gserver holds when it has come to rest."""
    time.sleep(REST_S)
    rss_bytes = peer.rss_bytes()
    status = Path(f"/proc/{peer.pids()[0]}/status").read_text()
    peak = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    peak_bytes = int(peak[1]) * KIB if peak else rss_bytes
    said = stats(peer.port)
    return Held(moment, rss_bytes, peak_bytes, said["cached"], said["entries"], said["evictions"])


def cache_full(names: Sequence[str], folder: Path) -> int:
    """How many of these files, from the first on, fit the cache."""
    held = count = 0
    for name in names[:CACHE_ENTRIES]:
        held += (folder / name).stat().st_size
        if held > CACHE_BYTES:
            break
        count += 1
    return count


def equal_files(folder: Path) -> list[str]:
    """64 KiB each, three caches full."""
    return write_files(folder, [64 * KIB] * (3 * CACHE_BYTES // (64 * KIB)))


def mixed_files(folder: Path) -> list[str]:
    """64 KiB to 1 MiB, three caches full."""
    caches = [mixed_sizes(CACHE_BYTES, 64 * KIB, MIB, seed) for seed in range(3)]
    return write_files(folder, [size for cache in caches for size in cache])


def small_files(folder: Path) -> list[str]:
    """1 KiB each, three caches full of names. Few files under many names: there would not always be room."""
    names = [f"{number:06}" for number in range(3 * CACHE_ENTRIES)]
    for first in range(0, len(names), LINKS_MAX):
        original = folder / names[first]
        original.write_bytes(b"x" * KIB)
        for name in names[first + 1 : first + LINKS_MAX]:
            os.link(original, folder / name)
    return names


def mixed_sizes(total: int, smallest: int, largest: int, seed: int) -> list[int]:
    """Sizes from `smallest` to `largest`, each magnitude as likely, that add up to `total` exactly.

    `total` must be at least `smallest`, and `largest` at least twice as much.
    """
    choose = random.Random(seed)
    sizes: list[int] = []
    left = total
    while left > largest:
        size = round(math.exp(choose.uniform(math.log(smallest), math.log(largest))))
        size = min(size, left - smallest)
        sizes.append(size)
        left -= size
    return [*sizes, left]


def write_files(folder: Path, sizes: Sequence[int]) -> list[str]:
    """Files of these sizes; their names."""
    content = random.Random(0).randbytes(max(sizes))
    for number, size in enumerate(sizes):
        (folder / str(number)).write_bytes(content[:size])
    return list(map(str, range(len(sizes))))


FILLINGS = (
    Filling("64 KiB", equal_files, LARGE_TARGET_BYTES),
    Filling("64 KiB to 1 MiB", mixed_files, LARGE_TARGET_BYTES),
    Filling("64 KiB to 1 MiB, read by threads", mixed_files, LARGE_TARGET_BYTES, ("--io", "pool")),
    Filling("1 KiB", small_files, SMALL_TARGET_BYTES),
)


def held_table(found: Mapping[str, Sequence[Held]]) -> Table:
    """Every filling at every moment."""
    rows = [
        [
            files,
            held.moment,
            mib(held.rss_bytes),
            mib(held.peak_bytes),
            mib(held.cached),
            f"{held.entries:,}",
            f"{held.evictions:,}",
        ]
        for files, moments in found.items()
        for held in moments
    ]
    return Table(["files", "gserver is", "RSS", "at most so far", "cached", "entries", "evictions"], rows)


def judgements(found: Mapping[str, Sequence[Held]]) -> Iterator[str]:
    """Whether the memory is what it must be."""
    for filling in FILLINGS:
        most = max(held.rss_bytes for held in found[filling.files])
        yield judgement(
            f"MiB with files of {filling.files}", round(most / MIB, 1), at_most=filling.target_bytes / MIB
        )
