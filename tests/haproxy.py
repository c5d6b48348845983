"""gservers behind Debian's HAProxy, with deploy/haproxy.cfg as it is shipped: only the addresses are others."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from benchmarks.haproxy import balancing
from tests.program import Program

PROGRAM = shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")

GIVE_UP_S = 30
"""Bounds every wait; nothing that passes waits for it."""


class Cluster:
    """Three gservers over `folder`, and the port of the proxy in front of them. `clusters` makes one."""

    def __init__(self, folder: Path, options: tuple[str, ...], nodes: list[Program]) -> None:
        self.nodes = nodes
        self.port = 0
        self._folder = folder
        self._options = options

    def get(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        """One request to the proxy, on a connection of its own: status and body."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=GIVE_UP_S)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def lists(self) -> list[list[str]]:
        """What each node's LIST says."""
        return [node.names() for node in self.nodes]

    def kill(self, number: int) -> None:
        """kill -9 for a node."""
        self.nodes[number].process.send_signal(signal.SIGKILL)
        self.nodes[number].process.communicate(timeout=GIVE_UP_S)

    def restart(self, number: int) -> None:
        """A node that has ended, at its old place again."""
        self.nodes[number] = Program(self._folder, *self._options, port=self.nodes[number].port)


@contextmanager
def clusters(folder: Path, *options: str, changes: tuple[str, str, str] = ("", "", "")) -> Iterator[Cluster]:
    """Three gservers with these options behind HAProxy. `changes` are Program's, for each node.

    At the end all that still run have to stop cleanly.
    """
    nodes = [Program(folder, *options, changes=each) for each in changes]
    cluster = Cluster(folder, options, nodes)
    try:
        with balancing([node.port for node in nodes]) as proxy:
            cluster.port = proxy.port
            yield cluster
        for node in cluster.nodes:
            if node.process.returncode is None:
                log = node.stop()
                assert node.process.returncode == 0, log
                assert "Traceback" not in log, log
    finally:
        for node in cluster.nodes:
            if node.process.poll() is None:
                node.process.kill()
            node.process.communicate(timeout=GIVE_UP_S)


def wait_until(condition: Callable[[], bool]) -> None:
    """Until it holds; it has to before GIVE_UP_S have passed."""
    deadline_s = time.monotonic() + GIVE_UP_S
    while not condition():
        assert time.monotonic() < deadline_s, "it never came"
        time.sleep(0.02)
