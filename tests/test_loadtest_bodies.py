"""The load test's judgement of bodies, and the evidence that its processes keep of it and of all else."""

import hashlib
import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import _bodies, _evidence
from loadtest._bodies import Body, Versions
from loadtest._catalog import File
from loadtest._checks import ANSWER, CONTENT, LENGTH, ORIGIN, VERSION
from loadtest._corpus import PERIOD, VERSION_BYTES, content, live_content
from loadtest._evidence import BYPASS, COALESCED, HIT, MISS, UNLABELLED, WINDOW, Broken, Evidence

SIZE = 200_000
FIXED = File("a b/é.200000.seeded", SIZE, seeded=True)
LIVE = File("live/00.5000.seeded", 5000, seeded=True)
PLAIN = File("notes.txt", 5000, seeded=False)

GOOD = content(FIXED.name, 0, SIZE)
SECOND = live_content(LIVE.name, 2)
TEXT = bytes(range(250)) * 20


def judged(file: File, length: int, pieces: Iterable[bytes], start: int = 0) -> tuple[str, bytes]:
    """The check that breaks, or none; and what stands for the content."""
    body = Body(file, start, length)
    try:
        for piece in pieces:
            body.feed(piece)
        return "", body.end()
    except Broken as broken:
        return broken.check, b""


def cut(content: bytes, at: Iterable[int]) -> list[bytes]:
    """Pieces of it, cut at these places; some may be empty."""
    edges = [0, *sorted(min(place, len(content)) for place in at), len(content)]
    return [content[start:stop] for start, stop in pairwise(edges)]


def flipped(content: bytes, at: int) -> bytes:
    """One bit of it is wrong."""
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


# Bodies


@pytest.mark.parametrize(
    ("file", "whole", "stands_for_it"),
    [
        (FIXED, GOOD, b"0"),
        (LIVE, SECOND, b"2"),
        (LIVE, live_content(LIVE.name, 1234), b"1234"),
        (PLAIN, TEXT, hashlib.sha256(TEXT).digest()),
        (PLAIN, b"", hashlib.sha256(b"").digest()),
        (File("empty.0.seeded", 0, seeded=True), b"", b"0"),
    ],
)
def test_a_right_body_is_found_right(file: File, whole: bytes, stands_for_it: bytes) -> None:
    assert judged(file, len(whole), [whole]) == ("", stands_for_it)


