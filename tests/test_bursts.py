"""What goes wrong a thousand times a second is one line in the log."""

import logging

import pytest

from fileserver.bursts import QUIET_S, Burst
from tests.house import Clock


@pytest.mark.parametrize(
    ("pauses_s", "said"),
    [
        ([], [0]),
        ([0.0] * 1000, [0]),
        ([QUIET_S - 0.001], [0]),
        ([QUIET_S], [0, 1]),
        # The silence is counted from the last time, not from the last line.
        ([QUIET_S * 0.75] * 20, [0]),
        ([QUIET_S / 2, QUIET_S / 2, QUIET_S], [0, 3]),
        ([0.0, QUIET_S, 0.0, QUIET_S, 0.0], [0, 2, 4]),
    ],
)
def test_a_burst_is_said_once_until_there_was_quiet(
    caplog: pytest.LogCaptureFixture, pauses_s: list[float], said: list[int]
) -> None:
    clock = Clock()
    burst = Burst("cannot do it", clock)
    burst("0")
    for number, pause_s in enumerate(pauses_s, 1):
        clock.now_s += pause_s
        burst(str(number))
    assert [record.getMessage() for record in caplog.records] == [
        f"cannot do it: {number} (said once until 10 s without it)" for number in said
    ]
    assert {(record.name, record.levelno) for record in caplog.records} == {("gserver", logging.WARNING)}


def test_the_first_trouble_is_said_even_at_the_beginning_of_time(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    clock.now_s = 0.0
    Burst("cannot do it", clock)("at all")
    assert len(caplog.records) == 1


def test_two_kinds_of_trouble_do_not_silence_each_other(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    for trouble in ("one", "another"):
        Burst(trouble, clock)("reason")
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["one", "another"]
