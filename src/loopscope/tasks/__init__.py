"""Puzzle tasks: encode, augment, verify, store. What needs numba stays in its own modules."""

from loopscope.tasks.base import IGNORE, TASKS, Batch, PuzzleSet, Task, make_batch
from loopscope.tasks.csv_puzzles import read_puzzles, write_puzzles
from loopscope.tasks.sudoku import Sudoku, sudoku_for

__all__ = [
    "IGNORE",
    "TASKS",
    "Batch",
    "PuzzleSet",
    "Sudoku",
    "Task",
    "make_batch",
    "read_puzzles",
    "sudoku_for",
    "write_puzzles",
]
