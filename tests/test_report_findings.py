"""Findings follow the numbers and their intervals; empty classes say why."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from loopscope.dynamics.fate import fate_table
from loopscope.dynamics.outcomes import outcome_statistics
from loopscope.reports import findings, orbit_figures, read_measurements, report, tables
from loopscope.reports.claims import Claim, claims, tally
from loopscope.reports.measurement import Measurement
from loopscope.reports.quantity import Quantity
from loopscope.reports.words import counted
from report_data import STOP, Page, one, synthetic


@pytest.mark.parametrize(
    ("settled", "verdict"),
    [(0, "Failures wander"), (4, "Failures wander"), (36, "Failures settle"), (17, "Undecided")],
)
def test_fate_verdict(settled: int, verdict: str) -> None:
    found = findings.fate_finding(tables.fates(one(settled_wrong=settled)))
    assert found is not None
    assert found.verdict.startswith(verdict)
    assert f"{settled} of 40 failures settled" in found.evidence


def test_failures_that_are_still_slowing_down_do_not_count_as_wandering() -> None:
    table = tables.fates(one(settled_wrong=0))
    level = findings.fate_finding(table, 0)
    falling = findings.fate_finding(table, table.wandering_wrong - 1)
    assert level.verdict == "Failures wander"
    assert falling.verdict == "Some failures wander, most settle or are about to"
    assert f"{table.wandering_wrong - 1} more still falls" in falling.evidence


def test_failures_of_which_none_wanders_are_not_said_to() -> None:
    table = tables.fates(one(settled_wrong=4))
    found = findings.fate_finding(table, table.wandering_wrong)
    assert found.verdict == "Failures settle or are about to"


def test_few_failures_are_judged_as_the_claims_judge_them() -> None:
    """Five of five wander: their exact interval reaches below a half."""
    found = findings.fate_finding(tables.fates(one(solved_early=90, solved_late=2, never=3)))
    assert found.verdict.startswith("Undecided")


@pytest.mark.parametrize(("early", "never", "logit"), [(98, 2, 3.0), (0, 60, -3.0)])
def test_a_constant_halt_signal_knows_nothing(early: int, never: int, logit: float) -> None:
    data = synthetic(solved_early=early, solved_late=0, never=never)
    data["halt_logit"][:] = logit
    m = read_measurements(data)[0]
    found = findings.halt_finding(m, tables.quantities(m))
    assert found.verdict == "Undecided whether the halt signal tells anything"
    assert "to say the same of all would agree" in found.evidence
    m = one()
    assert findings.halt_finding(m, tables.quantities(m)).verdict == "The model knows when it is right"


def test_what_is_lost_after_the_budget_is_told() -> None:
    data = synthetic(solved_early=60, solved_late=0, never=0)
    data["solved"][:20, 40:] = False
    m = read_measurements(data)[0]
    found = findings.time_finding(m)
    assert found.verdict == "More time harms"
    assert "0 puzzles were gained and 20 lost" in found.evidence
    whole = findings.time_finding(one(solved_early=60, solved_late=0, never=0))
    assert whole.verdict == "Nothing left to solve after the budget"


def test_any_shortest_path_solves_a_maze() -> None:
    data = synthetic().assign_attrs(task="maze-9x9")
    data["verified"] = data["solved"].copy()
    data["verified"][95:] = True  # not the label's path, but as short
    m = read_measurements(data)[0]
    plain = one()
    assert m.correct.sum() == plain.correct.sum() + (~plain.correct[95:]).sum() > plain.correct.sum()
    assert "Any shortest path counts" in findings.answer(m)
    assert "shortest path" not in findings.answer(plain)


def test_all_solved_at_once_without_a_budget(tmp_path: Path) -> None:
    data = synthetic(solved_early=30, solved_late=0, never=0)
    data["solved"][:] = True
    del data.attrs["budget"]
    Page(report(data, tmp_path / "r.html").read_text())


def test_still_falling_is_read_from_the_last_two_windows() -> None:
    data = synthetic()
    m = read_measurements(data)[0]
    assert findings.still_falling(m) == 0  # the failures of the synthetic run keep their speed
    drift = data[m.drift_name].values.copy()
    drift[~m.correct] *= 0.8 ** np.arange(drift.shape[1])
    slower = read_measurements(data.assign({m.drift_name: (("puzzle", "segment"), drift)}))[0]
    assert findings.still_falling(slower) == int((~slower.correct & ~slower.settled).sum()) > 0


def test_puzzles_that_were_right_and_are_wrong_again_are_not_solved() -> None:
    data = synthetic(solved_early=50, solved_late=0, never=0)
    data["solved"][20:, 13:] = False
    m = read_measurements(data)[0]
    found = findings.time_finding(m)
    assert found is not None
    assert found.verdict == "Undecided whether more time helps"
    assert "had been right at some segment before" in found.evidence


@pytest.mark.parametrize(
    ("drift", "better"),
    [
        ((0.01, 0.0, 0.03), False),
        ((0.45, 0.4, 0.55), True),
        ((0.85, 0.8, 0.9), False),
        ((0.3, 0.2, 0.4), False),
    ],
)
def test_an_area_below_one_half_separates_too(drift: tuple[float, float, float], better: bool) -> None:
    area = Quantity(0.8, 0.7, 0.88, 100, "auc")
    numbers = {
        "AUC, low exponent → solved": area,
        "AUC, low late drift → solved": Quantity(*drift, 100, "auc"),
    }
    found = findings.exponent_finding(numbers)
    assert found is not None
    assert ("the exponent says more" in found.evidence) == better


def test_orbits_that_stand_still_do_not_vouch_for_a_cut_of_the_others() -> None:
    """400 successes at drift 0 and failures of one peak: no two groups among what moves."""
    late = np.concatenate([np.zeros(400), np.exp(np.random.default_rng(0).normal(0, 1, 12))])
    table = fate_table(late, late == 0)
    assert table.threshold.n == 12
    assert not findings.is_cut(table)


def test_an_orbit_that_left_the_numbers_is_reported(tmp_path: Path) -> None:
    data = synthetic()
    data["drift_H"][:, 9:] = np.nan
    data.attrs["data"] = "{weird"
    Page(report(data, tmp_path / "r.html").read_text())


def test_fate_verdict_needs_two_groups() -> None:
    """One peak of drift: Otsu still cuts, and the report must not believe it."""
    data = synthetic()
    data["drift_H"][:] = np.exp(np.random.default_rng(0).normal(0, 1, (100, 1))) * np.ones((1, STOP))
    found = findings.fate_finding(tables.fates(read_measurements(data)[0]))
    assert found is not None
    assert found.verdict.startswith("Undecided")
    assert "arbitrary" in found.evidence


def slow_to_settle() -> Measurement:
    """One peak of drift at the budget; by the last segment 25 of 30 failures and all successes are still."""
    data = synthetic()
    drift = np.exp(np.random.default_rng(0).normal(0, 1, (100, 1))) * np.ones((1, STOP))
    drift[:95] *= 0.7 ** np.maximum(np.arange(STOP) - 15, 0)
    data["drift_H"][:] = drift
    return read_measurements(data)[0]


def test_failures_that_settle_late_are_judged_at_the_last_segment(tmp_path: Path) -> None:
    m = slow_to_settle()
    assert (m.budget, m.at_end.budget, m.n) == (16, STOP, m.at_end.n)
    early, late = findings.findings(m, tables.quantities(m))[:2]
    assert early.verdict == "Undecided whether failures settle or wander"
    assert late.verdict == f"Failures settle (after {STOP} segments)"
    assert "25 of 30 failures settled" in late.evidence
    assert "Failures settle (after 64 segments): 25 of 30 failures settled" in findings.answer(m)
    number = tables.quantities(m)[f"failures that settled after {STOP} segments"]
    assert (number.value, number.n) == (25 / 30, 30)
    row = {r.name: r for r in outcome_statistics(m.data)}[f"failures that settled after {STOP} segments"]
    assert (row.value, row.low, row.high, row.n) == (number.value, number.low, number.high, 30)
    found = {c.text: c.verdict for c in claims(m, {r.name: r for r in outcome_statistics(m.data)})}
    assert found["Failures wander: most keep moving"] == "undecided"
    assert found[f"Failures after {STOP} segments wander"] == "does not hold"
    text = report(m.data, tmp_path / "late.html").read_text()
    assert "Fates after 16 segments" in text
    assert f"Fates after {STOP} segments" in text


def test_an_orbit_that_ends_at_the_budget_is_judged_once() -> None:
    m = one(stop=16)
    assert m.at_end is None
    assert not [name for name in tables.quantities(m) if "settled after" in name]
    assert not [f for f in findings.findings(m, tables.quantities(m)) if "(after" in f.verdict]


def test_empty_classes_say_why(tmp_path: Path) -> None:
    perfect = one(solved_early=50, solved_late=0, never=0)
    numbers = tables.quantities(perfect)
    assert math.isnan(numbers["AUC, low exponent → solved"].value)
    assert "no unsolved puzzle" in str(numbers["AUC, low exponent → solved"])
    assert "every puzzle has been right at some segment by 16" in str(numbers["escape rate"])
    verdicts = [f.verdict for f in findings.findings(perfect, numbers)]
    assert "No failure to classify" in verdicts
    hopeless = one(solved_early=0, solved_late=0, never=30)
    assert "no solved puzzle" in str(tables.quantities(hopeless)["median exponent, solved"])
    for name, m in (("perfect", perfect), ("hopeless", hopeless)):
        Page(report(m.data, tmp_path / f"{name}.html").read_text())


def test_time_and_restart_verdicts() -> None:
    more = findings.time_finding(one())
    assert more is not None
    assert more.verdict == "More time helps"
    assert "10 puzzles were gained and 0 lost" in more.evidence
    assert f"p = {stats.binomtest(10, 10).pvalue:.2g}" in more.evidence
    same = findings.time_finding(one(solved_late=2))
    assert same is not None
    assert same.verdict.startswith("Undecided")
    verdicts = {}
    for kick in (0.0, 0.5, 0.9):
        found = findings.restart_finding(one(kick=kick))
        assert found is not None
        verdicts[kick] = found.verdict
    assert "0 lost (exact McNemar p = 1). 0 of 30" in str(findings.time_finding(one(solved_late=0)))
    assert verdicts == {
        0.0: "Most failures withstand the kicks",
        0.5: "Kicks free most failures",
        0.9: "Kicks free most failures",
    }


def test_exponent_verdict_follows_the_sign() -> None:
    data = synthetic()
    data["ftle"] = -data["ftle"]
    m = read_measurements(data)[0]
    found = findings.exponent_finding(tables.quantities(m))
    assert found is not None
    assert found.verdict == "A high exponent goes with success"
    plain = findings.exponent_finding(tables.quantities(one()))
    assert plain is not None
    assert plain.verdict.startswith("A low exponent")
    assert "not shown to say more" in plain.evidence


def test_mcnemar_only_on_the_same_puzzles() -> None:
    a, b = read_measurements([synthetic(name="a"), synthetic(50, 10, 40, name="b")])
    assert "10 are solved only by a and 0 only by b" in str(findings.mcnemar(a, b))
    other = b.data.assign_attrs(data_hash="other")
    assert findings.mcnemar(a, Measurement(other, "b")) is None


def one_group() -> Measurement:
    """Late drifts of one wide peak, which any cut divides anywhere."""
    data = synthetic()
    late = np.random.default_rng(0).lognormal(0, 2, data.sizes["puzzle"])
    data["drift_H"][:] = late[:, None]
    return read_measurements(data)[0]


def test_without_two_groups_nothing_is_drawn_or_judged_by_a_cut() -> None:
    m = one_group()
    assert not m.threshold.splits
    scatter, spectrum = orbit_figures.drift_against_exponent(m), orbit_figures.spectrum_by_fate(m)
    words = [text.get_text() for text in scatter.figure.axes[0].texts]
    assert "threshold" not in words
    assert "no cut: one group" in words
    assert spectrum.title == "Spectrum by outcome"
    assert set(spectrum.table["fate"]) == {"solved", "unsolved"}
    found = {c.text: c for c in claims(m, {row.name: row for row in outcome_statistics(m.data)})}
    claim = found["Failures do not settle in wrong fixed points"]
    assert claim.verdict == "undecided"
    assert claim.number.note.startswith("undecided: late drift does not fall into two groups")
    explained = m.threshold.explained
    assert "64 % in large samples and up to 72 % with n 100" in explained
    assert explained in findings.fate_finding(tables.fates(m)).evidence
    assert explained in tables.fate_rows(m).caption


def test_one_of_a_thing_is_no_plural() -> None:
    assert [counted(n, "success") for n in (0, 1, 2000)] == ["0 successes", "1 success", "2,000 successes"]
    gap = fate_table(np.array([1.0, 2.0, 9.0]), np.array([True, True, False])).drift_gap
    assert str(gap) == "the smallest late drift of 1 failure is 9, above that of 100.0 % of 2 successes"
    made = [
        Claim("", verdict, Quantity(0.0, 0.0, 0.0, 1), "") for verdict in ("holds", "undecided", "undecided")
    ]
    assert tally(made) == "Of 3 claims, 1 holds on this model, 0 do not, 2 are undecided."
