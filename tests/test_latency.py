"""Times in buckets beside a naive list of all of them: no percentile is too low, none is much too high, and all of
them take no more memory than a few."""

import math
import pickle
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fileserver.latency import (
    ALL_TIMED,
    BOUNDS,
    EVERY,
    PERCENTILES,
    SLOWEST_KEPT,
    SLOWEST_PERIOD_S,
    Histogram,
    Latency,
    Slow,
    Slowest,
)

LARGEST_STEP = 1.28
"""From 1.25 to 1.6: what a percentile can be too high by."""

Noted = list[tuple[float, int]]

rules = settings(derandomize=True, database=None, deadline=None)

seconds = st.floats(BOUNDS[0], BOUNDS[-1]) | st.sampled_from(BOUNDS)
noted = st.lists(st.tuples(seconds, st.integers(1, 20)), min_size=1, max_size=60)


def histogram(times: Noted) -> Histogram:
    made = Histogram()
    for each, count in times:
        made.note(each, count)
    return made


def every(times: Noted) -> list[float]:
    """The naive model: all of them, in order."""
    return sorted(each for each, count in times for _ in range(count))


# Histogram.


def test_the_bounds_grow_strictly_ten_to_a_decade() -> None:
    assert (BOUNDS[0], BOUNDS[-1], len(BOUNDS)) == (1e-6, 800, 90)
    for low, high in pairwise(BOUNDS):
        assert low < high <= low * LARGEST_STEP * (1 + 1e-9)
    for index in range(len(BOUNDS) - 10):
        assert BOUNDS[index + 10] == pytest.approx(10 * BOUNDS[index], rel=1e-12)


@rules
@given(times=noted, share=st.sampled_from([*PERCENTILES.values(), 1.0]) | st.floats(0.001, 1))
@example(times=[(1.0, 1), (2.0, 1)], share=0.5)
@example(times=[(1.0, 9), (700.0, 1)], share=0.9)
@example(times=[(1.0, 98), (700.0, 2)], share=0.99)
@example(times=[(1.0, 999), (700.0, 1)], share=0.999)
def test_a_percentile_is_never_too_low_and_at_most_a_step_too_high(times: Noted, share: float) -> None:
    model = every(times)
    exact = model[max(1, math.ceil(share * len(model))) - 1]
    said = histogram(times).percentile(share)
    assert said is not None
    assert exact <= said <= exact * LARGEST_STEP * (1 + 1e-9)


@rules
@given(times=noted)
def test_percentiles_grow_with_their_share_and_are_bounds(times: Noted) -> None:
    said = [histogram(times).percentile(share / 50) for share in range(51)]
    found = [each for each in said if each is not None]
    assert found == sorted(found)
    assert len(found) == len(said)
    assert set(found) <= set(BOUNDS)


@rules
@given(times=noted)
def test_count_and_sum_are_those_of_all(times: Noted) -> None:
    model, made = every(times), histogram(times)
    assert made.count == len(model)
    assert made.sum == pytest.approx(math.fsum(model))
    once = Histogram()
    for each in model:
        once.note(each)
    assert once.counts == made.counts


@rules
@given(one=noted, other=noted)
def test_two_added_are_as_one_that_was_told_all_and_stay_as_they_were(one: Noted, other: Noted) -> None:
    left, right = histogram(one), histogram(other)
    before = (list(left.counts), left.sum, list(right.counts), right.sum)
    added = left + right
    assert added.counts == histogram(one + other).counts
    assert added.sum == pytest.approx(math.fsum(every(one + other)))
    added.note(1.0)
    assert (left.counts, left.sum, right.counts, right.sum) == before


def test_one_made_of_counts_does_not_share_them() -> None:
    counts = [0] * (len(BOUNDS) + 1)
    counts[BOUNDS.index(5.0)] = 3
    made = Histogram(counts, 12.0)
    made.note(1.0)
    assert (made.count, made.sum, made.percentile(0.5)) == (4, 13.0, 5.0)
    assert sum(counts) == 3
    assert len(Histogram().counts) == len(counts)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_bound_belongs_to_its_own_bucket_and_a_little_more_to_the_next(bound: float) -> None:
    above = BOUNDS[BOUNDS.index(bound) + 1] if bound < BOUNDS[-1] else None
    assert histogram([(bound, 1)]).percentile(0.5) == bound
    assert histogram([(math.nextafter(bound, math.inf), 1)]).percentile(0.5) == above


