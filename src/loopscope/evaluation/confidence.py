"""How well a confidence (halt logit, minus the drift) picks right answers: among puzzles and among rollouts.

Among puzzles: answer only the surest share of them and see how often that is wrong (risk and coverage).
Among the rollouts of one puzzle: pick the surest and see how often it is right, between one rollout at
random and the oracle that is right whenever any rollout is.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from loopscope.evaluation.auc import FEW, dense_rank, interval_of_pairs, pair_counts, resampled_counts
from loopscope.evaluation.intervals import Estimate, mean_share, wilson

COVERAGES = (50, 80)  # percent of the puzzles that are answered


@dataclass(frozen=True)
class RiskCoverage:
    """Share of wrong answers among the surest ones, by how many are given.

    Attributes:
        coverage: share of puzzles answered, 1/n to 1.
        risk: share of wrong answers among them; ties in confidence are broken at random, on average.
        area: mean risk over all coverages, bootstrap over puzzles; without any knowledge it equals the
            share of wrong answers. Without a wrong answer its upper end is that of their share (Wilson).
        best: the area of a confidence that knows everything.
    """

    coverage: Float[np.ndarray, " n"]
    risk: Float[np.ndarray, " n"]
    area: Estimate
    best: float

    def answered(self, risk: float) -> float:
        """Largest coverage at which no more than this share of the answers is wrong; 0 for none."""
        fine = np.flatnonzero(self.risk <= risk)
        return float(self.coverage[fine[-1]]) if len(fine) else 0.0


def risk_coverage(
    confidence: Float[np.ndarray, " B"],
    correct: Bool[np.ndarray, " B"],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> RiskCoverage:
    """Risk by coverage of a confidence.

    Args:
        confidence: larger means more likely right; NaN is the least sure.
        correct: which answers are right.
        resamples, seed: of the bootstrap of the area.
    Source: Geifman and El-Yaniv, NeurIPS 2017, arXiv 1705.08500.
    """
    n = len(correct)
    if n == 0:
        nothing = Estimate(math.nan, math.nan, math.nan, 0)
        return RiskCoverage(np.empty(0), np.empty(0), nothing, math.nan)
    count, group = np.arange(1, n + 1), dense_rank(-np.where(np.isnan(confidence), -np.inf, confidence))
    risk = _wrong_among_surest(group, ~correct, np.ones(n, int)) / count
    if correct.all():
        return RiskCoverage(count / n, risk, wilson(0, n), 0.0)
    if not correct.any():
        return RiskCoverage(count / n, risk, wilson(n, n), 0.0)
    areas = [
        float((_wrong_among_surest(group, ~correct, drawn) / count).mean())
        for drawn in resampled_counts(n, resamples, seed)
    ]
    low, high = np.quantile(areas, [0.025, 0.975])
    ideal = np.maximum(0, count - correct.sum()) / count
    area = Estimate(float(risk.mean()), float(low), float(high), n)
    return RiskCoverage(count / n, risk, area, float(ideal.mean()))


def surest_scores(
    confidence: Float[np.ndarray, " B"], correct: Bool[np.ndarray, " B"], *, resamples: int = 2000
) -> dict[str, Estimate]:
    """Accuracy of the surest 50 and 80 % of the answers (all of them: exact accuracy), and the area of risk.

    Args:
        confidence, correct, resamples: as for `risk_coverage`.
    """
    curve, table = risk_coverage(confidence, correct, resamples=resamples), {}
    for share in COVERAGES:
        n = math.ceil(share / 100 * len(correct))
        wrong = round(curve.risk[n - 1] * n) if n else 0  # whole, even where ties make it a mean
        table[f"exact_at_coverage_{share}"] = wilson(n - wrong, n)
    return table | {"risk_area": curve.area}


@dataclass(frozen=True)
class Selection:
    """What picking the surest of K rollouts gains.

    Attributes:
        auc: P(a right rollout is surer than a wrong one of the same puzzle), ties half; pairs pooled over
            the puzzles that have both, bootstrap over puzzles (of fewer than 10, and where all pairs are
            ordered alike: Clopper and Pearson, as `auc`); NaN without such puzzles.
        random: share right of one rollout at random.
        chosen: share right of the surest.
        oracle: share of puzzles with any right rollout.
        gap: oracle minus chosen, what a perfect choice would still gain.
        mixed: puzzles with both right and wrong rollouts, where the choice matters.
    """

    auc: Estimate
    random: Estimate
    chosen: Estimate
    oracle: Estimate
    gap: Estimate
    mixed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return asdict(self)


def selection_value(
    confidence: Float[np.ndarray, "B K"],
    correct: Bool[np.ndarray, "B K"],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Selection:
    """Judge a confidence by the rollouts it picks.

    Args:
        confidence: of K rollouts per puzzle; the first of equally sure ones is picked.
        correct: which rollouts are right.
        resamples, seed: of the bootstraps over puzzles.
    """
    n = len(correct)
    sure = np.where(np.isnan(confidence), -np.inf, confidence)
    picked = correct[np.arange(n), sure.argmax(axis=1)] if n else np.zeros(0, bool)
    any_right = correct.any(axis=1)
    mixed = any_right & ~correct.all(axis=1)
    missed = (any_right & ~picked).astype(float)
    return Selection(
        auc=_auc_within_puzzles(sure[mixed], correct[mixed], resamples, seed),
        random=mean_share(correct.mean(axis=1), resamples=resamples, seed=seed),
        chosen=wilson(int(picked.sum()), n),
        oracle=wilson(int(any_right.sum()), n),
        gap=mean_share(missed, resamples=resamples, seed=seed),
        mixed=int(mixed.sum()),
    )


def _auc_within_puzzles(sure: np.ndarray, correct: np.ndarray, resamples: int, seed: int) -> Estimate:
    n, K = sure.shape
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    rank = (sure[:, :, None] > sure[:, None]).sum(axis=2)  # within the puzzle
    puzzle, once = np.repeat(np.arange(n), K), np.ones(n * K, int)
    wins, pairs = pair_counts(rank.ravel(), correct.ravel(), puzzle, once, n)
    value = float(wins.sum() / pairs.sum())
    if value in (0, 1) or n < FEW:
        return Estimate(value, *interval_of_pairs(value, n), n)
    draws = resampled_counts(n, resamples, seed)
    areas = [(wins @ drawn) / (pairs @ drawn) for drawn in draws]
    low, high = np.quantile(areas, [0.025, 0.975])
    return Estimate(value, float(low), float(high), n)


def _wrong_among_surest(group: np.ndarray, wrong: np.ndarray, drawn: np.ndarray) -> Float[np.ndarray, " B"]:
    """Expected number of wrong answers among the surest 1, 2, ..., n; equally sure ones in random order.

    Args:
        group: 0 for the surest answers, 1 for the next, (B,).
        wrong: which are wrong, (B,).
        drawn: how often each counts, n in all, (B,).
    """
    size, bad = np.bincount(group, drawn).astype(int), np.bincount(group, drawn * wrong)
    return np.cumsum(np.repeat(bad / np.maximum(size, 1), size))
