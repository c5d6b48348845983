"""Promise 1 against two thousand clients that read nothing after the head, each of another 16 MiB file."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.program import Program

CLIENTS = 2000
MIB = 1 << 20
CAPACITY = 64 * MIB
THREADS = 32

HEAD_BYTES = 500
"""More than the head of one of our answers has."""

SENDING_SOCKET = 2 * 2 * 224 * 1024
"""What the kernel may hold for one: SO_SNDBUF as Linux doubles it, and the overhead of its own structures."""

CGROUP_BYTES = 192 * MIB
CGROUPS = [(Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max")]
"""Where version 1 and version 2 keep theirs, and what bounds one."""


@contextmanager
def memory_cgroup() -> Iterator[Path]:
    """A memory cgroup of 192 MiB, v1 or v2; skips where this machine cannot make one."""
    for parent, limit in CGROUPS:
        group = parent / f"gserver-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            try:
                (group / limit).write_text(str(CGROUP_BYTES))
            except OSError:
                continue
            yield group
            return
        finally:
            group.rmdir()
    pytest.skip("no memory cgroup can be made here: not root, or the controller is not available")


def blocked_clients(server: Program, exit_stack: ExitStack) -> list[socket.socket]:
    """Clients that have read a head and stop there; back when the server can send none of them anything more."""
    clients = []
    for number in range(CLIENTS):
        client = exit_stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect((server.host, server.port))
        client.sendall(b"GET /f%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
        clients.append(client)
    for client in clients:
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    still = 0
    before = -MIB
    while still < 50:
        answer = server.get("/-/stats")[2]
        stats = json.loads(answer)
        ours = len(answer) + HEAD_BYTES
        still = still + 1 if stats["bytes_sent"] - before < ours and stats["fills_in_flight"] == 0 else 0
        before = stats["bytes_sent"]
    return clients


def kernel_tcp_bytes() -> int:
    """Memory of all TCP sockets, as the kernel counts it."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            return int(line.split()[-1]) * os.sysconf("SC_PAGE_SIZE")
    raise AssertionError("sockstat has no TCP line")


@pytest.fixture
def many_files(folder: Path) -> Path:
    for number in range(CLIENTS):
        with (folder / f"f{number}").open("wb") as file:
            file.truncate(16 * MIB)
    (folder / "normal").write_bytes(b"served")
    return folder


@pytest.mark.skipif(not Path("/proc/net/sockstat").exists(), reason="only Linux counts socket memory")
@pytest.mark.timeout(180)
def test_two_thousand_blocked_readers_cost_neither_payload_nor_unbounded_kernel_memory(many_files: Path) -> None:
    changes = "transport.PROGRESS_S = float('inf')"
    with Program(many_files, changes=changes) as server, ExitStack() as clients:
        idle_rss = server.stats()["rss_bytes"]
        idle_tcp = kernel_tcp_bytes()
        blocked_clients(server, clients)
        stats = server.stats()
        assert stats["connections"] == CLIENTS + 1
        assert stats["peak"] <= CAPACITY
        assert stats["violations"] == 0
        assert stats["filling"] == 0
        per_client = 48 * 1024
        bound = idle_rss + CAPACITY + THREADS * 256 * 1024 + CLIENTS * per_client
        assert stats["rss_bytes"] <= bound
        assert kernel_tcp_bytes() - idle_tcp <= CLIENTS * SENDING_SOCKET
        assert server.get("/normal")[2] == b"served"
        assert server.get("/normal")[1]["x-cache"] == "HIT"


@pytest.mark.timeout(180)
def test_in_a_memory_cgroup_of_three_caches_the_server_is_not_killed(many_files: Path) -> None:
    changes = "transport.PROGRESS_S = float('inf')"
    with memory_cgroup() as group, Program(many_files, changes=changes) as server, ExitStack() as clients:
        (group / "cgroup.procs").write_text(str(server.process.pid))
        blocked_clients(server, clients)
        assert server.get("/normal")[2] == b"served"
        assert server.process.poll() is None
        assert server.stats()["violations"] == 0
