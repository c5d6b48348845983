"""python -m fileserver.simulate: what it says in words, in numbers and in a picture, and what when it cannot."""

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree

import pytest

from fileserver.simulate import __main__ as simulate
from fileserver.simulate import simulation, traces
from fileserver.simulate.simulation import BOUND, Result, Storage
from fileserver.simulate.traces import Trace
from lrucache import POLICIES
from lrucache.bound import Bound
from lrucache.replay import Replay
from tests.program import PROJECT, Program
from tests.test_replay import SMALL

STORAGES = {"nvme": (0.0001, 3e9), "hdd": (0.008, 200e6), "network": (0.002, 100e6)}
"""Seconds before the first byte, and bytes a second: as they are promised."""

TINY = "time,object,size\n1,a,5\n2,b,6\n3,a,5\n4,a,5\n5,c,11\n6,a,5\n"
"""In ten bytes `lru` hits a twice and misses four times: a, b, a again, and c, which is too large."""

TINY_REPORT = """\
6 requests for 3 files of 22 B; 37 B were asked for

10 B          misses     bytes        nvme         hdd     network
lru           66.67%    72.97%        0 ms       32 ms        8 ms
s3fifo        50.00%    59.46%        0 ms       24 ms        6 ms
PFOO-L        50.00%    59.46%        0 ms       24 ms        6 ms
choose                              s3fifo      s3fifo      s3fifo

1 KiB         misses     bytes        nvme         hdd     network
lru           50.00%    59.46%        0 ms       24 ms        6 ms
s3fifo        50.00%    59.46%        0 ms       24 ms        6 ms
PFOO-L        50.00%    59.46%        0 ms       24 ms        6 ms
choose                                 any         any         any

misses and bytes had to be read, the first time included; nvme, hdd, network: what that takes there
PFOO-L: no order of eviction can do better, each number for itself (Berger et al. 2018)
"""


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command line, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "fileserver.simulate", *map(str, arguments)],
        cwd=PROJECT,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options},
    )


