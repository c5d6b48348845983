"""The Linux system call openat2(2), which Python does not have: an open that the kernel keeps beneath a folder.

A room of its own because it is the only ctypes here. `probe` says once at start whether this kernel has it;
elsewhere the root falls back to a portable check.
"""

import ctypes
import errno
import os
import sys
from typing import Any

_SYS_OPENAT2 = 437  # the same number on every architecture: added after the tables were unified (Linux 5.6)
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
_RESOLVE_CACHED = 0x20  # Linux 5.12

_LOCAL_FILE_SYSTEMS = {
    0xEF53: "ext2, ext3, ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0xF2F52010: "f2fs",
    0x2FC12FC1: "zfs",
    0xCA451A4E: "bcachefs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x794C7630: "overlay",
    0x73717368: "squashfs",
    0xE0F5E1E2: "erofs",
}
"""By f_type of statfs(2): where open, fstat and close of a cached name ask nobody. RESOLVE_CACHED keeps only the
*look-up* from waiting; the open of a FUSE or NFS file then asks its server all the same."""


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_SIZE = ctypes.sizeof(_OpenHow)

_encoded = str.encode if sys.getfilesystemencoding() == "utf-8" else os.fsencode
"""What os.fsencode would do, for names that are text (names.py)."""


class Opener:
    """openat2 beneath one directory descriptor, which the maker owns and keeps open.

    `knows_cached`: whether `cached` opens can succeed: a kernel with RESOLVE_CACHED, and a local file system.
    `how` and `how_cached` are ctypes references to struct open_how, made once.
    """

    __slots__ = ("_directory", "_how", "_how_cached", "_syscall", "knows_cached")

    def __init__(self, directory: int, syscall: Any, how: Any, how_cached: Any, *, knows_cached: bool) -> None:
        self._directory = directory
        self._syscall = syscall
        self._how = how
        self._how_cached = how_cached
        self.knows_cached = knows_cached

    def open(self, name: str, *, cached: bool = False) -> int:
        """A descriptor for the relative `name`, the caller's to close. Safe in any thread.

        Raises OSError; EXDEV when the name leads out. With `cached` BlockingIOError when it would have to wait
        for a disk, or leave the directory's own file system.
        """
        if cached and not self.knows_cached:
            raise BlockingIOError(errno.EAGAIN, "this open might wait")
        how = self._how_cached if cached else self._how
        descriptor: int = self._syscall(_SYS_OPENAT2, self._directory, _encoded(name), how, _SIZE)
        if descriptor >= 0:
            return descriptor
        error = ctypes.get_errno()
        if cached and error == errno.EXDEV:
            error = errno.EAGAIN
        raise OSError(error, os.strerror(error))


def probe(directory: int, flags: int) -> Opener | None:
    """An opener with `flags`, or None where the kernel (or its sandbox) does not offer openat2."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        syscall = libc.syscall
    except (OSError, AttributeError):
        return None
    syscall.restype = ctypes.c_long
    syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
    beneath = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS
    how = ctypes.byref(_OpenHow(flags, 0, beneath))
    how_cached = ctypes.byref(_OpenHow(flags, 0, beneath | _RESOLVE_NO_XDEV | _RESOLVE_CACHED))
    opener = Opener(directory, syscall, how, how_cached, knows_cached=True)
    try:
        os.close(opener.open("."))
    except OSError:
        return None
    if _is_local(libc, directory):
        try:
            os.close(opener.open(".", cached=True))
            return opener
        except BlockingIOError:
            return opener
        except OSError:  # EINVAL: openat2 without RESOLVE_CACHED, Linux 5.6 to 5.11
            pass
    return Opener(directory, syscall, how, how_cached, knows_cached=False)


def _is_local(libc: Any, descriptor: int) -> bool:
    """Whether fstatfs(2) names a file system of the table; its f_type is the first word of the answer."""
    answer = (ctypes.c_long * 64)()
    if libc.fstatfs(descriptor, ctypes.byref(answer)) != 0:
        return False
    return (answer[0] & 0xFFFFFFFF) in _LOCAL_FILE_SYSTEMS
