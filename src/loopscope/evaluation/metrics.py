"""Scores of answers against labels and against the rules, with intervals.

Definitions are those of the official code: `cell_accuracy` is the mean over puzzles of the share of
supervised cells that are right, givens and walls included, so that a model that solves nothing may score
0.9; `unfilled_accuracy` counts only the cells that the question leaves open. `exact_accuracy` counts
puzzles with every cell right, `halt_accuracy` those where (halt logit >= 0) says the same as exactness.

Exactness after t segments is *instantaneous*. `cumulative_accuracy` counts puzzles that were right at any
segment up to t: an oracle, as no rule says where to stop. `absorbed_accuracy` counts those right at t and
at every later segment that was run. A row without a single supervised cell counts nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Num
from torch import Tensor

from loopscope.evaluation.intervals import Estimate, clustered_mean, mean_share, wilson
from loopscope.tasks.base import IGNORE, PAD, Task

RATING_BANDS = {"0": (0, 0), "1-9": (1, 9), "10-29": (10, 29), "30-99": (30, 99), "100+": (100, None)}
DIFFICULTIES = ("rating", "givens", "path_length")  # facts by which results are broken down
NUM_BANDS = 4  # of a fact without bands of its own: quarters of the set
RESAMPLES = 2000  # of every bootstrap in a table of scores; seed 0
Columns = dict[str, np.ndarray]  # per puzzle, (N,) each


def cells_right(
    answers: Int[Tensor, "B L"] | Integer[np.ndarray, "B L"],
    labels: Int[Tensor, "B L"] | Integer[np.ndarray, "B L"],
) -> tuple[Any, Any]:
    """Share of supervised cells that are right, and whether all are, per puzzle; (B,) each.

    Args:
        answers: tokens, two tensors or two arrays.
        labels: tokens; PAD or -100 where a cell is not supervised.
    Returns:
        Share (NaN where no cell is supervised) and exactness (False there), of the kind that came in.
    """
    supervised = (labels != IGNORE) & (labels != PAD)
    right, total = ((answers == labels) & supervised).sum(1), supervised.sum(1)
    with np.errstate(invalid="ignore"):  # 0 of 0 cells
        return right / total, (right == total) & (total > 0)


def grade(
    task: Task,
    inputs: Integer[np.ndarray, "B L"],
    answers: Integer[np.ndarray, "B L"],
    labels: Integer[np.ndarray, "B L"],
    halt_logit: Float[np.ndarray, " B"],
) -> Columns:
    """Everything that is known of each answer.

    Args:
        task: its `checks` and `unfilled`, where it has them, add what can be said without labels.
        inputs, answers: tokens.
        labels: tokens; PAD or -100 where a cell is not supervised.
        halt_logit: of the answers.
    Returns:
        `cell_accuracy`, `unfilled_accuracy` (both NaN where no such cell is supervised), `exact`,
        `halt_logit`, and a bool for every check of the task: Sudoku `verified`, `valid`, `givens_kept`;
        maze `valid_path`, `clean_path`, `shortest_path`.
    """
    found: Columns = {}
    found["cell_accuracy"], found["exact"] = cells_right(answers, labels)
    if hasattr(task, "unfilled"):
        of = np.where(task.unfilled(inputs), labels, PAD)
        found["unfilled_accuracy"] = cells_right(answers, of)[0]
    found["halt_logit"] = halt_logit.astype(np.float64)
    return found | (task.checks(inputs, answers) if hasattr(task, "checks") else {})


def summary(columns: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
    """Scores of a set of graded puzzles, each with a 95 % interval and its n.

    Args:
        columns: as `grade` gives them; bool columns beside them become proportions of the same name,
            NaN is left out of means.
    """
    counted = ~np.isnan(columns["cell_accuracy"])
    kept = {name: column[counted] for name, column in columns.items()}
    table = scores(kept["cell_accuracy"], kept["exact"], kept["halt_logit"])
    for name, column in kept.items():
        if column.dtype == bool and name != "exact":
            table[name] = wilson(int(column.sum()), len(column))
        elif name == "unfilled_accuracy":
            table[name] = mean_share(column[~np.isnan(column)], resamples=RESAMPLES)
    return table


def scores(
    accuracy: Float[np.ndarray, " N"], exact: Bool[np.ndarray, " N"], halt_logit: Float[np.ndarray, " N"]
) -> dict[str, Estimate]:
    """The three headline scores of a set of puzzles, each with a 95 % interval and its n."""
    n = len(exact)
    return {
        "exact_accuracy": wilson(int(exact.sum()), n),
        "cell_accuracy": mean_share(accuracy, resamples=RESAMPLES),
        "halt_accuracy": wilson(int(halt_right(halt_logit, exact).sum()), n),
    }


def halt_right(halt_logit: Float[np.ndarray, " N"], exact: Bool[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    """Whether the halt logit says of each answer what it is; one that is no number says nothing."""
    return ((halt_logit >= 0) == exact) & ~np.isnan(halt_logit)


def clustered_scores(
    columns: Mapping[str, np.ndarray], cluster: Int[np.ndarray, " N"]
) -> dict[str, Estimate]:
    """The headline scores of rows that come in clusters, such as the versions of an ARC task.

    The intervals are bootstraps over clusters, and n counts clusters.
    """
    counted = ~np.isnan(columns["cell_accuracy"])
    exact = columns["exact"]
    rows = {
        "exact_accuracy": exact.astype(float),
        "cell_accuracy": columns["cell_accuracy"],
        "halt_accuracy": halt_right(columns["halt_logit"], exact).astype(float),
    }
    where = cluster[counted]
    return {name: clustered_mean(row[counted], where, resamples=RESAMPLES) for name, row in rows.items()}


# -- difficulty


def by_difficulty(
    exact: Bool[np.ndarray, " N"], facts: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Estimate]]:
    """Exact accuracy by band of each fact that tells difficulty: `rating`, `givens`, `path_length`."""
    known = {name: facts[name] for name in DIFFICULTIES if name in facts}
    return {
        name: by_rating(exact, facts) if name == "rating" else _by_bands(exact, values, quarters(values))
        for name, values in known.items()
    }


def by_rating(exact: Bool[np.ndarray, " N"], facts: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
    """Exact accuracy in each difficulty band; empty where the puzzles carry no rating."""
    return _by_bands(exact, facts["rating"], RATING_BANDS) if "rating" in facts else {}


def quarters(values: Integer[np.ndarray, " N"]) -> dict[str, tuple[int, int | None]]:
    """Bands of whole numbers that split a set into about equal quarters; fewer where values repeat."""
    if not len(values):
        return {}
    cuts = np.quantile(values, np.arange(1, NUM_BANDS) / NUM_BANDS, method="inverted_cdf")
    tops = np.unique([*cuts, values.max()]).astype(int).tolist()
    lows = [int(values.min()), *(top + 1 for top in tops[:-1])]
    return {
        str(low) if low == top else f"{low}-{top}": (low, top) for low, top in zip(lows, tops, strict=True)
    }


def _by_bands(
    exact: Bool[np.ndarray, " N"],
    values: Num[np.ndarray, " N"],
    bands: Mapping[str, tuple[int, int | None]],
) -> dict[str, Estimate]:
    found = {}
    for name, (low, high) in bands.items():
        inside = (values >= low) & (values <= (np.inf if high is None else high))
        found[name] = wilson(int(exact[inside].sum()), int(inside.sum()))
    return found
