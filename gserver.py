#!/usr/bin/env python3
"""gserver PORT DIR: serve the files under DIR over TCP, the popular ones from memory.

A StreamServer spawns a greenlet per connection, a native thread pool reads the disk, and they share a
semaphore-protected cache: `main` puts exactly these together.
"""

import sys

try:
    from gevent import monkey

    monkey.patch_all()
    import httptools  # noqa: F401
except ImportError as missing:
    sys.exit(f"gserver: {missing.name} is missing; install it with: pip install -r requirements.txt")

import argparse
import ipaddress
import logging
import math
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, NoReturn

import gevent
from gevent.event import Event
from gevent.server import StreamServer

from fileserver import process
from fileserver.admin import size_text
from fileserver.connection import Connection
from fileserver.disk import Disk
from fileserver.root import Root
from fileserver.site import Site
from fileserver.store import Store
from fileserver.wire import StatusLines
from lrucache import CHUNK_BYTES, POLICIES, Cache

BACKLOG = 4096
"""Connections the kernel keeps for us; gevent's 128 overflows when many clients come at once."""

SEND_BUFFER_BYTES = 224 * 1024
"""SO_SNDBUF as asked for; Linux doubles it. Bounds what a client that reads nothing costs the kernel."""

SWITCH_INTERVAL_S = 0.0005
"""A pool thread that ends its read wants the GIL back; at Python's default of 5 ms a miss waits that long for
it while the loop is busy."""

REAP_EVERY_S = 0.5

TURNED_AWAY_MAX = 64
"""Connections beyond the limit that may linger until their client has read the 503; more are just closed."""

log = logging.getLogger("gserver")


