"""The numbers of a report, computed from a measurement; nothing here knows about html."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr

from loopscope.dynamics.escape import EscapeRate, escape_rate
from loopscope.dynamics.fate import WINDOW, FateTable, fate_table
from loopscope.dynamics.outcomes import LANDMARK, RESAMPLES
from loopscope.dynamics.statistics import auc, auc_landmark
from loopscope.evaluation.intervals import mean_share, upper_bound, wilson
from loopscope.evaluation.metrics import by_rating
from loopscope.reports.measurement import Measurement, read_measurements
from loopscope.reports.published import SOURCE, published
from loopscope.reports.quantity import (
    Cell,
    Noted,
    Quantity,
    Table,
    median,
    percent,
    rate,
    rounded,
    separation,
    share,
)

EARLY = LANDMARK  # segments of the leak-free exponent: features end before the outcome can be known


def quantities(m: Measurement) -> dict[str, Quantity]:
    """The numbers to quote, by name, in the order in which they are printed.

    What was not measured is left out; what was measured but is undefined is NaN with a reason.
    """
    return {**_accuracy(m), **_separations(m), **_escape(m), **_medians(m), **_fates(m)}


def headline(data: xr.Dataset) -> list[tuple[str, str]]:
    """The numbers of a measurement as text, (name, value with interval), for a terminal."""
    return [(name, str(quantity)) for name, quantity in quantities(read_measurements(data)[0]).items()]


def _accuracy(m: Measurement) -> dict[str, Quantity]:
    def solved_at(t: int) -> Quantity:
        return share(wilson(int(m.solved[:, t - 1].sum()), m.n))

    rows = {f"solved after {m.budget} segments": solved_at(m.budget)}
    if m.stop > m.budget:
        rows[f"solved after {m.stop} segments"] = solved_at(m.stop)
        ever = wilson(int((m.first_solved > 0).sum()), m.n)
        rows[f"solved at some segment up to {m.stop}"] = share(ever, "an oracle: nothing says when to stop")
    if "cell_accuracy" in m:
        right = mean_share(m.array("cell_accuracy")[:, m.budget - 1].astype(float), resamples=RESAMPLES)
        rows["cells right"] = share(right, f"mean over puzzles after {m.budget} segments, givens included")
    if "halt_logit" in m:
        halt = m.halt(m.budget)
        agrees = ((halt >= 0) == m.correct) & ~np.isnan(halt)
        if not np.isnan(halt).all():
            rows["halt signal right"] = share(
                wilson(int(agrees.sum()), m.n), "(halt logit ≥ 0) agrees with the outcome"
            )
    return rows


def _separations(m: Measurement) -> dict[str, Quantity]:
    rows = {}
    if "ftle" in m:
        result = auc(-m.exponents[:, 0], m.correct, resamples=RESAMPLES)
        rows["AUC, low exponent → solved"] = separation(result, "retrospective")
    if m.late is not None:
        rows["AUC, low late drift → solved"] = separation(
            auc(-m.late, m.correct, resamples=RESAMPLES), "retrospective"
        )
    if "halt_logit" in m:
        result = auc(m.halt(m.budget), m.correct, resamples=RESAMPLES)
        rows["AUC, halt logit → solved"] = separation(result, f"at segment {m.budget}")
    if "growth" in m and m.budget > EARLY and m.exponent_segments >= EARLY:
        result = auc_landmark(-m.growth[:, :, 0], m.solved, at=EARLY, until=m.budget, resamples=RESAMPLES)
        note = f"only puzzles unsolved after {EARLY} segments, exponent of those {EARLY}: a forecast"
        rows["AUC, low early exponent → solved later"] = separation(result, note)
    return rows


def escape(m: Measurement) -> EscapeRate | None:
    """Escape rate after the budget; None when nothing was run there or nothing was left unsolved."""
    if m.stop == m.escape_from or not m.at_risk(m.escape_from).any():
        return None
    return escape_rate(m.first_solved, start=m.escape_from, stop=m.stop)


def _escape(m: Measurement) -> dict[str, Quantity]:
    if m.stop == m.escape_from:
        return {}
    found = escape(m)
    if found is None:
        reason = f"every puzzle has been right at some segment by {m.escape_from}"
        return {"escape rate": Quantity(math.nan, math.nan, math.nan, 0, unit="per segment", note=reason)}
    rows = {"escape rate": rate(found)}
    if m.applications > 1:
        rows["escape rate per application"] = rate(found.per_application(m.applications))
    return rows


def _medians(m: Measurement) -> dict[str, Quantity]:
    if "ftle" not in m:
        return {}
    first, unit = m.exponents[:, 0], "nats per segment"
    return {
        "median exponent, solved": median(first[m.correct], unit, "no solved puzzle"),
        "median exponent, unsolved": median(first[~m.correct], unit, "no unsolved puzzle"),
    }


def fates(m: Measurement) -> FateTable | None:
    """Settled or wandering against correct or wrong at the budget; None without a drift."""
    if m.late is None:
        return None
    return fate_table(m.late, m.correct)


def _fates(m: Measurement) -> dict[str, Quantity]:
    found = {"failures that settled": fates(m)}
    if m.at_end is not None:
        found[f"failures that settled after {m.stop} segments"] = fates(m.at_end)
    return {name: _settled(table) for name, table in found.items() if table is not None}


def _settled(table: FateTable) -> Quantity:
    wrong = table.settled_wrong + table.wandering_wrong
    note = f"{table.settled_wrong} of {wrong}"
    if table.settled_wrong == 0 and wrong:
        note += f"; one-sided upper bound {percent(upper_bound(0, wrong))} %"
    return share(table.settled_among_wrong, note if wrong else "no unsolved puzzle")


def headline_table(m: Measurement, numbers: dict[str, Quantity]) -> Table:
    """`quantities` as rows, with what was published beside them where there is something."""
    others = {name: published(m, name) for name in numbers}
    there = any(others.values())
    rows: list[list[Cell]] = [
        [
            Noted(name, "" if math.isnan(q.value) else q.note),
            q,
            q.n,
            *([others[name] or "–"] if there else []),
        ]
        for name, q in numbers.items()
    ]
    caption = (
        "Intervals: Wilson for shares (Clopper-Pearson for failures that settled and for escape), "
        f"percentile bootstrap over puzzles for AUCs and cell accuracy ({RESAMPLES:,} resamples, seed 0), "
        "exact order statistics for medians. Retrospective: the score is read on the same segments as the "
        "outcome."
    )
    header = ["quantity", "value and 95 % interval", "n"] + (["published"] if there else [])
    return Table("Headline numbers", header, rows, f"{caption} {SOURCE}" if there else caption)


def comparison_table(measurements: Sequence[Measurement], columns: Sequence[dict[str, Quantity]]) -> Table:
    """Headline numbers of several measurements, one column each."""
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows: list[list[Cell]] = [["puzzles", *(m.n for m in measurements)]]
    rows += [["block applications per segment", *(m.applications for m in measurements)]]
    rows += [[name, *(column.get(name, "not measured") for column in columns)] for name in names]
    return Table(
        "Side by side",
        ["quantity", *(m.name for m in measurements)],
        rows,
        "Exponents of models with different numbers of applications per segment are not on one scale; "
        "escape rates are, per application. No interval covers the spread between training seeds.",
    )


def fate_rows(m: Measurement) -> Table | None:
    """The 2 x 2 table of fates; None without a drift."""
    table, title = fates(m), f"Fates after {m.budget} segments"
    if table is None:
        return None
    a, b, c, d = table.settled_correct, table.settled_wrong, table.wandering_correct, table.wandering_wrong
    rows: list[list[Cell]] = [["settled", a, b, a + b], ["wandering", c, d, c + d]]
    rows += [["all", a + c, b + d, a + b + c + d]]
    cut = table.threshold
    window = f"segments {m.budget - WINDOW + 1} to {m.budget}"
    drift = f"Late drift: mean change of {m.moved} over {window} ({m.drift_name})."
    if cut.reason:
        return Table(title, ["", "solved", "unsolved", "all"], rows, f"{drift} No threshold: {cut.reason}.")
    if not cut.splits:
        drift += " Drift does not fall into two groups, so the cut is arbitrary."
    caption = (
        f"{drift} Settled: below {rounded(cut.value)} (log10 {rounded(cut.log10)}, Otsu on these drifts: "
        f"other segments have another cut). It {cut.explained}. "
        f"Without any threshold: {table.drift_gap}."
    )
    return Table(title, ["", "solved", "unsolved", "all"], rows, caption)


def rating_rows(m: Measurement) -> Table | None:
    """Accuracy at the budget by difficulty; None without ratings."""
    if "rating" not in m:
        return None
    bands = by_rating(m.correct, {"rating": m.array("rating")})
    rows: list[list[Cell]] = [[band, share(estimate), estimate.n] for band, estimate in bands.items()]
    caption = (
        f"Solved after {m.budget} segments, Wilson interval. Rating: guesses that a search solver needs."
    )
    return Table("Accuracy by difficulty", ["rating", "solved", "n"], rows, caption)


def restart_rows(m: Measurement) -> Table | None:
    """Solve rates of restarts by kick and by the outcome of the plain start; None without restarts."""
    if "basin_solved" not in m:
        return None
    rows: list[list[Cell]] = []
    for name, chosen in (("solved", m.correct), ("unsolved", ~m.correct)):
        for i, sigma in enumerate(m.data["sigma"].to_numpy()):
            single, best, final = restart_rates(m, chosen, i)
            rows.append([name, f"{float(sigma):g}", single, best, final, int(chosen.sum())])
    caption = (
        "Each restart begins at the usual start plus noise of size sigma (in standard deviations of the "
        f"start) and runs {restart_length(m)} segments. One restart: mean over restarts, bootstrap over "
        f"puzzles (Wilson where all agree). Best of K: any of {m.data.sizes['restart']} restarts, at as many "
        "times the cost, and an oracle. Solved counts a right answer at any segment of the restart; the last "
        "column only the answer at its end."
    )
    header = ["plain start", "sigma", "one restart", "best of K", "one restart, at its end", "n"]
    return Table("Restarts", header, rows, caption)


def restart_length(m: Measurement) -> int:
    """Segments of a restart."""
    return int(m.attrs.get("restart_segments", m.budget))


def never_solved_plainly(m: Measurement) -> np.ndarray | None:
    """Failures that the plain orbit had right at no segment within the length of a restart, (B,) bool.

    What a restart solves of these, the kick has solved. None where the plain orbits are shorter.
    """
    length = restart_length(m)
    return None if m.stop < length else ~m.correct & ~m.solved[:, :length].any(axis=1)


def restart_rates(m: Measurement, chosen: np.ndarray, sigma: int) -> tuple[Quantity, Quantity, Quantity]:
    """Rates of one restart, of the best of K, and of one restart judged at its end.

    Args:
        m: with restarts.
        chosen: which puzzles count, (B,) bool.
        sigma: index of the kick size.
    """
    hits = m.restarts("basin_solved")[chosen, sigma]
    single = share(mean_share(hits.mean(axis=1), resamples=RESAMPLES))
    best = share(wilson(int(hits.any(axis=1).sum()), len(hits)))
    if "basin_final" not in m:
        return single, best, Quantity(math.nan, math.nan, math.nan, 0, "share", note="not recorded")
    ends = m.restarts("basin_final")[chosen, sigma]
    return single, best, share(mean_share(ends.mean(axis=1), resamples=RESAMPLES))
