"""What may be asked for. The table is the rule; the public attack lists are judged by `posixpath` and `ntpath`."""

import json
import ntpath
import posixpath
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fileserver.names import MAX_COMPONENT_BYTES, BadTarget, decode_name, decode_target, encode_path, is_valid
from fileserver.wire import Request, RequestReader

NOTHING = 404
BAD = 400


def asked(target: bytes, *, hidden: bool = False, windows: bool = False) -> str | int:
    """The name a target asks for, or the status of the refusal."""
    try:
        name, _ = decode_target(target)
    except BadTarget:
        return BAD
    if name is None or not is_valid(name, hidden=hidden, windows=windows):
        return NOTHING
    return name


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/a", "a"),
        (b"/a/b/c.txt", "a/b/c.txt"),
        (b"/A/a", "A/a"),
        (b"/a%20b", "a b"),
        (b"/%20", " "),
        (b"/a+b", "a+b"),
        (b"/100%25", "100%"),
        (b"/%23%3F%26", "#?&"),
        (b"/a%2Fb", "a/b"),
        (b"/a%2fb", "a/b"),
        (b"/%C3%A4/%e2%82%ac", "ä/€"),
        ("/ä".encode(), "ä"),
        ("/e\u0301".encode(), "e\u0301"),
        (b"/%00", BAD),
        (b"/a%00.txt", BAD),
        (b"/a\0", NOTHING),
        (b"/%", BAD),
        (b"/%4", BAD),
        (b"/%zz", BAD),
        (b"/a%2", BAD),
        (b"/100%", BAD),
        (b"/%u0061", BAD),
        (b"/%%32%65", BAD),
        (b"/%FF", NOTHING),
        (b"/\xff", NOTHING),
        (b"/%C0%AE%C0%AE/x", NOTHING),
        (b"/%ED%A0%80", NOTHING),
        (b"/", NOTHING),
        (b"//", NOTHING),
        (b"//a", NOTHING),
        (b"/a//b", NOTHING),
        (b"/a/", NOTHING),
        (b"/a%2F", NOTHING),
        (b"/%2Fetc/passwd", NOTHING),
        (b"/.", NOTHING),
        (b"/..", NOTHING),
        (b"/../a", NOTHING),
        (b"/a/..", NOTHING),
        (b"/a/../b", NOTHING),
        (b"/a/./b", NOTHING),
        (b"/%2e", NOTHING),
        (b"/%2e%2e", NOTHING),
        (b"/%2E%2E%2Fa", NOTHING),
        (b"/.%2e/a", NOTHING),
        (b"/a%2f%2e%2e%2fb", NOTHING),
        (b"/%252e%252e/a", "%2e%2e/a"),
        (b"/a%252Fb", "a%2Fb"),
        (b"/.hidden", NOTHING),
        (b"/a/.hidden", NOTHING),
        (b"/.hidden/a", NOTHING),
        (b"/%2ehidden", NOTHING),
        (b"/...", NOTHING),
        (b"/a.", "a."),
        (b"/a..b", "a..b"),
        (b"/a../b", "a../b"),
        (b"/a%0A", NOTHING),
        (b"/a%0D%0Ab", NOTHING),
        (b"/%09", NOTHING),
        (b"/%1F", NOTHING),
        (b"/%7F", NOTHING),
        (b"/%C2%80", "\x80"),
        (b"/" + b"a" * MAX_COMPONENT_BYTES, "a" * 255),
        (b"/" + b"a" * (MAX_COMPONENT_BYTES + 1), NOTHING),
        (b"/a/" + b"a" * (MAX_COMPONENT_BYTES + 1) + b"/a", NOTHING),
        (b"/" + b"/".join([b"a" * MAX_COMPONENT_BYTES] * 3), "/".join(["a" * 255] * 3)),
        (b"/" + "ä".encode() * 127, "ä" * 127),
        (b"/" + "ä".encode() * 128, NOTHING),
        (b"/" + "€".encode() * 85, "€" * 85),
        (b"/" + "€".encode() * 86, NOTHING),
        (b"/" + "😀".encode() * 63, "😀" * 63),
        (b"/" + "😀".encode() * 64, NOTHING),
        (b"/a\\b", "a\\b"),
        (b"/..%5Ca", NOTHING),
        (b"/C:%5Ca", "C:\\a"),
        (b"/~root", "~root"),
        (b"/-", "-"),
        (b"http://host/a%20b", "a b"),
        (b"HTTPS://host:1/a", "a"),
        (b"http://host//a", NOTHING),
        (b"http://host/../a", NOTHING),
        (b"http://host", NOTHING),
        (b"ftp://host/a", BAD),
        (b"file:///a", BAD),
        (b"://host/a", BAD),
        (b"a", BAD),
        (b"../a", BAD),
        (b"*", BAD),
        (b"host:80", BAD),
        (b"", BAD),
        (b"/a#b", BAD),
        (b"/#", BAD),
        (b"http://host/#b", BAD),
    ],
)
def test_one_decode_makes_a_name_or_a_refusal(target: bytes, expected: str | int) -> None:
    assert asked(target) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/a?b", ("a", b"b")),
        (b"/a?", ("a", b"")),
        (b"/?format=json", ("", b"format=json")),
        (b"/a?b?c/../%zz%00", ("a", b"b?c/../%zz%00")),
        (b"/a%3Fb", ("a?b", b"")),
        (b"/%FF?q", (None, b"q")),
        (b"http://host?q", ("", b"q")),
        (b"http://host/a/?q=http://b/c", ("a/", b"q=http://b/c")),
        (b"/", ("", b"")),
        (b"/a/", ("a/", b"")),
    ],
)
def test_the_query_is_what_follows_the_first_question_mark(
    target: bytes, expected: tuple[str | None, bytes]
) -> None:
    assert decode_target(target) == expected


