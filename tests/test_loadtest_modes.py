"""The load test as a whole program, in each of the ways that Locust can be run: real servers, real Locusts.

What takes long runs side by side, in fixtures; the tests look at what came of it.
"""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from loadtest import _checks as checks
from loadtest._corpus import MIB, Corpus, write
from tests.haproxy import PROGRAM, clusters
from tests.program import PROJECT, Program

CACHE = "4MiB"
CORPUS = Corpus(size=32 * MIB, files=120, capacity=4 * MIB)

CLASSES = {
    "Lister",
    "OneLiner",
    "Publisher",
    "Reader",
    "Resumer",
    "Scanner",
    "SlowReader",
    "Stampede",
    "Stranger",
}
OPTIONS = {
    "shape",
    "corpus",
    "capacity",
    "revalidate",
    "pid",
    "seconds",
    "minutes",
    "p99_ms",
    "fail_fast",
    "report",
}

CUT = (
    "connection.wire.plain = lambda *_: None; "
    "send, answer, cut = connection.Connection._send_body, connection.Connection._answer, set(); "
    "connection.Connection._send_body = lambda self, head, body, start, end: "
    "cut.add(self) or send(self, head, body, start, end - (end > start)); "
    "connection.Connection._answer = lambda self, request: answer(self, request) and self not in cut"
)
"""All goes the general way, which sends a byte less of each body than its head says, and closes."""

USERS = ("-u", "12", "-r", "100")

PATIENCE_S = 25


@dataclass(frozen=True)
class Result:
    """What a Locust ended with."""

    code: int
    summary: str
    """Its standard output."""
    log: str

    def line(self, name: str) -> tuple[str, str]:
        """State and detail of one line of the verdict; two empty strings if it has none."""
        match = re.search(
            rf"^  (BROKEN|NOT SEEN|not checked|held) +{re.escape(name)}(?:: (.*))?$", self.summary, re.M
        )
        return (match[1], match[2] or "") if match else ("", "")

    def state(self, name: str) -> str:
        return self.line(name)[0]

    def named(self) -> set[str]:
        """The classes of users that the verdict speaks of."""
        return {name for name in CLASSES if self.state(name)}

    def check(self, code: int) -> "Result":
        """It ended so, said so once, and nothing went wrong that it did not foresee."""
        said = self.summary + self.log
        assert self.code == code, said
        assert self.summary.count("\nVerdict\n") == 1, said
        assert self.summary.count("\nPASSED\n") == (not code), said
        assert "Traceback" not in said, said
        assert "KeyboardInterrupt" not in said, said
        return self


class Locust:
    """`locust -f loadtest` with more options, in a process group of its own; gone when the `with` is left."""

    def __init__(self, place: Path, *options: str) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self._out, self._err = place / "out", place / "err"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "locust", "-f", str(PROJECT / "loadtest"), *options],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=place,
                start_new_session=True,
            )

    def __enter__(self) -> "Locust":
        return self

    def __exit__(self, *_: object) -> None:
        if self.has_processes():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def has_processes(self) -> bool:
        """Whether it, or one that it started, is still there."""
        self.process.poll()
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for what must come while it runs."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline_s, self.said()
            time.sleep(0.05)

    def said(self) -> str:
        return self._out.read_text() + self._err.read_text()

    def finish(self, timeout_s: float = PATIENCE_S) -> Result:
        """What came of it, when it has ended."""
        code = self.process.wait(timeout_s)
        return Result(code, self._out.read_text(), self._err.read_text())


def url(server: Program) -> str:
    return f"http://127.0.0.1:{server.port}"


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def headless(place: Path, host: str, *options: str) -> Locust:
    return Locust(
        place, "--headless", "--only-summary", "--host", host, "--report", str(place / "report.html"), *options
    )


