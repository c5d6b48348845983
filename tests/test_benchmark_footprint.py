"""The parts of `benchmarks.footprint` that measure nothing."""

from pathlib import Path

import pytest

from benchmarks import footprint, idle, memory, start
from benchmarks.clients import Refused, body_length
from benchmarks.idle import Idle
from benchmarks.memory import CACHE_BYTES, Filling, Held
from benchmarks.start import Import, Starts
from benchmarks.workloads import KIB, MIB

IMPORTED = """import time: self [us] | cumulative | imported package
import time:       372 |        372 |   _io
import time:      1030 |       1402 | gevent
gserver: http://127.0.0.1:1/ serves /tmp
import time:      9000 |       9000 | ssl
"""


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 404 Not Found\r\nContent-Length: 5", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", b""],
)
def test_only_a_whole_file_is_an_answer(head: bytes) -> None:
    assert body_length(b"HTTP/1.1 200 OK\r\nETag: x\r\ncontent-length: 12") == 12
    with pytest.raises(Refused):
        body_length(head)


def test_sizes_add_up_and_stay_within_their_bounds() -> None:
    sizes = memory.mixed_sizes(CACHE_BYTES, 64 * KIB, MIB, seed=1)
    assert sum(sizes) == CACHE_BYTES
    assert 64 * KIB <= min(sizes) <= max(sizes) <= MIB
    assert (
        sizes
        == memory.mixed_sizes(CACHE_BYTES, 64 * KIB, MIB, seed=1)
        != memory.mixed_sizes(CACHE_BYTES, 64 * KIB, MIB, seed=2)
    )


@pytest.mark.parametrize(("size", "fit"), [(CACHE_BYTES, 1), (CACHE_BYTES // 2, 2), (CACHE_BYTES // 2 + 1, 1)])
def test_a_cache_is_full_of_what_fits_it(folder: Path, size: int, fit: int) -> None:
    for name in "abc":
        with (folder / name).open("wb") as file:
            file.truncate(size)
    assert memory.cache_full(["a", "b", "c"], folder) == fit


def test_small_files_are_names_of_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CACHE_ENTRIES", 10)
    monkeypatch.setattr(memory, "LINKS_MAX", 7)
    names = memory.small_files(tmp_path)
    assert len(set(names)) == 30
    assert {(tmp_path / name).stat().st_size for name in names} == {KIB}
    assert len({(tmp_path / name).stat().st_ino for name in names}) == 5


def test_the_most_that_was_ever_resident_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FILLINGS", (Filling("1 KiB", memory.small_files, 100 * MIB),))
    moments = [
        Held("full", 101 * MIB, 105 * MIB, 64 * MIB, 65_536, 0),
        Held("later", 90 * MIB, 105 * MIB, 1, 1, 9),
    ]
    (said,) = memory.judgements({"1 KiB": moments})
    assert said == "MISSED  101 MiB with files of 1 KiB (at most 100)"
    assert memory.held_table({"1 KiB": moments}).rows[0][2:5] == ["101.0 MiB", "105.0 MiB", "64.0 MiB"]


def test_an_idle_connection_costs_its_part_of_what_they_cost_together() -> None:
    rates = {file: [100.0, 100.0, 100.0] for file in idle.ACTIVE_FILES}
    ours = Idle("", 10 * MIB, 10 * MIB + 5000, 10, rates, rates | {"64KiB": [95.0, 80.0, 85.0]})
    assert ours.each_bytes == 500
    assert list(idle.judgements(ours)) == [
        "reached 500 bytes for an idle connection (at most 10,240)",
        "MISSED  0.85 of the throughput beside them (at least 0.9)",
    ]
    assert idle.memory_table({"gserver": ours}).rows[0][-1] == "500 bytes"
    assert idle.throughput_table({"gserver": ours}).rows[1][2:4] == ["100/s", "85/s"]


def test_a_start_is_compared_with_the_imports_of_its_round() -> None:
    starts = Starts([0.2, 0.4, 0.3], [0.1, 0.3, 0.3])
    assert starts.ratio().median == pytest.approx(4 / 3)
    assert list(start.judgements(starts)) == ["reached 1.33 times the imports alone (at most 1.5)"]
    assert start.starts_table(starts).rows[0][1:] == ["300 ms", "200 ms", "400 ms"]


def test_the_most_expensive_import_comes_first() -> None:
    times = start.import_times(IMPORTED)
    assert times[:2] == [Import("ssl", 9000, 9000), Import("gevent", 1030, 1402)]
    assert start.imports_table(times).rows[1] == ["gevent", "1.4 ms", "1.0 ms"]


@pytest.mark.parametrize("line", [["disk"], ["--connections", "0"], ["--rounds", "-1"], ["--seconds", "some"]])
def test_a_wrong_command_line_is_refused(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        footprint.parse(line)
    assert "error" in capsys.readouterr().err
