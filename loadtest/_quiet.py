"""What the server reads from its disk when nobody else is there: exact, where a whole test can only be estimated.

The kernel counts what the process reads (`--pid`), so the server has no say in it.
"""

import heapq
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from loadtest import _invariants, _process, _raw
from loadtest._catalog import KIB, MIB, File
from loadtest._evidence import WINDOW
from loadtest._invariants import Finding, Snapshot
from loadtest._run import Run

AGAIN = 32
"""How often a cached file is asked for."""

NOT_WORTH_IT = "detail=not-worth-it"
"""In Cache-Status: the policy does not store the file, and so nobody shares the read."""

RUSHES = 6
"""How many cold files are asked for by many at once: a disk may be so fast that nobody comes in time to share."""


def findings(run: Run, now: Snapshot, pid: int) -> Iterator[Finding]:
    """Ask for a cached file again and again, and for cold ones at once. Switches greenlets. Raises FAILURES."""
    files = run.catalog().by_name
    listed, longest = now.names, min(4 * MIB, run.capacity() // 2)
    cached = [files[name] for name in listed if name in files and not files[name].live]
    hot = max((file for file in cached if 0 < file.size <= WINDOW), key=lambda file: file.size, default=None)
    if hot:
        origins: list[str | None] = []
        read = _read_for(pid, lambda: origins.extend(_asked(run, hot) for _ in range(AGAIN)))
        yield _invariants.again(origins, hot.size, read)
    unread = [
        file
        for file in files.values()
        if 64 * KIB <= file.size <= longest and not file.live and file.name not in listed
    ]
    for cold in heapq.nlargest(RUSHES, unread, key=lambda file: file.size):
        statuses: list[str | None] = []
        read = _read_for(pid, partial(_ask_at_once, run, cold, statuses))
        turned_away = sum(NOT_WORTH_IT in (status or "") for status in statuses)
        yield _invariants.at_once(cold.name, cold.size, read, turned_away)


def _read_for(pid: int, act: Callable[[], None]) -> int:
    """Bytes that the process read from files meanwhile."""
    before = _process.look(pid)
    act()
    after = _process.look(pid)
    if not before or not after:
        raise OSError(f"/proc/{pid} cannot be read")
    return after.read_bytes - before.read_bytes


def _asked(run: Run, file: File) -> str | None:
    """Where it came from."""
    return _raw.ask(run.host, file.path)[0].headers.get("X-Cache")


def _ask_at_once(run: Run, file: File, statuses: list[str | None]) -> None:
    """Note the Cache-Status of each of many answers."""
    with ExitStack() as stack:
        clients = [stack.enter_context(_raw.connect(run.host)) for _ in range(_raw.TOGETHER)]
        for client in clients:
            client.sendall(_raw.request(file.path))
        for client in clients:
            answer = _raw.response(client)
            answer.read()
            statuses.append(answer.headers.get("Cache-Status"))