@pytest.mark.parametrize("name", [".a", "a/.b", ".a/b", "...", "..a", ".a.", "a/..."])
def test_hidden_names_exist_only_where_they_are_wanted(name: str) -> None:
    assert not is_valid(name, windows=False)
    assert is_valid(name, hidden=True, windows=False)


@pytest.mark.parametrize(
    "name", ["", "/", ".", "..", "a/..", "../a", "a/./b", "a//b", "/a", "a/", ".\n", "a\0", "\x1f", "a\x7f"]
)
def test_no_option_makes_a_name_of_what_is_none(name: str) -> None:
    assert not is_valid(name, hidden=True, windows=False)


@pytest.mark.parametrize(
    "name",
    [
        "..\\a",
        "a\\..\\b",
        "\\a",
        "C:",
        "C:a",
        "a:stream",
        "a::$DATA",
        "a*",
        "a?",
        "a|b",
        '"',
        "<",
        "a.",
        "a ",
        "a./b",
    ],
)
def test_what_windows_reads_as_something_else_is_no_name_there(name: str) -> None:
    assert is_valid("x" + name, windows=False)
    assert not is_valid("x" + name, windows=True)
    assert not is_valid(name, hidden=True, windows=True)


@pytest.mark.parametrize("name", ["a.txt", "a b", "a/b.c", "ä", "100%", "a;b", "a'b", "...a"])
def test_ordinary_names_are_names_everywhere(name: str) -> None:
    assert is_valid(name, hidden=True, windows=True)


def test_a_name_is_utf_8_or_nothing() -> None:
    assert decode_name("ä".encode()) == "ä"
    assert decode_name(b"%41 ") == "%41 "
    assert decode_name("ä".encode("latin-1")) is None
    assert decode_name("\ud800".encode(errors="surrogatepass")) is None


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
@example("//a?b#c%20 \"'<>&+;:@\\\r\n\x7fä")
def test_an_encoded_path_asks_for_the_name_it_was_made_of(name: str) -> None:
    path = encode_path(name).encode("ascii")
    assert decode_target(path) == (name, b"")
    reader = RequestReader()
    reader.feed(b"GET " + path + b" HTTP/1.0\r\n\r\n")
    assert reader.next() == Request(b"GET", path, {}, 0, False)


# Public attack lists. The judges know nothing of our expressions.


def check_inside(name: str) -> None:
    assert posixpath.normpath(posixpath.join("/root", name)) == f"/root/{name}"
    assert not {"", ".", ".."}.intersection(name.split("/"))


def check_inside_on_windows(name: str) -> None:
    drive, rest = ntpath.splitdrive(ntpath.normpath(ntpath.join("C:\\root", name)))
    assert (drive, rest) == ("C:", "\\root\\" + name.replace("/", "\\"))


def judge(attacks: Iterable[str]) -> tuple[int, int]:
    """How many of them became names and how many were refused; fails on a name that leads out."""
    names = refused = 0
    for attack in attacks:
        for raw in (attack, quote(attack), unquote(attack), quote(attack, safe=""), quote(quote(attack))):
            for target in (f"/{raw}", f"/a/{raw}", raw):
                for windows, check in ((False, check_inside), (True, check_inside_on_windows)):
                    name = asked(target.encode(errors="replace"), hidden=True, windows=windows)
                    if isinstance(name, str):
                        check(name)
                        names += 1
                    else:
                        refused += 1
    return names, refused


def test_no_traversal_template_leads_out(shared_lists: Path) -> None:
    lines = (shared_lists / "traversal_templates.txt").read_text(errors="replace").splitlines()
    attacks = {line.replace("{FILE}", "etc/passwd") for line in lines if not line.startswith("#")}
    names, refused = judge(attacks)
    assert names > 1000
    assert refused > names


def test_no_naughty_string_leads_out(shared_lists: Path) -> None:
    names, refused = judge(json.loads((shared_lists / "blns.json").read_text()))
    assert names > 1000
    assert refused > 1000
