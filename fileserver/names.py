"""What a client may ask for: from the bytes of a request target to a name, and whether the name is one.

Pure, and the only place that decides it: a name that fails here never reaches the disk. Names are relative to
the served directory, separated by `/`, exact in case and not normalised; links are names of their own.
"""

import os
import re
from urllib.parse import quote, unquote_to_bytes

MAX_COMPONENT_BYTES = 255
"""NAME_MAX of Linux and macOS file systems."""

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_COMPONENT = r"(?!\.{1,2}(?:/|\Z))[^/\x00-\x1f\x7f]+"
_VISIBLE_COMPONENT = r"[^./\x00-\x1f\x7f][^/\x00-\x1f\x7f]*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_VISIBLE_NAME = re.compile(rf"{_VISIBLE_COMPONENT}(?:/{_VISIBLE_COMPONENT})*")
_WINDOWS_SYNTAX = re.compile(r'[\\:*?"<>|]|[. ](?:/|\Z)')


class BadTarget(ValueError):
    """The target is not one: a broken percent escape, a NUL, or no path at all."""


def decode_target(target: bytes) -> tuple[str | None, bytes]:
    """Split an HTTP request target into (name, query); the name has no leading slash, `""` is the root folder.

    One percent-decode, so `%2F` is `/`. The name is None when its bytes are not UTF-8: nothing is called that.
    Absolute-form targets (RFC 9112 section 3.2.2) lose scheme and authority. Raises BadTarget.
    """
    if not target.startswith(b"/"):
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise BadTarget("the target must be a path")
        before, question, query = rest.partition(b"?")
        authority, _, path = before.partition(b"/")
        if not authority or authority.startswith(b":") or b"@" in authority:
            raise BadTarget("an http URI has a host, and no user (RFC 9110 section 4.2.4)")
        target = b"/" + path + question + query
    if b"#" in target:
        raise BadTarget("a fragment is the browser's own")
    path, _, query = target[1:].partition(b"?")
    return decode_name(_unquoted(path)), query


def decode_parameters(query: bytes) -> dict[str, str | None]:
    """The parameters of a query by name, decoded as forms encode them: as a path, and `+` is a space (so do curl's
    `--url-query` and Python's `urlencode` it). None: its bytes are not UTF-8.

    Raises BadTarget, also when one is there twice.
    """
    parameters: dict[str, str | None] = {}
    for pair in filter(None, query.replace(b"+", b" ").split(b"&")):
        name, _, value = pair.partition(b"=")
        known_as = decode_name(_unquoted(name)) or ""
        if known_as in parameters:
            raise BadTarget("a parameter is there twice")
        parameters[known_as] = decode_name(_unquoted(value))
    return parameters


def _unquoted(part: bytes) -> bytes:
    if b"%" in part:
        if _BAD_ESCAPE.search(part):
            raise BadTarget("a percent sign needs two hex digits")
        part = unquote_to_bytes(part)
        if b"\0" in part:
            raise BadTarget("a name has no NUL")
    return part


def decode_name(raw: bytes) -> str | None:
    """UTF-8 to str; None when it is not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def encode_path(name: str) -> str:
    """The absolute path under which a browser asks for `name`."""
    return "/" + quote(name, safe="/")


def is_reserved(name: str) -> bool:
    """Whether it is a page of the server's own."""
    return name == "-" or name.startswith("-/")


def is_valid(name: str, *, hidden: bool = False, windows: bool = os.name == "nt") -> bool:
    """Whether `name` can be a file or folder beneath the root.

    No empty, `.` or `..` component, none beginning with a dot unless `hidden`, none longer than 255 bytes, no
    byte below 0x20 and no 0x7f. On Windows also nothing its file systems read as something else.
    """
    if not (_NAME if hidden else _VISIBLE_NAME).fullmatch(name):
        return False
    if windows and _WINDOWS_SYNTAX.search(name):
        return False
    # A character is at most 4 bytes, so short names need no second look.
    return len(name) * 4 <= MAX_COMPONENT_BYTES or all(
        len(component.encode()) <= MAX_COMPONENT_BYTES for component in name.split("/")
    )
