"""What the operating system says of this process. Unknown answers are None, never a guess."""

import ctypes
import os
import sys
from contextlib import suppress

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_ASSUMED_LIMIT = 8192  # Windows has no such limit to ask for; its C runtime opens up to 8,192


def rss_bytes() -> int | None:
    """Resident memory of this process, where /proc says so."""
    with suppress(OSError, ValueError), open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def open_descriptors() -> int | None:
    """Descriptors this process has open, where the system counts (Linux 6.2) or lists them."""
    with suppress(OSError):
        if count := os.stat("/proc/self/fd").st_size:
            return count
    for listing in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return len(os.listdir(listing)) - 1  # the listing's own descriptor
    return None


def raise_descriptor_limit() -> int:
    """Lift the soft limit to the hard one, as far as the system lets us; the limit now in force."""
    if resource is None or sys.platform == "win32":
        return _ASSUMED_LIMIT
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 1 << 20) if hard != resource.RLIM_INFINITY else 1 << 20
    if soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def return_freed_memory(threshold_bytes: int) -> bool:
    """Have the C library give blocks of at least so many bytes back to the system the moment they are freed.

    glibc raises its own threshold to the size of what is freed, and from then on cuts large blocks out of heaps,
    one for each thread, that small ones keep from shrinking. Measured with a full cache of 64 MiB after 4,000
    evictions, all reads in threads: 145 MiB resident, with this 104 MiB. False where the C library has no mallopt.
    """
    m_mmap_threshold = -3  # malloc.h
    try:
        return bool(ctypes.CDLL(None).mallopt(m_mmap_threshold, threshold_bytes))
    except (OSError, AttributeError, TypeError):
        return False
