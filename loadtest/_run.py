"""One process's part of a test: what there is to fetch, what was asked for on the command line, what was seen."""

import json
from collections import deque
from pathlib import Path
from typing import Any

from gevent.lock import Semaphore
from locust.env import Environment

from loadtest import _raw
from loadtest._bodies import Body, Versions
from loadtest._catalog import Catalog, File, discovered, in_folder
from loadtest._checks import ANSWER, CONTENT, FRESH, LENGTH, ORIGIN
from loadtest._corpus import Published, parse_size, published
from loadtest._evidence import CACHE_RESULTS, UNLABELLED, Broken, Evidence

HOST = "http://127.0.0.1:8080"
"""The server if `--host` names none."""

CAPACITY = 64 << 20
"""The cache of a server that does not say, and of which nobody says."""

SECOND_LATE = 1.0
"""How much older than the server's window an answer may be: a request may wait."""

RECENT = 8
"""Files just served that a LIST is looked at for."""


class Run:
    """Shared by the users of a process. Methods that ask the server switch greenlets."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.evidence = Evidence()
        self.versions = Versions()
        self.recent: deque[File] = deque(maxlen=RECENT)
        """Files that were just served, and so are most likely cached."""
        self._labelled = False
        self._catalog: Catalog | None = None
        self._listed: dict[str, Any] | None = None
        self._asking = Semaphore(1)

    def begin(self) -> None:
        """A test starts: nothing was seen yet, and there may be other files than last time."""
        self.evidence = Evidence(on_broken=self.evidence.on_broken)
        self.versions = Versions()
        self.recent.clear()
        self._labelled = False
        self._catalog = self._listed = None

    @property
    def options(self) -> Any:
        """The command line; on a worker, the master's as soon as a test begins."""
        return self.environment.parsed_options

    @property
    def host(self) -> str:
        """The server's URL."""
        return (self.environment.host or HOST).rstrip("/")

    @property
    def corpus(self) -> Path | None:
        """The corpus that the server serves, if it is on this machine."""
        return Path(self.options.corpus) if self.options.corpus else None

    @property
    def window_s(self) -> float:
        """How long after a file was replaced its old version may still be served."""
        return float(self.options.revalidate) + SECOND_LATE

    def catalog(self) -> Catalog:
        """What there is to fetch, looked up once. Raises Broken if there is nothing."""
        with self._asking:
            if self._catalog is None:
                found = in_folder(self.corpus) if self.corpus else discovered(self._listing)
                catalog = Catalog(found)
                if not catalog.everything:
                    nowhere = f"{self.host} lists no files (JSON listings, or say --corpus DIR)"
                    raise Broken(ANSWER, f"no files in {self.corpus} (--corpus)" if self.corpus else nowhere)
                self._catalog = catalog
            if not any(file.seeded for file in self._catalog.everything):
                self.evidence.unable["corpus"] = "no file of a corpus there"
            return self._catalog

    def _listing(self, path: str) -> dict[str, Any] | None:
        """A folder's entries; None if it shows an index.html or is not listed."""
        try:
            answer, body = _raw.ask(self.host, path)
        except _raw.FAILURES as error:
            raise Broken(ANSWER, f"cannot list {self.host}{path}: {error!r}") from error
        result = answer.headers.get("X-Cache")
        if result in CACHE_RESULTS:  # a folder with an index.html shows that: a file answer
            self.evidence.asks(len(body))
            self.evidence.answers_with(result, len(body))
        if answer.status != 200 or answer.headers.get_content_type() != "application/json":
            return None
        listing: dict[str, Any] = json.loads(body)
        return listing if isinstance(listing, dict) else None

    def listed(self) -> dict[str, Any]:
        """What LIST said when it was first asked: `entries`, and `stats` unless they are kept from us; {} where
        there is no such."""
        with self._asking:
            if self._listed is None:
                try:
                    answer, body = _raw.ask(self.host, "/-/cache?format=json")
                    if answer.status in (200, 404):  # any other answer is not its last word
                        self._listed = json.loads(body) if answer.status == 200 else {}
                except _raw.FAILURES:
                    return {}
                except ValueError:  # there is a LIST, and the watch will say what is wrong with it
                    return {"entries": [], "stats": {}}
            return self._listed or {}

    def capacity(self) -> int:
        """Bytes that the cache may hold: as said on the command line, else by the server, else 64 MiB."""
        if self.options.capacity:
            return parse_size(self.options.capacity)
        return int(self.listed().get("stats", {}).get("capacity", CAPACITY))

    def is_gserver(self) -> bool:
        """Whether there is anything behind the file answers: LIST, and with it the rest of the protocol."""
        return "entries" in self.listed()

    def origin(self, result: str | None) -> str:
        """The value of X-Cache; UNLABELLED from servers that never send it. Raises Broken."""
        if result is None and not self._labelled:
            return UNLABELLED
        if result not in CACHE_RESULTS:
            raise Broken(ORIGIN, f"X-Cache is {result!r}")
        self._labelled = True
        self.evidence.holds(ORIGIN)
        return result

    def served(self, file: File, result: str) -> None:
        """The head of a file answer is there."""
        self.evidence.answers_with(result, file.size, changes=file.live or not file.seeded)
        if result != "BYPASS" and not file.live and file.size:
            self.recent.append(file)

    def on_disk(self, file: File) -> Published | None:
        """The version of a live file that is on the disk, if that is here to be seen."""
        return published(self.corpus, file.name) if file.live and self.corpus else None

    def is_whole(self, file: File, body: Body) -> bytes:
        """All bytes came; what stands for them. Raises Broken."""
        content = body.end()
        self.evidence.holds(LENGTH)
        if file.seeded:
            self.evidence.holds(CONTENT)
        return content

    def report(self, kind: str, name: str, ms: float, length: int, error: Exception | None = None) -> None:
        """A row of Locust's report."""
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=ms,
            response_length=length,
            exception=error,
            context={},
            response=None,
        )

    def is_fresh(self, file: File, version: int, seen: Published, asked_at_s: float) -> None:
        """Compare a version served with what was on the disk before it was asked for. Raises Broken."""
        late_s = asked_at_s - seen.at_s
        if late_s <= self.window_s:
            return
        if version < seen.version:
            raise Broken(
                FRESH,
                f"{file.name}: version {version}, {late_s:.1f} s after {seen.version} had been renamed into place",
            )
        if seen.version > 1:
            self.evidence.holds(FRESH)
