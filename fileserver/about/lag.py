"""How late the loop is: everything that holds it holds every client, and this is where it shows."""

import time
from collections.abc import Callable

import gevent

from fileserver.bursts import Burst
from fileserver.latency import Histogram

EVERY_S = 0.1
STALL_S = 0.1
"""A loop that is later than this is said to stall."""
WORST_PERIOD_S = 60.0


class Lag:
    """A greenlet that should wake each EVERY_S, and how late it did. `start` once the hub runs.

    `late` are all its delays in seconds, `stalls` how many were above STALL_S, `last_s` is the latest.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stalled = Burst("the loop was held up")
        self._worst_s, self._worst_before_s = 0.0, 0.0
        self._until_s = clock() + WORST_PERIOD_S
        self.late = Histogram()
        self.last_s = 0.0
        self.stalls = 0

    @property
    def worst_s(self) -> float:
        """The longest delay of the last one or two minutes."""
        return max(self._worst_s, self._worst_before_s)

    def start(self) -> None:
        """Spawn the greenlet, for as long as the process lives."""
        gevent.spawn(self._wake_up)

    def note(self, late_s: float) -> None:
        """It woke so much too late."""
        self.late.note(late_s)
        self.last_s = late_s
        if self._clock() >= self._until_s:
            self._worst_before_s, self._worst_s = self._worst_s, 0.0
            self._until_s = self._clock() + WORST_PERIOD_S
        self._worst_s = max(self._worst_s, late_s)
        if late_s > STALL_S:
            self.stalls += 1
            self._stalled(f"for {late_s * 1000:.0f} ms")

    def _wake_up(self) -> None:
        while True:
            due_s = self._clock() + EVERY_S
            gevent.sleep(EVERY_S)
            self.note(max(0.0, self._clock() - due_s))
