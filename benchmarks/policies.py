"""python -m benchmarks.policies: what each order of eviction costs, and `--what-if`, beside gserver as it comes.

What the orders are good for is another question, which `fileserver.simulate` answers.
"""

import sys
from functools import partial

from benchmarks.command import run
from benchmarks.peers import serving
from benchmarks.rounds import Start
from benchmarks.variants import compare
from benchmarks.workloads import Column
from lrucache import POLICIES

DEFAULT = "relocate"
OPTIONS = {name: ("--policy", name) for name in (DEFAULT, *POLICIES)} | {"what-if": ("--what-if",)}
COLUMNS = ("1k", "zipf", "misses")
"""Nothing but hits of one file; of many; three of four are misses, and evict."""


def started(options: tuple[str, ...], column: Column) -> Start:
    """gserver with these options."""
    return partial(serving, "gserver", options=(*column.options, *options))


def main() -> int:
    """Measure and print; the exit code is 1 when nothing could be measured."""
    ways = {name: partial(started, options) for name, options in OPTIONS.items()}
    return compare("policies", (__doc__ or "").partition("\n")[0], ways, COLUMNS)


if __name__ == "__main__":
    sys.exit(run(main))
