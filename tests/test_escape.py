"""Escape rates and survival against textbook numbers, simulations and closed forms."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from loopscope.dynamics.escape import escape_rate, survival
from loopscope.dynamics.escape_compare import compare_escape
from loopscope.errors import UserError


def geometric(rng: np.random.Generator, p: float | np.ndarray, n: int, stop: int) -> np.ndarray:
    at = rng.geometric(p, n)
    return np.where(at > stop, -1, at)


def test_rate_by_hand() -> None:
    # at risk after segment 2: solved at 3 (1 segment), at 5 (3), never (4), never (4): 2 events, 12 segments
    rate = escape_rate(np.array([1, 2, 3, 5, -1, -1]), start=2, stop=6)
    assert (rate.n, rate.events, rate.exposure) == (4, 2, 12)
    assert rate.value == pytest.approx(-math.log(1 - 2 / 12))
    exact = stats.binomtest(2, 12).proportion_ci(method="exact")
    assert (rate.low, rate.high) == pytest.approx((-math.log1p(-exact.low), -math.log1p(-exact.high)))


def test_events_after_stop_are_censored() -> None:
    early = escape_rate(np.array([3, 9, -1]), start=0, stop=5)
    assert (early.n, early.events, early.exposure) == (3, 1, 13)


def test_interval_covers() -> None:
    rng, p = np.random.default_rng(0), 0.05
    rates = [escape_rate(geometric(rng, p, 100, 16), start=0, stop=16) for _ in range(600)]
    covered = np.mean([rate.low <= -math.log(1 - p) <= rate.high for rate in rates])
    assert 0.93 < covered < 0.985  # exact intervals may cover a little more than .95
    assert np.mean([rate.value for rate in rates]) == pytest.approx(-math.log(1 - p), rel=0.02)


def test_restarting_the_clock_leaves_a_memoryless_rate() -> None:
    at = geometric(np.random.default_rng(1), 0.1, 50_000, 40)
    windows = [escape_rate(at, start=start, stop=start + 10) for start in (0, 10, 20)]
    assert all(rate.low < -math.log(0.9) < rate.high for rate in windows)


@pytest.mark.parametrize(
    ("p", "sign"), [(np.repeat([0.3, 0.03], 5000), -1), (0.1, 0)], ids=["mixture", "memoryless"]
)
def test_trend_flags_a_mixture(p: float | np.ndarray, sign: int) -> None:
    rate = escape_rate(geometric(np.random.default_rng(2), p, 10_000, 30), start=0, stop=30)
    assert rate.exponential == (sign == 0)
    if sign:
        assert np.sign(rate.trend) == sign


def test_trend_is_standard_normal_when_memoryless() -> None:
    rng = np.random.default_rng(3)
    trends = [escape_rate(geometric(rng, 0.08, 400, 20), start=2, stop=20).trend for _ in range(500)]
    assert stats.kstest(trends, "norm").pvalue > 0.01


def test_nothing_and_everything_escapes() -> None:
    none = escape_rate(np.full(10, -1), start=0, stop=4)
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(-math.log(0.025) / 40)  # (1 - p)^40 = .025
    every = escape_rate(np.ones(10, dtype=int), start=0, stop=4)
    assert every.value == math.inf
    assert math.isfinite(every.low)


def test_few_events_leave_the_ratio_of_two_models_open() -> None:
    """Many bootstrap samples then have no event on either side, so that any ratio could be."""
    first, second = (np.array([at, *[-1] * 9]) for at in (2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare_escape(first, second, start=0, stop=8, applications=(1, 1))
    assert (found.per_segment.low, found.per_segment.high) == (0, math.inf)
    assert math.isfinite(found.per_segment.value)


def test_per_application() -> None:
    rate = escape_rate(np.array([3, 9, -1]), start=0, stop=16)
    scaled = rate.per_application(21)
    assert scaled.value == pytest.approx(rate.value / 21)
    assert scaled.high == pytest.approx(rate.high / 21)
    assert (scaled.unit, scaled.n) == ("application", 3)


@pytest.mark.parametrize(
    ("solved_at", "start", "stop", "message"),
    [
        ([1, 2], 3, 8, "all 2 puzzles are solved"),
        ([1, -1], 8, 8, "expected 0 <= start < stop"),
        ([0, -1], 0, 8, "solved_at=0: expected segments from 1 on"),
    ],
)
def test_mistakes_are_named(solved_at: list[int], start: int, stop: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        escape_rate(np.array(solved_at), start=start, stop=stop)


def test_survival_of_a_textbook_sample() -> None:
    """6-MP remission times (Freireich et al., Blood 21 (1963) 699)."""
    time = np.array([6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35])
    event = np.isin(np.arange(21), [0, 1, 2, 4, 6, 9, 10, 14, 15])  # the others were censored
    curve = survival(np.where(event, time, -1), stop=35, watched_until=time)
    at = dict(zip(curve.segment.tolist(), curve.fraction, strict=True))
    expected = {
        5: 1.0,
        6: 0.8571,
        7: 0.8067,
        10: 0.7529,
        13: 0.6902,
        16: 0.6275,
        22: 0.5378,
        23: 0.4482,
        35: 0.4482,
    }
    assert {week: round(at[week], 4) for week in expected} == expected
    assert curve.at_risk[[6, 7, 10, 13, 16, 22, 23]].tolist() == [21, 17, 15, 12, 11, 7, 6]
    assert curve.low[6] == pytest.approx(0.6197, abs=1e-4)  # log-log interval
    assert curve.high[6] == pytest.approx(0.9516, abs=1e-4)
    assert (curve.low <= curve.fraction).all()
    assert (curve.fraction <= curve.high).all()


def test_survival_without_early_censoring_is_the_unsolved_fraction() -> None:
    at = geometric(np.random.default_rng(4), 0.1, 500, 20)
    curve = survival(at, stop=20)
    unsolved = [np.mean((at == -1) | (at > t)) for t in range(21)]
    np.testing.assert_allclose(curve.fraction, unsolved)
    assert curve.n == 500


def test_survival_that_ends_with_one_at_risk_is_not_sure() -> None:
    """99 of 100 are no longer watched when the last one escapes."""
    curve = survival(np.array([-1] * 99 + [2]), stop=2, watched_until=np.array([1] * 99 + [2]))
    assert curve.fraction[2] == 0
    assert (curve.low[2], curve.high[2]) == pytest.approx((0, 0.975))


def test_hardness_of_a_rate_without_bounds_has_a_name() -> None:
    assert escape_rate(np.array([1, 1, 1]), start=0, stop=4).band == "easy"


def test_survival_when_nothing_happens() -> None:
    curve = survival(np.full(5, -1), stop=3)
    assert curve.fraction.tolist() == [1.0] * 4
    assert curve.low.tolist() == [1.0] + [pytest.approx(0.025**0.2)] * 3  # 0 of 5, exact
    everything = survival(np.full(5, 1), stop=2)
    assert everything.fraction.tolist() == [1, 0, 0]
    assert everything.high.tolist() == [1, *[pytest.approx(1 - 0.025**0.2)] * 2]
