"""The load test's files: names that say what is in them, the folder made of them, and what users choose from."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import _catalog, _corpus
from loadtest._catalog import Catalog, File, discovered, file_of, in_folder, size_class
from loadtest._corpus import (
    LIVE,
    MIB,
    PERIOD,
    STAMPEDE,
    VERSION_BYTES,
    WRITTEN_AT,
    Corpus,
    content,
    live_content,
    parse_size,
    publish,
    published,
    size_of,
    version_of,
    write,
)
from tests.program import PROJECT, Program

KIB = 1 << 10
SMALL = Corpus(size=3 * MIB, files=80, capacity=2 * MIB)
"""Has all that the large one has; its largest file (2.5 MiB) is written in three pieces."""

NAME = "12/crème brûlée 0417.400000.seeded"
LIVE_NAME = "live/00.5000.seeded"


def naive(name: str, size: int) -> bytes:
    """The whole of a file, as the module's docstring has it."""
    base = hashlib.shake_128(name.encode()).digest(65_537)
    return (base * (size // len(base) + 1))[:size]


# Names


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("a.5.seeded", 5),
        ("empty.0.seeded", 0),
        ("live/00.5000.seeded", 5000),
        ("a.1.2.seeded", 2),
        ("deep/er/naïve café 00017.83886080.seeded", 83_886_080),
        ("a.seeded", None),
        ("a..seeded", None),
        ("a.-5.seeded", None),
        ("a.05.seeded", None),
        ("a.\u0665.seeded", None),
        ("5.seeded", None),
        ("a.5.seeded\n", None),
        ("a.5.seeded.gz", None),
        ("a.5.Seeded", None),
        ("a.5.seeded/b", None),
        ("a.5xseeded", None),
    ],
)
def test_a_name_says_its_size(name: str, size: int | None) -> None:
    assert size_of(name) == size


@pytest.mark.parametrize("corpus", [SMALL, Corpus(), Corpus(0, 0, 0)])
def test_every_name_of_a_corpus_is_another_and_says_its_size(corpus: Corpus) -> None:
    names = corpus.names()
    assert len(set(names)) == len(names)
    assert all(size_of(name) is not None for name in names)


def test_the_default_corpus_is_512_mib_in_4000_files() -> None:
    names = Corpus().names()
    assert len(names) == 4000
    assert sum(map(size_of_known, names)) == pytest.approx(512 * MIB, rel=0.02)


@pytest.mark.parametrize(("size", "files", "capacity"), [(128 * MIB, 800, 24 * MIB), (256 * MIB, 2000, 32 * MIB)])
def test_a_corpus_is_about_as_large_as_was_said(size: int, files: int, capacity: int) -> None:
    names = Corpus(size, files, capacity).names()
    assert len(names) == files
    assert sum(map(size_of_known, names)) == pytest.approx(size, rel=0.05)


