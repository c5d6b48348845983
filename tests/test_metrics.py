"""`/-/metrics`: what Prometheus reads agrees with `/-/stats`, number for number, and keeps to its conventions."""

import math
import os
import re
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from fileserver.about import metrics
from fileserver.latency import BOUNDS
from tests.house import House
from tests.program import PROJECT, Program, sparse

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
CLASSES = ("hit", "miss", "coalesced", "bypass", "none")
QUANTILES = {"p50": "0.5", "p90": "0.9", "p99": "0.99", "p99.9": "0.999"}

Labels = frozenset[tuple[str, str]]


class Scrape:
    """An exposition taken apart: its `families` by name, and the value of each sample by name and labels."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.families: dict[str, Metric] = {family.name: family for family in families}
        assert len(self.families) == len(families)
        samples = [sample for family in families for sample in family.samples]
        self.values = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
        assert len(self.values) == len(samples), "a series came twice"

    def __call__(self, name: str, **labels: str) -> float:
        """The value of one series."""
        return self.values[f"gserver_{name}", frozenset(labels.items())]

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """All series of a name, by the values of exactly these labels."""
        found = {
            tuple(dict(of)[label] for label in labels): value
            for (sample, of), value in self.values.items()
            if sample == f"gserver_{name}"
        }
        assert all(len(of) == len(labels) for sample, of in self.values if sample == f"gserver_{name}")
        return found

    def buckets(self, name: str, **labels: str) -> list[tuple[float, float]]:
        """The buckets of a histogram in the order they came: upper bound and how many are within."""
        return [
            (float(sample.labels["le"]), sample.value)
            for sample in self.families[f"gserver_{name}"].samples
            if sample.name == f"gserver_{name}_bucket"
            and {key: value for key, value in sample.labels.items() if key != "le"} == labels
        ]


def scrape(server: Program) -> Scrape:
    status, fields, content = server.get("/-/metrics")
    assert (status, fields["content-type"], fields["cache-control"]) == (200, CONTENT_TYPE, "no-store")
    assert content.endswith(b"\n")
    return Scrape(content.decode())


CHANGES = "connection.HEAD_S, server.REAP_EVERY_S = 0.3, 0.05"


@contextmanager
def loaded(folder: Path, *options: str) -> Iterator[Program]:
    """A server after a mixed load, at rest: it answers only who asks about it, and nobody is connected."""
    for number in range(10):
        sparse(folder / f"f{number}", 200_000)
    sparse(folder / "large", 3 << 20)
    sparse(folder / "huge", 5 << 20)
    sparse(folder / "exact", 1 << 20)
    with Program(folder, "--cache", "1MiB", *options, changes=CHANGES) as server:
        server.get("/exact")  # so full it will never be again
        with ThreadPoolExecutor(8) as crowd:
            list(crowd.map(lambda number: server.get(f"/f{number % 10}"), range(60)))
            list(
                crowd.map(
                    server.get, ["/huge", "/large", "/missing", "/", "/-/cache", "/%zz", "/f1", "/f1", "/f1"]
                )
            )
        assert server.get("/f1", "HEAD")[0] == 200
        assert server.get("/f1", "OPTIONS")[0] == 204
        assert server.get("/f1", "DELETE")[0] == 405
        assert server.get("/f1", Range="bytes=0-9")[0] == 206
        assert server.get("/f1", If_None_Match=server.get("/f1", "HEAD")[1]["etag"])[0] == 304
        assert len(server.raw(b"GET f1\n")) == 200_000
        assert server.raw(b"GET missing\n").startswith(b"ERROR")
        assert server.raw(b"nonsense\r\n\r\n")
        assert server.raw(b"GET /unfinished HTTP/1.1\r\n").startswith(b"HTTP/1.1 408")
        at_rest(server)  # and the first scrape imports, which takes memory
        yield server


def at_rest(server: Program) -> tuple[dict[str, Any], Scrape]:
    """Stats, and the metrics right after them, while nobody was connected but who asked for them.

    Bounded by the test's own time-out.
    """
    while True:
        stats, found = server.stats(), scrape(server)
        if stats["connections"] == sum(found.by("connections", "state").values()) == 1:
            return stats, found
        time.sleep(0.01)


# The numbers.


@pytest.mark.parametrize("io", ["auto", "pool"])
def test_every_number_is_that_of_the_stats(folder: Path, io: str) -> None:
    with loaded(folder, "--io", io) as server:
        (before, found), after = at_rest(server), server.stats()
    assert before["evictions"] > 0
    assert before["cached"] < before["peak"] == before["capacity"]
    assert all(before[kind] for kind in ("hits", "misses", "bypasses"))
    assert before["disk_reads_inline" if io == "auto" else "disk_reads_pool"] > 0

    # What nobody has moved meanwhile.
    kinds = {"hit": "hits", "miss": "misses", "coalesced": "coalesced", "bypass": "bypasses"}
    assert found.by("cache_requests_total", "cache") == {(of,): before[key] for of, key in kinds.items()}
    assert found.by("cache_bytes", "state") == {(of,): before[of] for of in ("cached", "filling")}
    for name, key in {
        "cache_capacity_bytes": "capacity",
        "cache_peak_bytes": "peak",
        "cache_entries": "entries",
        "cache_evictions_total": "evictions",
        "cache_violations_total": "violations",
        "fills_in_flight": "fills_in_flight",
        "connections_gave_way_total": "connections_gave_way",
        "connections_turned_away_total": "connections_turned_away",
        "accept_shortages_total": "accept_shortages",
        "dashboard_viewers": "viewers",
    }.items():
        assert found.by(name) == {(): before[key]}, name
        assert before[key] == after[key]
    assert found.by("connections", "state") == {
        (state,): count for state, count in before["connections_by_state"].items()
    }
    assert found.by("connections_expired_total", "state") == {
        (state,): count for state, count in before["connections_expired"].items()
    }
    assert found("connections_expired_total", state="reading") == 1
    assert found.by("disk_read_duration_seconds_count", "path") == {
        ("inline",): before["disk_reads_inline"],
        ("pool",): before["disk_reads_pool"],
    }

    # What has been asked since is the stats, once, by nobody else.
    answers = found.by("requests_total", "method", "status", "cache")
    expected = {(each["method"], str(each["status"]), each["cache"]): each["count"] for each in before["requests"]}
    expected["GET", "200", "none"] += 1
    assert answers == expected
    assert {method for method, _, _ in answers} == {"GET", "HEAD", "OPTIONS", "line", "other"}
    assert {status for _, status, _ in answers} >= {"200", "204", "206", "304", "400", "404", "405", "408"}
    assert before["bytes_sent"] < found("sent_bytes_total") < after["bytes_sent"]
    assert before["loop_lag"]["stalls"] <= found("loop_stalls_total") <= after["loop_lag"]["stalls"]
    assert found("loop_lag_seconds_count") > 0

    for name, key in (("time_to_first_byte", "first_byte_s"), ("response_duration", "total_s")):
        counts = {of: before["latency"][of][key]["count"] + (of == "none") for of in CLASSES}
        for kind in (name, f"{name}_percentiles"):
            assert found.by(f"{kind}_seconds_count", "cache") == {(of,): counts[of] for of in CLASSES}
        assert min(counts[of] for of in ("hit", "miss", "bypass", "none")) > 0
        for of in ("hit", "miss", "coalesced", "bypass"):
            for percentile, quantile in QUANTILES.items():
                seconds = found(f"{name}_percentiles_seconds", cache=of, quantile=quantile)
                said = before["latency"][of][key][percentile]
                assert (seconds == said) if said is not None else math.isnan(seconds)


def test_the_process_is_measured_as_the_stats_measure_it(folder: Path) -> None:
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("no /proc here")
    with Program(folder) as server:
        scrape(server)
        (stats, found), now_s = at_rest(server), time.time()
        values = {name: value for (name, _), value in found.values.items() if name.startswith("process_")}
        with open(f"/proc/{server.process.pid}/stat", encoding="ascii") as file:
            cpu_ticks = sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
    assert abs(values["process_resident_memory_bytes"] - stats["rss_bytes"]) < 4 << 20
    assert stats["rss_bytes"] > 10 << 20
    assert abs(values["process_open_fds"] - stats["open_fds"]) <= 2
    assert abs(now_s - values["process_start_time_seconds"] - stats["uptime_s"]) < 5
    assert 0 < values["process_cpu_seconds_total"] <= cpu_ticks / os.sysconf("SC_CLK_TCK") + 0.1


@pytest.mark.parametrize("io", ["auto", "pool"])
def test_histograms_are_cumulative_and_end_with_all(folder: Path, io: str) -> None:
    with loaded(folder, "--io", io) as server:
        found = scrape(server)
        stats = server.stats()
    series: dict[str, list[dict[str, str]]] = {
        "time_to_first_byte_seconds": [{"cache": of} for of in CLASSES],
        "response_duration_seconds": [{"cache": of} for of in CLASSES],
        "disk_read_duration_seconds": [{"path": "inline"}, {"path": "pool"}],
        "loop_lag_seconds": [{}],
    }
    histograms = {name for name, family in found.families.items() if family.type == "histogram"}
    assert histograms == {f"gserver_{name}" for name in series}
    for name, all_labels in series.items():
        for labels in all_labels:
            buckets = found.buckets(name, **labels)
            bounds, held = zip(*buckets, strict=True)
            assert list(bounds) == sorted(set(bounds))
            assert list(held) == sorted(held)
            assert (bounds[0], bounds[-2], bounds[-1]) == (1e-6, 315.0, math.inf)
            assert set(bounds[:-1]) <= set(BOUNDS)
            count, total_s = found(f"{name}_count", **labels), found(f"{name}_sum", **labels)
            assert count == held[-1]
            # Each time is above the bound before its bucket's, and not above that.
            parts = [after - before for before, after in zip((0.0, *held), held, strict=False)]
            lower = sum(part * bound for part, bound in zip(parts, (0.0, *bounds), strict=False))
            upper = sum(part * bound for part, bound in zip(parts, bounds, strict=True) if part)
            assert lower <= total_s * 1.000001
            assert total_s <= upper
            assert (total_s > 0) == (count > 0)
    for name, key in (("time_to_first_byte", "first_byte_s"), ("response_duration", "total_s")):
        for of in ("hit", "miss", "bypass"):
            percentiles_sum = found(f"{name}_percentiles_seconds_sum", cache=of)
            assert percentiles_sum == found(f"{name}_seconds_sum", cache=of)
            # A percentile lies within the bucket in which so many have been reached.
            count = found(f"{name}_seconds_count", cache=of)
            buckets = found.buckets(f"{name}_seconds", cache=of)
            for percentile, quantile in QUANTILES.items():
                needed = max(1.0, float(quantile) * count)
                at = next(at for at, (_, held) in enumerate(buckets) if held >= needed)
                said = stats["latency"][of][key][percentile]
                assert (buckets[at - 1][0] if at else 0.0) < said <= buckets[at][0]


def test_the_first_byte_is_never_later_than_the_last(folder: Path) -> None:
    with loaded(folder) as server:
        found = scrape(server)
    for of in CLASSES:
        first = found("time_to_first_byte_seconds_sum", cache=of)
        assert first <= found("response_duration_seconds_sum", cache=of)


def test_who_is_connected_is_counted_by_what_he_waits_for(folder: Path) -> None:
    sparse(folder / "large", 60 << 20)
    with Program(folder) as server, server.connect() as idle, server.connect() as reading, socket.socket() as slow:
        idle.sendall(b"GET /-/health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(1000)
        reading.sendall(b"GET /unfinished HTTP/1.1\r\n")
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((server.host, server.port))
        slow.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        expected = {"idle": 1, "reading": 1, "writing": 1, "closing": 0, "working": 1}
        while server.stats()["connections_by_state"] != expected:
            time.sleep(0.01)
        with server.connect() as viewer:
            viewer.sendall(b"GET /-/events HTTP/1.1\r\nHost: x\r\n\r\n")
            assert viewer.recv(100)
            assert scrape(server)("dashboard_viewers") == 1
        states = {(state,): count for state, count in expected.items()}
        found = scrape(server)
        # Who has gone is noticed with the next event, or a moment after the answer.
        while found("dashboard_viewers") or found.by("connections", "state") != states:
            time.sleep(0.05)
            found = scrape(server)
        assert found("cache_bytes", state="cached") + found("cache_bytes", state="filling") > 0


# Names.

FAMILIES = {
    "gserver_requests": "counter",
    "gserver_sent_bytes": "counter",
    "gserver_cache_requests": "counter",
    "gserver_time_to_first_byte_seconds": "histogram",
    "gserver_response_duration_seconds": "histogram",
    "gserver_time_to_first_byte_percentiles_seconds": "summary",
    "gserver_response_duration_percentiles_seconds": "summary",
    "gserver_cache_bytes": "gauge",
    "gserver_cache_capacity_bytes": "gauge",
    "gserver_cache_peak_bytes": "gauge",
    "gserver_cache_entries": "gauge",
    "gserver_cache_evictions": "counter",
    "gserver_cache_violations": "counter",
    "gserver_fills_in_flight": "gauge",
    "gserver_disk_read_duration_seconds": "histogram",
    "gserver_connections": "gauge",
    "gserver_connections_expired": "counter",
    "gserver_connections_gave_way": "counter",
    "gserver_connections_turned_away": "counter",
    "gserver_accept_shortages": "counter",
    "gserver_dashboard_viewers": "gauge",
    "gserver_loop_lag_seconds": "histogram",
    "gserver_loop_stalls": "counter",
}
UNITS = ("bytes", "seconds")
OTHER_UNITS = ("ms", "milliseconds", "us", "kib", "mib", "kb", "mb", "percent", "minutes", "hours", "s")


def test_the_names_are_those_and_keep_to_prometheus_conventions(folder: Path) -> None:
    """https://prometheus.io/docs/practices/naming/: base units, plural, last in the name but for _total."""
    with Program(folder) as server:
        families = scrape(server).families
    ours = {name: family for name, family in families.items() if name.startswith("gserver_")}
    assert {name: family.type for name, family in ours.items()} == FAMILIES
    assert all(name.startswith("process_") for name in families.keys() - ours.keys())
    for name, family in ours.items():
        words = name.split("_")
        assert not set(words) & set(OTHER_UNITS)
        assert all(unit not in words[:-1] for unit in UNITS)
        assert family.documentation.endswith(".")
        assert family.samples or name == "gserver_requests"
        for sample in family.samples:
            assert (sample.name == f"{name}_total") == (family.type == "counter")
            assert not sample.labels.keys() - {"method", "status", "cache", "state", "path", "quantile", "le"}


