"""Bytes to and from one client without ever blocking the loop. TLS over it is in `tls`.

Whoever enforces deadlines sees a transport as `deadline_s` and `expire`; the conversation sees it as waits that
end in `Expired` or `Gone`. No greenlet is ever killed: a deadline interrupts a wait for the socket and nothing
else, so a disk read, or somebody else's fill, always ends by itself.
"""

import math
import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Any

import gevent

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PROGRESS_S = 60.0
"""Within this time a client must take something (nginx send_timeout)."""
PROGRESS_LOOKS = 4
"""So often within it we look whether it has."""
LINGER_S = 2.0
"""How long we go on reading after a last word, so that a reset does not overtake it (nginx: 5)."""
LINGER_BYTES = 1 << 20
"""And how much: a client that sends without end is left (nginx bounds the time alone)."""

RECEIVE_BYTES = 16 * 1024
SEND_BYTES = 1 << 20
"""The most one send call is offered: fastest measured, together with a bounded SO_SNDBUF."""

_RESET_ON_CLOSE = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
"""struct linger for SO_LINGER: on, and no seconds."""

Buffer = bytes | memoryview


class Waiting(Enum):
    """What a connection waits for; a deadline means something else in each. The values are `/-/stats`' words."""

    __hash__ = object.__hash__  # members are single, and Enum's own is slow for who counts thousands

    REQUEST = "idle"
    REST_OF_REQUEST = "reading"
    WRITABLE = "writing"
    GOODBYE = "closing"
    NOTHING = "working"


class Gone(Exception):
    """The client left, or cannot be told the truth any more. The connection ends in a reset."""


class Stalled(Gone):
    """The client has taken nothing for too long."""


class Expired(Exception):
    """Thrown into a wait for the socket when its deadline has passed."""