def test_ordinary_files_have_sizes_from_100_bytes_to_8_mib_and_most_are_small() -> None:
    sizes = sorted(size_of_known(name) for name in Corpus().names() if re.match("[0-9a-f]{2}/", name))
    assert sizes[0] == 100
    assert MIB < sizes[-1] <= 8 * MIB
    assert sizes[len(sizes) // 2] < sum(sizes) / len(sizes) / 3, "not log-normal: the median is far below the mean"


def test_no_ordinary_file_is_larger_than_8_mib_though_there_be_few() -> None:
    few = Corpus(2048 * MIB, 200, MIB).names()
    assert max(size_of_known(name) for name in few if re.match("[0-9a-f]{2}/", name)) == 8 * MIB


def test_the_default_corpus_has_huge_files_that_fit_the_cache_and_one_that_does_not() -> None:
    large = [size_of_known(name) for name in Corpus().names() if name.startswith("large/")]
    assert large == [20 * MIB, 28 * MIB, 36 * MIB, 48 * MIB, 60 * MIB, 80 * MIB]
    assert [size for size in map(size_of_known, Corpus().names()) if size > 64 * MIB] == [80 * MIB]


@pytest.mark.parametrize("capacity", [MIB, 24 * MIB, 64 * MIB])
def test_one_file_is_larger_than_the_cache_whatever_that_is(capacity: int) -> None:
    sizes = [size_of_known(name) for name in Corpus(MIB, 40, capacity).names() if name.startswith("large/")]
    assert [size > capacity for size in sizes] == [False] * 5 + [True]


def test_the_default_corpus_has_an_empty_file_and_names_that_need_care() -> None:
    names = Corpus().names()
    assert [name for name in names if size_of(name) == 0] == ["empty.0.seeded"]
    assert {name.count("/") for name in names} == {0, 1, 2, 3}
    for needed in (" ", "é", "日本語", "%", "+", "&", "=", ";", "#", "?", "'", "ß"):
        assert any(needed in name for name in names), needed
    assert not any(part.startswith(".") for name in names for part in name.split("/"))


def test_the_default_corpus_has_files_for_publishers_and_stampedes() -> None:
    names = Corpus().names()
    live = [size_of_known(name) for name in names if name.startswith(LIVE)]
    stampede = [size_of_known(name) for name in names if name.startswith(STAMPEDE)]
    assert len(live) == 16
    assert all(1000 <= size < 40_000 for size in live)
    assert len(stampede) == 40
    assert all(MIB // 4 <= size < MIB for size in stampede)


def test_a_small_corpus_has_enough_files_for_stampedes() -> None:
    assert sum(name.startswith(STAMPEDE) for name in SMALL.names()) == 8


def test_other_numbers_make_another_corpus() -> None:
    corpora = [Corpus(MIB, 80, MIB), Corpus(2 * MIB, 80, MIB), Corpus(MIB, 81, MIB), Corpus(MIB, 80, 2 * MIB)]
    stampedes = {tuple(name for name in corpus.names() if name.startswith(STAMPEDE)) for corpus in corpora}
    assert len(stampedes) == 4


def size_of_known(name: str) -> int:
    """The size, of a name that has one."""
    size = size_of(name)
    assert size is not None
    return size


SAME = """
import hashlib
from loadtest import _catalog, _corpus
corpus = _corpus.Corpus(3 << 20, 80, 2 << 20)
names = corpus.names()
catalog = _catalog.Catalog({_catalog.file_of(name, 0) for name in names})
said = [*names, *(file.name for file in catalog.ranked), repr(_corpus.content(names[0], 0, 500))]
print(hashlib.sha256("\\n".join(said).encode()).hexdigest())
"""


def test_names_content_and_ranks_are_the_same_in_every_process() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", SAME],
            capture_output=True,
            check=True,
            timeout=50,
            cwd=PROJECT,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert said.pop().strip()


# Content


@given(start=st.integers(0, 400_000), length=st.integers(0, 3 * PERIOD))
def test_any_range_is_that_slice_of_the_whole(start: int, length: int) -> None:
    whole = naive(NAME, 400_000)
    assert content(NAME, start, min(start + length, 400_000)) == whole[start : start + length]


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 0),
        (5, 5),
        (0, 1),
        (PERIOD - 1, PERIOD),
        (PERIOD, PERIOD + 1),
        (PERIOD - 1, PERIOD + 1),
        (0, PERIOD),
        (1, PERIOD + 1),
        (0, PERIOD + 1),
        (0, 2 * PERIOD),
        (PERIOD // 2, 3 * PERIOD + 7),
        (0, 400_000),
    ],
)
def test_ranges_at_the_edges_of_a_period_are_exact(start: int, stop: int) -> None:
    assert content(NAME, start, stop) == naive(NAME, 400_000)[start:stop]


def test_another_name_is_other_content() -> None:
    names = Corpus().names()[:200]
    assert len({content(name, 0, 100) for name in names}) == 200


@pytest.mark.parametrize("power", range(3, 21))
def test_a_chunk_of_a_power_of_two_in_the_place_of_another_has_other_bytes(power: int) -> None:
    """Servers read in such chunks: a mixed-up one must show. It would not, if the period were such a power too."""
    size = 1 << power
    chunks = [content(NAME, at * size, (at + 1) * size) for at in range(64)]
    assert len(set(chunks)) == 64


