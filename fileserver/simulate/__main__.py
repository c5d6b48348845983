"""python -m fileserver.simulate TRACE...: what each policy and each size of the cache would do for these requests.

The answer to "which --policy and --cache are mine?", from one's own access log: misses, bytes missed, and the time
that three kinds of storage would have taken for them, beside what nobody can do better. The policies are those of
the server, to the line; what is not simulated is that a fill takes time and that files change.
"""

import argparse
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeVar

from fileserver.options import Parser, size
from fileserver.rendering import size_text
from fileserver.simulate import traces
from fileserver.simulate.simulation import BOUND, Result, Storage, bound, choices, simulate
from lrucache import POLICIES

try:
    from tqdm import tqdm
except ImportError as missing:
    sys.exit(f"simulate: {missing.name} is missing; install what it needs with: pip install '.[simulate]'")

Item = TypeVar("Item")

CAPACITIES = "16MiB,64MiB,256MiB"
PICTURES = (".svg", ".png", ".pdf")
SHOWN_AFTER_S = 1.0
"""Who waits longer sees how far it is."""
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_STORAGE = re.compile(r"([\w-]+)=(\d+(?:\.\d+)?)(us|ms|s),(\d+(?:\.\d+)?)([kMGT]?)B/s")


STORAGES = (Storage("nvme", 0.0001, 3e9), Storage("hdd", 0.008, 200e6), Storage("network", 0.002, 100e6))


def main() -> int:
    """Print what was asked for; the exit code."""
    arguments = parse()
    try:
        answer(arguments)
    except traces.NotATrace as problem:
        why = str(problem)
    except OSError as problem:
        why = f"{problem.filename or 'cannot write'}: {problem.strerror}"
    else:
        return 0
    print(f"simulate: {why}", file=sys.stderr)
    return 1


def answer(arguments: argparse.Namespace) -> None:
    """Read, simulate, print, draw. Raises traces.NotATrace, and OSError where it cannot write."""
    trace = traces.read(arguments.traces, watched)
    results = simulated(trace, arguments)
    bounds = bound(trace, arguments.capacity, arguments.storage)
    if arguments.json:
        printed(json.dumps(as_json(results, bounds), indent=2))
    else:
        printed("\n".join(report(trace, results, bounds)))
    if arguments.plot:
        from fileserver.simulate import plot  # noqa: PLC0415 (half a second, for who wants a picture)

        plot.draw(arguments.plot, results, bounds)


def printed(text: str) -> None:
    """Print it all now. Raises OSError."""
    try:
        print(text, flush=True)
    except OSError:
        # Python would write it again at exit, fail again, and make the exit code 120.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise


def parse() -> argparse.Namespace:
    """The command line. Exits with 2 when it is wrong."""
    parser = Parser(
        prog="python -m fileserver.simulate",
        description="Replay requests against every policy: which --policy and --cache are yours?",
    )
    add = parser.add_argument
    add(
        "traces",
        metavar="TRACE",
        nargs="+",
        help="access logs (Common, Combined, gserver's own) or CSV (time,object,size), also .gz; - is standard"
        " input; several are one trace, by their first requests",
    )
    add("--capacity", type=listed(size), default=CAPACITIES, help=f"sizes of the cache (default: {CAPACITIES})")
    add("--policy", type=listed(policy), default=",".join(POLICIES), help="default: %(default)s")
    add(
        "--storage",
        metavar="NAME=SEEK,RATE",
        type=storage,
        action="append",
        default=[],
        help="a kind of storage, or other numbers for nvme, hdd or network: hdd=8ms,200MB/s; more than once",
    )
    add("--plot", metavar="FILE", type=picture, help=f"draw miss ratios against capacity ({', '.join(PICTURES)})")
    add("--json", action="store_true", help="the numbers alone: fractions, bytes and seconds")
    arguments = parser.parse_args()
    storages = {each.name: each for each in (*STORAGES, *arguments.storage)}
    arguments.storage = list(storages.values())
    return arguments


