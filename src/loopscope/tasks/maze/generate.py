"""Random mazes whose shortest path has a least length.

As in Lehnert et al. 2024 (Beyond A*, the source of Maze-Hard's mazes): a share of walls is drawn from a
range, every cell is a wall with that chance, S and G are random free cells, and what misses the length is
thrown away; at 30x30 and 110 cells one board in 50,000 passes.

Unusual: G is drawn among the cells far enough from S, and the board is kept with a chance that grows with
their number. While they are at most a quarter of the free cells, this gives the same mazes equally often,
four times as fast. Where they are more, as for short paths, boards with few far cells come a little too
often. Importing this module loads numba.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from jaxtyping import UInt8
from numba import njit

from loopscope.errors import UserError
from loopscope.tasks.base import PuzzleSet
from loopscope.tasks.draws import next_below
from loopscope.tasks.maze.board import FREE, GOAL, START, WALL, Maze
from loopscope.tasks.maze.paths import CLOSED, OPEN, explore, room, shortest_paths

DENSITY = (0.3, 0.5)  # share of walls in Lehnert et al.
MAX_TRIALS = 500_000  # random boards for one maze; some five seconds at 30x30
MAX_ROUNDS = 1000  # times that a round may bring nothing new before we say there is no more
SPEED_UP = 4  # how many times more boards are kept than by testing a random G
ROUND = 4  # mazes between two moments at which Ctrl-C is heard
ONE = 2**30  # chances are drawn as whole numbers below this: the same on every machine


@njit(cache=True)
@no_type_check
def _scatter(steps, rows, cols, walls, free, stream):
    """Draw walls with chance `walls / ONE` each; lists the free cells and returns their number."""
    steps[:] = CLOSED
    number = 0
    for r in range(rows):
        for c in range(cols):
            if next_below(stream, ONE) >= walls:
                at = (r + 1) * (cols + 2) + c + 1
                steps[at] = OPEN
                free[number] = at
                number += 1
    return number


@njit(cache=True)
@no_type_check
def _far_cell(steps, queue, found, least, number, stream):
    """One of the cells at `least` steps or more, or -1 where there is none or the board is not kept.

    The queue holds `found` cells, nearest first; `number` cells are free.
    """
    first = found
    while first > 0 and steps[queue[first - 1]] >= least:
        first -= 1
    far = found - first
    if far == 0 or next_below(stream, number) >= SPEED_UP * far:
        return -1
    return queue[first + next_below(stream, far)]


@njit(cache=True)
@no_type_check
def _draw_rows(boards, rows, cols, min_length, low, high, max_trials, seeds):
    """Returns the row for which no maze was found, or -1."""
    steps, parent, queue = room(rows, cols)
    free, stream = np.empty(rows * cols, np.int64), np.empty(1, np.uint64)
    for b in range(len(boards)):
        stream[0] = seeds[b]
        start, goal, trials = -1, -1, 0
        while goal < 0:
            if trials == max_trials:
                return b
            trials += 1
            number = _scatter(steps, rows, cols, low + next_below(stream, high - low + 1), free, stream)
            if number >= min_length:
                start = free[next_below(stream, number)]
                found = explore(steps, cols + 2, start, -1, parent, queue)
                goal = _far_cell(steps, queue, found, min_length - 1, number, stream)
        for i in range(rows * cols):
            at = (i // cols + 1) * (cols + 2) + i % cols + 1
            boards[b, i] = WALL if steps[at] == CLOSED else FREE
            if at == start:
                boards[b, i] = START
            elif at == goal:
                boards[b, i] = GOAL
    return -1


def generate(
    task: Maze,
    count: int,
    min_length: int,
    rng: np.random.Generator,
    density: tuple[float, float] = DENSITY,
) -> PuzzleSet:
    """Random mazes, no two of them equal up to symmetry, labelled by the tie-break rule.

    Args:
        task: the board, for instance `Maze(30, 30)`.
        count: number of mazes.
        min_length: least number of cells of the shortest path, with S and G; Maze-Hard has 110.
        rng: same state, same mazes, byte for byte.
        density: range from which the share of walls is drawn, uniformly, for every maze.
    Returns:
        Mazes with labels and the facts `source`, `rating` (= `path_length`), `path_length` and `walls`.
    Raises:
        UserError: an argument is out of range, no such maze was found in 500,000 random boards, or
            there are fewer different ones than asked for.
    """
    _check_arguments(task, count, min_length, density)
    inputs = _distinct(task, count, min_length, rng, density)
    labels, cells = shortest_paths(task, inputs)
    assert (cells >= min_length).all(), cells
    facts = {"source": np.full(count, f"generated-path-{min_length}"), "rating": cells}
    facts |= task.facts(inputs, labels)
    return PuzzleSet(task, inputs, labels, np.zeros(count, np.int32), facts, f"{task.name} generated")


def _check_arguments(task: Maze, count: int, min_length: int, density: tuple[float, float]) -> None:
    if count < 1 or not 2 <= min_length <= task.seq_len:
        raise UserError(
            f"{count} mazes with paths of {min_length} cells: expected at least 1 maze and 2 to "
            f"{task.seq_len} cells. Change count or min_length."
        )
    low, high = density
    if not 0 <= low <= high < 1:
        raise UserError(
            f"density {low} to {high}: expected a range within 0 to 1 (1 left out), such as 0.3 to 0.5. "
            "Change density."
        )


def _distinct(
    task: Maze, count: int, min_length: int, rng: np.random.Generator, density: tuple[float, float]
) -> UInt8[np.ndarray, "N L"]:
    """Mazes without copies up to symmetry, in the order drawn."""
    low, high = (round(share * ONE) for share in density)
    kept: dict[bytes, np.ndarray] = {}
    idle = 0
    while len(kept) < count:
        boards = np.empty((min(ROUND, count - len(kept)), task.seq_len), np.uint8)
        seeds = rng.integers(0, 2**64, len(boards), dtype=np.uint64)
        if _draw_rows(boards, *task.grid, min_length, low, high, MAX_TRIALS, seeds) >= 0:
            raise UserError(
                f"{task.name}: no maze with a path of {min_length} cells in {MAX_TRIALS:,} random boards "
                f"with {density[0]:g} to {density[1]:g} walls. Ask for shorter paths or a larger board."
            )
        before = len(kept)
        for key, board in zip(task.canonical(boards, boards), boards, strict=True):
            kept.setdefault(key, board)
        idle = idle + 1 if len(kept) == before else 0
        if idle == MAX_ROUNDS:
            raise UserError(
                f"{task.name}: found only {len(kept)} different mazes with paths of {min_length} cells, "
                f"expected {count}. Ask for fewer mazes, shorter paths or a larger board."
            )
    return np.stack(list(kept.values()))
