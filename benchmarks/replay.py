"""A client that asks for one object after the other, over a few connections, and throws the bodies away.

Cheap, so that one core of it keeps a server on another busy: one thread, one buffer for everything that comes.
Closed loop: a connection asks for the next object of the one queue as soon as it has the last byte of its own.
"""

import select
import socket
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.clients import request

BUFFER_BYTES = 1 << 20
HEAD_MAX_BYTES = 16 * 1024
SILENCE_S = 30.0
"""How long a server may send nothing at all."""


class Broken(Exception):
    """What the server did instead of answering with the whole file."""


class Wanted(NamedTuple):
    """What to ask for, and how many bytes must come."""

    name: str
    size: int


class Replayed(NamedTuple):
    """Seconds: of each answer to its last byte, in the order they ended, and of all together."""

    latencies_s: list[float]
    took_s: float


def replay(host: str, port: int, queue: Sequence[Wanted], *, connections: int, max_s: float) -> Replayed:
    """Ask for everything in `queue`, in its order. Blocks at most `max_s`; raises Broken."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    left = iter(queue)
    latencies_s: list[float] = []
    poll = select.epoll()
    clients: dict[int, Client] = {}
    try:
        began_s = time.perf_counter()
        for _ in range(min(connections, len(queue))):
            client = Client(host, port)
            clients[client.fileno()] = client
            poll.register(client.fileno(), select.EPOLLIN)
            client.ask(next(left))
        while len(latencies_s) < len(queue):
            ready = poll.poll(SILENCE_S)
            if not ready:
                raise Broken(f"nothing came for {SILENCE_S:.0f} s")
            if time.perf_counter() - began_s > max_s:
                raise Broken(f"it took more than {max_s:.0f} s")
            for descriptor, _ in ready:
                if clients[descriptor].receive(buffer):
                    latencies_s.append(clients[descriptor].took_s())
                    _ask_next(clients[descriptor], left)
        return Replayed(latencies_s, time.perf_counter() - began_s)
    except OSError as problem:
        raise Broken(f"the connection broke: {problem.strerror or problem}") from problem
    finally:
        for client in clients.values():
            client.close()
        poll.close()


def _ask_next(client: "Client", left: Iterator[Wanted]) -> None:
    wanted = next(left, None)
    if wanted is not None:
        client.ask(wanted)


class Client:
    """One keep-alive connection with one request on its way. `close` it."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=SILENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._host = f"{host}:{port}"
        self._wanted = Wanted("", 0)
        self._head = b""
        self._left = 0
        self._asked_s = 0.0

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._socket.fileno()

    def ask(self, wanted: Wanted) -> None:
        """Send a request."""
        self._wanted = wanted
        self._head = b""
        self._left = wanted.size
        self._asked_s = time.perf_counter()
        self._socket.sendall(request(wanted.name, self._host))

    def receive(self, buffer: memoryview) -> bool:
        """Take what has come; whether that is the end of the answer. Raises Broken, OSError."""
        got = self._socket.recv_into(buffer)
        if got == 0:
            raise Broken(f"{self._wanted.name}: the server closed {self._left} bytes before the end")
        if self._head.endswith(b"\r\n\r\n"):
            self._left -= got
        else:
            self._left -= self._after_head(bytes(buffer[:got]))
        if self._left < 0:
            raise Broken(f"{self._wanted.name}: more bytes than the file has")
        return self._left == 0 and self._head.endswith(b"\r\n\r\n")

    def took_s(self) -> float:
        """Seconds since the request was sent."""
        return time.perf_counter() - self._asked_s

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _after_head(self, received: bytes) -> int:
        """How many of these bytes belong to the body, once the head is complete. Raises Broken."""
        head, ended, body = (self._head + received).partition(b"\r\n\r\n")
        self._head = head + ended
        if not ended:
            if len(head) > HEAD_MAX_BYTES:
                raise Broken(f"{self._wanted.name}: a head without an end")
            return 0
        check_head(self._wanted, self._head)
        return len(body)


def check_head(wanted: Wanted, head: bytes) -> None:
    """Raises Broken unless the answer is the whole file, as long as it must be."""
    first, *lines = head.split(b"\r\n")
    if first.split()[1:2] != [b"200"]:
        raise Broken(f"{wanted.name}: {first.decode('latin-1')}")
    fields = dict(line.lower().partition(b":")[::2] for line in lines)
    length = fields.get(b"content-length", b"?").strip()
    if length != str(wanted.size).encode():
        raise Broken(f"{wanted.name}: Content-Length is {length.decode('latin-1')} and not {wanted.size}")
