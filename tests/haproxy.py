"""gservers behind Debian's HAProxy, with deploy/haproxy.cfg as it is shipped: only the addresses are others."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from tests.program import PROJECT, Program

SHIPPED = PROJECT / "deploy" / "haproxy.cfg"

PROGRAM = shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")

GIVE_UP_S = 30
"""Bounds every wait; nothing that passes waits for it."""


class Cluster:
    """Three gservers over `folder`, and the port of the proxy in front of them. `clusters` makes one."""

    def __init__(self, folder: Path, options: tuple[str, ...], nodes: list[Program], port: int) -> None:
        self.nodes = nodes
        self.port = port
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

    At the end all that still run have to stop cleanly, HAProxy too.
    """
    with ExitStack() as stack:
        nodes = [Program(folder, *options, changes=each) for each in changes]
        front = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        cluster = Cluster(folder, options, nodes, front.getsockname()[1])
        try:
            with haproxy(front, nodes):
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


@contextmanager
def haproxy(front: socket.socket, nodes: list[Program]) -> Iterator[None]:
    """HAProxy in front of these nodes. It takes the listening socket over: who connects meanwhile waits in it."""
    assert PROGRAM
    environment = {f"GSERVER_{number}": f"127.0.0.1:{node.port}" for number, node in enumerate(nodes, 1)}
    process = subprocess.Popen(
        [PROGRAM, "-db", "-dW", "-f", "/dev/stdin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment, "GSERVER_FRONT": f"fd@{front.fileno()}"},
        pass_fds=[front.fileno()],
        text=True,
    )
    assert process.stdin
    process.stdin.write(shipped())
    process.stdin.close()
    process.stdin = None
    try:
        yield
        assert process.poll() is None, process.communicate(timeout=GIVE_UP_S)[0]
    finally:
        process.terminate()
        process.communicate(timeout=GIVE_UP_S)


def shipped() -> str:
    """deploy/haproxy.cfg; without the lines by which root gives its rights away, where there are none to give."""
    lines = SHIPPED.read_text().splitlines(keepends=True)
    if os.geteuid() != 0:
        lines = [line for line in lines if line.split()[:1] not in (["user"], ["group"], ["chroot"])]
    return "".join(lines)


def wait_until(condition: Callable[[], bool]) -> None:
    """Until it holds; it has to before GIVE_UP_S have passed."""
    deadline_s = time.monotonic() + GIVE_UP_S
    while not condition():
        assert time.monotonic() < deadline_s, "it never came"
        time.sleep(0.02)