def listed(kind: Callable[[str], Item]) -> Callable[[str], list[Item]]:
    """An argument type: some of a `kind`, between commas, each once."""

    def parse(text: str) -> list[Item]:
        return list(dict.fromkeys(kind(word.strip()) for word in text.split(",")))

    return parse


def policy(text: str) -> str:
    """An argument type: the name of a policy."""
    if text not in POLICIES:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(POLICIES)}")
    return text


def picture(text: str) -> str:
    """An argument type: a file of a kind that can be drawn."""
    if not text.endswith(PICTURES):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {', '.join(PICTURES)}")
    return text


def storage(text: str) -> Storage:
    """An argument type: `hdd=8ms,200MB/s`."""
    match = _STORAGE.fullmatch(text)
    if match is None or not float(match[4]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a storage like hdd=8ms,200MB/s")
    return Storage(match[1], float(match[2]) * _SECONDS[match[3]], float(match[4]) * _BYTES[match[5]])


def watched(lines: Iterable[str], path: str) -> Iterable[str]:
    """The same lines; on a terminal with a bar, once it takes long."""
    shown: Iterable[str] = progress(lines, desc=f"reading {path}", unit=" lines")
    return shown


def progress(lines: Iterable[str] | None = None, **shown: Any) -> Any:
    """A bar on the standard error, if that is a terminal, for what takes long."""
    return tqdm(lines, delay=SHOWN_AFTER_S, disable=None, leave=False, **shown)


def simulated(trace: traces.Trace, arguments: argparse.Namespace) -> list[Result]:
    """What was asked for; on a terminal with a bar, once it takes long."""
    each = len(trace.requests)
    runs = len(arguments.capacity) * len(arguments.policy)
    with progress(total=each * runs, unit=" requests") as bar:

        def watch(policy: str, capacity: int, done: float) -> None:
            bar.set_description(f"{policy}, {size_text(capacity)}", refresh=False)
            bar.update(len(results) * each + done - bar.n)

        results: list[Result] = []
        for result in simulate(trace, arguments.capacity, arguments.policy, arguments.storage, watch):
            results.append(result)
    return results


def as_json(results: Sequence[Result], bounds: Sequence[Result]) -> list[dict[str, object]]:
    """Every result, and with it the bound at its capacity."""
    by_capacity = {each.capacity: each._asdict() for each in bounds}
    for each in by_capacity.values():
        del each["policy"], each["capacity"]
    return [{**each._asdict(), "bound": by_capacity[each.capacity]} for each in results]


def report(trace: traces.Trace, results: Sequence[Result], bounds: Sequence[Result]) -> Iterator[str]:
    """For people: a table for each capacity, and what to choose."""
    yield (
        f"{len(trace.requests):,} requests for {len(trace.sizes):,} files of {size_text(trace.unique_bytes())}; "
        f"{size_text(trace.asked_bytes())} were asked for"
    )
    if trace.skipped:
        yield f"{trace.skipped:,} lines were not lines of an access log, and were left out"
    for (capacity, some), limit in zip(groupby(results, key=lambda each: each.capacity), bounds, strict=True):
        group = list(some)
        storages = list(limit.disk_time)
        yield ""
        yield f"{size_text(capacity):10}{'misses':>10}{'bytes':>10}" + "".join(
            f"  {name:>10}" for name in storages
        )
        for each in (*group, limit):
            seconds = "".join(f"  {duration(each.disk_time[name]):>{max(10, len(name))}}" for name in storages)
            yield f"{each.policy:10}{each.object_miss:>10.2%}{each.byte_miss:>10.2%}{seconds}"
        if len(group) > 1:
            chosen = "".join(f"  {policy:>{max(10, len(name))}}" for name, policy in choices(group).items())
            yield f"{'choose':30}{chosen}"
    yield ""
    yield f"misses and bytes had to be read, the first time included; {', '.join(storages)}: what that takes there"
    yield f"{BOUND}: no order of eviction can do better, each number for itself (Berger et al. 2018)"


def duration(seconds: float) -> str:
    """For people: `850 ms`, `12.3 s`, `4.5 min`, `7.1 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
