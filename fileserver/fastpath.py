"""The fast path: plain requests for stored files, answered at the moment the loop hears of them.

Nearly all requests are for the whole of a file that is in the cache and was looked at a moment ago. Such an answer
waits for nothing, so the connection's greenlet need not wake up for it: it goes on resting, and the loop's own
callback reads the request, takes the entry and sends the answer. Whatever is not plain wakes the greenlet, which
goes the general way in `connection`; nothing has been done about it before. A table of requests goes through both
ways in tests/test_fastpath.py and must get equal bytes.

What it saves, measured with files of 1 KiB: two switches of greenlets and a watch of the socket for each request,
header fields in a dictionary, a Body, a Reply and a Verdict. README's figures are those of both ways together.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import gevent

from fileserver import heads, wire
from fileserver.site import Site
from fileserver.store import Body
from fileserver.transport import Expired, Gone, Transport
from lrucache import Entry

JOIN_BYTES = 16 * 1024
"""Up to here copying head and body together is cheaper than a vectored send."""

_scratch = bytearray(wire.PLAIN_BYTES)
"""Where all requests land: read, and judged or copied, before anything else can run."""


class Unfinished(NamedTuple):
    """A hit that is being answered, and of head and payload together the bytes that the socket took.

    The body is the receiver's to close.
    """

    head: bytes
    body: Body
    taken: int


class FastPath:
    """Hears one client while it rests. Used by the greenlet of its connection alone."""

    __slots__ = ("_greenlet", "_hub", "_idle_s", "_site", "_statuses", "_take", "_traffic", "_transport")

    def __init__(self, transport: Transport, site: Site, statuses: heads.StatusLines, idle_s: float) -> None:
        self._transport = transport
        self._site = site
        self._traffic = site.traffic
        self._take = site.take
        self._statuses = statuses
        self._idle_s = idle_s
        self._hub = gevent.get_hub()
        self._greenlet: Any = None

    def listen(self) -> bytes | Unfinished:
        """Answer as long as requests are plain; then what was received that is not, or `b""` at the end.

        The connection is among the idle meanwhile. Raises Expired and Gone.
        """
        self._greenlet = gevent.getcurrent()
        self._transport.listen(self._answer)
        try:
            while True:
                try:
                    heard: bytes | Unfinished = self._hub.switch()
                    return heard
                except Expired:
                    # It comes a turn after `expire`: by then there may be a deadline of its own again.
                    if self._transport.deadline_s == math.inf:
                        raise
        finally:
            self._transport.end_listening()

    def _answer(self) -> None:
        """The socket is readable. Runs in the hub: whatever would wait, or is wrong, is the greenlet's."""
        transport = self._transport
        try:
            length = transport.socket.recv_into(_scratch)
        except BlockingIOError:
            return
        except OSError as problem:
            self._greenlet.throw(Gone(problem))
            return
        plain = wire.plain(_scratch, 0, length)
        if plain is not None and transport.deadline_s != math.inf:
            now_s = transport.clock()
            name = plain[1].decode()
            entry = self._take(name, now_s)
            if entry is not None:
                self._traffic.file_answers += 1
                self._send(now_s, entry.meta.hit_fields or self._site.hit_fields(entry), entry)
                return
            found = self._site.whole_now(name, now_s)
            if found is not None:
                body, fields = found
                self._send(now_s, fields, body.entry, body)
                return
        self._greenlet.switch(bytes(memoryview(_scratch)[:length]))

    def _send(self, now_s: float, fields: bytes, entry: Entry | None, body: Body | None = None) -> None:
        transport = self._transport
        head = self._statuses.ok(now_s) + fields
        size = 0
        chunks: Sequence[bytes | memoryview] = ()
        if entry is not None:
            size = entry.size
            chunks = entry.chunks if size <= JOIN_BYTES else entry.window(0, transport.send_bytes)
        try:
            if size <= JOIN_BYTES:
                taken = transport.socket.send(b"".join((head, *chunks)))
            else:
                taken = transport.socket.sendmsg((head, *chunks))
        except BlockingIOError:
            taken = 0
        except OSError as problem:
            if body is not None:
                body.close()
            self._greenlet.throw(Gone(problem))
            return
        traffic = self._traffic
        traffic.bytes_sent += taken
        transport.deadline_s = now_s + self._idle_s
        traffic.idle.move_to_end(transport)
        if body is None and entry is not None and taken < len(head) + size:
            body = self._site.resume(entry)
        if body is not None and taken < len(head) + body.size:
            self._greenlet.switch(Unfinished(head, body, taken))
        elif body is not None:
            body.close()
