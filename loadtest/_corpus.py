"""A folder of files whose names say what is in them: python -m loadtest._corpus DIR.

Size and content of a file are functions of its name, so that whoever fetched any range of it can check it without
asking anybody. `12/crème brûlée 0417.18231.seeded` has 18,231 bytes: SHAKE-128 of its name, repeated with a period
of 65,537. The period is prime, so that a chunk (a power of two) in the place of another is never the same bytes.

Files under `live/` are replaced while the test runs. Their first line is a version number, and the rest is a
function of the name and that number.
"""

import argparse
import hashlib
import os
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PERIOD = 65_537
VERSION_BYTES = 20
"""The first line of a live file: 19 digits and a line feed."""

LIVE = "live/"
STAMPEDE = "stampede/"
"""Files that only Stampede asks for, so that they are cold when it does."""

WRITTEN_AT = 1_767_225_600
"""Time stamp of the files that never change, 2026-01-01: a server need not take them for young."""

_SEEDED = re.compile(r"\.(0|[1-9][0-9]*)\.seeded\Z")
_WORDS = ("plain", "two words", "naïve café", "日本語", "100% sure", "a+b&c=d", "semi;colon", "it's #1?")

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Corpus:
    """What to make: about `size` bytes in about `files` files, for a cache of `capacity` bytes."""

    size: int = 512 * MIB
    files: int = 4000
    capacity: int = 64 * MIB

    def names(self) -> list[str]:
        """Every name, in a fixed order, the same for the same numbers."""
        chance = random.Random(f"{self.size} {self.files} {self.capacity}")
        large = [self.capacity * part // 64 for part in (20, 28, 36, 48, 60, 80)]
        stampede = [chance.randrange(MIB // 4, MIB) for _ in range(max(8, self.files // 100))]
        live = [chance.randrange(1000, 40_000) for _ in range(16)]
        ordinary = max(self.files - len(large) - len(stampede) - len(live) - 1, 1)
        weights = [chance.lognormvariate(0, 1.7) for _ in range(ordinary)]
        scale = max(self.size - sum(large) - sum(stampede), 0) / sum(weights)
        sizes = [min(max(round(weight * scale), 100), 8 * MIB) for weight in weights]
        return [
            *(
                f"{i % 32:02x}/{self._folder(i)}{_WORDS[i % 8]} {i:05}.{size}.seeded"
                for i, size in enumerate(sizes)
            ),
            *(f"large/{i}.{size}.seeded" for i, size in enumerate(large)),
            *(f"{STAMPEDE}{i:03}.{size}.seeded" for i, size in enumerate(stampede)),
            *(f"{LIVE}{i:02}.{size}.seeded" for i, size in enumerate(live)),
            "empty.0.seeded",
        ]

    @staticmethod
    def _folder(index: int) -> str:
        return ("", "", "sub folder/", "tief/außen/")[index // 32 % 4]


DEFAULT = Corpus()


def size_of(name: str) -> int | None:
    """The bytes of a corpus file; None for any other name."""
    match = _SEEDED.search(name)
    return int(match[1]) if match else None


def content(name: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file that never changes."""
    base = _twice(name)
    pieces = []
    while start < stop:
        offset = start % PERIOD
        taken = min(stop - start, PERIOD)
        pieces.append(base[offset : offset + taken])
        start += taken
    return b"".join(pieces)


def live_content(name: str, version: int) -> bytes:
    """The whole of a live file in that version."""
    first = b"%019d\n" % version
    return first + content(f"{name}\n{version}", len(first), size_of(name) or 0)


def version_of(body: bytes) -> int | None:
    """The version in the first line of a live file; None if there is none."""
    first = body[:VERSION_BYTES]
    return int(first) if re.fullmatch(rb"[0-9]{19}\n", first) else None


@lru_cache(maxsize=512)
def _twice(name: str) -> bytes:
    """Two periods, so that any piece of one period's length is a slice; 64 MiB at most for all that are kept."""
    base = hashlib.shake_128(name.encode()).digest(PERIOD)
    return base + base


def _aside(path: Path) -> Path:
    """Where the next version is written: hidden, and in the same folder."""
    return path.with_name("." + path.name)


@dataclass(frozen=True, slots=True)
class Published:
    """The version of a live file on the disk, and the second since the epoch in which it came there."""

    version: int
    at_s: float


def publish(directory: Path, name: str) -> int:
    """Rename the next version of a live file into place; its number. One publisher at a time."""
    path = directory / name
    version = published(directory, name).version + 1
    aside = _aside(path)
    aside.write_bytes(live_content(name, version))
    aside.replace(path)
    return version


def published(directory: Path, name: str) -> Published:
    """What is on the disk now. The time is the inode's change time, which is when it was renamed, or later."""
    with (directory / name).open("rb") as file:
        stamps = os.fstat(file.fileno())
        return Published(version_of(file.read(VERSION_BYTES)) or 0, stamps.st_ctime)


def write(directory: Path, corpus: Corpus) -> int:
    """Make the files; their bytes. Raises FileExistsError if the folder holds anything else."""
    directory.mkdir(parents=True, exist_ok=True)
    names = corpus.names()
    ours = {path for name in names for path in (directory / name, _aside(directory / name))}
    if others := {path for path in directory.rglob("*") if not path.is_dir()} - ours:
        other = min(others).relative_to(directory)
        raise FileExistsError(f"{directory} holds other files ({other}); a corpus wants an empty folder")
    total = 0
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for piece in _pieces(name):
                total += file.write(piece)
        if not name.startswith(LIVE):
            os.utime(path, (WRITTEN_AT, WRITTEN_AT))
    return total


def _pieces(name: str) -> Iterator[bytes]:
    size = size_of(name) or 0
    if name.startswith(LIVE):
        yield live_content(name, 1)
        return
    for start in range(0, size, 16 * PERIOD):
        yield content(name, start, min(start + 16 * PERIOD, size))


def parse_size(text: str) -> int:
    """Bytes of `64MiB`, `1GiB`, `100KiB` or `4096`. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+) *(?:([KMG])i?B?|B?)", text.strip(), re.IGNORECASE | re.ASCII)
    if not match:
        raise ValueError(f"not a size: {text!r} (64MiB, 1GiB, 4096)")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[(match[2] or "").upper()]


def size_argument(text: str) -> int:
    """`parse_size` for a command line, which shows what is wrong."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest._corpus", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--size", type=size_argument, default=DEFAULT.size, help="bytes in all (512MiB)")
    parser.add_argument("--files", type=int, default=DEFAULT.files, help="files in all (4000)")
    parser.add_argument(
        "--capacity", type=size_argument, default=DEFAULT.capacity, help="the server's cache (64MiB)"
    )
    options = parser.parse_args()
    corpus = Corpus(options.size, options.files, options.capacity)
    try:
        total = write(options.directory, corpus)
    except OSError as error:
        sys.exit(f"corpus: {error}")
    print(f"{options.directory}: {len(corpus.names()):,} files, {total / MIB:,.0f} MiB")


if __name__ == "__main__":
    main()
