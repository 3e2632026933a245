"""Whether an escape is exponential, and what it is instead.

Two tests that ask different things. Against trend and shape: a Weibull law whose shape is 1 for an
exponential decay. Against anything: Pearson's chi-square of the events per segment under a constant
hazard. Three laws are fitted to the same events per segment, with censoring at the end of the window, so
their likelihoods compare. A mixture of two rates that wins says nothing about single puzzles:
`loopscope.dynamics.ageing` does, from restarts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from scipy import optimize, stats

from loopscope.dynamics.escape import window_counts
from loopscope.evaluation.intervals import Estimate

SIGNIFICANT = 0.01  # p value below which a constant hazard is rejected
EXPECTED = 5.0  # events and non-events that a bin of the chi-square test needs
SHAPES = (0.05, 20.0)  # Weibull shapes looked at
EM_STEPS = 5000


@dataclass(frozen=True)
class Fit:
    """One law fitted by maximum likelihood to the events per segment.

    Attributes:
        law: its name; "none" where nothing was fitted.
        parameters: by name; rates in nats per segment, times in segments after the start.
        log_likelihood: in nats; NaN where nothing was fitted.
        aic: 2 * (free parameters) - 2 * log likelihood.
    """

    law: str
    parameters: dict[str, float]
    log_likelihood: float
    aic: float


@dataclass(frozen=True)
class DecayTest:
    """Whether the data contradict exponential decay.

    Attributes:
        exponential, weibull, mixture: the three fits.
        shape: Weibull shape with its likelihood interval; 1 for exponential, below 1 the hazard falls.
        p_shape: likelihood ratio of shape 1.
        p_constant: chi-square of a constant hazard, against any other; NaN with fewer than 2 bins.
        n, events: puzzles at risk at the start, and solved in the window.
        start, stop: the window.
        reason: why nothing was tested, else empty.
    """

    exponential: Fit
    weibull: Fit
    mixture: Fit
    shape: Estimate
    p_shape: float
    p_constant: float
    n: int
    events: int
    start: int
    stop: int
    reason: str = ""

    @property
    def best(self) -> Fit:
        """The law with the smallest AIC."""
        fits = [f for f in (self.exponential, self.weibull, self.mixture) if not math.isnan(f.aic)]
        return min(fits, key=lambda f: f.aic) if fits else self.exponential

    @property
    def verdict(self) -> str:
        """One line of plain words."""
        if self.reason:
            return f"undefined: {self.reason}"
        if self.p_shape < SIGNIFICANT and self.shape.value < 1:
            return "not exponential: the hazard falls, by a mixture of puzzles or by ageing of each"
        if self.p_shape < SIGNIFICANT:
            return "not exponential: the hazard rises"
        if self.p_constant < SIGNIFICANT:
            return "not exponential: the hazard is uneven"
        return "an exponential decay is not contradicted"

    @property
    def flagged(self) -> bool:
        """Whether a rate must not be quoted as that of an exponential decay."""
        return not self.reason and (self.p_shape < SIGNIFICANT or self.p_constant < SIGNIFICANT)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return asdict(self) | {"verdict": self.verdict}


def decay_test(solved_at: Int[np.ndarray, " B"], *, start: int, stop: int) -> DecayTest:
    """Test exponential decay in a window and fit the laws that could stand in its place.

    Args:
        solved_at: first solved segment per puzzle, 1-based; -1 if never.
        start: segments already spent; leave out the first ones, in which no orbit can have settled.
        stop: last segment; puzzles unsolved then are censored.
    Returns:
        Fits, p values and a verdict; NaN and a reason where fewer than 2 events, fewer than 2 segments
        or no survivor leave nothing to test.
    Source: Lawless, Statistical Models and Methods for Lifetime Data (2003), ch. 3 (grouped times).
    """
    d, e = window_counts(solved_at, start, stop)
    n, events = int(e[0]), int(d.sum())
    counts = d[e > 0], e[e > 0]
    reason = _why_not(*counts)
    if reason:
        none, nothing = Fit("none", {}, math.nan, math.nan), Estimate(math.nan, math.nan, math.nan, n)
        return DecayTest(none, none, none, nothing, math.nan, math.nan, n, events, start, stop, reason)
    flat = _exponential(*counts)
    bent, shape = _weibull(*counts)
    p_shape = float(stats.chi2.sf(max(0.0, 2 * (bent.log_likelihood - flat.log_likelihood)), 1))
    mixed = _mixture(*counts)
    return DecayTest(
        flat, bent, mixed, Estimate(*shape, n), p_shape, _chi_square(*counts), n, events, start, stop
    )


def _why_not(d: Int[np.ndarray, " W"], e: Int[np.ndarray, " W"]) -> str:
    if len(e) == 0:
        return "no puzzle is unsolved at the start of the window"
    if d.sum() < 2:
        return f"{d.sum()} of {e[0]} puzzles solved in the window, expected 2"
    if len(e) < 2:
        return "puzzles are at risk in one segment only, expected 2"
    return ""


def _likelihood(survival: Callable[[np.ndarray], np.ndarray], d: np.ndarray, e: np.ndarray) -> float:
    """Log likelihood of a law with S(0) = 1 for events per segment and survivors of the last one."""
    s = survival(np.arange(len(d) + 1.0))
    left = e[-1] - d[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(d > 0, d * np.log(s[:-1] - s[1:]), 0.0)
        tail = left * math.log(s[-1]) if left and s[-1] > 0 else (-math.inf if left else 0.0)
    return float(terms.sum() + tail)


def _exponential(d: np.ndarray, e: np.ndarray) -> Fit:
    p = d.sum() / e.sum()
    value = _likelihood(lambda t: (1 - p) ** t, d, e)
    return Fit("exponential", {"rate": -math.log1p(-p)}, value, 2 - 2 * value)


def _weibull(d: np.ndarray, e: np.ndarray) -> tuple[Fit, tuple[float, float, float]]:
    """S(t) = exp(-(t / tau)^k), and k with the interval where its profile falls by 1.92."""

    def profile(log_k: float) -> tuple[float, float]:
        k = math.exp(log_k)
        # the scale enters as a = tau^-k: ln a is well behaved for every k
        loss = lambda log_a: -_likelihood(lambda t: np.exp(-math.exp(log_a) * t**k), d, e)  # noqa: E731
        guess = math.log(-math.log(max(1 - d.sum() / e[0], 0.5 / e[0]))) - k * math.log(len(d))
        found = optimize.minimize_scalar(_finite(loss), bracket=(guess - 0.5, guess + 0.5))
        return -float(found.fun), float(found.x)

    ends = tuple(map(math.log, SHAPES))
    best = optimize.minimize_scalar(lambda x: -profile(x)[0], bounds=ends, method="bounded").x
    top, log_a = profile(best)
    drop = lambda x: profile(x)[0] - top + 0.5 * stats.chi2.ppf(0.95, 1)  # noqa: E731
    low = SHAPES[0] if drop(ends[0]) > 0 else math.exp(optimize.brentq(drop, ends[0], best, xtol=1e-3))
    high = SHAPES[1] if drop(ends[1]) > 0 else math.exp(optimize.brentq(drop, best, ends[1], xtol=1e-3))
    k = math.exp(best)
    return Fit("weibull", {"shape": k, "scale": math.exp(-log_a / k)}, top, 4 - 2 * top), (k, low, high)


def _finite(loss: Callable[[float], float]) -> Callable[[float], float]:
    """A line search must see numbers where the likelihood vanishes."""
    return lambda x: min(loss(x), 1e300) if abs(x) < 500 else 1e300


def _mixture(d: np.ndarray, e: np.ndarray) -> Fit:
    """S(t) = w q1^t + (1 - w) q2^t by expectation-maximisation, from rates a factor 3 to either side."""
    t, left = np.arange(1, len(d) + 1), e[-1] - d[-1]
    p = d.sum() / e.sum()
    rate, share = np.array([min(3 * p, (1 + p) / 2), p / 3]), np.array([0.5, 0.5])
    before = -math.inf
    for _ in range(EM_STEPS):
        joint = share[:, None] * rate[:, None] * (1 - rate[:, None]) ** (t - 1)
        stay = share * (1 - rate) ** len(d)
        value = float(d @ np.log(joint.sum(axis=0)) + left * math.log(stay.sum()))
        solved, unsolved = joint / joint.sum(axis=0) * d, stay / stay.sum() * left
        share = (solved.sum(axis=1) + unsolved) / e[0]
        rate = solved.sum(axis=1) / (solved @ t + unsolved * len(d))
        if value - before < 1e-9:
            break
        before = value
    names = {"share": share[0], "rate": _nats(rate[0]), "other_rate": _nats(rate[1])}
    return Fit("mixture", {k: float(v) for k, v in names.items()}, value, 6 - 2 * value)


def _nats(p: float) -> float:
    return math.inf if p >= 1 else -math.log1p(-p)


def _chi_square(d: Int[np.ndarray, " W"], e: Int[np.ndarray, " W"]) -> float:
    """Pearson's test that every segment has the same hazard; neighbours are joined until bins are full."""
    p = d.sum() / e.sum()
    bins: list[list[float]] = [[0.0, 0.0]]
    for events, at_risk in zip(d, e, strict=True):
        bins[-1] = [bins[-1][0] + events, bins[-1][1] + at_risk]
        if bins[-1][1] * min(p, 1 - p) >= EXPECTED:
            bins.append([0.0, 0.0])
    rest = bins.pop()
    if len(bins) < 2:
        return math.nan
    bins[-1] = [a + b for a, b in zip(bins[-1], rest, strict=True)]
    seen, exposed = np.array(bins).T
    statistic = ((seen - p * exposed) ** 2 / (exposed * p * (1 - p))).sum()
    return float(stats.chi2.sf(statistic, len(bins) - 1))
