"""The server's rooms assembled in-process, over a disk whose faults and a clock whose time the test decides."""

import errno
import math
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from gevent.server import StreamServer
from obstore.store import LocalStore

from fileserver.connection import Connection
from fileserver.disk import Disk
from fileserver.heads import StatusLines
from fileserver.objects import ObjectRoot, OutOfRange
from fileserver.root import DiskFailure, Folder, Identity, Opened, Root
from fileserver.server import Server
from fileserver.site import Site
from fileserver.store import Body, Store
from fileserver.tls import TlsTransport
from fileserver.transport import Transport
from lrucache import POLICIES, Cache

OLD_NS = 1_000_000_000_000_000_000
"""2001: what the house gives as the files' stamps, old enough to prove something."""


class Clock:
    """Monotonic seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Gate:
    """A native event for pool threads: who comes waits until the test opens it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.waiting = 0

    def wait(self) -> None:
        self.waiting += 1
        if not self._event.wait(30):
            raise OSError(errno.ETIMEDOUT, "the test never opened the gate")

    def open(self) -> None:
        self._event.set()


class Faults:
    """What a test arranges for a root: calls that fail, wait or lie. Counts reads of each (name, offset)."""

    def __init__(self) -> None:
        self.cold: set[str] = set()
        self.reads: list[tuple[str, int]] = []
        self.opens: list[str] = []
        self.looks: list[str] = []
        self.before_open: Callable[[str], None] = lambda name: None
        self.before_fstat: Callable[[str], None] = lambda name: None
        self.before_list: Callable[[str], None] = lambda name: None
        self.before_stat: Callable[[str], None] = lambda name: None
        self.before_read: Callable[[str, int], None] = lambda name, offset: None
        self.after_read: Callable[[str, int], None] = lambda name, offset: None
        self.stamps: Callable[[str, Identity], Identity] = lambda name, identity: identity


class FaultyRoot(Faults, Root):
    """A root whose system calls fail, wait or lie as the test has arranged.

    `before_open` and `before_read` run in the pool thread and may raise or wait; inline attempts are refused for
    the names in `cold`, as for data that is not in the page cache.
    """

    def __init__(self, directory: str, **options: Any) -> None:
        Faults.__init__(self)
        Root.__init__(self, directory, **options)
        self._names: dict[int, str] = {}
        self._settling = False

    def open(self, name: str, first_max: int = 0, *, cached: bool = False) -> Opened:
        self._warm(name, cached)
        if not cached:
            self.before_open(name)
        self.opens.append(name)
        return super().open(name, first_max, cached=cached)

    def stat(self, name: str, *, cached: bool = False) -> Identity:
        self._warm(name, cached)
        if not cached:
            self.before_stat(name)
        self.looks.append(name)
        opened = super().open(name, -1, cached=cached)
        os.close(opened.descriptor)
        return opened.identity

    def read_settled(self, name: str, before_ns: int) -> Opened | None:
        if name in self.cold:
            return None
        self._settling = True
        try:
            opened = super().read_settled(name, before_ns)
        finally:
            self._settling = False
        if opened is not None:
            self.opens.append(name)
            self.reads.append((name, 0))
        return opened

    def _open(self, name: str, *, cached: bool = False) -> int:
        descriptor = super()._open(name, cached=cached)
        self._names[descriptor] = name
        return descriptor

    def identity(self, descriptor: int) -> Identity:
        name = self._names[descriptor]
        if self._settling:  # it has been read, and is looked at now
            self.after_read(name, 0)
        if name in self.cold:
            self.before_fstat(name)
        return self.stamps(name, super().identity(descriptor))

    def list(self, folder: str) -> Folder:
        self.before_list(folder)
        return super().list(folder)

    def read(
        self, descriptor: int, identity: Identity, offset: int, length: int, *, cached: bool = False
    ) -> bytes:
        name = self._names[descriptor]
        self._warm(name, cached)
        if not cached:
            self.before_read(name, offset)
        content = super().read(descriptor, identity, offset, length, cached=cached)
        self.reads.append((name, offset))
        self.after_read(name, offset)
        return content

    def _warm(self, name: str, cached: bool) -> None:
        if cached and name in self.cold:
            raise BlockingIOError(errno.EAGAIN, "cold")


