"""What benchmarks/ makes of figures. How fast anything is, no test says."""

import argparse
import io
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks.clients import stats
from benchmarks.command import names_of
from benchmarks.load import (
    LATE_MS,
    RATE_CONNECTIONS,
    SKIPPED_S,
    Asking,
    Load,
    NoFigure,
    answer_head,
    parse_h2load,
    parse_wrk,
    summary,
    warm,
    with_held_back,
)
from benchmarks.peers import GSERVER, Missing, Peer, serving
from benchmarks.report import Spread, Table, bars, heading, judgement, percentile, ratios, short, spread
from benchmarks.rounds import rotated
from benchmarks.tables import (
    Figures,
    Logged,
    Paced,
    Sample,
    access_log_table,
    column_table,
    latency_table,
    throughput_table,
)
from benchmarks.workloads import MIB, columns
from tests.program import Program

WRK = """Running 1s test @ http://127.0.0.1:35437/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   641.30us  211.70us   6.67ms   95.16%
    Req/Sec    98.55k     2.02k  100.88k    80.00%
  98038 requests in 1.00s, 118.19MB read
  Non-2xx or 3xx responses: 3
Requests/sec:  98027.21
Transfer/sec:    118.17MB
answered 98038 in 1000110 us, failed 3
"""

H2LOAD = """starting benchmark...
spawning thread #0: 64 total client(s). Timing-based test with 0s of warm-up time and 1s of main duration.
Application protocol: http/1.1
Main benchmark duration is over for thread #0. Stopping all clients.

finished in 1.00s, 61094.00 req/s, 1.36GB/s
requests: 61094 total, 61158 started, 61094 done, 40751 succeeded, 20343 failed, 0 errored, 0 timeout
status codes: 40751 2xx, 0 3xx, 20343 4xx, 0 5xx
traffic: 1.36GB (1462808159) total, 9.52MB (9983284) headers (space savings 0.00%), 1.35GB (1450032910) data
                     min         max         mean         sd        +/- sd
time for request:      461us      5.20ms      1.05ms       240us    81.59%
req/s           :     949.28      960.57      954.13        2.54    65.63%
"""

NOBODY_THERE = """starting benchmark...
spawning thread #0: 4 total client(s). 20 total requests

finished in 331us, 0.00 req/s, 0B/s
requests: 20 total, 0 started, 0 done, 0 succeeded, 20 failed, 20 errored, 0 timeout
status codes: 0 2xx, 0 3xx, 0 4xx, 0 5xx
"""


# Figures.


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7], 0, 7),
        ([7], 100, 7),
        ([3, 1, 2], 50, 2),
        ([4, 3, 2, 1], 50, 2),
        ([*range(1, 101)], 99, 99),
        ([*range(1, 102)], 99, 100),
        ([*range(1, 1001)], 99.9, 999),
    ],
)
def test_a_percentile_is_one_of_the_values(values: list[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected


def test_a_ratio_is_taken_within_a_round() -> None:
    """The machine was half as fast in the second: of the totals that would be 0.45."""
    assert ratios([50, 40, 10], [100, 50, 100]) == Spread(median=0.5, lowest=0.1, highest=0.8)


def test_every_round_needs_its_reference() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1, 2], [1])


def test_a_spread_says_how_far_the_rounds_are_apart() -> None:
    assert str(spread([1.0, 0.5, 0.905])) == "0.91 (0.50 to 1.00)"


@pytest.mark.parametrize(
    ("value", "said"), [(93_140, "93.1k"), (2_910, "2,910"), (125.4, "125"), (10_000, "10.0k")]
)
def test_a_count_is_short(value: float, said: str) -> None:
    assert short(value) == said


