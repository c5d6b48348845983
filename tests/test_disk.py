"""Where disk work runs and who shares it: threads, versions, looks; and what the system says of the process."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
from gevent.event import Event
from gevent.threadpool import ThreadPool

from fileserver import positioned, process
from fileserver.disk import Disk
from fileserver.looks import Look, Looks
from fileserver.root import Changed, DiskFailure, FileError, Forbidden, Identity, IsFolder, NotFound, Root
from fileserver.versions import Versions
from lrucache import CHUNK_BYTES
from tests.program import PROJECT

LARGE = b"0123456789abcde" * (2 * CHUNK_BYTES // 15)

WAIT_S = 10
"""How long a test waits for what must happen; nothing is ever waited out."""

pytestmark = pytest.mark.timeout(30)


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd"))


@pytest.fixture(scope="module", autouse=True)
def _hub() -> None:
    """The hub's own descriptors are open before any test counts."""
    pool = ThreadPool(1)
    pool.spawn(int).get()
    pool.kill()


@pytest.fixture(autouse=True)
def _every_descriptor_is_given_back(_hub: None) -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() <= before


class GatedRoot(Root):
    """Reads wait for `gate`, natively as a disk does; each says in `begun` that it waits. Looks do not read."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)

    def read(
        self, descriptor: int, identity: Identity, offset: int, length: int, *, cached: bool = False
    ) -> bytes:
        if cached:
            raise BlockingIOError
        self.begun.release()
        assert self.gate.wait(WAIT_S), "the loop was blocked, or the gate forgotten"
        return super().read(descriptor, identity, offset, length)

    def await_reads(self, count: int) -> None:
        """Let the greenlets begin, then wait natively until `count` threads are stuck in a read."""
        gevent.sleep(0)
        for _ in range(count):
            assert self.begun.acquire(timeout=WAIT_S)


@pytest.fixture(params=["kernel", "portable"])
def root(request: pytest.FixtureRequest, folder: Path) -> Iterator[Root]:
    """A root over small, large, and a folder, once for each containment."""
    (folder / "small").write_bytes(b"hello")
    (folder / "large").write_bytes(LARGE)
    (folder / "folder").mkdir()
    root = Root(str(folder), portable=request.param == "portable")
    yield root
    root.close()


@pytest.fixture
def disk(root: Root, io: str) -> Iterator[Disk]:
    """Both ways of reading over both containments."""
    disk = Disk(root, threads=2, inline=io == "auto")
    yield disk
    disk.close()


@pytest.fixture
def gated(folder: Path) -> Iterator[GatedRoot]:
    """A root whose reads wait; open its gate, or the end of the test will."""
    (folder / "small").write_bytes(b"hello")
    (folder / "large").write_bytes(LARGE)
    root = GatedRoot(str(folder))
    yield root
    root.close()


@pytest.fixture
def slow(gated: GatedRoot, io: str) -> Iterator[Disk]:
    """A disk with two reader threads whose reads wait for the gate."""
    disk = Disk(gated, threads=2, inline=io == "auto")
    yield disk
    gated.gate.set()
    disk.close()


def inline_reads(root: Root, name: str = "small") -> bool:
    """Whether the file system of `root` says what it has cached."""
    descriptor, identity, _ = root.open(name, -1)
    try:
        root.read(descriptor, identity, 0, 1, cached=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def hello(disk: Disk) -> bytes | None:
    """The content of `small`, with whatever came with it given back."""
    opened = disk.open("small", 5)
    if opened.descriptor >= 0:
        disk.release(opened.descriptor)
    return opened.first


# Inline or in a thread


def test_a_read_is_counted_where_it_ran(disk: Disk, root: Root, io: str) -> None:
    reads_inline = io == "auto" and inline_reads(root)
    opens_inline = reads_inline and root.knows_cached

    assert disk.open("small", 5) == (-1, root.stat("small"), b"hello")
    counts = [1, 0] if opens_inline else [0, 1]
    assert [disk.inline_reads.count, disk.pool_reads.count] == counts

    descriptor, identity, first = disk.open("large", 5)
    assert first is None
    assert [disk.inline_reads.count, disk.pool_reads.count] == counts, "an open without a read is no read"

    assert disk.read(descriptor, identity, 3, CHUNK_BYTES) == LARGE[3 : 3 + CHUNK_BYTES]
    disk.release(descriptor)
    counts[0 if reads_inline else 1] += 1
    assert [disk.inline_reads.count, disk.pool_reads.count] == counts


def test_what_the_kernel_has_not_cached_is_read_in_a_thread(
    disk: Disk, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cold(*_: object) -> bytes:
        raise BlockingIOError

    threads = set()

    def read(descriptor: int, length: int, offset: int) -> bytes:
        threads.add(threading.get_native_id())
        return os.pread(descriptor, length, offset)

    monkeypatch.setattr(positioned, "read_cached", cold)
    monkeypatch.setattr(positioned, "read", read)
    assert hello(disk) == b"hello"
    descriptor, identity, first = disk.open("large", len(LARGE))
    assert first == LARGE[:CHUNK_BYTES]
    assert disk.read(descriptor, identity, CHUNK_BYTES, 7) == LARGE[CHUNK_BYTES : CHUNK_BYTES + 7]
    disk.release(descriptor)
    assert (disk.inline_reads.count, disk.pool_reads.count) == (0, 3)
    assert threads
    assert threading.get_native_id() not in threads


def test_a_file_of_one_chunk_comes_closed_wherever_it_was_read(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cold(*_: object) -> bytes:
        raise BlockingIOError

    monkeypatch.setattr(positioned, "read_cached", cold)
    descriptor, _, first = disk.open("small", 5)
    if descriptor >= 0:
        disk.release(descriptor)
    assert (descriptor, first) == (-1, b"hello")


def test_only_an_inline_disk_over_a_knowing_root_answers_without_waiting(disk: Disk, root: Root, io: str) -> None:
    answers = io == "auto" and root.knows_cached
    opened = disk.open_cached("large", 0)
    assert (opened is not None) is answers
    assert disk.look_cached("large") == (root.stat("large") if answers else None)
    assert disk.look("large") == disk.stat("large") == root.stat("large")
    if opened is not None:
        disk.release(opened.descriptor)


@pytest.mark.parametrize(
    ("name", "error"),
    [("missing", NotFound), ("small/inner", NotFound), ("../secret", NotFound), ("folder", IsFolder)],
)
def test_an_error_in_a_thread_arrives_as_itself_and_prints_nothing(
    disk: Disk, capfd: pytest.CaptureFixture[str], name: str, error: type[FileError]
) -> None:
    asks: list[Callable[[], object]] = [
        lambda: disk.open(name, 100),
        lambda: disk.look(name),
        lambda: disk.stat(name),
    ]
    if error is NotFound:
        asks.append(lambda: disk.list(name))
    for ask in asks:
        with pytest.raises(FileError) as raised:
            ask()
        assert type(raised.value) is error
    assert (disk.inline_reads.count, disk.pool_reads.count) == (0, 0)
    assert capfd.readouterr() == ("", "")


def test_a_changed_file_counts_no_read_and_prints_nothing(
    disk: Disk, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    descriptor, identity, _ = disk.open("large")
    os.truncate(folder / "large", 10)
    with pytest.raises(Changed):
        disk.read(descriptor, identity, 0, 100)
    disk.release(descriptor)
    assert (disk.inline_reads.count, disk.pool_reads.count) == (0, 0)
    assert capfd.readouterr() == ("", "")


def test_an_open_whose_first_chunk_cannot_be_read_gives_its_descriptor_back(disk: Disk, folder: Path) -> None:
    opened = disk.open("large")
    os.truncate(folder / "large", 10)
    with pytest.raises(Changed):
        disk.finish_open("large", opened, len(LARGE))


def test_a_listing_is_the_roots(disk: Disk, root: Root) -> None:
    assert disk.list("") == root.list("")
    assert [entry.name for entry in disk.list("").entries] == ["folder", "large", "small"]


def test_the_loop_goes_on_while_a_read_waits(slow: Disk, gated: GatedRoot) -> None:
    reading = gevent.spawn(hello, slow)
    gated.await_reads(1)
    turns = []

    def work() -> None:
        for turn in range(100):
            gevent.sleep(0)
            turns.append(turn)

    gevent.spawn(work).join(WAIT_S)
    assert len(turns) == 100
    assert not reading.ready()
    gated.gate.set()
    assert reading.get(timeout=WAIT_S) == b"hello"


def test_as_many_reads_wait_at_once_as_there_are_threads_and_the_rest_follow(slow: Disk, gated: GatedRoot) -> None:
    reading = [gevent.spawn(hello, slow) for _ in range(6)]
    gated.await_reads(2)
    assert not gated.begun.acquire(blocking=False)
    gated.gate.set()
    assert [reader.get(timeout=WAIT_S) for reader in reading] == [b"hello"] * 6
    assert slow.pool_reads.count == 6


def test_a_look_never_queues_behind_slow_reads(slow: Disk, gated: GatedRoot) -> None:
    reading = [gevent.spawn(hello, slow) for _ in range(6)]
    gated.await_reads(2)
    identity = gevent.spawn(slow.look, "small").get(timeout=WAIT_S)
    assert identity == gated.stat("small")
    look = gevent.spawn(Looks(slow, slow.look).look, "small", 0).get(timeout=WAIT_S)
    assert look.seen() == identity
    new = gevent.spawn(slow.stat, "large")
    gevent.spawn(slow.look, "large").get(timeout=WAIT_S)
    assert not new.ready(), "a name nobody has asked for before takes its turn"
    assert not any(reader.ready() for reader in reading)
    gated.gate.set()
    assert new.get(timeout=WAIT_S) == gated.stat("large")
    gevent.joinall(reading, timeout=WAIT_S, raise_error=True)


def test_a_release_never_waits_for_slow_reads(slow: Disk, gated: GatedRoot) -> None:
    descriptor = slow.open("large").descriptor
    reading = [gevent.spawn(hello, slow) for _ in range(6)]
    gated.await_reads(2)
    releasing = gevent.spawn(slow.release, descriptor)
    gevent.sleep(0)
    waited = not releasing.ready()
    gated.gate.set()
    gevent.joinall(reading, timeout=WAIT_S, raise_error=True)
    releasing.get(timeout=WAIT_S)
    assert not waited


def test_close_waits_for_the_reads_under_way(slow: Disk, gated: GatedRoot) -> None:
    reading = gevent.spawn(hello, slow)
    gated.await_reads(1)
    closing = gevent.spawn(slow.close)
    gevent.sleep(0)
    assert not closing.ready()
    gated.gate.set()
    closing.get(timeout=WAIT_S)
    assert reading.get(timeout=WAIT_S) == b"hello"


# Open versions


def test_readers_of_a_version_share_one_descriptor_until_the_last_releases(disk: Disk, root: Root) -> None:
    versions = Versions(disk)
    before = descriptors()
    first = versions.open("large")
    second = versions.open("large", first.identity)
    third = versions.open("large")
    assert first is second is third
    assert first.identity == root.stat("large")
    assert len(versions) == 1
    third.release()
    second.release()
    assert first.read(5, 10) == LARGE[5:15]
    assert len(versions) == 1
    first.use().release()
    assert first.read(5, 10) == LARGE[5:15]
    first.release()
    assert len(versions) == 0
    disk.close()
    assert descriptors() <= before


def test_readers_that_open_at_once_share_what_was_opened_first(slow: Disk, gated: GatedRoot) -> None:
    gated.gate.set()
    versions = Versions(slow)
    opening = [gevent.spawn(versions.open, "large") for _ in range(5)]
    opened = [opener.get(timeout=WAIT_S) for opener in opening]
    assert len(set(opened)) == len(versions) == 1
    for version in opened:
        assert version.read(0, 5) == LARGE[:5]
        version.release()
    assert len(versions) == 0


def test_a_version_outlives_its_name(disk: Disk, folder: Path) -> None:
    versions = Versions(disk)
    held = versions.open("large")
    (folder / "small").replace(folder / "large")
    shared = versions.open("large", held.identity)
    fresh = versions.open("large")
    assert shared is held
    assert len(versions) == 2
    assert shared.read(0, 100) == LARGE[:100]
    assert fresh.read(0, 100) == b"hello"
    for version in (held, shared, fresh):
        version.release()
    assert len(versions) == 0


def test_a_version_that_has_lost_its_name_cannot_be_opened(disk: Disk, root: Root, folder: Path) -> None:
    versions = Versions(disk)
    identity = root.stat("large")
    (folder / "small").replace(folder / "large")
    with pytest.raises(Changed):
        versions.open("large", identity)
    (folder / "large").unlink()
    with pytest.raises(NotFound):
        versions.open("large", identity)
    assert len(versions) == 0


def test_the_same_version_adopted_twice_keeps_one_descriptor(disk: Disk) -> None:
    versions = Versions(disk)
    before = descriptors()
    twins = [disk.open("large") for _ in range(2)]
    adopted = [versions.adopt("large", twin.identity, twin.descriptor) for twin in twins]
    assert adopted[0] is adopted[1]
    assert len(versions) == 1
    adopted[0].release()
    assert adopted[1].read(0, 5) == LARGE[:5]
    adopted[1].release()
    disk.close()
    assert descriptors() <= before


def test_a_version_adopted_while_its_last_reader_leaves_stays_open(slow: Disk, gated: GatedRoot) -> None:
    versions = Versions(slow)
    held = versions.open("large")
    twin = slow.open("large")
    reading = [gevent.spawn(hello, slow) for _ in range(6)]
    gated.await_reads(2)
    adopting = gevent.spawn(versions.adopt, "large", twin.identity, twin.descriptor)
    gevent.sleep(0)
    leaving = gevent.spawn(held.release)
    gevent.sleep(0)
    gated.gate.set()
    adopted = adopting.get(timeout=WAIT_S)
    leaving.get(timeout=WAIT_S)
    gevent.joinall(reading, timeout=WAIT_S, raise_error=True)
    assert adopted.read(0, 5) == LARGE[:5]
    assert len(versions) == 1
    adopted.release()
    assert len(versions) == 0


# Looks


IDENTITY = Identity(1, 2, 3, 4, 5)


class LookedAt(Disk):
    """A disk that answers looks with `answer` once `gate` opens, or at once as `cached`; `asked` are the names."""

    def __init__(self, root: Root) -> None:
        super().__init__(root)
        self.asked: list[str] = []
        self.gate = Event()
        self.answer: Identity | Exception = IDENTITY
        self.cached: Identity | FileError | None = None

    def look_cached(self, name: str) -> Identity | None:
        if isinstance(self.cached, FileError):
            raise self.cached
        return self.cached

    def look(self, name: str) -> Identity:
        self.asked.append(name)
        self.gate.wait(WAIT_S)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Clock:
    """A time that stands still."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def looked_at(folder: Path) -> Iterator[LookedAt]:
    """A disk that only answers looks."""
    root = Root(str(folder))
    disk = LookedAt(root)
    yield disk
    disk.close()
    root.close()


