"""One client's connection: read a request, answer it, keep alive. The greenlet that StreamServer spawns runs this.

Two rules shape it. Payload is referred to only during a non-blocking send: when the socket is full, every buffer
is dropped, the greenlet waits until it is writable and asks the Body again, so ten thousand slow readers hold no
more of the cache's memory than none. And no greenlet is ever killed: a deadline interrupts a wait for the socket
and nothing else, so a disk read, or somebody else's fill, always ends by itself.
"""

import logging
import math
import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Any

import gevent

from fileserver import site, wire
from fileserver.root import FileError
from fileserver.store import Body

HEAD_S = 10.0
"""From a request's first byte to the end of its head and body (Apache mod_reqtimeout; nginx has 60)."""
IDLE_S = 60.0
"""Between two requests (nginx keepalive_timeout is 75)."""
PROGRESS_S = 60.0
"""Between two moments in which the socket takes anything (nginx send_timeout)."""
LINGER_S = 2.0
"""How long we go on reading after a last word, so that a reset does not overtake it (nginx: 5)."""
LINGER_BYTES = 1 << 20

RECEIVE_BYTES = 16 * 1024
SEND_BYTES = 1 << 20
"""The most one send call is offered: fastest measured, together with a bounded SO_SNDBUF."""
JOIN_BYTES = 16 * 1024
"""Up to here copying head and body together is cheaper than a vectored send."""
BURST = 128
"""Answers that one connection may have without waiting before others get their turn."""

_RESET_ON_CLOSE = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
"""struct linger for SO_LINGER: on, and no seconds."""

log = logging.getLogger("gserver")


class Waiting(Enum):
    """What a connection waits for; a deadline means something else in each."""

    REQUEST = auto()
    REST_OF_REQUEST = auto()
    WRITABLE = auto()
    NOTHING = auto()


class Gone(Exception):
    """The client left, or cannot be told the truth any more. The connection ends in a reset."""


class Expired(Exception):
    """Thrown into a wait for the socket when its deadline has passed."""


