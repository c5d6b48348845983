#!/usr/bin/env python3
"""gclient: see what a gserver holds in its cache, and fetch files from it.

    gclient.py HOST PORT list               the names in the server's cache, one a line
    gclient.py HOST PORT stats [--json]     its counters, in words or as it says them
    gclient.py HOST PORT health             whether it is up
    gclient.py HOST PORT FILE DIR           fetch FILE into DIR (`-`: to standard output)
    gclient.py HOST PORT get FILE... [-d DIR]

With --tls (and --ca, --token-file) where the server asks for it.

Standard library only, and none of the server's code: a second, independent reading of the wire.

Exit codes, curl's where curl has one: 0; 2 usage; 6 cannot resolve the host; 7 cannot connect; 8 strange answer;
18 the transfer was cut; 22 the server said no; 23 cannot write; 28 timeout; 35 no TLS; 60 its certificate is not
to be trusted; 130 interrupted.
"""

import argparse
import contextlib
import http.client
import io
import json
import os
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn
from urllib.parse import quote

USAGE, RESOLVE, CONNECT, STRANGE, PARTIAL, REFUSED, WRITE, TIMEOUT = 2, 6, 7, 8, 18, 22, 23, 28
HANDSHAKE, CERTIFICATE, INTERRUPTED = 35, 60, 130

COMMANDS = {"list": "/-/cache", "stats": "/-/stats", "health": "/-/health"}

PIECE_BYTES = 256 * 1024
MESSAGE_BYTES = 4096
"""As much of a refusal as anyone wants to read."""
STATS_BYTES = 1 << 20
"""More than the counters of a gserver ever take."""
NAME_BYTES = 255
"""NAME_MAX: the longest a file name may be where we write."""

MAX_TIMEOUT_S = 1e6
"""poll(2) counts milliseconds in an int: 24 days."""


class Failure(Exception):
    """What went wrong, in words for the user, and the exit code that says it to a script."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = parse_arguments(arguments)
    try:
        if options.command is not None:
            if options.command == "stats" and not options.json:
                show_stats(options)
            else:
                show(options, COMMANDS[options.command])
        for name in options.files:
            fetch(options, name, options.directory)
    except Failure as failure:
        print(f"gclient: {failure}", file=sys.stderr)
        return failure.code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def show(options: argparse.Namespace, path: str) -> None:
    """Print what the server says at `path`."""
    with answer(options, path) as response, standard_output() as output:
        copy(response, output, Progress(None, 0))


def show_stats(options: argparse.Namespace) -> None:
    """Print the server's counters for people. Raises Failure, also when they are no counters."""
    content = io.BytesIO()
    with answer(options, COMMANDS["stats"]) as response:
        if (response.length or 0) > STATS_BYTES:
            raise Failure(STRANGE, "the answer is too long for counters")
        copy(response, content, Progress(None, 0))
    try:
        text = stats_text(json.loads(content.getvalue()))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Failure(STRANGE, "the answer is not the counters of a gserver") from error
    with standard_output() as output:
        try:
            output.write(text.encode())
            output.flush()
        except OSError as error:
            raise Failure(WRITE, f"cannot write: {reason(error)}") from error


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
    return "".join(f"{printable(line)}\n" for line in lines)


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
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def fetch(options: argparse.Namespace, name: str, directory: str) -> None:
    """Fetch one file to `directory`/its last component, whole or not at all; or to standard output."""
    target = standard_output() if directory == "-" else Target(directory, name)
    with answer(options, request_path(name)) as response, target as destination:
        copy(response, destination, Progress(name, response.length or 0))


def request_path(name: str) -> str:
    """The path of the file `name`; an argument that is not UTF-8 travels as the bytes it is."""
    return "/" + quote(name.removeprefix("/"), errors="surrogateescape")


@contextlib.contextmanager
def answer(options: argparse.Namespace, path: str) -> Iterator[http.client.HTTPResponse]:
    """The server's 200 to a GET of `path`. Raises Failure for everything else, also while it is being read."""
    try:
        with contextlib.closing(connected(options)) as connection:
            connection.request("GET", path, headers={"Accept-Encoding": "identity"} | authorization(options))
            response = connection.getresponse()
            if response.status != http.HTTPStatus.OK:
                raise Failure(REFUSED, refusal(response))
            if response.length is None:
                raise Failure(REFUSED, "the server did not say how long its answer is")
            yield response
    except TimeoutError as error:
        raise Failure(TIMEOUT, f"nothing came for {options.timeout:g} s") from error
    except (OSError, http.client.IncompleteRead) as error:  # also a network that went away under it
        raise Failure(PARTIAL, "the connection was cut") from error
    except http.client.HTTPException as error:
        raise Failure(REFUSED, "the answer is not HTTP") from error


