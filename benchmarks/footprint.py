"""python -m benchmarks.footprint: memory of idle connections and of a full cache, and time to the first answer.

Three measurements, all by default, or those that are named:

idle    what connections cost that have had one answer and ask no more, and whether others are slower beside them
start   from the start of `python gserver.py` to its first answer, against an interpreter that only imports what it
        stands on
memory  resident memory of gserver quiet, full, and after twice the cache's worth of evictions

Servers run on the first core, everything else on the second. Linux only; everything ends by itself.
"""

import argparse
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import idle, memory, report, start
from benchmarks.clients import Refused
from benchmarks.command import run
from benchmarks.peers import Missing

Figures = dict[str, Any]


def measure_idle(arguments: argparse.Namespace) -> Figures:
    """All servers' idle connections, printed."""
    found = idle.measure_all(arguments.connections, arguments.rounds, arguments.seconds)
    if found:
        show(idle.memory_table(found), idle.throughput_table(found))
    if "gserver" in found:
        say(idle.judgements(found["gserver"]))
    return {kind: asdict(one) for kind, one in found.items()}


def measure_start(arguments: argparse.Namespace) -> Figures:
    """Starts, printed."""
    starts = start.measure(arguments.starts)
    show(start.starts_table(starts))
    say(start.judgements(starts))
    if arguments.profile:
        show(start.imports_table(start.profile()))
    return asdict(starts)


def measure_memory(_: argparse.Namespace) -> Figures:
    """All fillings of the cache, printed."""
    found = memory.measure_all()
    show(memory.held_table(found))
    say(memory.judgements(found))
    return {files: [asdict(held) for held in moments] for files, moments in found.items()}


MEASUREMENTS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "idle": measure_idle,
    "start": measure_start,
    "memory": measure_memory,
}


def show(*tables: report.Table) -> None:
    """Tables for the terminal."""
    for table in tables:
        print(table.text(), end="\n\n", flush=True)


def say(lines: Iterable[str]) -> None:
    """Lines, and an empty one."""
    print(*lines, "", sep="\n", flush=True)


def parse(line: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("measurements", nargs="*", metavar="MEASUREMENT", help=f"{', '.join(MEASUREMENTS)} (default: all)")
    add("--connections", type=int, default=10_000, metavar="N", help="idle ones (default: %(default)s)")
    add("--rounds", type=int, default=5, metavar="N", help="with and without idle ones (default: %(default)s)")
    add("--seconds", type=int, default=3, metavar="S", help="of throughput for a figure (default: %(default)s)")
    add("--starts", type=int, default=10, metavar="N", help="rounds of starts (default: %(default)s)")
    add("--profile", action="store_true", help="print the most expensive imports of a start too")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    arguments = parser.parse_args(line)
    unknown = set(arguments.measurements) - MEASUREMENTS.keys()
    if unknown:
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    if min(arguments.connections, arguments.rounds, arguments.starts, arguments.seconds) <= 0:
        parser.error("figures must be positive")
    return arguments


def main() -> int:
    """Measure and print; the exit code. What cannot be measured here is said, and left out."""
    arguments = parse()
    versions = {"Python": platform.python_version(), "gevent": metadata.version("gevent")}
    said = report.heading("benchmarks.footprint", versions)
    print(said, end="\n\n", flush=True)
    figures: Figures = {"heading": said}
    for name in arguments.measurements or MEASUREMENTS:
        try:
            figures[name] = MEASUREMENTS[name](arguments)
        except (Missing, Refused, OSError) as problem:
            print(f"left out: {name}: {problem}", flush=True)
    if arguments.json:
        report.write_json(arguments.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
