"""How fast unsolved puzzles become solved: survival curve and escape rate, with censoring.

A falling hazard does not mean that single puzzles age: a mixture of memoryless puzzles with different
rates shows it too (the easy ones leave first). Only restarts of the same puzzle can tell.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from loopscope.errors import UserError
from loopscope.evaluation.intervals import Estimate, clopper_pearson

BANDS = ("easy", "medium", "hard", "ultra-hard")  # eta below 1, 2, 3, and above


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

    @property
    def eta(self) -> Estimate:
        """Hardness -log10 kappa, for a rate per segment; infinite when nothing escaped.

        Source: Ercsey-Ravasz and Toroczkai, Sci. Rep. 2 (2012) 725.
        """
        assert self.unit == "segment", "hardness is defined per segment"
        value, low, high = (
            math.inf if rate == 0 else -math.log10(rate) for rate in (self.value, self.high, self.low)
        )
        return Estimate(value, low, high, self.n)

    @property
    def band(self) -> str:
        """Hardness in words: easy (eta below 1), medium, hard, ultra-hard (above 3)."""
        return BANDS[math.floor(min(max(self.eta.value, 0.0), 3.0))]

    def to_dict(self) -> dict[str, float | int | str]:
        """Plain numbers, ready for json."""
        return asdict(self)


class EscapeTimes(NamedTuple):
    """When each puzzle was solved, 1-based; -1 for never.

    `first` is the first segment with a right answer, `absorbed` the first from which on every later
    segment that was run is right as well. `lost` counts puzzles that were right once but not at the end.
    """

    first: Int[np.ndarray, " B"]
    absorbed: Int[np.ndarray, " B"]

    @property
    def lost(self) -> int:
        return int(((self.first > 0) & (self.absorbed == -1)).sum())


def escape_times(solved: Bool[np.ndarray, "B T"]) -> EscapeTimes:
    """First hit and absorption from the outcome after every segment.

    Args:
        solved: whether the answer after each segment is right.
    """
    wrong_last = solved.shape[1] - (~solved)[:, ::-1].argmax(axis=1)  # last wrong segment, 1-based
    absorbed = np.where(solved.all(axis=1), 1, wrong_last + 1)
    return EscapeTimes(
        first=np.where(solved.any(axis=1), solved.argmax(axis=1) + 1, -1),
        absorbed=np.where(solved[:, -1], absorbed, -1),
    )


@dataclass(frozen=True)
class Hazard:
    """Chance of being solved in each segment, among puzzles unsolved before it.

    Attributes:
        segment: start + 1, ..., stop.
        events, at_risk: puzzles solved in the segment, and unsolved before it.
        probability, low, high: events / at_risk with the exact 95 % interval; NaN where nobody is at risk.
        rate: instantaneous rate ln(S(t - 1) / S(t)) in nats per segment; infinite where all escape.
    """

    segment: Int[np.ndarray, " W"]
    events: Int[np.ndarray, " W"]
    at_risk: Int[np.ndarray, " W"]
    probability: Float[np.ndarray, " W"]
    low: Float[np.ndarray, " W"]
    high: Float[np.ndarray, " W"]
    rate: Float[np.ndarray, " W"]


def hazard(solved_at: Int[np.ndarray, " B"], *, start: int, stop: int) -> Hazard:
    """Hazard and instantaneous rate of every segment of a window.

    Args:
        solved_at: first solved segment per puzzle, 1-based; -1 if never.
        start, stop: the window, segments start + 1 to stop.
    """
    events, at_risk = window_counts(solved_at, start, stop)
    found = [clopper_pearson(int(d), int(e)) for d, e in zip(events, at_risk, strict=True)]
    p, low, high = (np.array([getattr(f, end) for f in found]) for end in ("value", "low", "high"))
    with np.errstate(divide="ignore"):
        rate = np.abs(np.log1p(-p))
    return Hazard(np.arange(start + 1, stop + 1), events, at_risk, p, low, high, rate)


def window_counts(
    solved_at: Int[np.ndarray, " B"], start: int, stop: int
) -> tuple[Int[np.ndarray, " W"], Int[np.ndarray, " W"]]:
    """Events in each segment start + 1 to stop, and puzzles unsolved before it."""
    _check_window(solved_at, start, stop)
    t = np.arange(start + 1, stop + 1)
    left = np.where(solved_at > 0, solved_at, stop + 1)
    return (left == t[:, None]).sum(axis=1), (left >= t[:, None]).sum(axis=1)


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
    left, n = np.where(event, solved_at, limit), len(solved_at)
    at_risk = (left[None] >= segment[:, None]).sum(axis=1)
    last = int(solved_at[event].max(initial=0))  # where the curve ends at 0, nobody is at risk after it
    exact = (segment > 0) & ((fraction == 0) | (fraction == 1))  # no variance of Greenwood: exact intervals
    for t in np.flatnonzero(exact):
        n_t = int(at_risk[t]) if fraction[t] else int(at_risk[last])
        share = clopper_pearson(n_t if fraction[t] else 0, n_t)
        low[t], high[t] = share.low, share.high
    return Survival(
        segment=segment,
        fraction=fraction,
        low=np.where(np.isnan(low), fraction, low),
        high=np.where(np.isnan(high), fraction, high),
        at_risk=at_risk,
        n=n,
    )


def escape_rate(
    solved_at: Int[np.ndarray, " B"],
    *,
    start: int,
    stop: int,
    per: Literal["segment", "application"] = "segment",
    applications_per_segment: int | None = None,
) -> EscapeRate:
    """Exponential rate at which unsolved puzzles become solved.

    Maximum likelihood for a geometric waiting time: with d events over E puzzle-segments at risk,
    p = d / E and kappa = -ln(1 - p). Orbits unsolved at `stop` are censored, not dropped. The interval
    is that of Clopper and Pearson for (d, E), mapped through the same formula.

    Args:
        solved_at: first solved segment per puzzle, 1-based; -1 if never.
        start: segments already spent; puzzles solved by then are excluded.
        stop: last segment that was run.
        per: unit of the rate; models with different segments compare only per "application".
        applications_per_segment: needed for that (21 for TRM, 6 for HRM).
    Returns:
        Rate, 95 % interval, number at risk, and a test of constancy.
    Raises:
        UserError: no puzzle is unsolved at `start`, or no number of applications.
    Source: Lai and Tel, Transient Chaos (2011), ch. 1.
    """
    if per not in ("segment", "application"):
        raise UserError(f"per={per}: expected segment or application. Choose one.")
    if per == "application" and not applications_per_segment:
        raise UserError("per=application: applications_per_segment is not given. Pass that of the system.")
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
    found = EscapeRate(
        value=_rate(share.value),
        low=_rate(share.low),
        high=_rate(share.high),
        n=len(at_risk),
        events=events,
        exposure=total,
        start=start,
        stop=stop,
        trend=_trend(*window_counts(at_risk, start, stop)),
    )
    return found if per == "segment" else found.per_application(applications_per_segment or 1)


def _rate(p: float) -> float:
    return math.inf if p == 1 else abs(math.log1p(-p))


def _trend(events: Int[np.ndarray, " W"], at_risk: Int[np.ndarray, " W"]) -> float:
    """Score test of a constant hazard against one that changes with the segment.

    U = sum (t - mean t)(d_t - p E_t), with t weighted by exposure; U / sd U is standard normal when
    d_t is binomial(E_t, p).
    """
    t = np.arange(len(events))
    p = events.sum() / at_risk.sum()
    centred = t - (at_risk * t).sum() / at_risk.sum()
    variance = p * (1 - p) * (at_risk * centred**2).sum()
    return float((centred * (events - p * at_risk)).sum() / math.sqrt(variance)) if variance > 0 else math.nan


def _check_window(solved_at: np.ndarray, start: int, stop: int) -> None:
    if not 0 <= start < stop:
        raise UserError(f"start={start}, stop={stop}: expected 0 <= start < stop. Widen the window.")
    wrong = solved_at[(solved_at < 1) & (solved_at != -1)]
    if len(wrong):
        raise UserError(
            f"solved_at={wrong[0]}: expected segments from 1 on, or -1 for never. Check the input."
        )
