"""HAProxy in front of gservers, with deploy/haproxy.cfg as it is shipped: only the addresses are others.

A room of its own because the tests need it, too.
"""

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.peers import HOST, PROJECT, Peer, installed, pin, version_of

SHIPPED = PROJECT / "deploy" / "haproxy.cfg"
NODES = 3
"""Of the file. If there are fewer, some stand there more than once."""

STOP_S = 10.0
"""It cuts what is under way when it is told to stop; it has to be gone then."""


@contextmanager
def balancing(ports: Sequence[int], *, core: int | None = None) -> Iterator[Peer]:
    """HAProxy in front of the gservers on these ports of this machine, while the `with` lasts.

    It takes over a socket that listens already, in which those wait who come first. `core` is its place in
    peers.CORES (None: anywhere). Raises Missing; RuntimeError if it ended by itself.
    """
    program = installed("haproxy", "haproxy")
    nodes = {f"GSERVER_{place + 1}": f"{HOST}:{ports[place % len(ports)]}" for place in range(NODES)}
    with socket.create_server((HOST, 0), backlog=1024) as front:
        process = subprocess.Popen(
            [program, "-db", "-dW", "-f", "/dev/stdin"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **nodes, "GSERVER_FRONT": f"fd@{front.fileno()}"},
            pass_fds=[front.fileno()],
            preexec_fn=None if core is None else lambda: pin(core),  # noqa: PLW1509 - the benchmarks have one thread
        )
        try:
            assert process.stdin
            process.stdin.write(configuration().encode())
            process.stdin.close()
            process.stdin = None
            yield Peer("haproxy", version_of(program, "-v"), front.getsockname()[1], [process.pid])
            ended = process.poll() is not None
        finally:
            process.terminate()
            said = process.communicate(timeout=STOP_S)[0].decode(errors="replace")
        if ended:
            raise RuntimeError(f"HAProxy ended by itself: {said}")


def configuration() -> str:
    """The file; without the lines by which root gives its rights away, where there are none to give."""
    lines = SHIPPED.read_text().splitlines(keepends=True)
    if os.geteuid() != 0:
        lines = [line for line in lines if line.split()[:1] not in (["user"], ["group"], ["chroot"])]
    return "".join(lines)
