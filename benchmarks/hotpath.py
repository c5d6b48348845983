"""python -m benchmarks.hotpath: CPU time of gserver for a request, and the lines that spend it.

For each scenario, a column of `benchmarks.http`: microseconds of CPU time per request, Python's and the libraries'
part and the kernel's, and instructions where they are counted. With `--against DIR` the same of another checkout,
asked in turn, and the ratio round by round. Then, in runs of their own so that the figures are undisturbed, a
profile: by line and by function of Python from inside the server, by library and by function in C from `perf`.
What a line costs is its share of the samples times the undisturbed CPU time.
"""

import argparse
import json
import linecache
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import perf
from benchmarks.command import names_of, run
from benchmarks.load import NoFigure
from benchmarks.peers import GSERVER, PROJECT, Peer, serving
from benchmarks.perf import Share
from benchmarks.report import Table, heading, short, write_json
from benchmarks.rounds import SETTLED_S, Rounds, Start
from benchmarks.tables import Figures
from benchmarks.workloads import Column, columns

SCENARIOS = ("1k", "browser", "64k", "close", "misses", "zipf")

HERE, AGAINST, SAMPLED = "gserver", "against", "sampled"

SAMPLER = PROJECT / "benchmarks" / "sampler.py"

SHOWN = 15
"""Rows of each table of a profile."""

Stack = Sequence[tuple[str, int, str]]
"""File, line and function of each frame, the innermost first."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Shares of the CPU time, the largest first. Empty where they could not be taken."""

    lines: Sequence[Share] = ()
    calls: Sequence[Share] = ()
    """Functions of Python with all that they call: these shares overlap."""
    libraries: Sequence[Share] = ()
    functions: Sequence[Share] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """A scenario: the samples of HERE, and of AGAINST if it was asked for."""

    figures: Figures
    instructions: float | None
    """For a request."""
    profile: Profile


class Bench(Rounds):
    """Measures scenarios."""

    def scenario(self, column: Column, against: Path | None) -> Result:
        """All there is to know of it. Raises Missing, NoFigure; blocks."""
        stacks = self.scratch / "stacks.json"
        stacks.unlink(missing_ok=True)
        wanted = {
            HERE: started(column, str(GSERVER)),
            SAMPLED: started(column, "-P", str(SAMPLER), str(stacks), str(GSERVER)),
        }
        if against:
            wanted[AGAINST] = started(column, str(against / GSERVER.name))
        with self.serving(column, wanted) as peers:
            figures = self.alternating(column, {name: peers[name] for name in peers if name != SAMPLED})
            if HERE not in figures.samples:
                raise NoFigure("gserver has none")
            instructions = self.instructions(peers[HERE], column)
            libraries, functions = self.below_python(peers[HERE], column)
            with self.forgiving("lines of Python"):
                if SAMPLED not in peers:
                    raise NoFigure("gserver does not run under the sampler")
                os.kill(peers[SAMPLED].pids()[0], signal.SIGUSR1)
                self.sample(peers[SAMPLED], column)
        lines, calls = in_python(json.loads(stacks.read_text())) if stacks.exists() else ([], [])
        return Result(figures, instructions, Profile(lines, calls, libraries, functions))

    def instructions(self, peer: Peer, column: Column) -> float | None:
        """For a request; None, which is said, where they are not counted."""
        output = self.scratch / "instructions"
        with self.forgiving("instructions"):
            with perf.counting(peer.pids(), output):
                answered = self.sample(peer, column).answered
            return perf.instructions(output.read_text()) / answered
        return None

    def below_python(self, peer: Peer, column: Column) -> tuple[list[Share], list[Share]]:
        """By library and by function in C; nothing, which is said, without `perf`."""
        recorded = self.scratch / "perf.data"
        with self.forgiving("libraries and functions in C"):
            with perf.recording(peer.pids(), recorded):
                self.sample(peer, column)
            return perf.libraries(recorded), perf.functions(recorded)
        return [], []


def started(column: Column, *program: str) -> Start:
    """How to start gserver for a column, as this program of Python's."""
    return partial(serving, "gserver", options=column.options, program=program)


