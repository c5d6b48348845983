"""Requests as they were really made, from a file of `time,object,size` lines, and files of those sizes.

A room of its own: what is asked for and how large it is, without any server. Only `make_files` touches the disk.
"""

import csv
import gzip
import os
import random
import shutil
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import IO, NamedTuple

from benchmarks.peers import Missing

MIB = 1 << 20

COLUMNS = ["time", "object", "size"]

ROOM_BYTES = 1 << 30
"""Left free on the disk that takes the files: a full disk is everybody's trouble."""

ZIPF_SEED = 1949
"""The year of Zipf's "Human Behavior and the Principle of Least Effort"; any number would do, but one for all."""
ZIPF_OBJECTS = 4000
ZIPF_REQUESTS = 30_000
ZIPF_EXPONENT = 0.8
"""Web traces show 0.64 to 0.83 (Breslau et al., INFOCOM 1999)."""
ZIPF_MEDIAN_BYTES = 16 * 1024
ZIPF_SIGMA = 1.8
"""Of the logarithm of the size: a mean of five times the median, about 330 MiB in all."""


class Trace(NamedTuple):
    """Objects in the order of the requests, and each object's size in bytes."""

    name: str
    requests: list[int]
    sizes: dict[int, int]

    def asked_bytes(self) -> int:
        """What all answers have together."""
        return sum(self.sizes[number] for number in self.requests)

    def unique_bytes(self) -> int:
        """What all files have together."""
        return sum(self.sizes.values())


def read(path: Path) -> Trace:
    """The trace in a file, compressed if its name ends in `.gz`. Raises ValueError, with the line; OSError."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as lines:
        return parse(path.name.partition(".")[0], lines)


def parse(name: str, lines: Iterable[str] | IO[str]) -> Trace:
    """The trace in these lines; an object is as large as the largest size seen for it. Raises ValueError."""
    rows = csv.reader(lines)
    if next(rows, None) != COLUMNS:
        raise ValueError(f"{name}: the first line is not {','.join(COLUMNS)}")
    requests: list[int] = []
    sizes: dict[int, int] = {}
    for place, row in enumerate(rows, 2):
        try:
            _, number, size = map(int, row)
        except ValueError:
            raise ValueError(f"{name}: line {place} is not time,object,size in whole numbers") from None
        if size < 0:
            raise ValueError(f"{name}: line {place} has a size below 0")
        requests.append(number)
        sizes[number] = max(size, sizes.get(number, 0))
    return Trace(name, requests, sizes)


def beginning(trace: Trace, *, requests: int | None = None, files_bytes: int | None = None) -> Trace:
    """The first `requests` of it, fewer where their files would have more than `files_bytes` together."""
    taken: list[int] = []
    sizes: dict[int, int] = {}
    total = 0
    for number in trace.requests[:requests]:
        if number not in sizes:
            total += trace.sizes[number]
            if files_bytes is not None and total > files_bytes:
                break
            sizes[number] = trace.sizes[number]
        taken.append(number)
    return Trace(trace.name, taken, sizes)


def zipf(requests: int = ZIPF_REQUESTS, objects: int = ZIPF_OBJECTS, *, exponent: float = ZIPF_EXPONENT) -> Trace:
    """Independent requests, popularity falling with the rank, sizes without regard to it; always the same."""
    chance = random.Random(ZIPF_SEED)
    weights = list(accumulate(rank**-exponent for rank in range(1, objects + 1)))
    asked = chance.choices(range(1, objects + 1), cum_weights=weights, k=requests)
    sizes = {
        number: int(ZIPF_MEDIAN_BYTES * chance.lognormvariate(0, ZIPF_SIGMA)) for number in range(1, objects + 1)
    }
    return Trace("zipf", asked, {number: sizes[number] for number in dict.fromkeys(asked)})


def make_files(trace: Trace, folder: Path) -> None:
    """A file of random bytes for each object, named by its number, all of them on the disk when this returns.

    Random, so that no file system stores less than it is given. Raises Missing where there is no room.
    """
    free = shutil.disk_usage(folder).free
    if free < trace.unique_bytes() + ROOM_BYTES:
        raise Missing(
            f"the files of {trace.name} need {trace.unique_bytes() >> 20} MiB and {ROOM_BYTES >> 20} to spare; "
            f"{folder} has {free >> 20}"
        )
    for number, size in trace.sizes.items():
        with (folder / str(number)).open("wb", buffering=0) as file:
            for piece in _pieces(size):
                file.write(piece)
    os.sync()


def _pieces(size: int) -> Iterator[memoryview]:
    for first in range(0, size, MIB):
        yield memoryview(os.urandom(min(MIB, size - first)))
