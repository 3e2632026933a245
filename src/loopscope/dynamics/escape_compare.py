"""Two models side by side: who escapes faster, per segment and per unit of work.

A segment of TRM costs 21 block applications, one of HRM 6: only the rate per application compares cost.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from scipy import stats

from loopscope.dynamics.escape import EscapeRate, escape_rate
from loopscope.errors import UserError
from loopscope.evaluation.intervals import Estimate, resampled_rows


@dataclass(frozen=True)
class EscapeComparison:
    """Rates of two models and their ratio, first over second.

    Attributes:
        first, second: rates per segment.
        per_segment, per_application: ratio of rates with a bootstrap interval over puzzles; NaN when a
            model has no event.
        p_logrank: log-rank test of equal survival; it takes the two groups as independent, which is cautious
            for the same puzzles. NaN when segments differ in applications: times are known to a segment
            only, so the longer segment alone would look later.
        reason: why there is no ratio, else empty.
    """

    first: EscapeRate
    second: EscapeRate
    per_segment: Estimate
    per_application: Estimate
    p_logrank: float
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return asdict(self)


def compare_escape(
    first: Int[np.ndarray, " A"],
    second: Int[np.ndarray, " B"],
    *,
    start: int,
    stop: int,
    applications: tuple[int, int],
    paired: bool = False,
    resamples: int = 2000,
    seed: int = 0,
) -> EscapeComparison:
    """Compare the escape of two models.

    Args:
        first, second: first solved segment per puzzle, 1-based; -1 if never.
        start, stop: the window, in segments of each model.
        applications: block applications per segment of each.
        paired: both saw the same puzzles in the same order; they are resampled together.
        resamples, seed: of the bootstrap.
    """
    if paired and len(first) != len(second):
        raise UserError(f"paired: {len(first)} and {len(second)} puzzles. Expected the same puzzles twice.")
    a, b = (escape_rate(at, start=start, stop=stop) for at in (first, second))
    n = min(a.n, b.n)
    p_logrank = _logrank([first, second], start, stop) if applications[0] == applications[1] else math.nan
    if min(a.events, b.events) == 0:
        nothing = Estimate(math.nan, math.nan, math.nan, n)
        reason = f"{a.events} and {b.events} events: no ratio without events on both sides"
        return EscapeComparison(a, b, nothing, nothing, p_logrank, reason)
    if math.isinf(a.value) and math.isinf(b.value):
        nothing = Estimate(math.nan, math.nan, math.nan, n)
        reason = "all escapes in the first segment on both sides: neither rate is finite"
        return EscapeComparison(a, b, nothing, nothing, p_logrank, reason)
    seeds = (seed, seed if paired else seed + 1)
    logs = [_log_rates(at, start, stop, resamples, s) for at, s in zip((first, second), seeds, strict=True)]
    value = a.value / b.value
    cost = applications[1] / applications[0]
    ratio = Estimate(value, *_interval(*logs), n)
    scaled = Estimate(cost * ratio.value, cost * ratio.low, cost * ratio.high, n)
    return EscapeComparison(a, b, ratio, scaled, p_logrank)


def _interval(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Ends of the ratio; a sample without events on either side, or with all of them in the first segment on
    both, could be any, so it widens both."""
    unknown = np.isinf(first) & (first == second)
    apart = np.subtract(first, second, out=np.zeros(len(first)), where=~unknown)
    low, high = (
        math.exp(np.quantile(np.where(unknown, end, apart), q, method="closest_observation"))
        for q, end in ((0.025, -math.inf), (0.975, math.inf))
    )
    return low, high


def _log_rates(at: np.ndarray, start: int, stop: int, resamples: int, seed: int) -> np.ndarray:
    """ln kappa of bootstrap samples; a sample without events has -infinity."""
    risk = (at == -1) | (at > start)
    event = risk & (at > 0) & (at <= stop)
    exposure = np.where(risk, np.where(event, at, stop) - start, 0)
    shares = [
        event[rows].sum(axis=1) / np.maximum(exposure[rows].sum(axis=1), 1)
        for rows in resampled_rows(len(at), resamples, seed)
    ]
    with np.errstate(divide="ignore"):
        return np.log(-np.log1p(-np.concatenate(shares)))


def _logrank(groups: list[np.ndarray], start: int, stop: int) -> float:
    samples, events = [], 0
    for at in groups:
        risk = at[(at == -1) | (at > start)]
        event = (risk > 0) & (risk <= stop)
        events += int(event.sum())
        left = np.full(int((~event).sum()), stop - start)
        samples.append(stats.CensoredData(uncensored=risk[event] - start, right=left))
    return float(stats.logrank(*samples).pvalue) if events else math.nan
