"""AUC, its guards and intervals against brute force, scipy, scikit-learn, closed forms and planted truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from loopscope.dynamics.statistics import (
    auc,
    auc_landmark,
    auc_matched,
    auc_within,
    banded,
    brunner_munzel,
)
from loopscope.errors import UserError
from loopscope.evaluation.auc import auc_difference
from loopscope.evaluation.intervals import (
    bootstrap_mean,
    clopper_pearson,
    mean_share,
    median_interval,
    upper_bound,
    wilson,
)

TRIALS = 60
MOST = stats.binom(TRIALS, 0.05).ppf(0.999)  # false alarms that a 5 % test may raise in so many trials


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
    assert found.value == pytest.approx(roc_auc_score(positive, score))
    assert (found.n_pos, found.n_neg) == (positive.sum(), (~positive).sum())


def test_auc_of_a_constant_score_is_half() -> None:
    positive = np.arange(30) < 12
    found = auc(np.zeros(30), positive, resamples=50)
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


def test_perfect_separation_has_the_interval_of_disjoint_pairs() -> None:
    positive = np.arange(30) < 20
    found = auc(positive.astype(float), positive)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(clopper_pearson(10, 10).low)  # ten pairs of ten agree
    turned = auc(-positive.astype(float), positive)
    assert (turned.value, turned.high) == (0.0, pytest.approx(1 - found.low))


@pytest.mark.parametrize(("few", "area"), [(2, 0.5), (3, 0.9), (9, 0.8)])
def test_interval_of_a_handful_covers_the_true_area(few: int, area: float) -> None:
    """A bootstrap of two puzzles covers 60 %, of nine 88 %: it only repeats what it was given."""
    rng = np.random.default_rng(few)
    positive = np.arange(200) < few
    apart = math.sqrt(2) * stats.norm.ppf(area)  # of two unit normals with this area
    found = [auc(rng.normal(size=200) + apart * positive, positive) for _ in range(200)]
    assert np.mean([one.low <= area <= one.high for one in found]) >= 0.95
    assert all(one.low < one.value <= one.high for one in found)


def test_difference_is_paired() -> None:
    score, positive = sample(ties=False)
    other = score + 0.3 * np.random.default_rng(5).normal(size=200)
    found = auc_difference(score, other, positive, resamples=1000)
    expected = roc_auc_score(positive, other) - roc_auc_score(positive, score)
    assert found.value == pytest.approx(expected)
    alone = [auc(s, positive, resamples=1000) for s in (score, other)]
    assert found.high - found.low < 0.5 * (alone[0].high - alone[0].low)
    assert math.isnan(auc_difference(score, other, np.ones(200, bool)).value)


def test_a_difference_that_no_sample_shows_is_not_certain() -> None:
    perfect, positive = -np.arange(20.0), np.arange(20) < 8
    found = auc_difference(perfect, 2 * perfect, positive, resamples=50)
    room = clopper_pearson(0, 8).high  # none of eight pairs changes, in either direction
    assert (found.value, found.low, found.high) == pytest.approx((0, -room, room))
    opposite = auc_difference(perfect, -perfect, positive, resamples=50)
    assert (opposite.value, opposite.low, opposite.high) == pytest.approx((-1, -1, room - 1))


# -- matched and within


def confounded(n: int, seed: int, signal: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A score that follows the control, an outcome that depends on the control, and `signal` on the score."""
    rng = np.random.default_rng(seed)
    control, own = rng.normal(size=(2, n))
    positive = rng.random(n) < 1 / (1 + np.exp(-2 * control - signal * own))
    return control + own, positive, control


def test_matched_counts_pairs_of_the_same_decile() -> None:
    score, positive, control = confounded(203, 0)
    control = control.round(1)  # ties
    edges = np.quantile(control, np.arange(1, 10) / 10, method="inverted_cdf")
    decile = np.searchsorted(edges, control, side="left")
    good = all_pairs = 0.0
    for i in np.flatnonzero(positive):
        for j in np.flatnonzero(~positive):
            if decile[i] == decile[j]:
                good += (score[i] > score[j]) + 0.5 * (score[i] == score[j])
                all_pairs += 1
    found = auc_matched(score, positive, control, resamples=10)
    assert found.value == pytest.approx(good / all_pairs)
    assert sum(s.n_pos + s.n_neg for s in found.strata) == 203
    assert found.n == 203 - sum(s.n_pos + s.n_neg for s in found.dropped)
    for stratum, i in zip(found.strata, np.unique(decile), strict=True):
        inside = decile == i
        assert (stratum.n_pos, stratum.n_neg) == (positive[inside].sum(), (~positive[inside]).sum())
        if not stratum.dropped:
            assert stratum.value == pytest.approx(roc_auc_score(positive[inside], score[inside]))
        assert stratum.name == f"{control[inside].min():.3g} to {control[inside].max():.3g}"


