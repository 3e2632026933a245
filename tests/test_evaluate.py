"""Scores against hand-computed ones; what is written to json; mistakes."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from loopscope.errors import UserError
from loopscope.evaluation.evaluate import evaluate
from loopscope.evaluation.intervals import wilson
from loopscope.evaluation.metrics import by_rating, cells_right, scores
from loopscope.evaluation.solve import solve
from loopscope.files import write_json
from tiny import Approach, tiny_model, tiny_puzzles


def test_cells_right_by_hand():
    labels = torch.tensor([[2, 3, 4], [2, -100, 4], [-100, -100, -100], [5, 5, 5]])
    answers = torch.tensor([[2, 3, 4], [2, 9, 5], [1, 1, 1], [1, 2, 3]])
    for kind in (torch.as_tensor, np.asarray):
        share, exact = cells_right(kind(answers), kind(labels))
        assert share.tolist() == pytest.approx([1.0, 0.5, math.nan, 0.0], nan_ok=True)
        assert exact.tolist() == [True, False, False, False]


def test_scores_by_hand():
    exact = np.array([True, True, False, False, False])
    halt = np.array([1.0, -1.0, 0.0, -1.0, -2.0])  # 0 counts as "right", as officially
    table = scores(np.array([1, 1, 0.5, 0.25, 0.0]), exact, halt)
    assert table["exact_accuracy"] == wilson(2, 5)
    assert table["cell_accuracy"].value == pytest.approx(0.55)
    assert table["halt_accuracy"] == wilson(3, 5)
    assert all(e.low <= e.value <= e.high and e.n == 5 for e in table.values())


def test_bands_by_hand():
    exact = np.array([1, 0, 1, 1, 0, 0], bool)
    bands = by_rating(exact, {"rating": np.array([0, 0, 9, 10, 99, 100])})
    found = {name: (e.value, e.n) for name, e in bands.items()}
    assert found == {"0": (0.5, 2), "1-9": (1.0, 1), "10-29": (1.0, 1), "30-99": (0.0, 1), "100+": (0.0, 1)}
    assert math.isnan(by_rating(exact[:1], {"rating": np.array([0])})["100+"].value)
    assert by_rating(exact, {}) == {}


def test_analytic_map():
    puzzles, rate = tiny_puzzles(7), 0.7
    result = evaluate(Approach(rate), puzzles, segments=[3, 6], batch_size=4)
    labels = puzzles.labels.astype(float)
    for t in (3, 6):
        z = (1 - rate**t) * labels
        right = np.rint(z) == labels
        exact, says = right.all(1), z[:, 0] - 2.5 >= 0
        row = result.scores[t]
        assert row["exact_accuracy"] == wilson(int(exact.sum()), 7)
        assert row["cell_accuracy"].value == pytest.approx(right.mean())
        assert row["halt_accuracy"] == wilson(int((says == exact).sum()), 7)
        surest = np.argsort(-z[:, 0], kind="stable")
        found = row["exact_at_coverage_50"]
        best, worst = (np.sort(exact[z[:, 0] >= z[surest[3], 0]])[::step][:4].sum() for step in (-1, 1))
        assert worst <= found.value * 4 <= best  # ties in the halt logit leave a choice
        assert found.n == 4
    assert result.applications == {3: 3, 6: 6}


def test_several_numbers_of_segments_equal_separate_runs():
    model, puzzles = tiny_model(), tiny_puzzles(9)
    together = evaluate(model, puzzles, segments=[4, 1, 2], batch_size=4)
    assert list(together.scores) == [1, 2, 4]
    for t in (1, 2, 4):
        alone = evaluate(model, puzzles, segments=t, batch_size=4)
        assert alone.scores[t] == together.scores[t]
        assert alone.bands[t] == together.bands[t]
    assert together.applications == {1: 6, 2: 12, 4: 24}


def test_unsupervised_cells_do_not_count():
    model, puzzles = tiny_model(), tiny_puzzles(6)
    answers = solve(model, puzzles, segments=2).tokens
    labels = np.where(np.arange(16) < 5, answers, 0).astype(np.uint8)  # 0: not supervised
    row = evaluate(model, dataclasses.replace(puzzles, labels=labels), segments=2).scores[2]
    supervised = (labels > 0).any(1).all()  # the model could answer with PAD
    assert supervised
    assert row["exact_accuracy"].value == row["cell_accuracy"].value == 1.0


def test_restarts_are_scored_as_solved():
    model, puzzles = tiny_model(), tiny_puzzles(8)
    many = solve(model, puzzles, segments=3, restarts=4, noise=1.0, select="halt")
    puzzles = dataclasses.replace(puzzles, labels=many.rollouts[np.arange(8), np.arange(8) % 4])
    result = evaluate(model, puzzles, segments=3, restarts=4, noise=1.0, select="halt")
    right = (many.rollouts == puzzles.labels[:, None]).all(2)
    chosen = (many.tokens == puzzles.labels).all(1)
    row = result.scores[3]
    assert row["exact_accuracy"] == wilson(int(chosen.sum()), 8)
    assert row["pass_at_k"].value == 1.0
    assert row["mean_at_k"].value == pytest.approx(right.mean())
    assert row["halt_accuracy"] == wilson(int(((many.halt_logit >= 0) == chosen).sum()), 8)
    assert 0 < row["mean_at_k"].value < 1
    assert result.applications == {3: 3 * 4 * 6}
    assert result.facts["select"] == "halt"


def test_json(tmp_path):
    puzzles = tiny_puzzles(5)
    write_json(tmp_path / "scores.json", evaluate(tiny_model(), puzzles, segments=[2, 3]).to_dict())
    read = json.loads((tmp_path / "scores.json").read_text())
    assert set(read["segments"]) == {"2", "3"}
    for name in ("exact_accuracy", "cell_accuracy", "halt_accuracy"):
        assert set(read["segments"]["2"][name]) == {"value", "low", "high", "n"}
    empty = read["exact_accuracy_by_rating"]["2"]["100+"]
    assert empty == {"value": None, "low": None, "high": None, "n": 0}  # NaN has no place in json
    assert read["n"] == 5
    assert read["data_hash"] == puzzles.content_hash
    assert read["dtype"] == "float32"
    assert read["model_hash"] == tiny_model().content_hash
    assert "torch" in read["versions"]


def test_dtype_of_the_record_is_the_one_computed_in():
    assert (
        evaluate(tiny_model(forward_dtype="bfloat16"), tiny_puzzles(2), segments=1).facts["dtype"]
        == "bfloat16"
    )


@pytest.mark.parametrize("restarts", [1, 2])
def test_mistakes_are_one_line(restarts):
    model, puzzles = tiny_model(), tiny_puzzles(2)
    table = tiny_model(puzzle_emb_ndim=16, num_puzzle_identifiers=3)

    def numbered(ids):
        return dataclasses.replace(puzzles, puzzle_ids=np.array(ids, np.int32))

    cases = [
        (model, dataclasses.replace(puzzles, labels=None), {}, "no answers"),
        (model, puzzles[:0], {}, "no puzzles"),
        (tiny_model(seq_len=9, vocab_size=7), puzzles, {}, "made for 9 and 7"),
        (table, numbered([0, 3]), {}, "from 0 to 3, but the table of the model has the rows 0 to 2"),
        (table, numbered([-1, 2]), {}, "identifiers from -1 to 2, but"),
        (model, puzzles, {"segments": 0}, "expected positive numbers"),
        (model, puzzles, {"segments": []}, "expected positive numbers"),
        (model, puzzles, {"batch_size": 0}, "batch_size=0"),
    ]
    for system, data, arguments, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            evaluate(system, data, restarts=restarts, **arguments)
        assert "\n" not in str(caught.value)
