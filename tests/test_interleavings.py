"""Requests, deaths, file changes and evictions in any order: every body is one version that existed.

A hypothesis state machine over the real rooms and real files. Its steps are the points at which greenlets could
switch, so what it finds is a schedule that could happen.
"""

import os
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

import gevent
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fileserver.root import FileError
from fileserver.store import Body
from lrucache import CHUNK_BYTES
from tests.house import OLD_NS, House, pattern

NAMES = st.sampled_from(["a", "b", "c"])
SIZES = st.sampled_from(
    [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES - 1, 5 * CHUNK_BYTES]
)


class Reader:
    """A client that has an answer and has read some of it."""

    def __init__(self, name: str, body: Body) -> None:
        self.name = name
        self.body = body
        self.got = b""


class Interleavings(RuleBasedStateMachine):
    """The model is the set of versions that each name ever had."""

    io = "auto"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.house = House(self.folder, io=self.io, capacity=4 * CHUNK_BYTES)
        self.house.__enter__()
        self.versions: dict[str, set[bytes]] = defaultdict(set)
        self.readers: list[Reader] = []
        self.seed = 0

    def teardown(self) -> None:
        try:
            for reader in self.readers:
                reader.body.close()
            self.house.__exit__(None)
        finally:
            shutil.rmtree(self.folder)

    def new_version(self, name: str, size: int) -> bytes:
        """Bytes that no file had before, and a stamp of their own."""
        self.seed += 1_000_003
        content = pattern(size, self.seed)
        self.versions[name].add(content)
        return content

    @rule(name=NAMES, size=SIZES)
    def replace(self, name: str, size: int) -> None:
        self.house.replace(name, self.new_version(name, size), OLD_NS + self.seed)

    @rule(name=NAMES, size=SIZES)
    def rewrite(self, name: str, size: int) -> None:
        self.house.write(name, self.new_version(name, size), OLD_NS + self.seed)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    @rule(name=NAMES)
    def link(self, name: str) -> None:
        if (self.folder / name).exists():
            os.link(self.folder / name, self.folder / "link")
            (self.folder / "link").unlink()

    @rule(name=NAMES)
    def ask(self, name: str) -> None:
        try:
            self.readers.append(Reader(name, self.house.store.get(name)))
        except FileError:
            # A fill may fail because its file changed, or is gone; otherwise there is no error.
            return

    @precondition(lambda self: self.readers)
    @rule(choice=st.randoms(use_true_random=False), limit=st.sampled_from([1, 1000, CHUNK_BYTES, 1 << 20]))
    def read(self, choice: object, limit: int) -> None:
        reader = choice.choice(self.readers)  # type: ignore[attr-defined]
        try:
            if len(reader.got) < reader.body.size:
                reader.got += b"".join(reader.body.read(len(reader.got), limit))
        except FileError:
            reader.body.close()
            self.readers.remove(reader)
            return
        if len(reader.got) == reader.body.size:
            reader.body.close()
            self.readers.remove(reader)
            assert reader.got in self.versions[reader.name]

    @precondition(lambda self: self.readers)
    @rule(choice=st.randoms(use_true_random=False))
    def leave(self, choice: object) -> None:
        reader = choice.choice(self.readers)  # type: ignore[attr-defined]
        reader.body.close()
        self.readers.remove(reader)

    @rule(seconds=st.sampled_from([0.1, 0.6, 1.1]))
    def time_passes(self, seconds: float) -> None:
        self.house.clock.now_s += seconds

    @rule()
    def others_run(self) -> None:
        gevent.sleep(0)

    @invariant()
    def what_is_read_so_far_is_the_beginning_of_a_version(self) -> None:
        for reader in self.readers:
            assert any(version.startswith(reader.got) for version in self.versions[reader.name])

    @invariant()
    def the_budget_holds(self) -> None:
        stats, entries = self.house.cache.snapshot()
        assert stats.cached + stats.filling <= stats.capacity
        assert stats.violations == 0
        assert sum(entry.size for entry in entries) == stats.cached
        assert all(entry.readers >= 0 for entry in entries)


class PoolInterleavings(Interleavings):
    """The same with every read in a thread."""

    io = "pool"


SETTINGS = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = SETTINGS
TestPoolInterleavings = PoolInterleavings.TestCase
TestPoolInterleavings.settings = SETTINGS