def run(place: Path, host: str, *options: str) -> Result:
    """A headless run to its end."""
    with headless(place, host, *options) as locust:
        return locust.finish()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("modes") / "corpus"
    write(directory, CORPUS)
    return directory


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files like anybody's, four times what the cache holds; none says what is in it."""
    directory = tmp_path_factory.mktemp("plain") / "served"
    for i in range(120):
        path = directory / f"folder {i % 5}" / f"file {i}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(i.to_bytes(2) * (1000 + i * 1200))
        os.utime(path, (1e9, 1e9))
    return directory


def test_list_shows_the_nine_classes(tmp_path: Path) -> None:
    with Locust(tmp_path, "--list") as locust:
        result = locust.finish()
    assert result.code == 0, result.log
    assert set(result.summary.split("Available Users:")[1].split()) == CLASSES


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shape", "tall"], "invalid choice: 'tall'"),
        (["--capacity", "lots"], "not a size: 'lots'"),
        (["--tags", "read", "raed"], "no users are tagged raed; tags are list, one-line, publish, read, "),
        (["--exclude-tags", "raed"], "no users are tagged raed; tags are list, one-line, publish, read, "),
        (["--tags", "read", "--exclude-tags", "read"], "leave no users"),
    ],
)
def test_a_wrong_option_is_said_in_a_line(tmp_path: Path, options: list[str], said: str) -> None:
    result = run(tmp_path, f"http://127.0.0.1:{free_port()}", "-t", "1s", *options)
    assert result.code in (1, 2)
    assert said in result.log
    assert "Traceback" not in result.log, result.log
    assert result.summary == ""


# Without a corpus.


class Plain:
    """One run over an ordinary folder, with every way to keep its numbers."""

    def __init__(self, place: Path, result: Result) -> None:
        self.place = place
        self.result = result
        rows: list[dict[str, Any]] = json.loads((place / "rows.json").read_text())
        self.rows = {(row["method"], row["name"]): row for row in rows}

    def names(self, kind: str) -> set[str]:
        return {name for method, name in self.rows if method == kind}


@pytest.fixture(scope="module")
def plain_run(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    place = tmp_path_factory.mktemp("plain-run")
    kept = ["--html", "locust.html", "--csv", "rows", "--json-file", "rows"]
    classes = ["Reader", "Scanner", "Lister", "Resumer", "Publisher", "SlowReader"]
    with Program(plain, "--cache", CACHE) as server:
        result = run(place, url(server), "-u", "30", "-r", "100", "-t", "5s", *kept, *classes)
    return Plain(place, result)


def test_any_folder_will_do(plain_run: Plain) -> None:
    plain_run.result.check(0)


@pytest.mark.parametrize(
    "name",
    [
        checks.LENGTH,
        checks.VERSION,
        checks.PARTS,
        checks.CONDITION,
        checks.FITS,
        checks.PROVED,
        checks.BUDGET,
        checks.EVICTS,
        checks.AGREES,
        checks.LEAVES,
        "Reader",
        "Scanner",
    ],
)
def test_without_a_corpus_what_can_be_checked_is(plain_run: Plain, name: str) -> None:
    assert plain_run.result.state(name) == "held"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (checks.CONTENT, "no file of a corpus there"),
        (checks.FRESH, "say --corpus DIR"),
        ("Publisher", "say --corpus DIR"),
        (checks.SLOW, "no file of 16 MiB or more"),
        ("SlowReader", "no file of 16 MiB or more"),
        (checks.NO_READS, "say --pid PID"),
    ],
)
def test_what_was_not_checked_is_said_and_why(plain_run: Plain, name: str, reason: str) -> None:
    state, detail = plain_run.result.line(name)
    assert state == "not checked"
    assert detail.startswith(reason)


def test_the_verdict_speaks_of_the_classes_that_were_asked_for(plain_run: Plain) -> None:
    assert plain_run.result.named() == CLASSES - {"OneLiner", "Stampede", "Stranger"}


