"""Users who ask by the rules: they read what is popular, walk everything, list, resume, and replace files."""

import time
from collections import Counter
from typing import Any

from locust import between, constant, tag, task
from locust.contrib.fasthttp import ResponseContextManager

from loadtest import _corpus
from loadtest._bodies import Body
from loadtest._catalog import MIB, File, size_class
from loadtest._checks import (
    CONDITION,
    EXISTS,
    FITS,
    FRESH,
    LISTS,
    ONCE,
    OUT_OF_RANGE,
    PARTS,
    PROVED,
    WHOLE,
)
from loadtest._evidence import BYPASS, MISS, Broken
from loadtest._raw import lines
from loadtest._visitor import STREAM_ABOVE, Visitor, field, status_of

ROUNDS = 12
"""How often LIST and HEAD are asked in turn before they count as disagreeing: between two, things change."""

HOT_SHARE = 0.2

ANOTHER_VERSION = {"If-None-Match": '"other"', "If-Range": '"other"', "Range": "bytes=0-0"}
"""What somebody sends who has the beginning of a version that is no more: it is answered with the whole file."""


class Reader(Visitor):
    """Reads popular files again and again. In the shape `relocate-worst`, one hot file among growing newcomers."""

    weight = 20
    wait_time = between(0.0, 0.05)

    def on_start(self) -> None:
        super().on_start()
        worst = self.catalog.worst_for_relocate(self.test.capacity())
        self.hot, self.newcomers = worst or (self.catalog.everything[0], self.catalog.everything)
        self.newcomer = 0

    @tag("read")
    @task
    def read(self) -> None:
        """One popular file; now and then one that changes."""
        if self.test.options.shape == "relocate-worst":
            self.read_hot_or_new()
        elif self.catalog.live and self.chance.random() < 0.05:
            self.fetch(self.chance.choice(self.catalog.live))
        else:
            self.fetch(self.catalog.popular(self.chance))

    def read_hot_or_new(self) -> None:
        """The hot file one time in five, else the next larger newcomer."""
        if self.chance.random() < HOT_SHARE:
            self.test.evidence.hot[self.fetch(self.hot)] += 1
        else:
            self.fetch(self.newcomers[self.newcomer % len(self.newcomers)])
            self.newcomer += 1


class Scanner(Visitor):
    """Walks over all files, each once, as a backup or a crawler does: the classic killer of LRU."""

    weight = 2
    wait_time = between(0.0, 0.02)

    def on_start(self) -> None:
        super().on_start()
        self.position = self.chance.randrange(len(self.catalog.everything))

    @tag("scan")
    @task
    def scan(self) -> None:
        """The next file."""
        self.position = (self.position + 1) % len(self.catalog.everything)
        self.fetch(self.catalog.everything[self.position])


class Lister(Visitor):
    """Asks what the cache holds, and whether that can be true."""

    weight = 2
    wait_time = between(0.2, 0.6)

    def unable(self) -> str:
        return "" if self.test.is_gserver() else "no LIST there"

    def on_start(self) -> None:
        super().on_start()
        self.mine = {file.name for file in self.catalog.everything if not file.live}
        """Not those of Stampede: what was just fetched here is no MISS there."""
        self.before: set[str] = set()

    @tag("list")
    @task
    def look(self) -> None:
        """LIST, then HEAD on a name that is listed and on one that should be; GET on one that is gone."""
        listed = self.listing("json" if self.chance.random() < 0.5 else "text")
        if listed is None:
            return
        still = [name for name in listed if not self.changes(name)]
        strange = [name for name in still if name not in self.catalog.by_name]
        if still:
            self.agree(self.chance.choice(strange or still), EXISTS, listed)
        for name in {file.name for file in self.test.recent}:
            if name in listed:
                self.test.evidence.holds(WHOLE)
            else:
                self.agree(name, WHOLE, listed)
        self.gone(listed)
        self.before = listed

    def listing(self, form: str) -> set[str] | None:
        """The names in the cache; None if they could not be had, or cannot be."""
        path = "/-/cache?format=json" if form == "json" else "/-/cache"
        with self.asking(path, form) as answer:
            answer.request_meta["request_type"] = "LIST"
            if status_of(answer) != 200:
                raise Broken(LISTS, f"{path}: status {answer.status_code}")
            names = names_of(answer, form)
            self.test.evidence.holds(LISTS)
            self.is_possible(names)
            return set(names)
        return None

    def is_possible(self, names: list[str]) -> None:
        """No name twice, and no more bytes than fit, by the sizes that the names say. Raises Broken."""
        if len(names) != len(set(names)):
            twice = Counter(names).most_common(1)[0][0]
            raise Broken(ONCE, f"{twice} is listed twice")
        self.test.evidence.holds(ONCE)
        files = [self.catalog.by_name[name] for name in names if name in self.catalog.by_name]
        capacity = self.test.capacity()
        sure = sum(file.size for file in files if file.seeded)
        if sure > capacity:
            raise Broken(FITS, f"the {len(names)} listed files have {sure:,} bytes, the cache {capacity:,}")
        # Others may be smaller now than when they were found: too many of their bytes prove nothing.
        if sum(file.size for file in files) <= capacity:
            self.test.evidence.holds(FITS)

    def agree(self, name: str, check: str, listed: set[str] | None) -> None:
        """LIST and HEAD must say the same of a name, soon, for both change all the time."""
        said = ""
        for _ in range(ROUNDS):
            if listed is None:
                return
            cached: bool | None = None
            with self.asking(File(name, 0, seeded=False).path, "listed?", method="HEAD") as answer:
                cached = status_of(answer) == 200 and field(answer, "X-Cache") == "HIT"
                said = f"{answer.status_code} {field(answer, 'X-Cache') or 'not cached'}"
            if cached is None:  # no answer: reported by `asking`
                return
            if cached == (name in listed):
                self.test.evidence.holds(check)
                return
            listed = self.listing("text")
        broken = Broken(check, f"{name} is {'' if name in (listed or ()) else 'not '}listed, HEAD says {said}")
        self.test.evidence.breaks(broken)
        self.test.report("LIST", "agrees with HEAD", 0.0, 0, broken)

    def gone(self, listed: set[str]) -> None:
        """A name that was listed before and is not now must be read again: then it was evicted.

        Past the cache, if by now the policy would rather keep others.
        """
        left = sorted((self.before - listed) & self.mine)
        if left and self.fetch(self.catalog.by_name[self.chance.choice(left)]) in (MISS, BYPASS):
            self.test.evidence.holds(PROVED)

    def changes(self, name: str) -> bool:
        """Whether it may leave the cache without being evicted."""
        file = self.catalog.by_name.get(name)
        return file is not None and file.live


