"""What the head of an answer says of one version of a file: type, length, validators.

Pure. The content types are a fixed table over the standard library's, because `mimetypes` reads the host's own
files and two hosts would answer differently.
"""

import mimetypes
from email.utils import formatdate
from functools import lru_cache
from hashlib import sha256

from fileserver.root import Identity

_TYPES = mimetypes.MimeTypes(filenames=())
for _suffix, _type in {
    ".avif": "image/avif",
    ".csv": "text/csv",
    ".gz": "application/gzip",
    ".ico": "image/vnd.microsoft.icon",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".log": "text/plain",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".otf": "font/otf",
    ".parquet": "application/vnd.apache.parquet",
    ".py": "text/x-python",
    ".svg": "image/svg+xml",
    ".tar": "application/x-tar",
    ".toml": "application/toml",
    ".ttf": "font/ttf",
    ".wasm": "application/wasm",
    ".webm": "video/webm",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xml": "text/xml",
    ".xz": "application/x-xz",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".zip": "application/zip",
    ".zst": "application/zstd",
}.items():
    _TYPES.add_type(_type, _suffix)
_TYPES.encodings_map[".z"] = "compress"  # suffixes are looked up in lower case

_COMPRESSED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "br": "application/x-brotli",
}


@lru_cache(maxsize=1024)
def _type_of(suffix: str) -> str:
    kind, encoding = _TYPES.guess_type(f"x.{suffix}")
    if encoding is not None:
        return _COMPRESSED.get(encoding, "application/octet-stream")
    if kind is None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def content_type(name: str) -> str:
    """The media type of a file called `name`, text with its charset; application/octet-stream if unknown."""
    _, dot, suffix = name.rpartition(".")
    return _type_of(suffix.lower()) if dot and "/" not in suffix else "application/octet-stream"


class Representation:
    """One version of one file as HTTP sees it (RFC 9110 section 8). Immutable by convention; no payload.

    `fields` are its rendered header lines, each ending in CRLF, the same in every answer that carries the version.
    """

    __slots__ = ("etag", "fields", "identity", "last_modified", "name")

    def __init__(self, name: str, identity: Identity, cache_control: str = "no-cache") -> None:
        self.name = name
        self.identity = identity
        stamps = ":".join(map(str, identity[1:]))
        self.etag = f'"{sha256(stamps.encode()).hexdigest()[:16]}"'
        # A stamp outside HTTP's four-digit years is a broken clock; no date is better than a wrong one.
        self.last_modified = _http_date(identity.mtime_ns // 1_000_000_000)
        self.fields = (
            f"Content-Length: {identity.size}\r\n"
            f"Content-Type: {content_type(name)}\r\n"
            + (f"Last-Modified: {self.last_modified}\r\n" if self.last_modified else "")
            + f"ETag: {self.etag}\r\n"
            f"Cache-Control: {cache_control}\r\n"
            "X-Content-Type-Options: nosniff\r\n"
        ).encode("latin-1")


def _http_date(seconds: int) -> str:
    try:
        return formatdate(seconds, usegmt=True) if seconds >= 0 else ""
    except (OverflowError, ValueError, OSError):
        return ""
