"""python -m benchmarks.policies: what each order of eviction costs, and `--what-if`, beside gserver as it comes.

The same file server, started with other options, over the same files; one core for the server, one for the load.
All are started anew in each round, for one process is up to a tenth faster than the next, and compared with the
default of that round. What the orders are good for is another question, which `fileserver.simulate` answers.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.command import names_of, run
from benchmarks.peers import serving
from benchmarks.report import Table, heading, short
from benchmarks.rounds import Rounds, Start, rotated
from benchmarks.tables import Figures, Sample
from benchmarks.workloads import Column, columns
from lrucache import POLICIES

DEFAULT = "relocate"
OPTIONS = {name: ("--policy", name) for name in POLICIES} | {"what-if": ("--what-if",)}
COLUMNS = ("1k", "zipf", "misses")
"""Nothing but hits of one file; of many; three of four are misses, and evict."""


def measured(bench: Rounds, column: Column, names: list[str], rounds: int) -> Figures:
    """The samples of all rounds, in each of which everybody answered. Raises Missing; blocks."""
    samples: dict[str, list[Sample]] = {name: [] for name in dict.fromkeys((DEFAULT, *names))}
    starts: dict[str, Start] = {
        name: partial(serving, "gserver", options=(*column.options, *OPTIONS[name])) for name in samples
    }
    for number in range(rounds):
        order = rotated(list(samples), number)
        with bench.serving(column, {name: starts[name] for name in order}) as peers:
            figures = bench.alternating(column, peers)
        if figures.samples.keys() == samples.keys():
            for name, taken in figures.samples.items():
                samples[name] += taken
    return Figures(column.title, samples)


def cost_table(figures: Figures) -> Table:
    """Throughput and CPU time per request against the default, pair by pair."""
    rows = [
        [
            name,
            short(figures.per_s(name)),
            str(figures.throughput(name, DEFAULT)),
            f"{figures.cpu_us(name):,.1f}",
            str(figures.cpu(name, DEFAULT)),
            f"{figures.failed(name):,} failed" if figures.failed(name) else "",
        ]
        for name in figures.samples
    ]
    return Table([figures.title, "requests/s", "ratio", "CPU us", "ratio", ""], rows)


def parse() -> argparse.Namespace:
    """The command line. Exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policies", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--rounds", type=int, default=15, help="rounds of each measurement (default: 15)")
    add("--seconds", type=int, default=2, help="seconds of load on a server in a round (default: 2)")
    add("--columns", type=names_of(columns()), default=list(COLUMNS), help=f"default: {', '.join(COLUMNS)}")
    add("--only", type=names_of(OPTIONS), default=list(OPTIONS), help=f"of {', '.join(OPTIONS)} (default: all)")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.seconds) < 1:
        parser.error("--rounds and --seconds are at least 1")
    return arguments


def main() -> int:
    """Measure and print; the exit code is 1 when nothing could be measured."""
    arguments = parse()
    known = columns()
    tables = []
    with TemporaryDirectory(prefix="gserver-bench-") as scratch:
        bench = Rounds(1, arguments.seconds, Path(scratch))
        for column in (known[name] for name in arguments.columns):
            with bench.forgiving(column.title):
                figures = measured(bench, column, arguments.only, arguments.rounds)
                if figures.samples[DEFAULT]:
                    tables.append(cost_table(figures))
                    print(f"\n{tables[-1].text()}", flush=True)
        print(f"\n{heading('benchmarks.policies', bench.versions)}", *bench.left_out, sep="\n")
    return 0 if tables else 1


if __name__ == "__main__":
    sys.exit(run(main))
