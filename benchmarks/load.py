"""Load: as fast as a server answers, by wrk, or at a steady rate, by h2load; what they say, as figures.

h2load's `--rps` is no open loop by itself. It was tried with a server that was stopped for 200 ms, at 10,000
requests a second over 128 connections, 1,500 of which must take more than 50 ms: 128 did in its log, for on each
connection it waits for the answer before it sends what is due, and it logs from the sending. (Pipelined, with `-m
32`, 1,890 did; but few clients pipeline.) So the log is corrected as HdrHistogram does: an answer that took
several of a connection's intervals stands for those that were due meanwhile, which waited an interval less each.
Then 1,550 did. h2load looks at its schedule every 10 ms; the connections begin one after another (`-r`), spread
over these 10 ms.
"""

import re
import resource
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from benchmarks.peers import Missing, Peer, installed, version_of
from benchmarks.report import percentile

PATIENCE_S = 30
"""What a generator may take beyond its time. wrk counts an answer as failed after this, too."""

RATE_CONNECTIONS = 128
"""Of the steady rate."""

SKIPPED_S = 0.5
"""The connections are made in the first moments of a steady rate; they are not counted."""

LATE_MS = 50

PIPELINED = 64
"""Requests that are sent together while a server is made warm."""

WRK_SCRIPT = """
local requests, place = {{}}, 0
for one in io.open("{requests}", "rb"):read("*a"):gmatch("([^%z]+)%z") do requests[#requests + 1] = one end
if #requests == 1 then  -- wrk then asks no script
  wrk.format = function() return requests[1] end
else
  request = function()
    place = place % #requests + 1
    return requests[place]
  end
end
function done(summary)
  local errors = summary.errors
  print(string.format("answered %d in %d us, failed %d", summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


class NoFigure(Exception):
    """Why nothing could be measured, in a line."""


@dataclass(frozen=True, slots=True)
class Asking:
    """Requests in their order, again and again: each of `paths` with the next of `fields` (whole lines)."""

    paths: Sequence[str]
    fields: Sequence[str] = ("",)
    connections: int = 64

    def requests(self, host: str) -> list[str]:
        """The heads, as many as there are before they repeat."""
        count = max(len(self.paths), len(self.fields))
        return [
            f"GET /{self.paths[i % len(self.paths)]} HTTP/1.1\r\nHost: {host}\r\n"
            f"{self.fields[i % len(self.fields)]}\r\n"
            for i in range(count)
        ]


@dataclass(frozen=True, slots=True)
class Load:
    """What was answered, and how often the answer was an error or none came."""

    answered: int
    seconds: float
    failed: int


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of a steady rate: milliseconds from when a request was due to the end of its answer."""

    asked_per_s: float
    held_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    late: int
    """Requests whose answer took more than LATE_MS."""
    failed: int
    busy: float
    """Share of its core that the generator used. Near 1 the latencies are its own."""


def generator(asking: Asking) -> tuple[str, str]:
    """What `as_fast_as_it_answers` would use, `wrk` or `h2load`, and its path. Raises Missing.

    Without wrk, h2load asks what it can: no fields that differ, and no connection that is closed.
    """
    try:
        return "wrk", installed("wrk", "wrk")
    except Missing:
        if tuple(asking.fields) != ("",):
            raise
        return "h2load", installed("h2load", "nghttp2-client")


def generator_versions() -> dict[str, str]:
    """Of the generators that are installed."""
    found = {}
    for program, flag in (("wrk", "-v"), ("h2load", "--version")):
        with suppress(Missing):
            found[program] = version_of(installed(program, program), flag)
    return found


def warm(peer: Peer, sizes: Mapping[str, int]) -> None:
    """Ask for each file once. Raises NoFigure unless all come with 200 and their sizes; blocks."""
    names = list(sizes)
    try:
        with (
            socket.create_connection((peer.host, peer.port), timeout=PATIENCE_S) as client,
            client.makefile("rb") as answers,
        ):
            for first in range(0, len(names), PIPELINED):
                some = names[first : first + PIPELINED]
                client.sendall("".join(Asking(some).requests(peer.host)).encode())
                for name in some:
                    status, length = answer_head(answers)
                    if "200" not in status or length != sizes[name] or len(answers.read(length)) != length:
                        raise NoFigure(f"it answers {name} of {sizes[name]} bytes with {status}, {length} bytes")
    except OSError as problem:
        raise NoFigure(f"it does not answer: {problem}") from None


