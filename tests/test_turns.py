"""The fair semaphore: who has waited longest goes next, and who gives up leaves no trace."""

from collections import deque
from typing import Any

import gevent
import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from fileserver.turns import Turns


class Queue:
    """Greenlets that take a turn each and hold it until told; `got` is the order in which they had one."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.got: list[int] = []
        self.waiting: list[gevent.Greenlet[..., bool]] = []

    def join(self, timeout_s: float | None = None) -> "gevent.Greenlet[..., bool]":
        """One more at the end of the queue, waiting when this returns."""
        self.waiting.append(gevent.spawn(self._take, len(self.waiting), timeout_s))
        gevent.sleep(0)
        return self.waiting[-1]

    def _take(self, number: int, timeout_s: float | None) -> bool:
        had = self.turns.take(timeout_s)
        if had:
            self.got.append(number)
        return had


def settle() -> None:
    """Let everybody run who can: a wake-up takes a turn of the loop or two."""
    for _ in range(5):
        gevent.sleep(0)


@pytest.mark.parametrize("limit", [0, -1])
def test_somebody_must_get_a_turn(limit: int) -> None:
    with pytest.raises(ValueError, match="somebody"):
        Turns(limit)


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_there_are_as_many_turns_as_were_asked_for(limit: int) -> None:
    turns = Turns(limit)
    assert [turns.take_now() for _ in range(limit + 2)] == [True] * limit + [False] * 2
    turns.give()
    assert [turns.take_now(), turns.take_now()] == [True, False]


def test_a_free_turn_is_had_without_a_switch() -> None:
    turns = Turns(1)
    others: list[int] = []
    gevent.spawn(others.append, 1)
    assert turns.take()
    assert others == []
    settle()


def test_who_has_waited_longest_goes_next() -> None:
    turns = Turns(2)
    queue = Queue(turns)
    for _ in range(7):
        queue.join()
    assert queue.got == [0, 1]
    for expected in range(2, 7):
        turns.give()
        settle()
        assert queue.got == list(range(expected + 1))


def test_turns_given_at_once_go_to_as_many_in_order() -> None:
    turns = Turns(3)
    queue = Queue(turns)
    for _ in range(6):
        queue.join()
    for _ in range(3):
        turns.give()
    settle()
    assert queue.got == [0, 1, 2, 3, 4, 5]


def test_a_newcomer_overtakes_nobody_who_has_been_given_a_turn_but_has_not_run_yet() -> None:
    turns = Turns(1)
    queue = Queue(turns)
    queue.join()
    queue.join()
    turns.give()  # number 1 has it, and does not know yet
    assert not turns.take_now()
    newcomer = queue.join()
    settle()
    assert queue.got == [0, 1]
    turns.give()
    settle()
    assert (queue.got, newcomer.value) == ([0, 1, 2], True)


def test_who_gives_and_takes_again_goes_to_the_end() -> None:
    turns = Turns(1)
    queue = Queue(turns)
    assert turns.take()
    queue.join()
    queue.join()
    turns.give()
    assert not turns.take_now()
    queue.join()
    for _ in range(2):
        settle()
        turns.give()
    settle()
    assert queue.got == [0, 1, 2]


def test_who_waits_no_longer_leaves_no_trace() -> None:
    turns = Turns(1)
    queue = Queue(turns)
    queue.join()
    impatient = queue.join(0.001)
    patient = queue.join()
    assert impatient.get() is False
    turns.give()
    settle()
    assert (queue.got, patient.value) == ([0, 2], True)
    turns.give()
    assert [turns.take_now(), turns.take_now()] == [True, False]


def test_no_time_at_all_is_a_try_that_leaves_no_trace() -> None:
    turns = Turns(1)
    assert turns.take(0)
    assert not turns.take(0)
    turns.give()
    assert turns.take(0)


def test_a_turn_given_in_the_moment_the_time_is_up_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait ends by its time-out, and before its greenlet runs the turn is given to it."""

    class GivenLate(Event):
        def wait(self, timeout: float | None = None) -> Any:
            assert not super().wait(timeout)
            turns.give()
            return False

    monkeypatch.setattr("fileserver.turns.Event", GivenLate)
    turns = Turns(1)
    assert turns.take()
    assert turns.take(0.001)
    assert not turns.take_now()
    turns.give()
    assert [turns.take_now(), turns.take_now()] == [True, False]


def test_who_is_killed_while_waiting_leaves_no_trace() -> None:
    turns = Turns(1)
    queue = Queue(turns)
    queue.join()
    queue.join().kill()
    queue.join()
    turns.give()
    settle()
    assert queue.got == [0, 2]


@pytest.mark.parametrize("kind", [gevent.Timeout, gevent.GreenletExit])
def test_an_interruption_leaves_no_trace(kind: type[BaseException]) -> None:
    turns = Turns(1)
    assert turns.take()

    def interrupted() -> str:
        try:
            turns.take()
        except kind:
            return "interrupted"
        return "had one"

    waiting = gevent.spawn(interrupted)
    gevent.sleep(0)
    waiting.kill(kind(), block=True)
    assert waiting.value == "interrupted"
    turns.give()
    assert [turns.take_now(), turns.take_now()] == [True, False]


@given(st.integers(1, 4), st.lists(st.sampled_from(["take", "now", "give", "give up"]), max_size=60))
def test_never_more_turns_than_the_limit_and_always_in_order(limit: int, steps: list[str]) -> None:
    turns = Turns(limit)
    queue = Queue(turns)
    held = 0
    waiting: deque[int] = deque()
    expected: list[int] = []
    for step in steps:
        if step == "take":
            number = len(queue.waiting)
            queue.join()
            if held < limit:
                held += 1
                expected.append(number)
            else:
                waiting.append(number)
        elif step == "now":
            assert turns.take_now() == (held < limit)
            held = min(limit, held + 1)
        elif step == "give" and held:
            turns.give()
            if waiting:
                expected.append(waiting.popleft())
            else:
                held -= 1
        elif step == "give up" and waiting:
            queue.waiting[waiting.pop()].kill()
        settle()
        assert queue.got == expected
    for _ in range(held + len(waiting)):
        turns.give()
    settle()
    assert queue.got == [*expected, *waiting]
    assert [turns.take_now() for _ in range(limit + 1)] == [True] * limit + [False]
