"""Long pages: others are heard between two slices, and a crowd that asks for one costs no more than two."""

from collections.abc import Iterator

import gevent
import pytest
from gevent import socket

from fileserver import longpages
from fileserver.longpages import LongPages, Shared, joined
from fileserver.root import Exhausted
from fileserver.traffic import Traffic

CROWD = 50


class Kitchen:
    """Makes pages, each when the test lets it, and counts them."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.shared = Shared(LongPages(self.traffic), self.make)
        self.made = 0
        self.may_go_on = gevent.event.Event()
        self.error: Exception | None = None

    def make(self) -> bytes:
        self.made += 1
        number = self.made
        self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        return b"page %d" % number

    def ask(self, number: int) -> list["gevent.Greenlet[[], bytes]"]:
        asking = [gevent.spawn(self.shared.get) for _ in range(number)]
        gevent.sleep(0.01)
        return asking


def test_who_asks_while_one_is_made_shares_the_next_with_all_others() -> None:
    kitchen = Kitchen()
    (first,) = kitchen.ask(1)
    crowd = kitchen.ask(CROWD)
    assert kitchen.made == 1
    kitchen.may_go_on.set()
    assert first.get(timeout=20) == b"page 1"
    assert {each.get(timeout=20) for each in crowd} == {b"page 2"}
    assert kitchen.made == 2


def test_who_asks_later_gets_a_later_one() -> None:
    kitchen = Kitchen()
    kitchen.may_go_on.set()
    assert [kitchen.shared.get() for _ in range(3)] == [b"page 1", b"page 2", b"page 3"]


def test_all_who_wait_for_one_that_fails_are_told_and_the_next_is_made() -> None:
    kitchen = Kitchen()
    kitchen.error = ZeroDivisionError()
    first = kitchen.ask(1)
    crowd = kitchen.ask(CROWD)
    kitchen.may_go_on.set()
    gevent.joinall([*first, *crowd], timeout=20)
    assert sum(isinstance(each.exception, ZeroDivisionError) for each in (*first, *crowd)) == 2
    assert sum(isinstance(each.exception, Exhausted) for each in crowd) == CROWD - 1
    kitchen.error = None
    assert kitchen.shared.get() == b"page 3"


def test_none_is_made_and_none_handed_out_while_too_many_wait_for_their_clients() -> None:
    kitchen = Kitchen()
    (first,) = kitchen.ask(1)
    crowd = kitchen.ask(CROWD)
    kitchen.traffic.page_bytes = longpages.PAGES_MAX_BYTES + 1
    kitchen.may_go_on.set()
    gevent.joinall([first, *crowd], timeout=20)
    assert all(isinstance(each.exception, Exhausted) for each in (first, *crowd))
    assert kitchen.made == 1
    kitchen.traffic.page_bytes = 0
    assert kitchen.shared.get() == b"page 2"


@pytest.mark.parametrize("others", [0, 5])
def test_sockets_are_heard_between_two_slices(others: int) -> None:
    """Also when several pages are made at a time: gevent runs many callbacks before it looks at a socket."""
    sliced, heard = [0], []
    ours, theirs = socket.socketpair()

    def pieces(*, is_first: bool) -> Iterator[bytes]:
        for number in range(200):
            if is_first and number % 20 == 0:
                theirs.send(b"x")
            sliced[0] += 1
            yield b""

    def listen() -> None:
        while ours.recv(1):
            heard.append(sliced[0])

    with ours, theirs:
        listening = gevent.spawn(listen)
        gevent.sleep(0)
        pages = [gevent.spawn(joined, pieces(is_first=number == 0)) for number in range(others + 1)]
        gevent.joinall(pages, timeout=20)
        theirs.close()
        listening.join(20)
    sent = [number * 20 * (others + 1) for number in range(10)]
    assert len(heard) == 10
    assert all(late - asked <= 3 * (others + 1) for asked, late in zip(sent, heard, strict=True))
