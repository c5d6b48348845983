"""The only disk code: open beneath the served directory, fstat, read, list.

Every method is plain and blocking and takes and returns plain values, so that it can run in a native pool thread
as well as inline; `fileserver.disk` chooses. With `cached=True` a method never waits for a disk and raises
BlockingIOError instead. Nothing outside the directory can be reached: on Linux the kernel sees to it (openat2),
elsewhere the resolved path is compared before the open, which leaves a race to whoever may write in the directory.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from gevent.monkey import get_original

from fileserver import names, openat2, positioned
from lrucache import CHUNK_BYTES

LISTING_MAX = 10_000
"""Entries read of one folder; a listing says when there are more. nginx has no bound, a page of 10,000 is 1 MB."""

close_descriptor = get_original("os", "close")
"""gevent's, in a patched process, asks the system three times whether watchers of the loop must be told."""

SMALL_BYTES = 16 * 1024
"""Files below it may be read in one go, before anything is known of them."""

_OPEN_FLAGS = os.O_RDONLY
for _flag in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY", "O_NOINHERIT"):
    _OPEN_FLAGS |= getattr(os, _flag, 0)


class FileError(Exception):
    """Why the disk cannot give what was asked for. The text is for the log, never for a client."""


class NotFound(FileError):
    """No such regular file or folder beneath the root."""


class Forbidden(FileError):
    """It is there, and this process may not read it."""


class IsFolder(FileError):
    """The name is a folder where a file was wanted."""


class Exhausted(FileError):
    """Out of descriptors or memory, or the store is busy or out of reach; it will pass."""


class DiskFailure(FileError):
    """The disk said no (EIO, ESTALE and the like)."""


class Changed(FileError):
    """The file is not, or no longer, the version that was opened."""


