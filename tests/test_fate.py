"""Settled or wandering: thresholds against brute force, tables against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loopscope.dynamics.fate import (
    confidently_wrong,
    drift_slope,
    fate_sweep,
    fate_table,
    late_drift,
    mixture_threshold,
    otsu_threshold,
    rounding_floor,
    threshold_free,
)
from loopscope.errors import UserError


def two_peaks(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 10 ** np.concatenate([rng.normal(-1, 0.3, 70), rng.normal(2, 0.3, 30)])


def test_otsu_equals_its_definition() -> None:
    late = two_peaks()
    logs = np.log10(late)

    def within(cut: float) -> float:
        return sum(part.var() * len(part) for part in (logs[logs < cut], logs[logs >= cut]))

    middles = (np.sort(logs)[1:] + np.sort(logs)[:-1]) / 2
    best = middles[np.argmin([within(cut) for cut in middles])]
    found = otsu_threshold(late)
    assert found.log10 == pytest.approx(best)
    assert found.value == pytest.approx(10**best)
    assert found.separation == pytest.approx(1 - within(best) / (len(logs) * logs.var()))


def test_separation_tells_two_peaks_from_one() -> None:
    one = 10 ** np.random.default_rng(0).normal(0, 1, 20_000)
    assert otsu_threshold(one).separation == pytest.approx(2 / math.pi, abs=0.02)  # normal, cut at its mean
    assert otsu_threshold(two_peaks()).separation > 0.9


def test_a_cut_says_how_it_was_found_and_what_it_explains() -> None:
    late = two_peaks()
    found = otsu_threshold(late)
    given = fate_table(late, late < 1, threshold=found.value).threshold
    mixed = mixture_threshold(late)
    assert [cut.rule for cut in (found, given, mixed)] == ["Otsu", "given", "mixture"]
    assert {cut.n for cut in (found, given, mixed, otsu_threshold(np.ones(100)))} == {100}
    assert given.separation == pytest.approx(found.separation)
    assert all(cut.splits for cut in (found, given, mixed))
    one = 10 ** np.random.default_rng(0).normal(-2, 1, 400)
    assert not otsu_threshold(one).splits
    assert fate_table(late, late < 1, threshold=1e-9).threshold.separation == 0
    text = str(otsu_threshold(one))
    assert text.startswith("Otsu, log10 −1.98, explains 64 % of the variance")
    assert "64 % in large samples and up to 68 % with n 400" in text


def test_ties_never_straddle_the_threshold() -> None:
    late = np.array([1.0] * 5 + [10.0] * 3 + [1000.0] * 5)
    assert otsu_threshold(late).value not in (1.0, 10.0, 1000.0)


@pytest.mark.parametrize("late", [np.ones(4), np.zeros(4), np.array([3.0])])
def test_nothing_to_cut_says_so(late: np.ndarray) -> None:
    found = otsu_threshold(late)
    assert math.isnan(found.value)
    assert found.reason


def test_table_by_hand() -> None:
    late = np.array([0.1, 0.2, 0.1, 50.0, 60.0, 70.0, 0.0])
    correct = np.array([True, True, False, True, False, False, True])
    table = fate_table(late, correct)
    cells = (table.settled_correct, table.settled_wrong, table.wandering_correct, table.wandering_wrong)
    assert cells == (3, 1, 1, 2)
    assert table.settled_among_wrong.value == pytest.approx(1 / 3)
    assert table.settled_among_wrong.n == 3
    assert table.correct_among_settled.value == pytest.approx(3 / 4)
    assert table.accuracy.value == pytest.approx(4 / 7)
    loose = fate_table(late, correct, threshold=100.0)
    assert (loose.settled_wrong, loose.wandering_wrong) == (3, 0)


def test_no_settled_failure_still_has_an_upper_bound() -> None:
    late = np.concatenate([np.full(10, 0.1), np.full(254, 90.0)])
    table = fate_table(late, np.arange(264) < 10)
    assert table.settled_among_wrong.value == 0
    assert table.settled_among_wrong.high == pytest.approx(1 - 0.025 ** (1 / 254))


def test_orbits_that_all_stand_still_are_settled() -> None:
    table = fate_table(np.zeros(3), np.array([True, False, True]))
    assert (table.settled_correct, table.settled_wrong) == (2, 1)


def test_threshold_free_statement() -> None:
    gap = threshold_free(np.array([1.0, 2.0, 8.0, 5.0, 9.0]), np.array([True, True, True, False, False]))
    assert (gap.least, gap.share_below) == (5.0, pytest.approx(2 / 3))
    assert "smallest late drift of 2 failures is 5, above that of 66.7 % of 3 successes" in str(gap)
    assert "undefined" in str(threshold_free(np.ones(3), np.ones(3, dtype=bool)))


@pytest.mark.parametrize("left", [np.nan, np.inf])
def test_a_failure_that_left_the_numbers_changes_no_cut(left: float) -> None:
    rng = np.random.default_rng(0)
    late = np.concatenate([10 ** rng.normal(-3, 0.2, 50), 10 ** rng.normal(1, 0.2, 50)])
    correct = np.arange(100) < 50
    with_one = late_drift(np.append(late, left)[:, None].repeat(4, 1))
    answers = np.append(correct, False)
    plain, found = fate_table(late, correct), fate_table(with_one, answers)
    assert found.threshold == plain.threshold
    assert (found.settled_wrong, found.wandering_wrong) == (0, 51)
    assert found.drift_gap.share_below == plain.drift_gap.share_below == 1
    assert fate_sweep(with_one, answers)[50.0].settled_wrong == fate_sweep(late, correct)[50.0].settled_wrong
    assert mixture_threshold(with_one).value == mixture_threshold(late).value


def test_sweep_rises_to_all_failures() -> None:
    late = two_peaks()
    correct = np.arange(100) < 60
    sweep = fate_sweep(late, correct, np.array([0.0, 50.0, 90.0, 100.0]))
    shares = [table.settled_among_wrong.value for table in sweep.values()]
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert sweep[50.0].settled_among_wrong.value == np.mean(late[60:] < np.median(late))
    for q, table in sweep.items():
        cells = (
            table.settled_correct,
            table.settled_wrong,
            table.wandering_correct,
            table.wandering_wrong,
        )
        assert sum(cells) == 100
        assert cells[0] + cells[1] == np.sum(late < np.percentile(late, q))
        assert cells[1] + cells[3] == table.settled_among_wrong.n == 40
    assert list(fate_sweep(late, correct)) == list(range(5, 100, 5))


def test_mixture_finds_two_peaks_and_refuses_one() -> None:
    """Equal spreads and shares .7 and .3 of peaks at -1 and 2: equally likely at .5 + .09 ln(7/3) / 3."""
    rng = np.random.default_rng(0)
    logs = np.concatenate([rng.normal(-1, 0.3, 7000), rng.normal(2, 0.3, 3000)])
    found = mixture_threshold(10**logs)
    assert found.log10 == pytest.approx(0.5 + 0.09 * math.log(7 / 3) / 3, abs=0.02)
    assert found.separation == pytest.approx(otsu_threshold(10**logs).separation, abs=1e-3)
    one = mixture_threshold(10 ** rng.normal(0, 1, 2000))
    assert math.isnan(one.value)
    assert "one peak" in one.reason
    assert "expected at least 10" in mixture_threshold(np.ones(50)).reason


def test_confidently_wrong_lists_the_surest_failures_first() -> None:
    halt = np.array([5.0, 1.0, 3.0, -2.0, 2.0, 3.0])
    correct = np.array([True, False, False, False, False, False])
    late = np.array([0.1, 0.1, 9.0, 9.0, 0.0, 9.0])
    cut = fate_table(late, correct, threshold=1.0).threshold
    found = confidently_wrong(halt, correct, late, cut)
    assert [(f.puzzle, f.halt_logit, f.settled) for f in found] == [
        (2, 3.0, False),
        (5, 3.0, False),
        (4, 2.0, True),
        (1, 1.0, True),
    ]
    assert [f.puzzle for f in confidently_wrong(halt, correct, late, cut, most=2)] == [2, 5]
    assert confidently_wrong(halt, np.ones(6, bool), late, cut) == []


def test_short_formats_carry_a_warning() -> None:
    assert "2^-8" in rounding_floor("bfloat16")
    assert rounding_floor("float32") == ""


def test_late_drift_and_slope() -> None:
    drift = np.array([[8.0, 8, 8, 8, 4, 4, 2, 2], [1, 1, 1, 1, 10, 10, 10, 10]])
    assert late_drift(drift).tolist() == [3.0, 10.0]
    np.testing.assert_allclose(drift_slope(drift), [math.log10(3 / 8), 1.0])
    with pytest.raises(UserError, match="expected at least 4"):
        late_drift(drift[:, :3])
