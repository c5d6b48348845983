"""Connections that have had one answer and ask no more: the memory of each, and the throughput of others beside.

A part of `benchmarks.footprint`.
"""

import random
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.clients import Client, Refused, clients
from benchmarks.load import Asking, NoFigure, as_fast_as_it_answers
from benchmarks.peers import REST_S, Missing, Peer, serving
from benchmarks.report import Table, judgement, mib, ratios, short, spread
from benchmarks.workloads import KIB

SERVERS = ("gserver", "nginx sendfile", "lighttpd")

EACH_TARGET_BYTES = 10 * KIB
"""Of resident memory for each idle connection."""

PATIENCE_S = "3600"
"""What gserver is told to wait for a next request; the others wait as long."""

ACTIVE_CONNECTIONS = 64
ACTIVE_FILES = {"1KiB": KIB, "64KiB": 64 * KIB}
ACTIVE_TARGET = 0.9
"""Of the throughput without idle connections."""


@dataclass(frozen=True, slots=True)
class Idle:
    """A server with and without idle connections: its resident bytes, and requests/s by file, round by round."""

    version: str
    before_bytes: int
    with_bytes: int
    connections: int
    alone: Mapping[str, Sequence[float]]
    beside: Mapping[str, Sequence[float]]

    @property
    def each_bytes(self) -> float:
        """Of one connection."""
        return (self.with_bytes - self.before_bytes) / self.connections


def measure_all(connections: int, rounds: int, seconds: int) -> dict[str, Idle]:
    """All servers that can be had; why another cannot is printed. Blocks. Raises Missing."""
    raise_descriptor_limit(connections)
    found = {}
    with TemporaryDirectory(prefix="gserver-bench-") as folder:
        for file, size in ACTIVE_FILES.items():
            (Path(folder) / file).write_bytes(random.Random(size).randbytes(size))
        for kind in SERVERS:
            try:
                found[kind] = measure(kind, Path(folder), connections, rounds, seconds)
            except (Missing, NoFigure, Refused, OSError) as problem:
                print(f"left out: {kind}: {problem}", flush=True)
    return found


def measure(kind: str, folder: Path, connections: int, rounds: int, seconds: int) -> Idle:
    """A server's figures. Raises Missing, NoFigure, Refused and OSError; blocks."""
    options = ("--max-connections", str(connections + 2 * ACTIVE_CONNECTIONS), "--idle-timeout", PATIENCE_S)
    alone: dict[str, list[float]] = {file: [] for file in ACTIVE_FILES}
    beside: dict[str, list[float]] = {file: [] for file in ACTIVE_FILES}
    with serving(kind, folder, options=options) as peer:
        warm_up(peer)
        before_bytes = with_bytes = peer.rss_bytes()
        for number in range(rounds):
            if number % 2:
                measure_active(peer, alone, seconds)
            with idle_clients(peer.port, connections, "1KiB"):
                if number == 0:
                    with_bytes = peer.rss_bytes()
                measure_active(peer, beside, seconds)
            time.sleep(REST_S)
            if not number % 2:
                measure_active(peer, alone, seconds)
    return Idle(peer.version, before_bytes, with_bytes, connections, alone, beside)


def warm_up(peer: Peer) -> None:
    """Let the server do once what it will be asked for."""
    with clients(peer.port, ACTIVE_CONNECTIONS) as warm:
        for client in warm:
            for file in ACTIVE_FILES:
                client.ask(file)
                client.answer()
    time.sleep(REST_S)


def measure_active(peer: Peer, figures: Mapping[str, list[float]], seconds: int) -> None:
    """The throughput of ACTIVE_CONNECTIONS, one more figure for each file. Raises Missing and NoFigure; blocks."""
    for file in ACTIVE_FILES:
        with TemporaryDirectory(prefix="gserver-bench-") as scratch:
            asking = Asking([file], connections=ACTIVE_CONNECTIONS)
            load = as_fast_as_it_answers(peer, asking, seconds, Path(scratch))
        if load.failed or not load.answered:
            raise NoFigure(f"{load.answered} answers, and {load.failed} failed")
        figures[file].append(load.answered / load.seconds)


@contextmanager
def idle_clients(port: int, count: int, name: str) -> Iterator[list[Client]]:
    """So many connections that have had the file once each and ask no more. Raises Refused if one was closed."""
    with clients(port, count) as idle:
        for client in idle:
            client.ask(name)
            client.answer()
        time.sleep(REST_S)
        yield idle
        left = sum(not client.is_open() for client in idle)
        if left:
            raise Refused(f"{left} of {count} idle connections were closed by the server")


def raise_descriptor_limit(connections: int) -> None:
    """Let this process hold so many connections. Raises Missing when the system does not."""
    needed = connections + 2 * ACTIVE_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Missing(f"{connections} connections need {needed} descriptors, {hard} are allowed (ulimit -Hn)")
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def memory_table(found: Mapping[str, Idle]) -> Table:
    """What each connection costs."""
    rows = [
        [
            f"{kind}, {one.connections:,}",
            mib(one.before_bytes),
            mib(one.with_bytes),
            f"{one.each_bytes:,.0f} bytes",
        ]
        for kind, one in found.items()
    ]
    return Table(["server, idle connections", "RSS without", "with", "each"], rows)


def throughput_table(found: Mapping[str, Idle]) -> Table:
    """What active connections get, alone and beside idle ones."""
    rows = [
        [
            kind,
            file,
            f"{short(spread(one.alone[file]).median)}/s",
            f"{short(spread(one.beside[file]).median)}/s",
            str(ratios(one.beside[file], one.alone[file])),
        ]
        for kind, one in found.items()
        for file in ACTIVE_FILES
    ]
    head = [f"{ACTIVE_CONNECTIONS} active connections", "file", "alone", "beside idle ones", "ratio by round"]
    return Table(head, rows)


def judgements(ours: Idle) -> Iterator[str]:
    """Whether gserver's figures are what they must be."""
    worst = min(ratios(ours.beside[file], ours.alone[file]).median for file in ACTIVE_FILES)
    yield judgement("bytes for an idle connection", ours.each_bytes, at_most=EACH_TARGET_BYTES)
    yield judgement("of the throughput beside them", worst, at_least=ACTIVE_TARGET)
