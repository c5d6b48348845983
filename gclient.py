#!/usr/bin/env python3
"""gclient: fetch files from a gserver, or from any HTTP server, and see what a gserver's cache holds.

    gclient.py HOST PORT list [--long] [--json]    the names in the server's cache
    gclient.py HOST PORT FILE [DIR]                fetch FILE into DIR (default: here; `-`: standard output)
    gclient.py HOST PORT get FILE... [-d DIR]      the same with several; `-j 4`: four at a time
    gclient.py HOST PORT stats [--json]            the server's counters, in words or as it says them
    gclient.py HOST PORT health                    whether it is up

A file is fetched into FILE.part, with what is known of it in FILE.part.json, and gets its name when all of it is
there and right. After an interruption the same command fetches what is missing, if the file is still the same one.
What is there already and has not changed is not fetched again.

    gclient.py localhost 8080 trips/rome.jpg
    gclient.py localhost 8080 get a.iso b.iso -d /tmp -j 2
    gclient.py localhost 8080 table.csv - | sort
    gclient.py ::1 8443 a.iso --tls --ca ca.pem --token-file token

Exit codes, curl's where curl has one: 0; 2 usage; 6 cannot resolve the host; 7 cannot connect; 8 strange answer;
18 the transfer was cut; 22 the server said no; 23 cannot write; 28 timeout; 32 wrong checksum; 33 wrong range;
35 no TLS; 56 nothing could be received; 60 its certificate is not to be trusted; 130 interrupted. With several
files all are tried, and it is the code of the first that failed.
"""

# One file, standard library only, and none of the server's code: a second, independent reading of the wire.
# What only some need (ssl, json, hashlib, threading) is imported by who needs it, or the start would take twice as
# long.

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import stat
import sys
import time

__version__ = "0.1.0"
"""gserver's too: this file is the one that also stands alone."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, BinaryIO, NoReturn

USAGE, RESOLVE, CONNECT, STRANGE, PARTIAL, REFUSED, WRITE, TIMEOUT = 2, 6, 7, 8, 18, 22, 23, 28
CHECKSUM, RANGE, HANDSHAKE, RECEIVE, CERTIFICATE, INTERRUPTED = 32, 33, 35, 56, 60, 130

PIECE_BYTES = 1 << 20
"""Read at a time, into one buffer that is used again and again."""
HEAD_BYTES = 64 * 1024
MESSAGE_BYTES = 4096
MESSAGE_S = 5.0
"""As much of a refusal as anyone wants to read, and to wait for."""
STATS_BYTES = 1 << 20
LIST_BYTES = 256 << 20
"""More than the counters of a gserver, and the list of its cache, ever take."""
NAME_BYTES = 255
"""NAME_MAX: the longest a file name may be where we write."""

TIMEOUT_S = 60.0
MAX_TIMEOUT_S = 1e6
"""poll(2) counts milliseconds in an int: 24 days."""
TRIES = 5
BACKOFF_S = 0.25
"""Before the second try; twice as long before each further one; up to a half more or less."""
UNTIL_10000_S = 253402300800
"""HTTP's years have four digits."""
PATIENCE_S = 300.0
"""The longest Retry-After that is waited for."""


