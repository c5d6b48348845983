"""python -m benchmarks.cluster: one gserver, the same behind HAProxy, and three behind it with three caches.

Files that fit into no cache, asked for by Zipf's law. How many of the requests the caches answer is the figure;
the servers and HAProxy share one core, so that nothing here says how much faster three machines are than one.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.clients import stats
from benchmarks.command import run
from benchmarks.haproxy import balancing
from benchmarks.peers import SERVER_CORE, Missing, Peer, serving
from benchmarks.replay import Wanted, replay
from benchmarks.report import Table, heading, ratios, short
from benchmarks.rounds import SETTLED_S, rotated

WAYS = {"one gserver": (1, False), "one behind HAProxy": (1, True), "three behind HAProxy": (3, True)}
"""How many gservers, and whether the proxy is in front of them. Compared with the first."""

ZIPF_EXPONENT = 0.9
KIB = 1 << 10
CONNECTIONS = 32
REPLAY_MAX_S = 600.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one replay: answers a second, CPU time of each (servers and proxy), the ratio of hits, files held."""

    per_s: float
    cpu_us: float
    hit_ratio: float
    held: int


def main() -> int:
    """Measure and print; the exit code is 1 when nothing could be measured."""
    arguments = parse()
    sizes, queue = workload(arguments.files, arguments.requests)
    samples: dict[str, list[Sample]] = {way: [] for way in WAYS}
    versions: dict[str, str] = {}
    with TemporaryDirectory(prefix="gserver-bench-") as folder:
        for name, size in sizes.items():
            (Path(folder) / name).write_bytes(b"x" * size)
        time.sleep(SETTLED_S)
        try:
            for number in range(arguments.rounds):
                for way in rotated(list(WAYS), number):
                    with started(Path(folder), *WAYS[way], arguments.cache) as peers:
                        versions |= {peer.name: peer.version for peer in peers}
                        samples[way].append(measured(peers, queue))
        except Missing as reason:
            print(reason, file=sys.stderr)
            return 1
    total = sum(sizes.values())
    print(
        f"{arguments.files:,} files, {total / (1 << 20):.0f} MiB; {arguments.cache} each; {len(queue):,} requests"
    )
    print(table(samples).text(), heading("benchmarks.cluster", versions), sep="\n\n")
    return 0


def workload(files: int, requests: int) -> tuple[dict[str, int], list[Wanted]]:
    """The sizes, spread evenly over the logarithm from 1 to 64 KiB, and what is asked for."""
    chance = random.Random(1)
    sizes = {f"f{number}": int(KIB * 64 ** chance.random()) for number in range(files)}
    popularity = [1 / rank**ZIPF_EXPONENT for rank in range(1, files + 1)]
    return sizes, [Wanted(name, sizes[name]) for name in chance.choices(list(sizes), popularity, k=requests)]


@contextmanager
def started(folder: Path, count: int, is_balanced: bool, cache: str) -> Iterator[list[Peer]]:
    """So many gservers, and the proxy in front of them as the last. Raises Missing."""
    with ExitStack() as running:
        peers = [
            running.enter_context(serving("gserver", folder, options=("--cache", cache))) for _ in range(count)
        ]
        if is_balanced:
            front = balancing([peer.port for peer in peers], core=SERVER_CORE)
            peers.append(running.enter_context(front))
        yield peers


def measured(peers: list[Peer], queue: list[Wanted]) -> Sample:
    """Replay it once for the caches to fill, and once more. Blocks; raises replay.Broken."""
    front, nodes = peers[-1], [peer for peer in peers if peer.name == "gserver"]
    replay(front.host, front.port, queue, connections=CONNECTIONS, max_s=REPLAY_MAX_S)
    before, used_s = counted(nodes), sum(peer.cpu_s() for peer in peers)
    took_s = replay(front.host, front.port, queue, connections=CONNECTIONS, max_s=REPLAY_MAX_S).took_s
    after, used_s = counted(nodes), sum(peer.cpu_s() for peer in peers) - used_s
    return Sample(
        per_s=len(queue) / took_s,
        cpu_us=used_s / len(queue) * 1e6,
        hit_ratio=(after["hits"] - before["hits"]) / (after["file_answers"] - before["file_answers"]),
        held=after["entries"],
    )


def counted(nodes: list[Peer]) -> Mapping[str, int]:
    """The counters of all together."""
    said = [stats(node.port) for node in nodes]
    return {name: sum(each[name] for each in said) for name in ("hits", "file_answers", "entries")}


def table(samples: Mapping[str, list[Sample]]) -> Table:
    """Medians, and throughput and CPU time against the first of the same round."""
    first, *_ = samples.values()
    rows = [
        [
            way,
            f"{median(each.hit_ratio for each in taken):.3f}",
            f"{median(each.held for each in taken):,.0f}",
            short(median(each.per_s for each in taken)),
            str(ratios([each.per_s for each in taken], [each.per_s for each in first])),
            f"{median(each.cpu_us for each in taken):.0f}",
            str(ratios([each.cpu_us for each in taken], [each.cpu_us for each in first])),
        ]
        for way, taken in samples.items()
    ]
    return Table(["", "hit ratio", "files held", "requests/s", "ratio", "CPU us", "ratio"], rows)


def parse() -> argparse.Namespace:
    """The command line. Exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--files", type=int, default=12_000, help="default: 12000")
    parser.add_argument("--requests", type=int, default=60_000, help="default: 60000")
    parser.add_argument("--cache", default="16MiB", help="of each gserver (default: 16MiB)")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.files, arguments.requests) < 1:
        parser.error("--rounds, --files and --requests are at least 1")
    return arguments


if __name__ == "__main__":
    sys.exit(run(main))
