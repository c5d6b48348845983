"""What the load test demands of a server, what it makes of what was seen, and what it asks the kernel: tables."""

import ast
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest import _checks as checks
from loadtest import _process
from loadtest._checks import CHECKS, Check
from loadtest._evidence import BYPASS, COALESCED, HIT, MISS, UNLABELLED, WINDOW, Broken, Evidence
from loadtest._invariants import (
    CONNECTION_BYTES,
    DESCRIPTORS_SLACK,
    ENTRY_BYTES,
    PROGRAM_BYTES,
    READS_SLACK_BYTES,
    Finding,
    Snapshot,
    again,
    agreement,
    at_once,
    at_one_instant,
    departure,
    eviction,
    reads,
)
from loadtest._process import Process
from loadtest._verdict import Line, State, Verdict, judge
from tests.program import PROJECT, Program

CAPACITY = 1000

GOOD: dict[str, Any] = {
    "cached": 600,
    "filling": 100,
    "peak": 900,
    "violations": 0,
    "entries": 3,
    "hits": 10,
    "misses": 5,
    "coalesced": 3,
    "bypasses": 2,
    "file_answers": 20,
    "evictions": 7,
    "connections": 4,
    "rss_bytes": 40 << 20,
    "open_fds": 12,
}
SIZES = (100, 200, 300)
BOUND = CAPACITY + PROGRAM_BYTES + 3 * ENTRY_BYTES + 4 * CONNECTION_BYTES
"""Of the resident bytes, for GOOD."""


def snapshot(*, sizes: tuple[int, ...] = SIZES, process: Process | None = None, **changes: int) -> Snapshot:
    """A good one, but for the changes."""
    return Snapshot({**GOOD, **changes}, tuple((f"{i}", size) for i, size in enumerate(sizes)), process)


def wrong(findings: Any) -> dict[str, str]:
    """What does not hold, and why."""
    return {finding.check: finding.wrong for finding in findings if finding.wrong}


# At one instant


