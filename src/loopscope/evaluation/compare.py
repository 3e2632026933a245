"""Two runs on the same puzzles, and several runs of one recipe.

Several runs are compared two by two, with p values adjusted for the number of pairs. Paired, because two
runs on the same puzzles differ far less by chance than two on different ones: only the puzzles that one
solves and the other does not say anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool
from scipy import stats

from loopscope.evaluation.intervals import Estimate, bootstrap_mean, mean_of_runs, wilson
from loopscope.evaluation.multiple import adjusted

ENOUGH_RUNS = 3  # training runs that a claim about a recipe needs


@dataclass(frozen=True)
class Comparison:
    """Run b against run a, on n puzzles.

    Attributes:
        a, b: share solved by each, Wilson intervals.
        only_a, only_b, both, neither: numbers of puzzles.
        difference: share solved by b minus share solved by a, bootstrap over puzzles.
        p_value: two-sided, of the exact McNemar test.
    """

    a: Estimate
    b: Estimate
    only_a: int
    only_b: int
    both: int
    neither: int
    difference: Estimate
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return asdict(self)


@dataclass(frozen=True)
class Pair:
    """Two of several runs.

    Attributes:
        first, second: their places, from 0.
        comparison: the second against the first.
        p_holm: McNemar p value, adjusted for the number of pairs.
    """

    first: int
    second: int
    comparison: Comparison
    p_holm: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return asdict(self)


@dataclass(frozen=True)
class Spread:
    """A score over training runs.

    Attributes:
        values: the score of each run.
        mean: with Student's t interval for the mean of the recipe; n counts runs.
        deviation: standard deviation between runs (n - 1 in the denominator).
        low, high: of the worst and the best run.
    """

    values: tuple[float, ...]
    mean: Estimate
    deviation: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return asdict(self)


def compare(
    solved_a: Bool[np.ndarray, " N"], solved_b: Bool[np.ndarray, " N"], *, seed: int = 0
) -> Comparison:
    """Compare two runs puzzle by puzzle.

    Args:
        solved_a, solved_b: what each run solved, puzzles in the same order.
        seed: of the bootstrap.
    """
    assert solved_a.shape == solved_b.shape, (solved_a.shape, solved_b.shape)
    n = len(solved_a)
    only_a, only_b = int((solved_a & ~solved_b).sum()), int((solved_b & ~solved_a).sum())
    return Comparison(
        wilson(int(solved_a.sum()), n),
        wilson(int(solved_b.sum()), n),
        only_a,
        only_b,
        int((solved_a & solved_b).sum()),
        int((~solved_a & ~solved_b).sum()),
        _difference(solved_a, solved_b, seed),
        mcnemar(only_a, only_b),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p value of the exact McNemar test: a fair coin tossed for every discordant puzzle.

    Source: McNemar, Psychometrika 12 (1947) 153, with binomial instead of normal tails.
    """
    discordant = only_a + only_b
    return float(stats.binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0


def _difference(a: np.ndarray, b: np.ndarray, seed: int) -> Estimate:
    """Paired difference, bootstrap over puzzles.

    A bootstrap of rows that are all alike has no width. There, the ends come from the Clopper-Pearson bound
    for no event in n: how many other puzzles n alike can hide.
    """
    steps = b.astype(float) - a.astype(float)
    if len(steps) and (steps == steps[0]).all():
        hidden, step = 1 - 0.025 ** (1 / len(steps)), float(steps[0])
        low, high = max(step - hidden, -1.0), min(step + hidden, 1.0)
        return Estimate(step, low, high, len(steps))
    return bootstrap_mean(steps, seed=seed)


def spread(values: Sequence[float]) -> Spread:
    """Mean, deviation and range of a score over training runs of one recipe; at least one run."""
    mean, deviation = mean_of_runs(np.asarray(values, float))
    return Spread(tuple(values), mean, deviation, min(values), max(values))


def compare_all(solved: Sequence[Bool[np.ndarray, " N"]], *, seed: int = 0) -> list[Pair]:
    """Every pair of runs on the same puzzles, with Holm's adjustment for the number of pairs.

    Args:
        solved: what each run solved, puzzles in the same order.
        seed: of the bootstraps.
    """
    places = list(combinations(range(len(solved)), 2))
    found = [compare(solved[a], solved[b], seed=seed) for a, b in places]
    p_holm = adjusted(np.array([c.p_value for c in found]))
    return [Pair(a, b, c, float(p)) for (a, b), c, p in zip(places, found, p_holm, strict=True)]
