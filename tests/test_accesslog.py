"""The access log: what a line is, that nobody waits for it, that what it loses is counted, and where it goes."""

import errno
import logging
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import gevent
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fileserver import accesslog
from fileserver.accesslog import Access, AccessLog, render
from tests.house import Gate, wait_for
from tests.program import PROJECT, Program, read_all, sparse

QUOTED = rb'"((?:[ !#-\[\]-~]|\\x[0-9A-F]{2})+)"'
COMBINED = re.compile(
    rb"(\S+) - - \[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
    + QUOTED
    + rb" (\d{3}) (\d+) "
    + QUOTED
    + b" "
    + QUOTED
    + rb" (-|[A-Z]+) (\d+) (\d+\.\d{3})\n"
)
"""Combined Log Format as Apache documents it, and the three columns of our own. Written apart from the program."""


class Line(NamedTuple):
    """One line of a log, read back."""

    address: str
    when: str
    request: str
    status: int
    body_bytes: int
    referer: str
    agent: str
    cache: str
    bytes_sent: int
    milliseconds: float


def parse(line: bytes) -> Line:
    match = COMBINED.fullmatch(line)
    assert match, line
    address, when, request, status, body, referer, agent, cache, sent, milliseconds = map(
        bytes.decode, match.groups()
    )
    return Line(
        address, when, request, int(status), int(body), referer, agent, cache, int(sent), float(milliseconds)
    )


def read_log(path: Path) -> list[Line]:
    return [parse(line) for line in path.read_bytes().splitlines(keepends=True)]


def access(line: bytes = b"GET /a HTTP/1.1", referer: bytes = b"", agent: bytes = b"") -> Access:
    return Access(b"127.0.0.1", line, 200, 7, referer, agent, b"HIT", 250, 0.0015)


# A line.


def test_a_line_is_combined_log_format_and_three_columns_more() -> None:
    asked = Access(
        b"192.0.2.7", b"GET /a%20b HTTP/1.1", 206, 1000, b"http://x/y", b"curl/8 (z)", b"MISS", 1250, 1.23456
    )
    assert parse(render(asked, 0.0))._replace(when="") == (
        *("192.0.2.7", "", "GET /a%20b HTTP/1.1", 206, 1000, "http://x/y", "curl/8 (z)", "MISS", 1250, 1234.56),
    )


def test_what_is_empty_is_a_dash() -> None:
    line = parse(render(Access(b"::1", b"", 408, 0, b"", b"", b"", 0, 0.0), 0.0))
    assert (line.request, line.referer, line.agent, line.cache) == ("-", "-", "-", "-")
    assert (line.address, line.body_bytes, line.bytes_sent, line.milliseconds) == ("::1", 0, 0, 0.0)


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        (b" !#$%&'()*+,-./09:;<=>?@AZ[]^_`az{|}~", " !#$%&'()*+,-./09:;<=>?@AZ[]^_`az{|}~"),
        (b"\x00\x01\x1f", r"\x00\x01\x1F"),
        (b'"', r"\x22"),
        (b"\\", r"\x5C"),
        (b"\\x41", r"\x5Cx41"),
        (b"a\r\nb", r"a\x0D\x0Ab"),
        (b"\n", r"\x0A"),
        (b"\t\x0b\x0c", r"\x09\x0B\x0C"),
        (b"\x7f\x80\x85\xff", r"\x7F\x80\x85\xFF"),
        (b"\x1b[2J\x1b]0;owned\x07", r"\x1B[2J\x1B]0;owned\x07"),
        (b"\x9b31m", r"\x9B31m"),
        ("ä\u202e\u2028".encode(), r"\xC3\xA4\xE2\x80\xAE\xE2\x80\xA8"),
        (b'" 200 1 "-" "-"\n127.0.0.1 - - [', r"\x22 200 1 \x22-\x22 \x22-\x22\x0A127.0.0.1 - - ["),
    ],
)
def test_whatever_ends_a_line_or_a_quote_or_moves_a_terminal_is_escaped(raw: bytes, written: str) -> None:
    for place in ("request", "referer", "agent"):
        asked = access(**{"line" if place == "request" else place: raw})
        assert getattr(parse(render(asked, 0.0)), place) == written