@given(version=st.integers(1, 10**19 - 1))
def test_a_live_file_begins_with_its_version_and_has_the_size_of_its_name(version: int) -> None:
    body = live_content(LIVE_NAME, version)
    assert len(body) == 5000
    assert body[:VERSION_BYTES] == f"{version:019}\n".encode()
    assert version_of(body) == version
    assert body[VERSION_BYTES:] == naive(f"{LIVE_NAME}\n{version}", 5000)[VERSION_BYTES:]


def test_each_version_of_a_live_file_has_other_content_all_over() -> None:
    tails = {live_content(LIVE_NAME, version)[at : at + 20] for version in range(50) for at in (20, 2500, 4980)}
    assert len(tails) == 150


@pytest.mark.parametrize(
    ("body", "version"),
    [
        (b"0000000000000000001\n", 1),
        (b"0000000000000000000\n", 0),
        (b"9999999999999999999\nrest", 10**19 - 1),
        (b"0000000000000000042\n\n", 42),
        (b"", None),
        (b"0000000000000000001", None),
        (b"000000000000000001\n", None),
        (b"000000000000000001\n\n", None),
        (b"00000000000000000001\n", None),
        (b"-000000000000000001\n", None),
        (b" 000000000000000001\n", None),
        (b"0000000000000000_01\n", None),
        (b"<!doctype html><html>", None),
    ],
)
def test_a_version_is_19_digits_and_a_line_feed(body: bytes, version: int | None) -> None:
    assert version_of(body) == version


# The folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SMALL, written; nobody changes it."""
    directory = tmp_path_factory.mktemp("corpus")
    write(directory, SMALL)
    return directory


def below(directory: Path) -> dict[str, Path]:
    """Every file, hidden or not, by its name."""
    return {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}


def test_the_folder_has_exactly_the_files_of_the_corpus(corpus: Path) -> None:
    assert below(corpus).keys() == set(SMALL.names())


def test_every_file_is_what_its_name_says(corpus: Path) -> None:
    assert max(map(size_of_known, SMALL.names())) > 2 * 16 * PERIOD, "no file is written in three pieces"
    for name, path in below(corpus).items():
        body = path.read_bytes()
        assert len(body) == size_of(name)
        assert body == (live_content(name, 1) if name.startswith("live/") else naive(name, len(body))), name


def test_files_that_never_change_are_old_and_live_ones_are_not(corpus: Path) -> None:
    """A server need not take an old file for one that is being written."""
    assert WRITTEN_AT == 1_767_225_600
    stamps = {name: path.stat().st_mtime for name, path in below(corpus).items()}
    assert all((stamp == WRITTEN_AT) != name.startswith(LIVE) for name, stamp in stamps.items())


def test_write_says_how_many_bytes_it_wrote_and_may_write_again(tmp_path: Path) -> None:
    """The folder need not be there; what is a corpus already is written anew, whatever became of it."""
    tiny = Corpus(20_000, 1, 64)
    directory = tmp_path / "not" / "there"
    total = write(directory, tiny)
    assert total == sum(map(size_of_known, tiny.names()))
    spoilt = directory / tiny.names()[0]
    spoilt.write_bytes(b"spoilt" * 10_000)
    publish(directory, next(name for name in tiny.names() if name.startswith(LIVE)))
    assert write(directory, tiny) == total
    assert all(path.stat().st_size == size_of(name) for name, path in below(directory).items())
    assert spoilt.stat().st_mtime == WRITTEN_AT


@pytest.mark.parametrize(
    "other", ["notes.txt", ".git", "012", "0g", "AB", "live2", "empty.0.seeded.bak", "large "]
)
@pytest.mark.parametrize("is_folder", [True, False])
def test_a_folder_with_other_things_is_refused_and_left_alone(
    tmp_path: Path, other: str, *, is_folder: bool
) -> None:
    path = tmp_path / other
    if is_folder:
        path.mkdir()
        path /= "mine.txt"
    path.write_text("mine")
    other = path.relative_to(tmp_path).as_posix()
    with pytest.raises(FileExistsError, match=re.escape(f"{tmp_path} holds other files ({other})")):
        write(tmp_path, Corpus(1000, 1, 64))
    assert below(tmp_path).keys() == {other}


