"""Who asked for what: Combined Log Format, written by one thread that nobody waits for.

A line is rendered at once, which takes the loop a microsecond, and waits in a bounded queue for a native thread
that writes. A log on a slow disk loses lines, which are counted, and delays nobody.
"""

import os
import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import gevent
from gevent.event import Event

from fileserver.bursts import Burst
from fileserver.threads import started

QUEUE_BYTES = 4 << 20
"""Of lines that wait for the disk; beyond it they are dropped. Some 16,000 (nginx buffers 64k and then waits)."""
LINE_OVERHEAD_BYTES = 64
"""What a queued line costs besides its text."""
BATCH_S = 0.02
"""Lines are gathered for so long before they are written."""
SLICE = 1000
"""Lines in one write call: after each the thread has to get the interpreter back from a busy loop."""

_SAFE = bytes(code for code in range(0x20, 0x7F) if code not in b'"\\')
_UNSAFE = re.compile(b"[^" + re.escape(_SAFE) + b"]")


class Access(NamedTuple):
    """One answer. `line` is the request line as it was sent; `cache` is HIT, MISS and so on, or empty.

    `body_bytes` and `bytes_sent` (with the head) are what the socket took; `seconds` run from the request's first
    byte, or from the answer before it in a pipeline, to the last byte taken.
    """

    address: bytes
    line: bytes
    status: int
    body_bytes: int
    referer: bytes
    agent: bytes
    cache: bytes
    bytes_sent: int
    seconds: float


AnAccess = tuple[bytes, bytes, int, int, bytes, bytes, bytes, int, float]
"""An Access, or the same as a tuple that is quicker to make."""


def render(access: AnAccess, when_s: float) -> bytes:
    """A line of Combined Log Format, and after it cache status, bytes with the head, and milliseconds.

    Whatever could end the line, close a quote or move a terminal is written as `\\xHH`, as nginx does.
    """
    address, line, status, body_bytes, referer, agent, cache, bytes_sent, seconds = access
    return b'%b - - [%b] "%b" %d %d "%b" "%b" %b %d %.3f\n' % (
        address,
        _when(int(when_s)),
        _escaped(line),
        status,
        body_bytes,
        _escaped(referer) if referer else b"-",
        _escaped(agent) if agent else b"-",
        cache or b"-",
        bytes_sent,
        seconds * 1000,
    )


Hit = tuple[bytes, bytes]
"""What all lines of plain hits of one entry have in common: before Referer and User-Agent, and after them."""


def hit(line: bytes, size: int, bytes_sent: int) -> Hit:
    """Rendered once for an entry of `size` bytes. `line` needs no escapes."""
    return b'] "%b" 200 %d' % (line, size), b"HIT %d" % bytes_sent


@lru_cache(2)
def _when(second: int) -> bytes:
    return time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(second)).encode()


def _escaped(text: bytes) -> bytes:
    if text.translate(None, _SAFE):
        return _UNSAFE.sub(lambda found: b"\\x%02X" % found[0][0], text)
    return text or b"-"


class AccessLog:
    """The log at `path`, `-` for standard output. Raises OSError when it cannot be opened.

    `add` and `dropped` are for the hub's thread. `reopen` after somebody has moved the file away; `close` writes
    what is left.
    """

    def __init__(self, path: str, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._descriptor = _open(path)
        self._queue: list[bytes] = []
        self._queued_bytes = 0
        self._wake = Event()
        self._ending = self._reopening = False
        self._trouble = Burst("cannot write the access log")
        self._is_half_written = False
        self._thread = started(1)
        self._writer = gevent.spawn(self._write_on)
        self.dropped = 0

    def add(self, access: AnAccess) -> None:
        """Queue a line; never waits."""
        self._queue_up(render(access, self._clock()))

    def add_hit(self, address: bytes, hit: Hit, referer: bytes, agent: bytes, seconds: float) -> None:
        """The same for a plain hit, in half the time."""
        before, after = hit
        self._queue_up(
            b'%b - - [%b%b "%b" "%b" %b %.3f\n'
            % (
                address,
                _when(int(self._clock())),
                before,
                _escaped(referer) if referer else b"-",
                _escaped(agent) if agent else b"-",
                after,
                seconds * 1000,
            )
        )

    def _queue_up(self, line: bytes) -> None:
        cost = len(line) + LINE_OVERHEAD_BYTES
        if self._queued_bytes + cost > QUEUE_BYTES or self._ending:
            self.dropped += 1
            return
        self._queued_bytes += cost
        if not self._queue:
            self._wake.set()
        self._queue.append(line)

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


def _write(descriptor: int, batch: list[bytes], after_half_a_line: bool) -> tuple[int, bool, OSError | None]:
    """How many lines were written, whether half a line was after them, and what went wrong."""
    lines = 0
    for start in range(0, len(batch), SLICE):
        begin = b"\n" if after_half_a_line else b""
        content = begin + b"".join(batch[start : start + SLICE])
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
