"""The Sudoku search and the generator, against brute force and real puzzles."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from scipy.stats import spearmanr

from loopscope.errors import UserError
from loopscope.tasks import Sudoku, read_puzzles
from loopscope.tasks.sudoku.generate import generate
from loopscope.tasks.sudoku.solver import solve
from shared import shared_path


def all_boards_2x2() -> np.ndarray:
    """The 288 boards with 2x2 boxes, by trying every stack of four permutations."""
    rows = list(permutations((2, 3, 4, 5)))
    boards = np.array([sum(p, ()) for p in product(rows, repeat=4)], np.uint8)
    return boards[Sudoku(2, 2).valid(boards)]


def count_plainly(board: list[int], box_rows: int, box_cols: int, limit: int = 2) -> int:
    """Number of solutions by the simplest search there is: next blank cell, every digit that fits."""
    n = box_rows * box_cols
    best, options = -1, list(range(n + 1))
    for cell in (c for c in range(n * n) if board[c] < 2):
        r, c = divmod(cell, n)
        seen = {board[r * n + k] for k in range(n)} | {board[k * n + c] for k in range(n)}
        top, left = r // box_rows * box_rows, c // box_cols * box_cols
        seen |= {board[(top + i) * n + left + j] for i in range(box_rows) for j in range(box_cols)}
        fits = [d for d in range(2, n + 2) if d not in seen]
        if len(fits) < len(options):
            best, options = cell, fits
    if best < 0:
        return 1
    total = 0
    for digit in options:
        board[best] = digit
        total += count_plainly(board, box_rows, box_cols, limit - total)
        board[best] = 1
        if total >= limit:
            break
    return total


def test_counts_agree_with_filtering_all_4x4_boards():
    task, rng, boards = Sudoku(2, 2), np.random.default_rng(0), all_boards_2x2()
    inputs = boards[rng.integers(0, 288, 400)]
    inputs = np.where(rng.random(inputs.shape) < rng.choice([0.1, 0.3, 0.5], (400, 1)), inputs, 1).astype(
        np.uint8
    )
    inputs[:100, 3] = 2  # many of these contradict a clue
    true = [((row == 1) | (boards == row)).all(1).sum() for row in inputs]
    solutions, counts, _ = solve(task, inputs, limit=1000)
    assert counts.tolist() == true
    assert 0 in true
    assert max(true) > 10
    solved = counts > 0
    assert task.verify(inputs, solutions)[solved].all()
    assert not solutions[~solved].any()


def test_the_empty_4x4_board_has_288_solutions():
    empty = np.ones((1, 16), np.uint8)
    assert solve(Sudoku(2, 2), empty, limit=10**6)[1] == 288
    assert solve(Sudoku(2, 2), empty, limit=2)[1] == 2


def test_real_answers_and_ratings():
    puzzles = read_puzzles(shared_path("data/sudoku/sudoku_extreme_test_8192.csv.gz"), limit=500)
    solutions, counts, guesses = solve(puzzles.task, puzzles.inputs)
    assert (counts == 1).all()
    assert (solutions == puzzles.labels).all()
    # Our count is not tdoku's, but both call the same puzzles hard.
    assert spearmanr(guesses, puzzles.facts["rating"]).statistic > 0.5
    assert ((guesses == 0) == (puzzles.facts["rating"] == 0)).mean() > 0.9


def test_a_contradiction_has_no_solution():
    task = Sudoku(3, 3)
    twice = task.parse("11" + "." * 79)
    no_place = task.parse("12345678." + "........9" + "." * 63)  # the 9 of row 1 has no cell left
    assert solve(task, np.stack([twice, no_place]))[1].tolist() == [0, 0]


@pytest.mark.parametrize(("box", "givens", "count"), [((2, 2), 5, 40), ((2, 3), 12, 40), ((3, 3), 28, 8)])
def test_generated_puzzles_have_one_solution(box: tuple[int, int], givens: int, count: int):
    task = Sudoku(*box)
    puzzles = generate(task, count, givens, np.random.default_rng(4))
    assert len(puzzles) == count
    assert task.verify(puzzles.inputs, puzzles.labels).all()
    assert (task.givens(puzzles.inputs) == givens).all()
    assert all(count_plainly(row.tolist(), *box) == 1 for row in puzzles.inputs)


def test_plain_count_sees_a_second_solution():
    """The check above can fail: with one clue fewer, a puzzle of few givens has more solutions."""
    puzzles = generate(Sudoku(2, 2), 1, 4, np.random.default_rng(0))
    row = puzzles.inputs[0].tolist()
    row[int(np.flatnonzero(puzzles.inputs[0] > 1)[0])] = 1
    assert count_plainly(row, 2, 2) == 2


def test_generate_same_seed_same_bytes():
    a, b, c = (generate(Sudoku(2, 3), 20, 12, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert a.content_hash == b.content_hash != c.content_hash
    assert len(np.unique(a.inputs, axis=0)) == 20


def test_generated_digits_and_givens_are_spread_evenly():
    puzzles = generate(Sudoku(2, 3), 2000, 14, np.random.default_rng(7))
    share = (puzzles.inputs > 1).mean(0)
    assert abs(share - 14 / 36).max() < 0.05  # four standard errors of a share over 2,000 puzzles
    corner = np.bincount(puzzles.labels[:, 0] - 2, minlength=6) / 2000
    assert abs(corner - 1 / 6).max() < 0.035


def test_generate_refuses_the_impossible():
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="no puzzle with 3 givens"):
        generate(Sudoku(2, 2), 1, 3, rng)
    with pytest.raises(UserError, match="1 to 16"):
        generate(Sudoku(2, 2), 1, 17, rng)
