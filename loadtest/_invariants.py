"""What must hold of a server at every instant, and of a whole run. Pure: snapshots in, findings out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loadtest import _checks as checks
from loadtest._evidence import BYPASS, COALESCED, HIT, MISS, UNLABELLED, Evidence
from loadtest._process import Process

MIB = 1 << 20

PROGRAM_BYTES = 96 * MIB
"""RSS beside the cache: interpreter and libraries (35 MiB), what is being sent, and what malloc keeps in pieces
after many evictions of all sizes. `pressure` was seen to take 138 MiB in all, 64 of them the cache."""
ENTRY_BYTES, CONNECTION_BYTES = 2 << 10, 128 << 10
"""RSS for each entry and each connection: above what was measured, 1.5 KiB, and 10 KiB, with TLS 92."""

READS_SLACK_BYTES = 4 * MIB
"""Bytes that a server may read beside the files it serves: its own modules, /proc for its statistics."""

DESCRIPTORS_SLACK = 4
"""Descriptors that may stay open: an event loop or a pool opens some of its own when first needed."""

EVICTED_AFTER = 2
"""A cache must have evicted something when so many times its capacity was stored."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`/-/cache?format=json` at one instant, and the process if that can be seen. Raises KeyError, TypeError."""

    stats: dict[str, Any]
    entries: tuple[tuple[str, int], ...]
    """(name, size) of each."""
    process: Process | None = None

    @classmethod
    def of(cls, document: dict[str, Any], process: Process | None) -> "Snapshot":
        """From the JSON of the server."""
        return cls(
            document["stats"], tuple((entry["name"], int(entry["size"])) for entry in document["entries"]), process
        )

    def __getitem__(self, counter: str) -> int:
        return int(self.stats[counter])

    @property
    def names(self) -> set[str]:
        """Of the cached files."""
        return {name for name, _ in self.entries}

    @property
    def rss(self) -> int | None:
        """Resident bytes, by the kernel if it was asked, else by the server; None where neither knows (macOS)."""
        return self.process.rss if self.process else self.stats["rss_bytes"]

    @property
    def descriptors(self) -> int | None:
        """Open descriptors, by the kernel or the server; None where neither knows."""
        return self.process.descriptors if self.process else self.stats["open_fds"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A check was made; `wrong` says what was seen if it does not hold, else it is empty."""

    check: str
    wrong: str = ""


def judged(check: str, holds: bool, message: str) -> Finding:
    """A finding with its message if it does not hold."""
    return Finding(check, "" if holds else message)


def at_one_instant(now: Snapshot, capacity: int) -> Iterator[Finding]:
    """What must hold at every moment."""
    cached, filling = now["cached"], now["filling"]
    yield judged(
        checks.BUDGET, cached + filling <= capacity, f"{cached:,} cached and {filling:,} filling, of {capacity:,}"
    )
    yield judged(checks.PEAK, now["peak"] <= capacity, f"the peak is {now['peak']:,}, of {capacity:,}")
    yield judged(checks.VIOLATIONS, now["violations"] == 0, f"the server counted {now['violations']}")
    yield judged(
        checks.ENTRIES,
        now["entries"] == len(now.entries),
        f"{now['entries']} counted, {len(now.entries)} are listed",
    )
    listed = sum(size for _, size in now.entries)
    yield judged(checks.SUM, listed == cached, f"{listed:,} listed, {cached:,} cached")
    parts = [now[counter] for counter in ("hits", "misses", "coalesced", "bypasses")]
    yield judged(
        checks.RESULTS,
        sum(parts) == now["file_answers"],
        f"{' + '.join(map(str, parts))} != {now['file_answers']}",
    )
    if now.rss is None:
        return
    bound = capacity + PROGRAM_BYTES + now["entries"] * ENTRY_BYTES + now["connections"] * CONNECTION_BYTES
    yield judged(
        checks.MEMORY, now.rss <= bound, f"{now.rss / MIB:.0f} MiB resident, the bound is {bound / MIB:.0f}"
    )


def eviction(before: Snapshot, now: Snapshot, capacity: int, stored: int) -> Iterator[Finding]:
    """Whether there was eviction, once users saw that more than fits was `stored`; nothing before that."""
    evictions = now["evictions"] - before["evictions"]
    if evictions > 0:
        yield Finding(checks.EVICTS)
    elif stored > EVICTED_AFTER * capacity:
        yield Finding(checks.EVICTS, f"{stored:,} bytes were stored in {capacity:,}, and nothing was evicted")


def agreement(before: Snapshot, after: Snapshot, seen: Evidence) -> Iterator[Finding]:
    """Whether the server counted what the users did, who have left: all, and of what was cut at most that."""
    unsure = seen.under_way()
    labels = {"hits": HIT, "misses": MISS, "coalesced": COALESCED, "bypasses": BYPASS}
    wrong = []
    for counter, label in labels.items():
        counted, known = after[counter] - before[counter], seen.answers[label]
        if not known <= counted <= known + unsure + seen.answers[UNLABELLED]:
            wrong.append(f"{counter} {counted}, users saw {known}")
    counted, known = after["file_answers"] - before["file_answers"], seen.answers.total()
    if not known <= counted <= known + unsure:
        wrong.append(f"file_answers {counted}, users saw {known}")
    hint = f" (and {unsure} were cut; does anybody else use the server?)"
    yield Finding(checks.AGREES, "; ".join(wrong) + hint if wrong else "")


def departure(before: Snapshot, after: Snapshot) -> Finding:
    """Whether the users left nothing behind."""
    grown = []
    if after["connections"] > before["connections"]:
        grown.append(f"connections {before['connections']} -> {after['connections']}")
    if (after.descriptors or 0) > (before.descriptors or 0) + DESCRIPTORS_SLACK:
        grown.append(f"descriptors {before.descriptors} -> {after.descriptors}")
    if after["filling"]:
        grown.append(f"{after['filling']:,} bytes still filling")
    return Finding(checks.LEAVES, "; ".join(grown))


def reads(before: Snapshot, after: Snapshot, seen: Evidence) -> Iterator[Finding]:
    """Whether more was read than the answers that were no hits explain; nothing without a process to look at."""
    if before.process is None or after.process is None:
        return
    read = after.process.read_bytes - before.process.read_bytes
    cut = 2 * (seen.bytes["asked"] - seen.bytes["answered"])
    explained = seen.bytes["disk"] + cut + READS_SLACK_BYTES
    yield judged(
        checks.NO_READS,
        read <= explained,
        f"{read:,} bytes were read, misses and bypasses explain {explained:,}: some called HIT was read",
    )


def again(origins: list[str | None], size: int, read: int) -> Finding:
    """Whether one file of `size` bytes, asked for while nobody else asks, was `read` only when it was no hit."""
    hits = origins.count(HIT)
    return judged(
        checks.NO_READS,
        read <= (len(origins) - hits + 1) * size,
        f"{read:,} bytes were read for {hits} hits of {size:,} bytes: called HIT, and read",
    )


def at_once(name: str, size: int, read: int, turned_away: int = 0) -> Finding:
    """Whether a cold file that many asked for at once, while nobody else asked, was `read` no more than once.

    And once more for each who was turned away: what a policy does not store is shared by nobody.
    """
    return judged(
        checks.ONE_READ,
        size <= read < (2 + turned_away) * size,
        f"{read:,} bytes were read of {name}, which has {size:,} (is --pid the server?)",
    )
