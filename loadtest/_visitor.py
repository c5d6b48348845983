"""What all users have in common: they ask, check what comes, and report it under a name that groups."""

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from gevent import GreenletExit
from locust import FastHttpUser, User
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS, ResponseContextManager

from loadtest import _raw
from loadtest._bodies import Body
from loadtest._catalog import MIB, File, size_class
from loadtest._checks import ANSWER, LENGTH, VERSION
from loadtest._evidence import Broken
from loadtest._run import HOST, Run

STREAM_ABOVE = MIB
PIECE = 64 << 10


class Guest(User):
    """A user with a part in the test. `test` is set once a process, before the first user starts."""

    abstract = True
    host = HOST
    test: ClassVar[Run]

    def on_start(self) -> None:
        """Know what there is to fetch; users who find nothing for them leave."""
        self.chance = random.Random()
        try:
            self.catalog = self.test.catalog()
        except Broken as broken:
            self.test.evidence.breaks(broken)
            self.test.report("GET", "folders", 0.0, 0, broken)
            raise GreenletExit from None
        if reason := self.unable():
            self.test.evidence.unable[type(self).__name__] = reason
            raise GreenletExit  # and not StopUser, which Locust logs with a traceback

    def unable(self) -> str:
        """Why there is nothing to do for this user here; empty if there is."""
        return ""

    def succeeds(self) -> None:
        """One thing was done, and found right."""
        self.test.evidence.succeeded[type(self).__name__] += 1

    @contextmanager
    def reported(self, kind: str, name: str) -> Iterator[dict[str, Any]]:
        """A row for what happens inside. `name` and `length` may be set there; what breaks is kept as evidence."""
        row: dict[str, Any] = {"name": name, "length": 0}
        started = time.perf_counter()
        broken = None
        try:
            yield row
        except Broken as error:
            broken = error
        except _raw.FAILURES as error:
            broken = Broken(ANSWER, f"{name}: {error!r}")
        if broken:
            self.test.evidence.breaks(broken)
        else:
            self.succeeds()
        self.test.report(kind, row["name"], (time.perf_counter() - started) * 1000, row["length"], broken)


class Visitor(Guest, FastHttpUser):
    """A guest with an HTTP client that keeps its connection."""

    abstract = True
    max_retries = 0
    default_headers = {"Accept-Encoding": "identity"}  # noqa: RUF012

    def on_stop(self) -> None:
        """Close the connection now: the server is looked at when all have left."""
        self.client.client.close()
        super().on_stop()

    @contextmanager
    def asking(
        self,
        path: str,
        name: str,
        fields: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        stream: bool = False,
    ) -> Iterator[ResponseContextManager]:
        """A request; its answer is checked inside. What breaks there fails its row and is kept as evidence."""
        started = time.perf_counter()
        with self.client.request(
            method, path, name, headers=dict(fields or {}), stream=stream, catch_response=True
        ) as answer:
            try:
                yield answer
            except Broken as broken:
                self.test.evidence.breaks(broken)
                answer.failure(broken)
            except FAILURE_EXCEPTIONS as error:
                cut = Broken(ANSWER, f"{path}: {error!r}")
                self.test.evidence.breaks(cut)
                answer.failure(cut)
            else:
                answer.success()
                self.succeeds()
            finally:
                if stream and answer.status_code:
                    answer.release()  # or what broke keeps its traceback, and with it a connection half read
            if stream:
                answer.request_meta["response_time"] = (time.perf_counter() - started) * 1000

    def fetch(self, file: File, fields: Mapping[str, str] | None = None) -> str:
        """GET the whole file and check every byte; where it came from, or `""` if it did not come.

        `fields` are of the request, and must not make it another answer.
        """
        seen, asked_at_s = self.test.on_disk(file), time.time()
        stream = file.size > STREAM_ABOVE
        self.test.evidence.asks(file.size)
        with self.asking(file.path, f"failed {size_class(file.size)}", fields, stream=stream) as answer:
            origin = self.file_answer(answer, file)
            if answer.status_code != 200:
                raise Broken(ANSWER, f"{file.path}: status {answer.status_code}")
            body = Body(file, 0, length_of(answer, file))
            self.receive(answer, body, stream=stream)
            self.is_whole(file, body, answer)
            if seen and body.version is not None:
                self.test.is_fresh(file, body.version, seen, asked_at_s)
            answer.request_meta["name"] = f"{origin.lower()} {size_class(file.size)}"
            return origin
        return ""

    def file_answer(self, answer: ResponseContextManager, file: File) -> str:
        """The head is a file answer; where it came from. Raises Broken."""
        if status_of(answer) not in (200, 206):
            self.test.evidence.is_refused(file.size)
            raise Broken(ANSWER, f"{file.path}: status {answer.status_code}")
        origin = self.test.origin(field(answer, "X-Cache"))
        self.test.served(file, origin)
        self.test.evidence.holds(ANSWER)
        return origin

    def receive(self, answer: ResponseContextManager, body: Body, *, stream: bool) -> None:
        """Feed what comes. Raises Broken, FAILURE_EXCEPTIONS."""
        if stream:
            for piece in answer.iter_content(PIECE, decode_content=False):
                body.feed(piece)
        else:
            body.feed(answer.content or b"")

    def is_whole(self, file: File, body: Body, answer: ResponseContextManager) -> None:
        """All bytes came, and agree with what came under this ETag before. Raises Broken."""
        content = self.test.is_whole(file, body)
        if etag := field(answer, "ETag"):
            self.test.versions.agree(file.name, etag, content)
            self.test.evidence.holds(VERSION)


def status_of(answer: ResponseContextManager) -> int:
    """The status. Raises Broken where there was no answer at all."""
    if not answer.status_code:
        raise Broken(ANSWER, f"{answer.request_meta['url']}: {getattr(answer, 'error', None)!r}")
    return int(answer.status_code)


def field(answer: ResponseContextManager, name: str) -> str | None:
    """A header field of an answer."""
    value = answer.headers.get(name) if answer.headers is not None else None
    return value if isinstance(value, str) else None


def length_of(answer: ResponseContextManager, file: File) -> int:
    """The length that the head says, which a seeded name says too. Raises Broken."""
    text = field(answer, "Content-Length")
    if text is None or not text.isdecimal():
        raise Broken(LENGTH, f"{file.path}: Content-Length is {text!r}")
    if file.seeded and int(text) != file.size:
        raise Broken(LENGTH, f"{file.path}: Content-Length is {text}, the file has {file.size}")
    return int(text)