@pytest.mark.parametrize(
    ("figure", "bound", "said"),
    [
        (8827.4, {"at_most": 10_240}, "reached 8,827 bytes each (at most 10,240)"),
        (10_241, {"at_most": 10_240}, "MISSED  10,241 bytes each (at most 10,240)"),
        (0.9, {"at_least": 0.9}, "reached 0.9 bytes each (at least 0.9)"),
        (0.8, {"at_least": 0.9}, "MISSED  0.8 bytes each (at least 0.9)"),
    ],
)
def test_a_target_is_reached_or_missed(figure: float, bound: dict[str, float], said: str) -> None:
    assert judgement("bytes each", figure, **bound) == said


# What the generators say.


def test_wrk_is_believed_what_its_script_prints() -> None:
    assert parse_wrk(WRK) == Load(answered=98038, seconds=1.00011, failed=3)


@pytest.mark.parametrize(
    ("said", "load"),
    [
        (H2LOAD, Load(answered=61094, seconds=1.0, failed=20343)),
        (NOBODY_THERE, Load(answered=0, seconds=0.0, failed=20)),
    ],
)
def test_h2load_is_believed_its_summary(said: str, load: Load) -> None:
    assert parse_h2load(said) == load


def test_a_generator_that_says_something_else_has_no_figure() -> None:
    with pytest.raises(NoFigure, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1:1 Connection refused\n")
    with pytest.raises(NoFigure, match="unrecognized option"):
        parse_h2load("h2load: unrecognized option '--rps=3'\n")


def test_the_first_moments_of_a_steady_rate_are_not_counted() -> None:
    began_us, skipped_us = 1_700_000_000_000_000, int(SKIPPED_S * 1e6)
    rows = [(0, 500_000), (skipped_us - 1, 500_000), *((skipped_us + each * 1000, 500) for each in range(98))]
    rows += [(skipped_us + 98_000, LATE_MS * 1000), (skipped_us + 99_000, 101_000)]
    log = [f"{began_us + start}\t200\t{took}\n" for start, took in rows]
    latencies = summary(reversed(log), 1000, failed=0, busy=0.5)
    assert (latencies.p50_ms, latencies.p99_ms, latencies.max_ms) == (0.5, LATE_MS, 101)
    assert latencies.late == 1
    assert latencies.held_per_s == pytest.approx(100 / 0.5, rel=1e-3)  # until the last answer of all


def test_an_answer_stands_for_those_that_waited_behind_it() -> None:
    assert with_held_back([3, 10, 35], interval_ms=10) == [3, 10, 35, 25, 15, 5]
    log = ["1 200 100", f"600000 200 {LATE_MS * 1000 + 1}"]
    assert summary(log, RATE_CONNECTIONS * 100, failed=0, busy=0.5).late == 1
    log = ["1 200 100", f"600000 200 {LATE_MS * 1000 + 30_001}"]
    assert summary(log, RATE_CONNECTIONS * 100, failed=0, busy=0.5).late == 4


def test_a_steady_rate_without_answers_has_no_figure() -> None:
    with pytest.raises(NoFigure):
        summary([], 1000, failed=0, busy=0)


# Servers.


def test_a_server_that_is_not_installed_is_named_with_its_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Missing, match=r"^h2o is not installed \(Debian: h2o\)$"), serving("h2o", folder):
        pass


def test_another_program_may_stand_in_for_gserver(folder: Path) -> None:
    with serving("gserver", folder, program=("-X", "dev", str(GSERVER)), options=("--cache", "1MiB")) as peer:
        assert stats(peer.port)["capacity"] == 1 << 20
        (pid,) = peer.pids()
        assert Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:3] == [b"-X", b"dev"]
        assert 0 <= peer.system_s() <= peer.cpu_s() + 0.02


# What is asked.