def test_rows_are_grouped_by_where_the_answer_came_from_and_its_size(plain_run: Plain) -> None:
    """And not one for each file: a report has a page."""
    assert {kind for kind, _ in plain_run.rows} == {"GET", "LIST", "HEAD", "INVARIANT"}
    assert {"hit small", "hit medium", "miss small", "miss medium"} <= plain_run.names("GET")
    grouped = re.compile(
        r"(part )?(hit|miss|coalesced|bypass) (small|medium|large|huge)|not modified|beyond the end"
    )
    assert {name for name in plain_run.names("GET") if not grouped.fullmatch(name)} == set()
    assert plain_run.names("LIST") == {"json", "text"}
    assert plain_run.names("INVARIANT") <= {check.name for check in checks.CHECKS if not check.by}


def test_what_held_is_a_row_that_never_failed(plain_run: Plain) -> None:
    for name in (checks.BUDGET, checks.PEAK, checks.AGREES, checks.LEAVES):
        row = plain_run.rows["INVARIANT", name]
        assert row["num_requests"] >= 1
        assert row["num_failures"] == 0


def test_locusts_own_reports_are_written_beside_ours(plain_run: Plain) -> None:
    """Its CSV may lack what first came in the last second, as the checks that are made at the end."""
    end_s = max(row["last_request_timestamp"] for row in plain_run.rows.values())
    older = {key for key, row in plain_run.rows.items() if row["start_time"] < end_s - 2 and key[0] == "GET"}
    assert older
    with (plain_run.place / "rows_stats.csv").open(newline="") as file:
        kept = {(row["Type"], row["Name"]) for row in csv.DictReader(file)}
    assert older <= kept
    assert ("INVARIANT", checks.BUDGET) in kept
    assert "hit small" in (plain_run.place / "locust.html").read_text()


def test_the_report_holds_the_verdict_and_the_plots(plain_run: Plain) -> None:
    page = (plain_run.place / "report.html").read_text()
    assert "<h1>PASSED</h1>" in page
    assert "<svg " in page
    assert "evictions a second" in page


def test_without_a_report_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with Locust(
        tmp_path / "run", "--headless", "--report", "", "--fail-fast", "-H", "http://127.0.0.1:1"
    ) as locust:
        locust.finish()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"out", "err"}


def test_a_report_that_cannot_be_written_fails_the_run(plain: Path, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "no folder" / "report.html")
    with Program(plain, "--cache", CACHE) as server:
        result = run(tmp_path, url(server), *USERS, "-t", "2s", "--report", nowhere, "Reader")
    assert result.code == 1
    assert "no report: " in result.log
    assert "Traceback" not in result.log, result.log


# More processes.


@dataclass(frozen=True)
class Distributed:
    forked: Result
    master: Result
    workers: tuple[Result, Result]
    broken: Result


PAGE = PROJECT / "deploy" / "README.md"


def from_the_page(role: str, port: str, name: str, place: str) -> list[tuple[str, ...]]:
    """The options of the commands in deploy/README.md that have `role`, with `place` for `name`; `port` is
    the master's."""
    bound = {"worker": ("--master-port", port), "master": ("--master-bind-port", port)}[role]
    lines = re.findall(rf"^    locust -f loadtest (--{role} .*)$", PAGE.read_text(), re.M)
    return [(*line.replace(name, place).split(), *bound) for line in lines]


