"""How late the loop is: what counts as a stall, by a clock of the test's, and a loop that is really held up."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fileserver.about import lag as room
from fileserver.about.counters import Counters
from fileserver.about.lag import EVERY_S, STALL_S, WORST_PERIOD_S, Lag
from fileserver.bursts import QUIET_S, Burst
from tests.house import Clock, House, spawned, wait_for
from tests.program import Program

HELD_UP = "the loop was held up"
HELD_S = 0.3


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(HELD_UP)]


# By a clock of the test's.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """One that also says when a burst is over."""
    clock = Clock()
    monkeypatch.setattr(room, "Burst", lambda trouble: Burst(trouble, clock))
    return clock


@pytest.mark.parametrize(
    ("late_s", "stalls"), [(0.0, 0), (0.02, 0), (STALL_S, 0), (STALL_S + 1e-9, 1), (0.25, 1), (60.0, 1)]
)
def test_only_what_is_later_than_100_ms_is_a_stall(
    clock: Clock, caplog: pytest.LogCaptureFixture, late_s: float, stalls: int
) -> None:
    assert STALL_S == 0.1
    lag = Lag(clock)
    lag.note(late_s)
    assert (lag.stalls, len(said(caplog))) == (stalls, stalls)
    assert (lag.last_s, lag.worst_s) == (late_s, late_s)
    assert (lag.late.count, lag.late.sum) == (1, late_s)


def test_a_new_one_has_seen_nothing(clock: Clock) -> None:
    lag = Lag(clock)
    assert (lag.stalls, lag.last_s, lag.worst_s, lag.late.count) == (0, 0.0, 0.0, 0)


def test_a_burst_of_stalls_is_said_once_and_each_is_counted(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    lag = Lag(clock)
    for _ in range(50):
        clock.now_s += QUIET_S - 1
        lag.note(0.25)
    assert lag.stalls == 50
    assert said(caplog) == [f"{HELD_UP}: for 250 ms (said once until {QUIET_S:g} s without it)"]
    assert caplog.records[0].levelno == logging.WARNING
    clock.now_s += QUIET_S
    lag.note(0.05)
    assert len(said(caplog)) == 1
    lag.note(0.75)
    assert [line.partition(" (")[0] for line in said(caplog)][1:] == [f"{HELD_UP}: for 750 ms"]


def test_the_last_is_the_last_and_the_histogram_has_all(clock: Clock) -> None:
    lag = Lag(clock)
    for late_s in (0.3, 0.001, 0.2, 0.05):
        lag.note(late_s)
    assert (lag.last_s, lag.worst_s, lag.stalls) == (0.05, 0.3, 2)
    assert lag.late.count == 4
    assert lag.late.sum == pytest.approx(0.551)


def test_the_statistics_tell_the_last_the_worst_and_how_many_stalls(folder: Path) -> None:
    with House(folder) as house:
        counters = Counters(house.store, house.site.traffic, None, None)
        for late_s in (0.3, 0.7, 0.0512345678):
            counters.lag.note(late_s)
        told = counters.stats(house.cache.stats())["loop_lag"]
    assert told == {"last_s": 0.051235, "worst_s": 0.7, "stalls": 2}


@settings(derandomize=True, database=None, deadline=None, max_examples=50)
@given(pauses=st.lists(st.tuples(st.floats(0.1, 1.0), st.floats(0, 0.09), st.integers(1, 80)), max_size=20))
def test_the_worst_is_that_of_the_last_one_or_two_minutes(pauses: list[tuple[float, float, int]]) -> None:
    clock = Clock()
    lag = Lag(clock)
    noted = []
    for pause_s, late_s, times in pauses:
        for _ in range(times):
            clock.now_s += pause_s
            lag.note(late_s)
            noted.append((clock.now_s, late_s))
        within = [late for when_s, late in noted if clock.now_s - when_s < WORST_PERIOD_S]
        longer = [late for when_s, late in noted if clock.now_s - when_s <= 2 * WORST_PERIOD_S + 2]
        assert max(within) <= lag.worst_s <= max(longer)


def test_a_worst_one_is_forgotten_in_the_end(clock: Clock) -> None:
    lag = Lag(clock)
    lag.note(5.0)
    seen = []
    for _ in range(int(2 * WORST_PERIOD_S) + 2):
        clock.now_s += 1.0
        lag.note(0.01)
        seen.append(lag.worst_s)
    assert seen[: int(WORST_PERIOD_S)] == [5.0] * int(WORST_PERIOD_S)
    assert seen[-1] == 0.01


# A loop that is really held up.


def sleeping() -> None:
    time.sleep(HELD_S)


def burning() -> None:
    until_s = time.monotonic() + HELD_S
    while time.monotonic() < until_s:
        pass


@pytest.fixture
def running() -> Iterator[Lag]:
    """A Lag over this process's loop, which has woken once."""
    with spawned() as started:
        lag = Lag()
        lag.start()
    wait_for(lambda: lag.late.count)
    yield lag
    gevent.killall(started)


@pytest.mark.parametrize("hold", [sleeping, burning])
def test_who_holds_the_loop_is_noticed_counted_and_said_once(
    running: Lag, caplog: pytest.LogCaptureFixture, hold: Callable[[], None]
) -> None:
    for held in (1, 2, 3):
        before, beats = running.stalls, running.late.count
        gevent.spawn(hold).join()
        while running.late.count == beats:
            gevent.sleep(0.001)
        assert running.stalls > before
        assert running.stalls >= held
        assert running.worst_s >= HELD_S - EVERY_S - 0.01
    assert len(said(caplog)) == 1


def test_it_goes_on_waking_each_100_ms_and_no_oftener(running: Lag) -> None:
    began_s, beats = time.monotonic(), running.late.count
    wait_for(lambda: running.late.count >= beats + 5)
    assert EVERY_S == 0.1
    assert time.monotonic() - began_s >= 4 * EVERY_S


NATIVE_SLEEP = (
    "from gevent.monkey import get_original;"
    f" gserver.on_signal('SIGUSR1', lambda: get_original('time', 'sleep')({HELD_S}))"
)
"""Changes with which a SIGUSR1 holds the loop up."""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
def test_a_server_that_is_held_up_says_so_in_its_statistics_and_once_in_its_log(folder: Path) -> None:
    with Program(folder, changes=NATIVE_SLEEP) as server:
        for _ in range(3):
            before = server.stats()["loop_lag"]["stalls"]
            server.process.send_signal(signal.SIGUSR1)
            while (found := server.stats()["loop_lag"])["stalls"] == before:
                pass
            assert found["worst_s"] >= HELD_S - EVERY_S - 0.01
            assert found.keys() == {"last_s", "worst_s", "stalls"}
        assert found["stalls"] >= 3
        assert server.stop().count(HELD_UP) == 1
