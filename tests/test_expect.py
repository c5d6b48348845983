"""Clients that ask before they send a body (RFC 9110 section 10.1.1), over real sockets."""

from pathlib import Path

import gevent
import pytest
from gevent import socket

from fileserver.connection import HEAD_S
from fileserver.heads import CONTINUE
from fileserver.transport import Waiting
from fileserver.wire import MAX_BODY_BYTES
from tests.house import House, connect, receive_all, wait_for

EXPECT = b"Expect: 100-continue\r\n"
LAST = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
FRAMINGS = pytest.mark.parametrize(
    ("framing", "body"),
    [(b"Content-Length: 5\r\n", b"hello"), (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n")],
    ids=["length", "chunked"],
)


def asking(framing: bytes, *, name: bytes = b"a", version: bytes = b"1.1", expect: bytes = EXPECT) -> bytes:
    """The head of a request whose body waits for a word."""
    return b"GET /" + name + b" HTTP/" + version + b"\r\nHost: x\r\n" + expect + framing + b"\r\n"


def receive(client: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, or what there is up to the end."""
    received = b""
    while len(received) < size and (piece := client.recv(size - len(received))):
        received += piece
    return received


def receive_until(client: socket.socket, ending: bytes) -> bytes:
    """Everything up to these bytes."""
    received = b""
    while not received.endswith(ending) and (piece := client.recv(1)):
        received += piece
    return received


@FRAMINGS
def test_who_asks_is_told_to_go_on_before_the_body_and_answered_after_it(
    folder: Path, framing: bytes, body: bytes
) -> None:
    with House(folder) as house, house.serving() as port, connect(port) as client:
        house.write("a", b"the content")
        for _ in range(2):  # and the connection goes on
            client.sendall(asking(framing))
            assert receive(client, len(CONTINUE)) == CONTINUE == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert not house.site.traffic.file_answers
            for place in range(len(body)):
                client.sendall(body[place : place + 1])
            answer = receive_until(client, b"the content")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"100 Continue" not in answer
            house.site.traffic.file_answers = 0
        client.sendall(LAST)
        answer = receive_all(client)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nthe content")


@FRAMINGS
def test_who_asked_and_does_not_wait_is_answered_at_once(folder: Path, framing: bytes, body: bytes) -> None:
    with House(folder) as house, house.serving() as port, connect(port) as client:
        house.write("a", b"the content")
        client.sendall(asking(framing) + body + LAST)
        answers = receive_all(client)
        assert answers.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answers.count(b"HTTP/1.1 ") == answers.count(b"the content") == 2


@pytest.mark.parametrize("status", [b"404", b"405"])
def test_what_will_be_refused_is_refused_after_the_body_and_the_connection_goes_on(
    folder: Path, status: bytes
) -> None:
    """A final answer in place of the 100 would leave us to guess whether a body follows."""
    with House(folder) as house, house.serving() as port, connect(port) as client:
        house.write("a", b"the content")
        head = asking(b"Content-Length: 2\r\n", name=b"missing")
        client.sendall(head if status == b"404" else head.replace(b"GET", b"PUT"))
        assert receive(client, len(CONTINUE)) == CONTINUE
        client.sendall(b"hi" + LAST)
        answers = receive_all(client)
        assert answers.startswith(b"HTTP/1.1 " + status)
        assert answers.endswith(b"\r\n\r\nthe content")


def test_a_body_that_is_announced_as_too_large_is_not_asked_for(folder: Path) -> None:
    with House(folder) as house, house.serving() as port, connect(port) as client:
        client.sendall(asking(b"Content-Length: %d\r\n" % (MAX_BODY_BYTES + 1)))
        answer = receive_all(client)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nConnection: close\r\n" in answer
        assert b"100 Continue" not in answer


def test_a_body_that_turns_out_too_large_is_refused_after_the_100(folder: Path) -> None:
    with House(folder) as house, house.serving() as port, connect(port) as client:
        client.sendall(asking(b"Transfer-Encoding: chunked\r\n"))
        assert receive(client, len(CONTINUE)) == CONTINUE
        client.sendall(b"%x\r\n" % MAX_BODY_BYTES + bytes(MAX_BODY_BYTES))
        assert receive_all(client).startswith(b"HTTP/1.1 413 ")


def test_a_request_that_came_before_is_answered_before_the_100(folder: Path) -> None:
    with House(folder) as house, house.serving() as port, connect(port) as client:
        house.write("a", b"the content")
        house.write("first", b"first content")
        client.sendall(b"GET /first HTTP/1.1\r\nHost: x\r\n\r\n" + asking(b"Content-Length: 2\r\n"))
        received = receive_until(client, CONTINUE)
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert received.endswith(b"\r\n\r\nfirst content" + CONTINUE)
        client.sendall(b"hi")
        assert receive_until(client, b"the content").startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (asking(b"Content-Length: 2\r\n", expect=b"Expect: x\r\n"), b"HTTP/1.1 417 Expectation Failed\r\n"),
        (asking(b"Content-Length: 2\r\n", version=b"1.0") + b"hi", b"HTTP/1.1 200 OK\r\n"),
        (
            asking(b"Content-Length: 2\r\n", version=b"1.0", expect=b"Expect: x\r\n") + b"hi",
            b"HTTP/1.1 200 OK\r\n",
        ),
        (asking(b"Content-Length: 2\r\nConnection: close\r\n", expect=b"") + b"hi", b"HTTP/1.1 200 OK\r\n"),
    ],
    ids=["something else", "1.0", "something else in 1.0", "nothing"],
)
def test_nobody_else_is_told_to_go_on(folder: Path, head: bytes, answer: bytes) -> None:
    with House(folder) as house, house.serving() as port, connect(port) as client:
        house.write("a", b"the content")
        client.sendall(head)
        received = receive_all(client)
        assert received.startswith(answer)
        assert received.count(b"HTTP/1.1 ") == 1


def test_the_time_for_a_body_runs_from_when_it_was_asked_for(folder: Path) -> None:
    with House(folder) as house, house.serving(clock=house.clock) as port, connect(port) as client:
        connections = house.site.traffic.connections
        client.sendall(asking(b"Content-Length: 2\r\n"))
        assert receive(client, len(CONTINUE)) == CONTINUE
        until_s = house.clock.now_s + HEAD_S
        wait_for(lambda: any(one.waiting is Waiting.REST_OF_REQUEST for one in connections))
        house.clock.now_s += 1
        client.sendall(b"h")
        for _ in range(50):
            gevent.sleep(0.001)
        assert [one.deadline_s for one in connections] == [until_s]
        for one in list(connections):
            one.expire()
        assert receive_all(client).startswith(b"HTTP/1.1 408 ")
