"""How well a score tells solved from unsolved puzzles: AUC with ties, with a puzzle bootstrap.

What is unusual: an empty class gives NaN and says why, and the bootstrap draws whole puzzles, so both
class sizes vary as they would in another sample. Never pool orbits of different length: the length is
then the outcome.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score


@dataclass(frozen=True)
class Auc:
    """Probability that a positive scores above a negative, ties counted half.

    Attributes:
        value, low, high: estimate and 95 % interval; NaN when a class is empty.
        n_pos, n_neg: puzzles per class.
        n_missing: puzzles left out because their score is NaN.
        reason: why `value` is NaN, else empty.
    """

    value: float
    low: float
    high: float
    n_pos: int
    n_neg: int
    n_missing: int = 0
    reason: str = ""

    @property
    def n(self) -> int:
        return self.n_pos + self.n_neg

    def to_dict(self) -> dict[str, float | int | str]:
        """Plain values, ready for json."""
        return asdict(self)

    def __str__(self) -> str:
        if self.reason:
            return f"undefined: {self.reason}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] ({self.n_pos} against {self.n_neg})"


def auc(
    score: Float[np.ndarray, " B"],
    positive: Bool[np.ndarray, " B"],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Auc:
    """AUC of a score for a label, with a percentile bootstrap over puzzles.

    Args:
        score: larger means *more likely positive* (so -FTLE, -drift, halt logit); infinities are fine.
        positive: the label, normally *solved*.
        resamples: bootstrap samples; those with an empty class are dropped.
        seed: the same seed gives the same interval.
    """
    present = ~np.isnan(score)
    score, positive = score[present], positive[present]
    n_pos, n_neg, missing = int(positive.sum()), int((~positive).sum()), int((~present).sum())
    if n_pos == 0 or n_neg == 0:
        reason = f"no {'solved' if n_pos == 0 else 'unsolved'} puzzle among {len(score)}"
        return Auc(math.nan, math.nan, math.nan, n_pos, n_neg, missing, reason)
    rank = np.unique(score, return_inverse=True)[1]  # finite stand-in for infinities, same order and ties
    value = float(roc_auc_score(positive, rank))
    samples = _bootstrap(rank, positive, resamples, seed)
    low, high = np.nanquantile(samples, [0.025, 0.975])
    return Auc(value, float(low), float(high), n_pos, n_neg, missing)


def _bootstrap(
    rank: np.ndarray, positive: np.ndarray, resamples: int, seed: int
) -> Float[np.ndarray, " resamples"]:
    """AUC of `resamples` samples of puzzles, from their counts per rank and class; NaN where one is empty."""
    rng = np.random.default_rng(seed)
    n, ranks = len(rank), int(rank.max()) + 1
    key = rank + ranks * ~positive  # where a puzzle counts in the table (class, rank)
    out = []
    at_once = max(1, 2_000_000 // n)  # bounds the memory of the table
    for done in range(0, resamples, at_once):
        size = min(at_once, resamples - done)
        draws = key[rng.integers(n, size=(size, n))] + 2 * ranks * np.arange(size)[:, None]
        table = np.bincount(draws.ravel(), minlength=2 * ranks * size).reshape(size, 2, ranks)
        pos, neg = table[:, 0], table[:, 1]
        below = np.cumsum(neg, axis=1) - 0.5 * neg
        pairs = pos.sum(axis=1) * neg.sum(axis=1)
        with np.errstate(invalid="ignore"):
            out.append(np.where(pairs > 0, (pos * below).sum(axis=1) / pairs, np.nan))
    return np.concatenate(out)
