"""The parts of `benchmarks.hotpath`: what `perf` says, what is counted inside the server, the tables."""

import json
import os
import signal
from pathlib import Path

import pytest

from benchmarks import hotpath, perf
from benchmarks.clients import fetch_all
from benchmarks.hotpath import AGAINST, HERE, Profile, Result
from benchmarks.peers import GSERVER, Missing, serving
from benchmarks.perf import Share
from benchmarks.tables import Figures, Sample

REPORTED = """
 62.50% ;[kernel.kallsyms]
 31.25% ;libpython3.11.so.1.0
  6.25% ;libc.so.6

"""
SYMBOLS = """
12.50%  ;[.] _PyEval_EvalFrameDefault                ;libpython3.11.so.1.0                    ;-      -
 6.25%  ;[k] _raw_spin_unlock_irqrestore             ;[kernel.kallsyms]                       ;-      -
"""

COUNTED = """# started on Mon Nov 23 12:00:00 2026

120000;;instructions:u;3000000000;100.00;;
80000;;instructions:k;3000000000;100.00;;
"""
NOT_COUNTED = """
<not supported>;;instructions:u;0;100.00;;
<not supported>;;instructions:k;0;100.00;;
"""


# What perf says.


def test_shares_are_read_with_one_name_or_two() -> None:
    assert perf.parse(REPORTED)[:2] == [
        Share(0.625, "[kernel.kallsyms]"),
        Share(0.3125, "libpython3.11.so.1.0"),
    ]
    assert perf.parse(SYMBOLS)[1] == Share(0.0625, "_raw_spin_unlock_irqrestore", "[kernel.kallsyms]")
    assert perf.parse("") == []


def test_instructions_are_the_users_and_the_kernels() -> None:
    assert perf.instructions(COUNTED) == 200_000


@pytest.mark.parametrize("said", [NOT_COUNTED, "", COUNTED.replace("80000", "<not counted>")])
def test_instructions_that_nobody_counts_are_said_to_be_missing(said: str) -> None:
    with pytest.raises(Missing, match="no instructions are counted here"):
        perf.instructions(said)


# What is counted inside the server.


def test_a_line_has_its_share_and_a_function_that_of_all_it_calls(tmp_path: Path) -> None:
    source = tmp_path / "wire.py"
    source.write_text("def inner():\n    work()\n")
    file = str(source)
    inner, outer, again = (file, 2, "inner"), (file, 8, "outer"), (file, 9, "outer")
    lines, calls = hotpath.in_python([(3, [inner, outer]), (1, [again, outer])])
    where = f"{tmp_path.name}/wire.py"
    assert lines == [Share(0.75, f"{where}:2 inner", "work()"), Share(0.25, f"{where}:9 outer")]
    assert calls == [Share(1, "outer", where), Share(0.75, "inner", where)]


def test_a_server_under_the_sampler_serves_and_says_what_it_did(tmp_path: Path, folder: Path) -> None:
    output = tmp_path / "stacks.json"
    names = [f"f{number}" for number in range(1000)]
    for name in names:
        (folder / name).write_bytes(b"x" * 1024)
    with serving("gserver", folder, program=("-P", str(hotpath.SAMPLER), str(output), str(GSERVER))) as peer:
        os.kill(peer.pids()[0], signal.SIGUSR1)
        fetch_all(peer.port, names, connections=8)
    stacks = json.loads(output.read_text())
    assert stacks
    assert {Path(stack[-1][0]).name for _, stack in stacks} & {"hub.py", "greenlet.py", "baseserver.py"}


# Tables.


def figures(*names: str) -> Figures:
    return Figures(
        "1 KiB", {name: [Sample(100, 10.0 + place, 6.0, 0.95, 100, 0)] for place, name in enumerate(names)}
    )


def test_cpu_time_is_split_and_compared_with_the_other_checkout() -> None:
    ours, other = hotpath.summary_table([Result(figures(HERE, AGAINST), 31_000.0, Profile())]).rows
    assert ours == ["1 KiB: gserver", "100", "10.00", "4.00", "6.00", "95%", "31.0k", "", ""]
    assert other == ["1 KiB: against", "100", "11.00", "5.00", "6.00", "95%", "-", "0.91 (0.91 to 0.91)", ""]


def test_a_share_costs_its_part_of_the_undisturbed_time() -> None:
    profile = Profile(lines=[Share(0.25, "wire.py:2 inner", "work()")], libraries=[Share(0.5, "libc.so.6")])
    lines, libraries = hotpath.profile_tables(Result(figures(HERE), None, profile))
    assert lines.rows == [["2.50", "25.0%", "wire.py:2 inner", "work()"]]
    assert libraries.rows == [["5.00", "50.0%", "libc.so.6", ""]]
