"""The verdict: fail closed. 0 only if all that could be looked at was seen to hold, and nothing failed. Pure."""

from collections.abc import Set
from dataclasses import dataclass
from enum import Enum

from loadtest._checks import CHECKS, ORIGIN, STAMPEDE, Check
from loadtest._evidence import Evidence


class State(Enum):
    """What became of a check. Only the last two are no reason to fail."""

    BROKEN = "BROKEN"
    NOT_SEEN = "NOT SEEN"
    NOT_CHECKED = "not checked"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the summary."""

    name: str
    state: State
    detail: str = ""

    def __str__(self) -> str:
        return f"  {self.state.value:<11}  {self.name}{': ' + self.detail if self.detail else ''}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """All lines, checks first, then the classes of users."""

    lines: tuple[Line, ...]

    @property
    def exit_code(self) -> int:
        """0 or 1."""
        return int(not self.lines or any(line.state in (State.BROKEN, State.NOT_SEEN) for line in self.lines))

    def __str__(self) -> str:
        return "\n".join(["", "Verdict", *map(str, self.lines), "", self.in_a_word, ""])

    @property
    def in_a_word(self) -> str:
        """PASSED, or FAILED and the names of what is to blame."""
        if not self.lines:
            return "FAILED: nothing was tested"
        if not self.exit_code:
            return "PASSED"
        blamed = [line.name for line in self.lines if line.state is State.BROKEN]
        unseen = [line.name for line in self.lines if line.state is State.NOT_SEEN]
        return f"FAILED: {', '.join(blamed)}" if blamed else f"FAILED, not seen: {', '.join(unseen)}"


def judge(seen: Evidence, users: Set[str], failures: int, exceptions: int) -> Verdict:
    """Of a run with these classes of users, and what Locust counted: failed requests, and exceptions in users."""
    lines = [line for check in CHECKS if (line := _line(check, seen, users))]
    for name in sorted(users):
        done = seen.succeeded[name]
        if not done and name in seen.unable:
            lines.append(Line(name, State.NOT_CHECKED, seen.unable[name]))
        else:
            detail = f"{done:,} done" if done else "did nothing that was found right (more users, -u?)"
            lines.append(Line(name, State.HELD if done else State.NOT_SEEN, detail))
    if failures:
        lines.append(Line("no request failed", State.BROKEN, f"{failures:,} failed"))
    if exceptions:
        lines.append(Line("no user raised an exception", State.BROKEN, f"{exceptions:,} kinds"))
    return Verdict(tuple(lines))


def _line(check: Check, seen: Evidence, users: Set[str]) -> Line | None:
    """What became of one check; None if nobody was there to make it."""
    if seen.broken[check.name]:
        more = f" (and {seen.broken[check.name] - 1:,} more)" if seen.broken[check.name] > 1 else ""
        return Line(check.name, State.BROKEN, seen.messages[check.name][0] + more)
    if seen.held[check.name]:
        return Line(check.name, State.HELD, f"{seen.held[check.name]:,} times")
    makers = check.by & users
    if check.by and not makers:
        return None
    reasons = [seen.unable[maker] for maker in sorted(makers) if maker in seen.unable]
    if makers and len(reasons) == len(makers):
        return Line(check.name, State.NOT_CHECKED, reasons[0])
    for reason in (check.needs, check.name):
        if reason in seen.unable:
            return Line(check.name, State.NOT_CHECKED, seen.unable[reason])
    watched = not check.by or check.name in (ORIGIN, STAMPEDE)
    return Line(check.name, State.NOT_SEEN, seen.unable.get("gserver", "") if watched else "")
