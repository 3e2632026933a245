"""Exponential decay and what stands in its place, against laws whose shape is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from loopscope.dynamics.ageing import ageing_test, beta_geometric, square_moments
from loopscope.dynamics.decay import decay_test
from loopscope.dynamics.escape import escape_rate, escape_times, hazard, survival
from loopscope.dynamics.escape_compare import compare_escape
from loopscope.dynamics.toys import double, exact_escape_rate, first_exit, tent
from loopscope.errors import UserError


def censored(times: np.ndarray, stop: int) -> np.ndarray:
    return np.where(times > stop, -1, times).astype(int)


def doubling(low: int, high: int, n: int, stop: int) -> np.ndarray:
    starts = np.random.default_rng(0).integers(2**64, size=n, dtype=np.uint64)
    inside = lambda x: (x >> np.uint64(61) >= low) & (x >> np.uint64(61) < high)  # noqa: E731
    return first_exit(double, inside, starts, stop)


def outside(x: np.ndarray) -> np.ndarray:
    return (x < 0) | (x > 1)


# -- the rows of known escape rates, within 3 standard errors


@pytest.mark.parametrize(("slope", "stop"), [(2.5, 30), (3.0, 20), (4.0, 12)])
def test_open_tent(slope: float, stop: int) -> None:
    at = first_exit(tent(slope), outside, np.random.default_rng(1).random(300_000), stop)
    rate = escape_rate(at, start=0, stop=stop)
    assert abs(rate.value - math.log(slope / 2)) < 3 * (rate.high - rate.low) / 3.92


@pytest.mark.parametrize(("r", "exact"), [(4.5, 0.361510), (5.0, 0.552765), (6.0, 0.831493)])
def test_open_logistic(r: float, exact: float) -> None:
    at = first_exit(lambda x: r * x * (1 - x), outside, np.random.default_rng(2).random(300_000), 14)
    rate = escape_rate(at, start=4, stop=14)
    assert abs(rate.value - exact) < 3 * (rate.high - rate.low) / 3.92


@pytest.mark.parametrize(
    ("low", "high", "exact"), [(0, 2, 0.211935), (0, 1, 0.083769), (2, 3, 0.130748)], ids=str
)
def test_doubling_with_a_hole(low: int, high: int, exact: float) -> None:
    at = doubling(low, high, 300_000, 40)
    rate = escape_rate(at, start=10, stop=40)
    assert abs(rate.value - exact) < 3 * (rate.high - rate.low) / 3.92
    assert not decay_test(at, start=10, stop=40).flagged
    naive = -math.log1p(-(high - low) / 8)  # the size of the hole is not the rate
    assert abs(rate.value - naive) > 3 * (rate.high - rate.low) / 3.92


def test_a_hole_without_exponential_decay_is_flagged() -> None:
    """Hole [1/4, 1/2): what survives are binary words without 01, so S(n) = (n + 2) / 2^(n + 1)."""
    S = (np.arange(15) + 2) / 2.0 ** (np.arange(15) + 1)
    window = -math.log1p(-(S[2] - S[14]) / S[2:14].sum())
    at = doubling(2, 4, 200_000, 20)
    rate = escape_rate(at, start=2, stop=14)
    assert rate.value == pytest.approx(window, abs=3 * (rate.high - rate.low) / 3.92)
    assert rate.value < math.log(2) - 0.05  # the asymptotic rate is not what the window shows
    tested = decay_test(at, start=2, stop=14)
    assert tested.flagged
    assert not rate.exponential
    assert tested.verdict == "not exponential: the hazard rises"


# -- times, hazards


def test_escape_times_by_hand() -> None:
    solved = np.array([[0, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]], bool)
    times = escape_times(solved)
    assert times.first.tolist() == [2, 1, 2, -1, 1]
    assert times.absorbed.tolist() == [2, 3, -1, -1, 1]
    assert times.lost == 1


def test_hazard_and_survival_agree() -> None:
    at = censored(np.random.default_rng(3).geometric(0.1, 400), 12)
    found, curve = hazard(at, start=0, stop=12), survival(at, stop=12)
    np.testing.assert_allclose(np.exp(-np.cumsum(found.rate)), curve.fraction[1:])
    exact = stats.binomtest(int(found.events[3]), int(found.at_risk[3])).proportion_ci(method="exact")
    assert (found.low[3], found.high[3]) == pytest.approx((exact.low, exact.high))
    assert np.isnan(hazard(np.array([1, 1]), start=0, stop=3).probability[1:]).all()


def test_rate_per_application_and_hardness() -> None:
    at = censored(np.random.default_rng(4).geometric(0.05, 2000), 30)
    rate = escape_rate(at, start=0, stop=30)
    work = escape_rate(at, start=0, stop=30, per="application", applications_per_segment=21)
    assert work.value == pytest.approx(rate.value / 21)
    assert rate.eta.value == pytest.approx(-math.log10(rate.value))
    assert rate.eta.low < rate.eta.value < rate.eta.high
    assert rate.band == "medium"
    never = escape_rate(np.full(9, -1), start=0, stop=4)
    assert (never.eta.value, never.band) == (math.inf, "ultra-hard")
    with pytest.raises(UserError, match="applications_per_segment is not given"):
        escape_rate(at, start=0, stop=30, per="application")


# -- laws


def test_memoryless_is_not_flagged() -> None:
    rng = np.random.default_rng(5)
    found = [decay_test(censored(rng.geometric(0.08, 300), 15), start=0, stop=15) for _ in range(25)]
    assert sum(test.flagged for test in found) <= 3  # .5 expected of two tests at .01
    assert np.mean([test.shape.low < 1 < test.shape.high for test in found]) > 0.85
    assert stats.kstest([test.p_shape for test in found], "uniform").pvalue > 1e-3
    assert stats.kstest([test.p_constant for test in found], "uniform").pvalue > 1e-3


def test_weibull_shape_is_found() -> None:
    rng = np.random.default_rng(6)
    times = [np.ceil(20 * rng.weibull(0.5, 1000)) for _ in range(20)]
    found = [decay_test(censored(t, 200), start=0, stop=200) for t in times]
    shapes = np.array([test.shape.value for test in found])
    assert abs(shapes.mean() - 0.5) < 3 * shapes.std(ddof=1) / math.sqrt(20)
    assert sum(test.shape.low < 0.5 < test.shape.high for test in found) >= 16  # 19 expected
    assert np.mean([test.weibull.parameters["scale"] for test in found]) == pytest.approx(20, rel=0.05)
    assert all(test.best.law == "weibull" for test in found)


def test_mixture_is_found_and_its_hazard_falls() -> None:
    rng = np.random.default_rng(7)
    at = censored(rng.geometric(np.repeat([0.3, 0.03], 4000)), 60)
    found = decay_test(at, start=0, stop=60)
    assert found.best.law == "mixture"
    assert found.flagged
    assert "falls" in found.verdict
    expected = {"share": 0.5, "rate": -math.log(0.7), "other_rate": -math.log(0.97)}
    assert found.mixture.parameters == pytest.approx(expected, rel=0.1)


def test_an_uneven_hazard_is_flagged_though_its_shape_is_one() -> None:
    """Only every other segment can solve: no trend, no Weibull shape, still not exponential."""
    at = censored(2 * np.random.default_rng(8).geometric(0.2, 3000), 40)
    found = decay_test(at, start=0, stop=40)
    assert found.p_constant < 1e-10
    assert found.flagged


def test_likelihood_against_scipy() -> None:
    at = censored(np.random.default_rng(9).geometric(0.2, 500), 10)
    found = decay_test(at, start=0, stop=10).exponential
    p = -math.expm1(-found.parameters["rate"])
    expected = stats.geom.logpmf(at[at > 0], p).sum() + (at == -1).sum() * stats.geom.logsf(10, p)
    assert found.log_likelihood == pytest.approx(expected)


@pytest.mark.parametrize(("at", "reason"), [([-1] * 5, "0 of 5 puzzles"), ([1, 1, 1], "one segment only")])
def test_nothing_to_test(at: list[int], reason: str) -> None:
    found = decay_test(np.array(at), start=0, stop=6)
    assert reason in found.reason
    assert math.isnan(found.p_shape)
    assert not found.flagged
    assert found.verdict.startswith("undefined")


def test_the_hazards_of_a_mixed_population() -> None:
    """The toy's solutions: every one is memoryless later on, the pooled hazard falls all the same."""
    target = np.linspace(0.15, 0.85, 29)
    p = -np.expm1(-exact_escape_rate(target))
    times = np.random.default_rng(10).geometric(np.tile(p, 4000)[:, None], (29 * 4000, 2))
    rates = [escape_rate(times[:, 0], start=a, stop=b).value for a, b in ((0, 16), (32, 64), (64, 96))]
    q = (1 - p) ** 16
    assert rates[0] == pytest.approx(-math.log1p(-(1 - q).mean() / ((1 - q) / p).mean()), rel=0.02)
    assert rates[0] > rates[1] > rates[2]
    assert ageing_test(censored(times[:20_000], 64), stop=64).p_value > 1e-3


