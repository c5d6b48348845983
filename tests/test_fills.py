"""The promises under concurrency: one read, a hard budget, one version, nothing left behind, whoever fails."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import gevent
import pytest

from fileserver import root
from lrucache import CHUNK_BYTES
from tests.house import OLD_NS, Gate, House, files_only, outcome, pattern, read_body, wait_for

CHUNKS = 4
SIZE = CHUNKS * CHUNK_BYTES
OFFSETS = range(0, SIZE, CHUNK_BYTES)


@pytest.mark.parametrize("clients", [1, 2, 1000])
def test_any_number_of_clients_of_a_cold_file_cause_one_read_of_each_chunk(
    folder: Path, source: str, clients: int
) -> None:
    with House(folder, io=source) as house:
        content = house.write("a", pattern(SIZE))
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_open = lambda name: gate.wait()
        asking = [gevent.spawn(house.fetch, "a") for _ in range(clients)]
        wait_for(lambda: gate.waiting)
        gate.open()
        answers = [one.get() for one in asking]
        assert all(got == content for _, got in answers)
        assert [where for where, _ in answers].count("miss") == 1
        assert house.root.opens == ["a"]
        assert house.root.reads == [("a", offset) for offset in OFFSETS]
        assert house.cache.stats().coalesced == clients - 1


@pytest.mark.parametrize("already", OFFSETS)
def test_who_comes_after_some_chunks_starts_at_the_beginning_at_once(
    folder: Path, source: str, already: int
) -> None:
    with House(folder, io=source) as house:
        content = house.write("a", pattern(SIZE))
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_read = lambda name, offset: gate.wait() if offset > already else None
        first = house.store.get("a")
        if already < SIZE - CHUNK_BYTES:
            wait_for(lambda: gate.waiting)
        late = house.store.get("a")
        there = b"".join(b"".join(late.read(at, CHUNK_BYTES)) for at in range(0, already + 1, CHUNK_BYTES))
        assert there == content[: already + CHUNK_BYTES]
        gate.open()
        assert read_body(late) == read_body(first) == content
        first.close()
        late.close()
        assert house.root.reads == [("a", offset) for offset in OFFSETS]


@pytest.mark.parametrize("leaves_at", [None, *OFFSETS])
def test_a_client_that_leaves_takes_nothing_from_the_others(
    folder: Path, source: str, leaves_at: int | None
) -> None:
    """It leaves before the file is open (None) or when the chunk at an offset is there; the fill goes on."""
    with House(folder, io=source) as house:
        content = house.write("a", pattern(SIZE))
        house.root.cold.add("a")
        gate = Gate()
        if leaves_at is None:
            house.root.before_open = lambda name: gate.wait()
        else:
            house.root.before_read = lambda name, offset: gate.wait() if offset > leaves_at else None

        def leave() -> None:
            body = house.store.get("a")
            try:
                body.read(0, CHUNK_BYTES)
            finally:
                body.close()

        leaving = gevent.spawn(leave)
        staying = [gevent.spawn(house.fetch, "a") for _ in range(3)]
        if leaves_at != OFFSETS[-1]:
            wait_for(lambda: gate.waiting)
        gate.open()
        leaving.join()
        assert [one.get()[1] for one in staying] == [content] * 3
        assert house.fetch("a") == ("hit", content)


def test_a_fill_that_everyone_has_left_finishes(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        content = house.write("a", pattern(SIZE))
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_read = lambda name, offset: gate.wait() if offset == CHUNK_BYTES else None
        house.store.get("a").close()
        assert house.cache.stats().filling == SIZE
        gate.open()
        wait_for(lambda: not len(house.store.fills))
        assert house.fetch("a") == ("hit", content)


FAULTS = [errno.EIO, errno.ESTALE]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at", ["open", "fstat", *OFFSETS])
def test_an_error_reaches_everyone_who_waits_and_evicts_nothing(
    folder: Path, source: str, at: str | int, fault: int
) -> None:
    with House(folder, io=source, capacity=2 * SIZE) as house:
        kept = house.write("kept", pattern(SIZE + CHUNK_BYTES, 3))
        house.write("a", pattern(SIZE))
        house.fetch("kept")
        house.root.cold.add("a")
        gate = Gate()

        def fail(name: str, offset: object) -> None:
            if name == "a" and offset == at:
                gate.wait()
                raise root.DiskFailure(os.strerror(fault))

        house.root.before_open = lambda name: fail(name, "open")
        house.root.before_fstat = lambda name: fail(name, "fstat")
        house.root.before_read = fail
        asking = [gevent.spawn(house.fetch, "a") for _ in range(20)]
        wait_for(lambda: gate.waiting)
        gate.open()
        gevent.joinall(asking)
        assert {type(one.exception) for one in asking} == {root.DiskFailure}
        assert house.root.opens.count("a") <= 1  # nobody tried again on their own
        stats = house.cache.stats()
        assert (stats.entries, stats.filling) == ((1, 0) if at in ("open", "fstat", 0) else (0, 0))
        if stats.entries:
            assert house.fetch("kept") == ("hit", kept)
        house.root.before_open = house.root.before_fstat = lambda name: None
        house.root.before_read = lambda name, offset: None
        assert house.fetch("a")[1] == pattern(SIZE)


@pytest.mark.parametrize("at", [0, CHUNK_BYTES])
def test_an_error_that_nobody_expected_reaches_everyone_and_is_reported_once(
    folder: Path, source: str, at: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with House(folder, io=source) as house:
        content = house.write("a", pattern(SIZE))
        house.root.cold.add("a")
        gate = Gate()

        def break_down(name: str, offset: int) -> None:
            if offset == at:
                gate.wait()
                raise ZeroDivisionError("a mistake of ours")

        house.root.before_read = break_down
        asking = [gevent.spawn(house.fetch, "a") for _ in range(3)]
        wait_for(lambda: gate.waiting)
        gate.open()
        gevent.joinall(asking)
        assert ["mistake" in str(one.exception) for one in asking] == [True] * 3
        assert {type(one.exception) for one in asking} == {root.FileError}
        said = capfd.readouterr().err
        assert said.count("ZeroDivisionError: a mistake of ours") == 1
        house.root.before_read = lambda name, offset: None
        assert house.fetch("a") == ("miss", content)


def test_others_run_between_two_chunks_of_a_fill_that_never_waits(folder: Path) -> None:
    with House(folder) as house:
        house.write("a", pattern(SIZE))
        asking = gevent.spawn(house.fetch, "a")
        seen = set()
        while not asking.ready():
            seen.add(len(house.root.reads))
            gevent.sleep(0)
        assert seen >= set(range(CHUNKS))


def test_a_small_file_that_the_kernel_has_is_there_without_a_switch(folder: Path) -> None:
    with House(folder) as house:
        if not house.root.knows_cached:
            pytest.skip("this system does not say what it has in memory")
        house.write("a", b"content")
        other = gevent.spawn(lambda: None)
        assert house.fetch("a") == ("miss", b"content")
        assert not other.ready()
        other.join()


def test_no_payload_waits_for_the_turn_of_its_fill(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        for number in range(5):
            house.write(f"{number}", pattern(SIZE))
            house.store.fills.start(f"{number}")
        assert house.root.reads == []


def test_two_fills_that_together_exceed_the_budget_never_do(folder: Path, source: str) -> None:
    with House(folder, io=source, capacity=SIZE) as house:
        contents = {name: house.write(name, pattern(3 * CHUNK_BYTES, ord(name))) for name in "abcdef"}
        house.root.cold |= contents.keys()
        asking = {name: gevent.spawn(house.fetch, name) for name in contents}
        for name, one in asking.items():
            where, got = one.get()
            assert got == contents[name]
            assert where in ("miss", "bypass no-room")
        assert house.cache.stats().peak <= SIZE


def test_seventy_thousand_tiny_files_stay_within_the_entry_bound(folder: Path) -> None:
    with House(folder) as house:
        for number in range(70_000):
            (folder / f"{number:x}").write_bytes(b"")
            assert house.fetch(f"{number:x}") == ("miss", b"")
        stats = house.cache.stats()
        assert (stats.entries, stats.evictions) == (65_536, 70_000 - 65_536)
        assert house.fetch(f"{69_999:x}")[0] == "hit"


# Files that change: a body is one version, or it fails.


def rename_over(house: House) -> None:
    house.replace("a", pattern(SIZE - 1000, 77))


def rewrite(house: House) -> None:
    house.write("a", pattern(SIZE, 88), OLD_NS + 1000)


def truncate(house: House) -> None:
    os.truncate(house.folder / "a", 1000)


def grow(house: House) -> None:
    with (house.folder / "a").open("ab") as file:
        file.write(b"more")


def delete(house: House) -> None:
    (house.folder / "a").unlink()


def relink(house: House) -> None:
    os.link(house.folder / "a", house.folder / "b")


def chmod(house: House) -> None:
    (house.folder / "a").chmod(0o600)


def to_link(house: House) -> None:
    house.write("other", pattern(SIZE, 99))
    delete(house)
    (house.folder / "a").symlink_to("other")


def to_pipe(house: House) -> None:
    delete(house)
    os.mkfifo(house.folder / "a")


def to_folder(house: House) -> None:
    delete(house)
    house.write("a/b", b"")


SAME_VERSION = [rename_over, delete, relink, chmod, to_link, to_pipe, to_folder]
"""What happens to the name, while the open file keeps its bytes."""

OTHER_BYTES = [rewrite, truncate, grow]
"""What happens to the bytes of the open file."""

SAME_OBJECT = [relink, chmod]
"""What is no change where a file stands for an object: its store keeps no other version of it."""
NO_OBJECT = [to_pipe]
"""What no object can become (and what obstore would wait for)."""


def keeps_its_bytes(change: Callable[[House], None], source: str) -> bool:
    """Whether who has opened the file reads on; skips what cannot happen."""
    if change in NO_OBJECT:
        files_only(source, "an object cannot become that")
    return change in (SAME_OBJECT if source == "objects" else SAME_VERSION)


def after_the_window(house: House) -> tuple[str, bytes] | type[Exception]:
    """What a request gets once the window has passed."""
    house.clock.now_s += 1.1
    try:
        return house.fetch("a")
    except root.FileError as problem:
        return type(problem)


def fresh(house: House) -> bytes | type[Exception]:
    """What such a request must get: the disk's own answer, followed to the end."""
    path = house.folder / "a"
    if path.is_fifo() or not path.exists():
        return root.NotFound
    return root.IsFolder if path.is_dir() else path.read_bytes()