def test_a_snapshot_is_made_of_the_servers_json() -> None:
    entries = [{"name": "a", "size": 100, "hits": 2}, {"name": "b", "size": 200}]
    now = Snapshot.of({"stats": GOOD, "entries": entries}, Process(1, 2, 3))
    assert now == Snapshot(GOOD, (("a", 100), ("b", 200)), Process(1, 2, 3))
    assert now["cached"] == 600


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({}, KeyError),
        ({"stats": GOOD}, KeyError),
        ({"entries": []}, KeyError),
        ({"stats": GOOD, "entries": [{"name": "a"}]}, KeyError),
        ({"stats": GOOD, "entries": [{"name": "a", "size": None}]}, TypeError),
        ({"stats": GOOD, "entries": ["a"]}, TypeError),
        ({"stats": GOOD, "entries": 5}, TypeError),
        ([], TypeError),
    ],
)
def test_a_wrong_document_is_no_snapshot(document: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Snapshot.of(document, None)


@pytest.mark.parametrize("missing", ["cached", "filling", "peak", "violations", "entries", "hits", "file_answers"])
def test_a_counter_that_is_missing_is_an_error_and_no_finding_that_holds(missing: str) -> None:
    stats = {name: value for name, value in GOOD.items() if name != missing}
    with pytest.raises(KeyError):
        list(at_one_instant(Snapshot(stats, snapshot().entries), CAPACITY))


def test_resident_bytes_and_descriptors_are_the_kernels_if_it_was_asked() -> None:
    assert (snapshot().rss, snapshot().descriptors) == (40 << 20, 12)
    seen = snapshot(process=Process(5, 6, 7))
    assert (seen.rss, seen.descriptors) == (5, 6)


def test_of_a_good_snapshot_all_is_looked_at_and_holds() -> None:
    found = list(at_one_instant(snapshot(), CAPACITY))
    assert found == [
        Finding(check)
        for check in (
            checks.BUDGET,
            checks.PEAK,
            checks.VIOLATIONS,
            checks.ENTRIES,
            checks.SUM,
            checks.RESULTS,
            checks.MEMORY,
        )
    ]


BREAKS: list[tuple[Snapshot, str, str]] = [
    (snapshot(filling=401), checks.BUDGET, "600 cached and 401 filling, of 1,000"),
    (snapshot(cached=1001, filling=0, sizes=(1, 500, 500)), checks.BUDGET, "1,001 cached and 0 filling"),
    (snapshot(cached=901, sizes=(1, 400, 500)), checks.BUDGET, "901 cached and 100 filling"),
    (snapshot(peak=1001), checks.PEAK, "the peak is 1,001, of 1,000"),
    (snapshot(violations=1), checks.VIOLATIONS, "the server counted 1"),
    (snapshot(entries=4), checks.ENTRIES, "4 counted, 3 are listed"),
    (snapshot(entries=2), checks.ENTRIES, "2 counted, 3 are listed"),
    (snapshot(sizes=(600,)), checks.ENTRIES, "3 counted, 1 are listed"),
    (snapshot(cached=599), checks.SUM, "600 listed, 599 cached"),
    (snapshot(cached=601), checks.SUM, "600 listed, 601 cached"),
    (snapshot(sizes=(100, 200, 301)), checks.SUM, "601 listed, 600 cached"),
    (snapshot(hits=11), checks.RESULTS, "11 + 5 + 3 + 2 != 20"),
    (snapshot(misses=4), checks.RESULTS, "10 + 4 + 3 + 2 != 20"),
    (snapshot(coalesced=4), checks.RESULTS, "10 + 5 + 4 + 2 != 20"),
    (snapshot(bypasses=1), checks.RESULTS, "10 + 5 + 3 + 1 != 20"),
    (snapshot(file_answers=21), checks.RESULTS, "10 + 5 + 3 + 2 != 21"),
    (snapshot(file_answers=19), checks.RESULTS, "10 + 5 + 3 + 2 != 19"),
    (snapshot(rss_bytes=BOUND + 1), checks.MEMORY, f"{BOUND / (1 << 20):.0f} MiB resident, the bound is"),
    (snapshot(process=Process(BOUND + 1, 9, 9)), checks.MEMORY, "MiB resident"),
    (snapshot(connections=3, rss_bytes=BOUND), checks.MEMORY, "MiB resident"),
    (snapshot(entries=2, sizes=(300, 300), rss_bytes=BOUND), checks.MEMORY, "MiB resident"),
]


@pytest.mark.parametrize(("now", "check", "says"), BREAKS)
def test_each_wrong_snapshot_breaks_one_invariant_which_says_what_was_seen(
    now: Snapshot, check: str, says: str
) -> None:
    found = wrong(at_one_instant(now, CAPACITY))
    assert found.keys() == {check}
    assert says in found[check]


@pytest.mark.parametrize(
    "now",
    [
        snapshot(filling=400),
        snapshot(cached=1000, filling=0, sizes=(0, 500, 500)),
        snapshot(peak=1000),
        snapshot(rss_bytes=BOUND),
        snapshot(process=Process(BOUND, 10_000, 1 << 40), rss_bytes=BOUND * 2),
        snapshot(
            cached=0, filling=0, entries=0, sizes=(), hits=0, misses=0, coalesced=0, bypasses=0, file_answers=0
        ),
    ],
)
def test_what_is_just_at_its_bound_holds(now: Snapshot) -> None:
    assert wrong(at_one_instant(now, CAPACITY)) == {}


def test_the_server_cannot_colour_what_the_kernel_says() -> None:
    now = snapshot(rss_bytes=1, process=Process(BOUND + 1, 9, 9))
    assert wrong(at_one_instant(now, CAPACITY)).keys() == {checks.MEMORY}


def test_slack_is_far_below_what_would_hide_a_second_cache() -> None:
    """They are measured, and may be measured again; but what is much larger would prove nothing."""
    assert PROGRAM_BYTES <= 96 << 20
    assert ENTRY_BYTES <= 4 << 10
    assert CONNECTION_BYTES <= 128 << 10
    assert READS_SLACK_BYTES <= 8 << 20
    assert DESCRIPTORS_SLACK <= 8


# Eviction


@pytest.mark.parametrize(
    ("evictions", "stored", "expected"),
    [
        (7, 0, []),
        (7, 2 * CAPACITY, []),
        (7, 2 * CAPACITY + 1, [False]),
        (8, 0, [True]),
        (8, 10 * CAPACITY, [True]),
        (6, 10 * CAPACITY, [False]),
    ],
)
def test_eviction_is_seen_or_missed_or_not_yet_due(evictions: int, stored: int, expected: list[bool]) -> None:
    """GOOD has had 7 before the users came, which prove nothing."""
    found = list(eviction(snapshot(), snapshot(evictions=evictions), CAPACITY, stored))
    assert [not finding.wrong for finding in found] == expected
    assert all(finding.check == checks.EVICTS for finding in found)


def test_missing_eviction_says_what_was_stored() -> None:
    found = wrong(eviction(snapshot(), snapshot(), CAPACITY, 5000))
    assert found == {checks.EVICTS: "5,000 bytes were stored in 1,000, and nothing was evicted"}


# Agreement


def counted(hits: int = 0, misses: int = 0, coalesced: int = 0, bypasses: int = 0, answers: int = 0) -> Snapshot:
    """GOOD, and so much later; `answers` more than those."""
    total = hits + misses + coalesced + bypasses + answers
    return snapshot(
        hits=10 + hits,
        misses=5 + misses,
        coalesced=3 + coalesced,
        bypasses=2 + bypasses,
        file_answers=20 + total,
    )


def users(*answers: str, cut: int = 0, refused: int = 0) -> Evidence:
    """What users saw: these answers, and requests that were cut or refused."""
    seen = Evidence()
    for answer in answers:
        seen.asks(10)
        seen.answers_with(answer, 10)
    for _ in range(refused):
        seen.asks(10)
        seen.is_refused(10)
    for _ in range(cut):
        seen.asks(10)
    return seen


ALL = (HIT, HIT, HIT, MISS, MISS, COALESCED, BYPASS)


@pytest.mark.parametrize(
    ("after", "seen"),
    [
        (counted(), users()),
        (counted(), users(refused=5)),
        (counted(3, 2, 1, 1), users(*ALL)),
        (counted(3, 2, 1, 1), users(*ALL, cut=4)),
        (counted(4, 2, 1, 1), users(*ALL, cut=1)),
        (counted(3, 3, 1, 1), users(*ALL, cut=1)),
        (counted(3, 2, 2, 1), users(*ALL, cut=1)),
        (counted(3, 2, 1, 2), users(*ALL, cut=1)),
        (counted(4, 2, 2, 1), users(*ALL, cut=2)),
        (counted(1, 0, 0, 0), users(UNLABELLED)),
        (counted(0, 0, 0, 1), users(UNLABELLED)),
        (counted(1, 1, 0, 0), users(UNLABELLED, cut=1)),
        (counted(3, 2, 1, 3), users(*ALL, UNLABELLED, UNLABELLED)),
    ],
)
def test_the_server_agrees_if_it_counted_all_that_was_seen_and_of_the_cut_at_most_that(
    after: Snapshot, seen: Evidence
) -> None:
    assert list(agreement(snapshot(), after, seen)) == [Finding(checks.AGREES)]


@pytest.mark.parametrize(
    ("after", "seen", "says"),
    [
        (counted(2, 2, 1, 1, answers=1), users(*ALL), "hits 2, users saw 3 (and 0"),
        (counted(4, 2, 1, 1, answers=-1), users(*ALL), "hits 4, users saw 3 (and 0"),
        (counted(3, 1, 1, 1, answers=1), users(*ALL), "misses 1, users saw 2 (and 0"),
        (counted(3, 2, 0, 1, answers=1), users(*ALL), "coalesced 0, users saw 1 (and 0"),
        (counted(3, 2, 1, 2, answers=-1), users(*ALL), "bypasses 2, users saw 1 (and 0"),
        (counted(3, 2, 1, 1, answers=1), users(*ALL), "file_answers 8, users saw 7 (and 0"),
        (counted(3, 2, 1, 1, answers=-1), users(*ALL), "file_answers 6, users saw 7 (and 0"),
        (counted(2, 3, 1, 1), users(*ALL), "hits 2, users saw 3; misses 3, users saw 2 (and 0"),
        (counted(5, 2, 1, 1, answers=-1), users(*ALL, cut=1), "hits 5, users saw 3 (and 1"),
        (counted(4, 3, 1, 1), users(*ALL, cut=1), "file_answers 9, users saw 7 (and 1"),
        (counted(2, 2, 1, 1, answers=1), users(*ALL, cut=9), "hits 2, users saw 3 (and 9"),
        (counted(1, 1, 0, 0), users(UNLABELLED), "file_answers 2, users saw 1 (and 0"),
        (counted(), users(UNLABELLED), "file_answers 0, users saw 1 (and 0"),
        (counted(2, 0, 0, 0, answers=-1), users(UNLABELLED), "hits 2, users saw 0 (and 0"),
        (counted(1, 0, 0, 0), users(refused=1), "hits 1, users saw 0; file_answers 1, users saw 0 (and 0"),
    ],
)
def test_the_server_disagrees_if_it_counted_less_or_more(after: Snapshot, seen: Evidence, says: str) -> None:
    found = wrong(agreement(snapshot(), after, seen))
    assert found.keys() == {checks.AGREES}
    assert found[checks.AGREES].startswith(says)
    assert found[checks.AGREES].endswith(" were cut; does anybody else use the server?)")


# Departure


@pytest.mark.parametrize(
    "after",
    [
        snapshot(filling=0),
        snapshot(filling=0, connections=0, open_fds=0),
        snapshot(filling=0, open_fds=12 + DESCRIPTORS_SLACK),
        snapshot(filling=0, process=Process(0, 12 + DESCRIPTORS_SLACK, 0)),
    ],
)
def test_users_may_leave_what_was_there_before_and_a_few_descriptors(after: Snapshot) -> None:
    assert departure(snapshot(), after) == Finding(checks.LEAVES)


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (snapshot(filling=0, connections=5), "connections 4 -> 5"),
        (
            snapshot(filling=0, open_fds=13 + DESCRIPTORS_SLACK),
            f"descriptors 12 -> {13 + DESCRIPTORS_SLACK}",
        ),
        (snapshot(filling=1234), "1,234 bytes still filling"),
        (
            snapshot(filling=1, connections=5, open_fds=99),
            "connections 4 -> 5; descriptors 12 -> 99; 1 bytes still filling",
        ),
    ],
)
def test_what_users_left_behind_is_named(after: Snapshot, says: str) -> None:
    assert departure(snapshot(), after) == Finding(checks.LEAVES, says)


