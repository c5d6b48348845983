"""What the head of an answer says of one version of a file: type, length, validators.

Pure. The content types are a fixed table over the standard library's, because `mimetypes` reads the host's own
files and two hosts would answer differently.
"""

import mimetypes
from functools import lru_cache
from hashlib import blake2b

from fileserver.dates import http_date
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

    With `coding` and `original` it is the precompressed form of another file: described as that file, encoded.
    The fields are rendered header lines, each ending in CRLF: `fields` of the whole, `part_fields` of a range,
    `not_modified_fields` of a 304. All are made when they are asked for, since there may be 65,536 of these.
    """

    __slots__ = ("_cache_control", "_encoded", "_kind", "identity", "name")

    def __init__(
        self,
        name: str,
        identity: Identity,
        cache_control: str = "no-cache",
        *,
        coding: str = "",
        original: str = "",
    ) -> None:
        self.name = name
        self.identity = identity
        self._cache_control = cache_control
        self._kind = _description(content_type(original or name), coding)
        self._encoded: Representation | None = None

    @property
    def etag(self) -> str:
        """A strong validator: of inode, size, mtime and ctime."""
        return f'"{blake2b(b"%d:%d:%d:%d" % self.identity[1:], digest_size=8).hexdigest()}"'

    @property
    def modified_s(self) -> int | None:
        """Last-Modified in Unix seconds; None when HTTP cannot say it."""
        modified_s = self.identity.mtime_ns // 1_000_000_000
        return modified_s if http_date(modified_s) else None

    @property
    def fields(self) -> bytes:
        """Of an answer with the whole."""
        return f"Content-Length: {self.identity.size}\r\n{self._kind}{self._validators}".encode("latin-1")

    @property
    def not_modified_fields(self) -> bytes:
        """What a 304 repeats (section 15.4.5)."""
        return self._validators.encode("latin-1")

    @property
    def _validators(self) -> str:
        # A stamp outside HTTP's four-digit years is a broken clock; no date is better than a wrong one.
        last_modified = http_date(self.identity.mtime_ns // 1_000_000_000)
        return (
            f"Last-Modified: {last_modified}\r\n" if last_modified else ""
        ) + f"ETag: {self.etag}\r\nCache-Control: {self._cache_control}\r\n"

    def encoded(self, coding: str, original: str) -> "Representation":
        """The same version as the form of the file `original` in a content coding; it is always the same one."""
        if self._encoded is None:
            self._encoded = Representation(
                self.name, self.identity, self._cache_control, coding=coding, original=original
            )
        return self._encoded

    def part_fields(self, start: int, end: int) -> bytes:
        """The same for a 206 with the bytes from `start` up to before `end`."""
        return (
            f"Content-Length: {end - start}\r\nContent-Range: bytes {start}-{end - 1}/{self.identity.size}\r\n"
            f"{self._kind}{self._validators}"
        ).encode("latin-1")


@lru_cache(1024)
def _description(kind: str, coding: str) -> str:
    """What is the same for all files of a kind."""
    encoding = f"Content-Encoding: {coding}\r\n" if coding else ""
    return f"Content-Type: {kind}\r\n{encoding}X-Content-Type-Options: nosniff\r\nAccept-Ranges: bytes\r\n"
