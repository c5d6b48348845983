"""Servers that do one thing wrong, for `test_loadtest_sabotage`: each function here breaks the one it runs in.

They are called in the server's process, before it starts. Who lies about the cache lies in all places alike, if it
is not the disagreement that is to be found: then nothing but the one check can find it.
"""

import os
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from fileserver import conditional, files, replies, wire
from fileserver.about import documents
from fileserver.about.counters import Counters
from fileserver.about.pages import About
from fileserver.connection import Connection
from fileserver.disk import Disk
from fileserver.files import Files
from fileserver.replies import Reply, page
from fileserver.representation import Representation
from fileserver.root import DiskFailure, NotFound
from fileserver.server import Server
from fileserver.site import Site
from fileserver.store import Body, Store
from fileserver.traffic import Traffic
from fileserver.transport import Gone, Transport
from fileserver.wire import OneLine
from lrucache import Cache, CacheStats, Entry, Outcome, Policy, Refusal

Wrong = Callable[..., Any]

LEAK_BYTES, LEAKS_MAX = 1 << 20, 256
"""What is lost with an answer, and how often: well above what a server may hold, and no danger to the machine."""

ONE_FILE_BYTES = 2 << 20

TOO_SLOW_S = 0.5


def instead_of(owner: object, name: str) -> Callable[[Wrong], Wrong]:
    """Put the function below in the place of `owner.name`; what was there is its first argument."""
    right = getattr(owner, name)

    def put(wrong: Wrong) -> Wrong:
        @wraps(right)
        def called(*arguments: Any, **options: Any) -> Any:
            return wrong(right, *arguments, **options)

        setattr(owner, name, called)
        return called

    return put


def nothing_is_plain() -> None:
    """All requests go the general way, where what follows is done wrong."""
    wire.plain = lambda *_: None


def every(count: int) -> Callable[[], bool]:
    """Says True at every so many calls, at the last of them."""
    calls = 0

    def is_next() -> bool:
        nonlocal calls
        calls += 1
        return calls % count == 0

    return is_next


# The budget.


def holds_a_file_too_many() -> None:
    """It makes room for a newcomer less 2 MiB, and does not tell what that came to."""

    @instead_of(Cache, "_fits")
    def fits(right: Wrong, cache: Cache, size: int) -> Any:
        return right(cache, size - ONE_FILE_BYTES)

    counts(lambda stats: {"peak": min(stats["peak"], stats["capacity"]), "violations": 0})


def makes_room_too_late() -> None:
    """There is a file too many from when one is added until the next one is."""

    @instead_of(Cache, "_fits")
    def fits(right: Wrong, cache: Cache, size: int) -> Any:
        return right(cache, 0)

    counts(lambda stats: {"violations": 0})


