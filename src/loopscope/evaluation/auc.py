"""Area under the ROC curve: how well a score tells one class of puzzles from the other.

What is unusual: ties count half; an empty class gives NaN and says why; the bootstrap draws whole puzzles,
so both class sizes vary as they would in another sample; strata that depend on the sample (deciles of a
control) are cut anew in every bootstrap sample; and perfect separation or a handful of puzzles, which a
bootstrap would only repeat, get an exact interval instead. Never pool orbits of different length: the length
is then the outcome.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import beta

from loopscope.evaluation.intervals import Estimate, resampled_rows

FEW = 10  # puzzles of the smaller class from which its bootstrap samples differ enough

Strata = Callable[[np.ndarray], np.ndarray]  # puzzles drawn how often -> their strata


@dataclass(frozen=True)
class Stratum:
    """One group of puzzles within which a score was judged.

    Attributes:
        name: what its puzzles have in common.
        n_pos, n_neg: puzzles per class; a group that lacks one of them is dropped.
        value: AUC within the group; NaN when dropped.
    """

    name: str
    n_pos: int
    n_neg: int
    value: float

    @property
    def dropped(self) -> bool:
        return self.n_pos == 0 or self.n_neg == 0


@dataclass(frozen=True)
class Auc:
    """Probability that a positive scores above a negative, ties counted half.

    Attributes:
        value, low, high: estimate and 95 % interval; NaN when a class is empty.
        n_pos, n_neg: puzzles per class that the number rests on; those of dropped strata do not count.
        n_missing: puzzles left out because their score or stratum is NaN.
        reason: why `value` is NaN, else empty.
        strata: groups within which pairs were formed; empty where all puzzles form one.
    """

    value: float
    low: float
    high: float
    n_pos: int
    n_neg: int
    n_missing: int = 0
    reason: str = ""
    strata: tuple[Stratum, ...] = ()

    @property
    def n(self) -> int:
        return self.n_pos + self.n_neg

    @property
    def dropped(self) -> tuple[Stratum, ...]:
        """Strata that lack a class."""
        return tuple(s for s in self.strata if s.dropped)

    def to_dict(self) -> dict[str, float | int | str | list[dict[str, float | int | str]]]:
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

    Perfect separation (0 or 1), or fewer than 10 puzzles in the smaller class, gets the interval of Clopper
    and Pearson for m disjoint pairs instead, m the size of that class: each pair agrees with probability
    AUC, independently. After perfect separation its far end is .025^(1/m).

    Args:
        score: larger means *more likely positive* (so -FTLE, -drift, halt logit); infinities are fine.
        positive: the label, normally *solved*.
        resamples: bootstrap samples; those with an empty class are dropped.
        seed: the same seed gives the same interval.
    """
    present = ~np.isnan(score)
    score, positive = score[present], positive[present]
    one = np.zeros(len(score), int)
    found = stratified(score, positive, lambda drawn: one, ["all"], resamples=resamples, seed=seed)
    reason = f"no {'solved' if not positive.any() else 'unsolved'} puzzle among {len(score)}"
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    ends = (found.value, found.low, found.high)
    return Auc(*ends, n_pos, n_neg, int((~present).sum()), reason if found.reason else "")


