"""What was seen to hold, what was seen to break, and what was counted: kept by each process, merged on the master.

Pure: plain counters and dictionaries, so that Locust's reports can carry them.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MESSAGES_MAX = 5
"""Messages kept of each broken check: the first says it, a thousand say no more."""

HIT, MISS, COALESCED, BYPASS = CACHE_RESULTS = ("HIT", "MISS", "COALESCED", "BYPASS")
UNLABELLED = "unlabelled"
"""A one-line answer, which has no head to say where it came from."""

WINDOW = 512 << 10
"""Bytes that one send can take. What is longer may be read again, if it is evicted while it is sent."""


class Broken(Exception):
    """A check that does not hold: its name, and what was seen."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"{check}: {message}")
        self.check = check
        self.message = message

    def __repr__(self) -> str:
        """What Locust counts errors by: the check alone, or a report would have a line for each file."""
        return f"Broken({self.check!r})"


@dataclass
class Evidence:
    """Tallies of one process. `on_broken` is told each time a check breaks."""

    held: Counter[str] = field(default_factory=Counter)
    """How often a check was seen to hold."""
    broken: Counter[str] = field(default_factory=Counter)
    messages: dict[str, list[str]] = field(default_factory=dict)
    succeeded: Counter[str] = field(default_factory=Counter)
    """What users of a class did and found right, by the name of the class."""
    unable: dict[str, str] = field(default_factory=dict)
    """Why a class of users has nothing to do here."""
    answers: Counter[str] = field(default_factory=Counter)
    """File answers, by where they came from."""
    requests: Counter[str] = field(default_factory=Counter)
    """`asked` for a file, `refused` (answered, but with no file)."""
    bytes: Counter[str] = field(default_factory=Counter)
    """`stored`: of files that went into the cache; `disk`: what the answers may have cost in reads;
    `asked` and `answered`: sizes of files, to bound what is still on its way."""
    hot: Counter[str] = field(default_factory=Counter)
    """Answers for the one hot file of the shape `relocate-worst`, by where they came from."""
    on_broken: Callable[[], None] = lambda: None

    def holds(self, check: str) -> None:
        """`check` was looked at and found right."""
        self.held[check] += 1

    def breaks(self, broken: Broken) -> None:
        """It was looked at and found wrong."""
        self.broken[broken.check] += 1
        said = self.messages.setdefault(broken.check, [])
        if len(said) < MESSAGES_MAX:
            said.append(broken.message)
        self.on_broken()

    def asks(self, size: int) -> None:
        """A request for a file of `size` bytes leaves; `answers_with` or `is_refused` follows, or nobody knows."""
        self.requests["asked"] += 1
        self.bytes["asked"] += size

    def answers_with(self, result: str, size: int, *, changes: bool = False) -> None:
        """Its head is there, a file answer. `changes`: the file is one of those that are replaced."""
        self.answers[result] += 1
        self.bytes["answered"] += size
        long = size > WINDOW
        reads = {HIT: 0, COALESCED: 0, MISS: 1, BYPASS: 1, UNLABELLED: 1}[result] + long
        self.bytes["disk"] += reads * size
        if result == MISS and not changes:
            self.bytes["stored"] += size

    def is_refused(self, size: int) -> None:
        """Its answer is there, and is no file answer: an error, a 304."""
        self.requests["refused"] += 1
        self.bytes["answered"] += size

    def under_way(self) -> int:
        """Requests for files of which nobody knows what became: their users were stopped."""
        return self.requests["asked"] - self.requests["refused"] - self.answers.total()

    def take(self) -> dict[str, Any]:
        """All of it as plain data for a report, and begin anew."""
        counters = {name: dict(getattr(self, name)) for name in _COUNTERS}
        plain: dict[str, Any] = {**counters, "messages": self.messages, "unable": self.unable}
        for name in _COUNTERS:
            getattr(self, name).clear()
        self.messages, self.unable = {}, {}
        return plain

    def add(self, plain: dict[str, Any]) -> None:
        """What another process took. Sizes and counts add up; of messages the first few are kept."""
        for name in _COUNTERS:
            getattr(self, name).update(plain[name])
        self.unable.update(plain["unable"])
        for check, messages in plain["messages"].items():
            said = self.messages.setdefault(check, [])
            said.extend(messages[: MESSAGES_MAX - len(said)])
        if plain["broken"]:
            self.on_broken()


_COUNTERS = ("held", "broken", "succeeded", "answers", "requests", "bytes", "hot")
