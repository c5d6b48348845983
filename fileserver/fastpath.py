"""The fast path: plain requests, answered at the moment the loop hears of them.

Nearly all requests are for the whole of a file that is in the cache and was looked at a moment ago, or is small
and in the page cache. Such an answer waits for nothing, so the connection's greenlet need not wake up for it: it
goes on resting, and the loop's own callback reads the request, takes the entry and sends the answer. Whatever is
not plain wakes the greenlet, which goes the general way in `connection`; nothing has been counted or said before.
A table of requests goes through both ways in tests/test_fastpath.py and must get equal bytes.

What it saves, measured with files of 1 KiB: two switches of greenlets and a watch of the socket for each request,
header fields in a dictionary, a Body, a Reply and a Verdict. README's figures are those of both ways together.
"""

import math
from typing import Any, NamedTuple

import gevent

from fileserver import accesslog, heads, wire
from fileserver.accesslog import AccessLog
from fileserver.site import Site
from fileserver.store import Body
from fileserver.transport import Buffer, Expired, Gone, Transport
from lrucache import CHUNK_BYTES, Entry, Outcome

JOIN_BYTES = 16 * 1024
"""Up to here copying head and body together is cheaper than a vectored send."""

_WORDS = {outcome: outcome.name.encode() for outcome in Outcome}

_LAST = heads.connection_field(keep_alive=False, minor=1)

_scratch = bytearray(wire.PLAIN_BYTES)
"""Where all requests land: read, and judged or copied, before anything else can run."""


class Unfinished(NamedTuple):
    """An answer that the socket did not take at once: head and body, and how many bytes of both it took.

    `is_last` when the client wants the connection to end with it; `request` are the bytes that were answered, and
    when. The body is the receiver's to close.
    """

    head: bytes
    body: Body
    taken: int
    is_last: bool
    request: bytes
    began_s: float


Heard = bytes | Unfinished | type[Gone]
"""What is the greenlet's: no plain request (`b""` is the end), an answer to go on with, or a dead socket.

The class and no exception: one that was raised before would keep the frames, and the payload in them, alive.
"""


