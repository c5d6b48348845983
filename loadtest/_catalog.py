"""What there is to fetch: the files of a server's folder listings, or of a corpus on the same machine.

Popularity is Zipf's over a shuffled order that is the same in every process, so that all workers agree on which
files are the popular ones.
"""

import os
import random
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loadtest._corpus import LIVE, STAMPEDE, size_of

FILES_MAX = 100_000
"""Files that are discovered at most; the rest of a larger tree is left alone."""

FOLDERS_MAX = 10_000
"""Folders that are asked for at most: links may make a tree endless."""

ZIPF_EXPONENT = 0.9
"""Of web traces, 0.64 to 0.83 (Breslau et al., INFOCOM 1999); of content networks, about 1."""

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True, slots=True)
class File:
    """A file of the server. `size` is from its name if `seeded`, else from a listing when it was discovered."""

    name: str
    size: int
    seeded: bool

    @property
    def path(self) -> str:
        """Its request target."""
        return "/" + quote(self.name)

    @property
    def live(self) -> bool:
        """Whether it is replaced while the test runs."""
        return self.seeded and self.name.startswith(LIVE)


def file_of(name: str, listed_size: int) -> File:
    """A file of that name, seeded if the name says so."""
    size = size_of(name)
    return File(name, listed_size if size is None else size, size is not None)


def size_class(size: int) -> str:
    """The word for rows of the report."""
    if size <= 64 * KIB:
        return "small"
    if size <= MIB:
        return "medium"
    return "large" if size < 16 * MIB else "huge"


class Catalog:
    """The files, by use. `everything` is what ordinary users ask for; stampedes may have files of their own."""

    def __init__(self, files: Iterable[File]) -> None:
        found = sorted(files, key=lambda file: file.name)
        self.by_name = {file.name: file for file in found}
        self.live = [file for file in found if file.live]
        self.everything = [file for file in found if not file.name.startswith(STAMPEDE) or not file.seeded]
        self.for_stampedes = [file for file in found if file.seeded and file.name.startswith(STAMPEDE)]
        self.huge = [file for file in self.everything if file.size >= 16 * MIB]
        self.ranked = list(self.everything)
        random.Random(len(found)).shuffle(self.ranked)
        self._weights = list(accumulate(1 / rank**ZIPF_EXPONENT for rank in range(1, len(self.ranked) + 1)))

    def popular(self, chance: random.Random) -> File:
        """One file, the first ranks more often."""
        return self.ranked[bisect(self._weights, chance.random() * self._weights[-1])]

    def worst_for_relocate(self, capacity: int) -> tuple[File, list[File]] | None:
        """The largest file that fits, and newcomers, none smaller than the one before; None without them."""
        fitting = sorted(
            (file for file in self.everything if 0 < file.size <= capacity and not file.live),
            key=lambda file: file.size,
        )
        newcomers = [file for file in fitting if file.size <= fitting[-1].size // 8]
        return (fitting[-1], newcomers) if newcomers else None


def in_folder(directory: Path) -> Iterator[File]:
    """The files below `directory` on this machine that a server would serve: regular, not hidden, UTF-8."""
    for folder, below, names in os.walk(directory):
        below[:] = [name for name in below if _is_served(name) and (name != "-" or Path(folder) != directory)]
        for name in filter(_is_served, names):
            path = Path(folder, name)
            if path.is_file():
                yield file_of(path.relative_to(directory).as_posix(), path.stat().st_size)


def _is_served(name: str) -> bool:
    return not name.startswith(".") and not any("\udc80" <= letter <= "\udcff" for letter in name)


def discovered(ask: Callable[[str], dict[str, Any] | None]) -> Iterator[File]:
    """The files of a server, folder by folder. `ask` gives a folder's JSON listing; None where it has none."""
    folders, found, asked = [""], 0, 0
    while folders and found < FILES_MAX and asked < FOLDERS_MAX:
        folder, asked = folders.pop(), asked + 1
        listing = ask("/" + quote(folder))
        for entry in (listing or {}).get("entries", ()):
            if entry["type"] == "folder":
                folders.append(f"{folder}{entry['name']}/")
            elif (found := found + 1) <= FILES_MAX:
                yield file_of(folder + entry["name"], entry["size"])
