"""Bytes to requests: HTTP/1.1 and the one-line protocol, without any I/O.

llhttp (through httptools) validates every head and finds the end of every body; the request line, the limits and
the header fields we act on are read here, because httptools sets no limits and takes versions and methods that we
do not. Requests are parsed one at a time, when the one before is answered: a pipeline is never a queue.

Nothing else in the program turns header bytes into meaning, but for `fastpath`, which takes PLAIN's groups.
"""

import re
from typing import NamedTuple

import httptools

MAX_TARGET_BYTES = 8 * 1024
"""414 above it (nginx: one of large_client_header_buffers, 8k)."""
MAX_HEAD_BYTES = 16 * 1024
"""431 above it (Node.js: --max-http-header-size, 16 KiB)."""
MAX_HEADERS = 100
"""431 above it (Apache: LimitRequestFields, 100)."""
MAX_BODY_BYTES = 64 * 1024
"""413 above it; below, a request body is read and thrown away, framing included. Nobody sends us one on purpose
(Go discards 256 KiB before it gives the connection up, nginx takes 1 MiB)."""
MAX_LINE_BYTES = 8 * 1024
"""Of the one-line protocol, as for a target."""
LINE_SLACK_BYTES = 64
"""What a request line may have besides its target: method, version, spaces."""

KNOWN_METHODS = frozenset(
    b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK"
    b" BIND REBIND UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PURGE"
    b" MKCALENDAR LINK UNLINK QUERY".split()
)
"""What llhttp can read. Another token in the place of the method is 501."""

PLAIN_BYTES = 4 * 1024
"""What a plain request is read with: ten times an ordinary head, and cheaper to have than MAX_HEAD_BYTES."""
_PLAIN_FIELDS = (
    rb"(?:(?:"
    # Fields that cannot ask for more. Accept, Accept-Encoding and Authorization are among them: they mean nothing
    # to a file as long as there are no precompressed forms and no tokens (Site.has_fast_path).
    rb"[ABDFGJ-OQSVX-Zabdfgj-oqsvx-z][-0-9A-Za-z]*+:"
    rb"|[Cc]ookie:|[Uu]ser-[Aa]gent:|[Rr]eferer:|[Cc]onnection: (?:keep-alive|(close))(?=\r)"
    rb"|Upgrade-Insecure-Requests:|[Cc]ache-[Cc]ontrol:|[Pp]ragma:|[Pp]riority:"
    rb")[\x20-\x7e]*+\r\n){0,48}+"
)
PLAIN = re.compile(
    rb"GET /([-.0-9A-Za-z_~!$&'()*+,;=:@/]*+) HTTP/1\.1\r\n"
    + _PLAIN_FIELDS
    + rb"[Hh]ost: ?(?:\[[0-9A-Fa-f:.]++\]|[-.0-9A-Za-z]++)(?::\d{1,5}+)?\r\n"
    + _PLAIN_FIELDS
    + rb"\r\n"
)
"""A request for the whole of a file, and no field that asks for more. Groups: its name, `close`, `close`.

Stricter than HTTP on purpose: what it takes, the general parser takes to be the same request.
"""

plain = PLAIN.fullmatch
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([^\x00-\x20\x7f]+) HTTP/(\d)\.(\d)")
_VERSIONED = re.compile(rb".* HTTP/\d\.\d", re.DOTALL)
_EMPTY_LINES = re.compile(rb"\A(?:\r\n)+")
_CLOSE = re.compile(rb"\r\nconnection:(?:[^\r]*[ \t,])?close[ \t,\r]", re.IGNORECASE)
_BARE_LF = re.compile(rb"(?<!\r)\n")
_FIELDS = re.compile(
    rb"\r\n(accept|accept-encoding|authorization|content-length|expect|host|if-match|if-modified-since"
    rb"|if-none-match|if-range|if-unmodified-since|origin|range|referer|sec-fetch-site|transfer-encoding|user-agent"
    rb"|want-repr-digest):([^\r]*)",
    re.IGNORECASE,
)
_SENDER = re.compile(rb"\r\n([Rr]eferer|[Uu]ser-[Aa]gent): *([^\r]*)")
_HOST = re.compile(rb"(?:\[[0-9A-Za-z.:~_-]+\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::\d{0,5})?")
"""uri-host and port of RFC 9112 section 3.2; empty where the target has no authority."""


def sender(head: bytes | bytearray, length: int) -> tuple[bytes, bytes]:
    """Referer and User-Agent of a plain request, the first `length` bytes of `head`."""
    fields = _joined(_SENDER.findall(head, 0, length))
    return fields.get(b"referer", b""), fields.get(b"user-agent", b"")


