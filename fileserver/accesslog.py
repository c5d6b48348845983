"""Who asked for what: Combined Log Format, written by one thread that nobody waits for.

A line of the loop is a tuple in a bounded queue; formatting and writing happen in a native thread of their own. A
log on a slow disk loses lines, which are counted, and delays nobody.
"""

import os
import re
import time
from collections.abc import Callable
from typing import NamedTuple

import gevent
from gevent.event import Event

from fileserver.bursts import Burst
from fileserver.threads import started

QUEUE_BYTES = 4 << 20
"""Of lines that wait for the disk; beyond it they are dropped. Some 10,000 (nginx buffers 64k and then waits)."""
LINE_OVERHEAD_BYTES = 300
"""What a queued line costs besides its texts."""
BATCH_S = 0.1
"""Lines are gathered for so long before they are written."""
SLICE = 100
"""Lines in one write call."""

_UNSAFE = re.compile(rb"[^\x20\x21\x23-\x5b\x5d-\x7e]")


class Access(NamedTuple):
    """One answer. `line` is the request line as it was sent; `cache` is HIT, MISS and so on, or empty.

    `body_bytes` and `bytes_sent` (with the head) are what the socket took; `seconds` run from the request's first
    byte, or from the answer before it in a pipeline, to the last byte taken.
    """

    address: str
    line: bytes
    status: int
    body_bytes: int
    referer: bytes
    agent: bytes
    cache: str
    bytes_sent: int
    seconds: float


def render(access: Access, when_s: float) -> bytes:
    """A line of Combined Log Format, and after it cache status, bytes with the head, and milliseconds.

    Whatever could end the line, close a quote or move a terminal is written as `\\xHH`, as nginx does.
    """
    when = time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(when_s)).encode()
    return b'%b - - [%b] "%b" %d %d "%b" "%b" %b %d %.3f\n' % (
        access.address.encode("ascii", "replace"),
        when,
        _escaped(access.line),
        access.status,
        access.body_bytes,
        _escaped(access.referer),
        _escaped(access.agent),
        access.cache.encode() or b"-",
        access.bytes_sent,
        access.seconds * 1000,
    )


def _escaped(text: bytes) -> bytes:
    return _UNSAFE.sub(lambda found: b"\\x%02X" % found[0][0], text) or b"-"


class AccessLog:
    """The log at `path`, `-` for standard output. Raises OSError when it cannot be opened.

    `add` and `dropped` are for the hub's thread. `reopen` after somebody has moved the file away; `close` writes
    what is left.
    """

    def __init__(self, path: str, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._descriptor = _open(path)
        self._queue: list[tuple[Access, float]] = []
        self._queued_bytes = 0
        self._wake = Event()
        self._ending = self._reopening = False
        self._trouble = Burst("cannot write the access log")
        self._is_half_written = False
        self._thread = started(1)
        self._writer = gevent.spawn(self._write_on)
        self.dropped = 0

    def add(self, access: Access) -> None:
        """Queue a line; never waits."""
        cost = len(access.line) + len(access.referer) + len(access.agent) + LINE_OVERHEAD_BYTES
        if self._queued_bytes + cost > QUEUE_BYTES or self._ending:
            self.dropped += 1
            return
        self._queued_bytes += cost
        self._queue.append((access, self._clock()))
        self._wake.set()

    def reopen(self) -> None:
        """Go on in a new file of the same name; if it cannot be had, in the old one."""
        self._reopening = True
        self._wake.set()

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued, for so long, and end. A disk that does not answer keeps its thread and file."""
        self._ending = True
        self._wake.set()
        self._writer.join(timeout_s)
        if self._writer.ready() and self._descriptor >= 0:
            self._thread.apply(_try_close, (self._descriptor,))
            self._thread.kill()
            self._descriptor = -1

    def _write_on(self) -> None:
        while self._queue or not self._ending:
            self._wake.wait()
            self._wake.clear()
            if not self._ending:
                gevent.sleep(BATCH_S)
            if self._reopening:
                self._reopening = False
                self._reopen()
            batch, batch_bytes, self._queue = self._queue, self._queued_bytes, []
            written, self._is_half_written, problem = self._thread.apply(
                _write, (self._descriptor, batch, self._is_half_written)
            )
            self._queued_bytes -= batch_bytes
            self.dropped += len(batch) - written
            if problem is not None:
                self._trouble(problem)

    def _reopen(self) -> None:
        descriptor, problem = self._thread.apply(_try_open, (self._path,))
        if problem is not None:
            self._trouble(problem)
            return
        old, self._descriptor = self._descriptor, descriptor
        problem = self._thread.apply(_try_close, (old,))
        if problem is not None:
            self._trouble(problem)


# In the thread: plain values in and out, and no exception leaves it, for that would print a traceback.


def _write(
    descriptor: int, batch: list[tuple[Access, float]], after_half_a_line: bool
) -> tuple[int, bool, OSError | None]:
    """How many lines were written, whether half a line was after them, and what went wrong."""
    lines = 0
    for start in range(0, len(batch), SLICE):
        begin = b"\n" if after_half_a_line else b""
        content = begin + b"".join(render(access, when_s) for access, when_s in batch[start : start + SLICE])
        done = 0
        try:
            while done < len(content):
                done += os.write(descriptor, memoryview(content)[done:])
        except OSError as problem:
            lines += max(0, content.count(b"\n", 0, done) - len(begin))
            is_half = content[done - 1 : done] != b"\n" if done else after_half_a_line
            return lines, is_half, problem
        lines += len(batch[start : start + SLICE])
        after_half_a_line = False
    return lines, after_half_a_line, None


def _try_open(path: str) -> tuple[int, OSError | None]:
    try:
        return _open(path), None
    except OSError as problem:
        return -1, problem


def _try_close(descriptor: int) -> OSError | None:
    try:
        os.close(descriptor)
    except OSError as problem:
        return problem
    return None


def _open(path: str) -> int:
    if path == "-":
        return os.dup(1)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    # A pipe that nobody reads would make the open wait for ever; so it fails, and only writing may wait.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o644)
    os.set_blocking(descriptor, True)
    return descriptor
