"""Exact Sudoku search: bit masks, propagation, depth-first guessing. Any box shape.

A board is one candidate mask per cell. Propagation applies *naked singles* (a cell with one
candidate) and *hidden singles* (a digit with one place in a unit) until nothing changes. Then the
cell with the fewest candidates is guessed; a failed guess removes that candidate.

Rating: the number of guesses until the first solution, 0 when propagation alone solves the puzzle.
It is our own count, in the spirit of tdoku's, whose stronger inference needs fewer guesses; like
tdoku's it depends on the orientation of the board. Importing this module loads numba.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Int32, Integer, UInt8
from numba import njit

from loopscope.tasks.draws import next_below
from loopscope.tasks.sudoku.board import FIRST_DIGIT, Sudoku


class Tables(NamedTuple):
    """Geometry of a board.

    Attributes:
        units: cells of each row, column and box, (3n, n).
        peers: cells that share a unit with each cell, (L, P).
    """

    units: np.ndarray
    peers: np.ndarray


@lru_cache
def tables(task: Sudoku) -> Tables:
    """Geometry of the boards of `task`."""
    unit_of_cell = task.unit_of_cell
    units = [np.flatnonzero(unit == k) for unit in unit_of_cell for k in range(task.side)]
    share = (unit_of_cell[:, :, None] == unit_of_cell[:, None, :]).any(0) & ~np.eye(task.seq_len, dtype=bool)
    return Tables(np.array(units, np.int32), np.array([np.flatnonzero(row) for row in share], np.int32))


@njit(cache=True)
@no_type_check
def _settle(masks, cell, peers, queue, length):
    """Strike the digit of the settled `cell` from its peers; queue those it settles. -1: contradiction."""
    bit = masks[cell]
    for k in range(peers.shape[1]):
        peer = peers[cell, k]
        if masks[peer] & bit:
            left = masks[peer] & ~bit
            if left == 0:
                return -1
            masks[peer] = left
            if left & (left - 1) == 0:
                queue[length] = peer
                length += 1
    return length


@njit(cache=True)
@no_type_check
def _hidden_singles(masks, units, everything, queue, length):
    """Settle every digit that has one place left in some unit. -1: a digit has none, or two share a cell."""
    for u in range(units.shape[0]):
        once, twice = np.int64(0), np.int64(0)
        for k in range(units.shape[1]):
            twice |= once & masks[units[u, k]]
            once |= masks[units[u, k]]
        if once != everything:
            return -1
        single = once & ~twice
        for k in range(units.shape[1]):
            cell = units[u, k]
            here = masks[cell] & single
            if here != 0 and here != masks[cell]:
                if here & (here - 1):
                    return -1
                masks[cell] = here
                queue[length] = cell
                length += 1
    return length


@njit(cache=True)
@no_type_check
def propagate(masks, units, peers, queue, length):
    """Apply both rules until nothing changes; `queue[:length]` holds the newly settled cells.

    Changes `masks` in place. Returns whether the board is free of contradiction.
    """
    everything = (np.int64(1) << units.shape[1]) - 1
    done = 0
    while True:
        while done < length:
            length = _settle(masks, queue[done], peers, queue, length)
            if length < 0:
                return False
            done += 1
        length = _hidden_singles(masks, units, everything, queue, length)
        if length < 0:
            return False
        if length == done:
            return True


@njit(cache=True)
@no_type_check
def _fewest(masks):
    """The unsettled cell with the fewest candidates, first of equals; -1 when all are settled."""
    best, fewest = -1, 64
    for cell in range(len(masks)):
        left, count = masks[cell], 0
        while left:
            left &= left - 1
            count += 1
        if 2 <= count < fewest:
            best, fewest = cell, count
            if count == 2:
                break
    return best


@njit(cache=True)
@no_type_check
def _candidate(mask, stream):
    """One bit of the mask: a random one, or the lowest when the stream is empty."""
    if len(stream):
        count, left = 0, mask
        while left:
            left &= left - 1
            count += 1
        for _ in range(next_below(stream, count)):
            mask &= mask - 1
    return mask & -mask


@njit(cache=True)
@no_type_check
def search(stack, units, peers, queue, length, limit, found, stream):
    """Depth-first search from `stack[0]`, in which the cells of `queue[:length]` are newly settled.

    Stops at `limit` solutions. The first goes to `found` as masks.

    Returns:
        Number of solutions, and of guesses made until the first (all of them when there is none).
    """
    count = guesses = guesses_to_first = 0
    depth = 0  # stack[:depth] are boards still to be tried, stack[depth] the present one
    guessed = np.empty(len(stack), np.int64)
    alive = propagate(stack[0], units, peers, queue, length)
    while True:
        cell = _fewest(stack[depth]) if alive else -1
        if alive and cell >= 0:
            guesses += 1
            bit = _candidate(stack[depth, cell], stream)
            stack[depth + 1] = stack[depth]
            stack[depth, cell] &= ~bit  # the board to go on with, should this guess fail
            stack[depth + 1, cell] = bit
            guessed[depth] = cell
            depth += 1
        else:
            if alive:
                if count == 0:
                    found[:] = stack[depth]
                    guesses_to_first = guesses
                count += 1
            if depth == 0 or count == limit:
                return count, guesses_to_first if count else guesses
            depth -= 1
            cell = guessed[depth]
        queue[0] = cell
        settled = stack[depth, cell] & (stack[depth, cell] - 1) == 0
        alive = propagate(stack[depth], units, peers, queue, 1 if settled else 0)


@njit(cache=True)
@no_type_check
def clue_masks(tokens, side, masks, queue):
    """Candidate masks of a puzzle; the clues go to the queue. Returns the queue's length."""
    length = 0
    for cell in range(len(tokens)):
        if tokens[cell] >= FIRST_DIGIT:
            masks[cell] = np.int64(1) << (tokens[cell] - FIRST_DIGIT)
            queue[length] = cell
            length += 1
        else:
            masks[cell] = (np.int64(1) << side) - 1
    return length


