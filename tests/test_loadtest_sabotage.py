"""The load test must be able to fail: against servers that do one thing wrong it does, and names the right check.

Each run has only the users who can see it, and stops at the first check that breaks.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from pathlib import Path

import pytest

from loadtest import _checks as checks
from loadtest._corpus import MIB, Corpus, content, live_content, size_of, write
from tests import sabotage
from tests.program import PROJECT, Program

CAPACITY = "4MiB"
CORPUS = Corpus(size=24 * MIB, files=60, capacity=4 * MIB)
"""Six times what the cache may hold, and few files, so that each is looked at soon."""

SMALL = (
    *(f"00/{i}.100000.seeded" for i in range(9)),
    *(f"01/{i}.400000.seeded" for i in range(3)),
    *(f"stampede/{i}.400000.seeded" for i in range(9)),
)
"""They are sent at once: of a longer file the rest may honestly be read again. What readers want of them fits."""
LIVE = tuple(f"live/{i}.{1000 + i}.seeded" for i in range(3))
PLAIN = ("one.txt", "two.txt", "three.txt")
"""Files whose names say nothing of what is in them."""
HUGE = ("large/0.16777216.seeded",)
"""What a slow reader wants; larger than the cache."""

FOLDERS = {"small": SMALL, "live": LIVE, "plain": PLAIN, "huge": HUGE}

HAS_PROC = Path("/proc/self/io").exists()

YOUNG_S = 2.0
"""A file stamped less than this ago is believed a second, and then read again."""

SETTLE_S = 2
"""What a leak has to be seen within, instead of the ten seconds that a server far away may need."""

LOCUST = f"from loadtest import _watch; _watch.SETTLE_S = {SETTLE_S}; from locust.main import main; main()"

Users = dict[str, int]

READERS: Users = {"Reader": 4}
LISTERS: Users = {"Lister": 6}
READERS_AND_LISTERS: Users = {"Reader": 4, "Lister": 4}
RESUMERS: Users = {"Resumer": 4}
STAMPEDES: Users = {"Stampede": 1}
STRANGERS: Users = {"Stranger": 4}
ONE_LINERS: Users = {"OneLiner": 4}
PUBLISHER: Users = {"Publisher": 1}
SLOW_READER: Users = {"SlowReader": 1}


@dataclass(frozen=True)
class Case:
    """What is wrong, and which check finds that out: by these users, over these files (none: the whole corpus)."""

    breaks: Callable[[], None]
    check: str
    users: Users
    files: tuple[str, ...] = ()
    also: Set[str] = frozenset()
    """Other checks that are right to break."""
    options: tuple[str, ...] = ("--cache", CAPACITY)
    seconds: int = 8
    """At most; where the check is made at the end, exactly."""
    pid: bool = False


CASES = (
    Case(sabotage.holds_a_file_too_many, checks.BUDGET, READERS, options=("--cache", CAPACITY, "--policy", "lru")),
    Case(sabotage.makes_room_too_late, checks.PEAK, READERS, also={checks.BUDGET}),
    Case(sabotage.says_it_peaked, checks.PEAK, READERS),
    Case(sabotage.says_it_broke_its_word, checks.VIOLATIONS, READERS),
    Case(sabotage.tells_half_of_every_size, checks.FITS, READERS_AND_LISTERS),
    Case(sabotage.says_it_holds_less, checks.SUM, READERS),
    Case(sabotage.forgets_to_subtract, checks.SUM, READERS),
    Case(sabotage.counts_an_entry_more, checks.ENTRIES, READERS),
    Case(sabotage.counts_no_evictions, checks.EVICTS, READERS),
    Case(sabotage.counts_hits_twice, checks.RESULTS, READERS, also={checks.AGREES}),
    Case(sabotage.counts_hits_twice_and_answers_with_them, checks.AGREES, READERS, seconds=3),
    Case(sabotage.counts_misses_as_hits, checks.AGREES, READERS, seconds=3),
    Case(sabotage.has_no_json_list, checks.ONE_INSTANT, READERS),
    Case(sabotage.has_no_list, checks.LISTS, LISTERS),
    Case(sabotage.lists_no_names_in_json, checks.ONE_INSTANT, READERS_AND_LISTERS, also={checks.LISTS}),
    Case(sabotage.lists_a_ghost, checks.EXISTS, READERS_AND_LISTERS),
    Case(sabotage.lists_what_it_does_not_hold, checks.EXISTS, LISTERS),
    Case(sabotage.lists_half, checks.WHOLE, READERS_AND_LISTERS),
    Case(
        sabotage.lists_the_smallest_twice,
        checks.ONCE,
        READERS_AND_LISTERS,
        also={checks.BUDGET, checks.PEAK},  # where few and large files are cached, one twice is too much
    ),
    Case(sabotage.lists_the_smallest_twice, checks.ONE_LINE, ONE_LINERS),
    Case(sabotage.lists_a_third_on_one_line, checks.ONE_LINE, ONE_LINERS),
    Case(sabotage.lists_ghosts_on_one_line, checks.ONE_LINE, ONE_LINERS),
    Case(sabotage.knows_no_names_on_one_line, checks.ONE_LINE, ONE_LINERS),
    Case(sabotage.flips_a_byte_in_a_hit, checks.CONTENT, READERS, SMALL),
    Case(sabotage.flips_a_byte_in_a_hit, checks.VERSION, READERS, PLAIN),
    Case(sabotage.stores_the_first_chunk_twice, checks.CONTENT, READERS, SMALL),
    Case(sabotage.sends_the_range_before, checks.CONTENT, RESUMERS),
    Case(sabotage.says_the_range_is_longer, checks.PARTS, RESUMERS),
    Case(sabotage.says_a_byte_less, checks.LENGTH, READERS, SMALL),
    Case(sabotage.cuts_the_body, checks.LENGTH, READERS, SMALL),
    Case(sabotage.cuts_the_body, checks.ANSWER, READERS, HUGE),
    Case(sabotage.cuts_the_body, checks.LENGTH, ONE_LINERS),
    Case(sabotage.cuts_slow_readers, checks.SLOW, SLOW_READER, HUGE),
    Case(sabotage.loses_every_tenth_file, checks.ANSWER, READERS, SMALL),
    Case(sabotage.fails_where_nothing_is, checks.RIGHT_ERROR, STRANGERS),
    Case(sabotage.welcomes_what_is_no_request, checks.RIGHT_ERROR, STRANGERS),
    Case(sabotage.shows_what_it_hides, checks.RIGHT_ERROR, STRANGERS),
    Case(sabotage.knows_no_etag_again, checks.CONDITION, RESUMERS),
    Case(sabotage.never_changes_its_etag, checks.VERSION, PUBLISHER, LIVE),
    Case(sabotage.believes_for_ever, checks.FRESH, PUBLISHER, LIVE),
    Case(sabotage.sends_everything_for_a_range_beyond, checks.OUT_OF_RANGE, RESUMERS, also={checks.AGREES}),
    Case(sabotage.does_not_say_where_the_file_ends, checks.OUT_OF_RANGE, RESUMERS),
    Case(sabotage.labels_no_hits, checks.ORIGIN, READERS, SMALL),
    Case(sabotage.labels_hits_warm, checks.ORIGIN, READERS, SMALL),
    Case(sabotage.calls_everything_a_hit, checks.STAMPEDE, STAMPEDES),
    Case(sabotage.reads_again_what_others_read, checks.STAMPEDE, STAMPEDES, also={checks.EVICTS}),
    Case(
        sabotage.reads_again_and_calls_it_shared,
        checks.ONE_READ,
        STAMPEDES,
        also={checks.NO_READS, checks.EVICTS},
        seconds=2,
        pid=True,
    ),
    Case(sabotage.reads_the_disk_for_a_hit, checks.NO_READS, READERS, also={checks.ONE_READ}, seconds=2, pid=True),
    Case(sabotage.flips_a_byte_in_a_hit, checks.CONTENT, READERS),
    Case(sabotage.stores_the_first_chunk_twice, checks.CONTENT, READERS),
    Case(sabotage.keeps_memory, checks.MEMORY, READERS),
    Case(sabotage.keeps_memory_and_denies_it, checks.MEMORY, READERS, pid=True),
    Case(sabotage.forgets_that_a_fill_ended, checks.LEAVES, READERS, seconds=3),
    Case(sabotage.keeps_who_has_left, checks.LEAVES, READERS, seconds=3),
    Case(sabotage.keeps_connections_open, checks.LEAVES, READERS, seconds=3),
    Case(sabotage.keeps_files_open_and_denies_it, checks.LEAVES, READERS, seconds=3, pid=True),
)


@dataclass(frozen=True)
class Judgement:
    """What a run came to."""

    exit_code: int
    blamed: set[str]
    unseen: set[str]
    output: str


def load(program: Program, users: Users, seconds: int, *options: str) -> Judgement:
    """A short run of the suite with these users, to its end."""
    wanted = [f'{{"user_class_name": "{name}", "fixed_count": {count}}}' for name, count in users.items()]
    run = subprocess.run(
        [
            *(sys.executable, "-c", LOCUST, "-f", str(PROJECT / "loadtest"), "--headless", "--only-summary"),
            *("--host", f"http://127.0.0.1:{program.port}", "--capacity", CAPACITY, "--report", ""),
            *("-u", str(sum(users.values())), "-r", "100", "-t", f"{seconds}s", "--seconds", "12"),
            *(*options, "--config-users", *wanted, "--", *users),
        ],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        timeout=40,
        check=False,
    )
    return Judgement(
        run.returncode, named("BROKEN", run.stdout), named("NOT SEEN", run.stdout), run.stdout + run.stderr
    )


def named(state: str, output: str) -> set[str]:
    """The names on the lines of the verdict that are in that state."""
    return set(re.findall(rf"^  {state} +(.+?)(?:: .*)?$", output, re.MULTILINE))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus that nobody changes, old enough to be believed."""
    directory = tmp_path_factory.mktemp("sabotage") / "corpus"
    write(directory, CORPUS)
    last_s = (directory / "empty.0.seeded").stat().st_ctime
    time.sleep(max(0.0, min(YOUNG_S, last_s + YOUNG_S - time.time())))
    return directory


