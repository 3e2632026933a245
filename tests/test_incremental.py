"""Incremental value: penalised fits against closed forms and optimisers, level and power on planted data."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.metrics import roc_auc_score
from statsmodels.discrete.discrete_model import Logit

from loopscope.dynamics import incremental
from loopscope.dynamics.incremental import firth, incremental_value, out_of_fold, penalised, separation


def planted(
    n: int, seed: int, effect: float = 0.0, sharp: float = 1.0, bend: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Exponents that follow the drift, and outcomes that follow drift and halt, and them only by `effect`."""
    rng = np.random.default_rng(seed)
    log_drift, own = rng.normal(size=(2, n))
    halt = rng.normal(size=n) - 2 * log_drift
    exponent = log_drift + bend * log_drift**2 + 0.5 * own
    odds = sharp * (0.3 + 0.3 * halt - log_drift) - bend * log_drift**2 - effect * own
    return exponent[:, None], rng.random(n) < 1 / (1 + np.exp(-odds)), 10**log_drift, halt


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the cross-validation, which the test of likelihoods does not need."""
    monkeypatch.setattr(incremental, "out_of_fold", lambda x, y, seed: x[:, 0])


# -- the penalised fit


def test_firth_of_a_fourfold_table_adds_half_to_every_cell() -> None:
    a, b, c, d = 7, 0, 3, 5  # successes and failures at x = 1, then at x = 0; the odds are infinite
    x = np.column_stack([np.ones(15), np.repeat([1.0, 0.0], [a + b, c + d])])
    y = np.repeat([True, False, True, False], [a, b, c, d])
    beta, _ = firth(x, y, 2)
    assert beta[0] == pytest.approx(math.log((c + 0.5) / (d + 0.5)), abs=1e-6)
    assert beta[1] == pytest.approx(math.log((a + 0.5) * (d + 0.5) / ((b + 0.5) * (c + 0.5))), abs=1e-6)


@pytest.mark.parametrize("free", [3, 2, 1])
def test_firth_is_the_maximum_of_what_it_maximises(free: int) -> None:
    rng = np.random.default_rng(free)
    x = np.column_stack([np.ones(40), rng.normal(size=(40, 2))])
    y = x[:, 1] + 0.2 * rng.normal(size=40) > 0

    def loss(head: np.ndarray) -> float:
        return -penalised(np.concatenate([head, np.zeros(3 - free)]), x, y)

    best = optimize.minimize(
        loss, np.zeros(free), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}
    )
    beta, top = firth(x, y, free)
    assert top == pytest.approx(-best.fun, abs=1e-8)
    assert beta[:free] == pytest.approx(best.x, abs=1e-4)
    assert (beta[free:] == 0).all()


def test_separation_by_hand() -> None:
    one, line = np.ones(6), np.arange(6.0)
    x = np.column_stack([one, line])
    found = {
        pattern: separation(x, np.array(pattern, bool))
        for pattern in [(0, 0, 0, 1, 1, 1), (0, 0, 1, 0, 1, 1), (1, 0, 0, 0, 0, 1)]
    }
    assert list(found.values()) == ["complete", "none", "none"]
    ties = np.column_stack([one, [0.0, 0, 1, 1, 2, 2]])
    assert separation(ties, np.array([0, 0, 0, 1, 1, 1], bool)) == "partial"
    rows = np.array(list(product([0, 1], repeat=2)) * 2, float)
    mixed = np.arange(8) < 4  # every point in both classes
    assert separation(np.column_stack([np.ones(8), rows]), mixed) == "none"


# -- the test


def test_large_samples_give_the_ordinary_likelihood_ratio(quick: None) -> None:
    exponents, y, drift, halt = planted(3000, 0, effect=0.15)
    found = incremental_value(exponents, y, drift, halt, resamples=2)
    base = np.column_stack([np.ones(3000), incremental._spline(drift), halt])
    logs = [Logit(y.astype(float), x).fit(disp=0).llf for x in (base, np.column_stack([base, exponents]))]
    assert found.statistic == pytest.approx(2 * (logs[1] - logs[0]), rel=0.03)
    assert found.df == 1
    assert found.p_value == pytest.approx(stats.chi2.sf(found.statistic, 1))
    assert found.separation == ("none", "none")
    assert found.slopes[0] < 0


@pytest.mark.parametrize(("sharp", "n"), [(1.0, 200), (4.0, 120)])
def test_level_holds_also_where_outcomes_nearly_separate(quick: None, sharp: float, n: int) -> None:
    found = [incremental_value(*planted(n, s, sharp=sharp), resamples=2) for s in range(60)]
    p = np.array([f.p_value for f in found if not f.reason])
    assert len(p) > 40
    assert (p < 0.05).sum() <= stats.binom(len(p), 0.05).ppf(0.999)
    if sharp > 1:
        assert any(f.separation[1] != "none" for f in found)


def test_power_where_a_signal_is_planted(quick: None) -> None:
    assert (
        sum(incremental_value(*planted(200, s, effect=1.0), resamples=2).p_value < 0.05 for s in range(20))
        >= 17
    )


def test_a_straight_line_in_drift_would_credit_the_exponent(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exponent that is only a bent copy of the drift: the spline sees through it."""
    data = [planted(300, s, bend=1.0) for s in range(25)]
    honest = sum(incremental_value(*d, resamples=2).p_value < 0.05 for d in data)
    monkeypatch.setattr(incremental, "_spline", lambda drift: np.log10(drift)[:, None])
    fooled = sum(incremental_value(*d, resamples=2).p_value < 0.05 for d in data)
    assert honest <= 8
    assert fooled >= 18


