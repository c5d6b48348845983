"""Is the name still the same version? One look at a time for each name, shared by everyone who asks.

A look is a stat beneath the root: inline when the kernel has the answer, else in a thread. Looks at stored files
have threads of their own, so that a hit, which only wants to know whether it is true, never queues behind reads.
"""

import time
from collections.abc import Callable, Iterable

import gevent
from gevent.event import Event

from fileserver.disk import Disk
from fileserver.root import FileError, Forbidden, Identity, IsFolder, NotFound


class Look:
    """One look: begun at `began_s`, and when it `is_done` either an `identity` or an `error`."""

    __slots__ = ("_done", "began_s", "error", "identity", "is_done")

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self.is_done = False
        self._done: Event | None = None
        self.identity: Identity | None = None
        self.error: FileError | None = None

    def wait(self) -> None:
        """Until it is done. Switches greenlets unless it is."""
        if not self.is_done:
            if self._done is None:
                self._done = Event()
            self._done.wait()

    def finish(self) -> None:
        """It has an identity or an error: wake everyone who waits."""
        self.is_done = True
        if self._done is not None:
            self._done.set()

    @property
    def failure(self) -> FileError | None:
        """The error of a disk that failed: it shows neither that the name is the same nor that it is gone."""
        return None if isinstance(self.error, (NotFound, Forbidden, IsFolder)) else self.error

    def seen(self) -> Identity:
        """The identity of a finished look. Raises its error."""
        if self.identity is None:
            raise self.error or FileError("the look ended early")
        return self.identity


class Looks:
    """Looks under way, by name. `ask` is what looks when the kernel does not know: Disk.look or Disk.stat."""

    def __init__(
        self, disk: Disk, ask: Callable[[str], Identity], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._disk = disk
        self._ask = ask
        self._clock = clock
        self._under_way: dict[str, Look] = {}

    def look(self, name: str, not_before_s: float) -> Look:
        """A finished look that began at `not_before_s` or later. Switches greenlets unless the kernel knows."""
        return self.look_at_all([name], not_before_s)[0]

    def look_at_all(self, names: Iterable[str], not_before_s: float) -> list[Look]:
        """The same of several names, all under way at once."""
        found = []
        for name, look in [(name, self.begin(name)) for name in names]:
            look.wait()
            while look.began_s < not_before_s:
                look = self.begin(name)  # noqa: PLW2901 (joined one that began too early)
                look.wait()
            found.append(look)
        return found

    def begin(self, name: str) -> Look:
        """The look under way, or a new one, which may be done already. Never waits."""
        look = self._under_way.get(name)
        if look is not None:
            return look
        look = Look(self._clock())
        try:
            look.identity = self._disk.look_cached(name)
        except FileError as error:
            look.error = error
        if look.identity is not None or look.error is not None:
            look.is_done = True
        else:
            self._under_way[name] = look
            gevent.spawn(self._wait_for_disk, name, look)
        return look

    def _wait_for_disk(self, name: str, look: Look) -> None:
        try:
            look.identity = self._ask(name)
        except FileError as error:
            look.error = error
        finally:
            del self._under_way[name]
            look.finish()
