"""Whether exponents tell anything about the outcome that late drift and the halt logit do not.

Two nested logistic models: a spline of the log of the drift and the halt logit, with and without the
exponents. Two answers: a likelihood-ratio test, and the gain in AUC for puzzles that the model was not
fitted to (in the fitted ones the larger model always gains).

What is unusual: these scores often separate the outcomes, at least in part of their range. Then the plain
likelihood has no maximum and its test no meaning, so the likelihood is penalised throughout (Firth), which
keeps everything finite and changes nothing in large samples without separation. A linear program says
whether there is any. When drift and halt logit alone separate the outcomes completely, nothing is left to
explain, and the answer is NaN.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize, special, stats

from loopscope.evaluation.auc import auc_difference, dense_rank, pair_counts
from loopscope.evaluation.intervals import Estimate

KNOTS, FOLDS, REPEATS = 3, 5, 10  # of the cubic spline; of the cross-validation
FEWEST = 10  # puzzles that the smaller class needs
Separation = Literal["none", "partial", "complete"]
UNDEFINED = Estimate(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class Increment:
    """What exponents add to late drift and halt logit.

    Attributes:
        statistic, df, p_value: of the penalised likelihood-ratio test; chi-square with df degrees of freedom.
        slopes: change of the log odds of success per standard deviation of each exponent.
        auc_base, auc_full: out-of-fold AUC without and with the exponents.
        difference: auc_full - auc_base, paired bootstrap over puzzles.
        separation: of the two models, base and full.
        n_pos, n_neg, n_missing: puzzles; those without a finite score are left out.
        reason: why there is no number, else empty.
    """

    statistic: float
    df: int
    p_value: float
    slopes: tuple[float, ...]
    auc_base: float
    auc_full: float
    difference: Estimate
    separation: tuple[Separation, Separation]
    n_pos: int
    n_neg: int
    n_missing: int
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return asdict(self)

    def __str__(self) -> str:
        if self.reason:
            return f"undefined: {self.reason}"
        return (
            f"likelihood ratio {self.statistic:.2f} on {self.df} df (p = {self.p_value:.2g}); "
            f"AUC {self.auc_base:.3f} -> {self.auc_full:.3f}, difference {self.difference}"
        )


def incremental_value(
    exponents: Float[np.ndarray, "B *k"],
    correct: Bool[np.ndarray, " B"],
    drift: Float[np.ndarray, " B"],
    halt: Float[np.ndarray, " B"],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Increment:
    """Test of the exponents over and above late drift and halt logit.

    Args:
        exponents: one or k leading exponents per puzzle, (B,) or (B, k), nats per segment.
        correct: the outcome.
        drift: late drift, 0 or more; enters as a cubic spline of its log10 (0 counts as the smallest).
        halt: halt logit.
        resamples: bootstrap samples of the AUC difference.
        seed: of the bootstrap and of the folds.
    Source: Firth, Biometrika 80 (1993) 27; Heinze and Schemper, Stat. Med. 21 (2002) 2409 (penalised test);
        Konis (2007), DPhil thesis, Oxford (separation by linear programming).
    """
    exponents = exponents.reshape(len(exponents), -1)
    kept = np.isfinite(exponents).all(axis=1) & np.isfinite(drift) & np.isfinite(halt)
    y, missing = correct[kept], int((~kept).sum())
    n_pos, n_neg = int(y.sum()), int((~y).sum())
    counts = (n_pos, n_neg, missing)
    if min(n_pos, n_neg) < FEWEST:
        return _undefined(f"{n_pos} solved and {n_neg} unsolved puzzles, expected {FEWEST} of each", counts)
    base = _columns(np.column_stack([_spline(drift[kept]), halt[kept]]), np.ones((len(y), 1)))
    full = _columns(exponents[kept], base)
    new = full.shape[1] - base.shape[1]
    if new == 0:
        return _undefined("the exponents follow from drift and halt logit exactly, or do not vary", counts)
    found = (separation(base, y), separation(full, y))
    if found[0] == "complete":
        reason = "late drift and halt logit alone separate the outcomes, nothing is left to explain"
        return _undefined(reason, counts, found)
    beta, top = firth(full, y, full.shape[1])
    statistic = max(0.0, 2 * (top - firth(full, y, base.shape[1])[1]))
    slopes = tuple(float(b) for b in beta[-new:])
    before, after = (out_of_fold(x[:, 1:], y, seed) for x in (base, full))
    difference = auc_difference(before, after, y, resamples=resamples, seed=seed)
    p_value = float(stats.chi2.sf(statistic, new))
    areas = (_area(before, y), _area(after, y))
    return Increment(statistic, new, p_value, slopes, *areas, difference, found, *counts)


def separation(x: Float[np.ndarray, "B p"], y: Bool[np.ndarray, " B"]) -> Separation:
    """Whether a plane splits the classes: all puzzles strictly ("complete"), or some of them only.

    Args:
        x: columns of a logistic model, the constant among them.
        y: class.
    """
    signed = x * np.where(y, 1.0, -1.0)[:, None]
    signed = signed / np.abs(signed).max()
    n, p = signed.shape
    margin = np.column_stack([-signed, np.ones(n)])  # the least margin t: t - s x b <= 0
    strict = optimize.linprog([*[0.0] * p, -1], margin, np.zeros(n), bounds=[(-1, 1)] * p + [(0, 1)])
    if -strict.fun > 1e-7:
        return "complete"
    total = optimize.linprog(-signed.sum(axis=0), -signed, np.zeros(n), bounds=[(-1, 1)] * p)
    return "partial" if -total.fun > 1e-7 * n else "none"


def firth(
    x: Float[np.ndarray, "B p"], y: Bool[np.ndarray, " B"], free: int
) -> tuple[Float[np.ndarray, " p"], float]:
    """Logistic regression with the Jeffreys penalty .5 log det I: coefficients and penalised log likelihood.

    Args:
        x: columns, the constant among them.
        y: class.
        free: the first so many coefficients are fitted, the rest is held at 0 but stays in the penalty.
    """
    beta, now = np.zeros(x.shape[1]), penalised(np.zeros(x.shape[1]), x, y)
    for _ in range(200):
        p = special.expit(x @ beta)
        w = p * (1 - p)
        info = x.T @ (w[:, None] * x)
        leverage = w * np.einsum("bi,ij,bj->b", x, np.linalg.pinv(info), x)
        score = (x.T @ (y - p + leverage * (0.5 - p)))[:free]
        step = np.zeros_like(beta)
        step[:free] = np.linalg.lstsq(info[:free, :free], score, rcond=None)[0]
        step /= max(1.0, np.abs(step).max() / 2)  # far away, Newton overshoots
        while (then := penalised(beta + step, x, y)) < now - 1e-12 and np.abs(step).max() > 1e-12:
            step /= 2
        beta, now = beta + step, max(then, now)
        if np.abs(step).max() < 1e-8:
            break
    return beta, now


def penalised(beta: Float[np.ndarray, " p"], x: Float[np.ndarray, "B p"], y: Bool[np.ndarray, " B"]) -> float:
    """Log likelihood of a logistic model plus half the log determinant of its information."""
    eta = x @ beta
    w = special.expit(eta) * special.expit(-eta)
    sign, log_det = np.linalg.slogdet(x.T @ (w[:, None] * x))
    likelihood = -np.logaddexp(0, np.where(y, -eta, eta)).sum()
    return float(likelihood + 0.5 * log_det) if sign > 0 else -math.inf


def out_of_fold(x: Float[np.ndarray, "B p"], y: Bool[np.ndarray, " B"], seed: int) -> Float[np.ndarray, " B"]:
    """Log odds of each puzzle by models fitted without it: mean of repeated stratified cross-validation.

    A mild ridge (C = 1 on columns of unit variance) keeps separated fits finite.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    def once(repeat: int) -> np.ndarray:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed + repeat)
        model = LogisticRegression(max_iter=1000)
        return cross_val_predict(model, x, y, cv=folds, method="decision_function")

    return np.mean([once(repeat) for repeat in range(REPEATS)], axis=0)


