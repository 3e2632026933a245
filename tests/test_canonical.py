"""Canonical forms of Sudokus against the least of all arrangements, tried one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from loopscope.tasks import Sudoku
from loopscope.tasks.sudoku.symmetry import canonical_form
from small_sets import sudokus


def line_orders(blocks: int, size: int) -> list[list[int]]:
    """Every order of lines that keeps blocks together."""
    inside = list(itertools.permutations(range(size)))
    return [
        [b * size + i for b, lines in zip(order, choice, strict=True) for i in lines]
        for order in itertools.permutations(range(blocks))
        for choice in itertools.product(inside, repeat=blocks)
    ]


def least(task: Sudoku, clues: np.ndarray, solved: np.ndarray) -> tuple[list[int], list[int]]:
    """Of all arrangements, digits renamed so that the first row rises: least solution, earliest clues."""
    n, best = task.side, None
    rows, cols = line_orders(task.box_cols, task.box_rows), line_orders(task.box_rows, task.box_cols)
    for turned in (False, True)[: 2 if task.box_rows == task.box_cols else 1]:
        grid, given = (a.reshape(n, n).T if turned else a.reshape(n, n) for a in (solved, clues > 1))
        for order, columns in itertools.product(rows, cols):
            names = np.empty(n + 2, int)
            board = grid[order][:, columns]
            names[board[0]] = np.arange(2, n + 2)
            found = names[board].ravel().tolist(), (~given[order][:, columns]).ravel().tolist()
            best = found if best is None else min(best, found)
    assert best is not None
    return best[0], [1 if hidden else digit for digit, hidden in zip(best[0], best[1], strict=True)]


@pytest.mark.parametrize("board", [(2, 2, 5, 4), (2, 3, 12, 2), (3, 2, 12, 2), (1, 4, 8, 2), (4, 1, 8, 2)])
def test_all_arrangements(board: tuple[int, int, int, int]) -> None:
    task = Sudoku(*board[:2])
    puzzles = sudokus(task, board[3], board[2])
    clues, solved = canonical_form(task, puzzles.inputs, puzzles.labels)
    for i in range(len(puzzles)):
        assert least(task, puzzles.inputs[i], puzzles.labels[i]) == (solved[i].tolist(), clues[i].tolist())


def top_band(solved: np.ndarray) -> list[int]:
    """The least first two rows of a 9x9 solution over all arrangements."""
    best = [9] * 18
    for grid in (solved.reshape(9, 9), solved.reshape(9, 9).T):
        for top, second in itertools.permutations(range(9), 2):
            if top // 3 == second // 3:
                boards = grid[[top, second]][:, COLUMNS]  # (2, 1296, 9)
                names = np.argsort(boards[0], axis=1)  # the digits of a row are 2 to 10
                best = min(best, [*range(9), *min(np.take_along_axis(names, boards[1] - 2, 1).tolist())])
    return best


COLUMNS = np.array(line_orders(3, 3))


def test_the_first_rows_of_9x9() -> None:
    """The second row decides nearly everything there; and symmetric copies have one form."""
    task, rng = Sudoku(3, 3), np.random.default_rng(0)
    puzzles = sudokus(task, 6, 30)
    forms = canonical_form(task, puzzles.inputs, puzzles.labels)
    for board, solved in zip(forms[1], puzzles.labels, strict=True):
        assert (board[:18] - 2).tolist() == top_band(solved)
    for _ in range(5):
        again = canonical_form(task, *task.augment(puzzles.inputs, puzzles.labels, rng))
        assert all((a == b).all() for a, b in zip(forms, again, strict=True))
    assert task.verify(*forms).all()