def answer_head(answers: BinaryIO) -> tuple[str, int]:
    """Read the head of an answer: its status line and its Content-Length, -1 if it has none."""
    status, length = answers.readline().decode("latin-1").strip(), -1
    while (line := answers.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return status, length


def as_fast_as_it_answers(peer: Peer, asking: Asking, seconds: int, scratch: Path) -> Load:
    """Every connection asks again as soon as it has its answer. Raises Missing, NoFigure; blocks."""
    name, program = generator(asking)
    address = f"{peer.host}:{peer.port}"
    line = [program, "-t1", f"-c{asking.connections}"]
    if name == "h2load":
        targets = scratch / "targets"
        targets.write_text("".join(f"http://{address}/{path}\n" for path in asking.paths))
        return parse_h2load(_run([*line, "--h1", f"-D{seconds}", "-i", str(targets)], seconds))
    heads, script = scratch / "requests", scratch / "script.lua"
    heads.write_bytes(b"".join(head.encode() + b"\0" for head in asking.requests(address)))
    script.write_text(WRK_SCRIPT.format(requests=heads))
    line += [f"-d{seconds}s", f"--timeout={PATIENCE_S}s", "-s", str(script), f"http://{address}/"]
    return parse_wrk(_run(line, seconds))


def at_a_rate(peer: Peer, path: str, per_s: float, seconds: int, scratch: Path) -> Latencies:
    """So many requests a second, whether those before were answered or not. Raises Missing, NoFigure; blocks."""
    program = installed("h2load", "nghttp2-client")
    log = scratch / "latencies"
    log.unlink(missing_ok=True)
    line = [program, "--h1", "-t1", f"-c{RATE_CONNECTIONS}", "-m1", f"--log-file={log}"]
    line += [f"-n{max(RATE_CONNECTIONS, round(per_s * seconds))}", f"--rps={per_s / RATE_CONNECTIONS:.3f}"]
    line += [f"-r{RATE_CONNECTIONS // 64}", "--rate-period=1ms", f"http://{peer.host}:{peer.port}/{path}"]
    began_s, began_cpu_s = time.monotonic(), _children_cpu_s()
    load = parse_h2load(_run(line, 5 * seconds))
    busy = (_children_cpu_s() - began_cpu_s) / (time.monotonic() - began_s)
    with log.open() as lines:
        return summary(lines, per_s, load.failed, busy)


def parse_wrk(said: str) -> Load:
    """From the line that WRK_SCRIPT prints. Raises NoFigure."""
    for line in said.splitlines():
        words = line.replace(",", "").split()
        if words[:1] == ["answered"]:
            return Load(answered=int(words[1]), seconds=int(words[3]) / 1e6, failed=int(words[6]))
    raise NoFigure(f"wrk said: {said[-300:]}")


def parse_h2load(said: str) -> Load:
    """From its summary. Raises NoFigure."""
    rate = re.search(r"^finished in .*, ([\d.]+) req/s", said, re.MULTILINE)
    counts = re.search(r"^requests: .* (\d+) done, .* (\d+) failed", said, re.MULTILINE)
    if rate is None or counts is None:
        raise NoFigure(f"h2load said: {said[-300:]}")
    answered, per_s = int(counts[1]), float(rate[1])
    return Load(answered, seconds=answered / per_s if answered else 0.0, failed=int(counts[2]))


def summary(log: Iterable[str], asked_per_s: float, failed: int, busy: float) -> Latencies:
    """From h2load's log: a line has the start (µs since 1970), the status and the µs to the end of the answer.

    The first SKIPPED_S are left out. Raises NoFigure where nothing is left.
    """
    rows = [tuple(map(int, line.split())) for line in log]
    starts_us = [row[0] for row in rows]
    began_us = min(starts_us, default=0) + SKIPPED_S * 1e6
    counted_ms = [row[2] / 1000 for row in rows if row[0] >= began_us]
    if not counted_ms:
        raise NoFigure("h2load logged no answer")
    took_ms = with_held_back(counted_ms, interval_ms=RATE_CONNECTIONS / asked_per_s * 1000)
    ended_us = max(row[0] + row[2] for row in rows)
    return Latencies(
        asked_per_s=asked_per_s,
        held_per_s=len(counted_ms) / (ended_us - began_us) * 1e6,
        p50_ms=percentile(took_ms, 50),
        p99_ms=percentile(took_ms, 99),
        max_ms=max(took_ms),
        late=sum(each > LATE_MS for each in took_ms),
        failed=failed,
        busy=busy,
    )


def with_held_back(took_ms: Sequence[float], interval_ms: float) -> list[float]:
    """Latencies with those of the requests that could not be sent when they were due.

    One was due on the connection every `interval_ms` while an answer was waited for (Tene's correction for
    coordinated omission).
    """
    corrected = list(took_ms)
    for took in took_ms:
        held_ms = took - interval_ms
        while held_ms > 0:
            corrected.append(held_ms)
            held_ms -= interval_ms
    return corrected


def _run(line: Sequence[str], seconds: float) -> str:
    """What a generator prints. Raises NoFigure PATIENCE_S after its time, having killed it."""
    limit_s = seconds + PATIENCE_S
    try:
        done = subprocess.run(
            line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise NoFigure(f"{Path(line[0]).name} was not done after {limit_s:.0f} s") from None
    return done.stdout + done.stderr


def _children_cpu_s() -> float:
    """Processor seconds of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