def test_descriptors_are_compared_by_the_kernels_word_if_there_is_one() -> None:
    before = snapshot(filling=0, process=Process(0, 50, 0))
    after = snapshot(filling=0, open_fds=12, process=Process(0, 51 + DESCRIPTORS_SLACK, 0))
    assert departure(before, after).wrong == f"descriptors 50 -> {51 + DESCRIPTORS_SLACK}"


# Reads


def having_read(read_bytes: int) -> Snapshot:
    return snapshot(process=Process(0, 0, read_bytes))


@pytest.mark.parametrize(
    ("act", "explained"),
    [
        (lambda seen: None, 0),
        (lambda seen: (seen.asks(5000), seen.answers_with(HIT, 5000)), 0),
        (lambda seen: (seen.asks(5000), seen.answers_with(MISS, 5000)), 5000),
        (lambda seen: (seen.asks(WINDOW + 1), seen.answers_with(HIT, WINDOW + 1)), WINDOW + 1),
        (lambda seen: (seen.asks(5000), seen.is_refused(5000)), 0),
        (lambda seen: seen.asks(5000), 10_000),
    ],
    ids=["nothing", "hit", "miss", "long hit", "refused", "cut"],
)
def test_reads_are_explained_by_misses_and_what_was_cut_and_a_little_slack(act: Any, explained: int) -> None:
    """Of what was cut nobody knows what it was, nor how much of it was sent: at most all of it, read twice."""
    seen = Evidence()
    act(seen)
    most = 1_000_000 + explained + READS_SLACK_BYTES
    assert list(reads(having_read(1_000_000), having_read(most), seen)) == [Finding(checks.NO_READS)]
    (found,) = reads(having_read(1_000_000), having_read(most + 1), seen)
    assert found.check == checks.NO_READS
    assert found.wrong.startswith(f"{most - 1_000_000 + 1:,} bytes were read, misses and bypasses explain ")


