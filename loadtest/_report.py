"""The page loadtest-report.html: the verdict, and what the watch saw over time, as one inline SVG. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from loadtest._invariants import Snapshot
from loadtest._verdict import State, Verdict

MIB = 1 << 20

WIDTH, HEIGHT, LEFT, TOP, GAP = 900, 120, 70, 26, 34
"""Of a panel, in SVG units: the plot, the room for its scale, for its title, and below it."""

COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#db2777", "#65a30d")

ROWS_MAX = 6
"""Latency is plotted for the rows with the most samples."""

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem}
h1{font-size:1.25rem}svg{width:100%;height:auto}
table{border-collapse:collapse;font-size:.9rem}td{padding:.15rem 1rem .15rem 0;vertical-align:top}
.bad{color:#dc2626;font-weight:600}
""".strip()

_SVG_STYLE = """
text{font:12px system-ui,sans-serif;fill:#333}.t{font-weight:600}.e{text-anchor:end}
.a{stroke:#8886;fill:none}.l{fill:none;stroke-width:1.5}.c{stroke:#888;stroke-dasharray:5 4}
@media(prefers-color-scheme:dark){text{fill:#ccc}}
""".strip()

Points = Sequence[tuple[float, float]]
"""(seconds, value)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the server. `latency_ms` are (p50, p99) by row, over Locust's last ten seconds."""

    at_s: float
    users: int
    snapshot: Snapshot
    latency_ms: dict[str, tuple[float, float]] = field(default_factory=dict)
    phase: str = ""
    """Of the shape, where it has such."""


def page(verdict: Verdict, samples: Sequence[Sample], capacity: int, notes: Sequence[str] = ()) -> str:
    """The whole page. It needs nothing from elsewhere."""
    rows = "\n".join(
        f"<tr><td{' class=bad' if line.state in (State.BROKEN, State.NOT_SEEN) else ''}>{line.state.value}</td>"
        f"<td>{escape(line.name)}</td><td>{escape(line.detail)}</td></tr>"
        for line in verdict.lines
    )
    said = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>gserver load test</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style></head>\n'
        f"<body><h1>{escape(verdict.in_a_word)}</h1>{said}\n{plots(samples, capacity)}\n"
        f"<table>{rows}</table>\n</body></html>\n"
    )


def plots(samples: Sequence[Sample], capacity: int) -> str:
    """Users, hit ratio, cached bytes against the capacity, evictions a second, latency: one SVG."""
    if len(samples) < 2 or samples[-1].at_s <= samples[0].at_s:
        return "<p>Too few samples to plot.</p>"
    start = samples[0].at_s
    times = [sample.at_s - start for sample in samples]
    panels = [
        panel("users", times[-1], {"users": [(t, s.users) for t, s in zip(times, samples, strict=True)]})
        + phases(times, samples),
        panel("hit ratio, % of file answers", times[-1], {"hits": hit_ratio(times, samples)}, top=100),
        panel(
            f"MiB in the cache (dashed: the capacity, {capacity / MIB:g})",
            times[-1],
            {
                "cached": [(t, s.snapshot["cached"] / MIB) for t, s in zip(times, samples, strict=True)],
                "filling": [(t, s.snapshot["filling"] / MIB) for t, s in zip(times, samples, strict=True)],
            },
            line=capacity / MIB,
        ),
        panel("evictions a second", times[-1], {"evictions": rate(times, samples, "evictions")}),
        panel("p50, ms (logarithmic)", times[-1], latency(times, samples, 0), logarithmic=True),
        panel("p99, ms (logarithmic)", times[-1], latency(times, samples, 1), logarithmic=True),
    ]
    each = TOP + HEIGHT + GAP
    drawn = "\n".join(f'<g transform="translate({LEFT} {i * each + TOP})">{p}</g>' for i, p in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 10} {each * len(panels)}" '
        f'role="img" aria-label="what the watch saw over {times[-1]:.0f} seconds">'
        f"<style>{_SVG_STYLE}</style>\n{drawn}\n</svg>"
    )


def hit_ratio(times: Sequence[float], samples: Sequence[Sample]) -> Points:
    """Per cent of the file answers since the sample before that were hits; no point where there were none."""
    points = []
    for i in range(1, len(samples)):
        before, now = samples[i - 1].snapshot, samples[i].snapshot
        if answers := now["file_answers"] - before["file_answers"]:
            points.append((times[i], 100 * (now["hits"] - before["hits"]) / answers))
    return points


def rate(times: Sequence[float], samples: Sequence[Sample], counter: str) -> Points:
    """How fast a counter grew."""
    return [
        (times[i], (samples[i].snapshot[counter] - samples[i - 1].snapshot[counter]) / (times[i] - times[i - 1]))
        for i in range(1, len(samples))
        if times[i] > times[i - 1]
    ]


def latency(times: Sequence[float], samples: Sequence[Sample], which: int) -> dict[str, Points]:
    """p50 (0) or p99 (1) of the rows that were seen most."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for t, sample in zip(times, samples, strict=True):
        for row, both in sample.latency_ms.items():
            lines.setdefault(row, []).append((t, both[which]))
    most = sorted(lines, key=lambda row: -len(lines[row]))[:ROWS_MAX]
    return {row: lines[row] for row in most}


def panel(
    title: str,
    seconds: float,
    lines: dict[str, Points],
    *,
    top: float = 0,
    line: float = 0,
    logarithmic: bool = False,
) -> str:
    """One plot with its scale. `top` is the least upper end, `line` a value to mark."""
    highest = max([top, line, 1, *(value for points in lines.values() for _, value in points)])

    def y(value: float) -> float:
        share = math.log1p(max(value, 0)) / math.log1p(highest) if logarithmic else value / highest
        return HEIGHT * (1 - share)

    drawn = [
        f'<text class="t" x="0" y="-9">{escape(title)}</text>',
        f'<path class="a" d="M0 0V{HEIGHT}H{WIDTH}"/>',
        f'<text class="e" x="-6" y="9">{highest:,.0f}</text><text class="e" x="-6" y="{HEIGHT}">0</text>',
        f'<text class="e" x="{WIDTH}" y="{HEIGHT + 14}">{seconds:.0f} s</text>',
    ]
    if line:
        drawn.append(f'<path class="c" d="M0 {y(line):.1f}H{WIDTH}"/>')
    for (name, points), colour in zip(lines.items(), COLOURS, strict=False):
        path = " ".join(f"{t / seconds * WIDTH:.1f},{y(value):.1f}" for t, value in points)
        drawn.append(
            f'<polyline class="l" stroke="{colour}" points="{path}"><title>{escape(name)}</title></polyline>'
        )
    if len(lines) > 1:
        names = zip(lines, COLOURS, strict=False)
        key = "  ".join(f'<tspan style="fill:{colour}">{escape(name)}</tspan>' for name, colour in names)
        drawn.append(f'<text class="e" x="{WIDTH}" y="-9" xml:space="preserve">{key}</text>')
    return "".join(drawn)


def phases(times: Sequence[float], samples: Sequence[Sample]) -> str:
    """A mark and the name where a phase begins."""
    marks = []
    for i, sample in enumerate(samples):
        if sample.phase and (not i or sample.phase != samples[i - 1].phase):
            x = times[i] / times[-1] * WIDTH
            marks.append(f'<path class="a" d="M{x:.1f} 0V{HEIGHT}"/>')
            marks.append(f'<text x="{x + 4:.1f}" y="{HEIGHT - 6}">{escape(sample.phase)}</text>')
    return "".join(marks)