class FastPath:
    """Hears one client while it rests. Used by the greenlet of its connection alone.

    `has_answered` as soon as there was a plain request.
    """

    __slots__ = (
        "_address",
        "_greenlet",
        "_hub",
        "_idle_s",
        "_is_new",
        "_latency",
        "_log",
        "_site",
        "_statuses",
        "_take",
        "_traffic",
        "_transport",
        "has_answered",
    )

    def __init__(
        self, transport: Transport, site: Site, statuses: heads.StatusLines, *, idle_s: float, address: bytes
    ) -> None:
        self._transport = transport
        self._site = site
        self._traffic = site.traffic
        self._latency = site.traffic.latency
        self._take = site.take
        self._statuses = statuses
        self._idle_s = idle_s
        self._log = site.access_log
        self._address = address
        self._hub = gevent.get_hub()
        self._greenlet: Any = None
        self._is_new = True
        self.has_answered = False

    def listen(self) -> bytes | Unfinished:
        """Answer as long as requests are plain; then what was received that is not, or `b""` at the end.

        The connection is among the idle meanwhile. Raises Expired and Gone.
        """
        heard = None
        if self._is_new:  # the first request often comes with the connection
            self._is_new = False
            heard = self._hear()
        if heard is None:
            heard = self._rest()
        if isinstance(heard, type):
            raise heard
        return heard

    def _rest(self) -> Heard:
        self._greenlet = gevent.getcurrent()
        self._transport.listen(self._answer)
        try:
            while True:
                try:
                    heard: Heard = self._hub.switch()
                    return heard
                except Expired:
                    # It comes a turn after `expire`: by then there may be a deadline of its own again.
                    if self._transport.deadline_s == math.inf:
                        raise
        finally:
            self._transport.end_listening()

    def throw(self, problem: Any) -> None:
        """An earlier wait for the socket is cancelled too late: Hub._cancel_wait asks our callback's owner."""
        self._greenlet.throw(problem)

    def _answer(self) -> None:
        """The socket is readable. Runs in the hub."""
        try:
            heard = self._hear()
        except Exception as problem:
            self._greenlet.throw(problem)
            return
        if heard is not None:
            self._greenlet.switch(heard)

    def _hear(self) -> Heard | None:
        """Answer what has come, if it is plain; what would wait, or is wrong, is the greenlet's. Never waits."""
        transport = self._transport
        try:
            length = transport.socket.recv_into(_scratch)
        except BlockingIOError:
            return None
        except OSError:
            return Gone
        plain = wire.plain(_scratch, 0, length)
        # A full scratch may not be all.
        if plain is not None and length < wire.PLAIN_BYTES and transport.deadline_s != math.inf:
            now_s = transport.clock()
            name = plain[1].decode()
            is_last = plain.lastindex != 1
            entry = self._take(name, now_s)
            if entry is not None:
                fields = entry.meta.hit_fields or self._site.hit_fields(entry)
                return self._send(now_s, length, entry, Outcome.HIT, fields=fields, is_last=is_last)
            found = self._site.whole_now(name, now_s)
            if found is not None:
                return self._send(now_s, length, found.entry, found.outcome, fields=found.fields, is_last=is_last)
        return bytes(memoryview(_scratch)[:length])

    def _send(
        self, now_s: float, length: int, entry: Entry, outcome: Outcome, *, fields: bytes, is_last: bool
    ) -> Heard | None:
        """Answer the request of so many bytes in the scratch."""
        transport, traffic = self._transport, self._traffic
        head = self._statuses.ok(now_s) + fields
        if is_last:
            head = head[:-2] + _LAST
        size = entry.size
        if size <= JOIN_BYTES:
            buffers: list[Buffer] = [head + entry.chunks[0] if size else head]
        elif size <= CHUNK_BYTES:
            buffers = [head, entry.chunks[0]]
        else:
            buffers = [head, *entry.window(0, transport.send_bytes)]
        traffic.file_answers += 1
        try:
            taken = transport.offer(buffers)
        except Gone:
            traffic.answered(("GET", 200, outcome), 0.0, None)
            if self._log is not None:
                request = bytes(memoryview(_scratch)[:length])
                log_plain(self._log, self._address, request, outcome, head_bytes=len(head), sent=0, seconds=0.0)
            return Gone
        traffic.bytes_sent += taken
        traffic.idle.move_to_end(transport)
        transport.deadline_s = now_s + self._idle_s
        self.has_answered = True
        if taken < len(head) + size:
            request = bytes(memoryview(_scratch)[:length])
            return Unfinished(head, self._site.resume(entry, outcome), taken, is_last, request, now_s)
        latency = self._latency[outcome]
        latency.at_once += 1
        if latency.at_once >= latency.due:
            latency.timed(transport.clock() - now_s)
        if self._log is not None:
            seconds = transport.clock() - now_s
            if outcome is Outcome.HIT and not is_last:
                self._log_hit(self._log, entry, length, taken, seconds)
            else:
                request = bytes(memoryview(_scratch)[:length])
                log_plain(
                    self._log, self._address, request, outcome, head_bytes=len(head), sent=taken, seconds=seconds
                )
        return b"" if is_last else None

    def _log_hit(self, log: AccessLog, entry: Entry, length: int, sent: int, seconds: float) -> None:
        """The same line as `log_plain` gives, of which most is the same each time."""
        hit = entry.meta.hit_log
        if hit is None:
            line = bytes(_scratch[: _scratch.index(b"\r")])
            hit = entry.meta.hit_log = accesslog.hit(line, entry.size, sent)
        referer, agent = wire.sender(_scratch, length)
        log.add_hit(self._address, hit, referer, agent, seconds)


def log_plain(
    log: AccessLog, address: bytes, request: bytes, outcome: Outcome, *, head_bytes: int, sent: int, seconds: float
) -> None:
    """Note the answer to a plain request, of whose head and body so many bytes were sent, in the access log."""
    line = request[: request.index(b"\r")]
    referer, agent = wire.sender(request, len(request))
    body_bytes = max(0, sent - head_bytes)
    log.add((address, line, 200, body_bytes, referer, agent, _WORDS[outcome], sent, seconds))