class Failure(Exception):
    """What went wrong, in words for the user, and the exit code that says it to a script.

    `retry_s`: in so many seconds it may go better; None: it will not.
    """

    def __init__(self, code: int, message: str, *, retry_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_s = retry_s


# The library: what can be asked of a server.


class Entry:
    """A file in a gserver's cache: how many bytes it has, how often it was used, how long it has been there and
    unused in seconds, and how many are reading it."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.name = str(fields["name"])
        self.size = int(fields["size"])
        self.hits = int(fields["hits"])
        self.age_s = float(fields["age_s"])
        self.idle_s = float(fields["idle_s"])
        self.readers = int(fields["readers"])


Names = list[str]
"""In a class that has a `list` of its own, `list[str]` would be that one's."""


class Transfer:
    """One file on its way; how it came, when it is there.

    `path`: where it is, None when it was written to a file object. `size` (None: not known yet) and `done` are
    bytes, `resumed_from` those that were there before. `cache` is the server's X-Cache (HIT, MISS, ...) or None.
    `digest` is `sha-256=HEX` when it was checked against the server's or the caller's, else None.
    `is_up_to_date`: it was there, and has not changed. `seconds` is how long it took.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path: str | None = None
        self.size: int | None = None
        self.done = self.resumed_from = 0
        self.cache: str | None = None
        self.digest: str | None = None
        self.is_up_to_date = False
        self.began_s = time.monotonic()
        self.seconds = 0.0


class Observer:
    """Is told what a Client does, in the thread that does it. This one does not care."""

    def head(self, mark: str, text: str) -> None:
        """The head of a request (`>`, without its token) is being sent, or that of an answer (`<`) has come."""

    def progress(self, transfer: Transfer) -> None:
        """More of a file has come."""

    def retry(self, transfer: Transfer, failure: Failure, wait_s: float) -> None:
        """It will be tried again in so many seconds."""


class Client:
    """One server, and a connection to it that is kept between calls. All methods block, and raise Failure.

    `ca` is a PEM file with the authorities to trust (None: the system's), `token` is sent with each request.
    `timeout_s` is how long nothing may come, `max_time_s` how long one call may take, `tries` how often `get`
    tries. For one thread at a time. Close it, or use it in a `with`.

        with Client("localhost", 8080) as client:
            client.get("trips/rome.jpg", "/tmp")
            print(client.list())
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: bool = False,
        ca: str | None = None,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        max_time_s: float | None = None,
        tries: int = TRIES,
        observer: Observer | None = None,
    ) -> None:
        self._observer = observer or Observer()
        self._max_time_s = max_time_s
        self._tries = tries
        self._connection = Connection(
            host, port, tls=tls, ca=ca, token=token, timeout_s=timeout_s, observer=self._observer
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """For good. From another thread: what is going on fails, and is not tried again."""
        self._connection.is_closed = True
        self._connection.close()

    def get(
        self, name: str, file_or_dir: str | os.PathLike[str] | BinaryIO = ".", *, checksum: str | None = None
    ) -> Transfer:
        """Fetch the file `name`: to this path, into this folder (as the last component of its name), or written to
        this open binary file. `checksum` is the `sha-256=HEX` that it has to have.

        On disk it appears when all of it is there and right, with the server's modification time. What an earlier
        call has left in `.part` is used if the file is still the same; a file that is there is not fetched again
        when its time is the server's. A server that cannot be reached, goes away or is too busy is asked again.
        """
        self._connection.limit(self._max_time_s)
        wanted = checksum_bytes(checksum) if checksum is not None else None
        transfer = Transfer(name)
        path = request_path(name)
        with destination(file_or_dir, name, self._connection.url(path)) as target:
            transfer.resumed_from = target.offset
            for tries in range(1, max(1, self._tries) + 1):
                try:
                    self._fetch(path, transfer, target, wanted)
                    break
                except Failure as failure:
                    self._connection.close()
                    if failure.retry_s is None or tries >= self._tries:
                        raise
                    self._wait(transfer, failure, tries)
            transfer.path = target.path
        transfer.seconds = time.monotonic() - transfer.began_s
        return transfer

    def health(self) -> str:
        """The server's word that it is up."""
        return self._document("/-/health", MESSAGE_BYTES).decode("utf-8", "replace").strip()

    def stats(self) -> dict[str, Any]:
        """Every counter of a gserver, as its `/-/stats` has them."""
        found = parsed(self._document("/-/stats", STATS_BYTES))
        if not isinstance(found, dict):
            raise Failure(STRANGE, "the answer is not the counters of a gserver")
        return found

    def entries(self) -> list[Entry]:
        """What a gserver's cache holds, the most recently used first."""
        found = parsed(self._document("/-/cache?format=json", LIST_BYTES))
        try:
            return [Entry(fields) for fields in found["entries"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise Failure(STRANGE, "the answer is not the list of a gserver") from error

    def list(self) -> Names:
        """The names of what a gserver's cache holds, the most recently used first."""
        text = self._document("/-/cache", LIST_BYTES).decode("utf-8", "surrogateescape")
        return text.removesuffix("\n").split("\n") if text else []

    def _document(self, path: str, most_bytes: int) -> bytes:
        """All that the server says at `path`."""
        self._connection.limit(self._max_time_s)
        answer = self._connection.ask(path, {})
        if answer.status != 200:
            raise self._refusal(answer)
        if answer.sized() > most_bytes:
            raise Failure(STRANGE, f"the answer is longer than {size(most_bytes)}")
        return b"".join(map(bytes, self._connection.pieces()))

    def _fetch(self, path: str, transfer: Transfer, target: Target, wanted: bytes | None) -> None:
        """One try: ask for what is missing; and if what is there is of no use, for all of it."""
        if target.offset and not target.etag:
            self._restart(transfer, target)
        for conditions in (target.conditions(), {}):
            answer = self._connection.ask(path, {"Want-Repr-Digest": "sha-256=10", **conditions})
            transfer.cache = answer.cache
            if answer.status == 304 and "If-Modified-Since" in conditions:
                if target.is_version(answer.etag) and target.has_digest(wanted):
                    transfer.is_up_to_date = True
                    transfer.digest = f"sha-256={wanted.hex()}" if wanted is not None else None
                    transfer.size = transfer.done = target.size
                    return
            elif answer.status == 206 and "Range" in conditions:
                try:
                    there = answer.part_of(target.offset), answer.fields.get("etag", target.etag)
                except Failure:
                    target.discard()  # or every further call would end here
                    raise
                if there == (target.size, target.etag):
                    self._receive(transfer, target, answer, wanted)
                    return
            elif answer.status == 206:
                raise Failure(RANGE, "the server sent a part of the file, and was not asked for one")
            elif not (answer.status == 416 and "Range" in conditions):
                break
            self._restart(transfer, target)
        if answer.status != 200:
            raise self._refusal(answer)
        self._restart(transfer, target)
        self._receive(transfer, target, answer, wanted)

    def _restart(self, transfer: Transfer, target: Target) -> None:
        """Nothing of what is there is of use."""
        target.restart()
        transfer.resumed_from = 0

    def _receive(self, transfer: Transfer, target: Target, answer: Answer, wanted: bytes | None) -> None:
        """The body, and whether it is right."""
        digests = [digest for digest in (answer.digest, wanted) if digest is not None]
        transfer.size, transfer.done = target.offset + answer.sized(), target.offset
        target.begin(target.etag if target.offset else answer.etag, transfer.size, is_hashed=bool(digests))
        self._observer.progress(transfer)
        for piece in self._connection.pieces():
            target.write(piece)
            transfer.done += len(piece)
            self._observer.progress(transfer)
        if digests and target.hash is not None:
            found = target.hash.digest()
            if any(found != digest for digest in digests):
                # What was there before may have been the wrong part: once more from the beginning, if it can be
                # taken back.
                retry_s = 0.0 if answer.status == 206 and target.path is not None else None
                target.discard()
                transfer.resumed_from = 0
                raise Failure(CHECKSUM, f"wrong checksum: it is sha-256={found.hex()}", retry_s=retry_s)
            transfer.digest = f"sha-256={found.hex()}"
        target.finish(answer)

    def _refusal(self, answer: Answer) -> Failure:
        """Why it is not what was asked for, in the server's own words if it has some."""
        words = b""
        if "transfer-encoding" not in answer.fields and answer.fields.get("content-type", "").startswith(
            "text/plain"
        ):
            with contextlib.suppress(Failure):
                for piece in self._connection.pieces(time.monotonic() + MESSAGE_S):
                    words += bytes(piece[:MESSAGE_BYTES])
                    if len(words) >= MESSAGE_BYTES:
                        break
        message = words[:MESSAGE_BYTES].decode("utf-8", "replace").strip()
        if answer.status in range(300, 400) and "location" in answer.fields:
            message = f"the server says to ask for {answer.fields['location']}, which gclient does not"
        elif not message:
            message = f"the server said {answer.status} {answer.reason}"
        if answer.status != 503:
            return Failure(REFUSED, message)
        if answer.retry_s <= PATIENCE_S:
            return Failure(REFUSED, message, retry_s=answer.retry_s)
        return Failure(REFUSED, f"{message} (in {duration(answer.retry_s)}, it says)")

    def _wait(self, transfer: Transfer, failure: Failure, tries: int) -> None:
        """Let some time pass after a failed try; not the same for all who failed together."""
        import random

        wait_s = max(failure.retry_s or 0.0, BACKOFF_S * 2 ** (tries - 1) * random.uniform(0.5, 1.5))
        if wait_s > self._connection.left_s() or self._connection.is_closed:
            raise failure
        self._observer.retry(transfer, failure, wait_s)
        time.sleep(wait_s)
        if self._connection.is_closed:
            raise failure


# HTTP: as much of it as a download needs.

STATUS_LINE = r"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([^\0\r\n]*))?"
FIELD = r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\0\r\n]*)"
STRONG_ETAG = r'"[!#-~\x80-\xff]*"'
CONTENT_RANGE = r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})"
DATE = r"[A-Z][a-z]{2}, ([0-9][0-9]) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9][0-9]):([0-9][0-9]):([0-9][0-9]) GMT"
SHA_256 = r"(?:^|,)[ \t]*sha-256=:([A-Za-z0-9+/]{43}=):"
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
UNRESERVED = frozenset(b"/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


class Answer:
    """The head of an answer. `fields` have lower-case names, repeated ones are joined; `length` is that of the
    body (None: it does not say)."""

    def __init__(self, head: str) -> None:
        """Raises Failure when it is none."""
        status_line, *lines = head.split("\r\n")
        status = re.fullmatch(STATUS_LINE, status_line)
        fields = [re.fullmatch(FIELD, line) for line in lines]
        if status is None:
            raise Failure(STRANGE, "the answer is not HTTP")
        self.status = int(status[2])
        self.reason = status[3] or ""
        self.fields: dict[str, str] = {}
        for field in fields:
            if field is None:
                raise Failure(STRANGE, "the answer is not HTTP")
            name, value = field[1].lower(), field[2].rstrip(" \t")
            self.fields[name] = f"{self.fields[name]}, {value}" if name in self.fields else value
        words = {word.strip().lower() for word in self.fields.get("connection", "").split(",")}
        self.keeps_connection = "close" not in words and (status[1] == "1" or "keep-alive" in words)
        self.length = self._length()

    def sized(self) -> int:
        """The length of the body as it is. Raises Failure when it does not say: the end could be anywhere."""
        if self.fields.get("content-encoding", "identity") != "identity":
            raise Failure(STRANGE, "the answer is compressed, which nobody asked for")
        if self.length is None:
            raise Failure(STRANGE, "the server does not say how long its answer is")
        return self.length

    @property
    def etag(self) -> str:
        """The strong validator, or "": with a weak one nobody can tell that a part belongs to the rest."""
        etag = self.fields.get("etag", "")
        return etag if re.fullmatch(STRONG_ETAG, etag) else ""

    @property
    def cache(self) -> str | None:
        """Where the server had it: the first word of X-Cache."""
        word = self.fields.get("x-cache", "").partition(" ")[0]
        return word if word.isascii() and word.isalpha() else None

    @property
    def digest(self) -> bytes | None:
        """The SHA-256 of the whole file, if the server says it (RFC 9530)."""
        found = re.search(SHA_256, self.fields.get("repr-digest", ""))
        if found is None:
            return None
        import binascii

        return binascii.a2b_base64(found[1])

    @property
    def modified_s(self) -> int | None:
        """Last-Modified in Unix time."""
        return unix_time(self.fields.get("last-modified", ""))

    @property
    def retry_s(self) -> float:
        """Retry-After, in seconds from now."""
        text = self.fields.get("retry-after", "")
        if text.isascii() and text.isdigit():
            return float(text)
        return max(0.0, (unix_time(text) or 0) - time.time())

    def part_of(self, start: int) -> int:
        """The size of the file of which this is all from `start` on. Raises Failure when it is another part."""
        found = re.fullmatch(CONTENT_RANGE, self.fields.get("content-range", ""))
        if found is None:
            raise Failure(RANGE, "the server sent a part of the file, and does not say which")
        first, last, total = map(int, found.groups())
        if (first, last, self.length) != (start, total - 1, total - start):
            raise Failure(RANGE, f"the server sent another part of the file than was asked for: {found[0]}")
        return total

    def _length(self) -> int | None:
        if self.status in (204, 304):
            return 0
        if "transfer-encoding" in self.fields or "content-length" not in self.fields:
            return None
        lengths = {text.strip() for text in self.fields["content-length"].split(",")}
        text = lengths.pop()
        if lengths or not (text.isascii() and text.isdigit() and len(text) < 19):
            raise Failure(STRANGE, "the answer has a strange length")
        return int(text)


class Connection:
    """One connection to a server: opened when somebody asks, kept as long as both sides like. Raises Failure.

    `is_closed` is for another thread to set before it closes: nothing is opened any more.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: bool,
        ca: str | None,
        token: str | None,
        timeout_s: float,
        observer: Observer,
    ) -> None:
        if token is not None and not is_token(token):
            raise Failure(USAGE, "a token is one word of printable ASCII")
        self.is_closed = False
        self._host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        self._port = port
        self._tls = tls
        self._ca = ca
        self._token = token
        self._timeout_s = timeout_s
        self._observer = observer
        self._max_time_s: float | None = None
        self._ends_s = float("inf")
        self._socket: socket.socket | None = None
        self._keeps = False
        self._has_heard = False
        self._buffer = memoryview(bytearray(PIECE_BYTES))
        self._ahead = self._buffer[:0]
        """What came behind the head."""
        self._left: int | None = 0
        """How much of the body has not been read; None: all up to the end of the connection."""

    def url(self, path: str) -> str:
        """Where that is."""
        return f"{'https' if self._tls else 'http'}://{self._authority()}{path}"

    def limit(self, max_time_s: float | None) -> None:
        """From now on everything together may take so long."""
        self._max_time_s = max_time_s
        self._ends_s = float("inf") if max_time_s is None else time.monotonic() + max_time_s

    def left_s(self) -> float:
        """How much of that is left."""
        return self._ends_s - time.monotonic()

    def close(self) -> None:
        """Hang up. Who asks next connects anew."""
        connected, self._socket = self._socket, None
        if connected is not None:
            with contextlib.suppress(OSError):  # another thread may be waiting for it, maybe within TLS
                socket.socket.shutdown(connected, socket.SHUT_RDWR)
            connected.close()

    def ask(self, path: str, fields: dict[str, str]) -> Answer:
        """The answer to GET `path`. Its body is read with `pieces`."""
        if self._left != 0 or self._ahead or not self._keeps:
            self.close()
        self._left, self._keeps = 0, False
        fields = {
            "Host": self._authority(),
            "User-Agent": f"gclient/{__version__}",
            "Accept-Encoding": "identity",
            **fields,
        }
        head = f"GET {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        was_open = self._socket is not None
        try:
            answer = self._exchange(head)
        except Failure as failure:
            self.close()
            # A server may end an idle connection at any moment, also at this one.
            if not was_open or self._has_heard or failure.code != RECEIVE:
                raise
            answer = self._exchange(head)
        if was_open and answer.status == 408:  # said to the idle connection before the request had come
            self.close()
            answer = self._exchange(head)
        self._left, self._keeps = answer.length, answer.keeps_connection
        return answer

    def pieces(self, ends_s: float = float("inf")) -> Iterator[memoryview]:
        """The body, or what is left of it, in a buffer that the next piece is read into. All of it, or Failure:
        also when `time.monotonic()` passes `ends_s`."""
        while self._left != 0:
            most = PIECE_BYTES if self._left is None else min(self._left, PIECE_BYTES)
            piece, self._ahead = self._ahead[:most], self._ahead[most:]
            if not piece:
                timeout_s = min(self._timeout_s, ends_s - time.monotonic())
                piece = self._buffer[: self._read(self._buffer[:most], timeout_s)]
            if self._left is not None:
                if not piece:
                    message = f"the transfer was cut, {self._left} bytes are missing"
                    raise Failure(PARTIAL, message, retry_s=0.0)
                self._left -= len(piece)
            elif not piece:
                return
            yield piece

    def _exchange(self, head: str) -> Answer:
        self._has_heard = False
        self._ahead = self._buffer[:0]
        self._check_is_open()
        connected = self._socket = self._socket or self._connected()
        self._check_is_open()  # or it was closed while there was nothing to hang up
        self._observer.head(">", head)
        authorization = f"Authorization: Bearer {self._token}\r\n" if self._token is not None else ""
        try:
            connected.settimeout(self._patience_s(self._timeout_s))
            connected.sendall(f"{head}{authorization}\r\n".encode("latin-1"))
        except TimeoutError as error:
            raise self._too_late() from error
        except (OSError, ValueError) as error:  # ValueError: TLS, closed by another thread
            raise Failure(RECEIVE, "the server hung up", retry_s=0.0) from error
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            answer = self._heard(deadline_s)
            if answer.status >= 200:  # before it there may be others, to pass the time
                return answer

    def _check_is_open(self) -> None:
        if self.is_closed:
            raise Failure(RECEIVE, "the connection was closed")

    def _heard(self, deadline_s: float) -> Answer:
        """The next head, and in `_ahead` what came with it."""
        count = len(self._ahead)
        self._buffer[:count] = bytes(self._ahead)
        while (end := (came := bytes(self._buffer[:count])).find(b"\r\n\r\n")) < 0:
            if not came.startswith(b"HTTP/1."[:count]) or count == HEAD_BYTES:
                raise Failure(STRANGE, "the answer is not HTTP")
            more = self._read(self._buffer[count:HEAD_BYTES], deadline_s - time.monotonic())
            if not more and not count:
                raise Failure(RECEIVE, "the server hung up without an answer", retry_s=0.0)
            if not more:
                raise Failure(PARTIAL, "the answer was cut", retry_s=0.0)
            count += more
            self._has_heard = True
        text = came[:end].decode("latin-1")
        self._observer.head("<", text)
        self._ahead = self._buffer[end + 4 : count]
        return Answer(text)

    def _read(self, into: memoryview, timeout_s: float) -> int:
        """Read what has come, waiting until there is something; how many bytes, 0 at the end."""
        connected = self._socket  # which `close` in another thread takes away
        if connected is None:
            raise Failure(RECEIVE, "the connection was closed")
        try:
            connected.settimeout(self._patience_s(timeout_s))
            count = connected.recv_into(into)
        except TimeoutError as error:
            raise self._too_late() from error
        except (OSError, ValueError) as error:  # ValueError: TLS, closed by another thread
            raise Failure(RECEIVE, f"the connection was lost: {reason(error)}", retry_s=0.0) from error
        if self._socket is not connected:  # closed meanwhile: TLS then hands out what is still encrypted
            raise Failure(RECEIVE, "the connection was closed")
        return count

    def _patience_s(self, timeout_s: float) -> float:
        patience_s = min(timeout_s, self.left_s(), MAX_TIMEOUT_S)
        if patience_s <= 0:
            raise self._too_late()
        return patience_s

    def _too_late(self) -> Failure:
        if self.left_s() <= 0:
            return Failure(TIMEOUT, f"it took longer than {self._max_time_s:g} s")
        return Failure(TIMEOUT, f"nothing came for {self._timeout_s:g} s", retry_s=0.0)

    def _connected(self) -> socket.socket:
        where = f"{self._host} port {self._port}"
        try:
            patience_s = self._patience_s(self._timeout_s)
            # As bytes, or Python would import a codec for names like those that it has found this one not to be.
            host: Any = self._host.encode() if self._host.isascii() else self._host
            connected = socket.create_connection((host, self._port), patience_s)
        except socket.gaierror as error:
            raise Failure(RESOLVE, f"cannot resolve {self._host}: {error.strerror}") from error
        except UnicodeError as error:  # refused before any name server is asked
            raise Failure(RESOLVE, f"cannot resolve {self._host!r}: not a host name") from error
        except TimeoutError as error:
            raise self._too_late() from error
        except OSError as error:
            raise Failure(CONNECT, f"cannot connect to {where}: {reason(error)}", retry_s=0.0) from error
        try:
            return self._encrypted(connected) if self._tls else connected
        except BaseException:
            connected.close()
            raise

    def _encrypted(self, connected: socket.socket) -> socket.socket:
        import ssl

        try:
            context = ssl.create_default_context(cafile=self._ca)
        except OSError as error:
            raise Failure(USAGE, f"cannot use the certificates in {self._ca}: {reason(error)}") from error
        try:
            return context.wrap_socket(connected, server_hostname=self._host)
        except ssl.SSLCertVerificationError as error:
            message = f"the server's certificate is not to be trusted: {error.verify_message}"
            raise Failure(CERTIFICATE, message) from error
        except TimeoutError as error:
            raise self._too_late() from error
        except OSError as error:
            where = f"{self._host} port {self._port}"
            retry_s = 0.0 if isinstance(error, ConnectionError) else None
            raise Failure(HANDSHAKE, f"no TLS with {where}: {reason(error)}", retry_s=retry_s) from error

    def _authority(self) -> str:
        """The host as a URL has it, and the port unless it goes without saying."""
        host = self._host.partition("%")[0] if ":" in self._host else self._host
        with contextlib.suppress(UnicodeError):
            host = host if host.isascii() else host.encode("idna").decode()
        host = f"[{host}]" if ":" in host else host
        return host if self._port == (443 if self._tls else 80) else f"{host}:{self._port}"


def request_path(name: str) -> str:
    """The path of the file `name`. What is not UTF-8 travels as the bytes it is."""
    try:
        octets = name.removeprefix("/").encode("utf-8", "surrogateescape")
    except UnicodeError as error:
        raise Failure(USAGE, f"{name!r} is no name") from error
    return "/" + "".join(chr(octet) if octet in UNRESERVED else f"%{octet:02X}" for octet in octets)


def http_date(seconds: int) -> str:
    """Unix time as HTTP writes it."""
    at = time.gmtime(seconds)
    date = f"{DAYS[at.tm_wday]}, {at.tm_mday:02} {MONTHS[at.tm_mon - 1]} {at.tm_year:04}"
    return f"{date} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT"


def unix_time(text: str) -> int | None:
    """HTTP's date as Unix time; None for anything else."""
    found = re.fullmatch(DATE, text)
    if found is None or found[2] not in MONTHS:
        return None
    from datetime import UTC, datetime

    day, _, *numbers = found.groups()
    year, hour, minute, second = map(int, numbers)
    try:
        at = datetime(year, MONTHS.index(found[2]) + 1, int(day), hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    return int(at.timestamp())


def parsed(document: bytes) -> Any:
    """What that JSON says. Raises Failure."""
    import json

    try:
        return json.loads(document)
    except (ValueError, RecursionError) as error:
        raise Failure(STRANGE, "the answer is not JSON") from error


def checksum_bytes(text: str) -> bytes:
    """Of `sha-256=HEX`. Raises Failure."""
    algorithm, _, digits = text.partition("=")
    if algorithm.lower() in ("sha-256", "sha256") and re.fullmatch("[0-9A-Fa-f]{64}", digits):
        return bytes.fromhex(digits)
    raise Failure(USAGE, f"{text!r} is no checksum: sha-256= and 64 hexadecimal digits")


# Where a file goes.


class Target:
    """Receives one file: `begin`, `write` piece by piece, `finish`. Raises Failure.

    `offset` bytes are there, of the version `etag`, which has `size` bytes. `hash` has seen all of them, if
    somebody wants to know. `modified_s`: there is a whole file of `size` bytes, most likely the server's of then.
    """

    path: str | None = None
    """The file's, if it gets one."""

    def __init__(self) -> None:
        self.offset = self.size = 0
        self.etag = ""
        self.modified_s: int | None = None
        self.hash: Any = None

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, etag: str, size: int, *, is_hashed: bool) -> None:
        """What comes now begins at `offset`."""
        self.etag, self.size = etag, size

    def conditions(self) -> dict[str, str]:
        """The fields of a request for what is not there."""
        if self.offset:
            return {"Range": f"bytes={self.offset}-", "If-Range": self.etag}
        return {"If-Modified-Since": http_date(self.modified_s)} if self.modified_s is not None else {}

    def write(self, piece: memoryview) -> None:
        """The next piece."""
        raise NotImplementedError

    def restart(self) -> None:
        """What is there is of no use: begin anew."""
        raise NotImplementedError

    def discard(self) -> None:
        """What was written is wrong."""

    def finish(self, answer: Answer) -> None:
        """All is there, and right."""

    def is_version(self, etag: str) -> bool:
        """Whether the whole file that is there is this version."""
        return False

    def has_digest(self, digest: bytes | None) -> bool:
        """Whether the whole file that is there has this SHA-256; None: nobody wants to know."""
        return digest is None


class Pipe(Target):
    """An open file of somebody else's, into which what is written stays written."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def begin(self, etag: str, size: int, *, is_hashed: bool) -> None:
        if is_hashed and not self.offset:
            self.hash = sha_256()
        super().begin(etag, size, is_hashed=is_hashed)

    def write(self, piece: memoryview) -> None:
        write_all(self._file, piece)
        self.offset += len(piece)
        if self.hash is not None:
            self.hash.update(piece)

    def restart(self) -> None:
        if self.offset:
            raise Failure(RANGE, "the rest cannot be had, and what was written cannot be taken back")


class PartFile(Target):
    """A file that is written as NAME.part and renamed when it is whole; beside it NAME.part.json says of what it
    is a part. No other gclient may have them meanwhile.

    The state is on disk before the first byte, and emptied parts before a new state: whenever a process ends, a
    part that is not empty is of what its state says. After the power went this may not be so.

    A whole file has the server's modification time, and within that second, for which HTTP has no words, a time
    that says which version of which URL it is.
    """

    def __init__(self, directory: str, last: str, url: str) -> None:
        super().__init__()
        self.path = self._path = os.path.join(directory, last)
        self._part_path = os.path.join(directory, shortened(last) + ".part")
        self._state_path = self._part_path + ".json"
        self._url = url
        self._descriptor = -1
        self._has_begun = False
        self._found_ns = 0

    def __enter__(self) -> Target:
        with self._writing(self._path):
            self._refuse_what_is_in_use()
            self._descriptor = self._open(0)
            if self._descriptor >= 0:
                self._remember()
            if not self.offset:
                self._look()
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor < 0:
            return
        if self._has_begun and not (self.offset and self.etag) and is_at(self._part_path, self._descriptor):
            for path in (self._part_path, self._state_path):  # they are of no use
                with contextlib.suppress(OSError):
                    os.unlink(path)
        self._close()

    def begin(self, etag: str, size: int, *, is_hashed: bool) -> None:
        self._has_begun = True
        with self._writing(self._part_path):
            if not self.offset:
                if self._descriptor < 0:
                    if self._state() is None:
                        raise Failure(WRITE, f"cannot write {self._state_path}: it is there, and not gclient's")
                    self._descriptor = self._open(os.O_CREAT | os.O_EXCL)
                if os.fstat(self._descriptor).st_size:  # or ext4 would wait for the disk when it is closed
                    os.ftruncate(self._descriptor, 0)
                self._write_state(etag, size)
            self.hash = sha_256() if is_hashed else None
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            if self.hash is not None:
                hash_file(self.hash, self._descriptor, self.offset)
            os.lseek(self._descriptor, self.offset, os.SEEK_SET)
        super().begin(etag, size, is_hashed=is_hashed)

    def write(self, piece: memoryview) -> None:
        if self.hash is not None:
            self.hash.update(piece)
        with self._writing(self._part_path):
            while piece:
                count = os.write(self._descriptor, piece)
                self.offset += count
                piece = piece[count:]

    def restart(self) -> None:
        self.offset, self.modified_s = 0, None

    def discard(self) -> None:
        self.restart()
        self._has_begun = True

    def finish(self, answer: Answer) -> None:
        with self._writing(self._path):
            if not is_at(self._part_path, self._descriptor):
                raise Failure(WRITE, f"cannot write {self._path}: somebody has taken {self._part_path} away")
            if answer.modified_s is not None:
                os.utime(self._part_path, ns=(time.time_ns(), self._stamp_ns(answer.modified_s, self.etag)))
            self._refuse_what_is_in_use()
            if os.name == "nt":
                self._close()  # Windows does not rename what is open
            state = opened(self._state_path)
            try:
                os.replace(self._part_path, self._path)
                is_ours = is_at(self._state_path, state)  # from now on others may begin a part
            finally:
                if state >= 0:
                    os.close(state)
            if is_ours:
                os.unlink(self._state_path)
            self._close()

    def is_version(self, etag: str) -> bool:
        return bool(etag) and self._stamp_ns(self.modified_s or 0, etag) == self._found_ns

    def has_digest(self, digest: bytes | None) -> bool:
        if digest is None:
            return True
        with self._writing(self._path), open(self._path, "rb", buffering=0) as file:
            found = sha_256()
            hash_file(found, file.fileno(), self.size)
            return bool(found.digest() == digest)

    def _open(self, flags: int) -> int:
        """The part, for us alone; -1 when there is none."""
        while True:
            descriptor = opened(self._part_path, os.O_RDWR | flags)
            if descriptor < 0:
                return -1
            try:
                lock(descriptor)
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                    raise Failure(WRITE, f"cannot write {self._part_path}: it is no download of gclient's")
                if os.path.samestat(found, os.lstat(self._part_path)):
                    return descriptor
            except FileNotFoundError:
                pass  # while we waited for the lock it was finished by somebody else
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _remember(self) -> None:
        """Go on with the part, if it is of this file."""
        found = os.fstat(self._descriptor)
        is_ours = found.st_uid == os.geteuid() if hasattr(os, "geteuid") else True
        if not is_ours or (found.st_size and not os.path.lexists(self._state_path)):
            self._close()
            raise Failure(WRITE, f"cannot write {self._part_path}: it is no download of gclient's, or not yours")
        match self._state() if found.st_size else None:
            case {"url": self._url, "etag": str(etag), "size": int(size)} if (
                found.st_size <= size and re.fullmatch(STRONG_ETAG, etag)
            ):
                # Where nothing is missing the last byte is asked for again: a range cannot be empty.
                self.offset, self.size, self.etag = min(found.st_size, size - 1), size, etag

    def _state(self) -> Any:
        """What the state says: {} if there is none, or nothing in it yet; None when it is none of gclient's."""
        descriptor = opened(self._state_path)
        if descriptor < 0:
            return {}
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(HEAD_BYTES)
        if not content:
            return {}
        import json

        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(content)
            if isinstance(found, dict) and found.keys() >= {"url", "etag", "size"}:
                return found
        return None

    def _look(self) -> None:
        """Whether there is a whole file whose time says that it was the server's."""
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(self._path)
            modified_s, fraction_ns = divmod(found.st_mtime_ns, 10**9)
            if stat.S_ISREG(found.st_mode) and fraction_ns and modified_s in range(UNTIL_10000_S):
                self.modified_s, self.size, self._found_ns = modified_s, found.st_size, found.st_mtime_ns

    def _stamp_ns(self, modified_s: int, etag: str) -> int:
        """When such a version is said to be of: in whole seconds if it has no name. NTFS counts in 100 ns."""
        if not etag:
            return modified_s * 10**9
        import zlib

        version = f"{self._url} {etag} {self.size}".encode("utf-8", "surrogateescape")
        return modified_s * 10**9 + (1 + zlib.crc32(version) % 9_999_999) * 100

    def _write_state(self, etag: str, size: int) -> None:
        import json

        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._state_path)
        with open(self._state_path, "x", encoding="utf-8") as file:
            json.dump({"url": self._url, "etag": etag, "size": size}, file)

    def _refuse_what_is_in_use(self) -> None:
        if os.path.isdir(self._path):
            raise Failure(WRITE, f"cannot write {self._path}: it is a folder")
        if self._path.endswith(".part"):
            other = self._path + ".json"
        else:
            other = self._path.removesuffix(".json") if self._path.endswith(".part.json") else ""
        if other and os.path.lexists(other):
            raise Failure(WRITE, f"cannot write {self._path}: it belongs to another download")
        with contextlib.suppress(FileNotFoundError):
            mode = os.lstat(self._path).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise Failure(WRITE, f"cannot write {self._path}: it is there, and no file")

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @contextlib.contextmanager
    def _writing(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Failure(WRITE, f"cannot write {path}: {reason(error)}") from error


def write_all(file: BinaryIO, octets: bytes | memoryview) -> None:
    """Write all of it, and no later. Raises Failure. (Without a buffer, a file may take less than it is given.)"""
    left = memoryview(octets)
    try:
        while left:
            count = file.write(left)
            if count is None:
                raise BlockingIOError(0, "it does not wait until there is room")
            left = left[count:]
        file.flush()
    except OSError as error:
        raise Failure(WRITE, f"cannot write: {reason(error)}") from error


def destination(file_or_dir: str | os.PathLike[str] | BinaryIO, name: str, url: str) -> Target:
    """Where that file goes. Raises Failure when its name is none for a file."""
    if not isinstance(file_or_dir, (str, os.PathLike)):
        return Pipe(file_or_dir)
    path = os.fspath(file_or_dir)
    if os.path.isdir(path):
        return PartFile(path, last_component(name), url)
    directory, last = os.path.split(path)
    if not os.path.isdir(directory or ".") or not last:
        raise Failure(WRITE, f"cannot write: {directory or path} is not a folder")
    return PartFile(directory, last, url)


def opened(path: str, flags: int = 0) -> int:
    """A descriptor of what may have been planted: no link is followed, for it could lead anywhere, and no pipe
    waited for. -1 when there is nothing, and `flags` do not say to create it."""
    safely = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, safely | flags, 0o666)
    except FileNotFoundError:
        if flags & os.O_CREAT:
            raise
        return -1


