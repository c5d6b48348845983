"""A semaphore that is fair and never waits for ever: who has waited longest goes next.

gevent's own lets newcomers overtake, and whoever was overtaken queues up again at the end: under a steady load a
waiter can starve.
"""

from collections import deque

from gevent.event import Event


class Turns:
    """`limit` turns to be had at a time, `free` of them now. Used from the hub's thread only."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError("somebody must get a turn")
        self.limit = limit
        self.free = limit
        self._waiting: deque[Event] = deque()

    @property
    def taken(self) -> int:
        """How many somebody has."""
        return self.limit - self.free

    def take_now(self) -> bool:
        """Take a turn if one is free. While somebody waits, none is."""
        if not self.free:
            return False
        self.free -= 1
        return True

    def take(self, timeout_s: float | None = None) -> bool:
        """Wait for a turn. May switch greenlets; False when there was none in time."""
        if self.take_now():
            return True
        mine = Event()
        self._waiting.append(mine)
        try:
            mine.wait(timeout_s)
        except BaseException:
            if mine.is_set():
                self.give()
            raise
        finally:
            if not mine.is_set():
                self._waiting.remove(mine)
        return mine.is_set()

    def give(self) -> None:
        """Give a turn back: to who has waited longest."""
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self.free += 1
