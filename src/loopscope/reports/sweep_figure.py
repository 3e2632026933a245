"""Accuracy against cost for a grid of levers; the settings that are worth their cost are joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import blended_transform_factory

from loopscope.evaluation.sweep import Point
from loopscope.files import write_text, written_whole
from loopscope.reports.drawing import GREY, SOLVED, Plot, per_cent, styled, to_svg

PNG_DPI = 200
LINE = 0.145  # inches a name takes


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
    _log_cost(ax, table["applications"].to_numpy())
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


def _log_cost(ax: Axes, cost: np.ndarray) -> None:
    """Logarithmic axis with plain numbers at 1, 2 and 5 times powers of ten."""
    ax.set_xscale("log")
    ax.set_xlim(cost.min() / 1.2, cost.max() * 1.2)
    decades = range(int(np.floor(np.log10(cost.min()))), int(np.ceil(np.log10(cost.max()))) + 1)
    ax.xaxis.set_major_locator(FixedLocator([step * 10.0**d for d in decades for step in (1, 2, 5)]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("block applications per puzzle")


def _names(ax: Axes, below: Axes, points: Sequence[Point]) -> None:
    """A number beside every mark, and below what it stands for, the cheapest first."""
    below.axis("off")
    wide = blended_transform_factory(below.get_figure().transFigure, below.transAxes)  # type: ignore[union-attr]
    for i, p in enumerate(points, start=1):
        color, weight = (SOLVED, "bold") if p.on_front else (GREY, "normal")
        look: dict[str, Any] = {"color": color, "fontweight": weight, "fontsize": 7}
        place = (p.cost.applications, p.exact.value)
        ax.annotate(str(i), place, xytext=(3, 3), textcoords="offset points", zorder=4, **look)
        name = f"{i}  {100 * p.exact.value:.1f} % for {p.cost.applications:,.4g}:  {p.label}"
        text = below.text(0.02, 1 - i / (len(points) + 1), name, transform=wide, va="bottom", **look)
        text.set_in_layout(False)  # a long name must not narrow the axes


def save(plot: Plot, path: Path) -> Path:
    """Write the picture, and its numbers as csv beside it; the path of the latter.

    Args:
        plot: a figure.
        path: ends in .svg or .png.
    """
    if path.suffix == ".svg":
        write_text(path, to_svg(plot.figure, plot.title))
    else:
        with written_whole(path) as beside:
            plot.figure.savefig(beside, format="png", dpi=PNG_DPI, facecolor="white")
    table = path.with_suffix(".csv")
    write_text(table, plot.table.to_csv(index=False))
    return table