def test_a_corpus_of_other_numbers_is_refused(tmp_path: Path) -> None:
    """Its files would stay, and be found."""
    write(tmp_path, Corpus(20_000, 1, 64))
    with pytest.raises(FileExistsError, match="holds other files"):
        write(tmp_path, Corpus(30_000, 2, 64))


# Live files


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """A folder with one live file, version 1."""
    path = tmp_path / LIVE_NAME
    path.parent.mkdir()
    path.write_bytes(live_content(LIVE_NAME, 1))
    return tmp_path


def test_versions_go_up_by_one_and_the_file_is_whole_each_time(live: Path) -> None:
    assert published(live, LIVE_NAME).version == 1
    for version in range(2, 20):
        assert publish(live, LIVE_NAME) == version
        assert published(live, LIVE_NAME).version == version
        assert (live / LIVE_NAME).read_bytes() == live_content(LIVE_NAME, version)


def test_a_new_version_is_renamed_into_place(live: Path) -> None:
    """Who has the old one open reads the whole of the old one, and nothing is left beside the new one."""
    with (live / LIVE_NAME).open("rb") as old:
        publish(live, LIVE_NAME)
        assert old.read() == live_content(LIVE_NAME, 1)
        assert os.fstat(old.fileno()).st_ino != (live / LIVE_NAME).stat().st_ino
    assert below(live).keys() == {LIVE_NAME}


def test_a_version_that_cannot_be_written_leaves_the_old_one(live: Path) -> None:
    (live / "live" / ".00.5000.seeded").mkdir()
    with pytest.raises(IsADirectoryError):
        publish(live, LIVE_NAME)
    assert (live / LIVE_NAME).read_bytes() == live_content(LIVE_NAME, 1)


def test_what_a_killed_publisher_left_is_hidden_and_is_in_nobodys_way(live: Path) -> None:
    (live / "live" / ".00.5000.seeded").write_bytes(b"half a ver")
    assert [file.name for file in in_folder(live)] == [LIVE_NAME]
    assert publish(live, LIVE_NAME) == 2
    assert (live / LIVE_NAME).read_bytes() == live_content(LIVE_NAME, 2)


def test_a_live_file_without_a_version_becomes_version_one(live: Path) -> None:
    (live / LIVE_NAME).write_bytes(b"no number")
    assert published(live, LIVE_NAME).version == 0
    assert publish(live, LIVE_NAME) == 1


def test_a_version_came_when_its_inode_changed_not_when_it_was_written(live: Path) -> None:
    os.utime(live / LIVE_NAME, (1, 1))
    assert published(live, LIVE_NAME).at_s == (live / LIVE_NAME).stat().st_ctime > 1


@pytest.mark.parametrize("act", [publish, published])
def test_what_is_not_there_is_neither_published_nor_looked_at(live: Path, act: Any) -> None:
    with pytest.raises(FileNotFoundError):
        act(live, "live/01.5000.seeded")
    assert below(live).keys() == {LIVE_NAME}


