"""One open descriptor for each version of a file that is being read from disk, shared and counted.

Readers of the same evicted or uncacheable file share a descriptor, and everything they read through it is the one
version they began with, whatever happens to the name meanwhile.
"""

from fileserver.disk import Disk
from fileserver.root import Changed, FileError, Identity


class Version:
    """An open version. Whoever holds a use may `read`; the last `release` closes the descriptor."""

    __slots__ = ("_descriptor", "_key", "_owner", "identity", "uses")

    def __init__(self, owner: "Versions", name: str, identity: Identity, descriptor: int) -> None:
        self._owner = owner
        self._key = (name, identity)
        self._descriptor = descriptor
        self.identity = identity
        self.uses = 1

    def use(self) -> "Version":
        """Take one more use."""
        self.uses += 1
        return self

    def read(self, offset: int, length: int) -> bytes:
        """At most one chunk of this version. May switch greenlets; raises FileError, Changed among them."""
        return self._owner.disk.read(self._descriptor, self.identity, offset, length)

    def was_read(self) -> None:
        """All of it is stored, and need not stay in the page cache."""
        self._owner.disk.was_read(self._descriptor)

    def release(self) -> None:
        """Give one use back."""
        self.uses -= 1
        if self.uses == 0:
            self._owner.forget(self._key, self)
            self._owner.disk.release(self._descriptor)


class Versions:
    """The open versions, by name and identity. Used from the hub's thread only."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self._open: dict[tuple[str, Identity], Version] = {}

    def __len__(self) -> int:
        return len(self._open)

    def adopt(self, name: str, identity: Identity, descriptor: int) -> Version:
        """Share a descriptor that the caller has opened; the caller holds the first use and closes nothing."""
        open_already = self._open.get((name, identity))
        if open_already is not None:
            open_already.use()
            self.disk.release(descriptor)
            return open_already
        version = self._open[name, identity] = Version(self, name, identity, descriptor)
        return version

    def open(self, name: str, identity: Identity | None = None) -> Version:
        """A use of `name`, of that identity if one is given. May switch greenlets.

        Raises FileError; Changed when the name is another version by now.
        """
        if identity is not None and (name, identity) in self._open:
            return self._open[name, identity].use()
        opened = self.disk.open(name, -1)
        if identity is not None and opened.identity != identity:
            self.disk.release(opened.descriptor)
            raise Changed("another version has taken the name")
        return self.adopt(name, opened.identity, opened.descriptor)

    def open_cached(self, name: str, identity: Identity) -> Version | None:
        """The same without waiting; None when the disk would have to be asked, or there is no such version."""
        if (name, identity) in self._open:
            return self._open[name, identity].use()
        try:
            opened = self.disk.open_spare(name)
        except FileError:
            return None
        if opened is None:
            return None
        if opened.identity != identity:
            self.disk.release(opened.descriptor)
            return None
        return self.adopt(name, identity, opened.descriptor)

    def forget(self, key: tuple[str, Identity], version: Version) -> None:
        """A version closes."""
        if self._open.get(key) is version:
            del self._open[key]