@pytest.mark.parametrize(
    ("before", "after"),
    [(snapshot(), having_read(1 << 40)), (having_read(0), snapshot()), (snapshot(), snapshot())],
)
def test_without_a_process_nothing_is_said_of_reads(before: Snapshot, after: Snapshot) -> None:
    assert list(reads(before, after, Evidence())) == []


def test_a_file_asked_for_again_is_read_once_and_for_each_answer_that_is_no_hit() -> None:
    origins: list[str | None] = [HIT, MISS, HIT, None]
    assert again(origins, 1000, 3000) == Finding(checks.NO_READS)
    found = again(origins, 1000, 3001)
    assert found.check == checks.NO_READS
    assert found.wrong == "3,001 bytes were read for 2 hits of 1,000 bytes: called HIT, and read"


@pytest.mark.parametrize("read", [1000, 1999])
def test_a_stampede_reads_its_file_once(read: int) -> None:
    assert at_once("a.bin", 1000, read) == Finding(checks.ONE_READ)


@pytest.mark.parametrize("read", [0, 999, 2000])
def test_a_stampede_that_reads_it_twice_is_broken_and_so_is_a_process_that_reads_nothing(read: int) -> None:
    """A cold file has to be read: who does not, is not the server."""
    says = f"{read:,} bytes were read of a.bin, which has 1,000 (is --pid the server?)"
    assert at_once("a.bin", 1000, read) == Finding(checks.ONE_READ, says)


