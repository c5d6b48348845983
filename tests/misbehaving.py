"""Servers that do what no server should, and when the test says so, to see what gclient.py makes of it."""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

GIVE_UP_S = 20
"""Bounds every wait for the other side; nothing that passes waits for it."""

FIRST_PIECE = b"1" * (300 * 1024)
"""Enough for progress to be shown."""

Script = Callable[[socket.socket, threading.Event], None]


class Misbehaving:
    """Takes as many connections as there are scripts, one after the other: reads a request head, runs the next
    script, closes. Leaving the `with` waits until all have run, unless `may_stay_away`.

    A script gets a gate to wait at, which the test opens, or the end of the `with` does. `requests` are the heads
    that came: the request line under "", the fields in lower case.
    """

    def __init__(self, *scripts: Script, may_stay_away: bool = False) -> None:
        self._scripts = scripts
        self._may_stay_away = may_stay_away
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(GIVE_UP_S)
        self.address = ("127.0.0.1", str(self._listener.getsockname()[1]))
        self.requests: list[dict[str, str]] = []
        self.gate = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> "Misbehaving":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        if self._may_stay_away:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._thread.join(GIVE_UP_S + 1)
        assert not self._thread.is_alive()
        if not self._may_stay_away:
            assert len(self.requests) == len(self._scripts), f"asked {len(self.requests)} times"

    def _serve(self) -> None:
        with self._listener:
            for number, script in enumerate(self._scripts, 1):
                try:
                    client, _ = self._listener.accept()
                except OSError:
                    return
                if number == len(self._scripts):
                    self._listener.close()
                with client, suppress(ConnectionError):  # the client may leave first
                    client.settimeout(GIVE_UP_S)
                    self.requests.append(request(client))
                    script(client, self.gate)


def request(client: socket.socket) -> dict[str, str]:
    """The next request head on this connection; empty when the client has left."""
    fields: dict[str, str] = {}
    with client.makefile("rb") as lines:
        while line := lines.readline().decode("latin-1").strip():
            name, _, value = line.partition(":") if fields else ("", "", line)
            fields[name.lower()] = value.strip()
    return fields


def says(*contents: bytes) -> Script:
    """Send these, one for each request on the connection, and close."""

    def script(client: socket.socket, _gate: threading.Event) -> None:
        client.sendall(contents[0])
        for content in contents[1:]:
            request(client)
            client.sendall(content)

    return script


def head(length: int, status: str = "200 OK", content_type: str = "text/plain", **fields: str) -> bytes:
    """An answer's head that promises `length` bytes; `_` in the name of a field stands for `-`."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def held(first: bytes, rest: bytes, missing: int = 0, **fields: str) -> Script:
    """Send a head and `first`, the `rest` only when the gate opens, and the last `missing` bytes never."""

    def script(client: socket.socket, gate: threading.Event) -> None:
        client.sendall(head(len(first) + len(rest) + missing, **fields) + first)
        gate.wait(GIVE_UP_S)
        client.sendall(rest)

    return script


def sends(content: bytes, start: int = 0, until: int | None = None, etag: str = '"v1"', **fields: str) -> Script:
    """Promise the bytes of `content` from `start` on, as a part of it if that is not 0; send those before `until`
    (None: all), and close."""
    if etag:
        fields["ETag"] = etag
    status = "200 OK"
    if start:
        status = "206 Partial Content"
        fields.setdefault("Content_Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    return says(head(len(content) - start, status, **fields) + content[start:until])


def reset(client: socket.socket, gate: threading.Event) -> None:
    """Send a part of a body; when the gate opens, reset the connection."""
    client.sendall(head(1 << 20) + FIRST_PIECE)
    gate.wait(GIVE_UP_S)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def silent(_client: socket.socket, gate: threading.Event) -> None:
    """No answer."""
    gate.wait(GIVE_UP_S)


def trickles(content: bytes) -> Script:
    """Send this byte by byte, each in a packet of its own."""

    def script(client: socket.socket, _gate: threading.Event) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in content:
            client.sendall(bytes([octet]))

    return script


def endless(client: socket.socket, _gate: threading.Event) -> None:
    """An error message that goes on until the client leaves."""
    client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n\r\n")
    for _ in range(4096):
        client.sendall(b"no " * 20_000)
    raise AssertionError("the client read all of it")


class Gated:
    """Serves `files` by their paths to many clients at once: the first half of each, and the rest when its
    gate opens. Connections are kept. Leaving the `with` opens all gates, and hangs up.

    `requests` are the heads that came, as Misbehaving has them; `connections` is how many were made. With a strong
    `etag` in `fields` there are ranges.
    """

    def __init__(self, files: dict[str, bytes], **fields: str) -> None:
        self._files = files
        self._fields = fields
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = ("127.0.0.1", str(self._listener.getsockname()[1]))
        self.gates = {name: threading.Event() for name in files}
        self.requests: list[dict[str, str]] = []
        self._clients: list[socket.socket] = []
        self._news = threading.Condition()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> "Gated":
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._threads[0].join(GIVE_UP_S)
        for client in self._clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(GIVE_UP_S)
            assert not thread.is_alive()

    @property
    def connections(self) -> int:
        return len(self._clients)

    def open(self) -> None:
        """All gates."""
        for gate in self.gates.values():
            gate.set()

    def wait_for(self, count: int) -> None:
        """Until so many requests have come."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.requests) >= count, GIVE_UP_S), self.requests

    def _accept(self) -> None:
        with self._listener, suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.settimeout(GIVE_UP_S)
                self._clients.append(client)
                self._threads.append(threading.Thread(target=self._serve, args=(client,)))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while fields := request(client):
                with self._news:
                    self.requests.append(fields)
                    self._news.notify_all()
                self._answer(client, fields)

    def _answer(self, client: socket.socket, fields: dict[str, str]) -> None:
        name = fields[""].split(" ")[1].removeprefix("/")
        if name not in self._files:
            client.sendall(head(8, "404 Not Found") + b"no such\n")
            return
        content, status, extra = self._files[name], "200 OK", {}
        etag = self._fields.get("etag")
        if etag is not None and fields.get("if-range") == etag:
            start = int(fields["range"].removeprefix("bytes=").removesuffix("-"))
            status, extra = (
                "206 Partial Content",
                {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"},
            )
            content = content[start:]
        client.sendall(head(len(content), status, **self._fields, **extra) + content[: len(content) // 2])
        self.gates[name].wait(GIVE_UP_S)
        client.sendall(content[len(content) // 2 :])