def test_the_same_series_are_there_before_and_after_load(folder: Path, tmp_path: Path) -> None:
    """Or an alert would have nothing to compare the first trouble with; but kinds of answers come as they come."""
    (tmp_path / "empty").mkdir()
    with Program(tmp_path / "empty") as server:
        fresh = scrape(server).values.keys()
    with loaded(folder) as server:
        used = scrape(server).values.keys()
    assert {name for name, _ in used ^ fresh} == {"gserver_requests_total"}
    assert fresh < used | {("gserver_requests_total", frozenset())}
    assert len(used) == len(set(used)) < 500


def test_lines_that_a_log_has_lost_are_counted_where_there_is_a_log(folder: Path, tmp_path: Path) -> None:
    for options, dropped in (((), []), (("--access-log", str(tmp_path / "log")), [0])):
        with Program(folder, *options) as server:
            found = scrape(server)
            assert list(found.by("access_log_dropped_lines_total").values()) == dropped
            assert ("gserver_access_log_dropped_lines" in found.families) == bool(dropped)


def test_the_lines_that_were_lost_are_those_of_the_stats(folder: Path) -> None:
    """To a device that is full every line is lost."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with Program(folder, "--access-log", "/dev/full") as server:
        server.get("/-/health")
        while not (lost := server.stats()["access_log_dropped"]):
            time.sleep(0.01)
        assert lost <= scrape(server)("access_log_dropped_lines_total") <= server.stats()["access_log_dropped"]


@pytest.mark.external
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("is_loaded", [False, True], ids=["fresh", "loaded"])
def test_promtool_has_nothing_to_say(folder: Path, tmp_path: Path, is_loaded: bool) -> None:
    log = ("--access-log", str(tmp_path / "log"))
    with loaded(folder, *log) if is_loaded else Program(folder, *log) as server:
        content = server.get("/-/metrics")[2]
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=content, capture_output=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


ALERTS = PROJECT / "deploy" / "alerts.yml"


@pytest.mark.external
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_takes_the_alerts() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", str(ALERTS)], capture_output=True, timeout=50, check=False
    )
    assert (done.returncode, b"7 rules found" in done.stdout) == (0, True), done.stdout + done.stderr


def test_what_alerts_ask_for_is_there(folder: Path) -> None:
    """Each series by its name, and with the labels that it is picked by; those of `up` are Prometheus's own."""
    (folder / "a").write_bytes(b"x")
    with Program(folder) as server:
        server.get("/a")
        found = scrape(server)
    known = {(name, label) for name, labels in found.values for label in labels} | {
        ("gserver_requests_total", ("status", status)) for status in ("500", "503")
    }
    asked = re.findall(r"\b((?:gserver|process)_\w+)(?:\{(\w+)=\"(\w+)\"\})?", ALERTS.read_text())
    assert len(asked) > 7
    for name, label, value in asked:
        assert name in {series for series, _ in found.values}
        assert label in ("", "job") or (name, (label, value)) in known


