"""Servers over the files of a column, asked one after another in alternating rounds.

A room of its own because `benchmarks.http` compares servers in this way, and `benchmarks.hotpath` checkouts.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.load import NoFigure, as_fast_as_it_answers, generator, generator_versions, warm
from benchmarks.peers import Missing, Peer
from benchmarks.tables import Figures, Sample
from benchmarks.workloads import Column

SETTLED_S = 2.1
"""gserver does not trust the stamps of younger files and would read them again and again."""

Start = Callable[[Path], AbstractContextManager[Peer]]
"""A server over a folder, for as long as a `with` lasts. Raises Missing."""


class Rounds:
    """How many, how long, and what was seen of the servers. Its files are in `scratch`, which is the caller's."""

    def __init__(self, rounds: int, seconds: int, scratch: Path, *, settled_s: float = SETTLED_S) -> None:
        self.rounds = rounds
        self.seconds = seconds
        self.scratch = scratch
        self._settled_s = settled_s
        self.versions = generator_versions()
        self.left_out: list[str] = []

    @contextmanager
    def serving(self, column: Column, wanted: Mapping[str, Start]) -> Iterator[dict[str, Peer]]:
        """The servers that can be had, by the names of `wanted`, warm. Raises Missing."""
        generator(column.asking)
        with TemporaryDirectory(prefix="gserver-bench-") as folder, ExitStack() as running:
            column.write(Path(folder))
            settled_s = time.monotonic() + self._settled_s
            peers = {}
            for name, start in wanted.items():
                try:
                    peers[name] = running.enter_context(start(Path(folder)))
                except Missing as reason:
                    self.without("", reason)
                else:
                    self.versions.setdefault(peers[name].name, peers[name].version)
            time.sleep(max(0.0, settled_s - time.monotonic()))
            for name, peer in list(peers.items()):
                try:
                    warm(peer, column.sizes)
                except NoFigure as reason:
                    self.without(f"{name} in {column.title}", reason)
                    del peers[name]
            yield peers

    def alternating(self, column: Column, peers: Mapping[str, Peer]) -> Figures:
        """Rounds in which each server is asked once; one that fails is left out. Blocks."""
        samples: dict[str, list[Sample]] = {name: [] for name in peers}
        for number in range(self.rounds):
            for name in rotated(list(samples), number):
                try:
                    samples[name].append(self.sample(peers[name], column))
                except NoFigure as reason:
                    self.without(f"{name} in {column.title}", reason)
                    del samples[name]
        return Figures(column.title, samples)

    def sample(self, peer: Peer, column: Column) -> Sample:
        """A server as fast as it answers, once. Raises Missing, NoFigure; blocks."""
        began_s, began_system_s = peer.cpu_s(), peer.system_s()
        load = as_fast_as_it_answers(peer, column.asking, self.seconds, self.scratch)
        used_s, system_s = peer.cpu_s() - began_s, peer.system_s() - began_system_s
        if not load.answered:
            raise NoFigure(f"not one answer in {self.seconds} s")
        return Sample(
            per_s=load.answered / load.seconds,
            cpu_us=used_s / load.answered * 1e6,
            system_us=min(system_s, used_s) / load.answered * 1e6,
            busy=min(1.0, used_s / load.seconds),
            answered=load.answered,
            failed=load.failed,
        )

    @contextmanager
    def forgiving(self, what: str) -> Iterator[None]:
        """What cannot be measured here is said, and left out."""
        try:
            yield
        except (Missing, NoFigure) as reason:
            self.without(what, reason)

    def without(self, what: str, reason: Exception) -> None:
        """Say once that something is left out."""
        said = f"left out: {what}: {reason}" if what else f"left out: {reason}"
        if said not in self.left_out:
            self.left_out.append(said)
            print(said, flush=True)


def rotated(names: list[str], number: int) -> list[str]:
    """The names in another order in each round: nobody always comes after the same one's heat."""
    place = number % len(names) if names else 0
    return names[place:] + names[:place]
