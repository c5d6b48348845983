"""What one client can do to the others, replayed: the figures that the README says."""

import pytest

from benchmarks.attackers import ATTACKS, HONEST_FILES, HONEST_REQUESTS, honest_misses
from lrucache import POLICIES


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_with_nobody_else_each_file_misses_once(policy: str) -> None:
    assert honest_misses(policy, ATTACKS["nobody attacks"]) == pytest.approx(
        HONEST_FILES / HONEST_REQUESTS, abs=0.001
    )


@pytest.mark.parametrize(
    ("attack", "policy", "missed"),
    [
        ("30 MB, once each", "lru", 1.0),
        ("30 MB, once each", "sieve", 1.0),
        ("30 MB, once each", "relocate", 0.37),
        ("30 MB, once each", "gdsf", 0.32),
        ("30 MB, once each", "s3fifo", 0.04),
        ("1 MB, twice each", "gdsf", 0.24),
        ("1 MB, twice each", "relocate", 0.53),
        ("1 MB, twice each", "sieve", 0.64),
    ],
)
def test_an_attacker_makes_the_others_miss(attack: str, policy: str, missed: float) -> None:
    assert honest_misses(policy, ATTACKS[attack]) == pytest.approx(missed, abs=0.01)
