"""The symmetry group of Sudoku: random elements, composition, canonical forms.

The group: digits permuted; bands, rows in a band, stacks and columns in a stack permuted; the board
transposed when boxes are square (an oblong box would change its shape, so transposition is left
out). For 9x9 that is 2 * 6^8 * 9! maps.

Unusual: every random symmetry comes from one 64-bit seed (`tasks.draws`), so a batch needs one draw per
row from the caller's generator. Importing this module loads numba.
"""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import no_type_check

import numpy as np
from jaxtyping import Integer, UInt8
from numba import njit

from loopscope.errors import UserError
from loopscope.tasks.base import BLANK
from loopscope.tasks.draws import next_below, shuffle
from loopscope.tasks.sudoku.board import FIRST_DIGIT, Sudoku

MAX_CHOICES = 100_000  # column arrangements a canonical form may try; 9x9 has 1,296, 16x16 191 million


@dataclass(frozen=True, eq=False)
class Symmetry:
    """One symmetry of a board: `new[i] = digits[old[cells[i]]]`.

    Attributes:
        digits: new token of each token, (V,); PAD and blank stay.
        cells: the cell each new cell takes its content from, (L,).
    """

    digits: Integer[np.ndarray, "V"]
    cells: Integer[np.ndarray, "L"]

    def apply(self, tokens: Integer[np.ndarray, "*B L"]) -> Integer[np.ndarray, "*B L"]:
        """The transformed boards."""
        return self.digits.astype(tokens.dtype)[tokens[..., self.cells]]

    def inverse(self) -> Symmetry:
        """The symmetry that undoes this one."""
        return Symmetry(np.argsort(self.digits), np.argsort(self.cells))

    def compose(self, first: Symmetry) -> Symmetry:
        """The symmetry that applies `first`, then this one."""
        return Symmetry(self.digits[first.digits], first.cells[self.cells])


# -- random symmetries


@njit(cache=True)
@no_type_check
def _draw_lines(lines, blocks, size, stream):
    """A random order of `len(blocks)` blocks of `size` lines each, and of the lines in each."""
    for b in range(len(blocks)):
        blocks[b] = b
    shuffle(blocks, 0, len(blocks), stream)
    for b in range(len(blocks)):
        for i in range(size):
            lines[b * size + i] = blocks[b] * size + i
        shuffle(lines, b * size, (b + 1) * size, stream)


@njit(cache=True)
@no_type_check
def _draw(box_rows, box_cols, seed, digits, cells, lines, blocks):
    """Fill `digits` (V,) and `cells` (L,) with the symmetry of `seed`; the rest is room to work in."""
    n = box_rows * box_cols
    stream = np.empty(1, np.uint64)
    stream[0] = seed
    for t in range(n + FIRST_DIGIT):
        digits[t] = t
    shuffle(digits, FIRST_DIGIT, n + FIRST_DIGIT, stream)
    _draw_lines(lines[0], blocks[:box_cols], box_rows, stream)
    _draw_lines(lines[1], blocks[:box_rows], box_cols, stream)
    row_step, col_step = n, 1
    if box_rows == box_cols and next_below(stream, 2) == 1:
        row_step, col_step = 1, n
    for i in range(n):
        for j in range(n):
            cells[i * n + j] = lines[0, i] * row_step + lines[1, j] * col_step


@njit(cache=True)
@no_type_check
def _augment_rows(box_rows, box_cols, inputs, labels, seeds, new_inputs, new_labels):
    n = box_rows * box_cols
    digits = np.empty(n + FIRST_DIGIT, np.uint8)
    cells = np.empty(n * n, np.int64)
    lines = np.empty((2, n), np.int64)
    blocks = np.empty(n, np.int64)
    for b in range(len(seeds)):
        _draw(box_rows, box_cols, seeds[b], digits, cells, lines, blocks)
        for i in range(n * n):
            new_inputs[b, i] = digits[inputs[b, cells[i]]]
            new_labels[b, i] = digits[labels[b, cells[i]]]


