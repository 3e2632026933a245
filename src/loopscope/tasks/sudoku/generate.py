"""Sudoku puzzles with one solution and a chosen number of givens.

A full board comes from the search with random guesses, followed by a random symmetry; then clues are
taken away in random order as long as the solution stays the only one. When a board runs dry above the
number asked for, a new one is begun. Importing this module loads numba.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from loopscope.errors import UserError
from loopscope.tasks.base import BLANK, PuzzleSet
from loopscope.tasks.draws import shuffle
from loopscope.tasks.sudoku.board import FIRST_DIGIT, Sudoku
from loopscope.tasks.sudoku.solver import clue_masks, masks_to_tokens, search, solve, tables
from loopscope.tasks.sudoku.symmetry import augment

MAX_BOARDS = 2000  # full boards tried for one puzzle


@njit(cache=True)
@no_type_check
def _fill(tokens, stack, units, peers, queue, found, stream):
    """A random full board."""
    tokens[:] = BLANK
    length = clue_masks(tokens, units.shape[1], stack[0], queue)
    search(stack, units, peers, queue, length, 1, found, stream)
    masks_to_tokens(found, tokens)


@njit(cache=True)
@no_type_check
def _dig(puzzle, givens, order, stack, units, peers, queue, found, stream):
    """Blank cells in the given order while the solution stays unique. Returns the clues left."""
    left = len(puzzle)
    lowest_first = np.empty(0, np.uint64)
    shuffle(order, 0, len(order), stream)
    for cell in order:
        if left == givens:
            break
        token = puzzle[cell]
        puzzle[cell] = BLANK
        length = clue_masks(puzzle, units.shape[1], stack[0], queue)
        # Another solution would have another digit here: forbid this one and look for any.
        stack[0, cell] &= ~(np.int64(1) << (token - FIRST_DIGIT))
        count, _ = search(stack, units, peers, queue, length, 1, found, lowest_first)
        if count:
            puzzle[cell] = token
        else:
            left -= 1
    return left


@njit(cache=True)
@no_type_check
def _generate_rows(puzzles, solutions, givens, max_boards, units, peers, seeds):
    """Returns the row for which no board could be dug down far enough, or -1."""
    cells = puzzles.shape[1]
    stack = np.empty((cells + 1, cells), np.int64)
    queue, found, order = np.empty(cells, np.int32), np.empty(cells, np.int64), np.arange(cells)
    stream = np.empty(1, np.uint64)
    for b in range(len(puzzles)):
        stream[0] = seeds[b]
        left, boards = cells + 1, 0
        while left > givens:
            if boards == max_boards:
                return b
            boards += 1
            _fill(solutions[b], stack, units, peers, queue, found, stream)
            puzzles[b] = solutions[b]
            left = _dig(puzzles[b], givens, order, stack, units, peers, queue, found, stream)
    return -1


def generate(task: Sudoku, count: int, givens: int, rng: np.random.Generator) -> PuzzleSet:
    """Random puzzles with exactly one solution.

    Puzzles are drawn independently: on the smallest boards the same one can come twice.

    Args:
        task: the board, for instance `Sudoku(2, 3)` for 6x6.
        count: number of puzzles.
        givens: clues of each puzzle. Few clues take many tries; below 21 of 81, hopelessly many.
        rng: same state, same puzzles, byte for byte.
    Returns:
        Puzzles with labels and the facts `source`, `givens`, and `rating` (guesses of our solver).
    Raises:
        UserError: the number of givens is out of range or was not reached.
    """
    if count < 1 or not 0 < givens <= task.seq_len:
        raise UserError(
            f"{count} puzzles with {givens} givens: expected at least 1 puzzle with 1 to {task.seq_len} "
            "givens. Change count or givens."
        )
    puzzles = np.empty((count, task.seq_len), np.uint8)
    solutions = np.empty_like(puzzles)
    seeds = rng.integers(0, 2**64, count, dtype=np.uint64)
    if _generate_rows(puzzles, solutions, givens, MAX_BOARDS, *tables(task), seeds) >= 0:
        raise UserError(
            f"{task.name}: no puzzle with {givens} givens in {MAX_BOARDS} boards. Ask for more givens."
        )
    inputs, labels = augment(task, puzzles, solutions, rng)
    facts = {
        "source": np.full(count, f"generated-{givens}-givens"),
        "givens": task.givens(inputs),
        "rating": solve(task, inputs, limit=1)[2],
    }
    return PuzzleSet(task, inputs, labels, np.zeros(count, np.int32), facts, f"{task.name} generated")