@pytest.fixture(scope="module")
def distributed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Distributed:
    """`--processes`, a master with workers, and one whose workers see a sabotaged server, side by side."""
    place = tmp_path_factory.mktemp("distributed")
    of_corpus = ["--corpus", str(corpus)]
    port = str(free_port())
    with ExitStack() as running:
        good = [running.enter_context(Program(corpus, "--cache", CACHE)) for _ in range(2)]
        bad = running.enter_context(Program(corpus, "--cache", CACHE, changes=CUT))
        workers = [
            running.enter_context(Locust(place / f"worker {number}", *options))
            for number, options in enumerate(from_the_page("worker", port, "MASTER", "127.0.0.1"))
        ]
        as_master, _ = from_the_page("master", port, "http://SERVER:8080", url(good[0]))
        master = running.enter_context(
            headless(
                place / "master",
                url(good[0]),
                *(*as_master, "--master-bind-host", "127.0.0.1", *of_corpus, *USERS, "-t", "4s"),
                *("--pid", str(good[0].process.pid), "Reader", "Lister"),
            )
        )
        with_ports = ["--processes", "2", "--master-bind-host", "127.0.0.1"]
        forked, broken = (
            running.enter_context(
                headless(place / name, url(server), *with_ports, *ports, *of_corpus, *USERS, *options)
            )
            for name, server, ports, options in (
                ("forked", good[1], ports_of(free_port()), ("-t", "4s", "Reader", "Lister", "Publisher")),
                ("broken", bad, ports_of(free_port()), ("--fail-fast", "Reader")),
            )
        )
        ended = (forked.finish(), master.finish(), (workers[0].finish(), workers[1].finish()), broken.finish())
    return Distributed(*ended)


def ports_of(port: int) -> tuple[str, ...]:
    """Of a master and the workers that it forks."""
    return ("--master-bind-port", str(port), "--master-port", str(port))


def test_processes_come_to_one_verdict(distributed: Distributed) -> None:
    distributed.forked.check(0)


def test_a_master_and_workers_come_to_one_verdict(distributed: Distributed) -> None:
    distributed.master.check(0)


def test_workers_only_work(distributed: Distributed) -> None:
    """They were told nothing but where the master is, give no verdict, and leave with it."""
    for worker in distributed.workers:
        assert worker.code == 0, worker.log
        assert "Verdict" not in worker.summary
        assert "Traceback" not in worker.log


@pytest.mark.parametrize("name", [checks.CONTENT, checks.PROVED, checks.AGREES, checks.NO_READS, checks.LEAVES])
def test_a_master_judges_by_what_its_workers_saw(distributed: Distributed, name: str) -> None:
    """AGREES holds only if no report of any worker is lost; CONTENT only if they were told of the corpus."""
    assert distributed.master.state(name) == "held"


@pytest.mark.parametrize("name", [checks.CONTENT, checks.PROVED, checks.AGREES, checks.FRESH, "Publisher"])
def test_a_master_judges_by_what_its_children_saw(distributed: Distributed, name: str) -> None:
    assert distributed.forked.state(name) == "held"


def test_what_only_workers_can_see_ends_the_test_early_and_is_named(distributed: Distributed) -> None:
    """It had no other end: there was no `-t`."""
    distributed.broken.check(1)
    assert distributed.broken.state(checks.LENGTH) == "BROKEN"
    assert re.search(rf"^FAILED: .*{checks.LENGTH}", distributed.broken.summary, re.M)


def test_locust_counts_errors_by_check_and_not_by_file(distributed: Distributed) -> None:
    """A long run that fails would have thousands of kinds, on workers and in each of their reports."""
    report = distributed.broken.log.split("# occurrences")[1]
    assert checks.LENGTH in report
    assert ".seeded" not in report


@pytest.mark.external
@pytest.mark.skipif(PROGRAM is None, reason="haproxy is not installed")
def test_of_three_servers_behind_a_proxy_every_answer_is_checked(corpus: Path, tmp_path: Path) -> None:
    """As deploy/README.md says: what takes LIST is not seen, and nothing else is amiss."""
    port = str(free_port())
    with clusters(corpus, "--cache", CACHE) as cluster, ExitStack() as running:
        host = f"http://127.0.0.1:{cluster.port}"
        _, as_master = from_the_page("master", port, "http://PROXY:8080", host)
        shorter = ("--master-bind-host", "127.0.0.1", "-u", "40", "-r", "100", "-t", "5s")
        for number, options in enumerate(from_the_page("worker", port, "MASTER", "127.0.0.1")):
            running.enter_context(Locust(tmp_path / f"worker {number}", *options))
        master = running.enter_context(headless(tmp_path / "master", host, *as_master, *shorter))
        result = master.finish().check(1)
    assert {"Reader", "Scanner", "Resumer", "Stampede"} <= result.named()
    for name in (checks.ANSWER, checks.LENGTH, checks.CONTENT, checks.VERSION, checks.ORIGIN, checks.PARTS):
        assert result.state(name) == "held", name
    assert "BROKEN" not in result.summary
    unseen = re.findall(r"^  NOT SEEN +(.*)$", result.summary, re.M)
    assert unseen
    assert all(line.endswith("has no LIST") for line in unseen), unseen


