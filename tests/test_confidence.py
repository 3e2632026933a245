"""Risk and coverage, and the choice among rollouts, against cases counted by hand and brute force."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from loopscope.evaluation.auc import resampled_counts
from loopscope.evaluation.confidence import risk_coverage, selection_value, surest_scores
from loopscope.evaluation.intervals import clopper_pearson, wilson


def test_risk_by_hand() -> None:
    found = risk_coverage(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, False, True, False]), resamples=50)
    assert found.coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert found.risk.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert found.area.value == found.best == pytest.approx((1 / 3 + 1 / 2) / 4)
    assert (found.answered(0.0), found.answered(0.4), found.answered(1.0)) == (0.5, 0.75, 1.0)


def test_ties_count_as_a_random_order() -> None:
    confidence, correct = np.array([1.0, 1.0, 1.0, 0.0]), np.array([True, False, False, True])
    orders = [[*order, 3] for order in permutations(range(3))]
    expected = np.mean([np.cumsum(~correct[o]) / np.arange(1, 5) for o in orders], axis=0)
    assert risk_coverage(confidence, correct, resamples=5).risk == pytest.approx(expected)


def test_no_knowledge_has_the_area_of_the_error_rate_and_knowledge_less() -> None:
    rng = np.random.default_rng(0)
    correct = rng.random(2000) < 0.7
    blind = risk_coverage(rng.normal(size=2000), correct, resamples=100)
    assert blind.area.low < 0.3 < blind.area.high
    seeing = risk_coverage(rng.normal(size=2000) + 2 * correct, correct, resamples=100)
    assert seeing.best < seeing.area.low < seeing.area.high < blind.area.low
    assert math.isnan(risk_coverage(np.empty(0), np.empty(0, bool)).area.value)
    worst = risk_coverage(np.where(correct, 1.0, np.nan), correct, resamples=5)
    assert worst.area.value == pytest.approx(worst.best)  # NaN comes last


def test_selection_by_hand() -> None:
    correct = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]], bool)
    sure = np.array([[2.0, 1, 3], [0.0, 5, 0], [1, 2, 3], [1, 1, 1]])
    found = selection_value(sure, correct, resamples=50)
    assert found.oracle.value == 3 / 4
    assert found.chosen.value == 2 / 4
    assert found.random.value == pytest.approx((1 / 3 + 2 / 3 + 0 + 1) / 4)
    assert found.gap.value == 1 / 4
    assert found.mixed == 2
    assert found.auc.value == pytest.approx((1 + 1.5) / (2 + 2))  # pairs of the first two puzzles
    assert found.auc.n == 2


def test_a_perfect_choice_leaves_a_gap_of_zero_with_a_bound() -> None:
    correct = np.random.default_rng(0).random((40, 5)) < 0.5
    found = selection_value(correct.astype(float), correct)
    assert found.auc.value == 1
    assert found.auc.low == pytest.approx(clopper_pearson(found.mixed, found.mixed).low)
    one = selection_value(np.array([[1.0, 0.0]]), np.array([[True, False]]))
    assert (one.auc.low, one.auc.high, one.auc.n) == (pytest.approx(0.025), 1, 1)  # not certain
    assert found.gap.value == 0
    assert 0 < found.gap.high < 0.1
    nobody = selection_value(np.zeros((4, 2)), np.zeros((4, 2), bool))
    assert math.isnan(nobody.auc.value)
    assert nobody.oracle.value == 0


def test_a_blind_choice_is_one_rollout_at_random() -> None:
    rng = np.random.default_rng(1)
    correct = rng.random((1500, 6)) < rng.random((1500, 1))
    found = selection_value(rng.normal(size=correct.shape), correct, resamples=300)
    assert found.auc.low < 0.5 < found.auc.high
    assert found.chosen.low < found.random.value < found.chosen.high


def test_the_surest_answers_by_hand() -> None:
    """Of five the surest three (half, rounded up) and four, and the mean risk of all."""
    sure = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    table = surest_scores(sure, np.array([True, True, False, True, False]), resamples=50)
    assert table["exact_at_coverage_50"] == wilson(2, 3)
    assert table["exact_at_coverage_80"] == wilson(3, 4)
    assert table["risk_area"].value == pytest.approx((0 + 0 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
    nobody = surest_scores(np.empty(0), np.empty(0, bool))
    assert all(math.isnan(e.value) and e.n == 0 for e in nobody.values())


def test_without_a_wrong_answer_the_area_has_a_bound() -> None:
    table = surest_scores(np.arange(40.0), np.ones(40, bool))
    assert table["risk_area"] == wilson(0, 40)
    assert table["exact_at_coverage_50"] == wilson(20, 20)


def test_interval_of_the_area_is_that_of_resampled_puzzles() -> None:
    """The bootstrap counts puzzles by weight; here every sample is laid out and sorted anew."""
    rng = np.random.default_rng(2)
    sure, correct = np.round(rng.normal(size=60), 1), rng.random(60) < 0.6  # with ties
    found = risk_coverage(sure, correct, resamples=40).area
    areas = []
    for drawn in resampled_counts(60, 40, 0):
        rows = np.repeat(np.arange(60), drawn)
        areas.append(risk_coverage(sure[rows], correct[rows], resamples=2).risk.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(areas, [0.025, 0.975])))
