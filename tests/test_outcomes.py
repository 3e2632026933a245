"""The table of outcome statistics on planted measurements and on the transient-chaos toy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import xarray as xr
from sklearn.metrics import roc_auc_score

from loopscope.dynamics.outcomes import outcome_statistics
from loopscope.dynamics.published import CELLS, PUBLISHED
from loopscope.dynamics.statistics import auc, auc_landmark
from loopscope.dynamics.toys import run_toy
from loopscope.errors import UserError


def planted(n: int = 120, fail: float = 0.4, seed: int = 0) -> xr.Dataset:
    """Failures wander with high exponents; successes settle once they are solved."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < fail
    at = np.where(wrong, 99, rng.integers(1, 12, n))
    T = np.arange(1, 21)
    solved = at[:, None] <= T
    quiet = np.where(solved, 0.01, 1.0)
    table = {
        "solved": (("puzzle", "segment"), solved),
        "cell_accuracy": (("puzzle", "segment"), np.where(solved, 1.0, 0.6)),
        "drift_H": (("puzzle", "segment"), quiet * rng.lognormal(0, 0.3, (n, 20))),
        "halt_logit": (("puzzle", "segment"), np.where(solved, 2.0, -2.0) + 2 * rng.normal(size=(n, 20))),
        "growth": (("puzzle", "segment", "exponent"), rng.normal(size=(n, 20, 2)) + wrong[:, None, None]),
        "ftle": (("puzzle", "exponent"), rng.normal(size=(n, 2)) + 2 * wrong[:, None]),
    }
    coords = {"givens": ("puzzle", rng.integers(22, 26, n)), "rating": ("puzzle", rng.integers(0, 60, n))}
    attrs = {"budget": 16, "exponent_segments": 16, "traj_dtype": "bfloat16"}
    return xr.Dataset(table, coords, attrs)


@pytest.fixture(scope="module")
def rows() -> dict:
    return {row.name: row for row in outcome_statistics(planted(), resamples=100)}


def test_rows_are_counts_of_the_dataset(rows: dict) -> None:
    runs = planted()
    correct = runs.solved.values[:, 15]
    late = runs.drift_H.values[:, 12:16].mean(axis=1)
    assert rows["solved"].value == correct.mean()
    assert sum(rows[cell].value for cell in CELLS) == pytest.approx(1)
    assert rows["wandering wrong"].value == (~correct).mean()
    assert rows["failures that settled"].value == 0
    assert "one-sided upper bound" in rows["failures that settled"].note
    assert rows["successes stiller than every failure"].value == np.mean(late[correct] < late[~correct].min())
    assert rows["AUC, low exponent"].value == pytest.approx(roc_auc_score(correct, -runs.ftle.values[:, 0]))
    assert rows["AUC, low late drift"].value == pytest.approx(roc_auc_score(correct, -late))
    assert rows["median exponent 2, wrong"].value == np.median(runs.ftle.values[~correct, 1])
    assert rows["median share of cells right, wandering wrong"].value == 0.6
    assert rows["median exponent 1, correct"].units == "nats per segment"
    called = (runs.halt_logit.values[:, 15] >= 0)[~correct].mean()
    assert rows["failures called right"].value == called
    waiting = ~runs.solved.values[:, :4].any(axis=1)
    early = -runs.growth.values[waiting, :4, 0].mean(axis=1)
    forecast = rows["AUC, low exponent, unsolved at 4"]
    assert forecast.value == pytest.approx(roc_auc_score(correct[waiting], early))
    assert forecast.n == waiting.sum()


def test_no_exponent_of_a_segment_after_the_outcome() -> None:
    runs = planted().assign_attrs(exponent_segments=20)
    runs["growth"][:, 16:] += 50.0 * runs.solved[:, 15]  # what happens later must not count
    found = {row.name: row for row in outcome_statistics(runs, resamples=100)}
    correct, first = runs.solved.values[:, 15], runs.growth.values[:, :16, 0].mean(axis=1)
    assert found["AUC, low exponent"].value == pytest.approx(roc_auc_score(correct, -first))
    assert found["median exponent 1, correct"].value == pytest.approx(np.median(first[correct]))
    assert "until segment 16" in found["AUC, low exponent"].note
    runs = runs.assign_attrs(exponent_segments=4)
    short = {row.name: row for row in outcome_statistics(runs, resamples=100)}
    assert "until segment 4" in short["AUC, low exponent"].note


def test_an_orbit_that_left_the_finite_numbers_wanders() -> None:
    runs = planted()
    failed = int(np.flatnonzero(~runs.solved.values[:, 15])[0])
    runs["drift_H"][failed, 14:] = np.nan
    found = {row.name: row for row in outcome_statistics(runs, resamples=100)}
    plain = {row.name: row for row in outcome_statistics(planted(), resamples=100)}
    for name in ("failures that settled", "wandering wrong"):
        assert found[name].value == plain[name].value
    stiller = "successes stiller than every failure"
    assert found[stiller].value == pytest.approx(plain[stiller].value, abs=0.1)


