"""Scores of graded answers against hand-computed cases; intervals against statsmodels and by coverage."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from statsmodels.stats import proportion

from loopscope.evaluation.evaluate import evaluate
from loopscope.evaluation.intervals import (
    bootstrap_mean,
    clopper_pearson,
    clustered_mean,
    mean_of_runs,
    wilson,
)
from loopscope.evaluation.metrics import by_difficulty, clustered_scores, grade, quarters, scores, summary
from loopscope.tasks import Arc, Maze, PuzzleSet, Sudoku
from tiny import Readout, tiny_model, tiny_puzzles

SQUARE = Sudoku(2, 2)
QUESTION, ANSWER = "12..34..........", "1234341221434321"
OTHER = "2134342112434312"  # a valid grid, of other digits


class Script:
    """Answers what was written down for each segment: (segments, puzzles, cells); halts from `sure` on."""

    applications_per_segment = 3

    def __init__(self, answers: np.ndarray, vocab: int, sure: int = 10**6) -> None:
        self.answers, self.vocab, self.sure, self.next = torch.from_numpy(answers), vocab, sure, 0

    def encode(self, batch):
        rows = torch.arange(self.next, self.next + len(batch.inputs))
        self.next = int(rows[-1] + 1) % self.answers.shape[1]
        return rows

    def initial_state(self, ctx):
        return torch.zeros(len(ctx), 1)

    def segment(self, z, ctx):
        return z + 1

    def readout(self, z, ctx):
        t = int(z[0, 0])
        logits = torch.nn.functional.one_hot(self.answers[t - 1][ctx].long(), self.vocab).float()
        return Readout(logits, torch.full((len(ctx),), 1.0 if t >= self.sure else -1.0))


def graded(task, question: str, answers: list[str], label: str, halt: float = 1.0):
    tokens = task.encode(answers)
    tile = lambda text: np.repeat(task.encode([text]), len(answers), axis=0)  # noqa: E731
    return grade(task, tile(question), tokens, tile(label), np.full(len(answers), halt))


# -- one answer


def test_sudoku_answers_by_hand():
    one_off = ANSWER[:-1] + "3"
    found = graded(SQUARE, QUESTION, [ANSWER, one_off, OTHER, QUESTION], ANSWER)
    assert found["exact"].tolist() == [True, False, False, False]
    share = [a == b for a, b in zip(OTHER, ANSWER, strict=True)]
    assert found["cell_accuracy"].tolist() == [1, 15 / 16, sum(share) / 16, 4 / 16]
    blank = [q == "." for q in QUESTION]
    unfilled = sum(s and b for s, b in zip(share, blank, strict=True)) / 12
    assert found["unfilled_accuracy"].tolist() == [1, 11 / 12, unfilled, 0]
    assert found["verified"].tolist() == [True, False, False, False]
    assert found["valid"].tolist() == [True, False, True, False]  # valid, but with givens changed
    assert found["givens_kept"].tolist() == [True, True, False, True]


def test_maze_answers_by_hand():
    task = Maze(3, 4)
    question = "S   " + " ## " + "   G"
    label = "Sooo" + " ##o" + "   G"  # one of two shortest paths
    answers = [
        label,
        "S   " + "o## " + "oooG",  # the other
        "Sooo" + "o##o" + "   G",  # a mark beside the path
        "Soo " + " ## " + "   G",  # ends in the open
        "Sooo" + "o##o" + "oooG",  # both ways: joined, no single path
        "S#oo" + " ##o" + "   G",  # a wall of its own
        "Soo " + " #oo" + "   G",  # through a wall
    ]
    found = graded(task, question, answers, label)
    assert found["exact"].tolist() == [True] + [False] * 6
    assert found["shortest_path"].tolist() == [True, True] + [False] * 5
    assert found["clean_path"].tolist() == [True, True] + [False] * 5
    assert found["valid_path"].tolist() == [True, True, True, False, True, False, False]
    assert found["unfilled_accuracy"][:2].tolist() == [1, 0]  # the two ways share no free cell
    assert found["cell_accuracy"][1] == 4 / 12  # and yet S, G and the walls are right


def test_longer_way_is_valid_and_not_shortest():
    task = Maze(3, 4)
    question, label = "S  G" + " ## " + "    ", "SooG" + " ## " + "    "
    around = "S  G" + "o##o" + "oooo"
    found = graded(task, question, [label, around], label)
    assert [found[n].tolist() for n in ("valid_path", "clean_path", "shortest_path", "exact")] == [
        [True, True],
        [True, True],
        [True, False],
        [True, False],
    ]


def test_exact_implies_shortest_implies_clean_implies_valid():
    task, rng = Maze(4, 5), np.random.default_rng(0)
    boards = np.where(rng.random((400, 20)) < 0.3, 1, 2).astype(np.uint8)
    boards[:, 0], boards[:, -1] = 3, 4
    labels, known = task.solutions(boards)
    boards, labels = boards[known > 0], labels[known > 0]
    answers = np.where((rng.random(boards.shape) < 0.6) & (boards == 2), 5, boards)
    answers[::3] = labels[::3]
    flipped = task.solutions(boards.reshape(-1, 4, 5)[:, ::-1].reshape(-1, 20))[0]  # other tie-breaks
    answers[1::3] = flipped.reshape(-1, 4, 5)[1::3, ::-1].reshape(-1, 20)
    found = grade(task, boards, answers, labels, np.zeros(len(boards)))
    chain = [found[n] for n in ("exact", "shortest_path", "clean_path", "valid_path")]
    for stronger, weaker in pairwise(chain):
        assert (weaker | ~stronger).all()
    counts = [int(c.sum()) for c in chain]
    assert counts[0] < counts[1] <= counts[2] < counts[3] < len(boards)  # each step is tried
    for answer, valid in zip(answers.reshape(-1, 4, 5), chain[-1], strict=True):
        parts, _ = ndimage.label(answer >= 3)
        assert valid == (parts[0, 0] == parts[-1, -1])


def test_arc_has_no_rules_to_check():
    canvas = Arc().encode([np.ones((2, 3), np.uint8)])
    found = grade(Arc(), canvas, canvas, canvas, np.zeros(1))
    assert set(found) == {"cell_accuracy", "exact", "halt_logit"}


# -- sets


def test_rows_without_labels_count_nowhere():
    tokens = SQUARE.encode([QUESTION] * 3)
    labels = SQUARE.encode([ANSWER] * 3)
    labels[1] = 0
    columns = grade(SQUARE, tokens, SQUARE.encode([ANSWER] * 3), labels, np.array([1.0, -1.0, -1.0]))
    table = summary(columns)
    assert table["exact_accuracy"] == wilson(2, 2)
    assert table["halt_accuracy"] == wilson(1, 2)
    assert table["verified"] == wilson(2, 2)
    assert table["cell_accuracy"].n == table["unfilled_accuracy"].n == 2


def test_segments_by_hand():
    """Five puzzles of one kind: never right, always, from 2 on, at 2 only, at 1 and 4."""
    right, wrong = SQUARE.encode([ANSWER])[0], SQUARE.encode([OTHER])[0]
    solved = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 1], [0, 1, 0, 0], [1, 0, 0, 1]], bool).T
    answers = np.where(solved[..., None], right, wrong)
    tokens = SQUARE.encode([QUESTION] * 5)
    puzzles = PuzzleSet(SQUARE, tokens, np.tile(right, (5, 1)), np.zeros(5, np.int32))
    result = evaluate(Script(answers, 6, sure=3), puzzles, segments=[1, 2, 3, 4], batch_size=2)
    value = lambda name: [round(5 * result.scores[t][name].value) for t in (1, 2, 3, 4)]  # noqa: E731
    assert value("exact_accuracy") == [2, 3, 2, 3]
    assert value("cumulative_accuracy") == [2, 4, 4, 4]
    assert value("absorbed_accuracy") == [1, 2, 2, 3]
    assert value("halt_accuracy") == [3, 2, 2, 3]
    assert value("verified") == value("exact_accuracy")
    assert value("valid") == [5, 5, 5, 5]
    assert result.scores[4]["cumulative_accuracy"] == wilson(4, 5)
    assert result.outcomes[2]["exact"].tolist() == solved[1].tolist()
    assert "answer" not in result.outcomes[2]


def test_answers_are_kept_on_request():
    puzzles = tiny_puzzles(5)
    kept = evaluate(tiny_model(), puzzles, segments=[1, 3], batch_size=2, answers=True).outcomes
    for t, columns in kept.items():
        right = (columns["answer"] == puzzles.labels).mean(1)
        assert columns["answer"].dtype == np.uint8
        assert columns["cell_accuracy"] == pytest.approx(right), t


def test_restarts_have_the_checks_of_the_task():
    scores = evaluate(tiny_model(), tiny_puzzles(4), segments=2, restarts=2).scores[2]
    assert {"verified", "valid", "givens_kept", "unfilled_accuracy", "pass_at_k"} <= set(scores)
    assert "cumulative_accuracy" not in scores


# -- bands


def test_quarters_by_hand():
    assert quarters(np.array([3, 1, 2, 4])) == {"1": (1, 1), "2": (2, 2), "3": (3, 3), "4": (4, 4)}
    assert quarters(np.array([5, 5, 5])) == {"5": (5, 5)}
    assert quarters(np.arange(17, 33)) == {
        "17-20": (17, 20),
        "21-24": (21, 24),
        "25-28": (25, 28),
        "29-32": (29, 32),
    }
    assert quarters(np.array([1, 1, 1, 9])) == {"1": (1, 1), "2-9": (2, 9)}
    assert quarters(np.array([], int)) == {}


def test_every_puzzle_is_in_one_band():
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = rng.integers(0, rng.integers(1, 60), rng.integers(1, 40))
        exact = rng.random(len(values)) < 0.5
        found = by_difficulty(exact, {"givens": values, "source": values})
        assert set(found) == {"givens"}
        assert sum(e.n for e in found["givens"].values()) == len(values)
        assert sum(round(e.value * e.n) for e in found["givens"].values()) == exact.sum()
        assert all(e.n for e in found["givens"].values() if len(found["givens"]) == 1)


def test_bands_in_json():
    puzzles = dataclasses.replace(tiny_puzzles(6), facts={"path_length": np.arange(6), "other": np.arange(6)})
    plain = evaluate(tiny_model(), puzzles, segments=[1, 2]).to_dict()
    assert [key for key in plain if "_by_" in key] == ["exact_accuracy_by_path_length"]
    assert set(plain["exact_accuracy_by_path_length"]) == {1, 2}


# -- intervals


@pytest.mark.parametrize(("events", "n"), [(0, 5), (1, 9), (7, 9), (9, 9), (712, 8192), (50, 100)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_proportions_equal_statsmodels(events, n, level):
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "beta")):
        low, high = proportion.proportion_confint(events, n, alpha=1 - level, method=method)
        found = ours(events, n, level)
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


def test_clusters_of_one_row_are_an_ordinary_bootstrap():
    values = np.random.default_rng(0).random(40)
    found = clustered_mean(values, np.arange(40), seed=3)
    plain = bootstrap_mean(values, seed=3)
    assert (found.value, found.low, found.high, found.n) == pytest.approx(
        (plain.value, plain.low, plain.high, plain.n)
    )


def test_clustered_intervals_cover_where_ignoring_the_clusters_does_not():
    """60 tasks of 10 equal versions each: rows say little more than tasks do."""
    rng, hits = np.random.default_rng(0), {"clustered": 0, "rows": 0}
    for _ in range(100):
        values = np.repeat((rng.random(60) < 0.4).astype(float), 10)
        cluster = np.repeat(np.arange(60), 10)
        found = clustered_mean(values, cluster, resamples=400)
        naive = bootstrap_mean(values, resamples=400)
        hits["clustered"] += found.low <= 0.4 <= found.high
        hits["rows"] += naive.low <= 0.4 <= naive.high
    assert found.n == 60
    assert hits["clustered"] >= 88
    assert hits["rows"] < 60


def test_clustered_scores_by_hand():
    columns = {
        "cell_accuracy": np.array([1.0, 0.5, np.nan, 0.0]),
        "exact": np.array([True, False, False, False]),
        "halt_logit": np.array([1.0, 1.0, -1.0, -1.0]),
    }
    table = clustered_scores(columns, np.array([7, 7, 7, 9]))
    assert {name: (e.value, e.n) for name, e in table.items()} == {
        "exact_accuracy": (pytest.approx(1 / 3), 2),
        "cell_accuracy": (0.5, 2),
        "halt_accuracy": (pytest.approx(2 / 3), 2),
    }


def test_a_halt_logit_that_is_no_number_is_not_right():
    exact, logit = np.array([True, False, False]), np.array([np.nan, np.nan, -1.0])
    assert scores(np.ones(3), exact, logit)["halt_accuracy"].value == pytest.approx(1 / 3)
    columns = {"cell_accuracy": np.ones(3), "exact": exact, "halt_logit": logit}
    assert clustered_scores(columns, np.arange(3))["halt_accuracy"].value == pytest.approx(1 / 3)


def test_mean_of_runs_equals_scipy():
    values = np.array([0.86, 0.91, 0.88])
    found, deviation = mean_of_runs(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high, found.n) == pytest.approx((low, high, 3))
    assert deviation == pytest.approx(0.02516611)
    single, none = mean_of_runs(values[:1])
    assert single.value == 0.86
    assert np.isnan([single.low, none]).all()
