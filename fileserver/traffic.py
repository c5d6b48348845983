"""Who is connected, and what was counted on the way. The one owner of a connection's comings and goings.

A connection enters, rests while it waits for a request, wakes, and leaves. One that rests may be told to give way
to a newcomer: from then on it does not count towards the limit, until it has left or turns out to be busy.
"""

from collections import OrderedDict
from itertools import islice

from fileserver.transport import Transport, Waiting

IDLE_LOOKED_AT = 16
"""Of the longest-idle connections, so many are looked at to find one that really is."""


class Traffic:
    """The open connections and the counters of the wire. Changed in the hub's thread only.

    `connections` are all of them, since deadlines hold for all; `idle` those that wait for a request, the
    longest-idle first; `leaving` those that were told to give way, or are being turned away. `draining`: the
    server is stopping, health says so, and every answer is its connection's last.
    """

    __slots__ = ("bytes_sent", "connections", "draining", "file_answers", "idle", "leaving", "page_bytes")

    def __init__(self) -> None:
        self.bytes_sent = 0
        self.file_answers = 0
        self.page_bytes = 0
        """Of answers other than files, while they are being sent."""
        self.connections: set[Transport] = set()
        self.idle: OrderedDict[Transport, None] = OrderedDict()
        self.leaving: set[Transport] = set()
        self.draining = False

    def enter(self, transport: Transport, *, turned_away: bool = False) -> None:
        """A connection is there."""
        self.connections.add(transport)
        if turned_away:
            self.leaving.add(transport)

    def rest(self, transport: Transport) -> None:
        """It waits for a request."""
        self.idle[transport] = None

    def wake(self, transport: Transport) -> bool:
        """It waits no longer. True when it was told to give way meanwhile: what it answers now is its last."""
        self.idle.pop(transport, None)
        gave_way = transport in self.leaving
        self.leaving.discard(transport)
        return gave_way

    def leave(self, transport: Transport) -> None:
        """It has ended."""
        self.connections.discard(transport)
        self.leaving.discard(transport)

    def has_room(self, limit: int) -> bool:
        """Whether one more is within the limit."""
        return len(self.connections) - len(self.leaving) < limit

    def make_room(self) -> bool:
        """Have the longest-idle connection leave for a newcomer, as nginx does; False when none is idle.

        Nor is one idle whose request has arrived while it had no turn to read it; there can be a turn's worth.
        """
        for transport in islice(self.idle, IDLE_LOOKED_AT):
            if transport.is_silent():
                del self.idle[transport]
                self.leaving.add(transport)
                transport.expire()
                return True
        return False

    def end_idle(self) -> None:
        """Those that wait for a request need not go on waiting."""
        for transport in list(self.idle):
            transport.expire()

    def cut(self) -> int:
        """End all that are left; how many of them were in the middle of an answer."""
        left = list(self.connections)
        answering = sum(one.waiting in (Waiting.WRITABLE, Waiting.NOTHING) for one in left)
        for transport in left:
            transport.cut()
        return answering
