"""python -m benchmarks.http: throughput, CPU, latency and the cost of the access log, beside other file servers.

One core for the server, one for the load, where there are two. Within a column all servers are started and made
warm first, and then asked one after another, in another order in each round. The reference of a column is the
faster of two nginx configurations; figures are compared with it round by round, so that a machine that is slow
for a while is slow for both. A server that was less than 90 % busy was not at its limit: judge it by its CPU per
request.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.load import (
    Latencies,
    NoFigure,
    as_fast_as_it_answers,
    at_a_rate,
    generator,
    generator_versions,
    warm,
)
from benchmarks.peers import KINDS, Missing, Peer, pin, serving
from benchmarks.report import Table, bars, heading, write_json
from benchmarks.tables import (
    REFERENCES,
    Figures,
    Logged,
    Paced,
    Sample,
    access_log_table,
    column_table,
    latency_table,
    throughput_table,
)
from benchmarks.workloads import Column, columns

OURS = "gserver"

PEERS = [kind for kind in KINDS if kind != "nginx aio"]
"""That one is for slow disks."""

PARTS = ("throughput", "latency", "access-log")
LATENCY_COLUMNS = ("1k", "64k", "1m")
ACCESS_LOG_COLUMNS = ("1k", "64k")

QUICK_PEERS = [*REFERENCES, OURS]
QUICK_COLUMNS = ("1k", "zipf")

RATE_SHARE = 0.7
"""Of the reference's peak: busy, and not yet a queue."""

SETTLED_S = 2.1
"""gserver does not trust the stamps of younger files and would read them again and again."""

SERVER_CORE, LOAD_CORE = 0, 1

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


class Bench:
    """What all parts share: how long to measure, and what was seen of the servers."""

    def __init__(self, rounds: int, seconds: int, scratch: Path) -> None:
        self.versions = generator_versions()
        self.left_out: list[str] = []
        self._rounds = rounds
        self._seconds = seconds
        self._scratch = scratch

    def throughput(self, column: Column, kinds: Sequence[str]) -> Figures:
        """Every server as fast as it answers."""
        with self._serving(column, {kind: (kind, column.options) for kind in kinds}) as peers:
            return self._alternating(column, peers)

    def latency(self, column: Column, peak: Figures | None = None) -> Paced:
        """The reference and gserver at the same steady rate, RATE_SHARE of the reference's peak.

        Without a known `peak` it is measured first. Raises Missing, NoFigure.
        """
        wanted = {kind: (kind, column.options) for kind in (*REFERENCES, OURS)}
        with self._serving(column, wanted) as peers:
            if peak is None or peak.reference() is None:
                peak = self._alternating(column, {name: peers[name] for name in REFERENCES if name in peers})
            reference = peak.reference()
            if reference not in peers or OURS not in peers:
                raise NoFigure("it takes gserver and an nginx")
            per_s, path = RATE_SHARE * peak.per_s(reference), column.asking.paths[0]
            taken: dict[str, list[Latencies]] = {reference: [], OURS: []}
            for number in range(self._rounds):
                for name in rotated(list(taken), number):
                    taken[name].append(at_a_rate(peers[name], path, per_s, self._seconds, self._scratch))
        return Paced(column.title, reference, taken)

    def access_log(self, column: Column) -> Logged:
        """gserver without and with an access log, as fast as it answers. Raises Missing, NoFigure."""
        log = self._scratch / "access.log"
        logging = (*column.options, "--access-log", str(log))
        wanted = {"without": (OURS, column.options), "with": (OURS, logging)}
        with self._serving(column, wanted) as peers:
            figures = self._alternating(column, peers)
        if figures.samples.keys() != wanted.keys():
            raise NoFigure("it takes both")
        with log.open("rb") as written:
            lines = sum(1 for _ in written)
        log.unlink()
        return Logged(figures, lines)

    @contextmanager
    def forgiving(self, what: str) -> Iterator[None]:
        """What cannot be measured here is said, and left out."""
        try:
            yield
        except (Missing, NoFigure) as reason:
            self.without(what, reason)

    def without(self, what: str, reason: Exception) -> None:
        """Say once that something is left out."""
        said = f"left out: {what}: {reason}" if what else f"left out: {reason}"
        if said not in self.left_out:
            self.left_out.append(said)
            print(said, flush=True)

    @contextmanager
    def _serving(
        self, column: Column, wanted: Mapping[str, tuple[str, Sequence[str]]]
    ) -> Iterator[dict[str, Peer]]:
        """The servers of `wanted` (name: kind, gserver's options) that can be had, warm. Raises Missing."""
        generator(column.asking)
        with TemporaryDirectory(prefix="gserver-bench-") as folder, ExitStack() as running:
            column.write(Path(folder))
            settled_s = time.monotonic() + SETTLED_S
            peers = {}
            for name, (kind, options) in wanted.items():
                try:
                    peers[name] = running.enter_context(
                        serving(kind, Path(folder), core=SERVER_CORE, options=options)
                    )
                except Missing as reason:
                    self.without("", reason)
                else:
                    self.versions[kind] = peers[name].version
            time.sleep(max(0.0, settled_s - time.monotonic()))
            for name, peer in list(peers.items()):
                try:
                    warm(peer, column.sizes)
                except NoFigure as reason:
                    self.without(f"{name} in {column.title}", reason)
                    del peers[name]
            yield peers

    def _alternating(self, column: Column, peers: dict[str, Peer]) -> Figures:
        """Rounds in which each server is asked once; one that fails is left out."""
        samples: dict[str, list[Sample]] = {name: [] for name in peers}
        for number in range(self._rounds):
            for name in rotated(list(samples), number):
                try:
                    samples[name].append(self._sample(peers[name], column))
                except NoFigure as reason:
                    self.without(f"{name} in {column.title}", reason)
                    del samples[name]
        return Figures(column.title, samples)

    def _sample(self, peer: Peer, column: Column) -> Sample:
        began_s = peer.cpu_s()
        load = as_fast_as_it_answers(peer, column.asking, self._seconds, self._scratch)
        used_s = peer.cpu_s() - began_s
        if not load.answered:
            raise NoFigure(f"not one answer in {self._seconds} s")
        return Sample(
            per_s=load.answered / load.seconds,
            cpu_us=used_s / load.answered * 1e6,
            busy=min(1.0, used_s / load.seconds),
            answered=load.answered,
            failed=load.failed,
        )