def test_matched_interval_cuts_anew_in_every_sample() -> None:
    score, positive, control = confounded(120, 3)

    def plain(rows: np.ndarray) -> float:
        return auc_matched(score[rows], positive[rows], control[rows], resamples=1).value

    rng = np.random.default_rng(9)
    values = [plain(rng.integers(120, size=120)) for _ in range(400)]
    found = auc_matched(score, positive, control, resamples=2000)
    assert (found.low, found.high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.025)


def test_matching_takes_a_confounder_away_and_leaves_a_signal() -> None:
    null = [auc_matched(*confounded(250, s), resamples=150, seed=s) for s in range(TRIALS)]
    assert sum(not f.low <= 0.5 <= f.high for f in null) <= MOST
    unmatched = [auc_matched(*confounded(250, s), bins=1, resamples=150, seed=s) for s in range(10)]
    assert all(f.low > 0.5 for f in unmatched)  # broken on purpose: one bin matches nothing
    planted = [auc_matched(*confounded(250, s, signal=1.5), resamples=150, seed=s) for s in range(10)]
    assert sum(f.low > 0.5 for f in planted) >= 9


def test_within_strata_by_hand() -> None:
    score = np.array([3.0, 2, 1, 9, 8, 7, 5, math.nan])
    positive = np.array([True, False, True, True, False, False, True, True])
    givens = np.array([20.0, 20, 20, 30, 30, 30, 40, 40])
    found = auc_within(score, positive, givens, resamples=10)
    assert found.value == pytest.approx((1 + 2) / (2 + 2))  # one of two pairs at 20, both at 30
    assert [(s.name, s.n_pos, s.n_neg) for s in found.strata] == [("20", 2, 1), ("30", 1, 2), ("40", 1, 0)]
    assert [s.name for s in found.dropped] == ["40"]
    assert (found.n, found.n_missing) == (6, 1)
    bands = banded(givens, {"few": (0, 20), "many": (30, None)})
    assert bands.tolist() == ["few"] * 3 + ["many"] * 5
    named = auc_within(score, positive, bands, resamples=10)
    assert [s.name for s in named.strata] == ["few", "many"]
    assert auc_within(score, positive, banded(givens, {"few": (0, 20)}), resamples=5).n_missing == 5


def test_no_pair_is_nan_with_a_reason() -> None:
    positive = np.array([True, True, False, False])
    found = auc_within(np.arange(4.0), positive, positive.astype(float))
    assert math.isnan(found.value)
    assert "no stratum of 2 holds both" in found.reason
    assert len(found.dropped) == 2
    assert math.isnan(auc_matched(np.arange(4.0), np.ones(4, bool), np.arange(4.0)).value)
    with pytest.raises(UserError, match="bins=0"):
        auc_matched(np.arange(4.0), positive, np.arange(4.0), bins=0)


# -- landmark


def test_landmark_sees_neither_the_solved_nor_the_future() -> None:
    rng = np.random.default_rng(0)
    series, solved = rng.normal(size=(300, 8)), rng.random((300, 8)) < 0.08
    series[:, 3:] = np.nan  # a look at the future would show
    waiting = ~solved[:, :3].any(axis=1)
    label = solved[waiting, 3:].any(axis=1)
    found = auc_landmark(series, solved, at=3, resamples=10)
    assert found.value == pytest.approx(roc_auc_score(label, series[waiting, :3].mean(axis=1)))
    assert found.n == waiting.sum()
    last = auc_landmark(series, solved, at=3, until=5, summary=lambda early: early[:, -1], resamples=10)
    assert last.value == pytest.approx(roc_auc_score(solved[waiting, 3:5].any(axis=1), series[waiting, 2]))