def test_each_who_was_turned_away_may_read_it_once_more() -> None:
    assert at_once("a.bin", 1000, 3999, turned_away=2) == Finding(checks.ONE_READ)
    assert at_once("a.bin", 1000, 4000, turned_away=2).wrong


def test_where_nobody_knows_resident_bytes_and_descriptors_nothing_is_said_of_them() -> None:
    """A server on macOS says null."""
    unknown = Snapshot({**GOOD, "rss_bytes": None, "open_fds": None, "filling": 0}, snapshot().entries)
    found = list(at_one_instant(unknown, CAPACITY))
    assert checks.MEMORY not in {finding.check for finding in found}
    assert wrong(found) == {}
    assert departure(unknown, unknown) == Finding(checks.LEAVES)


# The list of checks


def test_every_check_is_listed_once() -> None:
    names = {value for name, value in vars(checks).items() if name.isupper() and isinstance(value, str)}
    listed = [check.name for check in CHECKS]
    assert len(listed) == len(set(listed))
    assert set(listed) == names


def test_every_check_needs_what_can_be_missing() -> None:
    assert {check.needs for check in CHECKS} == {"", "stats", "corpus", "pid", "rss"}


def classes() -> set[str]:
    """The users that Locust finds, without importing it."""
    tree = ast.parse((PROJECT / "loadtest" / "locustfile.py").read_text())
    found: set[str] = set()
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "__all__"
        ):
            found = set(ast.literal_eval(node.value))
    return found


def test_checks_belong_to_users_that_there_are() -> None:
    makers = set().union(*(check.by for check in CHECKS))
    assert makers == classes()


