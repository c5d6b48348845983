"""Shapes of load over time: which users, how many, when.

Locust takes one shape object; it asks the option `--shape` at each tick, so that the web UI can choose as well.
"""

from collections.abc import Callable
from dataclasses import dataclass

from locust import LoadTestShape, User

from loadtest._run import Run

USERS = 60
"""Without -u; and with one user, which is what Locust makes of none, for a shape wants all its classes."""

STEP_S = 10
STEP_USERS_MIN, STEP_USERS_MAX = 16, 4096
DRAIN_S = 5
"""At the end, without users: workers report every three seconds."""

Tick = tuple[int, float, list[type[User]]] | tuple[int, float] | None


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of `pressure`: its part of the whole time, its part of the users, and who they are."""

    name: str
    time: float
    users: float
    classes: frozenset[str]


PRESSURE = (
    Phase("warm up", 0.12, 0.5, frozenset({"Reader"})),
    Phase(
        "steady",
        0.26,
        1.0,
        frozenset({"Reader", "Lister", "Resumer", "OneLiner", "Stranger", "Publisher"}),
    ),
    Phase("scan flood", 0.20, 0.5, frozenset({"Scanner", "Lister", "Publisher"})),
    Phase("stampede", 0.12, 0.5, frozenset({"Stampede", "Reader", "Lister", "Publisher"})),
    Phase("slow readers", 0.22, 0.5, frozenset({"SlowReader", "Reader", "Lister", "Publisher"})),
)
"""And then nobody, until the time is over."""

CLASSES = {
    "none": frozenset[str](),
    "pressure": frozenset().union(*(phase.classes for phase in PRESSURE)),
    "soak": frozenset[str](),
    "step": frozenset({"Reader", "Lister"}),
    "relocate-worst": frozenset({"Reader", "Lister"}),
}
"""The classes of users that a shape wants; empty: all."""


class Plan(LoadTestShape):
    """What `--shape` says. Its `notes` go into the summary, `phase` is where it is."""

    use_common_options = True
    abstract = True  # not to be found by Locust: it is made for the option, with a run

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.notes: list[str] = []
        self._steps: list[tuple[int, float, float]] = []
        self.phase = ""
        self.over = False
        """Whether the test is being stopped: Locust asks on until its runner has stopped."""

    def reset_time(self) -> None:
        super().reset_time()
        self.notes, self._steps, self.phase, self.over = [], [], "", False

    def tick(self) -> Tick:
        """Users, spawn rate and classes for now; None at the end."""
        if self.over:
            return 0, 100.0
        shapes: dict[str, Callable[[float], Tick]] = {
            "none": self._as_asked,
            "pressure": self._pressure,
            "soak": self._soak,
            "step": self._step,
            "relocate-worst": self._relocate_worst,
        }
        return shapes[self.run.options.shape](self.get_run_time())

    @property
    def _users(self) -> int:
        asked = self.run.options.num_users
        return asked if asked and asked > 1 else USERS

    def classes(self, names: frozenset[str]) -> list[type[User]]:
        """Of these names, those that take part; all of them if `names` is empty."""
        return [user for user in self.run.environment.user_classes if not names or user.__name__ in names]

    def _all(self, users: int, classes: frozenset[str]) -> Tick:
        """So many users, at once."""
        some = self.classes(classes)
        return (max(users, len(some)), max(100.0, users), some) if some and users else (0, 100.0)

    def _as_asked(self, elapsed_s: float) -> Tick:
        options = self.run.options
        if options.run_time and elapsed_s > options.run_time:
            return None
        return options.num_users or 1, options.spawn_rate or 1

    def _pressure(self, elapsed_s: float) -> Tick:
        """A phase begins with nobody: Locust only adds and removes users, it does not exchange their classes."""
        whole_s = self.run.options.seconds
        begun = 0.0
        for phase in PRESSURE:
            begun += phase.time * whole_s
            if elapsed_s < begun:
                users = round(self._users * phase.users) if self.phase == phase.name else 0
                self.phase = phase.name
                return self._all(users, phase.classes)
        self.phase = "drain"
        return self._all(0, frozenset()) if elapsed_s < whole_s else None

    def _soak(self, elapsed_s: float) -> Tick:
        return self._throughout(self.run.options.minutes * 60, elapsed_s, self._users, CLASSES["soak"])

    def _step(self, elapsed_s: float) -> Tick:
        """Twice the users every ten seconds, until p99 is not in time."""
        step = int(elapsed_s // STEP_S)
        while len(self._steps) < step:
            self._steps.append(self._measured(STEP_USERS_MIN << len(self._steps)))
        target = self.run.options.p99_ms
        if self._steps and (self._steps[-1][2] > target or self._steps[-1][0] >= STEP_USERS_MAX):
            self.notes = knee(self._steps, target)
            return None
        return self._all(STEP_USERS_MIN << step, CLASSES["step"])

    def _measured(self, users: int) -> tuple[int, float, float]:
        """Users, requests a second and p99 in ms, now."""
        total = self.run.environment.stats.total
        p99 = total.get_current_response_time_percentile(0.99)
        return users, float(total.current_rps), float(p99 or 0)

    def _relocate_worst(self, elapsed_s: float) -> Tick:
        return self._throughout(self.run.options.seconds / 4, elapsed_s, 8, CLASSES["relocate-worst"])

    def _throughout(self, whole_s: float, elapsed_s: float, users: int, classes: frozenset[str]) -> Tick:
        """The same users all the time, but for the drain."""
        if elapsed_s > whole_s:
            return None
        return self._all(users if elapsed_s < whole_s - DRAIN_S else 0, classes)


def knee(steps: list[tuple[int, float, float]], target_ms: float) -> list[str]:
    """The lines that say where p99 left its target: after the good step with the most requests a second. Pure."""
    lines = [f"{users:>5} users  {rps:>8,.0f} requests/s  p99 {p99:,.0f} ms" for users, rps, p99 in steps]
    good = [step for step in steps if step[2] <= target_ms]
    if not good:
        return [*lines, f"no knee: p99 was above {target_ms:g} ms from the first step"]
    users, rps, p99 = max(good, key=lambda step: step[1])
    return [*lines, f"knee: {users} users, {rps:,.0f} requests/s, p99 {p99:,.0f} ms (target {target_ms:g} ms)"]