def names_of(answer: ResponseContextManager, form: str) -> list[str]:
    """The names of a LIST. Raises Broken."""
    if form == "text":
        return lines(answer.content or b"")
    try:
        found: Any = answer.json()
        return [entry["name"] for entry in found["entries"]]
    except (ValueError, KeyError, TypeError) as error:
        raise Broken(LISTS, f"no such JSON: {error!r}") from error


class Resumer(Visitor):
    """Fetches a file in two parts, asks whether it is current, and asks for what is not there."""

    weight = 3
    wait_time = between(0.0, 0.1)

    def unable(self) -> str:
        self.files = [file for file in self.catalog.everything if 1 < file.size <= 8 * MIB and not file.live]
        return "" if self.files else "no file of 2 bytes to 8 MiB"

    @tag("resume")
    @task
    def resume(self) -> None:
        """Two ranges, one condition, one range beyond the end, and the whole, for who holds another version."""
        file = self.chance.choice(self.files)
        body = Body(file, 0, file.size)
        half = self.chance.randrange(1, file.size)
        etag = self.part(file, body, 0, half, "")
        if etag and self.part(file, body, half, file.size, etag):
            self.condition(file, etag)
            self.beyond(file)
            self.fetch(file, ANOTHER_VERSION)

    def part(self, file: File, body: Body, start: int, stop: int, etag: str) -> str | None:
        """Bytes [start, stop), fed to `body`; the ETag, or None if they did not come, or of another version."""
        fields = {"Range": f"bytes={start}-{stop - 1}"} | ({"If-Range": etag} if etag else {})
        self.test.evidence.asks(file.size)
        stream = stop - start > STREAM_ABOVE
        with self.asking(file.path, f"failed part {size_class(file.size)}", fields, stream=stream) as answer:
            origin = self.file_answer(answer, file)
            answer.request_meta["name"] = f"part {origin.lower()} {size_class(file.size)}"
            answered = (answer.status_code, field(answer, "Content-Range"))
            if answered != (206, f"bytes {start}-{stop - 1}/{file.size}"):
                if not file.seeded:  # it was changed since it was discovered
                    return None
                raise Broken(
                    PARTS, f"{file.path} bytes={start}-{stop - 1}: {answered[0]}, Content-Range {answered[1]!r}"
                )
            self.receive(answer, body, stream=stream)
            if etag:
                self.is_whole(file, body, answer)
                self.test.evidence.holds(PARTS)
            return field(answer, "ETag")
        return None

    def condition(self, file: File, etag: str) -> None:
        """If-None-Match with the ETag that was just served."""
        self.test.evidence.asks(file.size)
        with self.asking(file.path, "not modified", {"If-None-Match": etag}) as answer:
            status = status_of(answer)
            if status in (200, 206):
                self.test.served(file, self.test.origin(field(answer, "X-Cache")))
            else:
                self.test.evidence.is_refused(file.size)
            if status != 304 or answer.content:
                raise Broken(CONDITION, f"{file.path} If-None-Match {etag}: status {status}")
            self.test.evidence.holds(CONDITION)

    def beyond(self, file: File) -> None:
        """A range that begins where the file ends."""
        with self.asking(file.path, "beyond the end", {"Range": f"bytes={file.size}-"}) as answer:
            if status_of(answer) != 416 or field(answer, "Content-Range") != f"bytes */{file.size}":
                said = f"status {answer.status_code}, Content-Range {field(answer, 'Content-Range')!r}"
                raise Broken(OUT_OF_RANGE, f"{file.path} bytes={file.size}-: {said}")
            self.test.evidence.holds(OUT_OF_RANGE)


class Publisher(Visitor):
    """Renames new versions of live files into place, and looks whether they are served within the window."""

    fixed_count = 1
    wait_time = constant(0.1)

    def unable(self) -> str:
        if not self.test.corpus:
            return "say --corpus DIR, the folder that the server serves, on this machine"
        self.directory = self.test.corpus
        return "" if self.catalog.live else "no live/ files in the corpus"

    def on_start(self) -> None:
        super().on_start()
        self.published_at_s = {file.name: 0.0 for file in self.catalog.live}

    @tag("publish")
    @task
    def publish(self) -> None:
        """Fetch the file whose window has passed for longest, then replace it; while none has, only wait."""
        file = min(self.catalog.live, key=lambda file: self.published_at_s[file.name])
        if time.time() - self.published_at_s[file.name] <= self.test.window_s:
            return
        self.fetch(file)
        with self.reported("PUBLISH", "live"):
            try:
                _corpus.publish(self.directory, file.name)
            except OSError as error:
                raise Broken(FRESH, f"cannot replace {file.name}: {error}") from error
        self.published_at_s[file.name] = time.time()
