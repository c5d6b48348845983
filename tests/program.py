"""gserver.py and gclient.py as subprocesses, the way a user runs them."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent

GIVE_UP_S = 30.0

_START_LINE = re.compile(r"gserver: https?://(\[.*?\]|[^:/]*):(\d+)/ serves ")


class Program:
    """A running gserver.py on a free port, or on `port`. Leaving the `with` stops it and checks that it stopped
    cleanly.

    `changes` are statements that a wrapper runs before `gserver.main`, with these modules at hand; `env` is its
    environment, ours if not given.
    """

    def __init__(
        self,
        directory: Path | str,
        *options: str,
        changes: str = "",
        port: int = 0,
        env: dict[str, str] | None = None,
    ) -> None:
        program = [str(PROJECT / "gserver.py")]
        if changes:
            program = [
                "-c",
                f"import gserver; from fileserver import connection, server, transport; {changes}; gserver.main()",
            ]
        self._env = env
        self.process = self.started([sys.executable, *program, str(port), str(directory), *options])
        assert self.process.stderr is not None
        self.warnings = ""
        """What it logged before its start line."""
        while not (match := _START_LINE.match(line := self.process.stderr.readline())):
            assert line, self.warnings
            self.warnings += line
        self.start_line = line
        self.host = match[1].strip("[]")
        self.port = int(match[2])

    def started(self, command: list[str]) -> "subprocess.Popen[str]":
        """The process, with its standard error at hand."""
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=PROJECT, env=self._env)

    def __enter__(self) -> "Program":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        _, log = self.process.communicate(timeout=40)
        if kind is None:
            assert self.process.returncode == 0, log
            assert "Traceback" not in log, log

    def stop(self) -> str:
        """SIGTERM, and wait; what it logged."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=40)[1]

    def begin_stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """A first signal, and wait until it has been heard."""
        self.process.send_signal(number)
        assert self.process.stderr is not None
        assert "accepting no more" in self.process.stderr.readline()

    def connect(self, timeout: float = 30) -> socket.socket:
        """A plain TCP connection."""
        return socket.create_connection((self.host, self.port), timeout=timeout)

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own: status, header fields (lower case), body."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request(
                method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
            )
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return response.status, fields, response.read()
        finally:
            connection.close()

    def stats(self) -> dict[str, Any]:
        """What `/-/stats` says."""
        stats: dict[str, Any] = json.loads(self.get("/-/stats")[2])
        return stats

    def names(self) -> list[str]:
        """What LIST says."""
        return self.get("/-/cache")[2].decode().splitlines()

    def raw(self, content: bytes, timeout: float = 30) -> bytes:
        """Send bytes, then read until the server closes."""
        with self.connect(timeout) as client:
            client.sendall(content)
            return read_all(client)


def read_all(client: socket.socket) -> bytes:
    """Everything until the other side closes."""
    pieces = []
    while piece := client.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def until(condition: Callable[[], object]) -> None:
    """Wait for it, but not for ever."""
    deadline_s = time.monotonic() + GIVE_UP_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def gclient(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run gclient.py to its end."""
    return subprocess.run(
        [sys.executable, str(PROJECT / "gclient.py"), *arguments],
        capture_output=True,
        timeout=60,
        check=False,
        **options,
    )


def sparse(path: Path, size: int) -> Path:
    """A file of zeroes that takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(size)
    return path