def _spline(drift: Float[np.ndarray, " B"]) -> Float[np.ndarray, "B c"]:
    """Cubic B-spline columns of log10 drift, knots at its quantiles."""
    from sklearn.preprocessing import SplineTransformer

    moving = drift > 0
    logs = np.log10(np.maximum(drift, drift[moving].min() if moving.any() else 1.0))
    if len(np.unique(logs)) <= KNOTS + 3:
        return logs[:, None]
    knots = np.unique(np.quantile(logs, np.linspace(0, 1, KNOTS)))
    return SplineTransformer(degree=3, knots=knots[:, None], include_bias=False).fit_transform(logs[:, None])


def _columns(new: Float[np.ndarray, "B c"], old: Float[np.ndarray, "B p"]) -> Float[np.ndarray, "B q"]:
    """The old columns and those new ones that do not follow from the columns before, standardised."""
    kept = old
    for column in new.T:
        deviation = column.std()
        if deviation <= 1e-12 * max(1.0, np.abs(column).max()):
            continue
        column = (column - column.mean()) / deviation
        rest = column - kept @ np.linalg.lstsq(kept, column, rcond=None)[0]
        kept = np.column_stack([kept, column]) if rest.std() > 1e-6 else kept
    return kept


def _area(score: np.ndarray, y: np.ndarray) -> float:
    once = np.ones(len(y), int)
    wins, pairs = pair_counts(dense_rank(score), y, 0 * once, once, 1)
    return float(wins[0] / pairs[0])


def _undefined(
    reason: str, counts: tuple[int, int, int], found: tuple[Separation, Separation] = ("none", "none")
) -> Increment:
    nan = math.nan
    return Increment(nan, 0, nan, (), nan, nan, UNDEFINED, found, *counts, reason)
