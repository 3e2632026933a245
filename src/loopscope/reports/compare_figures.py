"""Several measurements in one figure, over the work they spend: block applications, not segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loopscope.dynamics.escape import survival
from loopscope.evaluation.intervals import wilson
from loopscope.reports.drawing import (
    OTHERS,
    Plot,
    band,
    label_right,
    log_per_cent,
    log_work,
    per_cent,
    styled,
)
from loopscope.reports.measurement import Measurement

DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
WORK = "block applications"


def _look(i: int) -> tuple[str, object]:
    return OTHERS[i % len(OTHERS)], DASHES[(i + i // len(OTHERS)) % len(DASHES)]


def _work_axis(ax: Axes, measurements: Sequence[Measurement]) -> None:
    least, most = (
        min(m.applications for m in measurements),
        max(m.applications * m.stop for m in measurements),
    )
    log_work(ax, float(least), float(most), WORK)


@styled
def accuracy_by_work(measurements: Sequence[Measurement]) -> Plot:
    """Share of puzzles solved against block applications, one curve per measurement."""
    figure = Figure(figsize=(5.0, 3.3))
    ax = figure.subplots()
    tables, ends = [], []
    for i, m in enumerate(measurements):
        color, dash = _look(i)
        found = [wilson(int(count), m.n) for count in m.solved.sum(axis=0)]
        part = pd.DataFrame([{"solved": e.value, "low": e.low, "high": e.high, "n": e.n} for e in found])
        part.insert(0, "applications", m.applications * np.arange(1, m.stop + 1))
        part.insert(0, "model", m.name)
        x = part["applications"].to_numpy()
        band(ax, x, part["low"].to_numpy(), part["high"].to_numpy(), color)
        ax.plot(x, part["solved"], color=color, linestyle=dash)
        if m.trained:
            at = m.budget - 1
            ax.plot(x[at], part["solved"][at], marker="o", color=color, markersize=6)
        ends.append((float(part["solved"].iloc[-1]), m.name, color))
        tables.append(part)
    _work_axis(ax, measurements)
    ax.set_ylim(0, 1.02)
    per_cent(ax)
    ax.set_ylabel("puzzles solved")
    label_right(ax, ends)
    caption = (
        "Share of puzzles whose whole answer is right, against the number of applications of the block; "
        "band: Wilson 95 % interval; dot: training budget. Blocks may differ in width, so equal numbers of "
        "applications are not equal times."
    )
    return Plot(
        "accuracy_by_work", "Accuracy against compute, side by side", figure, pd.concat(tables), caption
    )


@styled
def survival_by_work(measurements: Sequence[Measurement]) -> Plot:
    """Share of puzzles not yet solved against block applications, one curve per measurement."""
    figure = Figure(figsize=(5.0, 3.3))
    ax = figure.subplots()
    tables, ends, least = [], [], 1.0
    for i, m in enumerate(measurements):
        color, dash = _look(i)
        curve = survival(m.first_solved, stop=m.stop)
        work = m.applications * curve.segment
        columns = {"unsolved": curve.fraction, "low": curve.low, "high": curve.high}
        part = pd.DataFrame({"model": m.name, "applications": work, **columns})
        shown = part[(part["applications"] > 0) & (part["unsolved"] > 0)]
        tables.append(part)
        if not len(shown):
            continue
        x, left = shown["applications"].to_numpy(), shown["unsolved"].to_numpy()
        band(ax, x, np.maximum(shown["low"].to_numpy(), 1e-9), shown["high"].to_numpy(), color)
        ax.plot(x, left, color=color, linestyle=dash)
        if m.trained and m.budget <= len(left):
            ax.plot(x[m.budget - 1], left[m.budget - 1], marker="o", color=color, markersize=6)
        ends.append((float(left[-1]), m.name, color))
        least = min(least, float(left.min()))
    log_per_cent(ax, least / 2)
    _work_axis(ax, measurements)
    ax.set_ylabel("puzzles not yet solved")
    label_right(ax, ends)
    caption = (
        "Share of puzzles without a right answer so far (Kaplan-Meier, 95 % band), against applications of "
        "the block; both axes are logarithmic; dot: training budget. A curve ends where no puzzle is left."
    )
    return Plot(
        "survival_by_work", "Survival against compute, side by side", figure, pd.concat(tables), caption
    )
