"""python -m benchmarks.dashboard: what an open dashboard costs, and Prometheus, beside nobody who looks.

Who watches reads the dashboard's events and draws nothing: a browser would take its share of the load's core.
"""

import http.client
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.clients import ANSWER_S
from benchmarks.command import run
from benchmarks.peers import HOST, Peer, serving
from benchmarks.rounds import Start
from benchmarks.variants import compare
from benchmarks.workloads import Column

COLUMNS = ("1k", "zipf", "misses")
"""One entry; 4,000; 14,000 that come and go."""
SCRAPE_S = 1.0
"""Fifteen times as often as Prometheus by default."""


@contextmanager
def visited(
    column: Column, visit: Callable[[http.client.HTTPConnection, threading.Event], None], folder: Path
) -> Iterator[Peer]:
    """gserver with a visitor for as long as the `with` lasts. Raises Missing."""
    with serving("gserver", folder, options=column.options) as peer:
        connection = http.client.HTTPConnection(HOST, peer.port, timeout=ANSWER_S)
        gone = threading.Event()
        visitor = threading.Thread(target=visit, args=(connection, gone))
        visitor.start()
        try:
            yield peer
        finally:
            gone.set()
            visitor.join()
            connection.close()


def watch(connection: http.client.HTTPConnection, gone: threading.Event) -> None:
    """Read the dashboard's events, each as it comes."""
    connection.request("GET", "/-/events")
    events = connection.getresponse()
    while not gone.is_set() and events.read1():
        pass


def scrape(connection: http.client.HTTPConnection, gone: threading.Event) -> None:
    """Read the metrics, once in SCRAPE_S."""
    while not gone.wait(SCRAPE_S):
        connection.request("GET", "/-/metrics")
        connection.getresponse().read()


WAYS: dict[str, Callable[[Column], Start]] = {
    "nobody": lambda column: partial(serving, "gserver", options=column.options),
    "dashboard": lambda column: partial(visited, column, watch),
    "prometheus": lambda column: partial(visited, column, scrape),
}


def main() -> int:
    """Measure and print; the exit code is 1 when nothing could be measured."""
    return compare("dashboard", (__doc__ or "").partition("\n")[0], WAYS, COLUMNS)


if __name__ == "__main__":
    sys.exit(run(main))
