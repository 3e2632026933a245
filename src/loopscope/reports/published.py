"""Published numbers as text beside ours, always marked as published; the numbers are those of `dynamics`.

Two trained checkpoints on the Sudoku-Extreme test set at 16 segments: they say how large an effect was
elsewhere, and compare with ours only on the same puzzles and weights.
"""

from __future__ import annotations

import math

from loopscope.dynamics.escape_compare import EscapeComparison, compare_escape
from loopscope.dynamics.published import PUBLISHED, SUB_UPDATES, Published
from loopscope.reports.measurement import Measurement
from loopscope.reports.quantity import percent, rounded

TASK = "sudoku-3x3"  # the puzzles that were published on
ESCAPE = "TRM about 5 times HRM per segment, 1.6 times per application"
SOURCE = (
    "The published column was not measured here: two trained checkpoints (HRM, 27M parameters; TRM-MLP, 5M) "
    "on the Sudoku-Extreme test set at 16 segments, from “Recursive Reasoning Models Fail by Wandering, Not "
    "by Settling”. The numbers compare with ours only on the same puzzles and weights, exponents only within "
    f"one estimator; TRM medians were multiplied by {SUB_UPDATES} sub-updates to give nats per segment."
)
NAMES = {  # row of the headline table -> published under this name
    "AUC, low exponent → solved": "AUC, low exponent",
    "AUC, low early exponent → solved later": "AUC, low exponent, unsolved at 4",
    "median exponent, solved": "median exponent 1, correct",
    "median exponent, unsolved": "median exponent 1, wrong",
    "failures that settled": "failures that settled",
}


def published(m: Measurement, name: str) -> str:
    """What was published under the name of a headline row or of an outcome statistic; empty if nothing."""
    if m.attrs.get("task") != TASK:
        return ""
    if name == "escape rate":
        return ESCAPE
    known = "solved" if name == f"solved after {m.budget} segments" else NAMES.get(name, name)
    return "; ".join(in_words(known, number) for number in PUBLISHED.get(known, ()))


def in_words(name: str, p: Published) -> str:
    """One published number with its model, and its interval where there is one."""

    def number(value: float) -> str:
        if name.startswith("AUC"):
            return f"{value:.3f}"
        if name.startswith("median exponent"):
            return rounded(value, sign=True)
        if name.startswith("median") and not name.startswith("median share"):
            return "never" if math.isinf(value) else f"{value:g}"
        return percent(value, small=0 < value < 0.02)

    unit = ""
    if name.startswith("median exponent"):
        unit = " per sub-update" if "not convertible" in p.note else " per segment"
    elif not name.startswith(("AUC", "median")) or name.startswith("median share"):
        unit = " %"
    ends = "" if math.isnan(p.low) else f" [{number(p.low)}, {number(p.high)}]"
    about = f" ({p.note})" if p.note.startswith(("printed as", "range", "strict")) else ""
    return f"{p.model} {number(p.value)}{unit}{ends}{about}"


def escape_comparison(a: Measurement, b: Measurement, *, paired: bool) -> EscapeComparison | None:
    """Escape rate of one measurement over that of another; None without segments that both ran on for, or
    without a puzzle left unsolved."""
    start, stop = max(a.escape_from, b.escape_from), min(a.stop, b.stop)
    if stop <= start or not all(m.at_risk(start).any() for m in (a, b)):
        return None
    steps = (a.applications, b.applications)
    return compare_escape(
        a.first_solved, b.first_solved, start=start, stop=stop, applications=steps, paired=paired
    )