@pytest.mark.parametrize(("at", "until"), [(0, None), (8, None), (3, 9), (4, 4)])
def test_landmark_outside_the_orbit_is_a_mistake(at: int, until: int | None) -> None:
    with pytest.raises(UserError, match="Choose an earlier landmark"):
        auc_landmark(np.zeros((5, 8)), np.zeros((5, 8), bool), at=at, until=until)


def test_landmark_holds_its_level_where_the_plain_auc_leaks() -> None:
    """A score that falls once a puzzle is solved knows nothing before."""
    forecasts, leaks = [], []
    for seed in range(TRIALS):
        rng = np.random.default_rng(seed)
        at = rng.geometric(0.12, 200)
        solved = np.arange(1, 13) >= at[:, None]
        series = rng.normal(size=(200, 12)) + solved
        forecasts.append(auc_landmark(series, solved, at=4, resamples=150, seed=seed))
        leaks.append(auc(series[:, :4].mean(axis=1), solved[:, -1], resamples=150, seed=seed))
    assert sum(not f.low <= 0.5 <= f.high for f in forecasts) <= MOST
    assert sum(f.low > 0.5 for f in leaks) > 0.6 * TRIALS


# -- test of superiority


def test_brunner_munzel_equals_scipy() -> None:
    for seed in range(5):
        score, positive = sample(60, seed)
        found = brunner_munzel(score, positive)
        both = stats.brunnermunzel(score[~positive], score[positive]).pvalue
        whitney = stats.mannwhitneyu(score[~positive], score[positive]).pvalue
        assert found.p_value == pytest.approx(max(both, whitney))
        assert found.value == pytest.approx(roc_auc_score(positive, score))
        assert 0 <= found.low < found.value < found.high <= 1


def test_brunner_munzel_holds_its_level_with_few_failures_and_unequal_spreads() -> None:
    alarms = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        positive = np.arange(60) < 48
        score = rng.normal(size=60) * np.where(positive, 1, 3)
        alarms += brunner_munzel(score, positive).p_value < 0.05
    assert alarms <= stats.binom(400, 0.05).ppf(0.999)


def test_brunner_munzel_at_the_edges() -> None:
    positive = np.arange(12) < 9
    perfect = brunner_munzel(positive.astype(float), positive)
    assert perfect.value == 1
    assert perfect.low == pytest.approx(0.025 ** (1 / 3))
    assert perfect.p_value == pytest.approx(stats.mannwhitneyu(np.ones(9), np.zeros(3)).pvalue)
    assert brunner_munzel(np.zeros(12), positive).p_value == 1
    assert brunner_munzel(np.where(positive, np.inf, np.nan), positive).n_neg == 0
    one = brunner_munzel(np.arange(12.0), np.arange(12) > 0)
    assert math.isnan(one.p_value)
    assert one.reason == "11 solved and 1 unsolved puzzles, expected 2 of each"


# -- intervals


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


def test_equal_shares_are_no_certainty() -> None:
    assert mean_share(np.zeros(20)) == wilson(0, 20)
    assert mean_share(np.ones(20)) == wilson(20, 20)
    mixed = np.random.default_rng(0).random(50)
    assert mean_share(mixed, seed=3) == bootstrap_mean(mixed, seed=3)
    alone = bootstrap_mean(np.array([0.3]))
    assert (alone.value, alone.n) == (0.3, 1)
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)


def test_median_interval_is_that_of_the_binomial() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1.0, 21.0))
    found = median_interval(np.append(values, np.nan))
    ranks = stats.binom(20, 0.5).ppf([0.025, 0.975])
    assert (found.value, found.low, found.high, found.n) == (10.5, ranks[0], ranks[1] + 1, 20)
    never = median_interval(np.array([3.0] * 4 + [math.inf] * 6))
    assert (never.value, never.low) == (math.inf, 3.0)
    assert np.isnan(median_interval(np.arange(5.0)).low)
    assert median_interval(np.full(2, np.nan)).n == 0


def test_upper_bound_of_no_event() -> None:
    assert upper_bound(0, 254) == pytest.approx(1 - 0.05 ** (1 / 254)) == pytest.approx(0.0117, abs=5e-5)
    assert upper_bound(3, 20) == pytest.approx(
        stats.binomtest(3, 20, alternative="less").proportion_ci().high
    )
    assert math.isnan(upper_bound(0, 0))