# Scrapes.


def test_many_scrapes_at_once_are_all_whole(folder: Path) -> None:
    """Also the very first, of which only one can import."""
    (folder / "a").write_bytes(b"x")
    with Program(folder) as server, ThreadPoolExecutor(24) as crowd:
        scrapes = list(crowd.map(lambda _: scrape(server), range(24)))
        hits = [server.get("/a")[1]["x-cache"] for _ in range(3)]
        assert hits == ["MISS", "HIT", "HIT"]
        assert scrape(server)("requests_total", method="GET", status="200", cache="none") == 24
    counts = Counter(scrape.values.get(("gserver_requests_total", NONE), 0.0) for scrape in scrapes)
    assert set(counts) <= {float(number) for number in range(24)}


NONE: Labels = frozenset({("method", "GET"), ("status", "200"), ("cache", "none")})

SLOW_IMPORT = (
    "import gevent, importlib, os, time, fileserver.about.pages as pages\n"
    "def slow(name):\n"
    "    open({started!r}, 'w').close()\n"
    "    while not os.path.exists({gate!r}): REAL_SLEEP(0.01)\n"
    "    return importlib.import_module(name)\n"
    "from gevent import monkey\n"
    "REAL_SLEEP = monkey.get_original('time', 'sleep')\n"
    "pages.import_module = slow\n"
)


