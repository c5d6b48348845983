"""The parts of `benchmarks.samememory` that need no server: traces, files, the kernel's texts, the table."""

import gzip
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import cgroups, samememory, traces
from benchmarks.cgroups import Reads
from benchmarks.peers import Missing
from benchmarks.replay import Broken, Wanted, check_head
from benchmarks.samememory import Figures, Subject
from benchmarks.traces import Trace

TRACE = "time,object,size\n807256800,1,1713\n807256804,2,8677\n807256806,1,1713\n807256809,3,0\n"

# Version 1's as Linux 6.18 writes them; version 2's after the kernel's Documentation/admin-guide/cgroup-v2.rst.
BYTES_V1 = """\
254:0 Read 20971520
254:0 Write 8192
254:0 Sync 20971520
254:0 Async 8192
254:0 Discard 0
254:0 Total 20979712
7:0 Read 4096
7:0 Total 4096
Total 20983808
"""
IO_STAT = """\
254:16 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0
254:0 rbytes=1363968 wbytes=53248 rios=152 wios=13 dbytes=0 dios=0
7:0
"""
MOUNTS_V1 = """\
/dev/vda / ext4 rw,relatime 0 0
tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/blkio cgroup rw,relatime,blkio 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
"""
SMAPS = """\
55d0c6a00000-55d0c6a28000 r--p 00000000 fe:00 1311 /usr/sbin/nginx
Size:                160 kB
Rss:                 100 kB
Pss:                  50 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
55d0c6b00000-55d0c6b10000 rw-p 00028000 fe:00 1311 /usr/sbin/nginx
Rss:                  64 kB
Anonymous:            60 kB
55d0c7000000-55d0c7100000 rw-p 00000000 00:00 0 [heap]
Rss:                1024 kB
Anonymous:          1024 kB
"""

FIGURES = Figures(
    disk_reads=1938,
    disk_bytes=109 << 20,
    requests_per_s=27_700.0,
    p99_s=0.0014,
    cpu_s_per_request=22e-6,
    peak_bytes=123 << 20,
    own_bytes=10 << 20,
    pages_bytes=110 << 20,
    hit_ratio=None,
)


def test_a_trace_keeps_the_order_of_the_requests_and_each_size_once() -> None:
    trace = traces.parse("nasa", TRACE.splitlines())
    assert trace == Trace("nasa", [1, 2, 1, 3], {1: 1713, 2: 8677, 3: 0})
    assert trace.asked_bytes() == 2 * 1713 + 8677
    assert trace.unique_bytes() == 1713 + 8677


