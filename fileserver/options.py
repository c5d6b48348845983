"""The command line of gserver: what can be asked for, checked as far as it can be without touching anything."""

import argparse
import math
import re
from collections.abc import Callable
from typing import NoReturn

from fileserver.tokens import is_loopback
from lrucache import POLICIES


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of three."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


class Version(argparse.Action):
    """Says it and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from gclient import __version__  # noqa: PLC0415 (only who asks needs the client)

        print(f"{parser.prog} {__version__}")
        parser.exit()


def parse(bound: tuple[str, int] | None = None) -> argparse.Namespace:
    """The command line; with `bound`, where we listen already, instead of its PORT and --host.

    Exits with 2 when it is wrong.
    """
    parser = Parser(
        prog="gserver", description="Serve the files under DIR over TCP, the popular ones from memory."
    )
    add = parser.add_argument
    add("port", metavar="PORT", type=number(int, 0, 65535), help="TCP port; 0 picks a free one and prints it")
    add("directory", metavar="DIR", help="the folder to serve, or objects: s3://BUCKET/PREFIX")
    add(
        "--host",
        type=address,
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, only this machine)",
    )
    add(
        "--cache",
        metavar="SIZE",
        type=size,
        default=size("64MiB"),
        help="bytes of files kept in memory (default: 64MiB)",
    )
    add(
        "--policy",
        choices=list(POLICIES),
        default="relocate",
        help="order of eviction (default: %(default)s)",
    )
    add(
        "--what-if",
        action="store_true",
        help="/-/stats shows which share of the requests each policy would hit",
    )
    add(
        "--threads",
        metavar="N",
        type=number(int, 1, 1024),
        default=64,
        help="native threads that read (default: 64)",
    )
    add(
        "--page-cache",
        choices=["keep", "drop"],
        default="keep",
        help="drop: have the kernel forget files that were read whole, so that memory is not used twice"
        " (default: keep)",
    )
    add(
        "--io",
        choices=["auto", "pool"],
        default="auto",
        help="auto: page-cached reads inline; pool: all in threads",
    )
    add(
        "--revalidate",
        metavar="S",
        type=number(float, 0, 1e9),
        default=1.0,
        help="seconds a cached file is believed without a look at the disk (default: 1; 0: look each time)",
    )
    add(
        "--precompressed",
        action="store_true",
        help="answer with NAME.br, NAME.zst or NAME.gz where the client takes it and it is no older than NAME",
    )
    add(
        "--warm-from",
        metavar="FILE",
        help="at the start read the files named there, one a line, as LIST prints them, as far as there is room",
    )
    add("--save-list", metavar="FILE", help="at a stop write LIST there; may be the FILE of --warm-from")
    add("--hidden", action="store_true", help="serve names that begin with a dot")
    add("--no-index", dest="index", action="store_false", help="folders answer 404: no listing, no index.html")
    add(
        "--download",
        action="store_true",
        help="have browsers save files instead of showing them, and show no index.html: for strangers' files",
    )
    add("--cors", metavar="ORIGIN", type=origin, help="web pages from ORIGIN may read; * for all")
    add("--tls-cert", metavar="PEM", help="serve HTTPS with this certificate chain (reloaded on SIGHUP)")
    add("--tls-key", metavar="PEM", help="its private key (default: in the certificate's file)")
    add("--token-file", metavar="PATH", help="answer only who brings one of these tokens, one a line (SIGHUP)")
    add(
        "--admin",
        choices=["open", "loopback", "token"],
        help="who may see statistics, metrics and dashboard (default: token with --token-file; open where only"
        " this machine can ask; else loopback, this machine)",
    )
    add("--access-log", metavar="PATH", help="Combined Log Format and more; - for stdout (SIGHUP reopens a file)")
    add(
        "--cache-control",
        metavar="VALUE",
        type=field_value,
        default="no-cache",
        help="Cache-Control of files (default: no-cache)",
    )
    add(
        "--drain",
        metavar="S",
        type=number(float, 0, 1e9),
        default=30.0,
        help="seconds a stop waits for transfers (default: 30)",
    )
    add(
        "--max-connections",
        metavar="N",
        type=number(int, 1, 1 << 20),
        help="default: from the descriptor limit, at most 16384",
    )
    add(
        "--idle-timeout",
        metavar="S",
        type=number(float, 0.1, 1e9),
        default=60.0,
        help="seconds between two requests (default: 60)",
    )
    add(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        default="info",
        help="default: %(default)s",
    )
    add("--version", action=Version, nargs=0, help="say which version it is and exit")
    arguments = parser.parse_args()
    if arguments.tls_key and not arguments.tls_cert:
        parser.error("--tls-key needs --tls-cert")
    if arguments.page_cache == "drop" and arguments.directory.startswith("s3://"):
        parser.error("--page-cache drop is for folders: objects leave nothing in the page cache")
    if arguments.admin == "token" and not arguments.token_file:
        parser.error("--admin token needs --token-file")
    if bound is not None:
        arguments.host, arguments.port = bound
    if arguments.admin is None:
        arguments.admin = (
            "token" if arguments.token_file else "open" if is_loopback(arguments.host) else "loopback"
        )
    return arguments


def folder(directory: str) -> str:
    """The path of a folder given as a path or as a file URL (RFC 8089). Raises ValueError for other URLs."""
    scheme, separator, rest = directory.partition("://")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]+", scheme):
        return directory
    host, _, path = rest.partition("/")
    if scheme != "file" or host not in ("", "localhost"):
        raise ValueError("DIR is a folder, file:///PATH or s3://BUCKET/PREFIX")
    from urllib.request import url2pathname  # noqa: PLC0415 (0.1 s of a start, for few)

    return url2pathname("/" + path)


def number(kind: Callable[[str], float], low: float, high: float) -> Callable[[str], float]:
    """An argument type: a `kind` within [low, high]."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return parse


def size(text: str) -> int:
    """An argument type: bytes, as `67108864`, `64MiB` or `64M` (powers of 1024)."""
    match = re.fullmatch(r"(\d{1,18})\s*(?:([KMGT])(?:i?B)?|B)?", text, re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 64MiB")
    exponent = " KMGT".index(match[2].upper()) if match[2] else 0
    return int(match[1]) << (10 * exponent)


def address(text: str) -> str:
    """An argument type: an address or a host name."""
    if not text or not text.isascii() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not an address")
    return text


def field_value(text: str) -> str:
    """An argument type: what may stand in a header line."""
    if not (text.strip() and text.isascii() and text.isprintable()):
        raise argparse.ArgumentTypeError("a header value is printable ASCII, and not empty")
    return text


def origin(text: str) -> str:
    """An argument type: a web origin (RFC 6454), or * for every one."""
    if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^\s/?#@,]+", text) or not text.isascii():
        raise argparse.ArgumentTypeError(f"{text!r} is not an origin like https://example.org")
    return text