def test_many_greenlets_share_one_look_at_a_name(looked_at: LookedAt) -> None:
    looks = Looks(looked_at, looked_at.look)
    looking = [gevent.spawn(looks.look, "a", 0) for _ in range(5)]
    other = gevent.spawn(looks.look, "b", 0)
    gevent.sleep(0)
    begun = looks.begin("a")
    gevent.sleep(0)
    assert looked_at.asked == ["a", "b"]
    assert not begun.is_done
    looked_at.gate.set()
    assert {looker.get(timeout=WAIT_S) for looker in looking} == {begun}
    assert begun.seen() == other.get(timeout=WAIT_S).seen() == IDENTITY

    assert looks.look("a", 0) is not begun
    assert looked_at.asked == ["a", "b", "a"], "a finished look is not reused"


@pytest.mark.parametrize(("not_before_s", "asked"), [(99.0, 1), (100.0, 1), (100.5, 2), (107.0, 2)])
def test_a_look_that_began_too_early_is_not_an_answer(
    looked_at: LookedAt, not_before_s: float, asked: int
) -> None:
    clock = Clock()
    looks = Looks(looked_at, looked_at.look, clock=clock)
    early = looks.begin("a")
    clock.now_s = 107.0
    looking = gevent.spawn(looks.look, "a", not_before_s)
    gevent.sleep(0)
    assert looked_at.asked == ["a"], "one look at a time"
    looked_at.gate.set()
    look = looking.get(timeout=WAIT_S)
    assert (look is early) == (asked == 1)
    assert look.began_s >= not_before_s
    assert looked_at.asked == ["a"] * asked


