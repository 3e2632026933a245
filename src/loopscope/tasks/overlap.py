"""Puzzles that two sets share, up to the symmetries of their task."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from loopscope.errors import UserError
from loopscope.tasks.base import PuzzleSet


def overlap(a: PuzzleSet, b: PuzzleSet) -> Int[np.ndarray, "K"]:
    """Row numbers of the puzzles of `b` that equal one of `a` up to symmetry.

    Raises:
        UserError: one of the sets has no answers, or they are of different tasks.
    """
    seen = set(_keys(a))
    return np.array([i for i, key in enumerate(_keys(b)) if key in seen], np.int64)


def _keys(puzzles: PuzzleSet) -> list[bytes]:
    if puzzles.labels is None:
        raise UserError(f"{puzzles.name}: puzzles without labels have no canonical form. Solve them first.")
    return puzzles.task.canonical(puzzles.inputs, puzzles.labels)