@given(st.binary(), st.binary(), st.binary())
@example(b"\n", b"\r", b'"')
def test_any_bytes_give_exactly_one_line_of_printable_ascii(line: bytes, referer: bytes, agent: bytes) -> None:
    rendered = render(access(line, referer, agent), 1e9)
    assert rendered.endswith(b"\n")
    assert all(0x20 <= byte <= 0x7E for byte in rendered[:-1])
    parsed = parse(rendered)
    for raw, written in ((line, parsed.request), (referer, parsed.referer), (agent, parsed.agent)):
        unescaped = re.sub(r"\\x(..)", lambda found: chr(int(found[1], 16)), written).encode("latin-1")
        assert unescaped == (raw or b"-")


@pytest.fixture
def in_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Put this process into a time zone, for the test."""

    def enter(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield enter
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(("zone", "offset"), [("UTC0", "+0000"), ("IST-5:30", "+0530"), ("NST3:30", "-0330")])
def test_the_time_is_local_with_its_offset(in_zone: Callable[[str], None], zone: str, offset: str) -> None:
    in_zone(zone)
    accesslog._when.cache_clear()
    when = parse(render(access(), 1_700_000_000.9)).when
    assert when.endswith(" " + offset)
    assert datetime.strptime(when, "%d/%b/%Y:%H:%M:%S %z").timestamp() == 1_700_000_000


# The queue and its thread.


@pytest.fixture
def open_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., AccessLog]]:
    """Open a log that gathers for no time; ended, with its thread and descriptor, at the end of the test."""
    monkeypatch.setattr(accesslog, "BATCH_S", 0.0)
    logs = []

    def opener(path: str | Path = tmp_path / "log") -> AccessLog:
        logs.append(AccessLog(str(path), clock=lambda: 1e9))
        return logs[-1]

    yield opener
    for log in logs:
        log.close(10)
        assert log._writer.ready(), "the writer hangs"


class Slow:
    """A disk that waits in every write until the gate opens; `batches` are the sizes of what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = Gate()
        self.batches: list[int] = []
        write = accesslog._write

        def slow_write(descriptor: int, batch: list[bytes], is_half: bool) -> tuple[int, bool, OSError | None]:
            self.batches.append(len(batch))
            self.gate.wait()
            return write(descriptor, batch, is_half)

        monkeypatch.setattr(accesslog, "_write", slow_write)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    disk = Slow(monkeypatch)
    yield disk
    disk.gate.open()


def numbered(first: int, after: int) -> list[Access]:
    return [access(b"%d" % number) for number in range(first, after)]


def numbers(path: Path) -> list[int]:
    return [int(line.request) for line in read_log(path)]


def test_lines_keep_their_order(open_log: Callable[..., AccessLog], tmp_path: Path) -> None:
    log = open_log()
    for number in range(1050):
        log.add(access(b"%d" % number))
        if number % 350 == 0:
            wait_for(lambda: not log._queued_bytes)
    log.close()
    assert numbers(tmp_path / "log") == list(range(1050))
    assert log.dropped == 0


def test_a_line_has_the_time_at_which_it_was_added(tmp_path: Path, slow: Slow) -> None:
    now_s = 1e9
    log = AccessLog(str(tmp_path / "log"), clock=lambda: now_s)
    log.add(access())
    now_s = 2e9
    slow.gate.open()
    log.close()
    assert datetime.strptime(read_log(tmp_path / "log")[0].when, "%d/%b/%Y:%H:%M:%S %z").timestamp() == 1e9


def test_a_log_goes_on_where_an_earlier_one_ended(open_log: Callable[..., AccessLog], tmp_path: Path) -> None:
    for number in range(3):
        log = open_log()
        log.add(access(b"%d" % number))
        log.close()
    assert numbers(tmp_path / "log") == [0, 1, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="this system has other permissions")
def test_others_may_read_a_log_and_nobody_else_may_write_it(
    open_log: Callable[..., AccessLog], tmp_path: Path
) -> None:
    before = os.umask(0)
    try:
        open_log()
    finally:
        os.umask(before)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o644


def test_nothing_waits_for_a_slow_disk(open_log: Callable[..., AccessLog], tmp_path: Path, slow: Slow) -> None:
    log = open_log()
    log.add(access(b"0"))
    wait_for(lambda: slow.gate.waiting)
    others: list[int] = []
    gevent.spawn(others.append, 1)
    for line in numbered(1, 500):
        log.add(line)
    assert others == [], "adding a line gave up the loop"
    for _ in range(5):
        gevent.sleep(0.001)
    assert others == [1]
    assert (tmp_path / "log").read_bytes() == b""
    slow.gate.open()
    log.close()
    assert numbers(tmp_path / "log") == list(range(500))
    assert slow.batches == [1, 499]


