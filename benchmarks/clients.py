"""A keep-alive client that knows just enough HTTP, for what no load generator does: hold still, fill a cache.

Blocks, or switches greenlets, as the socket does that it is given.
"""

import http.client
import json
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from typing import Any

from benchmarks.peers import HOST

ANSWER_S = 60.0
"""What any single answer may take."""

RECEIVE_BYTES = 256 * 1024

SOURCES = [f"127.0.0.{last}" for last in range(2, 10)]
"""Clients' addresses, in turn: one has some 28,000 ports, and a closed connection keeps its own for a minute."""


class Refused(Exception):
    """A server hung up or said something other than a whole file."""


class Client:
    """One connection. The socket is connected, and closed with the client."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def ask(self, name: str) -> None:
        """Send a request and wait for nothing."""
        self._socket.sendall(request(name))

    def answer(self) -> int:
        """Read one whole answer; the bytes of its body. Raises Refused, and OSError as the socket does."""
        received = self._receive()
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
            raise Refused("the server hung up")
        return received


@contextmanager
def clients(port: int, count: int) -> Iterator[list[Client]]:
    """So many open connections, from all SOURCES in turn. Raises OSError."""
    with ExitStack() as closing:
        opened = []
        for source in islice(cycle(SOURCES), count):
            client = Client(socket.create_connection((HOST, port), ANSWER_S, (source, 0)))
            closing.callback(client.close)
            opened.append(client)
        yield opened


def fetch_all(port: int, names: Sequence[str], connections: int) -> None:
    """Ask for each file once, over so many connections at a time. Raises Refused and OSError."""
    with clients(port, connections) as fetchers:
        for first in range(0, len(names), connections):
            asked = list(zip(fetchers, names[first : first + connections], strict=False))
            for client, name in asked:
                client.ask(name)
            for client, _ in asked:
                client.answer()


def request(name: str, host: str = "localhost") -> bytes:
    """A whole request."""
    return f"GET /{name} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def body_length(head: bytes) -> int:
    """Content-Length of the head of a 200. Raises Refused on any other."""
    match = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    if match is None or not re.match(rb"HTTP/1\.1 200 ", head):
        raise Refused(f"not the answer that was expected: {head[:60]!r}")
    return int(match[1])


def stats(port: int) -> dict[str, Any]:
    """What gserver says of itself. Raises OSError."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/-/stats")
        said: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return said