@njit(cache=True, nogil=True)
@no_type_check
def _solve_rows(tokens, units, peers, limit, solutions, counts, guesses):
    cells, side = tokens.shape[1], units.shape[1]
    stack = np.empty((cells + 1, cells), np.int64)
    queue, found = np.empty(cells, np.int32), np.empty(cells, np.int64)
    stream = np.empty(0, np.uint64)
    for b in range(len(tokens)):
        length = clue_masks(tokens[b], side, stack[0], queue)
        counts[b], guesses[b] = search(stack, units, peers, queue, length, limit, found, stream)
        if counts[b]:
            masks_to_tokens(found, solutions[b])


@njit(cache=True)
@no_type_check
def masks_to_tokens(masks, tokens):
    """Tokens of a board whose cells are all settled."""
    for cell in range(len(masks)):
        token, mask = FIRST_DIGIT, masks[cell]
        while mask > 1:
            mask >>= 1
            token += 1
        tokens[cell] = token


def solve(
    task: Sudoku, inputs: Integer[np.ndarray, "B L"], limit: int = 2
) -> tuple[UInt8[np.ndarray, "B L"], Int32[np.ndarray, "B"], Int32[np.ndarray, "B"]]:
    """Solve puzzles exactly.

    Args:
        inputs: clues, (B, L) tokens; PAD counts as blank.
        limit: stop at this many solutions; 2 tells a unique solution from several.
    Returns:
        The first solution found of each puzzle (PAD where there is none), the number of solutions
        up to `limit`, and the rating: guesses until the first solution.
    """
    tokens = np.ascontiguousarray(inputs, np.uint8)
    assert tokens.shape[1] == task.seq_len, (tokens.shape, task)
    assert tokens.max(initial=0) < task.vocab_size, (tokens.max(), task)
    solutions = np.zeros_like(tokens)
    counts, guesses = np.zeros(len(tokens), np.int32), np.zeros(len(tokens), np.int32)
    _solve_rows(tokens, *tables(task), limit, solutions, counts, guesses)
    return solutions, counts, guesses
