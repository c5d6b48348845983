"""A mounted file system in which reads, or opens too, of cold files are slow: for as long as a `with` lasts.

A room of its own because it speaks the kernel's FUSE protocol (linux/fuse.h) itself. One thread answers everything
and puts what is slow on a heap, so hundreds of requests wait at once for nothing but the clock, and a fast one for
nobody; with a library that has a thread for each, fast opens beside slow reads took up to 5 ms. No files are
behind it: `hot.jpg` and `cold0.jpg`, `cold1.jpg` and so on are there, of 64 KiB each.
"""

import errno
import heapq
import os
import re
import select
import shutil
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peers import PROJECT, Missing

FILE_BYTES = 64 * 1024
"""One read for the kernel, which reads ahead up to 128 KiB."""

HOT, COLD = "hot.jpg", "cold{}.jpg"
"""Names of which every server knows the type; one that has to look inside pays a read for it."""

AT_ONCE = 512
"""Requests that the kernel has under way at a time. With its default of 12 a slow file system serves 12 readers,
and everybody else's reads in pieces of a page."""

REMEMBERED_S = 3600
"""How long the kernel believes names, sizes and stamps, as it does those of a local disk."""

STAMP_S = 1_700_000_000
"""When all files were changed."""

REQUEST_BYTES = 16 * 1024
"""Room for any request there can be without writes; the kernel refuses less than 8 KiB."""

ROOT_NODE, HOT_NODE, FIRST_COLD_NODE = 1, 2, 3

# From linux/fuse.h, protocol 7.31.
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 14, 15, 17, 18
INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, DESTROY, BATCH_FORGET = 26, 27, 28, 29, 36, 38, 42
UNANSWERED = {FORGET, BATCH_FORGET, INTERRUPT}
ASYNC_READ, PARALLEL_LOOKUPS, MAX_PAGES = 1 << 0, 1 << 18, 1 << 22
KEEP_CACHE = 1 << 1
IN_HEADER = struct.Struct("=IIQQIIIHH")
OUT_HEADER = struct.Struct("=IiQ")
INIT_IN = struct.Struct("=IIII")
INIT_OUT = struct.Struct("=IIIIHHIIHHII24x")
ENTRY_OUT = struct.Struct("=QQQQII")
ATTRIBUTES_OUT = struct.Struct("=QII")
ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
OPEN_OUT = struct.Struct("=QIi")
READ_IN = struct.Struct("=QQI")
STATFS_OUT = struct.Struct("=QQQQQIIIIIIIIII")


