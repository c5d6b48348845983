"""python -m benchmarks.fills: what a cold file costs that a thousand clients want, and what blocked readers hold.

Each figure is taken from a gserver of its own: one core for it, the other for the clients, where there are two.
Bounded in count and time. Linux only.
"""

import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import gevent
from gevent import socket

from benchmarks.clients import ANSWER_S, Client, stats
from benchmarks.command import run
from benchmarks.peers import HOST, Peer, serving
from benchmarks.report import Table, heading, mib
from benchmarks.workloads import KIB, MIB

CLIENTS = 1000
COLD_BYTES = 32 * MIB
CHUNK_BYTES = 256 * KIB
"""What gserver reads at a time."""

BLOCKED = 2000
BLOCKED_BYTES = 16 * MIB
WINDOW_BYTES = 4096
"""Of a blocked reader's socket: the kernel takes little for it."""
POLL_S = 0.2

Row = tuple[str, str]


def connected(port: int, receive_buffer: int = 0) -> Client:
    """A client that lets other greenlets run while it waits."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)  # only before `connect`
    connection.settimeout(ANSWER_S)
    connection.connect((HOST, port))
    return Client(connection)


def one_cold_file(folder: Path) -> list[Row]:
    """CLIENTS at once ask for the same cold file."""
    (folder / "file").write_bytes(os.urandom(COLD_BYTES))
    with serving("gserver", folder) as server, ExitStack() as closing:
        readers = [connected(server.port) for _ in range(CLIENTS)]
        for reader in readers:
            closing.callback(reader.close)
        began_s = time.perf_counter()
        gevent.joinall([gevent.spawn(fetch, reader) for reader in readers], raise_error=True)
        took_s = time.perf_counter() - began_s
        said = stats(server.port)
    reads = said["disk_reads_inline"] + said["disk_reads_pool"]
    return [
        (f"{CLIENTS} clients, one cold file of {mib(COLD_BYTES)}", f"{reads} disk reads"),
        ("the file has", f"{COLD_BYTES // CHUNK_BYTES} chunks"),
        ("joined the one miss", f"{said['coalesced']}"),
        ("took", f"{took_s:.1f} s, {CLIENTS * COLD_BYTES / MIB / took_s:,.0f} MiB/s"),
    ]


def fetch(reader: Client) -> None:
    """Read the file to its end."""
    reader.ask("file")
    reader.answer()


def blocked_readers(folder: Path) -> list[Row]:
    """BLOCKED clients ask for another file each and read nothing."""
    for number in range(BLOCKED):
        with (folder / f"f{number}").open("wb") as file:
            file.truncate(BLOCKED_BYTES)
    with serving("gserver", folder) as server, ExitStack() as closing:
        idle_bytes, idle_tcp_bytes = server.rss_bytes(), tcp_bytes()
        for number in range(BLOCKED):
            reader = connected(server.port, receive_buffer=WINDOW_BYTES)
            closing.callback(reader.close)
            reader.ask(f"f{number}")
        payload_bytes = wait_until_it_stands_still(server)
        return [
            (f"{BLOCKED} blocked readers, {mib(BLOCKED_BYTES)} each", f"payload peak {mib(payload_bytes)}"),
            ("RSS", f"{mib(idle_bytes)} -> {mib(server.rss_bytes())}"),
            ("socket memory", f"{mib(idle_tcp_bytes)} -> {mib(tcp_bytes())}"),
        ]


def wait_until_it_stands_still(server: Peer) -> int:
    """Until it sends no more, and reads no more; the most that its cache and its answers have held, in bytes."""
    sent = -MIB
    while (said := stats(server.port))["bytes_sent"] - sent > 4 * KIB or said["fills_in_flight"]:
        sent = said["bytes_sent"]
        gevent.sleep(POLL_S)
    return int(said["peak"])


def tcp_bytes() -> int:
    """Memory of all TCP sockets of this machine, as the kernel counts it."""
    line = next(line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:"))
    return int(line.split()[-1]) * os.sysconf("SC_PAGE_SIZE")


MEASUREMENTS: tuple[Callable[[Path], list[Row]], ...] = (one_cold_file, blocked_readers)


def main() -> int:
    """Run all, one after the other."""
    versions = {"Python": platform.python_version(), "gevent": gevent.__version__}
    print(heading("benchmarks.fills", versions), end="\n\n", flush=True)
    for measure in MEASUREMENTS:
        with TemporaryDirectory(prefix="gserver-bench-") as folder:
            print(Table(["", ""], measure(Path(folder))).text(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