def test_every_check_is_made_by_somebody() -> None:
    """A check that nobody can make would fail every run; one that is never looked up cannot fail any."""
    used: set[str] = set()
    for path in (PROJECT / "loadtest").glob("*.py"):
        if path.stem in ("_checks", "_verdict"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                used.add(node.id)
            elif (
                isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "checks"
            ):
                used.add(node.attr)
    constants = {name for name, value in vars(checks).items() if name.isupper() and isinstance(value, str)}
    assert constants <= used


# The verdict

EVERYBODY = frozenset().union(*(check.by for check in CHECKS))


def all_held() -> Evidence:
    """Everybody did something, and everything was seen to hold."""
    seen = Evidence()
    for check in CHECKS:
        seen.holds(check.name)
    seen.succeeded.update(EVERYBODY)
    return seen


def states(verdict: Verdict) -> dict[str, State]:
    return {line.name: line.state for line in verdict.lines}


def test_only_if_all_was_seen_to_hold_it_is_0() -> None:
    verdict = judge(all_held(), EVERYBODY, 0, 0)
    assert verdict.exit_code == 0
    assert verdict.in_a_word == "PASSED"
    assert states(verdict) == dict.fromkeys([*(check.name for check in CHECKS), *EVERYBODY], State.HELD)


def test_nothing_seen_at_all_is_1() -> None:
    assert Verdict(()).exit_code == 1
    assert judge(Evidence(), frozenset(), 0, 0).exit_code == 1
    verdict = judge(Evidence(), EVERYBODY, 0, 0)
    assert verdict.exit_code == 1
    assert set(states(verdict).values()) == {State.NOT_SEEN}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_each_check_that_was_not_seen_is_1(check: Check) -> None:
    seen = all_held()
    del seen.held[check.name]
    verdict = judge(seen, EVERYBODY, 0, 0)
    assert verdict.exit_code == 1
    assert states(verdict)[check.name] is State.NOT_SEEN
    assert verdict.in_a_word == f"FAILED, not seen: {check.name}"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_each_check_that_broke_once_is_1_however_often_it_held(check: Check) -> None:
    seen = all_held()
    seen.held[check.name] += 1_000_000
    seen.breaks(Broken(check.name, "what was seen"))
    verdict = judge(seen, EVERYBODY, 0, 0)
    assert verdict.exit_code == 1
    assert Line(check.name, State.BROKEN, "what was seen") in verdict.lines
    assert verdict.in_a_word == f"FAILED: {check.name}"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_what_broke_is_said_even_if_it_could_not_be_checked_or_its_users_were_not_there(check: Check) -> None:
    seen = Evidence()
    seen.breaks(Broken(check.name, "what was seen"))
    seen.unable.update(dict.fromkeys([*check.by, check.needs], "a reason"))
    for there in (EVERYBODY, frozenset[str]()):
        assert states(judge(seen, there, 0, 0))[check.name] is State.BROKEN


@pytest.mark.parametrize("user", sorted(EVERYBODY))
def test_each_class_that_did_nothing_is_1(user: str) -> None:
    seen = all_held()
    del seen.succeeded[user]
    verdict = judge(seen, EVERYBODY, 0, 0)
    assert verdict.exit_code == 1
    assert verdict.in_a_word == f"FAILED, not seen: {user}"
    assert Line(user, State.NOT_SEEN, "did nothing that was found right (more users, -u?)") in verdict.lines


@pytest.mark.parametrize("user", sorted(EVERYBODY))
def test_a_class_that_cannot_do_anything_here_is_allowed_with_its_checks(user: str) -> None:
    seen = all_held()
    del seen.succeeded[user]
    alone = [check for check in CHECKS if check.by == {user}]
    for check in alone:
        del seen.held[check.name]
    seen.unable[user] = "nothing there"
    verdict = judge(seen, EVERYBODY, 0, 0)
    assert verdict.exit_code == 0
    for name in [user, *(check.name for check in alone)]:
        assert Line(name, State.NOT_CHECKED, "nothing there") in verdict.lines


def test_a_class_that_did_something_did_so_although_it_was_unable_elsewhere() -> None:
    seen = all_held()
    seen.unable["Resumer"] = "nothing there"
    assert Line("Resumer", State.HELD, "1 done") in judge(seen, EVERYBODY, 0, 0).lines


def test_a_check_must_be_seen_as_long_as_one_of_its_classes_can_make_it() -> None:
    seen = all_held()
    del seen.held[checks.ORIGIN]
    for user in ("Reader", "Scanner"):
        seen.unable[user] = "nothing there"
        assert states(judge(seen, EVERYBODY, 0, 0))[checks.ORIGIN] is State.NOT_SEEN
    seen.unable["Resumer"] = "nothing there"
    assert states(judge(seen, EVERYBODY, 0, 0))[checks.ORIGIN] is State.NOT_CHECKED


def test_classes_that_were_not_asked_for_are_not_missed() -> None:
    seen = Evidence()
    for check in CHECKS:
        if not check.by or "Lister" in check.by:
            seen.holds(check.name)
    seen.succeeded["Lister"] = 1
    verdict = judge(seen, {"Lister"}, 0, 0)
    assert verdict.exit_code == 0
    assert states(verdict).keys() == {c.name for c in CHECKS if not c.by or "Lister" in c.by} | {"Lister"}


def test_unable_classes_that_were_not_asked_for_excuse_nothing() -> None:
    seen = all_held()
    del seen.held[checks.ANSWER]
    seen.unable.update(dict.fromkeys(["Scanner", "Resumer", "Stampede"], "nothing there"))
    assert states(judge(seen, {"Reader"}, 0, 0))[checks.ANSWER] is State.NOT_SEEN


@pytest.mark.parametrize(("need", "reason"), [("corpus", "no corpus there"), ("pid", "say --pid PID")])
def test_what_needs_a_corpus_or_a_process_is_not_checked_without_and_allowed(need: str, reason: str) -> None:
    seen = all_held()
    needing = [check.name for check in CHECKS if check.needs == need]
    assert needing
    for name in needing:
        del seen.held[name]
    assert judge(seen, EVERYBODY, 0, 0).exit_code == 1
    seen.unable[need] = reason
    verdict = judge(seen, EVERYBODY, 0, 0)
    assert verdict.exit_code == 0
    assert {line.name for line in verdict.lines if line.state is State.NOT_CHECKED} == set(needing)
    assert all(line.detail == reason for line in verdict.lines if line.state is State.NOT_CHECKED)


def test_without_statistics_eviction_is_unproved_which_is_1_and_says_why() -> None:
    seen = all_held()
    needing = [check.name for check in CHECKS if check.needs == "stats"] + [checks.ONE_INSTANT]
    for name in needing:
        del seen.held[name]
    seen.unable["gserver"] = "http://nginx has no LIST"
    verdict = judge(seen, EVERYBODY, 0, 0)
    assert verdict.exit_code == 1
    for name in needing:
        assert Line(name, State.NOT_SEEN, "http://nginx has no LIST") in verdict.lines


@pytest.mark.parametrize(
    ("failures", "exceptions", "line"),
    [
        (1, 0, Line("no request failed", State.BROKEN, "1 failed")),
        (12_345, 0, Line("no request failed", State.BROKEN, "12,345 failed")),
        (0, 2, Line("no user raised an exception", State.BROKEN, "2 kinds")),
    ],
)
def test_what_locust_counted_is_1_though_all_held(failures: int, exceptions: int, line: Line) -> None:
    verdict = judge(all_held(), EVERYBODY, failures, exceptions)
    assert verdict.exit_code == 1
    assert verdict.lines[-1] == line
    assert verdict.in_a_word == f"FAILED: {line.name}"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (Line("a name", State.HELD, "3 times"), "  held         a name: 3 times"),
        (Line("a name", State.BROKEN, "seen"), "  BROKEN       a name: seen"),
        (Line("a name", State.NOT_SEEN), "  NOT SEEN     a name"),
        (Line("a name", State.NOT_CHECKED, "why"), "  not checked  a name: why"),
    ],
)
def test_lines_stand_in_columns(line: Line, text: str) -> None:
    assert str(line) == text


