"""python -m benchmarks.http: throughput, CPU, latency and the cost of the access log, beside other file servers.

One core for the server, one for the load, where there are two. Within a column all servers are started and made
warm first, and then asked one after another, in another order in each round. The reference of a column is the
faster of two nginx configurations; figures are compared with it round by round, so that a machine that is slow
for a while is slow for both. A server that was less than 90 % busy was not at its limit: judge it by its CPU per
request.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.command import names_of, run
from benchmarks.load import Latencies, NoFigure, at_a_rate
from benchmarks.peers import KINDS, Peer, serving
from benchmarks.report import Table, bars, heading, write_json
from benchmarks.rounds import SETTLED_S, Rounds, Start, rotated
from benchmarks.tables import (
    REFERENCES,
    Figures,
    Logged,
    Paced,
    access_log_table,
    column_table,
    latency_table,
    throughput_table,
)
from benchmarks.workloads import Column, columns

OURS, LOGGING = "gserver", "gserver with an access log"

PEERS = [kind for kind in KINDS if kind != "nginx aio"]
"""That one is for slow disks."""

PARTS = {"throughput": list(columns()), "latency": ["1k", "64k", "1m"], "access-log": ["1k", "64k"]}
"""What is measured, and in which columns."""

QUICK_PEERS = [REFERENCES[0], OURS]
QUICK_COLUMNS = ("1k",)

RATE_SHARE = 0.7
"""Of the reference's peak: busy, and not yet a queue."""

LEGEND = """Medians of the rounds. Throughput and CPU time per request against the reference, the faster of the two
nginx configurations in that column. * the server was less than 90 % busy: judge it by its CPU."""


@dataclass(frozen=True, slots=True)
class Results:
    """What all parts have found."""

    throughput: list[Figures] = field(default_factory=list)
    latency: list[Paced] = field(default_factory=list)
    access_log: list[Logged] = field(default_factory=list)

    def tables(self) -> list[Table]:
        """One for each part that was measured."""
        made = [
            throughput_table(self.throughput) if self.throughput else None,
            latency_table(self.latency) if self.latency else None,
            access_log_table(self.access_log) if self.access_log else None,
        ]
        return [table for table in made if table]

    def ratios(self) -> dict[str, dict[str, float]]:
        """Median ratios of throughput, of each server by column."""
        return {
            figures.title: {name: figures.throughput(name, reference).median for name in figures.samples}
            for figures in self.throughput
            if (reference := figures.reference())
        }


class Bench(Rounds):
    """Measures a column whose servers are running: what of them there is, by name, is in `peers`."""

    def latency(self, column: Column, peers: Mapping[str, Peer], peak: Figures | None) -> Paced:
        """The reference and gserver at the same steady rate, RATE_SHARE of the reference's peak.

        Without a known `peak` it is measured first. Raises Missing, NoFigure; blocks.
        """
        if peak is None or peak.reference() is None:
            peak = self.alternating(column, {name: peers[name] for name in REFERENCES if name in peers})
        reference = peak.reference()
        if reference is None or not {reference, OURS} <= peers.keys():
            raise NoFigure("it takes gserver and an nginx")
        per_s, path = RATE_SHARE * peak.per_s(reference), column.asking.paths[0]
        taken: dict[str, list[Latencies]] = {reference: [], OURS: []}
        for number in range(self.rounds):
            for name in rotated(list(taken), number):
                try:
                    taken[name].append(at_a_rate(peers[name], path, per_s, self.seconds, self.scratch))
                except NoFigure as reason:
                    raise NoFigure(f"{name} at {per_s:,.0f} a second: {reason}") from None
        return Paced(column.title, reference, taken)

    def logging(self, column: Column, peers: Mapping[str, Peer]) -> Figures:
        """gserver without and with an access log, as fast as it answers. Raises Missing, NoFigure; blocks."""
        figures = self.alternating(
            column, {what: peers[name] for what, name in (("without", OURS), ("with", LOGGING)) if name in peers}
        )
        if figures.samples.keys() != {"without", "with"}:
            raise NoFigure("it takes both")
        return figures

    @property
    def log(self) -> Path:
        """The access log of LOGGING."""
        return self.scratch / "access.log"

    def logged(self) -> int:
        """Lines in it: of all answers only when the server has stopped."""
        with self.log.open("rb") as written:
            return sum(1 for _ in written)


