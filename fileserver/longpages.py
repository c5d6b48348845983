"""Long pages: made in slices, a few at a time, and none while too many wait for slow clients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gevent.event import Event

from fileserver.pauses import pause
from fileserver.root import Exhausted
from fileserver.traffic import Traffic
from fileserver.turns import Turns

PAGES_MAX_BYTES = 32 << 20
"""Pages that may wait for slow clients. A page of 65,536 names is 8 MB, and many clients could hold one each;
above it a page is 503 (nginx streams a listing from a pool of its own for each request, without a bound)."""

PAGE_WAIT_S = 60.0
"""How long a page waits for its turn, as an open does for its own."""


class LongPages:
    """What pages may still be made, by what is already on its way to clients."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    def check(self) -> None:
        """Raises Exhausted when too many pages wait. What is made must be sent, or held, before the next wait."""
        if self._traffic.page_bytes > PAGES_MAX_BYTES:
            raise Exhausted("too many pages wait for their clients")

    @contextmanager
    def turn(self, turns: Turns) -> Iterator[None]:
        """For as long as one is made. May switch greenlets; raises Exhausted."""
        if not turns.take(PAGE_WAIT_S):
            raise Exhausted("too many pages are being made")
        try:
            self.check()
            yield
        finally:
            turns.give()


class Shared:
    """A page that is the same for all who ask before it is begun: they wait for it and have it together.

    However many ask, and leave, no more than one is made after the one that is being made.
    """

    def __init__(self, long_pages: LongPages, make: Callable[[], bytes]) -> None:
        self._long_pages = long_pages
        self._make = make
        self._turns = Turns(1)
        self._next: _Copy | None = None

    def get(self) -> bytes:
        """One that was begun after this was called. May switch greenlets; raises Exhausted."""
        mine = self._next
        if mine is not None:
            mine.is_over.wait()
        else:
            mine = self._next = _Copy()
            try:
                with self._long_pages.turn(self._turns):
                    self._next = None
                    mine.content = self._make()
            finally:
                if self._next is mine:
                    self._next = None
                mine.is_over.set()
        self._long_pages.check()  # many may have waited for this one
        if mine.content is None:
            raise Exhausted("the page could not be made")
        return mine.content


class _Copy:
    """`content` once it `is_over`; None when it failed."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.is_over = Event()


def joined(pieces: Iterator[bytes]) -> bytes:
    """Render a long page without holding the loop: others run, and are heard, between two slices."""
    parts = []
    for piece in pieces:
        parts.append(piece)
        pause()
    return b"".join(parts)
