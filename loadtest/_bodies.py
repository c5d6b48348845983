"""A body, checked while it arrives: against its name if that says what is in it, else against its own ETag.

Bodies are never held whole: 60 MiB a user would cost the load generator its memory.
"""

import hashlib
from collections import OrderedDict

from loadtest import _corpus
from loadtest._catalog import File
from loadtest._checks import CONTENT, LENGTH, VERSION
from loadtest._evidence import Broken

VERSIONS_MAX = 65_536
"""Digests remembered, the latest."""


class Versions:
    """What came with each ETag in this process: a digest, or the version of a live file."""

    def __init__(self) -> None:
        self._digests: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def agree(self, name: str, etag: str, digest: bytes) -> None:
        """Remember, or compare. Raises Broken."""
        known = self._digests.setdefault((name, etag), digest)
        self._digests.move_to_end((name, etag))
        if len(self._digests) > VERSIONS_MAX:
            self._digests.popitem(last=False)
        if known != digest:
            raise Broken(VERSION, f"{name} has other bytes under the same ETag {etag}")


class Body:
    """Bytes [start, start + length) of a file, fed in pieces; `end` says whether all were there.

    Of a live file only from its beginning, for there its version stands.
    """

    def __init__(self, file: File, start: int, length: int) -> None:
        self._file = file
        self._offset = start
        self._stop = start + length
        self._digest = hashlib.sha256()
        self._name = file.name
        """What the content is a function of: the name, for a live file with its version."""
        self._first = b""
        """Of a live file, what came of its first line."""
        self.version: int | None = None

    def feed(self, piece: bytes) -> None:
        """The next bytes. Raises Broken at the first that is wrong."""
        if self._offset + len(piece) > self._stop:
            raise Broken(LENGTH, f"{self._file.name}: more bytes than the head said")
        if not self._file.seeded:
            self._digest.update(piece)
        elif piece:
            self._compare(piece)
        self._offset += len(piece)

    def end(self) -> bytes:
        """What stands for the content: a digest, or the version it was. Raises Broken if it is short."""
        if missing := self._stop - self._offset:
            raise Broken(LENGTH, f"{self._file.name}: {missing} bytes are missing at the end")
        return b"%d" % (self.version or 0) if self._file.seeded else self._digest.digest()

    def _compare(self, piece: bytes) -> None:
        start = self._offset
        if self._file.live and self.version is None:
            rest = _corpus.VERSION_BYTES - len(self._first)
            self._first, piece = self._first + piece[:rest], piece[rest:]
            if len(self._first) < _corpus.VERSION_BYTES:
                return
            self.version = _corpus.version_of(self._first)
            if self.version is None:
                raise Broken(CONTENT, f"{self._file.name} does not begin with a version number")
            self._name = f"{self._file.name}\n{self.version}"
            start = _corpus.VERSION_BYTES
        expected = _corpus.content(self._name, start, start + len(piece))
        if piece != expected:
            at = next(i for i, pair in enumerate(zip(piece, expected, strict=True)) if pair[0] != pair[1])
            raise Broken(CONTENT, f"{self._file.name}: byte {start + at} is {piece[at]}, not {expected[at]}")
