"""Sudoku of any box shape: board and rules, symmetries, solver, generator."""

from loopscope.tasks.sudoku.board import Sudoku, sudoku_for

__all__ = ["Sudoku", "sudoku_for"]