def tells_half_of_every_size() -> None:
    """It holds twice what it may, and halves all that it tells: only who knows the files can find out."""

    @instead_of(Cache, "__init__")
    def init(right: Wrong, cache: Cache, capacity: int, *arguments: Any, **options: Any) -> None:
        right(cache, 2 * capacity, *arguments, **options)

    @instead_of(Cache, "_stats")
    def stats(right: Wrong, cache: Cache) -> CacheStats:
        said: CacheStats = right(cache)
        halves = sum(entry.size // 2 for entry in cache._table.values())
        return said._replace(
            capacity=said.capacity // 2, cached=halves, filling=said.filling // 2, peak=said.peak // 2
        )

    @instead_of(documents, "entry_json")
    def entry_json(right: Wrong, entry: Entry, now_s: float) -> Any:
        told = Entry(entry.name, entry.size // 2, None, entry.created_s)
        return right(told, now_s)


def forgets_to_subtract() -> None:
    """A byte of a file that is evicted stays in the sum; but only once, or soon what fits would not."""
    forgotten: list[Entry] = []

    @instead_of(Cache, "_drop")
    def drop(right: Wrong, cache: Cache, entry: Entry) -> None:
        right(cache, entry)
        if not forgotten and entry.size:
            forgotten.append(entry)
            cache._cached += 1


def forgets_that_a_fill_ended() -> None:
    """A byte of the first one is still on its way, for ever."""
    forgotten: list[Entry] = []

    @instead_of(Cache, "commit")
    def commit(right: Wrong, cache: Cache, entry: Entry) -> None:
        right(cache, entry)
        if not forgotten:
            forgotten.append(entry)
            cache._filling += 1


def evicts_nothing() -> None:
    """Who comes when it is full is sent past it."""

    @instead_of(Cache, "_refusal")
    def refusal(right: Wrong, cache: Cache, policy: Policy, name: str, size: int) -> Any:
        return right(cache, policy, name, size) or (None if cache._fits(size) else Refusal.NO_ROOM)


# LIST.


def lists(change: Callable[[list[Entry]], list[Entry]]) -> None:
    """Both forms of LIST show other entries, and the counters go with them."""

    @instead_of(Cache, "snapshot")
    def snapshot(right: Wrong, cache: Cache) -> tuple[CacheStats, list[Entry]]:
        stats, entries = right(cache)
        shown = change(entries)
        cached = sum(entry.size for entry in shown)
        return stats._replace(entries=len(shown), cached=cached, peak=max(stats.peak, cached)), shown


def lists_a_ghost() -> None:
    """A name that nobody has."""
    ghost = Entry("no such file.txt", 0, None, 0.0)
    lists(lambda entries: [*entries, ghost])


def lists_what_it_does_not_hold() -> None:
    """A name that exists, and was never read."""
    absent = Entry("empty.0.seeded", 0, None, 0.0)
    lists(lambda entries: [*entries, absent])


def lists_half() -> None:
    """Every second name is left out."""
    lists(lambda entries: entries[::2])


def lists_the_smallest_twice() -> None:
    """The first and the last line are the same."""
    lists(lambda entries: [min(entries, key=lambda entry: entry.size), *entries] if entries else entries)


def has_no_list() -> None:
    """The text form is an error."""

    @instead_of(About, "list_text")
    def list_text(right: Wrong, pages: About) -> Any:
        raise DiskFailure("no list today")


def lists_no_names_in_json() -> None:
    """Sizes and counters are there."""

    @instead_of(documents, "entry_json")
    def entry_json(right: Wrong, entry: Entry, now_s: float) -> Any:
        return right(entry, now_s).replace('"name"', '"file"')


def has_no_json_list() -> None:
    """The form with the counters is none."""

    @instead_of(documents, "cache_json")
    def cache_json(right: Wrong, *arguments: Any) -> Any:
        yield b'{"stats": '


# Bodies.


def flips_a_byte_in_a_hit() -> None:
    """One bit in the middle of what the memory holds."""
    nothing_is_plain()

    @instead_of(Body, "read")
    def read(right: Wrong, body: Body, offset: int, limit: int) -> Any:
        buffers = right(body, offset, limit)
        if body.outcome is not Outcome.HIT:
            return buffers
        first = bytearray(buffers[0])
        first[len(first) // 2] ^= 1
        return [bytes(first), *buffers[1:]]


def stores_the_first_chunk_twice() -> None:
    """The second is not where it belongs, nor anywhere else."""

    @instead_of(Cache, "append")
    def append(right: Wrong, cache: Cache, entry: Entry, chunk: bytes) -> None:
        right(cache, entry, entry.chunks[0][: len(chunk)] if entry.chunks else chunk)


def cuts_the_body() -> None:
    """The last byte is not sent, and the connection ends."""
    nothing_is_plain()

    @instead_of(Connection, "_send_body")
    def send_body(right: Wrong, connection: Connection, head: bytes, body: Body, *window: int) -> None:
        start, end = window
        right(connection, head, body, start, max(start, end - 1))

    @instead_of(Connection, "_answer")
    def answer(right: Wrong, connection: Connection, request: Any) -> bool:
        right(connection, request)
        return False


def says_a_byte_less() -> None:
    """The head and what follows agree, and the file is longer."""

    @instead_of(Files, "_reply")
    def reply(right: Wrong, pages: Files, *arguments: Any) -> Reply:
        said: Reply = right(pages, *arguments)
        if said.status != 200 or not said.end:
            return said
        fields = said.fields.replace(b"Length: %d\r\n" % said.end, b"Length: %d\r\n" % (said.end - 1))
        return said._replace(fields=fields, end=said.end - 1)


def believes_for_ever() -> None:
    """What is stored is never looked at again."""

    @instead_of(Store, "_believable")
    def believable(right: Wrong, store: Store, name: str, asked_s: float) -> Any:
        return store.cache.find(name)

    @instead_of(Store, "_known")
    def known(right: Wrong, store: Store, entry: Any, asked_s: float) -> bool:
        return True


def cuts_slow_readers() -> None:
    """Who makes it wait is left."""

    @instead_of(Transport, "wait_writable")
    def wait_writable(right: Wrong, transport: Transport) -> None:
        began_s = time.monotonic()
        right(transport)
        if time.monotonic() - began_s > TOO_SLOW_S:
            raise Gone


# Where it came from.


def labels_no_hits() -> None:
    """X-Cache is missing where it would say HIT."""

    @instead_of(files, "cache_fields")
    def cache_fields(right: Wrong, outcome: Outcome, detail: str = "") -> Any:
        return b"" if outcome is Outcome.HIT else right(outcome, detail)


def labels_hits_warm() -> None:
    """X-Cache has a value that is none."""

    @instead_of(files, "cache_fields")
    def cache_fields(right: Wrong, outcome: Outcome, detail: str = "") -> Any:
        return right(outcome, detail).replace(b"HIT", b"WARM")


def reads_again_what_others_read() -> None:
    """Who comes while a file is read reads it as well, and says so."""

    @instead_of(Store, "_joined")
    def joined(right: Wrong, store: Store, fill: Any, name: str, asked_s: float) -> Body:
        return past(store, name, Outcome.MISS)


def reads_again_and_calls_it_shared() -> None:
    """The same, and does not say so."""

    @instead_of(Store, "_joined")
    def joined(right: Wrong, store: Store, fill: Any, name: str, asked_s: float) -> Body:
        return past(store, name, Outcome.COALESCED)


def past(store: Store, name: str, outcome: Outcome) -> Body:
    """A body that reads the disk, whatever it is called."""
    version = store.versions.open(name)
    if outcome is Outcome.HIT:
        store.cache._hits += 1
    else:
        store.cache.count(outcome, name, version.identity.size)
    return Body(store, outcome, Representation(name, version.identity), version=version)


def reads_the_disk_for_a_hit() -> None:
    """What is stored is not used."""
    nothing_is_plain()

    @instead_of(Store, "get")
    def get(right: Wrong, store: Store, name: str) -> Body:
        if store.cache.find(name) is None:
            body: Body = right(store, name)
            return body
        return past(store, name, Outcome.HIT)


def calls_everything_a_hit() -> None:
    """On each answer, and in the counters."""

    @instead_of(files, "cache_fields")
    def cache_fields(right: Wrong, outcome: Outcome, detail: str = "") -> Any:
        return right(Outcome.HIT)

    counts(lambda stats: {"hits": stats["file_answers"], "misses": 0, "coalesced": 0, "bypasses": 0})


# Conditions and ranges.


def says_the_range_is_longer() -> None:
    """Content-Range ends a byte late."""

    @instead_of(Representation, "part_fields")
    def part_fields(right: Wrong, representation: Representation, start: int, end: int) -> Any:
        return right(representation, start, end).replace(b"-%d/" % (end - 1), b"-%d/" % end)


def sends_the_range_before() -> None:
    """The head is right, and the bytes begin one too early."""

    @instead_of(Files, "_reply")
    def reply(right: Wrong, pages: Files, *arguments: Any) -> Reply:
        said: Reply = right(pages, *arguments)
        shifted = said.status == 206 and said.start > 0
        return said._replace(start=said.start - 1, end=said.end - 1) if shifted else said


def knows_no_etag_again() -> None:
    """No tag matches."""

    @instead_of(conditional, "_matches")
    def matches(right: Wrong, *arguments: Any, **options: Any) -> bool:
        return False


def never_changes_its_etag() -> None:
    """All versions have one tag."""

    Representation.etag = property(lambda _: '"0"')  # type: ignore[assignment]


def sends_everything_for_a_range_beyond() -> None:
    """200 where it is 416."""

    @instead_of(conditional, "_selected")
    def selected(right: Wrong, value: bytes, size: int) -> Any:
        verdict = right(value, size)
        return conditional.Verdict(200, 0, size) if verdict.status == 416 else verdict


def does_not_say_where_the_file_ends() -> None:
    """416 without Content-Range."""

    @instead_of(files, "error")
    def error(right: Wrong, status: int, reason: str, fields: Any = None) -> Any:
        return right(status, reason)


# Errors.


def loses_every_tenth_file() -> None:
    """404 for what exists."""
    is_lost = every(10)

    @instead_of(Store, "get")
    def get(right: Wrong, store: Store, name: str) -> Any:
        if is_lost():
            raise NotFound(name)
        return right(store, name)


def fails_where_nothing_is() -> None:
    """500 where it is 404."""
    replies._ERRORS[NotFound] = (500, "no such file")


def welcomes_what_is_no_request() -> None:
    """200 where it is 400."""

    @instead_of(Site, "refuse")
    def refuse(right: Wrong, site: Site, problem: Any) -> Any:
        return page(b"hello\n", "text/plain") if problem.status == 400 else right(site, problem)


def shows_what_it_hides() -> None:
    """The right status, over a file of the system's."""

    @instead_of(replies, "error")
    def error(right: Wrong, status: int, reason: str, fields: Any = None) -> Any:
        return right(status, "root:x:0:0:root:/root:/bin/sh", fields)


def lists_on_one_line(change: Callable[[list[bytes]], list[bytes]]) -> None:
    """LIST shows other names than over HTTP."""

    @instead_of(Site, "answer_line")
    def answer_line(right: Wrong, site: Site, line: OneLine) -> Any:
        reply = right(site, line)
        return reply if line.name is not None else page(b"".join(change(reply.content.splitlines(True))), "")


def lists_a_third_on_one_line() -> None:
    """The rest are left out."""
    lists_on_one_line(lambda names: names[1::3])


def lists_ghosts_on_one_line() -> None:
    """More than half of the names are nobody's."""
    lists_on_one_line(lambda names: [*names, *(b"no " + name for name in names), b"nobody\n"])


def knows_no_names_on_one_line() -> None:
    """GET NAME is an error, LIST is not."""

    @instead_of(Files, "whole")
    def whole(right: Wrong, pages: Files, name: str) -> Any:
        raise NotFound(name)


# Counters.


def counts(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """All statistics say something else."""

    @instead_of(Counters, "stats")
    def stats(right: Wrong, pages: Counters, cache: CacheStats) -> dict[str, Any]:
        said = right(pages, cache)
        return {**said, **change(said)}


def says_it_holds_less() -> None:
    """A smaller `cached` than is listed."""
    counts(lambda stats: {"cached": stats["cached"] * 3 // 4})


def says_it_peaked() -> None:
    """More than it may have held."""
    counts(lambda stats: {"peak": stats["capacity"] + 1})


def says_it_broke_its_word() -> None:
    """It counted a violation of its own."""
    counts(lambda stats: {"violations": 1})


def counts_an_entry_more() -> None:
    """One that is not listed."""
    counts(lambda stats: {"entries": stats["entries"] + 1})


def counts_hits_twice() -> None:
    """The parts are more than the whole."""
    counts(lambda stats: {"hits": 2 * stats["hits"]})


def counts_hits_twice_and_answers_with_them() -> None:
    """The parts make the whole, and both are too much."""
    counts(lambda stats: {"hits": 2 * stats["hits"], "file_answers": stats["file_answers"] + stats["hits"]})


def counts_misses_as_hits() -> None:
    """The whole is right."""
    counts(lambda stats: {"hits": stats["hits"] + stats["misses"], "misses": 0})


def counts_no_evictions() -> None:
    """They happen all the same."""
    counts(lambda stats: {"evictions": 0})


# What is left behind.


def keeps_memory() -> None:
    """Something of each answer stays."""
    nothing_is_plain()
    kept: list[bytes] = []

    @instead_of(Connection, "_send_body")
    def send_body(right: Wrong, *arguments: Any) -> None:
        if len(kept) < LEAKS_MAX:
            kept.append(b"x" * LEAK_BYTES)
        right(*arguments)


def keeps_memory_and_denies_it() -> None:
    """The same, and the server says that it is small."""
    keeps_memory()
    counts(lambda stats: {"rss_bytes": 1 << 20})


def keeps_who_has_left() -> None:
    """Connections stay in the table."""

    @instead_of(Traffic, "leave")
    def leave(right: Wrong, *arguments: Any) -> None:
        pass


def keeps_connections_open() -> None:
    """Each costs a descriptor that nobody closes."""

    @instead_of(Server, "_serve")
    def serve(right: Wrong, server: Server, client: Any, address: Any) -> None:
        os.dup(client.fileno())
        right(server, client, address)


def keeps_files_open_and_denies_it() -> None:
    """Each that is released stays open, and the server counts as many descriptors as at first."""

    @instead_of(Disk, "release")
    def release(right: Wrong, disk: Disk, descriptor: int) -> None:
        os.dup(descriptor)
        right(disk, descriptor)

    counts(lambda stats: {"open_fds": 10})