def test_an_object_is_as_large_as_it_ever_was() -> None:
    assert traces.parse("t", ["time,object,size", "1,7,10", "2,7,30", "3,7,20"]).sizes == {7: 30}


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "first line"),
        (["time;object;size"], "first line"),
        (["time,object,size", "1,2"], "line 2"),
        (["time,object,size", "1,2,3", "1,2,three"], "line 3"),
        (["time,object,size", "1,2,3,4"], "line 2"),
        (["time,object,size", "1,2,-1"], "below 0"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(lines: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        traces.parse("t", lines)


def test_a_trace_is_read_compressed_or_plain(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TRACE)
    with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
        file.write(TRACE)
    assert traces.read(tmp_path / "t.csv") == traces.read(tmp_path / "t.csv.gz")


@pytest.mark.parametrize(
    ("bounds", "requests"),
    [
        ({}, [1, 2, 1, 3, 2]),
        ({"requests": 3}, [1, 2, 1]),
        ({"requests": 99}, [1, 2, 1, 3, 2]),
        ({"files_bytes": 60}, [1, 2, 1, 3, 2]),
        ({"files_bytes": 59}, [1, 2, 1]),
        ({"files_bytes": 10}, [1]),
        ({"files_bytes": 9}, []),
        ({"requests": 2, "files_bytes": 59}, [1, 2]),
    ],
)
def test_the_beginning_is_as_long_as_its_files_may_be(bounds: dict[str, int], requests: list[int]) -> None:
    whole = Trace("t", [1, 2, 1, 3, 2], {1: 10, 2: 20, 3: 30})
    trace = traces.beginning(whole, **bounds)
    assert trace.requests == requests
    assert trace.sizes == {number: whole.sizes[number] for number in requests}


def test_the_zipf_trace_is_always_the_same_and_some_objects_are_popular() -> None:
    trace = traces.zipf(2000, 300)
    assert trace == traces.zipf(2000, 300)
    assert len(trace.requests) == 2000
    assert set(trace.requests) == set(trace.sizes) <= set(range(1, 301))
    first, last = trace.requests.count(1), trace.requests.count(300)
    assert first > 10 * max(1, last)


def test_there_is_a_file_of_its_size_for_each_object(tmp_path: Path) -> None:
    sizes = {1: 0, 2: 1, 3: traces.MIB, 4: 2 * traces.MIB + 5}
    traces.make_files(Trace("t", [1, 2, 3, 4], sizes), tmp_path)
    assert {int(path.name): path.stat().st_size for path in tmp_path.iterdir()} == sizes


def test_files_that_would_fill_the_disk_are_not_begun(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="to spare"):
        traces.make_files(Trace("t", [1], {1: 1 << 60}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_the_reads_of_the_one_disk_count() -> None:
    assert cgroups.parse_blkio(BYTES_V1, "254:0") == 20971520
    assert cgroups.parse_blkio(BYTES_V1, "7:0") == 4096
    assert cgroups.parse_blkio(BYTES_V1, "8:0") == cgroups.parse_blkio("Total 0\n", "254:0") == 0
    assert cgroups.parse_io_stat(IO_STAT, "254:0") == Reads(152, 1363968)
    assert cgroups.parse_io_stat(IO_STAT, "8:0") == cgroups.parse_io_stat("", "254:0") == Reads(0, 0)


def test_a_disk_that_was_asked_for_nothing_has_a_line_without_figures() -> None:
    assert cgroups.parse_io_stat(IO_STAT, "7:0") == Reads(0, 0)


def test_reads_are_counted_from_an_instant_on() -> None:
    assert Reads(10, 5000).since(Reads(4, 1000)) == Reads(6, 4000)


def test_each_controller_is_found_where_it_is_mounted() -> None:
    found = cgroups.parse_mounts(MOUNTS_V1)
    assert found["memory"] == Path("/sys/fs/cgroup/memory")
    assert found["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert found["cgroup2"] == Path("/sys/fs/cgroup/unified")
    assert cgroups.parse_mounts("") == {}


def test_keys_and_numbers() -> None:
    assert cgroups.parse_flat("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")["oom_kill"] == 2


def test_pages_of_files_are_those_that_were_not_written_to() -> None:
    assert cgroups.parse_smaps(SMAPS) == {"fe:00 1311 00000000": 100 << 10, "fe:00 1311 00028000": 4 << 10}


def test_an_answer_is_the_whole_file() -> None:
    check_head(Wanted("7", 5), b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
    for head in (
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"what?\r\n\r\n",
    ):
        with pytest.raises(Broken, match=r"^7: "):
            check_head(Wanted("7", 5), head)


def test_ours_runs_with_each_policy_and_cache_and_variant() -> None:
    found = samememory.subjects(["caddy"], ["1MiB", "2MiB"], ["lru"], [[], ["--io", "pool"]])
    assert [subject.name for subject in found] == [
        "caddy",
        "gserver --cache 1MiB --policy lru",
        "gserver --cache 1MiB --policy lru --io pool",
        "gserver --cache 2MiB --policy lru",
        "gserver --cache 2MiB --policy lru --io pool",
    ]


@pytest.mark.parametrize(
    ("usage", "variants"),
    [
        ("--cache SIZE", [[], ["--io", "pool"]]),
        (
            "--page-cache {keep,drop}",
            [
                ["--page-cache", "keep"],
                ["--page-cache", "drop"],
                ["--page-cache", "keep", "--io", "pool"],
                ["--page-cache", "drop", "--io", "pool"],
            ],
        ),
    ],
)
def test_both_ways_with_the_page_cache_are_measured_where_there_are_two(
    usage: str, variants: list[list[str]]
) -> None:
    assert samememory.variants_of_ours(usage, [["--io", "pool"]]) == variants


def test_a_row_has_a_cell_for_each_column_and_a_dash_for_what_there_is_not() -> None:
    row = samememory.cells(FIGURES)
    assert row == ["1,938", "109", "27.7k", "1.4", "22", "123", "10", "110", "-"]
    assert len(row) + 1 == len(samememory.HEAD)


def test_a_median_of_rounds_is_one_of_each_figure() -> None:
    rounds = [
        Figures(**{**asdict(FIGURES), "disk_reads": reads, "hit_ratio": ratio})
        for reads, ratio in ((3.0, 0.5), (1.0, 0.7), (2.0, 0.6))
    ]
    middle = samememory.medians(rounds)
    assert (middle.disk_reads, middle.hit_ratio) == (2.0, 0.6)
    assert samememory.medians([FIGURES, rounds[0]]).hit_ratio is None


def test_a_server_that_read_less_than_the_files_have_is_doubted() -> None:
    results = samememory.Results()
    results.figures[Subject("caddy")] = [FIGURES]
    assert not list(samememory.doubts(results, Trace("t", [1], {1: 109 << 20})))
    assert list(samememory.doubts(results, Trace("t", [1], {1: (109 << 20) + 1})))
    results.reasons[Subject("caddy")] = "killed later"
    assert not list(samememory.doubts(results, Trace("t", [1], {1: (109 << 20) + 1})))
    assert not list(results.rows())


@pytest.mark.parametrize(
    "arguments",
    [["--peers", "apache"], ["--policy", "random"], ["--cache", "much"], ["--limit", "few"], ["--memory", "-1"]],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        samememory.parse(arguments)
    assert "error" in capsys.readouterr().err
