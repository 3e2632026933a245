"""Puzzles two sets share up to symmetry: found all, and only those."""

from __future__ import annotations

import numpy as np
import pytest

from loopscope.errors import UserError
from loopscope.tasks import Sudoku, read_puzzles
from loopscope.tasks.base import PuzzleSet
from loopscope.tasks.overlap import overlap, repeats
from loopscope.tasks.sudoku.generate import generate
from shared import shared_path


def disguised(puzzles: PuzzleSet, seed: int) -> PuzzleSet:
    """The same puzzles under random symmetries."""
    rng = np.random.default_rng(seed)
    return PuzzleSet(
        puzzles.task, *puzzles.task.augment(puzzles.inputs, puzzles.labels, rng), puzzles.puzzle_ids
    )


@pytest.mark.parametrize("board", [(2, 2, 7), (2, 3, 14), (3, 3, 30), (1, 5, 12)])
def test_every_symmetric_copy_is_found_and_nothing_else(board: tuple[int, int, int]) -> None:
    """Against canonical forms of all rows: the invariant in front of them must hide nothing."""
    task = Sudoku(*board[:2])
    puzzles = generate(task, 60, board[2], np.random.default_rng(0))
    ours, theirs = puzzles[:40], disguised(puzzles, 1)
    keys = task.canonical(ours.inputs, ours.labels), task.canonical(theirs.inputs, theirs.labels)
    expected = [(keys[0].index(key), row) for row, key in enumerate(keys[1]) if key in keys[0]]
    assert overlap(ours, theirs).tolist() == [list(pair) for pair in expected]
    assert {row for _, row in expected} >= set(range(40))
    again = [(keys[1].index(key), row) for row, key in enumerate(keys[1]) if keys[1].index(key) < row]
    assert repeats(theirs).tolist() == [list(pair) for pair in again]


def test_the_invariant_tells_puzzles_of_one_pattern_apart() -> None:
    """Same solution, equally many clues: nearly always different numbers, so few canonical forms are made."""
    puzzles = generate(Sudoku(3, 3), 1, 40, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    labels = np.repeat(puzzles.labels, 500, 0)
    inputs = np.where(rng.permuted(np.tile(np.arange(81) < 30, (500, 1)), axis=1), labels, 1).astype(np.uint8)
    assert len(np.unique(puzzles.task.invariant(inputs, labels))) > 495


def test_real_train_and_test_share_no_puzzle_up_to_symmetry() -> None:
    """The data's own description says so of every row; a disguised train puzzle must be found."""
    train = read_puzzles(shared_path("data/sudoku/sudoku_extreme_1k_train.csv.gz"))
    test = read_puzzles(shared_path("data/sudoku/sudoku_extreme_test_8192.csv.gz"))
    assert len(overlap(train, test)) == 0
    assert len(repeats(test)) == 0
    copies = disguised(train[5:7], 0)
    leaky = PuzzleSet(
        test.task,
        np.concatenate([test.inputs, copies.inputs]),
        np.concatenate([test.labels, copies.labels]),
        np.zeros(8194, np.int32),
    )
    assert overlap(train, leaky).tolist() == [[5, 8192], [6, 8193]]


def test_sets_that_cannot_be_compared() -> None:
    small, large = (
        generate(Sudoku(2, cols), 2, givens, np.random.default_rng(0)) for cols, givens in [(2, 7), (3, 14)]
    )
    with pytest.raises(UserError, match="Compare sets of one task"):
        overlap(small, large)
    bare = PuzzleSet(small.task, small.inputs, None, small.puzzle_ids, name="bare.csv")
    with pytest.raises(UserError, match=r"bare\.csv: puzzles without labels"):
        overlap(small, bare)