class Transport:
    """A client's socket, which it owns until `close`. `clock` gives monotonic seconds.

    `is_full` says that the socket took less than it was offered: `wait_writable` comes next. `is_bare` says that
    the socket's bytes are the conversation's own, and so `listen` can be used.
    """

    is_bare = True

    __slots__ = (
        "_hub",
        "_is_reset",
        "_listener",
        "_reads",
        "_vectored",
        "_writes",
        "clock",
        "deadline_s",
        "is_full",
        "send_bytes",
        "socket",
        "waiting",
    )

    def __init__(
        self,
        client: Any,
        *,
        vectored: bool = hasattr(socket.socket, "sendmsg"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        client.setblocking(False)
        self.socket = client
        self._vectored = vectored
        self._hub = gevent.get_hub()
        # Watchers of the loop, made when they are needed: many a client is answered and gone before.
        self._reads: Any = None
        self._writes: Any = None
        self.clock = clock
        self.deadline_s = math.inf
        self.waiting = Waiting.NOTHING
        self._listener: Any = None
        self.is_full = False
        self.send_bytes = SEND_BYTES
        self._is_reset = False

    # For whoever enforces deadlines.

    def expire(self) -> None:
        """The deadline has passed: interrupt the wait for the socket. Who does not wait is left alone for now."""
        if self.waiting is Waiting.NOTHING:
            return
        self.deadline_s = math.inf
        if self._listener is not None:
            self._hub.loop.run_callback(self._interrupt, self._listener)
            return
        watcher = self._writable if self.waiting is Waiting.WRITABLE else self._readable
        self._hub.cancel_wait(watcher, Expired)

    def _interrupt(self, listener: Any) -> None:
        if self._listener is listener:
            listener.throw(Expired)

    def is_silent(self) -> bool:
        """Whether nothing has come that was not read yet. Never waits."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)  # nothing but its end
        except OSError:
            return True

    def cut(self) -> None:
        """Wait no longer: what is under way ends in a reset, at the latest with the process."""
        self.reset()
        self.expire()

    # For the conversation.

    def handshake(self, seconds: float) -> bool:
        """Whatever comes before the first request; False when it failed. Raises Expired and Gone."""
        return True

    def receive(self, waiting: Waiting) -> bytes:
        """What has come, as soon as something has; `b""` at the end. Raises Expired and Gone.

        Waits before it reads: a recv that finds nothing costs a system call and an exception besides.
        """
        return self._receive_raw(waiting)

    def receive_now(self) -> bytes | None:
        """What has come, without waiting: None is nothing yet, `b""` the end. Raises Gone."""
        return self._take()

    def listen(self, heard: Callable[[], None]) -> None:
        """Have the loop call `heard` whenever there is something to receive, while this greenlet rests."""
        self.waiting = Waiting.REQUEST
        self._listener = gevent.getcurrent()
        self._readable.start(heard)

    def end_listening(self) -> None:
        """Other waits are possible again."""
        self._readable.stop()
        self._listener = None
        self.waiting = Waiting.NOTHING

    def offer(self, buffers: list[Buffer]) -> int:
        """Offer buffers without waiting; how many bytes were taken. Sets `is_full`. Raises Gone.

        No buffer is referred to afterwards.
        """
        try:
            if len(buffers) == 1 or not self._vectored:
                offered = len(buffers[0])
                taken: int = self.socket.send(buffers[0])
            else:
                offered = sum(map(len, buffers))
                taken = self.socket.sendmsg(buffers)
        except BlockingIOError:
            taken = 0
        except OSError as problem:
            raise Gone from problem
        self.is_full = taken < offered
        return taken

    def wait_writable(self) -> None:
        """Wait until the socket takes more. Raises Gone; Stalled when the client has taken nothing for PROGRESS_S.

        Taking is what its system acknowledges, where ours tells us: a slow client drains its receive buffer in
        strides, and ours becomes writable only when a third of it is free.
        """
        left, looks = self._unacknowledged(), 0
        while True:
            self.deadline_s = self.clock() + PROGRESS_S / PROGRESS_LOOKS
            try:
                self._wait(self._writable, Waiting.WRITABLE)
                break
            except Expired:
                before, left = left, self._unacknowledged()
                has_taken = left is not None and before is not None and left < before
                looks = 0 if has_taken else looks + 1
                if self._is_reset:
                    raise Gone from None
                if looks == PROGRESS_LOOKS:
                    raise Stalled from None
        self.deadline_s = math.inf
        self.is_full = False

    def reset(self) -> None:
        """Let the coming close be a reset, so that nobody takes what was cut for the end."""
        self._is_reset = True
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    def close(self, *, linger: bool = False) -> None:
        """End it. With `linger`, read away what the client is still sending: closing on unread bytes resets, and
        our last answer is lost. Never raises; may switch greenlets."""
        try:
            if not self._is_reset:
                self._say_goodbye()
            if linger:
                self._linger()
        except (Expired, Gone, OSError):
            pass
        finally:
            for watcher in (self._reads, self._writes):
                if watcher is not None:
                    watcher.close()
            self.socket.close()

    def _say_goodbye(self) -> None:
        """Whatever tells the client that this end is the end, without waiting."""

    def _linger(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)
        self.deadline_s = self.clock() + LINGER_S
        left = LINGER_BYTES
        while left > 0 and (received := self._receive_raw(Waiting.GOODBYE)):
            left -= len(received)

    def _receive_raw(self, waiting: Waiting) -> bytes:
        while True:
            self._wait(self._readable, waiting)
            received = self._take()
            if received is not None:
                return received

    def _take(self) -> bytes | None:
        """What the socket has; None when it has nothing, `b""` at its end."""
        try:
            received: bytes = self.socket.recv(RECEIVE_BYTES)
            return received
        except BlockingIOError:
            return None
        except OSError as problem:
            raise Gone from problem

    def _wait(self, watcher: Any, waiting: Waiting) -> None:
        self.waiting = waiting
        try:
            while True:
                try:
                    self._hub.wait(watcher)
                    return
                except Expired:
                    # It comes a turn after `expire`: by then the wait may be another, with a deadline of its own.
                    if self.deadline_s == math.inf:
                        raise
        finally:
            self.waiting = Waiting.NOTHING

    @property
    def _readable(self) -> Any:
        if self._reads is None:
            self._reads = self._hub.loop.io(self.socket.fileno(), 1)
        return self._reads

    @property
    def _writable(self) -> Any:
        if self._writes is None:
            self._writes = self._hub.loop.io(self.socket.fileno(), 2)
        return self._writes

    def _unacknowledged(self) -> int | None:
        """Bytes in the socket's send queue that the other side has not acknowledged; None where nobody says.

        Linux: SIOCOUTQ, which is TIOCOUTQ.
        """
        if fcntl is None:
            return None
        try:
            answer = fcntl.ioctl(self.socket.fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            return None
        return int(struct.unpack("i", answer)[0])
