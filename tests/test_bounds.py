"""What is bounded besides the cache: pages that wait for slow clients, and clients beyond the limit."""

import json
from contextlib import ExitStack
from pathlib import Path

import gevent
import pytest
from gevent import socket

from fileserver import longpages, site
from tests.house import House, connect, receive_all, wait_for
from tests.program import Program, read_all

NAMES = 2000
LONG = "n" * 200


def ask(port: int, content: bytes) -> socket.socket:
    return connect(port, content, receive_buffer=4096)


@pytest.mark.parametrize("request_line", [b"GET / HTTP/1.0\r\n\r\n", b"GET /-/cache HTTP/1.0\r\n\r\n", b"LIST\n"])
def test_pages_that_nobody_reads_stay_within_their_bound_and_files_are_served(
    folder: Path, monkeypatch: pytest.MonkeyPatch, request_line: bytes
) -> None:
    with House(folder) as house, house.serving(send_buffer=4096) as port, ExitStack() as clients:
        for number in range(NAMES):
            house.write(f"{LONG}{number}", b"")
            house.fetch(f"{LONG}{number}")
        with ask(port, request_line) as reader:
            page_bytes = len(receive_all(reader))
        monkeypatch.setattr(longpages, "PAGES_MAX_BYTES", 5 * page_bytes)
        blocked = [clients.enter_context(ask(port, request_line)) for _ in range(30)]
        wait_for(lambda: house.site.traffic.page_bytes > 5 * page_bytes)
        assert house.site.traffic.page_bytes <= 7 * page_bytes
        with ask(port, request_line) as refused:
            answer = receive_all(refused)
        assert answer.startswith((b"HTTP/1.1 503", b"ERROR too busy"))
        with ask(port, f"GET /{LONG}1 HTTP/1.0\r\n\r\n".encode()) as client:
            assert receive_all(client).startswith(b"HTTP/1.1 200")
        for client in blocked:
            client.close()
        wait_for(lambda: not house.site.traffic.connections)
        assert house.site.traffic.page_bytes == 0
        with ask(port, request_line) as reader:
            assert len(receive_all(reader)) == page_bytes


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"-/",
        b"-/cache",
        b"-/snapshot",
        b"-/events",
        b"-/stats",
        b"-/evictions",
        b"-/metrics",
        b"-/openapi.json",
    ],
)
def test_while_too_many_pages_wait_there_is_no_other_but_health(folder: Path, path: bytes) -> None:
    with House(folder) as house, house.serving() as port:
        house.site.traffic.page_bytes = longpages.PAGES_MAX_BYTES + 1
        with ask(port, b"GET /%s HTTP/1.0\r\n\r\n" % path) as client:
            assert receive_all(client).startswith(b"HTTP/1.1 503")
        with ask(port, b"GET /-/health HTTP/1.0\r\n\r\n") as client:
            assert receive_all(client).endswith(b"ok\n")


def test_who_has_waited_for_the_same_snapshot_does_not_get_it_all_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with House(folder) as house, house.serving(send_buffer=4096) as port, ExitStack() as clients:
        for number in range(NAMES):
            house.write(f"{LONG}{number}", b"")
            house.fetch(f"{LONG}{number}")
        with ask(port, b"GET /-/snapshot HTTP/1.0\r\n\r\n") as reader:
            page_bytes = len(receive_all(reader))
        monkeypatch.setattr(longpages, "PAGES_MAX_BYTES", 5 * page_bytes)
        house.clock.now_s += 10
        for _ in range(40):
            clients.enter_context(ask(port, b"GET /-/snapshot HTTP/1.0\r\n\r\n"))
        wait_for(lambda: house.site.traffic.answers().get(("GET", 503, None), 0) >= 33)
        assert 5 * page_bytes < house.site.traffic.page_bytes <= 7 * page_bytes


def test_only_so_many_folders_are_listed_at_a_time(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        listing = []
        most = []

        def count(name: str) -> None:
            listing.append(name)
            most.append(len(listing))
            listing.pop()

        house.root.before_list = count
        clients = [ask(port, b"GET / HTTP/1.0\r\n\r\n") for _ in range(50)]
        answers = [gevent.spawn(receive_all, client) for client in clients]
        gevent.joinall(answers, raise_error=True)
        assert max(most) <= site.LISTING_TURNS
        for client in clients:
            client.close()


def test_the_reserved_folder_is_not_listed_at_the_root(folder: Path) -> None:
    with House(folder) as house, house.serving() as port:
        for name in ("-/file", "sub/-/file"):
            house.write(name, b"")
        for path, shown in ((b"/", ["sub"]), (b"/sub/", ["-"])):
            with ask(port, b"GET %s?format=json HTTP/1.0\r\n\r\n" % path) as client:
                body = receive_all(client).partition(b"\r\n\r\n")[2]
            assert [entry["name"] for entry in json.loads(body)["entries"]] == shown


def test_clients_beyond_the_limit_neither_linger_without_bound_nor_keep_others_out(folder: Path) -> None:
    with Program(folder, "--max-connections", "1", changes="server.TURNED_AWAY_MAX = 3") as server:
        with ExitStack() as opened:
            admitted = opened.enter_context(server.connect())
            admitted.sendall(b"GET /-/stats HTTP/1.0\r\n")  # not idle: an idle one would give way
            refused = [opened.enter_context(server.connect()) for _ in range(20)]
            assert all(read_all(client).startswith(b"HTTP/1.1 503") for client in refused)
            admitted.sendall(b"\r\n")
            stats = json.loads(read_all(admitted).partition(b"\r\n\r\n")[2])
            assert stats["connections"] <= 1 + 3
        # Those who linger do not count: there is room as soon as the admitted one has left.
        assert server.get("/-/health")[0] == 200
