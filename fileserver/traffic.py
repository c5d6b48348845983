"""Who is connected, and what was counted on the way. The one owner of a connection's comings and goings.

A connection enters, rests while it waits for a request, wakes, and leaves. One that rests may be told to give way
to a newcomer: from then on it does not count towards the limit, until it has left or turns out to be busy.
"""

from collections import Counter, OrderedDict
from itertools import islice

from fileserver.latency import Latency
from fileserver.transport import Transport, Waiting
from lrucache import Outcome

IDLE_LOOKED_AT = 16
"""Of the longest-idle connections, so many are looked at to find one that really is."""

METHODS = frozenset({"GET", "HEAD", "OPTIONS", "line"})
"""What answers are counted by; `line` is the one-line protocol. All else, and what was no request, is `other`."""

Kind = tuple[str, int, Outcome | None]
"""Of an answer: method, status, and where its payload came from if it has one."""


class Traffic:
    """The open connections and the counters of the wire. Changed in the hub's thread only.

    `connections` are all of them, since deadlines hold for all; `idle` those that wait for a request, the
    longest-idle first; `leaving` those that were told to give way, or are being turned away. `draining`: the
    server is stopping, health says so, and every answer is its connection's last.
    """

    __slots__ = (
        "_answers",
        "bytes_sent",
        "connections",
        "draining",
        "expired",
        "file_answers",
        "gave_way",
        "idle",
        "latency",
        "leaving",
        "page_bytes",
        "shortages",
        "streams",
        "turned_away",
    )

    def __init__(self) -> None:
        self.bytes_sent = 0
        self.file_answers = 0
        self.page_bytes = 0
        """Of answers other than files, while they are being sent."""
        self.latency: dict[Outcome | None, Latency] = {outcome: Latency() for outcome in (*Outcome, None)}
        """Of answers that were sent whole. What was sent at once and has an outcome is a GET's 200, and is counted
        here alone."""
        self._answers: Counter[Kind] = Counter()
        self.expired: dict[Waiting, int] = {state: 0 for state in Waiting if state is not Waiting.NOTHING}
        """Connections whose deadline passed, by what they waited for."""
        self.gave_way = 0
        """Idle ones that were closed for a newcomer."""
        self.turned_away = 0
        """Newcomers that got 503, since nobody could give way."""
        self.shortages = 0
        """Times that nothing could be accepted, for want of descriptors or memory."""
        self.connections: set[Transport] = set()
        self.idle: OrderedDict[Transport, None] = OrderedDict()
        self.leaving: set[Transport] = set()
        self.streams: set[Transport] = set()
        """Those whose answer ends only when somebody ends it; they are no transfers."""
        self.draining = False

    def answered(self, kind: Kind, first_s: float, last_s: float | None) -> None:
        """An answer has ended that was not the fast path's: after how many seconds, or None if it was cut."""
        self._answers[kind] += 1
        if last_s is not None:
            self.latency[kind[2]].note(first_s, last_s)

    def answers(self) -> dict[Kind, int]:
        """How many answers of each kind have ended."""
        found = self._answers.copy()
        for outcome in Outcome:
            if at_once := self.latency[outcome].at_once:
                found["GET", 200, outcome] += at_once
        return found

    def enter(self, transport: Transport, *, turned_away: bool = False) -> None:
        """A connection is there."""
        self.connections.add(transport)
        if turned_away:
            self.turned_away += 1
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
                self.gave_way += 1
                transport.expire()
                return True
        return False

    def overdue(self, now_s: float) -> list[Transport]:
        """Those whose deadline has passed, and who can be interrupted; they are counted. Waiting to write is only
        looked after now and then, and counted when it is given up."""
        late = [one for one in self.connections if one.deadline_s < now_s and one.waiting is not Waiting.NOTHING]
        for transport in late:
            if transport.waiting is not Waiting.WRITABLE:
                self.expired[transport.waiting] += 1
        return late

    def by_state(self) -> dict[Waiting, int]:
        """How many connections wait for what."""
        found = dict.fromkeys(Waiting, 0)
        for transport in self.connections:
            found[transport.waiting] += 1
        return found

    def end_idle(self) -> None:
        """Those that wait for a request need not go on waiting; who watches too slowly is not waited for."""
        for transport in list(self.idle):
            transport.expire()
        for transport in self.streams:
            if transport.waiting is Waiting.WRITABLE:
                transport.cut()

    def cut(self) -> int:
        """End all that are left; how many of them were in the middle of an answer."""
        left = list(self.connections)
        answering = sum(
            one.waiting in (Waiting.WRITABLE, Waiting.NOTHING) and one not in self.streams for one in left
        )
        for transport in left:
            transport.cut()
        return answering
