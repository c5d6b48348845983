"""python -m benchmarks.footprint: memory of idle connections and of a full cache, and time to the first answer.

Three measurements, all by default, or those that are named:

idle    what connections cost that have had one answer and ask no more, and whether others are slower beside them
start   from the start of `python gserver.py` to its first answer, against an interpreter that only imports what it
        stands on
memory  resident memory of gserver quiet, full, and after twice the cache's worth of evictions

Servers run on the first core, everything else on the second. Linux only; everything ends by itself.
"""

import argparse
import contextlib
import http.client
import json
import math
import os
import platform
import random
import re
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import report
from benchmarks.peers import HOST, PROJECT, Missing, Peer, free_port, installed, pin, serving

KIB = 1024
MIB = 1024 * KIB

SERVER_CORE, CLIENT_CORE = 0, 1

IDLE_SERVERS = ("gserver", "nginx sendfile", "lighttpd")
IDLE_TARGET_BYTES = 10 * KIB
"""Of resident memory for each idle connection."""
IDLE_S = "3600"
"""What gserver is told to wait for a next request; the others wait as long."""

SOURCES = [f"127.0.0.{last}" for last in range(2, 10)]
"""Clients' addresses, in turn: one has some 28,000 ports, and a closed connection keeps its own for a minute."""

SETTLE_S = 1.0
"""What a server may take to put away what it needs no more, before its memory is read."""

ACTIVE_CONNECTIONS = 64
ACTIVE_FILES = {"1KiB": KIB, "64KiB": 64 * KIB}
ACTIVE_TARGET = 0.9
"""Of the throughput without idle connections."""

IMPORTS_ONLY = "import gevent.server, httptools"
START_TARGET = 1.5
"""Times what IMPORTS_ONLY takes."""
RETRY_S = 0.001
START_MAX_S = 30.0
SHOWN_IMPORTS = 10

CACHE_BYTES = 64 * MIB
CACHE_ENTRIES = 65_536
LARGE_TARGET_BYTES = CACHE_BYTES + 50 * MIB
"""Of resident memory with a cache full of files of at least 64 KiB."""
SMALL_TARGET_BYTES = CACHE_BYTES + 110 * MIB
"""Of resident memory with CACHE_ENTRIES files of 1 KiB."""

FETCHERS = 8
"""Keep-alive connections that fill the cache."""
LINKS_MAX = 30_000
"""Names that share one small file on the disk; ext4 allows 65,000. The cache knows files by name."""

CLIENT_S = 60.0
"""What any single answer may take."""
RECEIVE_BYTES = 256 * KIB


# Clients.


