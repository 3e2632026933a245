"""Do single puzzles age, or do they only differ? Restarts of the same puzzle tell.

A population of memoryless puzzles shows a falling hazard as soon as their rates differ, because the easy
ones leave first; that is no reason to restart anything. With K orbits per puzzle the two causes part:
the beta-geometric law measures how far the rates differ, and the ageing test asks whether within a puzzle
the hazard changes with time, whatever its rate is.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, stats
from scipy.special import betaln

from loopscope.errors import UserError

CONCENTRATION = 1e4  # a + b of the beta law above which puzzles count as alike
Z95 = 1.959963984540054


@dataclass(frozen=True)
class BetaGeometric:
    """Rates that differ between memoryless puzzles: p ~ Beta(a, b) per puzzle and segment.

    Attributes:
        a, b: parameters; NaN where nothing could be fitted.
        mean: mean solve probability per segment, a / (a + b).
        spread: standard deviation of it between puzzles.
        correlation: 1 / (a + b + 1), 0 for equal puzzles, 1 for puzzles that are solved at once or never.
        p_equal: likelihood ratio of equal puzzles (half of chi-square with 1 degree: a boundary).
        log_likelihood: in nats.
        n, events: puzzles, and orbits solved.
        reason: why there is no number, else empty.
    """

    a: float
    b: float
    mean: float
    spread: float
    correlation: float
    p_equal: float
    log_likelihood: float
    n: int
    events: int
    reason: str = ""

    def to_dict(self) -> dict[str, float | int | str]:
        """Plain values, ready for json."""
        return asdict(self)


@dataclass(frozen=True)
class Ageing:
    """Whether the hazard of single puzzles changes with time.

    Attributes:
        z: standard score of the spread of solve times within puzzles, given their number and their sum;
            above 0 the hazard falls (restarts help), below 0 it rises (go on).
        p_value: two-sided.
        n: puzzles with at least two solved orbits, on which alone the test rests.
        events: their solved orbits.
        reason: why there is no number, else empty.
    """

    z: float
    p_value: float
    n: int
    events: int
    reason: str = ""

    @property
    def verdict(self) -> str:
        """One line of plain words."""
        if self.reason:
            return f"undefined: {self.reason}"
        if abs(self.z) < Z95:
            return "single puzzles are not seen to age"
        return f"the hazard of single puzzles {'falls' if self.z > 0 else 'rises'}"

    def to_dict(self) -> dict[str, float | int | str]:
        """Plain values, ready for json."""
        return asdict(self) | {"verdict": self.verdict}


def beta_geometric(times: Int[np.ndarray, "B K"], *, start: int = 0, stop: int) -> BetaGeometric:
    """Fit the spread of memoryless puzzles from several orbits of each.

    A puzzle with s solved orbits and f puzzle-segments without success has likelihood
    B(a + s, b + f) / B(a, b), with B the beta function.

    Args:
        times: first solved segment of every orbit, 1-based; -1 if never. K = 1 is allowed, but then the
            law rests on the shape of one curve.
        start: leading segments left out; orbits solved by then do not count.
        stop: last segment of the orbits.
    """
    solved, exposure = _totals(times, start, stop)
    used = exposure > 0
    s, f = solved[used], (exposure - solved)[used]
    n, events = int(used.sum()), int(s.sum())
    if events == 0 or f.sum() == 0:
        reason = f"{events} orbits solved with {int(f.sum())} segments of failure: no rate to spread"
        nan = math.nan
        return BetaGeometric(nan, nan, nan, nan, nan, nan, nan, n, events, reason)
    p = events / (s + f).sum()
    alike = float(events * math.log(p) + f.sum() * math.log1p(-p))

    def loss(x: np.ndarray) -> float:
        total, mean = math.exp(x[1]), 1 / (1 + math.exp(-x[0]))
        a, b = total * mean, total * (1 - mean)
        return -float((betaln(a + s, b + f) - betaln(a, b)).sum())

    box = [(-16, 16), (math.log(1e-3), math.log(CONCENTRATION))]
    starts = [(math.log(p / (1 - p)), math.log(total)) for total in (1.0, 20.0, 400.0)]
    best = min(
        (optimize.minimize(loss, x, bounds=box, method="L-BFGS-B") for x in starts), key=lambda r: r.fun
    )
    total, mean = math.exp(best.x[1]), 1 / (1 + math.exp(-best.x[0]))
    ratio = max(0.0, 2 * (-float(best.fun) - alike))
    return BetaGeometric(
        a=total * mean,
        b=total * (1 - mean),
        mean=mean,
        spread=math.sqrt(mean * (1 - mean) / (total + 1)),
        correlation=1 / (total + 1),
        p_equal=0.5 * float(stats.chi2.sf(ratio, 1)) if ratio > 0 else 1.0,
        log_likelihood=-float(best.fun),
        n=n,
        events=events,
    )


def ageing_test(times: Int[np.ndarray, "B K"], *, start: int = 0, stop: int) -> Ageing:
    """Test memoryless escape within puzzles, without any assumption on how puzzles differ.

    If a puzzle is memoryless, then given how many of its orbits were solved by `stop` and the sum of
    their times, every way to share that sum among them is equally likely, whatever its rate. The sum of
    squared times is compared with its exact mean and variance under that law, puzzle by puzzle.

    Args:
        times: first solved segment of every orbit, 1-based; -1 if never.
        start: leading segments left out (no orbit can be solved in the first ones, which looks like a
            rising hazard); orbits solved by then do not count.
        stop: last segment of the orbits.
    """
    _check(times, start, stop)
    window = stop - start
    inside = (times > start) & (times <= stop)
    solved, summed = inside.sum(axis=1), np.where(inside, times - start, 0).sum(axis=1)
    squares = np.where(inside, (times - start) ** 2, 0).sum(axis=1)
    used = solved >= 2
    moments = {s: square_moments(int(s), window) for s in np.unique(solved[used])}
    mean = np.array([moments[s][0][m] for s, m in zip(solved[used], summed[used], strict=True)])
    variance = np.array([moments[s][1][m] for s, m in zip(solved[used], summed[used], strict=True)])
    n, events = int(used.sum()), int(solved[used].sum())
    if not variance.sum() > 0:
        return Ageing(math.nan, math.nan, n, events, f"{n} puzzles with two solved orbits that could differ")
    z = float((squares[used] - mean).sum() / math.sqrt(variance.sum()))
    return Ageing(z, 2 * float(stats.norm.sf(abs(z))), n, events)


def square_moments(parts: int, window: int) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Mean and variance of the sum of squares of a uniform composition, by its sum m = 0, 1, ....

    Compositions of m into `parts` ordered numbers from 1 to `window`; NaN for an m that has none. By
    generating functions: the number of compositions is the coefficient of x^m in (x + ... + x^window)^parts.
    """
    t = np.arange(window + 1.0, dtype=np.longdouble)  # its range holds 512^-1800, that of a double 512^-119
    ones = t.clip(max=1) / window  # scaled to total 1: counts would overflow
    first, second = t**2 / window, t**4 / window
    two_less: np.ndarray = np.ones(1, t.dtype)
    for _ in range(parts - 2):
        two_less = np.convolve(two_less, ones)
    one_less = np.convolve(two_less, ones) if parts > 1 else two_less
    count = np.convolve(one_less, ones)
    once = parts * np.convolve(first, one_less)
    twice = parts * np.convolve(second, one_less)
    if parts > 1:
        twice += parts * (parts - 1) * np.convolve(np.convolve(first, first), two_less)
    m = np.arange(len(count))
    possible = (m >= parts) & (count > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(possible, once / count, np.nan)
        spread = np.where(possible, twice / count - mean**2, np.nan)
    return mean.astype(float), np.maximum(spread, 0.0).astype(float)


def _totals(times: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Solved orbits and orbit-segments at risk, per puzzle."""
    _check(times, start, stop)
    at_risk = (times == -1) | (times > start)
    event = at_risk & (times > 0) & (times <= stop)
    exposure = np.where(at_risk, np.where(event, times, stop) - start, 0)
    return event.sum(axis=1), exposure.sum(axis=1)


def _check(times: np.ndarray, start: int, stop: int) -> None:
    if not 0 <= start < stop:
        raise UserError(f"start={start}, stop={stop}: expected 0 <= start < stop. Widen the window.")