def stratified(
    score: Float[np.ndarray, " B"],
    positive: Bool[np.ndarray, " B"],
    strata: Strata,
    names: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> Auc:
    """AUC over pairs of puzzles from the same stratum, which weighs strata by n_pos n_neg.

    Args:
        score, positive: as for `auc`; no NaN.
        strata: the stratum of each puzzle, 0 to S - 1, given how often each was drawn, (B,).
        names: of the S strata.
        resamples, seed: of the bootstrap.
    """
    once = np.ones(len(score), int)
    rank = dense_rank(score)
    stratum = strata(once)
    wins, pairs = pair_counts(rank, positive, stratum, once, len(names))
    sizes = [np.bincount(stratum[c], minlength=len(names)) for c in (positive, ~positive)]
    groups = [
        Stratum(name, int(p), int(q), float(w / (p * q)) if p * q else math.nan)
        for name, p, q, w in zip(names, *sizes, wins, strict=True)
    ]
    n_pos, n_neg = (int(size[pairs > 0].sum()) for size in sizes)
    if not pairs.any():
        reason = f"no stratum of {len(names)} holds both solved and unsolved puzzles"
        return Auc(math.nan, math.nan, math.nan, 0, 0, 0, reason, tuple(groups))
    value = float(wins.sum() / pairs.sum())
    disjoint = int(np.minimum(*sizes).sum())
    if value in (0, 1) or disjoint < FEW:
        low, high = interval_of_pairs(value, disjoint)
    else:
        samples = [
            pair_counts(rank, positive, strata(drawn), drawn, len(names))
            for drawn in resampled_counts(len(score), resamples, seed)
        ]
        low, high = _ends(samples)
    return Auc(value, low, high, n_pos, n_neg, 0, "", tuple(groups))


def auc_difference(
    first: Float[np.ndarray, " B"],
    second: Float[np.ndarray, " B"],
    positive: Bool[np.ndarray, " B"],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """AUC of the second score minus that of the first; both see the same bootstrap samples.

    Where all samples give the same (both scores perfect, say), the ends are what m disjoint pairs without
    a change still allow, m the size of the smaller class: 1 - .025^(1/m) on either side.

    Args:
        first, second: two scores of the same puzzles, no NaN.
        positive: the label; with an empty class everything is NaN.
        resamples, seed: of the bootstrap.
    """
    n, ranks = len(positive), [dense_rank(score) for score in (first, second)]
    one = np.zeros(n, int)
    if not 0 < positive.sum() < n:
        return Estimate(math.nan, math.nan, math.nan, n)

    def areas(drawn: np.ndarray) -> list[float]:
        counted = [pair_counts(rank, positive, one, drawn, 1) for rank in ranks]
        return [float(wins[0] / pairs[0]) if pairs[0] else math.nan for wins, pairs in counted]

    samples = np.array([areas(drawn) for drawn in resampled_counts(n, resamples, seed)])
    steps = samples[:, 1] - samples[:, 0]
    low, high = np.nanquantile(steps, [0.025, 0.975])
    before, after = areas(np.ones(n, int))
    value = after - before
    if low == high:
        room = interval_of_pairs(0.0, int(min(positive.sum(), (~positive).sum())))[1]
        low, high = max(value - room, -1), min(value + room, 1)
    return Estimate(value, float(low), float(high), n)


def dense_rank(score: Float[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
    """Finite stand-in for a score with the same order and ties: 0, 1, 2, ..."""
    return np.unique(score, return_inverse=True)[1]


def pair_counts(
    rank: np.ndarray, positive: np.ndarray, stratum: np.ndarray, drawn: np.ndarray, num_strata: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (positive, negative) that the score orders rightly, ties half, and all pairs, per stratum.

    The inner loop of every bootstrap, so its shapes are not checked in tests.

    Args:
        rank: of the score, as `dense_rank` gives it, (B,).
        positive, stratum: class and stratum of each puzzle, (B,) each.
        drawn: how often each puzzle counts, (B,).
        num_strata: S.
    Returns:
        Two arrays (S,).
    """
    width = int(rank.max()) + 1 if len(rank) else 1
    key, shape = stratum * width + rank, (num_strata, width)
    pos, neg = (
        np.bincount(key[c], drawn[c], num_strata * width).reshape(shape) for c in (positive, ~positive)
    )
    below = np.cumsum(neg, axis=1) - 0.5 * neg
    return (pos * below).sum(axis=1), pos.sum(axis=1) * neg.sum(axis=1)


def resampled_counts(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n puzzles is drawn, (n,), sample by sample."""
    tables = resampled_rows(n, resamples, seed)
    return (np.bincount(rows, minlength=n) for table in tables for rows in table)


def _ends(samples: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    wins, pairs = (np.array([s[i].sum() for s in samples]) for i in (0, 1))
    low, high = np.quantile(wins[pairs > 0] / pairs[pairs > 0], [0.025, 0.975])
    return float(low), float(high)


def interval_of_pairs(value: float, pairs: int) -> tuple[float, float]:
    """Interval of Clopper and Pearson for a share of disjoint pairs; the count need not be whole."""
    agree, differ = value * pairs, (1 - value) * pairs
    low = float(beta.ppf(0.025, agree, differ + 1)) if agree else 0.0
    high = float(beta.ppf(0.975, agree + 1, differ)) if differ else 1.0
    return low, high