# Other servers, and none.


@contextmanager
def nginx(place: Path, root: Path) -> Iterator[str]:
    """Its URL. One process, in the foreground, with all that it writes in `place`."""
    port = free_port()
    temporary = " ".join(
        f"{kind}_temp_path {place}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (place / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {place}/pid; events {{}}\n"
        f"http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n"
    )
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            ["nginx", "-p", str(place), "-c", str(place / "nginx.conf"), "-e", "stderr"], stderr=log
        )
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                said = (place / "log").read_text()
                assert process.poll() is None, said
                assert time.monotonic() < deadline_s, said
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.external
@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_of_another_server_the_black_box_part_is_checked(corpus: Path, tmp_path: Path) -> None:
    """And what that cannot show was not seen, so the run fails: nobody knows of an eviction."""
    (tmp_path / "nginx").mkdir()
    with nginx(tmp_path / "nginx", corpus) as host:
        classes = ("Reader", "Resumer", "Lister", "Stranger", "OneLiner")
        result = run(tmp_path, host, "-u", "30", "-r", "100", "-t", "3s", "--corpus", str(corpus), *classes)
    result.check(1)
    for name in (checks.ANSWER, checks.LENGTH, checks.CONTENT, checks.VERSION, checks.PARTS, checks.CONDITION):
        assert result.state(name) == "held", name
    for name in (checks.BUDGET, checks.EVICTS, checks.AGREES, checks.ORIGIN):
        assert result.line(name) == ("NOT SEEN", f"{host} has no LIST"), name
    for name in ("Lister", "Stranger", "OneLiner"):
        assert result.state(name) == "not checked", name
    assert "BROKEN" not in result.summary


def test_a_server_that_keeps_its_statistics_is_still_one_with_a_list(plain: Path, tmp_path: Path) -> None:
    changes = "from fileserver import site; site.is_local = lambda *_: False"
    with Program(plain, "--cache", CACHE, "--admin", "loopback", changes=changes) as server:
        assert server.get("/-/stats")[0] == 403
        result = run(tmp_path, url(server), "-u", "20", "-r", "100", "-t", "4s", "Reader", "Lister", "OneLiner")
    result.check(0)
    for name in (checks.ANSWER, checks.LISTS, checks.ONCE, checks.WHOLE, checks.ONE_LINE, "Lister", "OneLiner"):
        assert result.state(name) == "held", name
    for name in (checks.ONE_INSTANT, checks.BUDGET, checks.EVICTS, checks.MEMORY, checks.AGREES):
        assert result.line(name) == ("not checked", "its statistics are kept from strangers (--admin)"), name


def test_a_server_that_is_not_there_is_said_in_a_line(tmp_path: Path) -> None:
    host = f"http://127.0.0.1:{free_port()}"
    result = run(tmp_path, host, *USERS, "--fail-fast").check(1)
    state, detail = result.line(checks.ANSWER)
    assert state == "BROKEN"
    assert f"cannot list {host}/" in detail
    assert "refused" in detail