def answer(*arguments: object, **options: Any) -> str:
    """What it prints when nothing is wrong."""
    done = run(*arguments, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def numbers(*arguments: object) -> list[dict[str, Any]]:
    """What it prints with --json."""
    found: list[dict[str, Any]] = json.loads(answer(*arguments, "--json"))
    return found


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A trace of six requests."""
    path = tmp_path / "tiny.csv"
    path.write_text(TINY)
    return path


# In words.


def test_the_report_is_a_table_for_each_capacity_and_what_to_choose(tiny: Path) -> None:
    assert answer(tiny, "--capacity", "10,1KiB", "--policy", "lru,s3fifo") == TINY_REPORT


def test_where_there_is_one_policy_there_is_no_choice(tiny: Path) -> None:
    shown = answer(tiny, "--capacity", "10", "--policy", "lru")
    assert "lru  " in shown
    assert "choose" not in shown


def test_lines_that_were_left_out_are_said(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    line = 'h - - [10/Oct/2000:13:55:36 -0700] "GET /a HTTP/1.0" 200 2326\n'
    log.write_text(f"junk\n{line}" * 1200 + line.replace("/a", "/b").replace("2326", "7"))
    shown = answer(log, "--capacity", "1M", "--policy", "lru").splitlines()
    assert shown[:2] == [
        "1,201 requests for 2 files of 2.28 KiB; 2.66 MiB were asked for",
        "1,200 lines were not lines of an access log, and were left out",
    ]


def test_a_trace_may_come_through_a_pipe(tiny: Path) -> None:
    options = ("--capacity", "10,1KiB", "--policy", "lru,s3fifo")
    assert answer("-", *options, input=TINY, stdin=None) == TINY_REPORT


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.8504, "850 ms"),
        (1, "1.0 s"),
        (12.34, "12.3 s"),
        (99.9, "99.9 s"),
        (100, "1.7 min"),
        (270, "4.5 min"),
        (5999, "100.0 min"),
        (6000, "1.7 h"),
        (25_560, "7.1 h"),
    ],
)
def test_a_duration_is_in_the_unit_people_would_use(seconds: float, text: str) -> None:
    assert simulate.duration(seconds) == text


# In numbers.


def test_all_policies_at_three_capacities_are_the_default() -> None:
    found = numbers(SMALL)
    assert [(each["capacity"], each["policy"]) for each in found] == [
        (capacity << 20, policy) for capacity in (16, 64, 256) for policy in POLICIES
    ]


def test_the_numbers_are_those_of_the_replay_and_the_bound() -> None:
    trace = traces.read([str(SMALL)])
    found = numbers(SMALL, "--capacity", "64KiB,256KiB")
    requests, asked_bytes = len(trace.requests), trace.asked_bytes()
    for each in found:
        assert each.keys() == {"policy", "capacity", "object_miss", "byte_miss", "disk_time", "bound"}
        replay = Replay(POLICIES[each["policy"]], each["capacity"])
        for _ in replay.run(trace.sized()):
            pass
        misses, missed_bytes = requests - replay.hits, asked_bytes - replay.hit_bytes
        assert each["object_miss"] == pytest.approx(misses / requests, abs=1e-12)
        assert each["byte_miss"] == pytest.approx(missed_bytes / asked_bytes, abs=1e-12)
        assert each["disk_time"] == pytest.approx(
            {name: misses * seek_s + missed_bytes / rate for name, (seek_s, rate) in STORAGES.items()}
        )
    assert len(found) == 2 * len(POLICIES)


def test_beside_each_policy_stands_the_bound_at_its_capacity() -> None:
    trace = traces.read([str(SMALL)])
    bound = Bound(trace.sized())
    requests, asked_bytes = len(trace.requests), trace.asked_bytes()
    for each in numbers(SMALL, "--capacity", "64KiB,256KiB", "--policy", "lru,gdsf"):
        hits, hit_bytes = (bound.most([each["capacity"]], **{kind: 1})[0] for kind in ("each", "each_byte"))
        limit = each["bound"]
        assert limit.keys() == {"object_miss", "byte_miss", "disk_time"}
        assert limit["object_miss"] == pytest.approx(1 - hits / requests, abs=1e-12)
        assert limit["byte_miss"] == pytest.approx(1 - hit_bytes / asked_bytes, abs=1e-12)
        for name, (seek_s, rate) in STORAGES.items():
            saved_s = bound.most([each["capacity"]], each=seek_s, each_byte=1 / rate)[0]
            all_s = requests * seek_s + asked_bytes / rate
            assert limit["disk_time"][name] == pytest.approx(all_s - saved_s)
            assert limit["disk_time"][name] <= each["disk_time"][name]
        assert limit["object_miss"] <= each["object_miss"]
        assert limit["byte_miss"] <= each["byte_miss"]


def test_what_is_asked_for_twice_is_simulated_once_and_in_the_order_of_asking(tiny: Path) -> None:
    found = numbers(tiny, "--capacity", "1KiB, 10,1024", "--policy", "sieve,lru, sieve")
    assert [(each["capacity"], each["policy"]) for each in found] == [
        (1024, "sieve"),
        (1024, "lru"),
        (10, "sieve"),
        (10, "lru"),
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], {"nvme": 4 * 0.0001 + 27 / 3e9, "hdd": 4 * 0.008 + 27 / 200e6, "network": 4 * 0.002 + 27 / 100e6}),
        (["hdd=1s,27B/s"], {"nvme": 4 * 0.0001 + 27 / 3e9, "hdd": 4 + 1, "network": 4 * 0.002 + 27 / 100e6}),
        (
            ["nvme=0ms,27kB/s", "hdd=10us,2.7MB/s", "network=2.5ms,0.5GB/s", "tape=100s,1TB/s"],
            {"nvme": 0.001, "hdd": 0.00004 + 0.00001, "network": 0.01 + 27 / 5e8, "tape": 400 + 27e-12},
        ),
    ],
)
def test_storage_can_be_added_and_have_other_numbers(
    tiny: Path, given: list[str], expected: dict[str, float]
) -> None:
    options = [word for each in given for word in ("--storage", each)]
    found = numbers(tiny, "--capacity", "10", "--policy", "lru", *options)
    assert list(found[0]["disk_time"]) == list(expected)
    assert found[0]["disk_time"] == pytest.approx(expected, rel=1e-12)


def test_the_choice_is_the_least_disk_time_for_each_storage() -> None:
    few_large = Result("few-large", 10, 0.1, 0.9, {"seeks": 1.0, "streams": 9.0, "same": 5.0})
    many_small = Result("many-small", 10, 0.9, 0.1, {"seeks": 9.0, "streams": 1.0, "same": 5.0})
    assert simulation.choices([few_large, many_small]) == {
        "seeks": "few-large",
        "streams": "many-small",
        "same": "any",
    }


def test_a_storage_is_busy_for_each_miss_and_for_each_byte() -> None:
    assert Storage("any", 0.5, 100.0).busy_s(4, 1000) == 12.0


def test_who_watches_is_told_of_every_run_and_how_far_it_is() -> None:
    trace = Trace([str(at % 7) for at in range(1000)], {str(at): 1 for at in range(7)}, 0)
    told: list[tuple[str, int, float]] = []
    results = list(simulation.simulate(trace, [3, 5], ["lru", "sieve"], [], lambda *words: told.append(words)))
    runs = [(each.policy, each.capacity) for each in results]
    assert runs == [("lru", 3), ("sieve", 3), ("lru", 5), ("sieve", 5)]
    assert list(dict.fromkeys((policy, capacity) for policy, capacity, _ in told)) == runs
    for run_of in runs:
        done = [count for policy, capacity, count in told if (policy, capacity) == run_of]
        assert done == sorted(done)
        assert 900 < done[-1] <= 1000


@pytest.mark.parametrize("capacity", [0, 10])
def test_files_without_a_byte_miss_no_bytes(capacity: int) -> None:
    trace = Trace(["a", "a", "b"], {"a": 0, "b": 0}, 0)
    storages = [Storage("any", 1.0, 1.0)]
    results = list(simulation.simulate(trace, [capacity], list(POLICIES), storages, lambda *_: None))
    results += simulation.bound(trace, [capacity], storages)
    assert {(each.object_miss, each.byte_miss, each.disk_time["any"]) for each in results} == {(2 / 3, 0.0, 2.0)}


def test_a_cache_of_no_bytes_misses_every_file_that_has_some(tiny: Path) -> None:
    found = numbers(tiny, "--capacity", "0")
    assert [each["policy"] for each in found] == list(POLICIES)
    for each in found:
        assert (each["object_miss"], each["byte_miss"]) == (1, 1)
        assert (each["bound"]["object_miss"], each["bound"]["byte_miss"]) == (1, 1)


# A picture.


def test_the_picture_is_the_same_each_time_and_names_all_policies(tmp_path: Path) -> None:
    pictures = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for path in pictures:
        done = run(SMALL, "--capacity", "64KiB,256KiB", "--plot", path)
        assert done.returncode == 0
        assert "256 KiB" in done.stdout
    one, two = (path.read_bytes() for path in pictures)
    assert one == two
    root = ElementTree.fromstring(one)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("64 KiB") == texts.count("256 KiB") == 2
    for words in (*POLICIES, "requests missed", "bytes missed", f"{BOUND}: no order does better"):
        assert texts.count(words) == 1, words


@pytest.mark.parametrize(("name", "first"), [("a.png", b"\x89PNG\r\n"), ("a.pdf", b"%PDF-")])
def test_a_picture_is_of_the_kind_it_is_named_as(tmp_path: Path, name: str, first: bytes) -> None:
    from fileserver.simulate import plot

    plot.draw(str(tmp_path / name), [Result("lru", 10, 0.5, 0.5, {})], [Result(BOUND, 10, 0.4, 0.4, {})])
    assert (tmp_path / name).read_bytes().startswith(first)


def test_a_picture_that_cannot_be_written_takes_no_numbers_away(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "none" / "a.svg"
    done = run(tiny, "--capacity", "10,1KiB", "--policy", "lru,s3fifo", "--plot", path)
    assert (done.returncode, done.stdout) == (1, TINY_REPORT)
    assert done.stderr.splitlines()[-1] == f"simulate: {path}: No such file or directory"
    assert "Traceback" not in done.stderr


def test_the_picture_has_a_line_for_each_policy_and_the_bound(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    from fileserver.simulate import plot

    results = [
        Result(policy, capacity, 1 / capacity, 1 / (2 * capacity), {})
        for capacity in (64, 16, 1024)
        for policy in ("one", "two")
    ]
    bounds = [Result(BOUND, capacity, 1 / (3 * capacity), 1 / (4 * capacity), {}) for capacity in (64, 16, 1024)]
    with patch.object(Figure, "savefig", autospec=True) as saved:
        plot.draw(str(tmp_path / "a.svg"), results, bounds)
    for axes, share, limit in zip(saved.call_args.args[0].axes, (1, 2), (3, 4), strict=True):
        lines = [(line.get_label(), list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()]
        assert lines == [
            *((policy, [16, 64, 1024], [1 / (share * at) for at in (16, 64, 1024)]) for policy in ("one", "two")),
            (f"{BOUND}: no order does better", [16, 64, 1024], [1 / (limit * at) for at in (16, 64, 1024)]),
        ]


# While it takes long.


@contextmanager
def terminal() -> Iterator[tuple[int, list[bytes]]]:
    """A terminal to write to, and afterwards what was written there."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    os.set_blocking(ours, False)
    written: list[bytes] = []
    try:
        yield theirs, written
        written.append(os.read(ours, 1 << 16))
    finally:
        os.close(theirs)
        os.close(ours)


IMPATIENT = (
    "import sys; from fileserver.simulate import __main__ as simulate; "
    "simulate.SHOWN_AFTER_S = 0; sys.exit(simulate.main())"
)


def impatient(*arguments: object, stderr: int) -> str:
    """What it prints when it shows from the first moment how far it is."""
    command = [sys.executable, "-c", IMPATIENT, *map(str, arguments)]
    done = subprocess.run(command, cwd=PROJECT, text=True, check=True, stdout=subprocess.PIPE, stderr=stderr)
    return done.stdout


def test_a_terminal_is_shown_how_far_it_is_and_is_left_clean(tiny: Path) -> None:
    with terminal() as (theirs, written):
        shown = impatient(tiny, "--capacity", "10,1KiB", "--policy", "lru,s3fifo", stderr=theirs)
    assert shown == TINY_REPORT
    assert f"reading {tiny}".encode() in written[0]
    assert b"0/24 " in written[0]
    assert b"\n" not in written[0]
    assert not written[0].rpartition(b"\r")[2].strip(b" \x1b[A")


class Bar:
    """A bar that remembers where it stood."""

    def __init__(self) -> None:
        self.n = 0.0
        self.stood = [0.0]

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set_description(self, text: str, refresh: bool) -> None:
        pass

    def update(self, steps: float) -> None:
        self.n += steps
        self.stood.append(self.n)


def test_the_bar_goes_from_the_first_request_of_the_first_run_to_the_last_of_the_last() -> None:
    trace = Trace(["a", "b"] * 500, {"a": 1, "b": 1}, 0)
    asked = argparse.Namespace(capacity=[1, 2], policy=["lru", "sieve"], storage=[])
    bar = Bar()
    with patch.object(simulate, "progress", return_value=bar) as progress:
        simulate.simulated(trace, asked)
    assert progress.call_args.kwargs["total"] == 4000
    assert bar.stood == sorted(bar.stood)
    assert 3900 < bar.n <= 4000


def test_a_file_of_complaints_is_not_told_how_far_it_is(tiny: Path, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        impatient(tiny, "--capacity", "10", stderr=log.fileno())
    assert (tmp_path / "log").read_text() == ""


# When it cannot.

GARBAGE = random.Random(2).randbytes(100_000)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "simulate: {path}: no request for a file (not an access log, and not time,object,size?)"),
        (GARBAGE, "simulate: {path}: no request for a file (not an access log, and not time,object,size?)"),
        (gzip.compress(GARBAGE, mtime=0), "simulate: {path}: no request for a file"),
        (gzip.compress(TINY.encode(), mtime=0)[:-9], "simulate: {path}: Compressed file ended"),
        (f"{TINY}7,a,-1\n".encode(), "simulate: {path}: line 8 has a size that no file has"),
        (TINY.replace("3,a,5", "3,a").encode(), "simulate: {path}: line 4 is not time,object,size"),
    ],
    ids=["empty", "garbage", "compressed garbage", "truncated", "negative", "a column less"],
)
def test_what_is_no_trace_is_said_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "trace"
    path.write_bytes(content)
    done = run(path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(reason.format(path=path))
    assert done.stderr.count("\n") == 1


def test_what_cannot_be_opened_is_said_in_one_line(tiny: Path, tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        done = run(tiny, path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"simulate: {path}: {reason}\n"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "TRACE"),
        (["t", "--policy", "fifo"], f"'fifo' is not one of {', '.join(POLICIES)}"),
        (["t", "--policy", ""], f"'' is not one of {', '.join(POLICIES)}"),
        (["t", "--capacity", "64MiB,much"], "'much' is not a size like 64MiB"),
        (["t", "--capacity", "-1"], "--capacity"),
        (["t", "--storage", "hdd=8ms"], "'hdd=8ms' is not a storage like hdd=8ms,200MB/s"),
        (["t", "--storage", "hdd=8ms,0B/s"], "is not a storage like"),
        (["t", "--storage", "hdd=8min,1B/s"], "is not a storage like"),
        (["t", "--storage", "hdd=8ms,200MiB/s"], "is not a storage like"),
        (["t", "--plot", "out.xyz"], "'out.xyz' does not end in .svg, .png, .pdf"),
        (["t", "--plot", "out"], "'out' does not end in .svg, .png, .pdf"),
        (["t", "--plan"], "--plan"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["simulate", *options])
    with pytest.raises(SystemExit) as caught:
        simulate.main()
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert reason in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_a_wrong_command_line_exits_with_2_before_anything_is_read(tmp_path: Path) -> None:
    done = run(tmp_path / "none", "--plot", tmp_path / "out.xyz")
    assert done.returncode == 2
    assert done.stderr.startswith("python -m fileserver.simulate: argument --plot:")
    assert done.stderr.count("\n") == 1


def test_whoever_reads_no_more_of_it_is_no_error(tiny: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(tiny, stdout=writing)
    finally:
        os.close(writing)
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_full_disk_is_said_in_one_line(tiny: Path, options: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = run(tiny, *options, stdout=full)
    assert (done.returncode, done.stderr) == (1, "simulate: cannot write: No space left on device\n")


# A log of our own.


@pytest.fixture
def served(folder: Path) -> Path:
    """Files of 1 to 12 KiB, with names that need escapes, and a folder with an index."""
    for at in range(12):
        (folder / f"n{at}").write_bytes(b"x" * (at + 1) * 1024)
    (folder / 'say "hä" \\').write_bytes(b"x" * 700)
    (folder / "sub").mkdir()
    (folder / "sub" / "index.html").write_bytes(b"x" * 300)
    return folder


def ask_around(server: Program, seed: int) -> int:
    """Ask for files in all the ways there are, and for what is no file; how many requests for files there were."""
    chance = random.Random(seed)
    for _ in range(150):
        name = f"n{int(12 * chance.random() ** 2)}"
        assert server.get(f"/{name}?v={chance.random()}")[0] == 200
    etag = server.get("/n3")[1]["etag"]
    for path, headers, status in [
        ("/n5", {"range": "bytes=0-99"}, 206),
        ("/say%20%22h%C3%A4%22%20%5C", {}, 200),
        ("/sub/", {}, 200),
        ("/n3", {"if_none_match": etag}, 304),
        ("/none", {}, 404),
        ("/", {}, 200),
        ("/sub", {}, 301),
        ("/-/stats", {}, 200),
        ("/-/cache", {}, 200),
    ]:
        assert server.get(path, **headers)[0] == status
    assert server.get("/n1", "HEAD")[0] == 200
    assert len(server.raw(b"GET n7\n")) == 8 * 1024
    assert len(server.raw('GET say "hä" \\\r\n'.encode())) == 700
    assert server.raw(b"GET none\n").startswith(b"ERROR")
    assert b"n7" in server.raw(b"LIST\n").splitlines()
    return 150 + 1 + 3 + 2


@pytest.mark.parametrize("policy", ["relocate", "lru"])
def test_the_simulator_finds_in_a_real_log_what_the_server_counted(
    served: Path, tmp_path: Path, policy: str
) -> None:
    log = tmp_path / "access.log"
    options = ("--access-log", str(log), "--cache", "20KiB", "--policy", policy, "--revalidate", "3600")
    with Program(served, *options) as server:
        requests = ask_around(server, seed=5)
        stats = server.stats()
        server.stop()
    trace = traces.read([str(log)])
    assert (len(trace.requests), trace.skipped) == (requests, 0)
    assert sum(stats[each] for each in ("hits", "misses", "coalesced", "bypasses")) == requests
    assert trace.sizes == {
        str(path.relative_to(served)): path.stat().st_size for path in served.rglob("*") if path.is_file()
    }
    found = numbers(log, "--capacity", "20KiB", "--policy", policy)
    assert requests - round(found[0]["object_miss"] * requests) == stats["hits"]
    assert 10 < stats["hits"] < requests - 10


def test_without_what_it_needs_it_says_how_to_install_that() -> None:
    """As after `pip install .`, which leaves out what the server does without."""
    run = "runpy.run_module('fileserver.simulate', run_name='__main__')"
    program = f"import runpy, sys; sys.modules['tqdm'] = None; {run}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT, timeout=50, check=False
    )
    words = "simulate: tqdm is missing; install what it needs with: pip install '.[simulate]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", words)