def connected(options: argparse.Namespace) -> http.client.HTTPConnection:
    """An open connection, the caller's to close. Raises Failure, or TimeoutError."""
    try:
        if options.tls:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                options.host, options.port, timeout=options.timeout, context=trust(options.ca)
            )
        else:
            connection = http.client.HTTPConnection(options.host, options.port, timeout=options.timeout)
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        raise Failure(
            CERTIFICATE, f"the server's certificate is not to be trusted: {error.verify_message}"
        ) from error
    except ssl.SSLError as error:
        raise Failure(HANDSHAKE, f"no TLS with {options.host} port {options.port}: {reason(error)}") from error
    except socket.gaierror as error:
        raise Failure(RESOLVE, f"cannot resolve {options.host}: {error.strerror}") from error
    except (UnicodeError, http.client.InvalidURL) as error:  # refused before any name server is asked
        raise Failure(RESOLVE, f"cannot resolve {options.host!r}: not a host name") from error
    except TimeoutError:
        raise
    except OSError as error:
        message = f"cannot connect to {options.host} port {options.port}: {reason(error)}"
        raise Failure(CONNECT, message) from error
    return connection


def trust(ca: str | None) -> ssl.SSLContext:
    """Whom to believe: the authorities in this PEM file, or those of the system. Raises Failure."""
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise Failure(USAGE, f"cannot use the certificates in {ca}: {reason(error)}") from error


def authorization(options: argparse.Namespace) -> dict[str, str]:
    """The header that carries the first token of the file that was named, if one was. Raises Failure."""
    if options.token_file is None:
        return {}
    try:
        with open(options.token_file, encoding="ascii") as file:
            token = next((line.strip() for line in file if line.strip()), "")
    except (OSError, UnicodeError) as error:
        why = reason(error) if isinstance(error, OSError) else "it is not ASCII"
        raise Failure(USAGE, f"cannot read the token in {options.token_file}: {why}") from error
    if not token or not token.isprintable() or " " in token:
        raise Failure(USAGE, f"there is no token in {options.token_file}")
    return {"Authorization": f"Bearer {token}"}


def refusal(response: http.client.HTTPResponse) -> str:
    """The server's own words, if it has some; nothing that a terminal would obey."""
    words = response.read(MESSAGE_BYTES).decode("utf-8", "replace").strip()
    if not words or response.headers.get_content_type() != "text/plain":
        words = f"the server said {response.status} {response.reason}"
    return printable(words)


def copy(response: http.client.HTTPResponse, destination: BinaryIO, progress: "Progress") -> None:
    """Pass the whole body on. Raises Failure when it is short or cannot be written."""
    left = response.length or 0
    with progress:
        while left > 0:
            piece = response.read(min(left, PIECE_BYTES))
            if not piece:
                raise Failure(PARTIAL, f"the transfer was cut, {left} bytes are missing")
            try:
                destination.write(piece)
                destination.flush()
            except OSError as error:
                raise Failure(WRITE, f"cannot write: {reason(error)}") from error
            left -= len(piece)
            progress.add(len(piece))


@contextlib.contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """Standard output, not closed. After a failure what it still buffers goes nowhere."""
    if sys.stdout is None:
        raise Failure(WRITE, "standard output is closed")
    try:
        yield sys.stdout.buffer
    except Failure:
        # Python would write it again at exit, fail again, and make the exit code 120.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise


