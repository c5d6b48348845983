"""The watch: on the master it looks at the server each second, and at the end at what the users left behind."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gevent
from locust.env import Environment

from loadtest import _invariants, _process, _quiet, _raw
from loadtest._checks import NO_READS, ONE_INSTANT
from loadtest._evidence import Broken
from loadtest._invariants import Finding, Snapshot
from loadtest._report import Sample
from loadtest._run import Run

EVERY_S = 1.0
SETTLE_S = 15.0
"""How long a server has to notice that the users have left; more than the ten seconds it gives a TLS handshake."""


class Watch:
    """Looks while a test runs. `begin` and `end` frame it; both ask the server and switch greenlets."""

    def __init__(self, run: Run, phase: Callable[[], str]) -> None:
        self.run = run
        self._phase = phase
        self.samples: list[Sample] = []
        self._before: Snapshot | None = None
        self._looking: gevent.Greenlet[[], None] | None = None
        self._capacity = 0

    def begin(self) -> None:
        """Before the first user: what the server has, and look at it from now on."""
        self._capacity = self.run.capacity()
        self.samples = []
        self._before = None
        if not self.run.options.pid:
            self.run.evidence.unable["pid"] = "say --pid PID, of the server on this machine"
        elif not _process.look(self.run.options.pid):
            self._report(Finding(NO_READS, f"/proc/{self.run.options.pid} cannot be read (--pid)"))
        if not self.run.is_gserver():
            self.run.evidence.unable["gserver"] = f"{self.run.host} has no LIST"
            return
        if "stats" not in self.run.listed():
            kept = "its statistics are kept from strangers (--admin)"
            self.run.evidence.unable |= dict.fromkeys(("stats", "rss", ONE_INSTANT), kept)
            return
        self._before = self.look()
        self._looking = gevent.spawn(self._look_on)

    def _look_on(self) -> None:
        while True:
            gevent.sleep(EVERY_S)
            self.look()

    def look(self) -> Snapshot | None:
        """One poll, judged and reported; None if the server did not say what it should."""
        started = time.perf_counter()
        try:
            now = self._ask()
            stored = self.run.evidence.bytes["stored"]
            found = list(_invariants.at_one_instant(now, self._capacity))
            found += _invariants.eviction(self._before or now, now, self._capacity, stored)
        except (*_raw.FAILURES, ValueError, KeyError, TypeError) as error:
            self._report(Finding(ONE_INSTANT, f"{error!r}"), started)
            return None
        self._report(Finding(ONE_INSTANT), started)
        if now.rss is None:
            self.run.evidence.unable["rss"] = "neither the server nor /proc says (--pid)"
        for finding in found:
            self._report(finding)
        counters = replace(now, entries=())  # 65,536 names a second would not fit
        latency_ms = latencies(self.run.environment)
        self.samples.append(Sample(time.time(), self._users(), counters, latency_ms, self._phase()))
        return now

    def end(self) -> None:
        """After the last user: what must have become of all that was counted."""
        if self._looking:
            self._looking.kill()
        if not self._before:
            return
        deadline_s = time.monotonic() + SETTLE_S
        while after := self.look():
            gone = _invariants.departure(self._before, after)
            if not gone.wrong or time.monotonic() > deadline_s:
                break
            gevent.sleep(EVERY_S / 4)
        if not after:
            return
        self._report(gone)
        for finding in _invariants.agreement(self._before, after, self.run.evidence):
            self._report(finding)
        for finding in _invariants.reads(self._before, after, self.run.evidence):
            self._report(finding)
        if after.process:
            self._ask_in_quiet(after, self.run.options.pid)

    def _ask_in_quiet(self, after: Snapshot, pid: int) -> None:
        """What the server reads for hits and for a stampede, now that nobody else asks."""
        self.run.evidence.unable["pid"] = "no file to ask for"
        try:
            for finding in _quiet.findings(self.run, after, pid):
                self._report(finding)
        except Broken as broken:
            self._report(Finding(NO_READS, str(broken)))
        except _raw.FAILURES as error:
            self._report(Finding(NO_READS, f"{error!r}"))

    def _users(self) -> int:
        runner = self.run.environment.runner
        return runner.user_count if runner else 0

    def _ask(self) -> Snapshot:
        """Entries and counters of one instant. Raises what a wrong document makes it raise."""
        answer, body = _raw.ask(self.run.host, "/-/cache?format=json")
        if answer.status != 200:
            raise ValueError(f"status {answer.status}")
        document: dict[str, Any] = json.loads(body)
        pid = self.run.options.pid
        return Snapshot.of(document, _process.look(pid) if pid else None)

    def _report(self, finding: Finding, started: float | None = None) -> None:
        """Evidence, and a row of type INVARIANT. Only the poll itself took time."""
        broken = Broken(finding.check, finding.wrong) if finding.wrong else None
        if broken:
            self.run.evidence.breaks(broken)
        else:
            self.run.evidence.holds(finding.check)
        ms = (time.perf_counter() - started) * 1000 if started else 0
        self.run.report("INVARIANT", finding.check, ms, 0, broken)


def latencies(environment: Environment) -> dict[str, tuple[float, float]]:
    """(p50, p99) in ms of each GET and LIST row, over the last seconds, where there was anything."""
    found = {}
    for (name, kind), row in list(environment.stats.entries.items()):
        if kind in ("GET", "LIST"):
            half = row.get_current_response_time_percentile(0.5)
            most = row.get_current_response_time_percentile(0.99)
            if half is not None and most is not None:
                found[f"{kind} {name}"] = (float(half), float(most))
    return found
