"""Clients that die, stall or run out of time at each stage of a fill: the others never notice."""

import math
import struct
from contextlib import suppress
from pathlib import Path

import gevent
import pytest
from gevent import socket

from fileserver.root import FileError
from fileserver.transport import Waiting
from lrucache import CHUNK_BYTES
from tests.house import Gate, House, connect, pattern, receive_all, wait_for

CHUNKS = 6
SIZE = CHUNKS * CHUNK_BYTES
REQUEST = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def reset(client: socket.socket, house: House) -> None:
    """Gone without a goodbye."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def half_close(client: socket.socket, house: House) -> None:
    """Says that nothing more will be asked, and reads nothing either."""
    client.shutdown(socket.SHUT_WR)


def stall(client: socket.socket, house: House) -> None:
    """Is there, and reads nothing."""


def time_out(client: socket.socket, house: House) -> None:
    """Reads nothing until its time is up."""
    for one in house.site.traffic.connections:
        if one.waiting is Waiting.WRITABLE and one.deadline_s < math.inf:
            one.expire()


@pytest.mark.parametrize("fate", [reset, half_close, stall, time_out])
@pytest.mark.parametrize("stage", ["open", *range(0, SIZE, CHUNK_BYTES)])
def test_what_becomes_of_one_client_changes_nothing_for_the_others(
    folder: Path, io: str, fate: object, stage: str | int
) -> None:
    assert callable(fate)
    with House(folder, io=io) as house, house.serving() as port:
        content = house.write("a", pattern(SIZE))
        house.root.cold.add("a")
        gate = Gate()
        if stage == "open":
            house.root.before_open = lambda name: gate.wait()
        else:
            house.root.before_read = lambda name, offset: gate.wait() if offset == stage else None
        doomed = [connect(port, REQUEST, receive_buffer=4096) for _ in range(3)]
        wait_for(lambda: gate.waiting)
        for client in doomed:
            fate(client, house)
        others = [connect(port, REQUEST, receive_buffer=4096) for _ in range(3)]
        reading = [gevent.spawn(receive_all, client) for client in others]
        gate.open()
        for reader in reading:
            head, _, body = reader.get().partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert body == content
        assert house.root.reads == [("a", offset) for offset in range(0, SIZE, CHUNK_BYTES)]
        for client in [*doomed, *others]:
            client.close()
        wait_for(lambda: not house.site.traffic.connections)
        assert house.fetch("a") == ("hit", content)


def replace(house: House) -> None:
    house.replace("a", b"new")


def delete(house: House) -> None:
    (house.folder / "a").unlink()


@pytest.mark.parametrize("change", [replace, delete])
def test_a_slow_reader_of_a_hit_finishes_its_version_when_the_name_changes(folder: Path, change: object) -> None:
    assert callable(change)
    with House(folder) as house, house.serving() as port:
        if not house.root.knows_cached:
            pytest.skip("this system does not say what it has in memory")
        content = house.write("a", pattern(40 * CHUNK_BYTES))
        house.fetch("a")
        client = connect(port, REQUEST, receive_buffer=4096)
        wait_for(lambda: [one.waiting for one in house.site.traffic.connections] == [Waiting.WRITABLE])
        change(house)
        house.clock.now_s += 2
        with suppress(FileError):
            house.fetch("a")
        assert receive_all(client).partition(b"\r\n\r\n")[2] == content
        client.close()
