"""Mazes of any size: board and rules, shortest paths with the reference tie-break, generator."""

from loopscope.tasks.maze.board import Maze

__all__ = ["Maze"]