class FaultyObjects(Faults, ObjectRoot):
    """The same over a folder whose files are objects: each is cold, and its version is what obstore says of it."""

    def __init__(self, directory: str) -> None:
        Faults.__init__(self)
        ObjectRoot.__init__(self, LocalStore(directory), f"file://{directory}")

    def open(self, name: str, first_max: int = 0, *, cached: bool = False) -> Opened:
        if not cached:
            self.before_open(name)
            self.opens.append(name)
        return super().open(name, first_max, cached=cached)

    def stat(self, name: str, *, cached: bool = False) -> Identity:
        if not cached:
            self.before_stat(name)
            self.looks.append(name)
        return super().stat(name, cached=cached)

    def list(self, folder: str) -> Folder:
        self.before_list(folder)
        return super().list(folder)

    def _identity(self, name: str, meta: Any) -> Identity:
        self.before_fstat(name)
        return self.stamps(name, super()._identity(name, meta))

    def _get(self, name: str, start: int, end: int, **conditions: Any) -> tuple[Any, bytes | None]:
        self.before_read(name, start)
        try:
            meta, content = super()._get(name, start, end, **conditions)
        except OutOfRange:
            meta, content = None, b""
        if content is not None:
            self.reads.append((name, start))
            self.after_read(name, start)
        if meta is None:
            raise OutOfRange("said the store")
        return meta, content


class House:
    """Disk, cache, store and site over `folder`. Leaving the `with` checks that nothing was left behind.

    `io` is that of gserver, or `objects`: then the folder's files are asked for through obstore.
    """

    def __init__(
        self,
        folder: Path,
        *,
        io: str = "auto",
        capacity: int = 64 << 20,
        policy: str = "relocate",
        revalidate_s: float = 1.0,
        threads: int = 8,
        **site_options: Any,
    ) -> None:
        self.folder = folder
        self.clock = Clock()
        self.wall_ns = 2 * OLD_NS
        self.root = FaultyObjects(str(folder)) if io == "objects" else FaultyRoot(str(folder))
        self.disk = Disk(self.root, threads=threads, inline=io == "auto")
        self.cache = Cache(capacity, POLICIES[policy](capacity), clock=self.clock)
        self.store = Store(
            self.disk,
            self.cache,
            revalidate_s=revalidate_s,
            clock=self.clock,
            clock_ns=lambda: self.wall_ns,
        )
        self.site = Site(self.store, clock=self.clock, **site_options)
        self._statuses = StatusLines()

    def __enter__(self) -> "House":
        self._descriptors = descriptors()
        self._greenlets: list[gevent.Greenlet[..., Any]] = []
        self._spawn = gevent.spawn
        gevent.spawn = self._spawn_watched
        return self

    def _spawn_watched(self, *arguments: Any, **keywords: Any) -> Any:
        self._greenlets.append(self._spawn(*arguments, **keywords))
        return self._greenlets[-1]

    def __exit__(self, kind: object, *_: object) -> None:
        gevent.spawn = self._spawn
        left = gevent.joinall(self._greenlets, timeout=20)
        assert len(left) == len(self._greenlets), "a greenlet was left behind"
        assert len(self.store.fills) == 0
        self.disk.close()
        if kind is None:
            stats = self.cache.stats()
            assert stats.filling == 0
            assert stats.violations == 0
            assert stats.peak <= stats.capacity
            assert len(self.store.versions) == 0
            assert descriptors() == self._descriptors
            assert not isinstance(self.root, ObjectRoot) or len(self.root) == 0
        self.root.close()

    def write(self, name: str, content: bytes, mtime_ns: int = OLD_NS) -> bytes:
        """Make a file with old stamps (ctime cannot be set: the wall clock of the house is far ahead of it)."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(mtime_ns, mtime_ns))
        return content

    def stamped_ns(self, name: str) -> int:
        """The later of the stamps of its present version, in Unix time."""
        identity = self.root.stat(name)
        return max(identity.mtime_ns, identity.ctime_ns)

    def replace(self, name: str, content: bytes, mtime_ns: int = OLD_NS) -> bytes:
        """A new version renamed into place."""
        self.write(name + ".new", content, mtime_ns)
        (self.folder / (name + ".new")).rename(self.folder / name)
        return content

    def fetch(self, name: str) -> tuple[str, bytes]:
        """Where the answer came from, with the reason of a bypass, and every byte of it."""
        body = self.store.get(name)
        try:
            return outcome(body), read_body(body)
        finally:
            body.close()

    def fail(self, *names: str) -> Callable[..., None]:
        """A fault for before_open, before_stat or before_read: EIO for these names."""

        def fault(name: str, *_: object) -> None:
            if name in names:
                raise DiskFailure("EIO, said the test")

        return fault

    def connection(
        self,
        client: Any,
        tls: ssl.SSLContext | None = None,
        *,
        clock: Callable[[], float] | None = None,
        vectored: bool = True,
        **options: Any,
    ) -> Connection:
        """A connection over an accepted socket, plain or with `tls`; by the house's clock unless given one."""
        clock = clock or self.clock
        transport = (
            Transport(client, clock=clock, vectored=vectored)
            if tls is None
            else TlsTransport(client, tls, clock=clock, vectored=vectored)
        )
        return Connection(transport, self.site, self._statuses, **options)

    @contextmanager
    def serving(
        self,
        *,
        send_buffer: int = 0,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] | None = None,
        **options: Any,
    ) -> Iterator[int]:
        """A StreamServer over this house; the port. `send_buffer` is SO_SNDBUF, 0 leaves it to the system."""
        server = StreamServer(
            ("127.0.0.1", 0),
            lambda client, _: self.connection(client, tls, clock=clock, **options).serve(),
        )
        server.start()
        if send_buffer:
            server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        try:
            yield int(server.address[1])
        finally:
            server.stop()
            self.site.traffic.draining = True
            for transport in list(self.site.traffic.connections):
                transport.cut()
            with gevent.Timeout(20):
                while self.site.traffic.connections:
                    gevent.sleep(0.001)


