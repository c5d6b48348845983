"""Traces read from CSV and from access logs: what is a request for which file, and what is no trace at all."""

import gzip
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fileserver import accesslog, names
from fileserver.accesslog import Access
from fileserver.simulate import traces
from fileserver.simulate.traces import NotATrace, Trace
from tests.program import PROJECT

CSV = b"time,object,size\n807256800,1,1713\n807256804,b c,8677\n807256806,1,1713\n807256809,,0\n"
GARBAGE = random.Random(1).randbytes(5000)
Rows = list[tuple[str, int]]
WHEN = "10/Oct/2000:13:55:36 -0700"


def written(folder: Path, content: bytes | str, name: str = "trace") -> str:
    """A file of that content; its path."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
    return str(path)


def line(request: str, status: int = 200, size: str = "7", *, when: str = WHEN, after: str = "") -> str:
    """A line of the Common Log Format, and what comes after it."""
    return f'192.0.2.7 - - [{when}] "{request}" {status} {size}{after}\n'


def asked(folder: Path, *lines: str) -> list[str]:
    """The names that are asked for in a log of these lines, and in one more that counts."""
    trace = traces.read([written(folder, "".join((*lines, line("GET /last HTTP/1.1"))))])
    assert trace.requests[-1] == "last"
    return trace.requests[:-1]


# CSV.


def test_a_csv_trace_is_names_in_their_order_and_sizes(tmp_path: Path) -> None:
    trace = traces.read([written(tmp_path, CSV)])
    assert trace == Trace(["1", "b c", "1", ""], {"1": 1713, "b c": 8677, "": 0}, 0)
    assert list(trace.sized()) == [("1", 1713), ("b c", 8677), ("1", 1713), ("", 0)]
    assert trace.asked_bytes() == 1713 + 8677 + 1713
    assert trace.unique_bytes() == 1713 + 8677


@pytest.mark.parametrize(
    "content",
    [
        CSV.replace(b"\n", b"\r\n"),
        CSV.removesuffix(b"\n"),
        b" time,object,size \n" + CSV.partition(b"\n")[2],
        CSV.replace(b"b c", b'"b c"'),
        gzip.compress(CSV, mtime=0),
        gzip.compress(CSV[:30], mtime=0) + gzip.compress(CSV[30:], mtime=0),
    ],
    ids=["CRLF", "no end of line", "spaces", "quotes", "gzip", "two gzip members"],
)
def test_the_same_trace_may_be_written_in_other_ways(tmp_path: Path, content: bytes) -> None:
    assert traces.read([written(tmp_path, content)]) == traces.read([written(tmp_path, CSV, "plain")])


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0")), st.integers(0, 1 << 40)
        ),
        min_size=1,
    )
)
def test_any_name_can_stand_in_a_csv_trace(tmp_path_factory: pytest.TempPathFactory, rows: Rows) -> None:
    quoted = ('"' + name.replace('"', '""') + '"' for name, _ in rows)
    lines = [f"{at},{name},{size}" for at, (name, (_, size)) in enumerate(zip(quoted, rows, strict=True))]
    content = "\n".join([traces.COLUMNS, *lines])
    trace = traces.read([written(tmp_path_factory.mktemp("csv"), content)])
    assert trace.requests == [name for name, _ in rows]
    assert trace.sizes == {name: max(size for other, size in rows if other == name) for name, _ in rows}


def test_names_that_are_no_text_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    trace = traces.read([written(tmp_path, f"{traces.COLUMNS}\n1,\udcfe,2\n1,\udcff,3\n")])
    assert list(trace.sizes) == ["\udcfe", "\udcff"]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("1,2", "line 2 is not time,object,size"),
        ("1,2,3,4", "line 2 is not time,object,size"),
        ("1,a,3\n2,a,three\n3,a,3", "line 3 is not time,object,size"),
        ("1,a,3\n2,a,3.5", "line 3 is not time,object,size"),
        ("today,a,3", "line 2 is not time,object,size"),
        ("1,a,3\n2,a,-1", "line 3 has a size that no file has"),
        (f"1,a,{1 << 63}", "line 2 has a size that no file has"),
        ('1,"a\nb",3\n2,a', "line 4 is not time,object,size"),
        (f"1,{'9' * 200_000},3", "line 2 is not time,object,size"),
        (f"1,a,{'9' * 5000}", "line 2 is not time,object,size"),
    ],
)
def test_a_bad_line_of_csv_is_named(tmp_path: Path, rows: str, reason: str) -> None:
    path = written(tmp_path, f"{traces.COLUMNS}\n{rows}\n")
    with pytest.raises(NotATrace) as caught:
        traces.read([path])
    assert str(caught.value) == f"{path}: {reason}"


@pytest.mark.parametrize(
    "text",
    [
        "\ufefftime,object,size\n1,a,3\n",
        '"time","object","size"\r\n"1","a","3"\r\n',
        "time,object,size\n1,a,3\n\n",
    ],
)
def test_csv_may_be_as_spreadsheets_write_it(tmp_path: Path, text: str) -> None:
    assert list(traces.read([written(tmp_path, text)]).sized()) == [("a", 3)]


# Access logs: which lines count.


def test_a_line_longer_than_any_server_takes_is_none(tmp_path: Path) -> None:
    longest = line(f"GET /{'a' * (traces.LINE_MAX - len(line('GET / HTTP/1.1')))} HTTP/1.1")
    assert len(longest) == traces.LINE_MAX
    read = traces.read([written(tmp_path, longest + longest.replace("GET /", "GET /a"))])
    assert (len(read.requests), read.skipped) == (1, 1)


@pytest.mark.parametrize(
    "text",
    [
        line("GET /a HTTP/1.1"),
        line("GET /a HTTP/1.1", after=' "-" "curl/8"'),
        line("GET /a HTTP/1.1", after=' "http://x/\\"y\\"" "say \\"no\\" \\\\"'),  # Apache's escapes
        line("GET /a HTTP/1.1", after=' "http://x/\\x22y\\x22" "\\x5C"'),  # nginx's
        line("GET /a HTTP/1.1", after=' "-" "curl/8" "192.0.2.1" 0.005'),  # more of nginx's
        line("GET /a HTTP/1.1", after=' "-" "curl/8" HIT 250 0.150'),  # ours
        line("GET /a HTTP/1.1", after=' "-" "curl/8" MISS 250 0.150'),
        line("GET /a HTTP/1.1", after=' "-" "half a line'),
        line("GET /a HTTP/1.1").replace("\n", "\r\n"),
        line("GET /a HTTP/1.1").removesuffix("\n") + "\n",
        line("GET /a HTTP/1.1").replace("- -", "ident frank doe"),
        line("GET /a HTTP/1.1").replace("192.0.2.7", "2001:db8::7"),
        line("GET /a HTTP/1.1").replace("192.0.2.7", "example.org:80 192.0.2.7"),  # Apache's vhost_combined
        line("GET /a HTTP/1.0", 206),
        line("GET /a HTTP/2.0"),
        line("GET /a"),  # HTTP/0.9
        line("GET http://example.org/a HTTP/1.1"),
        line("GET /a?b=c&d HTTP/1.1"),
        line("GET /%61 HTTP/1.1"),
        line("GET a"),  # one line, one file
    ],
)
def test_a_get_that_was_answered_is_a_request_for_the_file(tmp_path: Path, text: str) -> None:
    trace = traces.read([written(tmp_path, text)])
    assert trace == Trace(["a"], {"a": 7}, 0)


@pytest.mark.parametrize(
    "text",
    [
        line("HEAD /a HTTP/1.1"),
        line("POST /a HTTP/1.1"),
        line("get /a HTTP/1.1"),
        *(line("GET /a HTTP/1.1", status) for status in (100, 204, 301, 304, 400, 404, 416, 500)),
        line("GET /a/ HTTP/1.1", after=' "-" "curl/8" - 250 0.150'),  # a listing
        line("GET /-/cache HTTP/1.1"),
        line("GET /- HTTP/1.1"),
        line("GET /%2D/stats?format=json HTTP/1.1"),
        line("GET /%zz HTTP/1.1"),
        line("GET /%ff HTTP/1.1"),
        line("GET /a\\xFF HTTP/1.1"),
        line("GET /a\udcff HTTP/1.1"),
        line("GET * HTTP/1.1"),
        line("LIST"),
        line("-"),
        line(""),
    ],
)
def test_what_no_cache_of_files_would_see_is_left_out_and_is_no_bad_line(tmp_path: Path, text: str) -> None:
    trace = traces.read([written(tmp_path, text + line("GET /last HTTP/1.1"))])
    assert trace == Trace(["last"], {"last": 7}, 0)


@pytest.mark.parametrize(
    "text",
    [
        "\n",
        "what is this\n",
        line("GET /a HTTP/1.1").partition("]")[0] + "\n",
        line("GET /a HTTP/1.1", size=""),
        line("GET /a HTTP/1.1", size="many"),
        line("GET /a HTTP/1.1", size="7x"),
        line("GET /a HTTP/1.1", size="9" * 5000),
        line("GET /a HTTP/1.1", status=20),
        line('GET /a"b HTTP/1.1'),
        line("GET /a HTTP/1.1\\"),
        "\x00\x01\x02\udcff\udcfe\n",
    ],
)
def test_what_is_no_line_of_a_log_is_counted(tmp_path: Path, text: str) -> None:
    trace = traces.read([written(tmp_path, text + line("GET /last HTTP/1.1") + text)])
    assert trace == Trace(["last"], {"last": 7}, 2)


# Access logs: which file.


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/a/b.txt", "a/b.txt"),
        ("/a%20b", "a b"),
        ("/a b", "a b"),
        ("/a%2Fb", "a/b"),
        ("/%C3%A4", "ä"),
        ("/ä", "ä"),
        ("/\\xC3\\xA4", "ä"),
        ("/\\xc3\\xa4", "ä"),
        ("/a\\x22b", 'a"b'),
        ('/a\\"b', 'a"b'),
        ("/a%22b", 'a"b'),
        ("/a\\x5Cb", "a\\b"),
        ("/a\\\\b", "a\\b"),
        ("/a\\x5Cx41", "a\\x41"),
        ("/a\\\\x41", "a\\x41"),
        ("/a%5Cx41", "a\\x41"),
        ("/%2561", "%61"),
        ("/", "index.html"),
        ("/a/", "a/index.html"),
        ("/a/?b", "a/index.html"),
        ("/a?/", "a"),
        ("/A", "A"),
        ("/-a", "-a"),
        ("/a/-/b", "a/-/b"),
        ("/a HTTP/b", "a HTTP/b"),
    ],
)
def test_a_target_names_the_file_that_gserver_would_send(tmp_path: Path, target: str, name: str) -> None:
    assert asked(tmp_path, line(f"GET {target} HTTP/1.1")) == [name]


@pytest.mark.parametrize(
    ("request_line", "name"),
    [
        ("GET a b", "a b"),
        ("GET a%20b", "a%20b"),
        ("GET a?b", "a?b"),
        ("GET \\xC3\\xA4", "ä"),
        ("GET a\\x22b", 'a"b'),
        ("GET a/", "a/index.html"),
    ],
)
def test_a_one_line_request_names_the_file_as_it_is(tmp_path: Path, request_line: str, name: str) -> None:
    assert asked(tmp_path, line(request_line)) == [name]


def logged(*accesses: Access) -> str:
    """Our own access log, written by its own hand."""
    return b"".join(accesslog.render(access, 1_700_000_000.0 + at) for at, access in enumerate(accesses)).decode()


def access(request: bytes, status: int = 200, size: int = 7, cache: bytes = b"HIT", agent: bytes = b"") -> Access:
    return Access(b"::1", request, status, size, b"", agent, cache, size + 250, 0.0015)


def test_our_own_log_counts_what_came_through_the_cache(tmp_path: Path) -> None:
    text = logged(
        access(b"GET /a HTTP/1.1", cache=b"MISS"),
        access(b"GET /a HTTP/1.1", agent=b'" 200 9 "-" "-"\n\xff\\'),
        access(b"GET /a HTTP/1.1", 206, 3, b"COALESCED"),
        access(b"GET /big HTTP/1.1", 200, 10**9, b"BYPASS"),
        access(b"GET a b", 200, 5, b"MISS"),
        access(b"GET /a HTTP/1.1", 304, 0, b""),
        access(b"HEAD /a HTTP/1.1", 200, 0, b"HIT"),
        access(b"GET /folder/ HTTP/1.1", 200, 500, b""),
        access(b"GET /-/stats HTTP/1.1", 200, 500, b""),
        access(b"LIST", 200, 50, b""),
        access(b"GET /none HTTP/1.1", 404, 10, b""),
        access(b"\x16\x03\x01", 400, 10, b""),
        access(b"", 408, 0, b""),
    )
    trace = traces.read([written(tmp_path, text)])
    assert trace == Trace(["a", "a", "a", "big", "a b"], {"a": 7, "big": 10**9, "a b": 5}, 0)


def test_a_line_of_a_plain_hit_is_read_as_the_others(tmp_path: Path) -> None:
    before, after = accesslog.hit(b"GET /a HTTP/1.1", 7, 250)
    text = b'::1 - - [10/Oct/2000:13:55:36 -0700%b "-" "curl/8" %b 0.150\n' % (before, after)
    assert traces.read([written(tmp_path, text)]) == Trace(["a"], {"a": 7}, 0)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(names.is_valid))
def test_every_name_comes_back_from_our_own_log(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    requests = [b"GET %b HTTP/1.1" % names.encode_path(name).encode(), b"GET " + name.encode()]
    path = written(tmp_path_factory.mktemp("log"), logged(*map(access, requests), access(b"GET /last HTTP/1.1")))
    expected = [] if names.is_reserved(name) else [name, name]
    assert traces.read([path]).requests == [*expected, "last"]


# Sizes.


def test_a_file_is_as_large_as_the_most_that_was_sent_of_it(tmp_path: Path) -> None:
    log = "".join(line("GET /a HTTP/1.1", status, size) for status, size in ((206, "5"), (200, "90"), (200, "20")))
    assert traces.read([written(tmp_path, log)]).sizes == {"a": 90}
    rows = f"{traces.COLUMNS}\n1,a,10\n2,a,30\n3,a,20\n"
    assert traces.read([written(tmp_path, rows)]).sizes == {"a": 30}
    both = traces.read([written(tmp_path, rows, "rows"), written(tmp_path, log, "log")])
    assert both == Trace(["a"] * 6, {"a": 90}, 0)


def test_no_bytes_are_a_dash_in_common_log_format(tmp_path: Path) -> None:
    assert traces.read([written(tmp_path, line("GET /a HTTP/1.1", size="-"))]).sizes == {"a": 0}


def test_what_was_sent_of_an_answer_that_does_not_count_is_no_size(tmp_path: Path) -> None:
    log = line("GET /a HTTP/1.1") + line("GET /a HTTP/1.1", 404, "900") + line("HEAD /a HTTP/1.1", 200, "900")
    assert traces.read([written(tmp_path, log)]).sizes == {"a": 7}


# Several files.


def hour(name: str, when: str) -> str:
    """A log in which first a page of ours is asked for, and then a file."""
    return line("GET /-/stats HTTP/1.1", when="01/Jan/2100:00:00:00 +0000") + line(
        f"GET /{name} HTTP/1.1", when=when
    )


def test_several_logs_are_one_in_the_order_of_their_first_requests(tmp_path: Path) -> None:
    paths = [
        written(tmp_path, hour("3", "31/Dec/2025:23:30:00 -0100") + "junk\n", "access.log"),  # 2026, in UTC
        written(tmp_path, gzip.compress(hour("2", "01/Jan/2026:01:29:00 +0100").encode()), "access.log.2.gz"),
        written(
            tmp_path, hour("4", "01/Feb/2026:00:00:00 +0000") + hour("0", "01/Jan/1999:00:00:00 +0000"), "new"
        ),
        written(tmp_path, hour("1", "a time of day") + "junk\n", "first"),
        written(tmp_path, "", "empty"),
    ]
    for given_in in (paths, paths[::-1]):
        assert traces.read(given_in) == Trace(["1", "2", "3", "4", "0"], dict.fromkeys("01234", 7), 2)


def test_csv_traces_are_in_the_order_of_their_first_times(tmp_path: Path) -> None:
    later = written(tmp_path, f"{traces.COLUMNS}\n20.5,c,1\n9,d,1\n", "a")
    earlier = written(tmp_path, f"{traces.COLUMNS}\n3,a,1\n70,b,1\n", "b")
    assert traces.read([later, earlier]).requests == ["a", "b", "c", "d"]


def test_somebody_may_watch_the_lines_of_each_file_pass(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    def watch(lines: Iterable[str], path: str) -> Iterable[str]:
        for text in lines:
            seen.append((path, text))
            yield text

    log, rows = written(tmp_path, line("GET /a HTTP/1.1") * 2, "log"), written(tmp_path, CSV, "rows")
    trace = traces.read([log, rows], watch)
    assert len(trace.requests) == 6
    assert (
        seen
        == [
            (log, line("GET /a HTTP/1.1")),  # the first line told what it is
            *((rows, text.decode()) for text in CSV.splitlines(keepends=True)[1:]),
        ]
    )


# What is no trace.


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no request for a file"),
        (b"time,object,size\n", "no request for a file"),
        (b"time;object;size\n1;2;3\n", "no request for a file"),
        (GARBAGE, "no request for a file"),
        (line("GET /-/stats HTTP/1.1").encode(), "no request for a file"),
        (gzip.compress(b"", mtime=0), "no request for a file"),
        (gzip.compress(CSV, mtime=0)[:-9], "trace: Compressed file ended"),
        (gzip.compress(CSV, mtime=0)[:5], "trace: Compressed file ended"),
        (gzip.compress(CSV, mtime=0)[:-8] + bytes(8), "trace: CRC check failed"),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 50, "trace: Error -3"),
        (b"\x1f\x8b\x00\x00" + b"\xff" * 50, "trace: Unknown compression method"),
        (gzip.compress(CSV, mtime=0) + b"junk", "trace: Not a gzipped file"),
    ],
)
def test_what_is_no_trace_is_refused_in_words(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(NotATrace, match=reason):
        traces.read([written(tmp_path, content)])


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(NotATrace) as caught:
            traces.read([str(path)])
        assert str(caught.value) == f"{path}: {reason}"


# Standard input.


def from_standard_input(content: bytes, *paths: str) -> str:
    """What another process reads from these."""
    program = "import sys; from fileserver.simulate import traces; print(traces.read(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *paths]
    return subprocess.run(command, input=content, capture_output=True, cwd=PROJECT, check=True).stdout.decode()


@pytest.mark.parametrize("compressed", [False, True])
def test_a_dash_is_standard_input(tmp_path: Path, compressed: bool) -> None:
    content = line("GET /a HTTP/1.1").encode()
    path = written(tmp_path, content)
    shown = from_standard_input(gzip.compress(content) if compressed else content, "-", path)
    assert shown == f"{Trace(['a', 'a'], {'a': 7}, 0)}\n"