def made(directory: Path, names: Iterable[str]) -> Path:
    """These files, the seeded ones with the content that their names say."""
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        is_live = name.startswith("live/")
        path.write_bytes(live_content(name, 1) if is_live else content(name, 0, size_of(name) or 20_000))
    return directory


def called(case: Case) -> str:
    folder = "".join(word for word, files in FOLDERS.items() if files is case.files)
    return "-".join([case.breaks.__name__, *case.users, *([folder] if folder else [])])


@pytest.mark.parametrize("case", CASES, ids=called)
def test_what_a_server_does_wrong_is_named(case: Case, corpus: Path, tmp_path: Path) -> None:
    if case.pid and not HAS_PROC:
        pytest.skip("no /proc to look at the server with")
    directory = made(tmp_path / "served", case.files) if case.files else corpus
    changes = f"from tests import sabotage; sabotage.{case.breaks.__name__}()"
    with Program(directory, *case.options, "--drain", "0", changes=changes) as program:
        options = ["--pid", str(program.process.pid)] if case.pid else []
        options += [] if case.files is PLAIN else ["--corpus", str(directory)]
        judgement = load(program, case.users, case.seconds, "--fail-fast", *options)
    assert judgement.exit_code == 1, judgement.output
    assert case.check in judgement.blamed, judgement.output
    assert judgement.blamed <= {case.check, "no request failed"} | case.also, judgement.output