def in_python(stacks: Iterable[tuple[int, Stack]]) -> tuple[list[Share], list[Share]]:
    """Shares of the lines that were executed, with their text, and of the functions on the stacks."""
    lines: Counter[tuple[str, str]] = Counter()
    calls: Counter[tuple[str, str]] = Counter()
    for count, stack in stacks:
        file, line, function = stack[0]
        text = linecache.getline(file, line).strip()
        lines[f"{short_path(file)}:{line} {function}", text] += count
        for name in {(function, short_path(file)) for file, _, function in stack}:
            calls[name] += count
    return shares(lines, lines.total()), shares(calls, lines.total())


def shares(counted: Counter[tuple[str, str]], total: int) -> list[Share]:
    """The largest first."""
    return [Share(count / total, *names) for names, count in counted.most_common()]


def short_path(file: str) -> str:
    """A file and its folder: `fileserver/wire.py`."""
    return "/".join(Path(file).parts[-2:])


def summary_table(results: Sequence[Result]) -> Table:
    """A row for each scenario and checkout."""
    rows = []
    for result in results:
        figures = result.figures
        for name in figures.samples:
            cpu_us, system_us = figures.cpu_us(name), figures.system_us(name)
            instructions = result.instructions if name == HERE else None
            failed = figures.failed(name)
            rows.append(
                [
                    f"{figures.title}: {name}",
                    short(figures.per_s(name)),
                    f"{cpu_us:,.2f}",
                    f"{cpu_us - system_us:,.2f}",
                    f"{system_us:,.2f}",
                    f"{figures.busy(name):.0%}",
                    "-" if instructions is None else short(instructions),
                    str(figures.cpu(HERE, name)) if name == AGAINST else "",
                    f"{failed:,} failed" if failed else "",
                ]
            )
    head = [
        "CPU per request",
        "requests/s",
        "CPU us",
        "user",
        "system",
        "busy",
        "instructions",
        "here/against",
        "",
    ]
    return Table(head, rows)


def profile_tables(result: Result) -> list[Table]:
    """Where the time of a request goes: a table for each point of view that there is."""
    cpu_us, profile = result.figures.cpu_us(HERE), result.profile
    views = {
        "line": profile.lines,
        "function, with all that it calls": profile.calls,
        "library": profile.libraries,
        "function in C": profile.functions,
    }
    return [
        Table(
            ["us a request", "share", view, ""],
            [[f"{each.share * cpu_us:.2f}", f"{each.share:.1%}", each.what, each.where] for each in found[:SHOWN]],
        )
        for view, found in views.items()
        if found
    ]


def parse() -> argparse.Namespace:
    """The command line. Exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hotpath", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    known = ", ".join(columns())
    add("--scenarios", type=names_of(columns()), help=f"of {known} (default: {', '.join(SCENARIOS)})")
    add("--against", type=Path, metavar="DIR", help="another checkout, to compare with")
    add("--rounds", type=int, default=5, help="of each scenario (default: %(default)s)")
    add("--seconds", type=int, default=3, help="of load on a server in a round (default: %(default)s)")
    add("--quick", action="store_true", help="one round of a second, one scenario: does it run?")
    add("--json", type=Path, metavar="FILE", help="write every sample and the whole profile")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = arguments.seconds = 1
    if min(arguments.rounds, arguments.seconds) < 1:
        parser.error("--rounds and --seconds are at least 1")
    if arguments.against and not (arguments.against / GSERVER.name).is_file():
        parser.error(f"there is no {GSERVER.name} in {arguments.against}")
    arguments.scenarios = arguments.scenarios or (SCENARIOS[:1] if arguments.quick else SCENARIOS)
    return arguments


def main() -> int:
    """Measure, print, write; the exit code."""
    arguments = parse()
    against = arguments.against.resolve() if arguments.against else None
    known, results = columns(), []
    with TemporaryDirectory(prefix="gserver-bench-") as scratch:
        settled_s = 0.0 if arguments.quick else SETTLED_S
        bench = Bench(arguments.rounds, arguments.seconds, Path(scratch), settled_s=settled_s)
        for column in map(known.__getitem__, arguments.scenarios):
            with bench.forgiving(column.title):
                results.append(bench.scenario(column, against))
                print(f"\n{column.title}")
                for table in (summary_table(results[-1:]), *profile_tables(results[-1])):
                    print(table.text(), end="\n\n", flush=True)
    said = heading("benchmarks.hotpath", bench.versions)
    print(said, summary_table(results).text(), *bench.left_out, sep="\n")
    if arguments.json:
        figures: dict[str, Any] = {"heading": said, "left_out": bench.left_out}
        write_json(arguments.json, figures | {"scenarios": [asdict(result) for result in results]})
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
