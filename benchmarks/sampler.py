"""python -P sampler.py OUTPUT GSERVER [ARGUMENT ...]: gserver, with a look at what it does every few milliseconds.

Runs inside the server, so it imports nothing that gserver replaces, and nothing of this package. From the first
SIGUSR1 on a signal comes for each INTERVAL_S of CPU time that the process has used; what the main thread then
executes is counted, and written to OUTPUT as JSON when the server ends. A call into C counts for its line.
"""

import json
import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

INTERVAL_S = 0.001
"""Wanted; the kernel looks at its ticks, so that it is 4 ms where it has 250 of them a second."""


class Sampler:
    """Counts stacks: file, line and function, the innermost first."""

    def __init__(self) -> None:
        self._stacks: Counter[tuple[tuple[str, int, str], ...]] = Counter()

    def begin(self, number: int = 0, frame: FrameType | None = None) -> None:
        """A signal's handler: count from here on."""
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def look(self, number: int, frame: FrameType | None) -> None:
        """A signal's handler: count what runs."""
        stack = []
        while frame is not None:
            stack.append((frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_qualname))
            frame = frame.f_back
        self._stacks[tuple(stack)] += 1

    def end(self, output: Path) -> None:
        """Count no more, and write what there is."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        output.write_text(json.dumps([[count, stack] for stack, count in self._stacks.items()]))


def main(output: str, program: str, *arguments: str) -> None:
    """Run the program as if it were started directly."""
    sampler = Sampler()
    signal.signal(signal.SIGPROF, sampler.look)
    signal.signal(signal.SIGUSR1, sampler.begin)
    sys.argv = [program, *arguments]
    sys.path.insert(0, str(Path(program).parent))
    try:
        runpy.run_path(program, run_name="__main__")
    finally:
        sampler.end(Path(output))


if __name__ == "__main__":
    main(*sys.argv[1:])
