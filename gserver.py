#!/usr/bin/env python3
"""gserver PORT DIR: serve the files under DIR over TCP, the popular ones from memory.

A StreamServer spawns a greenlet per connection, a native thread pool reads the disk, and they share a
semaphore-protected cache: `main` puts exactly these together.
"""

import sys

try:
    from gevent import events, monkey

    # Else gevent looks for plugins of its own in everything that is installed, 25 times: 60 ms of our start.
    events.notify_and_call_entry_points = events.notify  # type: ignore[attr-defined]
    # And ssl and subprocess take 10 ms each; we call neither (TLS goes through memory here).
    monkey.patch_all(ssl=False, subprocess=False)
    import httptools  # noqa: F401
except ImportError as missing:
    sys.exit(f"gserver: {missing.name} is missing; install it with: pip install -r requirements.txt")

import argparse
import gc
import logging
import os
import re
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import gevent
from gevent.event import Event

from fileserver import options, process, systemd
from fileserver.about.counters import VIEWERS_MAX
from fileserver.accesslog import AccessLog
from fileserver.disk import LOOK_THREADS, Disk, Source
from fileserver.precompressed import Precompressed
from fileserver.rendering import size_text
from fileserver.root import Root
from fileserver.server import Server
from fileserver.site import Site
from fileserver.store import Store
from fileserver.tokens import Tokens, is_loopback
from fileserver.transport import Transport
from fileserver.warming import check_saving, read_list, save_list
from lrucache import CHUNK_BYTES, POLICIES, Cache

if TYPE_CHECKING:
    from fileserver.whatif import WhatIf

SWITCH_INTERVAL_S = 0.0005
"""A pool thread that ends its read wants the GIL back; at Python's default of 5 ms a miss waits that long for
it while the loop is busy."""

GC_THRESHOLDS = (10_000, 10, 100)
"""Of Python's cycle collector, whose defaults (700, 10, 10) look through all entries of the cache again and again:
a twentieth of the time of misses, and with 65,536 entries a pause of 50 ms each time. We make few cycles."""

DESCRIPTORS_KEPT = 96
"""For listings, the log, clients being turned away; each thread has one more."""

MAX_CONNECTIONS = 16_384

Value = TypeVar("Value")

log = logging.getLogger("gserver")


class CannotStart(Exception):
    """Why the server cannot do what the command line asks, in words for the operator."""