def test_a_line_says_how_often_and_what_was_seen_first() -> None:
    seen = Evidence()
    seen.held[checks.LENGTH] = 12_345
    for i in range(1001):
        seen.breaks(Broken(checks.CONTENT, f"no. {i}"))
    seen.succeeded["Reader"] = 4321
    lines = judge(seen, {"Reader"}, 0, 0).lines
    assert Line(checks.LENGTH, State.HELD, "12,345 times") in lines
    assert Line(checks.CONTENT, State.BROKEN, "no. 0 (and 1,000 more)") in lines
    assert Line("Reader", State.HELD, "4,321 done") in lines


def test_the_summary_has_a_line_for_each_and_ends_in_a_word() -> None:
    lines = (Line("one", State.HELD, "2 times"), Line("two", State.BROKEN, "seen"), Line("three", State.NOT_SEEN))
    assert str(Verdict(lines)) == (
        "\nVerdict\n  held         one: 2 times\n  BROKEN       two: seen\n  NOT SEEN     three\n\nFAILED: two\n"
    )
    assert str(Verdict(lines[:1])).endswith("\n\nPASSED\n")


def test_in_a_word_names_all_that_broke_else_all_that_was_not_seen() -> None:
    broken, also = Line("b", State.BROKEN), Line("c", State.BROKEN)
    unseen, more = Line("n", State.NOT_SEEN), Line("m", State.NOT_SEEN)
    skipped, held = Line("s", State.NOT_CHECKED), Line("h", State.HELD)
    assert Verdict((held, broken, unseen, also)).in_a_word == "FAILED: b, c"
    assert Verdict((held, unseen, skipped, more)).in_a_word == "FAILED, not seen: n, m"
    assert Verdict((held, skipped)).in_a_word == "PASSED"