def is_at(path: str, descriptor: int) -> bool:
    """Whether that open file still is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def last_component(name: str) -> str:
    """What the file is called in DIR. Raises Failure when that would lead anywhere else, or be no file."""
    last = name.rpartition("/")[2]
    problem = "does not name a file" if last in ("", ".", "..") or "\0" in last else ""
    if os.name == "nt":
        problem = problem or windows_problem(last)
    if problem:
        raise Failure(USAGE, f"{name!r} {problem}")
    return last


def windows_problem(last: str) -> str:
    """Why Windows would not have a file of this name, or would take it for something else; "" if it would."""
    if any(sign in '\\:*?"<>|' or sign < " " for sign in last):
        return "has characters that no file name may have on Windows"
    if last.endswith((" ", ".")):
        return "ends with a space or a dot, which Windows would leave out"
    if re.fullmatch(r"(?i)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", last):
        return "is the name of a device on Windows"
    return ""


def shortened(last: str) -> str:
    """`last`, or if `.part.json` does not fit behind it, its beginning and a checksum of it."""
    octets = os.fsencode(last)
    if len(octets) + len(".part.json") <= NAME_BYTES:
        return last
    import zlib

    kept = octets[: NAME_BYTES - len("~12345678.part.json")].decode("utf-8", "ignore").encode()
    return f"{os.fsdecode(kept)}~{zlib.crc32(octets):08x}"


def lock(descriptor: int) -> None:
    """Keep others of us from this file until it is closed. (Windows does not let them rename it meanwhile.)"""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Failure(WRITE, "another gclient is fetching a file of this name to there") from error
    except OSError:
        pass  # a file system without locks


def sha_256() -> Any:
    """A new hash."""
    import hashlib

    return hashlib.sha256()


def hash_file(found: Any, descriptor: int, count: int) -> None:
    """Hash the next so many bytes of an open file."""
    while count > 0 and (piece := os.read(descriptor, min(count, PIECE_BYTES))):
        found.update(piece)
        count -= len(piece)


# For people.


class Display(Observer):
    """Shows on standard error what goes on: `bars`, a line for each file under way, and `heads`, what is said."""

    EVERY_S = 0.1

    def __init__(self, *, bars: bool, heads: bool, threads: bool) -> None:
        self._bars = bars
        self._heads = heads
        self._under_way: list[Transfer] = []
        self._lines = 0
        self._shown_s = 0.0
        self._began_s = time.monotonic()
        self._files = self._unchanged = self._failed = self._received = 0
        self.lock: Any = contextlib.nullcontext()
        """For all that is written, where there are several threads."""
        if threads:
            import threading

            self.lock = threading.RLock()

    def head(self, mark: str, text: str) -> None:
        if self._heads:
            self.say(*(f"{mark} {line}" for line in text.rstrip("\r\n").split("\r\n")))

    def retry(self, transfer: Transfer, failure: Failure, wait_s: float) -> None:
        if self._bars or self._heads:
            self.say(f"gclient: {transfer.name}: {failure}; again in {duration(wait_s)}")

    def progress(self, transfer: Transfer) -> None:
        if not self._bars or (time.monotonic() - self._shown_s < self.EVERY_S and transfer in self._under_way):
            return
        with self.lock:
            self._shown_s = time.monotonic()
            if transfer not in self._under_way:
                self._under_way.append(transfer)
            self.say()

    def came(self, transfer: Transfer) -> None:
        """A file is there."""
        with self.lock:
            self._files += 1
            self._unchanged += transfer.is_up_to_date
            self._leave(transfer)
            if self._bars and transfer.is_up_to_date:
                self.say(f"{transfer.name} is up to date")
            elif self._bars:
                self.say(progress_line(transfer, screen()[0], transfer.seconds))

    def failed(self, name: str, failure: Failure, *, named: bool) -> None:
        """A file will not come. `named`: there are others, so say which."""
        with self.lock:
            self._files += 1
            self._failed += 1
            for transfer in [each for each in self._under_way if each.name == name]:
                self._leave(transfer)
            self.say(f"gclient: {name}: {failure}" if named else f"gclient: {failure}")

    def summary(self) -> None:
        """The last line. What is still under way has come to its end too."""
        if not self._bars:
            return
        width = screen()[0]
        halted = [(each, progress_line(each, width, None)) for each in self._under_way]
        for transfer, _ in halted:
            self._leave(transfer)
        seconds = time.monotonic() - self._began_s
        rate = f" ({size(self._received / seconds)}/s)" if self._received and seconds else ""
        unchanged = f", {self._unchanged:,} up to date" if self._unchanged else ""
        failed = f", {self._failed:,} failed" if self._failed else ""
        counted = f"{files(self._files)}, {size(self._received)} in {duration(seconds)}{rate}{unchanged}{failed}"
        self.say(*(line for _, line in halted), counted)

    def say(self, *lines: str) -> None:
        """Write lines; those of the files under way move down."""
        with self.lock:
            width, height = screen()
            bars = [progress_line(each, width, None) for each in self._under_way[: height - 1]]
            back = f"\x1b[{self._lines}A\x1b[J" if self._lines else ""
            clear = "\r\x1b[K" if self._bars else ""
            text = "".join(f"{clear}{printable(line)}\n" for line in (*lines, *bars))
            self._lines = len(bars)
            tell(back + text)

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """For who writes elsewhere, maybe to the same terminal: nobody else writes, and no bars are there."""
        with self.lock:
            if self._lines:
                tell(f"\x1b[{self._lines}A\x1b[J")
                self._lines = 0
            yield
            if self._under_way:
                self.say()

    def _leave(self, transfer: Transfer) -> None:
        if transfer in self._under_way:
            self._under_way.remove(transfer)
            self._received += transfer.done - transfer.resumed_from


def tell(text: str) -> None:
    """Write to standard error, if that can be done. (`print` would take standard output if it was closed.)"""
    with contextlib.suppress(OSError):
        if sys.stderr is not None:
            print(text, end="", file=sys.stderr, flush=True)


def screen() -> tuple[int, int]:
    """How many columns and lines the terminal has."""
    try:
        found = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, AttributeError):  # AttributeError: closed before we began
        return 80, 24
    return found.columns or 80, found.lines or 24


def progress_line(transfer: Transfer, width: int, seconds: float | None) -> str:
    """How far a file is, or with `seconds`, in what time it came; in fewer cells than `width`."""
    total = transfer.size or 0
    part = transfer.done / total if total else 1.0
    spent_s = max(1e-6, time.monotonic() - transfer.began_s if seconds is None else seconds)
    rate = (transfer.done - transfer.resumed_from) / spent_s
    left = duration((total - transfer.done) / rate) if rate else "-"
    when = f"{left} left" if seconds is None else f"in {duration(spent_s)}"
    tail = f" {part:4.0%} {size(transfer.done):>8} {size(rate):>8}/s {when:>12} {transfer.cache or ''}".rstrip()
    room = width - 1 - len(tail)
    name = clipped(printable(transfer.name), max(room - 13, 1))
    bar_cells = min(room - cells(name) - 3, 30)
    bar = f" [{'#' * int(part * bar_cells):<{bar_cells}}]" if bar_cells > 0 else ""
    return clipped(name + bar + tail, width - 1)


def cells(text: str) -> int:
    """How many columns of a terminal that takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(sign) else 1 + (unicodedata.east_asian_width(sign) in "WF") for sign in text
    )


