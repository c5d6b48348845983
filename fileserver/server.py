"""The StreamServer with its limit, its deadlines and its drain."""

import errno
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event
from gevent.monkey import get_original
from gevent.server import StreamServer

from fileserver.bursts import Burst
from fileserver.connection import Connection
from fileserver.heads import StatusLines
from fileserver.site import Site
from fileserver.transport import Transport

BACKLOG = 4096
"""Connections the kernel keeps for us; gevent's 128 overflows when many clients come at once."""

SEND_BUFFER_BYTES = 224 * 1024
"""SO_SNDBUF as asked for; Linux doubles it. Bounds what a client that reads nothing costs the kernel."""

REAP_EVERY_S = 0.5

TURNED_AWAY_MAX = 64
"""Connections beyond the limit that may linger until their client has read the 503; more are just closed. They
hold descriptors that were kept for other things (gserver.DESCRIPTORS_KEPT)."""

END_S = 0.5
"""How long what was told to end may take for it, and to be logged; what waits for a dead disk never does."""

ACCEPT_PAUSE_S = 0.1
"""How long nothing is accepted after the system ran out of descriptors (nginx: accept_mutex_delay, 0.5 s)."""

RawSocket = get_original("socket", "SocketType")
"""The C socket without the layers of the standard library and of gevent: we wait for it ourselves."""

log = logging.getLogger("gserver")


class Server:
    """Serves `site` at `address` until `drain`. `wrap`, which can be exchanged, makes a socket a transport.

    Instead of an address it takes, and closes, a socket that listens already. Who connects to that while nobody
    accepts waits in the kernel for the next process that has it.
    """

    def __init__(
        self,
        address: tuple[str, int] | socket.socket,
        site: Site,
        *,
        max_connections: int,
        idle_s: float,
        wrap: Callable[[Any], Transport] = Transport,
    ) -> None:
        self.wrap = wrap
        self._site = site
        self._max_connections = max_connections
        self._idle_s = idle_s
        self._statuses = StatusLines()
        self._reaper: gevent.Greenlet[[], None] | None = None
        self._listener = Listener(address, self._serve, self._find_room)

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
        """Stop accepting, let what is in flight finish; how many answers were cut after `seconds`."""
        traffic = self._site.traffic
        traffic.draining = True
        self._listener.stop()
        log.info("accepting no more; a second signal stops at once")
        gevent.sleep(0)  # the greenlets of those who were accepted last come to their turn, and are counted
        traffic.end_idle()
        _wait_until(lambda: not traffic.idle, END_S)
        _wait_until(lambda: not traffic.connections or at_once.is_set(), seconds)
        cut = traffic.cut()
        _wait_until(lambda: not traffic.connections, END_S)
        if self._reaper is not None:
            self._reaper.kill()
        return cut

    def _serve(self, client: Any, address: tuple[Any, ...]) -> None:
        traffic = self._site.traffic
        transport = self.wrap(client)
        shown = str(address[0]).encode("ascii", "replace") if address else b"-"
        connection = Connection(transport, self._site, self._statuses, idle_s=self._idle_s, address=shown)
        if traffic.has_room(self._max_connections) or traffic.make_room():
            connection.serve()
        else:
            connection.turn_away(linger=len(traffic.leaving) < TURNED_AWAY_MAX)

    def _find_room(self) -> None:
        """The system is short of descriptors or memory: an idle connection has some."""
        self._site.traffic.shortages += 1
        self._site.traffic.make_room()

    def _reap(self) -> None:
        """One greenlet looks at every deadline now and then: cheaper than a timer for each request."""
        while True:
            gevent.sleep(REAP_EVERY_S)
            now_s = time.monotonic()
            for transport in self._site.traffic.overdue(now_s):
                try:
                    transport.expire()
                except Exception:  # deadlines must go on for all the others
                    log.exception("a deadline could not be enforced")


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Let the others run until the condition holds, but no longer than so many seconds."""
    until_s = time.monotonic() + seconds
    while not condition() and time.monotonic() < until_s:
        gevent.sleep(0.01)


class Listener(StreamServer):
    """gevent's StreamServer, but for the tracebacks when the system runs out of descriptors or memory.

    Then it pauses, says so once, and has `make_room` free what it can; who comes meanwhile waits in the kernel.
    """

    backlog = BACKLOG
    _SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
    _DEPARTURES = (errno.ECONNABORTED, errno.EPROTO, errno.EPERM)
    """The client left while it waited, or a firewall rule was against it (accept(2))."""

    def __init__(
        self,
        address: tuple[str, int] | socket.socket,
        handle: Callable[..., None],
        make_room: Callable[[], object],
    ) -> None:
        # Plain greenlets: nobody joins or links ours, and gevent's own cost each connection 3 us more.
        super().__init__(address, handle, spawn=gevent.spawn_raw)  # type: ignore[call-overload]
        self._make_room = make_room
        self._shortage = Burst("cannot accept connections")

    def do_read(self) -> Any:
        try:
            return self._accept()
        except BlockingIOError:
            return None
        except OSError as problem:
            if problem.errno in self._SHORTAGES:
                self._shortage(problem.strerror)
                self._make_room()
                self.stop_accepting()
                gevent.spawn_later(ACCEPT_PAUSE_S, self._go_on)
            elif problem.errno not in self._DEPARTURES:
                raise
            return None

    def _accept(self) -> tuple[Any, Any]:
        descriptor, address = self.socket._accept()  # type: ignore[attr-defined]
        return RawSocket(self.family, socket.SOCK_STREAM, 0, fileno=descriptor), address

    def _go_on(self) -> None:
        if self.started:
            self.start_accepting()
