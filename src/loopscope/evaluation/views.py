"""Symmetric views: the same puzzle, turned and relabelled, and the way back for its answers.

A network trained with symmetries answers the views of a puzzle differently, and what it gets right in most
of them is more often right. Each puzzle draws views of its own; the first is always the puzzle itself.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Integer, UInt8

from loopscope.errors import UserError
from loopscope.tasks.base import Task


class Views(NamedTuple):
    """Views of N puzzles, V of each: `new[i] = tokens[old[cells[i]]]`.

    Attributes:
        tokens: new token of each token, (N, V, vocabulary).
        cells: the cell each new cell takes its content from, (N, V, L).
    """

    tokens: UInt8[np.ndarray, "N V T"]
    cells: Int[np.ndarray, "N V L"]

    def show(
        self, boards: Integer[np.ndarray, "J L"], puzzle: Int[np.ndarray, " J"], view: Int[np.ndarray, " J"]
    ) -> UInt8[np.ndarray, "J L"]:
        """Boards as they look in a view of their puzzle."""
        moved = np.take_along_axis(boards, self.cells[puzzle, view], 1)
        return np.take_along_axis(self.tokens[puzzle, view], moved.astype(np.int64), 1)

    def undo(
        self, boards: Integer[np.ndarray, "J L"], puzzle: Int[np.ndarray, " J"], view: Int[np.ndarray, " J"]
    ) -> UInt8[np.ndarray, "J L"]:
        """Inverse of `show`."""
        back = np.take_along_axis(boards, self.cells[puzzle, view].argsort(1), 1)
        old = self.tokens[puzzle, view].argsort(1).astype(np.uint8)
        return np.take_along_axis(old, back.astype(np.int64), 1)


def draw_views(task: Task, count: int, seed: int, puzzle_index: Int[np.ndarray, " N"]) -> Views:
    """Views of every puzzle; a greater `count` adds to those of a smaller one.

    Args:
        task: offers `views(count, rng)`, as `GridTask.views` does; needed from two views on.
        count: of each puzzle, the puzzle itself among them.
        seed: of the draws.
        puzzle_index: number of each puzzle in the whole set.
    Raises:
        UserError: the task knows no symmetric views, or fewer.
    """
    if not hasattr(task, "views"):
        raise UserError(f"views={count}: {task.name} offers no symmetric views. Leave it out.")
    drawn = [task.views(count, np.random.default_rng((seed, 11, int(i)))) for i in puzzle_index]
    tokens, cells = (np.stack(parts) for parts in zip(*drawn, strict=True))
    return Views(tokens.astype(np.uint8), cells.astype(np.int16))
