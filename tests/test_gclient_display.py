"""What gclient.py shows: on a terminal, of one file and of several at once; elsewhere; and as JSON to programs."""

import base64
import hashlib
import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gclient import Display, Failure, Transfer, cells, clipped, duration, printable, progress_line, size
from tests.clients import OnATerminal, address, command, error_line
from tests.misbehaving import FIRST_PIECE, Gated, Misbehaving, head, held, says
from tests.program import Program, gclient

MIB = 1 << 20
HOSTILE = "\x1b[31mred\x07\x9b2J\r\n\x1b]0;title\x07\u202e"
"""Colours, a bell, an erased screen, a title, and all of it backwards."""
WIDE = "日本語の長い名前" * 4
PART = r"\x1b\[([0-9]*)([AKJ])|."
DONE = r"\d+(\.\d+)? [KMG]?i?B/s +in \d+(\.\d+)? m?s"


class Screen:
    """What a terminal of this size shows of what was written to it, as `lines`, with those that have left at the
    top. Refuses all that gclient has no need of; `wrapped` counts the letters that did not fit into their line."""

    def __init__(self, written: bytes, columns: int = 80, rows: int = 1000) -> None:
        self._columns, self._rows = columns, rows
        self._row = self._column = self._top = self.wrapped = 0
        self._cells: list[dict[int, str]] = [{}]
        for part in re.finditer(PART, written.decode(), re.DOTALL):
            if part[2]:
                self._obey(part[2], int(part[1] or 0))
            elif part[0] == "\r":
                self._column = 0
            elif part[0] == "\n":
                self._go_down()
            else:
                assert part[0].isprintable(), written
                self._show(part[0])

    @property
    def lines(self) -> list[str]:
        lines = [
            "".join(line.get(column, " ") for column in range(max(line, default=-1) + 1)) for line in self._cells
        ]
        return [line.rstrip() for line in lines][: None if lines[-1] else -1]

    def _obey(self, order: str, count: int) -> None:
        if order == "A":
            self._row = max(self._row - count, self._top)
            return
        line = self._cells[self._row]
        self._cells[self._row] = {column: sign for column, sign in line.items() if column < self._column}
        if order == "J":
            self._cells[self._row + 1 :] = [{} for _ in self._cells[self._row + 1 :]]

    def _go_down(self) -> None:
        self._row += 1
        if self._row == len(self._cells):
            self._cells.append({})
        self._top = max(self._top, self._row - self._rows + 1)

    def _show(self, sign: str) -> None:
        width = 0 if unicodedata.combining(sign) else 1 + (unicodedata.east_asian_width(sign) in "WF")
        if self._column + width > self._columns:
            self.wrapped += 1
            self._column = 0
            self._go_down()
        line = self._cells[self._row]
        if not width:
            line[self._column - 1] = line.get(self._column - 1, "") + sign
        line.update({self._column: sign, **({self._column + 1: ""} if width == 2 else {})} if width else {})
        self._column += width


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Serves `big` and `first`, which nobody has asked for, `empty`, and small files, `0` to `39`."""
    folder = tmp_path_factory.mktemp("served")
    for name in ("big", "first"):
        (folder / name).write_bytes(b"b" * 3_000_000)
    (folder / "empty").touch()
    for number in range(40):
        (folder / str(number)).write_text(f"the number {number}")
    with Program(folder) as program:
        yield program


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """An empty DIR."""
    path = tmp_path / "into"
    path.mkdir()
    return path


def shown(*arguments: str, code: int = 0, columns: int = 80, **options: Any) -> list[str]:
    """Run gclient.py on a terminal; the lines that it leaves there."""
    with OnATerminal(*arguments, columns=columns, **options) as client:
        assert client.finish() == code, client.screen
    return Screen(client.screen, columns).lines


def objects(output: bytes) -> list[dict[str, Any]]:
    """What the lines say in JSON."""
    return [json.loads(line) for line in output.splitlines()]


def kinds(screen: bytes) -> list[str]:
    """Of each line the first letter of its file, and whether it is on its way or has come."""
    return [f"{line[:1]} {'left' if ' left' in line else 'in'}" for line in Screen(screen).lines]


def sha_256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def transfer(name: str = "name", done: int = 0, total: int | None = None, **attributes: Any) -> Transfer:
    """One that has come so far."""
    made = Transfer(name)
    made.done, made.size = done, total
    for attribute, value in attributes.items():
        setattr(made, attribute, value)
    return made


# A file on its way.


def test_a_file_has_a_line_and_all_files_have_one_at_the_end(server: Program, into: Path) -> None:
    for cache in ("MISS", "HIT"):
        line, summary = shown(*address(server), "first", str(into))
        assert re.fullmatch(rf"first \[#{{2,30}}\] 100% 2\.86 MiB +{DONE} {cache}", line), line
        assert re.fullmatch(r"1 file, 2\.86 MiB in \S+ m?s \(\S+ [KMG]iB/s\)", summary), summary
        (into / "first").unlink()


def test_a_file_without_a_byte_has_a_full_bar(server: Program, into: Path) -> None:
    line, summary = shown(*address(server), "empty", str(into))
    assert re.match(r"empty \[#{2,30}\] 100%      0 B ", line), line
    assert re.fullmatch(r"1 file, 0 B in \S+ m?s", summary), summary


def test_a_line_in_the_middle_says_how_far_it_is_how_fast_and_how_long_it_takes(into: Path) -> None:
    def drips(client: socket.socket, gate: threading.Event) -> None:
        client.sendall(head(2 * MIB, X_Cache="MISS") + b"x" * MIB)
        dripped = 0
        while not gate.wait(0.02):
            client.sendall(b"x")
            dripped += 1
        client.sendall(b"x" * (MIB - dripped))

    with Misbehaving(drips) as fake, OnATerminal(*fake.address, "x", str(into)) as client:
        client.wait_until(lambda screen: b" 50%" in screen and screen.endswith(b"\n"))
        (line,) = Screen(client.screen).lines
        fake.gate.set()
        assert client.finish() == 0
    bar = re.fullmatch(r"x \[(#+)( +)\]  50%    1 MiB +\S+ [KM]iB/s +\S+ m?s left MISS", line)
    assert bar, line
    assert abs(len(bar[1]) - len(bar[2])) <= 1, line


def test_a_line_begins_before_the_first_byte(into: Path) -> None:
    with Misbehaving(held(b"", b"rest")) as fake, OnATerminal(*fake.address, "x", str(into)) as client:
        client.wait_for(b"left")
        assert re.fullmatch(r"x \[ +\]   0%      0 B +0 B/s +- left", Screen(client.screen).lines[0])
        fake.gate.set()
        assert client.finish() == 0


def test_a_file_that_is_up_to_date_has_no_bar(server: Program, into: Path) -> None:
    assert shown(*address(server), "39", str(into))[0].startswith("39 [")
    assert shown(*address(server), "39", str(into))[0] == "39 is up to date"


def test_several_files_have_a_line_each_and_those_that_are_done_move_up(into: Path) -> None:
    files = {name: os.urandom(4000) for name in ("a", "b", "c")}
    with (
        Gated(files) as fake,
        OnATerminal(*fake.address, "get", "a", "b", "c", "-d", str(into), "-j", "3") as client,
    ):
        client.wait_until(lambda screen: sorted(kinds(screen)) == ["a left", "b left", "c left"])
        order = [kind[0] for kind in kinds(client.screen)]
        fake.gates["b"].set()
        expected = ["b in", *(f"{name} left" for name in order if name != "b")]
        client.wait_until(lambda screen: kinds(screen) == expected)
        fake.gates["c"].set()
        client.wait_until(lambda screen: kinds(screen) == ["b in", "c in", "a left"])
        fake.gates["a"].set()
        assert client.finish() == 0
    *lines, summary = Screen(client.screen).lines
    assert [line[0] for line in lines] == ["b", "c", "a"]
    assert all(re.search(rf" 100% +3\.91 KiB +{DONE}$", line) for line in lines), lines
    assert summary.startswith("3 files, 11.7 KiB in ")


def test_one_after_the_other_the_files_have_lines_in_their_order(server: Program, into: Path) -> None:
    lines = shown(*address(server), "get", "2", "1", "absent", "3", "-d", str(into), code=22)
    assert [line.partition(" ")[0] for line in lines] == ["2", "1", "gclient:", "3", "4"]
    assert re.fullmatch(r"4 files, 36 B in \S+ m?s \(\S+ K?i?B/s\), 1 failed", lines[-1])


def test_what_is_said_goes_above_the_lines_of_files_and_leaves_none_of_them_behind(into: Path) -> None:
    """Also when it is longer than a line."""
    absent = "absent" * 13
    files = {name: name.encode() * 4000 for name in ("a", "b", "c")}
    with (
        Gated(files) as fake,
        OnATerminal(*fake.address, "get", *files, absent, "-d", str(into), "-j", "3", "-v") as client,
    ):
        client.wait_until(lambda screen: sum(" left" in line for line in Screen(screen).lines) == 3)
        fake.gates["a"].set()
        client.wait_for(b": no such")
        client.wait_until(
            lambda screen: (
                kinds(screen)[-3][2:] == "in"
                and kinds(screen)[-2:] in (list(pair) for pair in permutations(("b left", "c left")))
            )
        )
        said = Screen(client.screen).lines[:-2]
        fake.open()
        assert client.finish() == 22
    assert not any(" left" in line for line in said)
    asked = f"> GET /{absent} HTTP/1.1"
    assert [asked[:80], asked[80:]] == said[(at := said.index(asked[:80])) : at + 2]


def test_more_files_than_rows_fill_the_screen_and_not_what_has_left_it(into: Path) -> None:
    files = {str(number): b"x" * 4000 for number in range(8)}
    with (
        Gated(files) as fake,
        OnATerminal(*fake.address, "get", *files, "-d", str(into), "-j", "8", rows=5) as client,
    ):
        parts = [into / f"{name}.part" for name in files]
        while not all(part.exists() and part.stat().st_size for part in parts):
            assert client.process.poll() is None
        fake.open()
        assert client.finish() == 0
    lines = Screen(client.screen, rows=5).lines
    assert not any(" left" in line for line in lines), lines
    assert len(lines) == 9


def test_progress_is_shown_ten_times_a_second(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr("gclient.time.monotonic", clock)
    display = Display(bars=True, heads=False, threads=False)
    fetched = transfer(total=100)
    written = []
    for fetched.done, later_s in enumerate((0, 0.09, 0.02, 0.09, 0.02)):
        clock.now_s += later_s
        display.progress(fetched)
        written.append(capsys.readouterr().err)
    assert [re.findall(r"\d+%", text) for text in written] == [["0%"], [], ["2%"], [], ["4%"]]


# The summary.


def test_the_summary_counts_what_came_this_time(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(bars=True, heads=False, threads=False)
    for name, total, resumed_from in (("a", 5, 3), ("b", 1, 0)):
        there = transfer(name, total * MIB, total * MIB, resumed_from=resumed_from * MIB)
        display.progress(there)
        display.came(there)
    late = transfer("c", 2 * MIB, 9 * MIB, resumed_from=1 * MIB)
    display.progress(late)
    display.failed("c", Failure(18, "cut"), named=True)
    display.failed("d", Failure(22, "no"), named=True)
    capsys.readouterr()
    display.summary()
    summary = capsys.readouterr().err
    assert re.fullmatch(r"\r\x1b\[K4 files, 4 MiB in \S+ m?s \(\S+ [KMGT]iB/s\), 2 failed\n", summary), summary


def test_the_summary_does_not_count_the_bytes_of_what_was_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(bars=True, heads=False, threads=False)
    display.came(transfer("a", 5 * MIB, 5 * MIB, is_up_to_date=True))
    capsys.readouterr()
    display.summary()
    summary = capsys.readouterr().err
    assert re.fullmatch(r"\r\x1b\[K1 file, 0 B in \S+ m?s, 1 up to date\n", summary), summary


# Narrow terminals, wide names.


@pytest.mark.parametrize("columns", [1, 2, 20, 40, 80, 200])
@pytest.mark.parametrize("name", ["x", "n" * 120, WIDE], ids=["short", "long", "wide"])
def test_a_line_never_goes_over_the_edge(into: Path, columns: int, name: str) -> None:
    script = says(head(len(FIRST_PIECE), X_Cache="COALESCED") + FIRST_PIECE)
    with Misbehaving(script) as fake, OnATerminal(*fake.address, name, str(into), columns=columns) as client:
        assert client.finish() == 0
    lines = client.screen.rpartition(b"\r\x1b[K")[0]
    screen = Screen(lines, columns)
    assert screen.wrapped == 0
    assert len(lines.split(b"\n")) >= 3  # at 0% and at 100%
    assert len(screen.lines) <= 1
    if columns >= 80:
        assert name[-8:] in screen.lines[0]
        assert "] 100%  300 KiB" in screen.lines[0]


def test_a_terminal_that_does_not_know_its_width_has_80_columns(into: Path) -> None:
    with (
        Misbehaving(says(head(4) + b"file")) as fake,
        OnATerminal(*fake.address, "n" * 200, str(into), columns=0) as client,
    ):
        assert client.finish() == 0
    assert len(Screen(client.screen).lines[0]) == 79


def test_where_there_is_no_terminal_there_are_80_columns_and_24_lines() -> None:
    reader, writer = os.pipe()
    program = "import gclient; print(*gclient.screen())"
    with open(reader, "rb"), open(writer, "wb") as pipe:
        arguments = [sys.executable, "-c", program]
        output = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=pipe, timeout=60, check=True).stdout
    assert output == b"80 24\n"


# Nothing that a terminal would obey.


def test_a_name_is_shown_without_what_a_terminal_would_obey(into: Path) -> None:
    name = HOSTILE.replace("/", "")
    with Misbehaving(says(head(4) + b"file")) as fake:
        line, _ = shown(*fake.address, name, str(into), columns=200)
    assert line.startswith("?[31mred??2J???]0;title?? [#")
    assert [path.name for path in into.iterdir()] == [name]


@pytest.mark.parametrize(
    "answer",
    [
        head(len(HOSTILE.encode()), "404 No") + HOSTILE.encode(),
        head(1, "404 \x1b[31mred", "text/html") + b"x",
        head(0, "302 Found", Location="/\x1b[31mred"),
        head(1, "206 Partial Content", Content_Range="bytes \x1b[31mred/9", Etag='"a"') + b"x",
    ],
    ids=["message", "reason", "location", "range"],
)
@pytest.mark.parametrize("way", ["terminal", "heads", "pipe"])
def test_a_server_that_says_no_has_no_power_over_the_terminal(into: Path, answer: bytes, way: str) -> None:
    (into / "x.part").write_bytes(b"1")
    with Misbehaving(says(answer)) as fake:
        url = f"http://{':'.join(fake.address)}/x"
        (into / "x.part.json").write_text(json.dumps({"url": url, "etag": '"a"', "size": 9}))
        arguments = (*fake.address, "x", str(into))
        if way == "pipe":
            said = error_line(*arguments)[1]
            assert said.isprintable()
        else:
            with OnATerminal(*arguments, *(["-v"] if way == "heads" else [])) as client:
                assert client.finish() in (22, 33)
            said = "".join(Screen(client.screen).lines)
    if b"Content-Range" not in answer or way == "heads":
        assert "?[31mred" in said


def test_the_state_of_a_cache_is_a_word_or_not_shown(into: Path) -> None:
    with Misbehaving(
        says(head(4, X_Cache="\x1b[31mHIT") + b"file"), says(head(4, X_Cache="HIT from x") + b"file")
    ) as fake:
        assert re.search(r" in \S+ m?s$", shown(*fake.address, "x", str(into))[0])
        assert shown(*fake.address, "y", str(into))[0].endswith("s HIT")


def test_a_retry_is_announced_without_what_a_terminal_would_obey(into: Path) -> None:
    busy = head(len(HOSTILE.encode()), "503 Busy", Retry_After="0") + HOSTILE.encode()
    with Misbehaving(says(busy), says(head(4) + b"file")) as fake:
        lines = shown(*fake.address, HOSTILE, str(into), columns=200)
    assert re.match(r"gclient: \?\[31mred.*: \?\[31mred.*; again in \S+ ms$", lines[0]), lines


@pytest.mark.parametrize("words", [["list"], ["health"], ["a\x1b[31m", "\x1b[31m"], ["\x1b[31m", "b", "c"]])
def test_an_answer_or_a_wrong_command_has_no_power_over_the_terminal(words: list[str]) -> None:
    with (
        Misbehaving(says(head(9) + b"a\x1b[31m\x9b\nb"), may_stay_away=True) as fake,
        OnATerminal(*fake.address, *words, shows_output=True) as client,
    ):
        client.finish()
    lines = Screen(client.screen).lines
    assert lines
    if words == ["list"]:
        assert lines == ["a?[31m?", "b"]


@pytest.mark.parametrize("words", [["list"], ["stats"], ["health"], ["list", "--\x1b[31mred"]])
def test_why_a_command_failed_has_no_power_over_the_terminal(words: list[str]) -> None:
    refused = head(9, "404 No") + b"\x1b[31mred\n"
    with Misbehaving(says(refused), may_stay_away=True) as fake:
        code, said = error_line(*fake.address, *words)
    assert code == (22 if len(words) == 1 else 2)
    assert "?[31mred" in said
    assert said.isprintable()


def test_a_list_in_a_pipe_has_the_names_as_they_are() -> None:
    names = b"a\x1b[31m\n\xff\n"
    with Misbehaving(says(head(len(names)) + names)) as fake:
        assert gclient(*fake.address, "list").stdout == names


# Where nobody looks.


@pytest.mark.parametrize(("options", "term"), [(["-q"], "xterm"), (["--quiet"], "xterm"), ([], "dumb")])
def test_quiet_or_on_a_dumb_terminal_there_is_no_progress(
    server: Program, into: Path, options: list[str], term: str
) -> None:
    arguments = (*address(server), "get", "big", "1", "-d", str(into), *options)
    assert shown(*arguments, TERM=term) == []
    lines = shown(*address(server), "get", "absent", "-d", str(into), *options, code=22, TERM=term)
    assert lines == ["gclient: no such file: absent"]


def test_a_retry_nobody_looks_at_is_not_announced_unless_heads_are_shown(into: Path) -> None:
    for options, count in ((["-q"], 0), (["-q", "-v"], 1)):
        with Misbehaving(says(head(0, "503 Busy", Retry_After="0")), says(head(4) + b"file")) as fake:
            result = gclient(*fake.address, "x", str(into), *options)
        assert result.stderr.count(b"; again in ") == count


def test_without_a_terminal_nothing_is_written(server: Program, into: Path) -> None:
    """A terminal for the output makes none of standard error."""
    master, slave = pty.openpty()
    try:
        arguments = command(*address(server), "get", "big", "1", "2", "-d", str(into), "-j", "2")
        result = subprocess.run(arguments, stdout=slave, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(master)
        os.close(slave)
    assert (result.returncode, result.stderr) == (0, b"")


def test_a_file_on_a_terminal_is_not_written_over() -> None:
    """Progress on the lines that it takes itself would eat them."""
    text = b"".join(b"the line %d\n" % number for number in range(30))
    with Misbehaving(says(head(len(text)) + text)) as fake:
        lines = shown(*fake.address, "x", "-", shows_output=True)
    assert [line for line in lines if line.startswith("the line ")] == text.decode().splitlines()


def test_objects_on_a_terminal_are_not_written_over(into: Path) -> None:
    files = {name: name.encode() * 4000 for name in ("a", "b", "c")}
    with (
        Gated(files) as fake,
        OnATerminal(
            *fake.address, "get", *files, "-d", str(into), "-j", "3", "--json", columns=999, shows_output=True
        ) as client,
    ):
        fake.wait_for(3)
        for name in files:
            fake.gates[name].set()
            client.wait_for(f'{{"name": "{name}"'.encode())
        assert client.finish() == 0
    lines = Screen(client.screen, 999).lines
    assert sorted(json.loads(line)["name"] for line in lines if line.startswith("{")) == ["a", "b", "c"]


# Heads.


def test_heads_are_shown_as_they_are_but_for_the_token(folder: Path, into: Path, tmp_path: Path) -> None:
    (folder / "a").write_bytes(b"content")
    token = "0123456789abcdef0123456789abcdef-secret"
    (tmp_path / "token").write_text(token + "\n")
    with Program(folder, "--token-file", str(tmp_path / "token")) as server:
        arguments = (*address(server), "get", "a", "absent", "-d", str(into), "-v")
        result = gclient(*arguments, "--token-file", str(tmp_path / "token"))
        (tmp_path / "token").write_text(wrong := token.replace("secret", "guessed"))
        refused = gclient(*arguments, "--token-file", str(tmp_path / "token"))
        lines = shown(*arguments, "--token-file", str(tmp_path / "token"), code=22)
    said = result.stderr.decode().splitlines()
    assert (result.returncode, result.stdout) == (22, b"")
    assert said[0] == "> GET /a HTTP/1.1"
    assert f"> Host: {server.host}:{server.port}" in said
    assert "< HTTP/1.1 200 OK" in said
    assert "< Content-Length: 7" in said
    assert "< HTTP/1.1 404 Not Found" in said
    assert [line for line in said if line[:2] not in ("> ", "< ")] == ["gclient: absent: no such file: absent"]
    assert (refused.returncode, refused.stdout) == (22, b"")
    assert "< HTTP/1.1 401 Unauthorized" in refused.stderr.decode()
    for text in (result.stderr.decode(), refused.stderr.decode(), "\n".join(lines)):
        assert "authorization" not in text.lower()
        assert token not in text
        assert wrong not in text


@pytest.mark.parametrize("words", [["list"], ["stats"], ["health"], ["stats", "--json"]])
def test_heads_of_commands_are_shown_beside_what_they_print(server: Program, words: list[str]) -> None:
    result = gclient(*address(server), *words, "-v")
    assert result.returncode == 0
    assert result.stderr.startswith(b"> GET /-/")
    assert b"\n< HTTP/1.1 200 OK\n" in result.stderr
    assert b"HTTP/1.1" not in result.stdout


def test_heads_on_a_terminal_stay_above_the_line_of_the_file(server: Program, into: Path) -> None:
    lines = shown(*address(server), "get", "1", "2", "-d", str(into), "-v")
    kinds = [line[:2] if line[:2] in ("> ", "< ") else line.partition(" ")[0] for line in lines]
    assert [kind for number, kind in enumerate(kinds) if kind != kinds[number - 1]] == [
        "> ",
        "< ",
        "1",
        "> ",
        "< ",
        "2",
    ]
    assert all(line == line.rstrip("\r") for line in lines)


# Retries.


def test_each_retry_has_a_line_and_the_file_goes_on_from_there(into: Path) -> None:
    content = b"0123456789" * 1000
    ranged = head(4000, "206 Partial Content", Content_Range="bytes 6000-9999/10000", Etag='"a"')
    scripts = (
        says(head(10000, Etag='"a"') + content[:6000]),
        says(head(0, "503 Busy", Retry_After="0")),
        says(ranged + content[6000:]),
    )
    with Misbehaving(*scripts) as fake:
        first, second, line, summary = shown(*fake.address, "x", str(into))
    assert re.fullmatch(
        r"gclient: x: the transfer was cut, 4000 bytes are missing; again in \d+(\.\d+)? ms", first
    ), first
    assert re.fullmatch(r"gclient: x: the server said 503 Busy; again in \d+(\.\d+)? ms", second), second
    assert re.match(r"x \[#+\] 100% 9\.77 KiB ", line), line
    assert summary.startswith("1 file, 9.77 KiB in ")
    assert (into / "x").read_bytes() == content


def test_a_failure_after_all_retries_is_told_in_place_of_its_line(into: Path) -> None:
    script = says(head(10000, Etag='"a"') + b"1" * 6000)
    with Misbehaving(script) as fake:
        failure, summary = shown(*fake.address, "x", str(into), "--tries", "1", code=18)
    assert failure == "gclient: the transfer was cut, 4000 bytes are missing"
    assert re.fullmatch(r"1 file, 5\.86 KiB in \S+ m?s \(.*/s\), 1 failed", summary), summary


# For programs.


def test_json_is_one_object_for_a_file_on_one_line(server: Program, into: Path) -> None:
    result = gclient(*address(server), "30", str(into), "--json")
    assert (result.returncode, result.stderr, result.stdout.count(b"\n")) == (0, b"", 1)
    (found,) = objects(result.stdout)
    assert found.pop("seconds") > 0
    assert found.pop("digest") in (None, "sha-256=" + sha_256(b"the number 30"))
    assert found == {
        "name": "30",
        "path": str(into / "30"),
        "bytes": 13,
        "cache": "MISS",
        "resumed_from": 0,
        "up_to_date": False,
    }
    (into / "30").unlink()
    (again,) = objects(gclient(*address(server), "get", "30", "-d", f"{into}/", "--json").stdout)
    assert (again["path"], again["cache"]) == (str(into / "30"), "HIT")


def test_json_has_the_digest_that_was_checked(server: Program, into: Path) -> None:
    digest = sha_256(b"file")
    field = base64.b64encode(bytes.fromhex(digest)).decode()
    with Misbehaving(says(head(4, Repr_Digest=f"sha-256=:{field}:") + b"file")) as fake:
        (by_server,) = objects(gclient(*fake.address, "x", str(into), "--json").stdout)
    wanted = f"sha-256={sha_256(b'the number 31').upper()}"
    (by_user,) = objects(gclient(*address(server), "31", str(into), "--json", "--checksum", wanted).stdout)
    assert by_server["digest"] == f"sha-256={digest}"
    assert by_user["digest"] == wanted.lower()


def test_json_says_from_where_a_file_was_resumed_and_that_it_is_up_to_date(into: Path) -> None:
    old = "Mon, 02 Jan 2006 15:04:05 GMT"
    cut = head(10, Etag='"a"', Last_Modified=old, Date="Tue, 03 Jan 2006 15:04:05 GMT") + b"123456"
    rest = head(
        4,
        "206 Partial Content",
        Content_Range="bytes 6-9/10",
        Etag='"a"',
        Last_Modified=old,
        Date="Tue, 03 Jan 2006 15:04:05 GMT",
    )
    unchanged = b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nX-Cache: HIT\r\n\r\n'
    with Misbehaving(says(cut), says(rest + b"7890"), says(unchanged)) as fake:
        arguments = (*fake.address, "x", str(into), "--json", "--tries", "1")
        failed, resumed, same = (objects(gclient(*arguments).stdout)[0] for _ in range(3))
    assert failed == {
        "name": "x",
        "error": "the transfer was cut, 4 bytes are missing",
        "exit_code": 18,
    }
    assert (resumed["resumed_from"], resumed["bytes"], resumed["up_to_date"]) == (6, 10, False)
    assert (same["resumed_from"], same["bytes"], same["up_to_date"], same["cache"]) == (0, 10, True, "HIT")


@pytest.mark.parametrize("jobs", ["1", "8"])
def test_json_of_several_files_is_a_whole_line_each_also_for_those_that_failed(
    server: Program, into: Path, jobs: str
) -> None:
    names = [str(number) for number in range(30)]
    result = gclient(*address(server), "get", "no", *names, "not", "-d", str(into), "--json", "-j", jobs)
    assert result.returncode == 22
    found = objects(result.stdout)
    errors = {each["name"]: each for each in found if "error" in each}
    assert errors == {
        name: {"name": name, "error": f"no such file: {name}", "exit_code": 22} for name in ("no", "not")
    }
    assert sorted(each["name"] for each in found) == sorted([*names, "no", "not"])
    assert result.stderr.decode().count(": no such file: ") == 2
    if jobs == "1":
        assert [each["name"] for each in found] == ["no", *names, "not"]


def test_json_of_a_name_that_is_no_text_is_ascii(into: Path) -> None:
    name = os.fsdecode(b"\xff\x1b\xc3\xa9")
    with Misbehaving(says(head(4) + b"file")) as fake:
        result = gclient(*fake.address, name, str(into), "--json")
    assert result.stdout.isascii()
    assert b"\x1b" not in result.stdout
    assert objects(result.stdout)[0]["name"] == name


# Lines, cells, sizes and times.

TEXTS = st.text(st.characters() | st.sampled_from("日本語\uff46é\u0301\u3099\x1b\u202e 🎉"), max_size=120)
TRANSFERS = st.builds(
    lambda name, total, shares, cache: transfer(
        name,
        int((total or 0) * max(shares)),
        total,
        resumed_from=int((total or 0) * min(shares)),
        cache=cache,
    ),
    TEXTS,
    st.none() | st.integers(0, 10**18 - 1),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.none() | st.sampled_from(["HIT", "MISS", "COALESCED", "X" * 300]),
)


def cells_of(text: str) -> int:
    """How wide the emulator thinks it is."""
    screen = Screen(text.encode("utf-8", "replace"), columns=10**6)
    return screen._column


@settings(deadline=None, max_examples=300)
@given(fetched=TRANSFERS, width=st.integers(1, 250), seconds=st.none() | st.floats(0, 1e9))
def test_a_progress_line_is_narrower_than_the_terminal(
    fetched: Transfer, width: int, seconds: float | None
) -> None:
    line = progress_line(fetched, width, seconds)
    assert cells_of(line) <= width - 1
    assert line.isprintable()


@settings(deadline=None)
@given(done=st.integers(0, 1000), name=st.text("ab日", min_size=1, max_size=60), width=st.integers(80, 200))
def test_a_wide_enough_progress_line_has_name_bar_and_percentage(done: int, name: str, width: int) -> None:
    line = progress_line(transfer(name, done, 1000, cache="HIT"), width, None)
    found = re.fullmatch(r"(\S+) \[(#* *)\] ( *\d+)% .* left HIT", line)
    assert found, line
    assert name.endswith(found[1])
    assert len(found[2]) == min(30, width - 1 - cells(found[1]) - 3 - cells(line.rpartition("]")[2]))
    assert found[2].count("#") == int(len(found[2]) * done / 1000)
    assert abs(int(found[3]) - done / 10) <= 0.5


def test_the_rate_counts_what_came_this_time_and_the_rest_takes_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("gclient.time.monotonic", clock)
    resumed = transfer("x", 3 * MIB, 7 * MIB, resumed_from=1 * MIB)
    clock.now_s += 4
    assert "  43%    3 MiB  512 KiB/s     8 s left" in progress_line(resumed, 80, None)
    assert "  43%    3 MiB    2 MiB/s       in 1 s" in progress_line(resumed, 80, 1.0)


def test_before_anything_came_nobody_knows_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gclient.time.monotonic", Clock())
    assert progress_line(transfer("x", 0, 10), 80, None).endswith("   0%      0 B      0 B/s       - left")


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("", 0),
        ("abc", 3),
        ("日本", 4),
        ("\uff46", 2),
        ("ﬀ", 1),
        ("é", 1),
        ("e\u0301", 1),
        ("か\u3099", 2),
        ("🎉", 2),
        ("·", 1),
    ],
)
def test_text_takes_these_cells(text: str, width: int) -> None:
    assert cells(text) == width


@settings(deadline=None)
@given(text=TEXTS.map(printable), most=st.integers(0, 130))
def test_a_clipped_text_is_the_end_that_fits(text: str, most: int) -> None:
    kept = clipped(text, most)
    assert text.endswith(kept)
    assert cells(kept) <= most
    if cells(text) <= most:
        assert kept == text
    elif text.isascii():
        assert len(kept) == most
    elif not any(map(unicodedata.combining, text)):
        assert most - 1 <= cells(kept)


@given(text=st.text())
def test_printable_text_has_as_many_letters_and_nothing_that_is_obeyed(text: str) -> None:
    made = printable(text)
    assert len(made) == len(text)
    assert made.isprintable()
    assert all(new in (old, "?") for new, old in zip(made, text, strict=True))
    assert not text.isprintable() or made == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (999 * 1024, "999 KiB"),
        (1023 * 1024, "0.999 MiB"),
        (3_000_000, "2.86 MiB"),
        (1 << 30, "1 GiB"),
        (5 << 40, "5 TiB"),
        (5 << 50, "5 PiB"),
        (5 << 60, "5 EiB"),
    ],
)
def test_sizes_in_words(count: int, text: str) -> None:
    assert size(count) == text


@given(count=st.integers(0, 10**18))
def test_a_size_is_short_and_within_a_half_per_cent(count: int) -> None:
    text = size(count)
    number, unit = text.split()
    meant = float(number) * 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].index(unit)
    assert len(text) <= 9
    assert abs(meant - count) <= 0.005 * count
    assert "e" not in number


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0 ms"),
        (0.0125, "12.5 ms"),
        (0.999, "999 ms"),
        (1.0, "1 s"),
        (59.94, "59.9 s"),
        (119.0, "119 s"),
        (120.0, "2 min"),
        (3600.0, "60 min"),
        (7200.0, "2 h"),
        (86400.0, "24 h"),
    ],
)
def test_times_in_words(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@given(seconds=st.floats(1e-4, 3.6e6))
def test_a_time_is_short_and_without_an_exponent(seconds: float) -> None:
    text = duration(seconds)
    number, unit = text.split()
    assert len(text) <= 9
    assert "e" not in number
    meant = float(number) * {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}[unit]
    assert abs(meant - seconds) <= max(0.005 * seconds, {"min": 30.0, "h": 1800.0}.get(unit, 0.0)) + 1e-9
