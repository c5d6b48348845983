"""python -m benchmarks.samememory --trace FILE.csv.gz: the same requests to each server, in the same memory.

Each server is alone in a memory cgroup of 128 MiB, in which its page cache counts; so a cache of its own and the
kernel's compete for the same bytes, as on a small machine. The files are as large as the trace says and asked for
over HTTP in its order, by a closed loop over a few connections. Every server begins with nothing in memory. What
counts is what was read from the disk; how long that took depends on the disk. Linux, and root for the cgroup.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import cgroups, report, traces
from benchmarks.clients import stats
from benchmarks.command import listed, names_of, run
from benchmarks.peers import GSERVER, KINDS, Missing, Peer, serving
from benchmarks.replay import Broken, Wanted, replay
from benchmarks.traces import MIB, Trace
from fileserver.options import size
from lrucache import POLICIES

MEMORY_BYTES = 128 * MIB
CACHES = "32MiB,64MiB,80MiB"
"""Ours: a quarter and half of the memory, and all that the interpreter leaves."""
PEERS = "nginx sendfile,lighttpd,caddy,varnish"
FILES_BYTES = 4 << 30
"""Of a larger trace only the beginning is replayed: writing its files would take longer than measuring."""
CONNECTIONS = 8
ROUNDS = 3
REPLAY_MAX_S = 600.0

SETTLE_S = 2.5
"""Ours reads a file once more that was stored within two seconds of its time stamp; none of these is so young."""

PAGE_CACHE, PAGE_CACHES = "--page-cache", ("keep", "drop")
"""gserver's option, where it has it: whether the kernel may keep what is stored in the cache, too."""

NO_ROOM = "killed: the memory does not suffice"


@dataclass(frozen=True, slots=True)
class Subject:
    """A server to measure, and how it is called in the table."""

    kind: str
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`nginx sendfile`, or `gserver --cache 64MiB --policy lru`."""
        return " ".join((self.kind, *self.options))


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is the same for all: the memory, the disk that is counted, the files and the requests."""

    memory_bytes: int
    disk: str
    folder: Path
    queue: Sequence[Wanted]
    connections: int


@dataclass(frozen=True, slots=True)
class Figures:
    """One replay. Sizes in bytes; `own_bytes` and `pages_bytes` as they were at the end of it."""

    disk_reads: float
    disk_bytes: float
    requests_per_s: float
    p99_s: float
    cpu_s_per_request: float
    peak_bytes: float | None
    own_bytes: float
    pages_bytes: float
    hit_ratio: float | None


class Results:
    """What came out for each subject, and why nothing came out for the others."""

    def __init__(self) -> None:
        self.figures: dict[Subject, list[Figures]] = {}
        self.reasons: dict[Subject, str] = {}
        self.versions: dict[str, str] = {}

    def rows(self) -> Iterator[list[str]]:
        """A row for each subject that answered everything, in the order of the first round."""
        for subject, rounds in self.figures.items():
            if subject not in self.reasons:
                yield [subject.name, *cells(medians(rounds))]


HEAD = ["server", "reads", "MiB read", "requests/s", "p99 ms", "CPU us", "peak", "own", "page cache MiB", "hits %"]


def cells(figures: Figures) -> list[str]:
    """The figures of a row, in the order of HEAD; `-` for what there is not."""
    return [
        report.short(figures.disk_reads),
        f"{figures.disk_bytes / MIB:,.0f}",
        report.short(figures.requests_per_s),
        f"{figures.p99_s * 1e3:.1f}",
        f"{figures.cpu_s_per_request * 1e6:.0f}",
        "-" if figures.peak_bytes is None else f"{figures.peak_bytes / MIB:.0f}",
        f"{figures.own_bytes / MIB:.0f}",
        f"{figures.pages_bytes / MIB:.0f}",
        "-" if figures.hit_ratio is None else f"{figures.hit_ratio:.1%}"[:-1],
    ]


def medians(rounds: Sequence[Figures]) -> Figures:
    """Each figure's median; None where any round has none."""
    figures: dict[str, Any] = {}
    for name in asdict(rounds[0]):
        column = [getattr(each, name) for each in rounds]
        figures[name] = None if None in column else statistics.median(column)
    return Figures(**figures)


def subjects(
    peers: Sequence[str], caches: Sequence[str], policies: Sequence[str], variants: Sequence[Sequence[str]]
) -> list[Subject]:
    """The other servers, and ours with each policy, each cache and each variant's options."""
    ours = [
        Subject("gserver", ("--cache", cache, "--policy", policy, *variant))
        for policy in policies
        for cache in caches
        for variant in variants
    ]
    return [*map(Subject, peers), *ours]


