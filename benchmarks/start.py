"""From the start of `python gserver.py` to its first answer, against imports of what it stands on alone.

A part of `benchmarks.footprint`.
"""

import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from benchmarks.clients import Refused, request
from benchmarks.peers import GSERVER, HOST, LOAD_CORE, PROJECT, SERVER_CORE, free_port, pin
from benchmarks.report import Spread, Table, judgement, ratios, spread
from benchmarks.workloads import KIB

IMPORTS_ONLY = "import gevent.server, httptools"

TARGET = 1.5
"""Times what IMPORTS_ONLY takes."""

FILE = "file"

RETRY_S = 0.001
START_MAX_S = 30.0
SHOWN_IMPORTS = 10


@dataclass(frozen=True, slots=True)
class Starts:
    """Seconds, round by round."""

    first_answer_s: Sequence[float]
    imports_s: Sequence[float]

    def ratio(self) -> Spread:
        """The one against the other."""
        return ratios(self.first_answer_s, self.imports_s)


@dataclass(frozen=True, slots=True)
class Import:
    """What `python -X importtime` says of a module; `whole_us` with all that it imports first."""

    module: str
    own_us: int
    whole_us: int


def measure(rounds: int) -> Starts:
    """Starts in alternating rounds. Raises Refused and OSError; blocks."""
    with folder_of_one_file() as folder:
        first_answer_s(folder), imports_s()  # all is compiled and in the page cache from here on
        pairs = [(first_answer_s(folder), imports_s()) for _ in range(rounds)]
    return Starts(*zip(*pairs, strict=True))


def profile() -> list[Import]:
    """The imports of one start. Raises Refused and OSError; blocks."""
    with folder_of_one_file() as folder, (folder / "said").open("w+") as said:
        first_answer_s(folder, python=["-X", "importtime"], errors=said)
        said.seek(0)
        return import_times(said.read())


@contextmanager
def folder_of_one_file() -> Iterator[Path]:
    """What is asked for first."""
    with TemporaryDirectory(prefix="gserver-bench-") as folder:
        (Path(folder) / FILE).write_bytes(b"x" * KIB)
        yield Path(folder)


def first_answer_s(folder: Path, *, python: Sequence[str] = (), errors: IO[str] | None = None) -> float:
    """Seconds from starting gserver to the first byte of its first answer. Raises Refused when there is none."""
    port = free_port()
    line = [sys.executable, *python, str(GSERVER), str(port), str(folder), "--log-level", "warning"]
    began_s = time.perf_counter()
    process = on_server_core(line, errors)
    try:
        while True:
            with socket.socket() as client:
                client.settimeout(START_MAX_S)
                if client.connect_ex((HOST, port)) == 0:
                    client.sendall(request(FILE))
                    if not client.recv(1):
                        raise Refused("gserver hung up")
                    return time.perf_counter() - began_s
            if process.poll() is not None or time.perf_counter() - began_s > START_MAX_S:
                raise Refused("gserver does not start")
            time.sleep(RETRY_S)
    finally:
        process.terminate()
        process.wait()


def imports_s() -> float:
    """Seconds that an interpreter takes from start to end with IMPORTS_ONLY. Raises Refused when it fails."""
    began_s = time.perf_counter()
    return ended_s(on_server_core([sys.executable, "-c", IMPORTS_ONLY]), START_MAX_S) - began_s


def ended_s(process: "subprocess.Popen[bytes]", max_s: float) -> float:
    """When it ended, on the clock of `time.perf_counter`. Raises Refused when it fails or goes on for `max_s`."""
    ended = os.pidfd_open(process.pid)  # `wait` with a timeout looks now and then, and so ends too late
    try:
        select.select([ended], [], [], max_s)
        now_s = time.perf_counter()
    finally:
        os.close(ended)
        process.kill()
    if process.wait() != 0:
        raise Refused(f"it fails: {process.args!r}")
    return now_s


def on_server_core(command: Sequence[str], errors: IO[str] | None = None) -> "subprocess.Popen[bytes]":
    """Start a program where servers run, with whatever Python compiles kept for the next time."""
    pin(SERVER_CORE)
    try:
        return subprocess.Popen(
            command,
            env=compiling(),
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stderr=errors or subprocess.DEVNULL,
        )
    finally:
        pin(LOAD_CORE)


def compiling() -> dict[str, str]:
    """The environment of a program that keeps what Python has compiled, as users' do."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def import_times(said: str) -> list[Import]:
    """The modules that were imported, most expensive with all they need first."""
    lines = re.findall(r"^import time:\s*(\d+) \|\s*(\d+) \|\s*(\S+)$", said, re.MULTILINE)
    found = [Import(module, int(own_us), int(whole_us)) for own_us, whole_us, module in lines]
    return sorted(found, key=lambda one: one.whole_us, reverse=True)


def starts_table(starts: Starts) -> Table:
    """Both, and the ratio."""
    measured = {"gserver to its first answer": starts.first_answer_s, IMPORTS_ONLY: starts.imports_s}
    rows = [
        [what, *(f"{1000 * figure:.0f} ms" for figure in astuple(spread(seconds)))]
        for what, seconds in measured.items()
    ]
    ratio = [f"{figure:.2f}" for figure in astuple(starts.ratio())]
    return Table(["start", "median", "lowest", "highest"], [*rows, ["ratio by round", *ratio]])


def imports_table(imports: Sequence[Import]) -> Table:
    """The most expensive ones."""
    rows = [
        [one.module, f"{one.whole_us / 1000:.1f} ms", f"{one.own_us / 1000:.1f} ms"]
        for one in imports[:SHOWN_IMPORTS]
    ]
    return Table([f"import, of {len(imports)} modules", "with what it needs", "alone"], rows)


def judgements(starts: Starts) -> Iterator[str]:
    """Whether it is what it must be."""
    yield judgement("times the imports alone", starts.ratio().median, at_most=TARGET)
