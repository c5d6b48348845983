"""A memory cgroup for one server: its limit, what is in it, and what has been read from the disk for it.

The page cache counts as the server's: the kernel charges a page to the group that first reads it, which is why
`forget_pages` has to run before each server. Linux only, and only for who may make cgroups (root). Version 2 is
used where it has the memory and the io controller, else version 1.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers import Missing

REMOVE_S = 5.0
"""A killed process stays in its group until it has given its memory back."""

DROP_CACHES = Path("/proc/sys/vm/drop_caches")


class Reads(NamedTuple):
    """What a disk was asked for: requests (one or several for a file) and bytes."""

    requests: int
    size_bytes: int

    def since(self, earlier: "Reads") -> "Reads":
        """What came after `earlier`."""
        return Reads(self.requests - earlier.requests, self.size_bytes - earlier.size_bytes)


class Content(NamedTuple):
    """Bytes charged to a group: the processes' own memory, and pages of files, of these also the mapped ones."""

    own: int
    pages: int
    mapped: int


class Group:
    """A cgroup under a memory limit. `limited_group` makes and removes it."""

    def __init__(self, folders: list[Path], disk: str) -> None:
        self._folders = folders
        self._disk = disk

    def enter(self) -> None:
        """Move the calling process into the group."""
        for folder in self._folders:
            (folder / "cgroup.procs").write_text("0")

    def pids(self) -> list[int]:
        """The processes in it."""
        return [int(line) for line in (self._folders[0] / "cgroup.procs").read_text().split()]

    def limit(self, limit_bytes: int) -> None:
        """Hold no more than this from now on, and swap nothing out."""
        raise NotImplementedError

    def reads(self) -> Reads:
        """What has been read from the disk for it so far."""
        raise NotImplementedError

    def content(self) -> Content:
        """What it holds now."""
        raise NotImplementedError

    def peak_bytes(self) -> int | None:
        """The most it has ever held; None where the kernel does not say."""
        raise NotImplementedError

    def killed(self) -> int:
        """How many of its processes were killed because the memory did not suffice."""
        raise NotImplementedError


class GroupV1(Group):
    """One folder in the memory hierarchy and one in blkio's."""

    def __init__(self, memory: Path, blkio: Path, disk: str) -> None:
        super().__init__([memory, blkio], disk)
        self._memory = memory
        self._blkio = blkio
        # Since Linux 6.10 nothing is counted before somebody has named a limit for the disk; 0 is none.
        (blkio / "blkio.throttle.read_bps_device").write_text(f"{disk} 0")

    def limit(self, limit_bytes: int) -> None:
        (self._memory / "memory.limit_in_bytes").write_text(str(limit_bytes))
        with suppress(OSError):  # where the kernel accounts for no swap
            (self._memory / "memory.memsw.limit_in_bytes").write_text(str(limit_bytes))

    def reads(self) -> Reads:
        requests, size_bytes = (
            parse_blkio((self._blkio / f"blkio.throttle.{figure}").read_text(), self._disk)
            for figure in ("io_serviced", "io_service_bytes")
        )
        return Reads(requests, size_bytes)

    def content(self) -> Content:
        held = parse_flat((self._memory / "memory.stat").read_text())
        return Content(held["rss"], held["cache"], held["mapped_file"])

    def peak_bytes(self) -> int | None:
        return int((self._memory / "memory.max_usage_in_bytes").read_text())

    def killed(self) -> int:
        return parse_flat((self._memory / "memory.oom_control").read_text()).get("oom_kill", 0)


class GroupV2(Group):
    """One folder in the only hierarchy."""

    def __init__(self, folder: Path, disk: str) -> None:
        super().__init__([folder], disk)
        self._folder = folder

    def limit(self, limit_bytes: int) -> None:
        (self._folder / "memory.max").write_text(str(limit_bytes))
        with suppress(OSError):  # where the kernel accounts for no swap
            (self._folder / "memory.swap.max").write_text("0")

    def reads(self) -> Reads:
        return parse_io_stat((self._folder / "io.stat").read_text(), self._disk)

    def content(self) -> Content:
        held = parse_flat((self._folder / "memory.stat").read_text())
        return Content(held["anon"], held["file"], held["file_mapped"])

    def peak_bytes(self) -> int | None:
        try:
            return int((self._folder / "memory.peak").read_text())
        except OSError:  # before Linux 5.19
            return None

    def killed(self) -> int:
        return parse_flat((self._folder / "memory.events").read_text())["oom_kill"]


def parse_blkio(text: str, disk: str) -> int:
    """The reads of `disk` (`254:0`) in a file of version 1's blkio; 0 when it is not there: before the first."""
    for line in text.splitlines():
        if line.startswith(f"{disk} Read "):
            return int(line.split()[2])
    return 0