def test_every_row_has_an_interval_or_a_reason(rows: dict) -> None:
    for row in rows.values():
        assert row.units
        if math.isnan(row.value):
            assert row.note, row.name
        elif not math.isnan(row.low):
            assert row.low <= row.value <= row.high, row.name
    empty = rows["median halt logit, settled wrong"]
    assert math.isnan(empty.value)
    assert empty.note == "no puzzle is settled wrong"
    assert "bfloat16 orbits" in rows["settled correct"].note


def test_published_values_stand_beside_ours(rows: dict) -> None:
    trm = next(p for p in rows["AUC, low exponent"].published if p.model == "TRM-MLP")
    assert (trm.value, trm.n) == (0.9935, 2048)
    assert PUBLISHED["median exponent 1, wrong"][1].value == pytest.approx(2.163)
    assert set(PUBLISHED) <= set(rows)  # every published name is that of a row


def test_tests_are_adjusted_together(rows: dict) -> None:
    tested = [row for row in rows.values() if not math.isnan(row.p_value)]
    assert len(tested) >= 6
    assert all(row.p_holm >= row.p_value for row in tested)
    assert rows["AUC, low exponent"].p_holm < 0.05
    json.dumps(rows["AUC, low exponent"].to_dict())


def test_outcomes_drawn_by_lot_make_no_claims() -> None:
    runs = planted(seed=3)
    rng = np.random.default_rng(0)
    lot = np.broadcast_to((rng.random(120) < 0.5)[:, None], (120, 20))
    drift = rng.lognormal(size=(120, 20))
    halt, ftle = rng.normal(size=(120, 20)), rng.normal(size=(120, 2))
    runs = runs.assign(
        solved=(("puzzle", "segment"), lot),
        drift_H=(("puzzle", "segment"), drift),
        halt_logit=(("puzzle", "segment"), halt),
        ftle=(("puzzle", "exponent"), ftle),
    )
    assert all(not row.p_holm < 0.05 for row in outcome_statistics(runs, resamples=50))


def test_one_class_and_few_variables() -> None:
    runs = planted()
    solved = runs.assign(solved=xr.ones_like(runs.solved))
    found = {row.name: row for row in outcome_statistics(solved, resamples=20)}
    assert found["AUC, low exponent"].note.endswith("no unsolved puzzle among 120")
    assert found["failures that settled"].note == "no unsolved puzzle"
    assert math.isnan(found["successes stiller than every failure"].value)
    bare = outcome_statistics(runs[["solved"]], resamples=20)
    assert [row.name for row in bare] == ["solved"]
    with pytest.raises(UserError, match="no outcome"):
        outcome_statistics(runs[["ftle"]])


# -- the toy


@pytest.fixture(scope="module")
def toy() -> xr.Dataset:
    return run_toy(20_000, 64, seed=0)


def test_the_leak_of_the_toy_and_its_guard(toy: xr.Dataset) -> None:
    """Means of 3e6 orbits .5867, .4904, deviations at n = 20,000 .0032 and .0041; published .588, .491."""
    early, solved = -toy.growth.values[:, :16, 0], toy.solved.values[:, :16]
    leaky = auc(early[:, :4].mean(axis=1), solved[:, -1], resamples=5)
    honest = auc_landmark(early, solved, at=4, resamples=5)
    assert leaky.value == pytest.approx(0.5867, abs=3 * 0.0032)
    assert honest.value == pytest.approx(0.4904, abs=3 * 0.0041)
    assert (leaky.value, honest.value) == pytest.approx((0.588, 0.491), abs=0.013)
    assert honest.n == pytest.approx(0.783 * 20_000, rel=0.02)


@pytest.mark.parametrize(
    ("T", "mean", "deviation", "published"),
    [
        (4, 0.7753, 0.0047, 0.769),
        (8, 0.9014, 0.0022, 0.902),
        (16, 0.9625, 0.0016, 0.966),
        (32, 0.9896, 0.0006, 0.989),
        (64, 0.9985, 0.0003, 0.998),
    ],
)
def test_separation_of_the_toy_by_length(
    toy: xr.Dataset, T: int, mean: float, deviation: float, published: float
) -> None:
    found = auc(-toy.growth.values[:, :T, 0].mean(axis=1), toy.solved.values[:, T - 1], resamples=5)
    assert found.value == pytest.approx(mean, abs=3.5 * deviation)
    assert found.value == pytest.approx(published, abs=4 * deviation + 0.0005)


def test_in_long_toys_nobody_fails_and_nothing_is_defined() -> None:
    runs = run_toy(200, 256, seed=0)
    found = auc(-runs.ftle.values[:, 0], runs.solved.values[:, -1])
    assert math.isnan(found.value)
    assert found.reason == "no unsolved puzzle among 200"
