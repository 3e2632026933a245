"""The five arrays of one split, as the official on-disk layout names them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class SplitArrays(NamedTuple):
    """Rows, and how they form puzzles and groups.

    Attributes:
        inputs, labels: tokens, (N, L) uint8; label 0 is not supervised.
        puzzle_identifiers: row of the embedding table per puzzle, (P,) int32.
        puzzle_indices: puzzle p owns the rows `[p]` to `[p + 1] - 1`, (P + 1,) int32.
        group_indices: group g owns the puzzles `[g]` to `[g + 1] - 1`, (G + 1,) int32.
    """

    inputs: np.ndarray
    labels: np.ndarray
    puzzle_identifiers: np.ndarray
    puzzle_indices: np.ndarray
    group_indices: np.ndarray