def test_lines_are_gathered_before_they_are_written(
    open_log: Callable[..., AccessLog], slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accesslog, "BATCH_S", 0.05)
    slow.gate.open()
    log = open_log()
    for line in numbered(0, 10):
        log.add(line)
        gevent.sleep(0)
    log.close()
    assert slow.batches == [10]


@pytest.mark.parametrize("length", [0, 1000])
def test_lines_beyond_the_bound_are_dropped_and_counted(
    open_log: Callable[..., AccessLog], tmp_path: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    third = length // 3

    def line(number: int) -> Access:
        return access(b"%02d" % number, b"r" * third, b"a" * (length - third))

    monkeypatch.setattr(
        accesslog, "QUEUE_BYTES", 10 * (accesslog.LINE_OVERHEAD_BYTES + len(render(line(10), 1e9)))
    )
    log = open_log()

    def add(number: int) -> None:
        log.add(line(number))

    add(10)
    wait_for(lambda: slow.gate.waiting)  # what is being written counts too
    for number in range(11, 25):
        add(number)
    assert log.dropped == 5
    slow.gate.open()
    wait_for(lambda: not log._queued_bytes)
    add(25)
    log.close()
    assert numbers(tmp_path / "log") == [*range(10, 20), 25]
    assert log.dropped == 5


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full disk at hand")
def test_a_full_disk_counts_what_it_loses_and_says_so_once(
    open_log: Callable[..., AccessLog], caplog: pytest.LogCaptureFixture
) -> None:
    log = open_log("/dev/full")
    for first in range(0, 50, 10):
        for line in numbered(first, first + 10):
            log.add(line)
        wait_for(lambda: not log._queued_bytes)
    assert log.dropped == 50
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "cannot write the access log" in caplog.text
    assert "No space left" in caplog.text


class Full:
    """A disk with room for `room` bytes: the write that fills it is short, the next ones fail until `empty`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, log: AccessLog, room: int) -> None:
        self.room = room
        self._write = os.write
        self._descriptor = log._descriptor
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, content: bytes) -> int:
        if descriptor != self._descriptor:
            return self._write(descriptor, content)
        if not self.room:
            raise OSError(28, "No space left on device")
        written = self._write(descriptor, content[: self.room])
        self.room -= written
        return written


def test_a_write_that_takes_a_part_is_gone_on_with(
    open_log: Callable[..., AccessLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    write = os.write
    monkeypatch.setattr(
        os, "write", lambda to, content: write(to, content[:7] if to == log._descriptor else content)
    )
    for line in numbered(0, 250):
        log.add(line)
    log.close()
    monkeypatch.undo()
    assert numbers(tmp_path / "log") == list(range(250))


def test_a_disk_that_has_room_again_is_written_on(
    open_log: Callable[..., AccessLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    disk = Full(monkeypatch, log, 0)
    for line in numbered(0, 10):
        log.add(line)
    wait_for(lambda: not log._queued_bytes)
    assert log.dropped == 10
    disk.room = 1 << 20
    for line in numbered(10, 20):
        log.add(line)
    log.close()
    assert numbers(tmp_path / "log") == list(range(10, 20))
    assert log.dropped == 10


def test_what_was_written_before_the_disk_was_full_is_not_counted_as_lost(
    open_log: Callable[..., AccessLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    Full(monkeypatch, log, 150 * len(render(access(b"000"), 1e9)))
    for line in numbered(100, 350):
        log.add(line)
    log.close()
    monkeypatch.undo()
    assert numbers(tmp_path / "log") == list(range(100, 250))
    assert log.dropped == 100


def test_half_a_line_that_a_full_disk_left_does_not_spoil_the_next(
    open_log: Callable[..., AccessLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    disk = Full(monkeypatch, log, len(render(access(b"10"), 1e9)) + 20)
    for line in numbered(10, 20):
        log.add(line)
    wait_for(lambda: not log._queued_bytes)
    disk.room = 1 << 20
    log.add(access(b"20"))
    log.close()
    monkeypatch.undo()
    lines = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    assert [parse(lines[0]).request, parse(lines[-1]).request] == ["10", "20"]


def test_after_a_rename_and_a_reopen_a_new_file_goes_on_and_no_line_is_lost(
    open_log: Callable[..., AccessLog], tmp_path: Path
) -> None:
    log = open_log()
    path = tmp_path / "log"
    for line in numbered(0, 300):
        log.add(line)
    wait_for(lambda: not log._queued_bytes)
    path.rename(tmp_path / "log.1")
    for line in numbered(300, 600):
        log.add(line)
    wait_for(lambda: not log._queued_bytes)
    log.reopen()
    wait_for(path.exists)
    for line in numbered(600, 900):
        log.add(line)
    log.close()
    assert numbers(tmp_path / "log.1") == list(range(600))
    assert numbers(path) == list(range(600, 900))
    assert held(tmp_path / "log.1") == 0
    assert log.dropped == 0


def held(path: Path) -> int:
    """How often this process has `path` open."""
    count = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{number}") == str(path)
        except OSError:
            continue
    return count


def test_lines_of_a_reopen_that_waits_for_a_slow_disk_are_all_kept_in_order(
    open_log: Callable[..., AccessLog], tmp_path: Path, slow: Slow
) -> None:
    log = open_log()
    log.add(access(b"0"))
    wait_for(lambda: slow.gate.waiting)
    (tmp_path / "log").rename(tmp_path / "log.1")
    log.add(access(b"1"))
    log.reopen()
    log.add(access(b"2"))
    slow.gate.open()
    log.close()
    assert numbers(tmp_path / "log.1") + numbers(tmp_path / "log") == [0, 1, 2]


def test_a_reopen_that_fails_keeps_the_old_file_and_says_so_once(
    open_log: Callable[..., AccessLog], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").mkdir()
    log = open_log(tmp_path / "logs" / "log")
    log.add(access(b"0"))
    (tmp_path / "logs").rename(tmp_path / "moved")
    for number in range(1, 4):
        log.reopen()
        log.add(access(b"%d" % number))
        wait_for(lambda: not log._queued_bytes and not log._reopening)
    log.close()
    assert numbers(tmp_path / "moved" / "log") == [0, 1, 2, 3]
    assert log.dropped == 0
    assert ["No such file" in record.getMessage() for record in caplog.records] == [True]


def test_closing_writes_what_waits_behind_a_slow_write_and_takes_no_more(
    open_log: Callable[..., AccessLog], tmp_path: Path, slow: Slow
) -> None:
    log = open_log()
    log.add(access(b"0"))
    wait_for(lambda: slow.gate.waiting)
    for line in numbered(1, 50):
        log.add(line)
    closing = gevent.spawn(log.close, 20)
    gevent.sleep(0)
    log.add(access(b"50"))
    assert log.dropped == 1
    assert not closing.ready()
    slow.gate.open()
    closing.get()
    assert numbers(tmp_path / "log") == list(range(50))


def test_closing_is_bounded_in_time_when_the_disk_hangs(open_log: Callable[..., AccessLog], slow: Slow) -> None:
    log = open_log()
    log.add(access())
    wait_for(lambda: slow.gate.waiting)
    with gevent.Timeout(20):
        log.close(0.01)
    assert not log._writer.ready()


def test_closing_gathers_no_more_lines(
    open_log: Callable[..., AccessLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accesslog, "BATCH_S", 1000.0)
    log = open_log()
    log.add(access(b"0"))
    log.close(20)
    assert numbers(tmp_path / "log") == [0]


def test_closing_what_was_never_written_ends_at_once(open_log: Callable[..., AccessLog], tmp_path: Path) -> None:
    log = open_log()
    log.close()
    assert log._writer.ready()
    assert (tmp_path / "log").read_bytes() == b""


def test_a_log_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AccessLog(str(tmp_path / "missing" / "log"))
    with pytest.raises(IsADirectoryError):
        AccessLog(str(tmp_path))


# The whole program.

LAST = b"%s /%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n"


def head_bytes(answer: bytes) -> int:
    return answer.index(b"\r\n\r\n") + 4


def test_every_kind_of_answer_has_its_line(folder: Path, tmp_path: Path, io: str) -> None:
    (folder / "a").write_bytes(b"0123456789")
    log = tmp_path / "log"
    rows: list[tuple[bytes, tuple[str, int, int | None, str]]] = [
        (LAST % (b"GET", b"a", b""), ("GET /a HTTP/1.1", 200, 10, "MISS")),
        (LAST % (b"GET", b"a", b""), ("GET /a HTTP/1.1", 200, 10, "HIT")),
        (b"GET /a HTTP/1.0\r\n\r\n", ("GET /a HTTP/1.0", 200, 10, "HIT")),
        (LAST % (b"GET", b"a", b"Range: bytes=2-4\r\n"), ("GET /a HTTP/1.1", 206, 3, "HIT")),
        (LAST % (b"GET", b"a", b"If-None-Match: *\r\n"), ("GET /a HTTP/1.1", 304, 0, "-")),
        (LAST % (b"GET", b"a", b"Range: bytes=99-\r\n"), ("GET /a HTTP/1.1", 416, None, "-")),
        (LAST % (b"GET", b"no%22thing?q=1", b""), ("GET /no%22thing?q=1 HTTP/1.1", 404, None, "-")),
        (LAST % (b"GET", b'"\\', b""), (r"GET /\x22\x5C HTTP/1.1", 404, None, "-")),
        (LAST % (b"HEAD", b"a", b""), ("HEAD /a HTTP/1.1", 200, 0, "-")),
        (LAST % (b"HEAD", b"nothing", b""), ("HEAD /nothing HTTP/1.1", 404, 0, "-")),
        (LAST % (b"PUT", b"a", b""), ("PUT /a HTTP/1.1", 405, None, "-")),
        (LAST % (b"GET", b"-/health", b""), ("GET /-/health HTTP/1.1", 200, 3, "-")),
        (b"\x16\x03\x01\x1b[2J\r\n\r\n", (r"\x16\x03\x01\x1B[2J", 400, None, "-")),
        (b"GET /a HTTP/1.1\r\n\r\n", ("GET /a HTTP/1.1", 400, None, "-")),
        (b"GET /a HTTP/1.1\r\nHost: x\r\nX", ("GET /a HTTP/1.1", 408, None, "-")),
        (b"GET a\n", ("GET a", 200, 10, "HIT")),
        (b"GET a\r\n", ("GET a", 200, 10, "HIT")),
        (b"LIST\n", ("LIST", 200, 2, "-")),
        (b"GET nothing\n", ("GET nothing", 404, len("ERROR no such file: nothing\n"), "-")),
        (b"GET " + b"n" * 9000 + b"\n", ("GET " + "n" * 9000, 414, len("ERROR the line is too long\n"), "-")),
    ]
    options = ("--access-log", str(log), "--io", io, "--revalidate", "1000")
    # With a file this young, a hit would be a new read after some time.
    os.utime(folder / "a", (1e9, 1e9))
    with Program(folder, *options, changes="connection.HEAD_S = 0.05") as server:
        answers = [server.raw(request) for request, _ in rows]
        server.stop()
    lines = read_log(log)
    assert len(lines) == len(rows)
    for (_, (request_line, status, body_bytes, cache)), answer, line in zip(rows, answers, lines, strict=True):
        assert (line.request, line.status, line.cache) == (request_line, status, cache)
        head = head_bytes(answer) if answer.startswith(b"HTTP/") else 0
        assert (line.bytes_sent, line.body_bytes) == (len(answer), len(answer) - head)
        assert body_bytes in (None, line.body_bytes)
        assert (line.address, line.referer, line.agent) == ("127.0.0.1", "-", "-")


def test_referer_and_agent_are_the_clients_and_cannot_leave_their_quotes(folder: Path, tmp_path: Path) -> None:
    (folder / "a").write_bytes(b"content")
    log = tmp_path / "log"
    with Program(folder, "--access-log", str(log)) as server:
        server.get("/a", Referer="http://127.0.0.1/b", User_Agent='x" 200 "\\')
        server.get("/a")
        server.stop()
    assert [(line.referer, line.agent) for line in read_log(log)] == [
        ("http://127.0.0.1/b", r"x\x22 200 \x22\x5C"),
        ("-", "-"),
    ]


def test_pipelined_answers_have_a_line_each_in_order(folder: Path, tmp_path: Path) -> None:
    for number in range(200):
        (folder / str(number)).write_bytes(b"x" * number)
    log = tmp_path / "log"
    with Program(folder, "--access-log", str(log)) as server:
        asked = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(200))
        server.raw(asked + LAST % (b"GET", b"0", b""))
        server.stop()
    assert [(line.request, line.body_bytes) for line in read_log(log)[:-1]] == [
        (f"GET /{number} HTTP/1.1", number) for number in range(200)
    ]


def test_the_time_of_a_request_that_never_came_whole_is_its_own(folder: Path, tmp_path: Path) -> None:
    """Not the time since the request before it on the same connection."""
    (folder / "a").write_bytes(b"content")
    log = tmp_path / "log"
    # A clock on which every request before the broken one began an hour earlier.
    changes = (
        "import time; shift = [0.0];"
        " transport.Transport.__init__.__kwdefaults__['clock'] = lambda: time.monotonic() + shift[0];"
        " answer = gserver.Site.answer;"
        " gserver.Site.answer = lambda self, *asked: (shift.__setitem__(0, shift[0] + 3600),"
        " answer(self, *asked))[1]"
    )
    with Program(folder, "--access-log", str(log), changes=changes) as server:
        with server.connect() as client:
            client.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(4096).endswith(b"content")
            client.sendall(b"rubbish\r\n\r\n")
            assert read_all(client).startswith(b"HTTP/1.1 400")
        server.stop()
    whole, refused = read_log(log)
    assert whole.milliseconds >= 3_600_000
    assert refused.milliseconds < 3_600_000


def test_a_client_that_is_turned_away_has_a_line(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Program(folder, "--max-connections", "1", "--access-log", str(log)) as server:
        with server.connect() as busy:
            busy.sendall(b"GET /-/stats HTTP/1.0\r\n")
            answer = server.raw(b"")
            assert answer.startswith(b"HTTP/1.1 503")
            busy.sendall(b"\r\n")
            read_all(busy)
        server.stop()
    line = read_log(log)[0]
    assert (line.request, line.status, line.cache) == ("-", 503, "-")
    assert (line.bytes_sent, line.body_bytes) == (len(answer), len(answer) - head_bytes(answer))


def begin_transfer(server: Program) -> tuple[socket.socket, bytes]:
    """A client that has read the head of /large and takes nothing more."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(30)
    client.connect((server.host, server.port))
    client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(100)
    return client, received


def test_a_transfer_that_the_client_cuts_has_the_bytes_sent_so_far(folder: Path, tmp_path: Path, io: str) -> None:
    size = 20 << 20
    sparse(folder / "large", size)
    log = tmp_path / "log"
    with Program(folder, "--access-log", str(log), "--io", io) as server:
        client, beginning = begin_transfer(server)
        with client:
            while server.stats()["bytes_sent"] < 8192:
                pass
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.stop()
    (line,) = (line for line in read_log(log) if "/large" in line.request)
    assert (line.status, line.cache) == (200, "MISS")
    assert 0 < line.body_bytes < size
    assert line.bytes_sent - line.body_bytes == head_bytes(beginning)


def test_a_transfer_that_a_stop_cuts_has_its_line(folder: Path, tmp_path: Path) -> None:
    sparse(folder / "large", 20 << 20)
    log = tmp_path / "log"
    with Program(folder, "--access-log", str(log), "--drain", "0.1") as server:
        client, beginning = begin_transfer(server)
        with client:
            assert "1 transfers cut" in server.stop()
    (line,) = read_log(log)
    assert (line.request, line.status) == ("GET /large HTTP/1.1", 200)
    assert line.bytes_sent - line.body_bytes == head_bytes(beginning)


def wait_for_log(server: Program, said: str) -> None:
    assert server.process.stderr is not None
    for line in server.process.stderr:
        if said in line:
            return
    pytest.fail(f"never said: {said}")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_hangup_goes_on_in_a_new_file(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Program(folder, "--access-log", str(log)) as server:
        server.get("/one")
        while not log.stat().st_size:
            pass
        for number in (1, 2):
            log.rename(tmp_path / f"log.{number}")
            server.process.send_signal(signal.SIGHUP)
            wait_for_log(server, "reloaded")
            while not log.exists():
                pass
            server.get(f"/after{number}")
        server.stop()
    asked = [[line.request for line in read_log(path)] for path in (tmp_path / "log.1", tmp_path / "log.2", log)]
    assert [request for requests in asked for request in requests] == [
        f"GET /{name} HTTP/1.1" for name in ("one", "after1", "after2")
    ]
    assert asked[0] == ["GET /one HTTP/1.1"]
    assert asked[2][-1] == "GET /after2 HTTP/1.1"


@pytest.mark.parametrize("path", ["missing/log", "."])
def test_a_log_that_cannot_be_written_is_one_line_and_exit_1(folder: Path, tmp_path: Path, path: str) -> None:
    done = subprocess.run(
        [sys.executable, str(PROJECT / "gserver.py"), "0", str(folder), "--access-log", str(tmp_path / path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"gserver: cannot write the access log {tmp_path / path}: ")


@contextmanager
def logging_to_stdout(folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """gserver.py with `--access-log -` and a pipe as its standard output; and its port."""
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "gserver.py"), "0", str(folder), "--access-log", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        match = re.search(rb":(\d+)/ serves", process.stderr.readline())
        assert match
        yield process, int(match[1])
    finally:
        process.kill()
        process.communicate(timeout=30)


def ask(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(request)
        return read_all(client)


def test_a_dash_is_standard_output(folder: Path) -> None:
    (folder / "a").write_bytes(b"content")
    with logging_to_stdout(folder) as (process, port):
        for _ in range(3):
            assert ask(port, LAST % (b"GET", b"a", b"")).endswith(b"content")
        process.terminate()
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
    assert [parse(line).request for line in out.splitlines(keepends=True)] == ["GET /a HTTP/1.1"] * 3


def test_a_standard_output_that_nobody_reads_any_more_stops_nobody(folder: Path) -> None:
    (folder / "a").write_bytes(b"content")
    with logging_to_stdout(folder) as (process, port):
        assert process.stdout is not None
        process.stdout.close()
        for _ in range(20):
            assert ask(port, b"GET a\n") == b"content"
        while b'"access_log_dropped": 0' in ask(port, b"GET /-/stats HTTP/1.0\r\n\r\n"):
            pass
        process.terminate()
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(timeout=30) == 0
    assert said.count(b"cannot write the access log") == 1
    assert b"Traceback" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full disk at hand")
def test_statistics_say_how_many_lines_were_lost(folder: Path) -> None:
    (folder / "a").write_bytes(b"content")
    with Program(folder) as server:
        server.get("/a")
        assert server.stats()["access_log_dropped"] == 0
    with Program(folder, "--access-log", "/dev/full") as server:
        assert server.stats()["access_log_dropped"] == 0
        for _ in range(5):
            assert server.get("/a")[2] == b"content"
        while server.stats()["access_log_dropped"] < 6:
            pass
        assert server.stop().count("cannot write the access log") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_log_that_hangs_delays_neither_an_answer_nor_the_stop_for_long(folder: Path, tmp_path: Path) -> None:
    (folder / "a").write_bytes(b"content")
    log = tmp_path / "log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with Program(folder, "--access-log", str(log)) as server:
            for _ in range(30):  # 240 kB, more than a pipe holds
                assert server.raw(LAST % (b"GET", b"a" * 8000, b"")).startswith(b"HTTP/1.1 404")
            assert server.get("/a")[2] == b"content"
            assert "stopped, 0 transfers cut" in server.stop()
            assert server.process.returncode == 0
    finally:
        os.close(reader)


def test_a_log_that_cannot_be_closed_goes_on_in_the_new_file(
    open_log: Callable[..., AccessLog],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = open_log()
    close = accesslog._try_close

    def failing(descriptor: int) -> OSError | None:
        close(descriptor)
        return OSError(errno.EIO, "the disk of the old log")

    log.add(access(b"1"))
    wait_for(lambda: not log._queued_bytes)
    (tmp_path / "log").rename(tmp_path / "old")
    monkeypatch.setattr(accesslog, "_try_close", failing)
    log.reopen()
    log.add(access(b"2"))
    wait_for(lambda: not log._queued_bytes)
    assert numbers(tmp_path / "old") == [1]
    assert numbers(tmp_path / "log") == [2]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_pipe_that_nobody_reads_is_no_log_and_holds_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):
        AccessLog(str(tmp_path / "pipe"))


def test_the_word_to_go_on_is_no_byte_of_the_answer(folder: Path, tmp_path: Path) -> None:
    with Program(folder, "--access-log", str(tmp_path / "log")) as server:
        with server.connect() as client:
            client.sendall(
                b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
            )
            assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(b"ab")
            answer = read_all(client)
        server.stop()
    (line,) = read_log(tmp_path / "log")
    assert line.body_bytes == len(answer.partition(b"\r\n\r\n")[2])
    assert line.bytes_sent == len(answer)