@pytest.mark.parametrize(
    ("error", "says_nothing"),
    [(DiskFailure(), True), (NotFound(), False), (Forbidden(), False), (IsFolder(), False)],
)
@pytest.mark.parametrize("cached", [False, True])
def test_an_error_is_shared_by_all_who_look_and_only_a_failing_disk_says_nothing(
    looked_at: LookedAt, error: FileError, says_nothing: bool, cached: bool
) -> None:
    looked_at.answer = error
    looked_at.cached = error if cached else None
    looked_at.gate.set()
    looks = Looks(looked_at, looked_at.look)
    looking = [gevent.spawn(looks.look, "a", 0) for _ in range(3)]
    for look in [looker.get(timeout=WAIT_S) for looker in looking]:
        assert (look.failure is not None) is says_nothing
        with pytest.raises(type(error)) as raised:
            look.seen()
        assert raised.value is error
    assert looked_at.asked == ([] if cached else ["a"])


def test_what_the_kernel_knows_is_seen_without_a_thread_or_a_switch(looked_at: LookedAt) -> None:
    looked_at.cached = IDENTITY
    switched = gevent.spawn(int)
    look: Look = Looks(looked_at, looked_at.look).look("a", 0)
    assert look.seen() == IDENTITY
    assert not (look.failure is not None)
    assert looked_at.asked == []
    assert not switched.ready()
    switched.join()


