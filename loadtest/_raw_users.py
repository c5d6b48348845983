"""Users on bare sockets: a stampede, slow readers, strangers with bad requests, and the one-line protocol."""

import time
from contextlib import ExitStack
from http.client import HTTPResponse
from typing import Any

from locust import between, tag, task

from loadtest import _raw
from loadtest._bodies import Body
from loadtest._catalog import KIB, MIB, File, size_class
from loadtest._checks import ANSWER, LENGTH, ONE_LINE, RIGHT_ERROR, SLOW, STAMPEDE
from loadtest._evidence import BYPASS, HIT, MISS, UNLABELLED, Broken
from loadtest._visitor import PIECE, Guest

ROUNDS = 4
"""How often two LISTs are compared before they count as different."""

TOGETHER_S = 0.05
"""Within which all must have left: later than this they were not at once, and prove nothing."""


class RawGuest(Guest):
    """A guest without an HTTP client."""

    abstract = True

    def head(self, answer: HTTPResponse, file: File) -> str:
        """The head is that of the whole file; where it comes from. Raises Broken."""
        if answer.status != 200:
            self.test.evidence.is_refused(file.size)
            raise Broken(ANSWER, f"{file.path}: status {answer.status}")
        origin = self.test.origin(answer.headers.get("X-Cache"))
        self.test.served(file, origin)
        if file.seeded and answer.length != file.size:
            raise Broken(LENGTH, f"{file.path}: Content-Length is {answer.length}, the file has {file.size}")
        self.test.evidence.holds(ANSWER)
        return origin

    def rest(self, answer: HTTPResponse, file: File, body: Body) -> None:
        """What is still to come, as fast as it comes. Raises Broken, FAILURES."""
        while piece := answer.read(PIECE):
            body.feed(piece)
        self.test.is_whole(file, body)


class Stampede(RawGuest):
    """Many clients of one cold file, all at once: one of them may cost a read."""

    fixed_count = 1
    wait_time = between(0.3, 0.6)

    def on_start(self) -> None:
        super().on_start()
        medium = [file for file in self.catalog.everything if 64 * KIB < file.size <= 4 * MIB and not file.live]
        self.files = self.catalog.for_stampedes or medium or self.catalog.everything

    @tag("stampede")
    @task
    def rush(self) -> None:
        """One stampede, on a file that is not cached."""
        file = self.chance.choice(self.files)
        if self.is_cached(file):
            return
        with self.reported("GET", f"stampede {size_class(file.size)}") as row, ExitStack() as clients:
            sockets = [clients.enter_context(_raw.connect(self.test.host)) for _ in range(_raw.TOGETHER)]
            request = _raw.request(file.path)
            started = time.perf_counter()
            for client in sockets:
                self.test.evidence.asks(file.size)
                client.sendall(request)
            together = time.perf_counter() - started < TOGETHER_S
            origins = []
            for client in sockets:
                answer = _raw.response(client)
                origins.append(self.head(answer, file))
                self.rest(answer, file, Body(file, 0, answer.length or 0))
            row["length"] = file.size * _raw.TOGETHER
            if together:
                self.judge(file, origins)

    def is_cached(self, file: File) -> bool:
        """Whether HEAD says so; then it is not cold."""
        try:
            answer, _ = _raw.ask(self.test.host, file.path, method="HEAD")
        except _raw.FAILURES:
            return True
        return answer.headers.get("X-Cache") == HIT

    def judge(self, file: File, origins: list[str]) -> None:
        """One MISS; none is possible if there was no room, or if others may ask for the file as well."""
        misses = origins.count(MISS)
        if UNLABELLED in origins or BYPASS in origins:
            return
        if misses > 1 or (misses == 0 and file in self.catalog.for_stampedes):
            raise Broken(STAMPEDE, f"{file.name}: {misses} of {_raw.TOGETHER} answers say MISS")
        if misses == 1:
            self.test.evidence.holds(STAMPEDE)


