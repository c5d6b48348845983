"""A request on a socket of its own, for what no HTTP library allows: bad bytes, slow reads, all at once."""

import socket
import ssl
from http.client import HTTPException, HTTPResponse
from urllib.parse import urlsplit

TIMEOUT_S = 30.0

TOGETHER = 25
"""Requests of one stampede."""

FAILURES = (OSError, HTTPException)
"""What an exchange may raise: no connection, no answer in time, an answer that is no HTTP."""


def connect(host: str, receive_buffer: int = 0) -> socket.socket:
    """A connection to `host`, an URL as Locust has it; TLS without looking at the certificate, as Locust's own.

    `receive_buffer` is in bytes, set first so that the window is small from the start. A name may have several
    addresses (localhost: ::1 and 127.0.0.1); the first that answers is taken. The caller closes it.
    Raises OSError.
    """
    url = urlsplit(host)
    try:
        address = (url.hostname or "127.0.0.1", url.port or {"https": 443}.get(url.scheme, 80))
    except ValueError as error:
        raise OSError(f"{host}: {error}") from error
    refused: OSError | None = None
    for family, _, _, _, resolved in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        client = socket.socket(family, socket.SOCK_STREAM)
        try:
            client.settimeout(TIMEOUT_S)
            if receive_buffer:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            client.connect(resolved)
            return _wrapped(client, url.hostname) if url.scheme == "https" else client
        except OSError as error:
            refused = error
            client.close()
        except BaseException:
            client.close()
            raise
    raise refused or OSError(f"{url.hostname} has no address")


def _wrapped(client: socket.socket, name: str | None) -> socket.socket:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    wrapped = context.wrap_socket(client, server_hostname=name, do_handshake_on_connect=False)
    try:
        wrapped.do_handshake()
    except BaseException:  # a user may be killed here
        wrapped.close()
        raise
    return wrapped


def request(path: str, method: str = "GET", accept: str = "*/*") -> bytes:
    """A plain request for `path`, which closes afterwards."""
    fields = f"Host: loadtest\r\nAccept: {accept}\r\nAccept-Encoding: identity\r\nConnection: close\r\n"
    return f"{method} {path} HTTP/1.1\r\n{fields}\r\n".encode("ascii")


def response(client: socket.socket, method: str = "GET") -> HTTPResponse:
    """The head of the answer; its body is read by whoever asked. Raises FAILURES."""
    answer = HTTPResponse(client, method=method)
    answer.begin()
    return answer


def ask(host: str, path: str, accept: str = "application/json", method: str = "GET") -> tuple[HTTPResponse, bytes]:
    """One small question on a connection of its own: the head and the whole body. Raises FAILURES."""
    with connect(host) as client:
        client.sendall(request(path, method, accept))
        answer = response(client, method)
        return answer, answer.read()


def receive_all(client: socket.socket, at_most: int) -> bytes:
    """Everything until the server closes, or a byte more than `at_most`. Raises OSError."""
    received = bytearray()
    while len(received) <= at_most and (piece := client.recv(min(1 << 16, at_most + 1 - len(received)))):
        received += piece
    return bytes(received)


def lines(listing: bytes) -> list[str]:
    """The names of a LIST. A name may hold what str.splitlines takes for the end of a line."""
    return listing.decode().split("\n")[:-1]