class WireError(Exception):
    """The bytes are not a request we answer. Carries the status; the connection closes after it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class OneLineError(WireError):
    """The same for a client that speaks the one-line protocol and is answered in it."""


class Request(NamedTuple):
    """One HTTP request, its body read and thrown away. Header names are lower case; repeated ones are joined."""

    method: bytes
    target: bytes
    fields: dict[bytes, bytes]
    minor: int
    keep_alive: bool


class OneLine(NamedTuple):
    """`LIST` (name is None) or `GET NAME` in the original system's shape: raw bytes, no percent-decoding."""

    name: bytes | None


class RequestReader:
    """Turns received bytes into requests, in order.

    `feed` what was received, then call `next` until it returns None; then there is more to receive. Holds at most
    MAX_HEAD_BYTES beyond what one `feed` brought. After a WireError, a OneLine, or a request whose
    `keep_alive` is false, the connection is at its end and the reader of no more use.
    """

    __slots__ = (
        "_body_bytes",
        "_body_left",
        "_buffer",
        "_complete",
        "_expects_continue",
        "_keep_alive",
        "_may_be_line",
        "_parser",
        "_request",
        "_scanned",
        "line",
    )

    def __init__(self) -> None:
        self._buffer = b""
        self._scanned = 0
        self._parser: httptools.HttpRequestParser | None = None
        self._may_be_line = True
        """Only the first line of a connection may be in the one-line protocol."""
        self._request: Request | OneLine | None = None
        self._complete = self._keep_alive = self._expects_continue = False
        self._body_left: int | None = None
        self._body_bytes = 0
        self.line = b""
        """The first line of the request that `next` last saw, complete or not, for the log."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing of a further request has been received."""
        return not self._buffer and self._request is None

    @property
    def is_new(self) -> bool:
        """Whether nothing at all has been received on this connection."""
        return self._may_be_line and self.is_empty

    def note_http(self) -> None:
        """Requests before this one were read elsewhere: the one-line protocol is out of the question."""
        self._may_be_line = False

    def feed(self, received: bytes) -> None:
        """Take bytes in the order they came."""
        self._buffer = self._buffer + received if self._buffer else received

    def next(self) -> Request | OneLine | None:
        """The next complete request; None when more bytes are needed. Raises WireError."""
        if self._request is None:
            if self._may_be_line and self._speaks_one_line():
                return self._next_line()
            if not self._read_head():
                return None
        request = self._request
        if not self._complete:
            self._skip_body()
            if not self._complete:
                return None
        self._request = None
        self._body_bytes = 0
        return request

    def expects_continue(self) -> bool:
        """Whether the client waits to be told to send its body (RFC 9110 section 10.1.1). True once."""
        expects, self._expects_continue = self._expects_continue, False
        return expects and self._request is not None

    def close(self) -> None:
        """Break the cycle between this reader and its parser."""
        self._parser = None

    # Callbacks of httptools.

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._keep_alive = self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        self._complete = True

    # The one-line protocol.

    def _speaks_one_line(self) -> bool:
        """False as soon as the buffer cannot be `LIST` or `GET NAME` any more; an open question counts as True."""
        buffer = self._buffer
        line, ended, _ = buffer.partition(b"\n")
        line = line.removesuffix(b"\r")
        if ended:
            return line == b"LIST" or (
                line.startswith(b"GET ") and not line.startswith(b"GET /") and not _VERSIONED.fullmatch(line)
            )
        if buffer.startswith(b"GET ") and len(buffer) > 4:
            return not buffer.startswith(b"GET /")
        return bool(buffer) and (b"LIST\r".startswith(buffer) or b"GET ".startswith(buffer))

    def _next_line(self) -> OneLine | None:
        line, ended, _ = self._buffer.partition(b"\n")
        self.line = line.removesuffix(b"\r")
        # What has no end yet may still become an HTTP request line with an absolute target.
        if len(line) > MAX_LINE_BYTES + (0 if ended else LINE_SLACK_BYTES):
            raise OneLineError(414, "the line is too long")
        if not ended:
            return None
        line = line.removesuffix(b"\r")
        return OneLine(None if line == b"LIST" else line[4:])

    # HTTP.

    def _read_head(self) -> bool:
        """Parse the head at the front of the buffer; False when it is not all there."""
        if self._buffer.startswith(b"\r\n"):
            # RFC 9112 section 2.2: empty lines before a request line are ignored.
            self._buffer, self._scanned = _EMPTY_LINES.sub(b"", self._buffer), 0
            self._may_be_line = False  # the first line has been
        end = self._buffer.find(b"\r\n\r\n", max(0, self._scanned - 3)) + 4
        if end < 4:
            self._check_beginning()
            self._scanned = len(self._buffer)
            return False
        head, self._buffer, self._scanned = self._buffer[:end], self._buffer[end:], 0
        self.line = head[: head.index(b"\r\n")]
        method, target, minor = _request_line(self.line)
        if len(head) > MAX_HEAD_BYTES or head.count(b"\n") > MAX_HEADERS + 2:
            raise WireError(431, "too many or too long header fields")
        self._complete = self._may_be_line = False
        upgraded = self._parse(head)
        fields = _fields(head)
        _check_fields(fields, minor)
        # Where a request that llhttp took for an upgrade has a body, nobody can say where the next one begins.
        has_body = b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0"
        # RFC 9112 section 6.1: chunked from HTTP/1.0 is faulty framing.
        faulty = minor == 0 and b"transfer-encoding" in fields
        # RFC 9112 section 9.3: close comes first, which llhttp knows of HTTP/1.1 only.
        closes = minor == 0 and self._keep_alive and _CLOSE.search(head) is not None
        keep_alive = self._keep_alive and not (upgraded and has_body) and not faulty and not closes
        self._request = Request(method, target, fields, minor, keep_alive)
        self._expect_body(fields)
        self._expects_continue = minor == 1 and b"expect" in fields and not self._buffer
        return True

    def _check_beginning(self) -> None:
        """Refuse what can be refused before the head is complete, so that nobody waits for a verdict."""
        buffer = self._buffer
        line, ended, _ = buffer.partition(b"\n")
        self.line = line.removesuffix(b"\r")
        if not ended:
            _check_length(line)
        elif line.endswith(b"\r"):
            _request_line(line[:-1])
        if _BARE_LF.search(buffer, max(0, self._scanned - 1)):
            raise WireError(400, "lines end in CR LF")
        if len(buffer) > MAX_HEAD_BYTES:
            raise WireError(431, "too long header fields")

    def _expect_body(self, fields: dict[bytes, bytes]) -> None:
        if self._complete:
            return
        length = fields.get(b"content-length")
        self._body_left = None if length is None else int(length.lstrip(b"0") or b"0")
        if self._body_left is not None and self._body_left > MAX_BODY_BYTES:
            raise WireError(413, "the request body is too large")

    def _skip_body(self) -> None:
        """Feed the body to llhttp up to exactly its end, so that no byte of the next request goes with it."""
        while self._buffer and not self._complete:
            if self._body_left is not None:
                end = self._body_left - self._body_bytes
            else:
                # A chunked body ends in an empty line, so its end is always the end of one of these pieces.
                end = self._buffer.find(b"\r\n\r\n") + 4
                if end < 4:
                    end = len(self._buffer) - 3
                if end <= 0:
                    return
            piece, self._buffer = self._buffer[:end], self._buffer[end:]
            self._body_bytes += len(piece)
            if self._body_bytes > MAX_BODY_BYTES:
                raise WireError(413, "the request body is too large")
            self._parse(piece)

    def _parse(self, piece: bytes) -> bool:
        """Let llhttp judge. True when it gave up at an Upgrade and cannot say where the request ends.

        We upgrade to nothing, so the field is ignored (RFC 9110 section 7.8). What is fed next is a new request.
        """
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            return True
        except httptools.HttpParserError as error:
            raise WireError(400, "not a valid HTTP request") from error
        return False


