"""The heads of answers as bytes. Pure but for the clock of the Date line."""

import math
import time
from collections.abc import Callable

from fileserver.dates import http_date

REASONS = {
    200: "OK",
    202: "Accepted",
    204: "No Content",
    206: "Partial Content",
    301: "Moved Permanently",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class StatusLines:
    """The first two lines of every answer, with the date of the second (RFC 9110 section 6.6.1)."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._second = -1
        self._lines: dict[int, bytes] = {}
        self._ok, self._ok_until_s = b"", -math.inf

    def __getitem__(self, status: int) -> bytes:
        second = int(self._clock())
        if second != self._second:
            self._second = second
            self._lines.clear()
        lines = self._lines.get(status)
        if lines is None:
            lines = f"HTTP/1.1 {status} {REASONS[status]}\r\nDate: {http_date(second)}\r\n".encode()
            self._lines[status] = lines
        return lines

    def ok(self, now_s: float) -> bytes:
        """Those of a 200, for who knows the time in monotonic seconds: they are made anew once a second."""
        if now_s >= self._ok_until_s:
            self._ok = self[200]
            self._ok_until_s = now_s + 1 - self._clock() % 1
        return self._ok


def connection_field(*, keep_alive: bool, minor: int) -> bytes:
    """What the two versions do not do by themselves (RFC 9112 section 9.3), and the empty line after the head."""
    if not keep_alive:
        return b"Connection: close\r\n\r\n"
    return b"\r\n" if minor == 1 else b"Connection: keep-alive\r\n\r\n"


def fields(pairs: dict[str, str]) -> bytes:
    """Header lines, each ending in CRLF. Values are ours or percent-encoded, never a client's raw bytes."""
    return "".join(f"{name}: {value}\r\n" for name, value in pairs.items()).encode("latin-1")
