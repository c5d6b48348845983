"""python -m benchmarks.downloads: gclient beside curl, and what its start costs.

A large file in the page cache is fetched from each server by both clients in turn: to a file, and to nowhere. The
start is that of `gclient.py HOST PORT health`, to its end, beside an interpreter that only imports what it stands
on; as a script, which Python compiles each time, and as a module, whose compiled form it keeps.

The server runs on the first core, the client on the second.
"""

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.clients import Refused
from benchmarks.command import run
from benchmarks.peers import LOAD_CORE, PROJECT, Missing, Peer, installed, pin, serving
from benchmarks.report import Table, heading, judgement, ratios, short, spread
from benchmarks.rounds import rotated
from benchmarks.start import compiling, ended_s
from benchmarks.workloads import MIB

SERVERS = ("gserver", "nginx sendfile")
FILE = "file"
GCLIENT = str(PROJECT / "gclient.py")
IMPORTS_ONLY = "import socket, argparse"

SPEED_TARGET = 0.9
"""Of curl's, at the least."""
START_TARGET = 1.5
"""Times what IMPORTS_ONLY takes, at the most."""

MAX_S = 120.0

Seconds = Mapping[str, Sequence[float]]
"""By who took them, round by round."""


def downloads(peer: Peer, into: Path) -> dict[str, list[str]]:
    """The commands that fetch FILE from `peer`: by both clients, to a file and to nowhere. Raises Missing."""
    curl = [installed("curl", "curl"), "--silent", "--fail", f"http://{peer.host}:{peer.port}/{FILE}", "--output"]
    gclient = [sys.executable, GCLIENT, peer.host, str(peer.port), FILE, "--quiet"]
    return {
        "curl to a file": [*curl, str(into / "curl")],
        "gclient to a file": [*gclient, str(into)],
        "curl to /dev/null": [*curl, "-"],
        "gclient to /dev/null": [*gclient, "-"],
    }


def starts(peer: Peer) -> dict[str, list[str]]:
    """The commands whose starts are compared."""
    health = [peer.host, str(peer.port), "health"]
    return {
        IMPORTS_ONLY: [sys.executable, "-c", IMPORTS_ONLY],
        "gclient.py": [sys.executable, GCLIENT, *health],
        "-m gclient": [sys.executable, "-m", "gclient", *health],
    }


def alternating(commands: Mapping[str, Sequence[str]], rounds: int, into: Path) -> Seconds:
    """Each command to its end, once a round, after one that does not count. Raises Refused; blocks."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(-1, rounds):
        for name in rotated(list(commands), max(number, 0)):
            for left in into.iterdir():
                left.unlink()
            took_s = run_s(commands[name])
            if number >= 0:
                seconds[name].append(took_s)
    return seconds


def run_s(line: Sequence[str]) -> float:
    """How long a program takes from start to end on the load's core. Raises Refused when it fails; blocks."""
    pin(LOAD_CORE)
    began_s = time.perf_counter()
    process = subprocess.Popen(
        line, cwd=PROJECT, env=compiling(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    return ended_s(process, MAX_S) - began_s


def speed_table(taken: Mapping[str, Seconds], size: int) -> Table:
    """MiB/s of both clients from each server, and the ratio."""
    rows = []
    for server, seconds in taken.items():
        for where in ("to a file", "to /dev/null"):
            curl, gclient = seconds[f"curl {where}"], seconds[f"gclient {where}"]
            each = [short(size / MIB / spread(one).median) for one in (curl, gclient)]
            rows.append([server, where, *each, str(ratios(curl, gclient))])
    return Table(["from", "", "curl MiB/s", "gclient MiB/s", "speed, ratio"], rows)


def start_table(seconds: Seconds) -> Table:
    """Milliseconds of each, and the ratio to the imports alone."""
    rows = [
        [name, f"{1000 * spread(each).median:.1f} ms", str(ratios(each, seconds[IMPORTS_ONLY]))]
        for name, each in seconds.items()
    ]
    return Table(["start", "median", "ratio"], rows)


def parse(line: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.downloads", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--rounds", type=int, default=9, metavar="N", help="downloads of each (default: %(default)s)")
    add("--starts", type=int, default=30, metavar="N", help="starts of each (default: %(default)s)")
    add("--mib", type=int, default=1024, metavar="N", help="size of the file (default: %(default)s)")
    arguments = parser.parse_args(line)
    if min(arguments.rounds, arguments.starts, arguments.mib) <= 0:
        parser.error("figures must be positive")
    return arguments


@contextmanager
def folders(size: int) -> Iterator[tuple[Path, Path]]:
    """One to serve, with FILE of `size` bytes in it, and an empty one to fetch into."""
    with TemporaryDirectory(prefix="gserver-bench-") as scratch:
        served, fetched = Path(scratch, "served"), Path(scratch, "fetched")
        served.mkdir()
        fetched.mkdir()
        with (served / FILE).open("wb") as file:
            for start in range(0, size, MIB):
                file.write(b"x" * min(MIB, size - start))
        yield served, fetched


def judgements(started: Seconds, taken: Mapping[str, Seconds]) -> Iterator[str]:
    """Whether it is what it must be."""
    for name in list(started)[1:]:
        ratio = ratios(started[name], started[IMPORTS_ONLY]).median
        yield judgement(f"times the imports alone, {name}", ratio, at_most=START_TARGET)
    for server, seconds in taken.items():
        speed = ratios(seconds["curl to a file"], seconds["gclient to a file"]).median
        yield judgement(f"of curl's speed to a file, from {server}", speed, at_least=SPEED_TARGET)


def main() -> int:
    """Measure and print; 1 when nothing could be measured."""
    arguments = parse()
    versions = {"Python": platform.python_version()}
    started: Seconds = {}
    taken: dict[str, Seconds] = {}
    with folders(arguments.mib * MIB) as (served, fetched):
        for kind in SERVERS:
            try:
                with serving(kind, served) as peer:
                    versions[peer.name] = peer.version
                    if kind == "gserver":
                        started = alternating(starts(peer), arguments.starts, fetched)
                        print(start_table(started).text(), end="\n\n", flush=True)
                    taken[kind] = alternating(downloads(peer, fetched), arguments.rounds, fetched)
            except (Missing, Refused) as problem:
                print(f"left out: {kind}: {problem}", flush=True)
    print(speed_table(taken, arguments.mib * MIB).text(), *judgements(started, taken), sep="\n")
    print(heading("benchmarks.downloads", versions))
    return 0 if started else 1


if __name__ == "__main__":
    sys.exit(run(main))
