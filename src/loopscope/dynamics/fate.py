"""Where an orbit ends: settled or wandering, right or wrong.

An orbit has settled when its late drift is small. The threshold is found in the data (Otsu on the log
of the drift, or a mixture of two peaks), and because any threshold is a choice, a threshold-free statement
and a sweep over all thresholds go with it.
Which drift (z_H, z_L, joint) is up to the caller; published numbers use z_H.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from loopscope.errors import UserError
from loopscope.evaluation.intervals import Estimate, clopper_pearson, wilson

WINDOW = 4  # segments; the published choice
MIXTURE = 10  # different drifts that a fit of two peaks needs


@dataclass(frozen=True)
class Threshold:
    """A cut between small and large drift.

    Attributes:
        value: threshold on the late drift itself; NaN when there is nothing to cut.
        log10: its logarithm, the published scale.
        separation: share of the variance of log drift that lies between the two groups, 0 to 1. Otsu
            cuts any sample, also one with a single peak; see `one_peak`.
        reason: why there is no threshold, else empty.
        n: drifts that took part, the positive and finite ones.
        rule: how the cut was found: by Otsu's rule, between the peaks of a mixture, or given.
    """

    value: float
    log10: float
    separation: float
    reason: str = ""
    n: int = 0
    rule: Literal["Otsu", "mixture", "given"] = "Otsu"

    @property
    def splits(self) -> bool:
        """Whether late drift falls into two groups, so that the cut means something.

        The mixture gives a cut only where two peaks describe the drifts better than one.
        """
        if self.reason:
            return False
        return self.rule == "mixture" or self.separation > one_peak(self.n)

    @property
    def explained(self) -> str:
        """How much of the variance of log drift the cut explains, beside what it does with one peak."""
        return (
            f"explains {100 * self.separation:.0f} % of the variance of log drift, of one normal peak 64 % "
            f"in large samples and up to {100 * one_peak(self.n):.0f} % with n {self.n:,}"
        )

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        return f"{self.rule}, log10 {self.log10:.3g}, {self.explained}".replace("-", "−")


def one_peak(n: int) -> float:
    """Variance that Otsu's cut explains of a normal sample of n, 99 % quantile (simulated, n 10 to 3,000)."""
    return min(2 / math.pi + 0.8 / math.sqrt(n), 1.0) if n else 1.0


