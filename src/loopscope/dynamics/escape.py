"""How fast unsolved puzzles become solved: survival curve and escape rate, with censoring.

A falling hazard does not mean that single puzzles age: a mixture of memoryless puzzles with different
rates shows it too (the easy ones leave first). Only restarts of the same puzzle can tell.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from loopscope.errors import UserError
from loopscope.evaluation.intervals import clopper_pearson


@dataclass(frozen=True)
class EscapeRate:
    """An escape rate and what it rests on.

    Attributes:
        value, low, high: rate kappa and its 95 % interval, per `unit`; 0 when nothing escaped.
        n: puzzles unsolved at `start`.
        events: of these, solved by `stop`.
        exposure: puzzle-segments at risk.
        start, stop: the window, segments start + 1 to stop.
        trend: standard score of a trend of the hazard over the window; above 0 it rises, below 0 it
            falls; NaN where it cannot be computed. Beyond +-3 do not quote an exponential rate.
        unit: "segment" or "application".
    """

    value: float
    low: float
    high: float
    n: int
    events: int
    exposure: int
    start: int
    stop: int
    trend: float
    unit: str = "segment"

    @property
    def exponential(self) -> bool:
        """Whether the data do not contradict a constant rate over the window."""
        return not abs(self.trend) > 3

    def per_application(self, applications_per_segment: int) -> EscapeRate:
        """The same rate per module application (21 per TRM segment, 6 per HRM segment)."""
        assert self.unit == "segment", "already converted"
        scaled = {key: getattr(self, key) / applications_per_segment for key in ("value", "low", "high")}
        return replace(self, **scaled, unit="application")

    def to_dict(self) -> dict[str, float | int | str]:
        """Plain numbers, ready for json."""
        return asdict(self)


@dataclass(frozen=True)
class Survival:
    """Fraction of puzzles not yet solved after 0..T segments, with a 95 % interval.

    Attributes:
        segment: 0, 1, ..., T.
        fraction, low, high: Kaplan-Meier estimate and log-log interval, each (T + 1,).
        at_risk: puzzles still unsolved and watched just before each segment, (T + 1,).
        n: puzzles.
    """

    segment: Int[np.ndarray, " T1"]
    fraction: Float[np.ndarray, " T1"]
    low: Float[np.ndarray, " T1"]
    high: Float[np.ndarray, " T1"]
    at_risk: Int[np.ndarray, " T1"]
    n: int


def survival(
    solved_at: Int[np.ndarray, " B"], *, stop: int, watched_until: Int[np.ndarray, " B"] | None = None
) -> Survival:
    """Kaplan-Meier estimate of the fraction not yet solved.

    Args:
        solved_at: first solved segment per puzzle, 1-based; -1 if never.
        stop: last segment of the curve, T; puzzles unsolved then are censored there.
        watched_until: last segment run per puzzle, where orbits have different lengths.
    """
    _check_window(solved_at, 0, stop)
    limit = np.full(len(solved_at), stop) if watched_until is None else np.minimum(watched_until, stop)
    event = (solved_at > 0) & (solved_at <= limit)
    data = stats.CensoredData(uncensored=solved_at[event], right=limit[~event])
    curve = stats.ecdf(data).sf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # log(-log S) at S = 0 or 1: handled below
        interval = curve.confidence_interval(method="log-log")
    segment = np.arange(stop + 1)
    fraction = curve.evaluate(segment)
    low, high = interval.low.evaluate(segment), interval.high.evaluate(segment)
    left = np.where(event, solved_at, limit)
    return Survival(
        segment=segment,
        fraction=fraction,
        low=np.where(np.isnan(low), fraction, low),
        high=np.where(np.isnan(high), fraction, high),
        at_risk=(left[None] >= segment[:, None]).sum(axis=1),
        n=len(solved_at),
    )


def escape_rate(solved_at: Int[np.ndarray, " B"], *, start: int, stop: int) -> EscapeRate:
    """Exponential rate at which unsolved puzzles become solved.

    Maximum likelihood for a geometric waiting time: with d events over E puzzle-segments at risk,
    p = d / E and kappa = -ln(1 - p). Orbits unsolved at `stop` are censored, not dropped. The interval
    is that of Clopper and Pearson for (d, E), mapped through the same formula.

    Args:
        solved_at: first solved segment per puzzle, 1-based; -1 if never.
        start: segments already spent; puzzles solved by then are excluded.
        stop: last segment that was run.
    Returns:
        Rate per segment, 95 % interval, number at risk, and a test of constancy.
    Raises:
        ValueError: no puzzle is unsolved at `start`.
    Source: Lai and Tel, Transient Chaos (2011), ch. 1.
    """
    _check_window(solved_at, start, stop)
    at_risk = solved_at[(solved_at == -1) | (solved_at > start)]
    if len(at_risk) == 0:
        raise UserError(
            f"start={start}: all {len(solved_at)} puzzles are solved by then, none is at risk. "
            "Choose an earlier start."
        )
    event = (at_risk > 0) & (at_risk <= stop)
    exposure = np.where(event, at_risk, stop) - start
    events, total = int(event.sum()), int(exposure.sum())
    share = clopper_pearson(events, total)
    return EscapeRate(
        value=_rate(share.value),
        low=_rate(share.low),
        high=_rate(share.high),
        n=len(at_risk),
        events=events,
        exposure=total,
        start=start,
        stop=stop,
        trend=_trend(at_risk[event], at_risk, start, stop),
    )


def _rate(p: float) -> float:
    return math.inf if p == 1 else abs(math.log1p(-p))


def _trend(events_at: np.ndarray, at_risk: np.ndarray, start: int, stop: int) -> float:
    """Score test of a constant hazard against one that changes with the segment.

    U = sum (t - mean t)(d_t - p E_t), with t weighted by exposure; U / sd U is standard normal when
    d_t is binomial(E_t, p).
    """
    t = np.arange(start + 1, stop + 1)
    left = np.where(at_risk > 0, at_risk, stop + 1)
    exposed = (left[None] >= t[:, None]).sum(axis=1)
    solved = (events_at[None] == t[:, None]).sum(axis=1)
    p = solved.sum() / exposed.sum()
    centred = t - (exposed * t).sum() / exposed.sum()
    variance = p * (1 - p) * (exposed * centred**2).sum()
    return float((centred * (solved - p * exposed)).sum() / math.sqrt(variance)) if variance > 0 else math.nan


def _check_window(solved_at: np.ndarray, start: int, stop: int) -> None:
    if not 0 <= start < stop:
        raise UserError(f"start={start}, stop={stop}: expected 0 <= start < stop. Widen the window.")
    wrong = solved_at[(solved_at < 1) & (solved_at != -1)]
    if len(wrong):
        raise UserError(
            f"solved_at={wrong[0]}: expected segments from 1 on, or -1 for never. Check the input."
        )
