"""Miss ratios against the capacity, a line for each policy, as a picture. The picture is matplotlib's."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from fileserver.rendering import size_text
from fileserver.simulate.simulation import BOUND, Result

STYLE: Any = {"svg.hashsalt": "gserver", "svg.fonttype": "none", "font.family": "sans-serif"}
"""The same numbers give the same file."""


def draw(path: str, results: Sequence[Result], bounds: Sequence[Result]) -> None:
    """Write the picture, of the kind that the file is named as: .svg, .png, .pdf. Raises OSError."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4), layout="constrained")
        for axes, title, key in zip(
            figure.subplots(1, 2), ("requests missed", "bytes missed"), ("object_miss", "byte_miss"), strict=True
        ):
            for name in dict.fromkeys(each.policy for each in results):
                axes.plot(*_line([each for each in results if each.policy == name], key), marker="o", label=name)
            axes.plot(
                *_line(bounds, key),
                color="grey",
                linestyle="--",
                marker=".",
                label=f"{BOUND}: no order does better",
            )
            axes.set(title=title, xlabel="capacity", xscale="log", ylim=(0, None))
            axes.set_xticks(_line(bounds, key)[0])
            axes.xaxis.set_major_formatter(FuncFormatter(lambda capacity, _: size_text(int(capacity))))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.grid(alpha=0.3)
        figure.axes[0].legend()
        figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


def _line(results: Sequence[Result], key: str) -> tuple[list[int], list[float]]:
    """Capacities, and what is missed there; 0 has no place on a logarithmic axis, and stands at 1."""
    points = sorted((max(1, each.capacity), getattr(each, key)) for each in results)
    return [capacity for capacity, _ in points], [missed for _, missed in points]
