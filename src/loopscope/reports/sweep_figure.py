"""Accuracy against cost for a grid of levers; the settings that are worth their cost are joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from loopscope.evaluation.sweep import Point
from loopscope.files import write_text
from loopscope.reports.drawing import GREY, SOLVED, Plot, log_work, per_cent, save_png, styled, to_svg

LINE = 0.145  # inches a name takes
NEAR = (0.02, 0.012)  # log cost and accuracy within which two marks are one to the eye


@styled
def draw_sweep(points: Sequence[Point], model: str, facts: Mapping[str, Any]) -> Plot:
    """Exact accuracy against block applications per puzzle, each setting numbered and named below.

    Args:
        points: of a sweep.
        model: its name.
        facts: what was evaluated (`data`, `n`, `dtype`).
    """
    table = pd.DataFrame([p.to_dict() for p in points])
    below = LINE * (len(points) + 1)
    figure = Figure(figsize=(5.0, 3.1 + below))
    ax, names = figure.subplots(2, height_ratios=(3.1, below))
    _marks(ax, table)
    log_work(ax, table["applications"].min(), table["applications"].max(), "block applications per puzzle")
    ax.set_ylabel("puzzles solved")
    per_cent(ax)
    _names(ax, names, points)
    caption = (
        f"{model} on {facts['n']:,} puzzles of {facts['data']}, {facts['dtype']}. Each mark is a setting; "
        "bars: Wilson 95 % intervals. Green and joined: the front, settings than which none is at least as "
        "accurate for at most as many applications."
    )
    return Plot("sweep", "Accuracy against cost", figure, table, caption)


def _marks(ax: Axes, table: pd.DataFrame) -> None:
    """A mark with its interval for every setting, those on the front joined."""
    for on_front, color in ((False, GREY), (True, SOLVED)):
        part = table[table["on_front"] == on_front]
        value, low, high = (part[f"exact_{key}"].to_numpy(float) for key in ("value", "low", "high"))
        ax.errorbar(
            part["applications"].to_numpy(),
            value,
            yerr=np.maximum([value - low, high - value], 0),
            fmt="o-" if on_front else "o",
            color=color,
            elinewidth=0.7,
            zorder=3 if on_front else 2,
        )


def _names(ax: Axes, below: Axes, points: Sequence[Point]) -> None:
    """A number beside every mark, and below what it stands for, the cheapest first."""
    for place, numbers, on_front in _marked(points):
        shared = ", ".join(map(str, numbers))
        look = {"ha": "right", "textcoords": "offset points", "zorder": 4, **_look(on_front)}
        ax.annotate(shared, place, xytext=(-3, 3), **look)  # left of the mark: the line rises to the right
    below.axis("off")
    wide = blended_transform_factory(below.get_figure().transFigure, below.transAxes)  # type: ignore[union-attr]
    for i, p in enumerate(points, start=1):
        cost = p.cost.applications
        spent = f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"
        name = f"{100 * p.exact.value:.1f} %, {spent} applications:  {p.label}"
        for x, words, align in ((0.045, str(i), "right"), (0.06, name, "left")):
            height = 1 - i / (len(points) + 1)
            text = below.text(x, height, words, transform=wide, va="bottom", ha=align, **_look(p.on_front))
            text.set_in_layout(False)  # a long name must not narrow the axes


def _look(on_front: bool) -> dict[str, Any]:
    return {
        "color": SOLVED if on_front else GREY,
        "fontweight": "bold" if on_front else "normal",
        "fontsize": 7,
    }


def _marked(points: Sequence[Point]) -> list[tuple[tuple[float, float], list[int], bool]]:
    """Places, numbers and whether on the front; settings that fall on one mark share its place."""
    marks: list[tuple[tuple[float, float], list[int], bool]] = []
    for i, p in enumerate(points, start=1):
        cost, value = p.cost.applications, p.exact.value
        for j, ((x, y), numbers, on_front) in enumerate(marks):
            if abs(np.log(cost / x)) < NEAR[0] and abs(value - y) < NEAR[1]:
                marks[j] = ((x, y), [*numbers, i], on_front or p.on_front)
                break
        else:
            marks.append(((cost, value), [i], p.on_front))
    return marks


def save(plot: Plot, path: Path) -> Path:
    """Write the picture, and its numbers as csv beside it; the path of the latter.

    Args:
        plot: a figure.
        path: ends in .svg or .png.
    """
    if path.suffix == ".svg":
        write_text(path, to_svg(plot.figure, plot.title))
    else:
        save_png(plot.figure, path)
    table = path.with_suffix(".csv")
    write_text(table, plot.table.to_csv(index=False))
    return table
