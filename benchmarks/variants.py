"""One file server run in several ways, each beside the first of them: what an option, or a visitor, costs.

The same files, the same requests; one core for the server, one for the load. All are started anew in each round,
for one process is up to a tenth faster than the next, and compared with the first of that round.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.command import names_of
from benchmarks.report import Table, heading, short
from benchmarks.rounds import Rounds, Start, rotated
from benchmarks.tables import Figures, Sample
from benchmarks.workloads import Column, columns

Ways = Mapping[str, Callable[[Column], Start]]
"""How the server is started for a column, by the name of the way; the others are compared with the first."""


def compare(name: str, description: str, ways: Ways, default: Sequence[str]) -> int:
    """The command `python -m benchmarks.NAME`: measure and print; 1 when nothing could be measured."""
    arguments = parse(name, description, ways, default)
    first = next(iter(ways))
    chosen = {way: ways[way] for way in dict.fromkeys((first, *arguments.only))}
    tables = []
    with TemporaryDirectory(prefix="gserver-bench-") as scratch:
        bench = Rounds(1, arguments.seconds, Path(scratch))
        for column in (columns()[each] for each in arguments.columns):
            with bench.forgiving(column.title):
                figures = measured(bench, column, chosen, arguments.rounds)
                if figures.samples[first]:
                    tables.append(cost_table(figures, first))
                    print(f"\n{tables[-1].text()}", flush=True)
        print(f"\n{heading(f'benchmarks.{name}', bench.versions)}", *bench.left_out, sep="\n")
    return 0 if tables else 1


def measured(bench: Rounds, column: Column, ways: Ways, rounds: int) -> Figures:
    """The samples of all rounds, in each of which everybody answered. Raises Missing; blocks."""
    samples: dict[str, list[Sample]] = {name: [] for name in ways}
    for number in range(rounds):
        order = rotated(list(samples), number)
        with bench.serving(column, {name: ways[name](column) for name in order}) as peers:
            figures = bench.alternating(column, peers)
        if figures.samples.keys() == samples.keys():
            for name, taken in figures.samples.items():
                samples[name] += taken
    return Figures(column.title, samples)


def cost_table(figures: Figures, first: str) -> Table:
    """Throughput and CPU time per request against the first, pair by pair."""
    rows = [
        [
            name,
            short(figures.per_s(name)),
            str(figures.throughput(name, first)),
            f"{figures.cpu_us(name):,.1f}",
            str(figures.cpu(name, first)),
            f"{figures.failed(name):,} failed" if figures.failed(name) else "",
        ]
        for name in figures.samples
    ]
    return Table([figures.title, "requests/s", "ratio", "CPU us", "ratio", ""], rows)


def parse(name: str, description: str, ways: Ways, default: Sequence[str]) -> argparse.Namespace:
    """The command line. Exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    add = parser.add_argument
    add("--rounds", type=int, default=15, help="rounds of each measurement (default: 15)")
    add("--seconds", type=int, default=2, help="seconds of load on a server in a round (default: 2)")
    add("--columns", type=names_of(columns()), default=list(default), help=f"default: {', '.join(default)}")
    add("--only", type=names_of(ways), default=list(ways), help=f"of {', '.join(ways)} (default: all)")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.seconds) < 1:
        parser.error("--rounds and --seconds are at least 1")
    return arguments