WRONG: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "nothing": (LENGTH, lambda body: b""),
    "a byte short": (LENGTH, lambda body: body[:-1]),
    "half": (LENGTH, lambda body: body[: len(body) // 2]),
    "a byte too long": (LENGTH, lambda body: body + b"x"),
    "twice": (LENGTH, lambda body: body + body),
    "its first byte": (CONTENT, lambda body: flipped(body, 0)),
    "its 21st byte": (CONTENT, lambda body: flipped(body, VERSION_BYTES)),
    "a byte in the middle": (CONTENT, lambda body: flipped(body, len(body) // 2)),
    "its last byte": (CONTENT, lambda body: flipped(body, len(body) - 1)),
    "zeroes": (CONTENT, lambda body: bytes(len(body))),
    "another name's bytes": (CONTENT, lambda body: content("another", 0, len(body))),
    "a page of an error": (CONTENT, lambda body: b"<!doctype html>".ljust(len(body))),
    "two chunks swapped": (CONTENT, lambda body: body[1024:2048] + body[:1024] + body[2048:]),
    "a chunk twice": (CONTENT, lambda body: body[:1024] + body[:1024] + body[2048:]),
    "moved by a byte": (CONTENT, lambda body: body[1:] + body[:1]),
}


@pytest.mark.parametrize(("file", "whole"), [(FIXED, GOOD), (LIVE, SECOND)], ids=["fixed", "live"])
@pytest.mark.parametrize("wrong", WRONG)
def test_every_kind_of_wrong_body_is_named(file: File, whole: bytes, wrong: str) -> None:
    check, spoil = WRONG[wrong]
    assert judged(file, file.size, [spoil(whole)])[0] == check


@pytest.mark.parametrize(
    "body",
    [
        SECOND[:VERSION_BYTES] + live_content(LIVE.name, 3)[VERSION_BYTES:],
        live_content(LIVE.name, 3)[:2500] + SECOND[2500:],
        SECOND[:2500] + live_content(LIVE.name, 3)[2500:],
        SECOND[:VERSION_BYTES] + content(LIVE.name, VERSION_BYTES, LIVE.size),
        content(LIVE.name, 0, LIVE.size),
        live_content("live/01.5000.seeded", 2),
    ],
    ids=["a line of another", "head of another", "tail of another", "no version", "no line", "another name's"],
)
def test_a_live_body_is_of_one_version_throughout(body: bytes) -> None:
    assert judged(LIVE, LIVE.size, [body])[0] == CONTENT


def test_the_message_says_which_byte_is_wrong() -> None:
    body = Body(FIXED, 0, SIZE)
    body.feed(GOOD[:100_000])
    with pytest.raises(Broken) as caught:
        body.feed(flipped(GOOD, 123_456)[100_000:])
    wrong, right = GOOD[123_456] ^ 1, GOOD[123_456]
    assert caught.value.message == f"a b/é.200000.seeded: byte 123456 is {wrong}, not {right}"
    assert str(caught.value) == f"{CONTENT}: {caught.value.message}"


def test_the_message_counts_from_the_beginning_of_a_live_file() -> None:
    with pytest.raises(Broken, match=f"byte 3000 is {SECOND[3000] ^ 1}, not {SECOND[3000]}"):
        Body(LIVE, 0, LIVE.size).feed(flipped(SECOND, 3000))


def test_the_message_says_that_a_live_file_has_no_version() -> None:
    with pytest.raises(Broken, match=r"live/00.5000.seeded does not begin with a version number"):
        Body(LIVE, 0, LIVE.size).feed(content(LIVE.name, 0, LIVE.size))


def test_the_message_says_how_much_is_missing() -> None:
    body = Body(PLAIN, 0, 5000)
    body.feed(b"x" * 4000)
    with pytest.raises(Broken, match=r"notes.txt: 1000 bytes are missing at the end"):
        body.end()


def test_a_live_body_says_its_version_as_soon_as_it_begins() -> None:
    body = Body(LIVE, 0, LIVE.size)
    assert body.version is None
    body.feed(SECOND[:30])
    assert body.version == 2


@given(at=st.lists(st.integers(0, SIZE), max_size=8))
def test_a_right_body_is_right_in_any_pieces(at: list[int]) -> None:
    assert judged(FIXED, SIZE, cut(GOOD, at)) == ("", b"0")


@given(at=st.lists(st.integers(0, 5000), max_size=8))
def test_a_digest_does_not_depend_on_the_pieces(at: list[int]) -> None:
    assert judged(PLAIN, 5000, cut(TEXT, at)) == ("", hashlib.sha256(TEXT).digest())


@given(at=st.lists(st.one_of(st.integers(0, 25), st.integers(0, 5000)), max_size=8))
def test_a_live_body_is_right_in_any_pieces(at: list[int]) -> None:
    assert judged(LIVE, 5000, cut(SECOND, at)) == ("", b"2")


@given(wrong=st.sampled_from(sorted(WRONG)), at=st.lists(st.integers(0, 10_000), max_size=8))
def test_a_wrong_body_is_wrong_in_any_pieces(wrong: str, at: list[int]) -> None:
    check, spoil = WRONG[wrong]
    for file, whole in ((FIXED, GOOD), (LIVE, SECOND)):
        assert judged(file, file.size, cut(spoil(whole), at))[0] == check


@given(wrong=st.integers(0, SIZE - 1), at=st.lists(st.integers(0, SIZE), max_size=4))
def test_any_flipped_byte_is_found_in_any_pieces(wrong: int, at: list[int]) -> None:
    assert judged(FIXED, SIZE, cut(flipped(GOOD, wrong), at))[0] == CONTENT


@given(start=st.integers(0, SIZE), length=st.integers(0, SIZE), at=st.lists(st.integers(0, SIZE), max_size=4))
def test_a_range_is_compared_at_its_place(start: int, length: int, at: list[int]) -> None:
    part = GOOD[start : start + length]
    assert judged(FIXED, len(part), cut(part, at), start) == ("", b"0")
    if len(part) > 16:
        elsewhere = CONTENT if start % PERIOD else ""
        assert judged(FIXED, len(part), cut(GOOD[: len(part)], at), start)[0] == elsewhere
        assert judged(FIXED, len(part), cut(part + b"x", at), start)[0] == LENGTH


def test_bytes_beyond_the_length_are_refused_before_they_are_compared_or_digested() -> None:
    body = Body(PLAIN, 10, 5)
    body.feed(b"12345")
    with pytest.raises(Broken, match="more bytes than the head said"):
        body.feed(b"6")
    assert body.end() == hashlib.sha256(b"12345").digest()


# One ETag, one content


def test_the_same_content_under_one_etag_agrees() -> None:
    versions = Versions()
    for _ in range(3):
        versions.agree("a", '"1"', b"digest")


def test_other_content_under_one_etag_is_named_with_file_and_etag() -> None:
    versions = Versions()
    versions.agree("a", '"1"', b"digest")
    for _ in range(2):
        with pytest.raises(Broken, match='a has other bytes under the same ETag "1"') as caught:
            versions.agree("a", '"1"', b"other")
        assert caught.value.check == VERSION
    versions.agree("a", '"1"', b"digest")


def test_other_etags_and_other_names_may_have_other_content() -> None:
    versions = Versions()
    versions.agree("a", '"1"', b"digest")
    versions.agree("a", '"2"', b"other")
    versions.agree("b", '"1"', b"another")


def test_the_latest_versions_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _bodies.VERSIONS_MAX == 65_536
    monkeypatch.setattr(_bodies, "VERSIONS_MAX", 3)
    versions = Versions()
    for name in ("a", "b", "c", "a", "d"):  # of four, b was not seen for longest
        versions.agree(name, '"1"', name.encode())
    for name in ("a", "c", "d"):
        with pytest.raises(Broken):
            versions.agree(name, '"1"', b"other")
    versions.agree("b", '"1"', b"other")


def test_of_very_many_versions_not_all_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bodies, "VERSIONS_MAX", 10)
    versions = Versions()
    for i in range(1000):
        versions.agree("a", str(i), b"digest")
    forgotten = 0
    for i in range(1000):
        try:
            versions.agree("a", str(i), b"other")
            forgotten += 1
        except Broken:
            pass
    assert forgotten >= 990


# Evidence


@pytest.mark.parametrize(
    ("result", "size", "changes", "disk", "stored"),
    [
        (HIT, WINDOW, False, 0, 0),
        (HIT, WINDOW + 1, False, WINDOW + 1, 0),
        (COALESCED, WINDOW, False, 0, 0),
        (COALESCED, WINDOW + 1, False, WINDOW + 1, 0),
        (MISS, WINDOW, False, WINDOW, WINDOW),
        (MISS, WINDOW + 1, False, 2 * WINDOW + 2, WINDOW + 1),
        (MISS, WINDOW, True, WINDOW, 0),
        (BYPASS, WINDOW, False, WINDOW, 0),
        (BYPASS, WINDOW + 1, False, 2 * WINDOW + 2, 0),
        (UNLABELLED, WINDOW, False, WINDOW, 0),
        (UNLABELLED, WINDOW + 1, False, 2 * WINDOW + 2, 0),
        (MISS, 0, False, 0, 0),
    ],
)
def test_an_answer_explains_so_many_bytes_read_and_stored(
    result: str, size: int, *, changes: bool, disk: int, stored: int
) -> None:
    """A live file does not count as stored: it leaves the cache without being evicted."""
    seen = Evidence()
    seen.answers_with(result, size, changes=changes)
    assert seen.answers == {result: 1}
    assert (seen.bytes["answered"], seen.bytes["disk"], seen.bytes["stored"]) == (size, disk, stored)


def test_the_window_is_half_a_mebibyte() -> None:
    assert WINDOW == 512 << 10


def test_under_way_is_what_was_asked_and_neither_answered_nor_refused() -> None:
    seen = Evidence()
    assert seen.under_way() == 0
    for size in (10, 20, 30, 40):
        seen.asks(size)
    assert (seen.under_way(), seen.bytes["asked"]) == (4, 100)
    seen.answers_with(HIT, 10)
    seen.answers_with(UNLABELLED, 20)
    assert seen.under_way() == 2
    seen.is_refused(30)
    assert (seen.under_way(), seen.bytes["answered"]) == (1, 60)
    assert seen.requests == {"asked": 4, "refused": 1}


def test_messages_are_bounded_and_counts_are_not() -> None:
    seen = Evidence()
    for i in range(1000):
        seen.breaks(Broken(LENGTH, f"no. {i}"))
    seen.breaks(Broken(CONTENT, "another"))
    assert seen.broken == {LENGTH: 1000, CONTENT: 1}
    assert seen.messages == {LENGTH: [f"no. {i}" for i in range(5)], CONTENT: ["another"]}


def test_merged_messages_are_bounded_too() -> None:
    seen = Evidence()
    for worker in range(100):
        other = Evidence()
        for i in range(3):
            other.breaks(Broken(LENGTH, f"{worker} {i}"))
        seen.add(other.take())
    assert seen.messages == {LENGTH: ["0 0", "0 1", "0 2", "1 0", "1 1"]}
    assert seen.broken == {LENGTH: 300}


def test_who_wants_to_know_is_told_of_each_breach_and_of_nothing_else() -> None:
    told = []
    seen = Evidence(on_broken=lambda: told.append(seen.broken.total()))
    seen.holds(LENGTH)
    seen.asks(1)
    seen.answers_with(HIT, 1)
    seen.is_refused(1)
    assert told == []
    seen.breaks(Broken(LENGTH, "short"))
    seen.breaks(Broken(LENGTH, "short"))
    assert told == [1, 2]


def test_who_wants_to_know_is_told_when_another_process_reports_a_breach() -> None:
    told = []
    seen = Evidence(on_broken=lambda: told.append(dict(seen.broken)))
    other = Evidence()
    other.holds(LENGTH)
    seen.add(other.take())
    assert told == []
    other.breaks(Broken(LENGTH, "short"))
    other.breaks(Broken(CONTENT, "wrong"))
    seen.add(other.take())
    assert told == [{LENGTH: 1, CONTENT: 1}]


Act = Callable[[Evidence], Any]

SIZES = st.sampled_from([0, 1, WINDOW, WINDOW + 1])
CHECKS = st.sampled_from([ANSWER, LENGTH, CONTENT, VERSION, ORIGIN])
USERS = st.sampled_from(["Reader", "Lister", "Stranger"])
RESULTS = st.sampled_from([HIT, MISS, COALESCED, BYPASS, UNLABELLED])


def succeed(user: str) -> Act:
    return lambda seen: seen.succeeded.update([user])


def is_unable(user: str) -> Act:
    return lambda seen: seen.unable.update({user: f"nothing there for {user}"})


def is_hot(result: str) -> Act:
    return lambda seen: seen.hot.update([result])


ACTS: st.SearchStrategy[Act] = st.one_of(
    CHECKS.map(lambda check: lambda seen: seen.holds(check)),
    CHECKS.map(lambda check: lambda seen: seen.breaks(Broken(check, f"{check} broke"))),
    SIZES.map(lambda size: lambda seen: seen.asks(size)),
    SIZES.map(lambda size: lambda seen: seen.is_refused(size)),
    st.tuples(RESULTS, SIZES, st.booleans()).map(
        lambda what: lambda seen: seen.answers_with(what[0], what[1], changes=what[2])
    ),
    USERS.map(succeed),
    USERS.map(is_unable),
    RESULTS.map(is_hot),
)


def plain(seen: Evidence) -> dict[str, Any]:
    """What it comes to: every field that is data. Zeroes in counters are nothing."""
    counters = ("held", "broken", "succeeded", "answers", "requests", "bytes", "hot")
    return {name: +getattr(seen, name) for name in counters} | {"messages": seen.messages, "unable": seen.unable}


def test_the_tests_know_every_field() -> None:
    fields = set(Evidence.__dataclass_fields__) - {"on_broken"}
    assert plain(Evidence()).keys() == fields
    assert Evidence().take().keys() == fields


@given(st.lists(st.tuples(st.integers(0, 1), ACTS, st.booleans()), max_size=40))
def test_what_two_workers_saw_is_what_one_process_would_have_seen(acts: list[tuple[int, Act, bool]]) -> None:
    """Workers report now and then, as JSON might carry it; what they reported is not reported again."""
    alone, merged = Evidence(), Evidence()
    workers = [Evidence(), Evidence()]
    for at, act, reports in acts:
        act(alone)
        act(workers[at])
        if reports:
            merged.add(json.loads(json.dumps(workers[at].take())))
    for worker in workers:
        merged.add(json.loads(json.dumps(worker.take())))
        assert plain(worker) == plain(Evidence())
    assert plain(merged) == plain(alone)
    assert merged.under_way() == alone.under_way()


def test_what_was_taken_does_not_change_any_more() -> None:
    seen = Evidence()
    seen.holds(LENGTH)
    seen.breaks(Broken(CONTENT, "wrong"))
    seen.unable["Reader"] = "nothing there"
    taken = seen.take()
    before = json.dumps(taken)
    seen.holds(LENGTH)
    seen.breaks(Broken(CONTENT, "wrong again"))
    seen.unable["Lister"] = "nothing there"
    assert json.dumps(taken) == before
    assert seen.held == {LENGTH: 1}
    assert seen.messages == {CONTENT: ["wrong again"]}


def test_what_was_added_does_not_change_any_more() -> None:
    other, seen = Evidence(), Evidence()
    other.breaks(Broken(CONTENT, "wrong"))
    taken = other.take()
    seen.add(taken)
    seen.breaks(Broken(CONTENT, "wrong again"))
    assert taken["messages"] == {CONTENT: ["wrong"]}


def test_no_message_bound_is_out_of_reach() -> None:
    assert _evidence.MESSAGES_MAX == 5
