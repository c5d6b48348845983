"""make load: a corpus, a server, users, a verdict: python -m loadtest [--short] [locust options].

One command, one exit code. What is made is in one temporary folder and is removed; the server is stopped by pid.
"""

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest._corpus import MIB, Corpus, write

PROJECT = Path(__file__).resolve().parent.parent

SHORT = Corpus(size=128 * MIB, files=800, capacity=24 * MIB)
SHORT_S = 30

_STARTED = re.compile(r"gserver: (https?://\S+)/ serves ")


def main(arguments: list[str]) -> int:
    """The exit code of Locust: 0 only if everything held."""
    short = "--short" in arguments
    corpus = SHORT if short else Corpus()
    options = ["--seconds", str(SHORT_S)] if short else []
    capacity = f"{corpus.capacity // MIB}MiB"
    with tempfile.TemporaryDirectory(prefix="gserver-load-") as folder:
        directory = Path(folder, "corpus")
        total = write(directory, corpus)
        print(f"loadtest: {len(corpus.names()):,} files, {total // MIB} MiB; cache {capacity}", flush=True)
        with server(directory, "--cache", capacity) as (url, pid):
            locust = [
                sys.executable,
                "-m",
                "locust",
                "-f",
                str(PROJECT / "loadtest"),
                "--headless",
                "--only-summary",
            ]
            what = ["--host", url, "--pid", str(pid), "--corpus", str(directory), "--capacity", capacity]
            further = [argument for argument in arguments if argument != "--short"]
            return subprocess.call([*locust, "--shape", "pressure", *what, *options, *further])


@contextmanager
def server(directory: Path, *options: str) -> Iterator[tuple[str, int]]:
    """A gserver.py on a free port, as its URL and pid; stopped at the end."""
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "gserver.py"), "0", str(directory), *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if started := _STARTED.match(line):
                break
            sys.stderr.write(line)
        else:
            sys.exit("loadtest: the server did not start")
        yield started[1], process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
        sys.stderr.write(log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