def augment(
    task: Sudoku,
    inputs: Integer[np.ndarray, "B L"],
    labels: Integer[np.ndarray, "B L"],
    rng: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "B L"], UInt8[np.ndarray, "B L"]]:
    """A uniformly random symmetry for every row; see `Sudoku.augment`."""
    pair = [np.ascontiguousarray(tokens, np.uint8) for tokens in (inputs, labels)]
    for tokens in pair:  # the compiled loop does not check its indices
        assert tokens.shape[1] == task.seq_len, (tokens.shape, task)
        assert tokens.max(initial=0) < task.vocab_size, (tokens.max(), task)
    new = [np.empty_like(tokens) for tokens in pair]
    _augment_rows(task.box_rows, task.box_cols, *pair, _seeds(rng, len(inputs)), *new)
    return new[0], new[1]


def random_symmetry(task: Sudoku, rng: np.random.Generator) -> Symmetry:
    """One uniformly random symmetry: the one `augment` would use for a single row."""
    n = task.side
    digits, cells = np.empty(task.vocab_size, np.int64), np.empty(task.seq_len, np.int64)
    room = np.empty((2, n), np.int64), np.empty(n, np.int64)
    _draw(task.box_rows, task.box_cols, _seeds(rng, 1)[0], digits, cells, *room)
    return Symmetry(digits, cells)


def _seeds(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 2**64, count, dtype=np.uint64)


# -- canonical forms


