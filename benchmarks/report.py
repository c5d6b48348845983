"""What a benchmark prints: figures compared pair by pair, tables, where and how they were taken, bars.

A room of its own so that all benchmarks say it in the same way. All but `heading` is pure.
"""

import json
import math
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#db2777", "#65a30d")

WIDTH, BAR, GAP, LEFT, TOP = 640, 14, 30, 150, 40
"""Of the bars, in SVG units: the longest, a bar's height, the room above a group, for names, and for the title."""

RATIO_MAX = 2.0
"""A longer bar is cut here, with its figure beside it."""

_STYLE = """
text{font:12px system-ui,sans-serif;fill:#333}.t{font-weight:600}.e{text-anchor:end}
.c{stroke:#888;stroke-dasharray:5 4}
@media(prefers-color-scheme:dark){text{fill:#ccc}}
""".strip()


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of a figure over the rounds, with the lowest and the highest."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f} to {self.highest:.2f})"


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(values: Sequence[float], reference: Sequence[float]) -> Spread:
    """Each round's value against the reference of the same round. No reference may be 0."""
    return spread([value / other for value, other in zip(values, reference, strict=True)])


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` per cent of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent * len(ordered) / 100) - 1)]


def short(value: float) -> str:
    """A count in three digits: `93.1k`, `2,910`, `125`."""
    return f"{value / 1000:.1f}k" if value >= 10_000 else f"{value:,.0f}"


def mib(count: float) -> str:
    """Bytes in MiB: `12.3 MiB`."""
    return f"{count / (1 << 20):.1f} MiB"


def judgement(what: str, figure: float, *, at_most: float = math.inf, at_least: float = -math.inf) -> str:
    """Whether a figure is within its one bound: `reached 8.1 of these (at most 10)`."""
    word = "reached" if at_least <= figure <= at_most else "MISSED "
    bound = f"at most {three_digits(at_most)}" if at_most < math.inf else f"at least {three_digits(at_least)}"
    return f"{word} {three_digits(figure)} {what} ({bound})"


def three_digits(value: float) -> str:
    """At least so many: `10,240`, `114`, `43.1`, `0.902`."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under a head; the first column is the row's name."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Aligned, for a terminal."""
        lines = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def markdown(self) -> str:
        """For a README."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def heading(module: str, versions: Mapping[str, str], arguments: Sequence[str] | None = None) -> str:
    """When, on what, with what, and the command: `python -m MODULE ARGUMENTS` (None: those of this process)."""
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", module, *given])
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.release()}, {processor()}, "
        f"{os.cpu_count()} cores; one core, one worker. {found}. `{command}`"
    )


def processor() -> str:
    """What the kernel calls the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """All figures, for other programs."""
    path.write_text(json.dumps(figures, indent=1) + "\n")


def bars(title: str, groups: Mapping[str, Mapping[str, float]]) -> str:
    """Ratios as an SVG: a group of bars for each column, a bar for each server, a dashed line at 1."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    longest = min(RATIO_MAX, max([1.0, *(ratio for group in groups.values() for ratio in group.values())]))
    drawn, y = [f'<text class="t" x="0" y="14">{escape(title)}</text>'], TOP
    for column, group in groups.items():
        drawn.append(f'<text class="t" x="0" y="{y - 6}">{escape(column)}</text>')
        for name, ratio in group.items():
            length = min(ratio, longest) / longest * WIDTH
            drawn.append(
                f'<text class="e" x="{LEFT - 8}" y="{y + BAR - 3}">{escape(name)}</text>'
                f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}" fill="{colours[name]}"/>'
                f'<text x="{LEFT + length + 5:.1f}" y="{y + BAR - 3}">{ratio:.2f}</text>'
            )
            y += BAR
        y += GAP
    x = LEFT + WIDTH / longest
    drawn.append(f'<path class="c" d="M{x:.1f} {TOP - 14}V{y - GAP}"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 50} {y - GAP + 10}" role="img" '
        f'aria-label="{escape(title)}"><style>{_STYLE}</style>\n' + "\n".join(drawn) + "\n</svg>\n"
    )