# -- puzzles that differ, puzzles that age


def test_beta_geometric_recovers_its_parameters() -> None:
    rng = np.random.default_rng(11)
    p = rng.beta(2, 20, 4000)
    found = beta_geometric(censored(rng.geometric(p[:, None], (4000, 4)), 30), stop=30)
    assert found.a == pytest.approx(2, rel=0.15)
    assert found.b == pytest.approx(20, rel=0.15)
    assert found.correlation == pytest.approx(1 / 23, rel=0.15)
    assert found.p_equal < 1e-10


def test_equal_puzzles_have_no_spread() -> None:
    rng = np.random.default_rng(12)
    found = [beta_geometric(censored(rng.geometric(0.1, (200, 4)), 30), stop=30) for _ in range(20)]
    assert np.mean([f.correlation for f in found]) < 0.01
    assert sum(f.p_equal < 0.05 for f in found) <= 6
    assert math.isnan(beta_geometric(np.full((3, 2), -1), stop=5).mean)


def test_square_moments_by_enumeration() -> None:
    parts, window = 3, 5
    mean, variance = square_moments(parts, window)
    sums: dict[int, list[int]] = {}
    for c in itertools.product(range(1, window + 1), repeat=parts):
        sums.setdefault(sum(c), []).append(sum(x * x for x in c))
    for m, squares in sums.items():
        assert mean[m] == pytest.approx(np.mean(squares))
        assert variance[m] == pytest.approx(np.var(squares), abs=1e-9)
    assert np.isnan(mean[:parts]).all()


