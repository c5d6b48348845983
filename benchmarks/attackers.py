"""python -m benchmarks.attackers: what one client can do to all others, by policy.

Honest clients ask for 400 files of 100 kB, popularity by Zipf's law, which all fit; between two of their requests
an attacker makes four. Nothing is served: the requests are replayed against each policy at 64 MiB, always the
same. The figures are the honest requests that miss, in per cent: with nobody else there 4.0, each file's first.
"""

import random
import sys
from collections.abc import Callable, Iterator
from itertools import accumulate

from benchmarks.report import Table
from lrucache import POLICIES
from lrucache.replay import Replay

KB, MB = 10**3, 10**6
CAPACITY = 64 << 20
HONEST_REQUESTS = 10_000
HONEST_FILES = 400
HONEST_BYTES = 100 * KB
ATTACKS_EACH = 4

Request = tuple[str, int]

ATTACKS: dict[str, Callable[[int], Request]] = {
    "nobody attacks": lambda at: ("", 0),
    "30 MB, once each": lambda at: (f"{at}", 30 * MB),
    "1 MB, once each": lambda at: (f"{at}", MB),
    "1 MB, twice each": lambda at: (f"{at // 2}", MB),
    "1 kB, once each": lambda at: (f"{at}", KB),
    "40 of 30 MB, again and again": lambda at: (f"{at % 40}", 30 * MB),
    "ever larger": lambda at: (f"{at}", HONEST_BYTES + at * KB),
}
"""The attacker's requests, in turn."""


def honest_misses(policy: str, attack: Callable[[int], Request]) -> float:
    """The share of honest requests that miss."""
    chance = random.Random(1)
    weights = list(accumulate(1 / rank for rank in range(1, HONEST_FILES + 1)))
    asked = chance.choices(range(HONEST_FILES), cum_weights=weights, k=HONEST_REQUESTS)
    replay = Replay(POLICIES[policy], CAPACITY)
    hits = 0.0
    for at, number in enumerate(asked):
        before = replay.hits
        made(replay, iter([(f"honest {number}", HONEST_BYTES)]))
        hits += replay.hits - before
        made(replay, (attack(ATTACKS_EACH * at + each) for each in range(ATTACKS_EACH)))
    return 1 - hits / HONEST_REQUESTS


def made(replay: Replay, requests: Iterator[Request]) -> None:
    """Make these requests."""
    for _ in replay.run(requests):
        pass


def main() -> int:
    """Replay and print."""
    rows = [
        [title, *(f"{100 * honest_misses(policy, attack):.1f}" for policy in POLICIES)]
        for title, attack in ATTACKS.items()
    ]
    print(Table(["honest requests missed, %", *POLICIES], rows).text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
