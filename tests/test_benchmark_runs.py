"""Each benchmark once, as short as it can be: it ends well, leaves nothing behind, and says what it measured."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.program import PROJECT

pytestmark = [
    pytest.mark.external,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no Linux"),
]

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
needs_fuse = pytest.mark.skipif(
    not (Path("/dev/fuse").exists() and (shutil.which("fusermount") or shutil.which("fusermount3"))),
    reason="no FUSE",
)
needs_haproxy = pytest.mark.skipif(
    shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin") is None,
    reason="haproxy is not installed",
)
has_nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin") is not None


def run(place: Path, module: str, *arguments: str, path: str = os.environ.get("PATH", os.defpath)) -> str:
    """What a benchmark prints. It must end well, and leave nothing in its temporary folder."""
    (place / "temporary").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        cwd=PROJECT,
        env=os.environ | {"PATH": path, "TMPDIR": str(place / "temporary")},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert list((place / "temporary").iterdir()) == []
    return done.stdout


@needs_wrk
@needs_h2load
def test_http_measures_what_is_installed_and_writes_it_down(tmp_path: Path) -> None:
    figures, plot = tmp_path / "figures.json", tmp_path / "plot.svg"
    said = run(tmp_path, "http", "--quick", "--markdown", "--json", str(figures), "--plot", str(plot))
    assert "one core, one worker" in said
    assert "| gserver |" in said
    found = json.loads(figures.read_text())
    (column,) = found["throughput"]
    assert column["title"] == "1 KiB"
    (only,) = column["samples"]["gserver"]
    assert min(only["per_s"], only["cpu_us"]) > 0
    assert only["system_us"] <= only["cpu_us"]
    assert only["failed"] == 0
    (logged,) = found["access_log"]
    assert logged["lines"] >= logged["figures"]["samples"]["with"][0]["answered"] > 0
    if has_nginx:
        assert found["left_out"] == []
        assert found["latency"][0]["rounds"]["gserver"][0]["failed"] == 0
        assert "gserver" in plot.read_text()


def test_http_says_what_is_missing_and_leaves_it_out(tmp_path: Path) -> None:
    said = run(tmp_path, "http", "--columns", "browser", path="")
    assert "left out: 1 KiB, browser's head with varying cookie: wrk is not installed (Debian: wrk)\n" in said


@needs_fuse
def test_slowdisk_measures_beside_slow_readers(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    said = run(tmp_path, "slowdisk", "--quick", "--json", str(figures))
    if "left out: no FUSE file system can be mounted" in said:
        pytest.skip("no FUSE file system can be mounted here")
    (rows,) = json.loads(figures.read_text()).values()
    (ours,) = [row for row in rows if row["name"] == "gserver"]
    assert ours["beside"]["answered"] > 0
    assert ours["cold_files_per_s"] > 0


@needs_wrk
@pytest.mark.parametrize(
    ("name", "first", "other"),
    [
        ("policies", "relocate", "what-if"),
        ("dashboard", "nobody", "dashboard"),
        ("dashboard", "nobody", "prometheus"),
    ],
)
def test_gserver_is_compared_with_itself(tmp_path: Path, name: str, first: str, other: str) -> None:
    said = run(tmp_path, name, "--rounds", "1", "--seconds", "1", "--columns", "1k", "--only", other)
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line.startswith((first, other))}
    assert rows[first][2] == "1.00"
    assert float(rows[other][2]) > 0
    assert "failed" not in said


@needs_wrk
def test_hotpath_says_which_lines_the_time_goes_to(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    said = run(tmp_path, "hotpath", "--quick", "--json", str(figures))
    assert "fileserver/" in said
    (scenario,) = json.loads(figures.read_text())["scenarios"]
    assert scenario["figures"]["samples"]["gserver"][0]["cpu_us"] > 0
    assert sum(line["share"] for line in scenario["profile"]["lines"]) == pytest.approx(1)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_gclient_is_compared_with_curl_and_with_what_it_imports(tmp_path: Path) -> None:
    said = run(tmp_path, "downloads", "--rounds", "1", "--starts", "1", "--mib", "65")
    lines = [line.split() for line in said.splitlines()]
    assert [line[:3] for line in lines if line[:1] == ["gserver"]] == [
        ["gserver", "to", "a"],
        ["gserver", "to", "/dev/null"],
    ]
    assert ("left out" in said) is not has_nginx
    assert {"gclient.py", "-m"} < {line[0] for line in lines if line}


@needs_haproxy
def test_cluster_measures_what_three_caches_hold_beside_one(tmp_path: Path) -> None:
    said = run(tmp_path, "cluster", "--rounds", "1", "--files", "600", "--requests", "3000", "--cache", "1MiB")
    rows = re.findall(r"^(one|three)\b.*?  (0\.\d{3})  +(\d+) +([\d.,k]+) ", said, re.M)
    ratios, held = [float(ratio) for _, ratio, _, _ in rows], [int(count) for _, _, count, _ in rows]
    assert len(rows) == 3, said
    assert ratios[2] > 1.2 * ratios[0]
    assert held[2] > 2.5 * held[0]
    assert "haproxy 2." in said
