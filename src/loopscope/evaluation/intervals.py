"""A number with its interval and its sample size, and the ways we get an interval.

Proportions: Wilson (quoted everywhere), Clopper-Pearson where the count may be 0 or where a
guaranteed coverage matters. Medians: order statistics. Means: percentile bootstrap over puzzles, or over
the tasks that several rows belong to; Student's t for the few runs of one recipe. Always 95 % unless said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from loopscope.errors import UserError


@dataclass(frozen=True)
class Estimate:
    """A measured number.

    Attributes:
        value: the estimate; NaN when nothing could be estimated.
        low, high: ends of the interval.
        n: number of independent units (puzzles) behind it.
    """

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        """Plain numbers, ready for json."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] (n={self.n})"


def wilson(events: int, n: int, level: float = 0.95) -> Estimate:
    """A proportion with Wilson's score interval; NaN for n = 0.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    _check_count(events, n)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    p, z = events / n, float(stats.norm.ppf(0.5 + level / 2))
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low = 0.0 if events == 0 else centre - half  # exact at the ends, where rounding would leave 1e-17
    high = 1.0 if events == n else centre + half
    return Estimate(p, low, high, n)


def clopper_pearson(events: int, n: int, level: float = 0.95) -> Estimate:
    """A proportion with the exact interval of Clopper and Pearson; NaN for n = 0.

    Source: Clopper and Pearson, Biometrika 26 (1934) 404.
    """
    _check_count(events, n)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    tail = (1 - level) / 2
    low = 0.0 if events == 0 else float(stats.beta.ppf(tail, events, n - events + 1))
    high = 1.0 if events == n else float(stats.beta.ppf(1 - tail, events + 1, n - events))
    return Estimate(events / n, low, high, n)


def upper_bound(events: int, n: int, level: float = 0.95) -> float:
    """One-sided exact upper bound of a proportion; after 0 events in n it is 1 - .05^(1/n). NaN for n = 0."""
    return clopper_pearson(events, n, level=2 * level - 1).high


def median_interval(values: Float[np.ndarray, " n"], level: float = 0.95) -> Estimate:
    """A median with the exact interval of the order statistics; NaN values are left out.

    Infinite values keep their place in the order (a segment that was never reached). Below 6 values no
    such interval exists at 95 %, and its ends are NaN.
    """
    present = values[~np.isnan(values)]
    if len(present) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    ends = stats.quantile_test(present, q=0, p=0.5).confidence_interval(level)
    return Estimate(float(np.median(present)), float(ends.low), float(ends.high), len(present))


def bootstrap_mean(
    values: Float[np.ndarray, " n"], *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Estimate:
    """The mean over puzzles with a percentile bootstrap interval; one puzzle alone has none (NaN ends).

    Args:
        values: one number per puzzle, the unit of resampling.
        resamples: bootstrap samples.
        seed: the same seed gives the same interval.
        level: coverage aimed at.
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    if n == 1:
        return Estimate(float(values[0]), math.nan, math.nan, 1)
    means = np.concatenate([values[rows].mean(axis=1) for rows in resampled_rows(n, resamples, seed)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(values.mean()), float(low), float(high), n)


def mean_share(values: Float[np.ndarray, " n"], *, resamples: int = 10_000, seed: int = 0) -> Estimate:
    """The mean over puzzles of a number between 0 and 1, at 95 %.

    As `bootstrap_mean`, but where all are 0, or all are 1, Wilson's interval of n puzzles: of equal values a
    bootstrap makes certainty.
    """
    n = len(values)
    if n and ((values == 0).all() or (values == 1).all()):
        return wilson(n if values[0] else 0, n)
    return bootstrap_mean(values, resamples=resamples, seed=seed)


def resampled_rows(n: int, resamples: int, seed: int) -> Iterator[Int[np.ndarray, "r n"]]:
    """Row numbers of bootstrap samples, in tables of bounded size."""
    rng = np.random.default_rng(seed)
    at_once = max(1, 2_000_000 // n)
    for done in range(0, resamples, at_once):
        yield rng.integers(n, size=(min(at_once, resamples - done), n))


def clustered_mean(
    values: Float[np.ndarray, " N"], cluster: Int[np.ndarray, " N"], *, resamples: int = 10_000, seed: int = 0
) -> Estimate:
    """The mean over rows of which some belong together, as the versions of one ARC task do.

    Args:
        values: one number per row, 0 to 1; of rows that are all 0, or all 1, the interval is Wilson's.
        cluster: which rows belong together; clusters are resampled whole, and n counts them.
        resamples, seed: as for `bootstrap_mean`.
    """
    numbers, of = np.unique(cluster, return_inverse=True)
    n = len(numbers)
    if n and ((values == 0).all() or (values == 1).all()):
        return wilson(n if values[0] else 0, n)
    if n < 2:
        return Estimate(float(values.mean()) if n else math.nan, math.nan, math.nan, n)
    sums, sizes = np.bincount(of, weights=values), np.bincount(of)
    drawn = resampled_rows(n, resamples, seed)
    means = np.concatenate([sums[rows].sum(axis=1) / sizes[rows].sum(axis=1) for rows in drawn])
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high), n)


def mean_of_runs(values: Float[np.ndarray, " n"], level: float = 0.95) -> tuple[Estimate, float]:
    """Mean of a score over training runs with Student's t interval, and the deviation between runs.

    The interval is for the mean of the recipe, whatever its seed; NaN ends and deviation for one run.
    """
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    if n < 2:
        return Estimate(mean, math.nan, math.nan, n), math.nan
    deviation = float(values.std(ddof=1))
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * deviation / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n), deviation


def _check_count(events: int, n: int) -> None:
    if not 0 <= events <= n:
        raise UserError(f"{events} events out of {n}: expected 0 <= events <= n. Check the two counts.")