class Target:
    """DIR/NAME while it is fetched: a `.part` beside it, renamed when it is whole, removed when it is not.

    Only the last component of the name is used, so no name can write outside DIR.
    """

    def __init__(self, directory: str, name: str) -> None:
        last = name.rpartition("/")[2]
        if last in ("", ".", "..") or any(sign in last for sign in "\0" + forbidden_signs()):
            raise Failure(USAGE, f"{name!r} does not name a file")
        if not os.path.isdir(directory):
            raise Failure(WRITE, f"cannot write: {directory} is not a folder")
        self._path = os.path.join(directory, last)
        self._part_path = os.path.join(directory, shortened(last) + ".part")

    def __enter__(self) -> BinaryIO:
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._part_path)  # left by a download that was killed
            # Exclusive: a planted link must not carry the bytes elsewhere.
            self._file = open(self._part_path, "xb")
        except OSError as error:
            raise Failure(WRITE, f"cannot write {self._part_path}: {reason(error)}") from error
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        ours = self._is_ours()
        try:
            self._file.close()
            if kind is None and not ours:
                raise OSError("another download of the same name took its place")
            if kind is None:
                os.replace(self._part_path, self._path)
        except OSError as error:
            self._remove(ours)
            raise Failure(WRITE, f"cannot write {self._path}: {reason(error)}") from error
        if kind is not None:
            self._remove(ours)

    def _is_ours(self) -> bool:
        """Whether the part file is still the one this download made."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._part_path))
        except OSError:
            return False

    def _remove(self, ours: bool) -> None:
        if ours:
            with contextlib.suppress(OSError):
                os.unlink(self._part_path)


def forbidden_signs() -> str:
    """What would lead elsewhere than DIR on this system, besides the slash."""
    return '\\:*?"<>|' if os.name == "nt" else ""


def shortened(last: str) -> str:
    """`last`, or so much of it that `.part` still fits behind it."""
    return os.fsdecode(os.fsencode(last)[: NAME_BYTES - len(".part")])


class Progress:
    """A line on standard error that shows how far a transfer is; only on a terminal, and only with a name."""

    EVERY_S = 0.1
    WIDTH = 30

    def __init__(self, name: str | None, total: int) -> None:
        self._name = name
        self._total = total
        self._done = 0
        self._shown_s = 0.0
        self._visible = name is not None and total > 0 and sys.stderr.isatty()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._visible:
            self._show()
            print(file=sys.stderr)

    def add(self, count: int) -> None:
        """So many bytes more are there."""
        self._done += count
        now_s = time.monotonic()
        if self._visible and now_s - self._shown_s >= self.EVERY_S:
            self._shown_s = now_s
            self._show()

    def _show(self) -> None:
        part = self._done / self._total
        bar = "#" * int(part * self.WIDTH)
        line = f"\r{self._name} [{bar:<{self.WIDTH}}] {part:4.0%} {self._done / 2**20:.1f} MiB"
        print(line, end="", file=sys.stderr, flush=True)


def reason(error: OSError) -> str:
    """The system's words without its numbers."""
    return error.strerror or str(error)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of three."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"gclient: {message} (see --help)\n")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line, as `command` or `files` and `directory`. Exits with 2 when it is wrong.

    A single word is a command. FILE followed by DIR is always a file, whatever it is called; `get` followed by
    one word is FILE and DIR only if that DIR is there.
    """
    parser = Parser(prog="gclient", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host", metavar="HOST")
    parser.add_argument("port", metavar="PORT", type=port)
    parser.add_argument("words", metavar="list | stats | health | FILE DIR | get FILE...", nargs="+")
    parser.add_argument("-d", "--directory", metavar="DIR", help="where get writes (default: here; -: stdout)")
    parser.add_argument(
        "--timeout", metavar="S", type=seconds, default=60.0, help="seconds without a byte (default: 60)"
    )
    parser.add_argument("--json", action="store_true", help="stats: as the server says them")
    parser.add_argument("--tls", action="store_true", help="speak HTTPS")
    parser.add_argument("--ca", metavar="PEM", help="with --tls: trust these authorities (default: the system's)")
    parser.add_argument("--token-file", metavar="PATH", help="a file with the token that the server asks for")
    options = parser.parse_args(arguments)
    if options.ca and not options.tls:
        parser.error("--ca needs --tls")
    words: list[str] = options.words
    options.command, options.files = None, []
    match words:
        case [command] if options.directory is None:
            if command not in COMMANDS:
                parser.error(f"{command!r} is no command: list, stats, health, or FILE and DIR")
            options.command = command
        case ["get", file, *more] if options.directory is not None or more or not is_directory(file):
            options.files, options.directory = [file, *more], options.directory or "."
        case [file, directory] if options.directory is None:
            options.files, options.directory = [file], directory
        case _:
            parser.error("say list, stats, health, FILE DIR, or get FILE...")
    if options.json and options.command != "stats":
        parser.error("--json is for stats")
    return options


def is_directory(word: str) -> bool:
    """Whether `word` can be the DIR of FILE DIR."""
    return word == "-" or os.path.isdir(word)


def port(text: str) -> int:
    """An argument type: a TCP port."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def seconds(text: str) -> float:
    """An argument type: a time a socket can wait, in seconds."""
    if not 0 < float(text) <= MAX_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, at most {MAX_TIMEOUT_S:g}")
    return float(text)


if __name__ == "__main__":
    sys.exit(main())