def test_an_empty_one_has_no_percentile() -> None:
    empty = Histogram()
    assert [empty.percentile(share) for share in (0.0, 0.5, 1.0)] == [None] * 3
    assert empty.summary() == {"count": 0, "p50": None, "p90": None, "p99": None, "p99.9": None}
    assert (empty + Histogram()).summary() == empty.summary()
    assert empty.sum == 0


def test_above_the_last_bound_nothing_is_known_but_how_many() -> None:
    made = histogram([(0.004, 90), (BOUNDS[-1] + 1, 10)])
    assert made.summary() == {"count": 100, "p50": 0.004, "p90": 0.004, "p99": None, "p99.9": None}
    assert made.sum == pytest.approx(0.36 + 10 * 801)
    assert histogram([(1e9, 1)]).percentile(0.0) is None


def test_what_took_no_time_is_in_the_first_bucket() -> None:
    assert histogram([(0.0, 3)]).percentile(1.0) == BOUNDS[0]


def test_the_summary_has_the_percentiles_by_their_names() -> None:
    made = histogram([(0.001, 500), (0.01, 400), (0.1, 90), (1.0, 9), (10.0, 1)])
    assert made.summary() == {"count": 1000, "p50": 0.001, "p90": 0.01, "p99": 0.1, "p99.9": 1.0}


# Latency.


def at_once(latency: Latency, took_s: float) -> bool:
    """What the fast path does for one answer; whether it had to be timed."""
    latency.at_once += 1
    if latency.at_once >= latency.due:
        latency.timed(took_s)
        return True
    return False


def test_the_first_thousand_are_all_timed_and_then_one_in_sixteen() -> None:
    latency = Latency()
    number = ALL_TIMED + 2000 * EVERY
    timed = [number for number in range(1, number + 1) if at_once(latency, 0.001)]
    assert timed[:ALL_TIMED] == [*range(1, ALL_TIMED + 1)]
    assert abs(len(timed) - ALL_TIMED - 2000) < 200
    assert (ALL_TIMED, EVERY) == (1000, 16)


def test_one_that_is_timed_stands_for_those_before_it() -> None:
    latency = Latency()
    for number in range(ALL_TIMED):
        at_once(latency, 0.001)
        assert latency.total.count == number + 1
    steps = 1
    while not at_once(latency, 5.0):
        steps += 1
    for found in (latency.first_byte, latency.total):
        assert found.count == ALL_TIMED + steps
        assert found.counts[BOUNDS.index(5.0)] == steps
        assert found.sum == pytest.approx(ALL_TIMED * 0.001 + steps * 5.0)


def test_as_many_are_counted_as_there_were_but_for_a_few() -> None:
    latency = Latency()
    lags = set()
    for number in range(1, ALL_TIMED + 200 * EVERY):
        at_once(latency, 0.001)
        lag = latency.at_once - latency.total.count
        assert 0 <= lag < 2 * EVERY - 1
        assert lag == 0 or number > ALL_TIMED
        lags.add(lag)
    assert len(lags) > EVERY


@pytest.mark.parametrize("turn", [2, EVERY - 1, EVERY, EVERY + 1, 2 * EVERY])
def test_files_that_are_asked_for_in_turn_are_all_timed(turn: int) -> None:
    latency = Latency()
    timed = [number for number in range(ALL_TIMED + 1000 * EVERY) if at_once(latency, 0.001)]
    assert {number % turn for number in timed if number >= ALL_TIMED} == set(range(turn))


def test_who_took_more_than_one_send_is_counted_by_both_times() -> None:
    latency = Latency()
    latency.note(0.002, 8.0)
    at_once(latency, 0.5)
    assert latency.first_byte.counts == histogram([(0.002, 1), (0.5, 1)]).counts
    assert latency.total.counts == histogram([(8.0, 1), (0.5, 1)]).counts
    assert (latency.first_byte.sum, latency.total.sum) == (0.502, 8.5)


