"""make load: a corpus, a server, users, a verdict: python -m loadtest [--short] [locust options].

One command, one exit code. What is made is in one temporary folder and is removed; the server is stopped by pid.
"""

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

from loadtest._corpus import MIB, Corpus, write

PROJECT = Path(__file__).resolve().parent.parent

SHORT = Corpus(size=128 * MIB, files=800, capacity=24 * MIB)
SHORT_S = 30

_STARTED = re.compile(r"gserver: (https?://\S+)/ serves ")


def main(arguments: list[str]) -> int:
    """The exit code of Locust: 0 only if everything held."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and stop and remove what was begun
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
            what = ["--host", url, "--corpus", str(directory), "--capacity", capacity]
            if Path("/proc/self/io").exists():
                what += ["--pid", str(pid)]
            further = [argument for argument in arguments if argument != "--short"]
            return _run([*locust, "--shape", "pressure", *what, *options, *further])


def _run(command: list[str]) -> int:
    """Its exit code. Ctrl-C is for Locust, which ends with a verdict."""
    with subprocess.Popen(command) as locust:
        try:
            while True:
                with suppress(KeyboardInterrupt):
                    return locust.wait()
        finally:
            locust.terminate()


@contextmanager
def server(directory: Path, *options: str) -> Iterator[tuple[str, int]]:
    """A gserver.py on a free port, as its URL and pid; stopped at the end."""
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "gserver.py"), "0", str(directory), *options],
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,  # Ctrl-C is for Locust, which then still has a server to look at
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if started := _STARTED.match(line):
                break
            sys.stderr.write(line)
        else:
            sys.exit("loadtest: the server did not start")
        # A full pipe would stop it.
        Thread(target=sys.stderr.writelines, args=(process.stderr,), daemon=True).start()
        yield started[1], process.pid
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
