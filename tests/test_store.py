"""One request through store, fills, cache and disk: where its bytes come from, and what it leaves behind."""

from collections import deque
from pathlib import Path
from typing import Any

import gevent
import pytest

from fileserver import root
from fileserver.store import Body, Store
from lrucache import CHUNK_BYTES, Accesses
from tests.house import OLD_NS, Gate, House, files_only, outcome, pattern, read_body, wait_for

SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 17]


@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_fits_is_a_miss_and_then_a_hit(folder: Path, source: str, size: int) -> None:
    with House(folder, io=source) as house:
        content = house.write("a", pattern(size))
        assert house.fetch("a") == ("miss", content)
        assert house.fetch("a") == ("hit", content)
        stats = house.cache.stats()
        assert (stats.cached, stats.entries, stats.hits, stats.misses) == (size, 1, 1, 1)


@pytest.mark.parametrize("size", SIZES)
def test_each_chunk_is_read_once_for_the_miss_and_never_for_the_hit(folder: Path, source: str, size: int) -> None:
    with House(folder, io=source) as house:
        house.write("a", pattern(size))
        house.fetch("a")
        house.fetch("a")
        assert house.root.reads == [("a", offset) for offset in range(0, max(size, 1), CHUNK_BYTES)]


def test_a_file_larger_than_the_cache_is_streamed_and_never_stored(folder: Path, source: str) -> None:
    with House(folder, io=source, capacity=2 * CHUNK_BYTES) as house:
        fits = house.write("fits", pattern(2 * CHUNK_BYTES))
        larger = house.write("larger", pattern(2 * CHUNK_BYTES + 1))
        assert house.fetch("larger") == ("bypass too-large", larger)
        assert house.cache.stats().entries == 0
        assert house.fetch("fits") == ("miss", fits)
        assert house.fetch("larger") == ("bypass too-large", larger)
        assert house.fetch("fits") == ("hit", fits)
        stats = house.cache.stats()
        assert (stats.misses, stats.bypasses, stats.evictions) == (1, 2, 0)


def test_each_chunk_of_a_file_larger_than_the_cache_is_read_once(folder: Path, source: str) -> None:
    with House(folder, io=source, capacity=2 * CHUNK_BYTES) as house:
        house.write("a", pattern(2 * CHUNK_BYTES + 1))
        house.fetch("a")
        assert house.root.reads == [("a", offset) for offset in (0, CHUNK_BYTES, 2 * CHUNK_BYTES)]


@pytest.mark.parametrize("expected", ["miss", "hit", "bypass too-large"])
@pytest.mark.parametrize("limit", [1, 1000, CHUNK_BYTES, CHUNK_BYTES + 1, 1 << 20])
def test_a_read_gives_no_more_than_was_asked_for(folder: Path, source: str, expected: str, limit: int) -> None:
    capacity = CHUNK_BYTES if expected == "bypass too-large" else 64 << 20
    with House(folder, io=source, capacity=capacity) as house:
        content = house.write("a", pattern(6 * CHUNK_BYTES))
        if expected == "hit":
            house.fetch("a")
        body = house.store.get("a")
        assert outcome(body) == expected
        for offset in (0, 5, CHUNK_BYTES - 1):
            got = b"".join(body.read(offset, limit))
            assert 0 < len(got) <= limit
            assert content.startswith(got, offset)
        body.close()


def test_the_newcomer_evicts_only_once_its_first_chunk_was_read(folder: Path, source: str) -> None:
    with House(folder, io=source, capacity=2 * CHUNK_BYTES) as house:
        house.write("old", pattern(2 * CHUNK_BYTES))
        house.write("new", pattern(2 * CHUNK_BYTES, 7))
        house.fetch("old")
        house.root.cold.add("new")
        gate = Gate()
        house.root.before_read = lambda name, offset: gate.wait()
        asking = gevent.spawn(house.fetch, "new")
        wait_for(lambda: gate.waiting)
        assert house.fetch("old")[0] == "hit"
        gate.open()
        assert asking.get()[0] == "miss"
        assert house.cache.stats().evictions == 1


@pytest.mark.parametrize("fault", ["before_open", "before_read"])
def test_a_failing_disk_evicts_nothing(folder: Path, source: str, fault: str) -> None:
    with House(folder, io=source, capacity=2 * CHUNK_BYTES) as house:
        content = house.write("old", pattern(2 * CHUNK_BYTES))
        house.write("new", pattern(CHUNK_BYTES))
        house.fetch("old")
        house.root.cold.add("new")
        setattr(house.root, fault, house.fail("new"))
        with pytest.raises(root.DiskFailure):
            house.fetch("new")
        assert house.fetch("old") == ("hit", content)
        assert house.cache.stats().misses == 1