def test_asking_changes_nothing() -> None:
    latency = Latency()
    latency.note(0.002, 8.0)
    for _ in range(3):
        latency.first_byte.note(1.0)
        latency.total.note(1.0)
    assert (latency.first_byte.count, latency.total.count) == (1, 1)


def test_however_many_times_there_were_they_take_no_more_memory() -> None:
    latency, slowest = Latency(), Slowest()
    for number in range(100_000):
        at_once(latency, number / 1000)
        latency.note(number / 1000, float(number))
        slowest.note(Slow(number / 1000, f"{number}", number, 1000.0 + number / 500))
    assert len(pickle.dumps(latency)) < 4096
    assert len(pickle.dumps(slowest)) < 4096
    assert latency.total.count > 199_900


# Slowest.


def slow(took_s: float, when_s: float) -> Slow:
    return Slow(took_s, f"{took_s} at {when_s}", 1, when_s)


@rules
@given(
    steps=st.lists(
        st.tuples(
            st.floats(0, 100) | st.sampled_from([0.0, SLOWEST_PERIOD_S, 2 * SLOWEST_PERIOD_S, 1e4]),
            st.integers(0, 30),
        ),
        max_size=50,
    ),
    start_s=st.sampled_from([0.0, 1.0, SLOWEST_PERIOD_S, 1e6]),
)
def test_the_slowest_of_a_period_are_there_and_after_two_they_are_not(
    steps: list[tuple[float, int]], start_s: float
) -> None:
    now_s, slowest, model = start_s, Slowest(), []
    for number, (pause_s, took_s) in enumerate(steps):
        now_s += pause_s
        model.append(Slow(float(took_s), f"{number}", number, now_s))
        slowest.note(model[-1])
        latest = slowest.latest(now_s)
        assert len(set(latest)) == len(latest) <= SLOWEST_KEPT
        assert latest == sorted(latest, key=lambda each: -each.seconds)
        assert set(latest) <= {each for each in model if now_s - each.when_s < 2 * SLOWEST_PERIOD_S}
        for each in model:
            if now_s - each.when_s < SLOWEST_PERIOD_S and each not in latest:
                assert len(latest) == SLOWEST_KEPT
                assert latest[-1].seconds >= each.seconds


@pytest.mark.parametrize("step", [1, 7, 49])
def test_of_many_in_one_period_the_slowest_stay_in_whatever_order_they_came(step: int) -> None:
    slowest = Slowest()
    for number in range(50):
        slowest.note(slow(float(number * step % 50), 1000.0))
    assert [each.seconds for each in slowest.latest(1000.0)] == [float(took_s) for took_s in range(49, 39, -1)]


def test_they_are_forgotten_after_one_to_two_periods() -> None:
    slowest = Slowest()
    early, late = slow(9.0, 1000.0), slow(5.0, 1000.0 + SLOWEST_PERIOD_S - 1)
    slowest.note(early)
    slowest.note(late)
    end_s = 1000.0 + 2 * SLOWEST_PERIOD_S
    assert slowest.latest(1000.0 + SLOWEST_PERIOD_S) == [early, late]
    assert slowest.latest(end_s - 0.01) == [early, late]
    assert slowest.latest(end_s) == []


def test_those_of_the_period_before_are_among_the_latest_by_how_slow_they_were() -> None:
    slowest = Slowest()
    before = [slow(float(took_s), 1000.0) for took_s in range(0, 20, 2)]
    after = [slow(float(took_s), 1000.0 + SLOWEST_PERIOD_S) for took_s in range(1, 21, 2)]
    for each in before + after:
        slowest.note(each)
    latest = slowest.latest(1001.0 + SLOWEST_PERIOD_S)
    assert [each.seconds for each in latest] == [float(took_s) for took_s in range(19, 9, -1)]


def test_a_clock_that_jumps_ahead_forgets_all_and_one_that_jumps_back_nothing() -> None:
    slowest = Slowest()
    first = slow(9.0, 1000.0)
    slowest.note(first)
    assert slowest.latest(10.0) == [first]
    back = slow(3.0, 10.0)
    slowest.note(back)
    assert slowest.latest(10.0) == [first, back]
    assert slowest.latest(1e9) == []
    again = slow(1.0, 1e9)
    slowest.note(again)
    assert slowest.latest(1e9) == [again]
