"""python -m benchmarks.slowdisk: what a client of a hot file sees while others wait for slow storage.

A FUSE file system makes cold files slow: in one round every read of them takes 200 ms, in the next every open too.
Fifty readers ask for one cold file after another on connections of their own, each file once, while one client
asks for a hot file every 5 ms. All files have 64 KiB. The hot file's answers are timed from the moment at which
they were due: first alone, then beside the readers.

Servers run on the first core, everything else on the second: the readers, the file system, which goes before them,
and the client of the hot file, which goes before both (SCHED_FIFO, if the system allows it). How much of its
figures is its own noise shows an nginx that serves nothing but the hot file from an ordinary folder. Linux only.
Everything ends by itself; a request that was never answered counts with what it had waited when the time was over.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import report
from benchmarks.clients import Refused
from benchmarks.command import names_of, run
from benchmarks.peers import KINDS, Missing, Peer, serving
from benchmarks.slow_clients import READERS, Hot, measure_both, measure_hot, measure_without_server
from benchmarks.slow_fuse import AT_ONCE, FILE_BYTES, HOT, slow_files

Storage = tuple[float, float]
"""Seconds of a read and of an open of a cold file. Names, sizes and all that concerns the hot file are fast."""

STORAGE: dict[str, Storage] = {"reads take 200 ms": (0.2, 0.0), "opens and reads take 200 ms": (0.2, 0.2)}

PEERS = ("gserver", "nginx sendfile", "nginx aio", "lighttpd", "h2o", "caddy", "varnish")

QUICK_SECONDS = 0.5

QUIET, BUSY = "nginx copy", "nginx aio"
"""For the client's own noise: who serves the hot file, and who serves the readers meanwhile."""

NOISE = "hot client's noise"


@dataclass(frozen=True, slots=True)
class Row:
    """A server's figures. Without a server there is only what the readers got."""

    name: str
    cold_per_s: float
    version: str = ""
    alone: Hot | None = None
    beside: Hot | None = None

    def figures(self) -> dict[str, Any]:
        """For other programs."""
        figures: dict[str, Any] = {"name": self.name, "version": self.version, "cold_files_per_s": self.cold_per_s}
        for when, hot in (("alone", self.alone), ("beside", self.beside)):
            if hot is not None:
                p50, p99, longest = hot.milliseconds()
                figures[when] = {"p50_ms": p50, "p99_ms": p99, "max_ms": longest}
                figures[when] |= {"due": len(hot.waited_s), "answered": hot.answered}
        return figures

    def cells(self) -> list[str]:
        """For a table; what was not measured is empty."""
        figures = [""] * 8
        if self.alone is not None and self.beside is not None:
            alone, beside = self.alone.milliseconds(), self.beside.milliseconds()
            figures = [f"{each:.2f}" if each < 100 else f"{each:,.0f}" for each in (*alone, *beside)]
            figures += [f"{beside[1] / alone[1]:.2f}", f"{self.beside.answered} of {len(self.beside.waited_s)}"]
        return [self.name, *figures, f"{self.cold_per_s:.1f}"]


def measure_storage(storage: Storage, seconds: float) -> Row:
    """What the file system itself gives READERS threads. Raises Missing where it cannot be had."""
    with slow_files(*storage) as files:
        return Row("no server", measure_without_server(files.folder, seconds))


def measure_noise(storage: Storage, seconds: float) -> Row:
    """The client of the hot file with an nginx of its own, while readers keep another one busy. Raises Missing."""
    with TemporaryDirectory(prefix="gserver-bench-") as folder:
        (Path(folder) / HOT).write_bytes(bytes(FILE_BYTES))
        with (
            serving(QUIET, Path(folder)) as quiet,
            slow_files(*storage) as files,
            serving(BUSY, files.folder) as busy,
        ):
            row = measure(NOISE, quiet, busy, seconds)
            files.end()
    return row


def measure_server(name: str, storage: Storage, seconds: float) -> Row:
    """A server with the hot file and the cold ones. Raises Missing and Refused."""
    kind, dashes, options = name.partition(" --")
    with (
        slow_files(*storage) as files,
        serving(kind, files.folder, options=(dashes + options).split()) as peer,
    ):
        row = measure(name, peer, peer, seconds)
        files.end()  # or a blocked server would not stop
    return row


def measure(name: str, hot: Peer, cold: Peer, seconds: float) -> Row:
    """The hot file of one server alone, then beside readers of another, or of the same."""
    alone = measure_hot(hot.port, seconds)
    beside, cold_per_s = measure_both(hot.port, cold.port, seconds)
    return Row(name, cold_per_s, hot.version, alone, beside)


def measure_all(storage: Storage, seconds: float, names: Sequence[str]) -> list[Row]:
    """A row for each server, or NOISE, that can be had; why another cannot is printed. Raises Missing: no FUSE."""
    rows = [measure_storage(storage, seconds)]
    for name in names:
        print(f"measuring {name}", file=sys.stderr)
        try:
            rows.append(
                measure_noise(storage, seconds) if name == NOISE else measure_server(name, storage, seconds)
            )
        except (Missing, Refused) as problem:
            print(f"left out: {name}: {problem}", flush=True)
    return rows


def show(words: str, rows: Sequence[Row]) -> None:
    """Print the table of one kind of storage."""
    head = ["", "alone: p50", "p99", "max", "beside: p50", "p99", "max", "p99 / alone", "hot answered"]
    print(f"\nWhere {words}; {READERS} cold readers; milliseconds of the hot file, cold files a second")
    print(report.Table([*head, "cold files/s"], [row.cells() for row in rows]).text(), flush=True)


def explain(rows: Sequence[Row]) -> None:
    """Print what the figures depend on."""
    print(
        f"\nThe kernel may have {AT_ONCE} requests of this FUSE file system under way at a time (default: 12), and"
        "\nbelieves names, sizes and contents that it has seen. It is mounted anew for each server."
    )
    if not all(hot.went_first for row in rows for hot in (row.alone, row.beside) if hot is not None):
        print("SCHED_FIFO is not allowed here: what disturbs the client of the hot file is in its figures.")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.slowdisk",
        description="The latency of a hot file, alone and while others wait for slow storage.",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (default: 10)")
    parser.add_argument(
        "--peers",
        type=names_of(KINDS, with_options=True),
        default=PEERS,
        metavar="A,B",
        help="servers (default: all); one may have options: 'gserver --threads 64'",
    )
    parser.add_argument("--quick", action="store_true", help="half a second, one storage, gserver: does it run?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.peers = QUICK_SECONDS, ["gserver"]
    else:
        arguments.peers = [NOISE, *arguments.peers]
    return arguments


def main() -> int:
    """Measure and print; the exit code."""
    arguments = parse()
    found: dict[str, list[Row]] = {}
    try:
        for words, storage in islice(STORAGE.items(), 1 if arguments.quick else None):
            found[words] = measure_all(storage, arguments.seconds, arguments.peers)
            show(words, found[words])
    except Missing as problem:
        print(f"left out: {problem}")
        return 0
    rows = [row for group in found.values() for row in group]
    explain(rows)
    print(
        report.heading(
            "benchmarks.slowdisk", {row.name: row.version for row in rows if row.version and row.name != NOISE}
        )
    )
    if arguments.json:
        report.write_json(
            arguments.json, {words: [row.figures() for row in group] for words, group in found.items()}
        )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
