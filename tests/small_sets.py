"""Small sets of puzzles, for the tests of files and folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loopscope.tasks import Maze, PuzzleSet, Sudoku
from loopscope.tasks.sudoku.generate import generate


def sudokus(task: Sudoku, count: int, givens: int, seed: int = 0) -> PuzzleSet:
    return generate(task, count, givens, np.random.default_rng(seed))


def mazes(rows: int, cols: int, count: int, seed: int = 0) -> PuzzleSet:
    """Random mazes of which every one has a path."""
    task, rng = Maze(rows, cols), np.random.default_rng(seed)
    boards = np.where(rng.random((50 * count, rows * cols)) < 0.25, 1, 2).astype(np.uint8)
    boards[:, 0], boards[:, -1] = 3, 4
    labels, found = task.solutions(boards)
    boards, labels = boards[found > 0][:count], labels[found > 0][:count]
    assert len(boards) == count
    return PuzzleSet(task, boards, labels, np.zeros(count, np.int32))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
