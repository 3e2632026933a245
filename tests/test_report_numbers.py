"""Numbers, figures and boards of reports against hand-computed ones."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from loopscope.dynamics.exponents import Bound
from loopscope.reports import compare_figures, figures, orbit_figures, read_measurements, tables
from loopscope.reports.boards import board_svg, token_text
from loopscope.reports.drawing import _tick, to_svg
from loopscope.reports.quantity import Quantity, median, median_bound, rounded
from report_data import BUDGET, SOLUTION, STOP, one, synthetic


def test_quantities_against_hand() -> None:
    numbers = tables.quantities(one())
    assert numbers["solved after 16 segments"].value == 0.6
    assert numbers["solved after 64 segments"].value == 0.7
    wilson = stats.binomtest(60, 100).proportion_ci(method="wilson")
    got = numbers["solved after 16 segments"]
    assert (got.low, got.high) == pytest.approx((wilson.low, wilson.high))
    assert str(got) == "60.0 % [50.2, 69.1]"
    assert numbers["cells right"].value == pytest.approx(0.6 + 0.4 * 79 / 81)
    # 10 escapes at 4, 8, ..., 40 segments after the budget, 30 puzzles watched for all 48
    p = 10 / (sum(range(4, 44, 4)) + 30 * 48)
    assert numbers["escape rate"].value == pytest.approx(-math.log1p(-p))
    assert numbers["escape rate per application"].value == pytest.approx(-math.log1p(-p) / 21)
    assert numbers["failures that settled"].value == 0
    assert "0 of 40; one-sided upper bound 7.2 %" in numbers["failures that settled"].note


def test_headline_for_a_terminal() -> None:
    rows = dict(tables.headline(synthetic()))
    assert rows["solved after 16 segments"] == "60.0 % [50.2, 69.1]"


def test_auc_and_medians_against_scipy() -> None:
    data = synthetic(seed=3)
    # make the classes overlap, so that the area is not trivially one
    data["ftle"] = data["ftle"] + np.random.default_rng(1).normal(0, 2, data["ftle"].shape)
    m = read_measurements(data)[0]
    numbers = tables.quantities(m)
    right, wrong = data["ftle"].values[:60, 0], data["ftle"].values[60:, 0]
    u = stats.mannwhitneyu(-right, -wrong).statistic / (60 * 40)
    assert 0.55 < u < 0.95
    assert numbers["AUC, low exponent → solved"].value == pytest.approx(u)
    assert numbers["median exponent, unsolved"].value == np.median(wrong)
    ranked = np.sort(wrong)  # order statistics of 40: ranks 14 and 27 cover the median with >= 95 %
    assert stats.binom.cdf(26, 40, 0.5) - stats.binom.cdf(13, 40, 0.5) > 0.95
    assert numbers["median exponent, unsolved"].low == pytest.approx(ranked[13])
    assert numbers["median exponent, unsolved"].high == pytest.approx(ranked[26])


def test_a_median_of_bounds_is_a_bound_where_an_open_one_can_raise_it() -> None:
    dimensions = [
        Bound(0.0, True),
        Bound(2.5, True),
        Bound(4.0, False),
    ]  # more could raise 4 alone: 2.5 stays
    assert str(median_bound(dimensions, "", "")) == "2.50"
    assert str(median_bound([*dimensions, *dimensions[2:]], "", "")) == "≥ 3.25"
    entropies = [
        Bound(0.0, True),
        Bound(0.5, False),
        Bound(0.9, True),
    ]  # the middle one may be anything above
    assert str(median_bound(entropies, "nats", "")) == "≥ 0.500 nats"
    assert str(median_bound([], "", "no puzzle")) == "NaN: no puzzle"


def test_early_exponent_uses_only_puzzles_still_open() -> None:
    m = one()
    early = tables.quantities(m)["AUC, low early exponent → solved later"]
    assert early.n == int((m.first_solved[:60] > tables.EARLY).sum()) + 40
    retrospective = tables.quantities(m)["AUC, low exponent → solved"]
    assert retrospective.value > 0.99  # the exponents of the test data know nothing before the solution
    assert early.low < 0.5 < early.high


def test_fates_and_ratings() -> None:
    m = one(settled_wrong=7)
    table = tables.fate_rows(m)
    assert table is not None
    assert [list(row[1:]) for row in table.rows] == [[60, 7, 67], [0, 33, 33], [60, 40, 100]]
    bands = tables.rating_rows(m)
    assert bands is not None
    found = {str(row[0]): row[1] for row in bands.rows}
    assert str(found["0"]).startswith("60.0 %")
    assert str(found["100+"]) == "NaN: no puzzle"


def test_restart_rates_against_hand() -> None:
    m = one()
    hits = m.data["basin_solved"].values[60:, 2]
    single, best, final = tables.restart_rates(m, ~m.correct, 2)
    assert single.value == pytest.approx(hits.mean())
    assert best.value == pytest.approx(hits.any(axis=1).mean())
    assert final.value == pytest.approx(hits.mean())
    none = tables.restart_rates(m, ~m.correct, 0)[0]
    assert none.value == 0
    assert none.high == pytest.approx(stats.binomtest(0, 40).proportion_ci(method="wilson").high)
    assert none.high > 0.05  # a bootstrap of zeros would claim certainty


def test_formats() -> None:
    assert rounded(2.0, sign=True) == "+2.00"
    assert rounded(-0.1524) == "−0.152"
    assert rounded(2.2e-5) == "2.20×10⁻⁵"
    assert rounded(-math.inf) == "−∞"
    assert (
        str(Quantity(math.nan, math.nan, math.nan, 0, note="no unsolved puzzle")) == "NaN: no unsolved puzzle"
    )
    assert str(median(np.array([np.nan]), "nats", "no solved puzzle")) == "NaN: no solved puzzle"


def test_figure_data() -> None:
    m = one(settled_wrong=7)
    accuracy = figures.accuracy_by_segment(m).table
    assert accuracy["solved"].tolist() == pytest.approx(m.solved.mean(axis=0).tolist())
    survival = figures.survival_curve(m).table
    assert survival["unsolved"].iloc[[0, BUDGET, STOP]].tolist() == pytest.approx([1.0, 0.4, 0.3])
    assert survival["fit"].iloc[BUDGET] == pytest.approx(0.4)
    spectrum = orbit_figures.spectrum_by_fate(m).table.set_index(["fate", "exponent"])
    assert spectrum.loc[("settled, unsolved", 1), "n"] == 7
    expected = np.quantile(m.exponents[93:, 0], 0.5, method="nearest")
    assert spectrum.loc[("settled, unsolved", 1), "median"] == pytest.approx(expected)
    scatter = orbit_figures.drift_against_exponent(m).table
    assert (len(scatter), int(scatter["settled"].sum())) == (100, 67)
    restarts = figures.restart_curves(m).table
    assert set(restarts["n"]) == {60, 40}


def test_a_name_is_no_formula() -> None:
    """Two dollar signs around a faulty formula would end matplotlib's reading of them, and the report."""
    m = dataclasses.replace(one(), name="$a_$")
    for draw in (compare_figures.accuracy_by_work, compare_figures.survival_by_work):
        assert "$a_$" in to_svg(draw([m, one()]).figure, "two")


