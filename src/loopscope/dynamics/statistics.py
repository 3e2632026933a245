"""Whether a score tells more than its cheaper companions: AUC matched, within strata, and without a leak.

Three guards that a plain AUC lacks. *Matched*: pairs are formed within deciles of a control (late drift),
so what remains is not the control in disguise. *Within*: pairs are formed at equal difficulty. *Landmark*:
only puzzles that are unsolved at a segment, judged by data up to it; without this guard the first segments
know which puzzles are solved already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Num, Shaped
from scipy import stats

from loopscope.errors import UserError
from loopscope.evaluation.auc import Auc, Stratum, auc, dense_rank, stratified

DECILES = 10
FEWEST = 2  # puzzles per class that a variance needs
Summary = Callable[[Float[np.ndarray, "B m"]], Float[np.ndarray, " B"]]


@dataclass(frozen=True)
class Effect:
    """Stochastic superiority by Brunner and Munzel.

    Attributes:
        value: P(positive scores above negative) + .5 P(equal), the same number as the AUC.
        low, high: 95 % interval, within [0, 1].
        p_value: two-sided, against .5.
        n_pos, n_neg: puzzles.
        reason: why there is no number, else empty.
    """

    value: float
    low: float
    high: float
    p_value: float
    n_pos: int
    n_neg: int
    reason: str = ""

    def to_dict(self) -> dict[str, float | int | str]:
        """Plain values, ready for json."""
        return asdict(self)


def brunner_munzel(score: Float[np.ndarray, " B"], positive: Bool[np.ndarray, " B"]) -> Effect:
    """Test whether a score tends to be higher in one class, without assuming equal spreads.

    Close to perfect separation the variance that the test estimates goes to 0 and its p value far too low,
    so the larger of its p value and that of Mann and Whitney is given. The interval after perfect separation
    is that of `auc`.

    Args:
        score: larger means more likely positive; NaN is left out, infinities are fine.
        positive: the label.
    Source: Brunner and Munzel, Biometrical Journal 42 (2000) 17.
    """
    from statsmodels.stats.nonparametric import rank_compare_2indep

    present = ~np.isnan(score)
    rank, positive = dense_rank(score[present]), positive[present]
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    if min(n_pos, n_neg) < FEWEST:
        reason = f"{n_pos} solved and {n_neg} unsolved puzzles, expected {FEWEST} of each"
        return Effect(math.nan, math.nan, math.nan, math.nan, n_pos, n_neg, reason)
    if len(np.unique(rank)) == 1:
        return Effect(0.5, 0.0, 1.0, 1.0, n_pos, n_neg)
    pos, neg = rank[positive], rank[~positive]
    whitney = float(stats.mannwhitneyu(pos, neg).pvalue)
    if pos.min() > neg.max() or pos.max() < neg.min():
        perfect = auc(rank.astype(float), positive, resamples=1)
        return Effect(perfect.value, perfect.low, perfect.high, whitney, n_pos, n_neg)
    test = rank_compare_2indep(pos, neg, use_t=True)
    low, high = np.clip(test.conf_int(), 0, 1)
    p_value = max(whitney, float(test.pvalue))
    return Effect(float(test.prob1), float(low), float(high), p_value, n_pos, n_neg)


def auc_matched(
    score: Float[np.ndarray, " B"],
    positive: Bool[np.ndarray, " B"],
    control: Float[np.ndarray, " B"],
    *,
    bins: int = DECILES,
    resamples: int = 10_000,
    seed: int = 0,
) -> Auc:
    """AUC among puzzles of about the same control.

    Pairs are formed within quantile bins of the control in the puzzles given (so hand over only those to
    be analysed, say the unsettled ones); every bootstrap sample has its own bins. Bins that lack a class
    are dropped, and listed in `strata`.

    Args:
        score: larger means more likely positive.
        positive: the label.
        control: what is held fixed, say the late drift; equal values share a bin.
        bins: number of quantile bins.
        resamples, seed: of the bootstrap over puzzles.
    """
    if bins < 1:
        raise UserError(f"bins={bins}: expected at least 1. Use 10 for deciles.")
    present = ~(np.isnan(score) | np.isnan(control))
    score, positive, control = score[present], positive[present], control[present]
    values, place = np.unique(control, return_inverse=True)

    def cut(drawn: np.ndarray) -> np.ndarray:
        """Quantile bin of each puzzle in a sample: how many bins lie wholly below its value."""
        count = np.bincount(place, drawn, len(values)).astype(int)
        before = np.cumsum(count) - count
        return np.minimum(before * bins // max(len(score), 1), bins - 1)[place]

    names = _bin_names(control, cut(np.ones(len(score), int)), bins)
    found = stratified(score, positive, cut, names, resamples=resamples, seed=seed)
    return _without_empty(replace(found, n_missing=int((~present).sum())))


def auc_within(
    score: Float[np.ndarray, " B"],
    positive: Bool[np.ndarray, " B"],
    stratum: Shaped[np.ndarray, " B"],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Auc:
    """AUC among puzzles of the same stratum, such as the same number of givens.

    Args:
        score: larger means more likely positive.
        positive: the label.
        stratum: a number or a name per puzzle, equal ones belong together; NaN or an empty name leaves a
            puzzle out. See `banded`.
        resamples, seed: of the bootstrap over puzzles.
    """
    named = stratum.dtype.kind == "U"
    present = ~np.isnan(score) & ((stratum != "") if named else ~np.isnan(stratum))
    score, positive = score[present], positive[present]
    values, place = np.unique(stratum[present], return_inverse=True)
    names = [str(value) if named else f"{value:g}" for value in values]
    found = stratified(score, positive, lambda drawn: place, names, resamples=resamples, seed=seed)
    return replace(found, n_missing=int((~present).sum()))


def auc_landmark(
    series: Float[np.ndarray, "B S"],
    solved: Bool[np.ndarray, "B T"],
    *,
    at: int,
    until: int | None = None,
    summary: Summary = lambda early: early.mean(axis=1),
    resamples: int = 10_000,
    seed: int = 0,
) -> Auc:
    """Forecast at a segment: does the score so far tell who will be solved later?

    Puzzles right at any segment up to `at` are left out, `summary` sees only segments 1 to `at`, and the
    label is *right at some segment in (at, until]*.

    Args:
        series: a score per segment, larger means more likely to be solved.
        solved: right after each segment.
        at: segments that may be looked at.
        until: last segment of the label; default the last one run.
        summary: the score of a puzzle from its segments so far; default the mean.
        resamples, seed: of the bootstrap over puzzles.
    Raises:
        UserError: `at` is not inside the orbit.
    """
    stop = solved.shape[1] if until is None else until
    if not 1 <= at < stop <= solved.shape[1] or at > series.shape[1]:
        raise UserError(
            f"at={at}, until={stop}: expected 1 <= at < until <= {solved.shape[1]} and a score up to segment "
            f"{at} (it has {series.shape[1]}). Choose an earlier landmark."
        )
    done, later = (np.asarray(part.any(axis=1)) for part in (solved[:, :at], solved[:, at:stop]))
    return auc(summary(series[~done, :at]), later[~done], resamples=resamples, seed=seed)


def banded(
    values: Num[np.ndarray, " B"], bands: Mapping[str, tuple[int, int | None]]
) -> Shaped[np.ndarray, " B"]:
    """Name of the band that each value lies in, empty outside all; None as upper end means no end."""
    found = np.full(len(values), "", dtype=object)
    for name, (low, high) in bands.items():
        found[(values >= low) & (values <= (math.inf if high is None else high))] = name
    return found.astype(str)


def _bin_names(control: np.ndarray, bin_of: np.ndarray, bins: int) -> list[str]:
    """Range of the control in each bin; ties may leave a bin empty."""
    inside = [control[bin_of == i] for i in range(bins)]
    return [f"{part.min():.3g} to {part.max():.3g}" if len(part) else "" for part in inside]


def _without_empty(found: Auc) -> Auc:
    kept: tuple[Stratum, ...] = tuple(s for s in found.strata if s.n_pos + s.n_neg)
    return replace(found, strata=kept)


__all__ = [
    "Auc",
    "Effect",
    "Stratum",
    "auc",
    "auc_landmark",
    "auc_matched",
    "auc_within",
    "banded",
    "brunner_munzel",
]