EVERYBODY: Users = (
    READERS_AND_LISTERS | RESUMERS | STAMPEDES | STRANGERS | ONE_LINERS | PUBLISHER | SLOW_READER | {"Scanner": 1}
)


def test_a_server_that_does_nothing_wrong_passes(tmp_path: Path) -> None:
    """Or the runs above would prove nothing. All users, all checks, and the sabotages are at hand but unused."""
    directory = tmp_path / "served"
    write(directory, CORPUS)
    made(directory, HUGE)
    with Program(directory, "--cache", CAPACITY, changes="from tests import sabotage") as program:
        pid = ["--pid", str(program.process.pid)] if HAS_PROC else []
        judgement = load(program, EVERYBODY, 12, "--corpus", str(directory), *pid)
    assert not judgement.blamed, judgement.output
    assert not judgement.unseen, judgement.output
    assert judgement.exit_code == 0, judgement.output


def test_a_cache_that_evicts_nothing_proves_nothing(corpus: Path) -> None:
    """It breaks no promise, since what does not fit goes past it; but the test is for eviction, and fails."""
    changes = "from tests import sabotage; sabotage.evicts_nothing()"
    with Program(corpus, "--cache", CAPACITY, changes=changes) as program:
        judgement = load(program, READERS_AND_LISTERS, 4, "--corpus", str(corpus))
    assert judgement.exit_code == 1, judgement.output
    assert not judgement.blamed, judgement.output
    assert judgement.unseen == {checks.EVICTS, checks.PROVED}, judgement.output


NEVER_BROKEN = {
    checks.PROVED: "a name may come back before it is asked for: it is seen, or not seen",
}


def test_every_check_has_a_server_that_breaks_it() -> None:
    assert {case.check for case in CASES} | NEVER_BROKEN.keys() == {check.name for check in checks.CHECKS}
