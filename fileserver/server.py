"""The StreamServer with its limit, its deadlines and its drain."""

import errno
import itertools
import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event
from gevent.server import StreamServer

from fileserver.bursts import Burst
from fileserver.connection import Connection
from fileserver.heads import StatusLines
from fileserver.site import Site
from fileserver.transport import TlsTransport, Transport

BACKLOG = 4096
"""Connections the kernel keeps for us; gevent's 128 overflows when many clients come at once."""

SEND_BUFFER_BYTES = 224 * 1024
"""SO_SNDBUF as asked for; Linux doubles it. Bounds what a client that reads nothing costs the kernel."""

REAP_EVERY_S = 0.5

TURNED_AWAY_MAX = 64
"""Connections beyond the limit that may linger until their client has read the 503; more are just closed."""

IDLE_LOOKED_AT = 16
"""Of the longest-idle connections, so many are looked at to find one that really is."""

CUT_S = 0.5
"""How long what was cut may take to end and be logged; what waits for a dead disk never does."""

ACCEPT_PAUSE_S = 0.1
"""How long nothing is accepted after the system ran out of descriptors (nginx: accept_mutex_delay, 0.5 s)."""

log = logging.getLogger("gserver")


class Server:
    """Serves `site` at `address` until `drain`. `tls` (None: plain) can be exchanged while it serves."""

    def __init__(
        self,
        address: tuple[str, int],
        site: Site,
        *,
        max_connections: int,
        idle_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.tls = tls
        self._site = site
        self._max_connections = max_connections
        self._idle_s = idle_s
        self._turned_away = 0
        self._statuses = StatusLines()
        self._listener = Listener(address, self._serve, self._make_room)
        self._reaper: gevent.Greenlet[[], None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on, also when 0 was asked for."""
        return int(self._listener.address[1])

    def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        self._listener.init_socket()
        # Accepted sockets inherit these, which saves two system calls for each.
        listener = self._listener.socket
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._listener.start()
        self._reaper = gevent.spawn(self._reap)

    def drain(self, seconds: float, at_once: Event) -> int:
        """Stop accepting, let what is in flight finish; how many connections were cut after `seconds`."""
        self._site.traffic.draining = True
        self._listener.stop()
        log.info("accepting no more; a second signal stops at once")
        connections = self._site.traffic.connections
        for transport in list(self._site.traffic.idle):
            transport.expire()
        deadline_s = time.monotonic() + seconds
        while connections and time.monotonic() < deadline_s and not at_once.is_set():
            at_once.wait(min(0.05, max(0.0, deadline_s - time.monotonic())))
        left = list(connections)
        for transport in left:
            transport.cut()
        until_s = time.monotonic() + CUT_S
        while connections and time.monotonic() < until_s:
            gevent.sleep(0.01)
        return len(left)

    def _serve(self, client: Any, address: tuple[Any, ...]) -> None:
        transport = Transport(client) if self.tls is None else TlsTransport(client, self.tls)
        connection = Connection(
            transport, self._site, self._statuses, idle_s=self._idle_s, address=str(address[0]) if address else "-"
        )
        if self._has_room() or self._make_room():
            connection.serve()
            return
        self._turned_away += 1
        try:
            connection.turn_away(linger=self._turned_away <= TURNED_AWAY_MAX)
        finally:
            self._turned_away -= 1

    def _has_room(self) -> bool:
        return len(self._site.traffic.connections) - self._turned_away < self._max_connections

    def _make_room(self) -> bool:
        """Have the longest-idle connection leave for a newcomer, as nginx does; False when none is idle.

        Nor is one idle whose request has arrived while it had no turn to read it; there can be a turn's worth.
        """
        traffic = self._site.traffic
        for transport in itertools.islice(traffic.idle, IDLE_LOOKED_AT):
            if transport.is_silent():
                del traffic.idle[transport]
                traffic.connections.discard(transport)
                transport.expire()
                return True
        return False

    def _reap(self) -> None:
        """One greenlet looks at every deadline now and then: cheaper than a timer for each request."""
        while True:
            gevent.sleep(REAP_EVERY_S)
            now_s = time.monotonic()
            for transport in [one for one in self._site.traffic.connections if one.deadline_s < now_s]:
                transport.expire()


class Listener(StreamServer):
    """gevent's StreamServer, but for the tracebacks when the system runs out of descriptors or memory.

    Then it pauses, says so once, and has `make_room` free what it can; who comes meanwhile waits in the kernel.
    """

    _SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
    _DEPARTURES = (errno.ECONNABORTED, errno.EPROTO, errno.EPERM)
    """The client left while it waited, or a firewall rule was against it (accept(2))."""

    def __init__(
        self, address: tuple[str, int], handle: Callable[..., None], make_room: Callable[[], object]
    ) -> None:
        super().__init__(address, handle, backlog=BACKLOG)
        self._make_room = make_room
        self._shortage = Burst("cannot accept connections")

    def do_read(self) -> Any:
        try:
            return super().do_read()
        except OSError as problem:
            if problem.errno in self._SHORTAGES:
                self._shortage(problem.strerror)
                self._make_room()
                self.stop_accepting()
                gevent.spawn_later(ACCEPT_PAUSE_S, self._go_on)
            elif problem.errno not in self._DEPARTURES:
                raise
            return None

    def _go_on(self) -> None:
        if self.started:
            self.start_accepting()