def test_others_are_answered_while_the_first_scrape_imports(folder: Path, tmp_path: Path) -> None:
    """The import waits, in its thread, for a file that the test makes only after it has been answered."""
    (folder / "a").write_bytes(b"x")
    started, gate = tmp_path / "started", tmp_path / "gate"
    changes = f"exec({SLOW_IMPORT.format(started=str(started), gate=str(gate))!r}, globals())"
    with Program(folder, changes=changes) as server, ThreadPoolExecutor(1) as other:
        scraped = other.submit(scrape, server)
        try:
            while not started.exists():
                time.sleep(0.01)
            assert [server.get("/a")[1]["x-cache"] for _ in range(3)] == ["MISS", "HIT", "HIT"]
            assert server.stats()["hits"] == 2
            assert server.get("/-/")[0] == 200
            assert server.get("/-/snapshot")[0] == 200
            assert not scraped.done()
        finally:
            gate.touch()
        found = scraped.result(timeout=30)
    assert found("cache_requests_total", cache="hit") == 2
    assert "gserver_loop_lag_seconds" in found.families


def test_nobody_pays_for_prometheus_before_a_scrape(folder: Path) -> None:
    changes = (
        "import atexit, sys; atexit.register(lambda: print('loaded:',"
        " sorted(name for name in sys.modules if name.startswith('prometheus')), file=sys.stderr))"
    )
    with Program(folder, changes=changes) as server:
        for path in ("/-/", "/-/stats", "/-/snapshot", "/-/openapi.json", "/-/cache", "/-/evictions"):
            assert server.get(path)[0] == 200
        assert "loaded: []\n" in server.stop()


