"""Builders of puzzle folders, from local files or the Hub to the official layout."""

from loopscope.tasks.build.arc import build_arc
from loopscope.tasks.build.puzzles import Options, build_maze, build_puzzles, build_sudoku

__all__ = ["Options", "build_arc", "build_maze", "build_puzzles", "build_sudoku"]