def _number(n: int, noun: str) -> str:
    """1 failure, 2,000 successes"""
    return f"{n:,} {noun}" + ("" if n == 1 else "es" if noun.endswith("s") else "s")


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
            unsolved = _number(self.n_wrong, "unsolved puzzle")
            return f"undefined: {self.n_correct:,} solved and {unsolved}"
        return (
            f"the smallest late drift of {_number(self.n_wrong, 'failure')} is {self.least:.3g}, "
            f"above that of {100 * self.share_below:.1f} % of {_number(self.n_correct, 'success')}"
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


@dataclass(frozen=True)
class ConfidentFailure:
    """A wrong answer that the model calls right.

    Attributes:
        puzzle: its place in the set, from 0; the boards are the rows `inputs`, `labels`, `answer` there.
        halt_logit: how sure the model is.
        late_drift: of its orbit.
        settled: whether the orbit has settled.
    """

    puzzle: int
    halt_logit: float
    late_drift: float
    settled: bool


def late_drift(drift: Float[np.ndarray, "B T"], window: int = WINDOW) -> Float[np.ndarray, " B"]:
    """Mean drift of the last `window` segments, per puzzle; infinite for an orbit that became non-finite."""
    if drift.shape[1] < window:
        raise UserError(
            f"{drift.shape[1]} segments: expected at least {window}. Run longer or narrow the window."
        )
    late = drift[:, -window:].mean(axis=1)
    return np.where(np.isnan(late), np.inf, late)


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
    (drift 0) are settled under any threshold, those that left the finite numbers under none; neither
    take part.

    Source: Otsu, IEEE Trans. SMC 9 (1979) 62.
    """
    logs = np.sort(_logs(late))
    if len(logs) < 2 or logs[0] == logs[-1]:
        alike = ", all alike" if len(logs) > 1 else ""
        reason = f"{_number(len(logs), 'puzzle')} with positive drift{alike}: nothing to split"
        return Threshold(math.nan, math.nan, math.nan, reason, len(logs))
    n = len(logs)
    count = np.arange(1, n)
    below = np.cumsum(logs)[:-1] / count
    above = (logs.sum() - np.cumsum(logs)[:-1]) / (n - count)
    between = count * (n - count) / n**2 * (above - below) ** 2
    between[np.diff(logs) == 0] = -1  # no threshold lies between equal values
    best = int(np.argmax(between))
    cut = float((logs[best] + logs[best + 1]) / 2)
    return Threshold(10**cut, cut, float(between[best] / logs.var()), n=n)


def _given_threshold(late: Float[np.ndarray, " B"], value: float) -> Threshold:
    """A cut that was chosen, with what it explains."""
    logs, log10 = _logs(late), math.log10(value) if value > 0 else -math.inf
    return Threshold(value, log10, _explained(logs, log10), n=len(logs), rule="given")


def _explained(logs: np.ndarray, cut: float) -> float:
    """Share of the variance that lies between the groups below and above a cut; NaN without variance."""
    if len(logs) == 0 or logs.var() == 0:
        return math.nan
    groups = (logs[logs < cut], logs[logs >= cut])
    if not all(len(group) for group in groups):
        return 0.0
    share = len(groups[0]) / len(logs)
    between = share * (1 - share) * (groups[1].mean() - groups[0].mean()) ** 2
    return float(between / logs.var())


def _logs(late: np.ndarray) -> np.ndarray:
    """log10 of the late drifts that are positive and finite."""
    return np.log10(late[(late > 0) & np.isfinite(late)])


def settled(late: Float[np.ndarray, " B"], threshold: Threshold) -> Bool[np.ndarray, " B"]:
    """Which orbits have settled; without any threshold only those that stand still."""
    return (late < threshold.value) | (late == 0)


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
    cut = otsu_threshold(late) if threshold is None else _given_threshold(late, threshold)
    quiet = settled(late, cut)
    a, b = int((quiet & correct).sum()), int((quiet & ~correct).sum())
    c, d = int((~quiet & correct).sum()), int((~quiet & ~correct).sum())
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


def fate_sweep(
    late: Float[np.ndarray, " B"],
    correct: Bool[np.ndarray, " B"],
    percentiles: Float[np.ndarray, " P"] | None = None,
) -> dict[float, FateTable]:
    """The table of fates when the cut is each percentile of all finite late drifts.

    Returns:
        percentile -> table; default percentiles 5, 10, ..., 95.
    """
    grid = np.arange(5.0, 100.0, 5.0) if percentiles is None else percentiles
    finite = late[np.isfinite(late)]
    cuts = np.percentile(finite, grid) if len(finite) else np.full(len(grid), np.nan)
    return {float(q): fate_table(late, correct, threshold=float(c)) for q, c in zip(grid, cuts, strict=True)}


def mixture_threshold(late: Float[np.ndarray, " B"], *, seed: int = 0) -> Threshold:
    """Second opinion on the cut: two normal peaks in log late drift, if the data prefer them to one (BIC).

    The threshold lies where a puzzle is as likely to belong to either peak.

    Args:
        late: late drift; orbits that stand still do not take part.
        seed: of the starts of the fit.
    """
    from sklearn.mixture import GaussianMixture

    logs = _logs(late)[:, None]
    if len(np.unique(logs)) < MIXTURE:
        reason = f"{_number(len(np.unique(logs)), 'different positive drift')}, expected at least {MIXTURE}"
        return Threshold(math.nan, math.nan, math.nan, reason, len(logs), "mixture")
    one, two = (GaussianMixture(k, n_init=3, random_state=seed).fit(logs) for k in (1, 2))
    gain = one.bic(logs) - two.bic(logs)
    if gain <= 0:
        reason = f"one peak describes log drift as well as two (BIC lower by {-gain:.1f})"
        return Threshold(math.nan, math.nan, math.nan, reason, len(logs), "mixture")
    low, high = np.sort(two.means_[:, 0])
    grid = np.linspace(low, high, 2001)[:, None]
    cut = float(grid[np.abs(two.predict_proba(grid)[:, 0] - 0.5).argmin(), 0])
    return Threshold(10**cut, cut, _explained(logs[:, 0], cut), n=len(logs), rule="mixture")


def confidently_wrong(
    halt: Float[np.ndarray, " B"],
    correct: Bool[np.ndarray, " B"],
    late: Float[np.ndarray, " B"],
    threshold: Threshold,
    *,
    most: int = 20,
) -> list[ConfidentFailure]:
    """Failures that the model calls right with the highest halt logits, the surest first.

    Args:
        halt: halt logit where the outcome is read.
        correct: the outcome.
        late: late drift.
        threshold: cut between settled and wandering.
        most: length of the list; failures with a halt logit below 0 are not on it.
    """
    wrong = np.flatnonzero(~correct & (halt >= 0))
    order = wrong[np.argsort(-halt[wrong], kind="stable")][:most]
    quiet = settled(late, threshold)
    return [ConfidentFailure(int(i), float(halt[i]), float(late[i]), bool(quiet[i])) for i in order]


def rounding_floor(dtype: str) -> str:
    """What a short format does to the drift, in words; empty for float32 and longer ones."""
    bits = {"bfloat16": 8, "float16": 11}.get(dtype.removeprefix("torch."))
    if bits is None:
        return ""
    return (
        f"{dtype} orbits: the state is rounded to {bits} bits, so a drift below about 2^-{bits} of its "
        "norm is not resolved, and a fixed point shows as drift 0 or a short cycle"
    )
