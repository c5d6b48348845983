"""python -m benchmarks.fills: what a cold file costs, what blocked readers hold, and what slow misses do to hits.

Each figure is taken from a gserver of its own on a free loopback port: one core for it, the other for the clients,
where there are two. Bounded in count and time. Machines differ and are noisy: read the ratios.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import gevent
from gevent import socket

from tests.program import Program

MIB = 1 << 20
KIB = 1 << 10

SLOW_S = 0.2
SLOW_MISSES = 50
HITS = 2000
HIT_EVERY_S = 0.002

TINY_FILES = 60_000
TINY_CACHE = 15 * MIB
TINY_REQUESTS = 40_000
ROUNDS = 3

REQUEST = "GET /{} HTTP/1.1\r\nHost: x\r\n\r\n"

SLOW_DISK = f"""
from fileserver.root import Root
from gevent.monkey import get_original
import errno
wait, read = get_original("time", "sleep"), Root.open
def slow(self, name, first_max=0, *, cached=False):
    if name.startswith("cold"):
        if cached:
            raise BlockingIOError(errno.EAGAIN, "a slow disk")
        wait({SLOW_S})
    return read(self, name, first_max, cached=cached)
Root.open = slow
"""


class Client:
    """One keep-alive connection that knows just enough HTTP."""

    def __init__(self, server: Program, receive_buffer: int = 0) -> None:
        self._socket = socket.socket()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(120)
        self._socket.connect((server.host, server.port))

    def ask(self, name: str) -> None:
        """Send a request and wait for nothing."""
        self._socket.sendall(REQUEST.format(name).encode())

    def head(self) -> bytes:
        """The beginning of the answer."""
        return bytes(self._socket.recv(100))

    def fetch(self, name: str) -> int:
        """Bytes of the whole body."""
        self.ask(name)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._socket.recv(256 * KIB)
        head, _, body = received.partition(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        got = len(body)
        while got < length:
            got += len(self._socket.recv(256 * KIB))
        return got

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


@contextmanager
def serving(folder: Path, *options: str, changes: str = "") -> Iterator[Program]:
    """A gserver on the first core, the clients on the second."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    with Program(folder, *options, changes=changes) as server:
        if len(cores) > 1:
            os.sched_setaffinity(server.process.pid, cores[:1])
            os.sched_setaffinity(0, cores[1:])
        try:
            yield server
        finally:
            if len(cores) > 1:
                os.sched_setaffinity(0, cores)