def variants_of_ours(usage: str, also: Sequence[Sequence[str]]) -> list[list[str]]:
    """Options to measure ours with: none, and each of `also`; all of them with each PAGE_CACHE, if it has that."""
    pages = [[PAGE_CACHE, what] for what in PAGE_CACHES] if PAGE_CACHE in usage else [[]]
    return [[*page_cache, *more] for more in ([], *also) for page_cache in pages]


def usage_of_ours() -> str:
    """What `gserver.py --help` says."""
    return subprocess.run(
        [sys.executable, str(GSERVER), "--help"], capture_output=True, text=True, timeout=30, check=True
    ).stdout


def measure(subject: Subject, conditions: Conditions) -> tuple[Figures, str]:
    """Replay all requests to one server that starts with an empty page cache; its figures and its version.

    Raises Missing when it cannot be started, Broken when it does not answer everything. Blocks.
    """
    cgroups.forget_pages()
    with cgroups.limited_group(conditions.memory_bytes, conditions.disk) as group:
        try:
            with serving(subject.kind, conditions.folder, options=subject.options, enter=entering(group)) as peer:
                free_bytes = cgroups.file_pages_bytes(peer.pids()) - group.content().mapped
                group.limit(conditions.memory_bytes - max(0, free_bytes))
                return replayed(peer, group, conditions), peer.version
        except (Broken, Missing, OSError) as problem:
            if group.killed():
                raise Broken(NO_ROOM) from problem
            if isinstance(problem, OSError):
                raise Broken(f"{problem.strerror or problem}") from problem
            raise


def entering(group: cgroups.Group) -> Callable[[], None]:
    """For the child that becomes the server: what it reads from here on, its program too, it pays for."""

    def enter() -> None:
        cgroups.forget_pages()
        group.enter()

    return enter


def replayed(peer: Peer, group: cgroups.Group, conditions: Conditions) -> Figures:
    """The figures of one replay. Raises Broken."""
    reads, cpu_s = group.reads(), peer.cpu_s()
    taken = replay(peer.host, peer.port, conditions.queue, connections=conditions.connections, max_s=REPLAY_MAX_S)
    reads, cpu_s = group.reads().since(reads), peer.cpu_s() - cpu_s
    content = group.content()
    if group.killed():
        raise Broken(NO_ROOM)
    return Figures(
        disk_reads=reads.requests,
        disk_bytes=reads.size_bytes,
        requests_per_s=len(conditions.queue) / taken.took_s,
        p99_s=report.percentile(taken.latencies_s, 99),
        cpu_s_per_request=cpu_s / len(conditions.queue),
        peak_bytes=group.peak_bytes(),
        own_bytes=content.own,
        pages_bytes=content.pages,
        hit_ratio=hit_ratio(peer) if peer.name == "gserver" else None,
    )


def hit_ratio(peer: Peer) -> float:
    """The part of ours' file answers that came from its cache."""
    said = stats(peer.port)
    return float(said["hits"] / max(1, said["file_answers"]))


def measure_all(all_subjects: Sequence[Subject], conditions: Conditions, rounds: int) -> Results:
    """Every server in every round, one after the other; who fails once is not asked again."""
    results = Results()
    for number in range(rounds):
        for subject in all_subjects:
            if subject in results.reasons:
                continue
            say(f"round {number + 1} of {rounds}: {subject.name}")
            try:
                figures, version = measure(subject, conditions)
            except (Broken, Missing) as problem:
                results.reasons[subject] = str(problem)
                continue
            results.figures.setdefault(subject, []).append(figures)
            results.versions[subject.kind] = version
    return results


def described(trace: Trace, whole: Trace, conditions: Conditions, rounds: int) -> str:
    """What was asked for, and under which conditions."""
    count = f"{len(trace.requests):,} requests"
    if len(trace.requests) < len(whole.requests):
        count = f"the first {len(trace.requests):,} of {len(whole.requests):,} requests"
    return (
        f"{trace.name}: {count} for {trace.asked_bytes() / MIB:,.0f} MiB, of {len(trace.sizes):,} files with "
        f"{trace.unique_bytes() / MIB:,.0f} MiB. {conditions.memory_bytes / MIB:.0f} MiB of memory for each, "
        f"page cache included; {conditions.connections} connections; median of {rounds}; "
        f"the kernel reads {cgroups.read_ahead_bytes(conditions.disk) >> 10} KiB ahead."
    )


