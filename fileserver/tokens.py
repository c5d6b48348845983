"""Who may ask: bearer tokens (RFC 6750) in a file, one a line, so that a new one can join before the old goes."""

import hmac
import re

_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_BEARER = re.compile(rb"bearer +(" + _TOKEN.pattern + rb")", re.IGNORECASE)

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
        match = _BEARER.fullmatch(authorization or b"")
        offered = match[1] if match else b""
        return sum(hmac.compare_digest(offered, token) for token in self._tokens) > 0
