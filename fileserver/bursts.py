"""Say it once: what goes wrong a thousand times a second is one line in the log, not a thousand."""

import logging
import time
from collections.abc import Callable

QUIET_S = 10.0
"""A burst is over when nothing has happened for so long."""

log = logging.getLogger("gserver")


class Burst:
    """One kind of trouble. Calling it logs a warning with `reason`, unless that was said during this burst."""

    def __init__(self, trouble: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._trouble = trouble
        self._clock = clock
        self._last_s = -QUIET_S

    def __call__(self, reason: object) -> None:
        now_s = self._clock()
        if now_s - self._last_s >= QUIET_S:
            log.warning("%s: %s (said once until %g s without it)", self._trouble, reason, QUIET_S)
        self._last_s = now_s