def doubts(results: Results, trace: Trace) -> Iterator[str]:
    """A file that was asked for must have been read; less means that pages were in memory before."""
    for subject, rounds in results.figures.items():
        if subject not in results.reasons and medians(rounds).disk_bytes < trace.unique_bytes():
            yield f"{subject.name}: read less than the files have, so not all of them were cold: do not believe it"


def say(line: str) -> None:
    """Progress, beside what is printed for keeps."""
    print(line, file=sys.stderr, flush=True)


def sizes(text: str) -> list[str]:
    """An argument type: sizes between commas, as gserver takes them."""
    for word in listed(text):
        size(word)
    return listed(text)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog="benchmarks.samememory", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--trace", metavar="FILE", type=Path, help="time,object,size lines, .gz or not (default: a Zipf trace)")
    add("--limit", metavar="N", type=int, help="replay the first N requests only")
    add(
        "--files", metavar="SIZE", type=size, default=FILES_BYTES, help="and as many as need so large files (4GiB)"
    )
    add("--folder", metavar="DIR", type=Path, default=Path("/var/tmp"), help="where to make them: on a disk")
    add("--peers", metavar="A,B", type=names_of(KINDS), default=listed(PEERS), help=f"of {', '.join(KINDS)}")
    add("--cache", metavar="SIZES", type=sizes, default=sizes(CACHES), help=f"of gserver (default: {CACHES})")
    add(
        "--policy",
        metavar="A,B",
        type=names_of(POLICIES),
        default=list(POLICIES),
        help="of gserver (default: all)",
    )
    add("--also", metavar="OPTIONS", type=str.split, action="append", default=[], help="gserver with these too")
    add("--memory", metavar="SIZE", type=size, default=MEMORY_BYTES, help="for each server (default: 128MiB)")
    add("--connections", metavar="N", type=int, default=CONNECTIONS, help="of the client (default: %(default)s)")
    add("--rounds", metavar="N", type=int, default=ROUNDS, help="default: %(default)s")
    add("--json", metavar="FILE", type=Path, help="write all figures there")
    return parser.parse_args(arguments)


def chosen_trace(arguments: argparse.Namespace) -> tuple[Trace, Trace]:
    """What is replayed, and the whole of it. Raises OSError, ValueError."""
    if arguments.trace is None:
        say("no --trace FILE is given: independent requests with Zipf's popularity instead of real ones")
        whole = traces.zipf()
    else:
        whole = traces.read(arguments.trace)
    return traces.beginning(whole, requests=arguments.limit, files_bytes=arguments.files), whole


def compare(trace: Trace, whole: Trace, folder: Path, arguments: argparse.Namespace) -> None:
    """Make the files, measure, print. Raises Missing."""
    disk = cgroups.disk_of(folder)
    say(f"writing {trace.unique_bytes() / MIB:,.0f} MiB of files")
    traces.make_files(trace, folder)
    time.sleep(SETTLE_S)
    queue = [Wanted(str(number), trace.sizes[number]) for number in trace.requests]
    conditions = Conditions(arguments.memory, disk, folder, queue, arguments.connections)
    variants = variants_of_ours(usage_of_ours(), arguments.also)
    everyone = subjects(arguments.peers, arguments.cache, arguments.policy, variants)
    results = measure_all(everyone, conditions, arguments.rounds)
    print(report.heading("benchmarks.samememory", results.versions))
    print(described(trace, whole, conditions, arguments.rounds), end="\n\n")
    print(report.Table(HEAD, list(results.rows())).text())
    for line in (*doubts(results, trace), *(f"{each.name}: {why}" for each, why in results.reasons.items())):
        print(line)
    if arguments.json is not None:
        rounds = {each.name: [asdict(one) for one in taken] for each, taken in results.figures.items()}
        reasons = {each.name: why for each, why in results.reasons.items()}
        report.write_json(arguments.json, {"versions": results.versions, "rounds": rounds, "missing": reasons})


def main() -> int:
    """Run it; 0 also where it cannot run, which is said; 1 for a trace that cannot be read."""
    arguments = parse()
    try:
        trace, whole = chosen_trace(arguments)
    except (OSError, ValueError) as problem:
        print(f"benchmarks.samememory: {problem}", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory(prefix="gserver-bench-", dir=arguments.folder) as folder:
            compare(trace, whole, Path(folder), arguments)
    except (Missing, OSError) as problem:
        print(f"left out: {problem}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