def _check_length(line: bytes) -> None:
    if len(line) > MAX_TARGET_BYTES + LINE_SLACK_BYTES:
        raise WireError(414 if b" " in line[:32] else 400, "the request line is too long")


def _request_line(line: bytes) -> tuple[bytes, bytes, int]:
    """Method, target and minor version. Raises WireError."""
    _check_length(line)
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise WireError(400, "not an HTTP request line")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in (b"0", b"1"):
        raise WireError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if method not in KNOWN_METHODS:
        raise WireError(501, "this method is not known here")
    if len(target) > MAX_TARGET_BYTES:
        raise WireError(414, "the request target is too long")
    return method, target, minor[0] - ord("0")


def _check_fields(fields: dict[bytes, bytes], minor: int) -> None:
    """A Host (RFC 9112 section 3.2), and no expectation but one (RFC 9110 section 10.1.1). Raises WireError."""
    host = fields.get(b"host")
    if host is None:
        if minor == 1:
            raise WireError(400, "the Host field is missing")
    elif not _HOST.fullmatch(host):
        raise WireError(400, "the Host field is not a host")
    if minor == 1 and fields.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise WireError(417, "only 100-continue can be expected")


def _fields(head: bytes) -> dict[bytes, bytes]:
    """The fields we act on. llhttp has found the head valid: no folded lines, no space before a colon."""
    return _joined(_FIELDS.findall(head))


def _joined(lines: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for found, value in lines:
        name = found.lower()
        stripped = value.strip(b" \t")
        # Two of what is no list are no valid value when joined: no Host, no date, no range.
        fields[name] = fields[name] + b", " + stripped if name in fields else stripped
    return fields
