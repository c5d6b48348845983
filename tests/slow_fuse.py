"""python -m tests.slow_fuse SOURCE MOUNT SECONDS: a real file system whose cold files are slow.

Everything under SOURCE appears under MOUNT; open and read of names that begin with `cold` take SECONDS each. Runs
until it is unmounted.
"""

import os
import sys
import time
from typing import Any

import mfusepy


class SlowFiles(mfusepy.Operations):  # type: ignore[misc]
    """Read-only, and slow where it is told to be."""

    def __init__(self, source: str, seconds: float) -> None:
        self._source = source
        self._seconds = seconds

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        status = os.lstat(self._source + path)
        return {key: getattr(status, key) for key in ("st_mode", "st_nlink", "st_size", "st_mtime", "st_ctime")}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._source + path)]

    def open(self, path: str, flags: int) -> int:
        self._wait(path)
        return os.open(self._source + path, os.O_RDONLY)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self._wait(path)
        return os.pread(fh, size, offset)

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def _wait(self, path: str) -> None:
        if path.startswith("/cold"):
            time.sleep(self._seconds)


if __name__ == "__main__":
    mfusepy.FUSE(SlowFiles(sys.argv[1], float(sys.argv[3])), sys.argv[2], foreground=True, ro=True)
