"""Published numbers to print beside ours, always marked as published.

Source: "Recursive Reasoning Models Fail by Wandering, Not by Settling" and its public notebook;
Sudoku-Extreme, 16 segments. Their exponents are per sub-update and depend on the estimator.
"""

from __future__ import annotations

import math

from loopscope.reports.measurement import Measurement
from loopscope.reports.quantity import Cell, Quantity, Table, rounded
from loopscope.reports.tables import escape, fates

SUB_UPDATES = 21  # of a TRM segment; the published HRM count (4) does not match its schedule (6)
TRM_MEDIANS = (0.012, 0.103)  # nats per sub-update, solved and unsolved
NOT_MEASURED = "not measured"

COMPARED = {  # row -> (published HRM, published TRM-MLP)
    "exact accuracy": ("52.6 %", "87.6 % (n 2,048); 86.9 % (full test)"),
    "AUC, low exponent → solved": ("0.984 [0.982, 0.987]; 0.987", "0.993 [0.991, 0.996]"),
    "failures that settled": ("21 of 3,894 = 0.55 %", "0 of 254 (bound 1.17 %)"),
    "successes stiller than the stillest failure": ("–", "96.5 %"),
}


def published_table(m: Measurement, ours: dict[str, Quantity]) -> Table | None:
    """Ours beside the published numbers; None for other puzzles than 9x9 Sudoku."""
    if m.attrs.get("task") != "sudoku-3x3":
        return None
    rows: list[list[Cell]] = [[name, _ours(m, ours, name), *values] for name, values in COMPARED.items()]
    for outcome, hrm, trm in zip(("solved", "unsolved"), ("−0.152", "+0.032"), TRM_MEDIANS, strict=True):
        name = f"median exponent, {outcome}"
        per_segment = (
            f"{rounded(trm, sign=True)} per sub-update = {rounded(trm * SUB_UPDATES, sign=True)} per segment"
        )
        rows.append(
            [name, ours.get(name, NOT_MEASURED), f"{hrm} per sub-update, not convertible", per_segment]
        )
    ratio = "about 5 times that of HRM per segment, 1.6 times per application"
    rows.append(["escape rate", ours.get("escape rate", NOT_MEASURED), "–", ratio])
    return Table(
        "Beside the published numbers",
        ["quantity", f"here: {m.name}", "published, HRM (27M)", "published, TRM-MLP (5M)"],
        rows,
        "The last two columns are published, not measured here: two trained checkpoints on the "
        "Sudoku-Extreme test set at 16 segments. They compare with ours only on the same puzzles and "
        "weights. Exponents compare only within one estimator; the TRM medians were multiplied by "
        f"{SUB_UPDATES} sub-updates to give nats per segment.",
    )


def _ours(m: Measurement, ours: dict[str, Quantity], name: str) -> Quantity | str:
    if name == "exact accuracy":
        return next(iter(ours.values()))
    if name in COMPARED and name in ours:
        return ours[name]
    table = fates(m)
    if name.startswith("successes") and table is not None:
        gap = table.drift_gap
        reason = f"{gap.n_correct} solved, {gap.n_wrong} unsolved"
        return Quantity(gap.share_below, math.nan, math.nan, gap.n_correct, "share", note=reason)
    return NOT_MEASURED


def escape_ratio(fast: Measurement, slow: Measurement) -> tuple[float, float] | None:
    """Escape rate of one measurement over that of another, per segment and per application."""
    a, b = escape(fast), escape(slow)
    if a is None or b is None or b.value == 0:
        return None
    return a.value / b.value, (a.value / fast.applications) / (b.value / slow.applications)
