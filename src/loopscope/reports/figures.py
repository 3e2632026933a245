"""Figures about when puzzles are solved: accuracy, survival, restarts, and the curves of a training run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from loopscope.dynamics.decay import decay_test
from loopscope.dynamics.escape import survival
from loopscope.evaluation.intervals import wilson
from loopscope.reports.drawing import (
    GREY,
    OUTCOMES,
    SOLVED,
    UNSOLVED,
    Plot,
    band,
    label_right,
    line,
    log_per_cent,
    log_segments,
    log_values,
    mark_budget,
    per_cent,
    styled,
    training_steps,
)
from loopscope.reports.measurement import Measurement
from loopscope.reports.quantity import rate
from loopscope.reports.tables import escape, restart_length, restart_rates
from loopscope.reports.words import counted


@styled
def accuracy_by_segment(m: Measurement) -> Plot:
    """Share of puzzles right after each segment."""
    counts = m.solved.sum(axis=0)
    found = [wilson(int(count), m.n) for count in counts]
    ever = np.maximum.accumulate(m.solved, axis=1).sum(axis=0) / m.n
    segment = np.arange(1, m.stop + 1)
    table = pd.DataFrame(
        {
            "segment": segment,
            "applications": m.applications * segment,
            "solved": [e.value for e in found],
            "low": [e.low for e in found],
            "high": [e.high for e in found],
            "ever_solved": ever,
            "n": m.n,
        }
    )
    figure = Figure()
    ax = figure.subplots()
    band(ax, segment, table["low"].to_numpy(), table["high"].to_numpy(), SOLVED)
    line(ax, segment, table["solved"].to_numpy(), "solved", marker="o" if m.stop <= 24 else "")
    log_segments(ax, m.stop)
    ax.set_ylim(0, 1.02)
    if m.trained:  # named at its foot: the second axis lies on top
        mark_budget(ax, m.budget, height=0.02)  # above stands the axis of applications
    per_cent(ax)
    ax.set_ylabel("puzzles solved")
    label_right(ax, [(float(table["solved"].iloc[-1]), f"{100 * table['solved'].iloc[-1]:.1f} %", SOLVED)])
    _work_axis(ax, m)
    reverted = ever[-1] - table["solved"].iloc[-1]
    caption = (
        f"Share of {m.n:,} puzzles whose whole answer is right after each segment; band: Wilson 95 % "
        f"interval. {_cost(m)} At the last segment, {100 * reverted:.1f} % of the puzzles had been right "
        "earlier and were not any more."
    )
    return Plot("accuracy", "Accuracy against compute", figure, table, caption)


@styled
def survival_curve(m: Measurement) -> Plot:
    """Share of puzzles never solved so far, and the escape rate fitted after the budget."""
    curve = survival(m.first_solved, stop=m.stop)
    table = pd.DataFrame(
        {
            "segment": curve.segment,
            "unsolved": curve.fraction,
            "low": curve.low,
            "high": curve.high,
            "at_risk": curve.at_risk,
        }
    )
    shown = table[(table["segment"] > 0) & (table["unsolved"] > 0)]
    x = shown["segment"].to_numpy()
    figure = Figure()
    ax = figure.subplots()
    band(ax, x, np.maximum(shown["low"].to_numpy(), 1e-9), shown["high"].to_numpy(), UNSOLVED)
    line(ax, x, shown["unsolved"].to_numpy(), "unsolved")
    least = max(float(shown["unsolved"].min()) if len(shown) else 0.1, 0.5 / m.n)
    log_per_cent(ax, least / 2)
    ax.set_ylabel("puzzles not yet solved")
    _time_axis(ax, m)
    fitted = escape(m)
    words = "No segments were run after the budget, so there is no escape rate; add `--segments 128`."
    if m.stop > m.escape_from and fitted is None:
        words = f"Every puzzle has been right at some segment by {m.escape_from}; there is no escape rate."
    if fitted is not None:
        start, later = m.escape_from, np.arange(m.escape_from, m.stop + 1)
        left = float(curve.fraction[start])
        since = np.maximum(later - start, 1e-12)  # not 0: a rate may be infinite
        decay = [left * np.exp(-k * since) for k in (fitted.value, fitted.low, fitted.high)]
        table["fit"] = np.concatenate([np.full(start, np.nan), decay[0]])
        band(ax, later, np.maximum(decay[2], 1e-9), decay[1], GREY)
        ax.plot(later, decay[0], color=GREY, linewidth=1.2)
        test = decay_test(m.first_solved, start=start, stop=m.stop)
        name = "constant rate" + "\n(rejected)" * test.flagged
        ends = [(max(float(decay[0][-1]), least / 2), name, GREY)]
        ends += [(float(shown["unsolved"].iloc[-1]), "measured", UNSOLVED)] if len(shown) else []
        label_right(ax, ends)
        words = (
            f"Grey: constant escape rate fitted from segment {start} on, with its 95 % band: {rate(fitted)} "
            f"({rate(fitted).note})."
        )
        if m.applications > 1:
            words += f" That is {rate(fitted.per_application(m.applications))}."
        words += f" Test of decay: {test.verdict}."
    caption = (
        f"Share of {m.n:,} puzzles without a right answer so far (Kaplan-Meier, 95 % band; both axes are "
        f"logarithmic). {words} On these axes a constant rate bends down; a straight line means a rate that "
        "falls as one over time."
    )
    return Plot("survival", "Survival of unsolved puzzles", figure, table, caption)


@styled
def restart_curves(m: Measurement) -> Plot:
    """Solve rate of one restart and of the best of K against the size of the kick, by outcome."""
    sigmas = m.data["sigma"].to_numpy().astype(float)
    K = m.data.sizes["restart"]
    table = _restart_data(m, sigmas, K)
    figure = Figure()
    ax = figure.subplots()
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlim(-0.25, len(sigmas) - 0.75)
    position, ends = np.arange(len(sigmas)), []
    for outcome, kind in itertools.product(OUTCOMES, (f"best of {K}", "one restart")):
        part = table[(table["plain_start"] == outcome) & (table["kind"] == kind)]
        if part["n"].iloc[0] == 0:
            continue
        look, many = OUTCOMES[outcome], kind.startswith("best")
        value = part["value"].to_numpy()
        errors = np.abs(np.stack([value - part["low"].to_numpy(), part["high"].to_numpy() - value]))
        ax.errorbar(
            position + (0.03 if many else -0.03),
            value,
            yerr=errors,
            color=look["color"],
            linestyle=look["linestyle"],
            linewidth=1.7 if many else 0.9,
            elinewidth=0.9,
            marker="D" if many else "o",
            markerfacecolor=look["color"] if many else "none",
        )
        ends.append((float(value[-1]), f"{outcome},\n{kind}", look["color"]))
    label_right(ax, ends, gap=0.07)
    ax.set_xticks(position, [f"{s:g}" for s in sigmas])
    ax.set_xlabel("size of the kick, sigma (standard deviations of the start)")
    ax.set_ylabel("solved after the kick")
    per_cent(ax)
    right, wrong = int(m.correct.sum()), int((~m.correct).sum())
    caption = (
        f"Solve rate of restarts from a perturbed start, for {right:,} puzzles that the plain start solved "
        f"and {wrong:,} that it did not. Diamonds, thick: any of {K} restarts (Wilson); circles, thin: one "
        "restart (bootstrap over puzzles); bars: 95 %. A restart runs "
        f"{restart_length(m)} segments and counts as solved if right at any of them."
    )
    return Plot("restarts", "Restarts from perturbed starts", figure, table, caption)


def _restart_data(m: Measurement, sigmas: np.ndarray, K: int) -> pd.DataFrame:
    """One row per outcome of the plain start, sigma and way of counting."""
    rows: list[dict[str, Any]] = []
    for outcome, chosen in (("solved", m.correct), ("unsolved", ~m.correct)):
        for i, sigma in enumerate(sigmas):
            single, best, _ = restart_rates(m, chosen, i)
            for kind, q in (("one restart", single), (f"best of {K}", best)):
                found = {"value": q.value, "low": q.low, "high": q.high, "n": q.n}
                rows.append({"plain_start": outcome, "sigma": sigma, "kind": kind, **found})
    return pd.DataFrame(rows)


@styled
def training_curves(lines: Sequence[Mapping[str, Any]]) -> Plot:
    """Loss and exact accuracy of a training run.

    Args:
        lines: of its metrics.jsonl, in order: {"step", "minutes", "kind": "train" | "eval", "loss",
            "exact_accuracy", ...}.
    """
    table = pd.DataFrame(list(lines))
    for column in ("step", "kind", "loss", "exact_accuracy"):
        table[column] = table.get(column, np.nan)
    train, held_out = table[table["kind"] == "train"], table[table["kind"] == "eval"]
    figure = Figure(figsize=(5.0, 4.2))
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(train["step"], train["loss"], color=GREY, linewidth=1.2)
    loss = train["loss"][train["loss"] > 0]
    if len(loss):
        log_values(upper, 0.9 * float(loss.min()), 1.1 * float(loss.max()))
    upper.set_ylabel("training loss (log scale)")
    lower.plot(train["step"], train["exact_accuracy"], color=GREY, linewidth=1.0)
    ends = [(float(train["exact_accuracy"].iloc[-1]), "training", GREY)] if len(train) else []
    words = "There were no validation scores yet."
    held_out = held_out.dropna(subset="exact_accuracy") if "exact_accuracy" in held_out else held_out[:0]
    if len(held_out):
        score, n = held_out["exact_accuracy"].astype(float), len(held_out)
        lower.plot(held_out["step"], score, color=SOLVED, marker="o", markersize=3)
        ends.append((float(score.iloc[-1]), "validation", SOLVED))
        best = held_out.iloc[int(score.argmax())]
        reached = f"{100 * best['exact_accuracy']:.1f} % at step {int(best['step']):,}"
        words = f"Best of {counted(n, 'validation')}: {reached}."
    lower.set_ylim(0, 1.02)
    per_cent(lower)
    lower.set_ylabel("puzzles solved")
    training_steps(lower)
    label_right(lower, ends)
    caption = (
        "Top: mean loss of the training batches. Bottom: share of puzzles whose whole answer is right, in "
        f"training batches (as they halt, with augmented puzzles) and on held-out puzzles. {words}"
    )
    return Plot("training", "Training", figure, table, caption)


def _work_axis(ax: Any, m: Measurement) -> None:
    """The same axis in block applications, on top; nothing where one segment is one application."""
    if m.applications == 1:
        return
    upper = ax.secondary_xaxis(
        "top", functions=(lambda t: np.multiply(t, m.applications), lambda w: np.divide(w, m.applications))
    )
    ticks = [2**i for i in range(int(np.log2(m.stop)) + 1)]
    upper.xaxis.set_major_locator(FixedLocator([m.applications * t for t in ticks[:: 1 + (len(ticks) > 6)]]))
    upper.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    upper.xaxis.set_minor_locator(NullLocator())
    upper.set_xlabel("block applications")


def _time_axis(ax: Any, m: Measurement) -> None:
    log_segments(ax, m.stop)
    if m.trained:
        mark_budget(ax, m.budget)


def _cost(m: Measurement) -> str:
    return f"One segment is {m.applications} applications of the block." if m.applications > 1 else ""