def files_only(source: str, why: str) -> None:
    """Skip what is not so of objects."""
    if source == "objects":
        pytest.skip(why)


@contextmanager
def limited(house: House, max_connections: int) -> Iterator[Server]:
    """The whole server in this process, over `house`, for so many connections."""
    serving = Server(("127.0.0.1", 0), house.site, max_connections=max_connections, idle_s=600.0)
    serving.start()
    try:
        yield serving
    finally:
        serving.drain(0.0, Event())
        with gevent.Timeout(20):
            wait_for(lambda: not house.site.traffic.connections)


@contextmanager
def spawned() -> Iterator[list[Any]]:
    """The greenlets that are spawned in the `with`, for who has to end them."""
    found: list[Any] = []
    spawn = gevent.spawn

    def watched(*arguments: Any) -> Any:
        found.append(spawn(*arguments))
        return found[-1]

    gevent.spawn = watched  # type: ignore[assignment]
    try:
        yield found
    finally:
        gevent.spawn = spawn


def outcome(body: Body) -> str:
    """`hit`, `miss`, `coalesced` or `bypass too-large` and the like."""
    return f"{body.outcome.value} {body.detail}".strip()


def read_body(body: Body, piece: int = 1 << 20) -> bytes:
    """The whole body, as a connection reads it: copied out, no buffer kept."""
    content = bytearray()
    while len(content) < body.size:
        for buffer in body.read(len(content), piece):
            content += buffer
    return bytes(content)


def descriptors() -> set[str]:
    """The open descriptors of this process that lead to files (event loops and sockets come and go)."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if target.startswith("/") and not target.startswith(("/dev", "/proc")):
            found.add(f"{number} {target}")
    return found


def connect(port: int, content: bytes = b"", *, receive_buffer: int = 0) -> socket.socket:
    """A client on loopback that has sent `content`; with a small `receive_buffer` it soon takes nothing more."""
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(20)
    client.connect(("127.0.0.1", port))
    client.sendall(content)
    return client


def receive_all(client: socket.socket) -> bytes:
    """Everything until the other side closes."""
    pieces = []
    while piece := client.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes in which every place is recognisable."""
    return b"".join((seed + place).to_bytes(8, "big") for place in range(size // 8 + 1))[:size]


def wait_for(condition: Callable[[], object]) -> None:
    """Let the other greenlets run until `condition()` holds; bounded by the test's own time-out."""
    while not condition():
        gevent.sleep(0.001)


def reap(house: House) -> None:
    """What the server's reaper does, once."""
    for one in list(house.site.traffic.connections):
        if one.deadline_s < math.inf:
            one.expire()