@pytest.mark.parametrize("change", SAME_VERSION + OTHER_BYTES)
@pytest.mark.parametrize("at", OFFSETS)
@pytest.mark.parametrize("way", ["fill", "bypass"])
def test_a_file_that_changes_while_it_is_read_is_one_version_or_fails(
    folder: Path, source: str, change: Callable[[House], None], at: int, way: str
) -> None:
    keeps = keeps_its_bytes(change, source)
    with House(folder, io=source, capacity=SIZE if way == "fill" else SIZE - 1) as house:
        old = house.write("a", pattern(SIZE))
        changed: list[int] = []

        def strike(name: str, offset: int) -> None:
            if name == "a" and offset == at and not changed:
                changed.append(offset)
                change(house)

        house.root.after_read = strike
        is_last = at == OFFSETS[-1]
        if keeps or is_last:
            assert house.fetch("a")[1] == old
        else:
            with pytest.raises(root.Changed):
                house.fetch("a")
        assert changed
        answer = after_the_window(house)
        expected = fresh(house)
        assert (answer[1] if isinstance(answer, tuple) else answer) == expected


@pytest.mark.parametrize("change", SAME_VERSION + OTHER_BYTES)
@pytest.mark.parametrize("at", OFFSETS)
def test_an_answer_that_lost_its_entry_goes_on_with_the_same_version_or_fails(
    folder: Path, source: str, change: Callable[[House], None], at: int
) -> None:
    """The running send of a hit: the file changes, and its entry goes, before the chunk at `at` is asked for."""
    is_same = keeps_its_bytes(change, source) and source == "objects"
    with House(folder, io=source) as house:
        old = house.write("a", pattern(SIZE))
        house.fetch("a")
        body = house.store.get("a")
        assert outcome(body) == "hit"
        got = b"".join(b"".join(body.read(offset, CHUNK_BYTES)) for offset in range(0, at, CHUNK_BYTES))
        change(house)
        assert house.cache.discard(house.cache.snapshot()[1][0])
        if is_same:
            got += b"".join(body.read(at, CHUNK_BYTES))
        else:
            with pytest.raises(root.FileError):
                body.read(at, CHUNK_BYTES)
        assert old.startswith(got)
        body.close()