def test_ageing_is_standard_normal_whatever_the_rates() -> None:
    rng = np.random.default_rng(13)
    p = np.maximum(rng.beta(0.5, 5, 200), 1e-9)[:, None]  # the pooled hazard falls strongly
    at = [censored(rng.geometric(p, (200, 8)), 20) for _ in range(200)]
    z = [ageing_test(times, stop=20).z for times in at]
    assert stats.kstest(z, "norm").pvalue > 0.01
    assert escape_rate(at[0].ravel(), start=0, stop=20).trend < -3


def test_ageing_of_single_puzzles_is_seen() -> None:
    rng = np.random.default_rng(14)
    spread = np.exp(rng.normal(size=(300, 1)))
    falling = np.ceil(20 * spread * rng.weibull(0.5, (300, 8)))
    assert ageing_test(censored(falling, 40), stop=40).z > 5
    shifted = 6 + rng.geometric(0.1, (300, 8))
    assert ageing_test(censored(shifted, 40), stop=40).z < -5
    assert abs(ageing_test(censored(shifted, 40), start=6, stop=40).z) < 4
    assert "0 puzzles" in ageing_test(np.full((4, 3), -1), stop=9).reason
    many = censored(rng.geometric(np.full((30, 1), 0.02), (30, 128)), 512)
    one_at_once = np.vstack([many, np.ones((1, 128), int)])
    plain, at_once = (ageing_test(times, stop=512) for times in (many, one_at_once))
    assert math.isfinite(plain.z)
    assert at_once.z == pytest.approx(plain.z)  # a sum that leaves no choice tells nothing
    with pytest.raises(UserError, match="expected 0 <= start < stop"):
        ageing_test(np.array([[1, 2]]), start=9, stop=9)


# -- two models


def test_comparison_per_application() -> None:
    """The published pair: about 5 times as fast per segment, 1.4 times per application."""
    rng = np.random.default_rng(15)
    first, second = (censored(rng.geometric(p, 3000), 16) for p in (0.3, 0.07))
    found = compare_escape(first, second, start=0, stop=16, applications=(21, 6))
    exact = math.log(0.7) / math.log(0.93)
    assert found.per_segment.low < exact < found.per_segment.high
    assert found.per_application.value == pytest.approx(found.per_segment.value * 6 / 21)
    assert math.isnan(found.p_logrank)  # times are known to a segment, and these are of unequal length
    same = compare_escape(second, second, start=0, stop=16, applications=(6, 6), paired=True)
    assert (same.per_segment.low, same.per_segment.value, same.per_segment.high) == (1, 1, 1)
    assert same.p_logrank == pytest.approx(1)


def test_comparison_covers_and_needs_events() -> None:
    rng = np.random.default_rng(16)
    covered = []
    for _ in range(100):
        pair = [censored(rng.geometric(p, 200), 16) for p in (0.06, 0.03)]
        found = compare_escape(*pair, start=0, stop=16, applications=(1, 1), resamples=300)
        covered.append(found.per_segment.low < math.log(0.94) / math.log(0.97) < found.per_segment.high)
    assert np.mean(covered) > 0.88
    nothing = compare_escape(np.full(5, -1), np.array([1, 2, 3]), start=0, stop=4, applications=(1, 1))
    assert math.isnan(nothing.per_segment.value)
    assert "0 and 3 events" in nothing.reason
