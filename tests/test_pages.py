"""What a listing shows and what an answer's head says of a file: pure functions, so tables."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest

from fileserver import listing, rendering
from fileserver.about import documents
from fileserver.names import decode_target
from fileserver.rendering import SLICE
from fileserver.representation import Representation, content_type
from fileserver.root import Folder, FolderEntry, Identity
from lrucache import Entry

NASTY = [
    "<script>alert(1)</script>",
    "</td></tr></table>",
    "\"onmouseover='alert(1)'",
    "a&amp;b",
    "a&b;c",
    "javascript:alert(1)",
    "a b",
    "100%",
    "%2e%2e",
    "a?b#c",
    "back\\slash",
    "ä€😀",
    "e\u0301",
    "a\u2028b",
]
NUMBERS = [0, 1, SLICE - 1, SLICE, SLICE + 1, 2 * SLICE + 1]


def file(name: str, size: int = 0, mtime_s: float = 0.0) -> FolderEntry:
    return FolderEntry(name, False, size, mtime_s)


def files(number: int) -> Folder:
    return Folder([file(f"{index:05d}") for index in range(number)], False)


def joined(pieces: Iterator[bytes], lines: bytes = b"\n") -> bytes:
    """The whole document; no piece holds more than a slice of lines."""
    document = b""
    for piece in pieces:
        assert piece.count(lines) <= SLICE
        document += piece
    return document


class Page(HTMLParser):
    """The cells of a listing's table, and the links, as a browser reads them."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.title = ""
        self.text = ""
        self._open: set[str] = set()
        self.feed(html.decode())
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._open.add(tag)
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attributes)
        if tag == "a":
            self.links.append((dict(attributes)["href"] or "", ""))
        elif tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open.discard(tag)

    def handle_data(self, text: str) -> None:
        self.text += text
        if "a" in self._open:
            target, shown = self.links[-1]
            self.links[-1] = (target, shown + text)
        if "td" in self._open:
            self.rows[-1][-1] += text
        if "title" in self._open:
            self.title += text

    @property
    def entries(self) -> list[list[str]]:
        return [row for row in self.rows if row and row[0] != "../"]


def page(name: str, *entries: FolderEntry, truncated: bool = False) -> Page:
    return Page(joined(listing.folder_html(name, Folder(list(entries), truncated)), b"<tr>"))


# Listings for people.


@pytest.mark.parametrize("folder", ["", "sub", *NASTY])
def test_nasty_names_are_shown_as_they_are_and_their_links_ask_for_them(folder: str) -> None:
    shown = page(folder, *(FolderEntry(name, True, 0, 0.0) for name in NASTY), *map(file, NASTY))
    links = [link for link in shown.links if link[1] != "../"][:-2]
    assert [text for _, text in links] == [f"{name}/" for name in NASTY] + NASTY
    prefix = f"{folder}/" if folder else ""
    targets = [decode_target(target.encode("ascii")) for target, _ in links]
    assert targets == [(f"{prefix}{name}/", b"") for name in NASTY] + [(prefix + name, b"") for name in NASTY]
    assert shown.title == (f"/{folder}/" if folder else "/")


def test_no_name_adds_a_tag_or_an_attribute() -> None:
    plain = page("a", file("b"))
    for folder in NASTY:
        shown = page(folder, *map(file, NASTY))
        assert (shown.tags, shown.attributes) == (plain.tags, plain.attributes)
    assert "script" not in plain.tags


@pytest.mark.parametrize(("folder", "parent"), [("a", "/"), ("a/b", "/a/"), ("a b/c?/d", "/a%20b/c%3F/")])
def test_a_folder_links_to_its_parent(folder: str, parent: str) -> None:
    assert page(folder).links[0] == (parent, "../")


def test_the_root_has_no_parent() -> None:
    assert [target for target, _ in page("").links] == ["/-/", "/-/cache"]


def test_a_row_has_name_size_and_date_and_a_folder_no_size() -> None:
    shown = page("", FolderEntry("sub", True, 4096, 784111777.5), file("a", 1536, 784111777.5))
    assert shown.entries == [["sub/", "", "1994-11-06 08:49"], ["a", "1.5 KiB", "1994-11-06 08:49"]]