def cpu_s(pid: int) -> float:
    """Processor seconds a process has used, where /proc says so."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def tcp_bytes() -> int:
    """Memory of all TCP sockets of this machine, as the kernel counts it."""
    line = next(line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:"))
    return int(line.split()[-1]) * os.sysconf("SC_PAGE_SIZE")


def one_cold_file(folder: Path) -> None:
    """A thousand clients at once ask for the same cold file of 32 MiB."""
    (folder / "file").write_bytes(os.urandom(32 * MIB))
    with serving(folder) as server:
        clients = [Client(server) for _ in range(1000)]
        began_s = time.perf_counter()
        fetching = [gevent.spawn(client.fetch, "file") for client in clients]
        gevent.joinall(fetching, raise_error=True)
        took_s = time.perf_counter() - began_s
        stats = server.stats()
        for client in clients:
            client.close()
    reads = stats["disk_reads_inline"] + stats["disk_reads_pool"]
    row("1000 clients, one cold file of 32 MiB", f"{reads} disk reads of 256 KiB (the file has 128)")
    row("", f"{took_s:.1f} s, {32 * 1000 / took_s:.0f} MiB/s, {stats['coalesced']} joined the one miss")


def blocked_readers(folder: Path) -> None:
    """Two thousand clients ask for another 16 MiB file each and read nothing after the head."""
    count = 2000
    for number in range(count):
        with (folder / f"f{number}").open("wb") as file:
            file.truncate(16 * MIB)
    with serving(folder) as server, ExitStack() as closing:
        idle = server.stats()["rss_bytes"], tcp_bytes()
        clients = [Client(server, receive_buffer=4096) for _ in range(count)]
        for number, client in enumerate(clients):
            closing.callback(client.close)
            client.ask(f"f{number}")
        for client in clients:
            client.head()
        sent = -MIB
        while (stats := server.stats())["bytes_sent"] - sent > 4 * KIB or stats["fills_in_flight"]:
            sent = stats["bytes_sent"]
            gevent.sleep(0.2)
        row(f"{count} blocked readers, 16 MiB each", f"payload peak {stats['peak'] / MIB:.0f} MiB")
        row("", f"RSS {idle[0] / MIB:.0f} -> {stats['rss_bytes'] / MIB:.0f} MiB")
        row("", f"socket memory {idle[1] / MIB:.0f} -> {tcp_bytes() / MIB:.0f} MiB")


def hits_beside_slow_misses(folder: Path) -> None:
    """One client asks for a hot 64 KiB file every 2 ms, alone and beside cold files that take 200 ms to open."""
    (folder / "hot").write_bytes(os.urandom(64 * KIB))
    for number in range(10 * SLOW_MISSES):
        (folder / f"cold{number}").write_bytes(b"x" * KIB)
    with serving(folder, changes=f"exec({SLOW_DISK!r})") as server:
        alone = hit_latencies(server)

        def miss(first: int) -> None:
            client = Client(server)
            for number in range(first, 10 * SLOW_MISSES, SLOW_MISSES):
                client.fetch(f"cold{number}")
            client.close()

        missing = [gevent.spawn(miss, number) for number in range(SLOW_MISSES)]
        beside = hit_latencies(server)
        gevent.joinall(missing, raise_error=True)
    row("hits, alone", percentiles(alone))
    row(f"hits beside {SLOW_MISSES} slow readers", percentiles(beside))


def hit_latencies(server: Program) -> list[float]:
    """Seconds of each of HITS hits, asked for at a steady pace."""
    client = Client(server)
    client.fetch("hot")
    took = []
    for _ in range(HITS):
        began_s = time.perf_counter()
        client.fetch("hot")
        took.append(time.perf_counter() - began_s)
        gevent.sleep(HIT_EVERY_S)
    client.close()
    return took


def percentiles(seconds: list[float]) -> str:
    """`p50 0.10 ms, p99 0.30 ms`."""
    cuts = statistics.quantiles(seconds, n=100)
    return f"p50 {cuts[49] * 1000:.2f} ms, p99 {cuts[98] * 1000:.2f} ms, max {max(seconds) * 1000:.1f} ms"


def cached_misses(folder: Path) -> None:
    """Files of 1 KiB in the page cache: read anew for each request, against all in the cache."""
    for number in range(TINY_FILES):
        (folder / f"{number}").write_bytes(b"x" * KIB)
    rates: dict[str, list[tuple[float, float]]] = {"hits": [], "misses": []}
    for _ in range(ROUNDS):
        with serving(folder) as server:
            rates["hits"].append(rate(server, lambda number: number % 1000))
        with serving(folder, "--cache", str(TINY_CACHE)) as server:
            rates["misses"].append(rate(server, lambda number: number * 7919 % TINY_FILES))
    medians = {
        kind: [statistics.median(figure) for figure in zip(*taken, strict=True)] for kind, taken in rates.items()
    }
    for kind, (per_s, cpu_us) in medians.items():
        row(f"1 KiB, all {kind}, page-cached", f"{per_s:.0f} requests/s, {cpu_us:.0f} us of server CPU each")
    throughput, cpu = (medians["misses"][place] / medians["hits"][place] for place in (0, 1))
    row("misses / hits", f"throughput {throughput:.2f}, CPU {cpu:.2f} (medians of {ROUNDS})")


def rate(server: Program, choose: Callable[[int], int]) -> tuple[float, float]:
    """Requests per second and microseconds of server CPU for each, over eight pipelining connections."""
    depth = 32

    def work(connection: int) -> None:
        client = Client(server)
        for first in range(0, TINY_REQUESTS // 8, depth):
            names = [choose(connection * TINY_REQUESTS // 8 + first + place) for place in range(depth)]
            client._socket.sendall("".join(REQUEST.format(name) for name in names).encode())
            answers = b""
            while answers.count(b"HTTP/1.1 200") < depth or len(answers) < depth * KIB:
                answers += client._socket.recv(256 * KIB)
        client.close()

    work(0)
    began_s, began_cpu_s = time.perf_counter(), cpu_s(server.process.pid)
    gevent.joinall([gevent.spawn(work, connection) for connection in range(8)], raise_error=True)
    took_s, took_cpu_s = time.perf_counter() - began_s, cpu_s(server.process.pid) - began_cpu_s
    return TINY_REQUESTS / took_s, took_cpu_s / TINY_REQUESTS * 1e6


def row(what: str, figure: str) -> None:
    """A line of the report."""
    print(f"{what:38} {figure}", flush=True)


def main() -> int:
    """Run all, one after the other."""
    if not Path("/proc/net/sockstat").exists():
        print("benchmarks.fills reads /proc and needs Linux", file=sys.stderr)
        return 1
    for measure in (one_cold_file, blocked_readers, hits_beside_slow_misses, cached_misses):
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