class Identity(NamedTuple):
    """A version of a file: what fstat said of the descriptor that was read."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    def same_bytes(self, later: "Identity") -> bool:
        """Whether `later`, of the same descriptor, still means these bytes: a rename moves only ctime."""
        return self.size == later.size and self.mtime_ns == later.mtime_ns


class Opened(NamedTuple):
    """A regular file, opened. The receiver closes `descriptor`, which is -1 when `first` is the whole file.

    `first` is the first chunk, or None when it was not read (too large to want it, or it would have blocked).
    """

    descriptor: int
    identity: Identity
    first: bytes | None


class FolderEntry(NamedTuple):
    """One line of a listing; `size` in bytes is 0 for folders, `mtime_s` a Unix time, None for what has none."""

    name: str
    is_folder: bool
    size: int
    mtime_s: float | None


class Folder(NamedTuple):
    """A listing: folders first, each kind sorted by name; `truncated` when there are more than LISTING_MAX."""

    entries: list[FolderEntry]
    truncated: bool


_MEANING: dict[int, type[FileError]] = {
    errno.ENOENT: NotFound,
    errno.ENOTDIR: NotFound,
    errno.EXDEV: NotFound,
    errno.ELOOP: NotFound,
    errno.ENXIO: NotFound,
    errno.ENODEV: NotFound,
    errno.ENAMETOOLONG: NotFound,
    errno.EINVAL: NotFound,
    errno.EILSEQ: NotFound,
    errno.EISDIR: IsFolder,
    errno.EACCES: Forbidden,
    errno.EPERM: Forbidden,
    errno.EMFILE: Exhausted,
    errno.ENFILE: Exhausted,
    errno.ENOMEM: Exhausted,
    errno.EAGAIN: Exhausted,  # somebody holds a lease on the file; this open has asked for it back
}


def _meaning(error: OSError, *, cached: bool = False) -> Exception:
    """The FileError it means. With `cached` EAGAIN is an answer, and stays what it is."""
    if cached and isinstance(error, BlockingIOError):
        return error
    return _MEANING.get(error.errno or 0, DiskFailure)(str(error))


class Root:
    """The files beneath one directory. Owns one descriptor (where folders have any) until `close`.

    Raises OSError when `directory` is not a readable folder. `portable=True` forces the way of systems that have
    no openat2, for tests. `drop_pages` has the kernel forget files that were read whole.
    """

    closes_at_once = False

    def __init__(
        self, directory: str, *, hidden: bool = False, portable: bool = False, drop_pages: bool = False
    ) -> None:
        self.path = os.path.realpath(directory, strict=True)
        self.hidden = hidden
        self._drops_pages = drop_pages and hasattr(os, "posix_fadvise")
        os.scandir(self.path).close()
        self._device = -1
        """The last one seen: files share the number, and 65,536 of them 2 MB of such numbers."""
        self._directory = os.open(self.path, _OPEN_FLAGS) if os.name == "posix" else -1
        self._opener = None if portable else openat2.probe(self._directory, _OPEN_FLAGS)

    @property
    def kernel_enforced(self) -> bool:
        """Whether the kernel keeps every open beneath the directory."""
        return self._opener is not None

    @property
    def knows_cached(self) -> bool:
        """Whether `cached=True` can succeed, and closing a descriptor asks nobody."""
        return self._opener is not None and self._opener.knows_cached

    def close(self) -> None:
        """Give the descriptor back; nothing may be asked afterwards."""
        if self._directory >= 0:
            close_descriptor(self._directory)
            self._directory = -1

    def open(self, name: str, first_max: int = 0, *, cached: bool = False) -> Opened:
        """Open the regular file `name`; with its first chunk when the file has at most `first_max` bytes.

        A file of one chunk is read and closed at once: one task for a pool thread, and no descriptor to look
        after. With `cached`, raises BlockingIOError when the open itself would wait; `first` is None when only
        the read would. Raises FileError.
        """
        descriptor = self._open(name, cached=cached)
        try:
            identity = self.identity(descriptor)
            first = None
            if identity.size <= first_max:
                with suppress(BlockingIOError):
                    first = self.read(descriptor, identity, 0, CHUNK_BYTES, cached=cached)
        except BaseException:
            close_descriptor(descriptor)
            raise
        if first is not None and len(first) == identity.size:
            self.was_read(descriptor)
            close_descriptor(descriptor)
            descriptor = -1
        return Opened(descriptor, identity, first)

    def stat(self, name: str, *, cached: bool = False) -> Identity:
        """The identity of the regular file `name`. Raises FileError; BlockingIOError as `open` does."""
        descriptor = self._open(name, cached=cached)
        try:
            return self.identity(descriptor)
        finally:
            close_descriptor(descriptor)

    def read_settled(self, name: str, before_ns: int) -> Opened | None:
        """A file of less than SMALL_BYTES, last changed before `before_ns` (Unix time), if that takes no wait.

        In four system calls. One look is enough here, after the read: whoever had changed the file meanwhile would
        have left a later stamp; and what has no page cache, such as a device, refuses to be read without a wait.
        None when it is not such a file, or cannot be opened. Hub thread only.
        """
        try:
            descriptor = self._open(name, cached=True)
        except (BlockingIOError, FileError):
            return None
        try:
            content = positioned.read_cached_once(descriptor, SMALL_BYTES)
            identity = self.identity(descriptor)
            if not len(content) == identity.size < SMALL_BYTES:
                return None
            if max(identity.mtime_ns, identity.ctime_ns) >= before_ns:
                return None
            self.was_read(descriptor)
            return Opened(-1, identity, content)
        except (OSError, FileError):
            return None
        finally:
            close_descriptor(descriptor)

    def close_descriptor(self, descriptor: int) -> None:
        """Close an open file; on FUSE and NFS that may wait."""
        close_descriptor(descriptor)

    def identity(self, descriptor: int) -> Identity:
        """What fstat says of an open file. Raises NotFound when it is no regular file, IsFolder when a folder."""
        try:
            status = os.fstat(descriptor)
        except OSError as error:
            raise _meaning(error) from error
        if not stat.S_ISREG(status.st_mode):
            raise IsFolder("a folder") if stat.S_ISDIR(status.st_mode) else NotFound("not a regular file")
        known = self._device
        device = self._device = known if known == status.st_dev else status.st_dev
        return Identity(device, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def read(
        self, descriptor: int, identity: Identity, offset: int, length: int, *, cached: bool = False
    ) -> bytes:
        """The bytes [offset, offset + length) of the version `identity`, fewer only at its end.

        The file is looked at again *after* the read: Changed is raised instead of bytes that may be of another
        version. With `cached`, raises BlockingIOError unless every byte is in the page cache.
        """
        length = max(0, min(length, identity.size - offset))
        try:
            content = (positioned.read_cached if cached else positioned.read)(descriptor, length, offset)
        except OSError as error:
            raise _meaning(error, cached=cached) from error
        if len(content) < length or not identity.same_bytes(self.identity(descriptor)):
            raise Changed("the file changed while it was read")
        return content

    def was_read(self, descriptor: int) -> None:
        """An open file was read whole: with `drop_pages` the kernel need not keep it too."""
        if self._drops_pages:
            with suppress(OSError):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def list(self, folder: str) -> Folder:
        """The folder's own entries that can be asked for; `""` is the root. Raises FileError."""
        try:
            if os.scandir not in os.supports_fd:
                with os.scandir(self._resolved(folder)) as entries:
                    return self._listing(folder, entries)
            descriptor = self._open(folder or ".")
            try:
                with os.scandir(descriptor) as entries:
                    return self._listing(folder, entries)
            finally:
                close_descriptor(descriptor)
        except OSError as error:
            raise _meaning(error) from error

    def _listing(self, folder: str, entries: "Iterator[os.DirEntry[str]]") -> Folder:
        found: list[FolderEntry] = []
        truncated = False
        for entry in entries:
            if not (_is_utf8(entry.name) and names.is_valid(entry.name, hidden=self.hidden)):
                continue
            line = self._line(folder, entry)
            if line is not None and len(found) >= LISTING_MAX:
                truncated = True
                break
            if line is not None:
                found.append(line)
        found.sort(key=lambda line: (not line.is_folder, line.name))
        return Folder(found, truncated)

    def _line(self, folder: str, entry: "os.DirEntry[str]") -> FolderEntry | None:
        """None for what cannot be asked for: a link that leads out, a pipe, a device, a name just deleted."""
        try:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                descriptor = self._open(f"{folder}/{entry.name}" if folder else entry.name)
                try:
                    status = os.fstat(descriptor)
                finally:
                    close_descriptor(descriptor)
        except (OSError, FileError):
            return None
        if stat.S_ISDIR(status.st_mode):
            return FolderEntry(entry.name, True, 0, status.st_mtime)
        if stat.S_ISREG(status.st_mode):
            return FolderEntry(entry.name, False, status.st_size, status.st_mtime)
        return None

    def _open(self, name: str, *, cached: bool = False) -> int:
        try:
            if self._opener is not None:
                return self._opener.open(name, cached=cached)
            if cached:
                raise BlockingIOError(errno.EAGAIN, "only the kernel knows what it has cached")
            return os.open(self._resolved(name), _OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
        except OSError as error:
            raise _meaning(error, cached=cached) from error

    def _resolved(self, name: str) -> str:
        """The real path of `name`. Raises NotFound when it is not beneath the root."""
        real = os.path.realpath(os.path.join(self.path, *name.split("/")), strict=True)
        if os.path.commonpath((self.path, real)) != self.path:
            raise NotFound("it leads out of the root")
        return real


def _is_utf8(name: str) -> bool:
    """False for names that os.fsdecode could only smuggle into a str."""
    return not any("\ud800" <= character <= "\udfff" for character in name)