def main() -> int:
    """What the command line says, until told to stop; the exit code."""
    try:
        listener = attempt("use the socket that was handed over", systemd.inherited_socket)
        return run(options.parse(listener.getsockname()[:2] if listener else None), listener)
    except CannotStart as problem:
        print(f"gserver: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the signal handlers stood
        return 130


def run(arguments: argparse.Namespace, listener: socket.socket | None) -> int:
    """Serve until told to stop; the exit code. Raises CannotStart."""
    logging.basicConfig(level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*GC_THRESHOLDS)
    process.return_freed_memory(CHUNK_BYTES // 2)
    listed = load_list(arguments)
    root, site, server = assemble(arguments, listener)
    manager = systemd.Manager()
    stop, at_once = Event(), Event()
    for name in ("SIGTERM", "SIGINT"):
        on_signal(name, lambda: at_once.set() if stop.is_set() else stop.set())
    reloads = arguments.tls_cert or arguments.token_file or arguments.access_log not in (None, "-")
    if reloads or manager.listens:
        wanted = Event()
        gevent.spawn(reload_whenever, wanted, arguments, site, server, manager)
        on_signal("SIGHUP", wanted.set)
    else:
        on_signal("SIGHUP", stop.set)  # the terminal was closed
    line = start_line(arguments, root, server.port)
    print(f"gserver: {line}", file=sys.stderr, flush=True)
    manager.serving(line)
    gc.freeze()
    if arguments.warm_from:
        site.warming.restore(listed, arguments.warm_from)
    stop.wait()
    manager.stopping()
    site.warming.stop()
    cut = server.drain(arguments.drain, at_once)
    if arguments.save_list:
        save(arguments.save_list, site.warming.names())
    if site.access_log is not None:
        site.access_log.close()
    log.info("stopped, %d transfers cut", cut)
    return 0


def assemble(arguments: argparse.Namespace, listener: socket.socket | None) -> tuple[Source, Site, Server]:
    """Put the rooms together and listen, if nobody has done that for us. Raises CannotStart."""
    limit = process.raise_descriptor_limit()
    max_connections, open_max = shares(limit, arguments.threads, arguments.max_connections)
    root, lookers = open_root(arguments)
    disk = attempt(
        "start",
        lambda: Disk(
            root,
            threads=arguments.threads,
            lookers=lookers,
            inline=arguments.io == "auto",
            open_max=open_max,
        ),
    )
    what_if = start_what_if(arguments)
    cache = Cache(
        arguments.cache,
        POLICIES[arguments.policy](arguments.cache),
        accesses=what_if.accesses if what_if else None,
    )
    store = Store(disk, cache, revalidate_s=arguments.revalidate, cache_control=arguments.cache_control)
    site = Site(
        store,
        hidden=arguments.hidden,
        index=arguments.index,
        download=arguments.download,
        cors=arguments.cors,
        precompressed=Precompressed(store, revalidate_s=arguments.revalidate) if arguments.precompressed else None,
        tokens=load_tokens(arguments),
        admin=arguments.admin,
        viewers=max(1, min(VIEWERS_MAX, max_connections // 4)),
        access_log=open_access_log(arguments),
        what_if=what_if,
    )
    server = Server(
        listener or (arguments.host, arguments.port),
        site,
        max_connections=max_connections,
        idle_s=arguments.idle_timeout,
        wrap=load_transport(arguments),
    )
    attempt(f"listen on {arguments.host} port {arguments.port}", server.start)
    site.about.start()
    return root, site, server


def open_root(arguments: argparse.Namespace) -> tuple[Source, int]:
    """What DIR means, and how many threads look at what is stored of it. Raises CannotStart."""
    directory = arguments.directory
    what = f"serve {re.sub('//.*@', '//', directory)}"  # a password in a URL is not repeated
    if not directory.startswith("s3://"):
        folder = attempt(what, lambda: options.folder(directory))
        drop_pages = arguments.page_cache == "drop"
        return attempt(what, lambda: Root(folder, hidden=arguments.hidden, drop_pages=drop_pages)), LOOK_THREADS
    try:
        from fileserver import objects  # noqa: PLC0415 (obstore, which few have, and 20 ms of a start)
    except ModuleNotFoundError as missing:
        raise CannotStart(
            f"cannot {what}: {missing.name} is missing; install it with: pip install -r requirements-s3.txt"
        ) from missing
    bucket, problem = in_thread(
        lambda: attempt(what, lambda: objects.open_bucket(directory, hidden=arguments.hidden))
    )
    if bucket is None:
        raise problem or CannotStart(f"cannot {what}")
    return bucket, objects.LOOK_THREADS


def start_what_if(arguments: argparse.Namespace) -> "WhatIf | None":
    """The ghosts that were asked for, at work as soon as the hub runs."""
    if not arguments.what_if:
        return None
    from fileserver.whatif import WhatIf  # noqa: PLC0415 (a few milliseconds of a start, for few)

    what_if = WhatIf(arguments.cache)
    what_if.start()
    return what_if


def shares(limit: int, threads: int, max_connections: int | None) -> tuple[int, int]:
    """How many of `limit` descriptors are for clients, and how many for files. Raises CannotStart."""
    free = limit - DESCRIPTORS_KEPT - threads
    if max_connections is None:
        max_connections = min(MAX_CONNECTIONS, max(1, free // 2))
    elif max_connections >= free:
        raise CannotStart(
            f"{max_connections} connections need more descriptors than the {limit} allowed (ulimit -n)"
        )
    open_max = max(1, free - max_connections)
    if free < 2:
        log.warning("%d descriptors (ulimit -n) are hardly enough for anything", limit)
    elif open_max < max_connections:
        log.warning(
            "only %d files can be open for %d connections (ulimit -n is %d)", open_max, max_connections, limit
        )
    return max_connections, open_max


def load_transport(arguments: argparse.Namespace) -> Callable[[Any], Transport]:
    """Plain, or with the certificate that was asked for, read now. Raises CannotStart."""
    if not arguments.tls_cert:
        return Transport
    from fileserver import tls  # noqa: PLC0415 (it and OpenSSL take 15 ms of a start, which few need)

    what = f"use the certificate {arguments.tls_cert}" + (
        f" with the key {arguments.tls_key}" * bool(arguments.tls_key)
    )
    context = attempt(what, lambda: tls.load(arguments.tls_cert, arguments.tls_key))
    return lambda client: tls.TlsTransport(client, context)


def load_tokens(arguments: argparse.Namespace) -> Tokens | None:
    """The tokens that were asked for, read now. Raises CannotStart."""
    path = arguments.token_file
    return attempt(f"use the tokens in {path}", lambda: Tokens.load(path)) if path else None


def open_access_log(arguments: argparse.Namespace) -> AccessLog | None:
    """The log that was asked for. Raises CannotStart."""
    path = arguments.access_log
    return attempt(f"write the access log {path}", lambda: AccessLog(path)) if path else None


def load_list(arguments: argparse.Namespace) -> list[str]:
    """The names to begin with, and a look whether there is a place for the list at the end. Raises CannotStart."""
    path, place = arguments.warm_from, arguments.save_list
    if place:
        attempt(f"save the list in {place}", lambda: check_saving(place))
    if not path or (path == place and not os.path.exists(path)):  # the first start
        return []
    return attempt(f"warm the cache from {path}", lambda: read_list(path))


def save(path: str, listed: list[str]) -> None:
    """Keep the list for the next start. That it cannot be kept is no reason not to stop."""
    try:
        save_list(path, listed)
    except OSError as problem:
        log.warning("cannot save the list in %s: %s", path, problem.strerror)


def attempt(what: str, action: Callable[[], Value]) -> Value:
    """Do it; CannotStart says what could not be done, in the system's words without its numbers."""
    try:
        return action()
    except (OSError, ValueError, TypeError) as problem:
        number = getattr(problem, "errno", None) or 0
        why = os.strerror(number) if number > 0 else getattr(problem, "strerror", None) or problem
        raise CannotStart(f"cannot {what}: {why}") from problem


def reload_whenever(
    wanted: Event, arguments: argparse.Namespace, site: Site, server: Server, manager: systemd.Manager
) -> None:
    """SIGHUP: one reload at a time, and another one for all that are wanted meanwhile."""
    while True:
        wanted.wait()
        wanted.clear()
        manager.reloading()
        reload(arguments, site, server)
        manager.reloaded()


def reload(arguments: argparse.Namespace, site: Site, server: Server) -> None:
    """A new certificate, new tokens, a new log file. What cannot be had leaves the old one in use."""
    if site.access_log is not None:
        site.access_log.reopen()
    wrap, problem = in_thread(lambda: load_transport(arguments))
    if wrap is not None:
        server.wrap = wrap
    tokens, another = in_thread(lambda: load_tokens(arguments))
    if another is None:
        site.tokens = tokens
        site.about.end_streams()
    refusals = list(filter(None, (problem, another)))
    for refused in refusals:
        log.error("%s; going on with what there was", refused)
    if not refusals:
        log.info("reloaded")


def in_thread(load: Callable[[], Value]) -> tuple[Value | None, CannotStart | None]:
    """Its value or its error, without holding the loop. (An exception that left the thread would be printed.)"""

    def attempted() -> tuple[Value | None, CannotStart | None]:
        try:
            return load(), None
        except CannotStart as problem:
            return None, problem

    try:
        result: tuple[Value | None, CannotStart | None] = gevent.get_hub().threadpool.apply(attempted)
    except RuntimeError as problem:
        return None, CannotStart(f"cannot reload: {problem}")
    return result


def on_signal(name: str, action: Callable[[], object]) -> None:
    """Have `action` run in a greenlet when the signal comes, where the system has it."""
    if hasattr(signal, name):
        gevent.signal_handler(getattr(signal, name), action)


def start_line(arguments: argparse.Namespace, root: Source, port: int) -> str:
    """Where to look, what is served, and who can see it."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(arguments.host, arguments.host)
    host = f"[{here}]" if ":" in here else here
    scheme = "https" if arguments.tls_cert else "http"
    what = f"{size_text(arguments.cache)} cache, {arguments.policy}; {reach(arguments)}"
    return f"{scheme}://{host}:{port}/ serves {root.path} ({what})"


def reach(arguments: argparse.Namespace) -> str:
    """Who can ask, with a warning when that is everybody and in clear text."""
    if is_loopback(arguments.host):
        return "only this machine; --host 0.0.0.0 (or ::) for others"
    if arguments.tls_cert or arguments.token_file:
        return "anyone who can reach it"
    return "anyone who can reach it; WARNING: in clear text (--tls-cert) and without a token (--token-file)"


if __name__ == "__main__":
    sys.exit(main())