class Connection:
    """Serves one client until either side ends it. Owns the socket and closes it.

    `deadline_s` (of `clock`) and `waiting` are for whoever enforces deadlines: past it, call `expire`.
    """

    __slots__ = (
        "_clock",
        "_hub",
        "_idle_s",
        "_readable",
        "_reader",
        "_site",
        "_socket",
        "_statuses",
        "_traffic",
        "_vectored",
        "_writable",
        "deadline_s",
        "waiting",
    )

    def __init__(
        self,
        client: Any,
        pages: site.Site,
        statuses: wire.StatusLines,
        *,
        idle_s: float = IDLE_S,
        vectored: bool = hasattr(socket.socket, "sendmsg"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        client.setblocking(False)
        self._socket = client
        self._site = pages
        self._traffic = pages.traffic
        self._statuses = statuses
        self._idle_s = idle_s
        self._vectored = vectored
        self._clock = clock
        self._reader = wire.RequestReader()
        self._hub = gevent.get_hub()
        descriptor = client.fileno()
        self._readable = self._hub.loop.io(descriptor, 1)
        self._writable = self._hub.loop.io(descriptor, 2)
        self.waiting = Waiting.NOTHING
        self.deadline_s = math.inf

    def serve(self) -> None:
        """Answer requests in order until the connection ends. Never raises; the socket is closed afterwards."""
        self._traffic.connections.add(self)
        linger = False
        try:
            linger = self._converse()
        except wire.WireError as problem:
            linger = self._refuse(problem)
        except Gone:
            self._reset()
        except Exception:
            log.exception("a connection failed")
            linger = self._refuse(wire.WireError(500, "internal error"))
        finally:
            self._close(linger)

    def turn_away(self, linger: bool = True) -> None:
        """The server is full: say so instead of `serve`. Lingering holds a descriptor for up to LINGER_S."""
        self._traffic.connections.add(self)
        told = self._refuse(wire.WireError(503, "too many connections, try again"))
        self._close(told and linger)

    def expire(self) -> None:
        """The deadline has passed: interrupt the wait for the socket, if there is one."""
        self.deadline_s = math.inf
        watcher = self._writable if self.waiting is Waiting.WRITABLE else self._readable
        self._hub.cancel_wait(watcher, Expired)

    def end_if_idle(self) -> None:
        """The server stops: end now if no request has begun."""
        if self.waiting is Waiting.REQUEST:
            self.expire()

    def cut(self) -> None:
        """The server waits no longer: what is under way ends in a reset, at the latest with the process."""
        self._reset()
        self.expire()

    # Reading.

    def _converse(self) -> bool:
        """Answer every request. True when the client may still be sending something we will not read."""
        answered = 0
        while (request := self._next_request()) is not None:
            if isinstance(request, wire.OneLine):
                self._answer_line(request)
                return False
            if not self._answer(request):
                return not self._reader.is_empty
            answered += 1
            if answered % BURST == 0:
                gevent.sleep(0)
        return False

    def _next_request(self) -> wire.Request | wire.OneLine | None:
        """The next request, or None when the client is done. Raises WireError, 408 among them."""
        waiting = Waiting.NOTHING
        while True:
            request = self._reader.next()
            if request is not None:
                return request
            if not self._reader.is_empty:
                if waiting is not Waiting.REST_OF_REQUEST:
                    waiting, self.deadline_s = Waiting.REST_OF_REQUEST, self._clock() + HEAD_S
            elif waiting is not Waiting.REQUEST:
                waiting, self.deadline_s = Waiting.REQUEST, self._clock() + self._idle_s
            try:
                received = self._receive(waiting)
            except Expired:
                if waiting is Waiting.REST_OF_REQUEST:
                    raise wire.WireError(408, "the request did not arrive in time") from None
                return None
            if not received:
                return None
            self._reader.feed(received)

    def _receive(self, waiting: Waiting) -> bytes:
        """What has come, as soon as something has; `b""` at the end.

        Waits before it reads: a recv that finds nothing costs a system call and an exception besides. A server
        that stops waits for no further request, but answers what has come.
        """
        is_last = waiting is Waiting.REQUEST and self._site.draining
        while True:
            if not is_last:
                self._wait(self._readable, waiting)
            try:
                received: bytes = self._socket.recv(RECEIVE_BYTES)
                return received
            except BlockingIOError:
                if is_last:
                    return b""
            except OSError as problem:
                raise Gone from problem

    # Answering.

    def _answer(self, request: wire.Request) -> bool:
        """Send one answer. Whether the connection goes on."""
        reply = self._site.answer(request)
        keep_alive = request.keep_alive and not self._site.draining
        try:
            self._send_reply(reply, request, keep_alive)
        except FileError as problem:
            self._send_reply(site.explain(problem), request, keep_alive)
        return keep_alive

    def _send_reply(self, reply: site.Reply, request: wire.Request, keep_alive: bool) -> None:
        ending = wire.connection_field(keep_alive=keep_alive, minor=request.minor)
        head = self._statuses[reply.status] + reply.fields + ending
        if reply.body is not None:
            self._send_body(head, reply.body)
        elif request.method == b"HEAD":
            self._send_all(head)
        else:
            self._send_all(head + reply.content)

    def _answer_line(self, line: wire.OneLine) -> None:
        try:
            payload = self._site.answer_line(line)
            if isinstance(payload, Body):
                self._send_body(b"", payload)
            else:
                self._send_all(payload)
        except FileError as problem:
            self._send_all(b"ERROR " + site.explain(problem).content)

    def _refuse(self, problem: wire.WireError) -> bool:
        """Say why and close. True when the client may still be sending."""
        if isinstance(problem, wire.OneLineError):
            answer = f"ERROR {problem.reason}\n".encode()
        else:
            reply = site.error(problem.status, problem.reason)
            ending = wire.connection_field(keep_alive=False, minor=1)
            answer = self._statuses[problem.status] + reply.fields + ending + reply.content
        try:
            self._send_all(answer)
        except Gone:
            return False
        return True

    # Writing.

    def _send_all(self, content: bytes) -> None:
        """Send bytes of our own, which are counted as long as they are held. Raises Gone."""
        self._traffic.page_bytes += len(content)
        try:
            sent = self._send([content])
            while sent < len(content):
                self._wait_writable()
                sent += self._send([memoryview(content)[sent:]])
        finally:
            self._traffic.page_bytes -= len(content)

    def _send_body(self, head: bytes, body: Body) -> None:
        """Send a head and a whole body, and close the body.

        Raises the body's FileError as long as nothing was sent; later it raises Gone, because a short answer must
        not look whole.
        """
        offset = 0
        is_begun = False
        try:
            while head or offset < body.size:
                buffers = self._next_buffers(head, body, offset)
                offered = sum(map(len, buffers))
                sent = self._send(buffers)
                del buffers
                is_begun = is_begun or sent > 0
                offset += max(0, sent - len(head))
                head = head[sent:]
                if sent < offered:
                    body.hold()
                    self._wait_writable()
                elif offset < body.size:
                    gevent.sleep(0)
        except FileError as problem:
            if not is_begun:
                raise
            log.warning("cut after %d of %d bytes: %s", offset, body.size, problem)
            raise Gone from problem
        finally:
            body.close()

    def _next_buffers(self, head: bytes, body: Body, offset: int) -> list[bytes | memoryview]:
        """What comes next: of a small file all at once, copied together; of a large one the chunks themselves."""
        buffers = body.read(offset, SEND_BYTES) if offset < body.size else []
        if head and len(buffers) == 1 and len(buffers[0]) <= JOIN_BYTES:
            return [b"".join((head, *buffers))]
        return [head, *buffers] if head else buffers

    def _send(self, buffers: list[bytes | memoryview]) -> int:
        """Offer buffers to the socket without waiting; how many bytes it took. Raises Gone."""
        try:
            if len(buffers) == 1 or not self._vectored:
                sent: int = self._socket.send(buffers[0])
            else:
                sent = self._socket.sendmsg(buffers)
        except BlockingIOError:
            return 0
        except OSError as problem:
            raise Gone from problem
        self._traffic.bytes_sent += sent
        return sent

    def _wait_writable(self) -> None:
        self.deadline_s = self._clock() + PROGRESS_S
        try:
            self._wait(self._writable, Waiting.WRITABLE)
        except Expired:
            raise Gone from None
        self.deadline_s = math.inf

    def _wait(self, watcher: Any, waiting: Waiting) -> None:
        self.waiting = waiting
        try:
            self._hub.wait(watcher)
        finally:
            self.waiting = Waiting.NOTHING

    # Closing.

    def _close(self, linger: bool) -> None:
        try:
            if linger:
                self._linger()
        except (Expired, Gone, OSError):
            pass
        finally:
            self._traffic.connections.discard(self)
            self._readable.close()
            self._writable.close()
            self._reader.close()
            self._socket.close()

    def _linger(self) -> None:
        """Read away what the client is still sending: closing on unread bytes resets, and our answer is lost."""
        self._socket.shutdown(socket.SHUT_WR)
        self.deadline_s = self._clock() + LINGER_S
        left = LINGER_BYTES
        while left > 0 and (received := self._receive(Waiting.REST_OF_REQUEST)):
            left -= len(received)

    def _reset(self) -> None:
        """Let the coming close be a reset, so that nobody takes what was cut for the end."""
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