class SlowFiles:
    """A mounted file system. `folder` is where."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self._process = process

    def end(self) -> None:
        """Whoever waits for one of its files, a blocked server say, has an error at once."""
        self._process.kill()
        self._process.wait()


@contextmanager
def slow_files(read_s: float, open_s: float) -> Iterator[SlowFiles]:
    """Mount it anew, so that nothing of it is in the page cache; unmount it at the end.

    Of cold files an open takes `open_s` seconds and a read `read_s`. It runs on the cores of this process, before
    others if the system allows that. Raises Missing where it cannot be had.
    """
    with TemporaryDirectory(prefix="gserver-slow-") as folder, mounted(folder) as channel:
        line = [sys.executable, "-m", "benchmarks.slow_fuse", str(channel), str(read_s), str(open_s)]
        process = subprocess.Popen(
            line,
            cwd=PROJECT,
            pass_fds=[channel],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches it only through here
        )
        os.close(channel)
        files = SlowFiles(Path(folder), process)
        try:
            yield files
        finally:
            files.end()


@contextmanager
def mounted(folder: str) -> Iterator[int]:
    """Mount at `folder`; the descriptor through which the kernel asks, the caller's to close. Raises Missing."""
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise Missing("fusermount is not installed (Debian: fuse3)")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [program, "-o", "ro,nosuid,nodev,fsname=gserver-slow,subtype=slow", "--", folder],
            env=os.environ | {"_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Missing(f"no FUSE file system can be mounted here: {done.stderr.strip()}")
        try:
            _, (channel, *_), _, _ = socket.recv_fds(ours, 1, 1)
            yield channel
        finally:
            subprocess.run([program, "-u", "-z", "--", folder], capture_output=True, check=False)


# The file system's own process.


class FileSystem:
    """Answers requests of the kernel: each is bytes in, and bytes out at once or later."""

    def __init__(self, read_s: float, open_s: float) -> None:
        self._content = os.urandom(FILE_BYTES)
        self._delay_s = {OPEN: open_s, READ: read_s}
        self._answers: dict[int, Callable[[int, bytes], bytes]] = {
            INIT: self._init,
            LOOKUP: self._look_up,
            GETATTR: lambda node, _: ATTRIBUTES_OUT.pack(REMEMBERED_S, 0, 0) + attributes(node),
            OPEN: lambda node, _: OPEN_OUT.pack(0, KEEP_CACHE, 0),
            OPENDIR: lambda node, _: OPEN_OUT.pack(0, 0, 0),
            READ: self._read,
            READDIR: lambda node, _: b"",
            RELEASE: lambda node, _: b"",
            RELEASEDIR: lambda node, _: b"",
            STATFS: lambda node, _: STATFS_OUT.pack(0, 0, 0, 0, 0, 4096, 255, 4096, *[0] * 7),
            DESTROY: lambda node, _: b"",
        }

    def answer(self, request: bytes) -> tuple[float, list[bytes]]:
        """What to answer, in buffers, and in how many seconds. No buffers: the kernel wants no answer."""
        _, code, unique, node, *_ = IN_HEADER.unpack_from(request)
        if code in UNANSWERED:
            return 0.0, []
        content, error = b"", -errno.ENOSYS
        if code in self._answers:
            content, error = self._answers[code](node, request[IN_HEADER.size :]), 0
        delay_s = self._delay_s.get(code, 0.0) if node >= FIRST_COLD_NODE else 0.0
        return delay_s, [OUT_HEADER.pack(OUT_HEADER.size + len(content), error, unique), content]

    def _init(self, node: int, asked: bytes) -> bytes:
        _, _, read_ahead, flags = INIT_IN.unpack_from(asked)
        flags &= ASYNC_READ | PARALLEL_LOOKUPS | MAX_PAGES
        pages = FILE_BYTES * 2 // 4096
        return INIT_OUT.pack(7, 31, read_ahead, flags, AT_ONCE, AT_ONCE, 4096, 1, pages, 0, 0, 0)

    def _look_up(self, node: int, asked: bytes) -> bytes:
        found = node_of(asked.rstrip(b"\0").decode(errors="replace")) if node == ROOT_NODE else 0
        return ENTRY_OUT.pack(found, 0, REMEMBERED_S, REMEMBERED_S, 0, 0) + attributes(found)

    def _read(self, node: int, asked: bytes) -> bytes:
        _, offset, length = READ_IN.unpack_from(asked)
        return self._content[offset : offset + length]


def node_of(name: str) -> int:
    """A file's number; 0, which the kernel remembers too, where there is no such file."""
    if name == HOT:
        return HOT_NODE
    cold = re.fullmatch(COLD.format(r"(\d+)"), name)
    return FIRST_COLD_NODE + int(cold[1]) if cold else 0


def attributes(node: int) -> bytes:
    """What stat says of it."""
    mode = stat.S_IFDIR | 0o755 if node == ROOT_NODE else stat.S_IFREG | 0o644
    return ATTRIBUTES.pack(
        node, FILE_BYTES, FILE_BYTES // 512, *[STAMP_S] * 3, 0, 0, 0, mode, 1, os.getuid(), os.getgid(), 0, 4096, 0
    )


def serve(channel: int, system: FileSystem) -> None:
    """Answer until it is unmounted. What is slow waits on a heap, in the order in which it is due."""
    waiting: list[tuple[float, list[bytes]]] = []
    while True:
        timeout_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        if select.select([channel], [], [], timeout_s)[0]:
            try:
                request = os.read(channel, REQUEST_BYTES)
            except (FileNotFoundError, InterruptedError):  # whoever asked has gone
                continue
            except OSError:  # ENODEV: unmounted
                return
            delay_s, answer = system.answer(request)
            if answer:
                heapq.heappush(waiting, (time.monotonic() + delay_s, answer))
        while waiting and waiting[0][0] <= time.monotonic():
            _, answer = heapq.heappop(waiting)
            with suppress(OSError):  # whoever asked has gone
                os.writev(channel, answer)


def main(channel: str, read_s: str, open_s: str) -> None:
    """Serve the mount behind a descriptor that was inherited."""
    go_first(1)
    serve(int(channel), FileSystem(float(read_s), float(open_s)))


def go_first(priority: int) -> bool:
    """Run before all ordinary processes of the core. False where the system does not allow it."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