def test_ticks_of_logarithmic_axes() -> None:
    ticks = {5.0: "5", 0.02: "0.02", 1e-6: "10⁻⁶", 2e-5: "2×10⁻⁵", 1000.0: "1000"}
    assert {value: _tick(value) for value in ticks} == ticks


def test_no_halt_logit_is_no_right_one() -> None:
    m = one()
    plain = tables.quantities(m)["halt signal right"].value
    assert plain > m.correct.mean()  # it is right on some failures
    m.data["halt_logit"].values[~m.correct] = np.nan
    assert tables.quantities(m)["halt signal right"].value <= m.correct.mean()


def test_chosen_orbits() -> None:
    m = one()
    orbits = orbit_figures.chosen_orbits(m)
    assert m.first_solved[orbits["quick success"]] == np.sort(m.first_solved[m.first_solved > 0])[70 // 4]
    assert m.first_solved[orbits["late success"]] == 40  # the middle of 20, 24, ..., 56
    assert m.first_solved[orbits["failure"]] == -1


def test_training_curves() -> None:
    lines = [
        {"step": s, "minutes": s / 100, "kind": "train", "loss": 2 / s, "exact_accuracy": s / 1000}
        for s in range(50, 500, 50)
    ]
    evals = [{"step": 200, "minutes": 2, "kind": "eval", "exact_accuracy": 0.6}]
    evals += [{"step": 400, "minutes": 4, "kind": "eval", "exact_accuracy": 0.5}]
    plot = figures.training_curves([*lines, *evals])
    assert "60.0 % at step 200" in plot.caption
    assert len(plot.table) == len(lines) + 2
    assert "no validation" in figures.training_curves(lines).caption


def test_svg_is_stable_and_without_date() -> None:
    first, again = (to_svg(figures.accuracy_by_segment(one()).figure, "title") for _ in range(2))
    assert first == again
    assert "date" not in first.lower()
    assert first.startswith("<svg")


def test_board_marks_exactly_the_wrong_cells() -> None:
    labels = np.array([int(c) + 1 for c in SOLUTION], np.uint8)
    inputs = np.where(np.arange(81) < 30, labels, 1).astype(np.uint8)
    answer = labels.copy()
    answer[[40, 80]] = 1
    drawn = board_svg(inputs, labels, answer, "sudoku-3x3")
    assert drawn.count('class="wrong"') == 2
    assert drawn.count('class="given"') == 30
    assert drawn.count('class="found"') == 49
    assert ">9</text>" in drawn[drawn.rindex('class="right"') :]
    unlabelled = labels.copy()
    unlabelled[40] = 0
    assert board_svg(inputs, unlabelled, answer, "sudoku-3x3").count('class="wrong"') == 1


def test_token_text() -> None:
    assert [token_text("sudoku-3x3", t) for t in (0, 1, 2, 10)] == ["", "", "1", "9"]
    assert [token_text("maze-30x30", t) for t in range(6)] == ["", "#", "", "S", "G", "o"]
    assert token_text("arc-1", 2) == "0"
    assert token_text("unknown", 7) == "7"
    assert board_svg(*np.ones((3, 12), np.uint8), "own").startswith("<svg")  # not a square: one row


def test_walls_of_a_maze_are_given_and_its_shape_is_told() -> None:
    maze = np.array([[3, 1, 2, 2], [2, 2, 2, 4], [1, 1, 1, 1]], np.uint8).ravel()
    path = maze.copy()
    path[[4, 5, 6]] = 5
    drawn = board_svg(maze, path, path, "maze-3x4")
    assert "board of 3 by 4 cells, 0 wrong" in drawn
    assert drawn.count('class="given"') == 7  # five walls, start and goal
    assert drawn.count('class="found"') == 3