# -- the gain in AUC


def test_out_of_fold_scores_do_not_flatter() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 20)), np.arange(80) % 2 == 0
    fitted = firth(np.column_stack([np.ones(80), x]), y, 21)[0]
    assert roc_auc_score(y, x @ fitted[1:]) > 0.7  # in the sample, noise explains
    assert roc_auc_score(y, out_of_fold(x, y, 0)) < 0.62


def test_auc_gain_is_found_where_planted_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incremental, "REPEATS", 2)
    gain = incremental_value(*planted(400, 1, effect=2.0), resamples=300)
    assert gain.difference.low > 0
    assert gain.auc_full - gain.auc_base == pytest.approx(gain.difference.value)
    nothing = [incremental_value(*planted(200, s), resamples=100).difference for s in range(6)]
    assert sum(d.low > 0 for d in nothing) <= 2
    assert incremental_value(*planted(100, 1), resamples=20) == incremental_value(
        *planted(100, 1), resamples=20
    )


# -- where there is no number


def test_nothing_to_explain_is_nan_with_a_reason() -> None:
    exponents, y, drift, halt = planted(100, 0)
    cases = [
        (exponents, np.ones(100, bool), halt, "100 solved and 0 unsolved puzzles"),
        (exponents, y, np.where(y, 5.0, -5.0), "alone separate the outcomes"),
        (np.column_stack([halt]), y, halt, "follow from drift and halt logit exactly"),
        (np.zeros((100, 1)), y, halt, "do not vary"),
    ]
    for lam, outcome, logit, reason in cases:
        found = incremental_value(lam, outcome, drift, logit)
        assert math.isnan(found.p_value)
        assert math.isnan(found.difference.value)
        assert reason in found.reason
        assert "undefined" in str(found)


def test_infinite_and_missing_scores_are_left_out(quick: None) -> None:
    exponents, y, drift, halt = planted(100, 0)
    exponents[:3], halt[5] = -np.inf, np.nan
    drift[10] = 0.0  # an orbit that stands still stays in
    found = incremental_value(exponents, y, drift, halt, resamples=2)
    assert found.n_missing == 4
    assert found.n_pos + found.n_neg == 96
    assert incremental_value(exponents[:, 0], y, drift, halt, resamples=2) == found
