"""AUC and intervals against brute force, scipy, scikit-learn and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from loopscope.dynamics.statistics import auc
from loopscope.errors import UserError
from loopscope.evaluation.intervals import bootstrap_mean, clopper_pearson, wilson


def sample(n: int = 200, seed: int = 0, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.6
    score = rng.normal(size=n) + positive
    return (score.round(1) if ties else score), positive


@pytest.mark.parametrize("ties", [True, False])
def test_auc_counts_pairs(ties: bool) -> None:
    score, positive = sample(ties=ties)
    pos, neg = score[positive][:, None], score[~positive][None]
    found = auc(score, positive, resamples=10)
    assert found.value == pytest.approx(np.mean((pos > neg) + 0.5 * (pos == neg)))
    u = stats.mannwhitneyu(score[positive], score[~positive]).statistic
    assert found.value == pytest.approx(u / (found.n_pos * found.n_neg))
    assert (found.n_pos, found.n_neg) == (positive.sum(), (~positive).sum())


def test_auc_of_a_constant_score_is_half() -> None:
    positive = np.arange(10) < 4
    found = auc(np.zeros(10), positive, resamples=50)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_auc_interval_equals_a_plain_bootstrap() -> None:
    score, positive = sample(120)
    rng = np.random.default_rng(1)

    def plain(index: np.ndarray) -> float:
        s, p = score[index], positive[index]
        return float(np.mean((s[p][:, None] > s[~p][None]) + 0.5 * (s[p][:, None] == s[~p][None])))

    values = [plain(rng.integers(120, size=120)) for _ in range(3000)]
    found = auc(score, positive, resamples=3000)
    assert (found.low, found.high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.01)


def test_auc_interval_covers() -> None:
    truth = stats.norm.cdf(1 / math.sqrt(2))
    found = [auc(*sample(150, seed, ties=False), resamples=300, seed=seed) for seed in range(200)]
    assert 0.89 < np.mean([f.low <= truth <= f.high for f in found]) < 0.99


def test_auc_with_infinite_and_missing_scores() -> None:
    score = np.array([np.inf, 3.0, -np.inf, 1.0, np.nan])
    positive = np.array([True, True, False, False, True])
    found = auc(score, positive, resamples=20)
    assert found.value == 1.0
    assert (found.n, found.n_missing) == (4, 1)


@pytest.mark.parametrize(("label", "word"), [(True, "unsolved"), (False, "solved")])
def test_an_empty_class_is_nan_with_a_reason(label: bool, word: str) -> None:
    found = auc(np.arange(4.0), np.full(4, label))
    assert math.isnan(found.value)
    assert found.reason == f"no {word} puzzle among 4"
    assert str(found).startswith("undefined")


def test_auc_is_seeded() -> None:
    score, positive = sample()
    assert auc(score, positive, resamples=100, seed=3) == auc(score, positive, resamples=100, seed=3)
    assert auc(score, positive, resamples=100, seed=3) != auc(score, positive, resamples=100, seed=4)


@pytest.mark.parametrize(("events", "n"), [(0, 10), (10, 10), (3, 10), (7127, 8192)])
@pytest.mark.parametrize(("ours", "method"), [(wilson, "wilson"), (clopper_pearson, "exact")])
def test_proportions_equal_scipy(events: int, n: int, ours: object, method: str) -> None:
    found = ours(events, n)  # type: ignore[operator]
    expected = stats.binomtest(events, n).proportion_ci(method=method)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.low <= found.value <= found.high


def test_proportions_quoted_in_the_literature() -> None:
    half = (wilson(7127, 8192).high - wilson(7127, 8192).low) / 2
    assert half == pytest.approx(0.0073, abs=5e-5)
    assert clopper_pearson(0, 254, level=0.9).high == pytest.approx(0.0117, abs=5e-5)  # one-sided 95 %


def test_proportions_of_nothing() -> None:
    assert math.isnan(wilson(0, 0).value)
    assert clopper_pearson(0, 0).n == 0
    with pytest.raises(UserError, match="3 events out of 2"):
        wilson(3, 2)


def test_bootstrap_mean_equals_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = bootstrap_mean(values, seed=1)
    half = 1.96 * values.std() / 20
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert found == bootstrap_mean(values, seed=1)
    assert found.to_dict() == {"value": values.mean(), "low": found.low, "high": found.high, "n": 400}
    assert math.isnan(bootstrap_mean(np.array([])).value)
