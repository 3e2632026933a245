"""Tables of the whole protocol: statistics, exponents in parts, fates, escape, basins, sure failures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from loopscope.dynamics.basins import outcome_split
from loopscope.dynamics.decay import decay_test
from loopscope.dynamics.escape import escape_rate
from loopscope.dynamics.exponents import entropy_bound, kaplan_yorke_dimension
from loopscope.dynamics.fate import confidently_wrong, fate_sweep, mixture_threshold
from loopscope.dynamics.outcomes import NATS, Statistic
from loopscope.reports.claims import fresh_against_onward
from loopscope.reports.measurement import Measurement
from loopscope.reports.published import SOURCE, TASK, published
from loopscope.reports.quantity import (
    Cell,
    Noted,
    Quantity,
    Table,
    median,
    median_bound,
    of_statistic,
    rate,
    rounded,
    share,
)

PERCENTILES = np.array([10.0, 25.0, 40.0, 50.0, 60.0, 75.0, 90.0])
MOST_SURE = 10  # sure failures listed


def statistics_rows(m: Measurement, rows: Sequence[Statistic]) -> Table:
    """All outcome statistics, with p values adjusted for all tests and the published numbers."""
    there = m.attrs.get("task") == TASK
    cells: list[list[Cell]] = []
    for row in rows:
        quantity = of_statistic(row)
        note = "" if math.isnan(row.value) else row.note
        cells.append([Noted(row.name, note), quantity, row.n, _p_value(row.p_holm)])
        cells[-1] += [published(m, row.name) or "–"] if there else []
    caption = (
        "Scores are oriented so that larger means more likely solved. All but those “unsolved at” a segment "
        "see the segments that decide the outcome. p: Brunner-Munzel for AUCs, likelihood ratio for gains, "
        "adjusted after Holm over all tests of the table."
    )
    header = ["statistic", "value and 95 % interval", "n", "p (Holm)"] + (["published"] if there else [])
    return Table("All outcome statistics", header, cells, f"{caption} {SOURCE}" if there else caption)


def _p_value(p: float) -> str:
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def exponent_rows(m: Measurement) -> Table | None:
    """Where the first exponent comes from, how sure it is, and what the spectrum implies, by outcome."""
    if "ftle" not in m:
        return None
    stop, k = m.exponent_segments, m.exponents.shape[1]
    parts = {f"whole orbit, segments 1 to {stop}": (m.exponents[:, 0], NATS)}
    if m.applications > 1:
        parts["the same per application"] = (m.exponents[:, 0] / m.applications, "nats per application")
    if stop > 1 and "growth" in m:
        late = m.growth[:, stop // 2 : stop, 0].mean(axis=1)
        parts[f"late half, segments {stop // 2 + 1} to {stop}"] = (late, NATS)
    if "growth_by_update" in m:
        by_update = m.array("growth_by_update")[:, :stop, :, 0].mean(axis=1)
        names = m.data["update"].to_numpy()
        parts |= {
            f"from updates of {u}": (values, NATS) for u, values in zip(names, by_update.T, strict=True)
        }
    if "ftle_spread" in m:
        sets = f"sd over {m.data.sizes['tangent_seed']} starts of the tangents"
        parts[sets] = (m.array("ftle_spread")[:, 0], NATS)
    outcomes = {"solved": m.correct, "unsolved": ~m.correct}
    rows: list[list[Cell]] = [
        [name, *(median(values[inside], unit, f"no puzzle is {o}") for o, inside in outcomes.items())]
        for name, (values, unit) in parts.items()
    ]
    if k > 1:
        bounds = {
            "Kaplan-Yorke dimension": (kaplan_yorke_dimension, ""),
            "entropy bound": (entropy_bound, NATS),
        }
        for name, (bound, unit) in bounds.items():
            found = [[bound(spectrum) for spectrum in m.exponents[inside]] for inside in outcomes.values()]
            cells = [median_bound(f, unit, f"no puzzle is {o}") for f, o in zip(found, outcomes, strict=True)]
            rows.append([name, *cells])
    caption = (
        "Medians over puzzles. The whole orbit includes the segments in which the tangents still turn; the "
        "late half does not. The shares of the updates add up to the whole within a puzzle; they are no "
        "contraction rates, for an update leaves part of the latent as it is."
    )
    if k > 1:
        caption += (
            f" Dimension and entropy follow from the {k} exponents of each puzzle; ≥: more would raise them."
        )
    return Table("First exponent in parts", ["", *outcomes], rows, caption)


def sweep_rows(m: Measurement) -> Table | None:
    """The four fates when the cut is another one; None without a late drift."""
    if m.late is None:
        return None
    rows: list[list[Cell]] = []
    second = mixture_threshold(m.late)
    for q, table in fate_sweep(m.late, m.correct, PERCENTILES).items():
        counts = [table.settled_correct, table.settled_wrong, table.wandering_correct, table.wandering_wrong]
        cut = rounded(table.threshold.value)
        rows.append([f"{q:.0f} %", cut, *counts, share(table.settled_among_wrong, "no failure")])
    words = second.reason or f"a mixture of two peaks would cut at {rounded(second.value)}"
    return Table(
        "Fates under other thresholds",
        ["percentile", "threshold", "A", "B", "C", "D", "failures that settled"],
        rows,
        "A settled and solved, B settled and unsolved, C wandering and solved, D wandering and unsolved, "
        f"when the cut is that percentile of all late drifts. Second opinion on the cut: {words}.",
    )


def escape_rows(m: Measurement) -> Table | None:
    """Escape rates in windows that double, and the laws fitted to all of them; None without escapes."""
    if m.stop == m.escape_from or not m.at_risk(m.escape_from).any():
        return None
    rows: list[list[Cell]] = []
    start, width = m.escape_from, max(4, m.escape_from)
    while start < m.stop:
        stop = min(start + width, m.stop)
        if not m.at_risk(start).any():
            break
        found = escape_rate(m.first_solved, start=start, stop=stop)
        per = rate(found.per_application(m.applications)) if m.applications > 1 else "–"
        rows.append([f"{start + 1} to {stop}", found.n, found.events, rate(found), per])
        start, width = stop, 2 * width
    test = decay_test(m.first_solved, start=m.escape_from, stop=m.stop)
    words = f"Exponential decay: {test.verdict}."
    if not test.reason:
        words += (
            f" Weibull shape {rounded(test.shape.value)} [{rounded(test.shape.low)}, "
            f"{rounded(test.shape.high)}] (1 is exponential, p {test.p_shape:.2g}); best law by AIC: "
            f"{test.best.law}. A falling hazard alone does not tell a mixture of puzzles from ageing."
        )
    header = ["segments", "at risk", "solved", "rate per segment", "rate per application"]
    return Table("Escape", header, rows, words)


def basin_rows(m: Measurement) -> Table | None:
    """What decides the outcome of a restart, the puzzle or the start, by kick; None without restarts."""
    if "basin_solved" not in m or m.data.sizes["restart"] < 2:
        return None
    rows: list[list[Cell]] = []
    for i, sigma in enumerate(m.data["sigma"].to_numpy()):
        split = outcome_split(m.restarts("basin_solved")[:, i])
        part = split.input_share
        puzzle = Quantity(part.value, part.low, part.high, part.n, "share", note=split.reason)
        rows.append([f"{float(sigma):g}", split.always, split.mixed, split.never, puzzle, split.n])
    advantage = fresh_against_onward(m)
    words = "Orbits were not run on for as long as a restart, so restarting and going on cannot be compared."
    if advantage is not None:
        fresh, onward = share(advantage.fresh), share(advantage.onward)
        words = (
            f"For puzzles unsolved after {advantage.at} segments, {advantage.within} more segments solve "
            f"{fresh} from a fresh kicked start (all sizes) and {onward} by going on: {advantage.verdict}."
        )
    header = ["sigma", "every restart", "some", "none", "decided by the puzzle", "n"]
    return Table(
        "Basins",
        header,
        rows,
        f"Puzzles solved by every, some or none of {m.data.sizes['restart']} restarts, and the share of the "
        f"variance of outcomes that lies between puzzles; the start decides the rest. {words}",
    )


def sure_rows(m: Measurement) -> Table | None:
    """Failures that the model calls right, the surest first; None where that cannot be told."""
    if m.late is None or "halt_logit" not in m:
        return None
    found = confidently_wrong(m.halt(m.budget), m.correct, m.late, m.threshold, most=MOST_SURE)
    if not found:
        return None
    rows: list[list[Cell]] = [
        [
            str(int(m.data["puzzle"][f.puzzle])),
            rounded(f.halt_logit, sign=True),
            rounded(f.late_drift),
            "settled" if f.settled else "wandering",
        ]
        for f in found
    ]
    return Table(
        "Surest failures",
        ["puzzle", "halt logit", "late drift", "fate"],
        rows,
        f"Wrong answers after {m.budget} segments that the model calls right, at most {MOST_SURE}.",
    )