def test_checks_come_first_in_their_order_then_users_by_name() -> None:
    names = [line.name for line in judge(all_held(), EVERYBODY, 1, 1).lines]
    expected = [*(check.name for check in CHECKS), *sorted(EVERYBODY)]
    assert names == [*expected, "no request failed", "no user raised an exception"]


# What the kernel says

needs_proc = pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="no /proc here")


@needs_proc
def test_of_our_own_process_the_kernel_knows_its_memory_in_bytes() -> None:
    seen = _process.look(os.getpid())
    assert seen is not None
    status = Path("/proc/self/status").read_text()
    resident_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    assert resident_kib * 512 < seen.rss < resident_kib * 2048


@needs_proc
def test_every_open_file_is_a_descriptor(tmp_path: Path) -> None:
    gc.collect()  # nothing of other tests may be closed meanwhile
    before = _process.look(os.getpid())
    files = [(tmp_path / str(i)).open("wb") for i in range(7)]
    after = _process.look(os.getpid())
    for file in files:
        file.close()
    assert before is not None
    assert after is not None
    assert after.descriptors - before.descriptors == 7


@needs_proc
def test_bytes_read_are_counted_whether_or_not_they_came_from_a_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 << 20))
    before = _process.look(os.getpid())
    (tmp_path / "file").read_bytes()
    between = _process.look(os.getpid())
    (tmp_path / "file").write_bytes(bytes(3 << 20))
    after = _process.look(os.getpid())
    assert before is not None
    assert between is not None
    assert after is not None
    assert 3 << 20 <= between.read_bytes - before.read_bytes < 4 << 20
    assert after.read_bytes - between.read_bytes < 1 << 20


@needs_proc
def test_of_a_process_that_is_not_there_nothing_is_known() -> None:
    beyond = int(Path("/proc/sys/kernel/pid_max").read_text()) + 1
    assert _process.look(beyond) is None
    assert _process.look(-1) is None
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait(50)
        assert _process.look(ended.pid) is None


@needs_proc
def test_a_real_server_is_seen_by_the_kernel_as_it_sees_itself(tmp_path: Path) -> None:
    """What the server says about itself has every counter, holds, and is no further from the truth than a look."""
    (tmp_path / "a.txt").write_bytes(b"x" * 1000)
    with Program(tmp_path) as server:
        assert server.get("/a.txt")[0] == 200
        _, _, body = server.get("/-/cache?format=json")
        now = Snapshot.of(json.loads(body), _process.look(server.process.pid))
        assert wrong(at_one_instant(now, 64 << 20)) == {}
        assert now.entries == (("a.txt", 1000),)
        assert now.names == {"a.txt"}
        assert now.process is not None
        assert abs(now.process.descriptors - now["open_fds"]) <= DESCRIPTORS_SLACK
        assert now["rss_bytes"] / 2 < now.process.rss < now["rss_bytes"] * 2
