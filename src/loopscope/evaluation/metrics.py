"""Scores of answers against labels, with intervals: definitions as the official code has them.

`cell_accuracy` is the mean over puzzles of the share of supervised cells that are right (givens
included, as officially); `exact_accuracy` counts puzzles with every cell right; `halt_accuracy`
counts puzzles where (halt logit >= 0) says the same as exactness.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.evaluation.intervals import Estimate, bootstrap_mean, wilson
from loopscope.tasks.base import IGNORE

RATING_BANDS = {"0": (0, 0), "1-9": (1, 9), "10-29": (10, 29), "30-99": (30, 99), "100+": (100, None)}


def cells_right(
    answers: Int[Tensor, "B L"], labels: Int[Tensor, "B L"]
) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """Share of supervised cells that are right, and whether all are, per puzzle."""
    valid = labels != IGNORE
    right = ((answers == labels) & valid).sum(1)
    return right / valid.sum(1).clamp(min=1), right == valid.sum(1)


def scores(
    accuracy: Float[np.ndarray, " N"], exact: Bool[np.ndarray, " N"], halt_logit: Float[np.ndarray, " N"]
) -> dict[str, Estimate]:
    """The three headline scores of a set of puzzles, each with a 95 % interval and its n."""
    n = len(exact)
    return {
        "exact_accuracy": wilson(int(exact.sum()), n),
        "cell_accuracy": bootstrap_mean(accuracy, resamples=2000),
        "halt_accuracy": wilson(int(((halt_logit >= 0) == exact).sum()), n),
    }


def by_rating(exact: Bool[np.ndarray, " N"], facts: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
    """Exact accuracy in each difficulty band; empty where the puzzles carry no rating."""
    if "rating" not in facts:
        return {}
    rating = facts["rating"]
    bands = {}
    for name, (low, high) in RATING_BANDS.items():
        inside = (rating >= low) & (rating <= (np.inf if high is None else high))
        bands[name] = wilson(int(exact[inside].sum()), int(inside.sum()))
    return bands