def wanted(column: Column, parts: Iterable[str], kinds: Iterable[str], log: Path) -> dict[str, Start]:
    """The servers that these parts of a column take, and how each is started over a folder."""
    needed = {"throughput": kinds, "latency": (*REFERENCES, OURS), "access-log": (OURS, LOGGING)}
    names = dict.fromkeys(name for part in parts for name in needed[part])
    starts: dict[str, Start] = {
        name: partial(serving, name, options=column.options) for name in names if name != LOGGING
    }
    if LOGGING in names:
        log.unlink(missing_ok=True)
        starts[LOGGING] = partial(serving, OURS, options=(*column.options, "--access-log", str(log)))
    return starts


def parse() -> argparse.Namespace:
    """The command line. Exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.http", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="rounds of each measurement (default: 5)")
    add("--seconds", type=int, default=3, help="seconds of load on a server in a round (default: 3)")
    add("--columns", type=names_of(columns()), help=f"of {', '.join(columns())} (default: all)")
    add("--peers", type=names_of(PEERS), help=f"of {', '.join(PEERS)} (default: all)")
    add("--parts", type=names_of(PARTS), default=list(PARTS), help=f"of {', '.join(PARTS)} (default: all)")
    add("--quick", action="store_true", help="one round of a second, one column, two servers: does it run?")
    add("--json", type=Path, metavar="FILE", help="write every sample")
    add("--plot", type=Path, metavar="FILE.svg", help="draw the ratios of throughput")
    add("--markdown", action="store_true", help="print the tables as Markdown at the end")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = arguments.seconds = 1
    if min(arguments.rounds, arguments.seconds) < 1:
        parser.error("--rounds and --seconds are at least 1")
    arguments.columns = arguments.columns or (QUICK_COLUMNS if arguments.quick else list(columns()))
    arguments.peers = arguments.peers or (QUICK_PEERS if arguments.quick else PEERS)
    return arguments


def measure(bench: Bench, arguments: argparse.Namespace) -> Results:
    """All that was asked for, column after column; what is known is printed at once."""
    known, results = columns(), Results()
    for name in arguments.columns:
        column, figures, logging = known[name], None, None
        parts = [part for part in arguments.parts if name in PARTS[part]]
        if not parts:
            continue
        starts = wanted(column, parts, arguments.peers, bench.log)
        with bench.forgiving(column.title), bench.serving(column, starts) as peers:
            if "throughput" in parts:
                asked = {kind: peers[kind] for kind in arguments.peers if kind in peers}
                figures = bench.alternating(column, asked)
                results.throughput.append(figures)
                show(column.title, column_table(figures))
            if "latency" in parts:
                with bench.forgiving(f"latency of {column.title}"):
                    results.latency.append(bench.latency(column, peers, figures))
                    show(f"{column.title}, open loop", latency_table(results.latency[-1:]))
            if "access-log" in parts:
                with bench.forgiving(f"access log, {column.title}"):
                    logging = bench.logging(column, peers)
        if logging:
            results.access_log.append(Logged(logging, bench.logged()))
            show(f"{column.title}, access log", access_log_table(results.access_log[-1:]))
    return results


def show(title: str, table: Table) -> None:
    """A table for the terminal."""
    print(f"\n{title}\n{table.text()}", flush=True)


def summarise(bench: Bench, results: Results, arguments: argparse.Namespace) -> None:
    """The tables of all columns, how they came about, what is missing; files, if they were asked for."""
    said = heading("benchmarks.http", bench.versions)
    print(f"\n{said}\n")
    for table in results.tables():
        print(table.markdown() if arguments.markdown else table.text(), end="\n\n")
    print(LEGEND, *bench.left_out, sep="\n", flush=True)
    if arguments.json:
        write_json(arguments.json, {"heading": said, "left_out": bench.left_out, **asdict(results)})
    if arguments.plot:
        title = "Requests a second against the faster nginx (one core, one worker)"
        arguments.plot.write_text(bars(title, results.ratios()))


def main() -> int:
    """Measure, print, write; the exit code."""
    arguments = parse()
    with TemporaryDirectory(prefix="gserver-bench-") as scratch:
        settled_s = 0.0 if arguments.quick else SETTLED_S
        bench = Bench(arguments.rounds, arguments.seconds, Path(scratch), settled_s=settled_s)
        summarise(bench, measure(bench, arguments), arguments)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