BLOCKED = "import sys; sys.modules['prometheus_client'] = None"


def test_without_prometheus_client_a_scrape_is_told_so_and_all_else_goes_on(folder: Path) -> None:
    (folder / "a").write_bytes(b"x")
    with Program(folder, changes=BLOCKED) as server:
        for _ in range(3):
            status, fields, content = server.get("/-/metrics")
            assert (status, fields["content-type"]) == (501, "text/plain; charset=utf-8")
            assert b"prometheus_client" in content
            assert content.endswith(b"pip install -r requirements.txt\n")
            assert server.get("/a")[0] == 200
            assert server.get("/-/evictions")[0] == 200  # it is made in the same turn
        assert server.stats()["hits"] == 2
        assert server.get("/-/")[0] == 200


def test_a_bucket_holds_what_took_no_longer_than_its_bound(folder: Path) -> None:
    took_s = [1e-7, 1e-6, 3.1e-6, 3.2e-6, 0.5, 1.0, 320.0, 500.0, 1000.0]
    with House(folder) as house:
        for seconds in took_s:
            house.disk.pool_reads.note(seconds)
        found = Scrape(b"".join(metrics.text(house.site.about._counters)).decode())
    buckets = found.buckets("disk_read_duration_seconds", path="pool")
    assert buckets == [(bound, sum(seconds <= bound for seconds in took_s)) for bound, _ in buckets]
    assert found("disk_read_duration_seconds_count", path="pool") == len(took_s)
    assert found("disk_read_duration_seconds_sum", path="pool") == pytest.approx(sum(took_s))


def test_the_numbers_of_the_cache_are_of_one_instant_though_others_run_in_between(folder: Path) -> None:
    with House(folder) as house:
        for name in ("a", "b", "a"):
            house.write(name, b"x" * 10)
            house.fetch(name)
        pieces = []
        for piece in metrics.text(house.site.about._counters):
            assert piece.count(b"# TYPE ") == 1
            pieces.append(piece)
            house.write(f"c{len(pieces)}", b"x" * 10)
            house.fetch(f"c{len(pieces)}")
            house.fetch("a")
        found = Scrape(b"".join(pieces).decode())
    assert [found("cache_requests_total", cache=of) for of in ("hit", "miss", "coalesced", "bypass")] == [
        1,
        2,
        0,
        0,
    ]
    assert (found("cache_bytes", state="cached"), found("cache_peak_bytes"), found("cache_entries")) == (20, 20, 2)
