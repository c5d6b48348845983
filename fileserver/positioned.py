"""Reading at an offset, in the two ways a file server needs: from the page cache or not at all, and patiently.

A room of its own because every system has another call for it: Linux has preadv2(2) with RWF_NOWAIT, macOS pread
alone, Windows neither.
"""

import errno
import os

from gevent.monkey import get_original

from lrucache import CHUNK_BYTES

_scratch = bytearray(CHUNK_BYTES)
"""Where inline reads land before they are copied out: one warm buffer instead of a zeroed one for each read. Used
from the hub's thread only, and nothing switches greenlets between the read and the copy."""


def read_cached(descriptor: int, length: int, offset: int) -> bytes:
    """Read `length` bytes (at most CHUNK_BYTES) without ever waiting for a disk. Hub thread only.

    Raises BlockingIOError unless all of them are in the page cache, and where the system or the file system
    (tmpfs) cannot say. Fewer bytes mean the end of the file.
    """
    if not hasattr(os, "RWF_NOWAIT"):
        raise BlockingIOError(errno.EAGAIN, "this system cannot say what it has cached")
    got = 0
    while got < length:
        try:
            more = os.preadv(descriptor, [memoryview(_scratch)[got:length]], offset + got, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                raise BlockingIOError(errno.EAGAIN, "this file system cannot say what it has cached") from error
            raise
        if more == 0:
            break
        got += more
    return bytes(memoryview(_scratch)[:got])


def read_cached_once(descriptor: int, length: int) -> bytes:
    """What one call gives of the first `length` bytes (at most CHUNK_BYTES), in the same way."""
    if not hasattr(os, "RWF_NOWAIT"):
        raise BlockingIOError(errno.EAGAIN, "this system cannot say what it has cached")
    got = os.preadv(descriptor, [memoryview(_scratch)[:length]], 0, os.RWF_NOWAIT)
    return bytes(memoryview(_scratch)[:got])


def read_whole(descriptor: int, length: int, offset: int) -> bytes:
    """Read `length` bytes, waiting as long as the disk takes. Fewer bytes mean the end of the file."""
    content = os.pread(descriptor, length, offset)
    while 0 < len(content) < length:
        more = os.pread(descriptor, length - len(content), offset + len(content))
        if not more:
            break
        content += more
    return content


_one_seeker = get_original("_thread", "allocate_lock")()
"""A native lock, even in a patched process: it is taken in pool threads only."""


def read_seeking(descriptor: int, length: int, offset: int) -> bytes:
    """`read_whole` where there is no pread (Windows): the position is shared, so one thread at a time moves it."""
    with _one_seeker:
        os.lseek(descriptor, offset, os.SEEK_SET)
        content = b""
        while len(content) < length:
            more = os.read(descriptor, length - len(content))
            if not more:
                break
            content += more
    return content


read = read_whole if hasattr(os, "pread") else read_seeking
