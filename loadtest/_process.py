"""What the kernel says of the server's process on this machine, where the server cannot colour it."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """Figures from /proc, bytes and counts. `read_bytes` are all bytes that it read from files, cached or not."""

    rss: int
    descriptors: int
    read_bytes: int


def look(pid: int) -> Process | None:
    """The figures now; None where there is no such process or no /proc, or it may not be looked at."""
    folder = Path("/proc", str(pid))
    try:
        resident_pages = int((folder / "statm").read_text().split()[1])
        read = next(line for line in (folder / "io").read_text().splitlines() if line.startswith("rchar:"))
        descriptors = len(list((folder / "fd").iterdir()))
    except (OSError, StopIteration):
        return None
    return Process(resident_pages * os.sysconf("SC_PAGE_SIZE"), descriptors, int(read.split()[1]))
