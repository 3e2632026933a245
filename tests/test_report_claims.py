"""Claims are judged by a rule on an interval, and the verdict follows the numbers; tables of the protocol."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

from loopscope.dynamics.measure import measure
from loopscope.dynamics.outcomes import outcome_statistics
from loopscope.errors import UserError
from loopscope.reports import dynamics_tables, findings, read_measurements, report, tables
from loopscope.reports.claims import Claim, claims, claims_table, fresh_against_onward, judge, tally
from loopscope.reports.films import film_plot, films
from loopscope.reports.measurement import Measurement
from loopscope.tasks import Maze, PuzzleSet
from report_data import BUDGET, STOP, Page, one, synthetic
from tiny import tiny_model, tiny_puzzles


def judged(m: Measurement) -> dict[str, Claim]:
    rows = outcome_statistics(m.data, resamples=200)
    return {claim.text: claim for claim in claims(m, {row.name: row for row in rows})}


@pytest.mark.parametrize(
    ("low", "high", "useless", "verdict"),
    [
        (0.51, 0.6, None, "holds"),
        (0.5, 0.6, None, "undecided"),
        (0.3, 0.5, None, "undecided"),
        (0.3, 0.49, None, "does not hold"),
        (0.45, 0.55, 0.6, "does not hold"),
        (0.45, 0.65, 0.6, "undecided"),
        (0.51, 0.55, 0.6, "does not hold"),
        (math.nan, math.nan, None, "undecided"),
    ],
)
def test_rule(low: float, high: float, useless: float | None, verdict: str) -> None:
    assert judge(low, high, 0.5, useless) == verdict


def test_verdicts_of_a_run_whose_failures_wander() -> None:
    found = judged(one())
    expected = {
        "Failures wander: most keep moving": "holds",
        "The stillest failure moves more than most successes": "holds",
        "Exponents separate success from failure": "holds",
        "Nearby states part in failures": "holds",
        "Nearby states draw together in successes": "does not hold",  # solved at 7 in the median: 12 - 3 > 0
        "More segments free failures": "does not hold",  # 10 of 40
        "Kicks free failures": "holds",
        "The halt signal knows a failure": "undecided",  # 0 of 40: the exact bound is 8.8 %
    }
    assert {text: found[text].verdict for text in expected} == expected
    freed = found["More segments free failures"].number
    exact = stats.binomtest(10, 40).proportion_ci(method="exact")
    assert (freed.value, freed.low, freed.high) == pytest.approx((0.25, exact.low, exact.high))
    kicks = found["Kicks free failures"].number
    hits = one().data["basin_solved"].values[60:, 1:].any(axis=(1, 2))
    assert kicks.value == hits.mean()


def test_verdicts_turn_with_the_numbers() -> None:
    """The same claims on runs made to contradict them."""
    settling = judged(one(settled_wrong=36))
    assert settling["Failures wander: most keep moving"].verdict == "does not hold"
    assert settling["Failures do not settle in wrong fixed points"].verdict == "does not hold"
    data = synthetic()
    data["ftle"] = -data["ftle"]
    turned = judged(read_measurements(data)[0])
    assert turned["Exponents separate success from failure"].verdict == "does not hold"
    assert "the reverse holds" in turned["Exponents separate success from failure"].number.note
    assert turned["Nearby states part in failures"].verdict == "does not hold"
    assert judged(one(kick=0.0))["Kicks free failures"].verdict == "does not hold"
    late = judged(one(solved_late=0, never=60))
    assert late["More segments free failures"].verdict == "does not hold"


def test_what_the_plain_orbit_had_right_before_no_kick_has_freed() -> None:
    """Failures that were right at segment 4, and kicks so small that restarts repeat the plain orbit."""
    data = synthetic()
    data["solved"][60:, 3] = True
    found = judged(read_measurements(data)[0])
    assert "Kicks free failures" not in found
    m = read_measurements(data)[0]
    (kicks,) = (f for f in findings.findings(m, tables.quantities(m)) if "restart" in f.verdict)
    assert kicks.verdict == "No failure to restart"
    data = synthetic()
    data.attrs["restart_segments"] = 2 * STOP  # longer than anything is known of the plain orbits
    m = read_measurements(data)[0]
    assert "Kicks free failures" not in judged(m)
    (kicks,) = (f for f in findings.findings(m, tables.quantities(m)) if "kicks" in f.verdict)
    assert kicks.verdict == "Undecided whether kicks free failures"


@pytest.mark.parametrize("kick", [0.0, 0.05, 0.09, 0.12, 0.5])
def test_the_finding_on_kicks_says_what_the_claim_says(kick: float) -> None:
    m = one(kick=kick)
    (finding,) = (f for f in findings.findings(m, tables.quantities(m)) if "kicks" in f.verdict.lower())
    said = {"Kicks free most failures": "holds", "Most failures withstand the kicks": "does not hold"}
    assert said.get(finding.verdict, "undecided") == judged(m)["Kicks free failures"].verdict


def test_a_model_without_halt_logits_knows_nothing_of_its_failures() -> None:
    data = synthetic()
    data["halt_logit"][:] = np.nan
    m = read_measurements(data)[0]
    claim = judged(m)["The halt signal knows a failure"]
    assert (claim.verdict, claim.number.n) == ("undecided", 0)
    assert "halt signal right" not in tables.quantities(m)


def test_short_orbits_do_not_tell_wandering_from_slowing() -> None:
    data = synthetic()
    data.attrs["budget"] = 6
    m = read_measurements(data)[0]
    assert findings.still_falling(m) is None
    assert judged(m)["Failures wander: most keep moving"].verdict == "undecided"
    fate = findings.fate_finding(tables.fates(m), findings.still_falling(m))
    assert fate is not None
    assert fate.verdict == "Undecided whether failures settle or wander"
    assert "8 segments are needed" in fate.evidence


def test_settling_is_undecided_without_two_groups() -> None:
    data = synthetic()
    data["drift_H"][:] = np.exp(np.random.default_rng(0).normal(0, 1, (100, 1)))
    found = judged(read_measurements(data)[0])
    assert found["Failures wander: most keep moving"].verdict == "undecided"
    assert found["Failures do not settle in wrong fixed points"].verdict == "undecided"


def test_claims_without_classes_or_variables() -> None:
    perfect = judged(one(solved_early=50, solved_late=0, never=0))
    assert {c.verdict for t, c in perfect.items() if "failures" in t.lower()} == {"undecided"}
    least = xr.Dataset({"solved": synthetic()["solved"]}, attrs={"budget": BUDGET})
    bare = judged(read_measurements(least)[0])
    assert list(bare) == ["More segments free failures", "Unsolved puzzles escape at a constant rate"]
    assert not any(c.published for c in bare.values())  # not known to be Sudoku
    table = claims_table(list(bare.values()))
    assert len(table.rows) == 2
    assert tally(list(bare.values())).startswith("Of 2 claims")


def test_fresh_start_against_going_on() -> None:
    m = one()
    found = fresh_against_onward(m)
    assert found is not None
    # of 40 unsolved puzzles, 4 are solved at 20, 24, 28 and 32, within 16 segments after the budget
    assert found.onward.value == 4 / 40
    assert found.fresh.value == pytest.approx(m.data["basin_solved"].values[60:, 1:].mean())
    assert found.ratio.value == pytest.approx(found.fresh.value / 0.1)
    assert fresh_against_onward(one(stop=20)) is None


def test_tables_against_hand() -> None:
    m = one(settled_wrong=7)
    sweep = dynamics_tables.sweep_rows(m)
    assert sweep is not None
    assert all(sum(row[2:6]) == 100 for row in sweep.rows)  # type: ignore[arg-type]
    escapes = dynamics_tables.escape_rows(m)
    assert escapes is not None
    assert [row[:3] for row in escapes.rows] == [["17 to 32", 40, 4], ["33 to 64", 36, 6]]
    basins = dynamics_tables.basin_rows(m)
    assert basins is not None
    assert basins.rows[0][1:4] == [60, 0, 40]
    halt = m.data["halt_logit"].values.copy()
    halt[[70, 95], BUDGET - 1] = 5.0, 9.0
    sure = m.data.assign(halt_logit=(("puzzle", "segment"), halt))
    rows = dynamics_tables.sure_rows(read_measurements(sure)[0])
    assert rows is not None
    assert [(row[0], row[3]) for row in rows.rows] == [("95", "settled"), ("70", "wandering")]


def test_exponents_in_parts() -> None:
    m = one()
    half = m.data["growth"].values / 2
    kinds = ("puzzle", "segment_growth", "update", "exponent")
    data = m.data.assign(
        growth_by_update=(kinds, np.stack((half, half), axis=2)),
        update=["L", "H"],
        ftle_spread=(("puzzle", "exponent"), np.full((m.n, 4), 0.02)),
        tangent_seed=[1, 2, 3],
    )
    table = dynamics_tables.exponent_rows(read_measurements(data)[0])
    assert table is not None
    rows = {str(row[0]): row[1:] for row in table.rows}
    for i, inside in enumerate((m.correct, ~m.correct)):
        whole = rows["whole orbit, segments 1 to 16"][i]
        assert whole.value == pytest.approx(np.median(m.exponents[inside, 0]))  # type: ignore[union-attr]
        assert rows["from updates of H"][i].value == pytest.approx(whole.value / 2)  # type: ignore[union-attr]
        assert rows["the same per application"][i].value == pytest.approx(whole.value / 21)  # type: ignore[union-attr]
    assert str(rows["sd over 3 starts of the tangents"][0]).startswith("+0.0200")
    assert str(rows["Kaplan-Yorke dimension"][1]) == "≥ 4.00 [4.00, 4.00]"  # four positive exponents
    bare = dynamics_tables.exponent_rows(one())
    assert bare is not None
    assert len(bare.rows) == len(rows) - 3
    assert dynamics_tables.exponent_rows(read_measurements(m.data.drop_vars("ftle"))[0]) is None


def test_films_run_with_the_identifiers_of_the_puzzles() -> None:
    model = tiny_model(puzzle_emb_ndim=16, puzzle_emb_len=1, num_puzzle_identifiers=8)
    torch.nn.init.normal_(model.puzzle_emb.weights, generator=torch.Generator().manual_seed(1))
    ids = np.array([3, 5, 7], np.int32)
    runs = measure(model, dataclasses.replace(tiny_puzzles(3), puzzle_ids=ids), segments=4)
    (name, film), *_ = films(read_measurements(runs)[0], model).items()
    row = int(name.rsplit(" ", 1)[1])
    assert (film.boards[-1] == runs.answer.values[row]).all()
    with pytest.raises(UserError, match="holds no puzzle identifiers"):
        films(read_measurements(runs.drop_vars("puzzle_id"))[0], model)


def test_films_are_of_the_measured_puzzles(tmp_path: Path) -> None:
    model, puzzles = tiny_model(), tiny_puzzles(3)
    runs = measure(model, puzzles, segments=4, exponents=1)
    m = read_measurements(runs)[0]
    found = films(m, model)
    middle = int(np.argsort(m.drift[:, -1])[1])  # of three failures, as the tiny model is not trained
    assert set(found) == {f"failure, puzzle {middle}"}
    film = found[f"failure, puzzle {middle}"]
    assert film.boards.shape == (4, puzzles.inputs.shape[1])
    assert film.drift == pytest.approx(
        np.sqrt(sum(runs[v].values[middle] ** 2 for v in ("drift_H", "drift_L"))), rel=1e-4
    )
    assert film_plot(found).table["segment"].tolist() == [1, 2, 3, 4]
    text = Page(report(runs, tmp_path / "films.html", models=[model]).read_text()).text
    assert "Three puzzles, board by board" in text
    with pytest.raises(UserError, match="Give the model that was measured"):
        films(Measurement(runs.assign_attrs(model_hash="0" * 64), "other"), model)
    with pytest.raises(UserError, match="2 models for 1 measurements"):
        report(runs, tmp_path / "films.html", models=[model, model])


def test_a_film_of_a_maze_has_the_shape_of_the_maze() -> None:
    """A board of 36 cells need not be square."""
    maze = Maze(4, 9)
    walls = " " * 9 + "#" * 8 + " " + " " * 18
    question = maze.parse("S" + walls[1:-1] + "G")
    label = maze.parse("S" + "o" * 8 + "#" * 8 + "o" + " " * 8 + "o" + " " * 8 + "G")
    puzzles = PuzzleSet(maze, question[None], label[None], np.zeros(1, np.int32), name="one maze")
    model = tiny_model(seq_len=36)
    m = read_measurements(measure(model, puzzles, segments=4))[0]
    (film,) = films(m, model).values()
    assert film.task.grid == (4, 9)