@pytest.mark.parametrize("change", SAME_VERSION)
def test_an_answer_from_disk_keeps_its_descriptor_when_the_name_changes(
    folder: Path, source: str, change: Callable[[House], None]
) -> None:
    if not keeps_its_bytes(change, source):
        files_only(source, "a replaced object cannot be read on")
    with House(folder, io=source) as house:
        old = house.write("a", pattern(SIZE))
        house.fetch("a")
        body = house.store.get("a")
        assert house.cache.discard(house.cache.snapshot()[1][0])
        got = b"".join(body.read(0, CHUNK_BYTES))
        change(house)
        got += b"".join(b"".join(body.read(offset, CHUNK_BYTES)) for offset in OFFSETS[1:])
        body.close()
        assert got == old


def test_a_file_made_unreadable_is_refused_after_the_window(folder: Path, source: str) -> None:
    """Root may read everything, so the refusal itself is the test's; that the entry goes is the program's."""
    with House(folder, io=source) as house:
        house.write("a", b"content")
        house.fetch("a")
        (folder / "a").chmod(0)

        def refuse(*_: object) -> None:
            raise root.Forbidden("said the test")

        house.root.cold.add("a")
        house.root.before_open = house.root.before_stat = refuse
        assert after_the_window(house) is root.Forbidden
        assert house.cache.stats().entries == 0