def test_paths_and_fields_take_turns() -> None:
    first, second, third = Asking(["a", "b"], ["X: 1\r\n", "X: 2\r\n", ""]).requests("h:1")
    assert first == "GET /a HTTP/1.1\r\nHost: h:1\r\nX: 1\r\n\r\n"
    assert second == "GET /b HTTP/1.1\r\nHost: h:1\r\nX: 2\r\n\r\n"
    assert third == "GET /a HTTP/1.1\r\nHost: h:1\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nETag: x\r\ncontent-length: 12\r\n\r\n", ("HTTP/1.1 200 OK", 12)),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\n", ("HTTP/1.1 403 Forbidden", 3)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ("HTTP/1.1 200 OK", -1)),
        (b"", ("", -1)),
    ],
)
def test_the_head_of_an_answer_is_read_and_no_more(head: bytes, said: tuple[str, int]) -> None:
    answers = io.BytesIO(head + b"body" * bool(head))
    assert answer_head(answers) == said
    assert answers.read() == b"body" * bool(head)


def test_a_server_that_answers_something_else_is_not_measured(folder: Path) -> None:
    (folder / "a").write_bytes(b"content")
    with Program(folder) as server:
        peer = Peer("gserver", "", server.port, [server.process.pid])
        warm(peer, {"a": 7})
        with pytest.raises(NoFigure, match=r"a of 8 bytes with .* OK, 7 bytes"):
            warm(peer, {"a": 8})
        with pytest.raises(NoFigure, match="404 Not Found"):
            warm(peer, {"a": 7, "b": 7})
    with pytest.raises(NoFigure, match="does not answer"):
        warm(peer, {"a": 7})


def test_the_columns_are_what_the_table_says_of_them() -> None:
    known = columns()
    for column in known.values():
        assert set(column.asking.paths) <= column.sizes.keys()
    assert len(set(known["browser"].asking.requests("h"))) == 1000
    zipf, misses = known["zipf"], known["misses"]
    assert len(zipf.sizes) == 4000
    assert sum(zipf.sizes.values()) <= 60 * MIB
    assert zipf.asking.paths.count("f0") > 9 * zipf.asking.paths.count("f9") > 0
    assert sum(misses.sizes.values()) > 4 * 15_000_000 * 0.99
    assert max(map(misses.asking.paths.count, ("f0", "f1", "f59999"))) < 20


# The command line.


