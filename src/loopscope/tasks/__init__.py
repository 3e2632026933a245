"""Puzzle tasks: encode, augment, verify, store. What needs numba stays in its own modules."""

from loopscope.tasks.arc import Arc
from loopscope.tasks.base import IGNORE, TASKS, Batch, PuzzleSet, Task, make_batch
from loopscope.tasks.grid import GridTask
from loopscope.tasks.maze import Maze
from loopscope.tasks.storage.csv_puzzles import write_puzzles
from loopscope.tasks.storage.read import read_puzzles
from loopscope.tasks.sudoku import Sudoku, sudoku_for

__all__ = [
    "IGNORE",
    "TASKS",
    "Arc",
    "Batch",
    "GridTask",
    "Maze",
    "PuzzleSet",
    "Sudoku",
    "Task",
    "make_batch",
    "read_puzzles",
    "sudoku_for",
    "write_puzzles",
]