def test_a_rewrite_within_the_same_stamps_is_found_when_the_stamps_were_young(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        house.write("a", b"one")
        frozen = house.root.stat("a")
        house.root.stamps = lambda name, identity: frozen
        house.wall_ns = max(frozen.mtime_ns, frozen.ctime_ns) + 1
        assert house.fetch("a") == ("miss", b"one")
        house.write("a", b"two")
        house.clock.now_s += 1.1
        assert house.fetch("a") == ("miss", b"two")


# A slow disk.


@pytest.mark.parametrize("call", ["before_open", "before_fstat", "before_read", "before_list"])
def test_hits_go_on_over_several_windows_while_fifty_cold_requests_wait(
    folder: Path, source: str, call: str
) -> None:
    with House(folder, io=source, threads=64) as house:
        house.write("hot", b"hot")
        house.fetch("hot")
        gate = Gate()
        cold = [f"cold{number}" for number in range(50)]
        for name in cold:
            house.write(name, name.encode())
        house.root.cold |= set(cold)

        def slow(name: str, *_: object) -> None:
            if name != "hot":
                gate.wait()

        setattr(house.root, call, slow)
        ask = (lambda name: house.store.list("")) if call == "before_list" else house.fetch
        asking = [gevent.spawn(ask, name) for name in cold]
        wait_for(lambda: gate.waiting == 50)
        for _ in range(100):
            house.clock.now_s += 0.1
            assert house.fetch("hot")[0] == "hit"
            gevent.sleep(0.001)
        gate.open()
        gevent.joinall(asking, raise_error=True)


def test_looks_at_strange_names_do_not_delay_the_looks_at_stored_files(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        house.write("hot", b"hot")
        house.fetch("hot")
        gate = Gate()
        house.root.cold |= {f"cold{number}" for number in range(5)}
        house.root.before_stat = lambda name: gate.wait() if name != "hot" else None
        asking = [gevent.spawn(house.store.describe, f"cold{number}") for number in range(5)]
        wait_for(lambda: gate.waiting == 5)
        for _ in range(5):
            house.clock.now_s += 2
            assert house.fetch("hot")[0] == "hit"
        gate.open()
        gevent.joinall(asking)
