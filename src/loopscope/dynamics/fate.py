"""Where an orbit ends: settled or wandering, right or wrong.

An orbit has settled when its late drift is small. The threshold is found in the data (Otsu on the log
of the drift), and because any threshold is a choice, a threshold-free statement and a sweep go with it.
Which drift (z_H, z_L, joint) is up to the caller; published numbers use z_H.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from loopscope.errors import UserError
from loopscope.evaluation.intervals import Estimate, clopper_pearson, wilson

WINDOW = 4  # segments; the published choice


@dataclass(frozen=True)
class Threshold:
    """A cut between small and large drift.

    Attributes:
        value: threshold on the late drift itself; NaN when there is nothing to cut.
        log10: its logarithm, the published scale.
        separation: share of the variance of log drift that lies between the two groups, 0 to 1. Otsu
            cuts any sample, also one with a single peak (a normal one gives about .64).
        reason: why there is no threshold, else empty.
    """

    value: float
    log10: float
    separation: float
    reason: str = ""


@dataclass(frozen=True)
class DriftGap:
    """The quietest failure beside the successes.

    Attributes:
        least: smallest late drift of any failure; NaN without failures.
        share_below: share of successes with a smaller late drift; NaN without successes or failures.
        n_correct, n_wrong: puzzles.
    """

    least: float
    share_below: float
    n_correct: int
    n_wrong: int

    def __str__(self) -> str:
        if not self.n_wrong or not self.n_correct:
            return f"undefined: {self.n_correct} solved and {self.n_wrong} unsolved puzzles"
        return (
            f"the smallest late drift of {self.n_wrong} failures is {self.least:.3g}, "
            f"above that of {100 * self.share_below:.1f} % of {self.n_correct} successes"
        )


@dataclass(frozen=True)
class FateTable:
    """Settled or wandering, correct or wrong.

    Attributes:
        settled_correct, settled_wrong, wandering_correct, wandering_wrong: counts (cells A, B, C, D).
        threshold: the cut on late drift.
        settled_among_wrong: B / (B + D), with the exact interval (B is often 0).
        correct_among_settled: A / (A + B), likewise.
        accuracy: (A + C) / n, Wilson.
        drift_gap: see `threshold_free`.
    """

    settled_correct: int
    settled_wrong: int
    wandering_correct: int
    wandering_wrong: int
    threshold: Threshold
    settled_among_wrong: Estimate
    correct_among_settled: Estimate
    accuracy: Estimate
    drift_gap: DriftGap


def late_drift(drift: Float[np.ndarray, "B T"], window: int = WINDOW) -> Float[np.ndarray, " B"]:
    """Mean drift of the last `window` segments, per puzzle."""
    if drift.shape[1] < window:
        raise UserError(
            f"{drift.shape[1]} segments: expected at least {window}. Run longer or narrow the window."
        )
    return drift[:, -window:].mean(axis=1)


def drift_slope(drift: Float[np.ndarray, "B T"], window: int = WINDOW) -> Float[np.ndarray, " B"]:
    """log10 of the mean drift in the last window minus that in the window before; below 0 it settles."""
    if drift.shape[1] < 2 * window:
        raise UserError(f"{drift.shape[1]} segments: expected at least {2 * window}. Run longer.")
    earlier = drift[:, -2 * window : -window].mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # an orbit that stands still gives -inf or NaN
        return np.log10(drift[:, -window:].mean(axis=1)) - np.log10(earlier)


def otsu_threshold(late: Float[np.ndarray, " B"]) -> Threshold:
    """Threshold on late drift that best splits its logarithm in two groups.

    Maximises the variance between the groups over all splits of the sorted values (no histogram); the
    threshold lies halfway between the two neighbours on the log scale. Orbits that stand still exactly
    (drift 0) are settled under any threshold and do not take part.

    Source: Otsu, IEEE Trans. SMC 9 (1979) 62.
    """
    logs = np.sort(np.log10(late[late > 0]))
    if len(logs) < 2 or logs[0] == logs[-1]:
        reason = f"{len(logs)} puzzles with positive drift, all alike: nothing to split"
        return Threshold(math.nan, math.nan, math.nan, reason)
    n = len(logs)
    count = np.arange(1, n)
    below = np.cumsum(logs)[:-1] / count
    above = (logs.sum() - np.cumsum(logs)[:-1]) / (n - count)
    between = count * (n - count) / n**2 * (above - below) ** 2
    between[np.diff(logs) == 0] = -1  # no threshold lies between equal values
    best = int(np.argmax(between))
    cut = float((logs[best] + logs[best + 1]) / 2)
    return Threshold(10**cut, cut, float(between[best] / logs.var()))


def fate_table(
    late: Float[np.ndarray, " B"], correct: Bool[np.ndarray, " B"], *, threshold: float | None = None
) -> FateTable:
    """Settled or wandering against correct or wrong, with intervals.

    Args:
        late: late drift per puzzle.
        correct: whether its last answer is right.
        threshold: cut on the late drift; default Otsu's. Without any cut (all alike) every orbit that
            does not move is settled and every other wanders.
    """
    if threshold is None:
        cut = otsu_threshold(late)
    else:
        cut = Threshold(threshold, math.log10(threshold) if threshold > 0 else -math.inf, math.nan)
    settled = (late < cut.value) | (late == 0)
    a, b = int((settled & correct).sum()), int((settled & ~correct).sum())
    c, d = int((~settled & correct).sum()), int((~settled & ~correct).sum())
    return FateTable(
        a,
        b,
        c,
        d,
        cut,
        settled_among_wrong=clopper_pearson(b, b + d),
        correct_among_settled=clopper_pearson(a, a + b),
        accuracy=wilson(a + c, len(late)),
        drift_gap=threshold_free(late, correct),
    )


def threshold_free(late: Float[np.ndarray, " B"], correct: Bool[np.ndarray, " B"]) -> DriftGap:
    """The smallest late drift of a failure and the share of successes that lie below it."""
    successes, failures = late[correct], late[~correct]
    least = float(failures.min()) if len(failures) else math.nan
    share = float((successes < least).mean()) if len(successes) and len(failures) else math.nan
    return DriftGap(least, share, len(successes), len(failures))


def settled_wrong_sweep(
    late: Float[np.ndarray, " B"],
    correct: Bool[np.ndarray, " B"],
    percentiles: Float[np.ndarray, " P"] | None = None,
) -> dict[float, Estimate]:
    """Share of failures that count as settled when the cut is each percentile of all late drifts.

    Returns:
        percentile -> B / (B + D) with its exact interval; default percentiles 5, 10, ..., 95.
    """
    grid = np.arange(5.0, 100.0, 5.0) if percentiles is None else percentiles
    wrong = late[~correct]
    cuts = np.percentile(late, grid)
    counts = [int((wrong < cut).sum()) for cut in cuts]
    return {float(q): clopper_pearson(count, len(wrong)) for q, count in zip(grid, counts, strict=True)}