class Server:
    """The StreamServer with its limit, its deadlines and its drain."""

    def __init__(self, address: tuple[str, int], site: Site, *, max_connections: int, idle_s: float) -> None:
        self._site = site
        self._max_connections = max_connections
        self._idle_s = idle_s
        self._turned_away = 0
        self._statuses = StatusLines()
        self._stream_server = StreamServer(address, self._serve, backlog=BACKLOG)
        self._reaper: gevent.Greenlet[[], None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on, also when 0 was asked for."""
        return int(self._stream_server.address[1])

    def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        self._stream_server.init_socket()
        # Accepted sockets inherit these, which saves two system calls for each.
        listener = self._stream_server.socket
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream_server.start()
        self._reaper = gevent.spawn(self._reap)

    def drain(self, seconds: float, at_once: Event) -> int:
        """Stop accepting, let what is in flight finish; how many connections were cut after `seconds`."""
        self._site.draining = True
        self._stream_server.stop()
        log.info("accepting no more; a second signal stops at once")
        connections = self._site.traffic.connections
        for connection in list(connections):
            connection.end_if_idle()
        deadline_s = time.monotonic() + seconds
        while connections and time.monotonic() < deadline_s and not at_once.is_set():
            at_once.wait(min(0.05, max(0.0, deadline_s - time.monotonic())))
        left = list(connections)
        for connection in left:
            connection.cut()
        return len(left)

    def _serve(self, client: Any, _address: object) -> None:
        connection = Connection(client, self._site, self._statuses, idle_s=self._idle_s)
        if len(self._site.traffic.connections) - self._turned_away < self._max_connections:
            connection.serve()
            return
        self._turned_away += 1
        try:
            connection.turn_away(linger=self._turned_away <= TURNED_AWAY_MAX)
        finally:
            self._turned_away -= 1

    def _reap(self) -> None:
        """One greenlet looks at every deadline now and then: cheaper than a timer for each request."""
        while True:
            gevent.sleep(REAP_EVERY_S)
            now_s = time.monotonic()
            for connection in [one for one in self._site.traffic.connections if one.deadline_s < now_s]:
                connection.expire()


def main() -> int:
    """Run until told to stop; the exit code."""
    options = parse_arguments()
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    process.return_freed_memory(CHUNK_BYTES // 2)
    limit = process.raise_descriptor_limit()
    try:
        root = Root(options.directory, hidden=options.hidden)
    except OSError as problem:
        return fail(f"cannot serve {options.directory}: {problem.strerror}")

    disk = Disk(root, threads=options.threads, inline=options.io == "auto")
    cache = Cache(options.cache, POLICIES[options.policy](options.cache))
    store = Store(disk, cache, revalidate_s=options.revalidate, cache_control=options.cache_control)
    site = Site(store, hidden=options.hidden, index=options.index)
    server = Server(
        (options.host, options.port),
        site,
        max_connections=options.max_connections or min(16_384, max(1, (limit - 128) // 2)),
        idle_s=options.idle_timeout,
    )
    try:
        server.start()
    except (OSError, ValueError, TypeError) as problem:
        number = getattr(problem, "errno", None) or 0
        why = os.strerror(number) if number > 0 else getattr(problem, "strerror", None) or problem
        return fail(f"cannot listen on {options.host} port {options.port}: {why}")

    stop, at_once = Event(), Event()
    for name in ("SIGTERM", "SIGINT"):
        if hasattr(signal, name):
            gevent.signal_handler(getattr(signal, name), lambda: at_once.set() if stop.is_set() else stop.set())
    announce(options, root, server.port)
    stop.wait()
    cut = server.drain(options.drain, at_once)
    log.info("stopped, %d transfers cut", cut)
    return 0


def announce(options: argparse.Namespace, root: Root, port: int) -> None:
    """The start line: where to look, what is served, and who can see it."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.host, options.host)
    host = f"[{here}]" if ":" in here else here
    reach = "anyone who can reach it"
    if is_loopback(options.host):
        reach = "only this machine; --host 0.0.0.0 (or ::) for others"
    what = f"{size_text(options.cache)} cache, {options.policy}; {reach}"
    print(f"gserver: http://{host}:{port}/ serves {root.path} ({what})", file=sys.stderr, flush=True)


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a server bound to `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def fail(reason: str) -> int:
    """One clear line; the exit code of what is not the command line's fault."""
    print(f"gserver: {reason}", file=sys.stderr)
    return 1


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of three."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parse_arguments() -> argparse.Namespace:
    """The command line. Exits with 2 when it is wrong."""
    parser = Parser(
        prog="gserver", description="Serve the files under DIR over TCP, the popular ones from memory."
    )
    add = parser.add_argument
    add("port", metavar="PORT", type=number(int, 0, 65535), help="TCP port; 0 picks a free one and prints it")
    add("directory", metavar="DIR", help="the folder to serve")
    add(
        "--host",
        type=address,
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, only this machine)",
    )
    add(
        "--cache",
        metavar="SIZE",
        type=size,
        default=size("64MiB"),
        help="bytes of files kept in memory (default: 64MiB)",
    )
    add(
        "--policy",
        choices=list(POLICIES),
        default="relocate",
        help="order of eviction (default: %(default)s)",
    )
    add(
        "--threads",
        metavar="N",
        type=number(int, 1, 1024),
        default=32,
        help="native threads that read (default: 32)",
    )
    add(
        "--io",
        choices=["auto", "pool"],
        default="auto",
        help="auto: page-cached reads inline; pool: all in threads",
    )
    add(
        "--revalidate",
        metavar="S",
        type=number(float, 0, 1e9),
        default=1.0,
        help="seconds a cached file is believed without a look at the disk (default: 1; 0: look each time)",
    )
    add("--hidden", action="store_true", help="serve names that begin with a dot")
    add("--no-index", dest="index", action="store_false", help="folders answer 404: no listing, no index.html")
    add(
        "--cache-control",
        metavar="VALUE",
        type=field_value,
        default="no-cache",
        help="Cache-Control of files (default: no-cache)",
    )
    add(
        "--drain",
        metavar="S",
        type=number(float, 0, 1e9),
        default=30.0,
        help="seconds a stop waits for transfers (default: 30)",
    )
    add(
        "--max-connections",
        metavar="N",
        type=number(int, 1, 1 << 20),
        help="default: from the descriptor limit, at most 16384",
    )
    add(
        "--idle-timeout",
        metavar="S",
        type=number(float, 0.1, 1e9),
        default=60.0,
        help="seconds between two requests (default: 60)",
    )
    add(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        default="info",
        help="default: %(default)s",
    )
    return parser.parse_args()


def number(kind: Callable[[str], float], low: float, high: float) -> Callable[[str], float]:
    """An argument type: a `kind` within [low, high]."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return parse


def size(text: str) -> int:
    """An argument type: bytes, as `67108864`, `64MiB` or `64M` (powers of 1024)."""
    match = re.fullmatch(r"(\d{1,18})\s*(?:([KMGT])(?:i?B)?|B)?", text, re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 64MiB")
    exponent = " KMGT".index(match[2].upper()) if match[2] else 0
    return int(match[1]) << (10 * exponent)


def address(text: str) -> str:
    """An argument type: an address or a host name."""
    if not text or not text.isascii() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not an address")
    return text


def field_value(text: str) -> str:
    """An argument type: what may stand in a header line."""
    if not (text.isascii() and text.isprintable()):
        raise argparse.ArgumentTypeError("a header value is printable ASCII")
    return text


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before the signal handlers stood
        sys.exit(130)
