"""Who may ask: bearer tokens (RFC 6750) in a file, one a line, so that a new one can join before the old goes.

A browser has no place for one but the password it asks for (RFC 7617), so there they count too.
"""

import base64
import binascii
import hmac
import ipaddress
import re
from collections.abc import Mapping
from typing import Literal

Admin = Literal["open", "loopback", "token"]
"""Who may see the statistics: everybody, clients on this machine, or who has a token."""

_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_BEARER = re.compile(rb"bearer +(" + _TOKEN.pattern + rb")", re.IGNORECASE)
_NO_NAME = re.compile(rb"(?:localhost\.?|[\d.]*|\[[\da-f:.]*\])(?::\d*)?", re.IGNORECASE)
"""A Host that is an address, or this machine's name for itself."""
_BASIC = re.compile(rb"basic +([A-Za-z0-9+/]+=*)", re.IGNORECASE)

FILE_MAX_BYTES = 64 * 1024
"""Of a token file: about a thousand tokens; each request is compared with all of them."""


class Tokens:
    """The tokens that open the server. Immutable; `load` again for a changed file."""

    def __init__(self, tokens: list[bytes]) -> None:
        if not tokens or not all(map(_TOKEN.fullmatch, tokens)):
            raise ValueError("a token is letters, digits and ._~+/- , one a line, at least one")
        self._tokens = tokens

    @classmethod
    def load(cls, path: str) -> "Tokens":
        """The tokens in the file at `path`; empty lines do not count. Raises OSError and ValueError. Blocks."""
        with open(path, "rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
        if len(content) > FILE_MAX_BYTES:
            raise ValueError(f"more than {FILE_MAX_BYTES} bytes of tokens")
        return cls([line.strip() for line in content.splitlines() if line.strip()])

    def permit(self, authorization: bytes | None) -> bool:
        """Whether an Authorization field carries one of them. Takes the same time for every wrong token."""
        offered = _offered(authorization or b"")
        return sum(hmac.compare_digest(offered, token) for token in self._tokens) > 0


def is_loopback(address: str) -> bool:
    """Whether `address` is of this machine alone, to listen on or to ask from. A name is not looked up."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address == "localhost"
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def is_local(address: bytes, host: bytes) -> bool:
    """Whether a client asks from this machine, and knows it: a web page there whose own name leads to us (DNS
    rebinding) sends that name as its Host."""
    return is_loopback(address.decode()) and _NO_NAME.fullmatch(host) is not None


def is_cross_site(fields: Mapping[bytes, bytes]) -> bool:
    """Whether a browser says that a page from elsewhere asks: it sends the page's origin with everything that may
    change something, and newer ones say what they make of it (Fetch Metadata). Other programs send neither."""
    origin, host = fields.get(b"origin"), fields.get(b"host", b"")
    if origin is not None and origin.lower().partition(b"://")[2] != host.lower():
        return True
    return fields.get(b"sec-fetch-site", b"none") not in (b"same-origin", b"none")


def _offered(authorization: bytes) -> bytes:
    """The token that the field carries, or as a password of any user; empty without."""
    if match := _BEARER.fullmatch(authorization):
        return match[1]
    if match := _BASIC.fullmatch(authorization):
        try:
            return base64.b64decode(match[1], validate=True).partition(b":")[2]
        except binascii.Error:
            pass
    return b""
