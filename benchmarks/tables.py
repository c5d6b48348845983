"""The figures of `benchmarks.http` and the tables that are made of them. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.load import LATE_MS, Latencies
from benchmarks.report import Spread, Table, ratios, short, spread

REFERENCES = ("nginx sendfile", "nginx copy")

BUSY = 0.9
"""A server that used less of its core was not at its limit."""

HELD = 0.9
"""Of a rate; below it requests queue up for ever, and how long they wait says nothing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One server in one round."""

    per_s: float
    cpu_us: float
    """Of the server, for each request."""
    system_us: float
    """The kernel's part of it."""
    busy: float
    """Share of its core that the server used."""
    answered: int
    failed: int


@dataclass(frozen=True, slots=True)
class Figures:
    """A column of the table: the samples of each server, round by round."""

    title: str
    samples: Mapping[str, Sequence[Sample]]

    def per_s(self, name: str) -> float:
        """The median of its requests per second."""
        return statistics.median(sample.per_s for sample in self.samples[name])

    def cpu_us(self, name: str) -> float:
        """The median of its CPU time per request, in microseconds."""
        return statistics.median(sample.cpu_us for sample in self.samples[name])

    def system_us(self, name: str) -> float:
        """The median of the kernel's part of it."""
        return statistics.median(sample.system_us for sample in self.samples[name])

    def busy(self, name: str) -> float:
        """The median share of its core that it used."""
        return statistics.median(sample.busy for sample in self.samples[name])

    def failed(self, name: str) -> int:
        """Requests that got an error or nothing, in all rounds."""
        return sum(sample.failed for sample in self.samples[name])

    def reference(self) -> str | None:
        """The faster nginx, if there is one."""
        return max((name for name in REFERENCES if name in self.samples), key=self.per_s, default=None)

    def throughput(self, name: str, reference: str) -> Spread:
        """Requests per second against the reference, pair by pair."""
        return ratios(*([sample.per_s for sample in self.samples[each]] for each in (name, reference)))

    def cpu(self, name: str, reference: str) -> Spread:
        """CPU time per request against the reference, pair by pair."""
        return ratios(*([sample.cpu_us for sample in self.samples[each]] for each in (name, reference)))


@dataclass(frozen=True, slots=True)
class Logged:
    """gserver `without` and `with` an access log, and the lines in it."""

    figures: Figures
    lines: int


@dataclass(frozen=True, slots=True)
class Paced:
    """A column at a steady rate: the latencies of the reference and of gserver, round by round."""

    title: str
    reference: str
    rounds: Mapping[str, Sequence[Latencies]]


def column_table(figures: Figures) -> Table:
    """All that is known of a column, for the terminal."""
    reference = figures.reference()
    rows = []
    for name in figures.samples:
        remarks = []
        if figures.busy(name) < BUSY:
            remarks.append("judged by CPU")
        if failed := figures.failed(name):
            remarks.append(f"{failed:,} failed")
        rows.append(
            [
                name,
                short(figures.per_s(name)),
                str(figures.throughput(name, reference)) if reference else "-",
                f"{figures.cpu_us(name):,.1f}",
                str(figures.cpu(name, reference)) if reference else "-",
                f"{figures.busy(name):.0%}",
                ", ".join(remarks),
            ]
        )
    head = ["server", "requests/s", "ratio", "CPU us", "ratio", "busy", ""]
    return Table(head, rows)


def throughput_table(taken: Sequence[Figures]) -> Table:
    """Servers against columns, for a README: throughput / CPU per request, against the reference."""
    names = list(dict.fromkeys(name for figures in taken for name in figures.samples))
    rows = [["reference, requests/s", *map(peak_cell, taken)]]
    rows += [[name, *(ratio_cell(figures, name) for figures in taken)] for name in names]
    return Table(["throughput / CPU per request", *(figures.title for figures in taken)], rows)


def peak_cell(figures: Figures) -> str:
    """`93.1k (nginx copy)`."""
    reference = figures.reference()
    return f"{short(figures.per_s(reference))} ({reference})" if reference else "no nginx here"


def ratio_cell(figures: Figures, name: str) -> str:
    """`0.91 / 1.11`, with a star where the server was not busy, and what failed."""
    reference = figures.reference()
    if name not in figures.samples:
        return ""
    if reference is None:
        return f"{short(figures.per_s(name))}/s"
    star = "*" if figures.busy(name) < BUSY else ""
    failed = f" ({figures.failed(name):,} failed)" if figures.failed(name) else ""
    throughput, cpu = figures.throughput(name, reference), figures.cpu(name, reference)
    return f"{throughput.median:.2f} / {cpu.median:.2f}{star}{failed}"


def latency_table(taken: Sequence[Paced]) -> Table:
    """p50, p99 and the slowest at a steady rate; medians of the rounds, the slowest of all."""
    rows = []
    for paced in taken:
        reference_p99 = [each.p99_ms for each in paced.rounds[paced.reference]]
        for name, rounds in paced.rounds.items():
            busy = max(each.busy for each in rounds)
            failed = sum(each.failed for each in rounds)
            held_per_s = statistics.median(each.held_per_s for each in rounds)
            remarks = ["does not hold the rate"] if held_per_s < HELD * rounds[0].asked_per_s else []
            remarks += [f"h2load {busy:.0%} busy"] if busy > BUSY else []
            remarks += [f"{failed:,} failed"] if failed else []
            rows.append(
                [
                    f"{paced.title}: {name}",
                    short(rounds[0].asked_per_s),
                    short(held_per_s),
                    f"{statistics.median(each.p50_ms for each in rounds):.2f}",
                    f"{spread([each.p99_ms for each in rounds])}",
                    f"{max(each.max_ms for each in rounds):.1f}",
                    str(ratios([each.p99_ms for each in rounds], reference_p99)),
                    f"{sum(each.late for each in rounds):,}",
                    ", ".join(remarks),
                ]
            )
    head = ["open loop", "asked/s", "answered/s", "p50 ms", "p99 ms", "max ms", "p99 ratio", f"> {LATE_MS} ms", ""]
    return Table(head, rows)


def access_log_table(taken: Sequence[Logged]) -> Table:
    """What the log costs, in per cent, medians of the rounds; and whether it was written."""
    rows = []
    for logged in taken:
        figures = logged.figures
        throughput, cpu = figures.throughput("with", "without"), figures.cpu("with", "without")
        written = logged.lines / sum(sample.answered for sample in figures.samples["with"])
        rows.append(
            [figures.title, f"{1 - throughput.median:.1%}", f"{cpu.median - 1:.1%}", f"{min(written, 1):.0%}"]
        )
    return Table(["access log on", "throughput lost", "more CPU per request", "answers logged"], rows)