class Client:
    """A keep-alive connection that knows just enough HTTP. Blocks; raises OSError, also for what is no 200."""

    def __init__(self, port: int, source: str = HOST) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=CLIENT_S, source_address=(source, 0))

    def ask(self, name: str) -> None:
        """Send a request and wait for nothing."""
        self._socket.sendall(f"GET /{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def answer(self) -> int:
        """Read one whole answer; the bytes of its body."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        head, _, beginning = received.partition(b"\r\n\r\n")
        length, got = body_length(head), len(beginning)
        while got < length:
            got += len(self._receive())
        return length

    def is_open(self) -> bool:
        """Whether the server has not hung up. The last that can be asked of a connection."""
        self._socket.setblocking(False)
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _receive(self) -> bytes:
        received = self._socket.recv(RECEIVE_BYTES)
        if not received:
            raise ConnectionResetError("the server hung up")
        return received


def body_length(head: bytes) -> int:
    """Content-Length of the head of a 200. Raises OSError on any other."""
    match = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    if match is None or not re.match(rb"HTTP/1\.1 200 ", head):
        raise OSError(f"not the answer that was expected: {head[:60]!r}")
    return int(match[1])


@contextlib.contextmanager
def clients(port: int, count: int) -> Iterator[list[Client]]:
    """So many open connections, from all SOURCES in turn."""
    with contextlib.ExitStack() as closing:
        opened = []
        for number in range(count):
            client = Client(port, SOURCES[number % len(SOURCES)])
            closing.callback(client.close)
            opened.append(client)
        yield opened


@contextlib.contextmanager
def idle_clients(port: int, count: int, name: str) -> Iterator[list[Client]]:
    """So many connections that have had the file once each and ask no more. Raises OSError if one was closed."""
    with clients(port, count) as idle:
        for client in idle:
            client.ask(name)
            client.answer()
        time.sleep(SETTLE_S)
        yield idle
        left = sum(not client.is_open() for client in idle)
        if left:
            raise OSError(f"{left} of {count} idle connections were closed by the server")


def requests_per_s(port: int, name: str, seconds: float) -> float:
    """Throughput of ACTIVE_CONNECTIONS that ask for the same file. Blocks. Raises Missing and OSError."""
    line = [installed("wrk", "wrk"), "-t1", f"-c{ACTIVE_CONNECTIONS}", f"-d{math.ceil(seconds)}s"]
    said = subprocess.run(
        [*line, f"http://{HOST}:{port}/{name}"],
        capture_output=True,
        text=True,
        timeout=seconds + CLIENT_S,
        check=True,
    )
    return wrk_rate(said.stdout)


def wrk_rate(said: str) -> float:
    """Requests per second in what wrk prints. Raises OSError when not all of them were answered well."""
    rate = re.search(r"^Requests/sec:\s*([\d.]+)", said, re.MULTILINE)
    failed = re.search(r"^\s*(Non-2xx.*|Socket errors.*)$", said, re.MULTILINE)
    if rate is None or failed:
        raise OSError(f"wrk: {failed[1] if failed else 'no figure'}")
    return float(rate[1])


# Idle connections.


@dataclass(frozen=True, slots=True)
class Idle:
    """A server with and without idle connections: its resident bytes, and requests/s by file, round by round."""

    before_bytes: int
    with_bytes: int
    connections: int
    alone: dict[str, list[float]]
    beside: dict[str, list[float]]

    @property
    def each_bytes(self) -> float:
        """Of one connection."""
        return (self.with_bytes - self.before_bytes) / self.connections


def measure_idle(kind: str, folder: Path, connections: int, rounds: int, seconds: float) -> tuple[str, Idle]:
    """A server's version and figures. Raises Missing and OSError."""
    options = ("--max-connections", str(connections + 2 * ACTIVE_CONNECTIONS), "--idle-timeout", IDLE_S)
    with serving(kind, folder, core=SERVER_CORE, options=options) as peer:
        warm_up(peer)
        before_bytes = with_bytes = peer.rss_bytes()
        alone: dict[str, list[float]] = {file: [] for file in ACTIVE_FILES}
        beside: dict[str, list[float]] = {file: [] for file in ACTIVE_FILES}
        for number in range(rounds):
            if number % 2:
                measure_active(peer, alone, seconds)
            with idle_clients(peer.port, connections, "1KiB"):
                if number == 0:
                    with_bytes = peer.rss_bytes()
                measure_active(peer, beside, seconds)
            time.sleep(SETTLE_S)
            if not number % 2:
                measure_active(peer, alone, seconds)
        return peer.version, Idle(before_bytes, with_bytes, connections, alone, beside)


def warm_up(peer: Peer) -> None:
    """Let the server do once what it will be asked for."""
    with clients(peer.port, ACTIVE_CONNECTIONS) as warm:
        for client in warm:
            for file in ACTIVE_FILES:
                client.ask(file)
                client.answer()
    time.sleep(SETTLE_S)


def measure_active(peer: Peer, figures: dict[str, list[float]], seconds: float) -> None:
    """One more figure for each file."""
    for file in ACTIVE_FILES:
        figures[file].append(requests_per_s(peer.port, file, seconds))


def idle(arguments: argparse.Namespace) -> dict[str, Any]:
    """All servers' idle connections, printed; their figures."""
    found: dict[str, Idle] = {}
    versions = {}
    with TemporaryDirectory() as folder:
        for file, size in ACTIVE_FILES.items():
            (Path(folder) / file).write_bytes(random.Random(size).randbytes(size))
        for kind in IDLE_SERVERS:
            try:
                versions[kind], found[kind] = measure_idle(
                    kind, Path(folder), arguments.connections, arguments.rounds, arguments.seconds
                )
            except (Missing, OSError) as problem:
                print(f"{kind}: left out: {problem}", flush=True)
    print_idle(found, versions)
    return {"versions": versions, "servers": {kind: asdict(one) for kind, one in found.items()}}


def print_idle(found: dict[str, Idle], versions: dict[str, str]) -> None:
    """Memory and throughput of each server, and whether gserver's are what they must be."""
    head = ["server", "RSS without", "with", "each"]
    rows = [
        [
            f"{kind}, {one.connections:,}",
            mib(one.before_bytes),
            mib(one.with_bytes),
            f"{one.each_bytes:,.0f} bytes",
        ]
        for kind, one in found.items()
    ]
    print(report.Table(head, rows).text(), end="\n\n")
    head = [f"{ACTIVE_CONNECTIONS} active connections", "file", "alone", "beside idle ones", "ratio by round"]
    rows = [
        [
            kind,
            file,
            f"{report.short(report.spread(one.alone[file]).median)}/s",
            f"{report.short(report.spread(one.beside[file]).median)}/s",
            str(report.ratios(one.beside[file], one.alone[file])),
        ]
        for kind, one in found.items()
        for file in ACTIVE_FILES
    ]
    print(report.Table(head, rows).text())
    ours = found.get("gserver")
    if ours is not None:
        worst = min(report.ratios(ours.beside[file], ours.alone[file]).median for file in ACTIVE_FILES)
        judge("bytes for an idle connection", round(ours.each_bytes), IDLE_TARGET_BYTES)
        judge("of the throughput beside them", worst, ACTIVE_TARGET, at_least=True)
    print(flush=True)


# The start.


def on_server_core(command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a program where servers run, with whatever Python compiles kept for the next time."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    pin(SERVER_CORE)
    try:
        return subprocess.Popen(command, env=environment, cwd=PROJECT, stdin=subprocess.DEVNULL, **options)
    finally:
        pin(CLIENT_CORE)


def first_answer_s(folder: Path, *, python: Sequence[str] = (), errors: Any = subprocess.DEVNULL) -> float:
    """Seconds from starting gserver to the first byte of its first answer. Raises OSError when there is none."""
    port = free_port()
    line = [sys.executable, *python, str(PROJECT / "gserver.py"), str(port), str(folder), "--log-level", "warning"]
    began_s = time.perf_counter()
    process = on_server_core(line, stderr=errors)
    try:
        while True:
            with socket.socket() as client:
                client.settimeout(START_MAX_S)
                if client.connect_ex((HOST, port)) == 0:
                    client.sendall(b"GET /file HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    if not client.recv(1):
                        raise OSError("gserver hung up")
                    return time.perf_counter() - began_s
            if process.poll() is not None or time.perf_counter() - began_s > START_MAX_S:
                raise OSError("gserver does not start")
            time.sleep(RETRY_S)
    finally:
        process.terminate()
        process.wait()


def imports_s() -> float:
    """Seconds that an interpreter takes from start to end with IMPORTS_ONLY. Raises OSError when it fails."""
    began_s = time.perf_counter()
    process = on_server_core([sys.executable, "-c", IMPORTS_ONLY])
    ended = os.pidfd_open(process.pid)  # `wait` with a timeout looks now and then, and so ends too late
    try:
        select.select([ended], [], [], START_MAX_S)
        took_s = time.perf_counter() - began_s
    finally:
        os.close(ended)
        process.kill()
    if process.wait() != 0:
        raise OSError(f"{IMPORTS_ONLY!r} fails")
    return took_s


def start(arguments: argparse.Namespace) -> dict[str, Any]:
    """Starts in alternating rounds, printed; their seconds."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "file").write_bytes(b"x" * KIB)
        first_answer_s(folder), imports_s()  # all is compiled and in the page cache from here on
        answers, imports = [], []
        for _ in range(arguments.starts):
            answers.append(first_answer_s(folder))
            imports.append(imports_s())
        ratio = report.ratios(answers, imports)
        head = ["start", "median", "lowest", "highest"]
        rows = [
            [what, *(f"{1000 * second:.0f} ms" for second in asdict(report.spread(seconds)).values())]
            for what, seconds in {"gserver to its first answer": answers, IMPORTS_ONLY: imports}.items()
        ]
        print(report.Table(head, rows).text(), f"ratio by round: {ratio}", sep="\n")
        judge("times the imports alone", ratio.median, START_TARGET)
        print(flush=True)
        if arguments.profile:
            print_imports(folder)
    return {"first_answer_s": answers, "imports_s": imports}


@dataclass(frozen=True, slots=True)
class Import:
    """What `python -X importtime` says of a module; `whole_us` with all that it imports first."""

    module: str
    own_us: int
    whole_us: int


def import_times(said: str) -> list[Import]:
    """The modules that were imported, most expensive with all they need first."""
    lines = re.findall(r"^import time:\s*(\d+) \|\s*(\d+) \|\s*(\S+)$", said, re.MULTILINE)
    found = [Import(module, int(own_us), int(whole_us)) for own_us, whole_us, module in lines]
    return sorted(found, key=lambda one: one.whole_us, reverse=True)


def print_imports(folder: Path) -> None:
    """The most expensive imports of one start."""
    with (folder / "imports").open("w+") as said:
        first_answer_s(folder, python=["-X", "importtime"], errors=said)
        said.seek(0)
        times = import_times(said.read())
    head = ["import", "with what it needs", "alone"]
    rows = [
        [one.module, f"{one.whole_us / 1000:.1f} ms", f"{one.own_us / 1000:.1f} ms"]
        for one in islice(times, SHOWN_IMPORTS)
    ]
    print(report.Table(head, rows).text(), f"{len(times)} modules", "", sep="\n", flush=True)


# The memory of a cache.


@dataclass(frozen=True, slots=True)
class Filling:
    """Files that fill the cache, then twice as many more; and what gserver may hold with them."""

    files: str
    make: Callable[[Path], list[str]]
    target_bytes: int
    options: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """A server at one moment: resident bytes, the most there ever were, and what its cache says."""

    moment: str
    rss_bytes: int
    peak_bytes: int
    cached: int
    entries: int
    evictions: int


def mixed_sizes(total: int, smallest: int, largest: int, seed: int) -> list[int]:
    """Sizes from `smallest` to `largest`, each magnitude as likely, that add up to `total` exactly.

    `total` must be at least `smallest`, and `largest` at least twice as much.
    """
    choose = random.Random(seed)
    sizes: list[int] = []
    left = total
    while left > largest:
        size = round(math.exp(choose.uniform(math.log(smallest), math.log(largest))))
        size = min(size, left - smallest)
        sizes.append(size)
        left -= size
    return [*sizes, left]


def write_files(folder: Path, sizes: Sequence[int]) -> list[str]:
    """Files of these sizes; their names."""
    content = random.Random(0).randbytes(max(sizes))
    for number, size in enumerate(sizes):
        (folder / str(number)).write_bytes(content[:size])
    return list(map(str, range(len(sizes))))


def equal_files(folder: Path) -> list[str]:
    """64 KiB each, three caches full."""
    return write_files(folder, [64 * KIB] * (3 * CACHE_BYTES // (64 * KIB)))


def mixed_files(folder: Path) -> list[str]:
    """64 KiB to 1 MiB, three caches full."""
    caches = [mixed_sizes(CACHE_BYTES, 64 * KIB, MIB, seed) for seed in range(3)]
    return write_files(folder, [size for cache in caches for size in cache])


def small_files(folder: Path) -> list[str]:
    """1 KiB each, three caches full of names. Few files under many names: there would not always be room."""
    names = [f"{number:06}" for number in range(3 * CACHE_ENTRIES)]
    for first in range(0, len(names), LINKS_MAX):
        original = folder / names[first]
        original.write_bytes(b"x" * KIB)
        for name in names[first + 1 : first + LINKS_MAX]:
            os.link(original, folder / name)
    return names


FILLINGS = (
    Filling("64 KiB", equal_files, LARGE_TARGET_BYTES),
    Filling("64 KiB to 1 MiB", mixed_files, LARGE_TARGET_BYTES),
    Filling("64 KiB to 1 MiB, read by threads", mixed_files, LARGE_TARGET_BYTES, ("--io", "pool")),
    Filling("1 KiB", small_files, SMALL_TARGET_BYTES),
)


def cache_full(names: Sequence[str], folder: Path) -> int:
    """How many of these files, from the first on, fit the cache."""
    held = count = 0
    for name in names[:CACHE_ENTRIES]:
        held += (folder / name).stat().st_size
        if held > CACHE_BYTES:
            break
        count += 1
    return count


def fetch_all(port: int, names: Sequence[str]) -> None:
    """Ask for each file once, over FETCHERS connections at a time."""
    with clients(port, FETCHERS) as fetchers:
        for first in range(0, len(names), FETCHERS):
            asked = list(zip(fetchers, names[first : first + FETCHERS], strict=False))
            for client, name in asked:
                client.ask(name)
            for client, _ in asked:
                client.answer()


def held_by(peer: Peer, moment: str) -> Held:
    """What a gserver holds when it has come to rest."""
    time.sleep(SETTLE_S)
    rss_bytes = peer.rss_bytes()
    status = Path(f"/proc/{peer.pids()[0]}/status").read_text()
    peak = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    connection = http.client.HTTPConnection(HOST, peer.port, timeout=CLIENT_S)
    try:
        connection.request("GET", "/-/stats")
        stats = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return Held(
        moment,
        rss_bytes,
        int(peak[1]) * KIB if peak else rss_bytes,
        stats["cached"],
        stats["entries"],
        stats["evictions"],
    )


def measure_filling(filling: Filling) -> list[Held]:
    """Quiet, full, and after twice as many evictions. Raises Missing and OSError."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        names = filling.make(folder)
        full = cache_full(names, folder)
        with serving("gserver", folder, core=SERVER_CORE, options=filling.options) as peer:
            moments = [held_by(peer, "quiet")]
            for moment, asked in {"full": names[:full], "later": names[full:]}.items():
                fetch_all(peer.port, asked)
                moments.append(held_by(peer, moment))
            return moments


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """All fillings, printed; their figures."""
    found = {filling.files: measure_filling(filling) for filling in FILLINGS}
    head = ["files", "gserver is", "RSS", "at most so far", "cached", "entries", "evictions"]
    rows = [
        [
            files,
            held.moment,
            mib(held.rss_bytes),
            mib(held.peak_bytes),
            mib(held.cached),
            f"{held.entries:,}",
            f"{held.evictions:,}",
        ]
        for files, moments in found.items()
        for held in moments
    ]
    print(report.Table(head, rows).text())
    for filling in FILLINGS:
        most = max(held.rss_bytes for held in found[filling.files])
        judge(f"MiB with files of {filling.files}", round(most / MIB, 1), filling.target_bytes // MIB)
    print(flush=True)
    return {files: [asdict(held) for held in moments] for files, moments in found.items()}


# The program.


def mib(count: float) -> str:
    """Bytes in MiB: `12.3 MiB`."""
    return f"{count / MIB:.1f} MiB"


def judge(what: str, figure: float, target: float, *, at_least: bool = False) -> None:
    """Say whether a figure is what it must be."""
    is_reached = figure >= target if at_least else figure <= target
    bound = "at least" if at_least else "at most"
    print(f"{'reached' if is_reached else 'MISSED ':8} {figure:,.4g} {what} ({bound} {target:,.4g})")


MEASUREMENTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "idle": idle,
    "start": start,
    "memory": memory,
}


def parse(line: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("measurements", nargs="*", metavar="MEASUREMENT", help=f"{', '.join(MEASUREMENTS)} (default: all)")
    add("--connections", type=int, default=10_000, metavar="N", help="idle ones (default: %(default)s)")
    add("--rounds", type=int, default=5, metavar="N", help="with and without idle ones (default: %(default)s)")
    add(
        "--seconds", type=float, default=3.0, metavar="S", help="of throughput for a figure (default: %(default)s)"
    )
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


def raise_descriptor_limit(connections: int) -> None:
    """Let this process hold so many connections. Raises OSError when the system does not."""
    needed = connections + 2 * ACTIVE_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise OSError(f"{connections} connections need {needed} descriptors, {hard} are allowed (ulimit -Hn)")
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def main() -> int:
    """Measure and print; the exit code."""
    arguments = parse()
    if not Path("/proc/self/statm").exists():
        print("benchmarks.footprint reads /proc and needs Linux", file=sys.stderr)
        return 1
    versions = {"Python": platform.python_version(), "gevent": metadata.version("gevent")}
    print(report.heading("benchmarks.footprint", versions), end="\n\n", flush=True)
    pin(CLIENT_CORE)
    figures: dict[str, Any] = {}
    try:
        raise_descriptor_limit(arguments.connections)
        for name in arguments.measurements or MEASUREMENTS:
            figures[name] = MEASUREMENTS[name](arguments)
    except (Missing, OSError) as problem:
        print(f"benchmarks.footprint: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if arguments.json:
        report.write_json(arguments.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
