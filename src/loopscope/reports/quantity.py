"""A number as a report prints it: with unit, interval, sample size, or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from loopscope.dynamics.escape import EscapeRate
from loopscope.dynamics.exponents import Bound
from loopscope.dynamics.outcomes import Statistic
from loopscope.dynamics.statistics import Auc
from loopscope.evaluation.intervals import Estimate, median_interval

Kind = Literal["share", "auc", "signed", "plain"]
MEDIAN = 6  # values from which order statistics give a 95 % interval of the median
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Quantity:
    """One printed number.

    Attributes:
        value, low, high: estimate and 95 % interval; NaN where undefined.
        n: puzzles behind it.
        kind: how to print it: a share (in %), an AUC, a signed number or a plain one.
        unit: printed after the number; empty for shares and AUCs.
        note: what it rests on, or why it is undefined.
        least: whether the value is only a lower bound.
    """

    value: float
    low: float
    high: float
    n: int
    kind: Kind = "plain"
    unit: str = ""
    note: str = ""
    least: bool = False

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"NaN: {self.note or 'undefined'}"
        text = f"{'≥ ' if self.least else ''}{self.number(self.value)}{self.suffix}"
        if math.isnan(self.low) and math.isnan(self.high):
            return text
        return f"{text} [{self.number(self.low)}, {self.number(self.high)}]"

    @property
    def suffix(self) -> str:
        return " %" if self.kind == "share" else f" {self.unit}" if self.unit else ""

    def number(self, value: float) -> str:
        """One number in the format of this quantity, without unit."""
        if self.kind == "share":
            return percent(value, small=0 < self.value < 0.01)
        if self.kind == "auc":
            return f"{value:.3f}"
        return rounded(value, sign=self.kind == "signed")


class Noted(NamedTuple):
    """A name with a remark in small print below it."""

    name: str
    note: str


Cell = str | int | Quantity | Noted


@dataclass(frozen=True)
class Table:
    """Rows to print; cells are text, counts, names with a remark, or quantities."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


def percent(share: float, small: bool = False) -> str:
    """A share in per cent, without the sign: 87.6, or .55 where one digit would say too little."""
    return f"{100 * share:.2f}" if small else f"{100 * share:.1f}"


def rounded(value: float, sign: bool = False) -> str:
    """Three significant digits with a true minus sign: 2.00, −0.152, 2.20×10⁻⁵."""
    if math.isinf(value) or value == 0:
        return {0.0: "0", math.inf: "∞"}.get(value, "−∞")
    digits, _, power = (f"{value:+#.3g}" if sign else f"{value:#.3g}").partition("e")
    text = digits.rstrip(".").replace("-", "−")
    return f"{text}×10{str(int(power)).translate(RAISED)}" if power else text


def share(estimate: Estimate, note: str = "") -> Quantity:
    """A proportion."""
    empty = note or "no puzzle"
    return Quantity(
        estimate.value, estimate.low, estimate.high, estimate.n, "share", note=note if estimate.n else empty
    )


def separation(result: Auc, note: str = "") -> Quantity:
    """An AUC, or its reason for being undefined."""
    counts = f"{result.n_pos:,} solved against {result.n_neg:,} unsolved"
    if result.n_missing:
        counts += f"; {result.n_missing} without a score left out"
    if result.value in (0, 1):
        counts += "; at perfect separation the bound is that of disjoint pairs"
    text = result.reason or (f"{note}; {counts}" if note else counts)
    return Quantity(result.value, result.low, result.high, result.n, "auc", note=text)


def of_statistic(row: Statistic) -> Quantity:
    """An outcome statistic; AUCs and shares are told by their names and range, the rest keeps its units."""
    kind: Kind = "plain"
    if row.name.startswith("AUC gained"):
        kind = "signed"
    elif row.name.startswith("AUC"):
        kind = "auc"
    elif row.units == "1" and not row.name.startswith(("likelihood", "risk")):
        kind = "share"
    elif row.units.startswith("nats"):
        kind = "signed"
    unit, note = "" if row.units == "1" else row.units, row.note
    if row.name.startswith("median") and not math.isnan(row.value):
        alone = _no_interval(Estimate(row.value, row.low, row.high, row.n))
        note = "; ".join(filter(None, (alone, note)))
    return Quantity(row.value, row.low, row.high, row.n, kind, unit, note)


def rate(result: EscapeRate) -> Quantity:
    """An escape rate."""
    note = f"{result.events:,} of {result.n:,} solved between segment {result.start} and {result.stop}"
    if not result.exponential:
        note += f"; an average, the hazard is not constant (score {rounded(result.trend, sign=True)})"
    unit = f"per {result.unit}"
    return Quantity(result.value, result.low, result.high, result.n, "plain", unit, note)


def median(values: np.ndarray, unit: str, empty: str) -> Quantity:
    """A median with its interval (`median_interval`); `empty` is noted where there is no value."""
    m = median_interval(values)
    return Quantity(m.value, m.low, m.high, m.n, "signed", unit, _no_interval(m) if m.n else empty)


def _no_interval(m: Estimate) -> str:
    """Why a median stands alone; empty where it has its interval."""
    return f"no interval: n {m.n}, at least {MEDIAN} needed" if m.n and math.isnan(m.low) else ""


def median_bound(bounds: Sequence[Bound], unit: str, empty: str) -> Quantity:
    """The median of bounds; itself only a bound while an open one in the middle or below could raise it."""
    values = np.array([b.value for b in bounds])
    m = median_interval(values)
    middle = np.sort(values)[m.n // 2] if m.n else math.nan  # the upper one of two; NaN values sort last
    least = any(not b.closed and b.value <= middle for b in bounds)
    note = _no_interval(m) if m.n else empty
    return Quantity(m.value, m.low, m.high, m.n, unit=unit, note=note, least=least)