@pytest.mark.parametrize("mtime_s", [-1.0, -1e12, 253402300800.0, 1e17, float(2**63)])
def test_a_date_out_of_range_does_not_take_the_listing_down(mtime_s: float) -> None:
    shown = page("", file("a", 1, mtime_s), file("b", 2))
    assert [row[:2] for row in shown.entries] == [["a", "1 B"], ["b", "2 B"]]
    entries = json.loads(joined(listing.folder_json("", Folder([file("a", 1, mtime_s)], False))))["entries"]
    assert entries[0]["mtime"] == mtime_s


@pytest.mark.parametrize("number", NUMBERS)
def test_every_entry_of_a_long_folder_is_listed_once(number: int) -> None:
    folder = files(number)
    names = [entry.name for entry in folder.entries]
    html = joined(listing.folder_html("x", folder), b"<tr><td>")
    assert [row[0] for row in Page(html).entries] == names
    assert (f"{number} entry." if number == 1 else f"{number} entries.") in Page(html).text
    document = json.loads(joined(listing.folder_json("x", folder), b'"name"'))
    assert [entry["name"] for entry in document["entries"]] == names


def test_a_folder_that_was_cut_says_so() -> None:
    note = "more entries than are shown"
    assert note in page("", file("a"), truncated=True).text
    assert note not in page("", file("a")).text


# Listings for programs.


@pytest.mark.parametrize("truncated", [False, True])
def test_a_folder_in_json_has_the_documented_keys(truncated: bool) -> None:
    folder = Folder([FolderEntry("sub", True, 0, 1.5), file(NASTY[2], 7, 784111777.12345)], truncated)
    assert json.loads(joined(listing.folder_json("a/ä", folder))) == {
        "folder": "a/ä",
        "truncated": truncated,
        "entries": [
            {"name": "sub", "type": "folder", "size": 0, "mtime": 1.5},
            {"name": NASTY[2], "type": "file", "size": 7, "mtime": 784111777.123},
        ],
    }


def test_the_cache_in_json_has_the_stats_and_the_documented_keys() -> None:
    entry = Entry(NASTY[0], 7, None, 100.0)
    entry.hits, entry.readers, entry.used_s = 3, 2, 109.0
    stats: dict[str, object] = {"hits": 3, "policy": "relocate"}
    assert json.loads(joined(documents.cache_json(stats, [entry], 110.12345))) == {
        "stats": stats,
        "entries": [
            {"name": NASTY[0], "size": 7, "hits": 3, "age_s": 10.123, "idle_s": 1.123, "readers": 2},
        ],
    }


def test_no_age_is_negative() -> None:
    document = json.loads(joined(documents.cache_json({}, [Entry("a", 1, None, 100.0)], 99.0)))
    assert (document["entries"][0]["age_s"], document["entries"][0]["idle_s"]) == (0, 0)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_entry_of_a_long_cache_is_listed_once_and_in_order(number: int) -> None:
    entries = [Entry(f"{NASTY[index % len(NASTY)]}{index}", 1, None, 0.0) for index in range(number)]
    names = [entry.name for entry in entries]
    document = json.loads(joined(documents.cache_json({}, entries, 0.0), b'"name"'))
    assert [entry["name"] for entry in document["entries"]] == names
    assert joined(documents.cache_text(entries)).decode() == "".join(f"{name}\n" for name in names)


def test_the_stats_alone_are_the_same_object() -> None:
    stats: dict[str, object] = {"hits": 3, "policy": "relocate", "peak": 1.5}
    assert json.loads(documents.stats_json(stats)) == stats
    assert documents.stats_json(stats).endswith(b"}\n")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (17, "17 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (10_000, "9.77 KiB"),
        (999 * 1024, "999 KiB"),
        (999 * 1024 + 600, "0.976 MiB"),
        (1023 * 1024, "0.999 MiB"),
        (1 << 20, "1 MiB"),
        (64 << 20, "64 MiB"),
        (1 << 30, "1 GiB"),
        (1 << 40, "1 TiB"),
        (5 << 50, "5 PiB"),
        (1 << 62, "4 EiB"),
    ],
)
def test_sizes_are_in_powers_of_1024_with_three_digits(size: int, expected: str) -> None:
    assert rendering.size_text(size) == expected


# What the head of an answer says.

