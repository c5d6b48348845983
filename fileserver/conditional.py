"""What a request with conditions or a range is answered with: RFC 9110 sections 13 and 14.

Pure: header fields and a representation in, a verdict out. The order of the conditions is that of section 13.2.2.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from fileserver.dates import parse_date
from fileserver.representation import Representation

FIELDS = frozenset(
    {b"if-match", b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since", b"range"}
)
"""A request without any of these is answered with the whole file."""


class Verdict(NamedTuple):
    """The status, and of 200 and 206 the bytes to send: half-open, `start` to `end`."""

    status: int
    start: int
    end: int


def evaluate(fields: Mapping[bytes, bytes], representation: Representation) -> Verdict:
    """200, 206, 304, 412 or 416 for a GET or HEAD with these fields. What cannot be read is ignored."""
    size = representation.identity.size
    if FIELDS.isdisjoint(fields):
        return Verdict(200, 0, size)
    status = _failed_condition(fields, representation)
    if status:
        return Verdict(status, 0, 0)
    if b"range" in fields and _is_same(fields.get(b"if-range"), representation):
        return _selected(fields[b"range"], size)
    return Verdict(200, 0, size)


# Conditions.

_TAGS = re.compile(rb'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def _failed_condition(fields: Mapping[bytes, bytes], representation: Representation) -> int:
    """412 or 304, or 0 when all conditions hold."""
    if b"if-match" in fields:
        if not _matches(fields[b"if-match"], representation.etag, weakly=False):
            return 412
    elif _modified_since(fields.get(b"if-unmodified-since"), representation) is True:
        return 412
    if b"if-none-match" in fields:
        return 304 if _matches(fields[b"if-none-match"], representation.etag, weakly=True) else 0
    return 304 if _modified_since(fields.get(b"if-modified-since"), representation) is False else 0


def _matches(tags: bytes, etag: str, *, weakly: bool) -> bool:
    """Whether a list of entity tags has ours, which is strong; `*` has every one (section 8.8.3.2)."""
    if tags == b"*":
        return True
    return any(tag == etag.encode() and (weakly or not weak) for weak, tag in _TAGS.findall(tags))


def _modified_since(value: bytes | None, representation: Representation) -> bool | None:
    """Whether the file changed after the date; None when either date is missing or not one."""
    moment_s = None if value is None else parse_date(value)
    if moment_s is None or representation.modified_s is None:
        return None
    return representation.modified_s > moment_s


def _is_same(if_range: bytes | None, representation: Representation) -> bool:
    """Whether the bytes the client has are of this version: the same strong tag, or exactly the same date.

    A date counts whole seconds, so two versions of one second are the same to it. Section 8.8.2.2 would have us
    know that there were no two, which nobody can; like others we take the equal date for enough. A tag is exact.
    """
    if if_range is None:
        return True
    if if_range.endswith(b'"'):
        return if_range == representation.etag.encode()
    return representation.modified_s is not None and parse_date(if_range) == representation.modified_s


# Ranges.

_RANGE = re.compile(rb"(\d*)-(\d*)")
_DIGITS_MAX = 20
"""More than any file size has; what is longer is as good as infinite."""


def _selected(value: bytes, size: int) -> Verdict:
    """The single byte range asked for; the whole for several, for another unit, and for what is no range."""
    whole = Verdict(200, 0, size)
    unit, _, ranges = value.partition(b"=")
    specs = [spec for spec in (part.strip(b" \t") for part in ranges.split(b",")) if spec]
    match = _RANGE.fullmatch(specs[0]) if unit.lower() == b"bytes" and len(specs) == 1 else None
    if match is None:
        return whole
    first, last = _number(match[1]), _number(match[2])
    if first is None:
        return whole if last is None else _end(last, size)
    if last is not None and last < first:
        return whole
    if first >= size:
        return Verdict(416, 0, 0)
    return Verdict(206, first, size if last is None else min(last + 1, size))


def _end(length: int, size: int) -> Verdict:
    """The last `length` bytes; of nothing the whole, because Content-Range cannot say "none"."""
    if length == 0:
        return Verdict(416, 0, 0)
    return Verdict(206, max(0, size - length), size) if size else Verdict(200, 0, 0)


def _number(digits: bytes) -> int | None:
    return int(digits.lstrip(b"0")[:_DIGITS_MAX] or b"0") if digits else None
