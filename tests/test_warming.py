"""`--warm-from` and `--save-list`: what was cached is cached again, in the same order, and at nobody's expense."""

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gevent
import pytest

from fileserver import warming
from fileserver.warming import RESTORED_AT_ONCE, check_saving, read_list, save_list
from lrucache import CHUNK_BYTES, MAX_ENTRIES, POLICIES
from tests.house import Gate, House, outcome, pattern, read_body, wait_for
from tests.program import PROJECT, Program, sparse

Start = Callable[..., Program]


def names(house: House) -> list[str]:
    """LIST: most recently used first."""
    return [entry.name for entry in house.cache.snapshot()[1]]


def restore(house: House, listed: list[str], caplog: pytest.LogCaptureFixture) -> str:
    """Restore all of it; what was logged."""
    caplog.set_level(logging.INFO)
    house.site.warming.restore(listed, "LIST")
    wait_for(lambda: caplog.messages)
    assert len(caplog.messages) == 1
    return caplog.messages[0]


# In the house.


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_what_was_listed_is_cached_in_its_order(
    folder: Path, io: str, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    with House(folder, io=io, policy=policy) as house:
        listed = [f"f{at}" for at in range(3 * RESTORED_AT_ONCE + 1)]
        for at, name in enumerate(listed):
            house.write(name, pattern((at % 3) * CHUNK_BYTES + at))
        said = restore(house, listed, caplog)
        assert re.fullmatch(r"warmed from LIST: 13 files, 3 MiB, in \d+\.\d s, 0 skipped", said), said
        assert names(house) == listed
        stats = house.cache.stats()
        assert (stats.answers, stats.evictions, house.site.traffic.file_answers) == (0, 0, 0)
        assert len(house.root.reads) == len(set(house.root.reads)), "one read of each"
        assert all(house.fetch(name)[0] == "hit" for name in listed)


def test_the_order_is_kept_although_some_take_longer(
    folder: Path, io: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The first to be read is the last to come."""
    with House(folder, io=io) as house:
        listed = ["newest", "new", "old", "oldest"]
        for name in listed:
            house.write(name, pattern(10))
        house.root.cold.add("oldest")
        gate = Gate()
        house.root.before_open = lambda name: gate.wait() if name == "oldest" else None
        house.site.warming.restore(listed, "LIST")
        wait_for(lambda: gate.waiting and len(house.root.reads) == 3)
        assert names(house) == []
        asking = gevent.spawn(house.fetch, "new")  # who asks meanwhile does not wait for the turn
        assert asking.get(timeout=20)[0] == "coalesced"
        gate.open()
        wait_for(lambda: len(names(house)) == 4)
        assert names(house) == listed


def test_one_that_fails_keeps_no_other_waiting(folder: Path, io: str, caplog: pytest.LogCaptureFixture) -> None:
    with House(folder, io=io) as house:
        for name in ("a", "bad", "c"):
            house.write(name, pattern(2 * CHUNK_BYTES))
        house.root.cold |= {"bad", "c"}
        gate = Gate()
        house.root.before_read = lambda name, offset: gate.wait() if name == "c" else house.fail("bad")(name)
        caplog.set_level(logging.INFO)
        house.site.warming.restore(["a", "bad", "c"], "LIST")
        wait_for(lambda: gate.waiting and ("a", CHUNK_BYTES) in house.root.reads)
        wait_for(lambda: not house.store.is_known("bad"))
        assert names(house) == [], "the failure of the one between is not the end of the first one"
        gate.open()
        wait_for(lambda: caplog.messages)
        said = caplog.messages[0]
        assert "2 files, 1 MiB" in said
        assert said.endswith(" 1 skipped")
        assert names(house) == ["a", "c"]


def test_as_many_as_fit_are_taken_from_the_top(folder: Path, io: str, caplog: pytest.LogCaptureFixture) -> None:
    with House(folder, io=io, capacity=100) as house:
        for name, size in (("a", 40), ("large", 101), ("b", 30), ("c", 31), ("d", 30), ("e", 1)):
            house.write(name, pattern(size))
        said = restore(house, ["a", "large", "b", "c", "d", "e"], caplog)
        assert names(house) == ["a", "b", "d"]
        assert said.startswith("warmed from LIST: 3 files, 100 B, in ")
        assert said.endswith(" 3 skipped")
        assert house.root.reads == [(name, 0) for name in "dba"], "nothing else was read"


def test_files_that_fill_the_cache_are_not_refused_for_coming_together(
    folder: Path, io: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The cache takes newcomers for half of it at a time, or one alone."""
    with House(folder, io=io, capacity=10 * CHUNK_BYTES) as house:
        for name, chunks in (("a", 3), ("b", 3), ("c", 1), ("d", 3)):
            house.write(name, pattern(chunks * CHUNK_BYTES))
        restore(house, ["a", "b", "c", "d"], caplog)
        assert names(house) == ["a", "b", "c", "d"]


def test_names_that_are_none_are_skipped_and_counted(
    folder: Path, io: str, caplog: pytest.LogCaptureFixture
) -> None:
    with House(folder, io=io) as house:
        house.write("a", pattern(10))
        house.write(".hidden", pattern(10))
        house.write("-/stats", pattern(10))
        (folder / "sub").mkdir()
        listed = ["gone", ".hidden", "-/stats", "sub", "../a", "/a", "a\0", "a"]
        assert restore(house, listed, caplog).endswith(" 7 skipped")
        assert names(house) == ["a"]
        assert set(house.root.looks) == {"gone", "sub", "a"}


def test_nothing_is_evicted_for_what_was_listed(folder: Path, io: str, caplog: pytest.LogCaptureFixture) -> None:
    with House(folder, io=io, capacity=100) as house:
        for name, size in (("hot", 90), ("a", 20), ("b", 10)):
            house.write(name, pattern(size))
        house.fetch("hot")
        assert restore(house, ["a", "b"], caplog).endswith(" 1 skipped")
        assert names(house) == ["b", "hot"]
        assert house.cache.stats().evictions == 0


@pytest.mark.parametrize("is_asked", [False, True])
def test_room_that_was_taken_meanwhile_is_taken_back_only_for_who_asks(
    folder: Path, io: str, caplog: pytest.LogCaptureFixture, is_asked: bool
) -> None:
    with House(folder, io=io, capacity=100) as house:
        for name, size in (("hot", 90), ("a", 20)):
            house.write(name, pattern(size))
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_open = lambda name: gate.wait() if name == "a" else None
        caplog.set_level(logging.INFO)
        house.site.warming.restore(["a"], "LIST")
        wait_for(lambda: gate.waiting)
        assert house.fetch("hot")[0] == "miss"
        asking = gevent.spawn(house.fetch, "a") if is_asked else None
        gevent.sleep(0)
        gate.open()
        wait_for(lambda: caplog.messages)
        assert names(house) == (["a"] if is_asked else ["hot"])
        if asking is not None:
            assert asking.get()[0] == "coalesced"


def test_who_asks_shares_the_read(folder: Path, io: str, caplog: pytest.LogCaptureFixture) -> None:
    with House(folder, io=io) as house:
        content = house.write("a", pattern(3 * CHUNK_BYTES))
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_read = lambda name, offset: gate.wait() if offset else None
        house.site.warming.restore(["a"], "LIST")
        wait_for(lambda: gate.waiting)
        body = house.store.get("a")
        gate.open()
        assert (outcome(body), read_body(body)) == ("coalesced", content)
        body.close()
        assert len(house.root.reads) == 3


def test_no_more_than_a_few_are_read_at_a_time(folder: Path, io: str, caplog: pytest.LogCaptureFixture) -> None:
    with House(folder, io=io, threads=4 * RESTORED_AT_ONCE) as house:
        listed = [f"f{at}" for at in range(4 * RESTORED_AT_ONCE)]
        for name in listed:
            house.write(name, pattern(10))
            house.root.cold.add(name)
        gate = Gate()
        house.root.before_open = lambda name: gate.wait()
        caplog.set_level(logging.INFO)
        house.site.warming.restore(listed, "LIST")
        wait_for(lambda: gate.waiting == RESTORED_AT_ONCE)
        for _ in range(20):
            gevent.sleep(0.001)
        assert (gate.waiting, len(house.store.fills)) == (RESTORED_AT_ONCE, RESTORED_AT_ONCE)
        gate.open()
        wait_for(lambda: caplog.messages)
        assert names(house) == listed


def test_a_stop_begins_no_more_reads_and_keeps_what_was_still_to_be_read(
    folder: Path, io: str, caplog: pytest.LogCaptureFixture
) -> None:
    with House(folder, io=io) as house:
        listed = [f"f{at}" for at in range(3 * RESTORED_AT_ONCE)]
        for name in [*listed, "other"]:
            house.write(name, pattern(10))
            house.root.cold.add(name)
        gate = Gate()
        house.root.before_open = lambda name: gate.wait() if name != "other" else None
        caplog.set_level(logging.INFO)
        house.site.warming.restore(listed, "LIST")
        wait_for(lambda: gate.waiting == RESTORED_AT_ONCE)
        house.fetch("other")
        house.site.warming.stop()
        assert house.site.warming.names() == ["other", *listed]
        gate.open()
        wait_for(lambda: caplog.messages)
        assert names(house) == [*listed[-RESTORED_AT_ONCE:], "other"]
        assert house.site.warming.names() == [*names(house), *listed[:-RESTORED_AT_ONCE]]
        assert caplog.messages[0].startswith(f"stopped warming from LIST: {RESTORED_AT_ONCE} files, 40 B, in ")


def test_when_all_was_seen_to_only_what_is_cached_is_kept(
    folder: Path, io: str, caplog: pytest.LogCaptureFixture
) -> None:
    with House(folder, io=io) as house:
        house.write("a", b"content")
        restore(house, ["gone", "a"], caplog)
        assert house.site.warming.names() == ["a"]


# The file.


@pytest.mark.parametrize(
    ("content", "listed"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"a", ["a"]),
        (b"a\nb c\n\xc3\xa4\n", ["a", "b c", "ä"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\nb\na\n", ["a", "b"]),
        (b"\xff\na\n", ["a"]),
        ("a\u2028b\x85c\n".encode(), ["a\u2028b\x85c"]),
    ],
)
def test_a_list_is_names_one_a_line(tmp_path: Path, content: bytes, listed: list[str]) -> None:
    (tmp_path / "list").write_bytes(content)
    assert read_list(str(tmp_path / "list")) == listed


def test_a_list_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list").write_text("".join(f"{at}\n" for at in range(MAX_ENTRIES + 5)))
    assert len(read_list(str(tmp_path / "list"))) == MAX_ENTRIES
    monkeypatch.setattr(warming, "LIST_MAX_BYTES", 10)
    with pytest.raises(ValueError, match="more than 10 B of names"):
        read_list(str(tmp_path / "list"))


def test_what_is_saved_is_what_is_read_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "list"
    for listed in (["a", "b c", "ä", "x\u2028y"], [], ["z"]):
        save_list(str(path), listed)
        assert read_list(str(path)) == listed
        assert os.listdir(tmp_path) == ["list"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_list_that_cannot_be_saved_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list"
    save_list(str(path), ["old"])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_list(str(path), ["new"])
    assert read_list(str(path)) == ["old"]
    assert os.listdir(tmp_path) == ["list"]


def test_a_link_to_a_list_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "list").symlink_to("there/list")
    check_saving(str(tmp_path / "list"))
    save_list(str(tmp_path / "list"), ["a"])
    assert (tmp_path / "list").is_symlink()
    assert read_list(str(tmp_path / "there" / "list")) == ["a"]


# The program.


def test_a_restart_keeps_the_cache_warm(start: Start, folder: Path, tmp_path: Path) -> None:
    both = ("--cache", "1MiB", "--warm-from", str(tmp_path / "list"), "--save-list", str(tmp_path / "list"))
    for at in range(6):
        sparse(folder / f"f{at} ä", 200_000 + at)
    first = start(*both)
    for at in (0, 1, 2, 3, 4, 5, 3):
        first.get(f"/f{at}%20%C3%A4")
    held = first.names()
    assert held == ["f3 ä", "f5 ä", "f4 ä", "f2 ä", "f1 ä"]
    first.stop()
    assert (tmp_path / "list").read_text(encoding="utf-8").splitlines() == held
    second = start(*both)
    while second.stats()["entries"] < 5:
        pass
    assert second.names() == held
    assert second.get("/f1%20%C3%A4")[1]["x-cache"] == "HIT"
    assert re.search(r"warmed from .*list: 5 files, 977 KiB, in \d+\.\d s, 0 skipped\n", second.stop())


@pytest.mark.parametrize(
    ("option", "bad"),
    [(option, bad) for option in ("--warm-from", "--save-list") for bad in ("nowhere/list", ".")]
    + [("--warm-from", "missing")],
)
def test_a_list_that_cannot_be_had_is_one_line_and_exit_1(tmp_path: Path, option: str, bad: str) -> None:
    command = [sys.executable, str(PROJECT / "gserver.py"), "0", str(tmp_path), option, str(tmp_path / bad)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    what = "warm the cache from" if option == "--warm-from" else "save the list in"
    assert done.stderr.startswith(f"gserver: cannot {what} {tmp_path / bad}: ")


def test_a_list_that_cannot_be_saved_does_not_spoil_the_exit(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    with Program(folder, "--save-list", str(tmp_path / "place" / "list")) as server:
        shutil.rmtree(tmp_path / "place")
        assert "cannot save the list in " in server.stop()
        assert server.process.returncode == 0