def test_a_corpus_that_is_not_there_is_said_in_a_line(plain: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with Program(plain) as server:
        result = run(tmp_path, url(server), *USERS, "--fail-fast", "--corpus", str(missing)).check(1)
    state, detail = result.line(checks.ANSWER)
    assert state == "BROKEN"
    assert detail.startswith(f"no files in {missing}")


def test_a_process_that_is_not_there_breaks_only_what_it_was_to_show(plain: Path, tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with Program(plain, "--cache", CACHE) as server:
        result = run(tmp_path, url(server), *USERS, "-t", "2s", "--pid", str(gone.pid), "Reader").check(1)
    assert result.line(checks.NO_READS) == ("BROKEN", f"/proc/{gone.pid} cannot be read (--pid)")
    assert result.state(checks.BUDGET) == "held"
    assert result.state(checks.AGREES) == "held"


# The ways it ends.


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_test_and_then_it_is_judged(end: signal.Signals, corpus: Path, tmp_path: Path) -> None:
    with Program(corpus, "--cache", CACHE) as server:
        options = ("--corpus", str(corpus), *USERS, "Reader")
        with headless(tmp_path, url(server), *options) as locust:
            locust.until(lambda: server.stats()["evictions"] > 20)
            locust.process.send_signal(end)
            locust.finish().check(0)


def test_ctrl_c_ends_all_processes_and_nothing_that_they_saw_is_lost(corpus: Path, tmp_path: Path) -> None:
    """A terminal sends it to all of them at once, so that workers leave before the master asks them to."""
    ports = ports_of(free_port())
    with Program(corpus, "--cache", CACHE) as server:
        options = ("--processes", "2", *ports, "--corpus", str(corpus), *USERS, "Reader")
        with headless(tmp_path, url(server), *options) as locust:
            locust.until(lambda: server.stats()["evictions"] > 20)
            os.killpg(locust.process.pid, signal.SIGINT)
            result = locust.finish()
            assert not locust.has_processes()
    assert result.check(0).line(checks.AGREES) == ("held", "1 times")


# Tags.


def test_tags_choose_users(plain: Path, tmp_path: Path) -> None:
    chosen = ("-t", "2s", "--tags", "one-line", "scan")
    others = ("-t", "2s", "--exclude-tags", "one-line", "scan", "read")
    with (
        Program(plain, "--cache", CACHE) as server,
        headless(tmp_path / "chosen", url(server), *USERS, *chosen) as some,
        headless(tmp_path / "others", url(server), *USERS, *others) as rest,
    ):
        assert some.finish().named() == {"OneLiner", "Scanner"}
        assert rest.finish().named() == CLASSES - {"OneLiner", "Scanner", "Reader"}


# Shapes.


@pytest.fixture(scope="module")
def shapes(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Those that need no long run, side by side. `relocate-worst` by the server's policy."""
    place = tmp_path_factory.mktemp("shapes")
    wanted = {
        "soak": ("relocate", "soak", "--minutes", "0.12", "-u", "12", "Reader", "Lister"),
        "step": ("relocate", "step", "--p99-ms", "0.001"),
        "relocate": ("relocate", "relocate-worst", "--seconds", "40"),
        "lru": ("lru", "relocate-worst", "--seconds", "40"),
    }
    with ExitStack() as running:
        started = {}
        for name, (policy, *options) in wanted.items():
            server = running.enter_context(Program(corpus, "--cache", CACHE, "--policy", policy))
            started[name] = running.enter_context(
                headless(place / name, url(server), "--corpus", str(corpus), "--shape", *options)
            )
        return {name: locust.finish() for name, locust in started.items()}


def test_a_soak_lasts_as_many_minutes_as_it_was_told(shapes: dict[str, Result]) -> None:
    """It had no `-t`."""
    shapes["soak"].check(0)


def test_steps_end_beyond_the_target_and_the_knee_is_reported(shapes: dict[str, Result]) -> None:
    step = shapes["step"]
    assert step.code in (0, 1)
    assert re.search(r"^ +16 users +[0-9,]+ requests/s  p99 [0-9,]+ ms$", step.summary, re.M), step.summary
    assert "no knee: p99 was above 0.001 ms from the first step" in step.summary


def test_relocate_reads_the_one_hot_large_file_more_often_than_lru(shapes: dict[str, Result]) -> None:
    again = {}
    for policy in ("relocate", "lru"):
        note = r"^the hot file was asked for ([0-9,]+) times, and read anew ([0-9,]+) times$"
        match = re.search(note, shapes[policy].check(0).summary, re.M)
        assert match, shapes[policy].summary
        asked, missed = (int(number.replace(",", "")) for number in match.groups())
        again[policy] = missed / asked
    assert again["relocate"] > again["lru"]


# The web UI.


class Page:
    """What a browser sees of Locust's web UI."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def get(self, path: str, **form: object) -> str:
        """A page; with a form, what came of posting it."""
        data = urlencode(form).encode() if form else None
        with urlopen(self._base + path, data, timeout=PATIENCE_S) as answer:
            text: str = answer.read().decode()
            return text

    def loads(self) -> bool:
        try:
            self.get("/")
        except OSError:
            return False
        return True

    def given(self) -> dict[str, Any]:
        """What the page is made of."""
        match = re.search(r"window\.templateArgs = (\{.*\})", self.get("/"))
        assert match
        arguments: dict[str, Any] = json.loads(match[1])
        return arguments

    def states(self) -> dict[str, str]:
        """The tab: state by name."""
        (tab,) = json.loads(self.get("/stats/requests"))["extended_stats"]
        return {line["name"]: line["state"] for line in tab["data"]}


@pytest.fixture
def page(corpus: Path, tmp_path: Path) -> Iterator[tuple[Page, Locust]]:
    port = free_port()
    where = ("--web-host", "127.0.0.1", "--web-port", str(port), "--report", "")
    with Program(corpus, "--cache", CACHE) as server:
        options = ("--host", url(server), "--corpus", str(corpus), "Reader", "Lister")
        with Locust(tmp_path, *where, *options) as locust:
            shown = Page(port)
            locust.until(shown.loads)
            yield shown, locust


def test_the_web_ui_has_our_options_and_our_tab(page: tuple[Page, Locust], corpus: Path) -> None:
    shown, _ = page
    given = shown.given()
    assert given["extra_options"].keys() >= OPTIONS
    assert given["extra_options"]["corpus"]["default_value"] == str(corpus)
    assert set(given["extra_options"]["shape"]["choices"]) >= {"none", "pressure", "soak"}
    assert given["extendedTabs"] == [{"title": "Verdict", "key": "verdict"}]
    assert set(given["available_user_classes"]) == CLASSES


def test_each_test_of_the_web_ui_is_judged_for_itself(page: tuple[Page, Locust]) -> None:
    """The first passes when it is stopped; of the second, with one Reader, the signal finds no LIST."""
    shown, locust = page
    at_the_end = {checks.AGREES, checks.LEAVES}
    assert json.loads(shown.get("/swarm", shape="none", user_count=12, spawn_rate=100))["success"]
    locust.until(lambda: {name for name, state in shown.states().items() if state == "NOT SEEN"} == at_the_end)
    assert json.loads(shown.get("/stop", stop=1))["success"]
    report = shown.get("/loadtest-report")
    assert "<h1>PASSED</h1>" in report
    assert "<svg " in report
    assert json.loads(shown.get("/swarm", shape="none", user_count=1, spawn_rate=100))["success"]
    locust.until(lambda: shown.states()[checks.LISTS] == "NOT SEEN" and shown.states()[checks.EVICTS] == "held")
    locust.process.terminate()
    result = locust.finish()
    assert result.code == 1
    passed, failed = result.summary.split("\nVerdict\n")[1:]
    assert "\nPASSED\n" in passed
    assert "\nFAILED, not seen: " in failed
    assert checks.LISTS in failed.split("FAILED, not seen: ")[1]


def test_a_web_ui_that_tested_nothing_has_not_passed(page: tuple[Page, Locust]) -> None:
    _, locust = page
    locust.process.send_signal(signal.SIGINT)
    result = locust.finish().check(1)
    assert "nothing was tested" in result.summary