class SlowReader(RawGuest):
    """Reads a huge file through a small window at 32 KiB a second for a while, and then the rest."""

    weight = 6
    wait_time = between(0.1, 1.0)

    def unable(self) -> str:
        return "" if self.catalog.huge else "no file of 16 MiB or more"

    @tag("slow")
    @task
    def crawl(self) -> None:
        """One file. Most likely it was evicted when the rest of it is asked for."""
        file = self.chance.choice(self.catalog.huge)
        with (
            self.reported("GET", f"slow {size_class(file.size)}") as row,
            _raw.connect(self.test.host, receive_buffer=16 * KIB) as client,
        ):
            self.test.evidence.asks(file.size)
            client.sendall(_raw.request(file.path))
            answer = _raw.response(client)
            row["name"] = f"slow {self.head(answer, file).lower()} {size_class(file.size)}"
            body = Body(file, 0, answer.length or 0)
            try:
                for _ in range(max(2, self.test.options.seconds // 12)):
                    body.feed(answer.read(32 * KIB))
                    time.sleep(1)
                self.rest(answer, file, body)
            except _raw.FAILURES as error:
                raise Broken(SLOW, f"{file.name} was cut: {error!r}") from error
            row["length"] = file.size
            self.test.evidence.holds(SLOW)


class OneLiner(RawGuest):
    """Speaks as netcat does: one line in, bare bytes out."""

    weight = 1
    wait_time = between(0.1, 0.3)

    def unable(self) -> str:
        self.files = [file for file in self.catalog.everything if 0 < file.size <= MIB and not file.live]
        self.etags: dict[str, str] = {}
        """Of the files that were asked for, when they were asked for last."""
        if not self.test.is_gserver():
            return "no one-line protocol there"
        return "" if self.files else "no file of 1 byte to 1 MiB"

    @tag("one-line")
    @task(3)
    def get(self) -> None:
        """GET NAME."""
        file = self.chance.choice(self.files)
        with self.reported("GET", f"line {size_class(file.size)}") as row, _raw.connect(self.test.host) as client:
            self.test.evidence.asks(file.size)
            client.sendall(f"GET {file.name}\n".encode())
            received = _raw.receive_all(client, 2 * MIB)
            if received.startswith(b"ERROR ") and len(received) != file.size:
                self.test.evidence.is_refused(file.size)
                raise Broken(ONE_LINE, f"GET {file.name}: {received[:200]!r}")
            self.test.served(file, UNLABELLED)
            self.compare(file, received)
            row["length"] = len(received)
            self.test.evidence.holds(ONE_LINE)

    def compare(self, file: File, received: bytes) -> None:
        """The bytes are those that HTTP gives, of the same version. Raises Broken, FAILURES."""
        body = Body(file, 0, file.size if file.seeded else len(received))
        body.feed(received)
        content = body.end()
        if not file.seeded:
            head, _ = _raw.ask(self.test.host, file.path, method="HEAD")
            etag, length = head.headers["ETag"], head.headers["Content-Length"]
            if etag and self.etags.setdefault(file.name, etag) == etag:
                if length != str(len(received)):
                    raise Broken(ONE_LINE, f"GET {file.name}: {len(received)} bytes, HTTP says {length}")
                self.test.versions.agree(file.name, etag, content)
            self.etags[file.name] = etag

    @tag("one-line")
    @task
    def list(self) -> None:
        """LIST, between two over HTTP: what both of those have, and no more than either has. Not all of it: some
        names may come and go, but not most."""
        with self.reported("LIST", "line") as row:
            for _ in range(ROUNDS):
                before = self.listed_over_http()
                listed = self.listed(row)
                after = self.listed_over_http()
                steady = before & after
                missing, strange = steady - listed, listed - (before | after)
                if 2 * len(missing) <= len(steady) and 2 * len(strange) <= len(listed):
                    self.test.evidence.holds(ONE_LINE)
                    return
            raise Broken(
                ONE_LINE,
                f"of {len(listed)} names in LIST {len(strange)} are not there over HTTP, "
                f"and of {len(steady)} there {len(missing)} are missing",
            )

    def listed_over_http(self) -> set[str]:
        """The names of the other LIST. Raises FAILURES."""
        _, body = _raw.ask(self.test.host, "/-/cache", accept="text/plain")
        return set(_raw.lines(body))

    def listed(self, row: dict[str, Any]) -> set[str]:
        """The names of one LIST. Raises Broken, FAILURES."""
        with _raw.connect(self.test.host) as client:
            client.sendall(b"LIST\n")
            received = _raw.receive_all(client, 64 * MIB)
        row["length"] = len(received)
        names = _raw.lines(received)
        refused = received.startswith(b"ERROR ") and not self.catalog.by_name.keys() & set(names)
        if refused or len(names) != len(set(names)):
            raise Broken(ONE_LINE, f"LIST: {received[:200]!r}")
        return set(names)


def bad(line: str, *fields: str, body: bytes = b"") -> bytes:
    """A request of that line and those fields."""
    return "\r\n".join([line, *fields, "", ""]).encode("latin-1") + body


HOST_FIELD = "Host: loadtest"

STRANGE = {
    "404 missing": bad("GET /no/such/file HTTP/1.1", HOST_FIELD),
    "404 hidden": bad("GET /.git/config HTTP/1.1", HOST_FIELD),
    "404 traversal": bad("GET /../../../../etc/passwd HTTP/1.1", HOST_FIELD),
    "404 encoded traversal": bad("GET /%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1", HOST_FIELD),
    "404 overlong UTF-8": bad("GET /%c0%ae%c0%ae/etc/passwd HTTP/1.1", HOST_FIELD),
    "400 NUL": bad("GET /%00 HTTP/1.1", HOST_FIELD),
    "400 bad escape": bad("GET /%zz HTTP/1.1", HOST_FIELD),
    "400 no host": bad("GET / HTTP/1.1"),
    "400 two hosts": bad("GET / HTTP/1.1", HOST_FIELD, "Host: other"),
    "400 folded field": bad("GET / HTTP/1.1", HOST_FIELD, "X-Folded: a", " b"),
    "400 space before colon": bad("GET / HTTP/1.1", HOST_FIELD, "X-Space : a"),
    "400 both lengths": bad(
        "POST / HTTP/1.1", HOST_FIELD, "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "400 no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "405 POST": bad("POST / HTTP/1.1", HOST_FIELD, "Content-Length: 0"),
    "501 BREW": bad("BREW /pot HTTP/1.1", HOST_FIELD),
    "505 HTTP/2.0": bad("GET / HTTP/2.0", HOST_FIELD),
    "414 long target": bad(f"GET /{'a' * 9000} HTTP/1.1", HOST_FIELD),
    "431 long head": bad("GET / HTTP/1.1", HOST_FIELD, f"X-Long: {'a' * 17_000}"),
    "431 many fields": bad("GET / HTTP/1.1", HOST_FIELD, *(f"X-{i}: a" for i in range(150))),
    "413 long body": bad("POST / HTTP/1.1", HOST_FIELD, "Content-Length: 1000000"),
    "417 expectation": bad("GET / HTTP/1.1", HOST_FIELD, "Expect: the-unexpected"),
}
"""Bad requests by the status that is right for them."""


class Stranger(RawGuest):
    """Sends what is wrong, and wants to be told so: with the right status, and nothing of the server's."""

    weight = 1
    wait_time = between(0.02, 0.2)

    def unable(self) -> str:
        return "" if self.test.is_gserver() else "other servers have other errors"

    @tag("strange")
    @task
    def intrude(self) -> None:
        """One bad request."""
        name = self.chance.choice(list(STRANGE))
        with self.reported("GET", f"error {name}") as row, _raw.connect(self.test.host) as client:
            client.sendall(STRANGE[name])
            answer = _raw.response(client)
            said = answer.read(4 * KIB)
            row["length"] = len(said)
            if str(answer.status) != name[:3] or b"root:" in said:
                raise Broken(RIGHT_ERROR, f"{name}: status {answer.status}, {said[:100]!r}")
            self.test.evidence.holds(RIGHT_ERROR)