def test_a_fault_in_a_later_chunk_reaches_the_reader_and_stores_nothing(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        house.write("a", pattern(3 * CHUNK_BYTES))
        house.root.cold.add("a")

        def third_chunk_fails(name: str, offset: int) -> None:
            if offset == 2 * CHUNK_BYTES:
                raise root.DiskFailure("EIO, said the test")

        house.root.before_read = third_chunk_fails
        with pytest.raises(root.DiskFailure):
            house.fetch("a")
        assert house.cache.stats().entries == 0
        house.root.before_read = lambda name, offset: None
        assert house.fetch("a") == ("miss", pattern(3 * CHUNK_BYTES))


def test_what_is_read_so_far_is_there_before_the_file_is_read_to_its_end(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        content = house.write("a", pattern(3 * CHUNK_BYTES))
        house.root.cold.add("a")
        gate = Gate()

        def hold_the_last(name: str, offset: int) -> None:
            if offset == 2 * CHUNK_BYTES:
                gate.wait()

        house.root.before_read = hold_the_last
        body = house.store.get("a")
        first = b"".join(body.read(0, CHUNK_BYTES))
        second = b"".join(body.read(CHUNK_BYTES, CHUNK_BYTES))
        assert first + second == content[: 2 * CHUNK_BYTES]
        assert house.cache.stats().filling == len(content)
        gate.open()
        assert b"".join(body.read(2 * CHUNK_BYTES, CHUNK_BYTES)) == content[2 * CHUNK_BYTES :]
        body.close()


def test_clients_that_come_during_a_fill_share_its_one_read(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        content = house.write("a", pattern(3 * CHUNK_BYTES))
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_open = lambda name: gate.wait()
        asking = [gevent.spawn(house.fetch, "a") for _ in range(50)]
        wait_for(lambda: gate.waiting)
        gate.open()
        answers = [one.get() for one in asking]
        assert sorted(where for where, _ in answers) == ["coalesced"] * 49 + ["miss"]
        assert all(got == content for _, got in answers)
        assert house.root.reads == [("a", offset) for offset in (0, CHUNK_BYTES, 2 * CHUNK_BYTES)]


def test_a_body_whose_entry_is_evicted_goes_on_from_disk_with_the_same_version(folder: Path, source: str) -> None:
    with House(folder, io=source, capacity=4 * CHUNK_BYTES) as house:
        content = house.write("a", pattern(4 * CHUNK_BYTES))
        house.write("b", pattern(4 * CHUNK_BYTES, 9))
        house.fetch("a")
        for evicted_at in range(0, 4 * CHUNK_BYTES, CHUNK_BYTES):
            house.fetch("a")
            body = house.store.get("a")
            beginning = b"".join(b"".join(body.read(at, CHUNK_BYTES)) for at in range(0, evicted_at, CHUNK_BYTES))
            house.fetch("b")
            rest = b"".join(
                b"".join(body.read(at, CHUNK_BYTES)) for at in range(evicted_at, len(content), CHUNK_BYTES)
            )
            body.close()
            assert outcome(body) == "hit"
            assert beginning + rest == content


def test_a_body_whose_entry_was_evicted_and_stored_again_reads_the_disk_no_more(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        content = house.write("a", pattern(2 * CHUNK_BYTES))
        house.fetch("a")
        body = house.store.get("a")
        beginning = b"".join(body.read(0, CHUNK_BYTES))
        assert house.cache.discard(house.cache.snapshot()[1][0])
        house.fetch("a")
        (folder / "a").unlink()
        assert beginning + b"".join(body.read(CHUNK_BYTES, CHUNK_BYTES)) == content
        assert house.cache.snapshot()[1][0].readers == 1
        body.close()


def test_a_body_never_goes_on_with_another_version_that_was_stored_since(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        house.write("a", pattern(2 * CHUNK_BYTES))
        house.fetch("a")
        body = house.store.get("a")
        body.read(0, CHUNK_BYTES)
        house.replace("a", pattern(2 * CHUNK_BYTES, 9))
        house.clock.now_s += 1.1
        assert house.fetch("a")[0] == "miss"
        with pytest.raises(root.Changed):
            body.read(CHUNK_BYTES, CHUNK_BYTES)
        body.close()


def test_no_room_for_a_second_large_fill_is_a_bypass_and_never_an_error(folder: Path, source: str) -> None:
    with House(folder, io=source, capacity=4 * CHUNK_BYTES) as house:
        first = house.write("first", pattern(3 * CHUNK_BYTES))
        second = house.write("second", pattern(2 * CHUNK_BYTES, 5))
        small = house.write("small", b"x")
        house.root.cold.add("first")
        gate = Gate()

        def hold_after_the_first_chunk(name: str, offset: int) -> None:
            if name == "first" and offset > 0:
                gate.wait()

        house.root.before_read = hold_after_the_first_chunk
        asking = gevent.spawn(house.fetch, "first")
        wait_for(lambda: gate.waiting)
        assert house.fetch("second") == ("bypass no-room", second)
        assert house.fetch("small") == ("bypass no-room", small)
        gate.open()
        assert asking.get() == ("miss", first)


def test_readers_are_counted_while_they_read(folder: Path) -> None:
    with House(folder) as house:
        house.write("a", b"content")
        house.fetch("a")
        body = house.store.get("a")
        assert house.cache.snapshot()[1][0].readers == 1
        body.close()
        assert house.cache.snapshot()[1][0].readers == 0


def test_head_starts_no_fill_and_counts_nothing(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        house.write("a", b"content")
        described = house.store.describe("a")
        assert (described.stored, described.representation.identity.size) == (None, 7)
        house.fetch("a")
        assert house.store.describe("a").stored is not None
        stats = house.cache.stats()
        assert (stats.hits, stats.misses, stats.entries) == (0, 1, 1)


@pytest.mark.parametrize(("revalidate_s", "pass_s", "fresh"), [(1, 0.4, False), (1, 1.01, True), (0, 0, True)])
def test_a_replaced_file_is_served_fresh_within_the_window(
    folder: Path, source: str, revalidate_s: float, pass_s: float, fresh: bool
) -> None:
    with House(folder, io=source, revalidate_s=revalidate_s) as house:
        old = house.write("a", b"old")
        house.fetch("a")
        new = house.replace("a", b"new")
        house.clock.now_s += pass_s
        assert house.fetch("a") == (("miss", new) if fresh else ("hit", old))


def test_an_unchanged_file_stays_a_hit_and_is_looked_at_once_a_window(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        house.write("a", b"content")
        house.fetch("a")
        before = len(house.root.looks)
        for _ in range(40):
            house.clock.now_s += 0.1
            assert house.fetch("a")[0] == "hit"
            gevent.sleep(0)
        assert 4 <= len(house.root.looks) - before <= 12


def test_from_half_the_window_on_a_hit_looks_and_is_served_at_once(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        house.write("a", b"old")
        house.fetch("a")
        house.replace("a", b"new")
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_stat = lambda name: gate.wait()
        house.clock.now_s += 0.6
        assert [house.fetch("a") for _ in range(5)] == [("hit", b"old")] * 5
        wait_for(lambda: gate.waiting)
        assert gate.waiting == 1
        gate.open()
        wait_for(lambda: house.cache.stats().entries == 0)
        assert house.fetch("a") == ("miss", b"new")


def test_a_look_that_ended_makes_room_for_the_next(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        house.write("a", b"content")
        house.fetch("a")
        entry = house.cache.snapshot()[1][0]
        house.root.cold.add("a")
        for looks in (1, 2, 3):
            house.clock.now_s += 0.6
            assert house.fetch("a")[0] == "hit"
            wait_for(lambda: entry.meta.looked_s == house.clock.now_s)
            assert len(house.root.looks) == looks


def test_any_number_of_hits_during_a_slow_look_leave_one_greenlet_waiting(
    folder: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with House(folder, io=source) as house:
        house.write("a", b"content")
        house.fetch("a")
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_stat = lambda name: gate.wait()
        house.clock.now_s += 0.6
        spawned: list[object] = []
        spawn = gevent.spawn

        def counted(*work: Any) -> object:
            spawned.append(work)
            return spawn(*work)

        monkeypatch.setattr(gevent, "spawn", counted)
        assert [house.fetch("a")[0] for _ in range(100)] == ["hit"] * 100
        assert len(spawned) == 2  # the look, and who learns from it
        gate.open()


def test_a_look_ahead_that_fails_drops_nothing(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        house.write("a", b"content")
        house.fetch("a")
        house.root.cold.add("a")
        failed: list[str] = []

        def fail(name: str) -> None:
            failed.append(name)
            raise root.DiskFailure("EIO, said the test")

        house.root.before_stat = fail
        house.clock.now_s += 0.6
        assert house.fetch("a")[0] == "hit"
        wait_for(lambda: failed)
        wait_for(lambda: house.fetch("a") == ("hit", b"content") and len(failed) > 1)


def test_who_comes_when_the_window_has_passed_shares_the_look_that_began_within_it(
    folder: Path, source: str
) -> None:
    with House(folder, io=source) as house:
        house.write("a", b"content")
        house.fetch("a")
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_stat = lambda name: gate.wait()
        house.clock.now_s += 0.6
        house.fetch("a")
        wait_for(lambda: gate.waiting)
        house.clock.now_s += 0.5
        asking = gevent.spawn(house.fetch, "a")
        gevent.sleep(0)
        gate.open()
        assert asking.get() == ("hit", b"content")
        assert house.root.looks == ["a"]


@pytest.mark.parametrize("waits", [True, False])
def test_a_look_shows_nothing_later_than_its_beginning(folder: Path, source: str, waits: bool) -> None:
    """The disk answers at once and the answer is long on its way; meanwhile the file is replaced."""
    with House(folder, io=source) as house:
        house.write("a", b"old")
        house.fetch("a")
        house.root.cold.add("a")
        gate = Gate()
        house.root.stamps = lambda name, identity: (gate.wait(), identity)[1]  # type: ignore[func-returns-value]
        house.clock.now_s += 0.6
        assert house.fetch("a") == ("hit", b"old")
        wait_for(lambda: gate.waiting)
        house.replace("a", b"new")
        house.clock.now_s += 1.2
        entry = house.cache.find("a")
        assert entry is not None
        if waits:
            asking = gevent.spawn(house.fetch, "a")
            gevent.sleep(0)
            gate.open()
            assert asking.get() == ("miss", b"new")
        else:
            gate.open()
            wait_for(lambda: not entry.meta.looking)
            assert house.fetch("a") == ("miss", b"new")


def test_head_trusts_no_look_that_began_before_the_window(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        house.write("a", b"old")
        house.root.cold.add("a")
        gate = Gate()
        house.root.stamps = lambda name, identity: (gate.wait(), identity)[1]  # type: ignore[func-returns-value]
        early = gevent.spawn(house.store.describe, "a")
        wait_for(lambda: gate.waiting)
        house.replace("a", b"the new one")
        house.clock.now_s += 1.1
        late = gevent.spawn(house.store.describe, "a")
        gevent.sleep(0)
        gate.open()
        assert early.get().representation.identity.size == 3
        assert late.get().representation.identity.size == 11


def test_an_entry_that_goes_while_a_hit_looks_is_read_again(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        house.write("a", b"content")
        house.fetch("a")
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_stat = lambda name: gate.wait()
        house.clock.now_s += 1.1
        asking = gevent.spawn(house.fetch, "a")
        wait_for(lambda: gate.waiting)
        assert house.cache.discard(house.cache.snapshot()[1][0])
        gate.open()
        assert asking.get() == ("miss", b"content")
        assert house.cache.stats().misses == 2


def test_a_deleted_file_is_gone_after_the_window(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        house.write("a", b"content")
        house.fetch("a")
        (folder / "a").unlink()
        house.clock.now_s += 1.1
        with pytest.raises(root.NotFound):
            house.fetch("a")
        assert house.cache.stats().entries == 0


def test_a_look_that_fails_drops_nothing(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        house.write("a", b"content")
        house.fetch("a")
        house.root.cold.add("a")
        house.root.before_stat = house.fail("a")
        house.clock.now_s += 1.1
        with pytest.raises(root.DiskFailure):
            house.fetch("a")
        house.root.before_stat = lambda name: None
        assert house.fetch("a") == ("hit", b"content")


def test_a_file_with_young_stamps_is_believed_for_the_window_and_then_read_again(
    folder: Path, source: str
) -> None:
    with House(folder, io=source) as house:
        house.write("a", b"content")
        house.wall_ns = house.stamped_ns("a") + 1_900_000_000
        assert house.fetch("a")[0] == "miss"
        house.clock.now_s += 0.9
        assert house.fetch("a")[0] == "hit"
        house.clock.now_s += 0.2
        house.wall_ns += 200_000_000
        assert house.fetch("a")[0] == "miss"
        house.clock.now_s += 1.2
        assert house.fetch("a")[0] == "hit"


@pytest.mark.parametrize("stamp", ["mtime_ns", "ctime_ns"])
def test_one_young_stamp_of_the_two_is_enough(folder: Path, source: str, stamp: str) -> None:
    with House(folder, io=source) as house:
        house.write("a", b"content")
        young = {"mtime_ns": OLD_NS, "ctime_ns": OLD_NS, stamp: house.wall_ns - 1}
        house.root.stamps = lambda name, identity: identity._replace(**young)
        house.fetch("a")
        house.clock.now_s += 1.1
        assert house.fetch("a")[0] == "miss"


def test_a_deleted_file_with_young_stamps_is_gone_after_the_window(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        house.write("a", b"content")
        house.wall_ns = house.stamped_ns("a")
        house.fetch("a")
        (folder / "a").unlink()
        house.clock.now_s += 1.1
        with pytest.raises(root.NotFound):
            house.fetch("a")
        assert house.cache.stats().entries == 0


def test_a_file_with_young_stamps_is_not_stored_when_every_request_looks(folder: Path, source: str) -> None:
    with House(folder, io=source, revalidate_s=0) as house:
        for size in (5, 3 * CHUNK_BYTES):
            content = house.write("a", pattern(size))
            house.wall_ns = house.stamped_ns("a")
            assert house.fetch("a") == ("miss", content)
            assert house.cache.stats().entries == 0


def test_a_rewrite_during_a_fill_fails_it(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        house.write("a", pattern(3 * CHUNK_BYTES))

        def rewrite(name: str, offset: int) -> None:
            if offset == CHUNK_BYTES:
                house.write("a", pattern(3 * CHUNK_BYTES, 99), OLD_NS + 1000)

        house.root.after_read = rewrite
        with pytest.raises(root.Changed):
            house.fetch("a")
        assert house.cache.stats().entries == 0


def test_a_replacement_during_a_fill_leaves_the_running_answer_one_version(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        old = house.write("a", pattern(3 * CHUNK_BYTES))

        def replace(name: str, offset: int) -> None:
            if offset == 0:
                house.replace("a", pattern(2 * CHUNK_BYTES, 3))

        house.root.after_read = replace
        if source == "objects":  # nobody has the old one any more
            with pytest.raises(root.Changed):
                house.fetch("a")
        else:
            assert house.fetch("a") == ("miss", old)
        house.root.after_read = lambda name, offset: None
        house.clock.now_s += 1.1
        assert house.fetch("a") == ("miss", pattern(2 * CHUNK_BYTES, 3))


def test_who_comes_to_a_fill_of_a_version_that_was_replaced_gets_the_new_one_past_the_cache(
    folder: Path, source: str
) -> None:
    files_only(source, "a replaced object cannot be read on, and fails its fill")
    with House(folder, io=source) as house:
        old = house.write("a", pattern(3 * CHUNK_BYTES))
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_read = lambda name, offset: gate.wait() if offset == CHUNK_BYTES else None
        asking = gevent.spawn(house.fetch, "a")
        wait_for(lambda: gate.waiting)
        new = house.replace("a", b"new and short")
        joined = house.store.get("a")
        assert outcome(joined) == "coalesced"
        house.clock.now_s += 1.1
        assert house.fetch("a") == ("bypass changed", new)
        assert house.cache.stats().bypasses == 1
        gate.open()
        assert asking.get() == ("miss", old)
        assert read_body(joined) == old
        joined.close()


def test_a_fill_is_looked_at_once_a_window_however_many_join_it(folder: Path, source: str) -> None:
    with House(folder, io=source) as house:
        house.write("a", pattern(3 * CHUNK_BYTES))
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_read = lambda name, offset: gate.wait() if offset == CHUNK_BYTES else None
        bodies = [house.store.get("a")]
        for pass_s, looks in [(0.9, 0), (0.2, 1), (0.9, 1), (0.2, 2)]:
            house.clock.now_s += pass_s
            bodies.append(house.store.get("a"))
            assert len(house.root.looks) == looks
        gate.open()
        for body in bodies:
            body.close()


def test_the_version_of_a_fill_is_believed_from_its_open_on(folder: Path, source: str) -> None:
    files_only(source, "an object is opened and read by one request")
    with House(folder, io=source) as house:
        old = house.write("a", b"old")
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_read = lambda name, offset: gate.wait()
        asking = gevent.spawn(house.fetch, "a")
        wait_for(lambda: gate.waiting)
        new = house.replace("a", b"new")
        house.clock.now_s += 0.9
        gate.open()
        assert asking.get() == ("miss", old)
        house.clock.now_s += 0.2
        assert house.fetch("a") == ("miss", new)


@pytest.mark.parametrize("gone", [True, False])
def test_who_finds_that_a_refused_fill_is_another_version_gives_its_descriptor_back(
    folder: Path, source: str, gone: bool
) -> None:
    files_only(source, "a replaced object cannot be read on")
    with House(folder, io=source, capacity=CHUNK_BYTES) as house:
        old = house.write("a", pattern(2 * CHUNK_BYTES))
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_open = lambda name: gate.wait()
        first = gevent.spawn(house.fetch, "a")
        wait_for(lambda: gate.waiting)
        house.clock.now_s += 1.1
        late = gevent.spawn(house.fetch, "a")
        house.root.before_stat = (
            (lambda name: (folder / name).unlink()) if gone else (lambda name: house.replace(name, b"new"))  # type: ignore[assignment]
        )
        gevent.sleep(0)
        gate.open()
        assert first.get() == ("bypass too-large", old)
        late.join()
        assert late.value == (None if gone else ("bypass changed", b"new"))
        assert isinstance(late.exception, root.NotFound) == gone


def asked_in_every_way(house: House) -> list[Body]:
    """Too large, a miss, somebody else's, a version that came meanwhile, and that stored; the caller closes."""
    house.write("a", pattern(3 * CHUNK_BYTES))
    house.write("large", pattern(4 * CHUNK_BYTES + 1))
    house.root.cold.add("a")
    gate = Gate()
    house.root.before_read = lambda name, offset: gate.wait() if offset == CHUNK_BYTES else None
    bodies = [house.store.get(name) for name in ("large", "a", "a")]
    house.clock.now_s += 1.1
    house.replace("a", pattern(CHUNK_BYTES + 1))
    bodies.append(house.store.get("a"))
    gate.open()
    wait_for(lambda: not len(house.store.fills))
    bodies.append(house.store.get("a"))
    return bodies


def test_every_way_of_answering_has_the_configured_cache_control(folder: Path, source: str) -> None:
    with House(folder, io=source, capacity=4 * CHUNK_BYTES) as house:
        house.store = Store(house.disk, house.cache, cache_control="private", clock=house.clock)
        bodies = asked_in_every_way(house)
        assert [outcome(body) for body in bodies] == [
            "bypass too-large", "miss", "coalesced", "bypass changed", "miss",
        ]  # fmt: skip
        said = [body.representation for body in bodies] + [house.store.describe("large").representation]
        assert all(b"Cache-Control: private\r\n" in one.fields for one in said)
        for body in bodies:
            body.close()


def test_every_answer_is_noted_with_its_name_and_the_size_of_its_whole_file(folder: Path, source: str) -> None:
    with House(folder, io=source, capacity=4 * CHUNK_BYTES) as house:
        noted: Accesses = deque()
        house.cache._accesses = noted
        house.write("empty", b"")
        bodies = asked_in_every_way(house)
        wait_for(lambda: not len(house.store.fills))
        bodies += [house.store.get(name) for name in ("a", "empty")]
        assert [(outcome(body), access) for body, access in zip(bodies, noted, strict=True)] == [
            ("bypass too-large", ("large", 4 * CHUNK_BYTES + 1)),
            ("miss", ("a", 3 * CHUNK_BYTES)),
            ("coalesced", ("a", 3 * CHUNK_BYTES)),
            ("bypass changed", ("a", CHUNK_BYTES + 1)),
            ("miss", ("a", CHUNK_BYTES + 1)),
            ("hit", ("a", CHUNK_BYTES + 1)),
            ("miss", ("empty", 0)),
        ]
        for body in bodies:
            body.close()
        house.store.describe("a")
        assert len(noted) == 7


@pytest.mark.parametrize("name", ["missing", "sub", "sub/missing"])
def test_what_is_no_file_moves_no_counter(folder: Path, source: str, name: str) -> None:
    with House(folder, io=source) as house:
        house.write("sub/a", b"")
        with pytest.raises(root.FileError):
            house.fetch(name)
        stats = house.cache.stats()
        assert (stats.hits, stats.misses, stats.coalesced, stats.bypasses) == (0, 0, 0, 0)
