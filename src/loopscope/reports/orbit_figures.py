"""Figures about how orbits move: exponents, drift, fates, and a few single trajectories."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loopscope.dynamics.fate import WINDOW
from loopscope.reports.drawing import (
    GREY,
    INK,
    OUTCOMES,
    SOLVED,
    Plot,
    band,
    label_right,
    line,
    log_segments,
    log_values,
    mark_budget,
    styled,
)
from loopscope.reports.measurement import Measurement
from loopscope.reports.quantity import median, rounded
from loopscope.reports.words import no_groups

BOXED = 5  # values that a box of quartiles needs
FEW_DOTS = 30  # below this dots are drawn larger, as none hides another
DRAWN = 500  # points drawn per outcome, evenly over the ranks; all of them are in the data
FATES = {  # fate -> (settled, correct)
    "settled, solved": (True, True),
    "wandering, solved": (False, True),
    "settled, unsolved": (True, False),
    "wandering, unsolved": (False, False),
}


def _by_outcome(m: Measurement) -> list[tuple[str, np.ndarray]]:
    """(outcome, which puzzles), without empty classes."""
    pairs = [("solved", m.correct), ("unsolved", ~m.correct)]
    return [(name, chosen) for name, chosen in pairs if chosen.any()]


def _counts(m: Measurement) -> str:
    return f"n: {int(m.correct.sum()):,} solved, {int((~m.correct).sum()):,} unsolved at segment {m.budget}."


def _thinned(values: np.ndarray) -> np.ndarray:
    """At most `DRAWN` of the finite values, evenly over their ranks."""
    ranked = np.sort(values[np.isfinite(values)])
    if len(ranked) <= DRAWN:
        return ranked
    return ranked[np.linspace(0, len(ranked) - 1, DRAWN).round().astype(int)]


@styled
def exponents_by_outcome(m: Measurement) -> Plot:
    """Distribution of the first exponent, solved against unsolved."""
    first = m.exponents[:, 0]
    table = pd.DataFrame({"puzzle": m.data["puzzle"].to_numpy(), "solved": m.correct, "exponent_1": first})
    figure = Figure(figsize=(5.0, 2.3))
    ax = figure.subplots()
    ax.axvline(0, color=INK, linewidth=0.7)
    classes = _by_outcome(m)
    for row, (outcome, chosen) in enumerate(reversed(classes)):
        values = _thinned(first[chosen])
        if len(values):
            _strip_and_box(ax, values, first[chosen], row, outcome)
    ax.set_yticks(range(len(classes)), [name for name, _ in reversed(classes)])
    ax.set_ylim(-0.6, len(classes) - 0.4)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("first exponent, nats per segment")
    found = {name: median(first[chosen], "", "") for name, chosen in classes}
    medians = "; ".join(f"{name}: {q}" + (f" ({q.note})" if q.note else "") for name, q in found.items())
    lost = int((~np.isfinite(first)).sum())
    caption = (
        f"One dot per puzzle: its finite-time Lyapunov exponent over segments 1 to {m.exponent_segments}. "
        "Right of 0 nearby states part, left of 0 they draw together. Box: quartiles and median; whiskers: "
        f"5 to 95 %. Medians with 95 % interval: {medians}. {_counts(m)}"
    )
    if max(int(chosen.sum()) for _, chosen in classes) > DRAWN:
        caption += f" At most {DRAWN} dots per outcome are drawn, evenly over the ranks."
    if lost:
        caption += f" {lost} exponents are not finite and not drawn."
    return Plot("exponents", "First exponent by outcome", figure, table, caption)


def _strip_and_box(ax: Axes, drawn: np.ndarray, values: np.ndarray, row: int, outcome: str) -> None:
    """Dots below, box above; the scatter of the dots is a fixed sequence, not a random one."""
    color = OUTCOMES[outcome]["color"]
    height = row - 0.32 + 0.3 * ((np.arange(len(drawn)) * 0.618034) % 1)
    few = len(drawn) < FEW_DOTS
    ax.scatter(drawn, height, s=14 if few else 5, color=color, alpha=0.9 if few else 0.45, linewidths=0)
    if np.isfinite(values).sum() < BOXED:
        return
    ax.boxplot(
        [values[np.isfinite(values)]],
        positions=[row + 0.2],
        orientation="horizontal",
        widths=0.22,
        whis=(5, 95),
        showfliers=False,
        manage_ticks=False,
        boxprops={"color": color},
        whiskerprops={"color": color},
        capprops={"color": color},
        medianprops={"color": INK, "linewidth": 1.6},
    )


@styled
def spectrum_by_fate(m: Measurement) -> Plot:
    """Median exponents by index for each fate that occurs."""
    k = m.exponents.shape[1]
    index, rows, ends = np.arange(1, k + 1), [], []
    figure = Figure()
    ax = figure.subplots()
    ax.axhline(0, color=INK, linewidth=0.7)
    split = m.threshold.splits
    fates = FATES if split else {name: (True, name == "solved") for name in OUTCOMES}
    chosen_by_fate = {
        name: (m.correct == c) & ((m.settled == s) | (not split)) for name, (s, c) in fates.items()
    }
    present = {name: chosen for name, chosen in chosen_by_fate.items() if chosen.any()}
    for i, (name, chosen) in enumerate(present.items()):
        settled, correct = fates[name]
        look = OUTCOMES["solved" if correct else "unsolved"]
        low, middle, high = np.nanquantile(m.exponents[chosen], [0.25, 0.5, 0.75], axis=0, method="nearest")
        ax.errorbar(
            index + 0.06 * (i - (len(present) - 1) / 2),
            middle,
            yerr=np.stack([middle - low, high - middle]),
            color=look["color"],
            linestyle=look["linestyle"],
            linewidth=1.3,
            elinewidth=0.9,
            marker="o" if settled else "s",
            markerfacecolor=look["color"] if settled else "none",
        )
        n = int(chosen.sum())
        ends.append((float(middle[-1]), f"{name}\n(n {n:,})", look["color"]))
        triples = zip(index, low, middle, high, strict=True)
        rows += [
            {"fate": name, "exponent": e, "q25": a, "median": b, "q75": c, "n": n} for e, a, b, c in triples
        ]
    ax.set_xticks(index)
    ax.set_xlim(0.7, k + 0.3)
    ax.set_xlabel("exponent, by rank")
    ax.set_ylabel("nats per segment")
    label_right(ax, ends, gap=0.075)
    absent = "; ".join(name for name in fates if name not in present)
    caption = (
        f"Median of each of the {k} leading exponents, bars from the lower to the upper quartile, by "
        f"{'fate' if split else 'outcome'}. "
    )
    if split:
        low = rounded(m.threshold.value)
        caption += f"Filled: the orbit had settled (late drift below {low}); open: still wandering."
    else:
        caption += "Not by fate: late drift does not fall into two groups, settled and wandering."
    caption += f" No puzzle is: {absent}." if absent else ""
    title = f"Spectrum by {'fate' if split else 'outcome'}"
    return Plot("spectrum", title, figure, pd.DataFrame(rows), caption)


@styled
def drift_against_exponent(m: Measurement) -> Plot:
    """Every puzzle by first exponent and late drift."""
    assert m.late is not None
    first = m.exponents[:, 0]
    identity = {"puzzle": m.data["puzzle"].to_numpy(), "solved": m.correct, "settled": m.settled}
    table = pd.DataFrame({**identity, "exponent_1": first, "late_drift": m.late})
    figure = Figure(figsize=(5.0, 3.4))
    ax = figure.subplots()
    ends = []
    for outcome, chosen in _by_outcome(m):
        usable = np.flatnonzero(chosen & np.isfinite(first) & (m.late > 0))
        order = usable[np.argsort(first[usable], kind="stable")]
        if len(order) > DRAWN:
            order = order[np.linspace(0, len(order) - 1, DRAWN).round().astype(int)]
        if len(order) == 0:
            continue
        look = OUTCOMES[outcome]
        ax.scatter(
            first[order],
            m.late[order],
            s=9,
            marker=look["marker"],
            color=look["color"],
            alpha=0.6,
            linewidths=0.8,
        )
        ends.append((float(np.median(m.late[order])), outcome, look["color"]))
    ax.set_yscale("log")
    log_values(ax, *ax.get_ylim())
    if m.threshold.splits:
        ax.axhspan(ax.get_ylim()[0], m.threshold.value, color=GREY, alpha=0.13, linewidth=0, zorder=0)
        ax.axhline(m.threshold.value, color=INK, linewidth=0.8, linestyle=":")
        ends.append((m.threshold.value, "threshold", INK))
        words = (
            f"In the grey band below the dotted threshold ({rounded(m.threshold.value)}, "
            f"{m.threshold.rule}) an orbit counts as settled."
        )
    else:
        ax.text(1, 1, "no cut: one group", transform=ax.transAxes, ha="right", fontsize=7, color=GREY)
        words = f"No cut between settled and wandering: {no_groups(m.threshold)}."
    ax.axvline(0, color=INK, linewidth=0.7)
    ax.set_xlabel("first exponent, nats per segment")
    ax.set_ylabel(f"late drift ({_unit(m)})")
    label_right(ax, ends)
    caption = (
        f"One mark per puzzle. Late drift: mean change of {m.moved} over the last {WINDOW} segments up to "
        f"{m.budget}. {words} {_counts(m)}"
    )
    if max(int(m.correct.sum()), int((~m.correct).sum())) > DRAWN:
        caption += f" At most {DRAWN} marks per outcome are drawn."
    return Plot("drift_exponent", "Late drift against first exponent", figure, table, caption)


@styled
def drift_series(m: Measurement) -> Plot:
    """Median drift per segment by outcome."""
    figure = Figure()
    ax = figure.subplots()
    segment, ends = np.arange(1, m.stop + 1), []
    columns: dict[str, np.ndarray] = {}
    positive = m.drift[m.drift > 0]
    floor = float(positive.min()) if len(positive) else 1e-9  # an orbit that stands still has no logarithm
    for outcome, chosen in _by_outcome(m):
        low, middle, high = pd.DataFrame(m.drift[chosen]).quantile([0.25, 0.5, 0.75]).to_numpy()  # skips NaN
        color = OUTCOMES[outcome]["color"]
        band(ax, segment, np.maximum(low, floor), np.maximum(high, floor), color)
        line(ax, segment, np.maximum(middle, floor), outcome)
        ends.append((max(float(middle[-1]), floor), outcome, color))
        columns |= {f"{outcome}_q25": low, f"{outcome}_median": middle, f"{outcome}_q75": high}
    ax.set_yscale("log")
    log_values(ax, *ax.get_ylim())
    log_segments(ax, m.stop)
    if m.trained:
        mark_budget(ax, m.budget)
    ax.set_ylabel(f"change of {m.moved} per segment ({_unit(m)})")
    label_right(ax, ends)
    caption = (
        f"Median over puzzles of the change of {m.moved} ({m.drift_name}) in each segment; band: lower to "
        f"upper quartile. A falling curve settles, a level one wanders. Outcome as of segment {m.budget}. "
        f"{_counts(m)}"
    )
    return Plot("drift", "Drift by outcome", figure, pd.DataFrame({"segment": segment, **columns}), caption)


def chosen_orbits(m: Measurement) -> dict[str, int]:
    """One orbit of each kind, by a fixed rule.

    Quick: a quarter of the way through the successes in order of solving. Late: the middle one of those
    solved after the budget, else the last. Failure: the one with the middle drift at the end.
    """
    times = m.first_solved
    found = np.flatnonzero(times > 0)
    failed = np.flatnonzero(times == -1)
    orbits: dict[str, int] = {}
    if len(found):
        order = found[np.argsort(times[found], kind="stable")]
        orbits["quick success"] = int(order[len(order) // 4])
        after = order[times[order] > m.budget]
        late = int(after[len(after) // 2] if len(after) else order[-1])
        if times[late] > times[orbits["quick success"]]:
            orbits["late success"] = late
    if len(failed):
        quiet = m.drift[failed, -1] if m.drift_name else np.arange(len(failed))
        orbits["failure"] = int(failed[np.argsort(quiet, kind="stable")[len(failed) // 2]])
    return orbits


@styled
def single_orbits(m: Measurement) -> Plot:
    """Drift and halt logit of a quick success, a late success and a failure."""
    orbits = chosen_orbits(m)
    segment = np.arange(1, m.stop + 1)
    halts = m.array("halt_logit").astype(float) if "halt_logit" in m else None
    figure = Figure(figsize=(5.0, 3.3 if halts is not None else 2.0))
    axes = figure.subplots(1 if halts is None else 2, len(orbits), sharex=True, sharey="row", squeeze=False)
    rows = []
    for column, (name, row) in enumerate(orbits.items()):
        solved_at = int(m.first_solved[row])
        outcome = "solved" if solved_at > 0 else "unsolved"
        line(axes[0, column], segment, np.where(m.drift[row] > 0, m.drift[row], np.nan), outcome)
        axes[0, column].set_yscale("log")
        log_values(axes[0, column], *axes[0, column].get_ylim())
        axes[0, column].set_title(f"{name}\npuzzle {int(m.data['puzzle'][row])}")
        if halts is not None:
            line(axes[1, column], segment, halts[row], outcome)
            axes[1, column].axhline(0, color=INK, linewidth=0.7)
        for ax in axes[:, column]:
            log_segments(ax, m.stop, label="segments" if ax is axes[-1, column] else "", room=6)
            _mark_moments(ax, m, solved_at)
        series = {
            "orbit": name,
            "puzzle": int(m.data["puzzle"][row]),
            "segment": segment,
            "drift": m.drift[row],
        }
        rows.append(
            pd.DataFrame(
                {**series, "halt_logit": np.nan if halts is None else halts[row], "solved": m.solved[row]}
            )
        )
    axes[0, 0].set_ylabel(f"change of {m.moved}\n({_unit(m)})")
    if halts is not None:
        axes[1, 0].set_ylabel("halt logit")
    caption = (
        "Single puzzles, chosen by rule: a quarter of the way through the successes in order of solving; "
        "the middle one of those solved after the budget, else the last; the never solved one with the "
        "middle drift at the end. Green line with triangle: first right answer. "
        + ("Dashed grey: training budget. " if m.trained and m.stop > m.budget else "")
        + ("Above 0 the halt logit says *done*." if halts is not None else "")
    )
    return Plot("orbits", "Single orbits", figure, pd.concat(rows, ignore_index=True), caption)


def _mark_moments(ax: Axes, m: Measurement, solved_at: int) -> None:
    """The training budget, and the first right answer where there is one."""
    if m.trained and m.stop > m.budget:
        mark_budget(ax, m.budget, words=None)
    if solved_at > 0:
        ax.axvline(solved_at, color=SOLVED, linewidth=0.8)
        ax.plot([solved_at], [1], marker="v", color=SOLVED, transform=ax.get_xaxis_transform(), clip_on=False)


def _unit(m: Measurement) -> str:
    """Unit of the drift as recorded."""
    unit = str(m.data[m.drift_name].attrs.get("units", "")) if m.drift_name else ""
    return unit if unit not in ("", "1") else "norm"