# The command


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("10B", 10),
        ("1K", 1 << 10),
        ("1k", 1 << 10),
        ("1KB", 1 << 10),
        ("100KiB", 100 << 10),
        ("64MiB", 64 << 20),
        ("64mib", 64 << 20),
        ("64 MiB", 64 << 20),
        ("  64MiB\n", 64 << 20),
        ("24M", 24 << 20),
        ("1GiB", 1 << 30),
        ("2G", 2 << 30),
        ("007", 7),
    ],
)
def test_a_size_is_a_number_with_or_without_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "MiB",
        "lots",
        "-1",
        "+1",
        "1.5MiB",
        "1,000",
        "1e6",
        "0x10",
        "1TiB",
        "1iB",
        "1MiBs",
        "1 2",
        "\u0664KiB",
        "1\u212a",
        "1M\u0131",
    ],
)
def test_what_is_no_size_is_a_value_error_that_shows_it(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_size(text)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the module to its end."""
    return subprocess.run(
        [sys.executable, "-m", "loadtest._corpus", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=PROJECT,
        check=False,
    )


def test_the_command_makes_the_corpus_that_was_asked_for(tmp_path: Path) -> None:
    directory = tmp_path / "corpus"
    done = command(str(directory), "--size", "1MiB", "--files", "60", "--capacity", "100KiB")
    expected = Corpus(MIB, 60, 100 << 10).names()
    total = sum(map(size_of_known, expected))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{directory}: 60 files, {total / MIB:.0f} MiB\n"
    assert below(directory).keys() == set(expected)


def test_the_command_makes_the_default_corpus_if_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def written(directory: Path, corpus: Corpus) -> int:
        asked.append((directory, corpus))
        return 512 * MIB

    monkeypatch.setattr(_corpus, "write", written)
    monkeypatch.setattr(sys, "argv", ["_corpus", "somewhere"])
    _corpus.main()
    assert asked == [(Path("somewhere"), Corpus(512 * MIB, 4000, 64 * MIB))]
    assert capsys.readouterr().out == "somewhere: 4,000 files, 512 MiB\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "DIR"),
        (["--size", "lots"], "--size"),
        (["--capacity", "1.5MiB"], "--capacity"),
        (["--files", "many"], "--files"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_makes_nothing(tmp_path: Path, arguments: list[str], says: str) -> None:
    directory = tmp_path / "corpus"
    done = command(*([str(directory), *arguments] if arguments else []))
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1]
    assert not directory.exists()


def test_a_folder_that_cannot_be_used_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    refused = command(str(tmp_path))
    assert refused.returncode == 1
    assert refused.stderr == f"corpus: {tmp_path} holds other files (mine.txt); a corpus wants an empty folder\n"
    no_folder = command(str(tmp_path / "mine.txt"))
    assert no_folder.returncode == 1
    assert no_folder.stderr.startswith("corpus: ")
    assert len(no_folder.stderr.splitlines()) == 1


# The catalog


def test_a_seeded_file_has_the_size_of_its_name_and_others_what_the_listing_says() -> None:
    assert file_of("a.5.seeded", 7) == File("a.5.seeded", 5, seeded=True)
    assert file_of("empty.0.seeded", 7) == File("empty.0.seeded", 0, seeded=True)
    assert file_of("a.txt", 7) == File("a.txt", 7, seeded=False)


@pytest.mark.parametrize("name", [*SMALL.names()[:64:3], "a?b#c%41.txt", "..a", "a\\b", "~"])
def test_a_path_is_the_name_in_characters_that_a_request_may_have(name: str) -> None:
    path = file_of(name, 0).path
    assert re.fullmatch(r"/[A-Za-z0-9._~/%-]+", path)
    assert unquote(path, errors="strict") == "/" + name


@pytest.mark.parametrize(
    ("name", "live"),
    [
        ("live/00.50.seeded", True),
        ("live/notes.txt", False),
        ("a/live/00.50.seeded", False),
        ("live.5.seeded", False),
    ],
)
def test_only_a_corpus_has_live_files(name: str, live: bool) -> None:
    assert file_of(name, 50).live is live


@pytest.mark.parametrize(
    ("size", "word"),
    [
        (0, "small"),
        (64 * KIB, "small"),
        (64 * KIB + 1, "medium"),
        (MIB, "medium"),
        (MIB + 1, "large"),
        (16 * MIB - 1, "large"),
        (16 * MIB, "huge"),
        (80 * MIB, "huge"),
    ],
)
def test_size_classes_have_exact_bounds(size: int, word: str) -> None:
    assert size_class(size) == word


def plain(*sizes: int) -> list[File]:
    """Files that are nothing special."""
    return [File(f"{i:03}", size, seeded=False) for i, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def default() -> Catalog:
    """The default corpus, by names alone."""
    return Catalog(file_of(name, 0) for name in Corpus().names())


class Chosen(random.Random):
    """Chance that always comes to the same."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def random(self) -> float:
        return self.value


def test_the_first_ranks_are_asked_for_more_often_as_zipf_has_it() -> None:
    """Evenly spread chances fall on each rank in proportion to 1/rank**0.9."""
    catalog = Catalog(plain(*range(40)))
    steps = 20_000
    drawn = Counter(catalog.popular(Chosen(i / steps)).name for i in range(steps))
    counts = [drawn[file.name] for file in catalog.ranked]
    total = sum(1 / rank**0.9 for rank in range(1, 41))
    assert counts == pytest.approx([steps / rank**0.9 / total for rank in range(1, 41)], abs=1.01)
    assert counts == sorted(counts, reverse=True)


def test_no_chance_falls_beside_the_files(default: Catalog) -> None:
    for catalog in (default, Catalog(plain(5)), Catalog(plain(*range(1000)))):
        assert catalog.popular(Chosen(0.0)) is catalog.ranked[0]
        assert catalog.popular(Chosen(1 - 2**-53)) is catalog.ranked[-1]


def test_ranks_do_not_depend_on_the_order_of_discovery_and_are_not_alphabetical() -> None:
    files = plain(*range(100))
    mixed = random.Random(5).sample(files, 100)
    assert Catalog(mixed).ranked == Catalog(files).ranked
    assert Catalog(mixed).everything == files
    assert Catalog(files).ranked != files
    assert sorted(Catalog(files).ranked, key=lambda file: file.name) == files


def test_stampede_files_are_nobody_elses(default: Catalog) -> None:
    names = {file.name for file in default.for_stampedes}
    assert names == {name for name in Corpus().names() if name.startswith(STAMPEDE)}
    others = {
        file.name for group in (default.everything, default.ranked, default.huge, default.live) for file in group
    }
    assert not others & names
    assert others | names == default.by_name.keys() == set(Corpus().names())
    worst = default.worst_for_relocate(64 * MIB)
    assert worst is not None
    assert not {file.name for file in worst[1]} & names


def test_a_folder_that_happens_to_be_called_stampede_is_like_any_other() -> None:
    catalog = Catalog([File("stampede/a.txt", 5, seeded=False)])
    assert catalog.for_stampedes == []
    assert catalog.ranked == catalog.everything == [File("stampede/a.txt", 5, seeded=False)]


def test_live_files_are_among_everything(default: Catalog) -> None:
    assert [file.name for file in default.live] == sorted(
        name for name in Corpus().names() if name.startswith(LIVE)
    )
    assert set(default.live) < set(default.everything)


def test_huge_files_have_16_mib_or_more(default: Catalog) -> None:
    assert [file.size // MIB for file in default.huge] == [20, 28, 36, 48, 60, 80]
    catalog = Catalog(plain(16 * MIB - 1, 16 * MIB))
    assert [file.size for file in catalog.huge] == [16 * MIB]
    assert all(size_class(file.size) == "huge" for file in default.huge)


def test_the_worst_for_relocate_is_the_largest_that_fits_and_newcomers_in_ascending_order(
    default: Catalog,
) -> None:
    worst = default.worst_for_relocate(64 * MIB)
    assert worst is not None
    hot, newcomers = worst
    assert hot.name == "large/4.62914560.seeded"
    sizes = [file.size for file in newcomers]
    assert sizes == sorted(sizes)
    assert 0 < sizes[0] <= sizes[-1] <= hot.size // 8
    assert not any(file.live for file in newcomers)
    assert len(sizes) == sum(0 < file.size <= hot.size // 8 and not file.live for file in default.everything)


@pytest.mark.parametrize(
    ("sizes", "capacity", "expected"),
    [
        ((80, 10, 1), 80, (80, [1, 10])),
        ((81, 80, 11, 10), 80, (80, [10])),
        ((80, 10, 0), 80, (80, [10])),
        ((), 80, None),
        ((80,), 80, None),
        ((81, 5), 80, None),
        ((80, 0), 80, None),
        ((80, 70, 11), 80, None),
        ((80, 80), 80, None),
        ((7, 1), 80, None),
    ],
)
def test_the_worst_for_relocate_has_exact_bounds_and_needs_two_files(
    sizes: tuple[int, ...], capacity: int, expected: tuple[int, list[int]] | None
) -> None:
    worst = Catalog(plain(*sizes)).worst_for_relocate(capacity)
    found = (worst[0].size, [file.size for file in worst[1]]) if worst else None
    assert found == expected


def test_a_live_file_is_not_the_hot_one() -> None:
    catalog = Catalog([File("live/0.90.seeded", 90, seeded=True), *plain(80, 10)])
    assert catalog.worst_for_relocate(100) == (catalog.by_name["000"], [catalog.by_name["001"]])


# What is found


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Files that are served, and some that are not."""
    for name in (
        "a.txt",
        "live/00.50.seeded",
        "sub folder/ä.5.seeded",
        "sub folder/deep/100%.bin",
        "sub folder/-/x",
        "e.0.seeded",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (size_of(name) or len(name) - 1))
    for hidden in (".hidden", ".git/config", "sub folder/.aside.5.seeded", "live/.cache/a.5.seeded"):
        path = tmp_path / hidden
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"hidden")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def test_what_is_in_a_folder_is_regular_files_that_are_not_hidden(mixed: Path) -> None:
    assert sorted(in_folder(mixed), key=lambda file: file.name) == [
        File("a.txt", 4, seeded=False),
        File("e.0.seeded", 0, seeded=True),
        File("live/00.50.seeded", 50, seeded=True),
        File("sub folder/-/x", 13, seeded=False),
        File("sub folder/deep/100%.bin", 23, seeded=False),
        File("sub folder/ä.5.seeded", 5, seeded=True),
    ]


def test_a_server_lists_what_is_in_its_folder(mixed: Path) -> None:
    with Program(mixed) as server:

        def ask(path: str) -> dict[str, Any] | None:
            status, fields, body = server.get(path, Accept="application/json")
            assert (status, fields["content-type"]) == (200, "application/json")
            listing: dict[str, Any] = json.loads(body)
            return listing

        assert set(discovered(ask)) == set(in_folder(mixed))


def test_a_corpus_is_found_as_it_was_made(corpus: Path) -> None:
    assert sorted(file.name for file in in_folder(corpus)) == sorted(SMALL.names())


def listing(*folders: str, **files: int) -> dict[str, Any]:
    """A folder's entries as the server has them."""
    return {
        "entries": [
            *({"name": name, "type": "folder"} for name in folders),
            *({"name": name, "type": "file", "size": size} for name, size in files.items()),
        ]
    }


def test_folders_are_asked_for_by_their_quoted_paths_and_each_once() -> None:
    tree = {
        "/": listing("a b", "ü", x=1),
        "/a%20b/": listing("c?", y=2),
        "/a%20b/c%3F/": listing(z=3),
        "/%C3%BC/": listing(),
    }
    asked = []

    def ask(path: str) -> dict[str, Any]:
        asked.append(path)
        return tree[path]

    assert {(file.name, file.size) for file in discovered(ask)} == {("x", 1), ("a b/y", 2), ("a b/c?/z", 3)}
    assert sorted(asked) == sorted(tree)


def test_a_folder_without_a_listing_hides_only_what_is_below_it() -> None:
    tree = {"/": listing("index", "more", x=1), "/index/": None, "/more/": listing(y=2)}
    assert {file.name for file in discovered(tree.__getitem__)} == {"x", "more/y"}
    assert list(discovered(lambda _: None)) == []
    assert list(discovered(lambda _: {})) == []


@pytest.mark.parametrize(("most", "asked"), [(6, 2), (5, 2), (4, 2), (3, 1), (2, 1), (1, 1)])
def test_an_endless_tree_is_left_alone_beyond_the_bound(
    monkeypatch: pytest.MonkeyPatch, most: int, asked: int
) -> None:
    monkeypatch.setattr(_catalog, "FILES_MAX", most)
    asking = endless()
    assert len(list(discovered(lambda _: next(asking)))) == most
    assert next(asking)["asked"] == asked


def endless() -> Iterator[dict[str, Any]]:
    """A folder in a folder in a folder, each with three files; and how many came before."""
    asked = 0
    while True:
        yield {"asked": asked, **listing("deeper", a=1, b=2, c=3)}
        asked += 1


def test_an_endless_tree_without_files_is_left_alone_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_catalog, "FOLDERS_MAX", 100)
    asked = []

    def ask(path: str) -> dict[str, Any]:
        asked.append(path)
        return listing("a", "b")

    assert list(discovered(ask)) == []
    assert len(asked) == 100


def test_the_bound_of_discovery_is_100000_files() -> None:
    assert _catalog.FILES_MAX == 100_000