def test_names_on_a_command_line_are_known_ones() -> None:
    parse = names_of(["nginx copy", "gserver"])
    assert parse("gserver, nginx copy,") == ["gserver", "nginx copy"]
    for wrong in ("apache", "gserver --threads 64"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not one of nginx copy, gserver"):
            parse(wrong)


def test_a_name_may_have_options_where_they_are_allowed() -> None:
    parse = names_of(["gserver"], with_options=True)
    assert parse("gserver --threads 64,gserver") == ["gserver --threads 64", "gserver"]
    with pytest.raises(argparse.ArgumentTypeError):
        parse("apache --threads 64")


# Tables.


def sample(per_s: float, cpu_us: float, busy: float = 1.0, failed: int = 0) -> Sample:
    return Sample(per_s, cpu_us, cpu_us / 2, busy, answered=int(per_s), failed=failed)


FIGURES = Figures(
    "1 KiB",
    {
        "nginx sendfile": [sample(80, 12), sample(90, 11)],
        "nginx copy": [sample(100, 10), sample(100, 10)],
        "gserver": [sample(90, 11, busy=0.5), sample(80, 15, busy=0.6, failed=7)],
    },
)


def test_the_reference_is_the_faster_nginx() -> None:
    assert FIGURES.reference() == "nginx copy"
    assert Figures("", {"gserver": [sample(1, 1)]}).reference() is None


def test_the_table_has_both_ratios_and_says_what_is_wrong_with_them() -> None:
    head, peak, *rows = [line.split("|") for line in throughput_table([FIGURES]).markdown().splitlines()]
    assert [cell.strip() for cell in head] == ["", "throughput / CPU per request", "1 KiB", ""]
    cells = {row[1].strip(): row[2].strip() for row in rows}
    assert cells == {
        "reference, requests/s": "100 (nginx copy)",
        "nginx sendfile": "0.85 / 1.15",
        "nginx copy": "1.00 / 1.00",
        "gserver": "0.85 / 1.30* (7 failed)",
    }
    assert set(peak) <= {"", " --- "}


def test_a_column_says_what_was_not_busy_and_what_failed() -> None:
    last = column_table(FIGURES).text().splitlines()[-1]
    assert last.split() == [
        *("gserver", "85", "0.85", "(0.80", "to", "0.90)", "13.0", "1.30", "(1.10", "to", "1.50)", "55%"),
        *("judged", "by", "CPU,", "7", "failed"),
    ]


def test_without_an_nginx_there_are_figures_but_no_ratios() -> None:
    lonely = Figures("1 KiB", {"gserver": FIGURES.samples["gserver"]})
    assert throughput_table([lonely]).rows == [["reference, requests/s", "no nginx here"], ["gserver", "85/s"]]
    assert column_table(lonely).rows[0][2] == "-"


def test_a_server_that_is_not_in_a_column_leaves_its_cell_empty() -> None:
    other = Figures("16 MiB", {"nginx copy": [sample(1, 1)]})
    assert throughput_table([FIGURES, other]).rows[-1] == ["gserver", "0.85 / 1.30* (7 failed)", ""]


def test_the_log_costs_what_the_one_with_it_is_slower() -> None:
    taken = Figures("1 KiB", {"without": [sample(100, 10)], "with": [sample(90, 11.5)]})
    assert access_log_table([Logged(taken, 91)]).rows == [["1 KiB", "10.0%", "15.0%", "100%"]]


def test_a_log_that_was_not_written_costs_nothing_and_that_is_said() -> None:
    taken = Figures("1 KiB", {"without": [sample(100, 10)] * 2, "with": [sample(50, 10)] * 2})
    assert access_log_table([Logged(taken, 1)]).rows[0][-1] == "1%"


def test_latencies_are_compared_with_the_reference() -> None:
    quick = summary(["1 200 100", "600000 200 1000"], 6, failed=0, busy=0.3)
    slow = summary(["1 200 100", "600000 200 60000"], 6, failed=1, busy=0.95)
    table = latency_table([Paced("1 KiB", "nginx copy", {"nginx copy": [quick], "gserver": [slow]})])
    assert [row[0] for row in table.rows] == ["1 KiB: nginx copy", "1 KiB: gserver"]
    assert table.rows[1][-3:] == ["60.00 (60.00 to 60.00)", "1", "h2load 95% busy, 1 failed"]


def test_a_rate_that_is_not_held_is_said() -> None:
    slow = summary(["1 200 100", "600000 200 400000"], 10, failed=0, busy=0.3)
    assert (
        latency_table([Paced("1 KiB", "nginx copy", {"nginx copy": [slow]})]).rows[0][-1]
        == "does not hold the rate"
    )


def test_a_table_is_aligned_for_a_terminal_and_plain_in_markdown() -> None:
    table = Table(["a", "b"], [["long name", "1"], ["x|y", ""]])
    assert table.text() == "a          b\nlong name  1\nx|y"
    assert table.markdown() == "| a | b |\n| --- | --- |\n| long name | 1 |\n| x\\|y |  |"


def test_the_heading_says_on_what_and_how() -> None:
    said = heading("benchmarks.http", {"nginx": "1.22.1"}, ["--peers", "nginx copy,gserver"])
    assert "one core, one worker. nginx 1.22.1. " in said
    assert said.endswith("`python -m benchmarks.http --peers 'nginx copy,gserver'`")


def test_bars_are_as_long_as_the_ratios() -> None:
    drawn = ET.fromstring(bars("a < b", {"1 KiB": {"one": 1.0, "half": 0.5, "huge": 40.0}}))
    widths = [float(each.attrib["width"]) for each in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[0] == 2 * widths[1] == widths[2] / 2  # cut at two
    assert "40.00" in "".join(drawn.itertext())


def test_each_round_begins_with_another_server() -> None:
    assert [rotated(["a", "b", "c"], number) for number in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]
    assert rotated([], 3) == []