def clipped(text: str, most_cells: int) -> str:
    """The end of it that fits; the beginnings of names are more alike."""
    while cells(text) > most_cells:
        text = text[max(1, (len(text) - most_cells) // 2) :]
    return text


def printable(words: str) -> str:
    """Nothing that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def files(count: int) -> str:
    """So many files, for people."""
    return f"{count:,} {'file' if count == 1 else 'files'}"


def size(count: float) -> str:
    """Bytes for people, in powers of 1024."""
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    unit = units.pop(0)
    while units and count >= (1024 if unit == "B" else 999.5):
        count, unit = count / 1024, units.pop(0)
    return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"


def duration(seconds: float | None) -> str:
    """A time for people."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def reason(error: OSError | ValueError) -> str:
    """The system's words without its numbers."""
    return getattr(error, "strerror", None) or str(error)


def entry_text(entry: Entry) -> str:
    """A line of `list --long`."""
    times = f"{duration(entry.age_s):>8} old {duration(entry.idle_s):>8} unused"
    return f"{size(entry.size):>9} {entry.hits:>9,} hits {times}  {entry.name}"


def stats_text(stats: dict[str, Any]) -> str:
    """The counters as a table. What this server does not count is left out."""
    answers = {key: int(stats[key]) for key in ("hits", "misses", "coalesced", "bypasses")}
    total = sum(answers.values())
    rows = {
        "up for": duration(stats.get("uptime_s")),
        "cached": f"{size(stats['cached'])} of {size(stats['capacity'])} in {files(stats['entries'])}",
        "filling": f"{size(stats['filling'])}, peak of both {size(stats['peak'])}",
        "answers": f"{total:,} with a file, {size(stats['bytes_sent'])} sent",
        **{
            f"  {key}": f"{count:,} ({count / total:.1%})" if total else f"{count:,}"
            for key, count in answers.items()
        },
        "evictions": f"{stats['evictions']:,}",
        "disk reads": f"{stats['disk_reads_inline']:,} inline, {stats['disk_reads_pool']:,} in threads",
        "connections": f"{stats['connections']:,}, {stats['connections_idle']:,} of them idle",
        "memory": size(stats["rss_bytes"]) if stats["rss_bytes"] is not None else "unknown",
    }
    if "loop_lag" in stats:
        lag = stats["loop_lag"]
        rows["loop"] = f"{duration(lag['worst_s'])} late at worst lately, {lag['stalls']:,} stalls"
    lines = [f"{name:<12} {text}" for name, text in rows.items()]
    timed = {name: times for name, times in stats.get("latency", {}).items() if times["total_s"]["count"]}
    if timed:
        names = ("p50", "p90", "p99", "p99.9")
        lines += ["", f"{'latency':<12} {'answers':>17}" + "".join(f" {name:>9}" for name in names)]
        for name, times in timed.items():
            for part, each in (("", times["total_s"]), (" 1st byte", times["first_byte_s"])):
                values = "".join(f" {duration(each[percentile]):>9}" for percentile in names)
                lines.append(f"{name + part:<18} {each['count']:>11,}{values}")
    return "\n".join(lines)


# The command.


class Fetching:
    """The files of one call, and the threads that fetch them. `codes` are the exit codes of those that failed."""

    def __init__(self, options: argparse.Namespace, display: Display, jobs: int) -> None:
        """Raises Failure."""
        self._options = options
        self._display = display
        self._left = list(enumerate(options.files))[::-1]
        self._clients = [client_for(options, display) for _ in range(jobs)]
        self._is_interrupted = False
        self.codes: dict[int, int] = {}

    def run(self) -> None:
        """Fetch them, one at a time with each client."""
        if len(self._clients) == 1:
            self._work(self._clients[0])
            return
        import threading

        threads: list[threading.Thread] = []
        try:
            for client in self._clients:
                threads.append(threading.Thread(target=self._work, args=(client,), daemon=True))
                threads[-1].start()
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            self._is_interrupted = True
            for client in self._clients:
                client.close()
            ends_s = time.monotonic() + 1
            while any(thread.is_alive() for thread in threads) and time.monotonic() < ends_s:
                time.sleep(0.01)  # one may be waiting before another try, or for a name server
            raise

    def _work(self, client: Client) -> None:
        with client:
            while not self._is_interrupted:
                try:
                    number, name = self._left.pop()
                except IndexError:
                    return
                try:
                    self._fetch(client, name)
                except Failure as failure:
                    if self._is_interrupted:
                        return
                    self.codes[number] = failure.code
                    self._display.failed(name, failure, named=len(self._options.files) > 1)
                    if self._options.json:
                        with contextlib.suppress(Failure):
                            self._print({"name": name, "error": str(failure), "exit_code": failure.code})
                except BaseException:
                    self.codes[number] = 1
                    raise

    def _fetch(self, client: Client, name: str) -> None:
        options = self._options
        if options.directory == "-":
            with standard_output() as output:
                transfer = client.get(name, output, checksum=options.checksum)
        elif os.path.isdir(options.directory):
            transfer = client.get(name, options.directory, checksum=options.checksum)
        else:
            raise Failure(WRITE, f"cannot write: {options.directory} is not a folder")
        self._display.came(transfer)
        if options.json:
            self._print(
                {
                    "name": name,
                    "path": transfer.path,
                    "bytes": transfer.size,
                    "seconds": round(transfer.seconds, 6),
                    "cache": transfer.cache,
                    "digest": transfer.digest,
                    "resumed_from": transfer.resumed_from,
                    "up_to_date": transfer.is_up_to_date,
                }
            )

    def _print(self, result: dict[str, object]) -> None:
        with self._display.hidden():
            write(json_line(result))


def fetch(options: argparse.Namespace) -> int:
    """Fetch the files; the exit code."""
    jobs = min(options.jobs, len(options.files))
    fills_screen = options.directory == "-" and is_terminal(sys.stdout)
    bars = is_terminal(sys.stderr) and not (options.quiet or fills_screen or os.environ.get("TERM") == "dumb")
    display = Display(bars=bars, heads=options.verbose, threads=jobs > 1)
    fetching = Fetching(options, display, jobs)
    try:
        fetching.run()
    finally:
        display.summary()
    return fetching.codes[min(fetching.codes)] if fetching.codes else 0


def show(options: argparse.Namespace) -> None:
    """Print what the server says of itself. Raises Failure."""
    display = Display(bars=False, heads=options.verbose, threads=False)
    with client_for(options, display) as client:
        try:
            write(said(client, options))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            what = "counters" if options.command == "stats" else "list"
            raise Failure(STRANGE, f"the answer is not the {what} of a gserver") from error


def said(client: Client, options: argparse.Namespace) -> str:
    """What the server says of itself, in lines. Raises Failure, and whatever nonsense leads to."""
    if options.command == "health":
        return printable(client.health()) + "\n"
    if options.command == "stats" and options.json:
        import json

        return json.dumps(client.stats(), indent=2) + "\n"
    if options.command == "stats":
        return shown(stats_text(client.stats()).split("\n"))
    if options.json:
        return "".join(json_line(vars(entry)) for entry in client.entries())
    return shown(map(entry_text, client.entries()) if options.long else client.list())


def shown(lines: Iterable[str]) -> str:
    """Lines as they can be printed: on a terminal nothing that it would obey, elsewhere as they are."""
    if is_terminal(sys.stdout):
        lines = map(printable, lines)
    return "".join(f"{line}\n" for line in lines)


def json_line(fields: dict[str, object]) -> str:
    """An object on a line."""
    import json

    return json.dumps(fields) + "\n"


def is_terminal(stream: Any) -> bool:
    """Whether people read it. (A stream that was closed before we began is None.)"""
    return stream is not None and stream.isatty()


def write(text: str) -> None:
    """Print, or raise Failure."""
    with standard_output() as output:
        write_all(output, text.encode("utf-8", "surrogateescape"))


@contextlib.contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """Standard output, not closed. After a failure what it still buffers goes nowhere."""
    if sys.stdout is None:
        raise Failure(WRITE, "standard output is closed")
    try:
        yield sys.stdout.buffer
    except Failure as failure:
        if failure.code == WRITE:
            # Python would write it again at exit, fail again, and make the exit code 120.
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise


def client_for(options: argparse.Namespace, observer: Observer) -> Client:
    """The server that the command line names. Raises Failure when the token cannot be read."""
    return Client(
        options.host,
        options.port,
        tls=options.tls,
        ca=options.ca,
        token=options.token,
        timeout_s=options.timeout,
        max_time_s=options.max_time,
        tries=options.tries,
        observer=observer,
    )


def token(path: str) -> str:
    """The first token in that file. Raises Failure."""
    try:
        with open(path, encoding="ascii") as file:
            found = next((line.strip() for line in file if line.strip()), "")
    except (OSError, UnicodeError) as error:
        why = reason(error) if isinstance(error, OSError) else "it is not ASCII"
        raise Failure(USAGE, f"cannot read the token in {path}: {why}") from error
    if not is_token(found):
        raise Failure(USAGE, f"there is no token in {path}")
    return found


def is_token(text: str) -> bool:
    """Whether that can be sent as one."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of three."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"gclient: {printable(message)} (see --help)\n")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line, as `command` (None: fetch) or `files` and `directory`. Exits with 2 when it is wrong.

    Options may stand anywhere, but what comes after `--` is none. A single word is a command, or else a file. FILE
    followed by DIR is always a file, unless it is called `get`: that is the command, and `get get` the file.
    """
    usage = "gclient [OPTION...] HOST PORT (list | stats | health | FILE [DIR] | get FILE...)"
    parser = Parser(
        prog="gclient",
        usage=usage,
        description=__doc__,
        # Without a width argparse would import shutil to ask for it.
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=min(screen()[0], 110)),
    )
    for names, metavar, kind, standard, text in (
        (("-d", "--directory"), "DIR", str, None, "where get writes (default: here; -: standard output)"),
        (("-j", "--jobs"), "N", jobs, 1, "get so many files at a time (default: 1)"),
        (("--checksum",), "sha-256=HEX", str, None, "what the file has to have"),
        (("--tries",), "N", tries, TRIES, f"when a server cannot be reached or goes away (default: {TRIES})"),
        (("--timeout",), "S", seconds, TIMEOUT_S, f"seconds without a byte (default: {TIMEOUT_S:g})"),
        (("--max-time",), "S", seconds, None, "seconds for a file, tries and all (default: as long as it takes)"),
        (("--ca",), "PEM", str, None, "with --tls: trust these authorities (default: the system's)"),
        (("--token-file",), "PATH", str, None, "a file with the token that the server asks for"),
    ):
        parser.add_argument(*names, metavar=metavar, type=kind, default=standard, help=text)
    for flags, text in (
        (("--tls",), "speak HTTPS"),
        (("--long",), "list: with sizes, uses and ages"),
        (("--json",), "list, stats, files: for programs, an object on a line"),
        (("-q", "--quiet"), "no progress on the terminal"),
        (("-v", "--verbose"), "show what is said to the server and what it answers"),
    ):
        parser.add_argument(*flags, action="store_true", help=text)
    parser.add_argument("--version", action="version", version=f"gclient {__version__}")
    given = sys.argv[1:] if arguments is None else arguments
    end = given.index("--") if "--" in given else len(given)
    options, words = parser.parse_known_args(given[:end])
    unknown = [word for word in words if word.startswith("-") and word != "-"]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    words += given[end + 1 :]
    if len(words) < 3:
        parser.error("say HOST, PORT, and list, stats, health, FILE [DIR], or get FILE...")
    options.host, port_text, *words = words
    options.command, options.files = None, []
    try:
        options.port = port(port_text)
    except argparse.ArgumentTypeError as error:
        parser.error(f"PORT: {error}")
    match words:
        case ["list" | "stats" | "health"] if options.directory is None:
            options.command = words[0]
        case ["get"]:
            parser.error("get which file?")
        case ["get", *files]:
            options.files, options.directory = files, options.directory or "."
        case [file] if options.directory is None:
            options.files, options.directory = [file], "."
        case [file, directory] if options.directory is None:
            options.files, options.directory = [file], directory
        case _:
            parser.error("say list, stats, health, FILE [DIR], or get FILE...")
    problem = contradiction(options)
    if problem:
        parser.error(problem)
    return options


def contradiction(options: argparse.Namespace) -> str:
    """What the options say against each other; "" if nothing."""
    lasts = [os.path.normcase(name.rpartition("/")[2]) for name in options.files]
    twice = next((last for number, last in enumerate(lasts) if last in lasts[:number]), None)
    to_output = bool(options.files) and options.directory == "-"
    problems = {
        "--ca needs --tls": options.ca and not options.tls,
        "--long is for list": options.long and options.command != "list",
        "--json is for list, stats, and files": options.json and (options.command == "health" or to_output),
        "--checksum is for one file": options.checksum is not None and len(options.files) != 1,
        "--jobs would mix the files on standard output": options.jobs > 1 and to_output,
        f"two files would be called {twice!r}": twice is not None and not to_output,
    }
    return next((problem for problem, is_one in problems.items() if is_one), "")


def whole_number(most: int) -> Callable[[str], int]:
    """An argument type: a number from 1 on."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 19 and 0 < int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {most}")
        return int(text)

    return number


port, jobs, tries = whole_number(65535), whole_number(64), whole_number(1000)


def seconds(text: str) -> float:
    """An argument type: a time a socket can wait, in seconds."""
    if not 0 < float(text) <= MAX_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, at most {MAX_TIMEOUT_S:g}")
    return float(text)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = parse_arguments(arguments)
    try:
        options.token = token(options.token_file) if options.token_file is not None else None
        if options.command is None:
            return fetch(options)
        show(options)
    except Failure as failure:
        tell(f"gclient: {printable(str(failure))}\n")
        return failure.code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
