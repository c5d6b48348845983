"""What Linux's `perf` says of a running process: its instructions, and where its time goes below Python.

A room of its own because it knows that program's options and formats. `perf` runs beside the process and is
stopped at the end of a `with`.
"""

import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import Missing, installed

SAMPLES_PER_S = 997
"""A prime, so that it keeps no step with what the server does every so many milliseconds."""

ATTACH_S = 0.3
"""What it may take to begin."""

REPORT_S = 60.0
"""What writing may take, or reading the symbols of all libraries."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the time, from 0 to 1, and what it is spent in."""

    share: float
    what: str
    where: str = ""


@contextmanager
def counting(pids: Sequence[int], output: Path) -> Iterator[None]:
    """Count instructions; `instructions` reads them from `output` afterwards. Raises Missing."""
    events = ["stat", "-x;", "-e", "instructions:u,instructions:k"]
    tried = subprocess.run(
        [installed("perf", "linux-perf"), *events, "true"], capture_output=True, text=True, check=False
    )
    instructions(tried.stderr)
    with _beside([*events, "-o", str(output), "-p", ",".join(map(str, pids))]):
        yield


def instructions(said: str) -> int:
    """User's and kernel's together, in what `counting` has written. Raises Missing where nobody counts them."""
    counts = re.findall(r"^(\d+);[^;]*;instructions:[uk];", said, re.MULTILINE)
    if len(counts) != 2:
        raise Missing("no instructions are counted here: the processor, or the virtual machine, has no counters")
    return sum(map(int, counts))


@contextmanager
def recording(pids: Sequence[int], output: Path) -> Iterator[None]:
    """Note where they are SAMPLES_PER_S times a second of CPU time, for `libraries` and `functions`.

    Raises Missing.
    """
    clock = ["-q", "-e", "cpu-clock", "-F", str(SAMPLES_PER_S), "-o", str(output)]
    with _beside(["record", *clock, "-p", ",".join(map(str, pids))]):
        yield


def libraries(recorded: Path) -> list[Share]:
    """The kernel and each library, the most expensive first. Raises Missing; blocks."""
    return parse(_report(recorded, "dso"))


def functions(recorded: Path) -> list[Share]:
    """The functions in C, the kernel's too, and their libraries. Raises Missing; blocks."""
    return parse(_report(recorded, "symbol,dso"))


def parse(said: str) -> list[Share]:
    """What `perf report` lists: lines of a percentage and one or two names, separated by semicolons."""
    found = []
    for line in said.splitlines():
        percent, *names = map(str.strip, line.split(";"))
        if percent.endswith("%"):
            what, *where = (re.sub(r"^\[[.k]\] ", "", name) for name in names[:2])
            found.append(Share(float(percent[:-1]) / 100, what, *where))
    return found


def _report(recorded: Path, sort: str) -> str:
    line = [installed("perf", "linux-perf"), "report", "--stdio", "-q", "-t;", "-i", str(recorded), "--sort", sort]
    done = subprocess.run(line, capture_output=True, text=True, timeout=REPORT_S, check=False)
    if done.returncode != 0:
        raise Missing(f"perf cannot read what it recorded: {_last_line(done.stderr)}")
    return done.stdout


@contextmanager
def _beside(arguments: Sequence[str]) -> Iterator[None]:
    """`perf` while the body runs. Raises Missing where it does not do what is asked."""
    process = subprocess.Popen(
        [installed("perf", "linux-perf"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches it only through here
    )
    try:
        time.sleep(ATTACH_S)
        if process.poll() is not None:
            raise Missing(f"perf does not run here: {_last_line(process.communicate()[1])}")
        yield
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=REPORT_S)
    finally:
        process.kill()
        process.wait()


def _last_line(said: str) -> str:
    return said.strip().rpartition("\n")[2] or "it said nothing"
