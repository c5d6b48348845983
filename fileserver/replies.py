"""Answers before they are bytes on a connection, and the one place that maps errors to statuses.

No answer carries an error's own text: that is for the log.
"""

from typing import NamedTuple, Protocol

from fileserver import heads, names, root
from fileserver.store import Body
from lrucache import Outcome

TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
JSON = "application/json"


class Stream(Protocol):
    """Content that is made while it is sent, and has no length: the connection ends with it."""

    def next(self) -> bytes | None:
        """What comes next, as soon as it is there; None at the end. May switch greenlets."""

    def close(self) -> None:
        """Nothing more is wanted."""


class Reply(NamedTuple):
    """An answer: rendered header lines, and after the head `content`, the bytes [start, end) of a `body`, or all
    of a `stream`.

    Body and stream are the receiver's to close. What `is_private` is not for web pages of other origins.
    """

    status: int
    fields: bytes
    content: bytes = b""
    body: Body | None = None
    start: int = 0
    end: int = 0
    stream: Stream | None = None
    is_private: bool = False


_ERRORS: dict[type[Exception], tuple[int, str]] = {
    root.NotFound: (404, "no such file"),
    root.IsFolder: (404, "a folder, not a file"),
    root.Forbidden: (403, "not readable"),
    root.Exhausted: (503, "too busy, try again"),
    root.Changed: (503, "changed while it was read, try again"),
    root.DiskFailure: (500, "the disk failed"),
    root.FileError: (500, "could not be read"),
    names.BadTarget: (400, "not a valid target"),
}

_CACHE_FIELDS = {
    Outcome.HIT: b"X-Cache: HIT\r\nCache-Status: gserver; hit\r\n",
    Outcome.MISS: b"X-Cache: MISS\r\nCache-Status: gserver; fwd=miss\r\n",
    Outcome.COALESCED: b"X-Cache: COALESCED\r\nCache-Status: gserver; fwd=miss; collapsed\r\n",
}


def explain(problem: Exception, name: str | None = None) -> Reply:
    """The answer that says why not."""
    status, reason = next(_ERRORS[kind] for kind in type(problem).__mro__ if kind in _ERRORS)
    subject = f": {name}" if name and name.isprintable() else ""
    return error(status, reason + subject)


def error(status: int, reason: str, fields: dict[str, str] | None = None) -> Reply:
    """A short plain-text answer. 503 tells the client to come back."""
    come_back = {"Retry-After": "1"} if status == 503 else {}
    return page(reason.encode("utf-8", "replace") + b"\n", TEXT, status, come_back | (fields or {}))


def page(content: bytes, content_type: str, status: int = 200, fields: dict[str, str] | None = None) -> Reply:
    """An answer of our own making: never cached, never sniffed."""
    head = {
        "Content-Length": str(len(content)),
        "Content-Type": content_type,
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return Reply(status, heads.fields(head | (fields or {})), content)


def event_stream(stream: Stream | None) -> Reply:
    """Server-Sent Events, which a proxy should pass on as they come (nginx: X-Accel-Buffering)."""
    head = {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-Accel-Buffering": "no",
    }
    return Reply(200, heads.fields(head), stream=stream)


def one_line(reply: Reply) -> Reply:
    """An error in the one-line protocol."""
    return reply._replace(content=b"ERROR " + reply.content)


def cache_fields(outcome: Outcome, detail: str = "") -> bytes:
    """X-Cache and Cache-Status (RFC 9211): where the answer came from."""
    if outcome is Outcome.BYPASS:
        return f"X-Cache: BYPASS\r\nCache-Status: gserver; fwd=bypass; detail={detail}\r\n".encode()
    return _CACHE_FIELDS[outcome]