def rotated(names: list[str], number: int) -> list[str]:
    """The names in another order in each round: nobody always comes after the same one's heat."""
    place = number % len(names) if names else 0
    return names[place:] + names[:place]


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
    add("--parts", type=names_of(PARTS), default=PARTS, help=f"of {', '.join(PARTS)} (default: all)")
    add("--quick", action="store_true", help="one round of a second, two columns, three servers: does it run?")
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


def names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """For argparse: names from a list, separated by commas."""

    def names(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",")]
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is not one of {', '.join(known)}")
        return chosen

    return names


def measure(bench: Bench, arguments: argparse.Namespace) -> Results:
    """All that was asked for, one after the other; what is known is printed at once."""
    known, results = columns(), Results()
    for name in arguments.columns:
        column, figures = known[name], None
        if "throughput" in arguments.parts:
            with bench.forgiving(column.title):
                figures = bench.throughput(column, arguments.peers)
                results.throughput.append(figures)
                show(column.title, column_table(figures))
        if "latency" in arguments.parts and name in LATENCY_COLUMNS:
            with bench.forgiving(f"latency of {column.title}"):
                results.latency.append(bench.latency(column, figures))
                show(f"{column.title}, open loop", latency_table(results.latency[-1:]))
        if "access-log" in arguments.parts and name in ACCESS_LOG_COLUMNS:
            with bench.forgiving(f"access log, {column.title}"):
                results.access_log.append(bench.access_log(column))
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
    if not Path("/proc/self/stat").exists():
        print("benchmarks.http reads /proc and needs Linux", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    pin(LOAD_CORE)
    with TemporaryDirectory(prefix="gserver-bench-") as scratch:
        bench = Bench(arguments.rounds, arguments.seconds, Path(scratch))
        try:
            summarise(bench, measure(bench, arguments), arguments)
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