@lru_cache
def _column_orders(box_rows: int, box_cols: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every order of the columns that keeps stacks together.

    Returns:
        The orders (P, n), sorted by their first column c and the first column d of their second stack; the
        place of every column in each, (P, n); and where the orders of each c * n + d begin, (n^2 + 1,).
    """
    n = box_rows * box_cols
    inside = list(itertools.permutations(range(box_cols)))
    listed = [
        [stack * box_cols + col for stack, cols in zip(stacks, choice, strict=True) for col in cols]
        for stacks in itertools.permutations(range(box_rows))
        for choice in itertools.product(inside, repeat=box_rows)
    ]
    orders = np.array(listed)
    keys = orders[:, 0] * n + orders[:, box_cols % n]
    orders = orders[np.argsort(keys, kind="stable")].astype(np.uint8)
    return (
        orders,
        np.argsort(orders, axis=1).astype(np.uint8),
        np.searchsorted(np.sort(keys), range(n * n + 1)),
    )


@njit(cache=True)
@no_type_check
def _row_order(grid, column, digit, box_rows, order):
    """Rows sorted by their relabelled digit in `column`: bands by their least row."""
    n = len(grid)
    for band in range(n // box_rows):
        for i in range(band * box_rows, (band + 1) * box_rows):
            j = i
            while j > band * box_rows and digit[grid[order[j - 1], column]] > digit[grid[i, column]]:
                order[j] = order[j - 1]
                j -= 1
            order[j] = i
    # Insertion sort of whole bands. The top row has digit 0, so its band comes first.
    for i in range(box_rows, n, box_rows):
        j = i
        while j > 0 and digit[grid[order[j - box_rows], column]] > digit[grid[order[j], column]]:
            for k in range(j, j + box_rows):
                order[k], order[k - box_rows] = order[k - box_rows], order[k]
            j -= box_rows


@njit(cache=True)
@no_type_check
def _compare(grid, clue, digit, order, columns, best, best_clue):
    """-1, 0, 1: this arrangement against the best so far, solution first, then the clue pattern."""
    n = len(grid)
    for i in range(1, n):
        for j in range(n):
            here = digit[grid[order[i], columns[j]]]
            if here != best[i, j]:
                return -1 if here < best[i, j] else 1
    for i in range(n):
        for j in range(n):
            here = clue[order[i], columns[j]]
            if here != best_clue[i, j]:
                return -1 if here > best_clue[i, j] else 1
    return 0


@njit(cache=True)
@no_type_check
def _canonical(grid, clue, box_rows, orders, places, starts, best, best_clue, room):
    """Improve `best` and `best_clue` with the arrangements of one orientation of one board that can win.

    A cell of the second row gets as digit the new place of the column where the top row has that digit. The
    least digit its first cell can get starts the second box: only orders of the columns with that are tried.
    """
    n = len(grid)
    order, digit, where, source = room
    for top in range(n):
        for j in range(n):
            where[grid[top, j]] = j
        band = top // box_rows * box_rows
        for second in range(band, band + box_rows):
            if second == top and box_rows > 1:
                continue
            for j in range(n):
                source[j] = where[grid[second, j]]
            for first in range(n):
                key = first * n + source[first]
                for p in range(starts[key], starts[key + 1]):
                    j = 1 if second != top else n  # boxes of one row have no second row
                    while j < n and places[p, source[orders[p, j]]] == best[1, j]:
                        j += 1
                    if j < n and places[p, source[orders[p, j]]] > best[1, j]:
                        continue
                    for j in range(n):
                        digit[grid[top, orders[p, j]]] = j
                    _row_order(grid, first, digit, box_rows, order)
                    if _compare(grid, clue, digit, order, orders[p], best, best_clue) < 0:
                        _keep(grid, clue, digit, order, orders[p], best, best_clue)


@njit(cache=True)
@no_type_check
def _keep(grid, clue, digit, order, columns, best, best_clue):
    for i in range(len(grid)):
        for j in range(len(grid)):
            best[i, j] = digit[grid[order[i], columns[j]]]
            best_clue[i, j] = clue[order[i], columns[j]]


@njit(cache=True, nogil=True)
@no_type_check
def _canonical_batch(grids, clues, box_rows, square, orders, places, starts, best, best_clue):
    n = grids.shape[1]
    room = np.empty(n, np.int64), np.empty(n, np.uint8), np.empty(n, np.uint8), np.empty(n, np.uint8)
    for b in range(len(grids)):
        best[b] = n  # greater than any digit: the first arrangement wins
        _canonical(grids[b], clues[b], box_rows, orders, places, starts, best[b], best_clue[b], room)
        if square:
            grid, clue = np.ascontiguousarray(grids[b].T), np.ascontiguousarray(clues[b].T)
            _canonical(grid, clue, box_rows, orders, places, starts, best[b], best_clue[b], room)


def canonical_form(
    task: Sudoku, inputs: Integer[np.ndarray, "B L"], labels: Integer[np.ndarray, "B L"]
) -> tuple[UInt8[np.ndarray, "B L"], UInt8[np.ndarray, "B L"]]:
    """The same representative for every puzzle of an equivalence class.

    Of all arrangements of the solution (relabelled so that the first row reads 1, 2, ..., bands and
    rows sorted) the lexicographically least is taken; the clues go along. Where several arrangements
    give that solution, the one whose clues come earliest is taken.

    Args:
        inputs: clues, (B, L).
        labels: complete solutions, (B, L).
    Returns:
        Canonical clues and solutions, (B, L) each. Two puzzles are equivalent if and only if both agree.
    Raises:
        UserError: a label is no solution of its puzzle, or the board has too many arrangements.
    """
    n = task.side
    if _num_column_orders(task) > MAX_CHOICES:
        raise UserError(
            f"{task.name}: too many arrangements for a canonical form. Boards up to 10x10 have one."
        )
    wrong = np.flatnonzero(~task.verify(inputs, labels))
    if len(wrong):
        raise UserError(
            f"puzzle {wrong[0]}: its label is not a solution. A canonical form needs solved puzzles."
        )
    grids = np.ascontiguousarray(labels.reshape(-1, n, n) - FIRST_DIGIT, np.uint8)
    clues = np.ascontiguousarray(inputs.reshape(-1, n, n) >= FIRST_DIGIT, np.uint8)
    best, best_clue = np.empty_like(grids), np.zeros_like(clues)
    tables = _column_orders(task.box_rows, task.box_cols)
    fixed = task.box_rows, task.box_rows == task.box_cols, *tables
    cores = len(os.sched_getaffinity(0))
    pieces = [slice(len(grids) * i // cores, len(grids) * (i + 1) // cores) for i in range(cores)]
    with ThreadPoolExecutor(cores) as pool:  # the compiled loop lets other threads run
        work = [
            pool.submit(lambda s: _canonical_batch(grids[s], clues[s], *fixed, best[s], best_clue[s]), piece)
            for piece in pieces
        ]
    for done in work:
        done.result()
    solved = best.reshape(-1, n * n) + np.uint8(FIRST_DIGIT)
    return np.where(best_clue.reshape(-1, n * n) > 0, solved, np.uint8(BLANK)), solved


def _num_column_orders(task: Sudoku) -> int:
    factorial = [1, *itertools.accumulate(range(1, task.side + 1), lambda a, b: a * b)]
    return factorial[task.box_rows] * factorial[task.box_cols] ** task.box_rows