def test_a_look_that_breaks_wakes_everyone_and_is_forgotten(
    looked_at: LookedAt, capfd: pytest.CaptureFixture[str]
) -> None:
    looked_at.answer = ValueError("not a disk's error")
    looked_at.gate.set()
    looks = Looks(looked_at, looked_at.look)
    look = gevent.spawn(looks.look, "a", 0).get(timeout=WAIT_S)
    with pytest.raises(FileError):
        look.seen()
    assert capfd.readouterr().err.count("Traceback") == 1
    looked_at.answer = IDENTITY
    assert looks.look("a", 0).seen() == IDENTITY


# What the system says of this process


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc")
def test_resident_memory_grows_with_what_is_held() -> None:
    before = process.rss_bytes()
    assert before is not None
    assert before > 5 << 20
    held = b"x" * (64 << 20)
    after = process.rss_bytes()
    assert after is not None
    assert 60 << 20 <= after - before <= 80 << 20
    del held


def test_open_descriptors_counts_each_file(tmp_path: Path) -> None:
    before = process.open_descriptors()
    assert before is not None
    assert before >= 3
    with (tmp_path / "a").open("w"), (tmp_path / "b").open("w"):
        assert process.open_descriptors() == before + 2
    assert process.open_descriptors() == before


def test_what_the_system_does_not_say_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsaid(*_: object) -> object:
        raise FileNotFoundError

    with monkeypatch.context() as patched:
        patched.setattr(process, "open", unsaid, raising=False)
        patched.setattr(os, "listdir", unsaid)
        patched.setattr(os, "stat", unsaid)
        assert (process.rss_bytes(), process.open_descriptors()) == (None, None)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit to raise")
@pytest.mark.parametrize(("soft", "hard"), [(256, 700), (700, 700)])
def test_the_descriptor_limit_becomes_the_hard_one(soft: int, hard: int) -> None:
    script = (
        "import resource; from fileserver.process import raise_descriptor_limit as lift;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
        "print(lift(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=20, check=False
    )
    assert said.stdout.split() == [str(hard)] * 3, said