UNKNOWN = "application/octet-stream"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.html", "text/html; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.csv", "text/csv; charset=utf-8"),
        ("a.md", "text/markdown; charset=utf-8"),
        ("a.log", "text/plain; charset=utf-8"),
        ("a.py", "text/x-python; charset=utf-8"),
        ("a.xml", "text/xml; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.svg", "image/svg+xml"),
        ("a.png", "image/png"),
        ("a.webp", "image/webp"),
        ("a.ico", "image/vnd.microsoft.icon"),
        ("a.pdf", "application/pdf"),
        ("a.wasm", "application/wasm"),
        ("a.woff2", "font/woff2"),
        ("a.mp4", "video/mp4"),
        ("a.zip", "application/zip"),
        ("a.tar", "application/x-tar"),
        ("a.gz", "application/gzip"),
        ("a.tar.gz", "application/gzip"),
        ("a.tgz", "application/gzip"),
        ("a.txt.gz", "application/gzip"),
        ("a.tar.bz2", "application/x-bzip2"),
        ("a.tar.xz", "application/x-xz"),
        ("a.tar.zst", "application/zstd"),
        ("a.txt.br", "application/x-brotli"),
        ("a.Z", "application/x-compress"),
        ("A.TXT", "text/plain; charset=utf-8"),
        ("A.Tar.GZ", "application/gzip"),
        ("A.TGZ", "application/gzip"),
        ("A.BZ2", "application/x-bzip2"),
        ("a.gz.txt", "text/plain; charset=utf-8"),
        ("a.html.unknown", UNKNOWN),
        ("a.unknown", UNKNOWN),
        ("a.", UNKNOWN),
        ("a", UNKNOWN),
        ("txt", UNKNOWN),
        ("dir.txt/a", UNKNOWN),
        ("dir.tar/a.gz", "application/gzip"),
        ("dir.gz/a.txt", "text/plain; charset=utf-8"),
        ("data:text/html,a.png", "image/png"),
        ("a b.c d.txt", "text/plain; charset=utf-8"),
        ("a.ä", UNKNOWN),
    ],
)
def test_the_last_suffix_names_the_type_and_text_has_its_charset(name: str, expected: str) -> None:
    assert content_type(name) == expected


IDENTITY = Identity(device=1, inode=2, size=3, mtime_ns=784111777_000_000_000, ctime_ns=5)


def lines_of(representation: Representation) -> dict[str, str]:
    *lines, end = representation.fields.decode("ascii").split("\r\n")
    assert end == ""
    names_and_values = [tuple(line.split(": ", 1)) for line in lines]
    assert len({name for name, *_ in names_and_values}) == len(lines)
    return dict(names_and_values)  # type: ignore[arg-type]


def test_a_representation_has_the_fields_of_a_file_answer() -> None:
    representation = Representation("a.txt", IDENTITY)
    assert lines_of(representation) == {
        "Content-Length": "3",
        "Content-Type": "text/plain; charset=utf-8",
        "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT",
        "ETag": representation.etag,
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Accept-Ranges": "bytes",
    }


def test_cache_control_is_as_configured() -> None:
    assert lines_of(Representation("a", IDENTITY, "max-age=60"))["Cache-Control"] == "max-age=60"


def test_an_etag_is_strong_and_has_16_hex_digits() -> None:
    assert re.fullmatch(r'"[0-9a-f]{16}"', Representation("a", IDENTITY).etag)


@pytest.mark.parametrize("field", ["inode", "size", "mtime_ns", "ctime_ns"])
def test_an_etag_differs_with_each_part_of_the_identity(field: str) -> None:
    changed = IDENTITY._replace(**{field: getattr(IDENTITY, field) + 1})
    assert Representation("a", changed).etag != Representation("a", IDENTITY).etag


def test_an_etag_knows_which_part_a_digit_belongs_to() -> None:
    one, other = Identity(1, 1, 11, 1, 1), Identity(1, 11, 1, 1, 1)
    assert Representation("a", one).etag != Representation("a", other).etag


def test_an_etag_outlives_a_remount_and_a_rename() -> None:
    moved = Representation("b.txt", IDENTITY._replace(device=9))
    assert moved.etag == Representation("a", IDENTITY).etag


@pytest.mark.parametrize(
    ("mtime_ns", "expected"),
    [
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (784111777_999_999_999, "Sun, 06 Nov 1994 08:49:37 GMT"),
        (253402300799_999_999_999, "Fri, 31 Dec 9999 23:59:59 GMT"),
        (253402300800_000_000_000, ""),
        (-1, ""),
        (-(2**63) * 10**9, ""),
        (2**63 * 10**9, ""),
    ],
)
def test_a_date_that_http_cannot_say_is_left_out(mtime_ns: int, expected: str) -> None:
    representation = Representation("a", IDENTITY._replace(mtime_ns=mtime_ns))
    assert (representation.modified_s is None) == (expected == "")
    assert lines_of(representation).get("Last-Modified", "") == expected
