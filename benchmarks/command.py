"""What the command lines of all benchmarks have in common: lists of names, and how a run begins and ends."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.peers import LOAD_CORE, pin


def run(main: Callable[[], int]) -> int:
    """The exit code of `main`, which runs on the load's core and tidies up also on SIGTERM and Ctrl-C."""
    if not Path("/proc/self/stat").exists():
        print("the benchmarks read /proc and need Linux", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    pin(LOAD_CORE)
    try:
        return main()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def listed(text: str) -> list[str]:
    """An argument type: words between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def names_of(known: Iterable[str], *, with_options: bool = False) -> Callable[[str], list[str]]:
    """An argument type: some of these names between commas; with options behind a name, if those are allowed."""
    names = list(known)

    def parse(text: str) -> list[str]:
        chosen = listed(text)
        for each in chosen:
            name = each.partition(" --")[0] if with_options else each
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name} is not one of {', '.join(names)}")
        return chosen

    return parse