def parse_io_stat(text: str, disk: str) -> Reads:
    """The reads of `disk` in version 2's io.stat; none when it is not there, as before the first."""
    for line in text.splitlines():
        device, *figures = line.split()
        if device == disk:
            named = dict(figure.split("=") for figure in figures if "=" in figure)
            return Reads(int(named.get("rios", 0)), int(named.get("rbytes", 0)))
    return Reads(0, 0)


def parse_flat(text: str) -> dict[str, int]:
    """A file of lines of a key and a number."""
    return {key: int(number) for key, number in map(str.split, text.splitlines())}


def parse_mounts(text: str) -> dict[str, Path]:
    """Where cgroups are mounted, of /proc/mounts: by controller for version 1, and `cgroup2`."""
    found: dict[str, Path] = {}
    for line in text.splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup2":
            found.setdefault(kind, Path(place))
        elif kind == "cgroup":
            for option in options.split(","):
                found.setdefault(option, Path(place))
    return found


@contextmanager
def limited_group(limit_bytes: int, disk: str) -> Iterator[Group]:
    """A new cgroup whose reads of `disk` are counted. Kills what is left in it and removes it at the end.

    Raises Missing where cgroups cannot be made.
    """
    with ExitStack() as removing:
        try:
            group = _new_group(f"gserver-bench-{os.getpid()}", disk, removing)
            group.limit(limit_bytes)
        except OSError as problem:
            raise Missing(f"no memory cgroup can be made here ({problem.strerror}): be root") from problem
        removing.callback(_kill, group)
        yield group


def _new_group(name: str, disk: str, removing: ExitStack) -> Group:
    mounts = parse_mounts(Path("/proc/mounts").read_text())
    one = mounts.get("cgroup2")
    if one is not None and {"memory", "io"} <= set((one / "cgroup.controllers").read_text().split()):
        for controller in ("memory", "io"):
            _hand_down(one, controller, removing)
        return GroupV2(_made(one / name, removing), disk)
    if "memory" in mounts and "blkio" in mounts:
        return GroupV1(_made(mounts["memory"] / name, removing), _made(mounts["blkio"] / name, removing), disk)
    raise Missing("there are no cgroups here that limit memory and count reads (memory with io or blkio)")


def _hand_down(folder: Path, controller: str, removing: ExitStack) -> None:
    """Let groups below `folder` have `controller`, until the end if they had not."""
    control = folder / "cgroup.subtree_control"
    if controller not in control.read_text().split():
        control.write_text(f"+{controller}")
        removing.callback(_attempt, lambda: control.write_text(f"-{controller}"))


def _made(folder: Path, removing: ExitStack) -> Path:
    folder.mkdir()
    removing.callback(_remove, folder)
    return folder


def _kill(group: Group) -> None:
    """Nothing in the group is anybody else's."""
    for pid in group.pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _remove(folder: Path) -> None:
    deadline_s = time.monotonic() + REMOVE_S
    while not _attempt(folder.rmdir) and time.monotonic() < deadline_s:
        time.sleep(0.01)


def _attempt(action: Callable[[], object]) -> bool:
    try:
        action()
    except OSError:
        return False
    return True


def file_pages_bytes(pids: Iterable[int]) -> int:
    """Bytes of files that these processes have mapped and in memory, each page once, whoever pays for it."""
    largest: dict[str, int] = {}
    for pid in pids:
        with suppress(OSError):  # it has ended
            for mapping, found in parse_smaps(Path(f"/proc/{pid}/smaps").read_text()).items():
                largest[mapping] = max(found, largest.get(mapping, 0))
    return sum(largest.values())


def parse_smaps(text: str) -> dict[str, int]:
    """Resident bytes of each mapped piece of a file, by device, inode and offset; written copies do not count."""
    found: dict[str, int] = {}
    piece = ""
    for line in text.splitlines():
        key, *rest = line.split()
        if not key.endswith(":"):
            offset, device, inode = rest[1:4]
            piece = f"{device} {inode} {offset}" if inode != "0" else ""
        elif piece and key in ("Rss:", "Anonymous:"):
            sign = 1 if key == "Rss:" else -1
            found[piece] = found.get(piece, 0) + sign * int(rest[0]) * 1024
    return found


def disk_of(folder: Path) -> str:
    """The disk under `folder` as `major:minor`, the whole of it where a partition is mounted. Raises Missing."""
    device = folder.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not block.exists():
        raise Missing(f"{folder} is not on a disk whose reads can be counted: name another folder with --folder")
    whole = block.resolve().parent if (block / "partition").exists() else block
    return (whole / "dev").read_text().strip()


def read_ahead_bytes(disk: str) -> int:
    """How much the kernel reads ahead of who reads a file from its beginning."""
    return int(Path(f"/sys/dev/block/{disk}/queue/read_ahead_kb").read_text()) << 10


def forget_pages() -> None:
    """Empty the page cache of the whole machine, and the kernel's tables of names. Raises Missing; blocks."""
    os.sync()
    try:
        DROP_CACHES.write_text("3")
    except OSError as problem:
        raise Missing(f"the page cache cannot be emptied here ({problem.strerror}): be root") from problem
