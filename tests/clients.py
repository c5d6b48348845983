"""gclient.py as its users run it: to its end, on a terminal, until somebody interrupts it."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.misbehaving import GIVE_UP_S
from tests.program import PROJECT, Program, gclient

BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
"""The environment of most users: Python writes standard output again at exit."""


class OnATerminal:
    """gclient.py with its standard error on a terminal, while it runs. Leaving the `with` ends it.

    With `shows_output` its standard output is on the same terminal. `environment` is added to ours.
    """

    def __init__(
        self, *arguments: str, rows: int = 24, columns: int = 80, shows_output: bool = False, **environment: str
    ) -> None:
        self.screen = b""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        # A shell starts background jobs with SIGINT ignored, and that would be inherited.
        interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.process = subprocess.Popen(
                command(*arguments),
                stdout=slave if shows_output else subprocess.PIPE,
                stderr=slave,
                env={**os.environ, "TERM": "xterm", **environment},
            )
        finally:
            signal.signal(signal.SIGINT, interrupt)
            os.close(slave)

    def __enter__(self) -> "OnATerminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._master)

    def wait_for(self, text: bytes) -> None:
        """Until the screen shows it."""
        self.wait_until(lambda screen: text in screen)

    def wait_until(self, is_so: Callable[[bytes], bool]) -> None:
        """Until this is so of all that came to the screen."""
        while not is_so(self.screen):
            assert self._read(), self.screen

    def finish(self) -> int:
        """Wait for the end; the exit code."""
        while self._read():
            pass
        return self.process.wait(GIVE_UP_S)

    def _read(self) -> bytes:
        try:
            piece = os.read(self._master, 1 << 16)
        except OSError:  # EIO: Linux says so when the last one on the terminal has left
            piece = b""
        self.screen += piece
        return piece


def command(*arguments: str) -> list[str]:
    """The command line of gclient.py, for what `gclient` cannot run."""
    return [sys.executable, str(PROJECT / "gclient.py"), *arguments]


def address(server: Program) -> tuple[str, str]:
    """HOST and PORT as arguments."""
    return server.host, str(server.port)


def tree(path: Path) -> dict[str, bytes]:
    """Everything under `path` that is not a folder: its path from there, and the bytes."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if not file.is_dir()}


def error_line(*arguments: str) -> tuple[int, str]:
    """Run gclient.py; the exit code and what it says on standard error, which is one line."""
    result = gclient(*arguments)
    message = result.stderr.decode()
    assert message.startswith("gclient: "), message
    assert message.endswith("\n"), message
    assert message.count("\n") == 1, message
    return result.returncode, message.removeprefix("gclient: ").rstrip("\n")


def fetched(there: tuple[str, str], name: str, directory: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Run `get` for one file; the exit code and the object that `--json` prints."""
    result = gclient(*there, "get", name, "-d", str(directory), "--json", *options)
    assert b"Traceback" not in result.stderr, result.stderr
    told: dict[str, Any] = json.loads(result.stdout)
    return result.returncode, told
