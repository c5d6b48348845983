"""The parts of `benchmarks.downloads` that measure nothing."""

import pytest

from benchmarks import downloads
from benchmarks.clients import Refused
from benchmarks.downloads import IMPORTS_ONLY
from benchmarks.workloads import MIB

WHERE = ("to a file", "to /dev/null")


def seconds(curl: list[float], gclient: list[float]) -> dict[str, list[float]]:
    """Both clients, the same for each destination."""
    return {f"{name} {where}": each for where in WHERE for name, each in (("curl", curl), ("gclient", gclient))}


def test_half_the_time_is_twice_the_speed() -> None:
    table = downloads.speed_table({"gserver": seconds([2.0, 4.0, 2.0], [1.0, 1.0, 4.0])}, 1024 * MIB)
    assert table.rows[0] == ["gserver", "to a file", "512", "1,024", "2.00 (0.50 to 4.00)"]
    assert [row[1] for row in table.rows] == list(WHERE)


def test_a_start_is_judged_by_what_it_imports() -> None:
    started = {IMPORTS_ONLY: [0.02, 0.02], "gclient.py": [0.04, 0.04], "-m gclient": [0.03, 0.03]}
    assert downloads.start_table(started).rows[1] == ["gclient.py", "40.0 ms", "2.00 (2.00 to 2.00)"]
    said = list(downloads.judgements(started, {"gserver": seconds([0.8], [1.0])}))
    assert said == [
        "MISSED  2 times the imports alone, gclient.py (at most 1.5)",
        "reached 1.5 times the imports alone, -m gclient (at most 1.5)",
        "MISSED  0.8 of curl's speed to a file, from gserver (at least 0.9)",
    ]


def test_a_client_that_fails_has_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "pin", lambda _core: None)
    with pytest.raises(Refused):
        downloads.run_s(["false"])


@pytest.mark.parametrize("line", [["--rounds", "0"], ["--starts", "-1"], ["--mib", "x"]])
def test_what_cannot_be_measured_is_a_usage_error(line: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        downloads.parse(line)
    assert caught.value.code == 2
